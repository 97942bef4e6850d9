//! What was acknowledged during a run, and what of it does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::runtime::Lives;

/// What a pod of the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sleeps until it is deleted.
    Sleeper,
    /// Ends by itself, with status 0, once.
    Task,
}

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something acknowledged is gone, older than it was, or never arrived.
    Lost,
    /// A container that ran was ended or replaced without anybody's asking.
    Restarted,
    /// Something is there twice, or is there though it was never asked for.
    Duplicated,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// How.
    pub kind: Kind,
    /// Since the run began.
    pub at: Duration,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} s  {:?}: {}", self.at.as_secs_f64(), self.kind, self.what)
    }
}

/// A pod whose creation was acknowledged.
#[derive(Clone, Debug)]
struct Pod {
    role: Role,
    uid: String,
    /// The newest resource version seen.
    version: u64,
    /// When its deletion was first asked for: from then on it may end.
    delete_asked: Option<Duration>,
    deleted: bool,
    /// The newest acknowledged status.
    status: Status,
}

/// What a status says that must not go back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Pending 0, Running 1, ended 2.
    phase: u8,
    /// The container shown as running. One whose start was cut short by its starter's death has an id, too, and never ran.
    container: Option<String>,
    restarts: u64,
}

/// A ConfigMap that one writer counts up in.
#[derive(Clone, Debug, Default)]
struct Map {
    acknowledged: u64,
    version: u64,
}

/// What is true at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Every pod of the API.
    pub pods: Vec<Value>,
    /// The number in each ConfigMap of the API, by its name.
    pub maps: BTreeMap<String, u64>,
    /// The number a container of the edge reads in the mounted file, by ConfigMap.
    pub files: BTreeMap<String, u64>,
    /// Containers and sandboxes the runtime knows, running or not, by the pod's uid.
    pub containers: BTreeMap<String, BTreeSet<String>>,
    /// How often the API was told that a container of a pod was started, by the pod's uid.
    pub starts: BTreeMap<String, u64>,
}

/// The acknowledgements of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pods: BTreeMap<String, Pod>,
    maps: BTreeMap<String, Map>,
    broken: Vec<Broken>,
    writes: u64,
    statuses: u64,
}

impl Ledger {
    /// How many writes, and how many changes of a status, were acknowledged.
    pub fn counts(&self) -> (u64, u64) {
        (self.writes, self.statuses)
    }

    /// Names of the pods that were created and not asked to go.
    pub fn living(&self) -> impl Iterator<Item = &str> {
        self.pods.iter().filter(|(_, pod)| pod.delete_asked.is_none()).map(|(name, _)| name.as_str())
    }

    /// The API has acknowledged a new pod.
    pub fn created(&mut self, name: &str, role: Role, object: &Value) {
        self.writes += 1;
        let pod = Pod {
            role,
            uid: text(&object["metadata"]["uid"]).to_owned(),
            version: version(object),
            delete_asked: None,
            deleted: false,
            status: Status::default(),
        };
        self.pods.insert(name.to_owned(), pod);
    }

