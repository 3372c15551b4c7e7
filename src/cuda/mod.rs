//! The CUDA engine: the same operation list as [`crate::cpu`], each in `kernels/<operation>.cu` with its
//! checked launches in `<operation>.rs` here.
//!
//! Every buffer is allocated before the first step and stays where it is, so that a step is one replay of a
//! captured graph; what changes from step to step is in the [`step`] block on the device.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod batch;
pub mod choice;
pub mod device;
pub mod embedding;
pub mod engine;
pub mod ffn;
pub mod gbce;
pub mod head;
pub mod item_loss;
pub mod item_softmax;
pub mod kernels;
pub mod layernorm;
pub mod linear;
pub mod machine;
pub mod memory;
pub mod operands;
pub mod passes;
pub mod projection;
pub mod qkv;
pub mod rank;
mod ranking;
pub mod scorer;
pub mod shortlist;
pub mod step;
mod sweep;
mod tail;
pub mod tiles;
pub mod top_k;
pub mod weights;
pub mod workspace;
