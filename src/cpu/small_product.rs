//! Products of small matrices, such as attention's of one head of one sequence: what [`super::gemm`] does around its
//! inner loop, for large matrices, takes longer there than the loop.
//!
//! A tile of `TILE_ROWS` rows by `TILE_VECTORS` vectors of the output stays in registers for the whole depth, which
//! is the heart of large products too (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", TOMS
//! 2008). The left operand is read where it lies, transposed or not, and so is a right operand whose rows are whole
//! vectors; a transposed one is rearranged into panels, once for all products with it.

use super::gemm::{Into, Matrix, MatrixMut, span};
use super::vector::{load, store, with_simd};
use pulp::{Simd, WithSimd};

/// Rows of a tile: with two vectors each, twelve sums that do not wait for one another, in twelve of AVX2's sixteen
/// registers.
const TILE_ROWS: usize = 6;
/// Vectors in a row of a tile, and of a panel.
const TILE_VECTORS: usize = 2;
/// Columns of a right operand come in multiples of this, zeros beyond the last, so that outputs may have rows
/// of whole vectors.
pub const EVEN_COLUMNS: usize = 8;
/// Columns that are rearranged at a time.
const QUAD: usize = 4;

/// Memory for a right operand that is rearranged.
#[derive(Default)]
pub struct Panels(Vec<f32>);

/// A right operand, cut into panels of `TILE_VECTORS` vectors of columns.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    data: &'a [f32],
    depth: usize,
    /// Those of the matrix, and zeros.
    columns: usize,
    /// From one row of a panel to the next.
    row_stride: usize,
    /// From one panel to the next.
    panel_stride: usize,
}

impl<'a> Right<'a> {
    /// `b` where it lies or, if its rows are no whole vectors, as panels in `panels`.
    pub fn new(b: Matrix<'a>, panels: &'a mut Panels) -> Self {
        with_simd(Arrange { b, panels: &mut panels.0 })
    }

    /// Its first `depth` rows.
    pub fn rows(self, depth: usize) -> Self {
        assert!(depth <= self.depth, "rows beyond the last");
        Right { depth, ..self }
    }
}

struct Arrange<'a> {
    b: Matrix<'a>,
    panels: &'a mut Vec<f32>,
}

impl<'a> WithSimd for Arrange<'a> {
    type Output = Right<'a>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Right<'a> {
        let Arrange { b, panels } = self;
        let (depth, width) = (b.rows, TILE_VECTORS * S::F32_LANES);
        let whole = b.columns.is_multiple_of(EVEN_COLUMNS.max(S::F32_LANES));
        if b.column_stride == 1 && whole {
            let (data, columns, row_stride) = (b.data, b.columns, b.row_stride);
            return Right { data, depth, columns, row_stride, panel_stride: width };
        }
        let columns = b.columns.next_multiple_of(EVEN_COLUMNS.max(width));
        panels.resize(columns * depth, 0.0);
        let panel_stride = (width * depth).max(1);
        for (panel, first) in panels.chunks_exact_mut(panel_stride).zip((0..).step_by(width)) {
            arrange_panel(simd, b, first, panel);
        }
        Right { data: panels, depth, columns, row_stride: width, panel_stride }
    }
}

/// Fills `panel [depth, width]` with the columns of `b` from `first` on, and zeros.
#[inline(always)]
fn arrange_panel<S: Simd>(simd: S, b: Matrix, first: usize, panel: &mut [f32]) {
    let (lanes, width) = (S::F32_LANES, TILE_VECTORS * S::F32_LANES);
    let columns = width.min(b.columns.saturating_sub(first));
    if columns < width {
        panel.fill(0.0);
    }
    let vectors = b.row_stride == 1 && lanes >= QUAD && b.rows.is_multiple_of(lanes);
    let quads = if vectors { columns / QUAD } else { 0 };
    for quad in 0..quads {
        transpose_quad(simd, b, first + quad * QUAD, quad * QUAD, panel);
    }
    for column in quads * QUAD..columns {
        let elements = b.data[(first + column) * b.column_stride..].iter().step_by(b.row_stride);
        for (row, &x) in panel.chunks_exact_mut(width).zip(elements) {
            row[column] = x;
        }
    }
}

