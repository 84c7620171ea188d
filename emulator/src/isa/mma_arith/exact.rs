//! The truncated fused dot-product-add, straight from its definition.

use super::Summation;
use super::decode::{AccType, Class, Term, accumulator};

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

/// One output of one step.
pub fn dot(a: &[Term], b: &[Term], acc: AccType, c: u32, sum: Summation) -> u32 {
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
    let (zero, f) = (sum.zero_of(acc), sum.kept);
    let exp = |sig: i64, e: i32| if sig == 0 { zero } else { e };
    let mut top = exp(old.sig.into(), old.exp);
    for (x, y) in a.iter().zip(b) {
        top = top.max(exp(i64::from(x.sig) * i64::from(y.sig), x.exp + y.exp));
    }
    let mut total = cut(old.sig.into(), old.exp, old.frac, top, f);
    for (x, y) in a.iter().zip(b) {
        total += cut(
            i64::from(x.sig) * i64::from(y.sig),
            x.exp + y.exp,
            x.frac + y.frac,
            top,
            f,
        );
    }
    finish(total, top - f, acc, f)
}

/// The result `sum * 2^unit` in the accumulator's type.
pub fn finish(sum: i64, unit: i32, acc: AccType, kept: i32) -> u32 {
    if acc == AccType::F16 {
        round_f16(sum < 0, sum.unsigned_abs(), unit)
    } else {
        cut_f32(sum, unit, if kept == 13 { 13 } else { 23 })
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

/// `mag * 2^unit` rounded to the nearest f16, ties to even. Zero is +0. One rounding: conversions through f32 have two.
pub fn round_f16(negative: bool, mag: u64, unit: i32) -> u32 {
    if mag == 0 {
        return 0;
    }
    let sign = u32::from(negative) << 15;
    let e = 63 - mag.leading_zeros() as i32 + unit;
    if e > 15 {
        return sign | 0x7C00;
    }
    // Place of the last kept bit: ten below the lead, or the subnormals' place.
    let e = e.max(-14);
    let last = e - 10 - unit;
    let m = if last <= 0 {
        mag << -last
    } else if last > 63 {
        0
    } else {
        let (m, rest, tie) = (mag >> last, mag & ((1 << last) - 1), 1 << (last - 1));
        m + u64::from(rest > tie || rest == tie && m & 1 == 1)
    };
    if m == 0 {
        return 0;
    }
    // The leading one, or a carry out of the mantissa, goes into the exponent field; up to infinity.
    sign | ((((e + 14) as u32) << 10) + m as u32)
}

#[cfg(test)]
mod tests {
    use super::round_f16;

    #[test]
    fn f16_is_rounded_once() {
        // 1 + 2^-11 + 2^-26 is above the tie; through f32 it would become the tie.
        let mag = (1 << 26) + (1 << 15) + 1;
        assert_eq!(round_f16(false, mag, -26), 0x3C01);
        assert_eq!(round_f16(false, mag - 1, -26), 0x3C00);
        assert_eq!(round_f16(true, mag, -26), 0xBC01);
        // The tie below infinity, the one below the smallest subnormal.
        assert_eq!(round_f16(false, 65519, 0), 0x7BFF);
        assert_eq!(round_f16(false, 65520, 0), 0x7C00);
        assert_eq!(round_f16(false, 1, -25), 0);
        assert_eq!(round_f16(false, 3, -26), 1);
        assert_eq!(round_f16(false, 1, -2000), 0);
        assert_eq!(round_f16(true, 1 << 40, 0), 0xFC00);
    }

    #[test]
    fn every_f16_is_itself() {
        for bits in (0..0x7C00_u32).skip(1) {
            let (e, m) = (bits >> 10, u64::from(bits & 0x3FF));
            let (mag, unit) = if e == 0 {
                (m, -24)
            } else {
                (m | 0x400, e as i32 - 25)
            };
            assert_eq!(round_f16(false, mag, unit), bits);
            assert_eq!(round_f16(true, mag << 20, unit - 20), bits | 0x8000);
        }
    }
}
