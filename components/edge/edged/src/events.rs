//! Events on pods and on the node, as the kubelet writes them: queued without blocking whoever reports, counted up
//! instead of repeated (`client-go/tools/record`), handed to metamanager, which keeps them until the cloud has them.

use std::collections::VecDeque;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::metamanager::{Key, MetaManagerClient, SubmitRequest, UploadKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::Pod;

/// Events waiting for the writer; more are dropped, and said so in the log: an event is a courtesy, a pod is not.
const QUEUE: usize = 256;
/// Distinct recent events whose repeats are counted up rather than written anew.
const REMEMBERED: usize = 256;
/// Kubernetes' bound for `message`.
const MAX_MESSAGE: usize = 1024;

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    /// Things as they should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Reports events. Cheap to clone; never blocks, never fails.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

#[derive(Clone, Debug, PartialEq)]
struct Occurrence {
    object: core::ObjectReference,
    type_: EventType,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// An event on a pod.
    pub(crate) fn pod(&self, pod: &Pod, type_: EventType, reason: &'static str, message: impl Into<String>) {
        self.record(pod, None, type_, reason, message.into());
    }

    /// An event on one container of a pod: `kubectl describe` shows which.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        container: &str,
        type_: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let is_init = pod.spec().init_containers.iter().flatten().any(|c| c.name == container);
        let list = if is_init { "initContainers" } else { "containers" };
        self.record(pod, Some(format!("spec.{list}{{{container}}}")), type_, reason, message.into());
    }

    /// An event on the node itself.
    pub(crate) fn node(
        &self,
        name: &str,
        type_: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let object = core::ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            // The kubelet writes the node's name here: it may not know the uid yet.
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.push(Occurrence { object, type_, reason, message: message.into() });
    }

    fn record(
        &self,
        pod: &Pod,
        field: Option<String>,
        type_: EventType,
        reason: &'static str,
        message: String,
    ) {
        let object = core::ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.key.namespace.clone()),
            name: Some(pod.key.name.clone()),
            uid: Some(pod.uid.clone()),
            resource_version: pod.object.metadata.resource_version.clone(),
            field_path: field,
        };
        self.push(Occurrence { object, type_, reason, message });
    }

    fn push(&self, occurrence: Occurrence) {
        let (reason, object) = (occurrence.reason, occurrence.object.name.clone().unwrap_or_default());
        if self.queue.try_send(occurrence).is_err() {
            tracing::warn!(reason, object, "event dropped: {QUEUE} are waiting");
        }
    }
}

/// Makes a recorder and the task that writes what it reports, or drops it where events are not `wanted`. The task ends on
/// `shutdown` or when every recorder is gone.
pub(crate) fn recorder(
    client: MetaManagerClient,
    node_name: String,
    wanted: bool,
    shutdown: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send) {
    let (queue, mut waiting) = mpsc::channel(QUEUE);
    let writer = async move {
        let mut seen = Seen::default();
        while let Some(Some(occurrence)) = shutdown.run_until_cancelled(waiting.recv()).await {
            if !wanted {
                continue;
            }
            let event = seen.event(occurrence, &node_name, Timestamp::now());
            submit(&client, &event).await;
        }
    };
    (Recorder { queue }, writer)
}

async fn submit(client: &MetaManagerClient, event: &core::Event) {
    let (name, namespace) = (event.metadata.name.clone(), event.metadata.namespace.clone());
    let key = Key {
        kind: "event".into(),
        namespace: namespace.unwrap_or_default(),
        name: name.unwrap_or_default(),
    };
    let json = match serde_json::to_vec(event) {
        Ok(json) => json.into(),
        Err(e) => return tracing::error!(error = %e, "event cannot be written as JSON"),
    };
    let request = SubmitRequest { kind: UploadKind::Event.into(), key: Some(key), uid: String::new(), json };
    if let Err(e) = client.submit(request).await {
        tracing::warn!(error = %e, reason = event.reason, "event not stored");
    }
}

/// Recent events, oldest first.
#[derive(Default)]
struct Seen {
    recent: VecDeque<(Occurrence, core::Event)>,
    made: u64,
}

impl Seen {
    /// A new event, or the known one with its count raised.
    fn event(&mut self, mut occurrence: Occurrence, node_name: &str, now: Timestamp) -> core::Event {
        truncate(&mut occurrence.message, MAX_MESSAGE);
        // The version of the pod is not what makes two events different.
        occurrence.object.resource_version = None;
        if let Some(at) = self.recent.iter().position(|(known, _)| *known == occurrence)
            && let Some((known, mut event)) = self.recent.remove(at)
        {
            event.count = Some(event.count.unwrap_or(1).saturating_add(1));
            event.last_timestamp = Some(Time(now));
            self.recent.push_back((known, event.clone()));
            return event;
        }
        self.made += 1;
        let name = occurrence.object.name.clone().unwrap_or_default();
        let namespace = occurrence.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        // Unique as client-go makes it: time in hexadecimal; our counter keeps two events of one instant apart.
        let unique = u64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(self.made);
        let event = core::Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{unique:x}")),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: occurrence.object.clone(),
            type_: Some(occurrence.type_.text().to_owned()),
            reason: Some(occurrence.reason.to_owned()),
            message: Some(occurrence.message.clone()),
            source: Some(core::EventSource {
                component: Some("kubelet".into()),
                host: Some(node_name.to_owned()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node_name.to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        };
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((occurrence, event.clone()));
        event
    }
}

/// Cuts at a character's boundary.
fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str) -> Occurrence {
        let object = core::ObjectReference { name: Some("web-0".into()), ..Default::default() };
        Occurrence { object, type_: EventType::Warning, reason: "BackOff", message: message.into() }
    }

    #[test]
    fn a_repeat_counts_up_under_the_same_name() {
        let mut seen = Seen::default();
        let first = seen.event(occurrence("x"), "edge-1", Timestamp::UNIX_EPOCH);
        let other = seen.event(occurrence("y"), "edge-1", Timestamp::UNIX_EPOCH);
        let again = seen.event(occurrence("x"), "edge-1", Timestamp::UNIX_EPOCH);
        assert_eq!((again.count, &again.metadata.name), (Some(2), &first.metadata.name));
        assert_ne!(other.metadata.name, first.metadata.name);
    }

    #[test]
    fn memory_and_message_are_bounded() {
        let mut seen = Seen::default();
        for n in 0..REMEMBERED * 2 {
            seen.event(
                occurrence(&format!("{n}{}", "ä".repeat(MAX_MESSAGE))),
                "edge-1",
                Timestamp::UNIX_EPOCH,
            );
        }
        assert_eq!(seen.recent.len(), REMEMBERED);
        assert!(seen.recent.iter().all(|(_, e)| e.message.as_ref().is_some_and(|m| m.len() <= MAX_MESSAGE)));
    }
}
