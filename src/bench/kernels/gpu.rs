//! CUDA kernels of a training step: the model's least times and, where a GPU is named, events around every launch
//! and replays of the whole step's graph.

use crate::batch::Batch;
use crate::bench::rates::median;
use crate::bench::roofline::{CHIPS, Shape, Work, step};
use crate::bench::workload::Workload;
use crate::config::ModelConfig;
use crate::cuda::batch::Capacity;
use crate::cuda::engine::CudaEngine;
use crate::cuda::machine;
use crate::model::engine::{Engine, Step};
use crate::{Error, Result};
use half::bf16;
use serde::Serialize;
use std::time::Instant;

/// Steps before those that are measured: the first is launched, the next two are captured.
const WARM_UP: u64 = 3;
/// What the last row is called.
const WHOLE: &str = "whole step";

/// A CUDA kernel, over a whole step.
#[derive(Serialize)]
pub struct Row {
    config: String,
    kernel: String,
    launches: usize,
    chip: &'static str,
    /// At the chip's peak rates.
    least_microseconds: f64,
    /// `None`: nothing was measured.
    microseconds: Option<f64>,
    /// Where the figures come from: `model`, or the GPU's name.
    from: String,
}

/// What a GPU took.
pub struct Measured {
    gpu: String,
    /// Kernels and seconds of the launches of each step, in the order of launches.
    steps: Vec<Vec<(String, f64)>>,
    /// Seconds of a replayed step, upload included.
    replay: f64,
}

/// Trains in bf16 on GPU `number`: first with events around the launches, then by replays.
///
/// # Errors
/// What is missing where there is no such GPU; those of the engine.
pub fn measure(
    number: u32,
    workload: &Workload,
    model: &ModelConfig,
    batch: &Batch,
    items: usize,
    repeats: usize,
) -> Result<Measured> {
    let (device, gpu) = machine::open(number, model).map_err(Error::from)?;
    let mut engine = CudaEngine::<bf16>::new(device, model, &workload.train(), items)?;
    engine.reserve_training(Capacity::of(batch))?;
    let mut next = 0;
    let mut train = |engine: &mut CudaEngine<bf16>| {
        next += 1;
        engine.train_step(batch, &Step { number: next, seed: 1, learning_rate: 1e-3 })
    };
    engine.use_graphs(false);
    train(&mut engine)?;
    engine.outcomes(true)?;
    let mut steps = Vec::new();
    for _ in 0..repeats.max(1) {
        engine.device().time_launches();
        train(&mut engine)?;
        steps.push(engine.device().launch_times()?);
        engine.outcomes(true)?;
    }
    engine.use_graphs(true);
    for _ in 0..WARM_UP {
        train(&mut engine)?;
    }
    engine.outcomes(true)?;
    let start = Instant::now();
    for _ in 0..repeats.max(1) {
        train(&mut engine)?;
        // Only what is at hand: the GPU is never waited for between steps.
        engine.outcomes(false)?;
    }
    engine.outcomes(true)?;
    let replay = start.elapsed().as_secs_f64() / repeats.max(1) as f64;
    Ok(Measured { gpu, steps, replay })
}

/// The model's kernels, with what was measured of each, and the whole step.
pub fn rows(
    workload: &Workload,
    shape: &Shape,
    chip: &str,
    measured: Option<&Measured>,
) -> Vec<Row> {
    let Some(chip) = CHIPS.iter().find(|known| known.name == chip) else { return Vec::new() };
    let from = measured.map_or("model", |measured| &measured.gpu);
    let works = step(shape);
    let row = |kernel: &str, launches, least, seconds: Option<f64>| Row {
        config: workload.name.clone(),
        kernel: kernel.to_string(),
        launches,
        chip: chip.name,
        least_microseconds: 1e6 * least,
        microseconds: seconds.map(|seconds| 1e6 * seconds),
        from: if seconds.is_some() { from } else { "model" }.to_string(),
    };
    let mut rows: Vec<Row> = works
        .iter()
        .map(|work| {
            let seconds = measured.and_then(|measured| measured.seconds(work.kernel, &works));
            row(work.kernel, work.launches, work.least_seconds(chip), seconds)
        })
        .collect();
    let launches = works.iter().map(|work| work.launches).sum();
    let least = works.iter().map(|work| work.least_seconds(chip)).sum();
    rows.push(row(WHOLE, launches, least, measured.map(|measured| measured.replay)));
    rows
}

impl Measured {
    /// Median over the steps of all launches of a kernel in one step.
    fn seconds(&self, kernel: &str, works: &[Work]) -> Option<f64> {
        let of_step = |launches: &Vec<(String, f64)>| -> Option<f64> {
            let own = launches.iter().filter(|(name, _)| name_in(works, name) == Some(kernel));
            let seconds: Vec<f64> = own.map(|(_, seconds)| *seconds).collect();
            (!seconds.is_empty()).then(|| seconds.iter().sum())
        };
        let mut steps: Vec<f64> = self.steps.iter().filter_map(of_step).collect();
        (!steps.is_empty()).then(|| median(&mut steps))
    }
}

/// The kernel of the model that a launched one is: without its class and storage, the longest name counts.
fn name_in(works: &[Work], launched: &str) -> Option<&'static str> {
    let names = works.iter().map(|work| work.kernel).filter(|name| launched.starts_with(name));
    names.max_by_key(|name| name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launched_kernels_are_found_in_the_model() {
        let workload = Workload { users: 20, ..Workload::preset("A").unwrap() };
        let works = step(&Shape::of(&workload).unwrap());
        for (launched, expected) in [
            ("item_softmax_rows_d64_bf16", "item_softmax_rows"),
            ("item_softmax_rows_combine_bf16", "item_softmax_rows_combine"),
            ("embedding_tables_bf16", "embedding_tables"),
            ("embedding_backward_d64_bf16", "embedding_backward"),
            ("adamw_update_bf16", "adamw_update"),
        ] {
            assert_eq!(name_in(&works, launched), Some(expected), "{launched}");
        }
        assert_eq!(name_in(&works, "rank_d64_bf16"), None);
    }
}
