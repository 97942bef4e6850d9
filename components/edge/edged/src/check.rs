//! One probe or hook, carried out: exec, HTTP, TCP or gRPC (`pkg/probe`, `pkg/kubelet/lifecycle/handlers.go`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{ACCEPT, HOST, HeaderName, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::runtime::Runtime;

/// As a kubelet of our Kubernetes version says.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/1.34");
/// Most of an answer's body that is read.
const MAX_BODY: usize = 10 << 10;

/// What is probed.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The runtime, for exec.
    pub runtime: Runtime,
    /// The container's id.
    pub id: String,
    /// The container's spec, for named ports.
    pub container: core::Container,
    /// The pod's address; `None` when it has none.
    pub address: Option<IpAddr>,
}

/// What kept a check from succeeding, in the words of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The container failed it.
    Failed(String),
    /// It could not be carried out: says nothing about the container.
    Errored(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(message) | Self::Errored(message)) = self;
        f.write_str(message)
    }
}

/// A check's result.
pub(crate) type Outcome = Result<(), Fault>;

impl Subject {
    /// Carries out a probe within `limit`.
    pub(crate) async fn probe(&self, probe: &core::Probe, limit: Duration) -> Outcome {
        if let Some(exec) = &probe.exec {
            self.exec(exec, limit).await
        } else if let Some(get) = &probe.http_get {
            self.http(get, limit).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let address = self.address(tcp.host.as_deref(), &tcp.port).await?;
            connect(address, limit).await.map(drop).map_err(Fault::Failed)
        } else if let Some(grpc) = &probe.grpc {
            let address = self.address(None, &IntOrString::Int(grpc.port)).await?;
            grpc_health(address, grpc.service.clone().unwrap_or_default(), limit).await.map_err(Fault::Failed)
        } else {
            Err(Fault::Errored("missing probe handler".to_owned()))
        }
    }

    /// Carries out a lifecycle hook within `limit`.
    pub(crate) async fn hook(&self, hook: &core::LifecycleHandler, limit: Duration) -> Outcome {
        if let Some(exec) = &hook.exec {
            self.exec(exec, limit).await
        } else if let Some(get) = &hook.http_get {
            self.http(get, limit).await
        } else if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(limit))
                .await;
            Ok(())
        } else {
            Err(Fault::Errored("invalid handler: no exec, httpGet or sleep".to_owned()))
        }
    }

    async fn exec(&self, exec: &core::ExecAction, limit: Duration) -> Outcome {
        let command = exec.command.as_deref().unwrap_or_default();
        match self.runtime.exec(&self.id, command, limit).await {
            Ok(outcome) if outcome.code == 0 => Ok(()),
            Ok(outcome) => Err(Fault::Failed(outcome.output)),
            // The command took too long; anything else is the runtime's own trouble.
            Err(e) if e.code == Code::DeadlineExceeded => Err(Fault::Failed(e.to_string())),
            Err(e) => Err(Fault::Errored(e.to_string())),
        }
    }

    async fn http(&self, get: &core::HTTPGetAction, limit: Duration) -> Outcome {
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err(Fault::Errored("HTTPS probes are not supported on this node".to_owned()));
        }
        let address = self.address(get.host.as_deref(), &get.port).await?;
        let path = get.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let url = format!("http://{address}{path}");
        let failed = |what: String| Fault::Failed(format!("Get \"{url}\": {what}"));
        let request =
            http_request(&path, address, get.http_headers.as_deref().unwrap_or_default()).map_err(&failed)?;
        let exchange = async {
            let stream = connect(address, limit).await.map_err(&failed)?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| failed(e.to_string()))?;
            // Ends with the exchange: the sender is dropped with this future.
            let answer = async {
                let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
                drop(body);
                Ok::<_, Fault>(status)
            };
            tokio::pin!(connection);
            tokio::pin!(answer);
            tokio::select! {
                status = &mut answer => status,
                // The server closed first: what it sent may still say enough.
                _ = &mut connection => answer.await,
            }
        };
        let status = timeout(limit, exchange).await.map_err(|_| {
            failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
        })??;
        if (200..400).contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(Fault::Failed(format!("HTTP probe failed with statuscode: {}", status.as_u16())))
        }
    }

    async fn address(&self, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, Fault> {
        self.resolve(host, port).await.map_err(Fault::Errored)
    }

    async fn resolve(&self, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
        let port = match port {
            IntOrString::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
            IntOrString::String(name) => {
                let named = self.container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
                named.and_then(|p| u16::try_from(p.container_port).ok()).or_else(|| name.parse().ok())
            }
        };
        let port = port.ok_or("invalid port: no port of that name or number")?;
        let pods_own = || self.address.map(|ip| SocketAddr::new(ip, port)).ok_or("the pod has no address");
        match host.filter(|host| !host.is_empty()) {
            None => Ok(pods_own()?),
            Some(host) => {
                if let Ok(ip) = host.parse() {
                    return Ok(SocketAddr::new(ip, port));
                }
                let mut found = tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?;
                found.next().ok_or_else(|| format!("lookup {host}: no such host"))
            }
        }
    }
}

