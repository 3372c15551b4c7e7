//! The operations of the forward and the backward pass, each timed where a step calls it: lane by lane on all
//! threads, with the caches as they are then.

use super::Timed;
use super::work::Absorbed;
use crate::Result;
use crate::batch::Batch;
use crate::bench::rates::{median, pool};
use crate::config::ModelConfig;
use crate::cpu::absorbed_attention;
use crate::cpu::lane::{Piece, Purpose, Randomness, View};
use crate::cpu::passes::{Lane, Scratch};
use crate::model::activations::{
    ActivationGradients, Activations, EmbeddingActivations, HeadActivations, LayerActivations,
};
use crate::model::backward::backward;
use crate::model::forward::forward;
use crate::model::init::initial_parameters;
use crate::model::operations::Operations;
use crate::model::params::ParameterTable;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// Lanes a batch is cut into, as many as the engine has.
const LANES: usize = 16;

type Buffer = Vec<f32>;
/// Seconds of each operation.
type Clock = BTreeMap<&'static str, f64>;

/// A lane whose operations are timed.
struct TimedLane<'a> {
    lane: Lane<'a>,
    clock: &'a mut Clock,
}

impl<'a> TimedLane<'a> {
    fn time(&mut self, operation: &'static str, run: impl FnOnce(&mut Lane<'a>)) {
        let start = Instant::now();
        run(&mut self.lane);
        *self.clock.entry(operation).or_default() += start.elapsed().as_secs_f64();
    }
}

impl Operations for TimedLane<'_> {
    type Buffer = Buffer;

    fn embedding(&mut self, kept: &mut EmbeddingActivations<Buffer>) {
        self.time("embedding", |lane| lane.embedding(kept));
    }

    fn qkv(&mut self, layer: usize, input: &Buffer, kept: &mut LayerActivations<Buffer>) {
        let absorbs = self.lane.view.absorbs(layer);
        let operation = if absorbs { "absorbed_attention" } else { "qkv" };
        self.time(operation, |lane| lane.qkv(layer, input, kept));
    }

    fn attention(&mut self, layer: usize, kept: &mut LayerActivations<Buffer>) {
        self.time("attention", |lane| lane.attention(layer, kept));
    }

    fn projection(&mut self, layer: usize, input: &Buffer, kept: &mut LayerActivations<Buffer>) {
        self.time("projection", |lane| lane.projection(layer, input, kept));
    }

    fn ffn(&mut self, layer: usize, kept: &mut LayerActivations<Buffer>) {
        self.time("ffn", |lane| lane.ffn(layer, kept));
    }

    fn head(&mut self, input: &Buffer, kept: &mut HeadActivations<Buffer>) {
        self.time("head", |lane| lane.head(input, kept));
    }

    fn head_backward(
        &mut self,
        input: &Buffer,
        kept: &HeadActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.time("head_backward", |lane| lane.head_backward(input, kept, gradients));
    }

    fn ffn_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.time("ffn_backward", |lane| lane.ffn_backward(layer, kept, gradients));
    }

    fn projection_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.time("projection_backward", |lane| lane.projection_backward(layer, kept, gradients));
    }

    fn attention_backward(
        &mut self,
        layer: usize,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.time("attention_backward", |lane| lane.attention_backward(layer, kept, gradients));
    }

    fn qkv_backward(
        &mut self,
        layer: usize,
        input: &Buffer,
        kept: &LayerActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        let absorbs = self.lane.view.absorbs(layer);
        let operation = if absorbs { "absorbed_attention_backward" } else { "qkv_backward" };
        self.time(operation, |lane| lane.qkv_backward(layer, input, kept, gradients));
    }

    fn embedding_backward(
        &mut self,
        kept: &EmbeddingActivations<Buffer>,
        gradients: &mut ActivationGradients<Buffer>,
    ) {
        self.time("embedding_backward", |lane| lane.embedding_backward(kept, gradients));
    }
}

/// What a lane keeps from repeat to repeat.
struct Memory {
    piece: Piece,
    activations: Activations<Buffer>,
    gradients: ActivationGradients<Buffer>,
    dense: Buffer,
    d_tokens: Buffer,
    scratch: Scratch,
    clock: Clock,
}

