//! Counting while a launch runs.

use std::collections::BTreeMap;

use super::banks::{sectors, wavefronts};
use super::counters::{Allocation, Counters, Traffic, Transfer};
use super::site::{Access, Site, Way};
use crate::isa::memory::{Place, addresses_of, place};
use crate::machine::exec::Cx;
use crate::machine::inst::Flow;
use crate::machine::memory::Region;
use crate::ptx::ast::Space;

/// Counts of one instruction of the kernel.
#[derive(Clone, Copy, Default)]
pub(super) struct PcCount {
    pub runs: u64,
    pub lanes: u64,
    pub skipped: u64,
    pub parked: u64,
    pub extra: u64,
    pub sectors: u64,
    pub excess: u64,
}

/// One access, worked out before its instruction executes.
#[derive(Clone, Copy, Default)]
struct Tally {
    bytes: u32,
    way: Option<Way>,
    /// Lanes whose address is in global, local, own shared, other blocks' shared memory.
    global: u32,
    local: u32,
    own: u32,
    remote: u32,
    sectors: u64,
    local_sectors: u64,
    wavefronts: u64,
    ideal: u64,
    /// Bytes that are really read, where lanes differ.
    global_bytes: u64,
}

/// The sectors of an allocation that were touched, one bit each.
struct Touched {
    sum: Allocation,
    loaded: Vec<u64>,
    stored: Vec<u64>,
}

impl Touched {
    fn mark(&mut self, at: u64, n: u64, write: bool) {
        let (bits, count, bytes) = if write {
            (
                &mut self.stored,
                &mut self.sum.store_sectors,
                &mut self.sum.store_bytes,
            )
        } else {
            (
                &mut self.loaded,
                &mut self.sum.load_sectors,
                &mut self.sum.load_bytes,
            )
        };
        *bytes += n;
        if bits.is_empty() {
            bits.resize((self.sum.bytes.div_ceil(32)).div_ceil(64) as usize, 0);
        }
        for s in at / 32..(at + n).div_ceil(32) {
            let (word, bit) = (&mut bits[s as usize / 64], 1 << (s % 64));
            *count += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }
}

/// The counts of a launch under way.
pub struct Raw {
    device: u32,
    pub(super) pcs: Vec<PcCount>,
    pub(super) sums: Counters,
    pending: [Tally; 2],
    owners: Vec<(Option<u32>, u64)>,
    touched: Option<BTreeMap<u64, Touched>>,
}

impl Raw {
    /// For a launch on `device` of a kernel with `code` instructions.
    pub fn new(device: u32, code: usize, unique: bool) -> Self {
        Self {
            device,
            pcs: vec![PcCount::default(); code],
            sums: Counters::default(),
            pending: [Tally::default(); 2],
            owners: Vec::new(),
            touched: unique.then(BTreeMap::new),
        }
    }

    /// The guard held an instruction back.
    #[inline(always)]
    pub fn skip(&mut self, pc: u32) {
        self.pcs[pc as usize].skipped += 1;
    }

    /// An instruction is about to execute.
    ///
    /// # Safety
    /// `site` was made for the kernel that `cx` runs.
    #[inline(always)]
    pub unsafe fn before(&mut self, cx: &mut Cx, site: Option<&Site>, lanes: u32) {
        if let Some(s) = site {
            // SAFETY: the caller's duty.
            unsafe { self.look(cx, s, lanes) };
        }
    }

    /// It has executed, and answered `flow`.
    #[inline(always)]
    pub fn after(&mut self, pc: u32, site: Option<&Site>, lanes: u32, flow: Flow) {
        let c = &mut self.pcs[pc as usize];
        c.parked += u64::from(matches!(flow, Flow::Retry | Flow::Park));
        if matches!(flow, Flow::Retry | Flow::Fault) {
            return;
        }
        c.runs += 1;
        c.lanes += u64::from(lanes.count_ones());
        if site.is_some() {
            self.add(pc);
        }
    }

    unsafe fn look(&mut self, cx: &mut Cx, site: &Site, mask: u32) {
        self.owners.clear();
        self.pending[1].way = None;
        // SAFETY: the caller's duty.
        unsafe {
            match site {
                Site::One(a) => self.pending[0] = self.tally(cx, a, mask),
                Site::Two(a, b) => {
                    self.pending[0] = self.tally(cx, a, mask);
                    self.pending[1] = self.tally(cx, b, mask);
                }
                Site::Rows(a, n) => {
                    let rows = if *n >= 4 {
                        u32::MAX
                    } else {
                        (1 << (8 * n)) - 1
                    };
                    self.pending[0] = self.tally(cx, a, rows);
                }
            }
        }
    }

