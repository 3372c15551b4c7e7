//! b4r trains BERT4Rec sequential recommenders (Sun et al., CIKM 2019) without a tensor framework:
//! one fixed model whose forward and backward passes are written out by hand.
//!
//! # Letters
//! The same letters stand for the same sizes everywhere, in code and comments:
//! `T` packed tokens, `B` sequences, `L` max length, `D` model width, `H` heads, `K` head width,
//! `F` feed-forward width, `V` items, `P` predicted positions (the masked ones, or under
//! `objective: causal` all), `C` items that a sampled loss looks at, `N` layers.
//!
//! # Data flow
//! interaction file → [`data`] (parse, filter, vocabulary, sort, split) → [`batch`] (windows, cloze
//! masks, packing) → [`model`] (forward, backward) over an engine ([`cpu`]) → [`train`] → [`eval`]
//! → [`recommend`] → [`serve`].
//!
//! # As a library
//! A [`Config`] says everything that the flags of `b4r-train` say, and [`Trainer`] does what it does. The
//! interactions come from a file or, here, from memory:
//! ```
//! use b4r::{Config, Dataset, Trainer};
//!
//! // 30 users go round a circle of 12 items, each from another place.
//! let item = |user: usize, step: usize| format!("item {}", (user + step) % 12);
//! let histories = (0..30).map(|user| (format!("user {user}"), (0..9).map(move |step| item(user, step))));
//! let dataset = Dataset::from_histories("circle", histories)?;
//!
//! let folder = tempfile::tempdir()?;
//! let mut config = Config::default();
//! config.run.run_dir = Some(folder.path().join("run"));
//! config.model.hidden_size = 16;
//! config.train.epochs = 2;
//! let results = Trainer::new(config).dataset(dataset).run()?;
//! assert_eq!(results.epochs, 2);
//! assert!(folder.path().join("run/model.safetensors").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod baseline;
pub mod batch;
pub mod bench;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod error;
pub mod eval;
pub mod memory;
pub mod model;
pub mod philox;
pub mod plot;
pub mod recommend;
pub mod report;
pub mod serve;
pub mod tracking;
pub mod train;

pub use config::Config;
pub use data::Dataset;
pub use error::{Error, Result};
pub use train::Trainer;
