//! mbarrier objects (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier"), the cluster barrier,
//! and the fences that publish them.
//!
//! The state of an object is kept beside shared memory, keyed by its offset; the eight bytes in shared memory hold a
//! pattern, so that a plain access to them shows.

use std::collections::BTreeMap;

use super::decode::{Address, Decoder, Mods, Result};
use super::memory::{Place, addresses_of, place, shared_block};
use crate::machine::Machine;
use crate::machine::block::{Block, BlockId, Wait, Warp};
use crate::machine::exec::Cx;
use crate::machine::inst::{Flow, Inst, RowId};
use crate::machine::report::{FaultCode, Finding};
use crate::ptx::ast::{self, Operand, Type};

/// Largest count and transaction count.
const MAX: i64 = (1 << 20) - 1;

/// One object.
#[derive(Clone, Debug)]
pub struct Mbar {
    /// Arrivals each phase needs.
    pub expected: i64,
    /// Arrivals still missing.
    pub pending: i64,
    /// Bytes announced less bytes come.
    pub tx: i64,
    /// Completed phases.
    pub phases: u64,
    /// Bytes announced and come in this phase, for reports.
    pub announced: i64,
    /// See above.
    pub come: i64,
}

impl Mbar {
    /// Whether the phase of parity (or state) `v` is over.
    fn test(&self, off: u32, v: u64, parity: bool) -> std::result::Result<bool, Box<Finding>> {
        if parity {
            return if v > 1 {
                Err(misuse(format!("a phase parity is 0 or 1, found {v}")))
            } else {
                Ok(self.phases & 1 != v)
            };
        }
        let phase = v >> 20;
        if phase > self.phases || phase + 1 < self.phases {
            return Err(misuse(format!(
                "mbarrier at {off:#x}: the state is of phase {phase}, the object is in {}",
                self.phases
            )));
        }
        Ok(phase != self.phases)
    }
}

/// The mbarriers of a block.
#[derive(Default)]
pub struct Mbarriers {
    objects: BTreeMap<u32, Mbar>,
    /// Warps whose waits have run out of time.
    expired: u32,
}

impl Mbarriers {
    /// State of the object at `at`, for reports.
    pub fn describe(&self, at: u32) -> String {
        match self.objects.get(&at) {
            None => format!("mbarrier at {at:#x}, which is not initialised"),
            Some(m) => format!(
                "mbarrier at {at:#x}: phase {}, {} of {} arrivals missing, {} bytes missing ({} announced, {} come)",
                m.phases, m.pending, m.expected, m.tx, m.announced, m.come
            ),
        }
    }

    /// Lets waits whose time is over answer false. True when there was one.
    pub fn expire_waits(&mut self, warps: &mut [Warp]) -> bool {
        for w in warps {
            if w.frags.iter().any(|f| matches!(f.wait, Wait::Mbarrier(_))) {
                self.expired |= 1 << w.index;
            }
        }
        self.expired != 0
    }

    /// The live object that overlaps `[at, at + bytes)`.
    pub fn overlapping(&self, at: u32, bytes: u32) -> Option<u32> {
        self.objects
            .range(..at + bytes)
            .next_back()
            .map(|(&o, _)| o)
            .filter(|o| o + 8 > at)
    }

    /// Completed phases of the object at `at`.
    pub fn phases(&self, at: u32) -> Option<u64> {
        self.objects.get(&at).map(|m| m.phases)
    }
}

fn misuse(text: String) -> Box<Finding> {
    Box::new(Finding::new(FaultCode::LaunchFailed, "mbarrier", text))
}

impl Block {
    fn mbar(&mut self, at: u32) -> std::result::Result<&mut Mbar, Box<Finding>> {
        self.mbarriers.objects.get_mut(&at).ok_or_else(|| {
            misuse(format!(
                "there is no initialised mbarrier at {at:#x} (or it was invalidated)"
            ))
        })
    }

    /// Completes the phase if nothing is missing. True when it did.
    fn mbar_settle(&mut self, at: u32) -> bool {
        let Some(m) = self.mbarriers.objects.get_mut(&at) else {
            return false;
        };
        if m.pending != 0 || m.tx != 0 {
            return false;
        }
        m.phases += 1;
        m.pending = m.expected;
        (m.announced, m.come) = (0, 0);
        let phases = m.phases;
        self.checks.mbar_complete(at, phases);
        true
    }

