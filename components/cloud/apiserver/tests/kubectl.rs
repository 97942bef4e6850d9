//! What a user does with `kubectl`, against the server in this process. Without `kubectl` on the path the tests say so
//! and pass: they are about this crate, and the whole is tested elsewhere too.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// 30 s for one `kubectl`; it takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);

struct Api {
    directory: tempfile::TempDir,
    port: u16,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Api {
    /// `None`, with the reason printed, when there is no `kubectl`.
    async fn start() -> Option<Self> {
        if Command::new("kubectl").arg("version").arg("--client").output().await.is_err() {
            eprintln!("skipped: no kubectl on the path");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        Some(Self::start_in(directory, 0).await)
    }

    async fn start_in(directory: tempfile::TempDir, port: u16) -> Self {
        let shutdown = CancellationToken::new();
        let settings = apiserver::Settings {
            address: [127, 0, 0, 1].into(),
            port,
            names: Vec::new(),
            state: directory.path().to_owned(),
            runtime: directory.path().to_owned(),
            kubeconfig_copy: None,
        };
        let (ready, is_ready) = oneshot::channel();
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move {
            apiserver::serve(settings, stop, |address| ready.send(address).unwrap()).await.unwrap();
        });
        let port = is_ready.await.unwrap().port();
        Self { directory, port, shutdown, serving }
    }

    /// The same state served again, on the same port.
    async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        Self::start_in(self.directory, self.port).await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.directory.path().join("admin.kubeconfig"))
            .args(arguments)
            // Discovery is cached under the home directory.
            .env("HOME", self.directory.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        tokio::time::timeout(PATIENCE, output).await.expect("kubectl hangs").unwrap()
    }

    /// Standard output of a command that succeeds.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that fails.
    async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// `kubectl … -f -`.
    async fn feed(&self, arguments: &[&str], text: &str) -> Output {
        let mut command = self.command(arguments);
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // With the marker kubectl takes `{a: 1}` for YAML, not for bad JSON.
        let text = format!("---\n{text}");
        child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("kubectl hangs").unwrap()
    }

    async fn apply(&self, text: &str) -> String {
        let output = self.feed(&["apply"], text).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A `kubectl` that keeps printing.
struct Following {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, child }
    }

    async fn end(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("kubectl does not end").unwrap()
    }

    /// Reads up to a line that contains `text`.
    async fn until(&mut self, text: &str) -> String {
        let find = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("kubectl ended");
                if line.contains(text) {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, find).await.unwrap_or_else(|_| panic!("no line with {text:?}"))
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: edge-1
  containers: [{name: c, image: 'busybox:1.35', env: [{name: A, value: '1'}]}]
";

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: edge-1, labels: {node-role.kubernetes.io/edge: ''}}
";

fn fixture(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../../shared/fixtures/kubeedge-1.23")
        .join(name);
    assert!(path.exists(), "the recorded fixture {} is missing", path.display());
    path
}

/// The documents of the recorded workload whose kinds this API serves.
fn workload() -> String {
    let text = std::fs::read_to_string(fixture("workload.yaml")).unwrap();
    let served = ["kind: ConfigMap", "kind: Secret", "kind: Service\n", "kind: Pod"];
    let documents: Vec<&str> =
        text.split("\n---\n").filter(|document| served.iter().any(|kind| document.contains(kind))).collect();
    assert_eq!(documents.len(), 6);
    documents.join("\n---\n")
}

#[tokio::test]
async fn recorded_workload_applies_and_a_second_time_changes_nothing() {
    let Some(api) = Api::start().await else { return };
    let first = api.apply(&workload()).await;
    assert_eq!(first.matches(" created").count(), 6, "{first}");
    // kubectl sends a patch for the secret and for `tok` each time, as it does to kube-apiserver: `stringData` is never
    // read back, and defaults inside an atomic list look like a difference.
    let versions =
        ["get", "pods,secrets,configmaps,services", "-o", "jsonpath={.items[*].metadata.resourceVersion}"];
    let before = api.ok(&versions).await;
    api.apply(&workload()).await;
    assert_eq!(api.ok(&versions).await, before);
    let pods = api.ok(&["get", "pods", "-o", "wide"]).await;
    assert!(pods.starts_with("NAME "), "{pods}");
    assert_eq!(pods.matches("0/1     Pending").count(), 3, "{pods}");
    let password = api.ok(&["get", "secret", "app-secret", "-o", "jsonpath={.data.password}"]).await;
    assert_eq!(password, "czNjcmV0");
}

#[tokio::test]
async fn describe_shows_the_pod_and_its_events() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    let uid = api.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.uid}"]).await;
    api.apply(&format!(
        "{{apiVersion: v1, kind: Event, metadata: {{name: web.1, namespace: default}}, reason: Pulled, message: image is there, \
         involvedObject: {{kind: Pod, namespace: default, name: web, uid: {uid}}}, type: Normal, source: {{component: kubelet}}}}"
    ))
    .await;
    let described = api.ok(&["describe", "pod", "web"]).await;
    for text in ["busybox:1.35", "PodScheduled", "image is there", "node.kubernetes.io/unreachable:NoExecute"]
    {
        assert!(described.contains(text), "no {text:?} in {described}");
    }
    assert!(api.ok(&["get", "events"]).await.contains("pod/web"));
}

