//! Real containerd, real images and real supervisors for tests, cleaned up whatever happens.
//!
//! A [`Cluster`] is one containerd, one `cloudcore --standalone` and one `edgecore` with fresh state, all below one
//! short temporary directory. Several can live on one machine: each takes a [`Slot`], which decides its bridge, subnet
//! and ports. Everything is removed when the value is dropped; what a killed run left behind is removed by the next
//! run that takes its slot. [`clean::remains`] names what is left, if anything.
//!
//! Nothing here is asynchronous: the tests read top to bottom, and what they wait for is another process.

mod ceiling;
pub mod clean;
mod cluster;
mod command;
mod containerd;
mod figure;
mod images;
pub mod interrupt;
pub mod machine;
pub mod measure;
pub mod pods;
mod slot;
mod supervisor;
pub mod users;
mod victim;
mod wait;
mod watch;

pub use ceiling::MemoryCeiling;
pub use cluster::{Cluster, EDGE_NODE, Options, program_names};
pub use command::{Run, run};
pub use containerd::Containerd;
pub use figure::Figure;
pub use images::BUSYBOX;
pub use slot::Slot;
pub use supervisor::{Back, Component, Side, Supervisor};
pub use victim::Victim;
pub use wait::until;
pub use watch::{PodEvent, PodWatch, is_ready};
