//! What comes over the link between hub and edge: KubeEdge's envelope and the paths in it.

use wire::{Answer, Inbound, ResourcePath, Upstream, WireMessage, ack_mode};

/// A WebSocket message, from either end, up to what a component would act on.
pub(crate) fn wire(bytes: &[u8]) {
    let Ok(message) = WireMessage::decode(bytes) else { return };
    let written = message.encode();
    let again = WireMessage::decode(written.as_bytes())
        .unwrap_or_else(|error| panic!("{written} does not read its own: {error}"));
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
    let _ = ack_mode(&message);
    let _ = message.resource_version();
    let content = &message.content;
    let _ = (content.is_ok(), content.as_str(), content.data(), content.patch_text());
    let _ = (content.object_meta(), content.object_resp(), content.error_status());
    let _ = Answer::from_content(content.clone());
    let _ = (message.ack(), message.reply(content.clone()), message.nack("edge", "refused"));
    let _ = Upstream::from_message(message.clone());
    let _ = Inbound::from_message(message);
}

/// The path in an envelope's route.
pub(crate) fn resource_path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(path) = text.parse::<ResourcePath>() else { return };
    let written = path.to_string();
    assert_eq!(written.parse().ok().as_ref(), Some(&path), "{written} is another path than {text}");
}
