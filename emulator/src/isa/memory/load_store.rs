//! `ld`, `ldu`, `st`: scalars and vectors, all spaces.

use super::access::{self, Place, addresses, misaligned, misalignment, place};
use crate::isa::decode::{Address, Decoder, Mods, Result, rows_of};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::memory::Memory;
use crate::machine::program::SHARED_BASE;
use crate::ptx::ast::{self, AddrBase, Operand, Space, Type, VarRef};

struct LdSt {
    addr: Address,
    space: Option<Space>,
    ty: Type,
    strong: bool,
    /// (first row, rows) per element. For loads where a value is extended.
    elems: Vec<(RowId, u32)>,
}

fn space_of(m: &mut Mods) -> Option<Space> {
    Some(
        match m.one_of(&[
            "global",
            "shared",
            "shared::cta",
            "shared::cluster",
            "local",
            "const",
            "param",
            "param::entry",
            "param::func",
        ])? {
            "global" => Space::Global,
            "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
            "local" => Space::Local,
            "const" => Space::Const,
            _ => Space::Param,
        },
    )
}

/// Order, scope and cache hints: legal forms are checked, hints have no effect.
fn qualifiers(m: &mut Mods, load: bool) -> Result<bool> {
    let strong = if load {
        m.one_of(&["weak", "volatile", "relaxed", "acquire"])
    } else {
        m.one_of(&["weak", "volatile", "relaxed", "release"])
    };
    let mmio = strong.is_none() && m.take("mmio");
    if mmio {
        m.expect("relaxed")?;
    }
    if (matches!(strong, Some("relaxed" | "acquire" | "release")) || mmio)
        && m.one_of(&["cta", "cluster", "gpu", "sys"]).is_none()
    {
        return Err(m.error("expected a scope"));
    }
    Ok(mmio || strong.is_some_and(|s| s != "weak"))
}

fn hints(m: &mut Mods) {
    while m
        .one_of(&[
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "nc",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
            "L2::cache_hint",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ])
        .is_some()
    {}
}

fn vector(m: &mut Mods) -> usize {
    match m.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    }
}

fn elements(o: &Operand) -> &[Operand] {
    match o {
        Operand::Vector(v) => v,
        o => std::slice::from_ref(o),
    }
}

pub(super) fn decode_ld(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    let strong = qualifiers(&mut m, true)?;
    let space = space_of(&mut m);
    hints(&mut m);
    let n = vector(&mut m);
    let ty = m.ty()?;
    m.finish()?;
    if n > 1 && n * ty.bytes() > 16 {
        return Err(m.error("a vector has at most 16 bytes on this target"));
    }
    let ops = elements(d.operand(i, 0)?).to_vec();
    if ops.len() != n {
        return Err(m.error(format!(
            "takes {n} destination registers, found {}",
            ops.len()
        )));
    }
    let mut elems = Vec::new();
    for o in &ops {
        elems.push(match o {
            Operand::Reg(r) => (d.reg_row_checked(i, *r, ty, true)?, width(d.reg_type(*r))),
            Operand::Sink => (d.scratch(rows_of(ty)), width(ty)),
            _ => return Err(m.error("the destination is a register")),
        });
    }
    if ty.bytes() == 16 {
        return Err(m.error(".b128 is not supported"));
    }
    // Parameters are the same for all lanes and known at launch.
    if space == Some(Space::Param)
        && let Operand::Addr {
            base: AddrBase::Var(VarRef::Param(p)),
            offset,
        } = *d.operand(i, 1)?
    {
        let p = &d.function.params[p as usize];
        if offset < 0 || offset as u64 + (n * ty.bytes()) as u64 > p.size {
            return Err(m.error(format!(
                "reads outside parameter `{}` of {} bytes",
                p.name, p.size
            )));
        }
        let at = p.offset + offset as u64;
        let x = d.push_aux(Box::new((
            at as usize,
            LdSt {
                addr: dummy(),
                space,
                ty,
                strong,
                elems,
            },
        )));
        return Ok(Inst {
            x,
            ..d.inst(ld_param)
        });
    }
    let mut addr = d.address(i, 1)?;
    let space = fix_space(d, i, space, &mut addr)?;
    let fast =
        space == Some(Space::Shared) && matches!(ty.bytes(), 4) && elems.iter().all(|e| e.1 == 1);
    let x = d.push_aux(Box::new(LdSt {
        addr,
        space,
        ty,
        strong,
        elems,
    }));
    let exec = match (fast, n) {
        (true, 1) => super::super::lanes::versions!(d.cpu, ld_shared_b32),
        _ => ld,
    };
    Ok(Inst { x, ..d.inst(exec) })
}

