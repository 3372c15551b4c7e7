//! Cloze masks: which items of a window are hidden and predicted.

use super::windows::{Window, scale};
use crate::config::TrainConfig;
use crate::philox::{self, Stream};

/// Address, where a position block would stand, of the decisions about a window as a whole. No position
/// reaches it: positions are below 2³², their blocks below 2²⁹.
const WINDOW_DECISIONS: u32 = u32::MAX;

/// Draws masks; every decision is addressed by seed, epoch, user and window.
#[derive(Clone, Copy, Debug)]
pub struct Masker {
    key: [u32; 2],
    /// 16-bit threshold of `mask_ratio`.
    item: u32,
    /// 16-bit threshold of `ft_ratio`.
    last_only: u32,
}

impl Masker {
    /// With the seed, `mask_ratio` and `ft_ratio` of `train`.
    pub fn new(train: &TrainConfig) -> Self {
        Masker {
            key: philox::key(train.seed),
            item: philox::threshold16(train.mask_ratio),
            last_only: philox::threshold16(train.last_item_ratio),
        }
    }

    /// Replaces `masked` by the masked positions of `window`, ascending and at least one.
    ///
    /// A share `ft_ratio` of windows masks its last item alone, which is what ranking asks of the model;
    /// any other window masks each item with chance `mask_ratio`, or one item, all equally likely, where
    /// that would mask none.
    pub fn draw(&self, window: &Window, epoch: u32, masked: &mut Vec<u32>) {
        masked.clear();
        let word = Stream::Mask.word(epoch);
        let block = |first| philox::block(self.key, [first, window.number, window.user, word]);
        let decisions = block(WINDOW_DECISIONS);
        if u32::from(philox::halves(decisions)[0]) < self.last_only {
            masked.push(window.length - 1);
            return;
        }
        for first in (0..window.length).step_by(8) {
            let numbers = philox::halves(block(first / 8));
            let hidden = (first..window.length).zip(numbers);
            masked.extend(
                hidden.filter(|&(_, number)| u32::from(number) < self.item).map(|(i, _)| i),
            );
        }
        if masked.is_empty() {
            masked.push(scale(decisions[1], window.length));
        }
    }
}