fn http_request(
    path: &str,
    address: SocketAddr,
    headers: &[core::HTTPHeader],
) -> Result<http::Request<Empty<bytes::Bytes>>, String> {
    let mut request = http::Request::get(path)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(HOST, address.to_string())
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    for header in headers {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("invalid header name {:?}", header.name))?;
        let value =
            HeaderValue::from_str(&header.value).map_err(|_| format!("invalid value of header {name}"))?;
        // `insert`: what the pod says replaces ours.
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// Connections are reset when dropped: thousands of probes leave no TIME_WAIT behind.
async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, String> {
    let failed = |what: &str| format!("dial tcp {address}: {what}");
    let stream = timeout(limit, TcpStream::connect(address)).await.map_err(|_| failed("i/o timeout"))?;
    let stream = stream.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => failed("connect: connection refused"),
        _ => failed(&e.to_string()),
    })?;
    stream.set_zero_linger().map_err(|e| failed(&e.to_string()))?;
    Ok(stream)
}

/// grpc.health.v1.HealthCheckRequest.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc_health(address: SocketAddr, service: String, limit: Duration) -> Result<(), String> {
    let check = async {
        let endpoint = Endpoint::try_from(format!("http://{address}")).map_err(|e| e.to_string())?;
        let channel =
            endpoint.connect().await.map_err(|e| format!("error: failed to connect to {address}: {e}"))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let request = tonic::Request::new(HealthCheckRequest { service });
        client.unary(request, path, codec).await.map_err(|e| format!("error: health rpc probe failed: {e}"))
    };
    let answer =
        timeout(limit, check).await.map_err(|_| format!("timeout: no answer within {limit:?}"))??;
    match answer.into_inner().status {
        1 => Ok(()),
        status => Err(format!("service unhealthy (responded with status {status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(2);

    fn subject() -> Subject {
        let container = r#"{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}"#;
        Subject {
            runtime: Runtime::new("unix:///nonexistent", "", LIMIT).expect("an endpoint"),
            id: "c0".into(),
            container: serde_json::from_str(container).expect("a container"),
            address: Some(IpAddr::from([127, 0, 0, 1])),
        }
    }

    fn probe(json: &str) -> core::Probe {
        serde_json::from_str(json).expect("a probe")
    }

    /// Answers one connection; hands out its port and what was asked.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut buffer = [0; 2048];
            let n = stream.read(&mut buffer).await.unwrap_or(0);
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        });
        (port, asked)
    }

    #[tokio::test]
    async fn http_counts_200_to_399_as_success() {
        for (answer, ok) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", false),
        ] {
            let (port, _) = server(answer).await;
            let get = probe(&format!(r#"{{"httpGet": {{"path": "health", "port": {port}}}}}"#));
            let outcome = subject().probe(&get, LIMIT).await;
            assert_eq!(outcome.is_ok(), ok, "{answer}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn http_sends_the_pods_headers_in_place_of_ours() {
        let (port, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let get = probe(&format!(
            r#"{{"httpGet": {{"path": "/a?b", "port": {port}, "httpHeaders": [{{"name": "Host", "value": "example.org"}}]}}}}"#
        ));
        subject().probe(&get, LIMIT).await.expect("success");
        let asked = asked.await.expect("asked").to_lowercase();
        assert!(asked.starts_with("get /a?b http/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("host: example.org\r\n") && asked.contains("user-agent: kube-probe/"),
            "{asked}"
        );
        assert_eq!(asked.matches("host:").count(), 1);
    }

    #[tokio::test]
    async fn a_closed_port_says_so() {
        let (port, _) = server("").await;
        subject()
            .probe(&probe(&format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#)), LIMIT)
            .await
            .expect("open");
        let refused =
            subject().probe(&probe(r#"{"tcpSocket": {"port": 1}}"#), LIMIT).await.expect_err("closed");
        assert_eq!(refused, Fault::Failed("dial tcp 127.0.0.1:1: connect: connection refused".into()));
    }

    #[tokio::test]
    async fn an_absent_runtime_is_not_the_containers_fault() {
        let outcome = subject().probe(&probe(r#"{"exec": {"command": ["true"]}}"#), LIMIT).await;
        assert!(matches!(outcome, Err(Fault::Errored(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn ports_are_found_by_name() {
        let found = subject().address(None, &IntOrString::String("web".into())).await.expect("known");
        assert_eq!(found.port(), 8080);
        assert!(subject().address(None, &IntOrString::String("none".into())).await.is_err());
    }
}
