//! The CUDA engine.

pub mod kernels;
