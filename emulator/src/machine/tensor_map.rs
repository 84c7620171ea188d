//! The tensor map: 128 bytes that say how a tensor lies in global memory and which box of it a copy moves.
//!
//! The hardware's layout is not documented; this is ours. It lives wholly inside the 128 bytes, since kernels copy maps
//! and build them in place from zeroes.
//!
//! ```text
//! byte 0   magic u32      4  rank u8, element type u8, interleave u8, swizzle u8
//!      8   fill u8, L2 promotion u8, 2 x 0                12  element strides 5 x u8, 3 x 0
//!     20   box 5 x u16, 2 x 0                             32  global address u64
//!     40   strides of dimensions 1..4, 4 x u64 (bytes)    72  sizes 5 x u64        112  zero
//! ```

/// Marks an encoded map.
pub const MAGIC: u32 = 0x544D_4150;

/// Element types, with the driver's numbers (`CUtensorMapDataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Element {
    U8 = 0,
    U16 = 1,
    U32 = 2,
    I32 = 3,
    U64 = 4,
    I64 = 5,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
    F32Ftz = 10,
    Tf32 = 11,
    Tf32Ftz = 12,
}

impl Element {
    /// The type with the driver's number `n`.
    pub fn from_driver(n: u32) -> Option<Self> {
        use Element::*;
        [
            U8, U16, U32, I32, U64, I64, F16, F32, F64, Bf16, F32Ftz, Tf32, Tf32Ftz,
        ]
        .get(n as usize)
        .copied()
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        use Element::*;
        match self {
            U8 => 1,
            U16 | F16 | Bf16 => 2,
            U32 | I32 | F32 | F32Ftz | Tf32 | Tf32Ftz => 4,
            U64 | I64 | F64 => 8,
        }
    }

    /// Whether out-of-bounds elements may be filled with NaN.
    pub const fn float(self) -> bool {
        use Element::*;
        matches!(self, F16 | F32 | F64 | Bf16 | F32Ftz | Tf32 | Tf32Ftz)
    }
}

/// Swizzle, with the driver's numbers (`CUtensorMapSwizzle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Swizzle {
    None = 0,
    B32 = 1,
    B64 = 2,
    B128 = 3,
}

impl Swizzle {
    /// The mode with the driver's number `n`.
    pub fn from_driver(n: u32) -> Option<Self> {
        [Self::None, Self::B32, Self::B64, Self::B128]
            .get(n as usize)
            .copied()
    }

    /// Where the byte of address `a` goes. The pattern is a function of the address alone.
    #[inline(always)]
    pub const fn apply(self, a: u32) -> u32 {
        match self {
            Self::None => a,
            Self::B32 => a ^ (a >> 3 & 0x10),
            Self::B64 => a ^ (a >> 3 & 0x30),
            Self::B128 => a ^ (a >> 3 & 0x70),
        }
    }

    /// Bytes of a row that the pattern spans; 0 without one.
    pub const fn span(self) -> u32 {
        match self {
            Self::None => 0,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }
}

/// A decoded tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of element 0.
    pub address: u64,
    /// Dimensions, 1 to 5.
    pub rank: usize,
    /// Elements along each, the fastest first.
    pub dims: [u64; 5],
    /// Bytes from one index to the next, dimensions 1 to 4.
    pub strides: [u64; 4],
    /// The box.
    pub box_dims: [u32; 5],
    /// Steps between elements of the box.
    pub element_strides: [u32; 5],
    /// Element type.
    pub element: Element,
    /// Swizzle in shared memory.
    pub swizzle: Swizzle,
    /// 0 none, 1 16 B, 2 32 B.
    pub interleave: u8,
    /// Out-of-bounds elements are NaN instead of zero.
    pub fill_nan: bool,
    /// L2 promotion: a hint.
    pub l2_promotion: u8,
}

