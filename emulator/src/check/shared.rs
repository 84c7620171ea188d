//! Checks on a block's shared memory: bytes never written, data races, missing proxy fences.
//!
//! Every byte has a shadow (`super::shadow`): the last write and the reads since, as epochs of agents (`super::clock`). An access
//! that does not know of a conflicting one is a race. An asynchronous access whose data were written through the generic
//! proxy also has to know that the writer executed `fence.proxy.async` after writing and before releasing (the idiom of
//! known-good code, stricter than the axiomatic model, which lets the reader's block fence instead).
//! A warp counts as one agent; accesses of other blocks of a cluster mark bytes as written and are not ordered.

use std::collections::{HashMap, VecDeque};

use super::clock::{AGENTS, BULK, CLOCK_MAX, COPY, Clock, Epoch, MBAR, MBARRIERS, WARPS, WGMMA};
use super::shadow::{By, Conflict, Shadow, covered};
use crate::machine::Knobs;
use crate::machine::report::{FaultCode, Finding};
use crate::machine::tensor_map::Swizzle;

type Checked = Result<(), Box<Finding>>;

/// An asynchronous operation's agent and who issued it.
#[derive(Clone, Copy, Debug)]
pub struct AsyncAgent {
    /// Epoch of the operation.
    pub epoch: Epoch,
    /// Issuing warp.
    pub warp: u32,
    /// Its instruction.
    pub pc: u32,
}

struct BarrierClock {
    arriving: Clock,
    open: Clock,
}

struct MbarClock {
    agent: u32,
    arriving: Clock,
    done: Clock,
}

/// Shadow of one block's shared memory.
pub struct SharedChecks {
    /// Whether loads and stores need to be told at all.
    pub enabled: bool,
    init_on: bool,
    race_on: bool,
    proxy_on: bool,
    init: Vec<u8>,
    shadow: Shadow,
    clocks: Vec<Clock>,
    /// How much of each warp's generic writes is known to be fenced.
    fenced: Vec<Clock>,
    barriers: HashMap<u32, (BarrierClock, BarrierClock)>,
    mbars: HashMap<u32, (MbarClock, MbarClock)>,
    mbar_agents: u32,
    wgmma_open: Vec<u32>,
    bulk_open: Vec<u32>,
    /// The segment that each warp's next `cp.async` belongs to: a commit or an arrival begins a new one.
    copy_open: Vec<u32>,
    /// The last segment of each group that was committed and not waited for.
    copy_groups: Vec<VecDeque<u32>>,
    exhausted: bool,
    /// Per 16 bytes: 0 unknown, else 1 + the swizzle a tensor copy filled them with.
    tags: Vec<u8>,
}

/// All lanes, four bytes each, side by side from a multiple of eight.
#[inline]
fn is_row(offs: &[u32; 32], bytes: u32, mask: u32) -> bool {
    let first = offs[0];
    bytes == 4
        && mask == u32::MAX
        && first.is_multiple_of(8)
        && offs.iter().enumerate().fold(true, |a, (l, o)| {
            a & (*o == first.wrapping_add(4 * l as u32))
        })
}

/// The finding for a conflict over granule `g`.
#[cold]
fn race(verb: &str, g: u32, c: Conflict) -> Box<Finding> {
    let (what, did) = if c.write {
        ("a write to it", format!("wrote it (instruction {})", c.pc))
    } else {
        (
            "a read of it",
            format!("read it (last read: instruction {})", c.pc),
        )
    };
    let text = format!(
        "{verb} shared memory at {:#x} while {what} may still be going on",
        g * 4
    );
    Box::new(
        Finding::new(FaultCode::LaunchFailed, "race", text)
            .other(format!("{} {did} and nothing orders the two", who(c.epoch))),
    )
}

fn by(clocks: &[Clock], issuer: u32, epoch: Epoch, pc: u32, check: bool) -> By<'_> {
    By {
        epoch,
        known: &clocks[issuer as usize],
        pc,
        check,
    }
}

