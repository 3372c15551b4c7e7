//! Cross-entropy over all items, up to 60,000; one target 500 times.

use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Results, hold, hold_bf16, hold_taken, segments};
use b4r::cpu::gemm::Into;
use b4r::cpu::item_softmax::{
    Chunk, Problem, TILE_ITEMS, Tiling, combine, exponentials, item_gradient, row_gradient,
    subtract_targets,
};
use b4r::cuda::item_loss::{self, Scratch};
use b4r::cuda::item_softmax as on_gpu;
use b4r::cuda::memory::Storage;
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    items: usize,
}

/// The operation as a single thread runs it, in the engine's own chunks or in chunks of one tile's rows.
fn cpu(case: &Case<Parameters>, small_chunks: bool) -> Results {
    let (rows, table, bias) = (case.input("rows"), case.input("table"), case.input("bias"));
    let [p, d] = *case.shape("rows") else { panic!("rows is a matrix") };
    let items = case.parameters.items;
    let problem = Problem {
        rows: &rows,
        targets: case.integers("targets"),
        table: &table[d..(items + 1) * d],
        bias: &bias[1..],
    };
    let pulls = vec![problem.weight(); p];
    let mut tiling = Tiling::new(p, items);
    if small_chunks {
        tiling.chunk_rows = tiling.tile_rows();
    }
    let (mut d_rows, mut d_table, mut d_bias) =
        (vec![f32::NAN; p * d], case.zeros("table"), case.zeros("bias"));
    let (d_items, d_item_bias) = (&mut d_table[d..(items + 1) * d], &mut d_bias[1..]);
    let mut loss = 0.0;
    for start in (0..p).step_by(tiling.chunk_rows) {
        let end = (start + tiling.chunk_rows).min(p);
        let mut memory = ChunkMemory::new(&tiling, end - start);
        loss += fill(&problem, tiling, start..end, &mut memory);
        let chunk = memory.chunk(tiling, (start, end));
        for block in 0..tiling.item_blocks() {
            let range = tiling.block_items(block);
            let into = if start == 0 { Into::Assign } else { Into::Add };
            let d_table = &mut d_items[range.start * d..range.end * d];
            let d_bias = &mut d_item_bias[range];
            item_gradient(&problem, &chunk, block, into, &mut Vec::new(), d_table, d_bias);
        }
        let d_chunk = &mut d_rows[start * d..end * d];
        for (task, d_rows) in d_chunk.chunks_mut(tiling.task_rows() * d).enumerate() {
            let first = start + task * tiling.task_rows();
            let rows = first..first + d_rows.len() / d;
            row_gradient(&problem, &pulls, &chunk, rows, &mut Vec::new(), d_rows);
        }
    }
    let targets = segments(problem.targets);
    subtract_targets(&problem, &pulls, &targets, 0..items, d_items, d_item_bias);
    Results::default()
        .out("loss", [(loss / p as f64) as f32])
        .grad("rows", d_rows)
        .grad("table", d_table)
        .grad("bias", d_bias)
}

struct ChunkMemory {
    tiles: Vec<f32>,
    factors: Vec<f32>,
    sums: Vec<f32>,
}

impl ChunkMemory {
    fn new(tiling: &Tiling, rows: usize) -> Self {
        let tiles = rows.div_ceil(tiling.tile_rows()) * tiling.item_blocks();
        ChunkMemory {
            tiles: vec![f32::NAN; tiles * tiling.tile_len()],
            factors: vec![f32::NAN; tiles * tiling.tile_rows()],
            sums: vec![f32::NAN; tiles * tiling.tile_rows()],
        }
    }

    fn chunk(&self, tiling: Tiling, rows: (usize, usize)) -> Chunk<'_> {
        Chunk { tiling, rows, tiles: &self.tiles, factors: &self.factors }
    }
}

