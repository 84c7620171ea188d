//! Functions of lanes that the compiler turns into vector code: conversions between 16-bit floats and f32, 2^x, log2 x.

/// f16 to f32, exactly; a NaN is the canonical one.
#[inline(always)]
pub fn f16_to_f32(h: u32) -> u32 {
    let a = h & 0x7FFF;
    // As if the exponent were f32's, then scaled: subnormals come out right by themselves.
    let v = (f32::from_bits(a << 13) * f32::from_bits(0x7780_0000)).to_bits();
    let v = if a >= 0x7C00 { 0x7F80_0000 } else { v };
    let s = v | (h & 0x8000) << 16;
    if a > 0x7C00 { 0x7FFF_FFFF } else { s }
}

/// f32 to f16, to nearest even; a NaN is 0x7FFF.
#[inline(always)]
pub fn f32_to_f16(v: u32) -> u32 {
    let (a, sign) = (v & 0x7FFF_FFFF, v >> 16 & 0x8000);
    // Normal results: half a unit and the odd bit, then the exponent's bias.
    let normal = (a
        .wrapping_add(0xFFF + (a >> 13 & 1))
        .wrapping_sub(112 << 23))
        >> 13;
    // Subnormal ones: an addition that puts the unit where f32's last bit is.
    let small = (f32::from_bits(a) + f32::from_bits(0x3F00_0000)).to_bits() - 0x3F00_0000;
    let r = if a < 0x3880_0000 { small } else { normal };
    let r = if a >= 0x4780_0000 { 0x7C00 } else { r };
    let r = r.min(0x7C00);
    if a > 0x7F80_0000 { 0x7FFF } else { r | sign }
}

/// bf16 to f32, exactly; a NaN is the canonical one.
#[inline(always)]
pub fn bf16_to_f32(h: u32) -> u32 {
    if h & 0x7FFF > 0x7F80 {
        0x7FFF_FFFF
    } else {
        h << 16
    }
}

/// f32 to bf16, to nearest even; a NaN is 0x7FFF.
#[inline(always)]
pub fn f32_to_bf16(v: u32) -> u32 {
    let r = (v.wrapping_add(0x7FFF + (v >> 16 & 1))) >> 16;
    if v & 0x7FFF_FFFF > 0x7F80_0000 {
        0x7FFF
    } else {
        r
    }
}

/// 2^x as an f64 whose error is below 2^-43 of it: nothing of f32's rounding can be seen but at ties.
#[inline(always)]
pub fn exp2(x: f32) -> f64 {
    let x = f64::from(x).clamp(-1100.0, 1100.0);
    let n = x.round_ties_even();
    let t = (x - n) * std::f64::consts::LN_2;
    // Taylor: t^13 / 13! < 2^-52 for |t| <= 0.35.
    let mut p = 1.0 / 479_001_600.0;
    for c in [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * t + c;
    }
    // f32 ends long before f64 does: the scale needs no subnormals.
    let n = n.clamp(-1000.0, 1000.0) as i32;
    p * f64::from_bits(((i64::from(n) + 1023) as u64) << 52)
}

/// log2 x as an f64, relative error below 2^-45. Zero and below, infinity and NaN as IEEE has them.
#[inline(always)]
pub fn log2(x: f32) -> f64 {
    let v = f64::from(x).to_bits();
    // The mantissa in [sqrt(1/2), sqrt(2)).
    let k = v.wrapping_sub(0x3FE6_A09E_667F_3BCD) as i64 >> 52;
    let m = f64::from_bits(v.wrapping_sub((k << 52) as u64));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // 2 atanh s; s <= 0.1716, so that s^20 / 21 < 2^-55.
    let mut p = 1.0 / 21.0;
    for c in [
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ] {
        p = p * z + c;
    }
    let r = k as i32 as f64 + 2.0 * s * p * std::f64::consts::LOG2_E;
    let r = if x == 0.0 { f64::NEG_INFINITY } else { r };
    let r = if x < 0.0 || x.is_nan() { f64::NAN } else { r };
    if x == f32::INFINITY { f64::INFINITY } else { r }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_agree_with_an_independent_crate() {
        for h in 0..=0xFFFFu32 {
            let (f, b) = (
                half::f16::from_bits(h as u16),
                half::bf16::from_bits(h as u16),
            );
            let (x, y) = (
                f32::from_bits(f16_to_f32(h)),
                f32::from_bits(bf16_to_f32(h)),
            );
            assert!(
                x.is_nan() && f.is_nan() || x.to_bits() == f.to_f32().to_bits(),
                "{h:#x}"
            );
            assert!(
                y.is_nan() && b.is_nan() || y.to_bits() == b.to_f32().to_bits(),
                "{h:#x}"
            );
        }
        // Every 1021st f32, and all near what the narrow formats cut.
        let near = (0..=0xFFFFu32).flat_map(|h| {
            let v = f16_to_f32(h);
            [
                v ^ 0x1000,
                v ^ 0xFFF,
                v ^ 0x1001,
                h << 16 | 0x8000,
                h << 16 | 0x7FFF,
                h << 16 | 0x8001,
            ]
        });
        for v in (0..u32::MAX).step_by(1021).chain(near) {
            let f = f32::from_bits(v);
            if f.is_nan() {
                assert_eq!((f32_to_f16(v), f32_to_bf16(v)), (0x7FFF, 0x7FFF));
            } else {
                assert_eq!(
                    f32_to_f16(v),
                    u32::from(half::f16::from_f32(f).to_bits()),
                    "{f:e}"
                );
                assert_eq!(
                    f32_to_bf16(v),
                    u32::from(half::bf16::from_f32(f).to_bits()),
                    "{f:e}"
                );
            }
        }
    }

    #[test]
    fn exponentials_and_logarithms_are_close() {
        for v in (0..u32::MAX).step_by(4099) {
            let x = f32::from_bits(v);
            let (got, want) = (log2(x), f64::from(x).log2());
            let same = got.is_nan() && want.is_nan() || got == want;
            assert!(
                same || ((got - want) / want).abs() < 2f64.powi(-44),
                "log2 {x:e}: {got:e}"
            );
            if x.abs() < 900.0 {
                let (got, want) = (exp2(x), f64::from(x).exp2());
                assert!(
                    ((got - want) / want).abs() < 2f64.powi(-43),
                    "2^{x:e}: {got:e}"
                );
            }
        }
        assert_eq!(
            [exp2(0.0), exp2(3.0), exp2(-140.0)],
            [1.0, 8.0, 2f64.powi(-140)]
        );
        assert_eq!(exp2(f32::INFINITY) as f32, f32::INFINITY);
        assert_eq!(exp2(f32::NEG_INFINITY) as f32, 0.0);
        assert!(exp2(f32::NAN).is_nan());
    }
}
