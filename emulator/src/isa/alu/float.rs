//! Arithmetic of f32 and f64.
//!
//! Results that are NaN are the canonical one (f32 0x7FFFFFFF; f64 keeps the host's quiet NaN pattern of PTX,
//! 0x7FF8000000000000). Approximate functions give the correctly rounded value of the host's library, which lies inside
//! their documented bounds.

use super::lane32;
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
    Rsqrt,
    Min { nan: bool, xorsign: bool },
    Max { nan: bool, xorsign: bool },
    Abs,
    Neg,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    CopySign,
}

struct Spec {
    op: Op,
    round: Round,
    ftz: bool,
    sat: bool,
}

#[inline(always)]
fn canon(v: f32) -> u32 {
    if v.is_nan() { NAN } else { v.to_bits() }
}

#[inline(always)]
fn flush(v: u32) -> u32 {
    if v & 0x7F80_0000 == 0 {
        v & 0x8000_0000
    } else {
        v
    }
}

#[inline(always)]
fn fl(v: u32) -> f32 {
    f32::from_bits(v)
}

/// `hi + lo` (exactly) rounded to f32.
pub fn round_f32(hi: f64, lo: f64, round: Round) -> f32 {
    let r = hi as f32;
    if hi.is_nan() || hi.is_infinite() {
        return r;
    }
    let err = if r.is_infinite() {
        if r > 0.0 { -1.0 } else { 1.0 }
    } else {
        (hi - f64::from(r)) + lo
    };
    match round {
        Round::Rn => r,
        Round::Rz if r > 0.0 && err < 0.0 => r.next_down(),
        Round::Rz if r < 0.0 && err > 0.0 => r.next_up(),
        Round::Rz if r == 0.0 => 0f32.copysign(hi as f32),
        Round::Rm if err < 0.0 => r.next_down(),
        Round::Rp if err > 0.0 => r.next_up(),
        _ => r,
    }
}

/// The exact sum of two f64 as a rounded part and an error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// a b + c, rounded once.
fn fma_round(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if round == Round::Rn {
        return a.mul_add(b, c);
    }
    let p = f64::from(a) * f64::from(b);
    let (s, e) = two_sum(p, f64::from(c));
    if s == 0.0 {
        // Exact zero from operands of opposite sign is -0 only toward minus infinity.
        let both = p.is_sign_negative() && c.is_sign_negative();
        let zeros = p == 0.0 && c == 0.0 && p.is_sign_negative() == c.is_sign_negative();
        return if both || (!zeros && round == Round::Rm) {
            -0.0
        } else {
            0.0
        };
    }
    round_f32(s, if s.is_finite() { e } else { 0.0 }, round)
}

fn apply(s: &Spec, a: u32, b: u32, c: u32) -> u32 {
    let (a, b, c) = if s.ftz {
        (flush(a), flush(b), flush(c))
    } else {
        (a, b, c)
    };
    let (x, y, z) = (fl(a), fl(b), fl(c));
    let r = match s.op {
        Op::Add => canon(if s.round == Round::Rn {
            x + y
        } else {
            fma_round(x, 1.0, y, s.round)
        }),
        Op::Sub => canon(if s.round == Round::Rn {
            x - y
        } else {
            fma_round(x, 1.0, -y, s.round)
        }),
        Op::Mul => canon(if s.round == Round::Rn {
            x * y
        } else {
            round_f32(f64::from(x) * f64::from(y), 0.0, s.round)
        }),
        Op::Fma => canon(fma_round(x, y, z, s.round)),
        Op::Div => canon(directed(x / y, s.round, |r| {
            // The sign of x - r y, exact through one fused step, times the sign of y.
            let e = f64::from(x) - f64::from(r) * f64::from(y);
            e * f64::from(y).signum()
        })),
        Op::Rcp => canon(directed(1.0 / x, s.round, |r| {
            (1.0 - f64::from(r) * f64::from(x)) * f64::from(x).signum()
        })),
        Op::Sqrt => canon(directed(x.sqrt(), s.round, |r| {
            f64::from(x) - f64::from(r) * f64::from(r)
        })),
        Op::Rsqrt => canon((1.0 / f64::from(x).sqrt()) as f32),
        Op::Min { nan, xorsign } => min_max(a, b, nan, xorsign, true),
        Op::Max { nan, xorsign } => min_max(a, b, nan, xorsign, false),
        Op::Abs => a & 0x7FFF_FFFF,
        Op::Neg => a ^ 0x8000_0000,
        Op::Ex2 => canon(f64::from(x).exp2() as f32),
        Op::Lg2 => canon(f64::from(x).log2() as f32),
        Op::Sin => canon(f64::from(x).sin() as f32),
        Op::Cos => canon(f64::from(x).cos() as f32),
        Op::Tanh => canon(f64::from(x).tanh() as f32),
        Op::CopySign => (a & 0x8000_0000) | (b & 0x7FFF_FFFF),
    };
    let r = if s.ftz { flush(r) } else { r };
    if s.sat { saturate(r) } else { r }
}

