//! Starts one confined process: the ordered steps between fork and exec. The only crate with unsafe code.
