//! Inverted dropout whose decisions are addressed by what they are for, so that the backward pass and any
//! other engine make the same ones.

use crate::philox::{self, Stream};

/// Blocks generated at once: one per vector lane.
const GROUP: usize = 8;

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
        let blocks = (skip + row.len()).div_ceil(8);
        let words = [self.step, Stream::HiddenDropout.word(self.site)];
        fill(self.key, blocks, halves, |block| {
            let index = first / 8 + block;
            [index as u32, (index >> 32) as u32, words[0], words[1]]
        });
        for (x, &half) in row.iter_mut().zip(&halves[skip..]) {
            *x *= self.rate.factor(half);
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
        let words = [sequence_head, self.step, Stream::AttentionDropout.word(self.layer)];
        let first = query.wrapping_mul(65_536);
        fill(self.key, keys.div_ceil(8), halves, |block| {
            [first.wrapping_add(block as u32), words[0], words[1], words[2]]
        });
    }
}

/// Writes the 16-bit numbers of `blocks` Philox blocks, rounded up to whole groups, into `halves`.
#[expect(clippy::needless_range_loop, reason = "one lane of four arrays at a time")]
#[inline(always)]
fn fill(key: [u32; 2], blocks: usize, halves: &mut Vec<u16>, counter: impl Fn(u64) -> [u32; 4]) {
    let groups = blocks.div_ceil(GROUP);
    if halves.len() < groups * GROUP * 8 {
        halves.resize(groups * GROUP * 8, 0);
    }
    let groups = halves.as_chunks_mut::<{ GROUP * 8 }>().0.iter_mut().take(groups);
    for (group, out) in groups.enumerate() {
        let mut words = [[0u32; GROUP]; 4];
        for lane in 0..GROUP {
            let [c0, c1, c2, c3] = counter((group * GROUP + lane) as u64);
            (words[0][lane], words[1][lane], words[2][lane], words[3][lane]) = (c0, c1, c2, c3);
        }
        philox::rounds(key, &mut words);
        for (lane, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *out = philox::halves(words.map(|word| word[lane]));
        }
    }
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
            for token in [0usize, 1, 13, 70_000_000_000 / width] {
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
