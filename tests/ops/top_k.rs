//! The best items of each row against a plain sort of all scores.

use crate::util::cuda::{Gpu, count};
use crate::util::draw::uniform;
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::top_k::{Best, Entry, TILE_ITEMS, top_k};
use b4r::cuda::item_loss as on_gpu;
use b4r::cuda::memory::Storage;
use b4r::cuda::rank::Seen;
use b4r::cuda::step::{Size, StepBlock};
use b4r::cuda::top_k as gpu_top_k;
use half::bf16;

/// Small whole numbers: sums are exact in any order, and many scores are equal.
fn whole_numbers(seed: u64, name: &str, count: usize) -> Vec<f32> {
    uniform(seed, name, count, 3.0, 0.0).into_iter().map(f32::round).collect()
}

/// Scores of one row, sorted by score, then by item.
fn naive(problem: &Problem, row: usize, seen: &[u32], k: usize) -> Vec<Entry> {
    let d = problem.width();
    let row = &problem.rows[row * d..][..d];
    let mut entries: Vec<Entry> = (1..=problem.items() as u32)
        .filter(|item| !seen.contains(item))
        .map(|item| {
            let vector = &problem.table[(item as usize - 1) * d..][..d];
            let product: f32 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
            Entry { item, score: product + problem.bias[item as usize - 1] }
        })
        .filter(|entry| entry.score != f32::NEG_INFINITY)
        .collect();
    entries.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap());
    entries.truncate(k);
    entries
}

#[test]
fn cpu_agrees_with_a_plain_sort() {
    for (seed, items) in [1, 15, 16, 17, 127, TILE_ITEMS, TILE_ITEMS + 3].into_iter().enumerate() {
        let (seed, d, rows) = (seed as u64, 8, 5);
        let table = whole_numbers(seed, "table", items * d);
        let h = whole_numbers(seed, "rows", rows * d);
        let mut bias = whole_numbers(seed, "bias", items);
        // Left out for all rows; the others each have their own list of seen items.
        bias.iter_mut().step_by(5).skip(1).for_each(|bias| *bias = f32::NEG_INFINITY);
        let problem = Problem { rows: &h, targets: &[], table: &table, bias: &bias };
        let seen: Vec<Vec<u32>> = (0..rows)
            .map(|row| (1..=items as u32).skip(row).step_by(row + 2).take(40).collect())
            .collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        for k in [1, 10, items, items + 5] {
            let parts = [0..items / 3, items / 3..items];
            let mut best: Vec<Best> = (0..rows).map(|_| Best::new(k)).collect();
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                let of_part = top_k(&problem, part, &seen, k, &mut Vec::new()).unwrap();
                best.iter_mut().zip(of_part).for_each(|(best, part)| best.merge(part));
            }
            let whole = top_k(&problem, 0..items, &seen, k, &mut Vec::new()).unwrap();
            for (row, (whole, merged)) in whole.into_iter().zip(best).enumerate() {
                let expected = naive(&problem, row, seen[row], k);
                assert_eq!(whole.into_sorted(), expected, "{items} items, k {k}, row {row}");
                assert_eq!(merged.into_sorted(), expected, "{items} items in parts, k {k}");
            }
        }
    }
}

/// Lists of seen items on the device, with `spare` more offsets.
pub fn seen_on(gpu: &Gpu, seen: &[Vec<u32>], spare: usize) -> Seen {
    let mut offsets = vec![0];
    offsets.extend(seen.iter().scan(0, |end, list| {
        *end += list.len() as u32;
        Some(*end)
    }));
    offsets.extend(vec![u32::MAX; spare]);
    Seen { offsets: gpu.copy(&offsets), items: gpu.copy(&seen.concat()) }
}

/// The best of each row; `None` where a score is not finite.
fn on_gpu<S: Storage>(
    rows: &[f32],
    table: &[f32],
    bias: &[f32],
    seen: &[Vec<u32>],
    k: usize,
) -> Vec<Option<Vec<Entry>>> {
    const SPARE: usize = 70;
    let (d, most) = (rows.len() / seen.len(), seen.len() + SPARE);
    let gpu = Gpu::new(StepBlock {
        rows: seen.len() as u32,
        items: bias.len() as u32,
        ..StepBlock::default()
    });
    let ends = vec![100.0; d];
    let problem = on_gpu::Problem {
        rows: count(Size::Rows, most),
        width: d,
        items: count(Size::Items, bias.len()),
        head: gpu.store::<S>(&[rows, &vec![f32::NAN; SPARE * d]].concat()),
        targets: gpu.buffer(0),
        // PAD and MASK would win everywhere.
        table: gpu.store(&[&ends, table, &ends].concat()),
        bias: gpu.copy(&[&[100.0], bias].concat()),
    };
    let scratch = gpu.buffer(gpu_top_k::top_k_scratch_len(most, bias.len()));
    let (items, scores) = (gpu.copy(&vec![77u32; most * k]), gpu.copy(&vec![7.5f32; most * k]));
    let lists = seen_on(&gpu, seen, SPARE);
    gpu_top_k::top_k(gpu.launcher(), problem, lists, k, scratch, items, scores).unwrap();
    let (mut items, mut scores) = (gpu.read(items), gpu.read(scores));
    assert!(items.split_off(seen.len() * k).iter().all(|&item| item == 77));
    assert!(scores.split_off(seen.len() * k).iter().all(|&score| score == 7.5));
    let of_row = |(items, scores): (&[u32], &[f32])| {
        let pairs = items.iter().zip(scores).map(|(&item, &score)| Entry { item, score });
        let (found, rest): (Vec<_>, Vec<_>) = pairs.partition(|entry| entry.item > 0);
        let filled = rest.iter().all(|entry| entry.score == f32::NEG_INFINITY);
        filled.then_some(found)
    };
    items.chunks(k).zip(scores.chunks(k)).map(of_row).collect()
}

