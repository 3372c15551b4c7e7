//! Attention of the last layer where few of its rows are read: the same context as by [`super::qkv`] and
//! [`super::attention`], without keys and values.
//!
//! With k_j = Wk x_j + bk, a score q · k_j is (Wkᵀ q) · x_j plus what is the same for all keys and falls out of the
//! softmax, so that bk has no gradient; and Σ w_j v_j is Wv (Σ w_j x_j) + (Σ w_j) bv. So the matrices are absorbed into
//! queries and outputs (as DeepSeek-V2, 2024, does with its latent keys), and attention is over the layer's input. That
//! takes `D` channels where a head has `D / H`, and two products with `D x D` matrices a query in place of two a token.

use super::attention;
use super::dropout::AttentionDropout;
use super::gemm::{Into, Matrix, MatrixMut, multiply};
use super::linear::{self, Linear, LinearGradient};
use super::qkv;
use super::sequences::Sequences;
use super::vector::{add_scaled, dot, vectorized};

/// Whether fewer FLOPs are needed than with keys and values, and no more memory, for sequences of `width` channels that
/// begin at `cu_seqlens` among the tokens and at `cu_queries` among the queries.
pub fn pays(cu_seqlens: &[u32], cu_queries: &[u32], heads: usize, width: usize) -> bool {
    let (mut tokens, mut queries, mut pairs) = (0, 0, 0);
    for (k, q) in cu_seqlens.windows(2).zip(cu_queries.windows(2)) {
        let (keys, asking) = (u64::from(k[1] - k[0]), u64::from(q[1] - q[0]));
        tokens += keys;
        queries += asking;
        pairs += keys * asking;
    }
    let [heads, width] = [heads, width].map(|size| size as u64);
    queries * heads <= tokens && width * queries + (heads - 1) * pairs < width * tokens
}

/// Elements of what stands in the place of keys and values.
pub fn parts_len(sequences: &Sequences) -> usize {
    2 * sequences.query_count() * sequences.heads * sequences.width
}

/// Temporary buffers, which other operations use too.
pub struct Scratch<'a> {
    /// Of attention.
    pub attention: &'a mut attention::Scratch,
    /// `[Tq, D]` the input's rows.
    pub gathered: &'a mut Vec<f32>,
}

/// One head's part of rows and matrices.
struct Head {
    index: usize,
    /// `Tq`
    rows: usize,
    /// `H`
    heads: usize,
    /// `K`
    channels: usize,
    /// `D`
    width: usize,
}

/// The heads of `rows` queries.
fn heads(sequences: &Sequences, rows: usize) -> impl Iterator<Item = Head> + use<> {
    let (heads, width) = (sequences.heads, sequences.width);
    (0..heads).map(move |index| Head { index, rows, heads, channels: width / heads, width })
}

impl Head {
    /// `[Tq, K]` of `x [Tq, D]`.
    fn narrow<'a>(&self, x: &'a [f32]) -> Matrix<'a> {
        Matrix::strided(&x[self.index * self.channels..], self.rows, self.channels, self.width)
    }

    fn narrow_mut<'a>(&self, x: &'a mut [f32]) -> MatrixMut<'a> {
        let x = &mut x[self.index * self.channels..];
        MatrixMut::strided(x, self.rows, self.channels, self.width)
    }

    /// `[Tq, D]` of `x [Tq, H, D]`.
    fn wide<'a>(&self, x: &'a [f32]) -> Matrix<'a> {
        Matrix::strided(&x[self.index * self.width..], self.rows, self.width, self.stride())
    }

    fn wide_mut<'a>(&self, x: &'a mut [f32]) -> MatrixMut<'a> {
        let (rows, width, stride) = (self.rows, self.width, self.stride());
        MatrixMut::strided(&mut x[self.index * width..], rows, width, stride)
    }

    fn stride(&self) -> usize {
        self.heads * self.width
    }

    /// Elements of the head's rows, `[K, D]`, among those of `Wk` or `Wv [D, D]`.
    fn elements(&self) -> std::ops::Range<usize> {
        let len = self.channels * self.width;
        self.index * len..(self.index + 1) * len
    }

    fn weight<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        Matrix::new(&weight[self.elements()], self.channels, self.width)
    }

    fn weight_mut<'a>(&self, weight: &'a mut [f32]) -> MatrixMut<'a> {
        MatrixMut::new(&mut weight[self.elements()], self.channels, self.width)
    }
}

