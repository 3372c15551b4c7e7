//! What `b4r-bench` does beside measuring.

pub mod runs;
