//! Operands: device memory with the meaning that kernels need (type, shape, strides, scales), bound to a stream.
//!
//! An operand borrows its memory and is made for one stream, which its memory must belong to; `run` refuses it on another.
//! Why that makes asynchronous launches sound: memory that cudarc frees is freed in the order of the stream it belongs to,
//! so a buffer that a launch on that stream uses cannot be given away before the launch has run, although the borrow ends
//! when `run` returns.
//!
//! ```text
//! Fp8Rows    data    [m, k] E4M3, row-major, `row_stride` bytes from row to row (a multiple of 16)
//!            scales  one f32 per row and 128 columns, m contiguous: scales[kb * scale_stride + row]
//! Fp8Blocks  data    [n, k] E4M3, row-major, `row_stride` bytes from row to row (a multiple of 16)
//!            scales  one f32 per block of 128 x 128: scales[(row / 128) * scale_stride + kb]
//! Matrix     data    [rows, cols], row-major, `row_stride` elements from row to row
//! ```
//! Scales of `Fp8Rows` may also lie row by row (`Fp8Rows::with_layout`), and `stack` makes an operand the first of several
//! matrices a fixed distance apart: one for each group of a grouped GEMM.

use std::marker::PhantomData;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use half::{bf16, f16};

use crate::error::{ArgumentError, at_least, multiple};
use crate::fp8::E4M3;

mod stack;
mod vector;

pub(crate) use stack::Stack;
pub use vector::{Indices, Vector};

mod sealed {
    pub trait Sealed {}
}

/// Element types of plain matrices. Sealed: `bf16`, `f16`, `f32`.
pub trait Element: sealed::Sealed + Copy + 'static {
    /// Bytes of an element.
    const BYTES: usize = size_of::<Self>();
    /// The name that kernels use.
    const NAME: &'static str;
    /// The exact value.
    fn to_f32(self) -> f32;
}

macro_rules! element {
    ($t:ty, $name:literal, |$v:ident| $e:expr) => {
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const NAME: &'static str = $name;
            fn to_f32(self) -> f32 {
                let $v = self;
                $e
            }
        }
    };
}
element!(bf16, "bf16", |v| v.to_f32());
element!(f16, "f16", |v| v.to_f32());
element!(f32, "f32", |v| v);

/// Memory of an operand: address, bytes, the stream it belongs to, and what cudarc wants dropped after the launch.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    stream: usize,
    _sync: Option<SyncOnDrop<'a>>,
    _life: PhantomData<&'a ()>,
}

fn id(stream: &CudaStream) -> usize {
    stream.cu_stream() as usize
}

impl<'a> Span<'a> {
    pub(crate) fn read<T>(
        argument: &'static str,
        stream: &'a CudaStream,
        s: &'a impl DevicePtr<T>,
    ) -> Result<Self, ArgumentError> {
        if id(s.stream()) != id(stream)
            || s.stream().context().cu_ctx() != stream.context().cu_ctx()
        {
            return Err(ArgumentError::StreamMismatch { argument });
        }
        let bytes = (s.len() * size_of::<T>()) as u64;
        let (address, sync) = s.device_ptr(stream);
        Ok(Self {
            address,
            bytes,
            stream: id(stream),
            _sync: Some(sync),
            _life: PhantomData,
        })
    }

    pub(crate) fn write<T>(
        argument: &'static str,
        stream: &'a CudaStream,
        s: &'a mut impl DevicePtrMut<T>,
    ) -> Result<Self, ArgumentError> {
        if id(s.stream()) != id(stream)
            || s.stream().context().cu_ctx() != stream.context().cu_ctx()
        {
            return Err(ArgumentError::StreamMismatch { argument });
        }
        let bytes = (s.len() * size_of::<T>()) as u64;
        let (address, sync) = s.device_ptr_mut(stream);
        Ok(Self {
            address,
            bytes,
            stream: id(stream),
            _sync: Some(sync),
            _life: PhantomData,
        })
    }

    pub(crate) fn raw(
        argument: &'static str,
        stream: &CudaStream,
        address: u64,
        bytes: u64,
    ) -> Result<Self, ArgumentError> {
        if address == 0 && bytes > 0 {
            return Err(ArgumentError::Null { argument });
        }
        Ok(Self {
            address,
            bytes,
            stream: id(stream),
            _sync: None,
            _life: PhantomData,
        })
    }

    pub(crate) fn on(
        &self,
        argument: &'static str,
        stream: &CudaStream,
    ) -> Result<(), ArgumentError> {
        if self.stream == id(stream) {
            Ok(())
        } else {
            Err(ArgumentError::StreamMismatch { argument })
        }
    }

