//! `cvt`: integers, floats, pairs, FP8.

use super::alu::round_f32;
use super::decode::{Decoder, Mods, Result, rows_of};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::ptx::ast::{self, Operand, Type};

/// How a value is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// To nearest even, toward zero, down, up: of a float.
    Rn,
    Rz,
    Rm,
    Rp,
    /// To an integer value.
    Rni,
    Rzi,
    Rmi,
    Rpi,
    /// To nearest, ties away from zero (tf32).
    Rna,
}

struct Cvt {
    to: Type,
    from: Type,
    round: Option<Round>,
    ftz: bool,
    sat: bool,
    dst: RowId,
    dst_rows: u32,
    dst_half: bool,
    src: RowId,
    src_rows: u32,
}

struct Narrow {
    fp8: Fp8,
    relu: bool,
    dst: RowId,
    a: RowId,
    b: Option<RowId>,
}

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

/// Decodes `cvt`.
///
/// # Errors
/// Types, roundings or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    if m.mnemonic() != "cvt" {
        return Ok(None);
    }
    let round = m
        .one_of(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"])
        .map(|r| match r {
            "rn" => Round::Rn,
            "rz" => Round::Rz,
            "rm" => Round::Rm,
            "rp" => Round::Rp,
            "rni" => Round::Rni,
            "rzi" => Round::Rzi,
            "rmi" => Round::Rmi,
            "rpi" => Round::Rpi,
            _ => Round::Rna,
        });
    let mut relu = m.take("relu");
    let satfinite = m.take("satfinite");
    relu |= m.take("relu");
    let ftz = m.take("ftz");
    let sat = m.take("sat");
    let to = m.next().unwrap_or_default();
    let from = m.next().unwrap_or_default();
    m.finish()?;
    match (to, from) {
        ("e4m3x2" | "e5m2x2", "f32" | "f16x2") => {
            if round != Some(Round::Rn) || !satfinite || ftz || sat {
                return Err(m.error("a narrow float takes .rn.satfinite"));
            }
            let fp8 = if to == "e4m3x2" { Fp8::E4M3 } else { Fp8::E5M2 };
            let dst = d.dst(i, 0, Type::B16)?;
            let (a, b) = if from == "f32" {
                d.arity(i, 3)?;
                (d.src(i, 1, Type::F32)?, Some(d.src(i, 2, Type::F32)?))
            } else {
                d.arity(i, 2)?;
                (d.src(i, 1, Type::B32)?, None)
            };
            let x = d.push_aux(Box::new(Narrow {
                fp8,
                relu,
                dst,
                a,
                b,
            }));
            Ok(Some(Inst {
                x,
                ..d.inst(narrow)
            }))
        }
        ("f16x2", "e4m3x2" | "e5m2x2") => {
            if round != Some(Round::Rn) || satfinite || ftz || sat {
                return Err(m.error("takes .rn"));
            }
            d.arity(i, 2)?;
            let fp8 = if from == "e4m3x2" {
                Fp8::E4M3
            } else {
                Fp8::E5M2
            };
            let (dst, a) = (d.dst(i, 0, Type::B32)?, d.src(i, 1, Type::B16)?);
            let x = d.push_aux(Box::new(Narrow {
                fp8,
                relu,
                dst,
                a,
                b: None,
            }));
            Ok(Some(Inst { x, ..d.inst(widen) }))
        }
        ("f16x2" | "bf16x2", "f32") => {
            let Some(round @ (Round::Rn | Round::Rz)) = round else {
                return Err(m.error("takes .rn or .rz"));
            };
            if satfinite || ftz || sat {
                return Err(m.error("qualifier is not supported"));
            }
            d.arity(i, 3)?;
            let (dst, a, b) = (
                d.dst(i, 0, Type::B32)?,
                d.src(i, 1, Type::F32)?,
                d.src(i, 2, Type::F32)?,
            );
            let flags = u32::from(to == "bf16x2")
                | u32::from(round == Round::Rz) << 1
                | u32::from(relu) << 2;
            let exec = if flags == 1 {
                super::lanes::versions!(d.cpu, bf16x2_rn)
            } else {
                pair
            };
            Ok(Some(Inst {
                d: dst,
                a,
                b,
                x: flags,
                ..d.inst(exec)
            }))
        }
        ("tf32", "f32") => {
            if !matches!(round, Some(Round::Rna | Round::Rn | Round::Rz)) || satfinite {
                return Err(m.error("takes .rna, .rn or .rz"));
            }
            d.arity(i, 2)?;
            let kind = match round {
                Some(Round::Rna) => 0,
                Some(Round::Rn) => 1,
                _ => 2,
            };
            Ok(Some(Inst {
                d: d.dst(i, 0, Type::B32)?,
                a: d.src(i, 1, Type::F32)?,
                x: kind | u32::from(relu) << 2,
                ..d.inst(tf32)
            }))
        }
        _ => {
            let (Some(to), Some(from)) = (Type::parse(to), Type::parse(from)) else {
                return Err(m.error("unknown types"));
            };
            if satfinite
                || (relu && !matches!(to, Type::F16 | Type::Bf16))
                || round == Some(Round::Rna)
            {
                return Err(m.error("qualifier is not legal here"));
            }
            if relu {
                return Err(m.error(".relu is not supported with these types"));
            }
            scalar(d, i, &m, to, from, round, ftz, sat).map(Some)
        }
    }
}