/// What the forward pass keeps.
pub struct Kept<T> {
    /// `[Tq, D]` queries.
    pub q: T,
    /// Wkᵀ q, then Σ w x, both `[Tq, H, D]`: see [`parts_len`].
    pub parts: T,
    /// Signed probabilities, see [`attention::forward`].
    pub probabilities: T,
}

/// Writes what is kept, and `context [Tq, D]`, from the layer's `input [T, D]`, normed where norms stand before the
/// sublayers.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor")]
pub fn forward(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    query: &Linear,
    key_value: &Linear,
    input: &[f32],
    scratch: Scratch,
    kept: Kept<&mut [f32]>,
    context: &mut [f32],
) {
    let d = sequences.width;
    let rows = context.len() / d;
    if rows == 0 {
        return;
    }
    let (absorbed, means) = kept.parts.split_at_mut(kept.parts.len() / 2);
    let (key, value) = key_value.weight.split_at(d * d);
    let gathered = sequences.rows.gather(input, d, scratch.gathered);
    linear::forward(query, rows, gathered, kept.q);
    for head in heads(sequences, rows) {
        let queries = head.narrow(kept.q);
        multiply(head.wide_mut(absorbed), Into::Assign, 1.0, queries, head.weight(key));
    }
    let (attention, probabilities) = (scratch.attention, kept.probabilities);
    attention::forward(sequences, dropout, absorbed, input, attention, probabilities, means);
    let sums = attention::weight_sums(sequences, dropout, probabilities);
    let bias = key_value.bias[d..].chunks_exact(d / sequences.heads);
    let of_heads = context.chunks_exact_mut(d / sequences.heads).zip(bias.cycle());
    for ((out, bias), sum) in of_heads.zip(sums) {
        out.iter_mut().zip(bias).for_each(|(out, &bias)| *out = sum * bias);
    }
    for head in heads(sequences, rows) {
        let out = head.narrow_mut(context);
        multiply(out, Into::Add, 1.0, head.wide(means), head.weight(value).t());
    }
}

/// What the backward pass writes, and the weights' gradients, to which it adds.
pub struct Gradients<'a> {
    /// Of what stands in the place of keys and values.
    pub parts: &'a mut [f32],
    /// `[Tq, D]` of the queries.
    pub q: &'a mut [f32],
    /// Of the queries' map.
    pub query: LinearGradient<'a>,
    /// Of the map to keys and values.
    pub key_value: LinearGradient<'a>,
    /// `[T, D]` of the layer's input.
    pub input: &'a mut [f32],
}

/// From `d_context [Tq, D]` and what forward kept.
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward(
    sequences: &Sequences,
    dropout: Option<&AttentionDropout>,
    query: &Linear,
    key_value: &Linear,
    input: &[f32],
    kept: Kept<&[f32]>,
    d_context: &[f32],
    scratch: Scratch,
    gradients: Gradients,
) {
    let d = sequences.width;
    let rows = d_context.len() / d;
    if rows == 0 {
        gradients.input.fill(0.0);
        return;
    }
    let Gradients { parts: d_parts, q: d_q, query: mut d_query, key_value: d_kv, input: d_input } =
        gradients;
    let (absorbed, means) = kept.parts.split_at(kept.parts.len() / 2);
    let (d_absorbed, d_means) = d_parts.split_at_mut(d_parts.len() / 2);
    let (key, value) = key_value.weight.split_at(d * d);
    let (d_key, d_value) = d_kv.weight.split_at_mut(d * d);
    for head in heads(sequences, rows) {
        let d_out = head.narrow(d_context);
        multiply(head.wide_mut(d_means), Into::Assign, 1.0, d_out, head.weight(value));
        multiply(head.weight_mut(d_value), Into::Add, 1.0, d_out.t(), head.wide(means));
    }
    let sums = attention::weight_sums(sequences, dropout, kept.probabilities);
    let (bias, d_bias) = (&key_value.bias[d..], &mut d_kv.bias[d..]);
    let d_sums = value_bias(sequences, bias, d_context, &sums, d_bias);
    attention::backward(
        sequences,
        dropout,
        absorbed,
        input,
        kept.probabilities,
        d_means,
        // Without dropout the sums do not depend on anything.
        dropout.map(|_| &d_sums[..]),
        scratch.attention,
        d_absorbed,
        d_input,
    );
    for head in heads(sequences, rows) {
        let d_absorbed = head.wide(d_absorbed);
        multiply(head.narrow_mut(d_q), Into::Assign, 1.0, d_absorbed, head.weight(key).t());
        multiply(head.weight_mut(d_key), Into::Add, 1.0, head.narrow(kept.q).t(), d_absorbed);
    }
    let (rows, gathered) = (sequences.rows, scratch.gathered);
    qkv::backward_queries(query, rows, input, d_q, gathered, &mut d_query, d_input);
}

