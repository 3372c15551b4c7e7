//! The best items of each row against a plain sort of all scores.

use crate::util::draw::uniform;
use b4r::cpu::item_softmax::Problem;
use b4r::cpu::top_k::{Best, Entry, TILE_ITEMS, top_k};

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
