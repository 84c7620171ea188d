//! The FP8 GEMM: bits, bounds, edges, hostile memory, schedules.

mod common;

use common::gemm::check;
use common::gemm::{Out, Problem};
use common::*;
use hadal::gemm::{GemmOptions, TILES, Tile};
use half::bf16;

fn with(tile: Tile) -> GemmOptions {
    let mut o = GemmOptions::default();
    o.tile = Some(tile);
    o
}

#[test]
fn smoke() {
    let l = lease(&Knobs::default());
    let t = std::time::Instant::now();
    check::<bf16>(&l, &Problem::random(64, 128, 256, 1), &with(TILES[1]));
    println!("{:?}", t.elapsed());
    check::<bf16>(&l, &Problem::random(128, 256, 1152, 1), &with(TILES[0]));
    println!("{:?}", t.elapsed());
    check::<f32>(&l, &Problem::random(128, 256, 1152, 1), &with(TILES[2]));
    println!("{:?}", t.elapsed());
}
