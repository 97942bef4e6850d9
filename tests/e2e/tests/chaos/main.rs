//! Whatever fails, nothing acknowledged is lost and no container notices: each process killed in turn, then all of them in
//! random order, killed, stopped, slowed down and out of memory, under load.

mod api;
mod faults;
mod figures;
mod kills;
mod load;
mod soak;
mod witness;

use std::process::ExitCode;

use e2e::Suite;

fn main() -> ExitCode {
    e2e::run(&Suite { lone: &[], groups: &[kills::GROUP, soak::GROUP] })
}
