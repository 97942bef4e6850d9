//! Starts, confines, wires and restarts components; knows nothing of Kubernetes.
