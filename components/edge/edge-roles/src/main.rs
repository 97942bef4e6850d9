//! One binary for the core roles of the edge, chosen by the name it is started under.

fn main() {}
