//! `b4r-bench`: measures the engine.
fn main() {}
