//! Share, independence and reproducibility of dropout, seen through the operations that apply it.

use b4r::cpu::attention::{self, Scratch};
use b4r::cpu::dropout::{AttentionDropout, EMBEDDING_SITE, HiddenDropout, Rate, attention_site};
use b4r::cpu::embedding::{self, Tables, Tokens};
use b4r::cpu::lane::Rows;
use b4r::cpu::layernorm::Norm;
use b4r::cpu::sequences::Sequences;

const TOKENS: usize = 500;
const D: usize = 48;

/// What each element of the embedding's output is multiplied by: the norm is made to give 1 everywhere.
/// `first` is the index of the first of `tokens` within its batch.
fn hidden(address: (u64, u64, usize), rate: f64, first: usize, tokens: usize) -> Vec<f32> {
    let (seed, step, site) = address;
    let table: Vec<f32> = (0..D).map(|i| i as f32).collect();
    let zeros = vec![0u32; tokens];
    let mut output = vec![0.0; tokens * D];
    embedding::forward(
        &Tables { items: &table, positions: &[0.0; D] },
        &Tokens { ids: &zeros, positions: &zeros, first },
        &Norm { weight: &[0.0; D], bias: &[1.0; D], epsilon: 1e-12 },
        Rate::new(rate).map(|rate| HiddenDropout::new(seed, step, site, rate)).as_ref(),
        &mut vec![0.0; tokens * D],
        &mut vec![0.0; tokens],
        &mut output,
    );
    output
}

/// What each probability is multiplied by: keys are all alike, and values pick the keys out.
fn probabilities(address: (u64, u64, u32), rate: f64, length: usize) -> Vec<f32> {
    let (seed, step, layer) = address;
    let bounds = [0, length as u32];
    let sequences = Sequences {
        cu_seqlens: &bounds,
        cu_queries: &bounds,
        rows: Rows::All,
        first: 0,
        heads: 1,
        width: length,
        causal: false,
        absorbed: false,
    };
    let mut kv = vec![0.0; 2 * length * length];
    for key in 0..length {
        kv[(2 * key + 1) * length + key] = length as f32;
    }
    let mut context = vec![0.0; length * length];
    attention::forward(
        &sequences,
        Rate::new(rate).map(|rate| AttentionDropout::new(seed, step, layer, rate)).as_ref(),
        &vec![0.0; length * length],
        &kv,
        &mut Scratch::default(),
        &mut vec![0.0; sequences.probability_count()],
        &mut context,
    );
    context
}

/// Within four standard deviations of the share of a 16-bit threshold, survivors scaled to a mean of 1.
fn check_share(multipliers: &[f32], rate: f64, what: &str) {
    let n = multipliers.len() as f64;
    let share = (rate * 65536.0).round() / 65536.0;
    let dropped = multipliers.iter().filter(|&&x| x == 0.0).count() as f64 / n;
    let deviation = (share * (1.0 - share) / n).sqrt();
    assert!((dropped - share).abs() <= 4.0 * deviation, "{what}: {dropped} dropped of {rate}");
    let scale = 1.0 / (1.0 - share);
    for &x in multipliers.iter().filter(|&&x| x != 0.0) {
        assert!((f64::from(x) / scale - 1.0).abs() < 1e-5, "{what}: survivor times {x}");
    }
}

#[test]
fn drops_the_share_it_is_told() {
    for rate in [0.0, 0.05, 0.2, 0.5, 0.9] {
        check_share(&hidden((1, 1, EMBEDDING_SITE), rate, 0, TOKENS), rate, "hidden");
        check_share(&probabilities((1, 1, 0), rate, 200), rate, "attention");
    }
}

/// Share of elements on which two masks agree, against what independence would give.
fn check_independent(a: &[f32], b: &[f32], rate: f64, what: &str) {
    let agree = a.iter().zip(b).filter(|(a, b)| (**a == 0.0) == (**b == 0.0)).count() as f64;
    let (n, expected) = (a.len() as f64, rate * rate + (1.0 - rate) * (1.0 - rate));
    let deviation = (expected * (1.0 - expected) / n).sqrt();
    assert!((agree / n - expected).abs() <= 4.0 * deviation, "{what}: {} agree", agree / n);
}

#[test]
fn seeds_steps_and_sites_are_independent() {
    let at = |seed, step, site| hidden((seed, step, site), 0.3, 0, TOKENS);
    let base = at(1, 1, EMBEDDING_SITE);
    check_independent(&base, &at(2, 1, EMBEDDING_SITE), 0.3, "seed");
    check_independent(&base, &at(1 << 32 | 1, 1, EMBEDDING_SITE), 0.3, "high word of the seed");
    check_independent(&base, &at(1, 2, EMBEDDING_SITE), 0.3, "step");
    check_independent(&base, &at(1, 1, attention_site(0)), 0.3, "site");
    check_independent(&base[D..], &base[..base.len() - D], 0.3, "next token");
    let base = probabilities((1, 1, 0), 0.3, 200);
    check_independent(&base, &probabilities((2, 1, 0), 0.3, 200), 0.3, "attention, seed");
    check_independent(&base, &probabilities((1, 2, 0), 0.3, 200), 0.3, "attention, step");
    check_independent(&base, &probabilities((1, 1, 1), 0.3, 200), 0.3, "attention, layer");
    check_independent(&base[200..], &base[..200 * 199], 0.3, "attention, next query");
}

/// A mask belongs to its address: it is the same again, and the same for a piece of the batch.
#[test]
fn masks_are_addressed_not_drawn_in_sequence() {
    let whole = hidden((7, 3, 5), 0.2, 0, TOKENS);
    assert_eq!(whole, hidden((7, 3, 5), 0.2, 0, TOKENS));
    assert_eq!(whole[123 * D..], hidden((7, 3, 5), 0.2, 123, TOKENS - 123));
    let long = probabilities((7, 3, 1), 0.2, 200);
    let short = probabilities((7, 3, 1), 0.2, 77);
    for query in 0..77 {
        for key in 0..77 {
            let (a, b) = (long[query * 200 + key], short[query * 77 + key]);
            assert_eq!(a == 0.0, b == 0.0, "query {query}, key {key}");
        }
    }
}
