//! The view of the machine that an executing instruction has.

use super::block::{Block, BlockId, Wait, Warp};
use super::inst::{Flow, PredId, Row, RowId};
use super::memory::Region;
use super::program::Aux;
use super::report::{FaultCode, Finding};
use super::{AsyncOp, Machine};

/// What an instruction works on: a fragment of a warp, its block, the machine.
///
/// All pointers belong to the machine that runs the fragment, on the one thread that runs the machine; they stay valid
/// while the instruction executes.
pub struct Cx {
    /// Register file.
    pub regs: *mut Row,
    /// Predicates.
    pub preds: *mut u32,
    /// Program counter of this instruction; control flow writes the next one and answers [`Flow::Jump`].
    pub pc: u32,
    /// Lanes of the fragment (the mask of an instruction is a subset: those its guard lets through).
    pub frag_mask: u32,
    /// Why the fragment waits, after [`Flow::Retry`] and [`Flow::Park`].
    pub wait: Wait,
    /// What went wrong, after [`Flow::Fault`].
    pub fault: Option<Box<Finding>>,
    /// The access under way is a strong one (relaxed, acquire, release, volatile): it does not race with its like.
    pub strong: bool,
    /// Index of the fragment in its warp.
    pub frag: usize,
    pub(crate) warp: *mut Warp,
    pub(crate) block: *mut Block,
    pub(crate) machine: *mut Machine,
    pub(crate) aux: *const Aux,
}

impl Cx {
    /// A 32-bit row.
    ///
    /// # Safety
    /// `r` must be a row of the kernel that runs; no other reference to it may be alive.
    #[inline(always)]
    pub unsafe fn row(&mut self, r: RowId) -> &mut [u32; 32] {
        // SAFETY: the caller's duty.
        unsafe { &mut (*self.regs.add(r as usize)).0 }
    }

    /// A pair of rows as 64-bit lanes.
    ///
    /// # Safety
    /// As [`Cx::row`], for `r` and `r + 1`.
    #[inline(always)]
    pub unsafe fn row64(&mut self, r: RowId) -> &mut [u64; 32] {
        // SAFETY: the caller's duty; two neighbouring rows are 256 bytes, aligned to 64.
        unsafe { &mut *self.regs.add(r as usize).cast::<[u64; 32]>() }
    }

    /// A copy of a 32-bit row.
    ///
    /// # Safety
    /// As [`Cx::row`].
    #[inline(always)]
    pub unsafe fn get(&self, r: RowId) -> [u32; 32] {
        // SAFETY: the caller's duty.
        unsafe { (*self.regs.add(r as usize)).0 }
    }

    /// A copy of a pair of rows as 64-bit lanes.
    ///
    /// # Safety
    /// As [`Cx::row64`].
    #[inline(always)]
    pub unsafe fn get64(&self, r: RowId) -> [u64; 32] {
        // SAFETY: the caller's duty.
        unsafe { *self.regs.add(r as usize).cast::<[u64; 32]>() }
    }

    /// Writes the lanes of `mask`.
    ///
    /// # Safety
    /// As [`Cx::row`].
    #[inline(always)]
    pub unsafe fn set(&mut self, r: RowId, v: &[u32; 32], mask: u32) {
        // SAFETY: the caller's duty.
        let d = unsafe { self.row(r) };
        if mask == u32::MAX {
            *d = *v;
        } else {
            for l in 0..32 {
                d[l] = if mask >> l & 1 != 0 { v[l] } else { d[l] };
            }
        }
    }

    /// Writes the lanes of `mask`, 64 bits wide.
    ///
    /// # Safety
    /// As [`Cx::row64`].
    #[inline(always)]
    pub unsafe fn set64(&mut self, r: RowId, v: &[u64; 32], mask: u32) {
        // SAFETY: the caller's duty.
        let d = unsafe { self.row64(r) };
        if mask == u32::MAX {
            *d = *v;
        } else {
            for l in 0..32 {
                d[l] = if mask >> l & 1 != 0 { v[l] } else { d[l] };
            }
        }
    }

    /// A predicate's mask; `negated` inverts it.
    ///
    /// # Safety
    /// `p` must be a predicate slot of the kernel that runs.
    #[inline(always)]
    pub unsafe fn pred(&self, p: PredId) -> u32 {
        // SAFETY: the caller's duty.
        unsafe { *self.preds.add(p as usize) }
    }

    /// Writes the lanes of `mask` of a predicate.
    ///
    /// # Safety
    /// As [`Cx::pred`].
    #[inline(always)]
    pub unsafe fn set_pred(&mut self, p: PredId, value: u32, mask: u32) {
        // SAFETY: the caller's duty.
        unsafe {
            let d = &mut *self.preds.add(p as usize);
            *d = (*d & !mask) | (value & mask);
        }
    }

