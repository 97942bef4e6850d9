//! Wrong objects and wrong bytes: one clear error each, and everything else goes on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, Run, machine};
use serde_json::json;

/// KubeEdge's fixed project id, part of every session's path.
const PROJECT: &str = "e632aba927ea4ac2b575ec1603d56f10";
const LIMIT: Duration = Duration::from_mins(1);

/// A pod beside the bad one runs, and a new one starts.
fn others_go_on(cluster: &Cluster) -> Result<()> {
    cluster.create(&sleeper("good"))?;
    cluster.wait_pod_ready("good")?;
    cluster.kubectl(&["delete", "pod", "good", "--wait=false"])?;
    cluster.wait_pod_gone("good", LIMIT)
}

fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&["delete", "pod", name, "--wait=false"])?;
    cluster.wait_pod_gone(name, LIMIT)
}

pub(crate) fn image_name(cluster: &mut Cluster) -> Result<()> {
    let mut pod = sleeper("bad-name");
    pod["spec"]["containers"][0]["image"] = json!("No Such//Image");
    cluster.create(&pod)?;
    cluster.wait_event("bad-name", "InspectFailed", "No Such//Image")?;
    cluster.wait_pod("bad-name", "says InvalidImageName", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "InvalidImageName"
    })?;
    others_go_on(cluster)?;
    delete(cluster, "bad-name")
}

pub(crate) fn volume_type(cluster: &mut Cluster) -> Result<()> {
    let mut pod = sleeper("bad-volume");
    pod["spec"]["volumes"] = json!([{"name": "far", "nfs": {"server": "192.0.2.1", "path": "/x"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "far", "mountPath": "/far"}]);
    cluster.create(&pod)?;
    let message = cluster.wait_event("bad-volume", "FailedMount", "far")?;
    ensure!(message.contains("nfs"), "the event does not name the volume's type: {message}");
    others_go_on(cluster)?;
    delete(cluster, "bad-volume")
}

pub(crate) fn missing_config_map(cluster: &mut Cluster) -> Result<()> {
    let mut pod = sleeper("early");
    pod["spec"]["volumes"] = json!([{"name": "cfg", "configMap": {"name": "late"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "cfg", "mountPath": "/cfg"}]);
    cluster.create(&pod)?;
    cluster.wait_event("early", "FailedMount", "late")?;
    others_go_on(cluster)?;
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late}\ndata: {a: b}\n")?;
    cluster.wait_pod_ready("early")?;
    ensure!(cluster.read("early", "/cfg/a")? == "b", "the ConfigMap is not mounted");
    delete(cluster, "early")
}

/// A node of its own joins by hand and sends a text frame that is not JSON.
pub(crate) fn not_json(cluster: &mut Cluster) -> Result<()> {
    let edgehub = cluster.edge.component("edgehub")?;
    let mark = cluster.cloud.log_mark();
    let folder = cluster.root().join("stranger");
    std::fs::create_dir_all(&folder).context("could not make a folder")?;
    let file = |name: &str| folder.join(name).display().to_string();
    let openssl = machine::program("openssl")?;
    let (key, request, certificate) = (file("key.pem"), file("csr.der"), file("cert.der"));
    Run::new(&openssl)
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &key,
        ])
        .args(["-subj", "/O=kubeedge/CN=stranger", "-outform", "DER", "-out", &request])
        .output()?;
    let (https, websocket) = cluster.hub_ports();
    let token = cluster.join_token()?;
    let jwt = token.split_once('.').context("the token has no hash")?.1;
    // `GET` with a body, as KubeEdge's edge asks for its certificate.
    Run::new(machine::program("curl")?)
        .args(["--silent", "--show-error", "--fail", "--insecure", "--request", "GET"])
        .args(["--header", "NodeName: stranger", "--header", &format!("Authorization: Bearer {jwt}")])
        .args(["--data-binary", &format!("@{request}"), "--output", &certificate])
        .arg(format!("https://127.0.0.1:{https}/edge.crt"))
        .output()?;

    // The session in a program of its own; `timeout` bounds it, and with it every read here.
    let mut session = Command::new("timeout")
        .arg("20")
        .arg(&openssl)
        .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{websocket}"), "-key", &key])
        .args(["-cert", &certificate, "-certform", "DER"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("could not start openssl")?;
    let mut to_hub = session.stdin.take().context("its input is a pipe")?;
    let mut from_hub = BufReader::new(session.stdout.take().context("its output is a pipe")?);
    write!(
        to_hub,
        "GET /{PROJECT}/stranger/events HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         node_id: stranger\r\nproject_id: {PROJECT}\r\n\r\n"
    )?;
    let mut line = String::new();
    from_hub.read_line(&mut line)?;
    ensure!(line.contains(" 101 "), "the hub refused the stranger's session: {line}");
    while line.trim_end() != "" {
        line.clear();
        from_hub.read_line(&mut line)?;
    }
    let nonsense = b"this is not JSON";
    // A text frame, masked with zeroes: RFC 6455, 5.2.
    to_hub.write_all(&[0x81, 0x80 | u8::try_from(nonsense.len()).context("a short frame")?, 0, 0, 0, 0])?;
    to_hub.write_all(nonsense)?;
    let mut rest = Vec::new();
    from_hub.read_to_end(&mut rest)?;
    session.wait().context("could not wait for openssl")?;
    cluster.cloud.wait_log(mark, &["stranger", "json"])?;
    let now = cluster.edge.component("edgehub")?;
    ensure!(now.pid == edgehub.pid, "edgehub was restarted");
    cluster.wait_node(true)?;
    others_go_on(cluster)
}

pub(crate) fn bad_objects(cluster: &mut Cluster) -> Result<()> {
    for (document, word) in [
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad_Name"},"spec":{"containers":[]}}"#,
            "Bad_Name",
        ),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":[1]}"#, "data"),
        (r#"{"apiVersion":"v1","kind":"Sandwich","metadata":{"name":"x"}}"#, "Sandwich"),
    ] {
        let create =
            cluster.kubectl_command()?.args(["create", "--validate=false", "-f", "-"]).input(document);
        let error = create.output().expect_err("the object is wrong").to_string();
        ensure!(error.contains(word), "the error does not name {word}: {error}");
    }
    others_go_on(cluster)
}
