//! The Kubernetes client, made from a kubeconfig that may come later and may change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// 500 ms between looks at the kubeconfig: one `stat`, so the cost is nothing and a new file is used at once.
const LOOK: Duration = Duration::from_millis(500);

/// 5 s: the API server is on this machine or a network hop away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where credentials for the Kubernetes API come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A kubeconfig file, which need not be there yet.
    File { path: PathBuf, master: Option<String> },
    /// The service account of the pod this process runs in.
    InCluster,
}

impl Source {
    /// `cloudcore.yaml` first, then the environment, then the pod's own account.
    pub(crate) fn choose(config: &str, master: &str, environment: Option<PathBuf>) -> Self {
        let file = if config.is_empty() {
            environment.filter(|path| !path.as_os_str().is_empty())
        } else {
            Some(config.into())
        };
        match file {
            Some(path) => Self::File { path, master: (!master.is_empty()).then(|| master.to_owned()) },
            None => Self::InCluster,
        }
    }
}

/// Publishes a client for every state of the kubeconfig, until shutdown. `say` gets what an operator should know.
pub(crate) async fn keep(
    source: Source,
    clients: watch::Sender<Option<kube::Client>>,
    shutdown: CancellationToken,
    say: impl Fn(String),
) {
    let mut used: Option<SystemTime> = None;
    let mut said = String::new();
    let mut tell = |text: String| {
        if text != said {
            tracing::info!("{text}");
            say(text.clone());
            said = text;
        }
    };
    loop {
        match &source {
            Source::InCluster => {
                if clients.borrow().is_none() {
                    match kube::Config::incluster().map_err(anyhow::Error::from).and_then(client) {
                        Ok(client) => {
                            tell("using the pod's own service account".to_owned());
                            clients.send_replace(Some(client));
                        }
                        Err(error) => {
                            tell(format!("no kubeconfig is set and there is no service account: {error:#}"));
                        }
                    }
                }
            }
            Source::File { path, master } => match modified(path) {
                None if used.is_none() => tell(format!("waiting for the kubeconfig {}", path.display())),
                // A file that is being replaced is absent for a moment: the client of before is as good as it was.
                None => {}
                found if found == used => {}
                found => match from_file(path, master.as_deref()).await {
                    Ok(client) => {
                        used = found;
                        tell(format!("using the kubeconfig {}", path.display()));
                        clients.send_replace(Some(client));
                    }
                    Err(error) => tell(format!("{error:#}")),
                },
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

async fn from_file(path: &Path, master: Option<&str>) -> anyhow::Result<kube::Client> {
    let what = || format!("could not use the kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(what)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(what)?;
    if let Some(master) = master {
        config.cluster_url =
            master.parse().with_context(|| format!("kubeAPIConfig.master {master:?} is no URL"))?;
    }
    client(config).with_context(what)
}

fn client(mut config: kube::Config) -> anyhow::Result<kube::Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Callers repeat by themselves, each at its own pace; repeating down here would only hide from them that the API is away.
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_file_beats_the_environment() {
        let environment = || Some(PathBuf::from("/env"));
        let file = |path: &str| Source::File { path: path.into(), master: None };
        assert_eq!(Source::choose("/config", "", environment()), file("/config"));
        assert_eq!(Source::choose("", "", environment()), file("/env"));
        assert_eq!(Source::choose("", "", Some(PathBuf::new())), Source::InCluster);
        assert_eq!(Source::choose("", "", None), Source::InCluster);
    }

    #[tokio::test]
    async fn it_waits_for_the_file_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let (clients, mut client) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let source = Source::File { path: path.clone(), master: None };
        let keeper =
            tokio::spawn(keep(source, clients, shutdown.clone(), move |text| said.send(text).unwrap()));
        assert!(heard.recv().await.unwrap().starts_with("waiting for the kubeconfig"));
        std::fs::write(&path, "not: a kubeconfig").unwrap();
        assert!(heard.recv().await.unwrap().starts_with("could not use the kubeconfig"));
        let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: l, user: u}}], \
             clusters: [{name: l, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}";
        let new = dir.path().join("new");
        std::fs::write(&new, kubeconfig).unwrap();
        std::fs::rename(&new, &path).unwrap();
        client.wait_for(Option::is_some).await.unwrap();
        shutdown.cancel();
        keeper.await.unwrap();
    }
}
