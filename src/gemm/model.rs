//! The planner: a pure function from a problem to tile, sharing and walk, by a stated model of time.
//!
//! ```text
//! cycles = waves * (K-blocks * max(tensor, port, issue, delivery) + epilogue)
//! time   = max(cycles / clock, bytes / HBM) + ramp
//!
//! tensor     2 BM BN 128 / 8192            a warpgroup alone adds its promotion, which nothing hides
//! port       (bytes written by copies + bytes read by wgmma) / 128 a cycle
//! issue      instructions of the math warps on one of four schedulers
//! delivery   bytes asked of L2 / its share of min(64 SMs, 6000) a cycle; a shared operand counts half
//! epilogue   3750 * BM BN / (256 * 128), as much again for f32
//! ```
//! Parameters: the timing tables of public H100 measurements that the project keeps (peak 8192 operations a cycle and SM; 128 bytes a
//! cycle at the shared-memory port, which wgmma and copies share; 6.0 kB a cycle of L2 delivery for tiles that SMs share; 3750
//! cycles of epilogue and refill per 256x128 tile; 1.62 GHz, 2.9 TB/s and 2 us of ramp for long kernels). Instructions: the
//! ledger in docs/gemm.md. The model ranks tiles; its times are modelled, not measured.

use super::plan::{Groups, Problem, Share};
use super::tiles::{SWIGLU_TILES, TILES, Tile};

const CLOCK_HZ: f64 = 1.62e9;
const HBM_BYTES: f64 = 2.9e12;
const RAMP_S: f64 = 2e-6;
const PORT: f64 = 128.0;
const L2_CHIP: f64 = 6000.0;
const L2_SM: f64 = 64.0;
const EPILOGUE: f64 = 3750.0;
/// Peak FP8 rate and memory bandwidth of an H100 SXM (NVIDIA H100 datasheet): operations and bytes per second.
const PEAK_FLOPS: f64 = 1979e12;
const PEAK_BYTES: f64 = 3.35e12;

/// What bounds a K-block, or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// The tensor cores (with one warpgroup: and its promotion).
    Tensor,
    /// The shared-memory port.
    SharedMemory,
    /// Instruction issue.
    Issue,
    /// Delivery by L2.
    L2,
    /// Device memory.
    Memory,
}

/// A configuration and what the model says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The tile.
    pub tile: Tile,
    /// What pairs of blocks share.
    pub share: Share,
    /// Tiles (or pairs of them) along M that are walked side by side.
    pub walk: u32,
    /// Waves of blocks.
    pub waves: u64,
    /// Share of the block slots of all waves that have a tile.
    pub used: f64,
    /// Modelled cycles of a K-block.
    pub k_block: f64,
    /// Bytes asked of L2.
    pub l2_bytes: f64,
    /// Bytes of device memory, each operand once.
    pub bytes: f64,
    /// Modelled time, in seconds.
    pub seconds: f64,
    /// What bounds it.
    pub bound: Bound,
    /// Operations / peak or bytes / bandwidth, whichever is more, in seconds: nothing can be faster.
    pub floor: f64,
}

/// Instructions beside FFMA that a piece takes a K-block (docs/gemm.md, ledger), wgmma included.
fn other(t: &Tile) -> f64 {
    let selects = 2.0 * f64::from((128 / t.grain()).min(t.n / t.grain()) - 1);
    let base = if t.pieces == 2 { 25.0 } else { 37.0 };
    base + 4.0 + 3.0 * selects.min(1.0) + selects
}

/// Bytes of the problem, each operand once, with `expected_m` rows in every group.
fn bytes(p: &Problem) -> f64 {
    let (n, k) = (p.n as f64, p.k as f64);
    let blocks = p.k.div_ceil(128) as f64;
    let groups = p.groups as f64;
    let m = rows(p);
    let d = if p.swiglu {
        m * (n / 2.0) * (1.0 + 4.0 / 128.0)
    } else {
        m * n * p.out_bytes as f64
    };
    m * k + groups * n * k + d + 4.0 * m * blocks + groups * 4.0 * p.n.div_ceil(128) as f64 * blocks
}

/// Rows in all.
fn rows(p: &Problem) -> f64 {
    match p.by {
        None => p.m as f64,
        Some(_) => p.expected_m as f64 * p.groups as f64,
    }
}

/// The height of a band of units (tiles or pairs) that makes the rows and columns under a wave fewest.
fn walk(t: &Tile, share: Share, sms: u32) -> u32 {
    let units = if share == Share::None { sms } else { sms / 2 }.max(1);
    let (m, n) = match share {
        Share::None => (t.m, t.n),
        Share::A => (t.m, 2 * t.n),
        Share::B => (2 * t.m, t.n),
    };
    (1..=32.min(units))
        .min_by_key(|h| h * m + units.div_ceil(*h) * n)
        .unwrap_or(1)
}

