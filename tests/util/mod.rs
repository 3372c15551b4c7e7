//! What the other parts share.

pub mod draw; // random test inputs
pub mod fixture; // reference values and what is held to them
pub mod tolerance; // how near is near enough
