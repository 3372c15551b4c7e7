//! The CPU engine: plain Rust over slices, with large matrix products by the `gemm` crate.
//!
//! Every operation is a sequential function on slices in the file that bears its name; all parallelism is
//! in [`engine`]. A batch is cut into lanes, contiguous runs of sequences, and a thread takes one lane at a
//! time through all layers, so that a layer's activations stay in its cache. The cut depends on the batch
//! alone and every reduction over lanes runs in a fixed order: results do not depend on the thread count.

pub mod absorbed_attention;
pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod embedding;
pub mod engine;
pub mod ffn;
pub mod gbce;
pub mod gemm;
pub mod head;
pub mod item_softmax;
pub mod lane;
pub mod layernorm;
pub mod linear;
pub mod math;
pub mod memory;
pub mod passes;
pub mod projection;
pub mod qkv;
pub mod rank;
pub mod sequences;
pub mod small_product;
pub mod streamed_softmax;
pub mod tiles;
pub mod top_k;
pub mod vector;

pub use engine::{Candidates, CpuEngine, Scorer};
