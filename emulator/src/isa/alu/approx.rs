//! Approximate functions of f32 (and two of f64): `.approx`, `.full`.
//!
//! The value is computed in f64 and rounded to nearest: inside every documented bound. With the knob `approx_jitter` one of
//! the two neighbours of the exact value is taken instead, by a hash of seed, function and operands: inside the bounds too
//! (the error stays below one unit in the last place), and no test can lean on the last bit.

use super::Round;
use super::float::{NAN, canon, flush};
use super::soft::F64;
use super::vector::{exp2, log2};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::lanes::versions;
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast::{self, Type};

/// A function of two f32 (one, for most).
trait Function {
    /// Tells functions apart in the hash.
    const ID: u64;
    /// The value, with an error far below f32's last place.
    fn f(a: f32, b: f32) -> f64;
}

macro_rules! functions {
    ($($id:literal $name:ident |$a:ident, $b:ident| $e:expr;)*) => { $(
        struct $name;
        impl Function for $name {
            const ID: u64 = $id;
            #[inline(always)]
            #[allow(unused_variables)]
            fn f($a: f32, $b: f32) -> f64 { $e }
        }
    )* };
}
functions! {
    1 Div |a, b| div(a, b);
    2 DivFull |a, b| f64::from(a) / f64::from(b);
    3 Rcp |a, b| 1.0 / f64::from(a);
    4 Sqrt |a, b| f64::from(a).sqrt();
    5 Rsqrt |a, b| 1.0 / f64::from(a).sqrt();
    6 Ex2 |a, b| exp2(a);
    7 Lg2 |a, b| log2(a);
    8 Sin |a, b| f64::from(a).sin();
    9 Cos |a, b| f64::from(a).cos();
    10 Tanh |a, b| f64::from(a).tanh();
}

/// a (1 / b): where 1 / b is subnormal it counts as zero (PTX ISA, div: |b| between 2^126 and 2^128).
#[inline(always)]
fn div(a: f32, b: f32) -> f64 {
    let large = b.abs() > f32::from_bits(0x7E80_0000) && b.abs() < f32::INFINITY;
    let q = f64::from(a) / f64::from(b);
    if !large {
        q
    } else if a.is_infinite() || a.is_nan() {
        f64::NAN
    } else {
        0f64.copysign(q)
    }
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let Some(kind) = m.one_of(&["approx", "full"]) else {
        return Ok(None);
    };
    let ftz = m.take("ftz");
    let name = m.mnemonic();
    let ty = match m.peek() {
        Some("f32") => Type::F32,
        Some("f64") => Type::F64,
        _ => return Ok(None),
    };
    m.ty()?;
    m.finish()?;
    let n = if name == "div" { 2 } else { 1 };
    d.arity(i, n + 1)?;
    let a = d.src(i, 1, ty)?;
    let b = if n > 1 { d.src(i, 2, ty)? } else { a };
    let dst = d.dst(i, 0, ty)?;
    let exec = match (name, kind, ty) {
        ("rcp" | "rsqrt", _, Type::F64) => wide,
        ("div", "full", _) => versions!(d.cpu, run::<DivFull>),
        ("div", _, _) => versions!(d.cpu, run::<Div>),
        ("rcp", _, _) => versions!(d.cpu, run::<Rcp>),
        ("sqrt", _, _) => versions!(d.cpu, run::<Sqrt>),
        ("rsqrt", _, _) => versions!(d.cpu, run::<Rsqrt>),
        ("ex2", _, _) => versions!(d.cpu, run::<Ex2>),
        ("lg2", _, _) => versions!(d.cpu, run::<Lg2>),
        ("sin", _, _) => versions!(d.cpu, run::<Sin>),
        ("cos", _, _) => versions!(d.cpu, run::<Cos>),
        ("tanh", _, _) => versions!(d.cpu, run::<Tanh>),
        _ => return Ok(None),
    };
    Ok(Some(Inst {
        d: dst,
        a,
        b,
        x: u32::from(ftz) | u32::from(name == "rsqrt") << 1,
        ..d.inst(exec)
    }))
}

#[inline(always)]
unsafe fn run<F: Function>(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (mut a, mut b) = (cx.get(i.a), cx.get(i.b));
        let ftz = i.x & 1 != 0;
        if ftz {
            for l in 0..32 {
                a[l] = flush(a[l]);
                b[l] = flush(b[l]);
            }
        }
        let (mut v, mut r) = ([0f64; 32], [0u32; 32]);
        for l in 0..32 {
            v[l] = F::f(f32::from_bits(a[l]), f32::from_bits(b[l]));
            r[l] = canon(v[l] as f32);
        }
        if cx.machine().knobs.approx_jitter {
            let seed = cx.machine().knobs.seed ^ F::ID << 56;
            for l in 0..32 {
                r[l] = neighbour(
                    r[l],
                    v[l],
                    hash(seed, u64::from(b[l]) << 32 | u64::from(a[l])),
                );
            }
        }
        if ftz {
            for x in &mut r {
                *x = flush(*x);
            }
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

/// SplitMix64 of seed and operands: a result depends on nothing else.
pub(super) fn hash(seed: u64, operands: u64) -> u64 {
    let mut z =
        (seed ^ operands.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// By chance the f32 on the other side of the exact value; exact results and special ones stay.
fn neighbour(r: u32, exact: f64, chance: u64) -> u32 {
    let near = f32::from_bits(r);
    let gap = exact - f64::from(near);
    if r == NAN || !near.is_normal() || gap.abs() <= exact.abs() * 1e-12 || chance & 1 == 0 {
        return r;
    }
    let other = if gap > 0.0 {
        near.next_up()
    } else {
        near.next_down()
    };
    if other.is_normal() {
        other.to_bits()
    } else {
        r
    }
}

/// `rcp.approx.ftz.f64`, `rsqrt.approx[.ftz].f64`. With .ftz operand and result have the upper 32 bits alone (PTX ISA, rcp).
unsafe fn wide(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    const UPPER: u64 = 0xFFFF_FFFF_0000_0000;
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (ftz, root) = (i.x & 1 != 0, i.x & 2 != 0);
        let r = cx.get64(i.a).map(|v| {
            let v = if ftz { F64.flush(v & UPPER) } else { v };
            let x = f64::from_bits(v);
            let y = 1.0 / if root { x.sqrt() } else { x };
            match (y.is_nan(), ftz) {
                (true, true) => 0x7FFF_FFFF_0000_0000,
                (true, false) => F64.nan(),
                (_, true) => {
                    // To nearest in the upper half.
                    let near = y.to_bits().saturating_add(0x7FFF_FFFF);
                    let r = if y.is_finite() { near } else { y.to_bits() };
                    F64.flush(r & UPPER)
                }
                _ => y.to_bits(),
            }
        });
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

/// An f64 in a 16-bit format, by chance the neighbour on the other side.
pub(super) fn narrow(f: super::soft::Format, v: f64, jitter: Option<u64>) -> u64 {
    let to = |r| super::soft::convert(F64, f, v.to_bits(), r);
    let near = to(Round::Rn);
    match jitter.filter(|c| c & 1 != 0) {
        None => near,
        Some(_) => {
            let (down, up) = (to(Round::Rm), to(Round::Rp));
            let other = if near == down { up } else { down };
            let magnitude = other & ((1 << (f.man + f.exp)) - 1);
            // Neither a zero nor an infinity nor a subnormal by chance.
            if magnitude >> f.man == 0 || magnitude >= f.infinity() {
                near
            } else {
                other
            }
        }
    }
}
