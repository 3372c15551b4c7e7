//! Operations that the engine runs over a whole batch, or over the arena, on all threads.

use super::Timed;
use crate::Result;
use crate::batch::Batch;
use crate::bench::rates::{median_seconds, pool};
use crate::config::{ModelConfig, TrainConfig};
use crate::cpu::adamw::{self, AdamW};
use crate::cpu::engine::{ItemSoftmax, span};
use crate::cpu::item_softmax::Problem;
use crate::cpu::layernorm::{self, Norm, NormGradient};
use crate::cpu::{embedding, rank, top_k};
use crate::model::init::initial_parameters;
use crate::model::params::ParameterTable;
use rayon::prelude::*;

/// Elements of the arena that one task takes.
const BLOCK: usize = 1 << 15;
/// Items that `top_k` finds.
const K: usize = 10;

/// Numbers between -0.5 and 0.5 without a pattern that could help anyone.
fn numbers(count: usize) -> Vec<f32> {
    let number = |i: u32| i.wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
    (0..count).map(|i| number(i as u32)).collect()
}

/// Medians over `repeats`.
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
    let d = model.hidden_size;
    let rows = numbers(batch.row_count() * d);
    let first = table.output_table().start + d;
    let problem = Problem {
        rows: &rows,
        targets: &batch.targets,
        table: &parameters[first..first + items * d],
        bias: &parameters[table.output_bias.start + 1..table.output_bias.end],
    };
    let pool = pool(threads)?;
    pool.install(|| {
        let mut timed = vec![
            item_softmax(&problem, batch, repeats),
            scatter(batch, items, d, repeats),
            ranks(&problem, repeats),
            best(&problem, repeats),
        ];
        timed.extend(norms(batch.token_count(), d, repeats));
        timed.extend(optimizer(&parameters, repeats));
        Ok(timed)
    })
}

fn timed(operation: &str, repeats: usize, work: impl FnMut()) -> Timed {
    Timed { operation: operation.to_string(), seconds: median_seconds(repeats, work) }
}

fn item_softmax(problem: &Problem, batch: &Batch, repeats: usize) -> Timed {
    let mut softmax = ItemSoftmax::default();
    let (mut d_table, mut d_bias) = (vec![0.0; problem.table.len()], vec![0.0; problem.items()]);
    timed("item_softmax", repeats, || {
        softmax.run(problem, &batch.target_segments, &mut d_table, &mut d_bias);
    })
}

fn scatter(batch: &Batch, items: usize, d: usize, repeats: usize) -> Timed {
    let (d_tokens, mut d_items) = (numbers(batch.token_count() * d), vec![0.0; (items + 2) * d]);
    let segments = &batch.token_segments;
    timed("embedding_scatter", repeats, || {
        d_items.par_chunks_mut(64 * d).enumerate().for_each(|(block, out)| {
            let bound = |row: usize| segments.keys.partition_point(|&key| (key as usize) < row);
            let keys = bound(block * 64)..bound(block * 64 + out.len() / d);
            embedding::scatter(segments, keys, &d_tokens, out, block * 64, d);
        });
    })
}

fn ranks(problem: &Problem, repeats: usize) -> Timed {
    let d = problem.width();
    let at_once = rank::rows_at_once(problem.items());
    let mut ranks = vec![0; problem.targets.len()];
    timed("rank", repeats, || {
        let blocks = ranks.par_chunks_mut(at_once).zip(problem.rows.par_chunks(at_once * d));
        blocks.zip(problem.targets.par_chunks(at_once)).for_each_init(
            Vec::new,
            |products, ((out, rows), targets)| {
                let problem = Problem { rows, targets, ..*problem };
                rank::ranks(&problem, &vec![&[][..]; out.len()], products, out);
            },
        );
    })
}

fn best(problem: &Problem, repeats: usize) -> Timed {
    let (d, items) = (problem.width(), problem.items());
    let seen: Vec<&[u32]> = vec![&[]; top_k::TILE_ROWS];
    let tiles: Vec<&[f32]> = problem.rows.chunks(top_k::TILE_ROWS * d).collect();
    let span = span(tiles.len(), items);
    let blocks = items.div_ceil(span);
    timed("top_k", repeats, || {
        (0..tiles.len() * blocks).into_par_iter().with_max_len(1).for_each_init(
            Vec::new,
            |scores, number| {
                let rows = tiles[number / blocks];
                let start = number % blocks * span;
                let range = start..(start + span).min(items);
                let seen = &seen[..rows.len() / d];
                // Scores of initial weights are finite.
                let _ = top_k::top_k(&Problem { rows, ..*problem }, range, seen, K, scores);
            },
        );
    })
}

fn norms(tokens: usize, d: usize, repeats: usize) -> [Timed; 2] {
    let (gamma, beta) = (vec![1.0; d], vec![0.0; d]);
    let norm = Norm { weight: &gamma, bias: &beta, epsilon: 1e-12 };
    let chunk = d * tokens.div_ceil(8 * rayon::current_num_threads()).max(1);
    let (x, mut z, mut out) = (numbers(tokens * d), vec![0.0; tokens * d], vec![0.0; tokens * d]);
    let (mut rstd, rows) = (vec![0.0; tokens], chunk / d);
    let forward = timed("layernorm", repeats, || {
        let kept = z.par_chunks_mut(chunk).zip(rstd.par_chunks_mut(rows));
        kept.zip(x.par_chunks(chunk).zip(out.par_chunks_mut(chunk))).for_each(
            |((z, rstd), (x, out))| {
                layernorm::forward_rows(&norm, x, z, rstd, out);
            },
        );
    });
    // So that gradients which are made again and again do not grow.
    rstd.fill(1.0);
    let backward = timed("layernorm_backward", repeats, || {
        let kept = z.par_chunks(chunk).zip(rstd.par_chunks(rows));
        out.par_chunks_mut(chunk).zip(kept).for_each(|(dy, (normalized, rstd))| {
            let (mut dgamma, mut dbeta) = (vec![0.0; d], vec![0.0; d]);
            let mut gradient = NormGradient { weight: &mut dgamma, bias: &mut dbeta };
            layernorm::backward_rows(&norm, &mut gradient, normalized, rstd, dy);
        });
    });
    [forward, backward]
}

fn optimizer(parameters: &[f32], repeats: usize) -> [Timed; 2] {
    let config = TrainConfig::default();
    let adamw = AdamW::new(1, 1e-3, (config.beta1, config.beta2), config.epsilon, 1.0);
    let (mut p, g) = (parameters.to_vec(), numbers(parameters.len()));
    let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    let update = timed("adamw", repeats, || {
        let moments = m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK));
        let blocks = p.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).zip(moments);
        blocks.for_each(|((p, g), (m, v))| adamw.update(0.01, p, g, m, v));
    });
    let norm = timed("gradient_norm", repeats, || {
        let sum: f64 = g.par_chunks(BLOCK).map(adamw::squared_norm).sum();
        std::hint::black_box(sum);
    });
    [update, norm]
}