fn dummy() -> Address {
    Address {
        row: 0,
        wide: false,
        offset: 0,
        space: None,
    }
}

/// A variable named without a space in the opcode is an address in its own space; generic otherwise.
fn fix_space(
    d: &mut Decoder,
    i: &ast::Inst,
    space: Option<Space>,
    addr: &mut Address,
) -> Result<Option<Space>> {
    match (space, addr.space) {
        (Some(a), Some(b)) if a != b && !(a == Space::Const && b == Space::Global) => Err(d.error(
            i,
            format!("the address is in .{b:?}, the instruction in .{a:?}"),
        )),
        (None, Some(b)) => Ok(Some(b)),
        (s, _) => Ok(s),
    }
}

pub(super) fn decode_st(d: &mut Decoder, i: &ast::Inst, mut m: Mods) -> Result<Inst> {
    if m.peek() == Some("async") || m.peek() == Some("bulk") {
        return Err(m.error("not supported"));
    }
    let strong = qualifiers(&mut m, false)?;
    let space = space_of(&mut m);
    hints(&mut m);
    let n = vector(&mut m);
    let ty = m.ty()?;
    m.finish()?;
    if n > 1 && n * ty.bytes() > 16 {
        return Err(m.error("a vector has at most 16 bytes on this target"));
    }
    if space == Some(Space::Param) || space == Some(Space::Const) {
        return Err(m.error("this space cannot be written"));
    }
    let mut addr = d.address(i, 0)?;
    let space = fix_space(d, i, space, &mut addr)?;
    let ops = elements(d.operand(i, 1)?).to_vec();
    if ops.len() != n {
        return Err(m.error(format!("takes {n} source registers, found {}", ops.len())));
    }
    let mut elems = Vec::new();
    for o in &ops {
        elems.push((d.src_operand(i, o, ty, true)?, rows_of(ty)));
    }
    let fast = !strong && space == Some(Space::Shared) && ty.bytes() == 4 && n == 1;
    let x = d.push_aux(Box::new(LdSt {
        addr,
        space,
        ty,
        strong,
        elems,
    }));
    let exec = if fast {
        super::super::lanes::versions!(d.cpu, st_shared_b32)
    } else {
        st
    };
    Ok(Inst { x, ..d.inst(exec) })
}

/// The place of a lane's address when the opcode named the space.
#[inline(always)]
fn classify(space: Option<Space>, a: u64) -> Place {
    match space {
        None => place(a),
        Some(Space::Global | Space::Const) => Place::Global,
        Some(Space::Shared) => Place::Shared(a as u32),
        Some(Space::Local) => Place::Local(a as u32),
        Some(Space::Param) => Place::Param(a as u32),
    }
}

#[inline(always)]
fn extend(ty: Type, v: u64) -> u64 {
    match ty {
        Type::S8 => v as u8 as i8 as i64 as u64,
        Type::S16 => v as u16 as i16 as i64 as u64,
        Type::S32 => v as u32 as i32 as i64 as u64,
        _ => v,
    }
}

#[inline(always)]
unsafe fn put(cx: &mut Cx, (row, rows): (RowId, u32), lane: usize, v: u64) {
    // SAFETY: the row was decoded for this kernel.
    unsafe {
        match rows {
            2 => cx.row64(row)[lane] = v,
            HALF => cx.row(row)[lane] = u32::from(v as u16),
            _ => cx.row(row)[lane] = v as u32,
        }
    }
}

