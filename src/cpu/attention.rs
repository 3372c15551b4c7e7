//! Multi-head attention within each sequence of a packed batch: for head h of width K,
//! context = dropout(softmax(q kᵀ / √K)) v, with queries at all rows or only at those that are read, and keys
//! at all rows or, causal, only up to the query's own.
//!
//! Causal queries are worked on in tiles, each with the keys that its last query sees: what lies beyond is neither
//! computed nor read, but for the zeros among the probabilities.
//!
//! Forward keeps the probabilities, one sign bit each telling whether dropout took it: backward then needs
//! neither exponentials nor random numbers.

use super::dropout::AttentionDropout;
use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::lane::Rows;
use super::math::exp;
use super::vector::{dot, max, sum, vectorized};

/// Queries of a tile where each sees other keys.
const CAUSAL_QUERIES: usize = 64;

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
}

/// One head of one sequence.
struct Head {
    /// Queries' first row and count.
    query: usize,
    queries: usize,
    /// Keys' first row and count.
    key: usize,
    keys: usize,
    /// First channel.
    channel: usize,
    /// First element among the probabilities.
    probability: usize,
    /// sequence · H + head, within the whole batch.
    sequence_head: u32,
}

/// Queries of a head that are worked on at once.
struct Tile {
    /// First query and count.
    first: usize,
    queries: usize,
    /// How many keys they see between them, from the first on.
    keys: usize,
}

impl Sequences<'_> {
    /// Elements that the probabilities of all heads and sequences take.
    pub fn probability_count(&self) -> usize {
        let lengths = self.cu_seqlens.windows(2).zip(self.cu_queries.windows(2));
        lengths.map(|(k, q)| (k[1] - k[0]) as usize * (q[1] - q[0]) as usize).sum::<usize>()
            * self.heads
    }

    /// `K`
    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// How many keys query `query` of a head sees, from the first on.
    fn visible(&self, head: &Head, query: usize) -> usize {
        self.seen_by(head.query + query, head.key, head.keys)
    }

    /// How many of the `keys` tokens of a sequence, whose first is `first`, its row `row` sees.
    pub(super) fn seen_by(&self, row: usize, first: usize, keys: usize) -> usize {
        if self.causal { self.rows.token(row) + 1 - first } else { keys }
    }

    /// Place of a head's query `query` within its sequence.
    fn position(&self, head: &Head, query: usize) -> usize {
        self.rows.token(head.query + query) - head.key
    }

    fn for_each_head(&self, mut body: impl FnMut(Head)) {
        let mut probability = 0;
        let lengths = self.cu_seqlens.windows(2).zip(self.cu_queries.windows(2));
        for (sequence, (k, q)) in lengths.enumerate() {
            let (keys, queries) = ((k[1] - k[0]) as usize, (q[1] - q[0]) as usize);
            for head in 0..self.heads {
                body(Head {
                    query: q[0] as usize,
                    queries,
                    key: k[0] as usize,
                    keys,
                    channel: head * self.head_width(),
                    probability,
                    sequence_head: ((self.first + sequence) * self.heads + head) as u32,
                });
                probability += keys * queries;
            }
        }
    }

    /// A head's queries, all at once where all see all keys.
    fn tiles(&self, head: &Head) -> impl DoubleEndedIterator<Item = Tile> {
        let most = if self.causal { CAUSAL_QUERIES } else { head.queries.max(1) };
        (0..head.queries).step_by(most).map(move |first| {
            let queries = most.min(head.queries - first);
            Tile { first, queries, keys: self.visible(head, first + queries - 1) }
        })
    }

    fn query_matrix<'a>(&self, head: &Head, tile: &Tile, x: &'a [f32]) -> Matrix<'a> {
        let first = (head.query + tile.first) * self.width + head.channel;
        Matrix::strided(&x[first..], tile.queries, self.head_width(), self.width)
    }

    fn query_matrix_mut<'a>(&self, head: &Head, tile: &Tile, x: &'a mut [f32]) -> MatrixMut<'a> {
        let first = (head.query + tile.first) * self.width + head.channel;
        MatrixMut::strided(&mut x[first..], tile.queries, self.head_width(), self.width)
    }

    /// Keys where `part` is 0, values where it is 1.
    fn key_matrix<'a>(&self, head: &Head, tile: &Tile, kv: &'a [f32], part: usize) -> Matrix<'a> {
        let first = (head.key * 2 + part) * self.width + head.channel;
        Matrix::strided(&kv[first..], tile.keys, self.head_width(), 2 * self.width)
    }

    fn key_matrix_mut<'a>(
        &self,
        head: &Head,
        tile: &Tile,
        kv: &'a mut [f32],
        part: usize,
    ) -> MatrixMut<'a> {
        let first = (head.key * 2 + part) * self.width + head.channel;
        MatrixMut::strided(&mut kv[first..], tile.keys, self.head_width(), 2 * self.width)
    }
}

