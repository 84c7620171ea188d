//! Arithmetic of f16, bf16 and their pairs: computed exactly enough and rounded once.

use super::Round;
use super::approx;
use super::soft::{self, BF16, F16, Format};
use super::vector::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::lanes::versions;
use crate::machine::exec::Cx;
use crate::machine::inst::{Exec, Flow, Inst};
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
    format: Format,
    round: Round,
    pair: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    nan: bool,
    xorsign: bool,
}

/// The sum of two f16 or bf16, rounded to nearest even.
pub fn sum(bf: bool, a: u16, b: u16) -> u16 {
    let f = if bf { BF16 } else { F16 };
    soft::add(f, a.into(), b.into(), Round::Rn) as u16
}

fn apply(s: &Spec, a: u16, b: u16, c: u16, seed: Option<u64>) -> u16 {
    let f = s.format;
    let fl = |v: u16| if s.ftz { f.flush(v.into()) as u16 } else { v };
    let (a, b, c) = (fl(a), fl(b), fl(c));
    let [x, y, z] = [a, b, c].map(u64::from);
    let real = |v: u16| {
        if f == BF16 {
            half::bf16::from_bits(v).to_f64()
        } else {
            half::f16::from_bits(v).to_f64()
        }
    };
    let chance = seed.map(|k| approx::hash(k ^ (s.op as u64) << 40, x));
    let r = match s.op {
        Op::Abs => a & 0x7FFF,
        Op::Neg => a ^ 0x8000,
        Op::Min | Op::Max => min_max(s, a, b),
        Op::Add => soft::add(f, x, y, s.round) as u16,
        Op::Sub => soft::add(f, x, y ^ 0x8000, s.round) as u16,
        Op::Mul => soft::mul(f, x, y, s.round) as u16,
        Op::Fma => soft::fma(f, x, y, z, s.round) as u16,
        Op::Ex2 => approx::narrow(f, real(a).exp2(), chance) as u16,
        Op::Tanh => approx::narrow(f, real(a).tanh(), chance) as u16,
    };
    let r = fl(r);
    let nan = f.is_nan(r.into());
    let one = (((1u64 << (f.exp - 1)) - 1) << f.man) as u16;
    let r = match r {
        r if s.sat && (nan || r >> 15 != 0) => 0,
        r if s.sat => r.min(one),
        r => r,
    };
    if s.relu && !nan && r >> 15 != 0 { 0 } else { r }
}

fn min_max(s: &Spec, a: u16, b: u16) -> u16 {
    let nan = |v: u16| s.format.is_nan(v.into());
    let sign = (a ^ b) & 0x8000;
    let (x, y) = if s.xorsign {
        (a & 0x7FFF, b & 0x7FFF)
    } else {
        (a, b)
    };
    let r = match (nan(x), nan(y)) {
        (true, true) => return 0x7FFF,
        (true, false) | (false, true) if s.nan => return 0x7FFF,
        (true, false) => y,
        (false, true) => x,
        _ => {
            // As sign-magnitude integers, so that -0 is below +0.
            let key = |v: u16| if v >> 15 != 0 { !v } else { v | 0x8000 };
            if (key(x) < key(y)) == (s.op == Op::Min) {
                x
            } else {
                y
            }
        }
    };
    if s.xorsign { r & 0x7FFF | sign } else { r }
}

/// A rounded operation on the low 16 bits of each operand.
trait Lane {
    fn f(a: u32, b: u32, c: u32) -> u32;
}

/// Sum, difference, product: f32 has more than twice the bits and two, so that rounding twice is rounding once; products
/// are exact but where bf16 has nothing left either.
macro_rules! through_f32 {
    ($($name:ident $up:ident $down:ident |$a:ident, $b:ident| $e:expr;)*) => { $(
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn f($a: u32, $b: u32, _: u32) -> u32 {
                let ($a, $b) = (f32::from_bits($up($a)), f32::from_bits($up($b)));
                $down(f32::to_bits($e))
            }
        }
    )* };
}
through_f32! {
    AddF16 f16_to_f32 f32_to_f16 |a, b| a + b;
    SubF16 f16_to_f32 f32_to_f16 |a, b| a - b;
    MulF16 f16_to_f32 f32_to_f16 |a, b| a * b;
    AddBf16 bf16_to_f32 f32_to_bf16 |a, b| a + b;
    SubBf16 bf16_to_f32 f32_to_bf16 |a, b| a - b;
    MulBf16 bf16_to_f32 f32_to_bf16 |a, b| a * b;
}

struct FmaF16;
impl Lane for FmaF16 {
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        f32_to_f16(fma_odd(f16_to_f32(a), f16_to_f32(b), f16_to_f32(c)))
    }
}

struct FmaBf16;
impl Lane for FmaBf16 {
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32) -> u32 {
        f32_to_bf16(fma_odd(bf16_to_f32(a), bf16_to_f32(b), bf16_to_f32(c)))
    }
}

/// a b + c of narrow values, rounded to odd to f32: rounding that again is rounding once.
#[inline(always)]
fn fma_odd(a: u32, b: u32, c: u32) -> u32 {
    let [a, b, c] = [a, b, c].map(|v| f64::from(f32::from_bits(v)));
    let p = a * b;
    let s = p + c;
    // What the sum lost.
    let t = s - p;
    let e = (p - (s - t)) + (c - t);
    // Odd in f64: toward the error where the last bit is even.
    let even = s.to_bits() & 1 == 0 && e != 0.0 && s.is_finite();
    let step = if (e > 0.0) == (s > 0.0) { 1i64 } else { -1 };
    let s = f64::from_bits(s.to_bits().wrapping_add_signed(if even { step } else { 0 }));
    // Odd in f32: toward zero, and the last bit set.
    let r = s as f32;
    let over = f64::from(r).abs() > s.abs();
    let down = r.to_bits() - u32::from(over && r != 0.0);
    if f64::from(r) == s || s.is_nan() {
        r.to_bits()
    } else {
        down | 1
    }
}

