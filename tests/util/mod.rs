//! What the other parts share.

pub mod cuda; // the CUDA engine, on the software GPU where there is no other
pub mod draw; // random test inputs
pub mod fixture; // reference values and what is held to them
pub mod tolerance; // how near is near enough
