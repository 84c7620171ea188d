//! Integer arithmetic and logic. 16-bit values live zero-extended in 32-bit lanes.

use super::{lane32, lane64};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Exec, Flow, Inst};
use crate::ptx::ast::{self, Type};

/// Takes the integer type that must come next.
fn int(m: &mut Mods) -> Result<Type> {
    use Type::*;
    match m.ty()? {
        t @ (U16 | S16 | U32 | S32 | U64 | S64) => Ok(t),
        t => Err(m.error(format!(".{t:?} is not an integer type of this instruction"))),
    }
}

fn is_int_type(m: &str) -> bool {
    matches!(m, "u16" | "s16" | "u32" | "s32" | "u64" | "s64")
}

/// The low 24 bits, by sign.
fn s24(x: u32) -> i64 {
    i64::from((x << 8) as i32 >> 8)
}

fn u24(x: u32) -> u64 {
    u64::from(x & 0xFF_FFFF)
}

fn s16(x: u32) -> i32 {
    i32::from(x as u16 as i16)
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    use Type::*;
    let mut m = Mods::new(i);
    let last_int = i.opcode.last().is_some_and(|t| is_int_type(t));
    let logic = matches!(
        i.opcode.last().map(String::as_str),
        Some("b16" | "b32" | "b64")
    );
    let name = m.mnemonic();
    let three = |d: &mut Decoder, ty: Type, n: usize, exec: Exec| -> Result<Option<Inst>> {
        d.arity(i, n + 1)?;
        let a = d.src(i, 1, ty)?;
        let b = if n > 1 { d.src(i, 2, ty)? } else { a };
        let c = if n > 2 { d.src(i, 3, ty)? } else { a };
        Ok(Some(Inst {
            d: d.dst(i, 0, ty)?,
            a,
            b,
            c,
            ..d.inst(exec)
        }))
    };
    match name {
        "add" | "min" | "max"
            if i.opcode
                .last()
                .is_some_and(|t| t == "u16x2" || t == "s16x2") =>
        {
            super::packed::decode(d, i, m).map(Some)
        }
        "add" | "sub" if i.opcode.get(1).is_some_and(|x| x == "cc") => {
            super::special::carry(d, i, m)
        }
        "add" | "sub" if last_int => {
            let sat = m.take("sat");
            let ty = int(&mut m)?;
            m.finish()?;
            let sub = name == "sub";
            if sat && ty != S32 {
                return Err(m.error(".sat goes with .s32"));
            }
            let exec = match (ty, sub) {
                (S32, false) if sat => {
                    lane32!(d, |a, b, c| (a as i32).saturating_add(b as i32) as u32)
                }
                (S32, true) if sat => {
                    lane32!(d, |a, b, c| (a as i32).saturating_sub(b as i32) as u32)
                }
                (U16 | S16, false) => lane32!(d, |a, b, c| (a + b) & 0xFFFF),
                (U16 | S16, true) => lane32!(d, |a, b, c| a.wrapping_sub(b) & 0xFFFF),
                (U32 | S32, false) => lane32!(d, |a, b, c| a.wrapping_add(b)),
                (U32 | S32, true) => lane32!(d, |a, b, c| a.wrapping_sub(b)),
                (_, false) => lane64!(d, |a, b, c| a.wrapping_add(b)),
                (_, true) => lane64!(d, |a, b, c| a.wrapping_sub(b)),
            };
            three(d, ty, 2, exec)
        }
        "mul" | "mad" if last_int && i.opcode.get(2).is_none_or(|x| x != "cc") => {
            let part = m.one_of(&["lo", "hi", "wide"]);
            let Some(part) = part else {
                return Err(m.error("expected .lo, .hi or .wide"));
            };
            let sat = m.take("sat");
            let ty = int(&mut m)?;
            m.finish()?;
            let mad = name == "mad";
            if sat {
                // mad.hi.sat.s32 alone.
                let exec = lane32!(
                    d,
                    |a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32)
                        .saturating_add(c as i32) as u32
                );
                return three(d, ty, 3, exec);
            }
            if part == "wide" {
                return wide(d, i, ty, mad).map(Some);
            }
            let hi = part == "hi";
            let exec = match (ty, hi) {
                (U16 | S16, false) => {
                    lane32!(d, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xFFFF)
                }
                (U16, true) => lane32!(d, |a, b, c| ((a * b) >> 16).wrapping_add(c) & 0xFFFF),
                (S16, true) => lane32!(d, |a, b, c| (((s16(a) * s16(b)) >> 16) as u32)
                    .wrapping_add(c)
                    & 0xFFFF),
                (U32 | S32, false) => lane32!(d, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                (U32, true) => lane32!(d, |a, b, c| ((u64::from(a) * u64::from(b)) >> 32) as u32),
                (S32, true) => lane32!(d, |a, b, c| ((i64::from(a as i32) * i64::from(b as i32))
                    >> 32) as u32),
                (U64 | S64, false) => lane64!(d, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                (U64, true) => lane64!(d, |a, b, c| ((u128::from(a) * u128::from(b)) >> 64) as u64),
                _ => lane64!(
                    d,
                    |a, b, c| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
                ),
            };
            let exec = match (ty, hi, mad) {
                (U32, true, true) => lane32!(d, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32)
                    as u32)
                    .wrapping_add(c)),
                (S32, true, true) => lane32!(d, |a, b, c| (((i64::from(a as i32)
                    * i64::from(b as i32))
                    >> 32) as u32)
                    .wrapping_add(c)),
                (U64, true, true) => lane64!(d, |a, b, c| (((u128::from(a) * u128::from(b)) >> 64)
                    as u64)
                    .wrapping_add(c)),
                (S64, true, true) => lane64!(d, |a, b, c| (((i128::from(a as i64)
                    * i128::from(b as i64))
                    >> 64) as u64)
                    .wrapping_add(c)),
                _ => exec,
            };
            if mad {
                return three(d, ty, 3, exec);
            }
            // A product alone is a multiply-add of zero.
            d.arity(i, 3)?;
            let zero = if ty.bytes() == 8 {
                crate::machine::inst::RowInit::Imm64(0)
            } else {
                crate::machine::inst::RowInit::Imm32(0)
            };
            let c = d.constant(zero);
            Ok(Some(Inst {
                d: d.dst(i, 0, ty)?,
                a: d.src(i, 1, ty)?,
                b: d.src(i, 2, ty)?,
                c,
                ..d.inst(exec)
            }))
        }
        "mul24" | "mad24" => {
            let hi = m.one_of(&["lo", "hi"]) == Some("hi");
            let sat = m.take("sat");
            let ty = int(&mut m)?;
            m.finish()?;
            let mad = name == "mad24";
            let exec = match (hi, ty == S32, mad) {
                (false, true, false) => lane32!(d, |a, b, c| (s24(a) * s24(b)) as u32),
                (false, true, true) => {
                    lane32!(d, |a, b, c| ((s24(a) * s24(b)) as u32).wrapping_add(c))
                }
                (false, false, false) => lane32!(d, |a, b, c| (u24(a) * u24(b)) as u32),
                (false, false, true) => {
                    lane32!(d, |a, b, c| ((u24(a) * u24(b)) as u32).wrapping_add(c))
                }
                (true, true, false) => lane32!(d, |a, b, c| ((s24(a) * s24(b)) >> 16) as u32),
                (true, true, true) if sat => lane32!(
                    d,
                    |a, b, c| (((s24(a) * s24(b)) >> 16) as i32).saturating_add(c as i32) as u32
                ),
                (true, true, true) => {
                    lane32!(d, |a, b, c| (((s24(a) * s24(b)) >> 16) as u32)
                        .wrapping_add(c))
                }
                (true, false, false) => lane32!(d, |a, b, c| ((u24(a) * u24(b)) >> 16) as u32),
                (true, false, true) => {
                    lane32!(d, |a, b, c| (((u24(a) * u24(b)) >> 16) as u32)
                        .wrapping_add(c))
                }
            };
            three(d, ty, if mad { 3 } else { 2 }, exec)
        }
        "div" | "rem" if last_int => {
            let ty = int(&mut m)?;
            m.finish()?;
            // Division by zero gives an unspecified value: all ones, as the hardware's sequence does; remainder the dividend.
            let exec = match (ty, name == "div") {
                (U16, true) => lane32!(d, |a, b, c| a.checked_div(b).unwrap_or(0xFFFF)),
                (U16, false) => lane32!(d, |a, b, c| a.checked_rem(b).unwrap_or(a)),
                (S16, true) => lane32!(d, |a, b, c| s16(a)
                    .checked_div(s16(b))
                    .map_or(0xFFFF, |v| v as u32 & 0xFFFF)),
                (S16, false) => lane32!(d, |a, b, c| s16(a)
                    .checked_rem(s16(b))
                    .map_or(a, |v| v as u32 & 0xFFFF)),
                (U32, true) => lane32!(d, |a, b, c| a.checked_div(b).unwrap_or(u32::MAX)),
                (U32, false) => lane32!(d, |a, b, c| a.checked_rem(b).unwrap_or(a)),
                (S32, true) => lane32!(d, |a, b, c| if b == 0 {
                    u32::MAX
                } else {
                    (a as i32).wrapping_div(b as i32) as u32
                }),
                (S32, false) => lane32!(d, |a, b, c| if b == 0 {
                    a
                } else {
                    (a as i32).wrapping_rem(b as i32) as u32
                }),
                (U64, true) => lane64!(d, |a, b, c| a.checked_div(b).unwrap_or(u64::MAX)),
                (U64, false) => lane64!(d, |a, b, c| a.checked_rem(b).unwrap_or(a)),
                (_, true) => lane64!(d, |a, b, c| if b == 0 {
                    u64::MAX
                } else {
                    (a as i64).wrapping_div(b as i64) as u64
                }),
                (_, false) => lane64!(d, |a, b, c| if b == 0 {
                    a
                } else {
                    (a as i64).wrapping_rem(b as i64) as u64
                }),
            };
            three(d, ty, 2, exec)
        }
        "min" | "max" if last_int => {
            let relu = m.take("relu");
            let ty = int(&mut m)?;
            m.finish()?;
            let exec = match (ty, name == "min") {
                (S32, true) if relu => {
                    lane32!(d, |a, b, c| (a as i32).min(b as i32).max(0) as u32)
                }
                (S32, false) if relu => {
                    lane32!(d, |a, b, c| (a as i32).max(b as i32).max(0) as u32)
                }
                (U16 | U32, true) => lane32!(d, |a, b, c| a.min(b)),
                (U16 | U32, false) => lane32!(d, |a, b, c| a.max(b)),
                (S16, true) => lane32!(d, |a, b, c| s16(a).min(s16(b)) as u32 & 0xFFFF),
                (S16, false) => lane32!(d, |a, b, c| s16(a).max(s16(b)) as u32 & 0xFFFF),
                (S32, true) => lane32!(d, |a, b, c| (a as i32).min(b as i32) as u32),
                (S32, false) => lane32!(d, |a, b, c| (a as i32).max(b as i32) as u32),
                (U64, true) => lane64!(d, |a, b, c| a.min(b)),
                (U64, false) => lane64!(d, |a, b, c| a.max(b)),
                (_, true) => lane64!(d, |a, b, c| (a as i64).min(b as i64) as u64),
                (_, false) => lane64!(d, |a, b, c| (a as i64).max(b as i64) as u64),
            };
            three(d, ty, 2, exec)
        }
        "abs" | "neg" if last_int => {
            let ty = int(&mut m)?;
            m.finish()?;
            let exec = match (ty, name == "abs") {
                (S16, true) => lane32!(d, |a, b, c| s16(a).unsigned_abs() & 0xFFFF),
                (S16, false) => lane32!(d, |a, b, c| a.wrapping_neg() & 0xFFFF),
                (S32, true) => lane32!(d, |a, b, c| (a as i32).unsigned_abs()),
                (S32, false) => lane32!(d, |a, b, c| a.wrapping_neg()),
                (S64, true) => lane64!(d, |a, b, c| (a as i64).unsigned_abs()),
                (S64, false) => lane64!(d, |a, b, c| a.wrapping_neg()),
                _ => return Err(m.error("takes a signed type")),
            };
            three(d, ty, 1, exec)
        }
        "and" | "or" | "xor" | "not" if i.opcode.last().is_some_and(|x| x == "pred") => {
            m.expect("pred")?;
            m.finish()?;
            let dst = d.dst_pred(i, d.operand(i, 0)?)?;
            let (a, na) = d.pred(i, d.operand(i, 1)?)?;
            let (b, nb) = if name == "not" {
                (a, na)
            } else {
                d.pred(i, d.operand(i, 2)?)?
            };
            let op = match name {
                "and" => 0,
                "or" => 1,
                "xor" => 2,
                _ => 3,
            };
            Ok(Some(Inst {
                d: dst,
                a,
                b,
                c: u32::from(na) | u32::from(nb) << 1,
                x: op,
                ..d.inst(logic_pred)
            }))
        }
        "and" | "or" | "xor" | "not" | "cnot" if logic => {
            let ty = m.ty()?;
            m.finish()?;
            let keep16 = ty == B16;
            let exec = match (name, ty == B64) {
                ("and", false) => lane32!(d, |a, b, c| a & b),
                ("or", false) => lane32!(d, |a, b, c| a | b),
                ("xor", false) => lane32!(d, |a, b, c| a ^ b),
                ("not", false) if keep16 => lane32!(d, |a, b, c| !a & 0xFFFF),
                ("not", false) => lane32!(d, |a, b, c| !a),
                ("cnot", false) => lane32!(d, |a, b, c| u32::from(a == 0)),
                ("and", true) => lane64!(d, |a, b, c| a & b),
                ("or", true) => lane64!(d, |a, b, c| a | b),
                ("xor", true) => lane64!(d, |a, b, c| a ^ b),
                ("not", true) => lane64!(d, |a, b, c| !a),
                _ => lane64!(d, |a, b, c| u64::from(a == 0)),
            };
            three(
                d,
                ty,
                if matches!(name, "not" | "cnot") { 1 } else { 2 },
                exec,
            )
        }
        "shl" | "shr" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 3)?;
            // The amount is a .u32 whatever the type; amounts beyond the width give 0 (or the sign).
            let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, U32)?);
            let dst = d.dst(i, 0, ty)?;
            let exec = match (name, ty) {
                ("shl", B16) => lane32!(d, |a, b, c| a.checked_shl(b).unwrap_or(0) & 0xFFFF),
                ("shl", B32) => lane32!(d, |a, b, c| if b > 31 { 0 } else { a << (b & 31) }),
                ("shl", B64) => crate::isa::lanes::versions!(d.cpu, shl64),
                ("shr", B16 | U16 | B32 | U32) => {
                    lane32!(d, |a, b, c| if b > 31 { 0 } else { a >> (b & 31) })
                }
                ("shr", S16) => lane32!(d, |a, b, c| (s16(a) >> b.min(31)) as u32 & 0xFFFF),
                ("shr", S32) => lane32!(d, |a, b, c| ((a as i32) >> b.min(31)) as u32),
                ("shr", B64 | U64) => crate::isa::lanes::versions!(d.cpu, shr64),
                ("shr", S64) => crate::isa::lanes::versions!(d.cpu, sar64),
                _ => return Err(m.error("type is not legal here")),
            };
            Ok(Some(Inst {
                d: dst,
                a,
                b,
                c: b,
                ..d.inst(exec)
            }))
        }
        _ => Ok(None),
    }
}