    /// Whether two spans share bytes.
    pub(crate) fn apart(
        &self,
        argument: &'static str,
        other: &Span<'_>,
        name: &'static str,
    ) -> Result<(), ArgumentError> {
        let apart = self.bytes == 0
            || other.bytes == 0
            || self.address.saturating_add(self.bytes) <= other.address
            || other.address.saturating_add(other.bytes) <= self.address;
        if apart {
            Ok(())
        } else {
            Err(ArgumentError::Overlap {
                argument,
                other: name,
            })
        }
    }
}

/// Elements that `rows` rows of `cols` elements take, `stride` apart; 0 for an empty matrix.
pub(crate) fn extent(
    argument: &'static str,
    rows: usize,
    cols: usize,
    stride: usize,
) -> Result<u64, ArgumentError> {
    if rows == 0 || cols == 0 {
        return Ok(0);
    }
    let n = (rows as u64 - 1)
        .checked_mul(stride as u64)
        .and_then(|x| x.checked_add(cols as u64));
    n.filter(|n| *n < 1 << 48).ok_or(ArgumentError::TooLarge {
        argument,
        limit: 1 << 48,
        got: u64::MAX,
    })
}

pub(crate) fn long_enough(
    argument: &'static str,
    need: u64,
    bytes: u64,
    size: usize,
) -> Result<(), ArgumentError> {
    let got = bytes / size as u64;
    if got >= need {
        Ok(())
    } else {
        Err(ArgumentError::Length {
            argument,
            expected: need,
            got,
        })
    }
}

/// Elements that `count` matrices of `one` elements take, `stride` apart.
fn stacked(
    argument: &'static str,
    count: usize,
    one: u64,
    stride: usize,
) -> Result<u64, ArgumentError> {
    if count == 0 || one == 0 {
        return Ok(0);
    }
    if count > 1 {
        at_least(argument, stride as u64, one)?;
    }
    extent(argument, count, one as usize, stride)
}

/// Columns of scales: groups of 128.
pub(crate) fn groups(k: usize) -> usize {
    k.div_ceil(128)
}

fn codes(
    argument: &'static str,
    span: &Span<'_>,
    rows: usize,
    k: usize,
    stride: usize,
) -> Result<(), ArgumentError> {
    at_least(argument, stride as u64, k as u64)?;
    multiple(argument, stride as u64, 16)?;
    multiple(argument, span.address, 16)?;
    long_enough(argument, extent(argument, rows, k, stride)?, span.bytes, 1)
}

/// Rows of E4M3 values with a scale per row and 128 columns (see the module's picture): activations.
#[derive(Debug)]
pub struct Fp8Rows<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) scales: Span<'a>,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) row_stride: usize,
    pub(crate) scale_stride: usize,
    pub(crate) layout: ScaleLayout,
    pub(crate) stack: Stack,
}

impl<'a> Fp8Rows<'a> {
    /// Packed data (`row_stride` = k) and scales with `scale_stride` = m rounded up to 4, the copy engine's 16 bytes.
    ///
    /// # Errors
    /// Lengths, alignment, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        m: usize,
        k: usize,
    ) -> Result<Self, ArgumentError> {
        Self::with_strides(stream, data, scales, (m, k), k, m.next_multiple_of(4))
    }

    /// With strides: `row_stride` in bytes, `scale_stride` in scales (a multiple of 4).
    ///
    /// # Errors
    /// As [`Fp8Rows::new`].
    pub fn with_strides(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        (m, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("a", stream, data)?;
        let scales = Span::read("a.scales", stream, scales)?;
        Self {
            data,
            scales,
            m,
            k,
            row_stride,
            scale_stride,
            layout: ScaleLayout::ColumnMajor,
            stack: Stack::ONE,
        }
        .checked()
    }

    /// From addresses, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Fp8Rows::new`].
    ///
    /// # Safety
    /// `data.1` E4M3 values at `data.0` and `scales.1` f32 at `scales.0` are device memory that stays valid, and is written
    /// by nobody else, until every launch with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        scales: (u64, usize),
        (m, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw("a", stream, data.0, data.1 as u64)?;
        let scales = Span::raw(
            "a.scales",
            stream,
            scales.0,
            (scales.1 as u64).saturating_mul(4),
        )?;
        Self {
            data,
            scales,
            m,
            k,
            row_stride,
            scale_stride,
            layout: ScaleLayout::ColumnMajor,
            stack: Stack::ONE,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        let Stack {
            count,
            stride,
            scale_stride,
        } = self.stack;
        codes("a", &self.data, self.m, self.k, self.row_stride)?;
        multiple("a.group_stride", stride as u64, 16)?;
        let one = extent("a", self.m, self.k, self.row_stride)?;
        long_enough("a", stacked("a", count, one, stride)?, self.data.bytes, 1)?;
        let (lines, n) = match self.layout {
            ScaleLayout::ColumnMajor => (groups(self.k), self.m),
            ScaleLayout::RowMajor => (self.m, groups(self.k)),
        };
        at_least("a.scale_stride", self.scale_stride as u64, n as u64)?;
        multiple("a.scale_stride", self.scale_stride as u64, 4)?;
        multiple("a.scale_group_stride", scale_stride as u64, 4)?;
        multiple("a.scales", self.scales.address, 16)?;
        let one = extent("a.scales", lines, n, self.scale_stride)?;
        let need = stacked("a.scales", count, one, scale_stride)?;
        long_enough("a.scales", need, self.scales.bytes, 4)?;
        Ok(self)
    }
}

/// Rows of E4M3 values with a scale per 128 x 128 block (see the module's picture): weights.
#[derive(Debug)]
pub struct Fp8Blocks<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) scales: Span<'a>,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) row_stride: usize,
    pub(crate) scale_stride: usize,
    pub(crate) stack: Stack,
}

