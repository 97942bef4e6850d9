//! The container runtime over CRI: every call with a deadline, every error with the call's name. The only file that
//! speaks gRPC.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cri::containerd::events_client::EventsClient;
use cri::containerd::{Envelope, SubscribeRequest, TaskEvent};
use cri::runtime as v1;
use cri::runtime::image_service_client::ImageServiceClient;
use cri::runtime::runtime_service_client::RuntimeServiceClient;
use futures_util::Stream;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::model::Sandbox;

/// Largest answer of the runtime that is read, as the kubelet's.
const MAX_ANSWER: usize = 16 << 20;
/// A pull without an end is cut after this; registries that move at all are given the time.
const PULL_TIMEOUT: Duration = Duration::from_hours(1);
/// What `StopContainer` and `ExecSync` get beyond the seconds they are asked to take.
const MARGIN: Duration = Duration::from_secs(10);
/// The health probe's deadline: a runtime that does not answer by then does not work.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(10);

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RuntimeError {
    /// The CRI method.
    pub call: &'static str,
    /// Its gRPC code.
    pub code: Code,
    /// What the runtime said, as the kubelet prints it.
    pub message: String,
    /// The same without the code.
    pub detail: String,
}

impl RuntimeError {
    fn new(call: &'static str, status: &Status) -> Self {
        let code = status.code();
        let detail = status.message().to_owned();
        Self { call, code, message: format!("rpc error: code = {code:?} desc = {detail}"), detail }
    }

    /// The runtime does not know the id.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The runtime does not have the method.
    pub(crate) fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }
}

/// What the runtime has, as listed: enough to see what changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// All pod sandboxes.
    pub sandboxes: Vec<v1::PodSandbox>,
    /// All containers.
    pub containers: Vec<v1::Container>,
}

/// What a command run in a container came to.
#[derive(Clone, Debug)]
pub(crate) struct ExecOutcome {
    /// Its exit code.
    pub code: i32,
    /// Output and errors, cut to what an event can show.
    pub output: String,
}

/// A change the runtime told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This container or sandbox changed.
    One(String),
    /// Something was removed.
    Removed,
}

/// The runtime's client. Cheap to clone; connects when first called and again after the runtime was away.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pods: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    events: EventsClient<Channel>,
    timeout: Duration,
    endpoint: Arc<str>,
}