fn wide(d: &mut Decoder, i: &ast::Inst, ty: Type, mad: bool) -> Result<Inst> {
    use Type::*;
    d.arity(i, if mad { 4 } else { 3 })?;
    let (a, b) = (d.src(i, 1, ty)?, d.src(i, 2, ty)?);
    let (out, small) = match ty {
        U16 => (U32, true),
        S16 => (S32, true),
        U32 => (U64, false),
        S32 => (S64, false),
        _ => return Err(d.error(i, ".wide takes 16 or 32 bits")),
    };
    let zero = if small {
        crate::machine::inst::RowInit::Imm32(0)
    } else {
        crate::machine::inst::RowInit::Imm64(0)
    };
    let c = if mad {
        d.src(i, 3, out)?
    } else {
        d.constant(zero)
    };
    let dst = d.dst(i, 0, out)?;
    let exec = match ty {
        U16 => lane32!(d, |a, b, c| ((a & 0xFFFF) * (b & 0xFFFF)).wrapping_add(c)),
        S16 => lane32!(d, |a, b, c| ((s16(a) * s16(b)) as u32).wrapping_add(c)),
        U32 => crate::isa::lanes::versions!(d.cpu, wide_u32),
        _ => crate::isa::lanes::versions!(d.cpu, wide_s32),
    };
    Ok(Inst {
        d: dst,
        a,
        b,
        c,
        ..d.inst(exec)
    })
}

