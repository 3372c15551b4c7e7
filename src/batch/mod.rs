//! Packed batches: only real tokens, with everything an engine needs to work on them.
//!
//! Training: a history is cut into [`windows`], an epoch visits them in a new order ([`training`]), each
//! loses some items to [`mask`] and joins a packed batch ([`pack`]) whose tokens are grouped by item
//! ([`segments`]); [`loader`] does so ahead of the engine. Ranking: [`evaluation`].
//! What a batch holds follows from seed, epoch and index alone.

pub mod evaluation;
pub mod loader;
pub mod mask;
pub mod pack;
pub mod segments;
pub mod training;
pub mod windows;

pub use segments::Segments;
pub use training::TrainingBatches;

/// A batch of `B` sequences with `T` tokens, of which `P` rows are read by the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[T]` item index, 1 to `V`, or `V + 1` where masked.
    pub ids: Vec<u32>,
    /// `[T]` row of the position table.
    pub positions: Vec<u32>,
    /// `[B + 1]` where each sequence begins in `ids`.
    pub cu_seqlens: Vec<u32>,
    /// `[P]` token index of each row that is predicted, ascending (in evaluation a token may come twice).
    pub rows: Vec<u32>,
    /// `[B + 1]` where each sequence begins in `rows`.
    pub cu_rows: Vec<u32>,
    /// `[P]` item index, 1 to `V`, that each row should predict; 0 where nothing is known of it.
    pub targets: Vec<u32>,
    /// Tokens by item: `ids` counting-sorted.
    pub token_segments: Segments,
    /// Rows by target: `targets` counting-sorted.
    pub target_segments: Segments,
}

impl Batch {
    /// `T`.
    pub fn token_count(&self) -> usize {
        self.ids.len()
    }

    /// `B`.
    pub fn sequence_count(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// `P`.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }
}