    unsafe fn tally(&mut self, cx: &mut Cx, a: &Access, mask: u32) -> Tally {
        // SAFETY: the caller's duty.
        let addrs = unsafe { addresses_of(cx, &a.addr) };
        let mut t = Tally {
            bytes: a.bytes,
            way: Some(a.way),
            ..Tally::default()
        };
        let rank = cx.block().rank;
        let mut offs = [0; 32];
        let shared = |offs: &mut [u32; 32], t: &mut Tally, l: usize, at: u32| {
            offs[l] = at & 0x00FF_FFFF;
            *(if at >> 24 == rank {
                &mut t.own
            } else {
                &mut t.remote
            }) |= 1 << l;
        };
        match a.space {
            Some(Space::Global | Space::Const) => t.global = mask,
            Some(Space::Local) => {
                t.local = mask;
                offs = addrs.map(|a| a as u32);
            }
            Some(Space::Param) => {}
            Some(Space::Shared) => {
                for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                    shared(&mut offs, &mut t, l, addrs[l] as u32);
                }
            }
            None => {
                for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                    match place(addrs[l]) {
                        Place::Global => t.global |= 1 << l,
                        Place::Shared(at) => shared(&mut offs, &mut t, l, at),
                        Place::Local(at) => {
                            t.local |= 1 << l;
                            offs[l] = at;
                        }
                        Place::Param(_) => {}
                    }
                }
            }
        }
        if t.global != 0 {
            // SAFETY: as above.
            unsafe { self.tally_global(cx, a, &addrs, &mut t) };
        }
        if t.local != 0 {
            let lane = |l: usize| u64::from(offs[l] / 4 * 128 + offs[l] % 4) + 4 * l as u64;
            // Each further word of a vector lies 128 bytes on.
            for w in 0..u64::from(a.bytes.div_ceil(4)) {
                let at = std::array::from_fn(|l| lane(l) + 128 * w);
                t.local_sectors += sectors(&at, t.local);
            }
        }
        if t.own != 0 && a.way != Way::Atomic {
            (t.wavefronts, t.ideal) = wavefronts(&offs, a.bytes, t.own);
        }
        t
    }

    unsafe fn tally_global(&mut self, cx: &mut Cx, a: &Access, addrs: &[u64; 32], t: &mut Tally) {
        let mut per = [a.bytes; 32];
        let mut reads = t.global;
        if let Some(row) = a.limit {
            // SAFETY: the row was decoded for this kernel.
            let limits = unsafe { cx.get(row) };
            per = std::array::from_fn(|l| a.bytes.min(limits[l]));
            reads = (0..32).fold(0, |m, l| m | (t.global & u32::from(per[l] > 0) << l));
        }
        t.sectors = sectors(addrs, reads);
        let (mut home, mut first) = (None::<Region>, 0);
        for l in (0..32).filter(|l| reads >> l & 1 != 0) {
            let n = u64::from(per[l]);
            t.global_bytes += n;
            let inside = |r: &Region| addrs[l].wrapping_sub(r.base) < r.len;
            if !home.as_ref().is_some_and(inside) {
                // What is not there is for the instruction to report.
                home = cx.region(addrs[l], n).ok();
                let Some(r) = &home else { continue };
                match self.owners.iter().position(|o| o.0 == r.device) {
                    Some(i) => first = i,
                    None => {
                        first = self.owners.len();
                        self.owners.push((r.device, 0));
                    }
                }
            }
            let Some(r) = &home else { continue };
            self.owners[first].1 += n;
            if self.touched.is_some() {
                let at = addrs[l] - r.base;
                if a.way != Way::Store {
                    self.touch(r, at, n, false);
                }
                if a.way != Way::Load {
                    self.touch(r, at, n, true);
                }
            }
        }
    }

    fn touch(&mut self, r: &Region, at: u64, n: u64, write: bool) {
        let Some(map) = &mut self.touched else { return };
        let t = map.entry(r.id).or_insert_with(|| Touched {
            sum: Allocation {
                device: r.device,
                address: r.base,
                bytes: r.len,
                load_bytes: 0,
                store_bytes: 0,
                load_sectors: 0,
                store_sectors: 0,
            },
            loaded: Vec::new(),
            stored: Vec::new(),
        });
        if at + n <= t.sum.bytes {
            t.mark(at, n, write);
        }
    }

    /// Adds the pending accesses.
    fn add(&mut self, pc: u32) {
        for k in 0..2 {
            let t = self.pending[k];
            let Some(way) = t.way else { break };
            let lanes = |m: u32| u64::from(m.count_ones());
            let bytes = |m: u32| lanes(m) * u64::from(t.bytes);
            let s = &mut self.sums;
            if t.global != 0 {
                let to = match way {
                    Way::Load => &mut s.global.load,
                    Way::Store => &mut s.global.store,
                    Way::Atomic => &mut s.global.atomic,
                };
                let excess = add(to, t.global_bytes, t.sectors);
                let c = &mut self.pcs[pc as usize];
                c.sectors += t.sectors;
                c.excess += excess;
            }
            if t.local != 0 {
                let to = match way {
                    Way::Load => &mut s.local.load,
                    Way::Store => &mut s.local.store,
                    Way::Atomic => &mut s.local.atomic,
                };
                add(to, bytes(t.local), t.local_sectors);
            }
            if t.own != 0 {
                match way {
                    Way::Atomic => s.shared.atomics += lanes(t.own),
                    _ => {
                        let to = if way == Way::Load {
                            &mut s.shared.load
                        } else {
                            &mut s.shared.store
                        };
                        to.requests += 1;
                        to.bytes += bytes(t.own);
                        to.wavefronts += t.wavefronts;
                        to.extra_wavefronts += t.wavefronts - t.ideal;
                        self.pcs[pc as usize].extra += t.wavefronts - t.ideal;
                    }
                }
            }
            if t.remote != 0 {
                match way {
                    Way::Load => s.dsmem.load_bytes += bytes(t.remote),
                    Way::Store => s.dsmem.store_bytes += bytes(t.remote),
                    Way::Atomic => s.dsmem.atomics += lanes(t.remote),
                }
            }
        }
        let loads = self.pending[0].way == Some(Way::Load);
        for i in 0..self.owners.len() {
            let (owner, n) = self.owners[i];
            self.transfer(owner, n, loads);
        }
    }

    fn transfer(&mut self, owner: Option<u32>, bytes: u64, load: bool) {
        let here = Some(self.device);
        let (from, to) = if load { (owner, here) } else { (here, owner) };
        let all = &mut self.sums.transfers;
        match all.iter_mut().find(|t| t.from == from && t.to == to) {
            Some(t) => t.bytes += bytes,
            None => all.push(Transfer { from, to, bytes }),
        }
    }

    /// A bulk or tensor copy reads `n` bytes of global memory.
    pub fn bulk_read(&mut self, r: &Region, at: u64, n: u64) {
        self.sums.tma.load_bytes += n;
        self.transfer(r.device, n, true);
        self.touch(r, at, n, false);
    }

    /// A bulk or tensor copy into shared memory has filled `n` bytes in each of `blocks` blocks.
    pub fn bulk_delivered(&mut self, n: u64, blocks: usize) {
        self.sums.tma.loads += 1;
        self.sums.tma.delivered_bytes += n * blocks as u64;
    }

    /// A bulk or tensor copy writes `n` bytes of global memory; `reduces` when it combines them with what is there.
    pub fn bulk_write(&mut self, r: &Region, at: u64, n: u64, reduces: bool) {
        if reduces {
            self.sums.tma.reduced_bytes += n;
        } else {
            self.sums.tma.store_bytes += n;
        }
        self.transfer(r.device, n, false);
        self.touch(r, at, n, true);
    }

    /// A bulk or tensor copy out of shared memory is done.
    pub fn bulk_stored(&mut self, reduces: bool) {
        if reduces {
            self.sums.tma.reductions += 1;
        } else {
            self.sums.tma.stores += 1;
        }
    }

    /// A bulk copy wrote `n` bytes to another block's shared memory.
    pub fn bulk_pushed(&mut self, n: u64) {
        self.sums.dsmem.bulk_bytes += n;
    }

    /// A block ran to its end.
    pub fn block(&mut self) {
        self.sums.blocks += 1;
    }

    /// What the allocations saw, by address.
    pub(super) fn allocations(&self) -> Vec<Allocation> {
        let all = self.touched.iter().flatten().map(|(_, t)| t.sum);
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|a| a.address);
        all
    }
}

fn add(to: &mut Traffic, bytes: u64, sectors: u64) -> u64 {
    let excess = sectors.saturating_sub(bytes.div_ceil(32));
    to.requests += 1;
    to.bytes += bytes;
    to.sectors += sectors;
    to.excess_sectors += excess;
    excess
}