macro_rules! mixed {
    ($name:ident, |$a:ident: $ga:ident, $b:ident: $gb:ident, $c:ident: $gc:ident| $e:expr) => {
        #[inline(always)]
        unsafe fn $name(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
            // SAFETY: the rows were decoded for this kernel.
            unsafe {
                let (x, y, z) = (cx.$ga(i.a), cx.$gb(i.b), cx.$gc(i.c));
                let mut r = [0u64; 32];
                for l in 0..32 {
                    #[allow(unused_variables)]
                    let ($a, $b, $c) = (x[l], y[l], z[l]);
                    r[l] = $e;
                }
                cx.set64(i.d, &r, mask);
            }
            Flow::Next
        }
    };
}
mixed!(wide_u32, |a: get, b: get, c: get64| (u64::from(a)
    * u64::from(b))
.wrapping_add(c));
mixed!(wide_s32, |a: get, b: get, c: get64| {
    ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
});
mixed!(shl64, |a: get64, b: get, c: get| if b > 63 {
    0
} else {
    a << (b & 63)
});
mixed!(shr64, |a: get64, b: get, c: get| if b > 63 {
    0
} else {
    a >> (b & 63)
});
mixed!(sar64, |a: get64, b: get, c: get| ((a as i64) >> b.min(63))
    as u64);

unsafe fn logic_pred(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the predicates were decoded for this kernel.
    unsafe {
        let a = cx.pred(i.a) ^ (i.c & 1).wrapping_neg();
        let b = cx.pred(i.b) ^ (i.c >> 1).wrapping_neg();
        let v = match i.x {
            0 => a & b,
            1 => a | b,
            2 => a ^ b,
            _ => !a,
        };
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}
