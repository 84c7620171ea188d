//! Sizes of a launch: pure functions of shape, options and SM count.

use super::split::{BLOCK, ROWS, SplitRule};
use super::{DIMS, LATENT};
use crate::error::{ArgumentError, at_least, at_most, multiple};

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlaShape {
    /// Requests at most; for [`super::MlaPlan::run_selected`] query tokens at most.
    pub batch: usize,
    /// Query tokens of a request: exactly, or at most where the table has offsets. At least 1.
    pub queries: usize,
    /// Heads, at least 1.
    pub heads: usize,
    /// Cached tokens of a request at most: the table's width times the page size, or topk. At least 1.
    pub capacity: usize,
}

/// What a caller may set.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MlaOptions {
    /// How long requests are split. `None`: fixed, by heads, queries and capacity alone (see `docs/mla.md`), so that a request's
    /// bits do not depend on its batch mates.
    pub split: Option<SplitRule>,
    /// Query i of n sees the tokens below length - (n - 1 - i) (the default); else all.
    pub causal: bool,
    /// Use at most so many SMs. Changes no bit of the result with a fixed split.
    pub sm_limit: Option<u32>,
    /// Clusters of two blocks that share copies of the cache where a request has more than 64 rows (the default). Changes no
    /// bit of the result with a fixed split.
    pub pairs: bool,
}

impl Default for MlaOptions {
    fn default() -> Self {
        Self {
            split: None,
            causal: true,
            sm_limit: None,
            pairs: true,
        }
    }
}

/// Floats of a slot for each 16 rows: 512 columns and a log-sum a row (`kernels/mla/output.cuh`).
const SLOT_WARP: usize = 16 * LATENT + 16;
/// Splits of a request at most, by the default rule.
const MOST_SPLITS: usize = 32;
/// Peak bf16 rate and memory bandwidth of an H100 SXM (NVIDIA H100 datasheet): operations and bytes per second.
const PEAK_FLOPS: f64 = 989e12;
const PEAK_BYTES: f64 = 3.35e12;

/// Tokens of a split by default: partial results of a tile are written and read once a split, which is kept near a tenth of the
/// split's own bytes, and a request has at most 32 splits.
fn default_split(rows: usize, capacity: usize) -> usize {
    let by_rows = match rows {
        0..=16 => 512,
        17..=32 => 1024,
        _ => 2048,
    };
    by_rows.max(capacity.div_ceil(MOST_SPLITS).next_multiple_of(BLOCK))
}

#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) split_blocks: u32,
    pub(super) max_tiles: u32,
    pub(super) slot_warps: u32,
    pub(super) q_box_rows: u32,
    /// Whether clusters of two are used where blocks are copied whole.
    pub(super) pairs: bool,
    slots: usize,
    counters: usize,
    sms: u32,
    most_items: usize,
}

impl Sizes {
    pub(super) fn new(
        shape: MlaShape,
        options: &MlaOptions,
        sms: u32,
    ) -> Result<Self, ArgumentError> {
        let MlaShape {
            batch,
            queries,
            heads,
            capacity,
        } = shape;
        for (name, v) in [
            ("batch", batch),
            ("queries", queries),
            ("heads", heads),
            ("capacity", capacity),
        ] {
            at_least(name, v as u64, u64::from(name != "batch"))?;
            at_most(name, v as u64, (1 << 30) - 1)?;
        }
        let rows = queries as u64 * heads as u64;
        at_most("queries * heads", rows, (1 << 30) - 1)?;
        at_most(
            "batch * queries * heads",
            rows.saturating_mul(batch as u64),
            (1 << 31) - 1,
        )?;
        let rows = rows as usize;
        let sms = options.sm_limit.map_or(sms, |l| l.clamp(1, sms));
        // Two SMs make a cluster.
        let pairs = options.pairs && rows > ROWS && sms >= 2;
        let tiles = rows.div_ceil(ROWS);
        let max_tiles = if pairs {
            tiles.next_multiple_of(2)
        } else {
            tiles
        };
        let (split_blocks, most_splits, most_items);
        match options.split {
            Some(SplitRule::Fill) => {
                (split_blocks, most_splits) = (0, 0);
                most_items = usize::MAX;
            }
            fixed => {
                let tokens = match fixed {
                    Some(SplitRule::Fixed(t)) => t,
                    _ => default_split(rows, capacity),
                };
                at_least("split", tokens as u64, BLOCK as u64)?;
                multiple("split", tokens as u64, BLOCK as u64)?;
                split_blocks = (tokens / BLOCK).min(u32::MAX as usize >> 8) as u32;
                most_splits = capacity.div_ceil(BLOCK).div_ceil(split_blocks as usize);
                most_items = (batch as u64)
                    .saturating_mul(max_tiles as u64)
                    .saturating_mul(most_splits as u64)
                    .min(usize::MAX as u64) as usize;
                at_most("batch * tiles * splits", most_items as u64, (1 << 31) - 1)?;
            }
        }
        let slots = match most_splits {
            0 => 2 * sms as usize,
            1 => 0,
            _ => most_items,
        };
        Ok(Self {
            split_blocks,
            max_tiles: max_tiles as u32,
            slot_warps: rows.min(ROWS).div_ceil(16) as u32,
            q_box_rows: rows.min(ROWS).next_multiple_of(8) as u32,
            pairs,
            slots,
            counters: if most_splits == 1 {
                0
            } else {
                batch * max_tiles
            },
            sms,
            most_items,
        })
    }

