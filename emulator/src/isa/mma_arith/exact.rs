//! The truncated fused dot-product-add, straight from its definition.

use super::decode::{AccType, Class, Term, accumulator};

/// Exponent of a term that is zero.
const ZERO_F32: i32 = -133;
const ZERO_F16: i32 = -21;

/// Cuts `sig * 2^(exp - frac)` toward zero to a multiple of `2^(top - f)`; in those units.
fn cut(sig: i64, exp: i32, frac: i32, top: i32, f: i32) -> i64 {
    let shift = exp - frac - (top - f);
    let mag = sig.unsigned_abs();
    let mag = if shift >= 0 {
        mag << shift.min(63)
    } else if shift > -64 {
        mag >> -shift
    } else {
        0
    };
    if sig < 0 { -(mag as i64) } else { mag as i64 }
}

/// One output of one step. `fp8`: 13 fraction bits, f32 results cut to 13 mantissa bits; else 25 and all 23.
pub fn dot(a: &[Term], b: &[Term], acc: AccType, c: u32, fp8: bool) -> u32 {
    let half = acc == AccType::F16;
    let nan = if half { 0x7FFF } else { 0x7FFF_FFFF };
    let old = accumulator(acc, c);
    let mut special: Option<bool> = None;
    let mut note = |class: Class, negative: bool| -> bool {
        match (class, special) {
            (Class::Nan, _) => false,
            (Class::Inf, Some(s)) if s != negative => false,
            (Class::Inf, _) => {
                special = Some(negative);
                true
            }
            (Class::Finite, _) => true,
        }
    };
    let negative_c = c >> if half { 15 } else { 31 } & 1 != 0;
    if !note(old.class, negative_c) {
        return nan;
    }
    for (x, y) in a.iter().zip(b) {
        let class = match (x.class, y.class) {
            (Class::Nan, _) | (_, Class::Nan) => Class::Nan,
            (Class::Inf, Class::Finite) if y.sig == 0 => Class::Nan,
            (Class::Finite, Class::Inf) if x.sig == 0 => Class::Nan,
            (Class::Finite, Class::Finite) => Class::Finite,
            _ => Class::Inf,
        };
        if !note(class, (x.sig < 0) != (y.sig < 0)) {
            return nan;
        }
    }
    if let Some(negative) = special {
        return match (half, negative) {
            (true, s) => 0x7C00 | u32::from(s) << 15,
            (false, s) => 0x7F80_0000 | u32::from(s) << 31,
        };
    }
    let zero = if half { ZERO_F16 } else { ZERO_F32 };
    let f = if fp8 { 13 } else { 25 };
    let exp = |sig: i64, e: i32| if sig == 0 { zero } else { e };
    let mut top = exp(old.sig.into(), old.exp);
    for (x, y) in a.iter().zip(b) {
        top = top.max(exp(i64::from(x.sig) * i64::from(y.sig), x.exp + y.exp));
    }
    let mut sum = cut(old.sig.into(), old.exp, old.frac, top, f);
    for (x, y) in a.iter().zip(b) {
        sum += cut(
            i64::from(x.sig) * i64::from(y.sig),
            x.exp + y.exp,
            x.frac + y.frac,
            top,
            f,
        );
    }
    if half {
        round_f16(sum, top - f)
    } else {
        cut_f32(sum, top - f, if fp8 { 13 } else { 23 })
    }
}

/// `sum * 2^unit` cut toward zero to f32 with `bits` mantissa bits. Zero is +0.
fn cut_f32(sum: i64, unit: i32, bits: u32) -> u32 {
    if sum == 0 {
        return 0;
    }
    let sign = u32::from(sum < 0) << 31;
    let mag = sum.unsigned_abs();
    let lead = 63 - mag.leading_zeros() as i32;
    let e = lead + unit;
    if e > 127 {
        return sign | 0x7F80_0000;
    }
    // Place of the last kept bit: `bits` below the lead, or the subnormals' place.
    let last = (e.max(-126) - 23) - unit;
    let m = if last >= 0 {
        if last > 63 { 0 } else { mag >> last }
    } else {
        mag << -last
    };
    let m = m as u32 & !((1u32 << (23 - bits)) - 1);
    if m == 0 {
        return 0;
    }
    sign | if e >= -126 {
        ((e + 127) as u32) << 23 | m & 0x007F_FFFF
    } else {
        m
    }
}

/// `sum * 2^unit` rounded to nearest even. Zero is +0.
fn round_f16(sum: i64, unit: i32) -> u32 {
    if sum == 0 {
        return 0;
    }
    // Exact: the sum has fewer than 53 bits.
    u32::from(half::f16::from_f64(sum as f64 * 2f64.powi(unit)).to_bits())
}
