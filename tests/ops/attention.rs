//! Attention within sequences of many lengths and heads of every width, with dropout, with queries at all
//! tokens or some.

use super::attention_dropout;
use crate::util::cuda::{Gpu, count};
use crate::util::fixture::{Case, Dropout, Results, cases, hold, hold_bf16};
use b4r::cpu::attention::{self, Scratch};
use b4r::cpu::lane::Rows;
use b4r::cpu::sequences::Sequences;
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::Count;
use b4r::cuda::step::{Rate, Size, StepBlock};
use b4r::{cuda, philox};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Parameters {
    pub(super) heads: usize,
    pub(super) lengths: Vec<u32>,
    pub(super) layer: u32,
    #[serde(default)]
    pub(super) causal: bool,
    #[serde(flatten)]
    pub(super) dropout: Dropout,
}

/// Where each sequence begins among the tokens and among `rows`.
pub(super) fn bounds(lengths: &[u32], rows: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut queries) = (vec![0], vec![0]);
    for length in lengths {
        let end = tokens[tokens.len() - 1] + length;
        tokens.push(end);
        queries.push(rows.partition_point(|&row| row < end) as u32);
    }
    (tokens, queries)
}

/// Rows of `left` and `right`, both `[T, D]`, side by side.
fn side_by_side(left: &[f32], right: &[f32], d: usize) -> Vec<f32> {
    left.chunks(d).zip(right.chunks(d)).flat_map(|(l, r)| [l, r].concat()).collect()
}

/// Half `part` of each row of a `[T, 2D]` matrix.
fn half(both: &[f32], part: usize, d: usize) -> Vec<f32> {
    both.chunks(2 * d).flat_map(|row| row[part * d..][..d].to_vec()).collect()
}

