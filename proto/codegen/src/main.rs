//! Rewrites the generated sources of `proto` and `cri` in place.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    proto_codegen::generate(&proto, &proto)?;
    Ok(())
}