impl<'a> Fp8Blocks<'a> {
    /// Packed data (`row_stride` = k) and scales (`scale_stride` = ⌈k / 128⌉), as checkpoints have them.
    ///
    /// # Errors
    /// Lengths, alignment, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        n: usize,
        k: usize,
    ) -> Result<Self, ArgumentError> {
        Self::with_strides(stream, data, scales, (n, k), k, groups(k))
    }

    /// With strides: `row_stride` in bytes, `scale_stride` in scales.
    ///
    /// # Errors
    /// As [`Fp8Blocks::new`].
    pub fn with_strides(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<E4M3>,
        scales: &'a impl DevicePtr<f32>,
        (n, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("b", stream, data)?;
        let scales = Span::read("b.scales", stream, scales)?;
        Self {
            data,
            scales,
            n,
            k,
            row_stride,
            scale_stride,
            stack: Stack::ONE,
        }
        .checked()
    }

    /// From addresses, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Fp8Blocks::new`].
    ///
    /// # Safety
    /// As [`Fp8Rows::from_raw_parts`].
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        scales: (u64, usize),
        (n, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw("b", stream, data.0, data.1 as u64)?;
        let scales = Span::raw(
            "b.scales",
            stream,
            scales.0,
            (scales.1 as u64).saturating_mul(4),
        )?;
        Self {
            data,
            scales,
            n,
            k,
            row_stride,
            scale_stride,
            stack: Stack::ONE,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        let Stack {
            count,
            stride,
            scale_stride,
        } = self.stack;
        codes("b", &self.data, self.n, self.k, self.row_stride)?;
        multiple("b.group_stride", stride as u64, 16)?;
        let one = extent("b", self.n, self.k, self.row_stride)?;
        long_enough("b", stacked("b", count, one, stride)?, self.data.bytes, 1)?;
        at_least(
            "b.scale_stride",
            self.scale_stride as u64,
            groups(self.k) as u64,
        )?;
        multiple("b.scales", self.scales.address, 4)?;
        let one = extent(
            "b.scales",
            groups(self.n),
            groups(self.k),
            self.scale_stride,
        )?;
        let need = stacked("b.scales", count, one, scale_stride)?;
        long_enough("b.scales", need, self.scales.bytes, 4)?;
        Ok(self)
    }
}

/// A matrix that kernels read.
#[derive(Debug)]
pub struct Matrix<'a, T: Element> {
    pub(crate) data: Span<'a>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    _type: PhantomData<T>,
}

impl<'a, T: Element> Matrix<'a, T> {
    /// A packed matrix.
    ///
    /// # Errors
    /// Length, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<T>,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ArgumentError> {
        Self::with_stride(stream, data, rows, cols, cols)
    }

    /// With `row_stride` elements from row to row.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn with_stride(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<T>,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("x", stream, data)?;
        Self {
            data,
            rows,
            cols,
            row_stride,
            _type: PhantomData,
        }
        .checked()
    }

    /// From an address, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    ///
    /// # Safety
    /// `data.1` elements at `data.0` are device memory that stays valid, and is written by nobody else, until every launch
    /// with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw(
            "x",
            stream,
            data.0,
            (data.1 as u64).saturating_mul(T::BYTES as u64),
        )?;
        Self {
            data,
            rows,
            cols,
            row_stride,
            _type: PhantomData,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        at_least("x.row_stride", self.row_stride as u64, self.cols as u64)?;
        multiple("x", self.data.address, T::BYTES as u64)?;
        long_enough(
            "x",
            extent("x", self.rows, self.cols, self.row_stride)?,
            self.data.bytes,
            T::BYTES,
        )?;
        Ok(self)
    }
}

/// A matrix that a kernel writes.
#[derive(Debug)]
pub struct MatrixMut<'a, T: Element> {
    pub(crate) data: Span<'a>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) stack: Stack,
    _type: PhantomData<T>,
}

