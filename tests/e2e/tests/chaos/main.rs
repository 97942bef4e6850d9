//! Every process killed in turn.
fn main() {}
