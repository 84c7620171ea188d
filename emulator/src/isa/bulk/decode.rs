//! Decoding and issuing.

use super::linear::{Linear, Route};
use super::tensor::{Direction, Tensor};
use super::{BulkOp, Common, Copy};
use crate::isa::decode::{Address, Decoder, Mods, Result};
use crate::isa::memory::{Access, Place, addresses_of, place, shared_block};
use crate::machine::Origin;
use crate::machine::block::Wait;
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::report::{FaultCode, Finding};
use crate::machine::tensor_map::TensorMap;
use crate::ptx::ast::{self, Operand, Type};

struct TensorInst {
    load: bool,
    rank: usize,
    map: Address,
    coords: Vec<RowId>,
    shared: Address,
    mbar: Option<Address>,
    multicast: Option<RowId>,
    own_only: bool,
}

struct LinearInst {
    route: Route,
    dst: Address,
    src: Address,
    size: RowId,
    mbar: Option<Address>,
    multicast: Option<RowId>,
}

/// Decodes bulk copies, their groups and prefetches.
///
/// # Errors
/// Qualifiers or operands that are not legal or not supported.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let op: Vec<&str> = i.opcode.iter().map(String::as_str).collect();
    match op.as_slice() {
        ["prefetch", ..] if op.contains(&"tensormap") => {
            let mut m = Mods::new(i);
            m.one_of(&["param", "const"]);
            m.expect("tensormap")?;
            m.finish()?;
            d.address(i, 0)?;
            Ok(Some(d.inst(nop)))
        }
        ["cp", "async", "bulk", "commit_group"] => Ok(Some(d.inst(commit))),
        ["cp", "async", "bulk", "wait_group", rest @ ..] => {
            if !matches!(rest, [] | ["read"]) {
                return Err(d.error(i, "expected .read or nothing"));
            }
            let Operand::Int {
                bits,
                negative: false,
            } = *d.operand(i, 0)?
            else {
                return Err(d.error(i, "takes a constant"));
            };
            Ok(Some(Inst {
                a: bits as u32,
                ..d.inst(wait)
            }))
        }
        ["cp", "async", "bulk", "prefetch", ..] => {
            // A hint.
            Ok(Some(d.inst(nop)))
        }
        ["cp", "async", "bulk", "tensor", ..] => tensor(d, i).map(Some),
        ["cp", "async", "bulk", ..] => linear(d, i).map(Some),
        _ => Ok(None),
    }
}

fn tensor(d: &mut Decoder, i: &ast::Inst) -> Result<Inst> {
    let mut m = Mods::new(i);
    for p in ["async", "bulk", "tensor"] {
        m.expect(p)?;
    }
    let rank = match m.next() {
        Some("1d") => 1,
        Some("2d") => 2,
        Some("3d") => 3,
        Some("4d") => 4,
        Some("5d") => 5,
        _ => return Err(m.error("expected .1d to .5d")),
    };
    let dst = m.one_of(&["shared::cluster", "shared::cta", "global"]);
    let (load, own_only) = match dst {
        Some("global") => {
            m.expect("shared::cta")?;
            (false, true)
        }
        Some(s) => {
            m.expect("global")?;
            (true, s == "shared::cta")
        }
        None => return Err(m.error("expected the destination space")),
    };
    m.take("tile");
    m.expect(if load {
        "mbarrier::complete_tx::bytes"
    } else {
        "bulk_group"
    })?;
    let multicast = load && m.take("multicast::cluster");
    let hint = m.take("L2::cache_hint");
    m.finish()?;
    let (shared_at, map_at) = if load { (0, 1) } else { (1, 0) };
    let Operand::TensorAddr {
        base,
        offset,
        lists,
    } = d.operand(i, map_at)?.clone()
    else {
        return Err(d.error(i, "expected [map, {coordinates}]"));
    };
    if lists.len() != 1 || lists[0].len() != rank {
        return Err(d.error(i, format!("expected {rank} coordinates")));
    }
    let map = d.address_of(i, base, offset)?;
    let mut coords = Vec::new();
    for c in &lists[0] {
        coords.push(d.src_operand(i, c, Type::S32, false)?);
    }
    let shared = d.address(i, shared_at)?;
    let mbar = if load { Some(d.address(i, 2)?) } else { None };
    let mut at = if load { 3 } else { 2 };
    let multicast = if multicast {
        at += 1;
        Some(d.src(i, at - 1, Type::U16)?)
    } else {
        None
    };
    if hint {
        d.src(i, at, Type::B64)?;
        at += 1;
    }
    d.arity(i, at)?;
    let x = d.push_aux(Box::new(TensorInst {
        load,
        rank,
        map,
        coords,
        shared,
        mbar,
        multicast,
        own_only,
    }));
    Ok(Inst {
        x,
        ..d.inst(issue_tensor)
    })
}

