//! The bus interfaces: generated messages, typed clients, server traits and error enums.
//!
//! **What it holds:** types only. **Which untrusted bytes it touches:** requests and replies, decoded by prost within the
//! bounds of [`ipc`]. **What keeps it safe:** there is no code here but what `proto/codegen` writes; a test there
//! compares.
//!
//! Each module is one `proto/<name>.proto`, and the comment above an `rpc` is its contract. For a service `Keyholder`:
//! `KeyholderClient`, `KeyholderBlockingClient`, the trait `Keyholder`, `KeyholderServer`, `KeyholderError`, and the method
//! table `KEYHOLDER`.

/// Includes the generated code of one interface. Included, not a module file, so that `cargo fmt` leaves it as written.
macro_rules! interface {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(missing_docs, clippy::pedantic, reason = "generated")]
        pub mod $name {
            include!(concat!("gen/", stringify!($name), ".rs"));
        }
    };
}

interface! {
    /// The state plane of the edge node.
    metamanager
}
interface! {
    /// The node's private key.
    keyholder
}
interface! {
    /// The cloud's CA key.
    authority
}
interface! {
    /// What cloudhub asks of those who hold the Kubernetes credentials.
    controllers
}
interface! {
    /// The supervisor's control socket.
    control
}

/// The interface a component serves to others, by component name; `None` for one that serves none.
///
/// The supervisor checks the manifest's `calls` against it.
pub fn interface_of(component: &str) -> Option<&'static ipc::Interface> {
    Some(match component {
        "metamanager" => &metamanager::META_MANAGER,
        "keyholder" => &keyholder::KEYHOLDER,
        "authority" => &authority::AUTHORITY,
        "controllers" => &controllers::CONTROLLERS,
        _ => return None,
    })
}

/// Every generated message, for those who decode whatever comes: fuzz targets, and the test of other versions.
#[doc(hidden)]
pub mod messages {
    use prost::DecodeError;
    use prost::bytes::Bytes;

    /// One message type.
    #[derive(Debug, Clone, Copy)]
    pub struct Message {
        /// Full protobuf name.
        pub name: &'static str,
        /// Decodes bytes as this message and encodes what was understood.
        pub recode: fn(Bytes) -> Result<Vec<u8>, DecodeError>,
    }

    fn recode<T: prost::Message + Default>(bytes: Bytes) -> Result<Vec<u8>, DecodeError> {
        T::decode(bytes).map(|message| message.encode_to_vec())
    }

    include!("gen/messages.rs");
}

/// What a server counted on one of its links. The supervisor knows its own name for the server and the socket.
impl From<&ipc::LinkStats> for control::Link {
    fn from(stats: &ipc::LinkStats) -> Self {
        Self {
            client: stats.client.clone(),
            methods: stats
                .methods
                .iter()
                .map(|method| control::MethodUse {
                    name: method.name.to_owned(),
                    calls_total: method.calls_total,
                    failures_total: method.failures_total,
                })
                .collect(),
            connections_total: stats.connections_total,
            connections_open: u32::try_from(stats.connections_open).unwrap_or(u32::MAX),
            received_bytes: stats.received_bytes,
            sent_bytes: stats.sent_bytes,
            refusals_total: stats.refusals_total,
            last_refusal: stats.last_refusal.clone(),
            latency: stats.latency.to_vec(),
            latency_sum_us: u64::try_from(stats.latency_sum.as_micros()).unwrap_or(u64::MAX),
            ..Self::default()
        }
    }
}