impl TensorMap {
    /// As 128 bytes.
    pub fn encode(&self) -> [u8; 128] {
        let mut b = [0; 128];
        b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[4..8].copy_from_slice(&[
            self.rank as u8,
            self.element as u8,
            self.interleave,
            self.swizzle as u8,
        ]);
        b[8..10].copy_from_slice(&[u8::from(self.fill_nan), self.l2_promotion]);
        for k in 0..5 {
            b[12 + k] = self.element_strides[k] as u8;
            b[20 + 2 * k..22 + 2 * k].copy_from_slice(&(self.box_dims[k] as u16).to_le_bytes());
            b[72 + 8 * k..80 + 8 * k].copy_from_slice(&self.dims[k].to_le_bytes());
        }
        b[32..40].copy_from_slice(&self.address.to_le_bytes());
        for k in 0..4 {
            b[40 + 8 * k..48 + 8 * k].copy_from_slice(&self.strides[k].to_le_bytes());
        }
        b
    }

    /// From 128 bytes.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(b: &[u8; 128]) -> Result<Self, String> {
        let u32_at = |o: usize| u32::from_le_bytes([b[o], b[o + 1], b[o + 2], b[o + 3]]);
        let u64_at = |o: usize| u64::from(u32_at(o)) | u64::from(u32_at(o + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err(
                "these 128 bytes are no tensor map that cuTensorMapEncodeTiled made".into(),
            );
        }
        let rank = b[4] as usize;
        let element = Element::from_driver(b[5].into())
            .ok_or_else(|| format!("unknown element type {}", b[5]))?;
        let swizzle =
            Swizzle::from_driver(b[7].into()).ok_or_else(|| format!("unknown swizzle {}", b[7]))?;
        if !(1..=5).contains(&rank) {
            return Err(format!("rank {rank} is not 1 to 5"));
        }
        Ok(Self {
            address: u64_at(32),
            rank,
            dims: std::array::from_fn(|k| u64_at(72 + 8 * k)),
            strides: std::array::from_fn(|k| u64_at(40 + 8 * k)),
            box_dims: std::array::from_fn(|k| {
                u32::from(u16::from_le_bytes([b[20 + 2 * k], b[21 + 2 * k]]))
            }),
            element_strides: std::array::from_fn(|k| b[12 + k].into()),
            element,
            swizzle,
            interleave: b[6],
            fill_nan: b[8] != 0,
            l2_promotion: b[9],
        })
    }

    /// Bytes of a full box in shared memory.
    pub fn box_bytes(&self) -> u64 {
        let n: u64 = (0..self.rank)
            .map(|k| u64::from(self.box_dims[k].div_ceil(self.element_strides[k].max(1))))
            .product();
        n * self.element.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_round_trips() {
        let m = TensorMap {
            address: 0x7F12_3456_7890,
            rank: 3,
            dims: [7168, 1 << 31, 3, 1, 1],
            strides: [7168, 1 << 39, 0, 0],
            box_dims: [128, 256, 1, 1, 1],
            element_strides: [1, 2, 1, 1, 1],
            element: Element::U8,
            swizzle: Swizzle::B128,
            interleave: 0,
            fill_nan: false,
            l2_promotion: 2,
        };
        assert_eq!(TensorMap::decode(&m.encode()), Ok(m));
        assert_eq!(m.box_bytes(), 128 * 128);
        assert!(TensorMap::decode(&[0; 128]).is_err());
    }

    #[test]
    fn swizzle_is_an_involution_within_its_period() {
        for s in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let mut seen = vec![false; 1024];
            for a in 0..1024 {
                assert_eq!(s.apply(s.apply(a)), a);
                assert_eq!(s.apply(a) & 15, a & 15);
                seen[s.apply(a) as usize] = true;
            }
            assert!(seen.iter().all(|x| *x));
        }
        assert_eq!(Swizzle::B128.apply(0x380), 0x3F0);
        assert_eq!(Swizzle::B64.apply(0x180), 0x1B0);
        assert_eq!(Swizzle::B32.apply(0x80), 0x90);
    }
}
