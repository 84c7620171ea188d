//! Operands of the all-to-all and its router: which experts each token goes to, with which weights.
//!
//! ```text
//! ids      [tokens, top_k] i32, packed: an expert, or -1 where nothing was picked
//! weights  [tokens, top_k] f32, packed
//! ```

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use half::bf16;

use super::layout::Payload;
use crate::error::{ArgumentError, at_least, multiple};
use crate::tensor::{Fp8Out, Matrix, MatrixMut, Span, extent, groups, long_enough};

/// Experts and weights of each token, to be read. `ids` are untrusted: kernels check each against the number of experts.
#[derive(Debug)]
pub struct Picks<'a> {
    pub(crate) ids: Span<'a>,
    pub(crate) weights: Span<'a>,
    pub(crate) tokens: usize,
    pub(crate) top_k: usize,
}

impl<'a> Picks<'a> {
    /// `tokens` rows of `top_k` ids and weights.
    ///
    /// # Errors
    /// Lengths, another stream.
    pub fn new(
        stream: &'a CudaStream,
        ids: &'a impl DevicePtr<i32>,
        weights: &'a impl DevicePtr<f32>,
        tokens: usize,
        top_k: usize,
    ) -> Result<Self, ArgumentError> {
        let ids = Span::read("ids", stream, ids)?;
        let weights = Span::read("weights", stream, weights)?;
        checked(&ids, &weights, tokens, top_k)?;
        Ok(Self {
            ids,
            weights,
            tokens,
            top_k,
        })
    }

    /// From addresses and lengths in elements, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Picks::new`].
    ///
    /// # Safety
    /// The elements are device memory that stays valid, and is written by nobody else, until every launch with this operand
    /// has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        ids: (u64, usize),
        weights: (u64, usize),
        tokens: usize,
        top_k: usize,
    ) -> Result<Self, ArgumentError> {
        let ids = Span::raw("ids", stream, ids.0, (ids.1 as u64).saturating_mul(4))?;
        let weights = Span::raw(
            "weights",
            stream,
            weights.0,
            (weights.1 as u64).saturating_mul(4),
        )?;
        checked(&ids, &weights, tokens, top_k)?;
        Ok(Self {
            ids,
            weights,
            tokens,
            top_k,
        })
    }
}

/// Experts and weights of each token, to be written.
#[derive(Debug)]
pub struct PicksMut<'a> {
    pub(crate) ids: Span<'a>,
    pub(crate) weights: Span<'a>,
    pub(crate) tokens: usize,
    pub(crate) top_k: usize,
}

impl<'a> PicksMut<'a> {
    /// `tokens` rows of `top_k` ids and weights.
    ///
    /// # Errors
    /// Lengths, another stream.
    pub fn new(
        stream: &'a CudaStream,
        ids: &'a mut impl DevicePtrMut<i32>,
        weights: &'a mut impl DevicePtrMut<f32>,
        tokens: usize,
        top_k: usize,
    ) -> Result<Self, ArgumentError> {
        let ids = Span::write("ids", stream, ids)?;
        let weights = Span::write("weights", stream, weights)?;
        checked(&ids, &weights, tokens, top_k)?;
        Ok(Self {
            ids,
            weights,
            tokens,
            top_k,
        })
    }

    /// From addresses and lengths in elements, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`PicksMut::new`].
    ///
    /// # Safety
    /// The elements are device memory that stays valid, and that nobody else reads or writes, until every launch with this
    /// operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        ids: (u64, usize),
        weights: (u64, usize),
        tokens: usize,
        top_k: usize,
    ) -> Result<Self, ArgumentError> {
        let ids = Span::raw("ids", stream, ids.0, (ids.1 as u64).saturating_mul(4))?;
        let weights = Span::raw(
            "weights",
            stream,
            weights.0,
            (weights.1 as u64).saturating_mul(4),
        )?;
        checked(&ids, &weights, tokens, top_k)?;
        Ok(Self {
            ids,
            weights,
            tokens,
            top_k,
        })
    }
}

