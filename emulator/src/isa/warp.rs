//! Instructions in which the lanes of a warp talk: shfl, vote, match, redux, elect, activemask.

use super::decode::{Decoder, Mods, Result};
use crate::machine::block::Wait;
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

struct Shfl {
    mode: u8,
    dst: u32,
    pred: Option<u32>,
    src: u32,
    b: u32,
    c: u32,
    members: u32,
}

/// Decodes warp instructions.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "shfl" => {
            m.expect("sync")?;
            let mode = match m.next() {
                Some("up") => 0,
                Some("down") => 1,
                Some("bfly") => 2,
                Some("idx") => 3,
                _ => return Err(m.error("expected .up, .down, .bfly or .idx")),
            };
            m.expect("b32")?;
            m.finish()?;
            d.arity(i, 5)?;
            let (dst, pred) = match d.operand(i, 0)?.clone() {
                Operand::Pair(r, p) => (
                    match r {
                        Some(r) => d.reg_row_checked(i, r, Type::B32, false)?,
                        None => d.scratch(1),
                    },
                    p.map(|p| d.pred_reg(i, p)).transpose()?,
                ),
                _ => (d.dst(i, 0, Type::B32)?, None),
            };
            let (src, b, c) = (
                d.src(i, 1, Type::B32)?,
                d.src(i, 2, Type::B32)?,
                d.src(i, 3, Type::B32)?,
            );
            let members = d.src(i, 4, Type::B32)?;
            let x = d.push_aux(Box::new(Shfl {
                mode,
                dst,
                pred,
                src,
                b,
                c,
                members,
            }));
            Inst { x, ..d.inst(shfl) }
        }
        "vote" => {
            m.expect("sync")?;
            let mode = m.next().unwrap_or_default();
            let ty = m.ty()?;
            m.finish()?;
            d.arity(i, 3)?;
            let (a, neg) = d.pred(i, d.operand(i, 1)?)?;
            let b = d.src(i, 2, Type::B32)?;
            let (dst, x) = match (mode, ty) {
                ("ballot", Type::B32) => (d.dst(i, 0, Type::B32)?, 0),
                ("all", Type::Pred) => (d.dst_pred(i, d.operand(i, 0)?)?, 1),
                ("any", Type::Pred) => (d.dst_pred(i, d.operand(i, 0)?)?, 2),
                ("uni", Type::Pred) => (d.dst_pred(i, d.operand(i, 0)?)?, 3),
                _ => {
                    return Err(
                        m.error("expected .all, .any or .uni with .pred, or .ballot with .b32")
                    );
                }
            };
            Inst {
                d: dst,
                a,
                b,
                c: u32::from(neg),
                x,
                ..d.inst(vote)
            }
        }
        "match" => {
            let all = match m.next() {
                Some("any") => false,
                Some("all") => true,
                _ => return Err(m.error("expected .any or .all")),
            };
            m.expect("sync")?;
            let ty = m.ty()?;
            m.finish()?;
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err(m.error("takes .b32 or .b64"));
            }
            let (dst, pred) = match d.operand(i, 0)?.clone() {
                Operand::Pair(r, p) if all => (
                    match r {
                        Some(r) => d.reg_row_checked(i, r, Type::B32, false)?,
                        None => d.scratch(1),
                    },
                    p.map(|p| d.pred_reg(i, p)).transpose()?,
                ),
                _ => (d.dst(i, 0, Type::B32)?, None),
            };
            let a = d.src(i, 1, ty)?;
            let b = d.src(i, 2, Type::B32)?;
            let x = d.push_aux(Box::new((ty.bytes() == 8, all, pred)));
            Inst {
                d: dst,
                a,
                b,
                x,
                ..d.inst(match_sync)
            }
        }
        "redux" => {
            m.expect("sync")?;
            let op = m.next().unwrap_or_default();
            let ty = m.ty()?;
            m.finish()?;
            let x = match (op, ty) {
                ("add", Type::U32 | Type::S32) => 0,
                ("min", Type::U32) => 1,
                ("max", Type::U32) => 2,
                ("min", Type::S32) => 3,
                ("max", Type::S32) => 4,
                ("and", Type::B32) => 5,
                ("or", Type::B32) => 6,
                ("xor", Type::B32) => 7,
                _ => return Err(m.error("operation and type are not legal on this target")),
            };
            Inst {
                d: d.dst(i, 0, ty)?,
                a: d.src(i, 1, ty)?,
                b: d.src(i, 2, Type::B32)?,
                x,
                ..d.inst(redux)
            }
        }
        "elect" => {
            m.expect("sync")?;
            m.finish()?;
            d.arity(i, 2)?;
            let Operand::Pair(r, p) = d.operand(i, 0)?.clone() else {
                return Err(d.error(i, "the destination is d|p"));
            };
            let dst = match r {
                Some(r) => d.reg_row_checked(i, r, Type::B32, false)?,
                None => d.scratch(1),
            };
            let c = match p {
                Some(p) => d.pred_reg(i, p)?,
                None => crate::machine::inst::PRED_SINK,
            };
            Inst {
                d: dst,
                c,
                b: d.src(i, 1, Type::B32)?,
                ..d.inst(elect)
            }
        }
        "activemask" => {
            m.expect("b32")?;
            m.finish()?;
            Inst {
                d: d.dst(i, 0, Type::B32)?,
                ..d.inst(activemask)
            }
        }
        _ => return Ok(None),
    }))
}

