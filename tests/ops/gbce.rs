//! Generalised binary cross-entropy over all items of a problem as the list, some of them the sample.

use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::fixture::{Case, Results, hold, hold_bf16, segments};
use b4r::cpu::engine::ItemSoftmax;
use b4r::cpu::gbce::{Negatives, Weighting};
use b4r::cpu::item_softmax::Problem;
use b4r::cuda::gbce as on_gpu;
use b4r::cuda::item_loss::{self, Scratch};
use b4r::cuda::memory::Storage;
use b4r::cuda::shortlist::List;
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    items: usize,
    gbce_t: f64,
}

/// `[V]` 1 for items of the sample.
fn sampled(case: &Case<Parameters>) -> Vec<f32> {
    let mut sampled = vec![0.0; case.parameters.items];
    case.integers("sample").iter().for_each(|&item| sampled[item as usize - 1] = 1.0);
    sampled
}

fn cpu(case: &Case<Parameters>) -> Results {
    let (rows, table, bias) = (case.input("rows"), case.input("table"), case.input("bias"));
    let (d, items) = (case.shape("rows")[1], case.parameters.items);
    let targets = case.integers("targets");
    let table = &table[d..(items + 1) * d];
    let problem = Problem { rows: &rows, targets, table, bias: &bias[1..] };
    let negatives = Negatives {
        sampled: &sampled(case),
        drawn: case.integers("sample").len(),
        catalogue: items,
        calibration: case.parameters.gbce_t,
    };
    let (mut d_table, mut d_bias) = (case.zeros("table"), case.zeros("bias"));
    let (d_items, d_item_bias) = (&mut d_table[d..(items + 1) * d], &mut d_bias[1..]);
    let mut softmax = ItemSoftmax::default();
    let groups = segments(targets);
    let loss = softmax.run_loss(&problem, Some(&negatives), &groups, d_items, d_item_bias);
    Results::default()
        .out("loss", [loss as f32])
        .grad("rows", softmax.d_rows)
        .grad("table", d_table)
        .grad("bias", d_bias)
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("gbce", "cpu", cpu);
}