/// Many ties, and so many rising scores that lists run over again and again.
fn cuda_agrees_with_a_plain_sort<S: Storage>() {
    for (seed, (items, d)) in
        [(1, 16), (15, 48), (127, 64), (1100, 64), (2500, 16), (130, 128), (129, 256), (65, 272)]
            .into_iter()
            .enumerate()
    {
        let (seed, rows) = (seed as u64, 5);
        let table = whole_numbers(seed, "table", items * d);
        let h = whole_numbers(seed, "rows", rows * d);
        let mut bias = whole_numbers(seed, "bias", items);
        if items == 2500 {
            bias.iter_mut().enumerate().for_each(|(item, bias)| *bias += (item / 3) as f32);
        }
        bias.iter_mut().step_by(5).skip(1).for_each(|bias| *bias = f32::NEG_INFINITY);
        let seen: Vec<Vec<u32>> = (0..rows)
            .map(|row| (1..=items as u32).skip(row).step_by(row + 2).take(40 * row).collect())
            .collect();
        let problem = Problem { rows: &h, targets: &[], table: &table, bias: &bias };
        for k in [1, 10, 256] {
            let got = on_gpu::<S>(&h, &table, &bias, &seen, k);
            for (row, got) in got.into_iter().enumerate() {
                let expected = naive(&problem, row, &seen[row], k);
                assert_eq!(got.unwrap(), expected, "{items} items, D {d}, k {k}, row {row}");
            }
        }
    }
}

#[test]
pub fn cuda_f32_agrees_with_a_plain_sort() {
    cuda_agrees_with_a_plain_sort::<f32>();
}

#[test]
pub fn cuda_bf16_agrees_with_a_plain_sort() {
    cuda_agrees_with_a_plain_sort::<bf16>();
}

#[test]
fn cuda_refuses_scores_that_are_not_finite_unless_left_out() {
    let (d, items) = (16, 100);
    let mut table = vec![1.0; items * d];
    let mut bias = vec![0.0; items];
    let rows = [[1.0; 16], [f32::NAN; 16], [2.0; 16]].concat();
    table[d..2 * d].fill(f32::NAN);
    bias[1] = f32::NEG_INFINITY;
    let seen = vec![vec![1, 4]; 3];
    let got = on_gpu::<f32>(&rows, &table, &bias, &seen, 2);
    let found = |row: usize| got[row].as_ref().map(|best| best.iter().map(|e| e.item).collect());
    assert_eq!([0, 1, 2].map(found), [Some(vec![3, 5]), None, Some(vec![3, 5])]);
    // Seen items count too, and any number of them.
    bias[1] = 0.0;
    bias[3] = f32::INFINITY;
    assert!(on_gpu::<f32>(&rows, &table, &bias, &seen, 2).iter().all(Option::is_none));
}

#[test]
fn cuda_refuses_k_and_lengths() {
    let gpu = Gpu::new(StepBlock::default());
    let top_k = |k: usize, scratch: usize| {
        let problem = on_gpu::Problem {
            rows: count(Size::Rows, 1),
            width: 16,
            items: count(Size::Items, 3),
            head: gpu.buffer::<f32>(16),
            targets: gpu.buffer(0),
            table: gpu.buffer(80),
            bias: gpu.buffer(4),
        };
        let (items, scores, scratch) = (gpu.buffer(k), gpu.buffer(k), gpu.buffer(scratch));
        let seen = seen_on(&gpu, &[vec![]], 0);
        gpu_top_k::top_k(gpu.launcher(), problem, seen, k, scratch, items, scores)
    };
    let len = gpu_top_k::top_k_scratch_len(1, 3);
    top_k(2, len).unwrap();
    for (k, len, named) in [(0, len, "k is 0"), (257, len, "k is 257"), (2, len - 1, "scratch")] {
        let error = top_k(k, len).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
