//! The CUDA engine.

pub mod choice;
pub mod kernels;
