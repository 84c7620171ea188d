//! Operands of several matrices a fixed distance apart, and scales row by row.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use super::{Element, Fp8Blocks, Fp8Out, Fp8Rows, MatrixMut, ScaleLayout, groups};
use crate::error::ArgumentError;
use crate::fp8::E4M3;

/// How many matrices, and how far apart: in elements of the data, and in scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) count: usize,
    pub(crate) stride: usize,
    pub(crate) scale_stride: usize,
}

impl Stack {
    /// One matrix.
    pub(crate) const ONE: Self = Self {
        count: 1,
        stride: 0,
        scale_stride: 0,
    };
}

impl<'a> Fp8Rows<'a> {
    /// Scales where `layout` says; `scale_stride` scales from line to line, a multiple of 4.
    ///
    /// ```text
    /// ColumnMajor   scales[kb * scale_stride + row]
    /// RowMajor      scales[row * scale_stride + kb]
    /// ```
    ///
    /// # Errors
    /// As [`Fp8Rows::new`].
    pub fn with_layout(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        (m, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
        layout: ScaleLayout,
    ) -> Result<Self, ArgumentError> {
        let data = super::Span::read("a", stream, data)?;
        let scales = super::Span::read("a.scales", stream, scales)?;
        Self {
            data,
            scales,
            m,
            k,
            row_stride,
            scale_stride,
            layout,
            stack: Stack::ONE,
        }
        .checked()
    }

    /// The same operand, its scales read as `layout` says.
    ///
    /// # Errors
    /// The scales are too few for it.
    pub fn layout(self, layout: ScaleLayout) -> Result<Self, ArgumentError> {
        Self { layout, ..self }.checked()
    }

    /// The first of `count` such matrices, `stride` bytes and `scale_stride` scales (a multiple of 4) apart.
    ///
    /// # Errors
    /// The memory is too short, matrices overlap, a stride is no multiple of 16 bytes.
    pub fn stack(
        self,
        count: usize,
        stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let stack = Stack {
            count,
            stride,
            scale_stride,
        };
        Self { stack, ..self }.checked()
    }
}

impl<'a> Fp8Blocks<'a> {
    /// Packed weights of `count` experts: data [count, n, k], scales [count, ⌈n/128⌉, ⌈k/128⌉].
    ///
    /// # Errors
    /// As [`Fp8Blocks::new`].
    pub fn stacked(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        (count, n, k): (usize, usize, usize),
    ) -> Result<Self, ArgumentError> {
        Self::new(stream, data, scales, n, k)?.stack(
            count,
            n.saturating_mul(k),
            groups(n).saturating_mul(groups(k)),
        )
    }

    /// The first of `count` such matrices, `stride` bytes and `scale_stride` scales apart.
    ///
    /// # Errors
    /// The memory is too short, matrices overlap, `stride` is no multiple of 16.
    pub fn stack(
        self,
        count: usize,
        stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let stack = Stack {
            count,
            stride,
            scale_stride,
        };
        Self { stack, ..self }.checked()
    }
}

impl<T: Element> MatrixMut<'_, T> {
    /// The first of `count` such matrices, `stride` elements apart.
    ///
    /// # Errors
    /// The memory is too short, matrices overlap, `stride` is no multiple of 16 bytes.
    pub fn stack(self, count: usize, stride: usize) -> Result<Self, ArgumentError> {
        let stack = Stack {
            count,
            stride,
            scale_stride: 0,
        };
        Self { stack, ..self }.checked()
    }
}

impl Fp8Out<'_> {
    /// The first of `count` such matrices, `stride` bytes and `scale_stride` scales apart.
    ///
    /// # Errors
    /// The memory of the codes is too short, matrices overlap, `stride` is no multiple of 16. Scales are checked when they are written.
    pub fn stack(
        self,
        count: usize,
        stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let stack = Stack {
            count,
            stride,
            scale_stride,
        };
        Self { stack, ..self }.checked()
    }
}

impl<'a, T: Element> MatrixMut<'a, T> {
    /// Packed [count, rows, cols].
    ///
    /// # Errors
    /// As [`MatrixMut::new`].
    pub fn stacked(
        stream: &'a CudaStream,
        data: &'a mut impl DevicePtrMut<T>,
        (count, rows, cols): (usize, usize, usize),
    ) -> Result<Self, ArgumentError> {
        Self::new(stream, data, rows, cols)?.stack(count, rows.saturating_mul(cols))
    }
}
