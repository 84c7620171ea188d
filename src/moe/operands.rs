//! Operands of the all-to-all and its router: which experts each token goes to, with which weights.
//!
//! ```text
//! ids      [tokens, top_k] i32, packed: an expert, or -1 where nothing was picked
//! weights  [tokens, top_k] f32, packed
//! ```

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use crate::error::{ArgumentError, multiple};
use crate::tensor::{Span, long_enough};

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
