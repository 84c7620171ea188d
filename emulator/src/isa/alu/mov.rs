//! `mov` in all its forms, `selp`, `slct`.

use super::{lane32, lane64};
use crate::isa::decode::{Decoder, Mods, Result};
use crate::isa::forms::{self, Need};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::ptx::ast::{self, Operand, Type};

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "mov" => {
            if matches!(m.peek(), Some("v2" | "v4")) {
                return Err(m.error("vectors of special registers are left out"));
            }
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 2)?;
            if matches!(
                ty,
                Type::B8
                    | Type::U8
                    | Type::S8
                    | Type::F16
                    | Type::Bf16
                    | Type::F16x2
                    | Type::Bf16x2
            ) {
                return Err(m.error("type is not legal here"));
            }
            if ty == Type::B128 {
                forms::require(d, i, Need::new(70, 8, 3))?;
            }
            let vector = |o: &Operand| matches!(o, Operand::Vector(_));
            if i.operands.iter().any(vector)
                && !matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128)
            {
                return Err(m.error("vectors go with .b16 to .b128"));
            }
            match (d.operand(i, 0)?.clone(), d.operand(i, 1)?.clone()) {
                (Operand::Reg(r), Operand::Special(name)) if ty == Type::Pred => {
                    if name != "%is_explicit_cluster" {
                        return Err(m.error(format!("`{name}` is no predicate")));
                    }
                    let a = d.src_operand(i, &Operand::Special(name), Type::U32, false)?;
                    Inst {
                        d: d.pred_reg(i, r)?,
                        a,
                        ..d.inst(not_zero)
                    }
                }
                (Operand::Reg(r), src) if ty == Type::Pred => {
                    let dst = d.pred_reg(i, r)?;
                    let (p, neg) = d.pred(i, &src)?;
                    Inst {
                        d: dst,
                        a: p,
                        b: u32::from(neg),
                        ..d.inst(mov_pred)
                    }
                }
                (Operand::Reg(r), Operand::Vector(v)) => {
                    let dst = d.reg_row_checked(i, r, ty, false)?;
                    let parts = parts(d, i, ty, &v, false)?;
                    let x = d.push_aux(Box::new(parts));
                    Inst {
                        d: dst,
                        x,
                        b: ty.bytes() as u32,
                        ..d.inst(pack)
                    }
                }
                (Operand::Vector(v), _) => {
                    let src = d.src(i, 1, ty)?;
                    let parts = parts(d, i, ty, &v, true)?;
                    let x = d.push_aux(Box::new(parts));
                    Inst {
                        a: src,
                        x,
                        b: ty.bytes() as u32,
                        ..d.inst(unpack)
                    }
                }
                (Operand::Reg(r), Operand::Special(name)) if clock(&name).is_some() => {
                    let (kind, bytes) = clock(&name).unwrap_or((0, 4));
                    if bytes != ty.bytes() {
                        return Err(m.error(format!("`{name}` has {bytes} bytes")));
                    }
                    Inst {
                        d: d.reg_row_checked(i, r, ty, false)?,
                        a: kind,
                        ..d.inst(read_clock)
                    }
                }
                _ if ty == Type::B128 => {
                    let (a, dst) = (d.src(i, 1, ty)?, d.dst(i, 0, ty)?);
                    Inst {
                        d: dst,
                        a,
                        ..d.inst(mov128)
                    }
                }
                _ if ty.bytes() == 8 => {
                    let (a, dst) = (d.src(i, 1, ty)?, d.dst(i, 0, ty)?);
                    Inst {
                        d: dst,
                        a,
                        b: a,
                        c: a,
                        ..d.inst(lane64!(d, |a, b, c| a))
                    }
                }
                _ if ty.bytes() <= 4 => {
                    let (a, dst) = (d.src(i, 1, ty)?, d.dst(i, 0, ty)?);
                    Inst {
                        d: dst,
                        a,
                        b: a,
                        c: a,
                        ..d.inst(lane32!(d, |a, b, c| a))
                    }
                }
                _ => return Err(m.error("this type is not supported")),
            }
        }
        "selp" => {
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 4)?;
            let (p, neg) = d.pred(i, d.operand(i, 3)?)?;
            let (dst, a, b) = (d.dst(i, 0, ty)?, d.src(i, 1, ty)?, d.src(i, 2, ty)?);
            let (a, b) = if neg { (b, a) } else { (a, b) };
            let exec = if ty.bytes() == 8 {
                crate::isa::lanes::versions!(d.cpu, selp64)
            } else {
                crate::isa::lanes::versions!(d.cpu, selp32)
            };
            Inst {
                d: dst,
                a,
                b,
                c: p,
                ..d.inst(exec)
            }
        }
        "slct" => {
            let ftz = m.take("ftz");
            let ty = m.ty()?;
            let sel = m.ty()?;
            m.finish()?;
            let (dst, a, b, c) = (
                d.dst(i, 0, ty)?,
                d.src(i, 1, ty)?,
                d.src(i, 2, ty)?,
                d.src(i, 3, sel)?,
            );
            let float = match sel {
                Type::S32 if !ftz => 0,
                Type::F32 => 1 + u32::from(ftz),
                _ => return Err(m.error("the selector is .s32 or .f32")),
            };
            Inst {
                d: dst,
                a,
                b,
                c,
                x: float | u32::from(ty.bytes() == 8) << 2,
                ..d.inst(slct)
            }
        }
        _ => return Ok(None),
    }))
}

