//! The long run: random faults under load for as long as wished, and then the account of what was acknowledged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::chaos::{Broken, Fault, Kind, Plan, Target, World};
use e2e::{Group, option};
use harness::{Cluster, Figure, Options, Side, interrupt, machine};

use crate::faults::{self, Outcome, WATCHDOG};
use crate::figures;
use crate::load::{Book, Load, MAPS, number_in, reader_of};
use crate::witness::Witness;

/// 3 minutes unless `--minutes N` says otherwise; `--seed N` repeats a run's order of faults.
const MINUTES: f64 = 3.0;
/// From the last fault until everything acknowledged is true everywhere. Back-offs and a node's lease lie within.
const COMES_TO_REST: Duration = Duration::from_mins(2);

pub(crate) const GROUP: Group = Group {
    name: "load",
    start,
    cases: &[
        ("random_faults_lose_and_duplicate_nothing", random_faults),
        ("metrics_agree_with_the_supervisors", figures::agree_with_the_supervisors),
    ],
};

/// A cluster whose supervisors lose patience sooner than in the field.
fn start(options: &Options) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(options)?;
    for (side, name) in [(Side::Edge, "edge.toml"), (Side::Cloud, "cloud.toml")] {
        let manifest = impatient(&cluster, name)?;
        let supervisor = if side == Side::Edge { &mut cluster.edge } else { &mut cluster.cloud };
        supervisor.use_manifest(&manifest);
    }
    cluster.start_cloud()?;
    cluster.start_edge()?;
    Ok(cluster)
}

