//! Real containerd, real images and real supervisors for tests, cleaned up whatever happens.
