//! How near a computation must come to its float64 reference. These bounds are fixed: a test that fails
//! them has found an error, in the computation or in the reference.

use super::draw::{PROJECTIONS, projections};
use std::fmt;

/// Bound of |error|² / |reference|² of a tensor, in f32.
pub const NMSE: f64 = 1e-10;
/// Bound of max |error| / max |reference| of a row, in f32.
pub const ROW: f64 = 1e-4;
/// A tensor or row with a norm below this share of the case's largest gradient norm is zero but for
/// rounding (the key bias always; queries and keys of sequences of length 1; `V` = 1)...
pub const NEGLIGIBLE: f64 = 1e-8;
/// ... and its error is bounded by this share of that norm.
pub const NEGLIGIBLE_ERROR: f64 = 1e-6;
/// Bound of |error| of each loss along a training.
pub const LOSS: f64 = 1e-4;

/// With bf16 storage, the error may be this many times that of PyTorch in bf16...
pub const BF16_TIMES: f64 = 2.0;
/// ... plus this share of the largest reference value (for norms, of the reference's norm).
pub const BF16_SHARE: f64 = 1e-3;

/// With bf16 storage, the error of a tensor that is zero but for rounding is bounded by this share of the case's
/// largest gradient norm: the unit of rounding.
pub const BF16_NEGLIGIBLE_ERROR: f64 = 1.0 / 256.0;

/// The error that PyTorch in bf16 makes of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Bf16Error {
    /// Largest |error|.
    pub largest: f64,
    /// Norm of the error.
    pub norm: f64,
    /// Largest |reference|.
    pub reference: f64,
}

/// A float64 reference, whole or in summary.
#[derive(Debug)]
pub struct Expected {
    /// Elements of a row.
    pub width: usize,
    /// Rows of the tensor.
    pub count: usize,
    /// Square root of the sum of squares.
    pub norm: f64,
    /// Which rows are known, ascending.
    pub rows: Vec<u32>,
    /// Their elements.
    pub values: Vec<f32>,
    /// Random projections, where not all rows are known.
    pub projections: Option<[f64; PROJECTIONS]>,
}

/// How near a tensor came, as shares of what is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nearness {
    /// Of [`NMSE`].
    pub nmse: f64,
    /// Of [`ROW`], in the worst row known.
    pub row: f64,
    /// Of [`NEGLIGIBLE_ERROR`], in the worst negligible row or tensor.
    pub negligible: f64,
}

impl fmt::Display for Nearness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nearness { nmse, row, negligible } = self;
        write!(f, "NMSE {nmse:.1e}, row {row:.1e}, negligible {negligible:.1e} of what is allowed")
    }
}

impl Nearness {
    /// Whether everything is within bounds; NaN is not.
    pub fn holds(&self) -> bool {
        [self.nmse, self.row, self.negligible].iter().all(|&share| share <= 1.0)
    }

    /// The measure that is nearest to its bound: its name, the error, relative to the reference, and the bound. In
    /// bf16, where bounds follow from PyTorch's own error, errors are shares of what is allowed.
    pub fn nearest(&self, bf16: bool) -> (&'static str, f64, f64) {
        let bounds = if bf16 { [1.0; 3] } else { [NMSE, ROW, NEGLIGIBLE_ERROR] };
        let names = ["NMSE", "row", "zero"];
        let shares = [self.nmse, self.row, self.negligible];
        let worst = (1..3).fold(0, |worst, i| if shares[i] <= shares[worst] { worst } else { i });
        (names[worst], shares[worst] * bounds[worst], bounds[worst])
    }

    /// The worse of both, entry by entry; NaN is worst.
    pub fn worse(self, other: Self) -> Self {
        let worse = |a: f64, b: f64| if a >= b || a.is_nan() { a } else { b };
        Nearness {
            nmse: worse(self.nmse, other.nmse),
            row: worse(self.row, other.row),
            negligible: worse(self.negligible, other.negligible),
        }
    }
}

