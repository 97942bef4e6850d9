//! One binary for the cloud roles, chosen by the name it is started under.

fn main() {}
