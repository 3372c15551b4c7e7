//! What this machine can do at best, measured in the run that is compared with it.

use crate::cpu::gemm::{Into, Matrix, MatrixMut, multiply};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::time::Instant;

/// Rows, columns and depth of the measured product.
pub const PRODUCT: usize = 2048;
/// Elements of each array of the measured sweep: far more than caches hold.
const SWEEP: usize = 1 << 25;
/// Times each is done, after one that does not count.
const REPEATS: usize = 5;

/// Best rates of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Threads.
    pub threads: usize,
    /// GFLOP/s of a product of 2048 x 2048 matrices by `gemm`.
    pub gemm_gflops: f64,
    /// GB/s of a = b + s c over arrays of 128 MiB: two reads and a write an element.
    pub memory_gbs: f64,
}

impl Rates {
    /// Measures both.
    ///
    /// # Errors
    /// [`Error::Config`] when the threads cannot be started.
    pub fn measure(threads: usize) -> Result<Self> {
        let pool = pool(threads)?;
        let gemm_gflops = gflops(least(&pool.install(product)));
        let memory_gbs = (3 * SWEEP * size_of::<f32>()) as f64 / least(&pool.install(sweep)) / 1e9;
        Ok(Rates { threads, gemm_gflops, memory_gbs })
    }
}

/// GFLOP/s of a product of 2048 x 2048 matrices by `gemm` as this machine is now: the median of a few, to compare with
/// medians of something else that is measured right before or after.
///
/// # Errors
/// [`Error::Config`] when the threads cannot be started.
pub fn product_gflops(threads: usize) -> Result<f64> {
    Ok(gflops(median(&mut pool(threads)?.install(product))))
}

/// A pool for measuring.
///
/// # Errors
/// [`Error::Config`] when the threads cannot be started.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::config("threads", error.to_string(), "use fewer threads"))
}

/// Seconds of `work`: the median of `repeats` runs after one that does not count.
pub fn median_seconds(repeats: usize, work: impl FnMut()) -> f64 {
    median(&mut seconds(repeats.max(1), work))
}

/// Seconds of each of `repeats` runs, after one that does not count.
fn seconds(repeats: usize, mut work: impl FnMut()) -> Vec<f64> {
    work();
    let run = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..repeats).map(run).collect()
}

/// The median of what `of` finds in each of `items`.
pub fn median_of<T>(items: &[T], of: impl Fn(&T) -> f64) -> f64 {
    median(&mut items.iter().map(of).collect::<Vec<_>>())
}

/// The middle value; of an even number the mean of both. 0 for none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn least(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Of a product that takes so long.
fn gflops(seconds: f64) -> f64 {
    2.0 * (PRODUCT as f64).powi(3) / seconds / 1e9
}

/// Threads share the rows, as in the engine: each product is one thread's. Seconds of each.
fn product() -> Vec<f64> {
    let numbers = || (0..PRODUCT * PRODUCT).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<_>>();
    let (a, b, mut out) = (numbers(), numbers(), vec![0.0f32; PRODUCT * PRODUCT]);
    let rows = PRODUCT / rayon::current_num_threads().next_power_of_two().min(PRODUCT);
    let b = Matrix::new(&b, PRODUCT, PRODUCT);
    seconds(REPEATS, || {
        out.par_chunks_mut(rows * PRODUCT).zip(a.par_chunks(rows * PRODUCT)).for_each(
            |(out, a)| {
                let out = MatrixMut::new(out, rows, PRODUCT);
                multiply(out, Into::Assign, 1.0, Matrix::new(a, rows, PRODUCT), b);
            },
        );
    })
}

fn sweep() -> Vec<f64> {
    let (b, c, mut a) = (vec![1.0f32; SWEEP], vec![2.0f32; SWEEP], vec![0.0f32; SWEEP]);
    let chunk = SWEEP / rayon::current_num_threads().next_power_of_two().min(SWEEP);
    seconds(REPEATS, || {
        let pieces = a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).zip(c.par_chunks(chunk));
        pieces.for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 3.0 * c;
            }
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
