//! Warpgroup matrix operations (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//!
//! Each of the four warps computes the sixteen rows of D that are its own; the operation as a whole is what the four do.
//! It runs in the async proxy: its reads of shared memory are checked when it is issued, happen when it runs, and its
//! registers belong to it until the warp has waited for its group.

mod decode;
mod operands;

use std::collections::{BTreeMap, VecDeque};

pub use decode::decode;

use super::mma_arith::{MmaKind, Mode, mma_tile};
use crate::machine::block::{BlockId, Wait};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::knobs::Numerics;
use crate::machine::report::{FaultCode, Finding};
use crate::machine::{AsyncOp, Machine, Origin};
use operands::Descriptor;

/// The parts of an instruction that are known when it is decoded.
pub(crate) struct WgmmaInst {
    kind: MmaKind,
    n: u32,
    /// Registers of D: one row each.
    d: Vec<RowId>,
    /// D holds two f16 in a register.
    d_half: bool,
    /// A from registers, or the row pair of its descriptor.
    a: ASource,
    /// Row pair of B's descriptor.
    b: RowId,
    /// Predicate scale-d, and whether it is inverted.
    scale_d: (u32, bool),
    neg_a: bool,
    neg_b: bool,
    /// Operands with M or N as the contiguous dimension.
    a_mn: bool,
    b_mn: bool,
    /// Bytes of an element of A and B.
    elem: u32,
}

pub(crate) enum ASource {
    Registers(Vec<RowId>),
    Shared(RowId),
}

#[derive(Default)]
struct WarpState {
    open: u64,
    committed: VecDeque<u64>,
    pending: BTreeMap<u64, u32>,
    /// Registers in flight: group, rows, instruction.
    inflight: Vec<(u64, &'static [RowId], u32)>,
    /// Rows touched since the last wgmma.fence, by number; `None` before the first fence.
    dirty: Option<Vec<u64>>,
    /// Operations issued so far, with instruction and descriptors, to compare with the other warps of the warpgroup.
    issued: VecDeque<(u64, u32, u64, u64)>,
    count: u64,
}

/// Matrix operations of a block's warps.
pub struct WgmmaState {
    warps: Vec<WarpState>,
}

impl WgmmaState {
    /// For `warps` warps.
    pub fn new(warps: u32) -> Self {
        Self {
            warps: (0..warps)
                .map(|_| WarpState {
                    open: 1,
                    ..WarpState::default()
                })
                .collect(),
        }
    }

    /// Warp `w` executes an instruction that touches `rows`, all of them registers of some matrix operation.
    pub fn touch(&mut self, w: u32, rows: &[RowId]) -> Option<Finding> {
        let s = &mut self.warps[w as usize];
        for (_, held, pc) in &s.inflight {
            if let Some(r) = rows.iter().find(|r| held.contains(r)) {
                return Some(
                    Finding::new(
                        FaultCode::LaunchFailed,
                        "wgmma",
                        format!("touches a register (row {r}) of a matrix operation in flight"),
                    )
                    .other(format!(
                        "instruction {pc}, for which the warp has not waited"
                    )),
                );
            }
        }
        if let Some(d) = &mut s.dirty {
            for &r in rows {
                d[r as usize / 64] |= 1 << (r % 64);
            }
        }
        None
    }
}

fn misuse(text: impl Into<String>) -> Box<Finding> {
    Box::new(Finding::new(FaultCode::LaunchFailed, "wgmma", text))
}

/// One warp's share of a matrix operation.
struct WgmmaOp {
    block: BlockId,
    origin: Origin,
    inst: &'static WgmmaInst,
    a: Option<Descriptor>,
    b: Descriptor,
    scale_d: bool,
    group: u64,
}

impl AsyncOp for WgmmaOp {
    fn run(&mut self, m: &mut Machine) -> Result<(), Box<Finding>> {
        let mode = match m.knobs.numerics {
            Numerics::Exact => Mode::Exact,
            Numerics::Fast => Mode::Fast,
        };
        let Some(block) = m.blocks[self.block].as_deref_mut() else {
            return Ok(());
        };
        let (t, w) = (self.inst, self.origin.warp as usize);
        let n = t.n as usize;
        let mut a = [0u8; 16 * 32];
        let mut b = vec![0u8; n * 32];
        match (&t.a, &self.a) {
            (ASource::Registers(rows), _) => {
                operands::gather_registers(&block.warps[w].regs, rows, t.elem, &mut a)
            }
            (_, Some(desc)) => {
                desc.gather(&block.smem, (self.origin.warp % 4) * 16, 16, t.a_mn, &mut a)?
            }
            _ => {}
        }
        self.b.gather(&block.smem, 0, t.n, t.b_mn, &mut b)?;
        let regs = &mut block.warps[w].regs;
        let mut acc = vec![0u32; 16 * n];
        operands::load_d(regs, &t.d, t.d_half, n, &mut acc);
        mma_tile(
            t.kind,
            16,
            n,
            &a,
            &b,
            &mut acc,
            self.scale_d,
            t.neg_a,
            t.neg_b,
            mode,
        );
        operands::store_d(regs, &t.d, t.d_half, n, &acc);
        let s = &mut block.wgmma.warps[w];
        if let Some(p) = s.pending.get_mut(&self.group) {
            *p -= 1;
            if *p == 0 {
                s.pending.remove(&self.group);
            }
        }
        m.totals.wgmma_macs += 16 * u64::from(t.n) * u64::from(32 / t.elem);
        m.wake(self.block);
        Ok(())
    }

