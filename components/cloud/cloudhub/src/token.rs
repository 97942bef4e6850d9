//! Keeps a valid join token where `keadm gettoken` and `cloudctl token` find it.

use std::sync::Arc;
use std::time::Duration;

use proto::authority::MintTokenRequest;
use proto::controllers::PublishTokenRequest;

use crate::Hub;

/// 1 s, doubled to 30 s: the Kubernetes API may come up after us.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Mints a token now and every `refresh`, each valid twice as long, and publishes it until it is accepted.
pub(crate) async fn publish(hub: Arc<Hub>, refresh: Duration) {
    loop {
        let mut retry = FIRST_RETRY;
        while let Err(error) = once(&hub, refresh).await {
            tracing::info!("the join token is not published yet: {error:#}");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
        tokio::time::sleep(refresh).await;
    }
}

async fn once(hub: &Hub, refresh: Duration) -> anyhow::Result<()> {
    let minted = hub.authority.mint_token(MintTokenRequest { ttl_seconds: 2 * refresh.as_secs() }).await?;
    hub.controllers.publish_token(PublishTokenRequest { token: minted.token }).await?;
    Ok(())
}