#[inline(always)]
unsafe fn lanes<L: Lane>(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b, c) = (cx.get(i.a), cx.get(i.b), cx.get(i.c));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = L::f(a[l] & 0xFFFF, b[l] & 0xFFFF, c[l] & 0xFFFF);
        }
        if i.x != 0 {
            for l in 0..32 {
                r[l] |= L::f(a[l] >> 16, b[l] >> 16, c[l] >> 16) << 16;
            }
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let (ty, format, pair) = match i.opcode.last().map(String::as_str) {
        Some("f16") => (Type::F16, F16, false),
        Some("f16x2") => (Type::F16x2, F16, true),
        Some("bf16") => (Type::Bf16, BF16, false),
        Some("bf16x2") => (Type::Bf16x2, BF16, true),
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
    m.take("approx");
    let round = match m.one_of(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Round::Rz,
        Some("rm") => Round::Rm,
        Some("rp") => Round::Rp,
        _ => Round::Rn,
    };
    if m.take("oob") {
        return Err(
            m.error(".oob is left out: what its special NaN does is not documented well enough")
        );
    }
    let ftz = m.take("ftz");
    let nan = m.take("NaN");
    let xorsign = m.take("xorsign");
    if xorsign {
        m.expect("abs")?;
    }
    let sat = m.take("sat");
    let relu = m.take("relu");
    m.ty()?;
    m.finish()?;
    d.arity(i, n + 1)?;
    let a = d.src(i, 1, ty)?;
    let b = if n > 1 { d.src(i, 2, ty)? } else { a };
    let c = if n > 2 { d.src(i, 3, ty)? } else { a };
    let dst = d.dst(i, 0, ty)?;
    let bf = format == BF16;
    let fast: Option<Exec> = if round != Round::Rn || ftz || sat || relu {
        None
    } else {
        match (op, bf) {
            (Op::Add, false) => Some(versions!(d.cpu, lanes::<AddF16>)),
            (Op::Sub, false) => Some(versions!(d.cpu, lanes::<SubF16>)),
            (Op::Mul, false) => Some(versions!(d.cpu, lanes::<MulF16>)),
            (Op::Fma, false) => Some(versions!(d.cpu, lanes::<FmaF16>)),
            (Op::Add, true) => Some(versions!(d.cpu, lanes::<AddBf16>)),
            (Op::Sub, true) => Some(versions!(d.cpu, lanes::<SubBf16>)),
            (Op::Mul, true) => Some(versions!(d.cpu, lanes::<MulBf16>)),
            (Op::Fma, true) => Some(versions!(d.cpu, lanes::<FmaBf16>)),
            _ => None,
        }
    };
    if let Some(exec) = fast {
        return Ok(Some(Inst {
            d: dst,
            a,
            b,
            c,
            x: u32::from(pair),
            ..d.inst(exec)
        }));
    }
    let x = d.push_aux(Box::new(Spec {
        op,
        format,
        round,
        pair,
        ftz,
        sat,
        relu,
        nan,
        xorsign,
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
        let knobs = &cx.machine().knobs;
        let seed = knobs.approx_jitter.then_some(knobs.seed);
        let r = std::array::from_fn(|l| {
            if mask >> l & 1 == 0 {
                return 0;
            }
            let at = |k: u32| {
                let [a, b, c] = [a, b, c].map(|v| (v[l] >> k) as u16);
                u32::from(apply(s, a, b, c, seed))
            };
            at(0) | if s.pair { at(16) << 16 } else { 0 }
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: u32) -> impl Iterator<Item = [u32; 3]> {
        let mut v = 1u64;
        (0..n).map(move |k| {
            v = v
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let x = (v >> 16) as u32;
            // Every other time with exponents near each other, where sums cancel and ties happen.
            let near = if k & 1 == 0 { 0xFFFF } else { 0x83FF };
            let base = if k & 1 == 0 { 0 } else { 0x3C00 };
            [
                x & near | base,
                x >> 16 & near | base,
                (v >> 48) as u32 & near | base,
            ]
        })
    }

    #[test]
    fn vector_code_rounds_once() {
        for [a, b, c] in random(400_000) {
            let [x, y, z] = [a, b, c].map(u64::from);
            let r = Round::Rn;
            assert_eq!(
                u64::from(AddF16::f(a, b, c)),
                soft::add(F16, x, y, r),
                "{a:#x} {b:#x}"
            );
            assert_eq!(
                u64::from(MulF16::f(a, b, c)),
                soft::mul(F16, x, y, r),
                "{a:#x} {b:#x}"
            );
            assert_eq!(
                u64::from(FmaF16::f(a, b, c)),
                soft::fma(F16, x, y, z, r),
                "{a:#x} {b:#x} {c:#x}"
            );
            assert_eq!(
                u64::from(AddBf16::f(a, b, c)),
                soft::add(BF16, x, y, r),
                "{a:#x} {b:#x}"
            );
            assert_eq!(
                u64::from(MulBf16::f(a, b, c)),
                soft::mul(BF16, x, y, r),
                "{a:#x} {b:#x}"
            );
            assert_eq!(
                u64::from(FmaBf16::f(a, b, c)),
                soft::fma(BF16, x, y, z, r),
                "{a:#x} {b:#x} {c:#x}"
            );
        }
    }
}
