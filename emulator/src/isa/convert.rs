//! `cvt`: integers, floats, pairs, FP8, tf32.

mod fp8;
mod pack;

pub use fp8::Fp8;

use super::alu::soft::{self, BF16, F16, F32, F64, Format, Number};
use super::alu::vector::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::alu::{Round as Direction, lane32};
use super::decode::{Decoder, Mods, Result, rows_of};
use super::lanes::versions;
use crate::machine::exec::Cx;
use crate::machine::inst::{Exec, Flow, Inst, RowId};
use crate::ptx::ast::{self, Operand, Type};

/// How a value is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Of a float.
    To(Direction),
    /// To an integer value: nearest even, toward zero, down, up.
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
    relu: bool,
    satfinite: bool,
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

/// Decodes `cvt`.
///
/// # Errors
/// Types, roundings or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    if m.mnemonic() != "cvt" {
        return Ok(None);
    }
    if m.take("pack") {
        return pack::decode(d, i, m).map(Some);
    }
    let round = m
        .one_of(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"])
        .map(|r| match r {
            "rn" => Round::To(Direction::Rn),
            "rz" => Round::To(Direction::Rz),
            "rm" => Round::To(Direction::Rm),
            "rp" => Round::To(Direction::Rp),
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
            d.arity(i, 3)?;
            let (dst, a, b) = (
                d.dst(i, 0, Type::B32)?,
                d.src(i, 1, Type::F32)?,
                d.src(i, 2, Type::F32)?,
            );
            let rz = round == Some(Round::To(Direction::Rz));
            let flags = u32::from(to == "bf16x2")
                | u32::from(rz) << 1
                | u32::from(relu) << 2
                | u32::from(satfinite) << 3;
            let exec = match flags {
                0 => lane32!(d, |a, b, c| f32_to_f16(a) << 16 | f32_to_f16(b)),
                1 => lane32!(d, |a, b, c| f32_to_bf16(a) << 16 | f32_to_bf16(b)),
                _ => pair,
            };
            Ok(Some(Inst {
                d: dst,
                a,
                b,
                c: b,
                x: flags,
                ..d.inst(exec)
            }))
        }
        ("tf32", "f32") => {
            d.arity(i, 2)?;
            let kind = match round {
                Some(Round::Rna) => 0,
                Some(Round::To(Direction::Rn)) => 1,
                _ => 2,
            };
            Ok(Some(Inst {
                d: d.dst(i, 0, Type::B32)?,
                a: d.src(i, 1, Type::F32)?,
                x: kind | u32::from(relu) << 2 | u32::from(satfinite) << 3,
                ..d.inst(tf32)
            }))
        }
        _ => {
            let (Some(to), Some(from)) = (Type::parse(to), Type::parse(from)) else {
                return Err(m.error("unknown types"));
            };
            let what = Cvt {
                to,
                from,
                round,
                ftz,
                sat,
                relu,
                satfinite,
                dst: 0,
                dst_rows: 0,
                dst_half: false,
                src: 0,
                src_rows: 0,
            };
            scalar(d, i, what).map(Some)
        }
    }
}

fn format(t: Type) -> Option<Format> {
    Some(match t {
        Type::F16 => F16,
        Type::Bf16 => BF16,
        Type::F32 => F32,
        Type::F64 => F64,
        _ => return None,
    })
}

fn signed(t: Type) -> bool {
    use Type::*;
    matches!(t, S8 | S16 | S32 | S64)
}