impl Expected {
    /// Compares `got`; `scale` is the largest gradient norm of the case.
    ///
    /// # Panics
    /// When `got` has another number of elements.
    pub fn compare(&self, got: &[f32], scale: f64) -> Nearness {
        assert_eq!(got.len(), self.width * self.count, "another number of elements");
        let (squared_error, rows) = (self.squared_error(got), self.compare_rows(got, scale));
        if self.norm <= NEGLIGIBLE * scale {
            let negligible = share(squared_error.sqrt(), NEGLIGIBLE_ERROR * scale);
            return Nearness { negligible, ..Nearness::default() }.worse(rows);
        }
        Nearness { nmse: share(squared_error, NMSE * self.norm.powi(2)), ..rows }
    }

    /// The same for a computation with bf16 storage: every known element, and the error as a whole. Where that is
    /// estimated by projections it may come out twice as large as it is.
    ///
    /// # Panics
    /// When `got` has another number of elements.
    pub fn compare_bf16(&self, got: &[f32], bf16: &Bf16Error, scale: f64) -> Nearness {
        assert_eq!(got.len(), self.width * self.count, "another number of elements");
        if self.norm <= NEGLIGIBLE * scale {
            let error = self.squared_error(got).sqrt();
            let negligible = share(error, BF16_NEGLIGIBLE_ERROR * scale);
            return Nearness { negligible, ..Nearness::default() };
        }
        let allowed = BF16_TIMES * bf16.largest + BF16_SHARE * bf16.reference;
        let taken =
            self.rows.iter().flat_map(|&row| &got[row as usize * self.width..][..self.width]);
        let errors = taken.zip(&self.values).map(|(&g, &e)| difference(g, e).abs());
        // `f64::max` would drop NaN.
        let largest = errors.fold(0.0, |top, e| if e <= top { top } else { e });
        let spread = if self.projections.is_some() { 2.0 } else { 1.0 };
        let norm = spread * (BF16_TIMES * bf16.norm + BF16_SHARE * self.norm);
        let squared = share(self.squared_error(got), norm.powi(2));
        Nearness { nmse: squared, row: share(largest, allowed), negligible: 0.0 }
    }

    /// Exact where all is known, else the unbiased estimate by projections.
    fn squared_error(&self, got: &[f32]) -> f64 {
        match &self.projections {
            None => squares(got.iter().zip(&self.values).map(|(&g, &e)| difference(g, e))),
            Some(expected) => {
                let got: Vec<f64> = got.iter().map(|&x| f64::from(x)).collect();
                let got = projections(&got);
                squares(got.iter().zip(expected).map(|(g, e)| g - e)) / PROJECTIONS as f64
            }
        }
    }

    fn compare_rows(&self, got: &[f32], scale: f64) -> Nearness {
        // A long vector is sampled as rows of one element, which count as one row together.
        let taken: Vec<f32> = self
            .rows
            .iter()
            .flat_map(|&row| &got[row as usize * self.width..][..self.width])
            .copied()
            .collect();
        let width = if self.width == 1 { taken.len() } else { self.width };
        let rows = taken.chunks(width).zip(self.values.chunks(width));
        rows.map(|(got, expected)| compare_row(got, expected, scale))
            .fold(Nearness::default(), Nearness::worse)
    }
}

fn compare_row(got: &[f32], expected: &[f32], scale: f64) -> Nearness {
    let errors = || got.iter().zip(expected).map(|(&g, &e)| difference(g, e).abs());
    let norm = squares(expected.iter().map(|&e| f64::from(e))).sqrt();
    if norm <= NEGLIGIBLE * scale {
        let negligible = share(squares(errors()).sqrt(), NEGLIGIBLE_ERROR * scale);
        return Nearness { negligible, ..Nearness::default() };
    }
    let largest = expected.iter().fold(0.0, |top: f64, &e| top.max(f64::from(e).abs()));
    // `f64::max` would drop NaN.
    let error = errors().fold(0.0, |top, e| if e <= top { top } else { e });
    Nearness { row: share(error, ROW * largest), ..Nearness::default() }
}

/// 0 where there is no error, even where none is allowed.
fn share(error: f64, allowed: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / allowed }
}