fn linear(d: &mut Decoder, i: &ast::Inst) -> Result<Inst> {
    let mut m = Mods::new(i);
    m.expect("async")?;
    m.expect("bulk")?;
    let (dst, src) = (m.next().unwrap_or_default(), m.next().unwrap_or_default());
    let route = match (dst, src) {
        ("shared::cluster" | "shared::cta", "global") => Route::Load,
        ("shared::cluster", "shared::cta") => Route::Push,
        ("global", "shared::cta") => Route::Store,
        _ => return Err(m.error("unknown pair of spaces")),
    };
    m.expect(if route == Route::Store {
        "bulk_group"
    } else {
        "mbarrier::complete_tx::bytes"
    })?;
    let multicast = route == Route::Load && m.take("multicast::cluster");
    let hint = m.take("L2::cache_hint");
    m.finish()?;
    let (dst, src) = (d.address(i, 0)?, d.address(i, 1)?);
    let size = d.src(i, 2, Type::U32)?;
    let mut at = 3;
    let mbar = if route == Route::Store {
        None
    } else {
        at += 1;
        Some(d.address(i, 3)?)
    };
    let multicast = if multicast {
        at += 1;
        Some(d.src(i, at - 1, Type::U16)?)
    } else {
        None
    };
    if hint {
        d.src(i, at, Type::B64)?;
        at += 1;
    }
    d.arity(i, at)?;
    let x = d.push_aux(Box::new(LinearInst {
        route,
        dst,
        src,
        size,
        mbar,
        multicast,
    }));
    Ok(Inst {
        x,
        ..d.inst(issue_linear)
    })
}

