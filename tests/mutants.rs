//! What `hadal-emu mutate` runs against this crate's kernels: the smallest problem that reaches every part of a kernel, under
//! every adversary. 5 s.
//!
//! ```sh
//! HADAL_MUTANT_TILE=64x128 hadal-emu mutate --kernel 64x128_bf16 -- target/debug/deps/mutants-… gemm
//! ```
//!
//! `HADAL_MUTANT_TILE` leaves out the other tiles, which a mutant of one kernel does not touch.

mod common;

use common::gemm::{Problem, check};
use common::*;
use hadal::gemm::{GemmOptions, TILES};
use half::bf16;

/// Two tiles in each direction, ragged; two blocks, so that each takes two; more K-blocks than any ring has stages, and a tail.
#[test]
fn gemm() {
    let only = std::env::var("HADAL_MUTANT_TILE").ok();
    let mut ran = 0;
    for t in TILES {
        let name = format!("{}x{}", t.m, t.n);
        if only.as_ref().is_some_and(|o| *o != name) {
            continue;
        }
        ran += 1;
        let p = Problem::random(t.m as usize + 2, t.n as usize + 8, 9 * 128 + 16, 21);
        for knobs in adversaries() {
            let l = lease(&knobs);
            let mut o = GemmOptions::default();
            (o.tile, o.sm_limit) = (Some(t), Some(2));
            check::<bf16>(&l, &p, &o);
            assert!(l.reports().is_empty(), "{:?}", l.reports());
        }
    }
    assert!(ran > 0, "HADAL_MUTANT_TILE={only:?} is none of {TILES:?}");
}