/// For `.sync` instructions with a member mask (`row`, per lane): `None` when all of its lanes that live are here and
/// agree, else what to answer.
pub(super) fn members(cx: &mut Cx, mask: u32, row: &[u32; 32]) -> Option<Flow> {
    let first = row[mask.trailing_zeros() as usize];
    let live = cx.warp().live();
    let differ = (0..32)
        .filter(|&l| mask >> l & 1 != 0 && row[l as usize] != first)
        .fold(0, |m, l| m | 1u32 << l);
    if differ != 0 {
        return Some(
            cx.fail(
                Finding::new(
                    FaultCode::LaunchFailed,
                    "divergence",
                    "lanes that execute this together bring different member masks",
                )
                .lanes(differ),
            ),
        );
    }
    if mask & !first != 0 {
        return Some(
            cx.fail(
                Finding::new(
                    FaultCode::LaunchFailed,
                    "divergence",
                    format!("lanes outside their own member mask {first:#010x} execute this"),
                )
                .lanes(mask & !first),
            ),
        );
    }
    if first & live & !mask == 0 {
        return None;
    }
    if first & cx.frag_mask & !mask != 0 {
        let held = first & cx.frag_mask & !mask;
        return Some(
            cx.fail(
                Finding::new(
                    FaultCode::LaunchFailed,
                    "divergence",
                    format!("the guard holds back lanes {held:#010x} of the member mask"),
                )
                .lanes(mask),
            ),
        );
    }
    Some(cx.retry(Wait::Converge))
}

unsafe fn shfl(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<Shfl>(i.x);
        let who = cx.get(t.members);
        if let Some(flow) = members(cx, mask, &who) {
            return flow;
        }
        let (src, b, c) = (cx.get(t.src), cx.get(t.b), cx.get(t.c));
        let (mut out, mut ok) = ([0; 32], 0u32);
        for l in 0..32i32 {
            let (b, c) = ((b[l as usize] & 31) as i32, c[l as usize]);
            let (clamp, seg) = ((c & 31) as i32, (c >> 8 & 31) as i32);
            let max = (l & seg) | (clamp & !seg);
            let min = l & seg;
            let (j, valid) = match t.mode {
                0 => (l - b, l - b >= max),
                1 => (l + b, l + b <= max),
                2 => (l ^ b, l ^ b <= max),
                _ => (min | (b & !seg), (min | (b & !seg)) <= max),
            };
            let j = if valid { j } else { l };
            // What a lane that takes no part would give is undefined: a pattern that shows.
            out[l as usize] = if mask >> j & 1 != 0 {
                src[j as usize]
            } else {
                0xBAD5_4F11
            };
            ok |= u32::from(valid) << l;
        }
        cx.set(t.dst, &out, mask);
        if let Some(p) = t.pred {
            cx.set_pred(p, ok, mask);
        }
    }
    Flow::Next
}

