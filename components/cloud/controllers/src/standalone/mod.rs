//! What a real cluster's control plane does beside the API server, for our own standalone API only: node life cycle,
//! endpoints of services, removal of pods whose node is gone. On a real cluster none of this runs.

mod endpoints;
mod garbage;
mod lifecycle;

use std::time::Duration;

use tokio::task::JoinSet;

use crate::api::Api;

/// 1 s between attempts to learn what API this is.
const RETRY: Duration = Duration::from_secs(1);

/// Runs for ever, starting over whenever the client changes.
pub(crate) async fn run(api: Api) {
    let mut clients = api.clients();
    loop {
        let client = clients.borrow_and_update().clone();
        let mut loops = JoinSet::new();
        if let Some(client) = client {
            let work = async {
                if is_standalone(&api).await {
                    tracing::info!(
                        "the API is our standalone one: keeping node life cycle, endpoints and orphaned pods"
                    );
                    loops.spawn(lifecycle::run(api.clone()));
                    loops.spawn(endpoints::run(api.clone(), client));
                    loops.spawn(garbage::run(api.clone()));
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = work => {}
                changed = clients.changed() => if changed.is_err() { return },
            }
        } else if clients.changed().await.is_err() {
            return;
        }
        // Dropping the set ends its loops.
    }
}

/// Our API server says so in its version; `APIARY_STANDALONE` says it for one that does not.
async fn is_standalone(api: &Api) -> bool {
    if std::env::var_os("APIARY_STANDALONE").is_some_and(|value| value != "0") {
        return true;
    }
    loop {
        match api.get("/version".to_owned()).await {
            Ok(version) => return version.get().to_ascii_lowercase().contains("apiary"),
            Err(error) => tracing::debug!("what API this is, is not known yet: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
