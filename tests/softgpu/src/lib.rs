//! The software GPU: a `libcuda.so` that runs b4r's kernels on the processor, for tests.
//!
//! Call [`load`] before the first call of cudarc; everything then happens as with a GPU. README.md beside this
//! package says how it works and what it cannot see.

#[path = "../build/compile.rs"]
pub mod compile;
mod library;
mod variant;

pub use library::{
    MemoryLimit, dynamic_shared, last_fault, launch_counts, launches, library, limit_memory, load,
    load_planted, load_variant, manifest, planted_manifest, reset_launches, set_seed,
};
pub use variant::{Kernels, Variant, variant};
