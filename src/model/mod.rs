//! The network: its parameters, its forward pass and, line for line, its backward pass.

pub mod activations;
pub mod backward;
pub mod engine;
pub mod forward;
pub mod init;
pub mod operations;
pub mod params;
pub mod shortlist;