    pub(super) fn partial_floats(&self) -> usize {
        self.slots * self.slot_warps as usize * SLOT_WARP
    }

    pub(super) fn counters(&self) -> usize {
        self.counters
    }

    /// Workers (blocks, or clusters of two) and blocks.
    pub(super) fn grid(&self, pair: bool) -> (u32, u32) {
        let size = 1 + u32::from(pair);
        let most = self.most_items.div_ceil(size as usize).max(1);
        let workers = ((self.sms / size).max(1) as usize).min(most) as u32;
        (workers, workers * size)
    }

    /// The page that [`super::MlaPlan::explain`] gives.
    pub(super) fn explain(&self, s: MlaShape, format: &str, row_bytes: usize) -> String {
        let rows = (s.batch * s.queries * s.heads) as f64;
        let tokens = (s.batch * s.capacity) as f64;
        let flops = 2.0 * (DIMS + LATENT) as f64 * rows * s.capacity as f64;
        let bytes = tokens * row_bytes as f64 + rows * 2.0 * (DIMS + LATENT) as f64;
        let (compute, memory) = (flops / PEAK_FLOPS, bytes / PEAK_BYTES);
        let split = match self.split_blocks {
            0 => "split to fill the grid, by the lengths of the batch".into(),
            b => format!("split every {} tokens", u64::from(b) * BLOCK as u64),
        };
        let (workers, blocks) = self.grid(self.pairs);
        format!(
            "{format}: {} tile(s) of 64 rows a request{}, {split}\n\
             1 launch, {blocks} blocks ({workers} workers) of 512 threads, {} bytes of shared memory, {} of workspace\n\
             at full capacity {:.3} GFLOP, {:.3} MB; floor on an H100 {:.2} us, {} bound ({:.2} us compute, {:.2} us memory)",
            self.max_tiles,
            if self.pairs {
                ", in pairs that share copies"
            } else {
                ""
            },
            super::SMEM,
            4 * (self.partial_floats() + self.counters),
            flops / 1e9,
            bytes / 1e6,
            compute.max(memory) * 1e6,
            if compute > memory {
                "compute"
            } else {
                "memory"
            },
            compute * 1e6,
            memory * 1e6,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(heads: usize, split: Option<SplitRule>) -> Sizes {
        let shape = MlaShape {
            batch: 4,
            queries: 1,
            heads,
            capacity: 4096,
        };
        let options = MlaOptions {
            split,
            ..MlaOptions::default()
        };
        Sizes::new(shape, &options, 132).unwrap()
    }

    #[test]
    fn grids_and_workspaces() {
        let s = sizes(16, None);
        assert_eq!(
            (s.split_blocks, s.slots, s.slot_warps, s.grid(false)),
            (8, 32, 1, (32, 32))
        );
        let s = sizes(128, None);
        assert_eq!(
            (s.split_blocks, s.slots, s.slot_warps, s.grid(true)),
            (32, 16, 4, (8, 16))
        );
        let s = sizes(128, Some(SplitRule::Fixed(4096)));
        assert_eq!((s.partial_floats(), s.counters()), (0, 0));
        let s = sizes(96, Some(SplitRule::Fill));
        assert_eq!(
            (s.slots, s.grid(true), s.grid(false)),
            (264, (66, 132), (132, 132))
        );
    }

    #[test]
    fn bad_sizes_have_names() {
        let shape = MlaShape {
            batch: 1,
            queries: 1,
            heads: 0,
            capacity: 64,
        };
        let o = MlaOptions::default();
        assert!(matches!(
            Sizes::new(shape, &o, 132),
            Err(ArgumentError::TooSmall {
                argument: "heads",
                ..
            })
        ));
        let shape = MlaShape { heads: 1, ..shape };
        let o = MlaOptions {
            split: Some(SplitRule::Fixed(100)),
            ..o
        };
        assert!(matches!(
            Sizes::new(shape, &o, 132),
            Err(ArgumentError::Multiple {
                argument: "split",
                ..
            })
        ));
    }
}
