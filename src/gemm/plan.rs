//! The choice of a tile: a pure function of shape and SM count.

use super::tiles::{TILES, Tile};

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

/// What a caller may set.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GemmOptions {
    /// This tile instead of the planner's choice. It changes no bit of the result.
    pub tile: Option<Tile>,
    /// Use at most so many SMs. It changes no bit of the result.
    pub sm_limit: Option<u32>,
    /// How long a wait inside the kernel may last, in nanoseconds, before it gives up and reports through the status.
    pub deadline_ns: u64,
}

impl Default for GemmOptions {
    /// The planner's tile, all SMs, ten seconds.
    fn default() -> Self {
        Self {
            tile: None,
            sm_limit: None,
            deadline_ns: 10_000_000_000,
        }
    }
}

/// Peak FP8 rate and memory bandwidth of an H100 SXM (NVIDIA H100 datasheet): operations and bytes per second.
const PEAK_FLOPS: f64 = 1979e12;
const PEAK_BYTES: f64 = 3.35e12;

fn tiles(shape: GemmShape, t: Tile) -> u64 {
    (shape.m.div_ceil(t.m as usize) * shape.n.div_ceil(t.n as usize)) as u64
}

/// Cycles that a K-block of a tile takes an SM, by a model: 8192 operations a cycle in the tensor cores (H100 data sheet:
/// 1979 TFLOP/s over 132 SMs at 1.83 GHz). Two math warpgroups hide promotion behind each other's wgmma; one alone adds
/// its issue slots (docs/gemm.md, ledger).
fn cycles(t: &Tile) -> u64 {
    let tensor = u64::from(t.m) * u64::from(t.n) * 128 * 2 / 8192;
    let promotion = 36 + u64::from(t.n) / 2 + 4;
    tensor + if t.warpgroups() == 1 { promotion } else { 0 }
}

/// The tile with the least modelled time of the busiest SM; a later row of the table must win by 3 %.
pub(super) fn choose(shape: GemmShape, sms: u32, forced: Option<Tile>) -> (Tile, String) {
    if let Some(t) = forced {
        return (t, "asked for".into());
    }
    if shape.m <= 64 {
        return (TILES[1], format!("m = {} fits 64 rows", shape.m));
    }
    let cost = |t: &Tile| tiles(shape, *t).div_ceil(sms.into()).max(1) * cycles(t);
    let mut best = TILES[0];
    for t in &TILES[1..] {
        if cost(t) * 100 < cost(&best) * 97 {
            best = *t;
        }
    }
    (
        best,
        format!(
            "modelled {} cycles a K-block on the busiest SM",
            cost(&best)
        ),
    )
}

/// The page that [`super::GemmPlan::explain`] gives.
pub(super) fn explain(s: GemmShape, t: Tile, why: &str, sms: u32, out_bytes: usize) -> String {
    let (m, n, k) = (s.m as f64, s.n as f64, s.k as f64);
    let groups = (s.k.div_ceil(128)) as f64;
    let flops = 2.0 * m * n * k;
    // Each operand once: codes, scales, D.
    let bytes = m * k
        + n * k
        + m * n * out_bytes as f64
        + 4.0 * m * groups
        + 4.0 * (s.n.div_ceil(128)) as f64 * groups;
    let (compute, memory) = (flops / PEAK_FLOPS, bytes / PEAK_BYTES);
    let bound = if compute > memory {
        "compute"
    } else {
        "memory"
    };
    let tiles = tiles(s, t);
    let waves = tiles.div_ceil(sms.into()).max(1);
    format!(
        "tile {}x{} ({why}); {} stages, {} bytes of shared memory, {} threads\n\
         {tiles} tiles in {waves} wave(s) on {sms} SMs, {:.0} % of the last wave used\n\
         {:.3} GFLOP, {:.3} MB; floor on an H100 {:.2} us, {bound} bound ({:.2} us compute, {:.2} us memory)",
        t.m,
        t.n,
        t.stages(out_bytes as u32),
        t.smem_bytes(out_bytes as u32),
        t.threads(),
        100.0 * (tiles as f64 - (waves - 1) as f64 * f64::from(sms)) / f64::from(sms),
        flops * 1e-9,
        bytes * 1e-6,
        compute.max(memory) * 1e6,
        compute * 1e6,
        memory * 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let pick = |m, n, k| {
            let t = choose(GemmShape { m, n, k }, 132, None).0;
            (t.m, t.n)
        };
        assert_eq!(pick(1, 576, 7168), (64, 128));
        assert_eq!(pick(64, 7168, 2048), (64, 128));
        // 112 tiles of 128 columns or 128 of 112: one wave either way, the narrower is done sooner.
        assert_eq!(pick(256, 7168, 2048), (128, 112));
        assert_eq!(pick(4096, 4096, 7168), (128, 128));
    }
}
