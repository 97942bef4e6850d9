//! The workloads the suites apply.

use anyhow::{Context as _, Result};
use harness::machine;
pub use harness::pods::{sleeper, with_command};

/// The documents of the recorded workload whose kind and name are listed, as it was applied to KubeEdge itself.
pub fn recorded(wanted: &[(&str, &str)]) -> Result<String> {
    let path = machine::fixture("workload.yaml")?;
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let mut found = Vec::new();
    for (kind, name) in wanted {
        let document = text.split("\n---\n").find(|document| is(document, kind, name));
        found.push(document.with_context(|| format!("no {kind} {name} in {}", path.display()))?);
    }
    Ok(found.join("\n---\n"))
}

/// The recorded workload writes name and namespace of each object on one line.
fn is(document: &str, kind: &str, name: &str) -> bool {
    document.lines().any(|line| line == format!("kind: {kind}"))
        && document.contains(&format!("\nmetadata: {{name: {name}, namespace: default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_found_by_kind_and_name() {
        let document = "apiVersion: v1\nkind: Pod\nmetadata: {name: tok, namespace: default}\nspec: {}";
        assert!(is(document, "Pod", "tok"));
        assert!(!is(document, "Pod", "to"));
        assert!(!is(document, "Secret", "tok"));
    }
}
