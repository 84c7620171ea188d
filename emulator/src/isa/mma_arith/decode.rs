//! Operand elements as sign, significand and exponent.

/// Element types of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InType {
    E4M3,
    E5M2,
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

/// Accumulator types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AccType {
    F32,
    F16,
    S32,
}

impl InType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::E4M3 | Self::E5M2 | Self::S8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
        }
    }

    /// The value of an integer element.
    pub fn int(self, b: u8) -> i64 {
        if self == Self::S8 {
            i64::from(b as i8)
        } else {
            i64::from(b)
        }
    }
}

/// What kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Class {
    Finite,
    Inf,
    Nan,
}

/// `sig * 2^(exp - frac)`: a signed significand with `frac` fraction bits, not normalised for subnormals.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Signed significand.
    pub sig: i32,
    /// Exponent of the significand's leading place.
    pub exp: i32,
    /// Fraction bits of the significand.
    pub frac: i32,
    /// Finite or not; an infinity's sign is that of `sig`.
    pub class: Class,
}

impl Term {
    /// As f64.
    pub fn value(self) -> f64 {
        match self.class {
            Class::Nan => f64::NAN,
            Class::Inf => f64::INFINITY.copysign(f64::from(self.sig)),
            Class::Finite => f64::from(self.sig) * 2f64.powi(self.exp - self.frac),
        }
    }
}

fn split(bits: u32, exp_bits: u32, man_bits: u32, fn_style: bool, neg: bool) -> Term {
    let sign = (bits >> (exp_bits + man_bits) & 1 != 0) != neg;
    let e = bits >> man_bits & ((1 << exp_bits) - 1);
    let m = bits & ((1 << man_bits) - 1);
    let bias = (1 << (exp_bits - 1)) - 1;
    let top = e == (1 << exp_bits) - 1;
    let class = match (top, fn_style) {
        (true, false) if m == 0 => Class::Inf,
        (true, false) => Class::Nan,
        (true, true) if m == (1 << man_bits) - 1 => Class::Nan,
        _ => Class::Finite,
    };
    let (sig, exp) = if e == 0 {
        (m, 1 - bias)
    } else {
        (m | 1 << man_bits, e as i32 - bias)
    };
    Term {
        sig: if sign { -(sig as i32) } else { sig as i32 },
        exp,
        frac: man_bits as i32,
        class,
    }
}

/// The elements of rows of 32 bytes.
pub fn terms(ty: InType, bytes: &[u8], neg: bool) -> Vec<Term> {
    match ty {
        InType::E4M3 => bytes
            .iter()
            .map(|&b| split(b.into(), 4, 3, true, neg))
            .collect(),
        InType::E5M2 => bytes
            .iter()
            .map(|&b| split(b.into(), 5, 2, false, neg))
            .collect(),
        InType::F16 => bytes
            .chunks(2)
            .map(|b| split(u16::from_le_bytes([b[0], b[1]]).into(), 5, 10, false, neg))
            .collect(),
        InType::Bf16 => bytes
            .chunks(2)
            .map(|b| split(u16::from_le_bytes([b[0], b[1]]).into(), 8, 7, false, neg))
            .collect(),
        // The low 13 bits of a tf32 input are dropped.
        InType::Tf32 => bytes
            .chunks(4)
            .map(|b| {
                split(
                    u32::from_le_bytes([b[0], b[1], b[2], b[3]]) >> 13,
                    8,
                    10,
                    false,
                    neg,
                )
            })
            .collect(),
        InType::S8 | InType::U8 => Vec::new(),
    }
}

/// The accumulator as a term.
pub fn accumulator(acc: AccType, bits: u32) -> Term {
    if acc == AccType::F16 {
        split(bits, 5, 10, false, false)
    } else {
        split(bits, 8, 23, false, false)
    }
}
