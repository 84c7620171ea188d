//! Formats of the KV cache: what a row of one token means, and codecs for it.
//!
//! A row holds a key of 576 values: 512 of the latent, which are the value too, then 64 with rotary embedding.
//!
//! ```text
//! Bf16Cache, F16Cache   1152 bytes   576 x 16 bit
//! Fp8Scaled              656 bytes   512 x E4M3 | 4 x f32 scale, one for 128 values | 64 x bf16
//! Fp8Tensor              576 bytes   576 x E4M3; one f32 scale for the whole cache, kept beside it
//! ```
//! A page is `page_size` rows back to back; pages lie `page_stride` bytes apart.
//!
//! **What a stored value is.** For the FP8 formats the kernels compute with `bf16(f32(code) * scale)`, rounded to f32 and then
//! to bf16, each to nearest even. Where the scale is a power of two ([`ScaleRule::PowerOfTwo`]) and the product lies within
//! bf16's normal range this is exact. For any other scale it is within a factor 1 ± (2^-8 + 2^-24) of the product. Codes 0x7F and
//! 0xFF are NaN and give NaN. Scales may be any f32: zero, subnormal, negative, infinite and NaN ones do what the formula says.

use half::{bf16, f16};

use crate::error::ArgumentError;
use crate::fp8::{E4M3, E8M0};
use crate::tensor::Element;

/// Values of a key.
pub const DIMS: usize = 576;
/// The first of them: the latent, which is the value too.
pub const LATENT: usize = 512;
/// The rest: with rotary embedding.
pub const ROPE: usize = DIMS - LATENT;

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// 16-bit types of queries and outputs. Sealed: `bf16`, `f16`.
pub trait Half: Element {
    /// Significant bits, the implicit one counted.
    const DIGITS: i32;
    /// Spacing of its subnormals.
    const LEAST: f64;
    /// Rounds to nearest even.
    fn from_f32(v: f32) -> Self;
    #[doc(hidden)]
    const BF16: bool;
}

impl Half for bf16 {
    const DIGITS: i32 = 8;
    const LEAST: f64 = f64::from_bits((1023 - 133) << 52);
    fn from_f32(v: f32) -> Self {
        bf16::from_f32(v)
    }
    const BF16: bool = true;
}

impl Half for f16 {
    const DIGITS: i32 = 11;
    const LEAST: f64 = f64::from_bits((1023 - 24) << 52);
    fn from_f32(v: f32) -> Self {
        f16::from_f32(v)
    }
    const BF16: bool = false;
}

/// How scales are chosen when values are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRule {
    /// `max(amax, 1e-4) / 448`, as it comes: smallest rounding of codes; reading rounds once more.
    Amax,
    /// The least power of two that is not below that: reading is exact, and consumers that keep exponents alone (UE8M0) read
    /// the same values.
    PowerOfTwo,
}

impl ScaleRule {
    /// The scale of a group whose largest finite magnitude is `amax`.
    pub fn scale(self, amax: f32) -> f32 {
        let exact = amax.max(1e-4) / E4M3::MAX;
        match self {
            Self::Amax => exact,
            Self::PowerOfTwo => E8M0::from_f32_up(exact).to_f32(),
        }
    }
}

/// A cache format. Sealed.
pub trait CacheFormat: sealed::Sealed + 'static {
    /// Element of the buffer that holds a cache.
    type Storage: Copy;
    /// Element of queries and outputs, and of what the tensor cores get.
    type Query: Half;
    /// Bytes of a row.
    const ROW_BYTES: usize;
    /// Whether rows are E4M3 codes with one scale for the whole cache.
    const TENSOR_SCALE: bool = false;
    /// The name that kernels use.
    const NAME: &'static str;

    /// The values that the kernels compute with.
    ///
    /// # Errors
    /// `row` is not [`CacheFormat::ROW_BYTES`] long.
    fn decode(row: &[u8], tensor_scale: f32) -> Result<[f32; DIMS], ArgumentError>;

    /// A row that holds `values` as nearly as the format can: ties to even.
    ///
    /// # Errors
    /// `row` is not [`CacheFormat::ROW_BYTES`] long.
    fn encode(
        values: &[f32; DIMS],
        rule: ScaleRule,
        tensor_scale: f32,
        row: &mut [u8],
    ) -> Result<(), ArgumentError>;
}