/// The shipped manifest with other watchdogs.
fn impatient(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let shipped = machine::repository().join("supervisor/manifest").join(name);
    let text =
        std::fs::read_to_string(&shipped).with_context(|| format!("could not read {}", shipped.display()))?;
    let line = format!("watchdog = \"{}s\"", WATCHDOG.as_secs());
    let is_watchdog = |text: &str| text.split('=').next().is_some_and(|key| key.trim() == "watchdog");
    let lines: Vec<&str> =
        text.lines().map(|text| if is_watchdog(text) { line.as_str() } else { text }).collect();
    let path = cluster.root().join(name);
    std::fs::write(&path, lines.join("\n")).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

/// One line of the run's timeline.
struct Happened {
    at: Duration,
    target: Target,
    fault: Fault,
    outcome: Outcome,
}

fn random_faults(cluster: &mut Cluster) -> Result<()> {
    let minutes = option("--minutes").map_or(Ok(MINUTES), |text| text.parse()).context("--minutes")?;
    let seed = option("--seed").map_or(Ok(fastrand::u64(..)), |text| text.parse()).context("--seed")?;
    println!("\n    {minutes} min of faults with --seed {seed}");
    let book = Book::new();
    let witness = Witness::start(&cluster.containerd, book.clone())?;
    let mut load = Load::start(cluster.kubeconfig(), book.clone(), seed)?;
    for map in MAPS {
        cluster.wait_pod_ready(&reader_of(map))?;
    }

    let mut timeline = Vec::new();
    let until = Instant::now() + Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
    let done = torment(cluster, &mut Plan::new(seed), until, &book, &mut load, &mut timeline);
    let found = done.and_then(|()| {
        load.rest();
        account(cluster, &book, &mut load, &witness)
    });
    let found = found.map_err(|error| anyhow!("{error:#}\n{}", told(seed, &timeline)))?;
    print_figures(&book, &timeline, &found);
    ensure!(found.is_empty(), "{}", report(seed, &timeline, &found));
    Ok(())
}

/// One fault after the other, until the time is over.
fn torment(
    cluster: &mut Cluster,
    plan: &mut Plan,
    until: Instant,
    book: &Book,
    load: &mut Load,
    timeline: &mut Vec<Happened>,
) -> Result<()> {
    while Instant::now() < until {
        interrupt::check()?;
        load.check()?;
        std::thread::sleep(plan.breath());
        let at = book.now();
        let round = plan.round();
        let outcomes: Vec<Result<Outcome>> = match *round {
            [(target, fault)] if !fault.is_of_component() => {
                vec![faults::supervisor(cluster, target.side, fault)]
            }
            _ => {
                let cluster = &*cluster;
                std::thread::scope(|scope| {
                    let started: Vec<_> = round
                        .iter()
                        .map(|(target, fault)| scope.spawn(|| one(cluster, *target, *fault)))
                        .collect();
                    started
                        .into_iter()
                        .map(|it| it.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
                        .collect()
                })
            }
        };
        for ((target, fault), outcome) in round.into_iter().zip(outcomes) {
            let outcome = outcome
                .with_context(|| format!("{} {}: {fault}", target.side.program(), target.component))?;
            timeline.push(Happened { at, target, fault, outcome });
        }
    }
    Ok(())
}

fn one(cluster: &Cluster, target: Target, fault: Fault) -> Result<Outcome> {
    let supervisor = if target.side == Side::Edge { &cluster.edge } else { &cluster.cloud };
    faults::component(supervisor, target, fault)
}

/// Waits until everything is at rest, and returns what does not hold then.
fn account(cluster: &mut Cluster, book: &Book, load: &mut Load, witness: &Witness) -> Result<Vec<Broken>> {
    cluster.cloud.wait_ready()?;
    cluster.edge.wait_ready()?;
    cluster.wait_node(true)?;
    let deadline = Instant::now() + COMES_TO_REST;
    let late = loop {
        interrupt::check()?;
        load.check()?;
        let world = look(cluster, witness)?;
        let late = book.open().judge(&world, book.now());
        if late.is_empty() || Instant::now() > deadline {
            break late;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    load.end()?;
    let ledger = book.open();
    let mut found = ledger.broken().to_vec();
    found.extend(ledger.judge_lives(&witness.lives(), book.now()));
    found.extend(late);
    Ok(found)
}

fn look(cluster: &Cluster, witness: &Witness) -> Result<World> {
    let mut world = World {
        pods: cluster.list("pods")?,
        containers: witness.containers(&cluster.containerd)?,
        ..World::default()
    };
    for map in cluster.list("configmaps")? {
        let name = map["metadata"]["name"].as_str().unwrap_or_default();
        if MAPS.contains(&name) {
            world.maps.insert(name.to_owned(), number_in(&map));
        }
    }
    for event in cluster.list("events")?.iter().filter(|event| event["reason"] == "Started") {
        let pod = event["involvedObject"]["uid"].as_str().unwrap_or_default();
        *world.starts.entry(pod.to_owned()).or_default() += event["count"].as_u64().unwrap_or(1);
    }
    for map in MAPS {
        // A file that cannot be read is one that is not there: the judge says so.
        if let Ok(text) = cluster.read(&reader_of(map), "/counts/number") {
            world.files.extend(text.trim().parse().ok().map(|number| (map.to_owned(), number)));
        }
    }
    Ok(world)
}

fn print_figures(book: &Book, timeline: &[Happened], found: &[Broken]) {
    let (writes, statuses) = book.open().counts();
    let mut done: BTreeMap<&str, u32> = Fault::NAMES.map(|name| (name, 0)).into();
    for happened in timeline.iter().filter(|happened| matches!(happened.outcome, Outcome::Done(_))) {
        *done.entry(happened.fault.name()).or_default() += 1;
    }
    for (fault, count) in done {
        println!("{}", Figure::new(format!("chaos.faults.{fault}"), count.into(), "faults").json());
    }
    for (metric, count) in [("writes", writes), ("statuses", statuses)] {
        // Far below 2^32 in any run.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        println!("{}", Figure::new(format!("chaos.acknowledged.{metric}"), count.into(), metric).json());
    }
    for (metric, kind, unit) in [
        ("chaos.lost", Kind::Lost, "acknowledgements"),
        ("chaos.containers_restarted", Kind::Restarted, "containers"),
        ("chaos.duplicated", Kind::Duplicated, "objects"),
    ] {
        let count = found.iter().filter(|broken| broken.kind == kind).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        println!("{}", Figure::new(metric, count.into(), unit).at_most(0.0).json());
    }
}

/// What to read when a run has failed: the first broken promise, the others, and all that was done before.
fn report(seed: u64, timeline: &[Happened], found: &[Broken]) -> String {
    let mut found: Vec<&Broken> = found.iter().collect();
    found.sort_by_key(|broken| broken.at);
    let mut text = format!("{} promises were broken; the first:\n{}\n", found.len(), found[0]);
    for broken in found.iter().skip(1) {
        let _ = writeln!(text, "{broken}");
    }
    text + &told(seed, timeline)
}

fn told(seed: u64, timeline: &[Happened]) -> String {
    let mut text = format!("--seed {seed}; what was done:\n");
    for Happened { at, target, fault, outcome } in timeline {
        let victim = if fault.is_of_component() { target.component } else { target.side.program() };
        let _ = writeln!(text, "{:9.3} s  {victim}: {fault}  {outcome}", at.as_secs_f64());
    }
    text
}
