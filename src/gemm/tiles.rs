//! The tile tables, with the reason beside each row. The kernel's `Tile` (kernels/gemm/fp8/tile.cuh) has the same rows.

/// A tile of D that one block computes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile {
    /// Rows.
    pub m: u32,
    /// Columns.
    pub n: u32,
    /// Columns of one matrix instruction. A warpgroup computes pieces of 64 x `mma_n` with one set of partial sums.
    pub mma_n: u32,
    /// Pieces of a warpgroup: more than one means more sums per byte read, and 192 registers of sums a thread.
    pub pieces: u32,
    /// Math warpgroups.
    pub warpgroups: u32,
    /// Why it is in the table.
    pub reason: &'static str,
}

const fn tile(
    (m, n): (u32, u32),
    mma_n: u32,
    pieces: u32,
    warpgroups: u32,
    reason: &'static str,
) -> Tile {
    Tile {
        m,
        n,
        mma_n,
        pieces,
        warpgroups,
        reason,
    }
}

/// Tiles of the plain kernels.
pub const TILES: [Tile; 6] = [
    tile(
        (128, 128),
        128,
        1,
        2,
        "the workhorse: two math warpgroups overlap wgmma and promotion",
    ),
    tile(
        (64, 128),
        128,
        1,
        1,
        "up to 64 rows: no half-empty second warpgroup, more stages of weights in flight",
    ),
    tile(
        (128, 112),
        112,
        1,
        2,
        "fills the last wave where 128 columns leave SMs idle (N = 7168: 64 tiles a row, not 56)",
    ),
    tile(
        (128, 160),
        160,
        1,
        2,
        "25 % less of A from L2 than 128 columns, and another divisor of N (N = 24576: 154 tiles a row); straddles at multiples of 32",
    ),
    tile(
        (128, 192),
        192,
        1,
        2,
        "the least shared-memory traffic per operation of one piece (92 % of the tensor peak); straddles at 64 alone: two selects a K-block",
    ),
    tile(
        (256, 128),
        128,
        2,
        2,
        "two slabs share each read of B: 25 instructions a slab and K-block beside wgmma and FFMA; no straddling",
    ),
];

/// Tiles of the SwiGLU kernels: 256 columns of gate and up make 128 of the result, so that a block knows a whole scale group.
pub const SWIGLU_TILES: [Tile; 2] = [
    tile(
        (128, 256),
        128,
        2,
        2,
        "each warpgroup has all 256 columns of its rows: the maximum of a scale group is a shuffle",
    ),
    tile(
        (64, 256),
        128,
        1,
        2,
        "up to 64 rows: two warpgroups side by side overlap wgmma and promotion, and exchange row maxima",
    ),
];

/// Dynamic shared memory that a block may have on sm_90.
pub(crate) const MAX_SMEM: u32 = 232_448;
/// Behind the stages, before the table of groups: abort words; where warpgroups lie side by side also row maxima.
const EXTRA: u32 = 16;
const ROW_MAXIMA: u32 = 512;
/// Bytes of a group in that table.
const GROUP: u32 = 12;

/// Where things lie in a block's shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Smem {
    /// Bytes of D's buffers, before the stages.
    pub(crate) ring: u32,
    /// Bytes of a stage.
    pub(crate) stage: u32,
    /// Stages.
    pub(crate) stages: u32,
    /// Where the rest starts.
    pub(crate) extra: u32,
    /// All of it.
    pub(crate) total: u32,
}

impl Tile {
    /// Threads of a block: a producer warpgroup and the math warpgroups.
    pub const fn threads(&self) -> u32 {
        128 + 128 * self.warpgroups
    }

    /// Whether D's boxes are 128 bytes wide and swizzled; else one box as wide as the tile.
    pub(crate) const fn swizzled_d(&self) -> bool {
        self.mma_n.is_multiple_of(64)
    }

    /// Columns of a box of 16-bit D.
    pub(crate) const fn d_box_cols(&self) -> u32 {
        if self.swizzled_d() { 64 } else { self.mma_n }
    }

    /// Columns of D start on multiples of this.
    pub(crate) const fn grain(&self) -> u32 {
        let n = self.mma_n | 128;
        n & n.wrapping_neg()
    }

    /// `buffered`: 16-bit D goes through shared memory. `by_row`: scales of A are row-major. `groups`: of the table, 0 for none.
    pub(crate) const fn smem(&self, buffered: bool, by_row: bool, groups: u32) -> Smem {
        let ring = if buffered { self.m * self.n * 2 } else { 0 };
        let sfa = self.m * if by_row { 16 } else { 4 };
        let stage = (self.m + self.n) * 128 + (128 + sfa).next_multiple_of(1024);
        let side_by_side = self.warpgroups == 2 && self.m == 64;
        let maxima = if side_by_side { ROW_MAXIMA } else { 0 };
        let extra_bytes = (EXTRA + maxima + groups * GROUP).next_multiple_of(16);
        let fit = (MAX_SMEM - ring - extra_bytes) / stage;
        let stages = if fit < 8 { fit } else { 8 };
        let extra = ring + stages * stage;
        Smem {
            ring,
            stage,
            stages,
            extra,
            total: extra + extra_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_and_pipelines() {
        for t in TILES.iter().chain(&SWIGLU_TILES) {
            assert_eq!(t.m * t.n, 64 * t.mma_n * t.pieces * t.warpgroups, "{t:?}");
            for (buffered, by_row, groups) in [
                (true, false, 0),
                (true, false, 512),
                (true, true, 256),
                (false, true, 512),
            ] {
                let buffered = buffered && t.n < 256;
                let s = t.smem(buffered, by_row, groups);
                assert!(s.total <= MAX_SMEM && s.stages >= 3, "{t:?} {s:?}");
                assert_eq!(s.stage % 1024, 0);
                assert_eq!(s.ring % 1024, 0);
            }
            // At most two scale blocks of B under a tile, wherever it starts.
            let last = (128 / t.grain() - 1) * t.grain();
            assert!(t.n == 256 || last + t.mma_n <= 256, "{t:?}");
        }
        assert_eq!(TILES[0].smem(true, false, 0).stages, 5);
        assert_eq!(TILES[3].smem(true, false, 128).stages, 5);
        assert_eq!(TILES[5].smem(true, false, 512).stages, 3);
        assert_eq!(TILES[0].threads(), 384);
    }
}
