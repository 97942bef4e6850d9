//! Generates the checked-in Rust of proto/ from its .proto files.