    /// `bytes` have come (complete_tx). True when the phase completed and waiters should look.
    ///
    /// # Errors
    /// No such object; the count leaves its range.
    pub fn mbar_complete_tx(
        &mut self,
        at: u32,
        bytes: i64,
    ) -> std::result::Result<bool, Box<Finding>> {
        let m = self.mbar(at)?;
        m.tx -= bytes;
        m.come += bytes;
        if m.tx < -MAX {
            return Err(misuse(format!(
                "mbarrier at {at:#x}: its transaction count fell to {}, the least is {}",
                m.tx, -MAX
            )));
        }
        Ok(self.mbar_settle(at))
    }

    fn mbar_expect(&mut self, at: u32, bytes: i64) -> std::result::Result<(), Box<Finding>> {
        let m = self.mbar(at)?;
        m.tx += bytes;
        m.announced += bytes;
        if m.tx > MAX {
            return Err(misuse(format!(
                "mbarrier at {at:#x}: its transaction count rose to {}, the most is {MAX}",
                m.tx
            )));
        }
        Ok(())
    }

    /// One arrival more is missing in this phase.
    ///
    /// # Errors
    /// No such object; the count leaves its range.
    pub fn mbar_increment(&mut self, at: u32) -> std::result::Result<(), Box<Finding>> {
        let m = self.mbar(at)?;
        m.pending += 1;
        if m.pending > MAX {
            return Err(misuse(format!(
                "mbarrier at {at:#x}: its pending count rose above {MAX}"
            )));
        }
        Ok(())
    }

    /// `count` arrivals. The state before them, and true when the phase completed.
    ///
    /// # Errors
    /// No such object; more arrivals than the phase misses.
    pub fn mbar_arrive(
        &mut self,
        at: u32,
        count: i64,
        drop: bool,
    ) -> std::result::Result<(u64, bool), Box<Finding>> {
        let m = self.mbar(at)?;
        if count < 1 || count > m.pending {
            return Err(misuse(format!(
                "mbarrier at {at:#x}: {count} arrivals, but this phase misses {} of {}",
                m.pending, m.expected
            )));
        }
        let token = m.phases << 20 | m.pending as u64;
        m.pending -= count;
        if drop {
            m.expected -= count;
        }
        Ok((token, self.mbar_settle(at)))
    }
}