fn cpu(case: &Case<Parameters>) -> Results {
    let Parameters { heads, lengths, layer, dropout, .. } = &case.parameters;
    let [tokens, width] = *case.shape("key") else { panic!("key is a matrix") };
    let rows = case.integers("rows");
    let (cu_seqlens, cu_queries) = bounds(lengths, rows);
    let sequences = Sequences {
        cu_seqlens: &cu_seqlens,
        cu_queries: &cu_queries,
        rows: if rows.len() == tokens { Rows::All } else { Rows::Selected(rows) },
        first: 0,
        heads: *heads,
        width,
        causal: case.parameters.causal,
        absorbed: false,
    };
    let dropout = attention_dropout(dropout, *layer);
    let q = case.input("query");
    let kv = side_by_side(&case.input("key"), &case.input("value"), width);
    let mut scratch = Scratch::default();
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let mut context = case.zeros("query");
    attention::forward(
        &sequences,
        dropout.as_ref(),
        &q,
        &kv,
        &mut scratch,
        &mut probabilities,
        &mut context,
    );
    // Backward writes every element: what was there before must not matter.
    let (mut d_q, mut d_kv) = (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
    attention::backward(
        &sequences,
        dropout.as_ref(),
        &q,
        &kv,
        &probabilities,
        &case.input("upstream"),
        None,
        &mut scratch,
        &mut d_q,
        &mut d_kv,
    );
    Results::default()
        .out("context", context)
        .grad("query", d_q)
        .grad("key", half(&d_kv, 0, width))
        .grad("value", half(&d_kv, 1, width))
}

/// More room than a case needs: what lies beyond must stay as it was.
const SPARE: usize = 3;
/// What it was.
const UNTOUCHED: f32 = 7.25;

/// Sequences of a case on the device, in buffers with room for [`SPARE`] more sequences, tokens and queries.
struct OnDevice {
    gpu: Gpu,
    sequences: cuda::attention::Sequences,
    dropout: cuda::operands::AttentionDropout,
}

impl OnDevice {
    fn new(case: &Case<Parameters>) -> Self {
        let Parameters { heads, lengths, layer, dropout, .. } = &case.parameters;
        let [tokens, width] = *case.shape("key") else { panic!("key is a matrix") };
        let rows = case.integers("rows");
        let (cu_seqlens, cu_queries) = bounds(lengths, rows);
        let gpu = Gpu::new(StepBlock {
            tokens: tokens as u32,
            sequences: lengths.len() as u32,
            rows: rows.len() as u32,
            number: dropout.step as u32,
            key: philox::key(dropout.dropout_seed),
            ..StepBlock::default()
        });
        // Numbers that nobody may take for a place in memory.
        let spacious = |values: &[u32]| gpu.copy(&[values, &[u32::MAX; SPARE]].concat());
        let cu_seqlens = spacious(&cu_seqlens);
        let all = rows.len() == tokens;
        let tokens = count(Size::Tokens, tokens + SPARE);
        let sequences = cuda::attention::Sequences {
            sequences: count(Size::Sequences, lengths.len() + SPARE),
            cu_seqlens,
            cu_queries: if all { cu_seqlens } else { spacious(&cu_queries) },
            rows: match all {
                true => cuda::operands::Rows::All,
                false => cuda::operands::Rows::Selected {
                    tokens: spacious(rows),
                    rows: Default::default(),
                },
            },
            tokens,
            queries: if all { tokens } else { count(Size::Rows, rows.len() + SPARE) },
            heads: *heads,
            width,
            causal: case.parameters.causal,
        };
        let dropout = cuda::operands::AttentionDropout {
            layer: *layer,
            rate: Rate::new(dropout.attention_dropout),
        };
        OnDevice { gpu, sequences, dropout }
    }

    /// Rows of `width` on the device, and [`SPARE`] more.
    fn store<S: Storage>(&self, values: &[f32], width: usize) -> Slice<S> {
        self.gpu.store(&[values, &vec![UNTOUCHED; SPARE * width]].concat())
    }

    /// Room for as much.
    fn room<S: Storage>(&self, rows: Count, width: usize) -> Slice<S> {
        self.gpu.store(&vec![UNTOUCHED; rows.most * width])
    }

    /// What was written there, and nothing else was.
    fn load<S: Storage>(&self, slice: Slice<S>, width: usize) -> Vec<f32> {
        let mut values = self.gpu.load(slice);
        let beyond = values.split_off(values.len() - SPARE * width);
        assert!(beyond.iter().all(|&x| x == UNTOUCHED), "written beyond the last row");
        values
    }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Results {
    let device = OnDevice::new(case);
    let OnDevice { gpu, sequences, dropout } = &device;
    let d = sequences.width;
    let q = device.store::<S>(&case.input("query"), d);
    let kv = side_by_side(&case.input("key"), &case.input("value"), d);
    let kv = device.store::<S>(&kv, 2 * d);
    let upstream = device.store::<S>(&case.input("upstream"), d);
    let log_sum_exp = device.room::<f32>(sequences.queries, sequences.heads);
    let context = device.room::<S>(sequences.queries, d);
    let d_q = device.room::<S>(sequences.queries, d);
    let d_kv = device.room::<S>(sequences.tokens, 2 * d);
    let launcher = gpu.launcher();
    cuda::attention::forward(launcher, sequences, *dropout, q, kv, log_sum_exp, context).unwrap();
    cuda::attention::backward(
        launcher,
        sequences,
        *dropout,
        q,
        kv,
        log_sum_exp,
        context,
        upstream,
        d_q,
        d_kv,
    )
    .unwrap();
    device.load(log_sum_exp, sequences.heads);
    let d_kv = device.load(d_kv, 2 * d);
    Results::default()
        .out("context", device.load(context, d))
        .grad("query", device.load(d_q, d))
        .grad("key", half(&d_kv, 0, d))
        .grad("value", half(&d_kv, 1, d))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("attention", "cpu", cpu);
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold("attention", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("attention", "cuda bf16", |case| Some(cuda::<bf16>(case)));
}

/// The same bits however blocks and threads are scheduled, which the software GPU does at random.
#[test]
fn cuda_sums_in_one_order() {
    let cases = cases::<Parameters>("attention");
    for name in ["k24_dropout", "causal_k16_rows"] {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let (first, second) = (cuda::<bf16>(case), cuda::<bf16>(case));
        for name in ["out.context", "grad.query", "grad.key", "grad.value"] {
            assert!(first.get(name) == second.get(name), "{name} differs from run to run");
        }
    }
}

/// The error that a launch with these sizes ends in, in buffers made for one token of width 16 in one head.
fn refusal(heads: usize, width: usize, tokens: usize) -> String {
    let gpu = Gpu::new(StepBlock::default());
    let tokens = count(Size::Tokens, tokens);
    let sequences = cuda::attention::Sequences {
        sequences: count(Size::Sequences, 1),
        cu_seqlens: gpu.copy(&[0, 1]),
        cu_queries: gpu.copy(&[0, 1]),
        rows: cuda::operands::Rows::All,
        tokens,
        queries: tokens,
        heads,
        width,
        causal: false,
    };
    let dropout = cuda::operands::AttentionDropout { layer: 0, rate: Rate::NONE };
    let (q, kv) = (gpu.buffer::<f32>(16), gpu.buffer(32));
    let (log_sum_exp, context) = (gpu.buffer(1), gpu.buffer(16));
    cuda::attention::forward(gpu.launcher(), &sequences, dropout, q, kv, log_sum_exp, context)
        .map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn cuda_refuses_sizes_that_no_kernel_takes() {
    assert_eq!(refusal(1, 16, 1), "");
    for (heads, width) in [(0, 16), (3, 16), (4, 16), (1, 144), (1, 0)] {
        let error = refusal(heads, width, 1);
        let sizes = format!("width {width} in {heads} heads");
        assert!(error.contains("attention") && error.contains(&sizes), "{error}");
    }
    let error = refusal(1, 16, 2);
    assert!(error.contains('q') && error.contains("16") && error.contains("32"), "{error}");
}

/// Scores of 500 and more, whose exponentials overflow unless the row's maximum is taken off first: queries,
/// keys and values of three keys, 1000, 1001 and 1002 in channel 0, halved by 1 / sqrt(K); values pick keys out.
struct LargeScores {
    width: usize,
    q: Vec<f32>,
    kv: Vec<f32>,
}

impl LargeScores {
    fn new(width: usize) -> Self {
        let (mut q, mut kv) = (vec![0.0; width], vec![0.0; 3 * 2 * width]);
        q[0] = 0.5 * (width as f32).sqrt();
        for key in 0..3 {
            kv[key * 2 * width] = 1000.0 + key as f32;
            kv[key * 2 * width + width + key] = 1.0;
        }
        LargeScores { width, q, kv }
    }

    fn hold(context: &[f32]) {
        let total = 1.0 + (-0.5f32).exp() + (-1.0f32).exp();
        for (key, &p) in context[..3].iter().enumerate() {
            let expected = (0.5 * key as f32 - 1.0).exp() / total;
            assert!((p - expected).abs() < 1e-6, "{context:?}");
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let LargeScores { width, q, kv } = LargeScores::new(4);
    let sequences = Sequences {
        cu_seqlens: &[0, 3],
        cu_queries: &[0, 1],
        rows: Rows::Selected(&[1]),
        first: 0,
        heads: 1,
        width,
        causal: false,
        absorbed: false,
    };
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let mut context = [0.0; 4];
    let scratch = &mut Scratch::default();
    attention::forward(&sequences, None, &q, &kv, scratch, &mut probabilities, &mut context);
    LargeScores::hold(&context);
}

/// Two heads of `width` channels over one sequence of 60 tokens, more than a tile of queries has: the context, and the
/// gradients of queries, and of keys and values.
fn two_heads(width: usize, q: &[f32], kv: &[f32], d_context: &[f32]) -> [Vec<f32>; 3] {
    let sequences = Sequences {
        cu_seqlens: &[0, 60],
        cu_queries: &[0, 60],
        rows: Rows::All,
        first: 0,
        heads: 2,
        width: 2 * width,
        causal: false,
        absorbed: false,
    };
    let mut scratch = Scratch::default();
    let mut probabilities = vec![0.0; sequences.probability_count()];
    let mut context = vec![f32::NAN; q.len()];
    let p = &mut probabilities;
    attention::forward(&sequences, None, q, kv, &mut scratch, p, &mut context);
    let (mut d_q, mut d_kv) = (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
    let (s, dc) = (&mut scratch, d_context);
    attention::backward(&sequences, None, q, kv, p, dc, None, s, &mut d_q, &mut d_kv);
    [context, d_q, d_kv]
}

/// Channels of zeros change nothing, once queries make up for the root of their number: heads whose rows are no
/// whole vectors are those whose rows are.
#[test]
fn heads_of_odd_width_are_wider_ones_with_zeros() {
    const ODD: usize = 5;
    const WIDE: usize = 8;
    let root = (WIDE as f32 / ODD as f32).sqrt();
    let numbers = |count: usize, by: usize| -> Vec<f32> {
        (0..count).map(|i| (i * by % 1009) as f32 / 504.5 - 1.0).collect()
    };
    let widened = |x: &[f32], factor: f32| -> Vec<f32> {
        let heads = x.chunks(ODD).map(|head| head.iter().map(|x| x * factor));
        heads.flat_map(|head| head.chain([0.0; WIDE - ODD])).collect()
    };
    let (q, kv) = (numbers(60 * 2 * ODD, 37), numbers(60 * 4 * ODD, 53));
    let d_context = numbers(60 * 2 * ODD, 59);
    let odd = two_heads(ODD, &q, &kv, &d_context);
    let wide = two_heads(WIDE, &widened(&q, root), &widened(&kv, 1.0), &widened(&d_context, 1.0));
    for ((odd, wide), factor) in odd.iter().zip(&wide).zip([1.0, 1.0 / root, 1.0]) {
        for (index, (x, y)) in widened(odd, factor).iter().zip(wide).enumerate() {
            assert!((x - y).abs() < 1e-5, "{index}: {x}, {y}");
        }
    }
}

/// Forward, and backward what is finite: gradients of weights that were made anew from the log-sum-exp.
#[test]
fn large_scores_do_not_overflow_on_the_gpu() {
    let LargeScores { width, q, kv } = LargeScores::new(16);
    let gpu = Gpu::new(StepBlock { tokens: 3, sequences: 1, rows: 1, ..StepBlock::default() });
    let sequences = cuda::attention::Sequences {
        sequences: count(Size::Sequences, 1),
        cu_seqlens: gpu.copy(&[0, 3]),
        cu_queries: gpu.copy(&[0, 1]),
        rows: cuda::operands::Rows::Selected { tokens: gpu.copy(&[1]), rows: Slice::default() },
        tokens: count(Size::Tokens, 3),
        queries: count(Size::Rows, 1),
        heads: 1,
        width,
        causal: false,
    };
    let dropout = cuda::operands::AttentionDropout { layer: 0, rate: Rate::NONE };
    let (q, kv) = (gpu.copy(&q), gpu.copy(&kv));
    let (log_sum_exp, context) = (gpu.buffer(1), gpu.buffer(width));
    let (d_q, d_kv) = (gpu.buffer(width), gpu.buffer(6 * width));
    let launcher = gpu.launcher();
    cuda::attention::forward(launcher, &sequences, dropout, q, kv, log_sum_exp, context).unwrap();
    LargeScores::hold(&gpu.load(context));
    let d_context = gpu.copy(&vec![1.0; width]);
    cuda::attention::backward(
        launcher,
        &sequences,
        dropout,
        q,
        kv,
        log_sum_exp,
        context,
        d_context,
        d_q,
        d_kv,
    )
    .unwrap();
    let weights: f32 = gpu.load(d_kv).chunks(2 * width).map(|token| token[width]).sum();
    assert!((weights - 1.0).abs() < 1e-4, "d_v of an upstream of ones is the weights: {weights}");
    assert!(gpu.load(d_q).iter().all(|x| x.is_finite()));
}