/// What the model says of a configuration.
pub(crate) fn estimate(p: &Problem, t: &Tile, share: Share, sms: u32) -> Estimate {
    let (bm, bn) = (f64::from(t.m), f64::from(t.n));
    let blocks = p.k.div_ceil(128) as f64;
    let size = if share == Share::None { 1 } else { 2 };
    let per_group = p.expected_m.min(p.m).div_ceil(t.m as usize) as u64;
    let (tm, tn) = (per_group, p.n.div_ceil(t.n as usize) as u64);
    let units = match share {
        Share::None => tm * tn,
        Share::A => tm * tn.div_ceil(2),
        Share::B => tm.div_ceil(2) * tn,
    } * p.groups as u64;
    let slots = u64::from(sms / size).max(1);
    let waves = units.div_ceil(slots).max(1);
    let used = (tm * tn * p.groups as u64) as f64 / (waves * slots * u64::from(size)) as f64;

    let warpgroups = f64::from(t.warpgroups);
    let pieces = f64::from(t.pieces);
    let mma_n = f64::from(t.mma_n);
    let promotion = pieces * (mma_n / 2.0 + other(t));
    let tensor = bm * bn * 128.0 * 2.0 / 8192.0 + if t.warpgroups == 1 { promotion } else { 0.0 };
    let read = pieces * warpgroups * (64.0 + mma_n) * 128.0;
    let written = (bm + bn) * 128.0 + bm * 4.0;
    let port = (read + written) / PORT;
    let issue = promotion * warpgroups;
    let asked = 128.0
        * match share {
            Share::None => bm + bn,
            Share::A => bm / 2.0 + bn,
            Share::B => bm + bn / 2.0,
        }
        + bm * 4.0;
    let active = f64::from(sms).min((units * u64::from(size)) as f64);
    let delivery = asked * active / (L2_SM * active).min(L2_CHIP);
    let mut k_block = tensor;
    let mut bound = Bound::Tensor;
    for (v, b) in [
        (port, Bound::SharedMemory),
        (issue, Bound::Issue),
        (delivery, Bound::L2),
    ] {
        if v > k_block {
            (k_block, bound) = (v, b);
        }
    }
    let epilogue = EPILOGUE * bm * bn / (256.0 * 128.0) * if p.out_bytes == 4 { 2.0 } else { 1.0 };
    let cycles = waves as f64 * (blocks * k_block + epilogue);
    let bytes = bytes(p);
    let memory = bytes / HBM_BYTES;
    let busy = cycles / CLOCK_HZ;
    if memory > busy {
        bound = Bound::Memory;
    }
    let flops = 2.0 * rows(p) * p.n as f64 * p.k as f64;
    Estimate {
        tile: *t,
        share,
        walk: walk(t, share, sms),
        waves,
        used,
        k_block,
        l2_bytes: (tm * tn * p.groups as u64) as f64 * blocks * asked,
        bytes,
        seconds: busy.max(memory) + RAMP_S,
        bound,
        floor: (flops / PEAK_FLOPS).max(bytes / PEAK_BYTES),
    }
}

/// Of the configurations that `tile` and `share` leave and that are within 3 % of the least modelled time, the one that asks least of L2;
/// of equals the first of the table. `by_row`: A's scales may come row-major, which takes room.
pub(crate) fn choose(
    p: &Problem,
    sms: u32,
    tile: Option<Tile>,
    share: Option<Share>,
    by_row: bool,
) -> Estimate {
    let table: &[Tile] = if p.swiglu { &SWIGLU_TILES } else { &TILES };
    let mut all: Vec<Estimate> = Vec::new();
    for t in table {
        if tile.is_some_and(|w| w != *t) || !p.fits(t, by_row) {
            continue;
        }
        for s in [Share::None, Share::A, Share::B] {
            // A pair needs two SMs; groups share no B. A sharing asked for that cannot be is none.
            let can = |s| s == Share::None || sms >= 2 && (s == Share::A || p.by.is_none());
            let wanted = match share {
                Some(w) => s == if can(w) { w } else { Share::None },
                None => can(s) && share_fits(p, t, s),
            };
            if wanted {
                all.push(estimate(p, t, s, sms));
            }
        }
    }
    // A pair waits for the slower of its two.
    let seconds = |e: &Estimate| e.seconds * if e.share == Share::None { 1.0 } else { 1.02 };
    let least = all.iter().map(seconds).fold(f64::INFINITY, f64::min);
    all.into_iter()
        .filter(|e| seconds(e) <= least * 1.03)
        .min_by(|a, b| a.l2_bytes.total_cmp(&b.l2_bytes))
        .unwrap_or_else(|| estimate(p, &table[0], Share::None, sms))
}

/// Whether pairs are worth a thought: the axis has two tiles.
fn share_fits(p: &Problem, t: &Tile, s: Share) -> bool {
    match s {
        Share::None => true,
        Share::A => p.n > t.n as usize,
        Share::B => p.m > t.m as usize,
    }
}

