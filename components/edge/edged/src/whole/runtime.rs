//! A container runtime of memory: CRI v1 over a Unix socket, with container events.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use cri::runtime as v1;
use cri::runtime::image_service_server::{ImageService, ImageServiceServer};
use cri::runtime::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};
use tower::Service;

#[derive(Clone)]
pub(super) struct FakeRuntime(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

#[derive(Default)]
struct State {
    made: u32,
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    /// Sandbox id and state.
    containers: BTreeMap<String, (String, v1::ContainerStatus)>,
    calls: Vec<&'static str>,
    stuck: HashSet<String>,
    holds_starts: bool,
}

type Answer<T> = Result<Response<T>, Status>;

impl FakeRuntime {
    /// Serves until the test's runtime ends.
    pub(super) fn serve(path: &Path) -> Self {
        let fake = Self(Arc::new(Shared { state: Mutex::default(), events: broadcast::Sender::new(64) }));
        let listener = UnixListener::bind(path).expect("bound");
        let (pods, images) = (RuntimeServiceServer::new(fake.clone()), ImageServiceServer::new(fake.clone()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (pods, images) = (pods.clone(), images.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (mut pods, mut images) = (pods.clone(), images.clone());
                    async move {
                        let request = request.map(tonic::body::Body::new);
                        let is_image = request.uri().path().starts_with("/runtime.v1.ImageService/");
                        let answer = if is_image { images.call(request) } else { pods.call(request) };
                        Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {}))
                    }
                });
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("not poisoned")
    }

    fn called(&self, call: &'static str) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.calls.push(call);
        state
    }

    fn tell(&self, id: &str, kind: v1::ContainerEventType) {
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: 0,
        };
        // Nobody may be listening.
        let _ = self.0.events.send(event);
    }

    /// How often a method was called.
    pub(super) fn calls(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|known| **known == call).count()
    }

    pub(super) fn running(&self) -> usize {
        let running = v1::ContainerState::ContainerRunning as i32;
        self.state().containers.values().filter(|(_, status)| status.state == running).count()
    }

    pub(super) fn sandboxes(&self) -> usize {
        self.state().sandboxes.len()
    }

    /// Makes a sandbox of this pod never.
    pub(super) fn hang_on(&self, pod: &str) {
        self.state().stuck.insert(pod.to_owned());
    }

    /// Starts no container, and lets who asks for it wait.
    pub(super) fn hold_starts(&self, hold: bool) {
        self.state().holds_starts = hold;
    }

    /// Every running container ends with this code.
    pub(super) fn end_containers(&self, code: i32) {
        let ids: Vec<String> = self.state().containers.keys().cloned().collect();
        for id in ids {
            self.end(&id, code);
        }
    }

    fn end(&self, id: &str, code: i32) {
        if let Some((_, status)) = self.state().containers.get_mut(id)
            && status.state == v1::ContainerState::ContainerRunning as i32
        {
            status.state = v1::ContainerState::ContainerExited.into();
            status.exit_code = code;
            status.finished_at = now();
            status.reason = "Error".to_owned();
        }
        self.tell(id, v1::ContainerEventType::ContainerStoppedEvent);
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).expect("this century")
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("no {id}"))
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    type GetContainerEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;

    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        let reply = v1::VersionResponse {
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            ..Default::default()
        };
        Ok(Response::new(reply))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        Ok(Response::new(v1::StatusResponse { status: None }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap_or_default();
        let metadata = config.metadata.unwrap_or_default();
        let stuck = self.called("RunPodSandbox").stuck.contains(&metadata.name);
        if stuck {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        state.made += 1;
        let id = format!("sandbox-{}", state.made);
        let network =
            v1::PodSandboxNetworkStatus { ip: format!("10.0.0.{}", state.made), additional_ips: vec![] };
        let sandbox = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at: now(),
            network: Some(network),
            labels: config.labels,
            annotations: config.annotations,
        };
        state.sandboxes.insert(id.clone(), sandbox);
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        if let Some(sandbox) = self.called("StopPodSandbox").sandboxes.get_mut(&id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready.into();
        }
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut state = self.called("RemovePodSandbox");
        state.sandboxes.remove(&id);
        state.containers.retain(|_, (sandbox, _)| *sandbox != id);
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let sandbox = self.state().sandboxes.get(&id).cloned().ok_or_else(|| unknown(&id))?;
        Ok(Response::new(v1::PodSandboxStatusResponse { status: Some(sandbox) }))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let listed = |s: &v1::PodSandboxStatus| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            annotations: s.annotations.clone(),
        };
        let items = self.state().sandboxes.values().map(listed).collect();
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let mut state = self.called("CreateContainer");
        state.made += 1;
        let id = format!("container-{}", state.made);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::ContainerState::ContainerCreated.into(),
            created_at: now(),
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            ..Default::default()
        };
        state.containers.insert(id.clone(), (request.pod_sandbox_id, status));
        Ok(Response::new(v1::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let held = self.called("StartContainer").holds_starts;
        if held {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        let (_, status) = state.containers.get_mut(&id).ok_or_else(|| unknown(&id))?;
        status.state = v1::ContainerState::ContainerRunning.into();
        status.started_at = now();
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        drop(self.called("StopContainer"));
        self.end(&request.into_inner().container_id, 137);
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.called("RemoveContainer").containers.remove(&id);
        self.tell(&id, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        _: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let listed = |(sandbox, s): &(String, v1::ContainerStatus)| v1::Container {
            id: s.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: s.metadata.clone(),
            image: s.image.clone(),
            image_ref: s.image_ref.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            annotations: s.annotations.clone(),
        };
        let containers = self.state().containers.values().map(listed).collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self.state().containers.get(&id).map(|(_, s)| s.clone()).ok_or_else(|| unknown(&id))?;
        Ok(Response::new(v1::ContainerStatusResponse { status: Some(status) }))
    }

    async fn exec_sync(&self, _: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        Ok(Response::new(v1::ExecSyncResponse::default()))
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = unfold(self.0.events.subscribe(), |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((Ok(event), events))
        });
        Ok(Response::new(Box::pin(events)))
    }
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    async fn image_status(&self, _: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        let image = v1::Image { id: "sha256:1".into(), ..Default::default() };
        Ok(Response::new(v1::ImageStatusResponse { image: Some(image) }))
    }

    async fn pull_image(&self, _: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        Err(Status::unavailable("no registry in this test"))
    }

    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        Ok(Response::new(v1::ListImagesResponse { images: vec![] }))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        Ok(Response::new(v1::ImageFsInfoResponse { image_filesystems: vec![] }))
    }
}