fn who(e: Epoch) -> String {
    match e.agent() {
        a if a < WARPS => format!("warp {a}"),
        a if a < WGMMA => format!("a bulk copy of warp {}", a - BULK),
        a if a < COPY => format!("a matrix operation of warp {}", a - WGMMA),
        a if a < MBAR => format!("a cp.async of warp {}", a - COPY),
        a => format!("a copy that completes on mbarrier #{}", a - MBAR),
    }
}

impl SharedChecks {
    /// For `end` bytes of window and `warps` warps.
    pub fn new(end: u32, warps: u32, knobs: &Knobs) -> Self {
        let c = knobs.checks;
        let race_on = c.race_shared || c.proxy;
        let n = if race_on {
            (end as usize).div_ceil(4)
        } else {
            0
        };
        let w = warps as usize;
        let mut clocks = vec![Clock::default(); if race_on { w } else { 0 }];
        for (i, k) in clocks.iter_mut().enumerate() {
            k.0[i] = 1;
        }
        Self {
            enabled: race_on || c.uninitialised_shared || c.swizzle,
            init_on: c.uninitialised_shared,
            race_on: c.race_shared,
            proxy_on: c.proxy,
            init: if c.uninitialised_shared {
                vec![0; (end as usize).div_ceil(8)]
            } else {
                Vec::new()
            },
            shadow: Shadow::new(n),
            fenced: vec![Clock::default(); clocks.len()],
            clocks,
            barriers: HashMap::new(),
            mbars: HashMap::new(),
            mbar_agents: 0,
            wgmma_open: vec![1; w],
            bulk_open: vec![1; w],
            copy_open: vec![1; w],
            copy_groups: vec![VecDeque::new(); w],
            exhausted: false,
            tags: if c.swizzle {
                vec![0; (end as usize).div_ceil(16)]
            } else {
                Vec::new()
            },
        }
    }

    fn tracking(&self) -> bool {
        !self.shadow.is_empty() && !self.exhausted
    }

    fn now(&self, w: u32) -> Epoch {
        Epoch::new(w, self.clocks[w as usize].0[w as usize])
    }

    fn tick(&mut self, w: u32) {
        let c = &mut self.clocks[w as usize].0[w as usize];
        *c += 1;
        self.exhausted |= *c >= CLOCK_MAX;
    }