/// Copies [`QUAD`] columns of `b` from `first` on, each of which lies in one piece, to those of a panel from `to` on.
#[inline(always)]
fn transpose_quad<S: Simd>(simd: S, b: Matrix, first: usize, to: usize, panel: &mut [f32]) {
    let (lanes, width) = (S::F32_LANES, TILE_VECTORS * S::F32_LANES);
    let column =
        |index: usize| b.data[(first + index) * b.column_stride..][..b.rows].chunks_exact(lanes);
    let columns = column(0).zip(column(1)).zip(column(2).zip(column(3)));
    for (rows, ((p, q), (r, s))) in panel.chunks_exact_mut(lanes * width).zip(columns) {
        let columns = [load(simd, p), load(simd, q), load(simd, r), load(simd, s)];
        let words = simd.interleave_shfl_f32s(columns);
        let quads: &[[f32; QUAD]] = bytemuck::cast_slice(&words);
        // Vector j of the four has element j, then j + 4, and so on, of each of the columns.
        for (place, quad) in quads.iter().enumerate() {
            let row = place % (lanes / QUAD) * QUAD + place / (lanes / QUAD);
            rows[row * width + to..][..QUAD].copy_from_slice(quad);
        }
    }
}

/// `out = scale * a b`, or `out += scale * a b`, where `out` may have fewer columns than `b`.
pub fn multiply(out: MatrixMut, into: Into, scale: f32, a: Matrix, b: Right) {
    let shapes_agree = out.rows == a.rows && out.columns <= b.columns && a.columns == b.depth;
    assert!(shapes_agree, "shapes differ");
    if a.column_stride == 1 {
        with_simd(Product::<false> { out, into, scale, a, b });
    } else {
        assert!(a.row_stride == 1, "no stride of the left operand is 1");
        with_simd(Product::<true> { out, into, scale, a, b });
    }
}

/// With the left operand's rows in one piece each or, `TRANSPOSED`, its columns.
struct Product<'a, const TRANSPOSED: bool> {
    out: MatrixMut<'a>,
    into: Into,
    scale: f32,
    a: Matrix<'a>,
    b: Right<'a>,
}

impl<const TRANSPOSED: bool> WithSimd for Product<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = TILE_VECTORS * S::F32_LANES;
        for column in (0..self.out.columns).step_by(width) {
            // Of a right operand without rows there are no columns either.
            let first = column / width * self.b.panel_stride;
            let panel = self.b.data.get(first..).unwrap_or_default();
            if self.out.columns - column > S::F32_LANES {
                self.multiply_panel::<S, TILE_VECTORS>(simd, panel, column);
            } else {
                self.multiply_panel::<S, 1>(simd, panel, column);
            }
        }
    }
}

impl<const TRANSPOSED: bool> Product<'_, TRANSPOSED> {
    /// The output's columns from `column` on, `VECTORS` vectors of them or fewer.
    #[inline(always)]
    fn multiply_panel<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: &[f32],
        column: usize,
    ) {
        let end = span(self.b.depth, VECTORS * S::F32_LANES, self.b.row_stride);
        assert!(end <= panel.len(), "a panel ends early");
        for row in (0..self.a.rows).step_by(TILE_ROWS) {
            // SAFETY: so many rows are left, and the panel was found long enough above.
            unsafe {
                match self.a.rows - row {
                    1 => self.tile::<S, 1, VECTORS>(simd, panel, row, column),
                    2 => self.tile::<S, 2, VECTORS>(simd, panel, row, column),
                    3 => self.tile::<S, 3, VECTORS>(simd, panel, row, column),
                    4 => self.tile::<S, 4, VECTORS>(simd, panel, row, column),
                    5 => self.tile::<S, 5, VECTORS>(simd, panel, row, column),
                    _ => self.tile::<S, TILE_ROWS, VECTORS>(simd, panel, row, column),
                }
            }
        }
    }

    /// Writes or adds `ROWS` rows from `row` on.
    ///
    /// # Safety
    /// The left operand has these rows, and `panel` as many rows of `VECTORS` vectors as the right one.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: &[f32],
        row: usize,
        column: usize,
    ) {
        // SAFETY: the same contract.
        let sums = unsafe { self.sums::<S, ROWS, VECTORS>(simd, panel, row) };
        let scale = simd.splat_f32s(self.scale);
        let width = (VECTORS * S::F32_LANES).min(self.out.columns - column);
        let out = &mut self.out.data[row * self.out.row_stride + column..];
        for (sums, out) in sums.into_iter().zip(out.chunks_mut(self.out.row_stride)) {
            for (sum, out) in sums.into_iter().zip(out[..width].chunks_mut(S::F32_LANES)) {
                let value = match self.into {
                    Into::Assign => simd.mul_f32s(scale, sum),
                    Into::Add => simd.add_f32s(simd.mul_f32s(scale, sum), load(simd, out)),
                };
                store(simd, out, value);
            }
        }
    }

    /// Sums of products, `ROWS` rows of `VECTORS` vectors.
    ///
    /// # Safety
    /// The left operand has `ROWS` rows from `row` on, and `panel` as many rows of `VECTORS` vectors as the right one.
    #[inline(always)]
    unsafe fn sums<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        panel: &[f32],
        row: usize,
    ) -> [[S::f32s; VECTORS]; ROWS] {
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; VECTORS]; ROWS];
        let a = self.a;
        let lefts: [*const f32; ROWS] =
            std::array::from_fn(|index| a.data.as_ptr().wrapping_add((row + index) * a.row_stride));
        for depth in 0..self.b.depth {
            let right = panel.as_ptr().wrapping_add(depth * self.b.row_stride).cast::<S::f32s>();
            let mut vectors = [zero; VECTORS];
            for (index, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: by the caller's contract the panel has this row; a vector of f32 may have any bits.
                *vector = unsafe { right.wrapping_add(index).read_unaligned() };
            }
            for (sums, left) in sums.iter_mut().zip(lefts) {
                let place = if TRANSPOSED { depth * a.column_stride } else { depth };
                // SAFETY: by the caller's contract `a` has this row, its slice holds all that it has, and of its
                // columns there are as many as the right operand has rows.
                let left = simd.splat_f32s(unsafe { *left.wrapping_add(place) });
                for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                    *sum = multiply_add(simd, left, vector, *sum);
                }
            }
        }
        sums
    }
}

