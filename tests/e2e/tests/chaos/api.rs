//! The Kubernetes API, asked until it gives a definite answer.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde_json::Value;

/// 5 s for one attempt; a server that was stopped answers when it goes on, or never.
const ATTEMPT: Duration = Duration::from_secs(5);
/// 90 s until a request is given up: longer than any fault together with its repair.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What the API said in the end.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The object.
    Done(Value),
    /// Not so: the status code.
    Refused(u16),
}

/// A client of namespace `default`.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// Inside a runtime.
    pub(crate) async fn open(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("could not read the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config).context("could not make a client")? })
    }

    pub(crate) async fn create(&self, kind: &str, object: &Value) -> Result<(Answer, u32)> {
        self.definite(Method::POST, kind, "application/json", object.to_string()).await
    }

    pub(crate) async fn merge(&self, kind: &str, name: &str, patch: &Value) -> Result<(Answer, u32)> {
        let path = format!("{kind}/{name}");
        self.definite(Method::PATCH, &path, "application/merge-patch+json", patch.to_string()).await
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) -> Result<(Answer, u32)> {
        self.definite(Method::DELETE, &format!("{kind}/{name}"), "application/json", String::new()).await
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Result<(Answer, u32)> {
        self.definite(Method::GET, &format!("{kind}/{name}"), "application/json", String::new()).await
    }

    /// All objects of a kind, and the version to watch from.
    pub(crate) async fn list(&self, kind: &str) -> Result<(Vec<Value>, String)> {
        let (answer, _) = self.definite(Method::GET, kind, "application/json", String::new()).await?;
        let Answer::Done(mut list) = answer else { bail!("a list of {kind} was refused: {answer:?}") };
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        Ok((serde_json::from_value(list["items"].take()).context("a list has items")?, version))
    }

    /// Feeds changes to `see` until the watch ends, which is no error.
    pub(crate) async fn watch(&self, kind: &str, version: &str, mut see: impl FnMut(&Value)) {
        let uri = format!("{}?watch=1&timeoutSeconds=20&resourceVersion={version}", uri(kind));
        let Ok(request) = Request::get(uri).body(Vec::new()) else { return };
        let Ok(events) = self.client.request_events::<Value>(request).await else { return };
        let mut events = std::pin::pin!(events);
        // Longer than the watch itself: a server that was stopped says nothing.
        while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_secs(25), events.try_next()).await
        {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => see(&object),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => return,
            }
        }
    }

    /// Repeats a request until its outcome is known, and says how many attempts that took: after more than one, a refusal
    /// may be the echo of an attempt that was done and whose answer was lost.
    async fn definite(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: String,
    ) -> Result<(Answer, u32)> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for attempt in 1.. {
            let request =
                Request::builder().method(method.clone()).uri(uri(path)).header("content-type", content);
            let request = request.body(body.clone().into_bytes()).context("a request of ours")?;
            let failure = match tokio::time::timeout(ATTEMPT, self.client.request::<Value>(request)).await {
                Ok(Ok(object)) => return Ok((Answer::Done(object), attempt)),
                Ok(Err(kube::Error::Api(status)))
                    if (400..500).contains(&status.code) && status.code != 429 =>
                {
                    return Ok((Answer::Refused(status.code), attempt));
                }
                Ok(Err(error)) => format!("{error}"),
                Err(_) => "no answer in 5 s".to_owned(),
            };
            if tokio::time::Instant::now() > deadline {
                bail!("{method} {path} had no definite answer in {} s: {failure}", PATIENCE.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("the loop has no end")
    }
}

fn uri(path: &str) -> String {
    format!("/api/v1/namespaces/default/{path}")
}
