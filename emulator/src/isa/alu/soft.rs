//! Binary floating point in integers: any rounding, any of the machine's formats, one rounding of the exact result.
//!
//! For what the host's instructions do not give: directed roundings, fused operations of narrow formats, conversions. Bits
//! travel as u64, a format's code in the low ones.

use super::Round;

/// An IEEE-like format: width of mantissa and exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Stored mantissa bits.
    pub man: u32,
    /// Exponent bits.
    pub exp: u32,
}

/// Half precision.
pub const F16: Format = Format { man: 10, exp: 5 };
/// bfloat16.
pub const BF16: Format = Format { man: 7, exp: 8 };
/// Single precision.
pub const F32: Format = Format { man: 23, exp: 8 };
/// Double precision.
pub const F64: Format = Format { man: 52, exp: 11 };

impl Format {
    const fn bits(self) -> u32 {
        1 + self.exp + self.man
    }

    const fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Code of infinity.
    pub const fn infinity(self) -> u64 {
        ((1 << self.exp) - 1) << self.man
    }

    /// The NaN that operations give: all ones but the sign; for f64 the quiet bit alone.
    pub const fn nan(self) -> u64 {
        if self.man == 52 {
            0x7FF8_0000_0000_0000
        } else {
            self.sign() - 1
        }
    }

    /// Exponent of the least normal number.
    const fn least(self) -> i32 {
        2 - (1 << (self.exp - 1))
    }

    /// True for a NaN's code.
    pub const fn is_nan(self, v: u64) -> bool {
        v & (self.sign() - 1) > self.infinity()
    }

    const fn is_infinite(self, v: u64) -> bool {
        v & (self.sign() - 1) == self.infinity()
    }

    /// A subnormal becomes a zero of its sign.
    pub const fn flush(self, v: u64) -> u64 {
        if v & self.infinity() == 0 {
            v & self.sign()
        } else {
            v
        }
    }
}

/// `sig * 2^exp` with a sign; the lowest bit of `sig` also stands for any part of the value below it.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    neg: bool,
    sig: u128,
    exp: i32,
}

impl Number {
    /// An integer.
    pub fn integer(v: i128) -> Self {
        Self {
            neg: v < 0,
            sig: v.unsigned_abs(),
            exp: 0,
        }
    }

    /// A finite code.
    pub fn decode(f: Format, v: u64) -> Self {
        let e = (v >> f.man & ((1 << f.exp) - 1)) as i32;
        let m = v & ((1 << f.man) - 1);
        let sig = if e == 0 { m } else { m | 1 << f.man };
        Self {
            neg: v & f.sign() != 0,
            sig: sig.into(),
            exp: f.least() + e.max(1) - 1 - f.man as i32,
        }
    }

    /// The same value with its top bit at `top`, which lies above all others of it.
    fn top(self, top: u32) -> Self {
        let have = 127 - self.sig.leading_zeros();
        Self {
            sig: self.sig << (top - have),
            exp: self.exp - (top - have) as i32,
            ..self
        }
    }

    fn mul(self, o: Self) -> Self {
        Self {
            neg: self.neg != o.neg,
            sig: self.sig * o.sig,
            exp: self.exp + o.exp,
        }
    }

    /// The sum, where neither has more than 107 bits: at most a sticky bit is left of what falls off, and a cancellation
    /// takes no more than one bit then.
    fn add(self, o: Self, r: Round) -> Self {
        if self.sig == 0 || o.sig == 0 {
            return match (self.sig, o.sig) {
                (0, 0) => Self {
                    neg: if self.neg == o.neg {
                        self.neg
                    } else {
                        r == Round::Rm
                    },
                    ..self
                },
                (0, _) => o,
                _ => self,
            };
        }
        let (a, b) = (self.top(124), o.top(124));
        let (a, b) = if (a.exp, a.sig) >= (b.exp, b.sig) {
            (a, b)
        } else {
            (b, a)
        };
        let d = (a.exp - b.exp) as u32;
        let low = if d >= 126 {
            1
        } else {
            (b.sig >> d) | u128::from(b.sig & ((1 << d) - 1) != 0)
        };
        let sig = if a.neg == b.neg {
            a.sig + low
        } else {
            a.sig - low
        };
        Self {
            neg: if sig == 0 { r == Round::Rm } else { a.neg },
            sig,
            exp: a.exp,
        }
    }

