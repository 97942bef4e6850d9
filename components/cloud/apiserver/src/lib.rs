//! A Kubernetes API for one machine: REST, watch, patch, discovery on SQLite.
