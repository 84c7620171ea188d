//! The accumulator as a term, and the result, for several columns at once.

use super::Summation;
use super::decode::AccType;
use super::exact::finish;

/// Columns that are handled together.
pub const LANES: usize = 16;

/// Old accumulators as terms.
pub struct Old {
    /// Signed significand: 23 (f16: 10) fraction bits.
    sig: [i32; LANES],
    /// Exponent; the floor of zero terms where the significand is zero.
    pub exp: [i32; LANES],
    /// Infinities and NaN.
    pub special: [bool; LANES],
}

impl Old {
    /// From an accumulator's bits.
    #[inline(always)]
    pub fn new(acc: AccType, sum: Summation, bits: &[u32; LANES]) -> Self {
        let (man_bits, bias, top) = match acc {
            AccType::F16 => (10, 15, 31),
            _ => (23, 127, 255),
        };
        let floor = sum.zero_of(acc);
        let mut old = Self {
            sig: [0; LANES],
            exp: [0; LANES],
            special: [false; LANES],
        };
        #[allow(clippy::needless_range_loop)] // lanes
        for l in 0..LANES {
            let field = (bits[l] >> man_bits) as i32 & top;
            let sig = (bits[l] & ((1 << man_bits) - 1)) as i32
                | if field > 0 { 1 << man_bits } else { 0 };
            let negative = match acc {
                AccType::F16 => bits[l] & 0x8000 != 0,
                _ => bits[l] >> 31 != 0,
            };
            old.sig[l] = if negative { -sig } else { sig };
            old.exp[l] = if sig == 0 { floor } else { field.max(1) - bias };
            old.special[l] = field == top;
        }
        old
    }
}

/// Results from the cut products' sum, in two parts that fit 32 bits each, in units of `2^(top - kept)`.
#[inline(always)]
pub fn close(
    acc: AccType,
    kept: i32,
    old: &Old,
    top: &[i32; LANES],
    sums: &[[i32; LANES]; 2],
) -> [u32; LANES] {
    // The significand, moved to `kept` fraction bits, has at most 26 bits.
    let (up, down) = match acc {
        AccType::F16 => (kept - 10, 0),
        _ => ((kept - 23).max(0), (23 - kept).max(0)),
    };
    let mut c = [0; LANES];
    for l in 0..LANES {
        let below = (top[l] - old.exp[l] + down).min(31);
        let mag = (old.sig[l].abs() << up) >> below;
        c[l] = if old.sig[l] < 0 { -mag } else { mag };
    }
    let mut out = [0; LANES];
    if acc == AccType::F16 {
        for l in 0..LANES {
            let sum = i64::from(sums[0][l]) + i64::from(sums[1][l]) + i64::from(c[l]);
            out[l] = finish(sum, top[l] - kept, acc, kept);
        }
        return out;
    }
    // In f64 the sum is exact, and so is its product with a power of two. Clearing low mantissa bits cuts toward zero; what
    // is left fits f32, unless it is subnormal there. Too large becomes an infinity by the conversion.
    let mask = !((1_u64 << if kept == 13 { 52 - 13 } else { 52 - 23 }) - 1);
    let mut small = false;
    for l in 0..LANES {
        let sum = f64::from(sums[0][l]) + f64::from(sums[1][l]) + f64::from(c[l]);
        let unit = f64::from_bits(((1023 + top[l] - kept) as u64) << 52);
        let value = f64::from_bits((sum * unit).to_bits() & mask);
        out[l] = (value as f32).to_bits();
        small |= value != 0.0 && value.abs() < f64::from(f32::MIN_POSITIVE);
    }
    if small {
        for l in 0..LANES {
            let sum = i64::from(sums[0][l]) + i64::from(sums[1][l]) + i64::from(c[l]);
            out[l] = finish(sum, top[l] - kept, acc, kept);
        }
    }
    out
}