/// Width of a destination, in rows; a 16-bit register keeps its upper half zero.
const HALF: u32 = 0;

fn width(ty: Type) -> u32 {
    if ty.bytes() <= 2 { HALF } else { rows_of(ty) }
}

unsafe fn ld_param(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode_ld`; its rows belong to this kernel.
    unsafe {
        let (at, t) = cx.aux::<(usize, LdSt)>(i.x);
        let n = t.ty.bytes();
        for (k, &e) in t.elems.iter().enumerate() {
            let mut v = [0; 8];
            v[..n].copy_from_slice(&cx.block().launch.params[at + k * n..at + (k + 1) * n]);
            let v = extend(t.ty, u64::from_le_bytes(v));
            match e.1 {
                2 => cx.set64(e.0, &[v; 32], mask),
                HALF => cx.set(e.0, &[u32::from(v as u16); 32], mask),
                _ => cx.set(e.0, &[v as u32; 32], mask),
            }
        }
    }
    Flow::Next
}

unsafe fn ld(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode_ld`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<LdSt>(i.x);
        cx.strong = t.strong;
        let addrs = addresses(cx, &t.addr);
        let size = t.ty.bytes();
        let total = size * t.elems.len();
        let bad = misaligned(&addrs, total as u64, mask);
        if bad != 0 {
            return cx.fail_box(misalignment(&addrs, total as u64, bad));
        }
        if classify(t.space, addrs[mask.trailing_zeros() as usize]) == Place::Global
            && let Some(flow) = ld_global(cx, t, &addrs, mask)
        {
            return flow;
        }
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let mut bytes = [0u8; 16];
            let a = addrs[l];
            if let Err(f) = access::read(cx, classify(t.space, a), a, l as u32, &mut bytes[..total])
            {
                return cx.fail_lane(f, l);
            }
            for (k, &e) in t.elems.iter().enumerate() {
                let mut v = [0; 8];
                v[..size].copy_from_slice(&bytes[k * size..(k + 1) * size]);
                put(cx, e, l, extend(t.ty, u64::from_le_bytes(v)));
            }
        }
    }
    Flow::Next
}

/// All lanes in one allocation: the usual case. `None` when it is not.
#[inline(always)]
unsafe fn ld_global(cx: &mut Cx, t: &LdSt, addrs: &[u64; 32], mask: u32) -> Option<Flow> {
    let size = t.ty.bytes();
    let total = (size * t.elems.len()) as u64;
    let first = addrs[mask.trailing_zeros() as usize];
    let r = match cx.region(first, total) {
        Ok(r) => r,
        Err(f) => return Some(cx.fail_box(f)),
    };
    let mut outside = 0;
    for (l, a) in addrs.iter().enumerate() {
        let at = a.wrapping_sub(r.base);
        outside |= u32::from(at > r.len - total) << l;
    }
    if outside & mask != 0 {
        return None;
    }
    if cx.machine().knobs.checks.uninitialised_global && !r.init.is_null() {
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let at = addrs[l] - r.base;
            if let Some(bad) = Memory::first_uninit(&r, at, total) {
                return Some(cx.fail_box(access::uninitialised_global(r.base, bad, 1 << l)));
            }
        }
    }
    for l in (0..32).filter(|l| mask >> l & 1 != 0) {
        for (k, &e) in t.elems.iter().enumerate() {
            let mut v = [0u8; 8];
            // SAFETY: checked above to lie inside the region.
            unsafe {
                let p = r.host.add((addrs[l] - r.base) as usize + k * size);
                std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), size);
                put(cx, e, l, extend(t.ty, u64::from_le_bytes(v)));
            }
        }
    }
    Some(Flow::Next)
}

