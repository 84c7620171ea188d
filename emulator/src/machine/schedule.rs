//! Which block starts, which warp runs, what to do when nothing can.

use std::sync::Arc;

use super::block::{Block, BlockId, Wait};
use super::knobs::{AsyncMode, OnDeadlock, Schedule};
use super::report::{Fault, FaultCode, Finding, Severity};
use super::{Grid, GridId, Launch, Machine, Origin};
use crate::count::Raw;

/// Instructions a warp takes before the next has its turn.
const QUANTUM: u64 = 512;
/// Instructions after which another block starts although those resident can still run.
const ADMIT_AFTER: u64 = 1 << 20;
/// How far time jumps when a dead-lock is answered by letting time pass.
const TIME_JUMP_NS: u64 = 1_000_000;

impl Machine {
    /// Queues a grid.
    pub fn start(&mut self, launch: Launch) -> GridId {
        let id = self.next_grid;
        self.next_grid += 1;
        let size: u64 = launch.cluster.iter().map(|&c| u64::from(c)).product();
        let blocks: u64 = launch.grid.iter().map(|&g| u64::from(g)).product();
        let mut order: Vec<u64> = (0..blocks / size.max(1)).collect();
        if self.knobs.schedule == Schedule::Random {
            for i in (1..order.len()).rev() {
                let j = (self.random() % (i as u64 + 1)) as usize;
                order.swap(i, j);
            }
        }
        let k = launch.program.kernel_info(launch.kernel);
        let threads: u64 = launch.block.iter().map(|&t| u64::from(t)).product();
        let smem = u64::from(k.static_smem + launch.dynamic_smem) + 1024;
        let p = self.knobs.compute_capability.profile();
        let per_sm = (u64::from(p.threads_per_sm) / threads.max(1))
            .min(p.blocks_per_sm.into())
            .min(u64::from(p.shared_per_sm) / smem)
            .min(u64::from(p.registers) / (u64::from(k.regs) * threads).max(1))
            .max(1);
        let limit = (per_sm * u64::from(p.sms)).max(size) as usize;
        let code = launch.program.kernels()[launch.kernel].code.len();
        let unique = self.knobs.unique_bytes;
        let counts = self
            .knobs
            .counters
            .then(|| Box::new(Raw::new(launch.device, code, unique)));
        self.grids.insert(
            id,
            Grid {
                launch: Arc::new(launch),
                counts,
                order,
                next: 0,
                resident: 0,
                limit,
                steps: 0,
                fault: None,
            },
        );
        id
    }

    /// Runs for about `budget` warp instructions, or until nothing is left to do. Answers the grids that finished.
    pub fn step(&mut self, budget: u64) -> Vec<(GridId, Result<(), Fault>)> {
        let mut left = budget as i64;
        while left > 0 && !self.grids.is_empty() {
            left -= self.turn() as i64 + 1;
        }
        std::mem::take(&mut self.finished)
    }

    fn turn(&mut self) -> u64 {
        let random = self.knobs.schedule == Schedule::Random;
        if self.knobs.async_mode == AsyncMode::Random
            && !self.asyncs.is_empty()
            && self.random().is_multiple_of(4)
        {
            self.run_async();
        }
        if self.since_admission > ADMIT_AFTER || (random && self.random().is_multiple_of(64)) {
            self.admit();
        }
        if random && self.ready.len() > 1 {
            let i = (self.random() % self.ready.len() as u64) as usize;
            self.ready.swap(0, i);
        }
        if let Some((b, w)) = self.ready.pop_front() {
            let quantum = if random {
                1 + self.random() % 64
            } else {
                QUANTUM
            };
            return self.run(b, w, quantum);
        }
        if self.asyncs.is_empty() || self.knobs.async_mode == AsyncMode::Eager {
            if !self.wake_sleepers() && !self.admit() {
                self.reap_empty();
                if !self.grids.is_empty() {
                    self.stuck();
                }
            }
        } else {
            self.run_async();
        }
        0
    }

    fn run(&mut self, b: BlockId, w: u32, quantum: u64) -> u64 {
        match self.blocks.get_mut(b).and_then(|b| b.as_deref_mut()) {
            Some(block) => block.warps[w as usize].queued = false,
            None => return 0,
        }
        let steps = self.run_warp(b, w, quantum);
        self.totals.instructions += steps;
        self.since_admission += steps;
        self.now += steps;
        let Some(block) = self.blocks[b].as_deref_mut() else {
            return steps;
        };
        let grid = block.grid;
        let warp = &mut block.warps[w as usize];
        if warp.frags.iter().any(|f| f.wait == Wait::Ready) && !warp.queued {
            warp.queued = true;
            self.ready.push_back((b, w));
        }
        let finished = block.live_warps == 0 && !block.done;
        if finished {
            self.block_done(b);
        }
        if let Some(g) = self.grids.get_mut(&grid) {
            g.steps += steps;
            if g.steps > self.knobs.step_limit {
                let limit = self.knobs.step_limit;
                self.fault_at(
                    b,
                    Origin {
                        pc: 0,
                        warp: w,
                        lanes: u32::MAX,
                    },
                    Finding::new(
                        FaultCode::LaunchTimeout,
                        "livelock",
                        format!("the grid took more than {limit} warp instructions"),
                    ),
                );
            }
        }
        steps
    }

