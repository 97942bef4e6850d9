//! What an operator sees of the processes, and does to them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, Options, Run, machine};

/// Not restarted until asked: bad configuration (see the table in README).
const EX_CONFIG: i32 = 78;

pub(crate) fn users(cluster: &mut Cluster) -> Result<()> {
    let wanted: BTreeMap<&str, &str> = [
        ("metamanager", "edge-meta"),
        ("keyholder", "edge-key"),
        ("edgehub", "edge-hub"),
        ("edged", "root"),
        ("authority", "cloud-auth"),
        ("apiserver", "cloud-api"),
        ("controllers", "cloud-ctrl"),
        ("cloudhub", "cloud-hub"),
        ("edge metrics", "edge-metrics"),
        ("cloud metrics", "cloud-metrics"),
    ]
    .into();
    let mut seen = BTreeSet::new();
    let both = [("edge", cluster.edge.components()?), ("cloud", cluster.cloud.components()?)];
    for (side, component) in both.iter().flat_map(|(side, all)| all.iter().map(move |one| (side, one))) {
        // The exporter is there twice.
        let name = match component.name.as_str() {
            "metrics" => format!("{side} metrics"),
            name => name.to_owned(),
        };
        let name = name.as_str();
        let status = std::fs::read_to_string(format!("/proc/{}/status", component.pid))
            .with_context(|| format!("{name} does not run"))?;
        let field =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let uid: u32 =
            field("Uid:").split_whitespace().next().unwrap_or_default().parse().context("no uid")?;
        let user = run_id(uid)?;
        ensure!(wanted.get(name) == Some(&user.as_str()), "{name} runs as {user}");
        ensure!(component.uid == uid, "edgectl says {name} runs as {}", component.uid);
        ensure!(field("NoNewPrivs:") == "1", "{name} may gain privileges");
        if uid != 0 {
            ensure!(field("CapEff:") == "0000000000000000", "{name} has capabilities {}", field("CapEff:"));
            ensure!(
                field("CapBnd:") == "0000000000000000",
                "{name} may gain capabilities {}",
                field("CapBnd:")
            );
        }
        seen.insert(name.to_owned());
    }
    ensure!(seen.len() == wanted.len(), "only {seen:?} run");
    Ok(())
}

fn run_id(uid: u32) -> Result<String> {
    Ok(Run::new("id").args(["-un", &uid.to_string()]).output()?.trim().to_owned())
}

pub(crate) fn restart(cluster: &mut Cluster) -> Result<()> {
    cluster.create(&sleeper("unmoved"))?;
    cluster.wait_pod_ready("unmoved")?;
    let running = cluster.containerd.running()?;
    for supervisor in [&cluster.edge, &cluster.cloud] {
        for name in supervisor.side().components() {
            let before = supervisor.components()?;
            supervisor.ctl(&["restart", name])?;
            for (old, new) in before.iter().zip(supervisor.components()?) {
                ensure!(new.state == "ready", "{} is {} after the restart of {name}", new.name, new.state);
                let replaced = old.pid != new.pid;
                ensure!(
                    replaced == (new.name == *name),
                    "restart of {name}: {} has pid {} now",
                    new.name,
                    new.pid
                );
            }
        }
    }
    ensure!(cluster.containerd.running()? == running, "a container was replaced");
    Ok(())
}

pub(crate) fn logs(cluster: &mut Cluster) -> Result<()> {
    for supervisor in [&cluster.edge, &cluster.cloud] {
        for name in supervisor.side().components() {
            let lines = supervisor.ctl(&["logs", name])?;
            ensure!(!lines.trim().is_empty(), "{name} wrote nothing");
        }
    }
    Ok(())
}

pub(crate) fn unknown_component(cluster: &mut Cluster) -> Result<()> {
    for command in ["restart", "logs"] {
        let error =
            cluster.edge.ctl(&[command, "mailman"]).expect_err("there is no such component").to_string();
        ensure!(error.contains("mailman") && error.contains("edgehub"), "{command}: {error}");
    }
    Ok(())
}

pub(crate) fn unknown_manifest_key(options: &Options) -> Result<()> {
    let cluster = Cluster::prepare(options)?;
    let manifest = cluster.root().join("broken.toml");
    let header = "[component.edgehub]\n";
    let text = std::fs::read_to_string(machine::repository().join("supervisor/manifest/edge.toml"))
        .context("could not read the built-in manifest")?;
    ensure!(text.contains(header), "the built-in manifest has no edgehub");
    std::fs::write(&manifest, text.replace(header, "[component.edgehub]\nhat = \"red\"\n"))
        .context("could not write the manifest")?;
    let finished = Run::new(cluster.root().join("bin/edgecore"))
        .args(cluster.edge.arguments())
        .arg("--manifest")
        .arg(&manifest)
        .finish()?;
    ensure!(
        finished.status.code() == Some(EX_CONFIG),
        "it ended with {}: {}",
        finished.status,
        finished.stderr
    );
    for word in ["hat", "edgehub", "broken.toml"] {
        ensure!(finished.stderr.contains(word), "the error does not name {word}: {}", finished.stderr);
    }
    cluster.end()
}
