//! What one edge must be told, decided from what it was told and what is: pure, so it needs no cluster to test.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wire::{Content, Operation, WireMessage, down};

use crate::object::{Key, Kind, Object};

/// What an edge must have now.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Objects that can be sent.
    pub(crate) objects: Vec<Arc<Object>>,
    /// Objects whose state is not known at the moment (a pod whose ConfigMap is being fetched): left as they are.
    pub(crate) held: HashSet<Key>,
}

/// What an edge was told last, on this stream.
#[derive(Debug, Default)]
pub(crate) struct Told {
    objects: HashMap<Key, Fact>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    uid: String,
    essence: u64,
}

/// One thing to tell.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Put {
        object: Arc<Object>,
        /// Whether the edge was told of this very object before.
        known: bool,
    },
    Delete {
        key: Key,
        uid: String,
    },
}

impl Told {
    /// The steps from what was told to `view`, in an order in which no pod comes before what it names and nothing is
    /// taken from a pod that is still there.
    pub(crate) fn steps(&self, view: &View) -> Vec<Step> {
        let present: HashSet<&Key> = view.objects.iter().map(|object| &object.key).collect();
        let mut gone: Vec<Step> = self
            .objects
            .iter()
            // KubeEdge never deletes an edge's own Node on the edge: it ends the session instead.
            .filter(|(key, _)| key.kind != Kind::Node && !present.contains(key) && !view.held.contains(*key))
            .map(|(key, fact)| Step::Delete { key: key.clone(), uid: fact.uid.clone() })
            .collect();
        gone.sort_by(|a, b| b.key().cmp(a.key()));
        let needed_no_more = gone.split_off(gone.partition_point(|step| step.key().kind == Kind::Pod));

        let mut objects: Vec<&Arc<Object>> = view.objects.iter().collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let mut steps = gone;
        for object in objects {
            match self.objects.get(&object.key) {
                Some(fact) if fact.uid == object.uid && fact.essence == object.essence => {}
                Some(fact) if fact.uid == object.uid => {
                    steps.push(Step::Put { object: object.clone(), known: true });
                }
                Some(fact) => {
                    steps.push(Step::Delete { key: object.key.clone(), uid: fact.uid.clone() });
                    steps.push(Step::Put { object: object.clone(), known: false });
                }
                None => steps.push(Step::Put { object: object.clone(), known: false }),
            }
        }
        steps.extend(needed_no_more);
        steps
    }

    /// Takes note that a step was sent.
    pub(crate) fn sent(&mut self, step: &Step) {
        match step {
            Step::Put { object, .. } => {
                let fact = Fact { uid: object.uid.clone(), essence: object.essence };
                self.objects.insert(object.key.clone(), fact);
            }
            Step::Delete { key, .. } => {
                self.objects.remove(key);
            }
        }
    }
}

