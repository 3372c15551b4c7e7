//! b4r trains BERT4Rec sequential recommenders (Sun et al., CIKM 2019) without a tensor framework:
//! one fixed model whose forward and backward passes are written out by hand.
//!
//! # Letters
//! The same letters stand for the same sizes everywhere, in code and comments:
//! `T` packed tokens, `B` sequences, `L` max length, `D` model width, `H` heads, `K` head width,
//! `F` feed-forward width, `V` items, `P` predicted (masked) positions, `N` layers.
//!
//! # Data flow
//! interaction file → [`data`] (parse, filter, vocabulary, sort, split) → [`batch`] (windows, cloze
//! masks, packing) → [`model`] (forward, backward) over an engine ([`cpu`]) → [`train`] → [`eval`]
//! → [`recommend`] → [`serve`].

pub mod batch;
pub mod config;
pub mod cpu;
pub mod data;
pub mod error;
pub mod eval;
pub mod memory;
pub mod model;
pub mod philox;
pub mod recommend;
pub mod serve;
pub mod train;

pub use error::{Error, Result};