impl<'a, T: Element> MatrixMut<'a, T> {
    /// A packed matrix.
    ///
    /// # Errors
    /// Length, alignment, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a mut impl DevicePtrMut<T>,
        rows: usize,
        cols: usize,
    ) -> Result<Self, ArgumentError> {
        Self::with_stride(stream, data, rows, cols, cols)
    }

    /// With `row_stride` elements from row to row; rows start on multiples of 16 bytes.
    ///
    /// # Errors
    /// As [`MatrixMut::new`].
    pub fn with_stride(
        stream: &'a CudaStream,
        data: &'a mut impl DevicePtrMut<T>,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::write("d", stream, data)?;
        Self {
            data,
            rows,
            cols,
            row_stride,
            stack: Stack::ONE,
            _type: PhantomData,
        }
        .checked()
    }

    /// From an address, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`MatrixMut::new`].
    ///
    /// # Safety
    /// `data.1` elements at `data.0` are device memory that stays valid, and that nobody else reads or writes, until every
    /// launch with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw(
            "d",
            stream,
            data.0,
            (data.1 as u64).saturating_mul(T::BYTES as u64),
        )?;
        Self {
            data,
            rows,
            cols,
            row_stride,
            stack: Stack::ONE,
            _type: PhantomData,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        at_least("d.row_stride", self.row_stride as u64, self.cols as u64)?;
        multiple(
            "d.row_stride",
            (self.row_stride as u64).saturating_mul(T::BYTES as u64),
            16,
        )?;
        multiple("d", self.data.address, 16)?;
        multiple(
            "d.group_stride",
            (self.stack.stride as u64).saturating_mul(T::BYTES as u64),
            16,
        )?;
        let one = extent("d", self.rows, self.cols, self.row_stride)?;
        let need = stacked("d", self.stack.count, one, self.stack.stride)?;
        long_enough("d", need, self.data.bytes, T::BYTES)?;
        Ok(self)
    }
}

/// Where scales of rows go: m contiguous, as the GEMM's copy engine takes them, or row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleLayout {
    /// scales[kb * stride + row]; the stride is a multiple of 4.
    ColumnMajor,
    /// scales[row * stride + kb].
    RowMajor,
}

/// E4M3 values and scales that a quantiser writes.
#[derive(Debug)]
pub struct Fp8Out<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) scales: Span<'a>,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) row_stride: usize,
    pub(crate) scale_stride: usize,
    pub(crate) stack: Stack,
}

impl<'a> Fp8Out<'a> {
    /// `rows` x `k` codes, `row_stride` bytes from row to row, and scales `scale_stride` apart (see [`ScaleLayout`], and
    /// the module's picture for blocks).
    ///
    /// # Errors
    /// Length of the codes, alignment, another stream. The scales' length is checked by the quantiser, which knows their
    /// layout.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a mut impl DevicePtrMut<E4M3>,
        scales: &'a mut impl DevicePtrMut<f32>,
        (rows, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::write("y", stream, data)?;
        let scales = Span::write("y.scales", stream, scales)?;
        Self {
            data,
            scales,
            rows,
            k,
            row_stride,
            scale_stride,
            stack: Stack::ONE,
        }
        .checked()
    }

    /// From addresses, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Fp8Out::new`].
    ///
    /// # Safety
    /// `data.1` codes at `data.0` and `scales.1` f32 at `scales.0` are device memory that stays valid, and that nobody else
    /// reads or writes, until every launch with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        scales: (u64, usize),
        (rows, k): (usize, usize),
        row_stride: usize,
        scale_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw("y", stream, data.0, data.1 as u64)?;
        let scales = Span::raw(
            "y.scales",
            stream,
            scales.0,
            (scales.1 as u64).saturating_mul(4),
        )?;
        Self {
            data,
            scales,
            rows,
            k,
            row_stride,
            scale_stride,
            stack: Stack::ONE,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        let Stack { count, stride, .. } = self.stack;
        codes("y", &self.data, self.rows, self.k, self.row_stride)?;
        multiple("y.group_stride", stride as u64, 16)?;
        let one = extent("y", self.rows, self.k, self.row_stride)?;
        long_enough("y", stacked("y", count, one, stride)?, self.data.bytes, 1)?;
        multiple("y.scales", self.scales.address, 4)?;
        Ok(self)
    }

    /// Refuses scales that `lines` lines of `n` do not fit in.
    pub(crate) fn room(&self, lines: usize, n: usize) -> Result<(), ArgumentError> {
        at_least("y.scale_stride", self.scale_stride as u64, n as u64)?;
        let one = extent("y.scales", lines, n, self.scale_stride)?;
        let need = stacked("y.scales", self.stack.count, one, self.stack.scale_stride)?;
        long_enough("y.scales", need, self.scales.bytes, 4)
    }
}
