//! The counters as programs see them. `docs/counters.md` says how to read each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a universe counted since it began, whatever the knobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Grids finished.
    pub grids: u64,
    /// Blocks finished.
    pub blocks: u64,
    /// Warp instructions executed, tries of waiting ones included.
    pub instructions: u64,
    /// Bytes that tensor and bulk copies brought from global to shared memory.
    pub bulk_load_bytes: u64,
    /// Bytes that they took from shared to global memory.
    pub bulk_store_bytes: u64,
    /// Multiply-adds of wgmma.
    pub wgmma_macs: u64,
}

/// A launch and its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Kernel.
    pub kernel: String,
    /// Device ordinal.
    pub device: u32,
    /// Stream handle (0: the default stream).
    pub stream: u64,
    /// Number of the launch, as `%gridid` gives it.
    pub launch: u64,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_smem: u32,
    /// It ran to its end; false when it was stopped by a finding.
    pub completed: bool,
    /// Hash of the module's text (`docs/mutants.md`).
    pub module: String,
    /// Lines of the text that were executed; empty without the knob `executed_lines`.
    pub executed_lines: Vec<u32>,
    /// What was counted.
    pub counters: Counters,
}

/// Requests of one kind to global or local memory. A request is one warp instruction with at least one active lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that lanes asked for: lanes × bytes of an element × elements.
    pub bytes: u64,
    /// Different sectors of 32 bytes, request by request.
    pub sectors: u64,
    /// Of these, those beyond what the same bytes would take side by side: ⌈bytes / 32⌉ of each request.
    pub excess_sectors: u64,
}

impl Traffic {
    /// Sectors of a request, 0 without any.
    pub fn sectors_per_request(&self) -> f64 {
        ratio(self.sectors, self.requests)
    }
}

/// Loads, stores and atomics of one space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Loads, the reading half of `cp.async` included.
    pub load: Traffic,
    /// Stores.
    pub store: Traffic,
    /// `atom` and `red`; each moves its bytes once.
    pub atomic: Traffic,
}

/// Requests of one kind to the block's own shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTraffic {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Passes through the 32 banks.
    pub wavefronts: u64,
    /// Of these, those that bank conflicts cause.
    pub extra_wavefronts: u64,
}

/// Loads, stores and atomics of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// `ld` and `ldmatrix`.
    pub load: SharedTraffic,
    /// `st`, `stmatrix` and the writing half of `cp.async`.
    pub store: SharedTraffic,
    /// `atom` and `red`, lanes; their conflicts are not modelled.
    pub atomics: u64,
}

/// Shared memory of other blocks of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dsmem {
    /// Bytes loaded.
    pub load_bytes: u64,
    /// Bytes stored, `st.async` included.
    pub store_bytes: u64,
    /// `atom`, `red` and `red.async`, lanes.
    pub atomics: u64,
    /// Bytes of bulk copies from shared memory to another block's.
    pub bulk_bytes: u64,
}

/// Bulk and tensor copies between global and shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tma {
    /// Copies into shared memory; a multicast is one.
    pub loads: u64,
    /// Bytes read of global memory; a multicast reads once, elements outside the tensor are not read.
    pub load_bytes: u64,
    /// Bytes written to shared memory: of each block that a multicast reaches, fill included.
    pub delivered_bytes: u64,
    /// Copies out of shared memory.
    pub stores: u64,
    /// Bytes written to global memory.
    pub store_bytes: u64,
    /// Reductions out of shared memory.
    pub reductions: u64,
    /// Bytes of them.
    pub reduced_bytes: u64,
}

/// Bytes that went from one device's memory to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Where they came from: a device ordinal, `None` for the host's memory.
    pub from: Option<u32>,
    /// Where they went.
    pub to: Option<u32>,
    /// Bytes, atomics included.
    pub bytes: u64,
}

/// What happened to one allocation (knob `unique_bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Device of the allocation, `None` for the host's memory.
    pub device: Option<u32>,
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes read, repeats included.
    pub load_bytes: u64,
    /// Bytes written, repeats included.
    pub store_bytes: u64,
    /// Different sectors of 32 bytes read.
    pub load_sectors: u64,
    /// Different sectors written.
    pub store_sectors: u64,
}

/// An instruction that waits or lets others go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// Warp instructions that happened.
    pub executed: u64,
    /// Times a warp was put aside there.
    pub parked: u64,
}

