//! `cp.async` (PTX ISA, "Non-bulk copy"): 4, 8 or 16 bytes a lane from global to the own block's shared memory.
//!
//! The writes are of the generic proxy but asynchronous: a lane sees them when it has waited for their group, others when
//! they are ordered behind such a wait or behind the mbarrier that tracks them. Groups are per thread. A warp's instruction is
//! one operation of the machine; operations complete in any order.

use std::collections::VecDeque;

use super::decode::{Address, Decoder, Mods, Result};
use super::memory::{Access, Place, addresses_of, place, shared_block};
use crate::machine::block::{BlockId, Wait};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, PredId, RowId};
use crate::machine::memory::Memory;
use crate::machine::report::{FaultCode, Finding};
use crate::machine::{AsyncOp, Machine, Origin};
use crate::ptx::ast::{self, Operand, Type};

/// Copies of one thread that are not done, by group: the last is the group being formed.
#[derive(Clone)]
struct Thread {
    /// Number of the first of `pending`.
    first: u64,
    pending: VecDeque<u32>,
}

/// An arrival that waits for the copies before it.
struct Arrival {
    warp: u32,
    /// Copies with smaller numbers come first.
    before: u64,
    lanes: u32,
    at: [u32; 32],
    /// Which of the warp's copies it covers, for the checks.
    segment: u32,
}

/// Copies of a block's threads.
pub struct Copies {
    threads: Vec<Thread>,
    next: u64,
    /// Copies under way: warp, number, lanes.
    under_way: Vec<(u32, u64, u32)>,
    arrivals: Vec<Arrival>,
}

fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |l| mask >> l & 1 != 0)
}

impl Copies {
    /// For `warps` warps.
    pub fn new(warps: u32) -> Self {
        let none = Thread {
            first: 0,
            pending: VecDeque::from([0]),
        };
        Self {
            threads: vec![none; warps as usize * 32],
            next: 0,
            under_way: Vec::new(),
            arrivals: Vec::new(),
        }
    }

    /// A copy of these lanes: its number, and the group of each.
    fn issue(&mut self, warp: u32, mask: u32) -> (u64, [u64; 32]) {
        let mut groups = [0; 32];
        for l in lanes(mask) {
            let t = &mut self.threads[(warp * 32 + l) as usize];
            groups[l as usize] = t.first + t.pending.len() as u64 - 1;
            if let Some(n) = t.pending.back_mut() {
                *n += 1;
            }
        }
        self.next += 1;
        self.under_way.push((warp, self.next, mask));
        (self.next, groups)
    }

    fn finish(&mut self, warp: u32, number: u64, mask: u32, groups: &[u64; 32]) {
        for l in lanes(mask) {
            let t = &mut self.threads[(warp * 32 + l) as usize];
            if let Some(n) = groups[l as usize]
                .checked_sub(t.first)
                .and_then(|i| t.pending.get_mut(i as usize))
            {
                *n -= 1;
            }
        }
        self.under_way.retain(|x| x.1 != number);
    }

    fn commit(&mut self, thread: u32) {
        let t = &mut self.threads[thread as usize];
        t.pending.push_back(0);
        while t.pending.len() > 1 && t.pending[0] == 0 {
            t.pending.pop_front();
            t.first += 1;
        }
    }

    /// True when of the thread's committed groups only the newest `n` may be unfinished.
    fn waited(&self, thread: u32, n: usize) -> bool {
        let p = &self.threads[thread as usize].pending;
        p.iter().rev().skip(1 + n).all(|&x| x == 0)
    }

    fn all_done(&self, thread: u32) -> bool {
        let p = &self.threads[thread as usize].pending;
        p.iter().all(|&x| x == 0)
    }

    /// Arrivals, as (mbarrier, warp, segment), that no copy holds back any more.
    fn due(&mut self) -> Vec<(u32, u32, u32)> {
        let mut due = Vec::new();
        for a in &mut self.arrivals {
            let held = self
                .under_way
                .iter()
                .filter(|x| x.0 == a.warp && x.1 < a.before)
                .fold(0, |m, x| m | x.2);
            due.extend(lanes(a.lanes & !held).map(|l| (a.at[l as usize], a.warp, a.segment)));
            a.lanes &= held;
        }
        self.arrivals.retain(|a| a.lanes != 0);
        due
    }
}