#[tokio::test]
async fn edit_goes_through_an_editor() {
    let Some(api) = Api::start().await else { return };
    api.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: '1'}}").await;
    let editor = api.directory.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nexec sed -i 's/x: \"1\"/x: \"2\"/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let edited = api.command(&["edit", "configmap", "a"]).env("EDITOR", &editor).output().await.unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(api.ok(&["get", "configmap", "a", "-o", "jsonpath={.data.x}"]).await, "2");
}

#[tokio::test]
async fn every_kind_of_patch_works() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    let image = "jsonpath={.spec.containers[*].image}";
    let strategic = r#"{"spec":{"containers":[{"name":"c","image":"busybox:1.36"}]}}"#;
    assert_eq!(api.ok(&["patch", "pod", "web", "-p", strategic, "-o", image]).await, "busybox:1.36");
    let json = r#"[{"op":"replace","path":"/spec/containers/0/image","value":"busybox:1.37"}]"#;
    assert_eq!(
        api.ok(&["patch", "pod", "web", "--type=json", "-p", json, "-o", image]).await,
        "busybox:1.37"
    );
    let merge = r#"{"metadata":{"labels":{"app":null,"tier":"front"}}}"#;
    let labels = api
        .ok(&["patch", "pod", "web", "--type=merge", "-p", merge, "-o", "jsonpath={.metadata.labels}"])
        .await;
    assert_eq!(labels, r#"{"tier":"front"}"#);
    let status = r#"{"status":{"phase":"Running"}}"#;
    api.ok(&["patch", "pod", "web", "--subresource=status", "-p", status]).await;
    assert!(api.ok(&["get", "pods"]).await.contains("Running"));
    let immutable = r#"{"spec":{"nodeName":"other"}}"#;
    assert!(
        api.fails(&["patch", "pod", "web", "-p", immutable])
            .await
            .contains("pod updates may not change fields")
    );
}

#[tokio::test]
async fn label_annotate_and_selectors_agree() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    api.ok(&["label", "pod", "web", "tier=front"]).await;
    api.ok(&["annotate", "pod", "web", "note=some text"]).await;
    assert!(api.ok(&["get", "pods", "-l", "tier in (front,back),app"]).await.contains("web"));
    assert!(api.ok(&["get", "pods", "-l", "tier!=front", "-o", "name"]).await.is_empty());
    assert!(
        api.ok(&["get", "pods", "--field-selector", "spec.nodeName=edge-1", "-o", "name"])
            .await
            .contains("pod/web")
    );
    assert!(
        api.fails(&["get", "pods", "--field-selector", "spec.image=x"])
            .await
            .contains("field label not supported")
    );
}

#[tokio::test]
async fn a_watch_shows_each_change_as_it_happens() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    let mut watch = Following::start(api.command(&["get", "pods", "-w"]));
    watch.until("Pending").await;
    api.ok(&["patch", "pod", "web", "--subresource=status", "-p", r#"{"status":{"phase":"Running"}}"#]).await;
    watch.until("Running").await;
    api.apply(&POD.replace("web", "other")).await;
    watch.until("other").await;
}

#[tokio::test]
async fn wait_ends_when_the_condition_is_met() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    let mut waiting =
        Following::start(api.command(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]));
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    api.ok(&["patch", "pod", "web", "--subresource=status", "-p", ready]).await;
    waiting.until("condition met").await;
}

#[tokio::test]
async fn a_pod_of_a_living_node_terminates_until_the_node_is_done() {
    let Some(api) = Api::start().await else { return };
    api.apply(NODE).await;
    api.apply(POD).await;
    let mut deleting = Following::start(api.command(&["delete", "pod", "web"]));
    deleting.until("deleted").await;
    assert!(api.ok(&["get", "pods"]).await.contains("Terminating"));
    // What the node does once the containers have stopped.
    api.ok(&["delete", "pod", "web", "--force", "--grace-period=0"]).await;
    // The first command has been waiting for just that.
    assert!(deleting.end().await.success());
    assert!(api.ok(&["get", "pods", "-o", "name"]).await.is_empty());
}

