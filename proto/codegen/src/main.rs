//! Rewrites the generated sources of `proto` and `cri` in place.
//!
//! `proto-codegen record DIR` instead records the interfaces in DIR (the `proto/` of a release) as the version before this
//! one, in `proto/recorded/previous.binpb`; done once after each release.

use std::path::Path;

use anyhow::{Context as _, bail};
use prost::Message as _;

fn main() -> anyhow::Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => proto_codegen::generate(&proto, &proto).map(drop),
        ["record", from] => {
            let descriptors = proto_codegen::descriptors(Path::new(from))?;
            std::fs::write(proto.join("recorded/previous.binpb"), descriptors.encode_to_vec())
                .context("could not write recorded/previous.binpb")
        }
        _ => bail!("usage: proto-codegen [record DIR]"),
    }
}
