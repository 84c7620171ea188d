//! Tensor maps: what the copy engine needs to know of a stack of matrices.

use super::raw;
use crate::error::{ArgumentError, DeviceError, GemmError, at_least, at_most, multiple};

/// Element types of the maps here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    U8,
    F32,
    F16,
    Bf16,
}

impl Element {
    const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A stack of matrices, and the box of one matrix that copies move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) argument: &'static str,
    pub(crate) element: Element,
    pub(crate) address: u64,
    /// Columns, rows, matrices.
    pub(crate) dims: [u64; 3],
    /// Bytes from row to row, from matrix to matrix (of one alone it does not matter).
    pub(crate) strides: [u64; 2],
    /// Columns, rows.
    pub(crate) box_dims: [u32; 2],
    /// 128-byte swizzle, or none.
    pub(crate) swizzle: bool,
}

/// The map as a kernel parameter: 128 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TensorMap([u64; 16]);

const _: () = assert!(size_of::<TensorMap>() == 128);

impl TensorMap {
    /// Encodes it. The rules of `cuTensorMapEncodeTiled` (cuda.h) are checked here first, so that the one broken has a name.
    pub(crate) fn new(s: &Spec) -> Result<Self, GemmError> {
        let mut s = *s;
        if s.dims[2] == 1 {
            s.strides[1] = s.strides[0];
        }
        rules(&s)?;
        let mut map = [0; 16];
        match raw::encode(&mut map, &s) {
            0 => Ok(Self(map)),
            code => Err(DeviceError::TensorMap {
                argument: s.argument,
                code,
                address: s.address,
                dims: s.dims,
                strides: s.strides,
                box_dims: s.box_dims,
            }
            .into()),
        }
    }
}

fn rules(s: &Spec) -> Result<(), ArgumentError> {
    multiple(s.argument, s.address, 16)?;
    for stride in s.strides {
        multiple(s.argument, stride, 16)?;
        at_most(s.argument, stride, (1 << 40) - 16)?;
    }
    for d in s.dims {
        at_least(s.argument, d, 1)?;
        at_most(s.argument, d, 1 << 31)?;
    }
    let row = s.dims[0] * s.element.bytes();
    at_least(
        s.argument,
        s.strides[0],
        if s.dims[1] > 1 { row } else { 16 },
    )?;
    // The driver asks that a dimension lies beyond the one before it.
    at_least(
        s.argument,
        s.strides[1],
        if s.dims[2] > 1 { s.strides[0] } else { 16 },
    )
}
