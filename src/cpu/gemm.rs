//! Matrix products over strided views of slices.

/// A read-only matrix inside a slice; element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
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
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
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

fn span(rows: usize, columns: usize, row_stride: usize) -> usize {
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

/// `out = scale * a b`, or `out += scale * a b`.
pub fn multiply(out: MatrixMut, into: Into, scale: f32, a: Matrix, b: Matrix) {
    assert!(out.rows == a.rows && out.columns == b.columns && a.columns == b.rows, "shapes differ");
    // SAFETY: every view was checked against its slice when it was made, the shapes agree, and `out` is
    // exclusively borrowed, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
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

    #[test]
    #[should_panic(expected = "matrix exceeds its slice")]
    fn refuses_a_view_beyond_its_slice() {
        Matrix::strided(&[0.0; 8], 2, 3, 6);
    }
}
