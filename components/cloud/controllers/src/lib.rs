//! Watches the Kubernetes API for the edges and writes their status back.
