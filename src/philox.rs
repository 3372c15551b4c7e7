//! Philox 4x32-10, the counter-based generator behind every random decision (Salmon et al., "Parallel
//! random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! Numbers are addressed, never drawn in sequence: the key is the run's seed, the counter says what the
//! number is for. So no result depends on threads, tiles or shards, and another engine with the same
//! generator makes the same decisions.
//!
//! Counter layout, `[c0, c1, c2, c3]`; `c3` carries the [`Stream`] in its top 8 bits:
//!
//! | stream | c0 | c1 | c2 | c3 low 24 bits |
//! |---|---|---|---|---|
//! | hidden dropout | element / 8, low word | element / 8, high word | step | site |
//! | attention dropout | query · 65536 + key / 8 | sequence · H + head | step | layer |
//! | masks | position / 8 | window, from the newest | user | epoch |
//! | masks: last item only (half 0), position to mask where none was drawn (word 1) | 2³² - 1 | window | user | epoch |
//! | order of windows | index | 0 | 0 | epoch |
//! | initial weights | element / 4, low word | element / 4, high word | tensor | 0 |
//! | offset of windows | 0 | 0 | user | epoch |
//! | negatives: draws (low bits 0), lots of what draws have not reached (1) | draw, or item | position | user | 0 or 1 |
//! | lots of validation users | 0 | 0 | user | 0 |
//! | items that a step's loss looks at | draw / 4 | 0 | step | 0 |
//!
//! `element` is token · D + channel. A block of 128 bits serves eight 16-bit or four 32-bit decisions.

use pulp::Simd;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What a random number decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Dropout of hidden activations.
    HiddenDropout = 1,
    /// Dropout of attention probabilities.
    AttentionDropout = 2,
    /// Which positions a window masks.
    Mask = 3,
    /// The order in which windows are visited.
    Order = 4,
    /// Initial weights.
    Init = 5,
    /// Where a user's windows begin.
    WindowOffset = 6,
    /// Negatives of rows that are ranked among a sample.
    Negatives = 7,
    /// Which users validate.
    ValidUsers = 8,
    /// Items that a step's loss looks at, where not at all.
    TrainingNegatives = 9,
}

impl Stream {
    /// Counter word `c3`: the stream above, `low` (24 bits) below.
    #[inline(always)]
    pub fn word(self, low: u32) -> u32 {
        debug_assert!(low < 1 << 24);
        (self as u32) << 24 | (low & 0x00FF_FFFF)
    }
}

/// The two key words of a seed.
#[inline(always)]
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// One 128-bit block.
#[inline(always)]
pub fn block(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    rounds(pulp::Scalar::new(), key, counter)
}

/// Turns counters, word by word, into their blocks: as many as a vector has lanes.
#[inline(always)]
pub fn rounds<S: Simd>(simd: S, key: [u32; 2], mut words: [S::u32s; 4]) -> [S::u32s; 4] {
    let [mut k0, mut k1] = key;
    let [m0, m1] = MULTIPLIER.map(|multiplier| simd.splat_u32s(multiplier));
    for _ in 0..ROUNDS {
        let (low0, high0) = simd.widening_mul_u32s(m0, words[0]);
        let (low1, high1) = simd.widening_mul_u32s(m1, words[2]);
        words = [
            simd.xor_u32s(simd.xor_u32s(high1, words[1]), simd.splat_u32s(k0)),
            low1,
            simd.xor_u32s(simd.xor_u32s(high0, words[3]), simd.splat_u32s(k1)),
            low0,
        ];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    words
}

/// The eight 16-bit numbers of a block: low half of word 0, high half of word 0, low half of word 1, ...
#[inline(always)]
pub fn halves(words: [u32; 4]) -> [u16; 8] {
    let mut out = [0; 8];
    for (i, word) in words.into_iter().enumerate() {
        out[2 * i] = word as u16;
        out[2 * i + 1] = (word >> 16) as u16;
    }
    out
}

/// Uniform in (0, 1], from 32 bits: never zero, so that its logarithm is finite.
#[inline(always)]
pub fn unit(word: u32) -> f64 {
    (f64::from(word) + 1.0) / 4_294_967_296.0
}

/// Probability as a 16-bit threshold: an event happens where a 16-bit number is below it.
pub fn threshold16(probability: f64) -> u32 {
    (probability * 65536.0).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the generator's reference implementation.
    #[test]
    fn matches_the_published_vectors() {
        assert_eq!(
            block([0, 0], [0, 0, 0, 0]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            block([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            block([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