/// Medians over `repeats` passes through all lanes; a lane's time is divided by the threads.
///
/// # Errors
/// Those of starting threads.
pub fn measure(
    model: &ModelConfig,
    batch: &Batch,
    items: usize,
    threads: usize,
    repeats: usize,
) -> Result<Vec<Timed>> {
    let table = ParameterTable::new(model, items);
    let parameters = initial_parameters(&table, model.initializer_range, 1);
    let mut lanes = lanes(model, &table, batch);
    let pool = pool(threads)?;
    let mut seconds: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for repeat in 0..=repeats {
        pool.install(|| {
            lanes.par_iter_mut().with_max_len(1).for_each(|memory| {
                pass(memory, model, &table, &parameters, batch);
            });
        });
        let mut sums = Clock::new();
        for lane in &mut lanes {
            for (operation, time) in std::mem::take(&mut lane.clock) {
                *sums.entry(operation).or_default() += time / threads as f64;
            }
        }
        // The first has buffers to make.
        for (operation, sum) in sums.into_iter().filter(|_| repeat > 0) {
            seconds.entry(operation).or_default().push(sum);
        }
    }
    let timed = |(operation, mut seconds): (&str, Vec<f64>)| Timed {
        operation: operation.to_string(),
        seconds: median(&mut seconds),
    };
    Ok(seconds.into_iter().map(timed).collect())
}

/// The sequences of each lane.
fn cuts(batch: &Batch) -> impl Iterator<Item = Range<usize>> + use<> {
    let sequences = batch.sequence_count();
    let cut = move |lane: usize| lane * sequences / LANES;
    (0..LANES).map(move |lane| cut(lane)..cut(lane + 1))
}

/// What the lanes have that do without keys and values in the last layer.
pub fn absorbed(model: &ModelConfig, batch: &Batch) -> Absorbed {
    let mut all = Absorbed::default();
    for sequences in cuts(batch) {
        let bounds = sequences.start..sequences.end + 1;
        let (tokens, rows) = (&batch.cu_seqlens[bounds.clone()], &batch.cu_rows[bounds]);
        if absorbed_attention::pays(tokens, rows, model.n_heads, model.hidden_size) {
            for (tokens, rows) in tokens.windows(2).zip(rows.windows(2)) {
                let [tokens, rows] = [tokens, rows].map(|pair| f64::from(pair[1] - pair[0]));
                all.tokens += tokens;
                all.rows += rows;
                all.pairs += tokens * rows;
            }
        }
    }
    all
}

fn lanes(model: &ModelConfig, table: &ParameterTable, batch: &Batch) -> Vec<Memory> {
    let memory = |sequences: Range<usize>| {
        let mut piece = Piece::default();
        piece.assign(batch, sequences);
        Memory {
            d_tokens: vec![0.0; piece.tokens.len() * model.hidden_size],
            piece,
            activations: Activations {
                layers: vec![LayerActivations::default(); model.n_layers],
                ..Activations::default()
            },
            gradients: ActivationGradients::default(),
            dense: vec![0.0; table.total - table.dense_start],
            scratch: Scratch::default(),
            clock: Clock::new(),
        }
    };
    cuts(batch).map(memory).filter(|lane| !lane.piece.sequences.is_empty()).collect()
}

fn pass(
    memory: &mut Memory,
    model: &ModelConfig,
    table: &ParameterTable,
    parameters: &[f32],
    batch: &Batch,
) {
    let Memory { piece, activations, gradients, dense, d_tokens, scratch, clock } = memory;
    let purpose = Purpose::Learn(Some(Randomness { seed: 1, step: 1 }));
    let view = View { model, table, parameters, batch, piece, purpose };
    let mut lane = TimedLane { lane: Lane { view, gradient: dense, d_tokens, scratch }, clock };
    forward(&mut lane, activations);
    // What the item softmax would have left there: any numbers of that size.
    gradients.head.clear();
    gradients.head.extend_from_slice(&activations.head.output);
    backward(&mut lane, activations, gradients);
}