/// Fills a chunk's tiles and returns the sum of its losses.
fn fill(
    problem: &Problem,
    tiling: Tiling,
    rows: std::ops::Range<usize>,
    memory: &mut ChunkMemory,
) -> f64 {
    let (step, blocks) = (tiling.tile_rows(), tiling.item_blocks());
    let mut loss = 0.0;
    for (index, start) in rows.clone().step_by(step).enumerate() {
        let block = start..(start + step).min(rows.end);
        for item_block in 0..blocks {
            let number = index * blocks + item_block;
            let tile = &mut memory.tiles[number * tiling.tile_len()..][..tiling.tile_len()];
            let maxima = &mut memory.factors[number * step..][..step];
            let sums = &mut memory.sums[number * step..][..step];
            let items = tiling.block_items(item_block);
            exponentials(problem, block.clone(), items, tile, maxima, sums);
        }
        let maxima = &mut memory.factors[index * blocks * step..][..blocks * step];
        let sums = &memory.sums[index * blocks * step..][..blocks * step];
        loss += combine(problem, step, block, maxima, sums);
    }
    loss
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("item_softmax", "cpu", |case| cpu(case, false));
}

#[test]
fn cpu_agrees_with_pytorch_in_small_chunks() {
    hold("item_softmax", "cpu, small chunks", |case| cpu(case, true));
    const { assert!(TILE_ITEMS < 3417, "no case would have several tiles") };
}

/// With room for [`SPARE`] more rows and `spare_items` more items, of which there must be no trace.
fn cuda<S: Storage>(case: &Case<Parameters>, spare_items: usize) -> Results {
    let [p, d] = *case.shape("rows") else { panic!("rows is a matrix") };
    let (most, items) = (p + SPARE, case.parameters.items);
    let step = StepBlock { rows: p as u32, items: items as u32, ..StepBlock::default() };
    let gpu = Gpu::new(step);
    let launcher = gpu.launcher();
    let nan = |len: usize| vec![f32::NAN; len];
    let problem = item_loss::Problem {
        rows: count(Size::Rows, most),
        width: d,
        items: count(Size::Items, items + spare_items),
        head: gpu.store::<S>(&[case.input("rows"), nan(SPARE * d)].concat()),
        targets: gpu.copy(&[case.integers("targets"), &[u32::MAX; SPARE]].concat()),
        table: gpu.store(&[case.input("table"), nan(spare_items * d)].concat()),
        bias: gpu.copy(&[case.input("bias"), nan(spare_items)].concat()),
    };
    let multiprocessors = launcher.device.multiprocessors();
    let splits = item_loss::splits(most, problem.items.most, multiprocessors);
    let memory = gpu.buffer(item_loss::scratch_len(splits, most, d));
    let scratch = Scratch { memory, splits };
    let [log_sum_exp, losses] = [(); 2].map(|()| gpu.copy(&nan(most)));
    let d_head = gpu.store::<S>(&nan(most * d));
    let (d_table, d_bias) = (gpu.partials(problem.table.len), gpu.partials(problem.bias.len));
    on_gpu::forward(launcher, problem, scratch, log_sum_exp, losses).unwrap();
    on_gpu::rows_backward(launcher, problem, log_sum_exp, scratch, d_head).unwrap();
    on_gpu::table_backward(launcher, problem, log_sum_exp, d_table, d_bias).unwrap();
    let used = |mut all: Vec<f32>, len: usize| {
        assert!(all.split_off(len).iter().all(|x| x.is_nan()), "written beyond the last row");
        all
    };
    used(gpu.read(log_sum_exp), p);
    let loss = used(gpu.read(losses), p).iter().map(|&x| f64::from(x)).sum::<f64>() / p as f64;
    Results::default()
        .out("loss", [loss as f32])
        .grad("rows", used(gpu.load(d_head), p * d))
        .grad("table", gpu.sum_of(d_table, (items + 2) * d))
        .grad("bias", gpu.sum_of(d_bias, items + 1))
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold("item_softmax", "cuda f32", |case| cuda::<f32>(case, 0));
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("item_softmax", "cuda bf16", |case| Some(cuda::<bf16>(case, 0)));
}

/// As where the items are a shortlist, whose length changes from step to step.
#[test]
fn fewer_items_than_there_is_room_for() {
    let small = |case: &Case<Parameters>| case.parameters.items < 4000;
    hold_taken("item_softmax", "cuda f32, room for more items", |case| {
        small(case).then(|| cuda::<f32>(case, SPARE))
    });
    hold_bf16("item_softmax", "cuda bf16, room for more items", |case| {
        small(case).then(|| cuda::<bf16>(case, SPARE))
    });
}
