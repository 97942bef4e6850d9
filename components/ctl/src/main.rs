//! edgectl and cloudctl: what an operator asks of a running supervisor.

fn main() {}
