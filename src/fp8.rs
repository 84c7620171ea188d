//! Eight-bit floats of the OCP FP8 and MX formats.
//!
//! ```text
//! E4M3   s eeee mmm   bias 7, no infinity, NaN = s.1111.111, largest 448, least normal 2^-6, least 2^-9
//! E8M0     eeeeeeee   2^(e - 127), NaN = 0xFF: a scale, always positive
//! ```

use bytemuck::{Pod, Zeroable};

/// OCP FP8 E4M3 (the `fn` variant: finite, with NaN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct E4M3(u8);

// SAFETY: one byte, any value of which is a code.
unsafe impl cudarc::driver::DeviceRepr for E4M3 {}
// SAFETY: the code 0 is +0.
unsafe impl cudarc::driver::ValidAsZeroBits for E4M3 {}

impl E4M3 {
    /// The largest finite value.
    pub const MAX: f32 = 448.0;
    /// The code of NaN that conversions give (PTX ISA, `cvt`: 0x7F).
    pub const NAN: Self = Self(0x7F);

    /// From its code.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Its code.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// Whether it is NaN (0x7F or 0xFF).
    pub const fn is_nan(self) -> bool {
        self.0 & 0x7F == 0x7F
    }

    /// Rounds to nearest, ties to even; what is beyond ±448, infinities too, becomes ±448; NaN becomes [`E4M3::NAN`].
    /// Bit for bit `cvt.rn.satfinite.e4m3x2.f32`.
    pub fn from_f32(value: f32) -> Self {
        if value.is_nan() {
            return Self::NAN;
        }
        let sign = (value.to_bits() >> 24) as u8 & 0x80;
        let x = value.abs();
        if x >= 448.0 {
            return Self(sign | 0x7E);
        }
        // Below the least normal number codes are multiples of 2^-9; adding 2^14 puts that step in the last place of an
        // f32 (ulp of 2^14 is 2^-9), whose own rounding then does the work.
        if x < 0.015_625 {
            return Self(sign | ((x + 16384.0).to_bits() - 16384f32.to_bits()) as u8);
        }
        // Keep 3 of 23 mantissa bits, ties to even; a carry moves into the exponent by itself.
        let bits = x.to_bits();
        let rounded = (bits + 0x0007_FFFF + (bits >> 20 & 1)) >> 20;
        Self(sign | ((rounded - ((127 - 7) << 3)).min(0x7E)) as u8)
    }

    /// The exact value; NaN for the two NaN codes.
    pub const fn to_f32(self) -> f32 {
        TABLE[self.0 as usize]
    }
}

impl From<E4M3> for f32 {
    fn from(v: E4M3) -> Self {
        v.to_f32()
    }
}

static TABLE: [f32; 256] = table();

const fn table() -> [f32; 256] {
    let mut t = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        let (e, m) = ((i >> 3) as u32 & 15, i as u32 & 7);
        let bits = if i & 0x7F == 0x7F {
            0x7FC0_0000
        } else if e == 0 {
            // m 2^-9, exact.
            (m as f32 * 0.001_953_125).to_bits()
        } else {
            (e + 120) << 23 | m << 20
        };
        t[i] = f32::from_bits(bits | ((i >> 7) as u32) << 31);
        i += 1;
    }
    t
}

/// OCP MX E8M0: a power of two, 2^(code - 127).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct E8M0(u8);

impl E8M0 {
    /// NaN.
    pub const NAN: Self = Self(0xFF);

    /// From its code.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Its code.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The least power of two that is not below `value`. Values up to 2^-127, negative ones and zero give 2^-127, those
    /// beyond 2^127 (infinity) give 2^127, NaN gives NaN.
    pub fn from_f32_up(value: f32) -> Self {
        if value.is_nan() {
            return Self::NAN;
        }
        // 2^-127 is the subnormal with the top mantissa bit.
        if value <= f32::from_bits(0x0040_0000) {
            return Self(0);
        }
        let bits = value.to_bits();
        let up = (bits >> 23) + u32::from(bits & 0x007F_FFFF != 0);
        Self(up.min(254) as u8)
    }