/// `a b + c`, in one step where the processor has it for vectors: without, a library would do it, slowly.
#[inline(always)]
fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if S::F32_LANES > 1 {
        simd.mul_add_f32s(a, b, c)
    } else {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gemm;
    use super::*;

    /// Every number of rows and vectors in the last tile and panel, strides of all kinds, outputs with fewer columns,
    /// no rows, columns or depth.
    #[test]
    fn agrees_with_large_products() {
        let numbers = |count: usize, by: usize| -> Vec<f32> {
            (0..count).map(|i| (i * by % 1009) as f32 / 504.5 - 1.0).collect()
        };
        let (x, y) = (numbers(1 << 13, 7), numbers(1 << 13, 11));
        for (rows, columns, depth) in [
            (0, 8, 3),
            (1, 1, 1),
            (2, 0, 2),
            (3, 8, 0),
            (4, 7, 5),
            (5, 16, 32),
            (6, 17, 64),
            (7, 24, 65),
            (8, 31, 16),
            (9, 32, 50),
            (50, 50, 32),
            (13, 48, 33),
            (11, 77, 24),
        ] {
            for (kind, into) in (0..4).flat_map(|kind| [(kind, Into::Assign), (kind, Into::Add)]) {
                let matrix = |data, rows, columns, transposed| match transposed {
                    false => Matrix::strided(data, rows, columns, columns + 5),
                    true => Matrix::strided(data, columns, rows, rows + 3).t(),
                };
                let a = matrix(&x, rows, depth, kind & 1 != 0);
                let b = matrix(&y, depth, columns, kind & 2 != 0);
                let mut expected = numbers(rows * (columns + 2), 13);
                let mut found = expected.clone();
                let out = |data| MatrixMut::strided(data, rows, columns, columns + 2);
                gemm::multiply(out(&mut expected), into, 0.75, a, b);
                let mut panels = Panels(vec![f32::NAN; 100]);
                multiply(out(&mut found), into, 0.75, a, Right::new(b, &mut panels));
                for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 1e-5,
                        "{rows} x {columns} x {depth}, {kind:b}, {place}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn columns_beyond_the_last_are_zeros() {
        let (x, y) = ([1.0f32; 12], [2.0f32; 9]);
        let (a, b) = (Matrix::new(&x, 4, 3), Matrix::new(&y, 3, 3).t());
        let mut out = [f32::NAN; 4 * EVEN_COLUMNS];
        // As an earlier product may have left it.
        let mut panels = Panels(vec![f32::NAN; 1000]);
        let right = Right::new(b, &mut panels);
        multiply(MatrixMut::new(&mut out, 4, EVEN_COLUMNS), Into::Assign, 1.0, a, right);
        assert_eq!(out, [[6.0, 6.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0]; 4].as_flattened());
    }

    #[test]
    #[should_panic(expected = "shapes differ")]
    fn refuses_a_depth_that_differs() {
        let (mut panels, x) = (Panels::default(), [0.0; 16]);
        let right = Right::new(Matrix::new(&x, 2, 8), &mut panels);
        let mut out = [0.0; 8];
        multiply(MatrixMut::new(&mut out, 1, 8), Into::Assign, 1.0, Matrix::new(&x, 1, 3), right);
    }
}