impl Step {
    fn key(&self) -> &Key {
        match self {
            Self::Put { object, .. } => &object.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The message; `None` for a name that cannot stand in a path, which the API server does not let exist.
    pub(crate) fn message(&self) -> Option<WireMessage> {
        let path = self.key().path().ok()?;
        Some(match self {
            Self::Put { object, known } => {
                // KubeEdge sends nodes and secrets as `update` from the first time on; its ACK rules count on it for nodes.
                let operation = match object.key.kind {
                    Kind::Node | Kind::Secret => Operation::Update,
                    Kind::ConfigMap | Kind::Pod if *known => Operation::Update,
                    Kind::ConfigMap | Kind::Pod => Operation::Insert,
                };
                down::push(operation, &path, &object.version.to_string(), object.json.clone())
            }
            // Name and uid say all there is; the edge removes only an object of this uid.
            Self::Delete { key, uid } => {
                let object = serde_json::json!({
                    "apiVersion": "v1",
                    "kind": key.kind.name(),
                    "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
                });
                down::push(Operation::Delete, &path, "", Content::value(&object).ok()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: Kind, name: &str, uid: &str, spec: &str, version: u64) -> Arc<Object> {
        let metadata =
            json!({"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string()});
        Arc::new(Object::from_value(kind, json!({"metadata": metadata, "spec": {"x": spec}})).unwrap())
    }

    fn view(objects: &[&Arc<Object>]) -> View {
        View { objects: objects.iter().map(|o| (*o).clone()).collect(), held: HashSet::new() }
    }

    fn told(objects: &[&Arc<Object>]) -> Told {
        let mut told = Told::default();
        for step in told.steps(&view(objects)) {
            told.sent(&step);
        }
        told
    }

    /// `+name` new, `~name` again, `-name` gone.
    fn text(steps: &[Step]) -> Vec<String> {
        let sign = |step: &Step| match step {
            Step::Put { known: false, .. } => '+',
            Step::Put { known: true, .. } => '~',
            Step::Delete { .. } => '-',
        };
        steps.iter().map(|step| format!("{}{}", sign(step), step.key().name)).collect()
    }

    #[test]
    fn a_pod_comes_after_what_it_names_and_goes_before_it() {
        let pod = object(Kind::Pod, "pod", "1", "", 1);
        let map = object(Kind::ConfigMap, "map", "2", "", 1);
        let secret = object(Kind::Secret, "secret", "3", "", 1);
        let all = view(&[&pod, &secret, &map]);
        assert_eq!(text(&Told::default().steps(&all)), ["+map", "+secret", "+pod"]);
        assert_eq!(text(&told(&[&pod, &secret, &map]).steps(&View::default())), ["-pod", "-secret", "-map"]);
    }

    #[test]
    fn nothing_is_told_twice_and_a_status_change_not_at_all() {
        let before = object(Kind::Pod, "pod", "1", "a", 1);
        let status_only = object(Kind::Pod, "pod", "1", "a", 2);
        let changed = object(Kind::Pod, "pod", "1", "b", 3);
        let told = told(&[&before]);
        assert!(told.steps(&view(&[&before])).is_empty());
        assert!(told.steps(&view(&[&status_only])).is_empty());
        assert_eq!(text(&told.steps(&view(&[&changed]))), ["~pod"]);
    }

    #[test]
    fn a_pod_made_again_under_its_name_is_deleted_and_inserted() {
        let told = told(&[&object(Kind::Pod, "pod", "1", "", 1)]);
        let again = object(Kind::Pod, "pod", "2", "", 5);
        let steps = told.steps(&view(&[&again]));
        assert_eq!(text(&steps), ["-pod", "+pod"]);
        assert!(matches!(&steps[0], Step::Delete { uid, .. } if uid == "1"));
    }

    #[test]
    fn an_unknown_state_changes_nothing() {
        let pod = object(Kind::Pod, "pod", "1", "", 1);
        let held = View { objects: vec![], held: HashSet::from([pod.key.clone()]) };
        assert!(told(&[&pod]).steps(&held).is_empty());
        assert!(Told::default().steps(&held).is_empty());
    }

    #[test]
    fn an_edges_own_node_is_never_deleted() {
        assert!(told(&[&object(Kind::Node, "edge-1", "1", "", 1)]).steps(&View::default()).is_empty());
    }

    #[test]
    fn messages_are_kubeedges() {
        let pod = object(Kind::Pod, "pod", "1", "", 48);
        let put = Step::Put { object: pod.clone(), known: false }.message().unwrap();
        assert_eq!(put.route.resource, "ns/pod/pod");
        assert_eq!(put.route.operation, Operation::Insert);
        assert_eq!((put.route.source.as_str(), put.route.group.as_str()), ("edgecontroller", "resource"));
        assert_eq!(put.header.resource_version, "48");
        assert!(put.header.parent_msg_id.is_empty() && wire::ack_mode(&put));
        let delete = Step::Delete { key: pod.key.clone(), uid: "1".into() }.message().unwrap();
        assert_eq!(delete.route.operation, Operation::Delete);
        assert_eq!(delete.content.object_meta().unwrap().uid, "1");
        assert!(wire::ack_mode(&delete));
    }
}