fn checked(
    ids: &Span<'_>,
    weights: &Span<'_>,
    tokens: usize,
    top_k: usize,
) -> Result<(), ArgumentError> {
    let need = (tokens as u64)
        .checked_mul(top_k as u64)
        .ok_or(ArgumentError::TooLarge {
            argument: "tokens",
            limit: u64::MAX / top_k.max(1) as u64,
            got: tokens as u64,
        })?;
    multiple("ids", ids.address, 4)?;
    multiple("weights", weights.address, 4)?;
    long_enough("ids", need, ids.bytes, 4)?;
    long_enough("weights", need, weights.bytes, 4)
}

/// Token rows to be sent, as bytes; `row_stride` bytes from row to row.
#[derive(Debug)]
pub struct Rows<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) rows: usize,
    pub(crate) row_bytes: usize,
    pub(crate) row_stride: usize,
}

impl<'a> Rows<'a> {
    /// bf16 rows.
    ///
    /// # Errors
    /// Rows that do not start on 16 bytes.
    pub fn bf16(m: Matrix<'a, bf16>) -> Result<Self, ArgumentError> {
        Self {
            data: m.data,
            rows: m.rows,
            row_bytes: 2 * m.cols,
            row_stride: 2 * m.row_stride,
        }
        .checked()
    }

    /// Rows of bytes.
    ///
    /// # Errors
    /// Length, alignment, another stream.
    pub fn bytes(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<u8>,
        rows: usize,
        row_bytes: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        Self {
            data: Span::read("rows", stream, data)?,
            rows,
            row_bytes,
            row_stride,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        room(
            "rows",
            &self.data,
            self.rows,
            self.row_bytes,
            self.row_stride,
        )?;
        Ok(self)
    }
}

/// `rows` rows of `row_bytes` bytes, `row_stride` apart, each on 16 bytes, fit.
fn room(
    argument: &'static str,
    span: &Span<'_>,
    rows: usize,
    row_bytes: usize,
    row_stride: usize,
) -> Result<(), ArgumentError> {
    multiple(argument, span.address, 16)?;
    multiple(argument, row_stride as u64, 16)?;
    at_least(argument, row_stride as u64, row_bytes as u64)?;
    let need = extent(argument, rows, row_bytes, row_stride)?;
    long_enough(argument, need, span.bytes, 1)
}

/// Where received rows go: `max_rows` rows in the order of the rank's experts.
///
/// ```text
/// rows     [max_rows] rows, as the grouped GEMM takes A
/// scales   FP8 payloads: scales[group * scale_stride + row], as the grouped GEMM takes them
/// counts   [local experts] i32
/// offsets  [local experts + 1] i32: expert l has rows offsets[l] .. offsets[l + 1], without gaps
/// ```
#[derive(Debug)]
pub struct ExpertRows<'a> {
    pub(crate) rows: Span<'a>,
    pub(crate) row_stride: usize,
    capacity: usize,
    row_bytes: usize,
    pub(crate) scales: Option<(Span<'a>, usize)>,
    pub(crate) counts: Span<'a>,
    pub(crate) offsets: Span<'a>,
}

impl<'a> ExpertRows<'a> {
    /// bf16 rows.
    ///
    /// # Errors
    /// Another stream.
    pub fn bf16(
        stream: &'a CudaStream,
        rows: MatrixMut<'a, bf16>,
        counts: &'a mut impl DevicePtrMut<i32>,
        offsets: &'a mut impl DevicePtrMut<i32>,
    ) -> Result<Self, ArgumentError> {
        Ok(Self {
            row_stride: 2 * rows.row_stride,
            capacity: rows.rows,
            row_bytes: 2 * rows.cols,
            rows: rows.data,
            scales: None,
            counts: Span::write("counts", stream, counts)?,
            offsets: Span::write("offsets", stream, offsets)?,
        })
    }

    /// FP8 codes with their scales, those of a group contiguous ([`crate::tensor::ScaleLayout::ColumnMajor`]).
    ///
    /// # Errors
    /// Another stream, scales that do not fit.
    pub fn fp8(
        stream: &'a CudaStream,
        rows: Fp8Out<'a>,
        counts: &'a mut impl DevicePtrMut<i32>,
        offsets: &'a mut impl DevicePtrMut<i32>,
    ) -> Result<Self, ArgumentError> {
        rows.room(groups(rows.k), rows.rows)?;
        Ok(Self {
            row_stride: rows.row_stride,
            capacity: rows.rows,
            row_bytes: rows.k,
            rows: rows.data,
            scales: Some((rows.scales, rows.scale_stride)),
            counts: Span::write("counts", stream, counts)?,
            offsets: Span::write("offsets", stream, offsets)?,
        })
    }

