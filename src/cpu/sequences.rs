//! How attention's queries, keys and probabilities lie: sequence by sequence, head by head, tile by tile of queries.
//!
//! Where keys and values are absorbed ([`super::absorbed_attention`]), all heads have the same `D` channels wide keys, which
//! are their values too: the layer's input. The queries of all heads for one token stand below one another, as if one
//! head had that many.

use super::gemm::{Matrix, MatrixMut};
use super::lane::Rows;
use super::small_product::EVEN_COLUMNS;

/// Most queries of a tile.
pub(super) const TILE_QUERIES: usize = 54;

/// One lane's sequences and the sizes of its heads.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    /// `[B + 1]` where each sequence begins among the lane's tokens.
    pub cu_seqlens: &'a [u32],
    /// `[B + 1]` where each sequence begins among the lane's queries.
    pub cu_queries: &'a [u32],
    /// Which tokens the queries are.
    pub rows: Rows<'a>,
    /// Index of the first sequence within the whole batch.
    pub first: usize,
    /// `H`
    pub heads: usize,
    /// `D`
    pub width: usize,
    /// Whether a query sees no key after itself.
    pub causal: bool,
    /// Whether keys and values are the layer's input.
    pub absorbed: bool,
}

/// One head of one sequence or, absorbed, all of them.
pub(super) struct Head {
    /// Queries' first row and count.
    pub(super) query: usize,
    pub(super) queries: usize,
    /// Keys' first row and count.
    pub(super) key: usize,
    pub(super) keys: usize,
    /// First channel.
    pub(super) channel: usize,
    /// First element among the probabilities.
    pub(super) probability: usize,
    /// sequence · H + head, within the whole batch; of the first of them.
    pub(super) sequence_head: u32,
}

/// Queries of a head that are worked on at once.
pub(super) struct Tile {
    /// First query and count.
    pub(super) first: usize,
    pub(super) queries: usize,
    /// How many keys they see between them, from the first on.
    pub(super) keys: usize,
}

/// Elements of a row of probabilities of `keys` keys.
pub(super) fn row_len(keys: usize) -> usize {
    keys.next_multiple_of(EVEN_COLUMNS)
}

