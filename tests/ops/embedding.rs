//! Input embedding with positions, norm and dropout; one item 500 times in a batch.

use super::{NormCase, hidden_dropout};
use crate::util::cuda::{Gpu, count};
use crate::util::draw::uniform;
use crate::util::fixture::{Case, Dropout, Results, hold, hold_bf16, segments};
use b4r::batch::Segments;
use b4r::config::Positions;
use b4r::cpu::dropout::EMBEDDING_SITE;
use b4r::cpu::embedding::{self, Tables, Tokens};
use b4r::cuda::embedding as on_gpu;
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::operands::{HiddenDropout, Norm, NormSaved};
use b4r::cuda::step::{Rate, Size, StepBlock};
use b4r::philox;
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    lengths: Vec<u32>,
    layer_norm_eps: f64,
    #[serde(flatten)]
    dropout: Dropout,
}

fn cpu(case: &Case<Parameters>) -> Results {
    let (items, positions) = (case.input("items"), case.input("positions"));
    let [rows, d] = *case.shape("upstream") else { panic!("upstream is a matrix") };
    let tables = Tables { items: &items, positions: &positions };
    let ids = case.integers("ids");
    let tokens = Tokens { ids, positions: case.integers("positions"), first: 0 };
    let dropout = hidden_dropout(&case.parameters.dropout, EMBEDDING_SITE);
    let mut kept = NormCase::new(case, case.parameters.layer_norm_eps, rows);
    let (norm, mut d_norm, normalized, rstd) = kept.split();
    let mut y = case.zeros("upstream");
    embedding::forward(&tables, &tokens, &norm, dropout.as_ref(), normalized, rstd, &mut y);
    let (mut d_sums, mut d_positions) = (case.input("upstream"), case.zeros("positions"));
    embedding::backward(
        &tokens,
        &norm,
        dropout.as_ref(),
        normalized,
        rstd,
        &mut d_sums,
        &mut d_norm,
        &mut d_positions,
    );
    let (mut d_items, segments) = (case.zeros("items"), segments(ids));
    embedding::scatter(&segments, 0..segments.keys.len(), &d_sums, &mut d_items, 0, d);
    let results = Results::default().out("y", y);
    kept.into_results(results.grad("items", d_items).grad("positions", d_positions))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("embedding", "cpu", cpu);
}

/// More rows than there are, for the buffers: what lies beyond must stay as it is.
const SPARE: usize = 3;

/// `values` with [`SPARE`] more rows, all NaN.
fn spacious<S: Storage>(gpu: &Gpu, values: &[f32], width: usize) -> Slice<S> {
    let spare = vec![f32::NAN; SPARE * width];
    gpu.store(&[values, &spare].concat())
}

/// What the rows that exist hold; those beyond must still be NaN.
fn used<S: Storage>(gpu: &Gpu, slice: Slice<S>, len: usize) -> Vec<f32> {
    let mut all = gpu.load(slice);
    assert!(all.split_off(len).iter().all(|x| x.is_nan()), "written beyond the last row");
    all
}

/// Segments on the device, with room for more of them.
fn segments_on(gpu: &Gpu, segments: &Segments, size: Size) -> on_gpu::Segments {
    let spacious = |list: &[u32]| gpu.copy(&[list, &[u32::MAX; SPARE]].concat());
    on_gpu::Segments {
        count: count(size, segments.keys.len() + SPARE),
        keys: spacious(&segments.keys),
        offsets: spacious(&segments.offsets),
        indices: spacious(&segments.indices),
    }
}

