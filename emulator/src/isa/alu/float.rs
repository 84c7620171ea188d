//! Arithmetic of f32 and f64, correctly rounded.
//!
//! Results that are NaN are the canonical one (f32 0x7FFFFFFF; f64 the quiet NaN 0x7FF8000000000000). Rounding to nearest is
//! the host's; other roundings are [`super::soft`]'s.

use super::lane32;
use super::soft::{self, F32, F64};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Exec, Flow, Inst};
use crate::ptx::ast::{self, Type};

/// The canonical NaN.
pub const NAN: u32 = 0x7FFF_FFFF;

/// Rounding of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Round {
    Rn,
    Rz,
    Rm,
    Rp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
    Min { nan: bool, xorsign: bool },
    Max { nan: bool, xorsign: bool },
    Abs,
    Neg,
    CopySign,
}

struct Spec {
    op: Op,
    round: Round,
    ftz: bool,
    sat: bool,
}

#[inline(always)]
pub(super) fn canon(v: f32) -> u32 {
    if v.is_nan() { NAN } else { v.to_bits() }
}

#[inline(always)]
pub(super) fn flush(v: u32) -> u32 {
    if v & 0x7F80_0000 == 0 {
        v & 0x8000_0000
    } else {
        v
    }
}

#[inline(always)]
pub(super) fn fl(v: u32) -> f32 {
    f32::from_bits(v)
}

/// An operation that is not rounded to nearest.
fn directed(f: soft::Format, op: Op, r: Round, a: u64, b: u64, c: u64) -> u64 {
    let one = ((1u64 << (f.exp - 1)) - 1) << f.man;
    match op {
        Op::Add => soft::add(f, a, b, r),
        Op::Sub => soft::add(f, a, b ^ 1 << (f.exp + f.man), r),
        Op::Mul => soft::mul(f, a, b, r),
        Op::Div => soft::div(f, a, b, r),
        Op::Rcp => soft::div(f, one, a, r),
        Op::Sqrt => soft::sqrt(f, a, r),
        _ => soft::fma(f, a, b, c, r),
    }
}

fn apply(s: &Spec, a: u32, b: u32, c: u32) -> u32 {
    let (a, b, c) = if s.ftz {
        (flush(a), flush(b), flush(c))
    } else {
        (a, b, c)
    };
    let (x, y, z) = (fl(a), fl(b), fl(c));
    let r = match s.op {
        Op::Min { nan, xorsign } => min_max(a, b, nan, xorsign, true),
        Op::Max { nan, xorsign } => min_max(a, b, nan, xorsign, false),
        Op::Abs => a & 0x7FFF_FFFF,
        Op::Neg => a ^ 0x8000_0000,
        Op::CopySign => (a & 0x8000_0000) | (b & 0x7FFF_FFFF),
        op if s.round != Round::Rn => {
            directed(F32, op, s.round, a.into(), b.into(), c.into()) as u32
        }
        Op::Add => canon(x + y),
        Op::Sub => canon(x - y),
        Op::Mul => canon(x * y),
        Op::Fma => canon(x.mul_add(y, z)),
        Op::Div => canon(x / y),
        Op::Rcp => canon(1.0 / x),
        Op::Sqrt => canon(x.sqrt()),
    };
    let r = if s.ftz { flush(r) } else { r };
    if s.sat { saturate(r) } else { r }
}

#[inline(always)]
fn saturate(v: u32) -> u32 {
    let x = fl(v);
    if x.is_nan() {
        0
    } else {
        x.clamp(0.0, 1.0).max(0.0).to_bits() & 0x7FFF_FFFF
    }
}

