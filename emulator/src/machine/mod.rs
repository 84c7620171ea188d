//! The machine: devices, blocks, warps, the scheduler. One thread runs it.

pub mod block;
pub mod calls;
pub mod device;
pub mod exec;
pub(crate) mod inline;
pub mod inst;
pub mod knobs;
pub mod memory;
pub mod program;
pub mod report;
mod run;
mod schedule;
pub mod tensor_map;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use block::{Block, BlockId};
pub use knobs::Knobs;
use memory::{AddressFault, Memory, Region};
use program::Program;
use report::{Fault, FaultCode, Finding, Report};

use crate::count::{self, Launched, Totals};

/// Number of a started grid.
pub type GridId = u64;

/// A kernel launch, checked by the driver.
pub struct Launch {
    /// Device ordinal.
    pub device: u32,
    /// Module.
    pub program: Arc<Program>,
    /// Kernel of that module.
    pub kernel: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster, `[1, 1, 1]` without.
    pub cluster: [u32; 3],
    /// The launch or the kernel named a cluster.
    pub explicit_cluster: bool,
    /// Bytes of dynamic shared memory.
    pub dynamic_smem: u32,
    /// The parameter block.
    pub params: Vec<u8>,
    /// Bytes of local memory that a thread has beyond its kernel's own (CU_LIMIT_STACK_SIZE).
    pub stack: u32,
    /// Device address of each module variable (0 for those of other spaces).
    pub variables: Arc<Vec<u64>>,
    /// For reports.
    pub stream: u64,
    /// For reports and `%gridid`.
    pub launch_id: u64,
}

/// An operation that goes on beside its issuer: a bulk copy, a matrix operation.
pub trait AsyncOp {
    /// Does it, all of it.
    ///
    /// # Errors
    /// What it found.
    fn run(&mut self, m: &mut Machine) -> Result<(), Box<Finding>>;
    /// The block that issued it.
    fn block(&self) -> BlockId;
    /// Operations with the same number other than 0 run in the order they were issued.
    fn domain(&self) -> u64 {
        0
    }
    /// Where it was issued: kernel line for reports, warp.
    fn origin(&self) -> Origin;
    /// The issuing block is about to leave; `Some` when the operation may not outlive it.
    fn outlives(&self) -> Option<Finding> {
        None
    }
}

/// Who issued an operation.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Instruction index in the kernel.
    pub pc: u32,
    /// Warp.
    pub warp: u32,
    /// Lanes.
    pub lanes: u32,
}

struct Grid {
    launch: Arc<Launch>,
    /// Clusters in the order they start.
    order: Vec<u64>,
    next: usize,
    resident: usize,
    limit: usize,
    steps: u64,
    fault: Option<Fault>,
    /// What is counted (knob `counters`).
    counts: Option<Box<count::Raw>>,
}

/// Devices and what runs on them.
pub struct Machine {
    /// Device memory.
    pub memory: Arc<Memory>,
    /// Settings.
    pub knobs: Knobs,
    /// Resident blocks.
    pub blocks: Vec<Option<Box<Block>>>,
    /// Virtual time in nanoseconds.
    pub now: u64,
    /// Counted so far.
    pub totals: Totals,
    grids: BTreeMap<GridId, Grid>,
    next_grid: GridId,
    ready: VecDeque<(BlockId, u32)>,
    asyncs: VecDeque<Box<dyn AsyncOp>>,
    reports: Vec<Report>,
    printed: Vec<u8>,
    launched: Vec<Launched>,
    finished: Vec<(GridId, Result<(), Fault>)>,
    rng: u64,
    regions: [Option<Region>; 4],
    regions_for: (u32, u64),
    since_admission: u64,
}

impl Machine {
    /// A machine with nothing to do.
    pub fn new(memory: Arc<Memory>, knobs: Knobs) -> Self {
        let rng = knobs.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self {
            memory,
            knobs,
            blocks: Vec::new(),
            now: 1_000_000,
            totals: Totals::default(),
            grids: BTreeMap::new(),
            next_grid: 1,
            ready: VecDeque::new(),
            asyncs: VecDeque::new(),
            reports: Vec::new(),
            printed: Vec::new(),
            launched: Vec::new(),
            finished: Vec::new(),
            rng,
            regions: [None; 4],
            regions_for: (u32::MAX, 0),
            since_admission: 0,
        }
    }

    /// Findings since the last call, warnings among them.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Launches that ended since the last call, with their counters (knob `counters`).
    pub fn take_launched(&mut self) -> Vec<Launched> {
        std::mem::take(&mut self.launched)
    }

    /// Where to count for the grid of block `id`; `None` when nothing is counted.
    #[inline]
    pub fn counts(&mut self, id: BlockId) -> Option<&mut count::Raw> {
        if !self.knobs.counters {
            return None;
        }
        let grid = self.blocks[id].as_deref()?.grid;
        self.grids.get_mut(&grid)?.counts.as_deref_mut()
    }

