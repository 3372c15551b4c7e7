//! Grouping tokens by item, so that gradients of embedding rows add up in a fixed order without atomics.

/// Indices `0..n` grouped by a key, keys ascending and indices ascending within a key, so that a gradient
/// summed over a segment always adds in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// `[S]` distinct keys, ascending.
    pub keys: Vec<u32>,
    /// `[S + 1]` where each key's indices begin.
    pub offsets: Vec<u32>,
    /// `[n]` the indices.
    pub indices: Vec<u32>,
}

/// Widest digit sorted on in one pass: its 4,096 counters stay in the first-level cache.
const MOST_DIGIT_BITS: u32 = 12;
/// Narrowest: fewer counters than this cost nothing worth saving.
const LEAST_DIGIT_BITS: u32 = 8;

/// Memory kept from one grouping to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Key in the high half, index in the low half.
    pairs: Vec<u64>,
    sorted: Vec<u64>,
    counters: Vec<u32>,
}

impl Segments {
    /// Empties the segments, keeping their memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.offsets.clear();
        self.indices.clear();
    }

    /// Replaces the segments by those of `keys`, none of which exceeds `largest`.
    ///
    /// A radix sort from the lowest digit: stable, and its cost grows with the number of keys and the digits
    /// of `largest`, not with `largest` itself.
    pub fn group(&mut self, keys: &[u32], largest: u32, scratch: &mut Scratch) {
        let Scratch { pairs, sorted, counters } = scratch;
        pairs.clear();
        pairs.extend((0u64..).zip(keys).map(|(index, &key)| u64::from(key) << 32 | index));
        sorted.resize(keys.len(), 0);
        let bits = u32::BITS - largest.leading_zeros();
        // No more counters than four times the keys, since each pass walks through both.
        let widest = (keys.len().max(1).ilog2() + 2).clamp(LEAST_DIGIT_BITS, MOST_DIGIT_BITS);
        let passes = bits.div_ceil(widest).max(1);
        let digit_bits = bits.div_ceil(passes);
        for pass in 0..passes {
            sort_by_digit(pairs, sorted, counters, 32 + pass * digit_bits, digit_bits);
            std::mem::swap(pairs, sorted);
        }
        self.collect(pairs);
    }

    /// Without a branch on whether a key is new, which no processor could foresee.
    fn collect(&mut self, sorted: &[u64]) {
        self.indices.clear();
        self.indices.extend(sorted.iter().map(|&pair| pair as u32));
        self.keys.resize(sorted.len(), 0);
        self.offsets.resize(sorted.len() + 1, 0);
        let mut distinct = 0;
        let mut previous = u64::MAX;
        for (place, &pair) in (0u32..).zip(sorted) {
            let key = pair >> 32;
            // Where the key is not new, this is the next key's place and will be overwritten.
            self.offsets[distinct] = place;
            distinct += usize::from(key != previous);
            self.keys[distinct - 1] = key as u32;
            previous = key;
        }
        self.keys.truncate(distinct);
        self.offsets.truncate(distinct);
        self.offsets.push(sorted.len() as u32);
    }
}

/// One stable counting sort of `from` into `to`, by `bits` bits from `shift` on.
fn sort_by_digit(from: &[u64], to: &mut [u64], counters: &mut Vec<u32>, shift: u32, bits: u32) {
    let digit = |pair: u64| (pair >> shift) as usize & ((1 << bits) - 1);
    counters.clear();
    counters.resize(1 << bits, 0);
    for &pair in from {
        counters[digit(pair)] += 1;
    }
    let mut next = 0;
    for counter in counters.iter_mut() {
        (*counter, next) = (next, next + *counter);
    }
    for &pair in from {
        let place = &mut counters[digit(pair)];
        to[*place as usize] = pair;
        *place += 1;
    }
}
