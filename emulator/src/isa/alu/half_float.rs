//! Arithmetic of f16, bf16 and their pairs: computed exactly enough in f64 and rounded once.

use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast::{self, Type};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    Abs,
    Neg,
    Ex2,
    Tanh,
}

struct Spec {
    op: Op,
    bf: bool,
    pair: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    nan: bool,
}

/// f16 or bf16 to f64.
fn widen(bf: bool, v: u16) -> f64 {
    if bf {
        half::bf16::from_bits(v).to_f64()
    } else {
        half::f16::from_bits(v).to_f64()
    }
}

/// f64 to bf16, one rounding to nearest even (`half` would go through f32).
fn bf16_from_f64(v: f64) -> u16 {
    // Round to odd to f32 first: then the second rounding cannot err.
    let r = v as f32;
    let bits = if f64::from(r) == v || !r.is_finite() {
        r.to_bits()
    } else {
        let down = if f64::from(r).abs() > v.abs() {
            r.to_bits() - 1
        } else {
            r.to_bits()
        };
        down | 1
    };
    half::bf16::from_f32(f32::from_bits(bits)).to_bits()
}

fn narrow(bf: bool, v: f64) -> u16 {
    if v.is_nan() {
        return 0x7FFF;
    }
    if bf {
        bf16_from_f64(v)
    } else {
        half::f16::from_f64(v).to_bits()
    }
}

fn subnormal(bf: bool, v: u16) -> bool {
    let mask = if bf { 0x7F80 } else { 0x7C00 };
    v & mask == 0
}

fn apply(s: &Spec, a: u16, b: u16, c: u16) -> u16 {
    let fl = |v: u16| {
        if s.ftz && subnormal(s.bf, v) {
            v & 0x8000
        } else {
            v
        }
    };
    let (a, b, c) = (fl(a), fl(b), fl(c));
    let (x, y, z) = (widen(s.bf, a), widen(s.bf, b), widen(s.bf, c));
    let r = match s.op {
        Op::Abs => a & 0x7FFF,
        Op::Neg => a ^ 0x8000,
        Op::Min | Op::Max => {
            let min = s.op == Op::Min;
            if x.is_nan() || y.is_nan() {
                match (x.is_nan(), y.is_nan()) {
                    _ if s.nan => 0x7FFF,
                    (true, true) => 0x7FFF,
                    (true, false) => b,
                    _ => a,
                }
            } else {
                let key = |v: u16| if v >> 15 != 0 { !v } else { v | 0x8000 };
                if (key(a) < key(b)) == min { a } else { b }
            }
        }
        // Sums and products of these types are exact in f64 but for sums of far exponents, where the fused step rounds to
        // f64 first: the error lies below half a unit of the narrow type's last place but for exact ties, which two far
        // exponents cannot make.
        Op::Add => narrow(s.bf, x + y),
        Op::Sub => narrow(s.bf, x - y),
        Op::Mul => narrow(s.bf, x * y),
        Op::Fma => narrow(s.bf, fma_odd(x * y, z)),
        Op::Ex2 => narrow(s.bf, x.exp2()),
        Op::Tanh => narrow(s.bf, x.tanh()),
    };
    let r = fl(r);
    let v = widen(s.bf, r);
    let r = if s.sat {
        if v.is_nan() || v <= 0.0 {
            0
        } else if v > 1.0 {
            narrow(s.bf, 1.0)
        } else {
            r
        }
    } else {
        r
    };
    if s.relu && !v.is_nan() && r >> 15 != 0 {
        0
    } else {
        r
    }
}

/// a + c rounded to odd, so that rounding again is rounding once.
fn fma_odd(a: f64, c: f64) -> f64 {
    let s = a + c;
    let t = s - a;
    let e = (a - (s - t)) + (c - t);
    if e == 0.0 || !s.is_finite() || s.to_bits() & 1 != 0 {
        return s;
    }
    // Toward the error, whose neighbour has an odd last bit.
    if (e > 0.0) == (s > 0.0) {
        f64::from_bits(s.to_bits() + 1)
    } else {
        f64::from_bits(s.to_bits() - 1)
    }
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let (ty, bf, pair) = match i.opcode.last().map(String::as_str) {
        Some("f16") => (Type::F16, false, false),
        Some("f16x2") => (Type::F16x2, false, true),
        Some("bf16") => (Type::Bf16, true, false),
        Some("bf16x2") => (Type::Bf16x2, true, true),
        _ => return Ok(None),
    };
    let (op, n) = match m.mnemonic() {
        "add" => (Op::Add, 2),
        "sub" => (Op::Sub, 2),
        "mul" => (Op::Mul, 2),
        "fma" => (Op::Fma, 3),
        "min" => (Op::Min, 2),
        "max" => (Op::Max, 2),
        "abs" => (Op::Abs, 1),
        "neg" => (Op::Neg, 1),
        "ex2" => (Op::Ex2, 1),
        "tanh" => (Op::Tanh, 1),
        _ => return Ok(None),
    };
    if matches!(op, Op::Ex2 | Op::Tanh) {
        m.expect("approx")?;
    } else if !m.take("rn") && op == Op::Fma {
        return Err(m.error("a rounding is missing"));
    }
    let ftz = m.take("ftz");
    let nan = matches!(op, Op::Min | Op::Max) && m.take("NaN");
    let sat = matches!(op, Op::Add | Op::Sub | Op::Mul | Op::Fma) && m.take("sat");
    let relu = op == Op::Fma && m.take("relu");
    m.ty()?;
    m.finish()?;
    d.arity(i, n + 1)?;
    // Registers of these types are declared .b16/.b32 as a rule; .f16x2 operands come as .b32.
    let a = d.src(i, 1, ty)?;
    let b = if n > 1 { d.src(i, 2, ty)? } else { a };
    let c = if n > 2 { d.src(i, 3, ty)? } else { a };
    let x = d.push_aux(Box::new(Spec {
        op,
        bf,
        pair,
        ftz,
        sat,
        relu,
        nan,
    }));
    Ok(Some(Inst {
        d: d.dst(i, 0, ty)?,
        a,
        b,
        c,
        x,
        ..d.inst(exec)
    }))
}

unsafe fn exec(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let s = cx.aux::<Spec>(i.x);
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let r = std::array::from_fn(|l| {
            let lo = u32::from(apply(s, a[l] as u16, b[l] as u16, c[l] as u16));
            if s.pair {
                lo | u32::from(apply(
                    s,
                    (a[l] >> 16) as u16,
                    (b[l] >> 16) as u16,
                    (c[l] >> 16) as u16,
                )) << 16
            } else {
                lo
            }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}
