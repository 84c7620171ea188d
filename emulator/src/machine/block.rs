//! A block, its warps and their fragments.

use std::sync::Arc;

use super::calls::Activation;
use super::device::Profile;
use super::inst::{PRED_TRUE, Row, RowInit, Special};
use super::program::{Kernel, SHARED_BASE};
use super::{GridId, Launch};
use crate::check::shared::SharedChecks;
use crate::isa::bulk::BulkState;
use crate::isa::cp_async::Copies;
use crate::isa::mbarrier::Mbarriers;
use crate::isa::wgmma::WgmmaState;

/// Index of a resident block in the machine.
pub type BlockId = usize;

/// Why a fragment does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It runs.
    Ready,
    /// For the other lanes of its warp: an aligned instruction, or a member mask.
    Converge,
    /// At named barrier `.0`.
    Barrier(u32),
    /// For a change of the mbarrier at this offset of the block's shared memory.
    Mbarrier(u32),
    /// At the cluster barrier.
    Cluster,
    /// For bulk copies of its threads.
    Bulk,
    /// For matrix operations of its warpgroup.
    Wgmma,
    /// For the other warps of its warpgroup at an instruction of the whole warpgroup.
    Warpgroup,
    /// For registers of the block's pool.
    Registers,
    /// Until virtual time.
    Sleep(u64),
}

/// Lanes of a warp that stand at the same place.
#[derive(Clone, Copy, Debug)]
pub struct Frag {
    /// Next instruction.
    pub pc: u32,
    /// Lanes.
    pub mask: u32,
    /// Whether it can run.
    pub wait: Wait,
    /// Backward branches since it was last chosen.
    pub spins: u32,
}

/// A warp.
pub struct Warp {
    /// Register file.
    pub regs: Vec<Row>,
    /// Predicates.
    pub preds: Vec<u32>,
    /// Fragments; none when all lanes have exited.
    pub frags: Vec<Frag>,
    /// Lanes that exist.
    pub lanes: u32,
    /// Index in the block.
    pub index: u32,
    /// In the run queue.
    pub queued: bool,
    /// Instructions executed.
    pub steps: u64,
    /// Local memory: `local_bytes` per lane, lane after lane.
    pub local: Vec<u8>,
    /// Bytes of local memory of a lane: the kernel's own, and the stack where the kernel moves it.
    pub local_bytes: u32,
    /// Stack pointer of each lane: the first free byte of its local memory.
    pub sp: [u32; 32],
    /// Calls under way, per lane.
    pub calls: [Vec<Activation>; 32],
    /// Registers per thread that it holds now (setmaxnreg).
    pub regs_held: u32,
}

impl Warp {
    /// Lanes that have not exited.
    pub fn live(&self) -> u32 {
        self.frags.iter().fold(0, |m, f| m | f.mask)
    }
}

/// A named barrier.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedBarrier {
    /// Threads expected; 0 when idle.
    pub expected: u32,
    /// Threads arrived.
    pub arrived: u32,
    /// Warps that arrived and wait.
    pub waiting: u32,
    /// Generation: counts completions.
    pub phase: u64,
    /// Reductions: and, or, popc of the predicate so far, and 0 when none is under way.
    pub red: Option<(crate::isa::control::Red, u32)>,
    /// Result of the last reduction.
    pub red_result: u32,
    /// Warps that took part in the current phase.
    pub warps: u32,
}