/// Adds the gradient of bv to `d_bias [D]` and returns that of the sums, `[Tq, H]`: both by `d_context [Tq, D]`.
fn value_bias(
    sequences: &Sequences,
    bias: &[f32],
    d_context: &[f32],
    sums: &[f32],
    d_bias: &mut [f32],
) -> Vec<f32> {
    let (d, k) = (sequences.width, sequences.width / sequences.heads);
    let mut d_sums = vec![0.0; sums.len()];
    vectorized(
        #[inline(always)]
        || {
            let of_rows = sums.chunks_exact(sequences.heads);
            let of_rows = of_rows.zip(d_sums.chunks_exact_mut(sequences.heads));
            for (d_context, (sums, d_sums)) in d_context.chunks_exact(d).zip(of_rows) {
                let heads = d_context.chunks_exact(k).zip(bias.chunks_exact(k));
                let of_heads = d_bias.chunks_exact_mut(k).zip(sums.iter().zip(d_sums));
                for ((d_out, bias), (d_bias, (&sum, d_sum))) in heads.zip(of_heads) {
                    *d_sum = dot(d_out, bias);
                    add_scaled(d_bias, sum, d_out);
                }
            }
        },
    );
    d_sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dropout::Rate;
    use crate::cpu::lane::Rows;

    const HEADS: usize = 3;
    const WIDTH: usize = 24;

    fn numbers(count: usize, by: usize) -> Vec<f32> {
        (0..count).map(|i| (i * by % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// What a pass writes: context, gradients of input, Wq, bq, Wkv and bkv.
    struct Results([Vec<f32>; 6]);

    struct Case<'a> {
        sequences: Sequences<'a>,
        dropout: Option<AttentionDropout>,
        input: Vec<f32>,
        d_context: Vec<f32>,
        weights: [Vec<f32>; 4],
    }

    impl Case<'_> {
        fn run(&self) -> Results {
            let Case { sequences, input, d_context, .. } = self;
            let [wq, bq, wkv, bkv] = &self.weights;
            let query = &Linear { weight: wq, bias: bq };
            let key_value = &Linear { weight: wkv, bias: bkv };
            let (dropout, scratch) = (self.dropout.as_ref(), &mut attention::Scratch::default());
            let gathered = &mut Vec::new();
            // What is there before must not matter, but for what is added to.
            let same = |x: &Vec<f32>| vec![f32::NAN; x.len()];
            let (mut context, mut d_input) = (same(d_context), same(input));
            let [mut dwq, mut dbq, mut dwkv, mut dbkv] =
                self.weights.each_ref().map(|weight| numbers(weight.len(), 71));
            let mut d_query = LinearGradient { weight: &mut dwq, bias: &mut dbq };
            let mut d_key_value = LinearGradient { weight: &mut dwkv, bias: &mut dbkv };
            let mut p = vec![f32::NAN; sequences.probability_count()];
            let (mut q, mut d_q) = (same(d_context), same(d_context));
            if sequences.absorbed {
                let mut parts = vec![f32::NAN; parts_len(sequences)];
                let mut d_parts = parts.clone();
                let s = Scratch { attention: &mut *scratch, gathered: &mut *gathered };
                let kept = Kept { q: &mut q[..], parts: &mut parts[..], probabilities: &mut p[..] };
                forward(sequences, dropout, query, key_value, input, s, kept, &mut context);
                let s = Scratch { attention: scratch, gathered };
                let kept = Kept { q: &q[..], parts: &parts[..], probabilities: &p[..] };
                let gradients = Gradients {
                    parts: &mut d_parts,
                    q: &mut d_q,
                    query: d_query,
                    key_value: d_key_value,
                    input: &mut d_input,
                };
                backward(
                    sequences, dropout, query, key_value, input, kept, d_context, s, gradients,
                );
            } else {
                let rows = sequences.rows;
                let mut kv = vec![f32::NAN; 2 * input.len()];
                let mut d_kv = kv.clone();
                qkv::forward(query, key_value, rows, input, gathered, &mut q, &mut kv);
                let s = scratch;
                attention::forward(sequences, dropout, &q, &kv, s, &mut p, &mut context);
                attention::backward(
                    sequences, dropout, &q, &kv, &p, d_context, None, s, &mut d_q, &mut d_kv,
                );
                let upstream = qkv::Upstream { q: &d_q, kv: &d_kv };
                let (dq, dkv) = (&mut d_query, &mut d_key_value);
                let d_input = &mut d_input;
                qkv::backward(query, key_value, rows, input, &upstream, gathered, dq, dkv, d_input);
            }
            Results([context, d_input, dwq, dbq, dwkv, dbkv])
        }
    }

    /// More queries than a tile has, several and none in a sequence, sequences of one token.
    #[test]
    fn agrees_with_keys_and_values() {
        let lengths: Vec<u32> = (0..50).map(|i| 1 + i * 7 % 23).chain([90]).collect();
        let (mut cu_seqlens, mut cu_queries, mut rows) = (vec![0], vec![0], Vec::new());
        for &length in &lengths {
            let first = cu_seqlens[cu_seqlens.len() - 1];
            rows.extend((0..length).filter(|place| place % 4 == 1).map(|place| first + place));
            cu_seqlens.push(first + length);
            cu_queries.push(rows.len() as u32);
        }
        let tokens = cu_seqlens[lengths.len()] as usize;
        let dropout = AttentionDropout::new(5, 6, 1, Rate::new(0.3).unwrap());
        for (causal, dropout) in
            [(false, None), (true, None), (false, Some(dropout)), (true, Some(dropout))]
        {
            let mut case = Case {
                sequences: Sequences {
                    cu_seqlens: &cu_seqlens,
                    cu_queries: &cu_queries,
                    rows: Rows::Selected(&rows),
                    first: 2,
                    heads: HEADS,
                    width: WIDTH,
                    causal,
                    absorbed: false,
                },
                dropout,
                input: numbers(tokens * WIDTH, 37),
                d_context: numbers(rows.len() * WIDTH, 41),
                weights: [
                    numbers(WIDTH * WIDTH, 53),
                    numbers(WIDTH, 59),
                    numbers(2 * WIDTH * WIDTH, 61),
                    numbers(2 * WIDTH, 67),
                ],
            };
            let Results(expected) = case.run();
            case.sequences.absorbed = true;
            let Results(found) = case.run();
            for (tensor, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let largest = expected.iter().fold(1.0f32, |top, x| top.max(x.abs()));
                for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= 2e-5 * largest,
                        "causal {causal}, {tensor}, {index}: {found}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn pays_where_few_rows_are_read() {
        let sequences = |keys: u32, queries: u32, count: u32| {
            let bounds = |of_each| (0..=count).map(|i| i * of_each).collect::<Vec<u32>>();
            [bounds(keys), bounds(queries)]
        };
        // Few and too many queries; too long sequences; more heads than fit in the place of keys and values.
        for (keys, queries, heads, expected) in [
            (40, 1, 2, true),
            (40, 8, 2, true),
            (40, 20, 2, true),
            (40, 21, 2, false),
            (200, 40, 2, true),
            (400, 80, 2, false),
            (200, 40, 8, false),
            (1, 1, 1, false),
            (2, 0, 1, true),
        ] {
            let [cu_seqlens, cu_queries] = sequences(keys, queries, 5);
            let found = pays(&cu_seqlens, &cu_queries, heads, 64);
            assert_eq!(found, expected, "{keys} keys, {queries} queries, {heads} heads");
        }
    }
}
