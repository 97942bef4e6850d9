//! Over real sockets, against a supervisor's control interface that is served here.

use std::path::Path;

use ipc::{Admission, Channel, Fail, Identity, Peer, Sink};
use proto::control::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::*;

struct Supervisor;

impl Control for Supervisor {
    async fn status(&self, _: &Peer, _: StatusRequest) -> Result<StatusReply, Fail<ControlError>> {
        Ok(StatusReply { supervisor: "edgecore".into(), ..Default::default() })
    }
    async fn links(&self, _: &Peer, _: LinksRequest) -> Result<LinksReply, Fail<ControlError>> {
        Ok(LinksReply::default())
    }
    async fn restart(&self, _: &Peer, _: RestartRequest) -> Result<RestartReply, Fail<ControlError>> {
        Err(not_for_metrics())
    }
    async fn logs(&self, _: &Peer, _: LogsRequest, _: Sink<LogLine>) -> Result<(), Fail<ControlError>> {
        Err(not_for_metrics())
    }
    async fn start(&self, _: &Peer, _: StartRequest) -> Result<StartReply, Fail<ControlError>> {
        Err(not_for_metrics())
    }
    async fn stop(&self, _: &Peer, _: StopRequest) -> Result<StopReply, Fail<ControlError>> {
        Err(not_for_metrics())
    }
    async fn reexec(&self, _: &Peer, _: ReexecRequest) -> Result<ReexecReply, Fail<ControlError>> {
        Err(not_for_metrics())
    }
    async fn privileges(
        &self,
        _: &Peer,
        _: PrivilegesRequest,
    ) -> Result<PrivilegesReply, Fail<ControlError>> {
        Err(not_for_metrics())
    }
}

fn not_for_metrics() -> Fail<ControlError> {
    Fail::new(ControlError::Unspecified, "not for metrics")
}

/// A running exporter; its supervisor answers when `supervised`.
struct Running {
    folder: tempfile::TempDir,
    _supervisor: Option<ipc::Server<ControlServer<Supervisor>>>,
}

impl Running {
    fn start(supervised: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.sock");
        let supervisor = supervised.then(|| {
            let server = ipc::Server::new(Identity::new("supervisor", 1), ControlServer::new(Supervisor));
            server.serve(ipc::bind(&link, 0o600).unwrap(), Admission::AnyUser).unwrap();
            server
        });
        let site = Site::new(Scrapes::new(Channel::new(link, Identity::new("metrics", 1))));
        let door = UnixListener::bind(folder.path().join("http.sock")).unwrap();
        tokio::spawn(site.serve(Door::Unix(door)));
        Self { folder, _supervisor: supervisor }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    fn socket(&self) -> impl AsRef<Path> + use<> {
        self.folder.path().join("http.sock")
    }

    /// The whole answer to one request.
    async fn ask(&self, head: &str) -> String {
        read_all(self.connect().await, head).await
    }
}

async fn read_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> String {
    stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a request does not read the rest of it, so the connection ends with a reset.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap().to_lowercase()
}

#[tokio::test]
async fn metrics_are_text_of_the_format_s_own_type() {
    let answer = Running::start(true).ask("GET /metrics HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("apiary_supervisor_info{supervisor=\"edgecore\""), "{answer}");
}

#[tokio::test]
async fn health_is_the_exporter_s_own() {
    let answer = Running::start(false).ask("GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 200 ok\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let running = Running::start(true);
    for path in ["/", "/metrics/", "/metricsx", "/../metrics", "*"] {
        let answer = running.ask(&format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("http/1.1 404"), "{path}: {answer}");
    }
    for method in ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = running.ask(&format!("{method} /metrics HTTP/1.1")).await;
        assert!(
            answer.starts_with("http/1.1 405") && answer.contains("\r\nallow: get\r\n"),
            "{method}: {answer}"
        );
    }
}

#[tokio::test]
async fn query_of_the_scraper_is_looked_past() {
    let answer = Running::start(true).ask("GET /metrics?collect[]=x HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn supervisor_that_is_gone_makes_the_scrape_fail_with_a_reason() {
    let answer = Running::start(false).ask("GET /metrics HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("the supervisor did not answer: "), "{answer}");
}

#[tokio::test]
async fn head_larger_than_its_bound_is_refused() {
    let running = Running::start(true);
    let answer = running.ask(&format!("GET /metrics HTTP/1.1\r\nx: {}", "a".repeat(2 * HEAD_BYTES))).await;
    assert!(answer.starts_with("http/1.1 431"), "{answer}");
    let many = "x: y\r\n".repeat(HEADERS + 1);
    let answer = running.ask(&format!("GET /metrics HTTP/1.1\r\n{}", many.trim_end())).await;
    assert!(answer.starts_with("http/1.1 431"), "{answer}");
}

#[tokio::test]
async fn bytes_that_are_no_http_end_the_connection_and_no_other() {
    let running = Running::start(true);
    let mut stream = running.connect().await;
    stream.write_all(&[0x16, 0x03, 0x01, 0xff, 0x00, b'\r', b'\n', b'\r', b'\n']).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    assert!(running.ask("GET /healthz HTTP/1.1").await.starts_with("http/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn silent_clients_hold_every_place_for_five_seconds_at_most() {
    let running = Running::start(true);
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = running.connect().await;
        stream.write_all(b"GET /metr").await.unwrap();
        silent.push(stream);
    }
    let answer = running.ask("GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(began.elapsed() >= HEAD && began.elapsed() < HEAD * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn tcp_door_gives_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(Scrapes::new(Channel::new(folder.path().join("none"), Identity::new("metrics", 1))));
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = door.local_addr().unwrap();
    tokio::spawn(site.serve(Door::Tcp(door)));
    let answer = read_all(TcpStream::connect(address).await.unwrap(), "GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}
