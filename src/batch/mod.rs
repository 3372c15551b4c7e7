//! Packed batches: only real tokens, with everything an engine needs to work on them.

/// A batch of `B` sequences with `T` tokens, of which `P` rows are read by the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[T]` item index, 1 to `V`, or `V + 1` where masked.
    pub ids: Vec<u32>,
    /// `[T]` row of the position table.
    pub positions: Vec<u32>,
    /// `[B + 1]` where each sequence begins in `ids`.
    pub cu_seqlens: Vec<u32>,
    /// `[P]` token index of each row that is predicted, ascending.
    pub rows: Vec<u32>,
    /// `[B + 1]` where each sequence begins in `rows`.
    pub cu_rows: Vec<u32>,
    /// `[P]` item index, 1 to `V`, that each row should predict.
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

/// Indices `0..n` grouped by a key, keys ascending and indices ascending within a key, so that a gradient
/// summed over a segment always adds in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// `[S]` distinct keys, ascending.
    pub keys: Vec<u32>,
    /// `[S + 1]` where each key's indices begin.
    pub offsets: Vec<u32>,
    /// `[n]` the indices.
    pub indices: Vec<u32>,
}
