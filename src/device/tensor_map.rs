//! Tensor maps: what the copy engine needs to know of a matrix.

use super::raw;
use crate::error::{ArgumentError, DeviceError, GemmError, at_least, at_most, multiple};

/// Element types of the maps here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    U8,
    F32,
    Bf16,
}

impl Element {
    const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A matrix and the box that copies move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) argument: &'static str,
    pub(crate) element: Element,
    pub(crate) address: u64,
    /// Columns, rows.
    pub(crate) dims: [u64; 2],
    /// Bytes from row to row.
    pub(crate) stride: u64,
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
        rules(s)?;
        let mut map = [0; 16];
        match raw::encode_2d(&mut map, s) {
            0 => Ok(Self(map)),
            code => Err(DeviceError::TensorMap {
                argument: s.argument,
                code,
                address: s.address,
                dims: s.dims,
                stride: s.stride,
                box_dims: s.box_dims,
            }
            .into()),
        }
    }
}

/// Planes of rows of 16-bit values, copied in boxes of one plane with the 128-byte swizzle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    pub(crate) argument: &'static str,
    pub(crate) address: u64,
    /// Columns, rows, planes.
    pub(crate) dims: [u64; 3],
    /// Bytes from row to row, from plane to plane.
    pub(crate) strides: [u64; 2],
    /// Columns, rows.
    pub(crate) box_dims: [u32; 2],
}

impl TensorMap {
    /// Encodes it, rules first, as [`TensorMap::new`].
    pub(crate) fn planes(s: &Planes) -> Result<Self, GemmError> {
        let plane = |dims: [u64; 2], stride| Spec {
            argument: s.argument,
            element: Element::Bf16,
            address: s.address,
            dims,
            stride,
            box_dims: s.box_dims,
            swizzle: true,
        };
        rules(&plane([s.dims[0], s.dims[1]], s.strides[0]))?;
        let rows = plane([1, s.dims[2]], s.strides[1]);
        rules(&rows)?;
        let mut map = [0; 16];
        match raw::encode_planes(&mut map, s) {
            0 => Ok(Self(map)),
            code => Err(DeviceError::TensorMap {
                argument: s.argument,
                code,
                address: s.address,
                dims: rows.dims,
                stride: rows.stride,
                box_dims: s.box_dims,
            }
            .into()),
        }
    }
}

fn rules(s: &Spec) -> Result<(), ArgumentError> {
    multiple(s.argument, s.address, 16)?;
    multiple(s.argument, s.stride, 16)?;
    at_most(s.argument, s.stride, (1 << 40) - 16)?;
    for d in s.dims {
        at_least(s.argument, d, 1)?;
        at_most(s.argument, d, 1 << 31)?;
    }
    at_least(
        s.argument,
        s.stride,
        if s.dims[1] > 1 {
            s.dims[0] * s.element.bytes()
        } else {
            16
        },
    )
}