    /// The code of the value in `f`.
    pub fn round(self, f: Format, r: Round) -> u64 {
        let sign = if self.neg { f.sign() } else { 0 };
        if self.sig == 0 {
            return sign;
        }
        let e = self.exp + 127 - self.sig.leading_zeros() as i32;
        let top = (1i32 << (f.exp - 1)) - 1;
        let unit = e.max(f.least()) - f.man as i32;
        let shift = unit - self.exp;
        let (mut m, rest, half) = if shift <= 0 {
            // Not so for values that are too large, whose code is not looked at.
            (self.sig.checked_shl(-shift as u32).unwrap_or(0), 0, 1)
        } else if shift > 127 {
            (0, 1, 2)
        } else {
            let rest = self.sig & ((1 << shift) - 1);
            (self.sig >> shift, rest, 1u128 << (shift - 1))
        };
        let up = match r {
            Round::Rn => rest > half || (rest == half && rest != 0 && m & 1 != 0),
            Round::Rz => false,
            Round::Rm => self.neg && rest != 0,
            Round::Rp => !self.neg && rest != 0,
        };
        m += u128::from(up);
        let code = if e > top {
            f.infinity()
        } else if e < f.least() {
            m as u64
        } else {
            // A carry out of the mantissa moves into the exponent by itself.
            (((e - f.least()) as u64) << f.man) + m as u64
        };
        if code < f.infinity() {
            return sign | code;
        }
        let stays = match r {
            Round::Rn => false,
            Round::Rz => true,
            Round::Rm => !self.neg,
            Round::Rp => self.neg,
        };
        sign | if stays {
            f.infinity() - 1
        } else {
            f.infinity()
        }
    }
}

/// a b + c.
pub fn fma(f: Format, a: u64, b: u64, c: u64, r: Round) -> u64 {
    let (ia, ib, ic) = (f.is_infinite(a), f.is_infinite(b), f.is_infinite(c));
    let zero = |v: u64| v & (f.sign() - 1) == 0;
    let nan = f.is_nan(a) || f.is_nan(b) || f.is_nan(c);
    let sign = (a ^ b) & f.sign();
    if nan || (ia && zero(b)) || (ib && zero(a)) || ((ia || ib) && ic && c & f.sign() != sign) {
        return f.nan();
    }
    if ia || ib {
        return sign | f.infinity();
    }
    if ic {
        return c;
    }
    let n = |v| Number::decode(f, v);
    n(a).mul(n(b)).add(n(c), r).round(f, r)
}

/// a + b.
pub fn add(f: Format, a: u64, b: u64, r: Round) -> u64 {
    let one = ((1u64 << (f.exp - 1)) - 1) << f.man;
    fma(f, a, one, b, r)
}

/// a b.
pub fn mul(f: Format, a: u64, b: u64, r: Round) -> u64 {
    if f.is_nan(a) || f.is_nan(b) {
        return f.nan();
    }
    let zero = |v: u64| v & (f.sign() - 1) == 0;
    if f.is_infinite(a) || f.is_infinite(b) {
        return if zero(a) || zero(b) {
            f.nan()
        } else {
            (a ^ b) & f.sign() | f.infinity()
        };
    }
    Number::decode(f, a).mul(Number::decode(f, b)).round(f, r)
}

/// a / b.
pub fn div(f: Format, a: u64, b: u64, r: Round) -> u64 {
    let sign = (a ^ b) & f.sign();
    let zero = |v: u64| v & (f.sign() - 1) == 0;
    let (ia, ib) = (f.is_infinite(a), f.is_infinite(b));
    if f.is_nan(a) || f.is_nan(b) || (ia && ib) || (zero(a) && zero(b)) {
        return f.nan();
    }
    if ia || zero(b) {
        return sign | f.infinity();
    }
    if ib || zero(a) {
        return sign;
    }
    let (x, y) = (Number::decode(f, a).top(124), Number::decode(f, b).top(53));
    let q = x.sig / y.sig;
    Number {
        neg: sign != 0,
        sig: q << 1 | u128::from(x.sig % y.sig != 0),
        exp: x.exp - y.exp - 1,
    }
    .round(f, r)
}

/// The square root of a.
pub fn sqrt(f: Format, a: u64, r: Round) -> u64 {
    if a & (f.sign() - 1) == 0 || a == f.infinity() {
        return a;
    }
    if f.is_nan(a) || a & f.sign() != 0 {
        return f.nan();
    }
    let mut x = Number::decode(f, a).top(124);
    if x.exp & 1 != 0 {
        x.sig <<= 1;
        x.exp -= 1;
    }
    let s = x.sig.isqrt();
    Number {
        neg: false,
        sig: s << 1 | u128::from(s * s != x.sig),
        exp: x.exp / 2 - 1,
    }
    .round(f, r)
}

/// A value of `from` in `to`.
pub fn convert(from: Format, to: Format, v: u64, r: Round) -> u64 {
    if from.is_nan(v) {
        to.nan()
    } else if from.is_infinite(v) {
        to.infinity() | if v & from.sign() != 0 { to.sign() } else { 0 }
    } else {
        Number::decode(from, v).round(to, r)
    }
}
