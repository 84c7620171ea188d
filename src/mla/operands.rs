//! What the decode kernels read and write.
//!
//! ```text
//! Queries     [tokens, heads, 576]   row (token, head) starts `row_stride` elements after the one before (a multiple of 8)
//! Cache       [pages, page_size] rows of the format; pages `page_stride` bytes apart (a multiple of 16)
//! PageTable   pages [batch, width] i32, `stride` from row to row; lengths [batch] i32; offsets [batch + 1] i32 or none
//! Selection   slots [tokens, topk] i32, `stride` from row to row; lengths [tokens] i32 or none; slot = page * page_size + place
//! Outputs     out [tokens, heads, 512] packed; lse [tokens, heads] f32 packed, natural logarithm
//! ```
//! Contents of tables, lengths, offsets and slots are read on the device and checked there.

use std::marker::PhantomData;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use super::format::{CacheFormat, DIMS, Half, LATENT};
use crate::error::{ArgumentError, at_least, at_most, multiple};
use crate::tensor::{Span, extent, long_enough};

/// Queries (see the module's picture).
#[derive(Debug)]
pub struct Queries<'a, T: Half> {
    pub(crate) data: Span<'a>,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    pub(crate) row_stride: usize,
    _type: PhantomData<T>,
}

impl<'a, T: Half> Queries<'a, T> {
    /// Packed queries.
    ///
    /// # Errors
    /// Length, alignment, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<T>,
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ArgumentError> {
        Self::with_stride(stream, data, tokens, heads, DIMS)
    }

    /// With `row_stride` elements from head to head.
    ///
    /// # Errors
    /// As [`Queries::new`].
    pub fn with_stride(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<T>,
        tokens: usize,
        heads: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("q", stream, data)?;
        Self::checked(data, tokens, heads, row_stride)
    }

    /// From an address, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Queries::new`].
    ///
    /// # Safety
    /// `data.1` elements at `data.0` are device memory that stays valid, and is written by nobody else, until every launch
    /// with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, usize),
        tokens: usize,
        heads: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw("q", stream, data.0, (data.1 as u64).saturating_mul(2))?;
        Self::checked(data, tokens, heads, row_stride)
    }

    fn checked(
        data: Span<'a>,
        tokens: usize,
        heads: usize,
        row_stride: usize,
    ) -> Result<Self, ArgumentError> {
        at_least("q.row_stride", row_stride as u64, DIMS as u64)?;
        multiple("q.row_stride", row_stride as u64, 8)?;
        multiple("q", data.address, 16)?;
        let need = extent("q", rows("q", tokens, heads)?, DIMS, row_stride)?;
        long_enough("q", need, data.bytes, 2)?;
        Ok(Self {
            data,
            tokens,
            heads,
            row_stride,
            _type: PhantomData,
        })
    }
}

/// tokens x heads, below 2^31.
fn rows(argument: &'static str, tokens: usize, heads: usize) -> Result<usize, ArgumentError> {
    let n = (tokens as u64).saturating_mul(heads as u64);
    at_most(argument, n, i32::MAX as u64)?;
    Ok(n as usize)
}

/// A paged cache (see the module's picture).
#[derive(Debug)]
pub struct Cache<'a, F: CacheFormat> {
    pub(crate) data: Span<'a>,
    pub(crate) scale: Option<Span<'a>>,
    pub(crate) pages: usize,
    pub(crate) page_size: usize,
    pub(crate) page_stride: u64,
    _format: PhantomData<F>,
}