/// Rows of the parts of a vector operand, and how many bytes each has. `_` may stand for a part that is not wanted.
fn parts(
    d: &mut Decoder,
    i: &ast::Inst,
    ty: Type,
    v: &[Operand],
    dst: bool,
) -> Result<(usize, Vec<Option<RowId>>)> {
    if v.is_empty() || !ty.bytes().is_multiple_of(v.len()) {
        return Err(d.error(i, format!("{} parts do not make a .{ty:?}", v.len())));
    }
    let n = ty.bytes() / v.len();
    let part = match n {
        1 => Type::B8,
        2 => Type::B16,
        4 => Type::B32,
        8 => Type::B64,
        _ => return Err(d.error(i, "parts have 8 to 64 bits")),
    };
    let mut rows = Vec::new();
    for o in v {
        rows.push(match o {
            Operand::Sink if dst => None,
            Operand::Reg(r) => Some(d.reg_row_checked(i, *r, part, n == 1)?),
            o if !dst => Some(d.src_operand(i, o, part, false)?),
            _ => return Err(d.error(i, "expected registers")),
        });
    }
    Ok((n, rows))
}

fn clock(name: &str) -> Option<(u32, usize)> {
    Some(match name {
        "%clock" | "%globaltimer_lo" => (0, 4),
        "%clock_hi" | "%globaltimer_hi" => (1, 4),
        "%clock64" | "%globaltimer" => (2, 8),
        _ => return None,
    })
}

unsafe fn read_clock(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let now = cx.machine().now;
    // SAFETY: the row was decoded for this kernel.
    unsafe {
        match i.a {
            0 => cx.set(i.d, &[now as u32; 32], mask),
            1 => cx.set(i.d, &[(now >> 32) as u32; 32], mask),
            _ => cx.set64(i.d, &[now; 32], mask),
        }
    }
    Flow::Next
}

/// 128 bits are two times 64, in neighbouring rows.
unsafe fn mov128(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (low, high) = (cx.get64(i.a), cx.get64(i.a + 2));
        cx.set64(i.d, &low, mask);
        cx.set64(i.d + 2, &high, mask);
    }
    Flow::Next
}

unsafe fn not_zero(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let a = cx.get(i.a);
        let v = (0..32).fold(0, |v, l| v | u32::from(a[l] != 0) << l);
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}