#[tokio::test]
async fn create_replace_and_generated_names() {
    let Some(api) = Api::start().await else { return };
    let generated = "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: gen-}}";
    let created = api.feed(&["create", "-o", "name"], generated).await;
    let name = String::from_utf8(created.stdout).unwrap();
    assert!(name.starts_with("configmap/gen-"), "{name}");
    api.ok(&["create", "namespace", "shop"]).await;
    api.ok(&["create", "configmap", "c", "-n", "shop", "--from-literal=a=1"]).await;
    assert!(api.fails(&["create", "configmap", "c", "-n", "shop"]).await.contains("already exists"));
    api.ok(&["create", "secret", "generic", "s", "-n", "shop", "--from-literal=a=1"]).await;
    api.ok(&["create", "serviceaccount", "robot", "-n", "shop"]).await;
    let token = api.ok(&["create", "token", "robot", "-n", "shop"]).await;
    assert_eq!(token.trim().split('.').count(), 3);
    api.ok(&["delete", "namespace", "shop"]).await;
    assert!(api.fails(&["get", "namespace", "shop"]).await.contains("NotFound"));
}

#[tokio::test]
async fn bad_manifests_get_a_sentence() {
    let Some(api) = Api::start().await else { return };
    let error = async |text: &str| {
        let output = api.feed(&["apply"], text).await;
        assert!(!output.status.success(), "{text} was taken");
        String::from_utf8(output.stderr).unwrap()
    };
    let pod = |spec: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}}}");
    for (spec, expected) in [
        ("{containers: [{name: c, image: i, imgae: x}]}", r#"unknown field "spec.containers[0].imgae""#),
        ("{containers: [{name: c}]}", "spec.containers[0].image: Required value"),
        ("{containers: []}", "spec.containers: Required value"),
        ("{containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}", "Not found: \"v\""),
        ("{containers: x}", "spec.containers"),
        (
            "{containers: [{name: c, image: i}], volumes: [{name: v, unheardOf: {a: 1}}]}",
            "unknown field \"spec.volumes[0].unheardOf\"",
        ),
    ] {
        let found = error(&pod(spec)).await;
        assert!(found.contains(expected), "{spec}: {found}");
    }
    let lenient = api
        .feed(
            &["apply", "--validate=false"],
            &pod("{containers: [{name: c, image: i}], volumes: [{name: v, unheardOf: {a: 1}}]}"),
        )
        .await;
    assert!(String::from_utf8_lossy(&lenient.stderr).contains("must specify a volume type"));
    assert!(api.fails(&["get", "pods", "-l", "a in"]).await.contains("unable to parse requirement"));
    assert!(api.fails(&["logs", "nope"]).await.contains("not found"));
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_watches_resume() {
    let Some(api) = Api::start().await else { return };
    api.apply(POD).await;
    let version = api.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.resourceVersion}"]).await;
    api.ok(&["label", "pod", "web", "tier=front"]).await;
    let api = api.restart().await;
    let path = format!("/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={version}");
    let events = api.ok(&["get", "--raw", &path]).await;
    assert_eq!(events.lines().count(), 1, "{events}");
    assert!(events.contains(r#""type":"MODIFIED""#) && events.contains(r#""tier":"front""#), "{events}");
}

#[tokio::test]
async fn streaming_list_ends_with_its_bookmark() {
    let Some(api) = Api::start().await else { return };
    let path = "/api/v1/namespaces?watch=1&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let events = api.ok(&["get", "--raw", path]).await;
    let lines: Vec<&str> = events.lines().collect();
    assert_eq!(lines.len(), 6, "{events}");
    assert!(lines[..5].iter().all(|line| line.contains(r#""type":"ADDED""#)));
    assert!(lines[5].contains("k8s.io/initial-events-end"));
}

#[tokio::test]
async fn pages_continue_where_they_ended() {
    let Some(api) = Api::start().await else { return };
    for name in ["a", "b", "c"] {
        api.ok(&["create", "configmap", name]).await;
    }
    let names = api.ok(&["get", "configmaps", "--chunk-size=2", "-o", "name"]).await;
    assert_eq!(names.lines().collect::<Vec<_>>(), ["configmap/a", "configmap/b", "configmap/c"]);
}

#[tokio::test]
async fn who_am_i_and_what_may_i() {
    let Some(api) = Api::start().await else { return };
    assert_eq!(api.ok(&["auth", "can-i", "create", "pods"]).await.trim(), "yes");
    assert!(api.ok(&["auth", "whoami"]).await.contains("kubernetes-admin"));
    let token = api.ok(&["create", "token", "default"]).await;
    let server = format!("https://127.0.0.1:{}", api.port);
    let ca = api.directory.path().join("ca.crt");
    let as_pod = async |arguments: &[&str]| {
        let mut command = Command::new("kubectl");
        command
            .args(["--kubeconfig", "/dev/null", "--server", &server, "--token", token.trim()])
            .arg("--certificate-authority")
            .arg(&ca)
            .args(arguments)
            .env("HOME", api.directory.path());
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(as_pod(&["get", "secrets"]).await.contains("forbidden"));
    assert!(as_pod(&["auth", "whoami"]).await.contains("system:serviceaccount:default:default"));
}