fn is_float(t: Type) -> bool {
    matches!(t, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
}

fn is_int(t: Type) -> bool {
    use Type::*;
    matches!(t, U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
}

fn signed(t: Type) -> bool {
    matches!(t, Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

#[allow(clippy::too_many_arguments)]
fn scalar(
    d: &mut Decoder,
    i: &ast::Inst,
    m: &Mods,
    to: Type,
    from: Type,
    round: Option<Round>,
    ftz: bool,
    sat: bool,
) -> Result<Inst> {
    if !(is_float(to) || is_int(to)) || !(is_float(from) || is_int(from)) {
        return Err(m.error("unknown types"));
    }
    use Round::*;
    let integral = matches!(round, Some(Rni | Rzi | Rmi | Rpi));
    let float = matches!(round, Some(Rn | Rz | Rm | Rp));
    let narrowing = is_float(to)
        && (is_int(from)
            || to.bytes() < from.bytes()
            || (to != from && to.bytes() == from.bytes()));
    let ok = match (is_float(to), is_float(from)) {
        (false, true) => integral,
        (true, false) => float,
        (true, true) if to == from => round.is_none() || integral,
        (true, true) => float == narrowing && (float || round.is_none()),
        (false, false) => round.is_none(),
    };
    if !ok {
        return Err(m.error("this rounding is not legal between these types, or one is missing"));
    }
    if ftz && to != Type::F32 && from != Type::F32 {
        return Err(m.error(".ftz goes with .f32"));
    }
    d.arity(i, 2)?;
    let Operand::Reg(r) = *d.operand(i, 0)? else {
        return Err(m.error("the destination is a register"));
    };
    let dst_ty = d.reg_type(r);
    let dst = d.reg_row_checked(i, r, to, true)?;
    let o = d.operand(i, 1)?.clone();
    let (src, src_rows) = match &o {
        Operand::Reg(r) => (
            d.reg_row_checked(i, *r, from, true)?,
            rows_of(d.reg_type(*r)),
        ),
        o => (d.src_operand(i, o, from, false)?, rows_of(from)),
    };
    let c = Cvt {
        to,
        from,
        round,
        ftz,
        sat,
        dst,
        dst_rows: rows_of(dst_ty),
        dst_half: dst_ty.bytes() == 2,
        src,
        src_rows,
    };
    let x = d.push_aux(Box::new(c));
    Ok(Inst { x, ..d.inst(cvt) })
}

/// A source value: integers as i128, floats as f64 (all of which hold them exactly).
enum Value {
    Int(i128),
    Float(f64),
}

fn read(ty: Type, ftz: bool, v: u64) -> Value {
    use Type::*;
    match ty {
        U8 => Value::Int((v as u8).into()),
        S8 => Value::Int((v as i8).into()),
        U16 => Value::Int((v as u16).into()),
        S16 => Value::Int((v as i16).into()),
        U32 => Value::Int((v as u32).into()),
        S32 => Value::Int((v as i32).into()),
        U64 => Value::Int(v.into()),
        S64 => Value::Int((v as i64).into()),
        F16 => Value::Float(half::f16::from_bits(v as u16).to_f64()),
        Bf16 => Value::Float(half::bf16::from_bits(v as u16).to_f64()),
        F32 => {
            let f = f32::from_bits(v as u32);
            Value::Float(if ftz && f.is_subnormal() {
                0f64.copysign(f.into())
            } else {
                f.into()
            })
        }
        _ => Value::Float(f64::from_bits(v)),
    }
}

fn limits(t: Type) -> (i128, i128) {
    let n = t.bytes() as u32 * 8;
    if signed(t) {
        (-(1 << (n - 1)), (1 << (n - 1)) - 1)
    } else {
        (0, (1i128 << n) - 1)
    }
}

fn integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Rni => v.round_ties_even(),
        Round::Rzi => v.trunc(),
        Round::Rmi => v.floor(),
        _ => v.ceil(),
    }
}

fn convert(c: &Cvt, v: u64) -> u64 {
    match (read(c.from, c.ftz, v), is_float(c.to)) {
        (Value::Int(x), false) => {
            let (lo, hi) = limits(c.to);
            (if c.sat { x.clamp(lo, hi) } else { x }) as u64
        }
        (Value::Float(x), false) => {
            let (lo, hi) = limits(c.to);
            if x.is_nan() {
                // 0 for 32 bits and less from f32 and less; the top bit alone where 64 bits are involved (PTX ISA, cvt).
                return if c.to.bytes() == 8 || c.from == Type::F64 {
                    if signed(c.to) {
                        1 << (c.to.bytes() * 8 - 1)
                    } else {
                        nan_unsigned(c)
                    }
                } else {
                    0
                };
            }
            let r = integral(x, c.round.unwrap_or(Round::Rzi));
            if r <= lo as f64 {
                lo as u64
            } else if r >= hi as f64 {
                hi as u64
            } else {
                r as i128 as u64
            }
        }
        (Value::Int(x), true) => from_int(c, x),
        (Value::Float(x), true) => {
            let x = match c.round {
                Some(r @ (Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi)) => {
                    integral(x, r).copysign(x)
                }
                _ => x,
            };
            let x = if c.sat {
                if x.is_nan() {
                    0.0
                } else {
                    x.clamp(0.0, 1.0) + 0.0
                }
            } else {
                x
            };
            write_float(c, x, 0.0)
        }
    }
}

fn nan_unsigned(c: &Cvt) -> u64 {
    1 << (c.to.bytes() * 8 - 1)
}

fn from_int(c: &Cvt, x: i128) -> u64 {
    // A 64-bit integer as the sum of two f64, exactly.
    let hi = x as f64;
    let lo = (x - hi as i128) as f64;
    let (hi, lo) = if c.sat {
        (hi.clamp(0.0, 1.0), 0.0)
    } else {
        (hi, lo)
    };
    write_float(c, hi, lo)
}

fn f32_round(r: Option<Round>) -> super::alu::Round {
    match r {
        Some(Round::Rz) => super::alu::Round::Rz,
        Some(Round::Rm) => super::alu::Round::Rm,
        Some(Round::Rp) => super::alu::Round::Rp,
        _ => super::alu::Round::Rn,
    }
}

/// `hi + lo` in the destination's format.
fn write_float(c: &Cvt, hi: f64, lo: f64) -> u64 {
    match c.to {
        Type::F64 => {
            if hi.is_nan() {
                return 0x7FF8_0000_0000_0000;
            }
            // Only a 64-bit integer leaves an error here; its f64 is rounded to nearest.
            match c.round {
                Some(Round::Rz) if (hi > 0.0 && lo < 0.0) || (hi < 0.0 && lo > 0.0) => {
                    f64::from_bits(hi.to_bits() - 1).to_bits()
                }
                Some(Round::Rm) if lo < 0.0 => hi.next_down().to_bits(),
                Some(Round::Rp) if lo > 0.0 => hi.next_up().to_bits(),
                _ => hi.to_bits(),
            }
        }
        Type::F32 => {
            // Round-to-nearest of hi + lo with hi the nearest f64 errs only on ties of hi, which lo then breaks.
            let r = nearest_f32(hi, lo, c.round);
            let r = if c.ftz && r.is_subnormal() {
                0f32.copysign(r)
            } else {
                r
            };
            u64::from(if r.is_nan() { 0x7FFF_FFFF } else { r.to_bits() })
        }
        Type::F16 => u64::from(narrow16(hi, lo, c.round, 10, 5)),
        _ => u64::from(narrow16(hi, lo, c.round, 7, 8)),
    }
}

fn nearest_f32(hi: f64, lo: f64, round: Option<Round>) -> f32 {
    if lo == 0.0 || !matches!(round, Some(Round::Rn) | None) {
        return round_f32(hi, lo, f32_round(round));
    }
    // Fold the error in as a sticky bit: hi rounded to odd.
    let odd = if hi.to_bits() & 1 == 1 {
        hi
    } else if (lo > 0.0) == (hi > 0.0) {
        f64::from_bits(hi.to_bits() + 1)
    } else {
        f64::from_bits(hi.to_bits() - 1)
    };
    odd as f32
}

/// `hi + lo` in a 16-bit format with `man` mantissa and `exp` exponent bits. Overflow goes to infinity (or stays at the
/// largest value where the rounding says so); NaN is 0x7FFF.
fn narrow16(hi: f64, lo: f64, round: Option<Round>, man: i32, exp: i32) -> u16 {
    if hi.is_nan() {
        return 0x7FFF;
    }
    let neg = hi.is_sign_negative();
    let sign = u16::from(neg) << 15;
    let top = ((1u16 << exp) - 1) << man;
    if hi.is_infinite() {
        return sign | top;
    }
    if hi == 0.0 {
        return sign;
    }
    let a = hi.abs();
    let e = ((a.to_bits() >> 52) as i32 - 1023).max(2 - (1 << (exp - 1)));
    let ulp = 2f64.powi(e - man);
    let q = a / ulp;
    let below = q.floor();
    let frac = q - below;
    // The error only matters where hi alone sits on a boundary.
    let lo = if neg { -lo } else { lo };
    let up = match round {
        Some(Round::Rz) => false,
        Some(Round::Rm) => neg && (frac > 0.0 || lo > 0.0),
        Some(Round::Rp) => !neg && (frac > 0.0 || lo > 0.0),
        _ => frac > 0.5 || (frac == 0.5 && (lo > 0.0 || (lo == 0.0 && below % 2.0 == 1.0))),
    };
    let n = below as u64 + u64::from(up);
    let bias = (1 << (exp - 1)) - 1;
    // As an integer code: a carry moves into the exponent.
    let code = if a < 2f64.powi(1 - bias) {
        n
    } else {
        (((e + bias) as u64 - 1) << man) + n
    };
    if code >= u64::from(top) {
        let stay = match round {
            Some(Round::Rz) => true,
            Some(Round::Rm) => !neg,
            Some(Round::Rp) => neg,
            _ => false,
        };
        return sign | if stay { top - 1 } else { top };
    }
    sign | code as u16
}

unsafe fn cvt(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let c = cx.aux::<Cvt>(i.x);
        let src = if c.src_rows == 2 {
            cx.get64(c.src)
        } else {
            cx.get(c.src).map(u64::from)
        };
        let mut r = [0u64; 32];
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            r[l] = convert(c, src[l]);
        }
        // An integer goes into a wider register extended by its sign; a narrower value is cut to its own width first.
        if is_int(c.to) {
            let n = c.to.bytes() as u32 * 8;
            r = r.map(|v| {
                if signed(c.to) {
                    ((v << (64 - n)) as i64 >> (64 - n)) as u64
                } else {
                    v << (64 - n) >> (64 - n)
                }
            });
        }
        if c.dst_rows == 2 {
            cx.set64(c.dst, &r, mask);
        } else {
            let keep = if c.dst_half { 0xFFFF } else { u32::MAX };
            cx.set(c.dst, &r.map(|v| v as u32 & keep), mask);
        }
    }
    Flow::Next
}

