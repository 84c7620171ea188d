//! `atom` and `red`: one lane after the other, in lane order.

use super::Place;
use super::access::{self, addresses, misaligned, misalignment, place};
use crate::isa::alu::half_float::sum;
use crate::isa::decode::{Address, Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::ptx::ast::{self, Operand, Space, Type};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

struct Atom {
    addr: Address,
    space: Option<Space>,
    op: Op,
    ty: Type,
    /// Destination; `None` for red.
    dst: Option<RowId>,
    /// The operand (and for cas the value to store), one per element of a vector.
    src: Vec<RowId>,
    swap: Option<RowId>,
}

pub(super) fn decode(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let red = m.mnemonic() == "red";
    m.one_of(&["relaxed", "acquire", "release", "acq_rel"]);
    m.one_of(&["cta", "cluster", "gpu", "sys"]);
    let space = match m.one_of(&["global", "shared", "shared::cta", "shared::cluster"]) {
        None => None,
        Some("global") => Some(Space::Global),
        Some(_) => Some(Space::Shared),
    };
    let op = match m.next() {
        Some("add") => Op::Add,
        Some("min") => Op::Min,
        Some("max") => Op::Max,
        Some("inc") => Op::Inc,
        Some("dec") => Op::Dec,
        Some("and") => Op::And,
        Some("or") => Op::Or,
        Some("xor") => Op::Xor,
        Some("exch") if !red => Op::Exch,
        Some("cas") if !red => Op::Cas,
        _ => return Err(m.error("unknown operation")),
    };
    let noftz = m.take("noftz");
    m.take("L2::cache_hint");
    let ty = m.ty()?;
    m.finish()?;
    use Type::*;
    let legal = match op {
        Op::Add => {
            matches!(ty, U32 | S32 | U64 | F32 | F64)
                || (matches!(ty, F16 | F16x2 | Bf16 | Bf16x2) && noftz)
        }
        Op::Min | Op::Max => matches!(ty, U32 | S32 | U64 | S64),
        Op::Inc | Op::Dec => ty == U32,
        Op::And | Op::Or | Op::Xor => matches!(ty, B32 | B64),
        Op::Exch => matches!(ty, B32 | B64 | U32 | U64 | S32 | F32),
        Op::Cas => matches!(ty, B16 | B32 | B64 | U32 | U64 | S32),
    };
    if !legal {
        return Err(m.error(format!(
            "type .{ty:?} is not legal or not supported with this operation"
        )));
    }
    let at = usize::from(!red);
    let addr = d.address(i, at)?;
    let dst = match i.operands.first() {
        Some(Operand::Sink) if !red => None,
        _ if red => None,
        _ => Some(d.dst(i, 0, ty)?),
    };
    let src = vec![d.src(i, at + 1, ty)?];
    let swap = if op == Op::Cas {
        Some(d.src(i, at + 2, ty)?)
    } else {
        None
    };
    let space = space.or(addr.space);
    let x = d.push_aux(Box::new(Atom {
        addr,
        space,
        op,
        ty,
        dst,
        src,
        swap,
    }));
    Ok(Inst { x, ..d.inst(atom) })
}

fn apply(a: &Atom, global: bool, old: u64, b: u64, swap: u64) -> u64 {
    use Type::*;
    match (a.op, a.ty) {
        (Op::Add, F16 | Bf16) => u64::from(sum(a.ty == Bf16, old as u16, b as u16)),
        (Op::Add, F16x2 | Bf16x2) => {
            let half = |s: u32| {
                let v = sum(a.ty == Bf16x2, (old >> s) as u16, (b >> s) as u16);
                u64::from(v) << s
            };
            half(0) | half(16)
        }
        (Op::Add, F32) => {
            // atom.add.f32 flushes subnormals to zero in global memory and keeps them in shared (PTX ISA, atom).
            let f = |v: f32| {
                if global && v.is_subnormal() {
                    0f32.copysign(v)
                } else {
                    v
                }
            };
            let (x, y) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
            let r = f(f(x) + f(y));
            u64::from(if r.is_nan() { 0x7FFF_FFFF } else { r.to_bits() })
        }
        (Op::Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Op::Add, _) => old.wrapping_add(b),
        (Op::Min, U32 | U64) => old.min(b),
        (Op::Max, U32 | U64) => old.max(b),
        (Op::Min, S32) => u64::from((old as i32).min(b as i32) as u32),
        (Op::Max, S32) => u64::from((old as i32).max(b as i32) as u32),
        (Op::Min, _) => (old as i64).min(b as i64) as u64,
        (Op::Max, _) => (old as i64).max(b as i64) as u64,
        (Op::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (Op::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        (Op::And, _) => old & b,
        (Op::Or, _) => old | b,
        (Op::Xor, _) => old ^ b,
        (Op::Exch, _) => b,
        (Op::Cas, _) => {
            if old == b {
                swap
            } else {
                old
            }
        }
    }
}

unsafe fn atom(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<Atom>(i.x);
        let n = t.ty.bytes();
        let addrs = addresses(cx, &t.addr);
        let bad = misaligned(&addrs, n as u64, mask);
        if bad != 0 {
            return cx.fail_box(misalignment(&addrs, n as u64, bad));
        }
        let value = |cx: &mut Cx, r: RowId, l: usize| {
            if n == 8 {
                cx.row64(r)[l]
            } else {
                u64::from(cx.row(r)[l])
            }
        };
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let a = addrs[l];
            let p = match t.space {
                None => place(a),
                Some(Space::Shared) => Place::Shared(a as u32),
                Some(_) => Place::Global,
            };
            let (b, swap) = (
                value(cx, t.src[0], l),
                t.swap.map_or(0, |r| value(cx, r, l)),
            );
            let old = if let Place::Shared(at) = p {
                // Atomics of one block do not race with each other.
                let pc = cx.pc;
                let w = cx.warp().index;
                let (block, off) = match access::shared(cx, at, n as u32) {
                    Ok(x) => x,
                    Err(f) => return cx.fail_lane(f, l),
                };
                if let Err(f) = block.checks.atomic(w, pc, off as u32, n as u32) {
                    return cx.fail_lane(f, l);
                }
                let mut bytes = [0; 8];
                bytes[..n].copy_from_slice(&block.smem[off..off + n]);
                let old = u64::from_le_bytes(bytes);
                let new = apply(t, false, old, b, swap);
                block.smem[off..off + n].copy_from_slice(&new.to_le_bytes()[..n]);
                old
            } else {
                let mut bytes = [0; 8];
                if let Err(f) = access::read(cx, p, a, l as u32, &mut bytes[..n]) {
                    return cx.fail_lane(f, l);
                }
                let old = u64::from_le_bytes(bytes);
                let new = apply(t, p == Place::Global, old, b, swap);
                if let Err(f) = access::write(cx, p, a, l as u32, &new.to_le_bytes()[..n]) {
                    return cx.fail_lane(f, l);
                }
                old
            };
            if let Some(d) = t.dst {
                if n == 8 {
                    cx.row64(d)[l] = old;
                } else {
                    cx.row(d)[l] = old as u32;
                }
            }
        }
    }
    Flow::Yield
}