fn sized(len: usize, expected: usize) -> Result<(), ArgumentError> {
    if len == expected {
        Ok(())
    } else {
        Err(ArgumentError::Length {
            argument: "row",
            expected: expected as u64,
            got: len as u64,
        })
    }
}

/// Rows of 576 bf16.
#[derive(Clone, Copy, Debug)]
pub enum Bf16Cache {}
/// Rows of 576 f16.
#[derive(Clone, Copy, Debug)]
pub enum F16Cache {}
/// Rows of 656 bytes, as DeepSeek-V3.2's sparse attention keeps them (see the module).
#[derive(Clone, Copy, Debug)]
pub enum Fp8Scaled {}
/// Rows of 576 E4M3 with one scale for all (see the module).
#[derive(Clone, Copy, Debug)]
pub enum Fp8Tensor {}

macro_rules! sixteen_bit {
    ($format:ty, $t:ty, $name:literal) => {
        impl sealed::Sealed for $format {}
        impl CacheFormat for $format {
            type Storage = $t;
            type Query = $t;
            const ROW_BYTES: usize = 2 * DIMS;
            const NAME: &'static str = $name;
            fn decode(row: &[u8], _: f32) -> Result<[f32; DIMS], ArgumentError> {
                sized(row.len(), Self::ROW_BYTES)?;
                let mut out = [0.0; DIMS];
                for (o, b) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *o = <$t>::from_le_bytes([b[0], b[1]]).to_f32();
                }
                Ok(out)
            }
            fn encode(
                values: &[f32; DIMS],
                _: ScaleRule,
                _: f32,
                row: &mut [u8],
            ) -> Result<(), ArgumentError> {
                sized(row.len(), Self::ROW_BYTES)?;
                for (v, b) in values.iter().zip(row.chunks_exact_mut(2)) {
                    b.copy_from_slice(&<$t>::from_f32(*v).to_le_bytes());
                }
                Ok(())
            }
        }
    };
}
sixteen_bit!(Bf16Cache, bf16, "bf16");
sixteen_bit!(F16Cache, f16, "f16");

/// `bf16(f32(code) * scale)`.
fn dequantise(code: u8, scale: f32) -> f32 {
    bf16::from_f32(E4M3::from_bits(code).to_f32() * scale).to_f32()
}

/// The largest finite magnitude, 0 for none.
fn amax(values: &[f32]) -> f32 {
    values
        .iter()
        .filter(|v| v.is_finite())
        .fold(0.0, |m, v| m.max(v.abs()))
}

impl sealed::Sealed for Fp8Scaled {}
impl CacheFormat for Fp8Scaled {
    type Storage = u8;
    type Query = bf16;
    const ROW_BYTES: usize = LATENT + 4 * 4 + 2 * ROPE;
    const NAME: &'static str = "fp8_scaled";

    fn decode(row: &[u8], _: f32) -> Result<[f32; DIMS], ArgumentError> {
        sized(row.len(), Self::ROW_BYTES)?;
        let mut out = [0.0; DIMS];
        let (codes, rest) = row.split_at(LATENT);
        let (scales, rope) = rest.split_at(16);
        for (i, c) in codes.iter().enumerate() {
            let s = &scales[i / 128 * 4..][..4];
            out[i] = dequantise(*c, f32::from_le_bytes([s[0], s[1], s[2], s[3]]));
        }
        for (o, b) in out[LATENT..].iter_mut().zip(rope.chunks_exact(2)) {
            *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
        }
        Ok(out)
    }

    fn encode(
        values: &[f32; DIMS],
        rule: ScaleRule,
        _: f32,
        row: &mut [u8],
    ) -> Result<(), ArgumentError> {
        sized(row.len(), Self::ROW_BYTES)?;
        let (codes, rest) = row.split_at_mut(LATENT);
        let (scales, rope) = rest.split_at_mut(16);
        for g in 0..4 {
            let group = &values[128 * g..][..128];
            let scale = rule.scale(amax(group));
            scales[4 * g..][..4].copy_from_slice(&scale.to_le_bytes());
            for (c, v) in codes[128 * g..].iter_mut().zip(group) {
                *c = E4M3::from_f32(v / scale).to_bits();
            }
        }
        for (v, b) in values[LATENT..].iter().zip(rope.chunks_exact_mut(2)) {
            b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
        }
        Ok(())
    }
}