impl Tile {
    /// Its part of a head's `[queries, keys]` matrix.
    fn scores<'a>(&self, head: &Head, x: &'a [f32]) -> Matrix<'a> {
        Matrix::strided(&x[self.first * head.keys..], self.queries, self.keys, head.keys)
    }

    fn scores_mut<'a>(&self, head: &Head, x: &'a mut [f32]) -> MatrixMut<'a> {
        MatrixMut::strided(&mut x[self.first * head.keys..], self.queries, self.keys, head.keys)
    }

    /// Its elements in such a matrix, rows at full length.
    fn elements(&self, head: &Head) -> std::ops::Range<usize> {
        self.first * head.keys..(self.first + self.queries) * head.keys
    }
}

/// Matrices of one head, `[queries, keys]`.
#[derive(Default)]
pub struct Scratch {
    dropped: Vec<f32>,
    d_scores: Vec<f32>,
    halves: Vec<u16>,
}

/// Writes the signed probabilities and `context [Tq, D]` from `q [Tq, D]` and `kv [T, 2D]`.
pub fn forward(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    q: &[f32],
    kv: &[f32],
    scratch: &mut Scratch,
    probabilities: &mut [f32],
    context: &mut [f32],
) {
    let scale = 1.0 / (sequences.head_width() as f32).sqrt();
    sequences.for_each_head(|head| {
        if head.queries == 0 {
            return;
        }
        let elements = head.queries * head.keys;
        let scores = &mut probabilities[head.probability..][..elements];
        for tile in sequences.tiles(&head) {
            let queries = sequences.query_matrix(&head, &tile, q);
            let keys = sequences.key_matrix(&head, &tile, kv, 0);
            multiply(tile.scores_mut(&head, scores), Into::Assign, scale, queries, keys.t());
        }
        vectorized(
            #[inline(always)]
            || {
                for (query, row) in scores.chunks_exact_mut(head.keys).enumerate() {
                    let (seen, unseen) = row.split_at_mut(sequences.visible(&head, query));
                    softmax(seen);
                    // A probability of 0 takes no part in anything that backward does.
                    unseen.fill(0.0);
                }
            },
        );
        let weights: &[f32] = match dropout {
            None => scores,
            Some(dropout) => {
                scratch.dropped.resize(elements, 0.0);
                let Scratch { dropped, halves, .. } = &mut *scratch;
                drop_probabilities(sequences, &head, dropout, scores, dropped, halves);
                dropped
            }
        };
        for tile in sequences.tiles(&head) {
            let values = sequences.key_matrix(&head, &tile, kv, 1);
            let out = sequences.query_matrix_mut(&head, &tile, context);
            multiply(out, Into::Assign, 1.0, tile.scores(&head, weights), values);
        }
    });
}

#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let top = max(row);
    for x in row.iter_mut() {
        *x = exp(*x - top);
    }
    let inverse = 1.0 / sum(row);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// Marks the probabilities that are dropped by their sign and writes the rest, scaled, to `dropped`.
fn drop_probabilities(
    sequences: &Sequences,
    head: &Head,
    dropout: &AttentionDropout,
    scores: &mut [f32],
    dropped: &mut [f32],
    halves: &mut Vec<u16>,
) {
    vectorized(
        #[inline(always)]
        || {
            let rate = dropout.rate;
            let rows = scores.chunks_exact_mut(head.keys).zip(dropped.chunks_exact_mut(head.keys));
            for (query, (row, dropped)) in rows.enumerate() {
                let position = sequences.position(head, query);
                dropout.row(head.sequence_head, position as u32, head.keys, halves);
                for ((p, out), &half) in row.iter_mut().zip(dropped).zip(&*halves) {
                    let factor = rate.factor(half);
                    *out = *p * factor;
                    *p = if factor == 0.0 { -*p } else { *p };
                }
            }
        },
    );
}

