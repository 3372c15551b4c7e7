//! Matrix products over strided views of slices.

use std::ops::Range;

/// A read-only matrix inside a slice; element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` contiguous rows of `columns` elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows of `columns` elements that begin `row_stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(span(rows, columns, row_stride) <= data.len(), "matrix exceeds its slice");
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// A writable row-major matrix inside a slice.
pub struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// `rows` contiguous rows of `columns` elements.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows of `columns` elements that begin `row_stride` elements apart.
    pub fn strided(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(columns <= row_stride || rows <= 1, "rows overlap");
        assert!(span(rows, columns, row_stride) <= data.len(), "matrix exceeds its slice");
        MatrixMut { data, rows, columns, row_stride }
    }
}

/// Elements from the first to the last of a matrix.
pub(super) fn span(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns }
}

/// Whether a product replaces its output or adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// out = ...
    Assign,
    /// out += ...
    Add,
}

/// Columns of the output up to which `gemm` reads a transposed left operand where it lies.
const UNPACKED_COLUMNS: usize = 32;
/// Columns from which rearranging that operand costs less than reading it once for every [`UNPACKED_COLUMNS`].
const PACKED_COLUMNS: usize = 256;

/// `out = scale * a b`, or `out += scale * a b`.
pub fn multiply(mut out: MatrixMut, into: Into, scale: f32, a: Matrix, b: Matrix) {
    assert!(out.rows == a.rows && out.columns == b.columns && a.columns == b.rows, "shapes differ");
    let packs = a.column_stride == 1 || out.columns >= PACKED_COLUMNS;
    let (all, most) = (out.columns, if packs { out.columns.max(1) } else { UNPACKED_COLUMNS });
    for first in (0..all).step_by(most) {
        multiply_columns(&mut out, into, scale, a, b, first..(first + most).min(all));
    }
}

/// The product's `columns`.
fn multiply_columns(
    out: &mut MatrixMut,
    into: Into,
    scale: f32,
    a: Matrix,
    b: Matrix,
    columns: Range<usize>,
) {
    // SAFETY: every view was checked against its slice when it was made, the shapes agree, and `out` is
    // exclusively borrowed, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            out.rows,
            columns.len(),
            a.columns,
            out.data.as_mut_ptr().wrapping_add(columns.start),
            1,
            out.row_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr().wrapping_add(columns.start * b.column_stride),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0f32,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows and columns that [`transpose`] works on at a time: each cache line that it touches it uses whole.
const TRANSPOSE_BLOCK: usize = 16;

/// Copies the transpose of a matrix of contiguous rows, of `columns` elements each, to `out`.
pub fn transpose<'a>(data: &[f32], columns: usize, out: &'a mut Vec<f32>) -> Matrix<'a> {
    let rows = data.len() / columns;
    out.resize(data.len(), 0.0);
    for first in (0..columns).step_by(TRANSPOSE_BLOCK) {
        let width = TRANSPOSE_BLOCK.min(columns - first);
        let out = &mut out[first * rows..(first + width) * rows];
        for (block, lines) in data.chunks(TRANSPOSE_BLOCK * columns).enumerate() {
            for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                let column = lines.iter().skip(first + column).step_by(columns);
                let out = &mut out[block * TRANSPOSE_BLOCK..];
                out.iter_mut().zip(column).for_each(|(out, &x)| *out = x);
            }
        }
    }
    Matrix::new(out, columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_strided_and_transposed_views() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect(); // 2 rows of 3, 6 apart
        let b: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect(); // 4 x 3, used transposed
        let mut out = vec![1.0f32; 8];
        let left = Matrix::strided(&a, 2, 3, 6);
        multiply(MatrixMut::new(&mut out, 2, 4), Into::Add, 0.5, left, Matrix::new(&b, 4, 3).t());
        for i in 0..2 {
            for j in 0..4 {
                let product: f32 = (0..3).map(|k| a[i * 6 + k] * b[j * 3 + k]).sum();
                assert_eq!(out[i * 4 + j], 1.0 + 0.5 * product);
            }
        }
    }

    /// A transposed left operand, at widths below, at and beyond those where the product is cut into columns.
    #[test]
    fn multiplies_a_transposed_left_operand() {
        let whole =
            |count: usize| -> Vec<f32> { (0..count).map(|i| (i % 7) as f32 - 3.0).collect() };
        for columns in [1, 32, 33, 64, 100, 256, 300] {
            let (depth, rows) = (21, 9);
            let (a, b) = (whole(depth * rows), whole(depth * columns));
            let mut out = vec![0.5f32; rows * (columns + 3)];
            let product = MatrixMut::strided(&mut out, rows, columns, columns + 3);
            let (left, right) = (Matrix::new(&a, depth, rows).t(), Matrix::new(&b, depth, columns));
            multiply(product, Into::Add, 2.0, left, right);
            for (i, row) in out.chunks_exact(columns + 3).enumerate() {
                for (j, &found) in row.iter().enumerate() {
                    let terms =
                        (0..depth).map(|k| a[k * rows + i] * b[k * columns + j.min(columns - 1)]);
                    let product = if j < columns { terms.sum() } else { 0.0 };
                    assert_eq!(found, 0.5 + 2.0 * product, "{columns} columns: ({i}, {j})");
                }
            }
        }
        multiply(
            MatrixMut::new(&mut [], 0, 64),
            Into::Assign,
            1.0,
            Matrix::new(&[], 3, 0).t(),
            Matrix::new(&[0.0; 192], 3, 64),
        );
        let mut out = vec![1.0f32; 128];
        multiply(
            MatrixMut::new(&mut out, 2, 64),
            Into::Assign,
            1.0,
            Matrix::new(&[], 0, 2).t(),
            Matrix::new(&[], 0, 64),
        );
        assert_eq!(out, [0.0; 128]);
    }

    #[test]
    fn transposes_matrices_of_any_size() {
        for (rows, columns) in [(1, 1), (3, 40), (16, 16), (17, 33), (50, 2)] {
            let data: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let mut out = vec![f32::NAN; 7];
            transpose(&data, columns, &mut out);
            let expected =
                (0..columns).flat_map(|j| (0..rows).map(move |i| (i * columns + j) as f32));
            assert_eq!(out, expected.collect::<Vec<f32>>(), "{rows} x {columns}");
        }
    }

    #[test]
    #[should_panic(expected = "matrix exceeds its slice")]
    fn refuses_a_view_beyond_its_slice() {
        Matrix::strided(&[0.0; 8], 2, 3, 6);
    }
}
