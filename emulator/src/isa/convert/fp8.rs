//! 8-bit floats.

/// An 8-bit float format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8 {
    /// 4 exponent bits, 3 of mantissa, no infinity.
    E4M3,
    /// 5 exponent bits, 2 of mantissa.
    E5M2,
}

impl Fp8 {
    /// Round to nearest even, clamped to the largest finite value; NaN is 0x7F.
    pub fn encode(self, v: f32) -> u8 {
        let (man, bias, max) = match self {
            Self::E4M3 => (3, 7, 0x7E),
            Self::E5M2 => (2, 15, 0x7B),
        };
        if v.is_nan() {
            return 0x7F;
        }
        let sign = (v.to_bits() >> 24 & 0x80) as u8;
        let bits = v.to_bits() & 0x7FFF_FFFF;
        if bits >= 0x7F80_0000 {
            return sign | max;
        }
        let e = (bits >> 23) as i32 - 127;
        // Significand with its hidden bit; f32 subnormals are far below the least FP8 value.
        let sig = bits & 0x007F_FFFF | 0x0080_0000;
        let least = 1 - bias;
        let drop = 23 - man + (least - e).max(0);
        if drop > 25 {
            return sign;
        }
        let kept = sig >> drop;
        let rest = sig & ((1 << drop) - 1);
        let half = 1u32 << (drop - 1);
        let up = rest > half || (rest == half && kept & 1 != 0);
        let m = kept + u32::from(up);
        // A carry out of the mantissa moves into the exponent by itself.
        let code = if e < least {
            m
        } else {
            (((e - least) as u32) << man) + m
        };
        sign | (code.min(max.into())) as u8
    }

    /// Exact value; an E4M3 code of NaN and E5M2's NaNs give NaN.
    pub fn decode(self, b: u8) -> f32 {
        let (man, bias) = match self {
            Self::E4M3 => (3, 7),
            Self::E5M2 => (2, 15),
        };
        let (e, m) = ((b & 0x7F) >> man, b & ((1 << man) - 1));
        let top = 0x7F >> man;
        let v = match self {
            Self::E4M3 if b & 0x7F == 0x7F => f32::NAN,
            Self::E5M2 if e == top && m != 0 => f32::NAN,
            Self::E5M2 if e == top => f32::INFINITY,
            _ if e == 0 => f32::from(m) * 2f32.powi(1 - bias - man),
            _ => (f32::from(m) / f32::from(1u8 << man) + 1.0) * 2f32.powi(i32::from(e) - bias),
        };
        if b & 0x80 != 0 { -v } else { v }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_codes_round_trip_and_ties_go_to_even() {
        for f in [Fp8::E4M3, Fp8::E5M2] {
            let max = if f == Fp8::E4M3 { 0x7E } else { 0x7B };
            for b in 0..=255u8 {
                let v = f.decode(b);
                if v.is_finite() {
                    assert_eq!(f.encode(v), b, "{f:?} {b:#x}");
                }
            }
            for b in 0..max {
                let (x, y) = (f.decode(b), f.decode(b + 1));
                let mid = (x + y) / 2.0;
                let even = if b & 1 == 0 { b } else { b + 1 };
                assert_eq!(f.encode(mid), even, "{f:?} {b:#x}");
                assert_eq!(f.encode(mid.next_down()), b);
                assert_eq!(f.encode(mid.next_up()), b + 1);
                assert_eq!(f.encode(-mid), even | 0x80);
            }
            assert_eq!(f.encode(f32::INFINITY), max);
            assert_eq!(f.encode(-1e30), max | 0x80);
            assert_eq!(f.encode(f32::NAN), 0x7F);
            assert_eq!(f.encode(-0.0), 0x80);
        }
    }
}
