//! Build, demo, test and bench: the commands of the README.

fn main() {}