fn scalar(d: &mut Decoder, i: &ast::Inst, what: Cvt) -> Result<Inst> {
    d.arity(i, 2)?;
    let Operand::Reg(r) = *d.operand(i, 0)? else {
        return Err(d.error(i, "the destination is a register"));
    };
    let (to, from) = (what.to, what.from);
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
    let (dst_rows, dst_half) = (rows_of(dst_ty), dst_ty.bytes() == 2);
    if let Some((exec, x)) = fast(d, &what, dst_rows, dst_half, src_rows) {
        return Ok(Inst {
            d: dst,
            a: src,
            b: src,
            c: src,
            x,
            ..d.inst(exec)
        });
    }
    let x = d.push_aux(Box::new(Cvt {
        dst,
        dst_rows,
        dst_half,
        src,
        src_rows,
        ..what
    }));
    Ok(Inst { x, ..d.inst(cvt) })
}

#[inline(always)]
fn fl(v: u32) -> f32 {
    f32::from_bits(v)
}

#[inline(always)]
fn canon(v: f32) -> u32 {
    if v.is_nan() { 0x7FFF_FFFF } else { v.to_bits() }
}

/// The common conversions as vector code, and what the instruction's `x` is.
fn fast(d: &Decoder, c: &Cvt, dst_rows: u32, dst_half: bool, src_rows: u32) -> Option<(Exec, u32)> {
    use Type::*;
    let plain = !c.sat && !c.ftz && !c.relu && !c.satfinite;
    let rn = c.round == Some(Round::To(Direction::Rn));
    if !plain {
        return None;
    }
    if format(c.to).is_none() && format(c.from).is_none() {
        // From the source's bits to the destination's, then out to the register's: by the narrower of the two where the
        // destination is the narrower.
        let (n, m) = (c.from.bytes() as u32 * 8, c.to.bytes() as u32 * 8);
        let (keep, sign) = if m <= n {
            (m, signed(c.to))
        } else {
            // A negative source in a wider unsigned destination keeps its sign's bits up to there.
            (n, signed(c.from))
        };
        let cut = if m > n && !signed(c.to) && dst_rows * 32 > m {
            m
        } else {
            64
        };
        let cut = if dst_half { cut.min(16) } else { cut };
        let x = keep | u32::from(sign) << 8 | cut << 16;
        let exec = match (src_rows, dst_rows) {
            (2, 2) => versions!(d.cpu, int_64_64),
            (2, _) => versions!(d.cpu, int_64_32),
            (_, 2) => versions!(d.cpu, int_32_64),
            _ => versions!(d.cpu, int_32_32),
        };
        return Some((exec, x));
    }
    let narrow_rows = src_rows == 1 && dst_rows == 1;
    let exec = match (c.to, c.from, c.round) {
        (F32, S32, _) if rn && narrow_rows => lane32!(d, |a, b, c| (a as i32 as f32).to_bits()),
        (F32, U32, _) if rn && narrow_rows => lane32!(d, |a, b, c| (a as f32).to_bits()),
        (S32, F32, Some(Round::Rzi)) if narrow_rows => lane32!(d, |a, b, c| fl(a) as i32 as u32),
        (U32, F32, Some(Round::Rzi)) if narrow_rows => lane32!(d, |a, b, c| fl(a) as u32),
        (S32, F32, Some(Round::Rni)) if narrow_rows => {
            lane32!(d, |a, b, c| fl(a).round_ties_even() as i32 as u32)
        }
        (S32, F32, Some(Round::Rmi)) if narrow_rows => {
            lane32!(d, |a, b, c| fl(a).floor() as i32 as u32)
        }
        (S32, F32, Some(Round::Rpi)) if narrow_rows => {
            lane32!(d, |a, b, c| fl(a).ceil() as i32 as u32)
        }
        (F32, F32, Some(Round::Rni)) if narrow_rows => {
            lane32!(d, |a, b, c| canon(fl(a).round_ties_even()))
        }
        (F32, F32, Some(Round::Rmi)) if narrow_rows => lane32!(d, |a, b, c| canon(fl(a).floor())),
        (F32, F16, None) if narrow_rows => lane32!(d, |a, b, c| f16_to_f32(a & 0xFFFF)),
        (F32, Bf16, None) if narrow_rows => lane32!(d, |a, b, c| bf16_to_f32(a & 0xFFFF)),
        (F16, F32, _) if rn && narrow_rows => lane32!(d, |a, b, c| f32_to_f16(a)),
        (Bf16, F32, _) if rn && narrow_rows => lane32!(d, |a, b, c| f32_to_bf16(a)),
        (F64, F32, None) if src_rows == 1 => versions!(d.cpu, f32_f64),
        (F32, F64, _) if rn && dst_rows == 1 => versions!(d.cpu, f64_f32),
        _ => return None,
    };
    Some((exec, 0))
}