    /// Makes one more cluster resident. False when none is left or there is no room.
    fn admit(&mut self) -> bool {
        self.since_admission = 0;
        let Some((&id, _)) = self
            .grids
            .iter()
            .find(|(_, g)| g.next < g.order.len() && g.resident < g.limit)
        else {
            return false;
        };
        let Some(grid) = self.grids.get_mut(&id) else {
            return false;
        };
        let launch = grid.launch.clone();
        let cluster = grid.order[grid.next];
        grid.next += 1;
        let sms = u64::from(self.knobs.compute_capability.profile().sms);
        let [cx, cy, cz] = launch.cluster.map(u64::from);
        let size = cx * cy * cz;
        grid.resident += size as usize;
        let [gx, gy, _] = launch.grid.map(u64::from);
        let (nx, ny) = (gx / cx, gy / cy);
        let (kx, ky, kz) = (cluster % nx, cluster / nx % ny, cluster / (nx * ny));
        let mut ids = Vec::new();
        for rank in 0..size {
            let (x, y, z) = (
                kx * cx + rank % cx,
                ky * cy + rank / cx % cy,
                kz * cz + rank / (cx * cy),
            );
            let linear = x + gx * (y + gy * z);
            let slot = self
                .blocks
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.blocks.len());
            let block = Block::new(
                slot,
                id,
                launch.clone(),
                linear,
                rank as u32,
                (linear % sms) as u32,
                &self.knobs,
            );
            if slot == self.blocks.len() {
                self.blocks.push(None);
            }
            self.blocks[slot] = Some(Box::new(block));
            ids.push(slot);
        }
        for &b in &ids {
            if let Some(block) = self.blocks[b].as_deref_mut() {
                block.cluster.clone_from(&ids);
            }
            self.wake(b);
        }
        true
    }

    fn block_done(&mut self, b: BlockId) {
        // What the block left in flight either may not outlive it, or finishes now at the latest.
        while let Some(i) = self.asyncs.iter().position(|a| a.block() == b) {
            let Some(mut op) = self.asyncs.remove(i) else {
                break;
            };
            let origin = op.origin();
            if let Some(finding) = op.outlives() {
                self.fault_at(b, origin, finding);
                return;
            }
            if let Err(f) = op.run(self) {
                self.fault_at(b, origin, *f);
                return;
            }
        }
        let Some(block) = self.blocks[b].as_deref_mut() else {
            return;
        };
        if let Some((origin, finding)) = crate::isa::bulk::at_exit(block) {
            self.fault_at(b, origin, finding);
            return;
        }
        block.done = true;
        self.totals.blocks += 1;
        if let Some(c) = self.counts(b) {
            c.block();
        }
        let Some(block) = self.blocks[b].as_deref_mut() else {
            return;
        };
        let (grid, cluster) = (block.grid, block.cluster.clone());
        for &p in &cluster {
            self.wake(p);
        }
        if cluster
            .iter()
            .all(|&p| self.blocks[p].as_ref().is_none_or(|x| x.done))
        {
            for &p in &cluster {
                self.blocks[p] = None;
            }
            if let Some(g) = self.grids.get_mut(&grid) {
                g.resident -= cluster.len();
            }
            self.reap(grid);
        }
    }

    fn reap(&mut self, id: GridId) {
        if self
            .grids
            .get(&id)
            .is_some_and(|g| g.resident == 0 && g.next == g.order.len())
            && let Some(g) = self.grids.remove(&id)
        {
            self.totals.grids += 1;
            self.note_launch(&g, g.fault.is_none());
            self.finished.push((id, g.fault.map_or(Ok(()), Err)));
        }
    }

    fn reap_empty(&mut self) {
        let ids: Vec<_> = self.grids.keys().copied().collect();
        for id in ids {
            self.reap(id);
        }
    }

    /// Ends a grid at once: its blocks and their operations vanish.
    pub(super) fn kill(&mut self, id: GridId, fault: Fault) {
        let dead: Vec<BlockId> = self
            .blocks
            .iter()
            .flatten()
            .filter(|b| b.grid == id)
            .map(|b| b.id)
            .collect();
        self.ready.retain(|(b, _)| !dead.contains(b));
        self.asyncs.retain(|a| !dead.contains(&a.block()));
        for b in dead {
            self.blocks[b] = None;
        }
        if let Some(g) = self.grids.remove(&id) {
            self.totals.grids += 1;
            self.note_launch(&g, false);
            self.finished.push((id, Err(fault)));
        }
    }

    fn run_async(&mut self) {
        let mut i = 0;
        if self.knobs.async_mode == AsyncMode::Random {
            i = (self.random() % self.asyncs.len() as u64) as usize;
            let domain = self.asyncs[i].domain();
            if domain != 0 {
                i = self
                    .asyncs
                    .iter()
                    .position(|a| a.domain() == domain)
                    .unwrap_or(i);
            }
        }
        let Some(mut op) = self.asyncs.remove(i) else {
            return;
        };
        let (b, origin) = (op.block(), op.origin());
        if let Err(f) = op.run(self) {
            self.fault_at(b, origin, *f);
        }
    }

    fn wake_sleepers(&mut self) -> bool {
        let sleeps = self
            .blocks
            .iter()
            .flatten()
            .flat_map(|b| &b.warps)
            .flat_map(|w| &w.frags);
        let Some(t) = sleeps
            .filter_map(|f| {
                if let Wait::Sleep(t) = f.wait {
                    Some(t)
                } else {
                    None
                }
            })
            .min()
        else {
            return false;
        };
        self.now = self.now.max(t);
        for b in self.blocks.iter_mut().flatten() {
            for w in &mut b.warps {
                let mut any = false;
                for f in &mut w.frags {
                    if matches!(f.wait, Wait::Sleep(x) if x <= t) {
                        f.wait = Wait::Ready;
                        any = true;
                    }
                }
                if any && !w.queued {
                    w.queued = true;
                    self.ready.push_back((b.id, w.index));
                }
            }
        }
        true
    }

    /// Nothing can run: a dead-lock, unless time alone helps.
    fn stuck(&mut self) {
        if self.knobs.on_deadlock == OnDeadlock::AdvanceTime {
            let mut any = false;
            self.now += TIME_JUMP_NS;
            let ids: Vec<_> = self.blocks.iter().flatten().map(|b| b.id).collect();
            for b in ids {
                let Some(block) = self.blocks[b].as_deref_mut() else {
                    continue;
                };
                // A try_wait that has waited its time answers false.
                any |= block.mbarriers.expire_waits(&mut block.warps);
                if any {
                    self.wake(b);
                }
            }
            if any {
                return;
            }
        }
        let Some(&id) = self.grids.keys().next() else {
            return;
        };
        let waits = self.wait_graph(id);
        let first = self
            .blocks
            .iter()
            .flatten()
            .find(|b| b.grid == id)
            .map(|b| {
                let stuck = b
                    .warps
                    .iter()
                    .find_map(|w| w.frags.first().map(|f| (w.index, *f)));
                (b.id, stuck)
            });
        let message =
            format!("nothing can run and nothing is in flight; who waits for what:\n{waits}");
        let finding = Finding::new(FaultCode::LaunchTimeout, "deadlock", message);
        match first {
            Some((b, Some((w, f)))) => self.fault_at(
                b,
                Origin {
                    pc: f.pc,
                    warp: w,
                    lanes: f.mask,
                },
                finding,
            ),
            Some((b, None)) => self.fault_at(
                b,
                Origin {
                    pc: 0,
                    warp: 0,
                    lanes: 0,
                },
                finding,
            ),
            None => {
                // A grid none of whose blocks fits; the driver refuses such launches, so this is its mistake.
                let report = super::report::Report {
                    check: "deadlock".into(),
                    severity: Severity::Error,
                    message: "no block of the grid can become resident".into(),
                    kernel: String::new(),
                    line: 0,
                    col: 0,
                    instruction: String::new(),
                    device: 0,
                    block: [0; 3],
                    warp: 0,
                    lanes: 0,
                    thread: [0; 3],
                    other: None,
                };
                self.reports.push(report.clone());
                self.kill(
                    id,
                    Fault {
                        code: FaultCode::LaunchTimeout,
                        report,
                    },
                );
            }
        }
    }

    /// Each blocked fragment and what it waits for.
    fn wait_graph(&self, id: GridId) -> String {
        let mut out = String::new();
        for b in self.blocks.iter().flatten().filter(|b| b.grid == id) {
            if out.len() > 4096 {
                out.push_str("  ... and more blocks\n");
                break;
            }
            let k = b.kernel();
            for w in &b.warps {
                for f in &w.frags {
                    let (span, op) = (k.spans[f.pc as usize], &k.opcodes[f.pc as usize]);
                    let what = match f.wait {
                        Wait::Ready => "nothing".into(),
                        Wait::Converge => format!("lanes {:#010x} of its warp", w.live() & !f.mask),
                        Wait::Barrier(n) => {
                            let x = &b.barriers[n as usize];
                            format!(
                                "barrier {n}: {} of {} threads arrived",
                                x.arrived, x.expected
                            )
                        }
                        Wait::Mbarrier(at) => b.mbarriers.describe(at),
                        Wait::Cluster => "the cluster barrier".into(),
                        Wait::Bulk => "its bulk copies".into(),
                        Wait::Wgmma => "its matrix operations".into(),
                        Wait::Warpgroup => "the other warps of its warpgroup".into(),
                        Wait::Registers => format!("registers: {} in the pool", b.reg_pool),
                        Wait::Sleep(t) => format!("time {t}"),
                    };
                    out.push_str(&format!(
                        "  block {:?} warp {} lanes {:#010x} at {}:{} `{op}` waits for {what}\n",
                        b.index, w.index, f.mask, span.line, span.col
                    ));
                }
            }
        }
        out
    }
}
