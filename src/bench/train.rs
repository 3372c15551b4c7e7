//! Real tokens a second of whole training steps: loading, masking, optimizer included.

use super::presets::Preset;
use crate::batch::TrainingBatches;
use crate::batch::loader::prefetch;
use crate::cpu::CpuEngine;
use crate::model::engine::{Engine, Step};
use crate::{Result, memory};
use std::sync::Arc;
use std::time::Instant;

/// Steps before those that are measured.
const WARM_UP: u64 = 3;

/// Measures `steps` steps of the preset `name` on the CPU and prints a line.
///
/// # Errors
/// [`crate::Error::Config`] for an unknown preset; those of the engine.
pub fn train(name: &str, threads: usize, steps: u64, attention_dropout: f64) -> Result<()> {
    let preset = Preset::find(name)?;
    let (sequences, split) = preset.data();
    let (model, config) = (preset.model(attention_dropout), preset.train());
    let (sequences, split) = (Arc::new(sequences), Arc::new(split));
    let source = Arc::new(TrainingBatches::new(sequences, split, preset.items, &model, &config)?);
    let mut engine = CpuEngine::new(&model, &config, preset.items, threads)?;
    let (mut seconds, mut tokens, mut rows, mut number, mut epoch) = (Vec::new(), 0, 0, 0, 0);
    let mut loss = 0.0;
    while (seconds.len() as u64) < steps {
        let mut loader = prefetch(source.clone(), epoch, 0)?;
        epoch += 1;
        loop {
            let start = Instant::now();
            let Some(batch) = loader.next() else { break };
            number += 1;
            engine.train_step(&batch, &Step { number, seed: 1, learning_rate: 1e-3 })?;
            for outcome in engine.outcomes(false)? {
                loss = outcome.loss;
            }
            if number > WARM_UP {
                seconds.push(start.elapsed().as_secs_f64());
                tokens += batch.token_count();
                rows += batch.row_count();
            }
            loader.recycle(batch);
            if seconds.len() as u64 == steps {
                break;
            }
        }
    }
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{name} threads {threads} attention dropout {attention_dropout}: {:.1} ms/step (median), {:.0} tokens/s, \
         {} tokens and {} rows a step, loss {loss:.4}, peak {} MiB",
        1e3 * seconds[seconds.len() / 2],
        tokens as f64 / total,
        tokens / seconds.len(),
        rows / seconds.len(),
        memory::peak_resident() >> 20,
    );
    Ok(())
}