unsafe fn nop(_: &mut Cx, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn commit(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    let w = cx.warp().index;
    let b = cx.block();
    for l in (0..32).filter(|l| mask >> l & 1 != 0) {
        b.bulk.commit(w * 32 + l);
    }
    b.checks.bulk_commit(w);
    Flow::Next
}

unsafe fn wait(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let w = cx.warp().index;
    let b = cx.block();
    let mut all = true;
    for l in (0..32).filter(|l| mask >> l & 1 != 0) {
        all &= b.bulk.wait(w * 32 + l, i.a as usize);
    }
    if !all {
        return cx.retry(Wait::Bulk);
    }
    b.checks.bulk_wait(w, i.a);
    Flow::Next
}

/// The offset in shared memory of an operand that must point into this cluster.
fn window(a: u64) -> Access<u32> {
    match place(a) {
        Place::Shared(at) => Ok(at),
        _ if a >> 32 == 0 => Ok(a as u32),
        _ => Err(Box::new(Finding::new(
            FaultCode::IllegalAddress,
            "bounds",
            format!("{a:#x} is no address of shared memory"),
        ))),
    }
}

fn aligned(what: &str, a: u64, to: u64) -> Access<()> {
    if a.is_multiple_of(to) {
        return Ok(());
    }
    Err(Box::new(Finding::new(
        FaultCode::Misaligned,
        "alignment",
        format!("{what} {a:#x} must be a multiple of {to}"),
    )))
}

/// The blocks that a load writes to: one, or those of the multicast mask. Each with the offsets of data and mbarrier.
fn targets(
    cx: &mut Cx,
    at: u32,
    mbar: u32,
    bytes: u32,
    mask: Option<u32>,
) -> Access<Vec<(usize, u32, u32)>> {
    let (off, moff) = (at & 0x00FF_FFFF, mbar & 0x00FF_FFFF);
    let ranks: Vec<u32> = match mask {
        None => {
            if at >> 24 != mbar >> 24 {
                return Err(Box::new(Finding::new(
                    FaultCode::LaunchFailed,
                    "mbarrier",
                    format!(
                        "the data go to block {} of the cluster, the mbarrier is in block {}",
                        at >> 24,
                        mbar >> 24
                    ),
                )));
            }
            vec![at >> 24]
        }
        Some(0) => {
            return Err(Box::new(Finding::new(
                FaultCode::LaunchFailed,
                "bounds",
                "the multicast mask is empty",
            )));
        }
        Some(m) => (0..16).filter(|r| m >> r & 1 != 0).collect(),
    };
    let mut out = Vec::new();
    for r in ranks {
        shared_block(cx, r << 24 | moff, 8)?;
        let (b, _) = shared_block(cx, r << 24 | off, bytes)?;
        if b.mbarriers.phases(moff).is_none() {
            return Err(Box::new(Finding::new(
                FaultCode::LaunchFailed,
                "mbarrier",
                format!(
                    "there is no initialised mbarrier at {moff:#x} of block {r} of the cluster"
                ),
            )));
        }
        out.push((b.id, off, moff));
    }
    Ok(out)
}

/// Checks a write by the async proxy in each target.
fn check_targets(cx: &mut Cx, targets: &[(usize, u32, u32)], bytes: u32) -> Access<()> {
    let (w, pc, own) = (cx.warp().index, cx.pc, cx.block().id);
    for &(id, off, moff) in targets {
        if id == own {
            let b = cx.block();
            let phases = b.mbarriers.phases(moff).unwrap_or(0);
            let agent = b.checks.mbar_agent(moff, phases, w, pc);
            b.checks.async_write(agent, off, bytes)?;
        } else if let Some(b) = cx.machine().blocks[id].as_deref_mut() {
            b.checks.remote_store(off, bytes)?;
        }
    }
    Ok(())
}

fn common(cx: &mut Cx, lane: u32) -> Common {
    Common {
        block: cx.block().id,
        origin: Origin {
            pc: cx.pc,
            warp: cx.warp().index,
            lanes: 1 << lane,
        },
    }
}

unsafe fn issue_tensor(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `tensor`.
    let t = unsafe { cx.aux::<TensorInst>(i.x) };
    for l in (0..32).filter(|l| mask >> l & 1 != 0) {
        // SAFETY: the rows were decoded for this kernel.
        if let Err(f) = unsafe { one_tensor(cx, t, l) } {
            return cx.fail_box(Box::new(f.lanes(1 << l)));
        }
    }
    Flow::Next
}

unsafe fn one_tensor(cx: &mut Cx, t: &TensorInst, lane: u32) -> Access<()> {
    let l = lane as usize;
    // SAFETY: the caller's duty.
    let (map_at, at, mbar, multicast) = unsafe {
        let map = addresses_of(cx, &t.map)[l];
        let at = window(addresses_of(cx, &t.shared)[l])?;
        let mbar = match &t.mbar {
            Some(a) => window(addresses_of(cx, a)[l])?,
            None => 0,
        };
        (map, at, mbar, t.multicast.map(|r| cx.get(r)[l] & 0xFFFF))
    };
    // SAFETY: as above.
    let coords: Vec<i64> = t
        .coords
        .iter()
        .map(|&r| unsafe { i64::from(cx.get(r)[l] as i32) })
        .collect();
    aligned("the tensor map's address", map_at, 64)?;
    let mut bytes = [0; 128];
    // A map named as a parameter without its window.
    let map_place = match t.map.space {
        Some(ast::Space::Param) => Place::Param(map_at as u32),
        _ => place(map_at),
    };
    crate::isa::memory::read_bytes(cx, map_place, map_at, lane, &mut bytes)?;
    let map = TensorMap::decode(&bytes)
        .map_err(|e| Box::new(Finding::new(FaultCode::LaunchFailed, "tensor-map", e)))?;
    if map.rank != t.rank {
        return Err(Box::new(Finding::new(
            FaultCode::LaunchFailed,
            "tensor-map",
            format!("the map has rank {}, the instruction {}", map.rank, t.rank),
        )));
    }
    if map.interleave != 0 {
        return Err(Box::new(Finding::new(
            FaultCode::LaunchFailed,
            "tensor-map",
            "interleaved maps are not supported",
        )));
    }
    aligned(
        "the shared memory address of a tensor copy",
        u64::from(at),
        128,
    )?;
    let size = map.box_bytes() as u32;
    let common = common(cx, lane);
    let start: [i64; 5] = std::array::from_fn(|k| coords.get(k).copied().unwrap_or(0));
    let direction = if t.load {
        if t.own_only && at >> 24 != cx.block().rank {
            return Err(Box::new(Finding::new(
                FaultCode::IllegalAddress,
                "bounds",
                ".shared::cta, but the address is of another block",
            )));
        }
        aligned("the mbarrier's address", u64::from(mbar), 8)?;
        let to = targets(cx, at, mbar, size, multicast)?;
        check_targets(cx, &to, size)?;
        for &(id, off, _) in &to {
            if let Some(b) = cx.machine().blocks[id].as_deref_mut() {
                b.checks.tag(off, size, Some(map.swizzle));
            }
        }
        Direction::Load { to }
    } else {
        let (w, pc) = (cx.warp().index, cx.pc);
        let (b, off) = shared_block(cx, at, size)?;
        let agent = b.checks.bulk_agent(w, pc);
        b.checks.async_read(agent, off as u32, size)?;
        let thread = w * 32 + lane;
        let group = b.bulk.issue(thread, common.origin);
        Direction::Store {
            from: off as u32,
            thread,
            group,
        }
    };
    let device = cx.block().launch.device;
    cx.issue(Box::new(BulkOp {
        common,
        copy: Copy::Tensor(Box::new(Tensor {
            map,
            start,
            direction,
            device,
        })),
    }))
}

unsafe fn issue_linear(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `linear`.
    let t = unsafe { cx.aux::<LinearInst>(i.x) };
    for l in (0..32).filter(|l| mask >> l & 1 != 0) {
        // SAFETY: the rows were decoded for this kernel.
        if let Err(f) = unsafe { one_linear(cx, t, l) } {
            return cx.fail_box(Box::new(f.lanes(1 << l)));
        }
    }
    Flow::Next
}

unsafe fn one_linear(cx: &mut Cx, t: &LinearInst, lane: u32) -> Access<()> {
    let l = lane as usize;
    // SAFETY: the caller's duty.
    let (dst, src, size, mbar, multicast) = unsafe {
        let mbar = match &t.mbar {
            Some(a) => window(addresses_of(cx, a)[l])?,
            None => 0,
        };
        let mc = t.multicast.map(|r| cx.get(r)[l] & 0xFFFF);
        (
            addresses_of(cx, &t.dst)[l],
            addresses_of(cx, &t.src)[l],
            cx.get(t.size)[l],
            mbar,
            mc,
        )
    };
    aligned("the destination of a bulk copy", dst, 16)?;
    aligned("the source of a bulk copy", src, 16)?;
    aligned("the size of a bulk copy", u64::from(size), 16)?;
    let common = common(cx, lane);
    let (w, pc) = (cx.warp().index, cx.pc);
    let copy = match t.route {
        Route::Load => {
            let to = targets(cx, window(dst)?, mbar, size, multicast)?;
            check_targets(cx, &to, size)?;
            for &(id, off, _) in &to {
                if let Some(b) = cx.machine().blocks[id].as_deref_mut() {
                    b.checks.tag(off, size, None);
                }
            }
            Linear::Load {
                from: src,
                size,
                to,
            }
        }
        Route::Push => {
            let to = targets(cx, window(dst)?, mbar, size, None)?;
            let (b, off) = shared_block(cx, window(src)?, size)?;
            let agent = b.checks.bulk_agent(w, pc);
            b.checks.async_read(agent, off as u32, size)?;
            check_targets(cx, &to, size)?;
            Linear::Push {
                from: off as u32,
                size,
                to,
            }
        }
        Route::Store => {
            let (b, off) = shared_block(cx, window(src)?, size)?;
            let agent = b.checks.bulk_agent(w, pc);
            b.checks.async_read(agent, off as u32, size)?;
            let thread = w * 32 + lane;
            let group = b.bulk.issue(thread, common.origin);
            Linear::Store {
                from: off as u32,
                to: dst,
                size,
                thread,
                group,
            }
        }
    };
    cx.issue(Box::new(BulkOp {
        common,
        copy: Copy::Linear(copy),
    }))
}
