//! Certificates, CSRs and join tokens as KubeEdge lays them out.
