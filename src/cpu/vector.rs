//! Runs a loop with the widest vector instructions of this processor.

use pulp::{Arch, Simd, WithSimd};
use std::sync::LazyLock;

/// Set to `portable`, this variable of the environment keeps to the target's baseline: what other processors run
/// can then be tested on this one. Matrix products choose their instructions by themselves.
const CHOICE: &str = "B4R_VECTORS";

static ARCH: LazyLock<Arch> = LazyLock::new(|| match std::env::var_os(CHOICE) {
    Some(choice) if choice == "portable" => Arch::Scalar,
    _ => Arch::new(),
});

/// Lanes of the accumulators that reductions keep, whatever the processor's vectors hold: a sum adds in
/// the same order everywhere.
pub const LANES: usize = 16;

/// Calls `f` in a context where the compiler may use AVX-512 or AVX2, as detected at run time, or the
/// target's baseline. Only what is inlined into `f` profits, and `f` itself must be inlined: write
/// `vectorized(#[inline(always)] || ...)`.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    ARCH.dispatch(f)
}

/// Calls an operation that is written in vectors with the widest that this processor has.
#[inline(always)]
pub fn with_simd<O: WithSimd>(operation: O) -> O::Output {
    ARCH.dispatch(operation)
}

/// As many elements as a vector has, or fewer and zeros.
#[inline(always)]
pub fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from) {
        ([vector, ..], _) => *vector,
        _ => simd.partial_load_f32s(from),
    }
}

/// Writes a vector, or as much of it as there is room for.
#[inline(always)]
pub fn store<S: Simd>(simd: S, to: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(to) {
        ([place, ..], _) => *place = vector,
        (_, rest) => simd.partial_store_f32s(rest, vector),
    }
}

/// Sum of `f` over the elements of `a` and `b`, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut partial = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            partial[lane] += f(x[lane], y[lane]);
        }
    }
    for (lane, (&x, &y)) in a_rest.iter().zip(b_rest).enumerate() {
        partial[lane] += f(x, y);
    }
    fold(partial, |x, y| x + y)
}

/// Dot product.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            partial[lane] = x[lane].mul_add(y[lane], partial[lane]);
        }
    }
    for (lane, (&x, &y)) in a_rest.iter().zip(b_rest).enumerate() {
        partial[lane] = x.mul_add(y, partial[lane]);
    }
    fold(partial, |x, y| x + y)
}

/// Sum of all elements.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    sum_pairs(a, a, |x, _| x)
}

/// Largest element; negative infinity for none.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for x in blocks {
        for lane in 0..LANES {
            partial[lane] = larger(partial[lane], x[lane]);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        partial[lane] = larger(partial[lane], x);
    }
    fold(partial, larger)
}

/// `y` where it is larger, else `x`: one instruction, unlike [`f32::max`], which cares for NaN.
#[inline(always)]
pub fn larger(x: f32, y: f32) -> f32 {
    if y > x { y } else { x }
}

/// `y += a * x`.
#[inline(always)]
pub fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

#[inline(always)]
fn fold(mut partial: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            partial[lane] = f(partial[lane], partial[lane + width]);
        }
        width /= 2;
    }
    partial[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_take_every_element() {
        for n in [0usize, 1, 15, 16, 17, 40] {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(
                vectorized(
                    #[inline(always)]
                    || sum(&a)
                ),
                (n * (n + 1) / 2) as f32
            );
            assert_eq!(
                vectorized(
                    #[inline(always)]
                    || dot(&a, &a)
                ),
                a.iter().map(|x| x * x).sum::<f32>()
            );
            assert_eq!(
                vectorized(
                    #[inline(always)]
                    || max(&a)
                ),
                if n == 0 { f32::NEG_INFINITY } else { n as f32 }
            );
        }
    }
}
