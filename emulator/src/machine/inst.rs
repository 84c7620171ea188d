//! The executable form of an instruction: one function pointer and operands that are all rows.
//!
//! A warp's registers are rows of 32 lanes. Immediates, special registers and addresses of variables are rows too, filled
//! when the warp starts, so that no lane loop asks what kind of operand it has. Registers of 64 bits take two rows, read
//! as `[u64; 32]`; narrower ones hold their bits zero-extended. Predicates are 32-bit masks in a table of their own.

use super::exec::Cx;

/// 32 lanes of 32 bits. Two neighbours make 32 lanes of 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row(pub [u32; 32]);

/// Index of a row in a warp's register file.
pub type RowId = u32;

/// Index of a predicate in a warp's predicate table. Slot 0 is always true, slot 1 is written and never read (the sink).
pub type PredId = u32;

/// The predicate that is always true.
pub const PRED_TRUE: PredId = 0;
/// The predicate nobody reads.
pub const PRED_SINK: PredId = 1;

/// What the warp does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Goes on with the next instruction.
    Next,
    /// `Cx::pc` or the fragment list was changed: look again.
    Jump,
    /// The instruction has not happened; try it again when the fragment is woken (`Cx::block_on` says why).
    Retry,
    /// The instruction has happened; go on, but give other warps a turn first.
    Yield,
    /// The instruction has happened; the fragment waits (`Cx::block_on`) and then continues after it.
    Park,
    /// `Cx::fault` is set: the grid dies.
    Fault,
}

/// Executes one instruction for the lanes of `mask` (never empty).
///
/// # Safety
/// `cx` must belong to a warp that runs the code this instruction was decoded for, and the CPU must have the features of
/// the version that was chosen at decode time.
pub type Exec = unsafe fn(cx: &mut Cx, inst: &Inst, mask: u32) -> Flow;

/// One instruction.
#[derive(Clone, Copy)]
pub struct Inst {
    /// What it does.
    pub exec: Exec,
    /// Guard: predicate slot << 1 | negated. `PRED_TRUE << 1` runs always.
    pub guard: u32,
    /// Destination: row, or predicate slot.
    pub d: u32,
    /// First source.
    pub a: u32,
    /// Second source.
    pub b: u32,
    /// Third source.
    pub c: u32,
    /// What the instruction makes of it: flags, a predicate slot, an index into its side table.
    pub x: u32,
}

/// What a row holds when a warp starts, other than poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowInit {
    /// The same 32 bits in each lane.
    Imm32(u32),
    /// The same 64 bits in each lane (two rows).
    Imm64(u64),
    /// Address in the shared window of byte `offset` of this block's shared memory (rank included), 32 bits.
    Shared32(u32),
    /// The same, 64 bits wide (not generic).
    Shared64(u32),
    /// Address of the dynamic shared memory plus an offset, 32 bits.
    DynShared32(u32),
    /// The same, 64 bits wide.
    DynShared64(u32),
    /// Device address of module variable `.0` plus `.1` (64 bits).
    Variable(u32, i64),
    /// The low half of that address.
    Variable32(u32, i64),
    /// A special register that is constant through a warp's life, 32 bits.
    Special(Special),
    /// The same, zero-extended to 64 bits (two rows).
    Special64(Special),
}

/// Special registers that do not change while a warp runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicSmemSize,
    TotalSmemSize,
    AggrSmemSize,
    /// Counters and driver words that nobody set: 0.
    Zero,
}

impl Special {
    /// The register that PTX calls `name` (with its `%`), if it is one of these.
    pub fn parse(name: &str) -> Option<Self> {
        use Special::*;
        let (stem, axis) = match name.rsplit_once('.') {
            Some((s, "x")) => (s, 0),
            Some((s, "y")) => (s, 1),
            Some((s, "z")) => (s, 2),
            Some(_) => return None,
            None => (name, 3),
        };
        let axes = |f: fn(u8) -> Special| (axis < 3).then(|| f(axis));
        let plain = |s: Special| (axis == 3).then_some(s);
        match stem {
            "%tid" => axes(Tid),
            "%ntid" => axes(Ntid),
            "%ctaid" => axes(Ctaid),
            "%nctaid" => axes(Nctaid),
            "%clusterid" => axes(ClusterId),
            "%nclusterid" => axes(NclusterId),
            "%cluster_ctaid" => axes(ClusterCtaid),
            "%cluster_nctaid" => axes(ClusterNctaid),
            "%laneid" => plain(Laneid),
            "%warpid" => plain(Warpid),
            "%nwarpid" => plain(Nwarpid),
            "%smid" => plain(Smid),
            "%nsmid" => plain(Nsmid),
            "%gridid" => plain(Gridid),
            "%cluster_ctarank" => plain(ClusterCtarank),
            "%cluster_nctarank" => plain(ClusterNctarank),
            "%is_explicit_cluster" => plain(IsExplicitCluster),
            "%lanemask_eq" => plain(LanemaskEq),
            "%lanemask_le" => plain(LanemaskLe),
            "%lanemask_lt" => plain(LanemaskLt),
            "%lanemask_ge" => plain(LanemaskGe),
            "%lanemask_gt" => plain(LanemaskGt),
            "%dynamic_smem_size" => plain(DynamicSmemSize),
            "%total_smem_size" => plain(TotalSmemSize),
            "%aggr_smem_size" => plain(AggrSmemSize),
            s if s.starts_with("%pm") || s.starts_with("%envreg") => plain(Zero),
            "%current_graph_exec" => plain(Zero),
            _ => None,
        }
    }
}