fn cuda<S: Storage>(case: &Case<Parameters>) -> Results {
    let (ids, p) = (case.integers("ids"), &case.parameters);
    let [rows, d] = *case.shape("upstream") else { panic!("upstream is a matrix") };
    let groups = segments(ids);
    let gpu = Gpu::new(StepBlock {
        tokens: rows as u32,
        sequences: p.lengths.len() as u32,
        token_segments: groups.keys.len() as u32,
        number: p.dropout.step as u32,
        key: philox::key(p.dropout.dropout_seed),
        ..StepBlock::default()
    });
    let launcher = gpu.launcher();
    let spacious_list = |list: &[u32]| gpu.copy(&[list, &[u32::MAX; SPARE]].concat());
    let tokens = on_gpu::Tokens {
        count: count(Size::Tokens, rows + SPARE),
        width: d,
        ids: spacious_list(ids),
        position_ids: spacious_list(case.integers("positions")),
        items: gpu.store::<S>(&case.input("items")),
        positions: gpu.store(&case.input("positions")),
    };
    let norm = Norm {
        weight: gpu.copy(&case.input("norm_weight")),
        bias: gpu.copy(&case.input("norm_bias")),
        epsilon: p.layer_norm_eps as f32,
    };
    let rate = Rate::new(p.dropout.hidden_dropout);
    let dropout = HiddenDropout { site: EMBEDDING_SITE as u32, rate };
    let saved = NormSaved {
        normalized: spacious(&gpu, &vec![0.0; rows * d], d),
        rstd: spacious(&gpu, &vec![0.0; rows], 1),
    };
    let output = spacious::<S>(&gpu, &vec![0.0; rows * d], d);
    on_gpu::forward(launcher, tokens, norm, dropout, saved, output).unwrap();
    let gradient = spacious::<S>(&gpu, &case.input("upstream"), d);
    let partials = gpu.norm_partials(d);
    on_gpu::backward(launcher, tokens.count, d, norm, dropout, saved, gradient, partials).unwrap();
    used(&gpu, saved.normalized, rows * d);
    used(&gpu, saved.rstd, rows);

    let starts = p.lengths.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    let cu_seqlens: Vec<u32> = std::iter::once(0).chain(starts).collect();
    let sequences = count(Size::Sequences, p.lengths.len() + SPARE);
    let order = if case.name == "from_end" { Positions::FromEnd } else { Positions::Absolute };
    let d_positions = gpu.buffer(case.zeros("positions").len());
    let cu_seqlens = spacious_list(&cu_seqlens);
    let places = on_gpu::Places { sequences, cu_seqlens, positions: order };
    let d_items = gpu.copy(&case.zeros("items"));
    let groups = segments_on(&gpu, &groups, Size::TokenSegments);
    on_gpu::tables_backward(launcher, d, groups, places, gradient, d_items, d_positions).unwrap();
    used(&gpu, gradient, rows * d);
    Results::default()
        .out("y", used(&gpu, output, rows * d))
        .grad("norm_weight", gpu.sum(partials.weight))
        .grad("norm_bias", gpu.sum(partials.bias))
        .grad("positions", gpu.read(d_positions))
        .grad("items", gpu.read(d_items))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold("embedding", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("embedding", "cuda bf16", |case| Some(cuda::<bf16>(case)));
}

/// Segments of every length around those at which a warp and a block change over, added to what is there.
#[test]
fn cuda_scatter_takes_segments_of_any_length() {
    let d = 80;
    let lengths = [1, 2, 31, 32, 33, 63, 64, 65, 256, 257, 700];
    let keys: Vec<u32> = (2..).zip(lengths).flat_map(|(key, len)| vec![key; len]).collect();
    let tokens = keys.len();
    let sums = uniform(3, "sums", tokens * d, 1.0, 0.0);
    let before = uniform(3, "before", 20 * d, 1.0, 0.0);
    let mut expected = before.clone();
    let groups = segments(&keys);
    embedding::scatter(&groups, 0..groups.keys.len(), &sums, &mut expected, 0, d);
    let gpu =
        Gpu::new(StepBlock { token_segments: groups.keys.len() as u32, ..StepBlock::default() });
    let d_items = gpu.copy(&before);
    let d_sums = spacious::<f32>(&gpu, &sums, d);
    let groups = segments_on(&gpu, &groups, Size::TokenSegments);
    let d_positions = gpu.copy(&vec![1.0; 3 * d]);
    let places = no_sequences(&gpu);
    on_gpu::tables_backward(gpu.launcher(), d, groups, places, d_sums, d_items, d_positions)
        .unwrap();
    for (got, expected) in gpu.read(d_items).iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-4, "{got} instead of {expected}");
    }
    assert!(gpu.read(d_positions).iter().all(|&x| x == 0.0), "positions that no token stands at");
}

fn no_sequences(gpu: &Gpu) -> on_gpu::Places {
    on_gpu::Places {
        sequences: count(Size::Sequences, 1),
        cu_seqlens: gpu.copy(&[0u32, 0]),
        positions: Positions::Absolute,
    }
}

#[test]
fn cuda_refuses_widths_and_lengths() {
    let gpu = Gpu::new(StepBlock::default());
    let positions = |width: usize, len: usize| {
        let (sums, items) = (gpu.buffer::<f32>(4 * width), gpu.buffer(2 * width));
        let groups = on_gpu::Segments {
            count: count(Size::TokenSegments, 1),
            keys: gpu.copy(&[1]),
            offsets: gpu.copy(&[0, 4]),
            indices: gpu.copy(&[0, 1, 2, 3]),
        };
        let (places, gradient) = (no_sequences(&gpu), gpu.buffer(len));
        on_gpu::tables_backward(gpu.launcher(), width, groups, places, sums, items, gradient)
    };
    positions(16, 32).unwrap();
    for (width, len, named) in
        [(24, 48, "width 24"), (1040, 1040, "width 1040"), (16, 33, "no rows of 16")]
    {
        let error = positions(width, len).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
