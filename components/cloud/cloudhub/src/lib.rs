//! TLS sessions of all edges; no Kubernetes credentials, no CA key.
