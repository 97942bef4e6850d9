//! What the container runtime itself says of containers: the witness that does not depend on ours.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// A container that ended sooner after its start was cut short by the death of who started it: the runtime rolls such a
/// start back, and the container has done nothing.
const CUT_SHORT: Duration = Duration::from_secs(1);

/// A line of `ctr events` that concerns a container's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It exists.
    Created(String),
    /// Its process runs.
    Started(String),
    /// Its process has ended.
    Ended(String),
}

impl Event {
    /// `TIME NAMESPACE /topic {json}`; `None` for other topics and for processes executed inside a container.
    pub fn parse(line: &str) -> Option<Self> {
        let (head, json) = line.split_once(" {")?;
        let topic = head.rsplit(' ').next()?;
        let value: Value = serde_json::from_str(&format!("{{{json}")).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        match topic {
            "/containers/create" => text("id").map(Self::Created),
            "/tasks/start" => text("container_id").map(Self::Started),
            "/tasks/exit" => {
                let container = text("container_id")?;
                (text("id").is_none_or(|process| process == container)).then_some(Self::Ended(container))
            }
            _ => None,
        }
    }
}

/// What the CRI wrote on a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The pod's uid.
    pub pod_uid: String,
    /// Whether it is the pod's sandbox.
    pub sandbox: bool,
}

/// One container's life, in time since the run began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// `None` until they are known, and for what went before they could be read.
    pub labels: Option<Labels>,
    /// When its process started.
    pub started: Option<Duration>,
    /// When its process ended.
    pub ended: Option<Duration>,
}

impl Life {
    /// Whether it ran at some moment at which the other ran too. What was cut short does not count.
    fn overlaps(&self, other: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (self.started, other.started) else { return false };
        let before = |end: Option<Duration>, begin: Duration| end.is_some_and(|end| end <= begin);
        !self.was_cut_short()
            && !other.was_cut_short()
            && !before(self.ended, theirs)
            && !before(other.ended, ours)
    }

    fn was_cut_short(&self) -> bool {
        matches!((self.started, self.ended), (Some(start), Some(end)) if end.saturating_sub(start) < CUT_SHORT)
    }
}

/// Every container the runtime has told of, by id.
#[derive(Clone, Debug, Default)]
pub struct Lives(pub BTreeMap<String, Life>);

impl Lives {
    /// Takes an event in.
    pub fn note(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Created(id) => drop(self.0.entry(id.clone()).or_default()),
            Event::Started(id) => self.0.entry(id.clone()).or_default().started = Some(now),
            Event::Ended(id) => self.0.entry(id.clone()).or_default().ended = Some(now),
        }
    }

    /// The containers of a pod that are no sandbox.
    pub fn of_pod(&self, uid: &str) -> impl Iterator<Item = (&str, &Life)> {
        self.0.iter().filter_map(move |(id, life)| {
            let labels = life.labels.as_ref()?;
            (labels.pod_uid == uid && !labels.sandbox).then_some((id.as_str(), life))
        })
    }

    /// A container that ran and ended before `until`, when nobody had asked for its end.
    pub fn ended_unasked(&self, uid: &str, until: Option<Duration>) -> Option<&str> {
        let unasked = |life: &Life| {
            life.ended.is_some_and(|ended| until.is_none_or(|until| ended < until)) && !life.was_cut_short()
        };
        self.of_pod(uid).find(|(_, life)| life.started.is_some() && unasked(life)).map(|(id, _)| id)
    }

    /// Two containers of one pod that ran at the same time; every pod of a run has one.
    pub fn twins(&self, uid: &str) -> Option<(&str, &str)> {
        let lives: Vec<_> = self.of_pod(uid).collect();
        let pairs = lives
            .iter()
            .enumerate()
            .flat_map(|(at, one)| lives[at + 1..].iter().map(move |other| (one, other)));
        pairs.filter(|(one, other)| one.1.overlaps(other.1)).map(|(one, other)| (one.0, other.0)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(entries: &[(&str, u64, Option<u64>)]) -> Lives {
        let life = |start: u64, end: Option<u64>| Life {
            labels: Some(Labels { pod_uid: "u".into(), sandbox: false }),
            started: Some(Duration::from_millis(start)),
            ended: end.map(Duration::from_millis),
        };
        Lives(entries.iter().map(|(id, start, end)| ((*id).to_owned(), life(*start, *end))).collect())
    }

    #[test]
    fn lines_of_a_container_s_life_are_understood() {
        let line = r#"2026-11-21 07:48:03.07 +0000 UTC k8s.io /tasks/start {"container_id":"ab","pid":7}"#;
        assert_eq!(Event::parse(line), Some(Event::Started("ab".into())));
        let line = r#"2026-11-21 07:48:03 +0000 UTC k8s.io /containers/create {"id":"ab","image":"x"}"#;
        assert_eq!(Event::parse(line), Some(Event::Created("ab".into())));
        let line = r#"t k8s.io /tasks/exit {"container_id":"ab","id":"ab","pid":7,"exit_status":137}"#;
        assert_eq!(Event::parse(line), Some(Event::Ended("ab".into())));
    }

    #[test]
    fn exit_of_a_program_executed_inside_is_not_the_container_s() {
        assert_eq!(Event::parse(r#"t k8s.io /tasks/exit {"container_id":"ab","id":"probe-1"}"#), None);
        assert_eq!(Event::parse("t k8s.io /snapshot/prepare {}"), None);
        assert_eq!(Event::parse("nonsense"), None);
    }

    #[test]
    fn second_container_beside_the_first_is_a_twin() {
        assert_eq!(lives(&[("a", 0, None), ("b", 5000, None)]).twins("u"), Some(("a", "b")));
        assert_eq!(lives(&[("a", 0, Some(4000)), ("b", 5000, None)]).twins("u"), None);
    }

    #[test]
    fn start_that_was_cut_short_is_no_container_of_its_own() {
        let cut = lives(&[("a", 0, Some(300)), ("b", 200, None)]);
        assert_eq!(cut.twins("u"), None);
        assert_eq!(cut.ended_unasked("u", None), None);
    }

    #[test]
    fn end_before_it_was_asked_for_is_found() {
        let ended = lives(&[("a", 0, Some(4000))]);
        assert_eq!(ended.ended_unasked("u", Some(Duration::from_secs(3))), None);
        assert_eq!(ended.ended_unasked("u", Some(Duration::from_secs(5))), Some("a"));
        assert_eq!(ended.ended_unasked("u", None), Some("a"));
    }
}