/// When source bytes are left out.
enum Limit {
    None,
    /// Row of the source size.
    Size(RowId),
    /// Predicate: the source is ignored.
    Ignore(PredId, bool),
}

struct CopyInst {
    dst: Address,
    src: Address,
    bytes: u32,
    limit: Limit,
}

struct Arrive {
    addr: Address,
    window: bool,
    noinc: bool,
}

/// Decodes `cp.async` other than bulk.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    if m.mnemonic() != "cp" || !m.take("async") || m.peek() == Some("bulk") {
        return Ok(None);
    }
    match m.next() {
        Some("commit_group") => {
            m.finish()?;
            d.arity(i, 0)?;
            Ok(Some(d.inst(commit)))
        }
        Some("wait_all") => {
            m.finish()?;
            d.arity(i, 0)?;
            Ok(Some(d.inst(wait_all)))
        }
        Some("wait_group") => {
            m.finish()?;
            d.arity(i, 1)?;
            let Operand::Int {
                bits,
                negative: false,
            } = *d.operand(i, 0)?
            else {
                return Err(d.error(i, "takes a constant"));
            };
            Ok(Some(Inst {
                a: bits.min(u32::MAX.into()) as u32,
                ..d.inst(wait)
            }))
        }
        Some("mbarrier") => {
            m.expect("arrive")?;
            let noinc = m.take("noinc");
            let window = m.one_of(&["shared", "shared::cta"]).is_some();
            m.expect("b64")?;
            m.finish()?;
            d.arity(i, 1)?;
            let addr = d.address(i, 0)?;
            let x = d.push_aux(Box::new(Arrive {
                addr,
                window: window || addr.space.is_some(),
                noinc,
            }));
            Ok(Some(Inst {
                x,
                ..d.inst(arrive)
            }))
        }
        Some(level @ ("ca" | "cg")) => copy(d, i, m, level == "cg").map(Some),
        _ => Err(m.error("expected .ca, .cg or an operation on groups")),
    }
}

fn copy(d: &mut Decoder, i: &ast::Inst, mut m: Mods, all_levels: bool) -> Result<Inst> {
    if m.one_of(&["shared", "shared::cta"]).is_none() {
        return Err(m.error("expected the destination space .shared"));
    }
    m.expect("global")?;
    // ptxas takes the two in either order.
    let hint = m.take("L2::cache_hint");
    m.one_of(&["L2::64B", "L2::128B", "L2::256B"]);
    let hint = hint || m.take("L2::cache_hint");
    m.finish()?;
    let Operand::Int { bits, .. } = *d.operand(i, 2)? else {
        return Err(d.error(i, "the size is a constant"));
    };
    if !(bits == 16 || !all_levels && matches!(bits, 4 | 8)) {
        return Err(d.error(i, format!("a size of {bits} is not legal here")));
    }
    let (dst, src) = (d.address(i, 0)?, d.address(i, 1)?);
    let rest = i.operands.len() - usize::from(hint);
    let limit = match rest {
        3 => Limit::None,
        4 => match d.operand(i, 3)?.clone() {
            Operand::Reg(r) if d.reg_type(r) == Type::Pred => {
                Limit::Ignore(d.pred_reg(i, r)?, false)
            }
            o @ Operand::NotReg(_) => {
                let (p, negated) = d.pred(i, &o)?;
                Limit::Ignore(p, negated)
            }
            Operand::Int { bits: n, .. } if n > bits => {
                return Err(d.error(i, format!("{n} bytes of the source for a copy of {bits}")));
            }
            _ => Limit::Size(d.src(i, 3, Type::U32)?),
        },
        _ => {
            return Err(d.error(
                i,
                "takes addresses, a size, and what of the source is left out",
            ));
        }
    };
    if hint {
        d.src(i, rest, Type::B64)?;
    }
    let x = d.push_aux(Box::new(CopyInst {
        dst,
        src,
        bytes: bits as u32,
        limit,
    }));
    Ok(Inst { x, ..d.inst(issue) })
}

/// A warp's copy.
struct CopyOp {
    block: BlockId,
    origin: Origin,
    number: u64,
    groups: [u64; 32],
    /// Of each lane: offset in shared memory, address, bytes read.
    to: [u32; 32],
    from: [u64; 32],
    read: [u32; 32],
    bytes: u32,
}