fn difference(got: f32, expected: f32) -> f64 {
    f64::from(got) - f64::from(expected)
}

fn squares(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum()
}

/// A summary of 500 rows and the values it was made of.
#[cfg(test)]
fn summarised() -> (Expected, Vec<f32>) {
    let values = super::draw::uniform(1, "values", 500 * 64, 1.0, 0.0);
    let wide: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    let rows = vec![0, 17, 499];
    let sampled = rows.iter().flat_map(|&row| values[row as usize * 64..][..64].to_vec());
    let expected = Expected {
        width: 64,
        count: 500,
        norm: squares(wide.iter().copied()).sqrt(),
        values: sampled.collect(),
        rows,
        projections: Some(projections(&wide)),
    };
    (expected, values)
}

#[test]
fn exact_values_hold() {
    let (expected, values) = summarised();
    let nearness = expected.compare(&values, 1.0);
    assert!(nearness.holds() && nearness.nmse < 1e-6, "{nearness:?}");
}

/// Of NaN, too.
#[test]
fn the_nearest_measure_is_the_one_to_report() {
    let nearness = Nearness { nmse: 0.1, row: 0.5, negligible: 0.2 };
    assert_eq!(nearness.nearest(false), ("row", 0.5 * ROW, ROW));
    assert_eq!(nearness.nearest(true), ("row", 0.5, 1.0));
    let broken = Nearness { negligible: f64::NAN, ..nearness };
    assert_eq!(broken.nearest(false).0, "zero");
    assert_eq!(Nearness { nmse: 0.9, ..nearness }.nearest(false), ("NMSE", 0.9 * NMSE, NMSE));
}

/// One wrong element, one wrong row that is not sampled, NaN, and an error spread over everything.
#[test]
fn errors_are_found() {
    let (expected, values) = summarised();
    let spoil = |change: &dyn Fn(&mut [f32])| {
        let mut spoiled = values.clone();
        change(&mut spoiled);
        expected.compare(&spoiled, 1.0)
    };
    assert!(!spoil(&|x| x[17 * 64 + 5] += 1.5e-4).holds());
    assert!(!spoil(&|x| x[300 * 64..301 * 64].fill(0.0)).holds());
    assert!(!spoil(&|x| x[300 * 64] = f32::NAN).holds());
    assert!(!spoil(&|x| x[63] = f32::NAN).holds());
    assert!(!spoil(&|x| x.iter_mut().for_each(|x| *x *= 1.00003)).holds());
    assert!(spoil(&|x| x.iter_mut().for_each(|x| *x *= 1.000001)).holds());
}

/// Twice PyTorch's error passes, and three times does not.
#[test]
fn bf16_is_held_to_the_error_of_bf16() {
    let (expected, values) = summarised();
    let bf16 = Bf16Error { largest: 0.01, norm: 0.3, reference: 1.0 };
    let spoil = |index: usize, by: f32| {
        let mut spoiled = values.clone();
        spoiled[index] += by;
        expected.compare_bf16(&spoiled, &bf16, 1.0).holds()
    };
    assert!(spoil(17 * 64 + 5, 0.02) && !spoil(17 * 64 + 5, 0.03), "a known element");
    assert!(spoil(300 * 64, 0.1) && !spoil(300 * 64, 5.0), "an element that only projections see");
    assert!(!spoil(0, f32::NAN) && !spoil(300 * 64, f32::NAN), "NaN");
}

/// Rounding may disturb what is zero, by a share of the case's largest gradient.
#[test]
fn negligible_tensors_are_held_to_the_scale_of_their_case() {
    let expected = Expected {
        width: 4,
        count: 1,
        norm: 1e-17,
        rows: vec![0],
        values: vec![1e-17, 0.0, 0.0, 0.0],
        projections: None,
    };
    assert!(expected.compare(&[1e-6, 0.0, 0.0, 0.0], 2.0).holds());
    assert!(!expected.compare(&[3e-6, 0.0, 0.0, 0.0], 2.0).holds());
    assert!(!expected.compare(&[1e-20, 0.0, 0.0, 0.0], 0.0).holds());
}
