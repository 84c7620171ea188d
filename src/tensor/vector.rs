//! Plain vectors that kernels read: numbers, and indices that nobody has checked.

use cudarc::driver::{CudaStream, DevicePtr};

use super::{Span, long_enough};
use crate::error::{ArgumentError, multiple};

/// f32 numbers: a bias, weights of rows.
#[derive(Debug)]
pub struct Vector<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) len: usize,
}

impl<'a> Vector<'a> {
    /// The first `len` numbers of `data`.
    ///
    /// # Errors
    /// Length, an address that is no multiple of 8, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<f32>,
        len: usize,
    ) -> Result<Self, ArgumentError> {
        Self::checked(Span::read("vector", stream, data)?, len)
    }

    /// From an address, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Vector::new`].
    ///
    /// # Safety
    /// `len` f32 at `address` are device memory that stays valid, and is written by nobody else, until every launch with this
    /// operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        address: u64,
        len: usize,
    ) -> Result<Self, ArgumentError> {
        let bytes = (len as u64).saturating_mul(4);
        Self::checked(Span::raw("vector", stream, address, bytes)?, len)
    }

    fn checked(data: Span<'a>, len: usize) -> Result<Self, ArgumentError> {
        multiple("vector", data.address, 8)?;
        long_enough("vector", len as u64, data.bytes, 4)?;
        Ok(Self { data, len })
    }
}

/// i32 indices, counts or offsets in device memory. Kernels check each before they use it.
#[derive(Debug)]
pub struct Indices<'a> {
    pub(crate) data: Span<'a>,
    pub(crate) len: usize,
}

impl<'a> Indices<'a> {
    /// The first `len` indices of `data`.
    ///
    /// # Errors
    /// Length, another stream.
    pub fn new(
        stream: &'a CudaStream,
        data: &'a impl DevicePtr<i32>,
        len: usize,
    ) -> Result<Self, ArgumentError> {
        Self::checked(Span::read("indices", stream, data)?, len)
    }

    /// From an address, for engines with allocators of their own.
    ///
    /// # Errors
    /// As [`Indices::new`].
    ///
    /// # Safety
    /// `len` i32 at `address` are device memory that stays valid, and is written by nobody else, until every launch with this
    /// operand has run.
    pub unsafe fn from_raw_parts(
        stream: &'a CudaStream,
        address: u64,
        len: usize,
    ) -> Result<Self, ArgumentError> {
        let bytes = (len as u64).saturating_mul(4);
        Self::checked(Span::raw("indices", stream, address, bytes)?, len)
    }

    fn checked(data: Span<'a>, len: usize) -> Result<Self, ArgumentError> {
        multiple("indices", data.address, 4)?;
        long_enough("indices", len as u64, data.bytes, 4)?;
        Ok(Self { data, len })
    }
}
