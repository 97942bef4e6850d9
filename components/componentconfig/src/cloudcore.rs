//! `cloudcore.yaml`, the fields we act on. Spelling and defaults are KubeEdge's
//! (`componentconfig/cloudcore/v1alpha1/{types,default}.go`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{ConfigError, Document, Examined, Loaded};

/// Reads `cloudcore.yaml`; `None` means defaults.
pub fn load(path: Option<&Path>) -> Result<Loaded<CloudCore>, ConfigError> {
    crate::load(path)
}

/// Everything that is wrong with `cloudcore.yaml`, for a person who mends it.
pub fn examine(path: &Path) -> Examined {
    crate::examine::<CloudCore>(path)
}

/// The document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudCore {
    kind: String,
    api_version: String,
    /// How Kubernetes is reached.
    #[serde(rename = "kubeAPIConfig")]
    pub kube_api_config: KubeApiConfig,
    /// Per component.
    pub modules: Modules,
    /// Settings KubeEdge does not have.
    pub apiary: Apiary,
}

/// `kubeAPIConfig`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeApiConfig {
    /// A kubeconfig file; empty means the `KUBECONFIG` of the environment, else the pod's own service account.
    pub kube_config: String,
    /// URL of the API server, instead of the kubeconfig's.
    pub master: String,
}

/// `modules`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Modules {
    /// The edges' sessions and certificates.
    pub cloud_hub: CloudHub,
}

/// `modules.cloudHub`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudHub {
    /// KubeEdge can turn it off; a cloudcore without it does nothing here.
    pub enable: bool,
    /// IP addresses edges dial: SANs of the hub's certificate.
    pub advertise_address: Vec<String>,
    /// DNS names edges dial: SANs too. KubeEdge's default holds one empty string, which is dropped.
    pub dns_names: Vec<String>,
    /// The message link.
    #[serde(deserialize_with = "endpoint::<10000, _>")]
    pub websocket: Endpoint,
    /// The certificate API.
    #[serde(deserialize_with = "endpoint::<10002, _>")]
    pub https: Endpoint,
    /// Seconds without a keepalive after which a session ends.
    pub keepalive_interval: u32,
    /// Most sessions at a time.
    pub node_limit: u32,
    /// Days a node's certificate is valid.
    pub edge_cert_signing_duration: u32,
    /// Hours between join tokens; each is valid twice as long.
    pub token_refresh_duration: u32,
}

/// Where a server listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// KubeEdge's switch; ours are always on.
    pub enable: bool,
    /// Address to bind.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

/// `apiary`: settings KubeEdge does not have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Apiary {
    /// The embedded API server.
    pub standalone: Standalone,
}

/// `apiary.standalone`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Standalone {
    /// Address to bind; also a SAN of its certificate and the server of the generated kubeconfigs.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Where a second copy of `admin.kubeconfig` goes, for a person; none by default.
    pub kubeconfig_dir: Option<PathBuf>,
}

impl Default for CloudHub {
    fn default() -> Self {
        Self {
            enable: true,
            advertise_address: Vec::new(),
            dns_names: Vec::new(),
            websocket: Endpoint::on(10000),
            https: Endpoint::on(10002),
            keepalive_interval: 30,
            node_limit: 500,
            edge_cert_signing_duration: 365,
            token_refresh_duration: 12,
        }
    }
}

impl Endpoint {
    /// Every address, this port.
    fn on(port: u16) -> Self {
        Self { enable: true, address: "0.0.0.0".into(), port }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::on(0)
    }
}

/// An endpoint whose file may give only some of the fields.
fn endpoint<'de, const PORT: u16, D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
    let given = Endpoint::deserialize(deserializer)?;
    Ok(if given.port == 0 { Endpoint { port: PORT, ..given } } else { given })
}

impl Default for Standalone {
    fn default() -> Self {
        Self { address: "127.0.0.1".into(), port: 6443, kubeconfig_dir: None }
    }
}

impl Document for CloudCore {
    const KIND: &'static str = "CloudCore";
    const API_VERSION: &'static str = "cloudcore.config.kubeedge.io/v1alpha1";
    const KUBEEDGE_DEFAULT: &'static str = include_str!("../kubeedge-defaults/cloudcore.yaml");

    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let hub = &self.modules.cloud_hub;
        for (key, endpoint) in [("websocket", &hub.websocket), ("https", &hub.https)] {
            if endpoint.address.parse::<std::net::IpAddr>().is_err() {
                wrong.push(format!(
                    "modules.cloudHub.{key}.address is {:?}, must be an IP address",
                    endpoint.address
                ));
            }
        }
        for address in &hub.advertise_address {
            if address.parse::<std::net::IpAddr>().is_err() {
                wrong
                    .push(format!("modules.cloudHub.advertiseAddress has {address:?}, must be IP addresses"));
            }
        }
        if self.apiary.standalone.address.parse::<std::net::IpAddr>().is_err() {
            let address = &self.apiary.standalone.address;
            wrong.push(format!("apiary.standalone.address is {address:?}, must be an IP address"));
        }
        for (key, value) in [
            ("keepaliveInterval", hub.keepalive_interval),
            ("nodeLimit", hub.node_limit),
            ("edgeCertSigningDuration", hub.edge_cert_signing_duration),
            ("tokenRefreshDuration", hub.token_refresh_duration),
        ] {
            if value == 0 || value > 100_000 {
                wrong.push(format!("modules.cloudHub.{key} is {value}, must be 1 to 100000"));
            }
        }
        wrong
    }
}
