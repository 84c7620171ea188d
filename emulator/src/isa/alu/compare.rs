//! `setp`, `set`, `testp`.

use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::lanes::versions;
use crate::machine::exec::Cx;
use crate::machine::inst::{Exec, Flow, Inst, PRED_SINK, PRED_TRUE};
use crate::ptx::ast::{self, Operand, Type};

/// A comparison of the bits of two values.
trait Cmp32 {
    fn f(a: u32, b: u32) -> bool;
}

macro_rules! cmps {
    ($($name:ident |$a:ident, $b:ident| $e:expr;)*) => { $(
        struct $name;
        impl Cmp32 for $name {
            #[inline(always)]
            fn f($a: u32, $b: u32) -> bool { $e }
        }
    )* };
}
cmps! {
    Eq |a, b| a == b;
    Ne |a, b| a != b;
    LtU |a, b| a < b;
    LeU |a, b| a <= b;
    GtU |a, b| a > b;
    GeU |a, b| a >= b;
    LtS |a, b| (a as i32) < b as i32;
    LeS |a, b| a as i32 <= b as i32;
    GtS |a, b| a as i32 > b as i32;
    GeS |a, b| a as i32 >= b as i32;
    LtF |a, b| f32::from_bits(a) < f32::from_bits(b);
    GtF |a, b| f32::from_bits(a) > f32::from_bits(b);
    LeF |a, b| f32::from_bits(a) <= f32::from_bits(b);
    GeF |a, b| f32::from_bits(a) >= f32::from_bits(b);
    EqF |a, b| f32::from_bits(a) == f32::from_bits(b);
}

/// How two values of any type relate: less, equal, greater, unordered.
fn relate(ty: Type, ftz: bool, a: u64, b: u64) -> Option<std::cmp::Ordering> {
    use Type::*;
    let f = |v: u64| {
        let x = f32::from_bits(v as u32);
        if ftz && x.is_subnormal() { 0.0 } else { x }
    };
    match ty {
        S16 => Some((a as i16).cmp(&(b as i16))),
        S32 => Some((a as i32).cmp(&(b as i32))),
        S64 => Some((a as i64).cmp(&(b as i64))),
        F32 => f(a).partial_cmp(&f(b)),
        F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        F16 => {
            let f = |v: u64| {
                let v = v & 0xFFFF;
                half::f16::from_bits(if ftz { super::soft::F16.flush(v) } else { v } as u16)
            };
            f(a).partial_cmp(&f(b))
        }
        Bf16 => half::bf16::from_bits(a as u16).partial_cmp(&half::bf16::from_bits(b as u16)),
        U16 | B16 => Some((a as u16).cmp(&(b as u16))),
        _ => Some(a.cmp(&b)),
    }
}

fn holds(op: &str, r: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::*;
    match (op, r) {
        ("num", r) => r.is_some(),
        ("nan", r) => r.is_none(),
        // The unordered forms hold for a NaN; of the ordered ones none does, .ne included.
        (op, None) => matches!(op, "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu"),
        ("eq" | "equ", Some(o)) => o == Equal,
        ("ne" | "neu", Some(o)) => o != Equal,
        ("lt" | "lo" | "ltu", Some(o)) => o == Less,
        ("le" | "ls" | "leu", Some(o)) => o != Greater,
        ("gt" | "hi" | "gtu", Some(o)) => o == Greater,
        _ => r != Some(Less),
    }
}

struct Compare {
    op: &'static str,
    ty: Type,
    /// Two halves of `ty` in one value.
    pair: bool,
    ftz: bool,
    /// and, or, xor with this predicate.
    combine: Option<(u8, u32, bool)>,
    /// Second destination of setp; for set what true is: a value of the low half, and of the high half of pairs.
    q: u32,
}

