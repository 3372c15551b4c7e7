//! Numbers that tests draw, to the same bits as `tests/fixtures/philox.py`.

use b4r::philox::{block, halves, key};

/// Stream of test inputs, above all of the engine's.
const INPUT: u32 = 65;
/// Stream of the signs of random projections.
const SIGN: u32 = 66;
/// Random projections taken at once: one for each bit of a half word.
pub const PROJECTIONS: usize = 16;

/// offset + scale · u for `count` numbers u in [-1, 1) on a grid of 2^-23.
pub fn uniform(seed: u64, name: &str, count: usize, scale: f32, offset: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(count + 3);
    for index in 0..count.div_ceil(4) as u64 {
        let counter = [index as u32, (index >> 32) as u32, fnv1a(name), INPUT << 24];
        for word in block(key(seed), counter) {
            let unit = (word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0;
            out.push(offset + scale * unit);
        }
    }
    out.truncate(count);
    out
}

/// Dot products with vectors of random signs; their squares average to the squared norm.
pub fn projections(values: &[f64]) -> [f64; PROJECTIONS] {
    let mut out = [0.0; PROJECTIONS];
    for (index, values) in values.chunks(8).enumerate() {
        let index = index as u64;
        let bits = halves(block([0, 0], [index as u32, (index >> 32) as u32, 0, SIGN << 24]));
        for (value, bits) in values.iter().zip(bits) {
            for (j, out) in out.iter_mut().enumerate() {
                *out += if bits >> j & 1 == 1 { -value } else { *value };
            }
        }
    }
    out
}

/// 32-bit FNV-1a.
fn fnv1a(text: &str) -> u32 {
    text.bytes()
        .fold(0x811C_9DC5, |value, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