/// A quotient or root that is rounded to nearest, moved where another rounding asks; `err` has the sign of exact - r.
fn directed(r: f32, round: Round, err: impl Fn(f32) -> f64) -> f32 {
    if round == Round::Rn || r.is_nan() || r.is_infinite() {
        return r;
    }
    let e = err(r);
    match round {
        Round::Rz if r > 0.0 && e < 0.0 => r.next_down(),
        Round::Rz if r < 0.0 && e > 0.0 => r.next_up(),
        Round::Rm if e < 0.0 => r.next_down(),
        Round::Rp if e > 0.0 => r.next_up(),
        _ => r,
    }
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
    match i.opcode.last().map(String::as_str) {
        Some("f32") => {}
        Some("f64") => return double(d, i, m),
        _ => return Ok(None),
    }
    let name = m.mnemonic();
    if !matches!(
        name,
        "add"
            | "sub"
            | "mul"
            | "fma"
            | "mad"
            | "div"
            | "rcp"
            | "sqrt"
            | "rsqrt"
            | "min"
            | "max"
            | "abs"
            | "neg"
            | "ex2"
            | "lg2"
            | "sin"
            | "cos"
            | "tanh"
            | "copysign"
    ) {
        return Ok(None);
    }
    let rounding = m.one_of(&["rn", "rz", "rm", "rp", "approx", "full"]);
    let ftz = m.take("ftz");
    let nan = matches!(name, "min" | "max") && m.take("NaN");
    let xorsign = matches!(name, "min" | "max") && m.take("xorsign");
    if xorsign {
        m.expect("abs")?;
    }
    let sat = matches!(name, "add" | "sub" | "mul" | "fma" | "mad") && m.take("sat");
    m.expect("f32")?;
    m.finish()?;
    let approx = matches!(rounding, Some("approx" | "full"));
    let (op, n, kind) = match name {
        // kind: 0 rounding optional, 1 rounding required, 2 .approx required, 3 none allowed, 4 rounding or .approx (or .full)
        "add" => (Op::Add, 2, 0),
        "sub" => (Op::Sub, 2, 0),
        "mul" => (Op::Mul, 2, 0),
        "fma" | "mad" => (Op::Fma, 3, 1),
        "div" => (Op::Div, 2, 4),
        "rcp" => (Op::Rcp, 1, 4),
        "sqrt" => (Op::Sqrt, 1, 4),
        "rsqrt" => (Op::Rsqrt, 1, 2),
        "min" => (Op::Min { nan, xorsign }, 2, 3),
        "max" => (Op::Max { nan, xorsign }, 2, 3),
        "abs" => (Op::Abs, 1, 3),
        "neg" => (Op::Neg, 1, 3),
        "ex2" => (Op::Ex2, 1, 2),
        "lg2" => (Op::Lg2, 1, 2),
        "sin" => (Op::Sin, 1, 2),
        "cos" => (Op::Cos, 1, 2),
        "tanh" => (Op::Tanh, 1, 2),
        _ => (Op::CopySign, 2, 3),
    };
    let legal = match kind {
        0 => !approx,
        1 => rounding.is_some() && !approx,
        2 => rounding == Some("approx"),
        3 => rounding.is_none(),
        _ => rounding.is_some() && (rounding != Some("full") || name == "div"),
    };
    if !legal {
        return Err(m.error("this rounding is not legal here, or one is missing"));
    }
    let round = match rounding {
        Some("rz") => Round::Rz,
        Some("rm") => Round::Rm,
        Some("rp") => Round::Rp,
        _ => Round::Rn,
    };
    d.arity(i, n + 1)?;
    let a = d.src(i, 1, Type::F32)?;
    let b = if n > 1 { d.src(i, 2, Type::F32)? } else { a };
    let c = if n > 2 { d.src(i, 3, Type::F32)? } else { a };
    let dst = d.dst(i, 0, Type::F32)?;
    let fast: Option<Exec> = if round != Round::Rn || sat {
        None
    } else {
        match (op, ftz) {
            (Op::Add, false) => Some(lane32!(d, |a, b, c| canon(fl(a) + fl(b)))),
            (Op::Sub, false) => Some(lane32!(d, |a, b, c| canon(fl(a) - fl(b)))),
            (Op::Mul, false) => Some(lane32!(d, |a, b, c| canon(fl(a) * fl(b)))),
            (Op::Fma, false) => Some(lane32!(d, |a, b, c| canon(fl(a).mul_add(fl(b), fl(c))))),
            (Op::Add, true) => Some(lane32!(d, |a, b, c| flush(canon(
                fl(flush(a)) + fl(flush(b))
            )))),
            (Op::Sub, true) => Some(lane32!(d, |a, b, c| flush(canon(
                fl(flush(a)) - fl(flush(b))
            )))),
            (Op::Mul, true) => Some(lane32!(d, |a, b, c| flush(canon(
                fl(flush(a)) * fl(flush(b))
            )))),
            (Op::Fma, true) => Some(lane32!(d, |a, b, c| flush(canon(
                fl(flush(a)).mul_add(fl(flush(b)), fl(flush(c)))
            )))),
            (Op::Div, false) => Some(lane32!(d, |a, b, c| canon(fl(a) / fl(b)))),
            (
                Op::Min {
                    nan: false,
                    xorsign: false,
                },
                false,
            ) => Some(lane32!(d, |a, b, c| min_max(a, b, false, false, true))),
            (
                Op::Max {
                    nan: false,
                    xorsign: false,
                },
                false,
            ) => Some(lane32!(d, |a, b, c| min_max(a, b, false, false, false))),
            (Op::Abs, false) => Some(lane32!(d, |a, b, c| a & 0x7FFF_FFFF)),
            (Op::Neg, false) => Some(lane32!(d, |a, b, c| a ^ 0x8000_0000)),
            _ => None,
        }
    };
    if let Some(exec) = fast {
        return Ok(Some(Inst {
            d: dst,
            a,
            b,
            c,
            ..d.inst(exec)
        }));
    }
    let x = d.push_aux(Box::new(Spec {
        op,
        round,
        ftz,
        sat,
    }));
    Ok(Some(Inst {
        d: dst,
        a,
        b,
        c,
        x,
        ..d.inst(general)
    }))
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

fn double(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Option<Inst>> {
    let (op, n) = match m.mnemonic() {
        "add" => (Op::Add, 2),
        "sub" => (Op::Sub, 2),
        "mul" => (Op::Mul, 2),
        "fma" | "mad" => (Op::Fma, 3),
        "div" => (Op::Div, 2),
        "rcp" => (Op::Rcp, 1),
        "sqrt" => (Op::Sqrt, 1),
        "min" => (
            Op::Min {
                nan: false,
                xorsign: false,
            },
            2,
        ),
        "max" => (
            Op::Max {
                nan: false,
                xorsign: false,
            },
            2,
        ),
        "abs" => (Op::Abs, 1),
        "neg" => (Op::Neg, 1),
        _ => return Ok(None),
    };
    if m.take("rn") && matches!(op, Op::Abs | Op::Neg | Op::Min { .. } | Op::Max { .. }) {
        return Err(m.error("takes no rounding"));
    }
    m.expect("f64")?;
    m.finish()?;
    d.arity(i, n + 1)?;
    let a = d.src(i, 1, Type::F64)?;
    let b = if n > 1 { d.src(i, 2, Type::F64)? } else { a };
    let c = if n > 2 { d.src(i, 3, Type::F64)? } else { a };
    let x = d.push_aux(Box::new(op));
    Ok(Some(Inst {
        d: d.dst(i, 0, Type::F64)?,
        a,
        b,
        c,
        x,
        ..d.inst(f64_op)
    }))
}

unsafe fn f64_op(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let op = *cx.aux::<Op>(i.x);
        let (a, b, c) = (cx.get64(i.a), cx.get64(i.b), cx.get64(i.c));
        let r = std::array::from_fn(|l| {
            let (x, y, z) = (
                f64::from_bits(a[l]),
                f64::from_bits(b[l]),
                f64::from_bits(c[l]),
            );
            let v = match op {
                Op::Add => x + y,
                Op::Sub => x - y,
                Op::Mul => x * y,
                Op::Fma => x.mul_add(y, z),
                Op::Div => x / y,
                Op::Rcp => 1.0 / x,
                Op::Sqrt => x.sqrt(),
                Op::Min { .. } if x == y => return a[l] | b[l] & (1 << 63),
                Op::Max { .. } if x == y => return a[l] & (b[l] | !(1 << 63)),
                Op::Min { .. } => x.min(y),
                Op::Max { .. } => x.max(y),
                Op::Abs => return a[l] & !(1 << 63),
                _ => return a[l] ^ 1 << 63,
            };
            if v.is_nan() {
                0x7FF8_0000_0000_0000
            } else {
                v.to_bits()
            }
        });
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