unsafe fn narrow(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Narrow>(i.x);
        let a = cx.get(t.a);
        let encode = |v: f32| t.fp8.encode(if t.relu && v < 0.0 { 0.0 } else { v });
        let r: [u32; 32] = match t.b {
            Some(b) => {
                let b = cx.get(b);
                std::array::from_fn(|l| {
                    u32::from(encode(f32::from_bits(a[l]))) << 8
                        | u32::from(encode(f32::from_bits(b[l])))
                })
            }
            None => a.map(|v| {
                let f = |h: u32| half::f16::from_bits(h as u16).to_f32();
                u32::from(encode(f(v >> 16))) << 8 | u32::from(encode(f(v & 0xFFFF)))
            }),
        };
        cx.set(t.dst, &r, mask);
    }
    Flow::Next
}

unsafe fn widen(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Narrow>(i.x);
        let a = cx.get(t.a);
        let one = |b: u32| {
            let v = t.fp8.decode(b as u8);
            if v.is_nan() {
                return 0x7FFF;
            }
            u32::from(half::f16::from_f32(if t.relu && v < 0.0 { 0.0 } else { v }).to_bits())
        };
        cx.set(
            t.dst,
            &a.map(|v| one(v & 255) | one(v >> 8 & 255) << 16),
            mask,
        );
    }
    Flow::Next
}