/// Writes `d_q [Tq, D]` and `d_kv [T, 2D]` from the context's gradient and what forward kept.
///
/// With w the dropped weights: dv = wᵀ dc, dw = dc vᵀ, ds = p (dp - Σ w dw) row by row, dq = ds k / √K,
/// dk = dsᵀ q / √K. The sum equals c · dc, but taken over the very dw it is subtracted from, it cancels
/// without error where one weight is nearly 1.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    sequences: &Sequences,
    survivor_scale: f32,
    q: &[f32],
    kv: &[f32],
    probabilities: &[f32],
    d_context: &[f32],
    scratch: &mut Scratch,
    d_q: &mut [f32],
    d_kv: &mut [f32],
) {
    let scale = 1.0 / (sequences.head_width() as f32).sqrt();
    sequences.for_each_head(|head| {
        let elements = head.queries * head.keys;
        scratch.dropped.resize(elements, 0.0);
        scratch.d_scores.resize(elements, 0.0);
        let probabilities = &probabilities[head.probability..][..elements];
        let mut into = Into::Assign;
        // The last tile first: it sees all keys that any does.
        for tile in sequences.tiles(&head).rev() {
            if into == Into::Assign {
                zero_keys(sequences, &head, tile.keys, d_kv);
            }
            let values = sequences.key_matrix(&head, &tile, kv, 1);
            let d_out = sequences.query_matrix(&head, &tile, d_context);
            let product = tile.scores_mut(&head, &mut scratch.d_scores);
            multiply(product, Into::Assign, 1.0, d_out, values.t());
            score_gradients(&head, &tile, survivor_scale, probabilities, scratch);
            let weights = tile.scores(&head, &scratch.dropped);
            let d_scores = tile.scores(&head, &scratch.d_scores);
            let d_values = sequences.key_matrix_mut(&head, &tile, d_kv, 1);
            multiply(d_values, into, 1.0, weights.t(), d_out);
            let keys = sequences.key_matrix(&head, &tile, kv, 0);
            let d_queries = sequences.query_matrix_mut(&head, &tile, d_q);
            multiply(d_queries, Into::Assign, scale, d_scores, keys);
            let queries = sequences.query_matrix(&head, &tile, q);
            let d_keys = sequences.key_matrix_mut(&head, &tile, d_kv, 0);
            multiply(d_keys, into, scale, d_scores.t(), queries);
            into = Into::Add;
        }
        if into == Into::Assign {
            zero_keys(sequences, &head, 0, d_kv);
        }
    });
}

/// No gradient for the keys and values of a head from `first` on, which no query sees.
fn zero_keys(sequences: &Sequences, head: &Head, first: usize, d_kv: &mut [f32]) {
    for key in head.key + first..head.key + head.keys {
        for part in 0..2 {
            let first = (key * 2 + part) * sequences.width + head.channel;
            d_kv[first..first + sequences.head_width()].fill(0.0);
        }
    }
}

/// Replaces a tile's dw in `d_scores` by ds and fills its part of `dropped` with w.
fn score_gradients(
    head: &Head,
    tile: &Tile,
    survivor_scale: f32,
    probabilities: &[f32],
    scratch: &mut Scratch,
) {
    // By the sign's bits, and without a reference to the scale: the compiler then neither branches nor loads.
    let kept = survivor_scale.to_bits();
    let factor = move |p: f32| f32::from_bits(kept & !((p.to_bits() as i32 >> 31) as u32));
    let (keys, elements) = (head.keys, tile.elements(head));
    vectorized(
        #[inline(always)]
        || {
            let rows = probabilities[elements.clone()]
                .chunks_exact(keys)
                .zip(scratch.dropped[elements.clone()].chunks_exact_mut(keys))
                .zip(scratch.d_scores[elements].chunks_exact_mut(keys));
            for ((probabilities, weights), d_scores) in rows {
                let weights = &mut weights[..tile.keys];
                let d_scores = &mut d_scores[..tile.keys];
                for (weight, &p) in weights.iter_mut().zip(probabilities) {
                    *weight = p * factor(p);
                }
                let delta = dot(weights, d_scores);
                for (d, &p) in d_scores.iter_mut().zip(probabilities) {
                    *d = p.abs() * (*d * factor(p) - delta);
                }
            }
        },
    );
}