/// The page that `explain` gives.
pub(crate) fn explain(p: &Problem, e: &Estimate, sms: u32, by_row: bool) -> String {
    let smem = e.tile.smem(p.out_bytes == 2, by_row, p.table());
    let flops = 2.0 * rows(p) * p.n as f64 * p.k as f64;
    let share = match e.share {
        Share::None => "no cluster",
        Share::A => "pairs along N share A",
        Share::B => "pairs along M share B",
    };
    let groups = match p.by {
        None => String::new(),
        Some(by) => format!(
            "{} groups by {}, {} rows expected in each\n",
            p.groups,
            match by {
                Groups::Counts => "counts",
                Groups::Ends => "ends",
                Groups::Experts => "experts",
            },
            p.expected_m
        ),
    };
    let bound = match e.bound {
        Bound::Tensor => "tensor cores",
        Bound::SharedMemory => "shared-memory port",
        Bound::Issue => "instruction issue",
        Bound::L2 => "L2 delivery",
        Bound::Memory => "device memory",
    };
    format!(
        "{groups}tile {}x{} ({}); {share}; no split of K; {} stages, {} bytes of shared memory, {} threads\n\
         {} tiles in {} wave(s) on {sms} SMs, {:.0} % of the slots used; bands of {}\n\
         {:.3} GFLOP, {:.3} MB of memory, {:.3} MB from L2; bound by {bound}, {:.0} cycles a K-block\n\
         modelled {:.2} us on an H100 at 1.62 GHz; floor {:.2} us, {} bound",
        e.tile.m,
        e.tile.n,
        e.tile.reason,
        smem.stages,
        smem.total,
        e.tile.threads(),
        p.groups as u64
            * p.expected_m.min(p.m).div_ceil(e.tile.m as usize) as u64
            * p.n.div_ceil(e.tile.n as usize) as u64,
        e.waves,
        100.0 * e.used,
        e.walk,
        flops * 1e-9,
        e.bytes * 1e-6,
        e.l2_bytes * 1e-6,
        e.k_block,
        e.seconds * 1e6,
        e.floor * 1e6,
        if flops / PEAK_FLOPS > e.bytes / PEAK_BYTES {
            "compute"
        } else {
            "memory"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(m: usize, n: usize, k: usize) -> Problem {
        Problem {
            by: None,
            groups: 1,
            m,
            n,
            k,
            expected_m: m,
            out_bytes: 2,
            swiglu: false,
        }
    }

    fn pick(m: usize, n: usize, k: usize) -> (u32, u32, Share) {
        let e = choose(&dense(m, n, k), 132, None, None, false);
        (e.tile.m, e.tile.n, e.share)
    }

    #[test]
    fn few_rows_take_one_warpgroup() {
        assert_eq!(pick(1, 576, 7168).0, 64);
        assert_eq!(pick(64, 7168, 2048).0, 64);
    }

    #[test]
    fn large_problems_take_large_tiles_and_share() {
        // 56 x 16 tiles of 256x128: 6.8 waves of 132; the published kernels of this shape use the same tile.
        let (m, n, share) = pick(4096, 7168, 16384);
        assert_eq!((m, n), (256, 128));
        assert_ne!(share, Share::None);
    }

    #[test]
    fn the_port_bounds_what_publications_say() {
        // 128x128 reaches 80 % of the tensor peak, 128x192 92 %, 256x128 89 %.
        for (i, share) in [(0, 0.80), (4, 0.92), (5, 0.89)] {
            let t = &TILES[i];
            let e = estimate(&dense(1 << 14, 1 << 14, 7168), t, Share::B, 132);
            let tensor = f64::from(t.m * t.n) * 256.0 / 8192.0;
            assert!((tensor / e.k_block - share).abs() < 0.015, "{t:?} {e:?}");
        }
    }

    #[test]
    fn what_is_asked_for_is_kept() {
        let p = dense(100, 256, 512);
        let e = choose(&p, 132, Some(TILES[3]), Some(Share::A), false);
        assert_eq!((e.tile, e.share), (TILES[3], Share::A));
        // A pair needs two SMs.
        let e = choose(&p, 1, Some(TILES[3]), Some(Share::A), false);
        assert_eq!(e.share, Share::None);
        // Groups share no B.
        let grouped = Problem {
            by: Some(Groups::Ends),
            groups: 4,
            ..p
        };
        let e = choose(&grouped, 132, Some(TILES[0]), Some(Share::B), false);
        assert_eq!(e.share, Share::None);
    }

    #[test]
    fn the_walk_keeps_a_wave_square() {
        // 132 tiles of 128x128: 11 or 12 side by side.
        let h = walk(&TILES[0], Share::None, 132);
        assert!((11..=12).contains(&h), "{h}");
        assert_eq!(walk(&TILES[0], Share::None, 1), 1);
    }

    #[test]
    fn choices_are_a_function_of_the_problem() {
        let p = dense(300, 2112, 7168);
        assert_eq!(
            choose(&p, 132, None, None, false),
            choose(&p, 132, None, None, false)
        );
    }
}
