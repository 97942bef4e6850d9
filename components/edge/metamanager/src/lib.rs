//! All durable state of the node: revisioned store, watch, outbox.
