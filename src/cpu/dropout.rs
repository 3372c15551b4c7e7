//! Inverted dropout whose decisions are addressed by what they are for, so that the backward pass and any
//! other engine make the same ones.

use super::vector::with_simd;
use crate::philox::{self, Stream};
use pulp::{Simd, WithSimd};

/// Site of the input embedding.
pub const EMBEDDING_SITE: usize = 0;

/// Site after the attention of `layer`.
pub fn attention_site(layer: usize) -> usize {
    1 + 2 * layer
}

/// Site after the feed-forward network of `layer`.
pub fn ffn_site(layer: usize) -> usize {
    2 + 2 * layer
}

/// Share and scale of a dropout site.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// An element is dropped where its 16-bit number is below this.
    threshold: u32,
    /// What survivors are multiplied by.
    pub scale: f32,
}

impl Rate {
    /// For a probability in `[0, 1)`; `None` for 0.
    pub fn new(probability: f64) -> Option<Self> {
        let threshold = philox::threshold16(probability).min(65_535);
        (threshold > 0).then(|| Rate { threshold, scale: 65_536.0 / (65_536 - threshold) as f32 })
    }

    /// What the element with this 16-bit number is multiplied by.
    #[inline(always)]
    pub fn factor(&self, half: u16) -> f32 {
        if u32::from(half) < self.threshold { 0.0 } else { self.scale }
    }
}

/// Dropout of hidden activations at one site of one step.
#[derive(Clone, Copy, Debug)]
pub struct HiddenDropout {
    key: [u32; 2],
    step: u32,
    site: u32,
    rate: Rate,
}

impl HiddenDropout {
    /// `site` is [`EMBEDDING_SITE`], [`attention_site`] or [`ffn_site`].
    pub fn new(seed: u64, step: u64, site: usize, rate: Rate) -> Self {
        HiddenDropout { key: philox::key(seed), step: step as u32, site: site as u32, rate }
    }

    /// Multiplies the channels of `token` (its index in the whole batch) by 0 or the scale.
    /// `halves` is scratch.
    #[inline(always)]
    pub fn apply(&self, token: usize, row: &mut [f32], halves: &mut Vec<u16>) {
        let first = token as u64 * row.len() as u64;
        let skip = (first % 8) as usize;
        let (block, blocks) = (first / 8, (skip + row.len()).div_ceil(8));
        let word = Stream::HiddenDropout.word(self.site);
        let counter = [block as u32, (block >> 32) as u32, self.step, word];
        with_simd(Fill { key: self.key, counter, blocks, halves });
        let rate = self.rate;
        for (x, &half) in row.iter_mut().zip(&halves[skip..]) {
            *x *= rate.factor(half);
        }
    }
}

/// Dropout of attention probabilities in one layer of one step.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout {
    key: [u32; 2],
    step: u32,
    layer: u32,
    /// Share and scale.
    pub rate: Rate,
}

impl AttentionDropout {
    /// For layer `layer`.
    pub fn new(seed: u64, step: u64, layer: u32, rate: Rate) -> Self {
        AttentionDropout { key: philox::key(seed), step: step as u32, layer, rate }
    }

    /// The 16-bit numbers of `keys` keys for one query; `sequence_head` is sequence · H + head.
    #[inline(always)]
    pub fn row(&self, sequence_head: u32, query: u32, keys: usize, halves: &mut Vec<u16>) {
        let word = Stream::AttentionDropout.word(self.layer);
        let counter = [query.wrapping_mul(65_536), sequence_head, self.step, word];
        with_simd(Fill { key: self.key, counter, blocks: keys.div_ceil(8), halves });
    }
}

/// Writes the 16-bit numbers of `blocks` Philox blocks, rounded up to whole vectors, into `halves`. Blocks
/// count up from `counter`, whose first two words are one 64-bit number. Written out in vectors, since the
/// compiler finds them in a loop over blocks in some places and not in others.
struct Fill<'a> {
    key: [u32; 2],
    counter: [u32; 4],
    blocks: usize,
    halves: &'a mut Vec<u16>,
}

