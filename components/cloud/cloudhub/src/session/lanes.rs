//! In what order requests go to controllers: one at a time per object, several objects at once. Pure.

use std::collections::{HashSet, VecDeque};

use wire::{WireMessage, kind};

/// 8 requests of one edge at a time.
pub(crate) const AT_ONCE: usize = 8;

/// 32 requests are looked at for one whose object is free; the rest wait in the queue before.
const WAITING: usize = 32;

/// Requests that wait, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    waiting: VecDeque<(String, Box<WireMessage>)>,
    busy: HashSet<String>,
}

impl Lanes {
    /// Whether to take another request out of the queue, which holds those that wait longer.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    pub(crate) fn push(&mut self, message: Box<WireMessage>) {
        self.waiting.push_back((lane(&message), message));
    }

    /// The next request that may begin, and its lane for [`Self::done`].
    pub(crate) fn begin(&mut self) -> Option<(String, Box<WireMessage>)> {
        if self.busy.len() >= AT_ONCE {
            return None;
        }
        let mut passed: HashSet<&str> = HashSet::new();
        let at =
            self.waiting.iter().position(|(lane, _)| !self.busy.contains(lane) && passed.insert(lane))?;
        let (lane, message) = self.waiting.remove(at)?;
        self.busy.insert(lane.clone());
        Some((lane, message))
    }

    pub(crate) fn done(&mut self, lane: &str) {
        self.busy.remove(lane);
    }
}

/// What a request is about: a pod's status and its end are one thing, and so are a node and its status.
fn lane(message: &WireMessage) -> String {
    let Ok(path) = message.route.resource.parse::<wire::ResourcePath>() else {
        return message.route.resource.clone();
    };
    let object = match path.kind.as_str() {
        kind::POD | kind::POD_PATCH | kind::POD_STATUS => kind::POD,
        kind::NODE | kind::NODE_PATCH => kind::NODE,
        other => other,
    };
    format!("{object}/{}/{}", path.namespace.unwrap_or_default(), path.name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Content;

    fn request(operation: &str, resource: &str) -> Box<WireMessage> {
        Box::new(WireMessage::new("edged", "meta", operation.into(), resource.to_owned(), Content::null()))
    }

    fn begun(lanes: &mut Lanes) -> Vec<String> {
        std::iter::from_fn(|| lanes.begin()).map(|(_, message)| message.route.resource).collect()
    }

    #[test]
    fn a_pods_delete_waits_for_its_status_and_holds_no_other_pod_up() {
        let mut lanes = Lanes::default();
        lanes.push(request("patch", "ns/podpatch/a"));
        lanes.push(request("delete", "ns/pod/a"));
        lanes.push(request("patch", "ns/podpatch/b"));
        assert_eq!(begun(&mut lanes), ["ns/podpatch/a", "ns/podpatch/b"]);
        lanes.done("pod/ns/a");
        assert_eq!(begun(&mut lanes), ["ns/pod/a"]);
    }

    #[test]
    fn requests_of_one_object_keep_their_order() {
        let mut lanes = Lanes::default();
        for operation in ["insert", "update", "patch"] {
            lanes.push(request(operation, "ns/event/e"));
        }
        for operation in ["insert", "update", "patch"] {
            let (lane, message) = lanes.begin().unwrap();
            assert_eq!(message.route.operation.as_str(), operation);
            assert!(lanes.begin().is_none());
            lanes.done(&lane);
        }
    }

    #[test]
    fn no_more_than_eight_at_once() {
        let mut lanes = Lanes::default();
        for number in 0..20 {
            lanes.push(request("patch", &format!("ns/podpatch/{number}")));
        }
        assert_eq!(begun(&mut lanes).len(), AT_ONCE);
    }
}
