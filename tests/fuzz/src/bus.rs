//! What a component that was taken over can send: frames, messages in them, and notifications.

use prost::Message;
use proto::{authority, control, controllers, keyholder, metamanager};

/// Decodes as one message type, named for what a failure should say.
type Decode = (&'static str, fn(&str, &[u8]));

macro_rules! messages {
    ($($module:ident: $($name:ident),+;)+) => {
        /// Every generated message; the first byte of an input chooses one. New ones at the end of their interface move
        /// those behind them, and the corpus with them, which costs it little.
        pub(crate) const MESSAGES: &[Decode] = &[
            $($((concat!(stringify!($module), "::", stringify!($name)), decode::<$module::$name>),)+)+
        ];
    };
}

messages! {
    authority: CaRequest, CaReply, MintTokenRequest, MintTokenReply, SignNodeRequest, SignNodeReply, SignServerRequest,
        SignServerReply;
    control: StatusRequest, StatusReply, Component, RestartRequest, RestartReply, LogsRequest, LogLine, StartRequest,
        StartReply, StopRequest, StopReply, ReexecRequest, ReexecReply, LinksRequest, LinksReply, Link, MethodUse,
        LinkReport, PrivilegesRequest, PrivilegesReply, ProcessPrivileges, Privilege, Exposure;
    controllers: DownstreamRequest, DownstreamMessage, AcknowledgedRequest, AcknowledgedReply, UpstreamRequest,
        UpstreamReply, PublishTokenRequest, PublishTokenReply;
    keyholder: PublicKeyRequest, PublicKeyReply, SignRequest, SignReply;
    metamanager: Key, Object, Change, ApplyRequest, ApplyReply, GetRequest, GetReply, WatchRequest, WatchEvent,
        SubmitRequest, SubmitReply, OutgoingRequest, OutgoingItem, DeliveredRequest, DeliveredReply, Delivery,
        QueryRequest, QueryReply, SetLinkRequest, SetLinkReply;
}

/// What comes in on a link: frames with their lengths.
pub(crate) fn frame(bytes: &[u8]) {
    ipc::fuzz::frame(bytes);
}

/// The first frame of a connection, which has to be a hello.
pub(crate) fn hello(bytes: &[u8]) {
    ipc::fuzz::hello(bytes);
}

/// One of the messages, chosen by the first byte.
pub(crate) fn message(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let (name, decode) = MESSAGES[usize::from(choice) % MESSAGES.len()];
    decode(name, bytes);
}

/// What is understood is understood the same after it was written again. Compared as written: `NaN` is not equal to itself,
/// and -0.0 is left out as 0 is.
fn decode<M: Message + Default>(name: &str, bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len(), "{name} has another length than it says");
    let again = M::decode(&*written).unwrap_or_else(|error| panic!("{name} does not read its own: {error}"));
    assert_eq!(written, again.encode_to_vec(), "{name} changed");
}

/// A datagram on a component's notify socket.
pub(crate) fn notice(bytes: &[u8]) {
    let notice = supervisor::notify::parse(bytes);
    let text = notice.status.unwrap_or_default();
    assert!(!text.contains(char::is_control), "a status with control characters: {text:?}");
}