impl AsyncOp for CopyOp {
    fn run(&mut self, m: &mut Machine) -> Access<()> {
        let Some(block) = m.blocks[self.block].as_deref() else {
            return Ok(());
        };
        let device = block.launch.device;
        for l in lanes(self.origin.lanes) {
            let (i, mut data) = (l as usize, [0u8; 16]);
            let n = self.read[i] as usize;
            if n > 0 {
                let bytes = read_global(m, device, self.from[i], n, 1 << l)?;
                data[..n].copy_from_slice(&bytes[..n]);
            }
            if let Some(b) = m.blocks[self.block].as_deref_mut() {
                let (at, n) = (self.to[i] as usize, self.bytes as usize);
                b.smem[at..at + n].copy_from_slice(&data[..n]);
            }
        }
        let warp = self.origin.warp;
        if let Some(b) = m.blocks[self.block].as_deref_mut() {
            b.copies
                .finish(warp, self.number, self.origin.lanes, &self.groups);
            settle(b)?;
        }
        m.wake(self.block);
        Ok(())
    }

    fn block(&self) -> BlockId {
        self.block
    }

    fn origin(&self) -> Origin {
        self.origin
    }
}

fn read_global(m: &mut Machine, device: u32, at: u64, n: usize, lane: u32) -> Access<[u8; 16]> {
    let r = m
        .region(device, at, n as u64)
        .map_err(|f| Box::new(f.lanes(lane)))?;
    let off = at - r.base;
    if m.knobs.checks.uninitialised_global
        && let Some(bad) = Memory::first_uninit(&r, off, n as u64)
    {
        return Err(super::memory::uninitialised(r.base, bad, lane));
    }
    let mut out = [0; 16];
    // SAFETY: `region` has checked that the bytes lie in a live allocation.
    unsafe { std::ptr::copy_nonoverlapping(r.host.add(off as usize), out.as_mut_ptr(), n) };
    Ok(out)
}

/// Lets the arrivals happen that nothing holds back.
fn settle(b: &mut crate::machine::block::Block) -> Access<()> {
    for (at, warp, segment) in b.copies.due() {
        b.checks.mbar_arrive_copies(warp, at, segment);
        b.mbar_arrive(at, 1, false)?;
    }
    Ok(())
}

unsafe fn issue(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `copy`; its rows belong to this kernel.
    let (t, dst, src, read) = unsafe {
        let t = cx.aux::<CopyInst>(i.x);
        let read = match t.limit {
            Limit::None => [t.bytes; 32],
            Limit::Size(r) => cx.get(r),
            Limit::Ignore(p, negated) => {
                let p = cx.pred(p) ^ if negated { u32::MAX } else { 0 };
                std::array::from_fn(|l| if p >> l & 1 != 0 { 0 } else { t.bytes })
            }
        };
        (t, addresses_of(cx, &t.dst), addresses_of(cx, &t.src), read)
    };
    match start(cx, t, mask, &dst, src, read) {
        Ok(()) => Flow::Next,
        Err(f) => cx.fail_box(f),
    }
}

fn start(
    cx: &mut Cx,
    t: &CopyInst,
    mask: u32,
    dst: &[u64; 32],
    from: [u64; 32],
    read: [u32; 32],
) -> Access<()> {
    let (w, pc, rank) = (cx.warp().index, cx.pc, cx.block().rank);
    let mut to = [0; 32];
    for l in lanes(mask) {
        let i = l as usize;
        one(cx, t, rank, dst[i], from[i], read[i])
            .map(|off| to[i] = off)
            .map_err(|f| Box::new(f.lanes(1 << l)))?;
    }
    let b = cx.block();
    let agent = b.checks.copy_agent(w, pc);
    for l in lanes(mask) {
        b.checks
            .copy_write(agent, to[l as usize], t.bytes)
            .map_err(|f| Box::new(f.lanes(1 << l)))?;
    }
    let (number, groups) = b.copies.issue(w, mask);
    let block = b.id;
    cx.issue(Box::new(CopyOp {
        block,
        origin: Origin {
            pc,
            warp: w,
            lanes: mask,
        },
        number,
        groups,
        to,
        from,
        read,
        bytes: t.bytes,
    }))
}