/// Most lanes that a vector has.
const MOST_LANES: usize = 16;

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Fill { key, counter, blocks, halves } = self;
        let lanes = S::U32_LANES;
        let len = blocks.next_multiple_of(lanes) * 8;
        if halves.len() < len {
            halves.resize(len, 0);
        }
        let (numbers, order) = block_order(simd);
        let first = u64::from(counter[1]) << 32 | u64::from(counter[0]);
        for (group, out) in halves[..len].chunks_exact_mut(8 * lanes).enumerate() {
            let first = first + (group * lanes) as u64;
            let low = simd.add_u32s(simd.splat_u32s(first as u32), numbers);
            let mut high = simd.splat_u32s((first >> 32) as u32);
            if (first as u32).checked_add(lanes as u32).is_none() {
                let carried = order.map(|lane| ((first + u64::from(lane)) >> 32) as u32);
                high = simd.partial_load_u32s(&carried[..lanes]);
            }
            let words = [low, high, simd.splat_u32s(counter[2]), simd.splat_u32s(counter[3])];
            let words = philox::rounds(simd, key, words).map(|word| simd.transmute_f32s_u32s(word));
            let words = simd.interleave_shfl_f32s(words);
            out.copy_from_slice(pulp::bytemuck::cast_slice(&words));
        }
    }
}

/// Which of a group's blocks each lane takes, for the words of all of them to lie block after block once they are
/// interleaved: as a vector, and its elements.
#[inline(always)]
fn block_order<S: Simd>(simd: S) -> (S::u32s, [u32; MOST_LANES]) {
    let lanes = S::U32_LANES;
    let mut blocks = [simd.splat_f32s(0.0); 4];
    let words: &mut [u32] = pulp::bytemuck::cast_slice_mut(&mut blocks);
    words.iter_mut().zip(0..).for_each(|(word, place)| *word = place / 4);
    let [numbers, ..] = simd.deinterleave_shfl_f32s(blocks);
    let numbers = simd.transmute_u32s_f32s(numbers);
    let mut order = [0; MOST_LANES];
    simd.partial_store_u32s(&mut order[..lanes], numbers);
    (numbers, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any width and token: element e uses half e % 8 of block e / 8, and nothing else matters.
    #[test]
    fn elements_are_addressed_one_by_one() {
        let rate = Rate::new(0.3).unwrap();
        let dropout = HiddenDropout::new(0x1234_5678_9abc, 7, 3, rate);
        for width in [1usize, 7, 8, 48, 64, 67] {
            // The last: blocks of one row on both sides of 2³².
            for token in [0usize, 1, 13, 70_000_000_000 / width, (1 << 35) / width] {
                let mut row = vec![1.0f32; width];
                dropout.apply(token, &mut row, &mut Vec::new());
                for (channel, &x) in row.iter().enumerate() {
                    let e = token as u64 * width as u64 + channel as u64;
                    let counter =
                        [(e / 8) as u32, ((e / 8) >> 32) as u32, 7, Stream::HiddenDropout.word(3)];
                    let halves =
                        philox::halves(philox::block(philox::key(0x1234_5678_9abc), counter));
                    assert_eq!(x, rate.factor(halves[(e % 8) as usize]));
                }
            }
        }
    }

    #[test]
    fn vectors_of_one_lane_give_the_same_numbers() {
        let fill = |simd: Option<pulp::Scalar>| {
            let mut halves = Vec::new();
            let counter = [u32::MAX - 6, 3, 1, 2];
            let fill = Fill { key: [7, 8], counter, blocks: 20, halves: &mut halves };
            match simd {
                Some(simd) => fill.with_simd(simd),
                None => with_simd(fill),
            }
            halves.truncate(160);
            halves
        };
        assert_eq!(fill(Some(pulp::Scalar::new())), fill(None));
    }

    #[test]
    fn drops_the_share_it_is_told() {
        for probability in [0.1, 0.2, 0.5, 0.9] {
            let dropout = HiddenDropout::new(1, 1, 0, Rate::new(probability).unwrap());
            let mut row = vec![1.0f32; 100_000];
            dropout.apply(0, &mut row, &mut Vec::new());
            let dropped = row.iter().filter(|&&x| x == 0.0).count() as f64 / 1e5;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e5;
            assert!((dropped - probability).abs() < 0.006, "{dropped} dropped of {probability}");
            assert!((mean - 1.0).abs() < 0.05, "mean {mean}");
        }
        assert!(Rate::new(0.0).is_none());
    }

    #[test]
    fn attention_rows_follow_the_counter_table() {
        let dropout = AttentionDropout::new(99, 5, 1, Rate::new(0.5).unwrap());
        let mut halves = Vec::new();
        dropout.row(17, 300, 70, &mut halves);
        for key in 0..70u32 {
            let counter = [300 * 65_536 + key / 8, 17, 5, Stream::AttentionDropout.word(1)];
            let block = philox::halves(philox::block(philox::key(99), counter));
            assert_eq!(halves[key as usize], block[key as usize % 8]);
        }
    }
}
