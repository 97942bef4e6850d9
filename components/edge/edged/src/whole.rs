//! edged as a whole, between a store and a runtime that live in the test: what holds from the watch to the upload.
//! The runtime here has CRI events, which the containerd of the end-to-end tests has not.

mod runtime;
mod store;

use std::sync::Arc;
use std::time::Duration;

use componentconfig::edgecore::EdgeCore;
use proto::metamanager::{MetaManagerClient, UploadKind};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::runtime::FakeRuntime;
use self::store::FakeStore;
use crate::Edged;

/// Far longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    dir: TempDir,
    runtime: FakeRuntime,
    store: FakeStore,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let runtime = FakeRuntime::serve(&dir.path().join("cri"));
        let store = FakeStore::serve(&dir.path().join("meta"));
        Self { dir, runtime, store }
    }

    fn edged(&self) -> Running {
        let mut config = EdgeCore::default();
        let path = self.dir.path();
        let edged = &mut config.modules.edged;
        edged.hostname_override = "edge-1".into();
        edged.root_directory = path.join("kubelet");
        edged.tailored_kubelet_config.pod_logs_dir = path.join("logs");
        edged.tailored_kubelet_config.container_runtime_endpoint =
            format!("unix://{}", path.join("cri").display());
        let client =
            MetaManagerClient::new(ipc::Channel::new(path.join("meta"), ipc::Identity::new("edged", 1)));
        let shutdown = CancellationToken::new();
        let edged = crate::start(&Arc::new(config), client, shutdown.clone()).expect("a valid configuration");
        Running { edged, shutdown }
    }
}

struct Running {
    edged: Edged,
    shutdown: CancellationToken,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.edged.finish().await;
    }
}

/// Looks until `look` finds something.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
}

impl Node {
    async fn ready(&self, name: &str) {
        eventually(&format!("{name} is ready"), || self.store.is_ready(name).then_some(())).await;
    }
}

#[tokio::test]
async fn a_pod_of_the_store_becomes_ready_and_its_status_is_reported() {
    let node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    let status = node.store.status("web-0").expect("reported");
    assert_eq!(status["podIP"], "10.0.0.1");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    edged.stop().await;
}

#[tokio::test]
async fn a_ready_pod_that_the_cloud_calls_unready_is_reported_again() {
    let node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    node.store.forget_uploads();
    // As the cloud sends it after it had thought the node lost.
    node.store.put_pod("web-0", r#"{"annotations": {"seen": "lost"}}"#);
    node.ready("web-0").await;
    edged.stop().await;
}

#[tokio::test]
async fn a_restart_of_edged_touches_no_healthy_container() {
    let node = Node::new();
    let first = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    first.stop().await;
    node.store.forget_uploads();
    let second = node.edged();
    node.ready("web-0").await;
    assert_eq!(node.runtime.calls("CreateContainer"), 1);
    assert_eq!(node.runtime.calls("StopContainer") + node.runtime.calls("StopPodSandbox"), 0);
    second.stop().await;
}

#[tokio::test]
async fn a_start_that_edged_died_in_leaves_no_restart_behind() {
    let node = Node::new();
    let first = node.edged();
    node.store.sync();
    node.runtime.hold_starts(true);
    node.store.put_pod("web-0", "{}");
    eventually("the start hangs", || (node.runtime.calls("StartContainer") == 1).then_some(())).await;
    first.stop().await;
    // A runtime opens the log before it starts the process.
    let pods = std::fs::read_dir(node.dir.path().join("logs")).expect("the pods' logs");
    for pod in pods {
        let log = pod.expect("a pod's logs").path().join("c/0.log");
        std::fs::write(log, "").expect("made as a runtime does");
    }
    node.runtime.hold_starts(false);
    let second = node.edged();
    node.ready("web-0").await;
    let status = node.store.status("web-0").expect("reported");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    second.stop().await;
}

#[tokio::test]
async fn nothing_is_a_stranger_before_the_store_has_told_all() {
    let node = Node::new();
    let first = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.store.put_pod("web-1", "{}");
    node.ready("web-0").await;
    node.ready("web-1").await;
    first.stop().await;
    // The store comes back slowly: one pod is told, the bookmark is not.
    node.store.unsync();
    node.store.lose_pod("web-1");
    node.store.forget_uploads();
    let second = node.edged();
    node.ready("web-0").await;
    assert_eq!(node.runtime.running(), 2);
    node.store.sync();
    eventually("web-1 is taken down", || (node.runtime.running() == 1).then_some(())).await;
    eventually("its sandbox is removed", || (node.runtime.sandboxes() == 1).then_some(())).await;
    assert!(node.store.uploads(UploadKind::PodDelete).is_empty(), "nobody asked for a report");
    second.stop().await;
}

#[tokio::test]
async fn a_container_that_ends_is_started_again() {
    let node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    node.runtime.end_containers(1);
    eventually("restarted", || {
        let status = node.store.status("web-0")?;
        (status["containerStatuses"][0]["restartCount"] == 1).then_some(())
    })
    .await;
    let status = node.store.status("web-0").expect("reported");
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    edged.stop().await;
}

#[tokio::test]
async fn the_end_of_a_pod_is_reported_when_nothing_of_it_is_left() {
    let node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    node.store.put_pod(
        "web-0",
        r#"{"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}"#,
    );
    let report = eventually("the end is reported", || node.store.uploads(UploadKind::PodDelete).pop()).await;
    assert_eq!(report["preconditions"]["uid"], "uid-web-0");
    assert_eq!((node.runtime.running(), node.runtime.sandboxes()), (0, 0));
    assert!(!node.dir.path().join("kubelet/pods/uid-web-0").exists());
    let status = node.store.status("web-0").expect("reported");
    assert!(status["containerStatuses"][0]["state"]["terminated"].is_object(), "{status}");
    edged.stop().await;
}

#[tokio::test]
async fn a_runtime_that_hangs_on_one_pod_holds_up_no_other() {
    let node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.runtime.hang_on("stuck");
    node.store.put_pod("stuck", "{}");
    eventually("the call hangs", || (node.runtime.calls("RunPodSandbox") == 1).then_some(())).await;
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    edged.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_store_is_survived() {
    let mut node = Node::new();
    let edged = node.edged();
    node.store.sync();
    node.store.put_pod("web-0", "{}");
    node.ready("web-0").await;
    node.store.restart(&node.dir.path().join("meta"));
    node.store.put_pod("web-1", "{}");
    node.ready("web-1").await;
    assert_eq!((node.runtime.running(), node.runtime.calls("CreateContainer")), (2, 2));
    edged.stop().await;
}
