//! What is drawn to rank a target among.

use b4r::config::{EvalUnit, Mode, Negatives};
use b4r::data::{EvalRow, Sequences};
use b4r::eval::{Candidates, Draw, draw};
use proptest::prelude::*;
use std::collections::HashSet;

/// Users, rows and counts of a small catalogue.
#[derive(Clone, Debug)]
struct Case {
    sequences: Sequences,
    rows: Vec<EvalRow>,
    counts: Vec<u32>,
}

impl Case {
    fn draw(&self, mode: Mode, unit: EvalUnit, seed: u64) -> Candidates {
        self.draw_from(Negatives::Unseen, mode, unit, seed)
    }

    fn draw_from(&self, negatives: Negatives, mode: Mode, unit: EvalUnit, seed: u64) -> Candidates {
        let Case { sequences, rows, counts } = self;
        let drawn = draw(&Draw { sequences, rows, counts, mode, unit, negatives, seed });
        drawn.expect("little memory").expect("sampled")
    }

    fn target(&self, row: usize) -> u32 {
        let EvalRow { user, position } = self.rows[row];
        self.sequences.get(user as usize)[position as usize]
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let items = 2usize..60;
    items.prop_flat_map(|items| {
        let history = prop::collection::vec(1..=items as u32, 2..30);
        let histories = prop::collection::vec(history, 1..8);
        (histories, prop::collection::vec(0u32..20, items)).prop_map(|(histories, counts)| {
            let mut sequences = Sequences { offsets: vec![0], items: Vec::new() };
            let mut rows = Vec::new();
            for (user, history) in (0..).zip(&histories) {
                sequences.items.extend(history);
                sequences.offsets.push(sequences.items.len() as u64);
                let last = history.len() as u32 - 1;
                rows.extend(
                    (last.saturating_sub(2).max(1)..=last)
                        .map(|position| EvalRow { user, position }),
                );
            }
            Case { sequences, rows, counts }
        })
    })
}

proptest! {
    #[test]
    fn negatives_are_distinct_and_never_in_the_history(
        case in any_case(),
        number in 1usize..80,
        popular: bool,
        seed: u64,
    ) {
        let mode = if popular { Mode::Popular(number) } else { Mode::Uniform(number) };
        let drawn = case.draw(mode, EvalUnit::Row, seed);
        prop_assert_eq!(drawn.len(), case.rows.len());
        let mut short = 0;
        for (row, of_row) in case.rows.iter().enumerate() {
            let list = drawn.get(row);
            let history: HashSet<u32> =
                case.sequences.get(of_row.user as usize).iter().copied().collect();
            prop_assert_eq!(list[0], case.target(row));
            let negatives: HashSet<u32> = list[1..].iter().copied().collect();
            prop_assert_eq!(negatives.len(), list.len() - 1, "distinct");
            prop_assert!(negatives.is_disjoint(&history));
            let can_come = |item: &u32| !popular || case.counts[*item as usize - 1] > 0;
            prop_assert!(negatives.iter().all(can_come));
            let free = (1..=case.counts.len() as u32)
                .filter(|item| !history.contains(item) && can_come(item))
                .count();
            prop_assert_eq!(negatives.len(), number.min(free));
            short += usize::from(free < number);
        }
        prop_assert_eq!(drawn.short_rows(number), short);
        prop_assert_eq!(&case.draw(mode, EvalUnit::Row, seed), &drawn);
    }

    #[test]
    fn any_negatives_are_distinct_and_not_the_target(
        case in any_case(),
        number in 1usize..80,
        popular: bool,
        seed: u64,
    ) {
        let mode = if popular { Mode::Popular(number) } else { Mode::Uniform(number) };
        let drawn = case.draw_from(Negatives::Any, mode, EvalUnit::Row, seed);
        for row in 0..case.rows.len() {
            let list = drawn.get(row);
            let distinct: HashSet<u32> = list.iter().copied().collect();
            prop_assert_eq!((list[0], distinct.len()), (case.target(row), list.len()));
            let free = (1..=case.counts.len() as u32)
                .filter(|&item| item != list[0] && (!popular || case.counts[item as usize - 1] > 0))
                .count();
            prop_assert_eq!(list.len() - 1, number.min(free));
        }
    }

    #[test]
    fn as_recbole_only_the_target_is_left_out(case in any_case(), number in 1usize..80, seed: u64) {
        let drawn = case.draw(Mode::Uniform(number), EvalUnit::RecBole, seed);
        for row in 0..case.rows.len() {
            let list = drawn.get(row);
            prop_assert_eq!((list[0], list.len()), (case.target(row), number + 1));
            let items = 1..=case.counts.len() as u32;
            prop_assert!(list[1..].iter().all(|item| *item != list[0] && items.contains(item)));
        }
    }
}

/// One user with item 1 alone, and a row for each of many positions, among items of the given weights.
fn repeated(counts: &[u32], rows: u32) -> Case {
    Case {
        sequences: Sequences {
            offsets: vec![0, u64::from(rows) + 1],
            items: vec![1; rows as usize + 1],
        },
        rows: (1..=rows).map(|position| EvalRow { user: 0, position }).collect(),
        counts: counts.to_vec(),
    }
}

/// Share of rows whose only negative is each item.
fn shares(case: &Case, mode: Mode, unit: EvalUnit) -> Vec<f64> {
    let drawn = case.draw(mode, unit, 9);
    let mut shares = vec![0.0; case.counts.len()];
    for row in 0..case.rows.len() {
        shares[drawn.get(row)[1] as usize - 1] += 1.0 / case.rows.len() as f64;
    }
    shares
}

#[test]
fn chances_are_uniform_or_those_of_popularity() {
    let counts = [50, 1, 0, 3, 6];
    let case = repeated(&counts, 40_000);
    for unit in [EvalUnit::Row, EvalUnit::RecBole] {
        let uniform = shares(&case, Mode::Uniform(1), unit);
        let popular = shares(&case, Mode::Popular(1), unit);
        for item in 0..counts.len() {
            // Item 1 is the target, and the whole history.
            let (even, weighted) = match item {
                0 => (0.0, 0.0),
                _ => (0.25, f64::from(counts[item]) / 10.0),
            };
            assert!((uniform[item] - even).abs() < 0.01, "{item}: {uniform:?}");
            assert!((popular[item] - weighted).abs() < 0.01, "{item}: {popular:?}");
        }
    }
}

/// Where almost all weight lies on the history, what is left comes with the chances of its own weights.
#[test]
fn rare_items_are_drawn_by_their_weights_too() {
    let counts = [4_000_000_000, 1, 3];
    let case = repeated(&counts, 20_000);
    let popular = shares(&case, Mode::Popular(1), EvalUnit::Row);
    assert!((popular[1] - 0.25).abs() < 0.015, "{popular:?}");
    assert!((popular[2] - 0.75).abs() < 0.015, "{popular:?}");
}

#[test]
fn another_seed_draws_others() {
    let case = repeated(&[1; 50], 20);
    let of = |seed| case.draw(Mode::Uniform(10), EvalUnit::Row, seed);
    assert_ne!(of(1), of(2));
    assert_ne!(of(1).get(0)[1..], of(1).get(1)[1..], "each row has its own");
}