impl<'a, F: CacheFormat> Cache<'a, F> {
    /// `pages` pages of `page_size` rows; `page_stride` bytes from page to page, or `None` for packed ones. `scale` is the one
    /// f32 of [`super::Fp8Tensor`], and `None` for all other formats.
    ///
    /// # Errors
    /// Length, alignment, another stream, a scale that is missing or not wanted.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<F::Storage>,
        scale: Option<&'a cudarc::driver::CudaSlice<f32>>,
        pages: usize,
        page_size: usize,
        page_stride: Option<u64>,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("cache", stream, data)?;
        let scale = scale
            .map(|s| Span::read("cache.scale", stream, s))
            .transpose()?;
        Self::checked(data, scale, pages, page_size, page_stride)
    }

    /// From addresses, for engines with allocators of their own: `data` is an address and its bytes, `scale` an address.
    ///
    /// # Errors
    /// As [`Cache::new`].
    ///
    /// # Safety
    /// The bytes at `data.0` and the f32 at `scale` are device memory that stays valid, and is written by nobody else, until
    /// every launch with this operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        data: (u64, u64),
        scale: Option<u64>,
        pages: usize,
        page_size: usize,
        page_stride: Option<u64>,
    ) -> Result<Self, ArgumentError> {
        let data = Span::raw("cache", stream, data.0, data.1)?;
        let scale = scale
            .map(|s| Span::raw("cache.scale", stream, s, 4))
            .transpose()?;
        Self::checked(data, scale, pages, page_size, page_stride)
    }

    fn checked(
        data: Span<'a>,
        scale: Option<Span<'a>>,
        pages: usize,
        page_size: usize,
        page_stride: Option<u64>,
    ) -> Result<Self, ArgumentError> {
        at_least("cache.page_size", page_size as u64, 1)?;
        at_most("cache.page_size", page_size as u64, 1 << 20)?;
        at_most("cache.pages", pages as u64, i32::MAX as u64)?;
        let page = (page_size * F::ROW_BYTES) as u64;
        let page_stride = page_stride.unwrap_or(page.next_multiple_of(16));
        at_least("cache.page_stride", page_stride, page)?;
        multiple("cache.page_stride", page_stride, 16)?;
        at_most("cache.page_stride", page_stride, (1 << 40) - 16)?;
        multiple("cache", data.address, 16)?;
        let need = extent("cache", pages, page as usize, page_stride as usize)?;
        long_enough("cache", need, data.bytes, 1)?;
        match (&scale, F::TENSOR_SCALE) {
            (None, true) => {
                return Err(ArgumentError::Null {
                    argument: "cache.scale",
                });
            }
            (Some(s), true) => {
                multiple("cache.scale", s.address, 4)?;
                long_enough("cache.scale", 1, s.bytes, 4)?;
            }
            (Some(s), false) => at_most("cache.scale", s.bytes, 0)?,
            (None, false) => {}
        }
        Ok(Self {
            data,
            scale,
            pages,
            page_size,
            page_stride,
            _format: PhantomData,
        })
    }
}

fn integers(
    argument: &'static str,
    span: &Span<'_>,
    rows: usize,
    cols: usize,
    stride: usize,
) -> Result<(), ArgumentError> {
    multiple(argument, span.address, 4)?;
    at_least(argument, stride as u64, cols as u64)?;
    long_enough(
        argument,
        extent(argument, rows, cols, stride)?,
        span.bytes,
        4,
    )
}

/// Which pages hold the tokens of each request (see the module's picture).
#[derive(Debug)]
pub struct PageTable<'a> {
    pub(crate) pages: Span<'a>,
    pub(crate) lengths: Span<'a>,
    pub(crate) offsets: Option<Span<'a>>,
    pub(crate) batch: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl<'a> PageTable<'a> {
    /// Every request has as many query tokens as the plan says. `stride` entries from row to row.
    ///
    /// # Errors
    /// Lengths, another stream.
    pub fn new(
        stream: &'a CudaStream,
        pages: &'a impl DevicePtr<i32>,
        lengths: &'a impl DevicePtr<i32>,
        (batch, width): (usize, usize),
        stride: usize,
    ) -> Result<Self, ArgumentError> {
        Self {
            pages: Span::read("table", stream, pages)?,
            lengths: Span::read("lengths", stream, lengths)?,
            offsets: None,
            batch,
            width,
            stride,
        }
        .checked()
    }

    /// Request i has the query tokens `offsets[i]..offsets[i + 1]`, at most the plan's.
    ///
    /// # Errors
    /// Lengths, another stream.
    pub fn with_offsets(
        mut self,
        stream: &'a CudaStream,
        offsets: &'a impl DevicePtr<i32>,
    ) -> Result<Self, ArgumentError> {
        self.offsets = Some(Span::read("offsets", stream, offsets)?);
        self.checked()
    }

    /// From addresses, for engines with allocators of their own: each an address and its elements.
    ///
    /// # Errors
    /// As [`PageTable::new`].
    ///
    /// # Safety
    /// The integers are device memory that stays valid, and is written by nobody else, until every launch with this operand
    /// has run. (A captured graph may be replayed after they have been written anew in stream order.)
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        pages: (u64, usize),
        lengths: (u64, usize),
        offsets: Option<(u64, usize)>,
        (batch, width): (usize, usize),
        stride: usize,
    ) -> Result<Self, ArgumentError> {
        let span = |name, (address, n): (u64, usize)| {
            Span::raw(name, stream, address, (n as u64).saturating_mul(4))
        };
        Self {
            pages: span("table", pages)?,
            lengths: span("lengths", lengths)?,
            offsets: offsets.map(|o| span("offsets", o)).transpose()?,
            batch,
            width,
            stride,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        integers("table", &self.pages, self.batch, self.width, self.stride)?;
        integers("lengths", &self.lengths, 1, self.batch, self.batch)?;
        if let Some(o) = &self.offsets {
            integers("offsets", o, 1, self.batch + 1, self.batch + 1)?;
        }
        Ok(self)
    }
}