/// A resident block.
pub struct Block {
    /// Its place in the machine.
    pub id: BlockId,
    /// Its grid.
    pub grid: GridId,
    /// The launch.
    pub launch: Arc<Launch>,
    /// Index in the grid.
    pub index: [u32; 3],
    /// Linear index in the grid.
    pub linear: u64,
    /// Rank in its cluster.
    pub rank: u32,
    /// Blocks of its cluster by rank (itself included).
    pub cluster: Vec<BlockId>,
    /// Warps.
    pub warps: Vec<Warp>,
    /// Shared memory as the window sees it, the system's first KiB included.
    pub smem: Vec<u8>,
    /// Named barriers.
    pub barriers: [NamedBarrier; 16],
    /// Cluster barrier: warps of this block that have arrived in the open phase.
    pub cluster_arrived: u32,
    /// Cluster barrier: phases completed.
    pub cluster_phase: u64,
    /// Cluster barrier: per warp the phase whose completion it will wait for; 0 when it has not arrived.
    pub cluster_joined: [u64; 32],
    /// Checks on shared memory.
    pub checks: SharedChecks,
    /// mbarriers.
    pub mbarriers: Mbarriers,
    /// Bulk copies.
    pub bulk: BulkState,
    /// Copies of a few bytes a lane.
    pub copies: Copies,
    /// Matrix operations.
    pub wgmma: WgmmaState,
    /// Registers left in the pool.
    pub reg_pool: u32,
    /// Warps with live lanes.
    pub live_warps: u32,
    /// The SM it runs on.
    pub sm: u32,
    /// The device's limits.
    pub profile: &'static Profile,
    /// All its warps have exited (kept while its cluster lives).
    pub done: bool,
}