    /// A deletion is about to be asked for.
    pub fn deleting(&mut self, name: &str, now: Duration) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.delete_asked.get_or_insert(now);
        }
    }

    /// The API has acknowledged a deletion.
    pub fn deleted(&mut self, name: &str) {
        self.writes += 1;
        if let Some(pod) = self.pods.get_mut(name) {
            pod.deleted = true;
        }
    }

    /// The API has acknowledged this number in a ConfigMap.
    pub fn wrote(&mut self, name: &str, number: u64, object: &Value, now: Duration) {
        self.writes += 1;
        let version = version(object);
        let map = self.maps.entry(name.to_owned()).or_default();
        let what = (version <= map.version).then(|| {
            format!(
                "ConfigMap {name}: write {number} was acknowledged as version {version}, after {}",
                map.version
            )
        });
        *map = Map { acknowledged: number, version };
        self.broken.extend(what.map(|what| Broken { kind: Kind::Lost, at: now, what }));
    }

    /// The newest number that was acknowledged in a ConfigMap.
    pub fn acknowledged(&self, name: &str) -> u64 {
        self.maps.get(name).map_or(0, |map| map.acknowledged)
    }

    /// Something that must not happen was seen.
    pub fn report(&mut self, kind: Kind, now: Duration, what: String) {
        self.broken.push(Broken { kind, at: now, what });
    }

    /// The API shows a pod as this.
    pub fn saw_pod(&mut self, object: &Value, now: Duration) {
        let name = text(&object["metadata"]["name"]);
        let Some(pod) = self.pods.get_mut(name) else { return };
        let mut found = Vec::new();
        let mut broken =
            |kind, what: String| found.push(Broken { kind, at: now, what: format!("pod {name}: {what}") });
        let uid = text(&object["metadata"]["uid"]);
        if uid != pod.uid {
            broken(Kind::Duplicated, format!("was created as {} and is there as {uid}", pod.uid));
            self.broken.append(&mut found);
            return;
        }
        let version = version(object);
        if version < pod.version {
            broken(Kind::Lost, format!("went from version {} back to {version}", pod.version));
        }
        let status = Status::of(object);
        let before = &pod.status;
        // Of a pod that was asked to go only its end is promised: what its node says of its last moments may cross.
        if status.phase < before.phase && pod.delete_asked.is_none() {
            broken(Kind::Lost, format!("its phase went back to {}", object["status"]["phase"]));
        }
        if status.restarts > before.restarts {
            broken(Kind::Restarted, format!("{} restarts", status.restarts));
        }
        match (&before.container, &status.container) {
            (Some(old), Some(new)) if old != new => {
                broken(Kind::Restarted, format!("container {old} was replaced by {new}"));
            }
            _ => {}
        }
        if pod.role == Role::Sleeper && pod.delete_asked.is_none() && status.phase > 1 && before.phase <= 1 {
            broken(Kind::Restarted, format!("it ended as {}", object["status"]["phase"]));
        }
        self.statuses += u64::from(status != *before);
        let container = status.container.or(pod.status.container.take());
        pod.status =
            Status { container, phase: status.phase.max(pod.status.phase), restarts: status.restarts };
        pod.version = version.max(pod.version);
        self.broken.append(&mut found);
    }

    /// What was seen broken while the run went on, in that order.
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// What the runtime says of containers that were not asked to end.
    pub fn judge_lives(&self, lives: &Lives, now: Duration) -> Vec<Broken> {
        let mut found = Vec::new();
        for (name, pod) in &self.pods {
            if pod.role == Role::Sleeper
                && let Some(id) = lives.ended_unasked(&pod.uid, pod.delete_asked)
            {
                let what = format!("pod {name}: container {id} ended though nobody asked for it");
                found.push(Broken { kind: Kind::Restarted, at: now, what });
            }
            if let Some((one, other)) = lives.twins(&pod.uid) {
                let what = format!("pod {name}: containers {one} and {other} ran at the same time");
                found.push(Broken { kind: Kind::Duplicated, at: now, what });
            }
        }
        found
    }

    /// What does not hold in a world that has come to rest. Some of it may only be late: ask again.
    pub fn judge(&self, world: &World, now: Duration) -> Vec<Broken> {
        let mut found = Vec::new();
        let mut broken = |kind, what| found.push(Broken { kind, at: now, what });
        let shown: BTreeMap<&str, &Value> =
            world.pods.iter().map(|pod| (text(&pod["metadata"]["name"]), pod)).collect();
        for (name, pod) in &self.pods {
            let shown = shown.get(name.as_str());
            let containers = world.containers.get(&pod.uid).map_or(0, BTreeSet::len);
            if pod.delete_asked.is_some() {
                if shown.is_some() {
                    broken(Kind::Lost, format!("pod {name} was deleted and is still there"));
                }
                if containers > 0 {
                    broken(
                        Kind::Lost,
                        format!("pod {name} was deleted and {containers} of its containers are there"),
                    );
                }
                continue;
            }
            let Some(shown) = shown else {
                broken(Kind::Lost, format!("pod {name} is gone"));
                continue;
            };
            let done = match pod.role {
                Role::Sleeper => harness::is_ready(shown),
                Role::Task => shown["status"]["phase"] == "Succeeded",
            };
            if !done {
                broken(Kind::Lost, format!("pod {name} has come no further than {}", shown["status"]));
            }
            // A sandbox and a container; of a pod that has ended both may be removed already.
            if containers > 2 {
                broken(Kind::Duplicated, format!("pod {name} has {containers} containers and sandboxes"));
            }
            if containers < 2 && pod.role == Role::Sleeper {
                broken(Kind::Lost, format!("pod {name} has {containers} containers and sandboxes"));
            }
        }
        for (name, pod) in &self.pods {
            // An event is uploaded until it is known to have arrived, under one name: it is there once.
            let starts = world.starts.get(&pod.uid).copied().unwrap_or_default();
            if starts > 1 {
                broken(
                    Kind::Duplicated,
                    format!("pod {name}: {starts} events say that its one container was started"),
                );
            }
        }
        for name in shown.keys().filter(|name| !self.pods.contains_key(**name)) {
            broken(Kind::Duplicated, format!("nobody created pod {name}"));
        }
        let ours: BTreeSet<&str> = self.pods.values().map(|pod| pod.uid.as_str()).collect();
        for uid in world.containers.keys().filter(|uid| !ours.contains(uid.as_str())) {
            broken(Kind::Duplicated, format!("containers of a pod nobody created: {uid}"));
        }
        for (name, map) in &self.maps {
            for (place, numbers) in [("the API", &world.maps), ("the mounted file", &world.files)] {
                let number = numbers.get(name);
                if number != Some(&map.acknowledged) {
                    let acknowledged = map.acknowledged;
                    broken(
                        Kind::Lost,
                        format!("ConfigMap {name}: {place} has {number:?}, acknowledged is {acknowledged}"),
                    );
                }
            }
        }
        found
    }
}