impl Machine {
    /// Bytes of a copy have come at the mbarrier `at` of block `b`.
    ///
    /// # Errors
    /// Misuse of the object; the block is gone.
    pub fn complete_tx(
        &mut self,
        b: BlockId,
        at: u32,
        bytes: i64,
    ) -> std::result::Result<(), Box<Finding>> {
        let Some(block) = self
            .blocks
            .get_mut(b)
            .and_then(|b| b.as_deref_mut())
            .filter(|b| !b.done)
        else {
            return Err(misuse(
                "a copy completes on an mbarrier of a block that has exited".into(),
            ));
        };
        if block.mbar_complete_tx(at, bytes)? {
            self.wake(b);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    Inval,
    Arrive {
        drop: bool,
        expect: bool,
        no_complete: bool,
    },
    Expect,
    Complete,
    Wait {
        parity: bool,
        park: bool,
    },
}

struct Op {
    kind: Kind,
    addr: Address,
    /// The address is a window address, not generic.
    window: bool,
    /// May name another block of the cluster.
    cluster: bool,
    /// Row of the count, the state or the parity.
    value: Option<RowId>,
    /// Destination: row pair of the state, or predicate.
    dst: Option<u32>,
}

/// Decodes mbarrier instructions and `fence.mbarrier_init`, `fence.proxy`.
///
/// # Errors
/// Qualifiers or operands that are not legal.
pub fn decode(d: &mut Decoder, i: &ast::Inst) -> Result<Option<Inst>> {
    let mut m = Mods::new(i);
    match m.mnemonic() {
        "fence" => return decode_fence(d, m),
        "mbarrier" => {}
        _ => return Ok(None),
    }
    let mut kind = match m.next() {
        Some("init") => Kind::Init,
        Some("inval") => Kind::Inval,
        Some("arrive") => Kind::Arrive {
            drop: false,
            expect: false,
            no_complete: false,
        },
        Some("arrive_drop") => Kind::Arrive {
            drop: true,
            expect: false,
            no_complete: false,
        },
        Some("expect_tx") => Kind::Expect,
        Some("complete_tx") => Kind::Complete,
        Some("test_wait") => Kind::Wait {
            parity: false,
            park: false,
        },
        Some("try_wait") => Kind::Wait {
            parity: false,
            park: true,
        },
        Some("pending_count") => {
            m.expect("b64")?;
            m.finish()?;
            let (dst, a) = (d.dst(i, 0, Type::U32)?, d.src(i, 1, Type::B64)?);
            return Ok(Some(Inst {
                d: dst,
                a,
                ..d.inst(pending_count)
            }));
        }
        _ => return Err(m.error("unknown operation on an mbarrier")),
    };
    if let Kind::Arrive {
        expect,
        no_complete,
        ..
    } = &mut kind
    {
        *expect = m.take("expect_tx");
        *no_complete = m.take("noComplete");
    }
    if let Kind::Wait { parity, .. } = &mut kind {
        *parity = m.take("parity");
    }
    let ordered = !matches!(kind, Kind::Init | Kind::Inval);
    if ordered
        && m.one_of(&["release", "acquire", "relaxed"]).is_some()
        && m.one_of(&["cta", "cluster"]).is_none()
    {
        return Err(m.error("expected the scope .cta or .cluster"));
    }
    let space = m.one_of(&["shared", "shared::cta", "shared::cluster"]);
    m.expect("b64")?;
    m.finish()?;
    let cluster = matches!(space, Some("shared::cluster")) || space.is_none();
    let mut at = 0;
    let mut dst = None;
    match kind {
        Kind::Wait { .. } => {
            dst = Some(d.dst_pred(i, d.operand(i, 0)?)?);
            at = 1;
        }
        Kind::Arrive { .. } => {
            if matches!(d.operand(i, 0)?, Operand::Sink) {
                at = 1;
            } else if matches!(d.operand(i, 0)?, Operand::Reg(_)) {
                if space == Some("shared::cluster") {
                    return Err(m.error("an arrive on .shared::cluster returns no state"));
                }
                dst = Some(d.dst(i, 0, Type::B64)?);
                at = 1;
            }
        }
        _ => {}
    }
    let addr = d.address(i, at)?;
    let parity = matches!(kind, Kind::Wait { parity: true, .. });
    let value = match kind {
        Kind::Inval => None,
        Kind::Init | Kind::Expect | Kind::Complete => Some(d.src(i, at + 1, Type::U32)?),
        Kind::Arrive { expect: true, .. } => Some(d.src(i, at + 1, Type::U32)?),
        Kind::Arrive { .. } => {
            if i.operands.len() > at + 1 {
                Some(d.src(i, at + 1, Type::U32)?)
            } else {
                None
            }
        }
        Kind::Wait { .. } => Some(d.src(i, at + 1, if parity { Type::U32 } else { Type::B64 })?),
    };
    if matches!(kind, Kind::Wait { .. }) && i.operands.len() > at + 2 {
        d.src(i, at + 2, Type::U32)?;
    }
    let window = space.is_some() || addr.space.is_some();
    let x = d.push_aux(Box::new(Op {
        kind,
        addr,
        window,
        cluster,
        value,
        dst,
    }));
    Ok(Some(Inst {
        x,
        ..d.inst(mbarrier)
    }))
}

fn decode_fence(d: &mut Decoder, mut m: Mods) -> Result<Option<Inst>> {
    match m.next() {
        Some("mbarrier_init") => {
            m.expect("release")?;
            m.expect("cluster")?;
            m.finish()?;
            Ok(Some(d.inst(nop)))
        }
        Some("proxy") => match m.next() {
            Some("async" | "async::generic") => {
                // One space or all: only fences that reach shared memory matter to its checks.
                let space = m.one_of(&["global", "shared::cta", "shared::cluster"]);
                m.finish()?;
                Ok(Some(if space == Some("global") {
                    d.inst(nop)
                } else {
                    d.inst(fence_proxy_async)
                }))
            }
            Some("alias") => {
                m.finish()?;
                Ok(Some(d.inst(nop)))
            }
            Some(p) => Err(m.error(format!("proxy `.{p}` is not supported"))),
            None => Err(m.error("expected a proxy")),
        },
        _ => Ok(None),
    }
}

unsafe fn nop(_: &mut Cx, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn fence_proxy_async(cx: &mut Cx, _: &Inst, _: u32) -> Flow {
    let w = cx.warp().index;
    cx.block().checks.fence_proxy(w);
    Flow::Next
}

unsafe fn pending_count(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the rows were decoded for this kernel.
    unsafe {
        let s = cx.get64(i.a);
        cx.set(i.d, &s.map(|s| (s & 0xF_FFFF) as u32), mask);
    }
    Flow::Next
}

unsafe fn mbarrier(cx: &mut Cx, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the side table entry was made by `decode`; its rows belong to this kernel.
    let (op, addrs) = unsafe {
        let op = cx.aux::<Op>(i.x);
        (op, addresses_of(cx, &op.addr))
    };
    let mut values = [1u64; 32];
    if let Some(r) = op.value {
        // SAFETY: as above.
        values = unsafe {
            if matches!(op.kind, Kind::Wait { parity: false, .. }) {
                cx.get64(r)
            } else {
                cx.get(r).map(u64::from)
            }
        };
    }
    let (w, rank) = (cx.warp().index, cx.block().rank);
    let (mut pred, mut tokens, mut wake) = (0u32, [0u64; 32], Vec::new());
    let mut waiting_at = 0;
    for l in (0..32u32).filter(|l| mask >> l & 1 != 0) {
        let a = addrs[l as usize];
        let at = match if op.window {
            Place::Shared(a as u32)
        } else {
            place(a)
        } {
            Place::Shared(at) => at,
            _ => return cx.fail_box(Box::new(misuse_at(a, l))),
        };
        if at % 8 != 0 {
            return cx.fail(
                Finding::new(
                    FaultCode::Misaligned,
                    "alignment",
                    format!("an mbarrier at {at:#x}, which is no multiple of 8"),
                )
                .lanes(1 << l),
            );
        }
        let remote = at >> 24 != rank;
        if remote
            && (!op.cluster
                || !matches!(op.kind, Kind::Arrive { .. } | Kind::Expect | Kind::Complete))
        {
            return cx.fail_box(misuse(format!(
                "this operation works on the own block's mbarriers only, {at:#x} is of block {}",
                at >> 24
            )));
        }
        let (b, off) = match shared_block(cx, at, 8) {
            Ok(x) => x,
            Err(f) => return cx.fail_box(f),
        };
        let (off, v) = (off as u32, values[l as usize]);
        let id = b.id;
        let r = match op.kind {
            Kind::Init => {
                if !(1..=MAX as u64).contains(&v) {
                    Err(misuse(format!(
                        "the count of an mbarrier is 1 to {MAX}, found {v}"
                    )))
                } else if let Some(o) = b.mbarriers.overlapping(off, 8) {
                    Err(misuse(format!(
                        "init at {off:#x}, but the mbarrier at {o:#x} is live: invalidate it first"
                    )))
                } else {
                    let n = v as i64;
                    b.mbarriers.objects.insert(
                        off,
                        Mbar {
                            expected: n,
                            pending: n,
                            tx: 0,
                            phases: 0,
                            announced: 0,
                            come: 0,
                        },
                    );
                    b.smem[off as usize..off as usize + 8]
                        .copy_from_slice(&0x6D62_6172_7269_6572u64.to_le_bytes());
                    b.checks.mbar_init(off);
                    Ok(false)
                }
            }
            Kind::Inval => b.mbar(off).map(|_| false).inspect(|_| {
                b.mbarriers.objects.remove(&off);
            }),
            Kind::Expect => b.mbar_expect(off, v as i64).map(|()| false),
            Kind::Complete => b.mbar_complete_tx(off, v as i64),
            Kind::Arrive {
                drop,
                expect,
                no_complete,
            } => {
                let (bytes, count) = if expect { (v as i64, 1) } else { (0, v as i64) };
                let mut r = if expect {
                    b.mbar_expect(off, bytes)
                } else {
                    Ok(())
                };
                if r.is_ok()
                    && no_complete
                    && b.mbar(off).is_ok_and(|m| m.pending == count && m.tx == 0)
                {
                    r = Err(misuse(format!(
                        "mbarrier at {off:#x}: .noComplete, but this arrival completes the phase"
                    )));
                }
                if !remote {
                    b.checks.mbar_arrive(w, off);
                }
                r.and_then(|()| b.mbar_arrive(off, count, drop))
                    .map(|(t, done)| {
                        tokens[l as usize] = t;
                        done
                    })
            }
            Kind::Wait { parity, .. } => {
                b.mbar(off)
                    .and_then(|m| m.test(off, v, parity))
                    .map(|done| {
                        if done {
                            pred |= 1 << l;
                            b.checks.mbar_wait(w, off);
                        } else {
                            waiting_at = off;
                        }
                        false
                    })
            }
        };
        match r {
            Ok(true) => wake.push(id),
            Ok(false) => {}
            Err(f) => return cx.fail_box(Box::new(f.lanes(1 << l))),
        }
    }
    for id in wake {
        cx.machine().wake(id);
    }
    match op.kind {
        Kind::Wait { park, .. } => {
            let expired = cx.block().mbarriers.expired >> w & 1 != 0;
            let spurious = park
                && pred == 0
                && cx.machine().knobs.schedule == crate::machine::knobs::Schedule::Random
                && cx.machine().random().is_multiple_of(8);
            if park && pred == 0 && !expired && !spurious {
                return cx.retry(Wait::Mbarrier(waiting_at));
            }
            cx.block().mbarriers.expired &= !(1 << w);
            if let Some(p) = op.dst {
                // SAFETY: the predicate was decoded for this kernel.
                unsafe { cx.set_pred(p, pred, mask) };
            }
            if pred == mask {
                Flow::Next
            } else {
                Flow::Yield
            }
        }
        Kind::Arrive { .. } => {
            if let Some(r) = op.dst {
                // SAFETY: the row was decoded for this kernel.
                unsafe { cx.set64(r, &tokens, mask) };
            }
            Flow::Next
        }
        _ => Flow::Next,
    }
}

fn misuse_at(a: u64, lane: u32) -> Finding {
    misuse(format!(
        "an mbarrier lives in shared memory, {a:#x} is elsewhere"
    ))
    .lanes(1 << lane)
}

/// Number of the cluster barrier among the named barriers of the checks.
const CLUSTER_BARRIER: u32 = 16;

/// `barrier.cluster`: every thread of the cluster that has not exited arrives once in a phase.
pub fn cluster_barrier(cx: &mut Cx, arrive: bool, relaxed: bool) -> Flow {
    let w = cx.warp().index;
    let pc = cx.pc;
    let ids = cx.block().cluster.clone();
    if arrive {
        let b = cx.block();
        if b.cluster_arrived >> w & 1 != 0 {
            return cx.fail(Finding::new(
                FaultCode::LaunchFailed,
                "barrier",
                "the warp arrives twice in one phase of the cluster barrier",
            ));
        }
        b.cluster_arrived |= 1 << w;
        b.cluster_joined[w as usize] = b.cluster_phase + 1;
        if !relaxed {
            b.checks.barrier_arrive(w, CLUSTER_BARRIER, pc);
        }
        settle_cluster(cx.machine(), &ids);
        return Flow::Next;
    }
    // Warps that have exited since may have been the last that were missing.
    settle_cluster(cx.machine(), &ids);
    let b = cx.block();
    if b.cluster_joined[w as usize] == 0 {
        return cx.fail(Finding::new(
            FaultCode::LaunchFailed,
            "barrier",
            "a wait at the cluster barrier without an arrive before it",
        ));
    }
    if b.cluster_joined[w as usize] > b.cluster_phase {
        return cx.retry(Wait::Cluster);
    }
    b.cluster_joined[w as usize] = 0;
    b.checks.barrier_leave(w, CLUSTER_BARRIER);
    Flow::Next
}

fn settle_cluster(m: &mut Machine, ids: &[BlockId]) {
    let complete = ids.iter().all(|&id| {
        m.blocks[id].as_deref().is_none_or(|b| {
            b.done
                || b.warps
                    .iter()
                    .all(|w| w.frags.is_empty() || b.cluster_arrived >> w.index & 1 != 0)
        })
    });
    let any = ids.iter().any(|&id| {
        m.blocks[id]
            .as_deref()
            .is_some_and(|b| b.cluster_arrived != 0)
    });
    if complete && any {
        for &id in ids {
            if let Some(b) = m.blocks[id].as_deref_mut() {
                b.cluster_arrived = 0;
                b.cluster_phase += 1;
                b.checks.barrier_complete(CLUSTER_BARRIER);
            }
            m.wake(id);
        }
    }
}