/// With room for more rows and items, of which there must be no trace. Places in the list run against the items.
fn cuda<S: Storage>(case: &Case<Parameters>) -> Results {
    let [p, d] = *case.shape("rows") else { panic!("rows is a matrix") };
    let (most, items) = (p + SPARE, case.parameters.items);
    let room = items + SPARE;
    let step = StepBlock { rows: p as u32, items: items as u32, ..StepBlock::default() };
    let gpu = Gpu::new(step);
    let launcher = gpu.launcher();
    let nan = |len: usize| vec![f32::NAN; len];
    let offset = |&sampled: &f32| if sampled > 0.0 { 0.0 } else { f32::NEG_INFINITY };
    let offsets: Vec<f32> = sampled(case).iter().rev().map(offset).collect();
    let listed: Vec<u32> = (1..=items as u32).rev().collect();
    let (table, bias) = (case.input("table"), case.input("bias"));
    let listed_rows = table[d..(items + 1) * d].chunks(d).rev().flatten().copied();
    let listed_bias = bias[1..].iter().rev().zip(&offsets).map(|(bias, offset)| bias + offset);
    let place = |&target: &u32| items as u32 + 1 - target;
    let targets: Vec<u32> = case.integers("targets").iter().map(place).collect();
    let problem = item_loss::Problem {
        rows: count(Size::Rows, most),
        width: d,
        items: count(Size::Items, room),
        head: gpu.store::<S>(&[case.input("rows"), nan(SPARE * d)].concat()),
        targets: gpu.copy(&[&targets[..], &[u32::MAX; SPARE]].concat()),
        table: gpu.store(&[nan(d), listed_rows.collect(), nan((SPARE + 1) * d)].concat()),
        bias: gpu.copy(&[nan(1), listed_bias.collect(), nan(SPARE)].concat()),
    };
    let drawn = case.integers("sample").len();
    let weighting =
        [0, 1].map(|own| Weighting::new((drawn - own) as f64, items, case.parameters.gbce_t));
    let list = List {
        count: problem.items,
        items: gpu.copy(&[&listed[..], &[u32::MAX; SPARE]].concat()),
        offsets: gpu.copy(&[offsets, nan(SPARE)].concat()),
    };
    let negatives = on_gpu::Negatives { list, bias: gpu.copy(&bias), weighting };
    let splits = item_loss::splits(most, room, launcher.device.multiprocessors());
    let memory = gpu.buffer(item_loss::scratch_len(splits, most, d));
    let scratch = Scratch { memory, splits };
    let [factors, pulls, losses] = [(); 3].map(|()| gpu.copy(&nan(most)));
    let terms = on_gpu::Terms { factors, pulls };
    let d_head = gpu.store::<S>(&nan(most * d));
    let (d_table, d_bias) = (gpu.partials(problem.table.len), gpu.partials(problem.bias.len));
    on_gpu::forward(launcher, problem, negatives, scratch, terms, losses).unwrap();
    on_gpu::rows_backward(launcher, problem, terms, scratch, d_head).unwrap();
    on_gpu::table_backward(launcher, problem, terms, d_table, d_bias).unwrap();
    let used = |mut all: Vec<f32>, len: usize| {
        assert!(all.split_off(len).iter().all(|x| x.is_nan()), "written beyond the last row");
        all
    };
    let loss = used(gpu.read(losses), p).iter().map(|&x| f64::from(x)).sum::<f64>() / p as f64;
    // PAD and MASK have the same gradient: none.
    let (d_table, d_bias) = (gpu.sum_of(d_table, (items + 2) * d), gpu.sum_of(d_bias, items + 1));
    let d_table: Vec<f32> = d_table.chunks(d).rev().flatten().copied().collect();
    let d_item_bias: Vec<f32> = d_bias[1..].iter().rev().copied().collect();
    Results::default()
        .out("loss", [loss as f32])
        .grad("rows", used(gpu.load(d_head), p * d))
        .grad("table", d_table)
        .grad("bias", [&d_bias[..1], &d_item_bias].concat())
}

#[test]
pub fn cuda_f32_agrees_with_pytorch() {
    hold("gbce", "cuda f32", cuda::<f32>);
}

#[test]
pub fn cuda_bf16_agrees_with_pytorch() {
    hold_bf16("gbce", "cuda bf16", |case| Some(cuda::<bf16>(case)));
}

/// A target that is not in the list has no loss, and so no step comes of it.
#[test]
fn cuda_gives_no_loss_to_a_target_that_is_not_listed() {
    let (d, items) = (16, 3);
    let gpu = Gpu::new(StepBlock { rows: 2, items: items as u32, ..StepBlock::default() });
    let problem = item_loss::Problem {
        rows: count(Size::Rows, 2),
        width: d,
        items: count(Size::Items, items),
        head: gpu.store::<f32>(&vec![0.5; 2 * d]),
        targets: gpu.copy(&[1, 4]),
        table: gpu.store(&vec![0.5; (items + 2) * d]),
        bias: gpu.copy(&[0.0; 4]),
    };
    let list =
        List { count: problem.items, items: gpu.copy(&[1, 2, 3]), offsets: gpu.copy(&[0.0; 3]) };
    let weighting = [Weighting::new(3.0, 10, 0.5), Weighting::new(2.0, 10, 0.5)];
    let negatives = on_gpu::Negatives { list, bias: problem.bias, weighting };
    let scratch = Scratch { memory: gpu.buffer(item_loss::scratch_len(1, 2, d)), splits: 1 };
    let terms = on_gpu::Terms { factors: gpu.buffer(2), pulls: gpu.buffer(2) };
    let losses = gpu.buffer(2);
    on_gpu::forward(gpu.launcher(), problem, negatives, scratch, terms, losses).unwrap();
    let losses = gpu.read(losses);
    assert!(losses[0].is_finite() && losses[1].is_nan(), "{losses:?}");
}