impl Runtime {
    /// Endpoints are `unix:///path`; an empty `image_endpoint` means the same. `timeout` bounds calls that have no
    /// duration of their own. Fails on what is no endpoint; an absent runtime is found out by the calls.
    pub(crate) fn new(
        endpoint: &str,
        image_endpoint: &str,
        timeout: Duration,
    ) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::try_from(endpoint.to_owned())?.connect_lazy();
        let images = if image_endpoint.is_empty() || image_endpoint == endpoint {
            channel.clone()
        } else {
            Endpoint::try_from(image_endpoint.to_owned())?.connect_lazy()
        };
        Ok(Self {
            pods: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            images: ImageServiceClient::new(images).max_decoding_message_size(MAX_ANSWER),
            events: EventsClient::new(channel),
            timeout,
            endpoint: endpoint.into(),
        })
    }

    /// Where the runtime is expected, as configured.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Bounds a call. Boxed here: a call's future is 20 kB, and steps nest several.
    fn call<'a, R: 'a>(
        call: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<Response<R>, Status>> + Send + 'a,
    ) -> impl Future<Output = Result<R, RuntimeError>> + Send + 'a {
        let answer: Pin<Box<dyn Future<Output = _> + Send + 'a>> = Box::pin(answer);
        async move {
            match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(RuntimeError::new(call, &status)),
                Err(_) => {
                    let message = format!("no answer within {deadline:?}");
                    Err(RuntimeError::new(call, &Status::deadline_exceeded(message)))
                }
            }
        }
    }

    /// The runtime's name and version.
    pub(crate) async fn version(&self) -> Result<(String, String), RuntimeError> {
        let request = v1::VersionRequest { version: "v1".into() };
        let reply = Self::call("Version", HEALTH_TIMEOUT, self.pods.clone().version(request)).await?;
        Ok((reply.runtime_name, reply.runtime_version))
    }

    /// The first of the runtime's conditions that is not met, in words; `None` when all are.
    pub(crate) async fn fault(&self) -> Result<Option<String>, RuntimeError> {
        let request = v1::StatusRequest { verbose: false };
        let reply = Self::call("Status", HEALTH_TIMEOUT, self.pods.clone().status(request)).await?;
        let conditions = reply.status.unwrap_or_default().conditions;
        Ok(conditions.into_iter().find(|c| !c.status).map(|c| {
            let kind = if c.r#type == "NetworkReady" { "network" } else { "runtime" };
            format!(
                "container {kind} is not ready: {}=false reason:{} message:{}",
                c.r#type, c.reason, c.message
            )
        }))
    }

    /// Everything there is, or what belongs to one pod.
    pub(crate) async fn list(&self) -> Result<Listing, RuntimeError> {
        let (mut sandboxes, mut containers) = (self.pods.clone(), self.pods.clone());
        let (sandboxes, containers) = tokio::join!(
            Self::call(
                "ListPodSandbox",
                self.timeout,
                sandboxes.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None })
            ),
            Self::call(
                "ListContainers",
                self.timeout,
                containers.list_containers(v1::ListContainersRequest { filter: None })
            ),
        );
        Ok(Listing { sandboxes: sandboxes?.items, containers: containers?.containers })
    }

    /// Makes a sandbox and waits until it is ready.
    pub(crate) async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, RuntimeError> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        // The kubelet allows twice the usual time: network plugins are slow.
        let reply =
            Self::call("RunPodSandbox", self.timeout * 2, self.pods.clone().run_pod_sandbox(request)).await?;
        Ok(reply.pod_sandbox_id)
    }

    /// The sandbox, with its addresses.
    pub(crate) async fn sandbox(&self, id: &str) -> Result<Sandbox, RuntimeError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply =
            Self::call("PodSandboxStatus", self.timeout, self.pods.clone().pod_sandbox_status(request))
                .await?;
        let status = reply.status.unwrap_or_default();
        let network = status.network.unwrap_or_default();
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        Ok(Sandbox {
            id: status.id,
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            ips: ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
            attempt: status.metadata.unwrap_or_default().attempt,
            created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    /// Ends everything in the sandbox and frees its address. Idempotent; an unknown id is stopped already.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let reply =
            Self::call("StopPodSandbox", self.timeout, self.pods.clone().stop_pod_sandbox(request)).await;
        gone_is_done(reply)
    }

    /// Removes the sandbox and its containers. Idempotent.
    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let reply =
            Self::call("RemovePodSandbox", self.timeout, self.pods.clone().remove_pod_sandbox(request)).await;
        gone_is_done(reply)
    }

    /// Makes a container; returns its id.
    pub(crate) async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let reply =
            Self::call("CreateContainer", self.timeout, self.pods.clone().create_container(request)).await?;
        Ok(reply.container_id)
    }

    /// Starts a container.
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        Self::call("StartContainer", self.timeout, self.pods.clone().start_container(request))
            .await
            .map(|_| ())
    }

    /// Stops a container: the image's stop signal, SIGKILL after `grace` seconds. Idempotent.
    pub(crate) async fn stop_container(&self, id: &str, grace: i64) -> Result<(), RuntimeError> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let deadline = self.timeout + seconds(grace);
        let reply = Self::call("StopContainer", deadline, self.pods.clone().stop_container(request)).await;
        gone_is_done(reply)
    }

    /// Removes a container, by force. Idempotent.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        let reply =
            Self::call("RemoveContainer", self.timeout, self.pods.clone().remove_container(request)).await;
        gone_is_done(reply)
    }

    /// A container's state in full.
    pub(crate) async fn container(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply =
            Self::call("ContainerStatus", self.timeout, self.pods.clone().container_status(request)).await?;
        Ok(reply.status.unwrap_or_default())
    }

    /// Runs a command in a container; the runtime ends it after `limit`, which fails with `DeadlineExceeded`.
    pub(crate) async fn exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout };
        let reply = Self::call("ExecSync", limit + MARGIN, self.pods.clone().exec_sync(request)).await?;
        let mut output =
            String::from_utf8_lossy(&reply.stdout[..reply.stdout.len().min(MAX_OUTPUT)]).into_owned();
        output.push_str(&String::from_utf8_lossy(&reply.stderr[..reply.stderr.len().min(MAX_OUTPUT)]));
        Ok(ExecOutcome { code: reply.exit_code, output })
    }

    /// The image, if the runtime has it.
    pub(crate) async fn image(&self, image: &str) -> Result<Option<v1::Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        let reply =
            Self::call("ImageStatus", self.timeout, self.images.clone().image_status(request)).await?;
        Ok(reply.image)
    }

    /// Pulls an image.
    pub(crate) async fn pull(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<(), RuntimeError> {
        let request = v1::PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config: Some(sandbox_config),
        };
        Self::call("PullImage", PULL_TIMEOUT, self.images.clone().pull_image(request)).await.map(|_| ())
    }

    /// Container changes as the CRI tells them; older runtimes end the stream with `Unimplemented` at once.
    ///
    /// Go's servers send nothing, not even headers, before the first event: whether the stream is open cannot be waited
    /// for.
    pub(crate) fn events(&self) -> Changes {
        let mut client = self.pods.clone();
        let open = async move { client.get_container_events(v1::GetEventsRequest {}).await };
        told("GetContainerEvents", open, |event: v1::ContainerEventResponse| {
            let deleted = v1::ContainerEventType::ContainerDeletedEvent as i32;
            Some(if event.container_event_type == deleted {
                Change::Removed
            } else {
                Change::One(event.container_id)
            })
        })
    }

    /// The same from containerd's own events. A task is deleted by the CRI's own handling of its end, just before the
    /// CRI tells of it; its exit is told much earlier.
    pub(crate) fn containerd_events(&self) -> Changes {
        let filters =
            ["/tasks/delete", "/containers/delete"].map(|topic| format!("topic==\"{topic}\"")).into();
        let mut client = self.events.clone();
        let open = async move { client.subscribe(Request::new(SubscribeRequest { filters })).await };
        told("Subscribe", open, |envelope: Envelope| {
            if envelope.namespace != "k8s.io" {
                return None;
            }
            let event = TaskEvent::decode(envelope.event.unwrap_or_default().value.as_slice()).ok()?;
            match envelope.topic.as_str() {
                "/containers/delete" => Some(Change::Removed),
                // Processes exec'ed into a container end, too: probes would make a storm of hints.
                _ => event.id.is_empty().then_some(Change::One(event.container_id)),
            }
        })
    }
}

/// Changes until the stream ends, its error last.
pub(crate) type Changes = Pin<Box<dyn Stream<Item = Result<Change, RuntimeError>> + Send>>;

fn told<T: Send + 'static>(
    call: &'static str,
    open: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    read: impl Fn(T) -> Option<Change> + Send + 'static,
) -> Changes {
    let events = stream::once(open).flat_map(|opened| match opened {
        Ok(response) => response.into_inner().left_stream(),
        Err(status) => stream::once(std::future::ready(Err(status))).right_stream(),
    });
    Box::pin(events.filter_map(move |event| {
        let change = match event {
            Ok(event) => read(event).map(Ok),
            Err(status) => Some(Err(RuntimeError::new(call, &status))),
        };
        std::future::ready(change)
    }))
}

/// Most of a command's output that is kept: what an event can show.
const MAX_OUTPUT: usize = 1024;

fn gone_is_done<R>(reply: Result<R, RuntimeError>) -> Result<(), RuntimeError> {
    match reply {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A time of the CRI; 0 (and Go's zero time, which is before 1970) means none.
pub(crate) fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}