    /// The side table entry `x` of the running kernel.
    ///
    /// # Safety
    /// `x` must be an index that decoding gave out, for a `T`.
    #[inline(always)]
    pub unsafe fn aux<T: 'static>(&self, x: u32) -> &'static T {
        // SAFETY: the caller's duty; the program outlives the launch, and no instruction keeps the reference.
        let any = unsafe { &**self.aux.add(x as usize) };
        debug_assert!(any.is::<T>());
        // SAFETY: `T` is what decoding stored.
        unsafe { &*std::ptr::from_ref(any).cast::<T>() }
    }

    /// The block.
    #[inline(always)]
    pub fn block(&mut self) -> &mut Block {
        // SAFETY: see the type.
        unsafe { &mut *self.block }
    }

    /// The warp.
    #[inline(always)]
    pub fn warp(&mut self) -> &mut Warp {
        // SAFETY: see the type.
        unsafe { &mut *self.warp }
    }

    /// The machine. Its blocks must not be touched through it while a reference from [`Cx::block`] is alive.
    #[inline(always)]
    pub fn machine(&mut self) -> &mut Machine {
        // SAFETY: see the type.
        unsafe { &mut *self.machine }
    }

    /// The block of rank `rank` in this cluster, if it is there and has not exited.
    pub fn peer(&mut self, rank: u32) -> Option<&mut Block> {
        let id = *self.block().cluster.get(rank as usize)?;
        self.peer_block(id)
    }

    fn peer_block(&mut self, id: BlockId) -> Option<&mut Block> {
        if id == self.block().id {
            return Some(self.block());
        }
        self.machine().blocks[id].as_deref_mut().filter(|b| !b.done)
    }

    /// Stops the grid.
    pub fn fail(&mut self, finding: Finding) -> Flow {
        self.fault = Some(Box::new(finding));
        Flow::Fault
    }

    /// Stops the grid with a finding made elsewhere.
    pub fn fail_box(&mut self, finding: Box<Finding>) -> Flow {
        self.fault = Some(finding);
        Flow::Fault
    }

    /// Stops the grid with a finding of one lane.
    pub fn fail_lane(&mut self, mut finding: Box<Finding>, lane: usize) -> Flow {
        if finding.lanes == 0 {
            finding.lanes = 1 << lane;
        }
        self.fail_box(finding)
    }

    /// For instructions that all lanes of the warp execute together: `None` when `mask` holds every lane that has not
    /// exited, else what to answer. Lanes of another fragment may still come here; lanes that the guard held back cannot.
    pub fn converge(&mut self, mask: u32) -> Option<Flow> {
        let live = self.warp().live();
        if mask == live {
            return None;
        }
        if mask == self.frag_mask {
            return Some(self.retry(Wait::Converge));
        }
        Some(self.fail(
            Finding::new(
                FaultCode::LaunchFailed,
                "divergence",
                format!("all lanes of the warp must execute this together, its guard holds back lanes {:#010x}", self.frag_mask & !mask),
            )
            .lanes(mask),
        ))
    }

    /// As [`Cx::converge`], for instructions that need all 32 lanes.
    pub fn whole_warp(&mut self, mask: u32) -> Option<Flow> {
        if let Some(flow) = self.converge(mask) {
            return Some(flow);
        }
        if mask == u32::MAX {
            return None;
        }
        Some(
            self.fail(
                Finding::new(
                    FaultCode::LaunchFailed,
                    "divergence",
                    "all 32 lanes must take part; some have exited or never were",
                )
                .lanes(mask),
            ),
        )
    }

    /// The warp's register file.
    #[inline(always)]
    pub fn registers(&mut self) -> &mut [Row] {
        &mut self.warp().regs
    }

    /// Not yet: try again when woken.
    pub fn retry(&mut self, wait: Wait) -> Flow {
        self.wait = wait;
        Flow::Retry
    }

    /// Done, but wait before what follows.
    pub fn park(&mut self, wait: Wait) -> Flow {
        self.wait = wait;
        Flow::Park
    }

    /// The allocation that holds `addr`, as seen from this device.
    ///
    /// # Errors
    /// A finding that says what is there instead.
    #[inline(always)]
    pub fn region(&mut self, addr: u64, bytes: u64) -> Result<Region, Box<Finding>> {
        let device = self.block().launch.device;
        self.machine().region(device, addr, bytes)
    }

    /// Hands an asynchronous operation to the machine, which runs it now or later.
    ///
    /// # Errors
    /// What an operation run at once found.
    pub fn issue(&mut self, op: Box<dyn AsyncOp>) -> Result<(), Box<Finding>> {
        self.machine().issue(op)
    }
}
