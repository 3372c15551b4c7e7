//! Scores of all items and the target's rank among those not seen.

use super::top_k::seen_on;
use crate::util::cuda::{Gpu, count};
use crate::util::draw::uniform;
use crate::util::fixture::{Case, Results, cases, hold};
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::rank::{products, ranks};
use b4r::cuda::memory::Storage;
use b4r::cuda::step::{Size, StepBlock};
use b4r::cuda::{item_loss as on_gpu, rank as gpu_rank};
use half::bf16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {
    items: usize,
}

/// `[P, V]`
fn cpu_scores(case: &Case<Parameters>) -> Vec<f32> {
    let (rows, table, bias) = (case.input("rows"), case.input("table"), case.input("bias"));
    let d = case.shape("rows")[1];
    let problem = Problem {
        rows: &rows,
        targets: case.integers("targets"),
        table: &table[d..(case.parameters.items + 1) * d],
        bias: &bias[1..],
    };
    let mut out = Vec::new();
    products(&problem, &mut out);
    let rows = problem.targets.len();
    let of_row = |row| {
        let products = out.chunks_exact(rows).map(move |item: &[f32]| item[row]);
        products.zip(problem.bias).map(|(product, bias)| product + bias)
    };
    (0..rows).flat_map(of_row).collect()
}

#[test]
fn cpu_scores_agree_with_pytorch() {
    hold("rank", "cpu", |case| Results::default().out("scores", cpu_scores(case)));
}

#[test]
fn cpu_ranks_agree_with_pytorch() {
    for case in cases::<Parameters>("rank") {
        assert_eq!(Ranking::of(&case).on_cpu(), case.integers("ranks"), "{}", case.name);
    }
}

/// Rows, items and what each row has seen.
struct Ranking {
    rows: Vec<f32>,
    table: Vec<f32>,
    bias: Vec<f32>,
    targets: Vec<u32>,
    seen: Vec<Vec<u32>>,
    d: usize,
    items: usize,
}

impl Ranking {
    fn of(case: &Case<Parameters>) -> Self {
        let mut rest = case.integers("seen");
        let lists = case.integers("seen_counts").iter().map(|&count| {
            let (own, others) = rest.split_at(count as usize);
            rest = others;
            own.to_vec()
        });
        Ranking {
            seen: lists.collect(),
            rows: case.input("rows"),
            table: case.input("table"),
            bias: case.input("bias"),
            targets: case.integers("targets").to_vec(),
            d: case.shape("rows")[1],
            items: case.parameters.items,
        }
    }

    /// Of whole numbers, so that scores are exact in any order of sums and in bf16, and many are equal.
    fn new(rows: usize, items: usize, d: usize) -> Self {
        let whole = |name: &str, count: usize| -> Vec<f32> {
            uniform(9, name, count, 2.0, 0.0).into_iter().map(f32::round).collect()
        };
        let mut table = whole("table", (items + 2) * d);
        // MASK would win everywhere.
        table[(items + 1) * d..].fill(100.0);
        let seen = |row: usize| (1..=items as u32).skip(row % 7).step_by(1 + row % 5);
        Ranking {
            rows: whole("rows", rows * d),
            table,
            bias: whole("bias", items + 1),
            targets: (0..rows).map(|row| 1 + (row * 37 % items) as u32).collect(),
            seen: (0..rows).map(|row| seen(row).take(row * 3 % 100).collect()).collect(),
            d,
            items,
        }
    }

    fn on_cpu(&self) -> Vec<u32> {
        let problem = Problem {
            rows: &self.rows,
            targets: &self.targets,
            table: &self.table[self.d..(self.items + 1) * self.d],
            bias: &self.bias[1..],
        };
        let seen: Vec<&[u32]> = self.seen.iter().map(Vec::as_slice).collect();
        let mut found = vec![0; self.targets.len()];
        ranks(&problem, &seen, &mut Vec::new(), &mut found);
        found
    }

    fn on_gpu<S: Storage>(&self) -> Vec<u32> {
        const SPARE: usize = 70;
        let rows = self.targets.len();
        let most = rows + SPARE;
        let step =
            StepBlock { rows: rows as u32, items: self.items as u32, ..StepBlock::default() };
        let gpu = Gpu::new(step);
        let problem = on_gpu::Problem {
            rows: count(Size::Rows, most),
            width: self.d,
            items: count(Size::Items, self.items),
            head: gpu.store::<S>(&[&self.rows[..], &vec![f32::NAN; SPARE * self.d]].concat()),
            targets: gpu.copy(&[&self.targets[..], &[u32::MAX; SPARE]].concat()),
            table: gpu.store(&self.table),
            bias: gpu.copy(&self.bias),
        };
        let ranks = gpu.copy(&vec![12_345u32; most]);
        let seen = seen_on(&gpu, &self.seen, SPARE);
        gpu_rank::rank(gpu.launcher(), problem, seen, ranks).unwrap();
        let mut ranks = gpu.read(ranks);
        assert!(ranks.split_off(rows).iter().all(|&rank| rank == 12_345));
        ranks
    }
}

/// Ties, seen targets, and every class of kernels.
fn cuda_agrees_with_cpu<S: Storage>() {
    let mut seen_targets = 0;
    for (rows, items, d) in
        [(1, 1, 16), (70, 127, 48), (33, 3417, 64), (65, 200, 128), (5, 130, 256), (40, 129, 272)]
    {
        let whole = Ranking::new(rows, items, d);
        let expected = whole.on_cpu();
        assert_eq!(whole.on_gpu::<S>(), expected, "{rows} rows, {items} items, D {d}");
        seen_targets += expected.iter().filter(|&&rank| rank == u32::MAX).count();
    }
    assert!(seen_targets > 0);
}

#[test]
pub fn cuda_f32_agrees_with_cpu() {
    cuda_agrees_with_cpu::<f32>();
}

#[test]
pub fn cuda_bf16_agrees_with_cpu() {
    cuda_agrees_with_cpu::<bf16>();
}

#[test]
pub fn cuda_f32_ranks_agree_with_pytorch() {
    for case in cases::<Parameters>("rank") {
        assert_eq!(Ranking::of(&case).on_gpu::<f32>(), case.integers("ranks"), "{}", case.name);
    }
}

/// As on the CPU: NaN stands before every target, and a target that is NaN is last.
#[test]
fn cuda_nan_counts_against_the_target() {
    let mut whole = Ranking::new(4, 100, 16);
    whole.seen = vec![vec![], vec![3], vec![], vec![3, 50]];
    whole.targets = vec![50, 51, 3, 4];
    whole.table[3 * 16] = f32::NAN;
    let expected = whole.on_cpu();
    assert_eq!(expected[2], 100);
    assert_eq!(whole.on_gpu::<f32>(), expected);
}