impl Status {
    fn of(pod: &Value) -> Self {
        let container = &pod["status"]["containerStatuses"][0];
        let id = text(&container["containerID"]);
        Self {
            phase: match text(&pod["status"]["phase"]) {
                "Running" => 1,
                "Succeeded" | "Failed" => 2,
                _ => 0,
            },
            container: container["state"]["running"].is_object().then(|| id.to_owned()),
            restarts: container["restartCount"].as_u64().unwrap_or_default(),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// To a client a version is opaque; ours and etcd's are rising numbers.
fn version(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(9);

    fn pod(version: u64, phase: &str, container: &str) -> Value {
        let status = json!({"containerID": container, "restartCount": 0, "state": {"running": {}}});
        json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": version.to_string()},
            "status": {
                "phase": phase,
                "conditions": [{"type": "Ready", "status": if phase == "Running" { "True" } else { "False" }}],
                "containerStatuses": if container.is_empty() { json!([]) } else { json!([status]) },
            },
        })
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.created("p", Role::Sleeper, &pod(1, "Pending", ""));
        ledger.saw_pod(&pod(2, "Running", "c1"), NOW);
        ledger
    }

    fn kinds(found: &[Broken]) -> Vec<Kind> {
        found.iter().map(|broken| broken.kind).collect()
    }

    fn world() -> World {
        World {
            pods: vec![pod(2, "Running", "c1")],
            containers: BTreeMap::from([(
                "u".to_owned(),
                BTreeSet::from(["s1".to_owned(), "c1".to_owned()]),
            )]),
            ..World::default()
        }
    }

    #[test]
    fn world_as_it_was_acknowledged_breaks_nothing() {
        assert_eq!(ledger().judge(&world(), NOW), []);
        assert_eq!(ledger().broken(), []);
    }

    #[test]
    fn status_that_goes_back_is_lost() {
        let mut ledger = ledger();
        ledger.saw_pod(&pod(1, "Pending", ""), NOW);
        assert_eq!(kinds(ledger.broken()), [Kind::Lost, Kind::Lost]);
    }

    #[test]
    fn replaced_container_is_a_restart() {
        let mut ledger = ledger();
        ledger.saw_pod(&pod(3, "Running", "c2"), NOW);
        assert_eq!(kinds(ledger.broken()), [Kind::Restarted]);
    }

    #[test]
    fn sleeper_may_end_only_after_its_deletion_was_asked_for() {
        let mut ledger = ledger();
        let mut asked = ledger.clone();
        ledger.saw_pod(&pod(3, "Failed", "c1"), NOW);
        assert_eq!(kinds(ledger.broken()), [Kind::Restarted]);
        asked.deleting("p", NOW);
        asked.saw_pod(&pod(3, "Failed", "c1"), NOW);
        assert_eq!(asked.broken(), []);
    }

    #[test]
    fn pod_that_is_gone_is_lost_unless_it_was_deleted() {
        let mut ledger = ledger();
        assert_eq!(kinds(&ledger.judge(&World::default(), NOW)), [Kind::Lost]);
        ledger.deleting("p", NOW);
        assert_eq!(ledger.judge(&World::default(), NOW), []);
        assert_eq!(kinds(&ledger.judge(&world(), NOW)), [Kind::Lost, Kind::Lost]);
    }

    #[test]
    fn third_container_of_a_pod_is_a_duplicate() {
        let mut world = world();
        world.containers.get_mut("u").expect("the pod's").insert("c2".to_owned());
        assert_eq!(kinds(&ledger().judge(&world, NOW)), [Kind::Duplicated]);
    }

    #[test]
    fn event_that_is_there_twice_is_a_duplicate() {
        let mut world = world();
        world.starts.insert("u".to_owned(), 2);
        assert_eq!(kinds(&ledger().judge(&world, NOW)), [Kind::Duplicated]);
    }

    #[test]
    fn what_nobody_created_is_a_duplicate() {
        assert_eq!(kinds(&Ledger::default().judge(&world(), NOW)), [Kind::Duplicated, Kind::Duplicated]);
    }

    #[test]
    fn number_older_than_the_acknowledged_one_is_lost() {
        let mut ledger = Ledger::default();
        let written = |version: u64| json!({"metadata": {"resourceVersion": version.to_string()}});
        ledger.wrote("m", 4, &written(10), NOW);
        let mut world = World { maps: BTreeMap::from([("m".into(), 4)]), ..World::default() };
        world.files.insert("m".into(), 3);
        assert_eq!(kinds(&ledger.judge(&world, NOW)), [Kind::Lost]);
        world.files.insert("m".into(), 4);
        assert_eq!(ledger.judge(&world, NOW), []);
        ledger.wrote("m", 5, &written(10), NOW);
        assert_eq!(kinds(ledger.broken()), [Kind::Lost], "two writes with one version");
    }
}
