//! Cross-entropy over all items, up to 60,000; one target 500 times.

use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Results, hold, hold_bf16, hold_taken, segments};
use b4r::cpu::engine::ItemSoftmax;
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::tiles::{TILE_ITEMS, Tiling};
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

/// In the engine's own chunks or in chunks of one tile's rows.
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
    let mut tiling = Tiling::new(p, items);
    if small_chunks {
        tiling.chunk_rows = tiling.tile_rows();
    }
    let (mut d_table, mut d_bias) = (case.zeros("table"), case.zeros("bias"));
    let (d_items, d_item_bias) = (&mut d_table[d..(items + 1) * d], &mut d_bias[1..]);
    // What an earlier step left must not matter.
    d_items.fill(f32::NAN);
    d_item_bias.fill(f32::NAN);
    let (targets, mut softmax) = (segments(problem.targets), ItemSoftmax::default());
    let loss = softmax.run_tiled(&problem, None, tiling, &targets, d_items, d_item_bias);
    Results::default()
        .out("loss", [loss as f32])
        .grad("rows", softmax.d_rows)
        .grad("table", d_table)
        .grad("bias", d_bias)
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