unsafe fn vote(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let who = cx.get(i.b);
        if let Some(flow) = members(cx, mask, &who) {
            return flow;
        }
        let v = (cx.pred(i.a) ^ i.c.wrapping_neg()) & mask;
        let p = |b: bool| if b { u32::MAX } else { 0 };
        match i.x {
            0 => cx.set(i.d, &[v; 32], mask),
            1 => cx.set_pred(i.d, p(v == mask), mask),
            2 => cx.set_pred(i.d, p(v != 0), mask),
            _ => cx.set_pred(i.d, p(v == mask || v == 0), mask),
        }
    }
    Flow::Next
}

unsafe fn match_sync(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let who = cx.get(i.b);
        if let Some(flow) = members(cx, mask, &who) {
            return flow;
        }
        let &(wide, all, pred) = cx.aux::<(bool, bool, Option<u32>)>(i.x);
        let v = if wide {
            cx.get64(i.a)
        } else {
            cx.get(i.a).map(u64::from)
        };
        let out: [u32; 32] = std::array::from_fn(|l| {
            (0..32)
                .filter(|&k| mask >> k & 1 != 0 && v[k] == v[l])
                .fold(0, |m, k| m | 1 << k)
        });
        if all {
            let same = out[mask.trailing_zeros() as usize] == mask;
            cx.set(i.d, &[if same { mask } else { 0 }; 32], mask);
            if let Some(p) = pred {
                cx.set_pred(p, if same { u32::MAX } else { 0 }, mask);
            }
        } else {
            cx.set(i.d, &out, mask);
        }
    }
    Flow::Next
}

unsafe fn redux(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let who = cx.get(i.b);
        if let Some(flow) = members(cx, mask, &who) {
            return flow;
        }
        let a = cx.get(i.a);
        let it = (0..32).filter(|&l| mask >> l & 1 != 0).map(|l| a[l]);
        let r = match i.x {
            0 => it.fold(0, u32::wrapping_add),
            1 => it.min().unwrap_or(0),
            2 => it.max().unwrap_or(0),
            3 => it.map(|v| v as i32).min().unwrap_or(0) as u32,
            4 => it.map(|v| v as i32).max().unwrap_or(0) as u32,
            5 => it.fold(u32::MAX, |x, y| x & y),
            6 => it.fold(0, |x, y| x | y),
            _ => it.fold(0, |x, y| x ^ y),
        };
        cx.set(i.d, &[r; 32], mask);
    }
    Flow::Next
}

unsafe fn elect(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operands were decoded for this kernel.
    unsafe {
        let who = cx.get(i.b);
        if let Some(flow) = members(cx, mask, &who) {
            return flow;
        }
        // Any leader is legal as long as it is always the same for a mask: the lowest lane, or by seed the highest.
        let high = cx.machine().knobs.seed & 1 == 0;
        let leader = if high {
            31 - mask.leading_zeros()
        } else {
            mask.trailing_zeros()
        };
        cx.set(i.d, &[leader; 32], mask);
        cx.set_pred(i.c, 1 << leader, mask);
    }
    Flow::Next
}

unsafe fn activemask(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // "Predicated-active threads": those whose guard holds (PTX ISA, activemask).
    // SAFETY: the row was decoded for this kernel.
    unsafe { cx.set(i.d, &[mask; 32], mask) };
    Flow::Next
}
