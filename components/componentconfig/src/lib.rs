//! Reads edgecore.yaml and cloudcore.yaml as KubeEdge writes them.
