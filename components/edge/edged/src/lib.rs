//! The kubelet of the edge: pods through CRI, volumes, probes, status, node and lease.