    fn block(&self) -> BlockId {
        self.block
    }

    fn domain(&self) -> u64 {
        1 + (self.block as u64) * 32 + u64::from(self.origin.warp)
    }

    fn origin(&self) -> Origin {
        self.origin
    }

    fn outlives(&self) -> Option<Finding> {
        Some(*misuse(
            "the warp exits while this matrix operation is still under way",
        ))
    }
}

pub(crate) unsafe fn fence(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    let (w, rows) = (cx.warp().index as usize, cx.warp().regs.len());
    let s = &mut cx.block().wgmma.warps[w];
    match &mut s.dirty {
        Some(d) => d.fill(0),
        None => s.dirty = Some(vec![0; rows.div_ceil(64)]),
    }
    Flow::Next
}

pub(crate) unsafe fn commit(cx: &mut Cx, _: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    let w = cx.warp().index;
    let b = cx.block();
    let s = &mut b.wgmma.warps[w as usize];
    s.committed.push_back(s.open);
    s.open += 1;
    b.checks.wgmma_commit(w);
    Flow::Next
}

pub(crate) unsafe fn wait(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    let (w, n) = (cx.warp().index, i.a as usize);
    let b = cx.block();
    let s = &mut b.wgmma.warps[w as usize];
    let done = s.committed.len().saturating_sub(n);
    if s.committed
        .iter()
        .take(done)
        .any(|g| s.pending.contains_key(g))
    {
        return cx.retry(Wait::Wgmma);
    }
    for _ in 0..done {
        if let Some(g) = s.committed.pop_front() {
            s.inflight.retain(|(x, ..)| *x > g);
        }
    }
    b.checks.wgmma_wait(w, i.a);
    Flow::Next
}

pub(crate) unsafe fn mma_async(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = cx.converge(mask) {
        return flow;
    }
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    match unsafe { issue(cx, i, mask) } {
        Ok(()) => Flow::Next,
        Err(f) => cx.fail_box(f),
    }
}

/// The value that all lanes hold.
fn uniform(v: &[u64; 32], what: &str) -> Result<u64, Box<Finding>> {
    match v.iter().position(|x| *x != v[0]) {
        None => Ok(v[0]),
        Some(l) => Err(misuse(format!(
            "{what} differs between lanes: {:#x} in lane 0, {:#x} in lane {l}",
            v[0], v[l]
        ))),
    }
}

unsafe fn issue(cx: &mut Cx, i: &Inst, mask: u32) -> Result<(), Box<Finding>> {
    let (w, pc) = (cx.warp().index, cx.pc);
    // SAFETY: the caller's duty.
    let (t, b_bits, p) = unsafe {
        let t = cx.aux::<WgmmaInst>(i.x);
        (
            t,
            cx.get64(t.b),
            cx.pred(t.scale_d.0) ^ if t.scale_d.1 { u32::MAX } else { 0 },
        )
    };
    if mask != u32::MAX {
        return Err(misuse(
            "a warpgroup has 128 threads; some lanes of this warp have exited or never were",
        ));
    }
    let b_bits = uniform(&b_bits, "B's descriptor")?;
    let a_bits = match t.a {
        // SAFETY: as above.
        ASource::Shared(r) => uniform(&unsafe { cx.get64(r) }, "A's descriptor")?,
        ASource::Registers(_) => 0,
    };
    if p != 0 && p != u32::MAX {
        return Err(misuse("scale-d differs between lanes"));
    }
    let checks = cx.machine().knobs.checks;
    let block = cx.block();
    if block.warps.len() as u32 <= (w | 3) {
        return Err(misuse(
            "the warpgroup is not complete: a warpgroup is four warps from a multiple of four on",
        ));
    }
    if checks.wgmma {
        agree(block, w, pc, a_bits, b_bits)?;
        registers(&block.wgmma.warps[w as usize], t, pc)?;
    }
    let b = Descriptor::parse(b_bits)?;
    let a = if let ASource::Shared(_) = t.a {
        Some(Descriptor::parse(a_bits)?)
    } else {
        None
    };
    let agent = block.checks.wgmma_agent(w, pc);
    let end = block.smem.len() as u32;
    let mut look = |d: &Descriptor, first: u32, rows: u32, mn: bool| -> Result<(), Box<Finding>> {
        d.chunks(first, rows, mn, |at, _, _| {
            if at + 16 > end || at < crate::machine::program::SHARED_BASE {
                return Err(crate::isa::memory::outside(at, 16, end));
            }
            block.checks.async_read(agent, at, 16)?;
            block.checks.check_tag(at, d.swizzle)
        })
    };
    if let Some(a) = &a {
        look(a, (w % 4) * 16, 16, t.a_mn)?;
    }
    look(&b, 0, t.n, t.b_mn)?;
    let s = &mut block.wgmma.warps[w as usize];
    let group = s.open;
    *s.pending.entry(group).or_default() += 1;
    s.inflight.push((group, &t.d, pc));
    if let ASource::Registers(rows) = &t.a {
        s.inflight.push((group, rows, pc));
    }
    let id = block.id;
    let origin = Origin {
        pc,
        warp: w,
        lanes: mask,
    };
    cx.issue(Box::new(WgmmaOp {
        block: id,
        origin,
        inst: t,
        a,
        b,
        scale_d: p != 0,
        group,
    }))
}

/// The four warps of a warpgroup issue the same operations with the same descriptors in the same order.
fn agree(
    block: &mut crate::machine::block::Block,
    w: u32,
    pc: u32,
    a: u64,
    b: u64,
) -> Result<(), Box<Finding>> {
    let k = block.wgmma.warps[w as usize].count;
    for o in (w & !3..(w & !3) + 4).filter(|o| *o != w) {
        if let Some(&(_, opc, oa, ob)) = block.wgmma.warps[o as usize]
            .issued
            .iter()
            .find(|x| x.0 == k)
            && (opc, oa, ob) != (pc, a, b)
        {
            return Err(Box::new(
                misuse(format!("warps of one warpgroup disagree on their matrix operation {k}: descriptors A {a:#x}, B {b:#x}"))
                    .other(format!("warp {o}: instruction {opc}, descriptors A {oa:#x}, B {ob:#x}")),
            ));
        }
    }
    let s = &mut block.wgmma.warps[w as usize];
    s.count += 1;
    s.issued.push_back((k, pc, a, b));
    if s.issued.len() > 256 {
        s.issued.pop_front();
    }
    Ok(())
}

/// The registers of an operation about to be issued: fenced, and not in flight other than as accumulators of its like.
fn registers(s: &WarpState, t: &WgmmaInst, pc: u32) -> Result<(), Box<Finding>> {
    let Some(dirty) = &s.dirty else {
        return Err(misuse(
            "a wgmma.fence must come before the first matrix operation of a warp",
        ));
    };
    let a_rows: &[RowId] = if let ASource::Registers(r) = &t.a {
        r
    } else {
        &[]
    };
    if let Some(r) =
        t.d.iter()
            .chain(a_rows)
            .find(|r| dirty[**r as usize / 64] >> (**r % 64) & 1 != 0)
    {
        return Err(misuse(format!(
            "register row {r} was touched after the last wgmma.fence"
        )));
    }
    for (_, held, opc) in &s.inflight {
        let same = std::ptr::eq(held.as_ptr(), t.d.as_ptr()) || *held == t.d.as_slice();
        if !same && t.d.iter().chain(a_rows).any(|r| held.contains(r)) {
            return Err(Box::new(
                misuse("shares registers with a matrix operation in flight that has other accumulators")
                    .other(format!("instruction {opc} (this one is {pc})")),
            ));
        }
    }
    Ok(())
}
