//! Holds the node's private key and signs on request.

fn main() {}