unsafe fn mov_pred(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the predicates were decoded for this kernel.
    unsafe {
        let v = cx.pred(i.a) ^ i.b.wrapping_neg();
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}

unsafe fn pack(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (n, rows) = cx.aux::<(usize, Vec<Option<RowId>>)>(i.x);
        let mut v = [0u64; 32];
        for (k, r) in rows.iter().enumerate() {
            let Some(r) = *r else { continue };
            let part = if *n == 8 {
                cx.get64(r)
            } else {
                cx.get(r).map(u64::from)
            };
            if i.b == 16 {
                continue;
            }
            let keep = u64::MAX >> (64 - 8 * n);
            for l in 0..32 {
                v[l] |= (part[l] & keep) << (8 * n * k);
            }
        }
        if i.b == 16 {
            let n = *n;
            let half = |cx: &Cx, first: usize| {
                let mut v = [0u64; 32];
                for (k, r) in rows[first..first + 8 / n].iter().enumerate() {
                    let Some(r) = *r else { continue };
                    let part = if n == 8 {
                        cx.get64(r)
                    } else {
                        cx.get(r).map(u64::from)
                    };
                    for l in 0..32 {
                        v[l] |= part[l] << (8 * n * k % 64);
                    }
                }
                v
            };
            let (low, high) = (half(cx, 0), half(cx, 8 / n));
            cx.set64(i.d, &low, mask);
            cx.set64(i.d + 2, &high, mask);
        } else if i.b == 8 {
            cx.set64(i.d, &v, mask)
        } else {
            cx.set(i.d, &v.map(|x| x as u32), mask)
        }
    }
    Flow::Next
}

unsafe fn unpack(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (n, rows) = cx.aux::<(usize, Vec<Option<RowId>>)>(i.x);
        let low = if i.b >= 8 {
            cx.get64(i.a)
        } else {
            cx.get(i.a).map(u64::from)
        };
        let high = if i.b == 16 { cx.get64(i.a + 2) } else { low };
        let keep = u64::MAX >> (64 - 8 * n);
        for (k, r) in rows.iter().enumerate() {
            let Some(r) = *r else { continue };
            // Which half of 128 bits, and where in it.
            let v = if n * k >= 8 { high } else { low };
            let k = n * k % 8 / n;
            if *n == 8 {
                cx.set64(r, &v, mask);
            } else {
                cx.set(r, &v.map(|x| (x >> (8 * n * k) & keep) as u32), mask);
            }
        }
    }
    Flow::Next
}

#[inline(always)]
unsafe fn selp32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let (a, b, p) = (cx.get(i.a), cx.get(i.b), cx.pred(i.c));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}

#[inline(always)]
unsafe fn selp64(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let (a, b, p) = (cx.get64(i.a), cx.get64(i.b), cx.pred(i.c));
        let mut r = [0; 32];
        for l in 0..32 {
            r[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
        }
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn slct(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let c = cx.get(i.c);
        let first = |l: usize| {
            let v = c[l];
            match i.x & 3 {
                0 => v as i32 >= 0,
                _ if f32::from_bits(v).is_nan() => false,
                // With .ftz a negative subnormal counts as -0, which is not below zero.
                2 if f32::from_bits(v).is_subnormal() => true,
                _ => f32::from_bits(v) >= 0.0,
            }
        };
        if i.x & 4 != 0 {
            let (a, b) = (cx.get64(i.a), cx.get64(i.b));
            let r = std::array::from_fn(|l| if first(l) { a[l] } else { b[l] });
            cx.set64(i.d, &r, mask);
        } else {
            let (a, b) = (cx.get(i.a), cx.get(i.b));
            let r = std::array::from_fn(|l| if first(l) { a[l] } else { b[l] });
            cx.set(i.d, &r, mask);
        }
    }
    Flow::Next
}