/// An integer's low `x & 255` bits, extended by sign or zero, cut at `x >> 16`.
#[inline(always)]
fn fit(v: u64, x: u32) -> u64 {
    let s = 64 - (x & 255);
    let v = if x >> 8 & 1 != 0 {
        ((v << s) as i64 >> s) as u64
    } else {
        v << s >> s
    };
    v & (u64::MAX >> (64 - (x >> 16)))
}

macro_rules! integers {
    ($($name:ident $get:ident $set:ident $out:ty;)*) => { $(
        #[inline(always)]
        unsafe fn $name(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
            // SAFETY: the rows were decoded for this kernel.
            unsafe {
                let a = cx.$get(i.a);
                let mut r = [0; 32];
                for l in 0..32 {
                    r[l] = fit(u64::from(a[l]), i.x) as $out;
                }
                cx.$set(i.d, &r, mask);
            }
            Flow::Next
        }
    )* };
}
integers! {
    int_32_32 get set u32;
    int_32_64 get set64 u64;
    int_64_32 get64 set u32;
    int_64_64 get64 set64 u64;
}

#[inline(always)]
unsafe fn f32_f64(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let a = cx.get(i.a);
        let mut r = [0; 32];
        for l in 0..32 {
            let v = f64::from(fl(a[l]));
            r[l] = if v.is_nan() { F64.nan() } else { v.to_bits() };
        }
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

#[inline(always)]
unsafe fn f64_f32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let a = cx.get64(i.a);
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = canon(f64::from_bits(a[l]) as f32);
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

/// An integer source, sign and all.
fn integer(ty: Type, v: u64) -> i128 {
    let s = 64 - 8 * ty.bytes() as u32;
    if signed(ty) {
        i128::from((v << s) as i64 >> s)
    } else {
        i128::from(v << s >> s)
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
        Round::Rmi => v.floor(),
        Round::Rpi => v.ceil(),
        _ => v.trunc(),
    }
}

/// A float source as f64, which holds it exactly.
fn real(f: Format, v: u64) -> f64 {
    f64::from_bits(soft::convert(f, F64, v, Direction::Rn))
}

fn convert(c: &Cvt, v: u64) -> u64 {
    let direction = match c.round {
        Some(Round::To(d)) => d,
        _ => Direction::Rn,
    };
    match (format(c.from), format(c.to)) {
        (None, None) => {
            let x = integer(c.from, v);
            let (lo, hi) = limits(c.to);
            (if c.sat { x.clamp(lo, hi) } else { x }) as u64
        }
        (Some(f), None) => {
            let v = if c.ftz && f == F32 { f.flush(v) } else { v };
            let (lo, hi) = limits(c.to);
            let x = real(f, v & mask(c.from));
            if x.is_nan() {
                // 0 from f32 and less to 32 bits and less; else the top bit alone (PTX ISA, cvt).
                return if c.to.bytes() == 8 || f == F64 {
                    1 << (c.to.bytes() * 8 - 1)
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
        (None, Some(t)) => finish(
            c,
            t,
            Number::integer(integer(c.from, v)).round(t, direction),
        ),
        (Some(f), Some(t)) => {
            let v = v & mask(c.from);
            let v = if c.ftz && f == F32 { f.flush(v) } else { v };
            let r = match c.round {
                Some(r @ (Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi)) if !f.is_nan(v) => {
                    let x = real(f, v);
                    let x = integral(x, r).copysign(x);
                    soft::convert(F64, t, x.to_bits(), Direction::Rn)
                }
                _ => soft::convert(f, t, v, direction),
            };
            finish(c, t, r)
        }
    }
}

fn mask(t: Type) -> u64 {
    u64::MAX >> (64 - 8 * t.bytes())
}

/// What qualifiers do to a result of format `t`.
fn finish(c: &Cvt, t: Format, r: u64) -> u64 {
    let r = if c.ftz && t == F32 { t.flush(r) } else { r };
    let sign = 1u64 << (t.exp + t.man);
    let magnitude = r & (sign - 1);
    if t.is_nan(r) {
        return if c.sat { 0 } else { t.nan() };
    }
    let one = ((1u64 << (t.exp - 1)) - 1) << t.man;
    let r = if c.satfinite && magnitude == t.infinity() {
        r - 1
    } else {
        r
    };
    match r & sign != 0 {
        true if c.sat || c.relu => 0,
        false if c.sat => r.min(one),
        _ => r,
    }
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
        if format(c.to).is_none() {
            let n = c.to.bytes() as u32 * 8;
            let x = n | u32::from(signed(c.to)) << 8 | 64 << 16;
            r = r.map(|v| fit(v, x));
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

/// What .relu makes of an f32: negative values, -0 among them, are zero.
fn cut_negative(relu: bool, v: f32) -> f32 {
    if relu && v.is_sign_negative() && !v.is_nan() {
        0.0
    } else {
        v
    }
}

unsafe fn narrow(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Narrow>(i.x);
        let a = cx.get(t.a);
        let encode = |v: u32| u32::from(t.fp8.encode(cut_negative(t.relu, fl(v))));
        let r: [u32; 32] = match t.b {
            Some(b) => {
                let b = cx.get(b);
                std::array::from_fn(|l| encode(a[l]) << 8 | encode(b[l]))
            }
            None => a.map(|v| encode(f16_to_f32(v >> 16)) << 8 | encode(f16_to_f32(v & 0xFFFF))),
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
        // Every value of these formats is one of f16.
        let one = |b: u32| f32_to_f16(cut_negative(t.relu, t.fp8.decode(b as u8)).to_bits());
        let r = a.map(|v| one(v & 255) | one(v >> 8 & 255) << 16);
        cx.set(t.dst, &r, mask);
    }
    Flow::Next
}

unsafe fn pair(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b) = (cx.get(i.a), cx.get(i.b));
        let on = |k: u32| i.x >> k & 1 != 0;
        let c = Cvt {
            to: if on(0) { Type::Bf16 } else { Type::F16 },
            from: Type::F32,
            round: Some(Round::To(if on(1) { Direction::Rz } else { Direction::Rn })),
            ftz: false,
            sat: false,
            relu: on(2),
            satfinite: on(3),
            dst: 0,
            dst_rows: 1,
            dst_half: false,
            src: 0,
            src_rows: 1,
        };
        let r = std::array::from_fn(|l| {
            (convert(&c, a[l].into()) << 16 | convert(&c, b[l].into())) as u32
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn tf32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let r = cx.get(i.a).map(|v| {
            let magnitude = v & 0x7FFF_FFFF;
            if magnitude > 0x7F80_0000 {
                return 0x7FFF_FFFF;
            }
            let r = match i.x & 3 {
                _ if magnitude == 0x7F80_0000 => v,
                0 => v.wrapping_add(0x1000),
                1 => v.wrapping_add(0xFFF + (v >> 13 & 1)),
                _ => v,
            } & !0x1FFF;
            let r = if i.x & 8 != 0 && r & 0x7FFF_FFFF == 0x7F80_0000 {
                r - 0x2000
            } else {
                r
            };
            if i.x & 4 != 0 && r >> 31 != 0 { 0 } else { r }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}