    /// A generic load of `bytes` bytes at `offs` by the lanes of `mask`.
    ///
    /// # Errors
    /// Bytes never written; a race.
    #[inline]
    pub fn load(&mut self, w: u32, pc: u32, offs: &[u32; 32], bytes: u32, mask: u32) -> Checked {
        if is_row(offs, bytes, mask) && self.load_row(w, pc, offs[0]) {
            return Ok(());
        }
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let at = offs[l];
            if self.init_on {
                self.check_init(at, bytes)
                    .map_err(|f| Box::new(f.lanes(1 << l)))?;
            }
            if self.tracking() {
                let me = self.now(w);
                for g in at / 4..(at + bytes).div_ceil(4) {
                    let by = by(&self.clocks, w, me, pc, self.race_on);
                    self.shadow
                        .read(g, covered(g, at, at + bytes), by)
                        .map_err(|c| Box::new(race("reads", g, c).lanes(1 << l)))?;
                }
            }
        }
        Ok(())
    }

    /// A generic store, before it happens. `same(lane, from, to)` tells whether the bytes from offset `from` to `to` hold
    /// already what the lane is about to store there.
    ///
    /// # Errors
    /// A race.
    #[inline]
    pub fn store(
        &mut self,
        w: u32,
        pc: u32,
        offs: &[u32; 32],
        bytes: u32,
        mask: u32,
        same: impl Fn(usize, u32, u32) -> bool,
    ) -> Checked {
        if is_row(offs, bytes, mask) && self.store_row(w, pc, offs[0]) {
            return Ok(());
        }
        for l in (0..32).filter(|l| mask >> l & 1 != 0) {
            let at = offs[l];
            if self.tracking() {
                let me = self.now(w);
                for g in at / 4..(at + bytes).div_ceil(4) {
                    let by = by(&self.clocks, w, me, pc, self.race_on);
                    let (from, to) = (at.max(4 * g), (at + bytes).min(4 * g + 4));
                    self.shadow
                        .write(g, covered(g, at, at + bytes), by, &|| same(l, from, to))
                        .map_err(|c| Box::new(race("writes", g, c).lanes(1 << l)))?;
                }
            }
            self.set_init(at, bytes);
            if let Some(t) = self.tags.get_mut((at / 16) as usize) {
                *t = 0;
            }
        }
        Ok(())
    }

    /// The usual load, four bytes a lane side by side, when there is nothing to find. False: look closer.
    #[inline]
    fn load_row(&mut self, w: u32, pc: u32, at: u32) -> bool {
        if !(self.init_on && self.race_on && self.tracking()) {
            return false;
        }
        let byte = (at / 8) as usize;
        if self.init[byte..byte + 16] != [0xFF; 16] {
            return false;
        }
        let by = by(&self.clocks, w, self.now(w), pc, true);
        self.shadow.read_row(at / 4, by)
    }

    /// The usual store, likewise.
    #[inline]
    fn store_row(&mut self, w: u32, pc: u32, at: u32) -> bool {
        if !(self.init_on && self.race_on && self.tracking()) {
            return false;
        }
        let by = by(&self.clocks, w, self.now(w), pc, true);
        if !self.shadow.write_row(at / 4, by) {
            return false;
        }
        let byte = (at / 8) as usize;
        self.init[byte..byte + 16].fill(0xFF);
        if !self.tags.is_empty() {
            self.tags[(at / 16) as usize..(at + 128).div_ceil(16) as usize].fill(0);
        }
        true
    }

    /// Notes how a tensor copy lays out a range (`None`: a plain copy, nothing is known).
    pub fn tag(&mut self, off: u32, bytes: u32, swizzle: Option<Swizzle>) {
        if !self.tags.is_empty() {
            self.tags[(off / 16) as usize..(off + bytes).div_ceil(16) as usize]
                .fill(swizzle.map_or(0, |s| 1 + s as u8));
        }
    }

    /// A matrix operation reads 16 bytes as laid out with `swizzle`.
    ///
    /// # Errors
    /// They were filled with another.
    pub fn check_tag(&self, off: u32, swizzle: Swizzle) -> Checked {
        match self.tags.get((off / 16) as usize) {
            None | Some(0) => Ok(()),
            Some(&t) if t == 1 + swizzle as u8 => Ok(()),
            Some(&t) => Err(Box::new(Finding::new(
                FaultCode::LaunchFailed,
                "swizzle",
                format!(
                    "a matrix descriptor reads shared memory at {off:#x} with a swizzle of {} bytes, a tensor copy filled it with one of {}",
                    swizzle.span(),
                    Swizzle::from_driver(u32::from(t) - 1).map_or(0, Swizzle::span)
                ),
            ))),
        }
    }

    /// An atomic: it does not race with other atomics, only with plain accesses, which see it as a write of its warp.
    ///
    /// # Errors
    /// Bytes never written.
    pub fn atomic(&mut self, _w: u32, _pc: u32, off: u32, bytes: u32) -> Checked {
        if self.init_on {
            self.check_init(off, bytes).map_err(Box::new)?;
        }
        Ok(())
    }

    /// A load from another block of the cluster.
    ///
    /// # Errors
    /// Bytes never written.
    pub fn remote_load(&mut self, off: u32, bytes: u32) -> Checked {
        if self.init_on {
            self.check_init(off, bytes).map_err(Box::new)
        } else {
            Ok(())
        }
    }

    /// A store from another block of the cluster.
    ///
    /// # Errors
    /// None so far.
    pub fn remote_store(&mut self, off: u32, bytes: u32) -> Checked {
        self.set_init(off, bytes);
        Ok(())
    }

    /// An asynchronous read of a range, checked when it is issued.
    ///
    /// # Errors
    /// Bytes never written, a race, a missing proxy fence.
    pub fn async_read(&mut self, a: AsyncAgent, off: u32, bytes: u32) -> Checked {
        if self.init_on {
            self.check_init(off, bytes).map_err(Box::new)?;
        }
        if self.tracking() {
            for g in off / 4..(off + bytes).div_ceil(4) {
                let part = covered(g, off, off + bytes);
                let by = by(&self.clocks, a.warp, a.epoch, a.pc, self.race_on);
                self.shadow
                    .read(g, part, by)
                    .map_err(|c| race("reads", g, c))?;
                self.proxy(g, part, a.warp, "reads")?;
            }
        }
        Ok(())
    }

    /// An asynchronous write of a range, checked when it is issued.
    ///
    /// # Errors
    /// A race, a missing proxy fence.
    pub fn async_write(&mut self, a: AsyncAgent, off: u32, bytes: u32) -> Checked {
        if self.tracking() {
            for g in off / 4..(off + bytes).div_ceil(4) {
                let part = covered(g, off, off + bytes);
                self.proxy(g, part, a.warp, "writes")?;
                let by = by(&self.clocks, a.warp, a.epoch, a.pc, self.race_on);
                self.shadow
                    .write(g, part, by, &|| false)
                    .map_err(|c| race("writes", g, c))?;
            }
        }
        self.set_init(off, bytes);
        Ok(())
    }

    fn proxy(&self, g: u32, bytes: u8, issuer: u32, verb: &str) -> Checked {
        if !self.proxy_on {
            return Ok(());
        }
        let Some(c) = self
            .shadow
            .unfenced(g, bytes, &self.fenced[issuer as usize])
        else {
            return Ok(());
        };
        Err(Box::new(
            Finding::new(
                FaultCode::LaunchFailed,
                "proxy",
                format!("an asynchronous operation {verb} shared memory at {:#x}, which was last written through the generic proxy", g * 4),
            )
            .other(format!(
                "{} wrote it (instruction {}) and executed no fence.proxy.async between that and its release",
                who(c.epoch),
                c.pc
            )),
        ))
    }

    fn check_init(&self, at: u32, bytes: u32) -> Result<(), Finding> {
        let (byte, bit) = ((at / 8) as usize, at % 8);
        if bytes <= 16
            && let Some(b) = self.init.get(byte..byte + 4)
        {
            let word = u32::from_le_bytes(b.try_into().unwrap_or_default()) >> bit;
            let all = (1u32 << bytes) - 1;
            if word & all == all {
                return Ok(());
            }
        }
        for i in at..at + bytes {
            if self.init[(i / 8) as usize] >> (i % 8) & 1 == 0 {
                return Err(Finding::new(
                    FaultCode::LaunchFailed,
                    "uninitialised",
                    format!("shared memory at {i:#x} was never written by this block"),
                ));
            }
        }
        Ok(())
    }

    fn set_init(&mut self, at: u32, bytes: u32) {
        if !self.init_on {
            return;
        }
        let (byte, bit) = ((at / 8) as usize, at % 8);
        if bytes <= 16
            && let Some(b) = self.init.get_mut(byte..byte + 4)
        {
            let old = u32::from_le_bytes((&*b).try_into().unwrap_or_default());
            b.copy_from_slice(&(old | ((1u32 << bytes) - 1) << bit).to_le_bytes());
            return;
        }
        for i in at..at + bytes {
            self.init[(i / 8) as usize] |= 1 << (i % 8);
        }
    }

    /// Warp `w` arrives at named barrier `id`.
    pub fn barrier_arrive(&mut self, w: u32, id: u32, _pc: u32) {
        if self.tracking() {
            let b = self.barriers.entry(id).or_insert_with(|| {
                let new = || BarrierClock {
                    arriving: Clock::default(),
                    open: Clock::default(),
                };
                (new(), new())
            });
            b.0.arriving.join(&self.clocks[w as usize]);
            b.1.arriving.join(&self.fenced[w as usize]);
            self.tick(w);
        }
    }

    /// Named barrier `id` opens.
    pub fn barrier_complete(&mut self, id: u32) {
        if let Some(b) = self.barriers.get_mut(&id) {
            b.0.open = std::mem::take(&mut b.0.arriving);
            b.1.open = std::mem::take(&mut b.1.arriving);
        }
    }

    /// Warp `w` goes on after named barrier `id`.
    pub fn barrier_leave(&mut self, w: u32, id: u32) {
        if self.tracking()
            && let Some(b) = self.barriers.get(&id)
        {
            self.clocks[w as usize].join(&b.0.open);
            self.fenced[w as usize].join(&b.1.open);
        }
    }

    /// The lanes of warp `w` meet.
    pub fn warp_sync(&mut self, _w: u32) {}

    /// `fence.proxy.async` by warp `w`: its own generic writes so far are in the async proxy.
    pub fn fence_proxy(&mut self, w: u32) {
        if self.tracking() {
            let i = w as usize;
            for agent in [i, COPY as usize + i] {
                self.fenced[i].0[agent] = self.clocks[i].0[agent];
            }
            self.tick(w);
        }
    }

    /// An mbarrier is initialised at `off`.
    pub fn mbar_init(&mut self, off: u32) {
        if self.tracking() {
            // Agents of inval'ed objects are not used again; past the last they share one, which hides races only.
            let agent = MBAR + self.mbar_agents.min(MBARRIERS - 1);
            self.mbar_agents += 1;
            let new = || MbarClock {
                agent,
                arriving: Clock::default(),
                done: Clock::default(),
            };
            self.mbars.insert(off, (new(), new()));
        }
    }

    /// Warp `w` arrives at the mbarrier (release).
    pub fn mbar_arrive(&mut self, w: u32, off: u32) {
        if self.tracking()
            && let Some(m) = self.mbars.get_mut(&off)
        {
            m.0.arriving.join(&self.clocks[w as usize]);
            m.1.arriving.join(&self.fenced[w as usize]);
            self.tick(w);
        }
    }

    /// The phase of the mbarrier completes; `phases` have done so in all.
    pub fn mbar_complete(&mut self, off: u32, phases: u64) {
        if let Some(m) = self.mbars.get_mut(&off) {
            let (c, f) = (
                std::mem::take(&mut m.0.arriving),
                std::mem::take(&mut m.1.arriving),
            );
            m.0.done.join(&c);
            m.1.done.join(&f);
            m.0.done.0[m.0.agent as usize] = phases as u32 & CLOCK_MAX;
        }
    }

    /// Warp `w` has seen the last completed phase (acquire).
    pub fn mbar_wait(&mut self, w: u32, off: u32) {
        if self.tracking()
            && let Some(m) = self.mbars.get(&off)
        {
            self.clocks[w as usize].join(&m.0.done);
            self.fenced[w as usize].join(&m.1.done);
        }
    }

    /// The agent of a copy that completes on the mbarrier at `off` in the phase after `phases` completed ones.
    pub fn mbar_agent(&self, off: u32, phases: u64, warp: u32, pc: u32) -> AsyncAgent {
        let agent = self.mbars.get(&off).map_or(MBAR, |m| m.0.agent);
        AsyncAgent {
            epoch: Epoch::new(agent, (phases as u32 + 1) & CLOCK_MAX),
            warp,
            pc,
        }
    }

    /// The agent of warp `w`'s matrix operations of the group being formed.
    pub fn wgmma_agent(&self, w: u32, pc: u32) -> AsyncAgent {
        AsyncAgent {
            epoch: Epoch::new(WGMMA + w, self.wgmma_open[w as usize]),
            warp: w,
            pc,
        }
    }

    /// Warp `w` closes its matrix group.
    pub fn wgmma_commit(&mut self, w: u32) {
        self.wgmma_open[w as usize] += 1;
    }

    /// Warp `w` has waited until `pending` of its groups at most are left.
    pub fn wgmma_wait(&mut self, w: u32, pending: u32) {
        if self.tracking() {
            let done = self.wgmma_open[w as usize].saturating_sub(1 + pending);
            let c = &mut self.clocks[w as usize].0[(WGMMA + w) as usize];
            *c = (*c).max(done);
        }
    }

    /// The agent of warp `w`'s bulk copies of the group being formed.
    pub fn bulk_agent(&self, w: u32, pc: u32) -> AsyncAgent {
        AsyncAgent {
            epoch: Epoch::new(BULK + w, self.bulk_open[w as usize]),
            warp: w,
            pc,
        }
    }

    /// Warp `w` closes its bulk group.
    pub fn bulk_commit(&mut self, w: u32) {
        self.bulk_open[w as usize] += 1;
    }

    /// Warp `w` has waited until `pending` of its bulk groups at most may still read.
    pub fn bulk_wait(&mut self, w: u32, pending: u32) {
        if self.tracking() {
            let done = self.bulk_open[w as usize].saturating_sub(1 + pending);
            let c = &mut self.clocks[w as usize].0[(BULK + w) as usize];
            *c = (*c).max(done);
        }
    }
}