/// A line of the PTX text with what it costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Line, from 1.
    pub line: u32,
    /// Opcode.
    pub opcode: String,
    /// Warp instructions.
    pub executed: u64,
    /// Wavefronts that bank conflicts cost.
    pub extra_wavefronts: u64,
    /// Sectors of 32 bytes of global memory.
    pub sectors: u64,
    /// Sectors beyond need.
    pub excess_sectors: u64,
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Blocks that ran.
    pub blocks: u64,
    /// Warp instructions that at least one lane executed. A wait counts once, when it is over.
    pub instructions: u64,
    /// Warp instructions that the guard held back from every lane.
    pub predicated_off: u64,
    /// Lanes of [`Counters::instructions`].
    pub thread_instructions: u64,
    /// Warp instructions by full opcode.
    pub opcodes: BTreeMap<String, u64>,
    /// Warp instructions by class: `integer`, `float`, `half`, `double`, `special`, `convert`, `move`, `compare`, `control`,
    /// `warp`, `load`, `store`, `atomic`, `matrix-move`, `async-copy`, `tensor`, `barrier`, `fence`, `other`.
    pub classes: BTreeMap<String, u64>,
    /// Global memory, constants and the host's memory included; bulk and tensor copies are in [`Counters::tma`].
    pub global: Memory,
    /// Local memory, laid out as hardware does: word i of 32 lanes side by side.
    pub local: Memory,
    /// The block's own shared memory.
    pub shared: Shared,
    /// Other blocks' shared memory.
    pub dsmem: Dsmem,
    /// Bulk and tensor copies.
    pub tma: Tma,
    /// Bytes between memories, device by device. A launch that stays at home has one pair.
    pub transfers: Vec<Transfer>,
    /// Multiply-adds of the tensor cores by instruction and type of A: `wgmma.e4m3`, `mma.bf16`.
    pub tensor_macs: BTreeMap<String, u64>,
    /// Fences by opcode, `membar` and proxy fences among them; warp instructions.
    pub fences: BTreeMap<String, u64>,
    /// Barriers, mbarriers and waits for groups, by opcode.
    pub sync: BTreeMap<String, Sync>,
    /// `ld` that is volatile, relaxed or acquire: what polls are made of. Warp instructions.
    pub strong_loads: u64,
    /// Releases of system scope: fences, stores and atomics with `.sys` and release or stronger. Warp instructions.
    pub system_releases: u64,
    /// Per allocation, by address; empty without the knob `unique_bytes`.
    pub allocations: Vec<Allocation>,
    /// The lines that cost most: up to 8 by bank conflicts, then up to 8 by excess sectors.
    pub lines: Vec<Line>,
}

impl Counters {
    /// Bytes that the L2 sent to SMs: sectors of loads and atomics with a result, and the reads of tensor and bulk copies, a
    /// multicast once. L1 is not modelled: each load asks the L2.
    pub fn l2_to_sm_bytes(&self) -> u64 {
        32 * (self.global.load.sectors + self.local.load.sectors) + self.tma.load_bytes
    }

    /// Bytes that SMs sent to the L2: sectors of stores and atomics, and what bulk copies wrote and reduced.
    pub fn sm_to_l2_bytes(&self) -> u64 {
        32 * (self.global.store.sectors + self.local.store.sectors + self.global.atomic.sectors)
            + self.tma.store_bytes
            + self.tma.reduced_bytes
    }

    /// Bytes read of global memory, by loads and by bulk copies.
    pub fn global_read_bytes(&self) -> u64 {
        self.global.load.bytes + self.tma.load_bytes
    }

    /// Bytes written to global memory, by stores and by bulk copies (no atomics, no reductions).
    pub fn global_written_bytes(&self) -> u64 {
        self.global.store.bytes + self.tma.store_bytes
    }

    /// Bytes of the different sectors read, with the knob `unique_bytes`.
    pub fn unique_read_bytes(&self) -> u64 {
        self.allocations.iter().map(|a| 32 * a.load_sectors).sum()
    }

    /// Bytes of the different sectors written, with the knob `unique_bytes`.
    pub fn unique_written_bytes(&self) -> u64 {
        self.allocations.iter().map(|a| 32 * a.store_sectors).sum()
    }

    /// Wavefronts that bank conflicts cost.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared.load.extra_wavefronts + self.shared.store.extra_wavefronts
    }

    /// All multiply-adds of the tensor cores.
    pub fn macs(&self) -> u64 {
        self.tensor_macs.values().sum()
    }

    /// Bytes from one memory to another.
    pub fn transferred(&self, from: Option<u32>, to: Option<u32>) -> u64 {
        let hit = self
            .transfers
            .iter()
            .filter(|t| t.from == from && t.to == to);
        hit.map(|t| t.bytes).sum()
    }

    /// Sum of what happened at opcodes that start with `prefix`: `mbarrier.try_wait`, `bar.`, `wgmma.wait_group`.
    pub fn synced(&self, prefix: &str) -> Sync {
        let hit = self.sync.iter().filter(|(k, _)| k.starts_with(prefix));
        hit.fold(Sync::default(), |a, (_, s)| Sync {
            executed: a.executed + s.executed,
            parked: a.parked + s.parked,
        })
    }
}

pub(super) fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
