//! Products of two matrices that both change, of any strides: the `gemm` crate, which packs both as it goes.

/// A matrix inside a slice: element `(row, column)` is `data[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of contiguous values that begin `row_stride` apart.
    pub(crate) fn rows(data: &'a [f32], row_stride: usize) -> Self {
        Self {
            data,
            row_stride,
            column_stride: 1,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `output[row * stride + column] (+)= left (rows, inner) · right (inner, columns)`; adds when `accumulate`, else
/// overwrites whatever is there, NaN included.
#[expect(
    unsafe_code,
    reason = "the gemm crate takes pointers; the assertions bound every access"
)]
pub(crate) fn product(
    (rows, columns, inner): (usize, usize, usize),
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        columns <= stride && (rows - 1) * stride + columns <= output.len(),
        "output is too small"
    );
    assert!(
        left.holds(rows, inner) && right.holds(inner, columns),
        "a factor is too small"
    );
    // SAFETY: by the assertions above every element that the three strided views address lies inside its slice,
    // and strides of slices fit isize. `output` is borrowed exclusively, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            output.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
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
    fn a_product_overwrites_poison_and_adds_where_asked() {
        let left = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let right = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut output = [f32::NAN; 6];
        product(
            (2, 2, 3),
            &mut output,
            3,
            Matrix::rows(&left, 3),
            Matrix::rows(&right, 2),
            false,
        );
        assert_eq!(
            (&output[..2], &output[3..5]),
            ([4.0, 5.0].as_slice(), [10.0, 11.0].as_slice())
        );
        assert!(output[2].is_nan());
        product(
            (2, 2, 3),
            &mut output,
            3,
            Matrix::rows(&left, 3),
            Matrix::rows(&right, 2),
            true,
        );
        assert_eq!(
            (&output[..2], &output[3..5]),
            ([8.0, 10.0].as_slice(), [20.0, 22.0].as_slice())
        );
    }
}
