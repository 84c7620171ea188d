//! `ldmatrix`, `stmatrix`, `movmatrix`: 8 x 8 matrices of 16-bit elements between shared memory and the lanes of a warp.
//!
//! Row r of matrix j is the 16 bytes at the address that lane 8 j + r holds. Lane l has elements (l / 4, 2 (l % 4)) and
//! (l / 4, 2 (l % 4) + 1) of each matrix in one register, the first in its low half; `.trans` swaps row and column.

use super::decode::{Address, Decoder, Mods, Result};
use super::memory::{Place, addresses_of, place, shared_block};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

struct Matrix {
    store: bool,
    trans: bool,
    window: bool,
    addr: Address,
    regs: Vec<RowId>,
}

/// Decodes matrix moves.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    let store = match m.mnemonic() {
        "ldmatrix" => false,
        "stmatrix" => true,
        "movmatrix" => {
            for p in ["sync", "aligned", "m8n8", "trans", "b16"] {
                m.expect(p)?;
            }
            m.finish()?;
            return Ok(Some(Inst {
                d: d.dst(i, 0, Type::B32)?,
                a: d.src(i, 1, Type::B32)?,
                ..d.inst(movmatrix)
            }));
        }
        _ => return Ok(None),
    };
    m.expect("sync")?;
    m.expect("aligned")?;
    m.expect("m8n8")?;
    let n = match m.next() {
        Some("x1") => 1,
        Some("x2") => 2,
        Some("x4") => 4,
        _ => return Err(m.error("expected .x1, .x2 or .x4")),
    };
    let trans = m.take("trans");
    let window = m.one_of(&["shared", "shared::cta"]).is_some();
    m.expect("b16")?;
    m.finish()?;
    d.arity(i, 2)?;
    let (at_addr, at_regs) = if store { (0, 1) } else { (1, 0) };
    let addr = d.address(i, at_addr)?;
    let ops = match d.operand(i, at_regs)?.clone() {
        Operand::Vector(v) => v,
        o => vec![o],
    };
    if ops.len() != n {
        return Err(m.error(format!("takes {n} registers, found {}", ops.len())));
    }
    let mut regs = Vec::new();
    for o in &ops {
        regs.push(match o {
            Operand::Reg(r) => d.reg_row_checked(i, *r, Type::B32, false)?,
            o if store => d.src_operand(i, o, Type::B32, false)?,
            _ => return Err(m.error("expected registers")),
        });
    }
    let window = window || addr.space.is_some();
    let x = d.push_aux(Box::new(Matrix {
        store,
        trans,
        window,
        addr,
        regs,
    }));
    Ok(Some(Inst {
        x,
        ..d.inst(matrix)
    }))
}

/// Lane and half of element (row, col).
fn home(row: usize, col: usize, trans: bool) -> (usize, usize) {
    let (r, c) = if trans { (col, row) } else { (row, col) };
    (4 * r + c / 2, c % 2)
}

unsafe fn matrix(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.whole_warp(mask) {
        return flow;
    }
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let (t, addrs) = unsafe {
        let t = cx.aux::<Matrix>(i.x);
        (t, addresses_of(cx, &t.addr))
    };
    let (w, pc) = (cx.warp().index, cx.pc);
    for (j, &reg) in t.regs.iter().enumerate() {
        for row in 0..8 {
            let lane = 8 * j + row;
            let a = addrs[lane];
            let at = match if t.window {
                Place::Shared(a as u32)
            } else {
                place(a)
            } {
                Place::Shared(at) => at,
                _ => {
                    let f = Finding::new(
                        FaultCode::IllegalAddress,
                        "bounds",
                        format!("{a:#x} is no address of shared memory"),
                    );
                    return cx.fail(f.lanes(1 << lane));
                }
            };
            if at % 16 != 0 {
                let f = Finding::new(
                    FaultCode::Misaligned,
                    "alignment",
                    format!("a matrix row at {at:#x}, which is no multiple of 16"),
                );
                return cx.fail(f.lanes(1 << lane));
            }
            let mut stored = [0; 16];
            if t.store {
                for col in 0..8 {
                    let (l, half) = home(row, col, t.trans);
                    // SAFETY: the row belongs to this kernel.
                    let v = unsafe { cx.row(reg)[l] } >> (16 * half);
                    stored[2 * col..2 * col + 2].copy_from_slice(&(v as u16).to_le_bytes());
                }
            }
            let (b, off) = match shared_block(cx, at, 16) {
                Ok(x) => x,
                Err(f) => return cx.fail_lane(f, lane),
            };
            let mut offs = [0; 32];
            offs[lane] = off as u32;
            let told = if t.store {
                let (smem, first) = (&b.smem, off as u32);
                let same = |_: usize, from: u32, to: u32| {
                    let at = (from - first) as usize..(to - first) as usize;
                    smem[from as usize..to as usize] == stored[at]
                };
                b.checks.store(w, pc, &offs, 16, 1 << lane, same)
            } else {
                b.checks.load(w, pc, &offs, 16, 1 << lane)
            };
            if let Err(f) = told {
                return cx.fail_lane(f, lane);
            }
            if t.store {
                b.smem[off..off + 16].copy_from_slice(&stored);
                continue;
            }
            for col in 0..8 {
                let (l, half) = home(row, col, t.trans);
                let e = off + 2 * col;
                let shift = 16 * half;
                let s = &cx.block().smem;
                let v = u32::from(u16::from_le_bytes([s[e], s[e + 1]]));
                // SAFETY: the row belongs to this kernel.
                let word = unsafe { &mut cx.row(reg)[l] };
                *word = *word & !(0xFFFF << shift) | v << shift;
            }
        }
    }
    Flow::Next
}

unsafe fn movmatrix(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.whole_warp(mask) {
        return flow;
    }
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let a = cx.get(i.a);
        let mut r = [0u32; 32];
        for row in 0..8 {
            for col in 0..8 {
                let ((from, fh), (to, th)) = (home(row, col, false), home(col, row, false));
                r[to] |= (a[from] >> (16 * fh) & 0xFFFF) << (16 * th);
            }
        }
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}