/// f32 to bf16, to nearest even.
#[inline(always)]
fn bf16_rn(v: u32) -> u32 {
    if v & 0x7FFF_FFFF > 0x7F80_0000 {
        0x7FFF
    } else {
        (v + 0x7FFF + (v >> 16 & 1)) >> 16
    }
}

#[inline(always)]
unsafe fn bf16x2_rn(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b) = (cx.get(i.a), cx.get(i.b));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = bf16_rn(a[l]) << 16 | bf16_rn(b[l]);
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn pair(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b) = (cx.get(i.a), cx.get(i.b));
        let (bf, rz, relu) = (i.x & 1 != 0, i.x & 2 != 0, i.x & 4 != 0);
        let one = |v: u32| {
            let f = f64::from(f32::from_bits(v));
            let f = if relu && f < 0.0 { 0.0 } else { f };
            let (man, exp) = if bf { (7, 8) } else { (10, 5) };
            u32::from(narrow16(
                f,
                0.0,
                Some(if rz { Round::Rz } else { Round::Rn }),
                man,
                exp,
            ))
        };
        let r = std::array::from_fn(|l| one(a[l]) << 16 | one(b[l]));
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn tf32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let a = cx.get(i.a);
        let r = a.map(|v| {
            if v & 0x7FFF_FFFF > 0x7F80_0000 {
                return 0x7FFF_FFFF;
            }
            if v & 0x7FFF_FFFF == 0x7F80_0000 {
                return v;
            }
            let r = match i.x & 3 {
                0 => v.wrapping_add(0x1000),
                1 => v.wrapping_add(0xFFF + (v >> 13 & 1)),
                _ => v,
            } & !0x1FFF;
            if i.x & 4 != 0 && r >> 31 != 0 { 0 } else { r }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
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

    #[test]
    fn narrow_floats_agree_with_an_independent_crate() {
        let mut v = 1u32;
        for _ in 0..200_000 {
            v = v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let f = f32::from_bits(v);
            if f.is_nan() {
                continue;
            }
            let d = f64::from(f);
            assert_eq!(
                narrow16(d, 0.0, Some(Round::Rn), 10, 5),
                half::f16::from_f32(f).to_bits(),
                "{f}"
            );
            assert_eq!(
                narrow16(d, 0.0, Some(Round::Rn), 7, 8),
                half::bf16::from_f32(f).to_bits(),
                "{f}"
            );
            assert_eq!(bf16_rn(v) as u16, half::bf16::from_f32(f).to_bits());
        }
    }
}