impl Block {
    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.launch.program.kernels()[self.launch.kernel]
    }

    /// Threads.
    pub fn threads(&self) -> u32 {
        self.launch.block.iter().product()
    }

    /// Thread index of lane `lane` of warp `warp`.
    pub fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let (t, [x, y, _]) = (warp * 32 + lane, self.launch.block);
        [t % x, t / x % y, t / (x * y)]
    }

    /// A block about to run.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        id: BlockId,
        grid: GridId,
        launch: Arc<Launch>,
        linear: u64,
        rank: u32,
        sm: u32,
        knobs: &super::Knobs,
    ) -> Self {
        let k = &launch.program.kernels()[launch.kernel];
        let [gx, gy, _] = launch.grid.map(u64::from);
        let index = [
            (linear % gx) as u32,
            (linear / gx % gy) as u32,
            (linear / (gx * gy)) as u32,
        ];
        let threads: u32 = launch.block.iter().product();
        let smem_end = (k.dyn_shared + launch.dynamic_smem).max(k.info.static_smem + SHARED_BASE);
        let checks = SharedChecks::new(smem_end, threads.div_ceil(32), knobs);
        let regs_held = k.info.regs;
        let pool = if k.info.directives.maxnreg.is_some() || regs_held * threads <= 65536 {
            regs_held * threads.next_multiple_of(128)
        } else {
            65536
        };
        let mut block = Self {
            id,
            grid,
            index,
            linear,
            rank,
            cluster: vec![id],
            warps: Vec::new(),
            smem: vec![0xA5; smem_end as usize],
            barriers: [NamedBarrier::default(); 16],
            cluster_arrived: 0,
            cluster_phase: 0,
            cluster_joined: [0; 32],
            checks,
            mbarriers: Mbarriers::default(),
            bulk: BulkState::new(threads.div_ceil(32)),
            copies: Copies::new(threads.div_ceil(32)),
            wgmma: WgmmaState::new(threads.div_ceil(32)),
            reg_pool: pool.saturating_sub(regs_held * threads.next_multiple_of(32)),
            live_warps: threads.div_ceil(32),
            sm,
            profile: knobs.compute_capability.profile(),
            done: false,
            launch: launch.clone(),
        };
        block.warps = (0..threads.div_ceil(32))
            .map(|w| block.warp(w, threads, regs_held))
            .collect();
        block
    }

    fn warp(&self, index: u32, threads: u32, regs_held: u32) -> Warp {
        let k = self.kernel();
        let lanes = if threads - index * 32 >= 32 {
            u32::MAX
        } else {
            (1 << (threads - index * 32)) - 1
        };
        // What a register holds before its first write is nobody's business: a pattern that shows.
        let mut regs = vec![Row([0xDEAD_BEEF; 32]); k.rows as usize];
        for &(row, init) in &k.init {
            let r = row as usize;
            match init {
                RowInit::Imm32(v) => regs[r] = Row([v; 32]),
                RowInit::Imm64(v) => fill64(&mut regs[r..r + 2], v),
                RowInit::Shared32(at) => regs[r] = Row([self.rank << 24 | at; 32]),
                RowInit::Shared64(at) => {
                    fill64(&mut regs[r..r + 2], u64::from(self.rank << 24 | at))
                }
                RowInit::DynShared32(at) => {
                    regs[r] = Row([self.rank << 24 | (k.dyn_shared + at); 32])
                }
                RowInit::DynShared64(at) => fill64(
                    &mut regs[r..r + 2],
                    u64::from(self.rank << 24 | (k.dyn_shared + at)),
                ),
                RowInit::Variable(i, add) => fill64(
                    &mut regs[r..r + 2],
                    self.launch.variables[i as usize].wrapping_add_signed(add),
                ),
                RowInit::Variable32(i, add) => {
                    regs[r] =
                        Row([self.launch.variables[i as usize].wrapping_add_signed(add) as u32; 32])
                }
                RowInit::Special(s) => {
                    regs[r] = Row(std::array::from_fn(|l| self.special(s, index, l as u32)))
                }
                RowInit::Special64(s) => {
                    let v: [u32; 32] = std::array::from_fn(|l| self.special(s, index, l as u32));
                    for l in 0..32 {
                        regs[r + l / 16].0[l % 16 * 2] = v[l];
                        regs[r + l / 16].0[l % 16 * 2 + 1] = 0;
                    }
                }
            }
        }
        let stack = if k.stack { self.launch.stack } else { 0 };
        let local_bytes = k.info.local_bytes.next_multiple_of(16) + stack;
        let mut preds = vec![0xA5A5_A5A5; k.preds as usize];
        preds[PRED_TRUE as usize] = u32::MAX;
        Warp {
            regs,
            preds,
            frags: vec![Frag {
                pc: 0,
                mask: lanes,
                wait: Wait::Ready,
                spins: 0,
            }],
            lanes,
            index,
            queued: false,
            steps: 0,
            local: vec![0xA5; local_bytes as usize * 32],
            local_bytes,
            sp: [k.info.local_bytes.next_multiple_of(16); 32],
            calls: Default::default(),
            regs_held,
        }
    }

    fn special(&self, s: Special, warp: u32, lane: u32) -> u32 {
        use Special::*;
        let l = &self.launch;
        let c = l.cluster;
        let axis = |v: [u32; 3], a: u8| v[a as usize];
        let in_cluster = [
            self.index[0] % c[0],
            self.index[1] % c[1],
            self.index[2] % c[2],
        ];
        match s {
            Tid(a) => axis(self.thread(warp, lane), a),
            Ntid(a) => axis(l.block, a),
            Ctaid(a) => axis(self.index, a),
            Nctaid(a) => axis(l.grid, a),
            Laneid => lane,
            Warpid => warp,
            Nwarpid => self.profile.threads_per_sm / 32,
            Smid => self.sm,
            Nsmid => self.profile.sms,
            Gridid => l.launch_id as u32,
            ClusterId(a) => axis(self.index, a) / axis(c, a),
            NclusterId(a) => axis(l.grid, a) / axis(c, a),
            ClusterCtaid(a) => axis(in_cluster, a),
            ClusterNctaid(a) => axis(c, a),
            ClusterCtarank => self.rank,
            ClusterNctarank => c.iter().product(),
            IsExplicitCluster => u32::from(l.explicit_cluster),
            LanemaskEq => 1 << lane,
            LanemaskLt => (1 << lane) - 1,
            LanemaskLe => (1 << lane) | ((1 << lane) - 1),
            LanemaskGe => !((1 << lane) - 1),
            LanemaskGt => !((1 << lane) | ((1 << lane) - 1)),
            Zero => 0,
            DynamicSmemSize => l.dynamic_smem,
            TotalSmemSize => self.smem.len() as u32 - SHARED_BASE,
            AggrSmemSize => {
                (self.smem.len() as u32 - SHARED_BASE).next_multiple_of(128) + SHARED_BASE
            }
        }
    }

    /// Lets every parked fragment try again.
    pub fn wake_all(&mut self) {
        for w in &mut self.warps {
            for f in &mut w.frags {
                if !matches!(f.wait, Wait::Sleep(_)) {
                    f.wait = Wait::Ready;
                }
            }
        }
    }
}

fn fill64(rows: &mut [Row], v: u64) {
    for row in rows {
        for pair in row.0.chunks_exact_mut(2) {
            pair[0] = v as u32;
            pair[1] = (v >> 32) as u32;
        }
    }
}
