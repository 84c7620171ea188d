//! Who did what before whom: agents, epochs, vector clocks.
//!
//! The agents of a block are its warps and each warp's copies of `cp.async` (generic proxy) and, in the async proxy, one for
//! each warp's bulk copies out of shared memory, one for each warp's matrix operations and one for each mbarrier, on which
//! copies into shared memory complete. An asynchronous operation thus is work of an agent of its own that others learn of by waiting: for the group,
//! or for the phase of the mbarrier. (The scheme is FastTrack's, Flanagan and Freund 2009, over such agents.)

/// Warps of a block at most.
pub const WARPS: u32 = 32;
/// mbarriers that are told apart.
pub const MBARRIERS: u32 = 96;
/// First agent of each kind.
pub const BULK: u32 = WARPS;
/// See [`BULK`].
pub const WGMMA: u32 = 2 * WARPS;
/// See [`BULK`].
pub const COPY: u32 = 3 * WARPS;
/// See [`BULK`].
pub const MBAR: u32 = 4 * WARPS;
/// Agents in all.
pub const AGENTS: usize = (MBAR + MBARRIERS) as usize;

/// One agent's point in time: `agent << 24 | clock`. 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u32);

/// The largest clock; beyond it the block's checks end (reported once).
pub const CLOCK_MAX: u32 = 0x00FF_FFFF;

impl Epoch {
    /// Of `agent` at `clock`.
    pub const fn new(agent: u32, clock: u32) -> Self {
        Self(agent << 24 | clock & CLOCK_MAX)
    }
    /// Who.
    pub const fn agent(self) -> u32 {
        self.0 >> 24
    }
    /// When.
    pub const fn clock(self) -> u32 {
        self.0 & CLOCK_MAX
    }
    /// Nothing has happened.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Through the generic proxy.
    pub const fn generic(self) -> bool {
        matches!(self.agent(), 0..WARPS | COPY..MBAR)
    }
}

/// How much of each agent's work is known.
#[derive(Clone)]
pub struct Clock(pub Box<[u32; AGENTS]>);

impl Default for Clock {
    fn default() -> Self {
        Self(Box::new([0; AGENTS]))
    }
}

impl Clock {
    /// Learns what `other` knows.
    pub fn join(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(other.0.iter()) {
            *a = (*a).max(*b);
        }
    }
    /// Whether `e` is known.
    #[inline(always)]
    pub fn knows(&self, e: Epoch) -> bool {
        self.0[e.agent() as usize] >= e.clock()
    }
}
