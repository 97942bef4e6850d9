//! End to end: real kubectl, real containerd, the built programs.

mod testbed;

use std::process::ExitCode;

use e2e::Suite;

fn main() -> ExitCode {
    e2e::run(&Suite {
        lone: &[("testbed::ends_and_leaves_nothing_behind", testbed::leaves_nothing)],
        groups: &[],
    })
}
