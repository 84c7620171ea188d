//! The tile table, with the reason beside each row. The formulas are those of `kernels/gemm/sm90_fp8_gemm_1d2d.cu`.

/// A tile of D that one block computes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tile {
    /// Rows.
    pub m: u32,
    /// Columns.
    pub n: u32,
    /// Why it is in the table.
    pub reason: &'static str,
}

/// All tiles.
pub const TILES: [Tile; 3] = [
    Tile {
        m: 128,
        n: 128,
        reason: "the workhorse: two math warpgroups overlap wgmma and promotion",
    },
    Tile {
        m: 64,
        n: 128,
        reason: "up to 64 rows: no half-empty second warpgroup, more stages of weights in flight",
    },
    Tile {
        m: 128,
        n: 112,
        reason: "fills the last wave where 128 columns leave SMs idle (N = 7168: 64 tiles a row, not 56)",
    },
];

/// Dynamic shared memory that a block may have on sm_90.
const MAX_SMEM: u32 = 232_448;

impl Tile {
    /// Math warpgroups: one per 64 rows.
    pub const fn warpgroups(&self) -> u32 {
        self.m / 64
    }

    /// Threads of a block: a producer warpgroup and the math warpgroups.
    pub const fn threads(&self) -> u32 {
        128 + 128 * self.warpgroups()
    }

    /// Whether D's boxes are 128 bytes wide and swizzled; else one box as wide as the tile.
    pub(crate) const fn swizzled_d(&self) -> bool {
        self.n.is_multiple_of(128)
    }

    /// Columns of a box of D.
    pub(crate) const fn d_box_cols(&self, out_bytes: u32) -> u32 {
        if self.swizzled_d() {
            128 / out_bytes
        } else {
            self.n
        }
    }

    const fn stage_bytes(&self) -> u32 {
        self.m * 128 + self.n * 128 + 1024
    }

    const fn d_bytes(&self, out_bytes: u32) -> u32 {
        self.warpgroups() * 64 * self.n * out_bytes
    }

    /// Stages of the ring: as many as fit, at most 8.
    pub const fn stages(&self, out_bytes: u32) -> u32 {
        let fit = (MAX_SMEM - 128 - self.d_bytes(out_bytes)) / self.stage_bytes();
        if fit < 8 { fit } else { 8 }
    }

    /// Dynamic shared memory of a block.
    pub const fn smem_bytes(&self, out_bytes: u32) -> u32 {
        self.d_bytes(out_bytes) + self.stages(out_bytes) * self.stage_bytes() + 128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_and_pipelines() {
        for t in &TILES {
            for bytes in [2, 4] {
                assert!(t.smem_bytes(bytes) <= MAX_SMEM, "{t:?}");
                assert!(t.stages(bytes) >= 4, "{t:?}");
                assert_eq!(t.stage_bytes() % 1024, 0);
            }
        }
        assert_eq!(TILES[0].stages(2), 5);
        assert_eq!(TILES[0].threads(), 384);
    }
}
