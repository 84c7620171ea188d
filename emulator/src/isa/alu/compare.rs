//! `setp`, `set`, `testp`.

use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::lanes::versions;
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, PRED_SINK, PRED_TRUE};
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
        F16 => half::f16::from_bits(a as u16).partial_cmp(&half::f16::from_bits(b as u16)),
        Bf16 => half::bf16::from_bits(a as u16).partial_cmp(&half::bf16::from_bits(b as u16)),
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
    ftz: bool,
    /// and, or, xor with this predicate.
    combine: Option<(u8, u32, bool)>,
    /// Second destination of setp; for set: 0 f32 result, 1 integer.
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
    let float = matches!(ty, F16 | Bf16 | F32 | F64);
    let bits = matches!(ty, B16 | B32 | B64);
    let unsigned_only = matches!(op, "lo" | "ls" | "hi" | "hs");
    let float_only = matches!(
        op,
        "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" | "num" | "nan"
    );
    if (bits && !matches!(op, "eq" | "ne"))
        || (unsigned_only && !matches!(ty, U16 | U32 | U64))
        || (float_only && !float)
    {
        return Err(m.error("this comparison does not go with this type"));
    }
    if !(float || bits || matches!(ty, U16 | S16 | U32 | S32 | U64 | S64)) || (ftz && ty != F32) {
        return Err(m.error("type is not legal or not supported here"));
    }
    let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?);
    let combine = match combine {
        None => {
            d.arity(i, 3)?;
            None
        }
        Some(c) => {
            d.arity(i, 4)?;
            let (p, neg) = d.pred(i, d.operand(i, 3)?)?;
            Some((
                ["and", "or", "xor"]
                    .iter()
                    .position(|x| *x == c)
                    .unwrap_or(0) as u8,
                p,
                neg,
            ))
        }
    };
    if let Some(out) = out {
        if !matches!(out, U32 | S32 | F32) {
            return Err(m.error("the result is .u32, .s32 or .f32"));
        }
        let dst = d.dst(i, 0, out)?;
        let x = d.push_aux(Box::new(Compare {
            op,
            ty,
            ftz,
            combine,
            q: u32::from(out != F32),
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
        Operand::Pair(p, q) => (
            p.map_or(Ok(PRED_SINK), |p| d.pred_reg(i, p))?,
            q.map_or(Ok(PRED_SINK), |q| d.pred_reg(i, q))?,
        ),
        o => (d.dst_pred(i, &o)?, PRED_SINK),
    };
    if combine.is_none()
        && q == PRED_SINK
        && ty.bytes() <= 4
        && !ftz
        && !matches!(ty, S16 | F16 | Bf16)
    {
        let unsigned = matches!(ty, U16 | U32);
        let exec = match (op, ty) {
            ("eq", F32) => Some(versions!(d.cpu, setp32::<EqF>)),
            ("lt", F32) => Some(versions!(d.cpu, setp32::<LtF>)),
            ("le", F32) => Some(versions!(d.cpu, setp32::<LeF>)),
            ("gt", F32) => Some(versions!(d.cpu, setp32::<GtF>)),
            ("ge", F32) => Some(versions!(d.cpu, setp32::<GeF>)),
            (_, F32) => None,
            ("eq", _) => Some(versions!(d.cpu, setp32::<Eq>)),
            ("ne", _) => Some(versions!(d.cpu, setp32::<Ne>)),
            ("lt" | "lo", _) if unsigned => Some(versions!(d.cpu, setp32::<LtU>)),
            ("le" | "ls", _) if unsigned => Some(versions!(d.cpu, setp32::<LeU>)),
            ("gt" | "hi", _) if unsigned => Some(versions!(d.cpu, setp32::<GtU>)),
            ("ge" | "hs", _) if unsigned => Some(versions!(d.cpu, setp32::<GeU>)),
            ("lt", _) => Some(versions!(d.cpu, setp32::<LtS>)),
            ("le", _) => Some(versions!(d.cpu, setp32::<LeS>)),
            ("gt", _) => Some(versions!(d.cpu, setp32::<GtS>)),
            ("ge", _) => Some(versions!(d.cpu, setp32::<GeS>)),
            _ => None,
        };
        if let Some(exec) = exec {
            return Ok(Some(Inst {
                d: p,
                a,
                b,
                ..d.inst(exec)
            }));
        }
    }
    let x = d.push_aux(Box::new(Compare {
        op,
        ty,
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

unsafe fn results(cx: &mut Cx, i: &Inst, t: &Compare) -> u32 {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let wide = t.ty.bytes() == 8;
        let (a, b) = if wide {
            (cx.get64(i.a), cx.get64(i.b))
        } else {
            (cx.get(i.a).map(u64::from), cx.get(i.b).map(u64::from))
        };
        (0..32).fold(0, |v, l| {
            v | u32::from(holds(t.op, relate(t.ty, t.ftz, a[l], b[l]))) << l
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
        let v = results(cx, i, t);
        let (p, q) = (combined(cx, t, v), combined(cx, t, !v));
        cx.set_pred(i.d, p, mask);
        cx.set_pred(t.q, q, mask);
    }
    Flow::Next
}

unsafe fn set_op(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let t = cx.aux::<Compare>(i.x);
        let v = results(cx, i, t);
        let v = combined(cx, t, v);
        let yes = if t.q != 0 { u32::MAX } else { 1f32.to_bits() };
        let r = std::array::from_fn(|l| if v >> l & 1 != 0 { yes } else { 0 });
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