#[inline(always)]
fn min_max(a: u32, b: u32, nan: bool, xorsign: bool, min: bool) -> u32 {
    let sign = (a ^ b) & 0x8000_0000;
    let (a, b) = if xorsign {
        (a & 0x7FFF_FFFF, b & 0x7FFF_FFFF)
    } else {
        (a, b)
    };
    let (x, y) = (fl(a), fl(b));
    let r = if x.is_nan() || y.is_nan() {
        match (x.is_nan(), y.is_nan()) {
            _ if nan => NAN,
            (true, true) => NAN,
            (true, false) => b,
            _ => a,
        }
    } else {
        // As sign-magnitude integers, so that -0 is below +0.
        let key = |v: u32| if v >> 31 != 0 { !v } else { v | 0x8000_0000 };
        if (key(a) < key(b)) == min { a } else { b }
    };
    if xorsign && r != NAN {
        (r & 0x7FFF_FFFF) | sign
    } else {
        r
    }
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let ty = match i.opcode.last().map(String::as_str) {
        Some("f32") => Type::F32,
        Some("f64") => Type::F64,
        _ => return Ok(None),
    };
    let name = m.mnemonic();
    if i.opcode.iter().any(|p| p == "approx" || p == "full") {
        return Ok(None);
    }
    let round = match m.one_of(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Round::Rz,
        Some("rm") => Round::Rm,
        Some("rp") => Round::Rp,
        _ => Round::Rn,
    };
    let ftz = m.take("ftz");
    let nan = m.take("NaN");
    let xorsign = m.take("xorsign");
    if xorsign {
        m.expect("abs")?;
    }
    let sat = m.take("sat");
    let (op, n) = match name {
        "add" => (Op::Add, 2),
        "sub" => (Op::Sub, 2),
        "mul" => (Op::Mul, 2),
        "fma" | "mad" => (Op::Fma, 3),
        "div" => (Op::Div, 2),
        "rcp" => (Op::Rcp, 1),
        "sqrt" => (Op::Sqrt, 1),
        "min" => (Op::Min { nan, xorsign }, 2),
        "max" => (Op::Max { nan, xorsign }, 2),
        "abs" => (Op::Abs, 1),
        "neg" => (Op::Neg, 1),
        "copysign" => (Op::CopySign, 2),
        _ => return Ok(None),
    };
    m.ty()?;
    m.finish()?;
    d.arity(i, n + 1)?;
    let a = d.src(i, 1, ty)?;
    let b = if n > 1 { d.src(i, 2, ty)? } else { a };
    let c = if n > 2 { d.src(i, 3, ty)? } else { a };
    let dst = d.dst(i, 0, ty)?;
    let plain = Inst {
        d: dst,
        a,
        b,
        c,
        ..d.inst(general)
    };
    let fast = if ty == Type::F32 && round == Round::Rn && !sat {
        fast(d, op, ftz)
    } else {
        None
    };
    if let Some(exec) = fast {
        return Ok(Some(Inst { exec, ..plain }));
    }
    let x = d.push_aux(Box::new(Spec {
        op,
        round,
        ftz,
        sat,
    }));
    let exec: Exec = if ty == Type::F64 { double } else { general };
    Ok(Some(Inst { exec, x, ..plain }))
}

/// The common forms of f32 as vector code.
fn fast(d: &Decoder, op: Op, ftz: bool) -> Option<Exec> {
    let (min, max) = (
        Op::Min {
            nan: false,
            xorsign: false,
        },
        Op::Max {
            nan: false,
            xorsign: false,
        },
    );
    Some(match (op, ftz) {
        (Op::Add, false) => lane32!(d, |a, b, c| canon(fl(a) + fl(b))),
        (Op::Sub, false) => lane32!(d, |a, b, c| canon(fl(a) - fl(b))),
        (Op::Mul, false) => lane32!(d, |a, b, c| canon(fl(a) * fl(b))),
        (Op::Fma, false) => lane32!(d, |a, b, c| canon(fl(a).mul_add(fl(b), fl(c)))),
        (Op::Add, true) => lane32!(d, |a, b, c| flush(canon(fl(flush(a)) + fl(flush(b))))),
        (Op::Sub, true) => lane32!(d, |a, b, c| flush(canon(fl(flush(a)) - fl(flush(b))))),
        (Op::Mul, true) => lane32!(d, |a, b, c| flush(canon(fl(flush(a)) * fl(flush(b))))),
        (Op::Fma, true) => lane32!(d, |a, b, c| flush(canon(
            fl(flush(a)).mul_add(fl(flush(b)), fl(flush(c)))
        ))),
        (Op::Div, false) => lane32!(d, |a, b, c| canon(fl(a) / fl(b))),
        (Op::Rcp, false) => lane32!(d, |a, b, c| canon(1.0 / fl(a))),
        (Op::Sqrt, false) => lane32!(d, |a, b, c| canon(fl(a).sqrt())),
        (op, false) if op == min => lane32!(d, |a, b, c| min_max(a, b, false, false, true)),
        (op, false) if op == max => lane32!(d, |a, b, c| min_max(a, b, false, false, false)),
        (op, true) if op == min => {
            lane32!(d, |a, b, c| min_max(flush(a), flush(b), false, false, true))
        }
        (op, true) if op == max => {
            lane32!(d, |a, b, c| min_max(
                flush(a),
                flush(b),
                false,
                false,
                false
            ))
        }
        (Op::Abs, false) => lane32!(d, |a, b, c| a & 0x7FFF_FFFF),
        (Op::Neg, false) => lane32!(d, |a, b, c| a ^ 0x8000_0000),
        _ => return None,
    })
}

