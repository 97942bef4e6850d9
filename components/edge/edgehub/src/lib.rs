//! The link to the cloud hub.
