//! How kernels are told which activation is meant, mirrored from `kernels/common/activation.cuh`.

use crate::config::Activation;

/// The number of an activation; 0 stands for none.
pub fn code(activation: Option<Activation>) -> u32 {
    match activation {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::GeluTanh) => 2,
        Some(Activation::Relu) => 3,
    }
}