unsafe fn general(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let s = cx.aux::<Spec>(i.x);
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let r = std::array::from_fn(|l| {
            if mask >> l & 1 != 0 {
                apply(s, a[l], b[l], c[l])
            } else {
                0
            }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

fn apply64(s: &Spec, a: u64, b: u64, c: u64) -> u64 {
    const SIGN: u64 = 1 << 63;
    let (a, b, c) = if s.ftz {
        (F64.flush(a), F64.flush(b), F64.flush(c))
    } else {
        (a, b, c)
    };
    let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
    let v = match s.op {
        Op::Min { .. } if x == y => return a | b & SIGN,
        Op::Max { .. } if x == y => return a & (b | !SIGN),
        Op::Min { .. } => x.min(y),
        Op::Max { .. } => x.max(y),
        Op::Abs => return a & !SIGN,
        Op::Neg => return a ^ SIGN,
        Op::CopySign => return a & SIGN | b & !SIGN,
        op if s.round != Round::Rn => {
            let r = directed(F64, op, s.round, a, b, c);
            return if s.ftz { F64.flush(r) } else { r };
        }
        Op::Add => x + y,
        Op::Sub => x - y,
        Op::Mul => x * y,
        Op::Fma => x.mul_add(y, z),
        Op::Div => x / y,
        Op::Rcp => 1.0 / x,
        Op::Sqrt => x.sqrt(),
    };
    let r = if v.is_nan() { F64.nan() } else { v.to_bits() };
    if s.ftz { F64.flush(r) } else { r }
}

unsafe fn double(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let s = cx.aux::<Spec>(i.x);
        let (a, b, c) = (cx.get64(i.a), cx.get64(i.b), cx.get64(i.c));
        let r = std::array::from_fn(|l| apply64(s, a[l], b[l], c[l]));
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_roundings_bracket_the_exact_value() {
        let third = |r| {
            apply(
                &Spec {
                    op: Op::Div,
                    round: r,
                    ftz: false,
                    sat: false,
                },
                1f32.to_bits(),
                3f32.to_bits(),
                0,
            )
        };
        assert_eq!(third(Round::Rn), 0x3EAA_AAAB);
        assert_eq!(third(Round::Rz), 0x3EAA_AAAA);
        assert_eq!(third(Round::Rm), 0x3EAA_AAAA);
        assert_eq!(third(Round::Rp), 0x3EAA_AAAB);
        let add = |a: f32, b: f32, r| {
            fl(apply(
                &Spec {
                    op: Op::Add,
                    round: r,
                    ftz: false,
                    sat: false,
                },
                a.to_bits(),
                b.to_bits(),
                0,
            ))
        };
        assert_eq!(add(1.0, 1e-30, Round::Rp), 1f32.next_up());
        assert_eq!(add(1.0, 1e-30, Round::Rz), 1.0);
        assert_eq!(add(1.0, -1e-30, Round::Rz), 1f32.next_down());
        assert_eq!(add(-1.0, -1e-30, Round::Rm), (-1f32).next_down());
        assert!(add(1.0, -1.0, Round::Rm).is_sign_negative());
        assert!(add(1.0, -1.0, Round::Rp).is_sign_positive());
    }

    #[test]
    fn minimum_and_maximum() {
        assert_eq!(min_max(0x8000_0000, 0, false, false, true), 0x8000_0000);
        assert_eq!(min_max(0x8000_0000, 0, false, false, false), 0);
        assert_eq!(min_max(NAN, 0x3F80_0000, false, false, true), 0x3F80_0000);
        assert_eq!(min_max(NAN, 0x3F80_0000, true, false, true), NAN);
        assert_eq!(saturate((-0.5f32).to_bits()), 0);
        assert_eq!(saturate(2f32.to_bits()), 1f32.to_bits());
        assert_eq!(saturate(NAN), 0);
    }
}
