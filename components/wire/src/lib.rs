//! KubeEdge's message envelope, resource paths and content wrappers, parsed once into types.
