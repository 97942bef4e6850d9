//! The part of the Kubernetes Container Runtime Interface (runtime.v1) that edged uses.