/// `cp.async`.
impl SharedChecks {
    /// The agent of warp `w`'s copies of the segment being formed.
    pub fn copy_agent(&self, w: u32, pc: u32) -> AsyncAgent {
        AsyncAgent {
            epoch: Epoch::new(COPY + w, self.copy_open[w as usize] & CLOCK_MAX),
            warp: w,
            pc,
        }
    }

    /// A copy writes a range, in the generic proxy; checked when it is issued.
    ///
    /// # Errors
    /// A race.
    pub fn copy_write(&mut self, a: AsyncAgent, off: u32, bytes: u32) -> Checked {
        if self.tracking() {
            for g in off / 4..(off + bytes).div_ceil(4) {
                let part = covered(g, off, off + bytes);
                let by = by(&self.clocks, a.warp, a.epoch, a.pc, self.race_on);
                self.shadow
                    .write(g, part, by, &|| false)
                    .map_err(|c| race("writes", g, c))?;
            }
        }
        self.set_init(off, bytes);
        Ok(())
    }

    /// Ends the segment of warp `w`'s copies and says which it was.
    pub fn copy_segment(&mut self, w: u32) -> u32 {
        let open = &mut self.copy_open[w as usize];
        *open += 1;
        self.exhausted |= *open >= CLOCK_MAX;
        *open - 1
    }

    /// Warp `w` closes its group of copies.
    pub fn copy_commit(&mut self, w: u32) {
        let last = self.copy_segment(w);
        self.copy_groups[w as usize].push_back(last);
    }

    /// Warp `w` has waited until `pending` of its groups at most are left.
    pub fn copy_wait(&mut self, w: u32, pending: usize) {
        let groups = &mut self.copy_groups[w as usize];
        while groups.len() > pending {
            let last = groups.pop_front().unwrap_or_default();
            if let Some(c) = self.clocks.get_mut(w as usize) {
                let c = &mut c.0[(COPY + w) as usize];
                *c = (*c).max(last);
            }
        }
    }

    /// The copies of warp `w` up to `segment` arrive at the mbarrier at `off`.
    pub fn mbar_arrive_copies(&mut self, w: u32, off: u32, segment: u32) {
        if self.tracking()
            && let Some(m) = self.mbars.get_mut(&off)
        {
            let c = &mut m.0.arriving.0[(COPY + w) as usize];
            *c = (*c).max(segment);
        }
    }
}

const _: () = assert!(AGENTS <= 256, "an agent has eight bits");