    /// Rows of bytes.
    ///
    /// # Errors
    /// Length, alignment, another stream.
    pub fn bytes(
        stream: &'a CudaStream,
        rows: &'a mut impl DevicePtrMut<u8>,
        (capacity, row_bytes, row_stride): (usize, usize, usize),
        counts: &'a mut impl DevicePtrMut<i32>,
        offsets: &'a mut impl DevicePtrMut<i32>,
    ) -> Result<Self, ArgumentError> {
        let rows = Span::write("rows", stream, rows)?;
        room("rows", &rows, capacity, row_bytes, row_stride)?;
        Ok(Self {
            rows,
            row_stride,
            capacity,
            row_bytes,
            scales: None,
            counts: Span::write("counts", stream, counts)?,
            offsets: Span::write("offsets", stream, offsets)?,
        })
    }

    pub(crate) fn checked(
        &self,
        stream: &CudaStream,
        payload: Payload,
        max_rows: usize,
        locals: usize,
    ) -> Result<(), ArgumentError> {
        let expected = (max_rows, payload.output_bytes());
        if (self.capacity, self.row_bytes) != expected {
            return Err(ArgumentError::Shape {
                argument: "rows",
                expected,
                got: (self.capacity, self.row_bytes),
            });
        }
        // Codes and their scales come together or not at all.
        let scales = (max_rows, payload.scales());
        let got = (
            self.capacity,
            self.scales.as_ref().map_or(0, |_| groups(self.row_bytes)),
        );
        if scales != got {
            return Err(ArgumentError::Shape {
                argument: "scales",
                expected: scales,
                got,
            });
        }
        multiple("rows", self.rows.address, 16)?;
        multiple("rows", self.row_stride as u64, 16)?;
        long_enough("counts", locals as u64, self.counts.bytes, 4)?;
        long_enough("offsets", locals as u64 + 1, self.offsets.bytes, 4)?;
        let scales = self.scales.as_ref().map_or(&self.rows, |(s, _)| s);
        let spans = [
            ("counts", &self.counts),
            ("offsets", &self.offsets),
            ("rows", &self.rows),
            ("scales", scales),
        ];
        let spans = &spans[..3 + usize::from(self.scales.is_some())];
        for (i, (name, span)) in spans.iter().enumerate() {
            span.on(name, stream)?;
            for (other, o) in &spans[..i] {
                span.apart(name, o, other)?;
            }
        }
        Ok(())
    }
}

/// What is added to the combined rows, in this order; each may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addends<'a> {
    /// The shared expert's rows [tokens, hidden].
    pub shared: Option<&'a Matrix<'a, bf16>>,
    /// The residual stream [tokens, hidden].
    pub residual: Option<&'a Matrix<'a, bf16>>,
    /// A bias [1, hidden].
    pub bias: Option<&'a Matrix<'a, f32>>,
}

impl Addends<'_> {
    pub(crate) fn checked(
        &self,
        stream: &CudaStream,
        shape: (usize, usize),
        out: &Span<'_>,
    ) -> Result<(), ArgumentError> {
        let fits = |argument, expected, got| {
            if expected == got {
                Ok(())
            } else {
                Err(ArgumentError::Shape {
                    argument,
                    expected,
                    got,
                })
            }
        };
        for (name, m) in [("shared", self.shared), ("residual", self.residual)] {
            if let Some(m) = m {
                m.data.on(name, stream)?;
                fits(name, shape, (m.rows, m.cols))?;
                multiple(name, m.data.address, 16)?;
                multiple(name, 2 * m.row_stride as u64, 16)?;
                out.apart("d", &m.data, name)?;
            }
        }
        if let Some(b) = self.bias {
            b.data.on("bias", stream)?;
            fits("bias", (1, shape.1), (b.rows, b.cols))?;
            out.apart("d", &b.data, "bias")?;
        }
        Ok(())
    }
}