const OPS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    use Type::*;
    let mut m = Mods::new(i);
    let set = match m.mnemonic() {
        "setp" => false,
        "set" => true,
        "testp" => return testp(d, i, m).map(Some),
        _ => return Ok(None),
    };
    let Some(op) = m.one_of(&OPS) else {
        return Err(m.error("expected a comparison"));
    };
    let combine = m.one_of(&["and", "or", "xor"]);
    let ftz = m.take("ftz");
    let out = if set { Some(m.ty()?) } else { None };
    let ty = m.ty()?;
    m.finish()?;
    let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?);
    let (ty, pair) = match ty {
        F16x2 => (F16, true),
        Bf16x2 => (Bf16, true),
        t => (t, false),
    };
    let combine = match combine {
        None => {
            d.arity(i, 3)?;
            None
        }
        Some(c) => {
            d.arity(i, 4)?;
            let (p, neg) = d.pred(i, d.operand(i, 3)?)?;
            let which = ["and", "or", "xor"].iter().position(|x| *x == c);
            Some((which.unwrap_or(0) as u8, p, neg))
        }
    };
    if let Some(out) = out {
        let dst = d.dst(i, 0, out)?;
        let yes = match out {
            F32 => 1f32.to_bits(),
            F16 => 0x3C00,
            Bf16 => 0x3F80,
            F16x2 => 0x3C00_3C00,
            Bf16x2 => 0x3F80_3F80,
            U16 | S16 => 0xFFFF,
            _ => u32::MAX,
        };
        let x = d.push_aux(Box::new(Compare {
            op,
            ty,
            pair,
            ftz,
            combine,
            q: yes,
        }));
        return Ok(Some(Inst {
            d: dst,
            a,
            b,
            x,
            ..d.inst(set_op)
        }));
    }
    let (p, q) = match d.operand(i, 0)?.clone() {
        Operand::Pair(p, q) if pair || !matches!(ty, F16 | Bf16) => (
            p.map_or(Ok(PRED_SINK), |p| d.pred_reg(i, p))?,
            q.map_or(Ok(PRED_SINK), |q| d.pred_reg(i, q))?,
        ),
        Operand::Pair(..) => return Err(m.error("has one destination")),
        o => (d.dst_pred(i, &o)?, PRED_SINK),
    };
    if combine.is_none()
        && !pair
        && q == PRED_SINK
        && ty.bytes() <= 4
        && !ftz
        && !matches!(ty, S16 | F16 | Bf16)
        && let Some(exec) = fast(d, op, ty)
    {
        return Ok(Some(Inst {
            d: p,
            a,
            b,
            ..d.inst(exec)
        }));
    }
    let x = d.push_aux(Box::new(Compare {
        op,
        ty,
        pair,
        ftz,
        combine,
        q,
    }));
    Ok(Some(Inst {
        d: p,
        a,
        b,
        x,
        ..d.inst(setp)
    }))
}

/// The common comparisons of 32 bits and less as vector code.
fn fast(d: &Decoder, op: &str, ty: Type) -> Option<Exec> {
    let unsigned = matches!(ty, Type::U16 | Type::U32);
    Some(match (op, ty) {
        ("eq", Type::F32) => versions!(d.cpu, setp32::<EqF>),
        ("lt", Type::F32) => versions!(d.cpu, setp32::<LtF>),
        ("le", Type::F32) => versions!(d.cpu, setp32::<LeF>),
        ("gt", Type::F32) => versions!(d.cpu, setp32::<GtF>),
        ("ge", Type::F32) => versions!(d.cpu, setp32::<GeF>),
        (_, Type::F32) => return None,
        ("eq", _) => versions!(d.cpu, setp32::<Eq>),
        ("ne", _) => versions!(d.cpu, setp32::<Ne>),
        ("lt" | "lo", _) if unsigned => versions!(d.cpu, setp32::<LtU>),
        ("le" | "ls", _) if unsigned => versions!(d.cpu, setp32::<LeU>),
        ("gt" | "hi", _) if unsigned => versions!(d.cpu, setp32::<GtU>),
        ("ge" | "hs", _) if unsigned => versions!(d.cpu, setp32::<GeU>),
        ("lt", _) => versions!(d.cpu, setp32::<LtS>),
        ("le", _) => versions!(d.cpu, setp32::<LeS>),
        ("gt", _) => versions!(d.cpu, setp32::<GtS>),
        ("ge", _) => versions!(d.cpu, setp32::<GeS>),
        _ => return None,
    })
}

