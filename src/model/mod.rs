//! The network: its parameters, its forward pass and, line for line, its backward pass.

pub mod engine;
pub mod params;