impl Sequences<'_> {
    /// `Tq`
    pub fn query_count(&self) -> usize {
        self.cu_queries.last().map_or(0, |&end| end as usize)
    }

    /// Elements that the probabilities of all heads and sequences take.
    pub fn probability_count(&self) -> usize {
        let lengths = self.cu_seqlens.windows(2).zip(self.cu_queries.windows(2));
        lengths
            .map(|(k, q)| row_len((k[1] - k[0]) as usize) * (q[1] - q[0]) as usize)
            .sum::<usize>()
            * self.heads
    }

    /// 1 / √K
    pub(super) fn scale(&self) -> f32 {
        1.0 / ((self.width / self.heads) as f32).sqrt()
    }

    /// Heads whose queries for one token are rows of one matrix.
    pub(super) fn stacked(&self) -> usize {
        if self.absorbed { self.heads } else { 1 }
    }

    /// Channels of a row of such a matrix: `K` or, absorbed, `D`.
    pub(super) fn channels(&self) -> usize {
        self.width / self.heads * self.stacked()
    }

    /// Matrices side by side in the keys and values.
    pub(super) fn parts(&self) -> usize {
        if self.absorbed { 1 } else { 2 }
    }

    /// How many keys query `query` of a head sees, from the first on.
    pub(super) fn visible(&self, head: &Head, query: usize) -> usize {
        if self.causal { self.position(head, query) + 1 } else { head.keys }
    }

    /// Place of a head's query `query` within its sequence.
    pub(super) fn position(&self, head: &Head, query: usize) -> usize {
        self.rows.token((head.query + query) / self.stacked()) - head.key
    }

    /// sequence · H + head of a head's query `query`, within the whole batch.
    pub(super) fn sequence_head(&self, head: &Head, query: usize) -> u32 {
        head.sequence_head + (query % self.stacked()) as u32
    }

    pub(super) fn for_each_head(&self, mut body: impl FnMut(Head)) {
        let mut probability = 0;
        let lengths = self.cu_seqlens.windows(2).zip(self.cu_queries.windows(2));
        for (sequence, (k, q)) in lengths.enumerate() {
            let (keys, queries) = ((k[1] - k[0]) as usize, (q[1] - q[0]) as usize);
            let stacked = self.stacked();
            for head in (0..self.heads).step_by(stacked) {
                let queries = queries * stacked;
                body(Head {
                    query: q[0] as usize * stacked,
                    queries,
                    key: k[0] as usize,
                    keys,
                    channel: head / stacked * self.channels(),
                    probability,
                    sequence_head: ((self.first + sequence) * self.heads + head) as u32,
                });
                probability += row_len(keys) * queries;
            }
        }
    }

    pub(super) fn tiles(&self, head: &Head) -> impl DoubleEndedIterator<Item = Tile> {
        (0..head.queries).step_by(TILE_QUERIES).map(move |first| {
            let queries = TILE_QUERIES.min(head.queries - first);
            Tile { first, queries, keys: self.visible(head, first + queries - 1) }
        })
    }

    pub(super) fn query_matrix<'a>(&self, head: &Head, tile: &Tile, x: &'a [f32]) -> Matrix<'a> {
        let first = (head.query + tile.first) * self.width + head.channel;
        Matrix::strided(&x[first..], tile.queries, self.channels(), self.width)
    }

    pub(super) fn query_matrix_mut<'a>(
        &self,
        head: &Head,
        tile: &Tile,
        x: &'a mut [f32],
    ) -> MatrixMut<'a> {
        let first = (head.query + tile.first) * self.width + head.channel;
        MatrixMut::strided(&mut x[first..], tile.queries, self.channels(), self.width)
    }

    /// First element of row `key` of the keys, where `part` is 0, or of the values, where it is 1.
    pub(super) fn key_start(&self, head: &Head, key: usize, part: usize) -> usize {
        (key * self.parts() + part % self.parts()) * self.width + head.channel
    }

    /// Keys where `part` is 0, values where it is 1.
    pub(super) fn key_matrix<'a>(&self, head: &Head, kv: &'a [f32], part: usize) -> Matrix<'a> {
        let first = self.key_start(head, head.key, part);
        Matrix::strided(&kv[first..], head.keys, self.channels(), self.parts() * self.width)
    }

    pub(super) fn key_matrix_mut<'a>(
        &self,
        head: &Head,
        tile: &Tile,
        kv: &'a mut [f32],
        part: usize,
    ) -> MatrixMut<'a> {
        let first = self.key_start(head, head.key, part);
        MatrixMut::strided(&mut kv[first..], tile.keys, self.channels(), self.parts() * self.width)
    }
}

impl Head {
    /// From one query's probabilities to the next one's.
    pub(super) fn row_stride(&self) -> usize {
        row_len(self.keys)
    }
}

impl Tile {
    /// Its rows of a head's `[queries, keys]` matrix.
    pub(super) fn elements(&self, head: &Head) -> std::ops::Range<usize> {
        let first = head.probability + self.first * head.row_stride();
        first..first + self.queries * head.row_stride()
    }

    /// Such rows as a matrix of the keys that are seen.
    pub(super) fn scores<'a>(&self, head: &Head, rows: &'a [f32]) -> Matrix<'a> {
        Matrix::strided(rows, self.queries, self.keys, head.row_stride())
    }

    /// The same, with what fills up rows.
    pub(super) fn scores_mut<'a>(&self, head: &Head, rows: &'a mut [f32]) -> MatrixMut<'a> {
        MatrixMut::strided(rows, self.queries, row_len(self.keys), head.row_stride())
    }
}