unsafe fn st(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode_st`; its rows belong to this kernel.
    unsafe {
        let t = cx.aux::<LdSt>(i.x);
        cx.strong = t.strong;
        let addrs = addresses(cx, &t.addr);
        let size = t.ty.bytes();
        let total = size * t.elems.len();
        let bad = misaligned(&addrs, total as u64, mask);
        if bad != 0 {
            return cx.fail_box(misalignment(&addrs, total as u64, bad));
        }
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let mut bytes = [0u8; 16];
            for (k, &(row, rows)) in t.elems.iter().enumerate() {
                let v = if rows == 2 {
                    cx.row64(row)[l]
                } else {
                    u64::from(cx.row(row)[l])
                };
                bytes[k * size..(k + 1) * size].copy_from_slice(&v.to_le_bytes()[..size]);
            }
            let a = addrs[l];
            if let Err(f) = access::write(cx, classify(t.space, a), a, l as u32, &bytes[..total]) {
                return cx.fail_lane(f, l);
            }
        }
    }
    Flow::Next
}

/// Offsets of 4-byte accesses of all lanes in this block's shared memory; `None` when some lane is elsewhere.
#[inline(always)]
unsafe fn own_shared(cx: &mut Cx, a: &Address, mask: u32) -> Option<[u32; 32]> {
    // SAFETY: the row was decoded for this kernel.
    let offs: [u32; 32] = unsafe {
        if a.wide {
            let r = cx.get64(a.row);
            std::array::from_fn(|l| (r[l] as u32).wrapping_add(a.offset as u32))
        } else {
            let r = cx.get(a.row);
            std::array::from_fn(|l| r[l].wrapping_add(a.offset as u32))
        }
    };
    let b = cx.block();
    let (rank, end) = (b.rank << 24, b.smem.len() as u32);
    let mut bad = 0;
    let mut out = [0; 32];
    for l in 0..32 {
        let off = offs[l].wrapping_sub(rank);
        out[l] = off;
        bad |=
            u32::from(off.wrapping_sub(SHARED_BASE) > end - SHARED_BASE - 4 || off & 3 != 0) << l;
    }
    // An own block without a word of shared memory has `end == SHARED_BASE`; leave it to the general path.
    (end >= SHARED_BASE + 4 && bad & mask == 0).then_some(out)
}

#[inline(always)]
unsafe fn ld_shared_b32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode_ld`; its rows belong to this kernel; `own_shared` checks bounds.
    unsafe {
        let t = cx.aux::<LdSt>(i.x);
        let Some(offs) = own_shared(cx, &t.addr, mask) else {
            return ld(cx, i, mask);
        };
        let (w, pc) = (cx.warp().index, cx.pc);
        let b = cx.block();
        if b.checks.enabled
            && let Err(f) = b.checks.load(w, pc, &offs, 4, mask)
        {
            return cx.fail_box(f);
        }
        let p = cx.block().smem.as_ptr();
        let d = cx.row(t.elems[0].0);
        if mask == u32::MAX {
            for l in 0..32 {
                d[l] = p.add(offs[l] as usize).cast::<u32>().read();
            }
        } else {
            for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                d[l] = p.add(offs[l] as usize).cast::<u32>().read();
            }
        }
    }
    Flow::Next
}

#[inline(always)]
unsafe fn st_shared_b32(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode_st`; its rows belong to this kernel; `own_shared` checks bounds.
    unsafe {
        let t = cx.aux::<LdSt>(i.x);
        let Some(offs) = own_shared(cx, &t.addr, mask) else {
            return st(cx, i, mask);
        };
        let (w, pc) = (cx.warp().index, cx.pc);
        let s = cx.get(t.elems[0].0);
        let b = cx.block();
        let smem = &b.smem;
        let same = |l: usize, from: u32, to: u32| {
            smem[from as usize..to as usize] == s[l].to_le_bytes()[(from - offs[l]) as usize..]
        };
        if b.checks.enabled
            && let Err(f) = b.checks.store(w, pc, &offs, 4, mask, same)
        {
            return cx.fail_box(f);
        }
        let p = cx.block().smem.as_mut_ptr();
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            p.add(offs[l] as usize).cast::<u32>().write(s[l]);
        }
    }
    Flow::Next
}
