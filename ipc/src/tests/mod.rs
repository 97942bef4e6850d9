//! Both ends over real sockets; a hand-written peer where one has to misbehave.

mod blocking;
mod bounds;
mod calls;
mod client_bounds;
mod counters;
mod large;
mod pressure;
mod restart;
mod skew;
mod streams;
mod support;

pub(crate) use support::TEST;