#[inline(always)]
unsafe fn setp32<C: Cmp32>(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let (a, b) = (cx.get(i.a), cx.get(i.b));
        let mut v = 0;
        for l in 0..32 {
            v |= u32::from(C::f(a[l], b[l])) << l;
        }
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}

/// The comparison of the values `k` bits up, before it is combined.
unsafe fn results(cx: &mut Cx, i: &Inst, t: &Compare, k: u32) -> u32 {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let (a, b) = if t.ty.bytes() == 8 {
            (cx.get64(i.a), cx.get64(i.b))
        } else {
            (cx.get(i.a).map(u64::from), cx.get(i.b).map(u64::from))
        };
        (0..32).fold(0, |v, l| {
            v | u32::from(holds(t.op, relate(t.ty, t.ftz, a[l] >> k, b[l] >> k))) << l
        })
    }
}

unsafe fn combined(cx: &Cx, t: &Compare, v: u32) -> u32 {
    match t.combine {
        None => v,
        Some((op, p, neg)) => {
            // SAFETY: the predicate was decoded for this kernel.
            let c = unsafe { cx.pred(p) } ^ if neg { u32::MAX } else { 0 };
            match op {
                0 => v & c,
                1 => v | c,
                _ => v ^ c,
            }
        }
    }
}

unsafe fn setp(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Compare>(i.x);
        let v = results(cx, i, t, 0);
        // The second destination is the high half's, or the inverse.
        let w = if t.pair { results(cx, i, t, 16) } else { !v };
        let (p, q) = (combined(cx, t, v), combined(cx, t, w));
        cx.set_pred(i.d, p, mask);
        cx.set_pred(t.q, q, mask);
    }
    Flow::Next
}

unsafe fn set_op(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Compare>(i.x);
        let v = results(cx, i, t, 0);
        let v = combined(cx, t, v);
        let w = if t.pair {
            let w = results(cx, i, t, 16);
            combined(cx, t, w)
        } else {
            v
        };
        let r = std::array::from_fn(|l| {
            let on = |m: u32, keep: u32| if m >> l & 1 != 0 { t.q & keep } else { 0 };
            on(v, 0xFFFF) | on(w, 0xFFFF_0000)
        });
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

fn testp(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let Some(op) = m.one_of(&[
        "finite",
        "infinite",
        "number",
        "notanumber",
        "normal",
        "subnormal",
    ]) else {
        return Err(m.error("expected a property"));
    };
    let ty = m.ty()?;
    m.finish()?;
    if !matches!(ty, Type::F32 | Type::F64) {
        return Err(m.error("takes .f32 or .f64"));
    }
    let a = d.src(i, 1, ty)?;
    let p = d.dst_pred(i, d.operand(i, 0)?)?;
    let x = d.push_aux(Box::new((op, ty)));
    Ok(Inst {
        d: p,
        a,
        b: PRED_TRUE,
        x,
        ..d.inst(testp_op)
    })
}

unsafe fn testp_op(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let &(op, ty) = cx.aux::<(&'static str, Type)>(i.x);
        // f32 to f64 keeps every class but subnormal, which is asked of the f32.
        let f64s = if ty == Type::F64 {
            cx.get64(i.a).map(f64::from_bits)
        } else {
            cx.get(i.a).map(|v| f64::from(f32::from_bits(v)))
        };
        let sub = if ty == Type::F64 {
            f64s.map(|v| v.is_subnormal())
        } else {
            cx.get(i.a).map(|v| f32::from_bits(v).is_subnormal())
        };
        let v = (0..32).fold(0, |r, l| {
            let x = f64s[l];
            let yes = match op {
                "finite" => x.is_finite(),
                "infinite" => x.is_infinite(),
                "number" => !x.is_nan(),
                "notanumber" => x.is_nan(),
                "normal" => x.is_finite() && x != 0.0 && !sub[l],
                _ => sub[l],
            };
            r | u32::from(yes) << l
        });
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}