impl sealed::Sealed for Fp8Tensor {}
impl CacheFormat for Fp8Tensor {
    type Storage = u8;
    type Query = bf16;
    const ROW_BYTES: usize = DIMS;
    const TENSOR_SCALE: bool = true;
    const NAME: &'static str = "fp8_tensor";

    fn decode(row: &[u8], tensor_scale: f32) -> Result<[f32; DIMS], ArgumentError> {
        sized(row.len(), Self::ROW_BYTES)?;
        let mut out = [0.0; DIMS];
        for (o, c) in out.iter_mut().zip(row) {
            *o = dequantise(*c, tensor_scale);
        }
        Ok(out)
    }

    fn encode(
        values: &[f32; DIMS],
        _: ScaleRule,
        tensor_scale: f32,
        row: &mut [u8],
    ) -> Result<(), ArgumentError> {
        sized(row.len(), Self::ROW_BYTES)?;
        for (v, c) in values.iter().zip(row) {
            *c = E4M3::from_f32(v / tensor_scale).to_bits();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(f: impl Fn(usize) -> f32) -> [f32; DIMS] {
        std::array::from_fn(f)
    }

    /// Decoding what was encoded: within half a code's spacing of the scaled format, and NaN stays NaN in its place.
    #[test]
    fn round_trips() {
        let mut v = values(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013 * (1 + i / 128) as f32);
        v[77] = f32::NAN;
        v[300] = f32::INFINITY;
        for rule in [ScaleRule::Amax, ScaleRule::PowerOfTwo] {
            let mut row = vec![0; Fp8Scaled::ROW_BYTES];
            Fp8Scaled::encode(&v, rule, 0.0, &mut row).unwrap();
            let d = Fp8Scaled::decode(&row, 0.0).unwrap();
            for (i, (a, b)) in v.iter().zip(&d).enumerate() {
                if i == 77 {
                    assert!(b.is_nan());
                } else if i == 300 {
                    assert!(*b > 0.0 && b.is_finite());
                } else {
                    let step = a.abs() * 2f32.powi(-4) + 1e-5;
                    let read = b.abs() * 2f32.powi(-8);
                    assert!((a - b).abs() <= step + read, "{i}: {a} {b} {rule:?}");
                }
            }
            for g in 0..4 {
                let s = f32::from_le_bytes(row[512 + 4 * g..][..4].try_into().unwrap());
                assert!(rule == ScaleRule::Amax || s.to_bits() & 0x7F_FFFF == 0);
            }
        }
    }

    /// Power-of-two scales are read exactly: the product needs no rounding.
    #[test]
    fn powers_of_two_are_exact() {
        for code in 0..=255u8 {
            for e in [-60, -9, 0, 7, 60] {
                let s = 2f32.powi(e);
                let want = E4M3::from_bits(code).to_f32() * s;
                let got = dequantise(code, s);
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
            }
        }
    }

    /// Any scale: within 2^-8 + 2^-24 of the product.
    #[test]
    fn arbitrary_scales_are_within_the_bound() {
        for code in 0..=254u8 {
            for i in 0..50 {
                let s = 1e-3 * 1.37f32.powi(i);
                let want = f64::from(E4M3::from_bits(code).to_f32()) * f64::from(s);
                let got = f64::from(dequantise(code, s));
                assert!(
                    want.is_nan() && got.is_nan()
                        || (got - want).abs() <= want.abs() * (2f64.powi(-8) + 2f64.powi(-24))
                );
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(Bf16Cache::decode(&[0; 1151], 0.0).is_err());
        assert!(Fp8Scaled::encode(&[0.0; DIMS], ScaleRule::Amax, 0.0, &mut [0; 655]).is_err());
        assert!(Fp8Tensor::decode(&[0; 577], 1.0).is_err());
    }
}