/// Checks one lane's copy; the offset in the block's shared memory.
fn one(cx: &mut Cx, t: &CopyInst, rank: u32, dst: u64, src: u64, read: u32) -> Access<u32> {
    let fail = |code, check, text| Err(Box::new(Finding::new(code, check, text)));
    if read > t.bytes {
        return fail(
            FaultCode::LaunchFailed,
            "cp.async",
            format!("{read} bytes of the source for a copy of {}", t.bytes),
        );
    }
    for (what, a) in [("destination", dst), ("source", src)] {
        if !a.is_multiple_of(t.bytes.into()) && (read > 0 || what == "destination") {
            return fail(
                FaultCode::Misaligned,
                "alignment",
                format!("the {what} {a:#x} of a copy of {} bytes", t.bytes),
            );
        }
    }
    let at = match place(dst) {
        Place::Shared(at) => at,
        _ if dst >> 32 == 0 => dst as u32,
        _ => {
            return fail(
                FaultCode::IllegalAddress,
                "bounds",
                format!("{dst:#x} is no address of shared memory"),
            );
        }
    };
    if at >> 24 != rank {
        return fail(
            FaultCode::IllegalAddress,
            "bounds",
            format!(
                "{at:#x} is shared memory of block {} of the cluster",
                at >> 24
            ),
        );
    }
    let (b, off) = shared_block(cx, at, t.bytes)?;
    b.checks.tag(off as u32, t.bytes, None);
    Ok(off as u32)
}

unsafe fn commit(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    let w = cx.warp().index;
    let b = cx.block();
    for l in lanes(mask) {
        b.copies.commit(w * 32 + l);
    }
    b.checks.copy_commit(w);
    Flow::Next
}

unsafe fn wait(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    let (w, n) = (cx.warp().index, i.a);
    let b = cx.block();
    if !lanes(mask).all(|l| b.copies.waited(w * 32 + l, n as usize)) {
        return cx.retry(Wait::Bulk);
    }
    b.checks.copy_wait(w, n as usize);
    Flow::Next
}

unsafe fn wait_all(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    let w = cx.warp().index;
    let b = cx.block();
    if !lanes(mask).all(|l| b.copies.all_done(w * 32 + l)) {
        return cx.retry(Wait::Bulk);
    }
    for l in lanes(mask) {
        b.copies.commit(w * 32 + l);
    }
    b.checks.copy_commit(w);
    b.checks.copy_wait(w, 0);
    Flow::Next
}

unsafe fn arrive(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let (t, addrs) = unsafe {
        let t = cx.aux::<Arrive>(i.x);
        (t, addresses_of(cx, &t.addr))
    };
    match track(cx, t, mask, &addrs) {
        Ok(()) => Flow::Next,
        Err(f) => cx.fail_box(f),
    }
}

fn track(cx: &mut Cx, t: &Arrive, mask: u32, addrs: &[u64; 32]) -> Access<()> {
    let (w, rank) = (cx.warp().index, cx.block().rank);
    let mut at = [0; 32];
    for l in lanes(mask) {
        let a = addrs[l as usize];
        let of = |text: String| {
            let f = Finding::new(FaultCode::LaunchFailed, "mbarrier", text);
            Err(Box::new(f.lanes(1 << l)))
        };
        let window = match place(a) {
            _ if t.window => a as u32,
            Place::Shared(at) => at,
            _ => {
                return of(format!(
                    "an mbarrier lives in shared memory, {a:#x} is elsewhere"
                ));
            }
        };
        if window >> 24 != rank {
            return of(format!(
                "copies arrive at mbarriers of the own block only, {window:#x} is of block {}",
                window >> 24
            ));
        }
        let (b, off) = shared_block(cx, window, 8)?;
        at[l as usize] = off as u32;
        if !t.noinc {
            b.mbar_increment(off as u32)
                .map_err(|f| Box::new(f.lanes(1 << l)))?;
        }
    }
    let b = cx.block();
    let segment = b.checks.copy_segment(w);
    let before = b.copies.next + 1;
    b.copies.arrivals.push(Arrival {
        warp: w,
        before,
        lanes: mask,
        at,
        segment,
    });
    settle(b)?;
    let id = b.id;
    cx.machine().wake(id);
    Ok(())
}
