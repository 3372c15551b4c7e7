//! Cutting training histories into windows of at most `L` items, and ordering and grouping the windows of
//! an epoch.

use crate::philox::{self, Stream};

/// A stretch of one user's training history, seen as one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// User index.
    pub user: u32,
    /// Place among the user's windows of this epoch; 0 is the newest.
    pub number: u32,
    /// Index of its first item within the history.
    pub start: u32,
    /// Items in it, 1 to `L`.
    pub length: u32,
}

/// How histories are tiled: from their end, without gap or overlap, so that every interaction lies in
/// exactly one window; only the oldest window is shorter than `L`.
///
/// With `shift`, the newest window of a history longer than `L` loses between 0 and `L - 1` items, drawn
/// anew for each user and epoch, and every older boundary moves along. So an item near a boundary is not
/// without its context in every epoch. A history that fits one window is never cut.
#[derive(Clone, Copy, Debug)]
pub struct Tiling {
    /// `L`.
    pub max_len: u32,
    /// Whether boundaries move from epoch to epoch.
    pub shift: bool,
    /// Generator key of the run's seed.
    pub key: [u32; 2],
}

impl Tiling {
    /// The windows of one training history of `length` items, newest first.
    pub fn windows(&self, user: u32, length: u32, epoch: u32) -> impl Iterator<Item = Window> {
        let mut end = length;
        let mut longest = self.newest_length(user, length, epoch);
        (0u32..).map_while(move |number| {
            if end == 0 {
                return None;
            }
            let start = end.saturating_sub(longest);
            let window = Window { user, number, start, length: end - start };
            (end, longest) = (start, self.max_len);
            Some(window)
        })
    }

    fn newest_length(&self, user: u32, length: u32, epoch: u32) -> u32 {
        if !self.shift || length <= self.max_len {
            return self.max_len;
        }
        let counter = [0, 0, user, Stream::WindowOffset.word(epoch)];
        self.max_len - scale(philox::block(self.key, counter)[0], self.max_len)
    }
}

/// A number in `0..bound` from 32 uniform bits.
pub(crate) fn scale(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// Brings `windows` into the order of `epoch`: Fisher-Yates from the last to the first, each exchange
/// drawn with 64 bits at the address of the index it fixes.
pub fn shuffle(windows: &mut [Window], key: [u32; 2], epoch: u32) {
    for index in (1..windows.len()).rev() {
        let words = philox::block(key, [index as u32, 0, 0, Stream::Order.word(epoch)]);
        let bits = u64::from(words[0]) | u64::from(words[1]) << 32;
        let other = (u128::from(bits) * (index as u128 + 1)) >> 64;
        windows.swap(index, other as usize);
    }
}

/// Cuts `windows` into `steps` batches of about equal interactions: a window belongs to the batch in whose
/// share (`total / steps` interactions) its middle falls, but every batch has at least one window. Returns
/// the `steps + 1` places where batches begin and end; needs `1 <= steps <= windows.len()`.
pub fn cut_by_interactions(windows: &[Window], steps: usize, total: u64) -> Vec<usize> {
    let mut cuts = Vec::with_capacity(steps + 1);
    let mut before = 0;
    for (index, window) in windows.iter().enumerate() {
        let twice_middle = 2 * before + u64::from(window.length);
        let wanted = u128::from(twice_middle) * steps as u128 / (2 * u128::from(total));
        let unopened = steps - cuts.len();
        // Opening one batch at a time, and in time, leaves none empty where windows exceed a share.
        let overdue = windows.len() - index == unopened;
        if wanted >= cuts.len() as u128 || overdue {
            cuts.push(index);
        }
        before += u64::from(window.length);
    }
    cuts.push(windows.len());
    cuts
}

/// Cuts `count` windows into `steps` batches of `size` windows, the last one smaller.
pub fn cut_by_size(count: usize, steps: usize, size: usize) -> Vec<usize> {
    (0..=steps).map(|step| step.saturating_mul(size).min(count)).collect()
}

/// Cuts `count` windows into `steps` batches whose sizes differ by at most 1.
pub fn cut_evenly(count: usize, steps: usize) -> Vec<usize> {
    (0..=steps as u128).map(|step| (step * count as u128 / steps as u128) as usize).collect()
}
