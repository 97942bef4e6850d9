//! What a chaos run decides: which fault comes next, and whether what was acknowledged is still true. Pure; the suite
//! `tests/chaos` carries it out.

mod ledger;
mod plan;
mod runtime;

pub use ledger::{Broken, Kind, Ledger, Role, World};
pub use plan::{Fault, Plan, Target};
pub use runtime::{Event, Labels, Life, Lives};