    /// A grid has left: notes what it counted.
    fn note_launch(&mut self, grid: &Grid, completed: bool) {
        let Some(raw) = &grid.counts else { return };
        let l = &*grid.launch;
        let kernel = &l.program.kernels()[l.kernel];
        self.launched.push(Launched {
            kernel: kernel.info.name.clone(),
            device: l.device,
            stream: l.stream,
            launch: l.launch_id,
            grid: l.grid,
            block: l.block,
            cluster: l.cluster,
            dynamic_smem: l.dynamic_smem,
            completed,
            module: l.program.source.clone(),
            executed_lines: if self.knobs.executed_lines {
                count::executed(kernel, raw)
            } else {
                Vec::new()
            },
            counters: count::summary(kernel, raw),
        });
    }

    /// What kernels printed since the last call.
    pub fn take_printed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.printed)
    }

    /// A kernel prints: to the host's standard output at once, and for whoever asks.
    pub fn print(&mut self, text: &[u8]) {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text).and_then(|()| out.flush());
        self.printed.extend_from_slice(text);
    }

    /// True when no grid is unfinished.
    pub fn idle(&self) -> bool {
        self.grids.is_empty() && self.finished.is_empty()
    }

    /// Stops every grid (the universe is being reset).
    pub fn clear(&mut self) {
        self.grids.clear();
        self.ready.clear();
        self.asyncs.clear();
        self.blocks.clear();
        self.finished.clear();
    }

    /// The next random number (SplitMix64).
    pub fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The allocation that holds `bytes` bytes at `addr`, as seen from `device`.
    ///
    /// # Errors
    /// A finding that says what is there instead.
    #[inline(always)]
    pub fn region(&mut self, device: u32, addr: u64, bytes: u64) -> Result<Region, Box<Finding>> {
        if self.regions_for == (device, self.memory.generation()) {
            for r in self.regions.iter().flatten() {
                let at = addr.wrapping_sub(r.base);
                if at < r.len && bytes <= r.len - at {
                    return Ok(*r);
                }
            }
        }
        self.region_slow(device, addr, bytes)
    }

    #[cold]
    fn region_slow(&mut self, device: u32, addr: u64, bytes: u64) -> Result<Region, Box<Finding>> {
        let key = (device, self.memory.generation());
        if self.regions_for != key {
            self.regions = [None; 4];
            self.regions_for = key;
        }
        let illegal = |check, text| Box::new(Finding::new(FaultCode::IllegalAddress, check, text));
        match self.memory.lookup(device, addr) {
            Ok(r) if bytes <= r.len - (addr - r.base) => {
                self.regions.rotate_right(1);
                self.regions[0] = Some(r);
                Ok(r)
            }
            Ok(r) => Err(illegal(
                "bounds",
                format!(
                    "{bytes} bytes at {addr:#x} reach past the end of the allocation [{:#x}, {:#x})",
                    r.base,
                    r.base + r.len
                ),
            )),
            Err(AddressFault::Freed { base, len }) => Err(illegal(
                "use-after-free",
                format!(
                    "{addr:#x} lies in a freed allocation [{base:#x}, {:#x})",
                    base + len
                ),
            )),
            Err(AddressFault::Beyond { base, len }) => Err(illegal(
                "bounds",
                format!(
                    "{addr:#x} lies {} bytes outside the allocation [{base:#x}, {:#x})",
                    distance(addr, base, len),
                    base + len
                ),
            )),
            Err(AddressFault::NoPeerAccess { owner }) => Err(illegal(
                "bounds",
                format!(
                    "{addr:#x} belongs to device {owner}, to which device {device} has no peer access"
                ),
            )),
            Err(AddressFault::Null) => {
                Err(illegal("bounds", format!("{addr:#x} is in the null page")))
            }
            Err(AddressFault::Unmapped) => {
                Err(illegal("bounds", format!("no allocation is at {addr:#x}")))
            }
        }
    }

    /// Hands over an asynchronous operation.
    ///
    /// # Errors
    /// What an operation run at once found.
    pub fn issue(&mut self, mut op: Box<dyn AsyncOp>) -> Result<(), Box<Finding>> {
        if self.knobs.async_mode == knobs::AsyncMode::Eager {
            op.run(self)
        } else {
            self.asyncs.push_back(op);
            Ok(())
        }
    }

    /// Lets every parked fragment of a block try again.
    pub fn wake(&mut self, id: BlockId) {
        if let Some(b) = self.blocks[id].as_deref_mut() {
            b.wake_all();
            for w in &mut b.warps {
                if !w.queued && w.frags.iter().any(|f| f.wait == block::Wait::Ready) {
                    w.queued = true;
                    self.ready.push_back((id, w.index));
                }
            }
        }
    }
}

fn distance(addr: u64, base: u64, len: u64) -> u64 {
    if addr < base {
        base - addr
    } else {
        addr - (base + len) + 1
    }
}
