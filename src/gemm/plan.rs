//! What a caller asks for: shapes and options.

use super::tiles::{MAX_SMEM, Tile};
use crate::error::{ArgumentError, at_most, multiple};

/// Sizes of D = A B^T: A is [m, k], B is [n, k].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// Rows of A and D; 0 launches nothing.
    pub m: usize,
    /// Rows of B, columns of D; a multiple of 8.
    pub n: usize,
    /// Columns of A and B; a multiple of 16, at least 16.
    pub k: usize,
}

/// How rows of A and D belong to groups, and what the index operand of `run` holds. Groups need no alignment and may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Groups {
    /// A is [groups, m, k] and D [groups, m, n]; `index[g]` rows of group g exist, the others are neither used nor written.
    Counts,
    /// A is [m, k]; group g has the rows from `index[g - 1]` (0 for the first) to `index[g]`.
    Ends,
    /// A is [m, k]; row i belongs to group `index[i]`, or to none with -1. The rows of a group lie together; groups may come in any order.
    Experts,
}

/// Sizes of a grouped GEMM: group g has D = A_g B_g^T, B is [groups, n, k].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedShape {
    /// How rows belong to groups.
    pub by: Groups,
    /// Groups, at most 512.
    pub groups: usize,
    /// Rows: of each group's room with [`Groups::Counts`], else of all groups together.
    pub m: usize,
    /// Rows of a group's B, columns of D; a multiple of 8.
    pub n: usize,
    /// Columns of A and B; a multiple of 16, at least 16.
    pub k: usize,
    /// Rows that a group has on average, for the choice of a tile alone.
    pub expected_m: usize,
}

/// What is shared by the two blocks of a pair, which run at the same time: each loads half of it for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Share {
    /// Nothing: blocks are alone.
    None,
    /// A: the pair's tiles are neighbours along N.
    A,
    /// B: the pair's tiles are neighbours along M. Not for groups, whose last tile would have no neighbour.
    B,
}

/// What a caller may set. Nothing of it changes a bit of the result.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GemmOptions {
    /// This tile instead of the planner's choice.
    pub tile: Option<Tile>,
    /// This sharing instead of the planner's choice.
    pub share: Option<Share>,
    /// Use at most so many SMs.
    pub sm_limit: Option<u32>,
    /// The kernel may be launched before its predecessor in the stream has ended; it then waits (`griddepcontrol.wait`) before it
    /// reads any operand and before it writes D. Kernels behind it may start early likewise.
    pub dependent: bool,
    /// How long a wait inside the kernel may last, in nanoseconds, before it gives up and reports through the status.
    pub deadline_ns: u64,
}

impl Default for GemmOptions {
    /// The planner's choices, all SMs, an ordinary launch, ten seconds.
    fn default() -> Self {
        Self {
            tile: None,
            share: None,
            sm_limit: None,
            dependent: false,
            deadline_ns: 10_000_000_000,
        }
    }
}

/// Most groups of a plan: what the kernel's table in shared memory has room for beside every tile.
pub const MAX_GROUPS: usize = 512;

/// A problem as the planner sees it, dense or grouped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Problem {
    /// None: one group with all rows.
    pub(crate) by: Option<Groups>,
    pub(crate) groups: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Rows a group is planned for.
    pub(crate) expected_m: usize,
    /// Bytes of an element of D.
    pub(crate) out_bytes: usize,
    /// D is codes and scales of 128 columns for 256 of B.
    pub(crate) swiglu: bool,
}

impl Problem {
    pub(crate) fn check(&self) -> Result<(), ArgumentError> {
        for (name, v) in [("m", self.m), ("n", self.n), ("k", self.k)] {
            at_most(name, v as u64, i32::MAX as u64)?;
        }
        at_most("groups", self.groups as u64, MAX_GROUPS as u64)?;
        multiple("n", self.n as u64, if self.swiglu { 256 } else { 8 })?;
        multiple("k", self.k as u64, 16)?;
        if self.k == 0 {
            return Err(ArgumentError::TooSmall {
                argument: "k",
                limit: 16,
                got: 0,
            });
        }
        // Numbers of tiles are 32 bits in the kernel.
        let smallest = self.tiles(64, 64);
        at_most("m: tiles", smallest, u32::MAX.into())
    }

    /// Nothing to compute.
    pub(crate) fn empty(&self) -> bool {
        self.m == 0 || self.n == 0 || self.groups == 0
    }

    /// The most tiles of these sizes that there can be.
    pub(crate) fn tiles(&self, m: usize, n: usize) -> u64 {
        let rows = match self.by {
            None => self.m.div_ceil(m) as u64,
            Some(Groups::Counts) => self.groups as u64 * self.m.div_ceil(m) as u64,
            Some(_) => (self.m / m + self.groups.min(self.m)) as u64,
        };
        rows * self.n.div_ceil(n) as u64
    }

    /// Groups in the kernel's table.
    pub(crate) fn table(&self) -> u32 {
        if self.by.is_some() {
            self.groups as u32
        } else {
            0
        }
    }

    /// Refuses a tile that leaves no room for three stages.
    pub(crate) fn fits(&self, t: &Tile, by_row: bool) -> bool {
        let s = t.smem(self.out_bytes == 2, by_row, self.table());
        s.stages >= 3 && s.total <= MAX_SMEM
    }
}