/// Which slots each query token attends to (see the module's picture).
#[derive(Debug)]
pub struct Selection<'a> {
    pub(crate) slots: Span<'a>,
    pub(crate) lengths: Option<Span<'a>>,
    pub(crate) tokens: usize,
    pub(crate) topk: usize,
    pub(crate) stride: usize,
}

impl<'a> Selection<'a> {
    /// `stride` slots from token to token. -1 is no slot. Where there are `lengths`, token t attends to its first `lengths[t]`.
    ///
    /// # Errors
    /// Lengths, another stream.
    pub fn new<L: DevicePtr<i32>>(
        stream: &'a CudaStream,
        slots: &'a impl DevicePtr<i32>,
        lengths: Option<&'a L>,
        (tokens, topk): (usize, usize),
        stride: usize,
    ) -> Result<Self, ArgumentError> {
        Self {
            slots: Span::read("slots", stream, slots)?,
            lengths: lengths
                .map(|l| Span::read("lengths", stream, l))
                .transpose()?,
            tokens,
            topk,
            stride,
        }
        .checked()
    }

    /// From addresses, for engines with allocators of their own: each an address and its elements.
    ///
    /// # Errors
    /// As [`Selection::new`].
    ///
    /// # Safety
    /// As [`PageTable::from_raw_parts`].
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        slots: (u64, usize),
        lengths: Option<(u64, usize)>,
        (tokens, topk): (usize, usize),
        stride: usize,
    ) -> Result<Self, ArgumentError> {
        let span = |name, (address, n): (u64, usize)| {
            Span::raw(name, stream, address, (n as u64).saturating_mul(4))
        };
        Self {
            slots: span("slots", slots)?,
            lengths: lengths.map(|l| span("lengths", l)).transpose()?,
            tokens,
            topk,
            stride,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ArgumentError> {
        at_least("slots", self.topk as u64, 1)?;
        integers("slots", &self.slots, self.tokens, self.topk, self.stride)?;
        if let Some(l) = &self.lengths {
            integers("lengths", l, 1, self.tokens, self.tokens)?;
        }
        Ok(self)
    }
}

/// Attention sinks: an f32 a head, a further score (natural units, after the scale) that has no value.
#[derive(Debug)]
pub struct Sinks<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) heads: usize,
}

impl<'a> Sinks<'a> {
    /// One for each head.
    ///
    /// # Errors
    /// Length, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<f32>,
        heads: usize,
    ) -> Result<Self, ArgumentError> {
        let data = Span::read("sinks", stream, data)?;
        integers("sinks", &data, 1, heads, heads)?;
        Ok(Self { data, heads })
    }
}

/// Where results go (see the module's picture).
#[derive(Debug)]
pub struct Outputs<'a, T: Half> {
    pub(crate) out: Span<'a>,
    pub(crate) lse: Span<'a>,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    _type: PhantomData<T>,
}

impl<'a, T: Half> Outputs<'a, T> {
    /// Packed outputs.
    ///
    /// # Errors
    /// Lengths, alignment, another stream.
    pub fn new(
        stream: &'a CudaStream,
        out: &'a mut impl DevicePtrMut<T>,
        lse: &'a mut impl DevicePtrMut<f32>,
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ArgumentError> {
        let out = Span::write("out", stream, out)?;
        let lse = Span::write("lse", stream, lse)?;
        Self::checked(out, lse, tokens, heads)
    }

    /// From addresses, for engines with allocators of their own: each an address and its elements.
    ///
    /// # Errors
    /// As [`Outputs::new`].
    ///
    /// # Safety
    /// The elements are device memory that stays valid, and that nobody else reads or writes, until every launch with this
    /// operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        out: (u64, usize),
        lse: (u64, usize),
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ArgumentError> {
        let out = Span::raw("out", stream, out.0, (out.1 as u64).saturating_mul(2))?;
        let lse = Span::raw("lse", stream, lse.0, (lse.1 as u64).saturating_mul(4))?;
        Self::checked(out, lse, tokens, heads)
    }

    fn checked(
        out: Span<'a>,
        lse: Span<'a>,
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ArgumentError> {
        let n = rows("out", tokens, heads)?;
        multiple("out", out.address, 16)?;
        multiple("lse", lse.address, 4)?;
        long_enough("out", extent("out", n, LATENT, LATENT)?, out.bytes, 2)?;
        long_enough("lse", n as u64, lse.bytes, 4)?;
        out.apart("lse", &lse, "out")?;
        Ok(Self {
            out,
            lse,
            tokens,
            heads,
            _type: PhantomData,
        })
    }
}
