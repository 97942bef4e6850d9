//! How exposed the processes are, and why each may do what it may.

use anyhow::{Context as _, Result, ensure};
use harness::Cluster;
use proto::control::{Exposure, Privilege, ProcessPrivileges};
use serde_json::Value;

/// The most exposure each component may have, from 0 to 10: those that hold state and keys, those that talk to a network,
/// and the one that is root.
const GOALS: [(&str, f64); 9] = [
    ("metamanager", 0.6),
    ("keyholder", 0.6),
    ("authority", 0.6),
    ("metrics", 0.6),
    ("edgehub", 1.3),
    ("cloudhub", 1.3),
    ("apiserver", 1.3),
    ("controllers", 1.3),
    ("edged", 4.5),
];

/// Holds each process against its goal; a miss names everything that is open.
pub(crate) fn check(processes: &[ProcessPrivileges]) -> Result<()> {
    println!();
    let mut missed = Vec::new();
    for process in processes {
        let (name, score) = (&process.component, process.score);
        ensure!(process.pid != 0, "{name} does not run");
        let goal = GOALS.iter().find(|(known, _)| known == name).map(|(_, goal)| *goal);
        println!(
            "    {name}: {score:.1} of 10{}",
            goal.map(|goal| format!(", goal {goal}")).unwrap_or_default()
        );
        if goal.is_some_and(|goal| score > goal + 1e-9) {
            let open = process.exposures.iter().filter(|item| item.exposure > 0.0);
            let open: Vec<String> = open.map(|item| format!("{} {:.2}", item.name, item.exposure)).collect();
            missed.push(format!("{name} has {score:.1}: {}", open.join(", ")));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// What `edgectl privileges` and `cloudctl privileges` say.
fn processes(cluster: &Cluster) -> Result<Vec<ProcessPrivileges>> {
    let mut all = Vec::new();
    for supervisor in [&cluster.edge, &cluster.cloud] {
        let text = supervisor.ctl(&["privileges", "-o", "json"])?;
        let report: Value = serde_json::from_str(&text).context("`privileges` printed no JSON")?;
        all.extend(report["processes"].as_array().context("no processes")?.iter().map(process));
    }
    ensure!(all.len() >= GOALS.len(), "only {} processes", all.len());
    Ok(all)
}

fn process(value: &Value) -> ProcessPrivileges {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let privilege = |value: &Value| Privilege {
        kind: text(&value["kind"]),
        grant: text(&value["grant"]),
        why: text(&value["why"]),
        ..Privilege::default()
    };
    let exposure = |value: &Value| Exposure {
        name: text(&value["name"]),
        exposure: value["exposure"].as_f64().unwrap_or_default(),
        ..Exposure::default()
    };
    ProcessPrivileges {
        component: text(&value["component"]),
        pid: value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        score: value["score"].as_f64().unwrap_or(f64::INFINITY),
        privileges: list("privileges").iter().map(privilege).collect(),
        exposures: list("exposures").iter().map(exposure).collect(),
    }
}

pub(crate) fn reasons(cluster: &mut Cluster) -> Result<()> {
    let mut grants = 0;
    for process in processes(cluster)? {
        for privilege in &process.privileges {
            let Privilege { kind, grant, why, .. } = privilege;
            ensure!(!why.is_empty(), "{}: {kind} {grant} has no reason", process.component);
            grants += 1;
        }
    }
    println!("\n    {grants} grants, each with its reason");
    Ok(())
}

pub(crate) fn goals(cluster: &mut Cluster) -> Result<()> {
    check(&processes(cluster)?)
}
