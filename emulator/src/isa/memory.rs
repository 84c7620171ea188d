//! Loads, stores, atomics, fences, and what goes with addresses.

mod access;
mod atomic;
mod load_store;

pub use access::{
    Access, Place, addresses as addresses_of, outside_shared as outside, place, read as read_bytes,
    shared as shared_block, uninitialised_global as uninitialised, write as write_bytes,
};

use super::decode::{Decoder, Mods, Result};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst};
use crate::ptx::ast::{self, Type};

/// Generic window of shared memory.
pub const SHARED_WINDOW: u64 = 0x10_0000_0000;
/// Generic window of local memory.
pub const LOCAL_WINDOW: u64 = 0x11_0000_0000;
/// Generic window of the kernel's parameters.
pub const PARAM_WINDOW: u64 = 0x12_0000_0000;

/// Decodes memory instructions.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    Ok(Some(match m.mnemonic() {
        "ld" | "ldu" => load_store::decode_ld(d, i, m)?,
        "st" => load_store::decode_st(d, i, m)?,
        "atom" | "red" => match m.peek() {
            Some("async") => return Ok(None),
            _ => atomic::decode(d, i, m)?,
        },
        "cvta" => {
            let to = m.take("to");
            let space = m.one_of(&[
                "global",
                "shared",
                "shared::cta",
                "shared::cluster",
                "local",
                "const",
                "param",
                "param::entry",
            ]);
            let Some(space) = space else {
                return Err(m.error("expected a state space"));
            };
            let ty = m.ty()?;
            m.finish()?;
            if ty != Type::U64 {
                return Err(m.error("addresses have 64 bits"));
            }
            let window = match space {
                "global" | "const" => 0,
                "local" => LOCAL_WINDOW,
                "param" | "param::entry" => PARAM_WINDOW,
                _ => SHARED_WINDOW,
            };
            let a = match d.operand(i, 1)?.clone() {
                ast::Operand::Addr { base, offset } => d.address_of(i, base, offset)?.row,
                o => d.src_operand(i, &o, Type::U64, false)?,
            };
            let b = d.constant(crate::machine::inst::RowInit::Imm64(if to {
                window.wrapping_neg()
            } else {
                window
            }));
            Inst {
                d: d.dst(i, 0, Type::U64)?,
                a,
                b,
                ..d.inst(add_window)
            }
        }
        "isspacep" => {
            let space = m.next().unwrap_or_default();
            m.finish()?;
            let x = match space {
                "global" => 0,
                "shared" | "shared::cta" => 1,
                "shared::cluster" => 2,
                "local" => 3,
                "const" => 4,
                "param" | "param::entry" => 5,
                _ => return Err(m.error("expected a state space")),
            };
            let p = d.dst_pred(i, d.operand(i, 0)?)?;
            Inst {
                d: p,
                a: d.src(i, 1, Type::U64)?,
                x,
                ..d.inst(isspacep)
            }
        }
        "mapa" => {
            let shared = m.take("shared::cluster");
            let ty = m.ty()?;
            m.finish()?;
            let a = match d.operand(i, 1)?.clone() {
                ast::Operand::Addr { base, offset } => d.address_of(i, base, offset)?.row,
                o => d.src_operand(i, &o, ty, false)?,
            };
            let b = d.src(i, 2, Type::U32)?;
            let wide = ty.bytes() == 8;
            Inst {
                d: d.dst(i, 0, ty)?,
                a,
                b,
                x: u32::from(wide) | u32::from(shared) << 1,
                ..d.inst(mapa)
            }
        }
        "getctarank" => {
            let shared = m.take("shared::cluster");
            let ty = m.ty()?;
            m.finish()?;
            let wide = ty.bytes() == 8;
            Inst {
                d: d.dst(i, 0, Type::U32)?,
                a: d.src(i, 1, ty)?,
                x: u32::from(wide) | u32::from(shared) << 1,
                ..d.inst(getctarank)
            }
        }
        "fence" | "membar" => {
            if m.mnemonic() == "fence" && matches!(m.peek(), Some("proxy" | "mbarrier_init")) {
                return Ok(None);
            }
            if m.mnemonic() == "membar" {
                if m.one_of(&["cta", "gl", "sys", "proxy"]).is_none() {
                    return Err(m.error("expected .cta, .gl or .sys"));
                }
            } else {
                m.one_of(&["sc", "acq_rel", "acquire", "release"]);
                if m.one_of(&["cta", "cluster", "gpu", "sys"]).is_none() {
                    return Err(m.error("expected a scope"));
                }
            }
            m.finish()?;
            d.inst(fence)
        }
        "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            if matches!(m.peek(), Some("tensormap" | "const" | "param"))
                || i.opcode.iter().any(|p| p == "tensormap")
            {
                return Ok(None);
            }
            for p in &i.opcode[1..] {
                if ![
                    "global",
                    "local",
                    "L1",
                    "L2",
                    "L2::evict_last",
                    "L2::evict_normal",
                ]
                .contains(&p.as_str())
                {
                    return Err(d.error(i, format!("qualifier `.{p}` is not known")));
                }
            }
            d.address(i, 0)?;
            d.inst(hint)
        }
        "createpolicy" => {
            // A cache hint: its value is opaque and nobody but cache-hint operands may look at it.
            let d0 = d.dst(i, 0, Type::B64)?;
            let a = d.constant(crate::machine::inst::RowInit::Imm64(0));
            Inst {
                d: d0,
                a,
                b: a,
                ..d.inst(add_window)
            }
        }
        _ => return Ok(None),
    }))
}

unsafe fn hint(_: &mut Cx, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn fence(_: &mut Cx, _: &Inst, _: u32) -> Flow {
    // Memory here is sequentially consistent; ordering is the checks' business.
    Flow::Next
}

unsafe fn add_window(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let (a, b) = (cx.get64(i.a), cx.get64(i.b));
        let r = std::array::from_fn(|l| a[l].wrapping_add(b[l]));
        cx.set64(i.d, &r, mask);
    }
    Flow::Next
}

unsafe fn isspacep(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let a = cx.get64(i.a);
        let rank = cx.block().rank;
        let mut v = 0;
        for (l, &addr) in a.iter().enumerate() {
            let hit = match (place(addr), i.x) {
                (Place::Global, 0)
                | (Place::Shared(_), 2)
                | (Place::Local(_), 3)
                | (Place::Param(_), 5) => true,
                (Place::Shared(at), 1) => at >> 24 == rank,
                _ => false,
            };
            v |= u32::from(hit) << l;
        }
        cx.set_pred(i.d, v, mask);
    }
    Flow::Next
}

unsafe fn mapa(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let rank = cx.get(i.b);
        if i.x & 1 != 0 {
            let a = cx.get64(i.a);
            let r = std::array::from_fn(|l| (a[l] & !0xFF00_0000) | u64::from(rank[l]) << 24);
            cx.set64(i.d, &r, mask);
        } else {
            let a = cx.get(i.a);
            let r = std::array::from_fn(|l| (a[l] & 0x00FF_FFFF) | rank[l] << 24);
            cx.set(i.d, &r, mask);
        }
    }
    Flow::Next
}

unsafe fn getctarank(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let r = if i.x & 1 != 0 {
            let a = cx.get64(i.a);
            std::array::from_fn(|l| (a[l] >> 24) as u32 & 0xFF)
        } else {
            let a = cx.get(i.a);
            std::array::from_fn(|l| a[l] >> 24)
        };
        cx.set(i.d, &r, mask);
    }
    Flow::Next
}