    /// The exact value.
    pub const fn to_f32(self) -> f32 {
        match self.0 {
            0 => f32::from_bits(0x0040_0000),
            255 => f32::NAN,
            e => f32::from_bits((e as u32) << 23),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value of a code from the format's definition, in f64.
    fn defined(code: u8) -> f64 {
        let (s, e, m) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
        let v = match (e, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => m / 8.0 * 2f64.powi(-6),
            _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
        };
        if s == 1 { -v } else { v }
    }

    /// Nearest code by looking at all of them: ties go to the even code.
    fn nearest(v: f32) -> u8 {
        if v.is_nan() {
            return 0x7F;
        }
        let sign = if v.is_sign_negative() { 0x80 } else { 0 };
        // Far beyond the largest code distances would be equal in f64.
        let x = f64::from(v.abs()).min(1e6);
        let best = (0..=0x7Eu8).min_by(|a, b| {
            let (da, db) = ((defined(*a) - x).abs(), (defined(*b) - x).abs());
            da.partial_cmp(&db).unwrap().then((a & 1).cmp(&(b & 1)))
        });
        sign | if v.is_infinite() { 0x7E } else { best.unwrap() }
    }

    #[test]
    fn every_code_decodes_by_definition() {
        for c in 0..=255u8 {
            let (got, want) = (E4M3::from_bits(c).to_f32(), defined(c));
            assert!(
                f64::from(got) == want && got.is_sign_negative() == (c > 127)
                    || (got.is_nan() && want.is_nan()),
                "{c:#x}"
            );
            assert_eq!(E4M3::from_bits(c).is_nan(), got.is_nan());
        }
    }

    #[test]
    fn every_tie_and_its_neighbours_round_by_definition() {
        for c in 0..0x7Eu8 {
            let (a, b) = (E4M3::from_bits(c).to_f32(), E4M3::from_bits(c + 1).to_f32());
            let tie = (a + b) / 2.0;
            for v in [a, tie, tie.next_down(), tie.next_up(), b] {
                for s in [v, -v] {
                    assert_eq!(E4M3::from_f32(s).to_bits(), nearest(s), "{s:e}");
                }
            }
        }
        for v in [
            448.0,
            464.0,
            480.0,
            1e30,
            f32::INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            1e-45,
            0.0,
        ] {
            assert_eq!(E4M3::from_f32(v).to_bits(), nearest(v), "{v}");
            assert_eq!(E4M3::from_f32(-v).to_bits(), nearest(-v), "{v}");
        }
    }

    // Cost: about a second.
    #[test]
    fn a_sweep_over_all_floats_agrees_with_the_search() {
        for bits in (0..=u32::MAX).step_by(104_729) {
            let v = f32::from_bits(bits);
            assert_eq!(E4M3::from_f32(v).to_bits(), nearest(v), "{bits:#010x}");
        }
    }

    #[test]
    fn powers_of_two() {
        for c in 0..255u8 {
            let v = E8M0::from_bits(c).to_f32();
            assert_eq!(f64::from(v), 2f64.powi(i32::from(c) - 127));
            assert_eq!(E8M0::from_f32_up(v).to_bits(), c);
            if c < 254 {
                assert_eq!(E8M0::from_f32_up(v.next_up()).to_bits(), c + 1);
            }
        }
        assert_eq!(E8M0::from_f32_up(0.0).to_bits(), 0);
        assert_eq!(E8M0::from_f32_up(-3.0).to_bits(), 0);
        assert_eq!(E8M0::from_f32_up(f32::INFINITY).to_bits(), 254);
        assert!(E8M0::from_f32_up(f32::NAN).to_f32().is_nan());
    }
}
