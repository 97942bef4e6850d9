//! The kubelet of the edge: pods through CRI, volumes, probes, status, node and lease.
mod atomic_writer;
mod backoff;
mod container;
mod env;
mod events;
mod host;
mod images;
mod inventory;
mod labels;
mod model;
mod node;
mod objects;
mod payload;
mod plan;
mod quantity;
mod resources;
mod runtime;
mod sandbox;
mod security;
mod settings;
mod status;
#[cfg(test)]
mod testing;
mod volumes;
