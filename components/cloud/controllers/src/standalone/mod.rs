//! What a real cluster's control plane does beside the API server, for our own standalone API only: node life cycle,
//! endpoints of services, removal of pods whose node is gone.

use crate::api::Api;

/// Runs for ever.
pub(crate) async fn run(_api: Api) {}
