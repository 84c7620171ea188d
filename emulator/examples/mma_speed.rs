//! Time of one tensor-core step, by kind and mode: `cargo run --release -p hadal-emulator --example mma_speed`.
//!
//! Prints the best of several runs on one core, in microseconds, for m64n128 and 32 bytes of K as four warps' tiles of
//! sixteen rows (how the interpreter calls it) and as one tile.

use std::hint::black_box;
use std::time::Instant;

use hadal_emulator::isa::mma_arith::{
    AccType, InType, MmaKind, Mode, mma_tile, mma_tile_by_definition,
};

const N: usize = 128;

fn best(mut step: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..30 {
        let start = Instant::now();
        for _ in 0..10 {
            step();
        }
        best = best.min(start.elapsed().as_secs_f64() / 10.0);
    }
    best * 1e6
}

fn main() {
    let kinds = [
        (InType::E4M3, AccType::F32),
        (InType::E5M2, AccType::F32),
        (InType::E4M3, AccType::F16),
        (InType::F16, AccType::F32),
        (InType::F16, AccType::F16),
        (InType::Bf16, AccType::F32),
        (InType::Tf32, AccType::F32),
        (InType::S8, AccType::S32),
    ];
    let mut state = 1_u64;
    // Finite in every type: no exponent field is full.
    let mut bytes = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8 & 0xBB
            })
            .collect()
    };
    let (a, b) = (bytes(64 * 32), bytes(N * 32));
    println!("m64n128, us        4 x 16 rows   64 rows   definition");
    for (ty, acc) in kinds {
        let kind = MmaKind {
            a: ty,
            b: ty,
            acc,
            saturate: false,
        };
        for mode in [Mode::Exact, Mode::Fast] {
            let mut d = vec![0; 64 * N];
            let four = best(|| {
                for w in 0..4 {
                    let (a, d) = (&a[w * 512..][..512], &mut d[w * 16 * N..][..16 * N]);
                    mma_tile(kind, 16, N, black_box(a), &b, d, true, false, false, mode);
                }
            });
            let one = best(|| {
                mma_tile(
                    kind,
                    64,
                    N,
                    black_box(&a),
                    &b,
                    &mut d,
                    true,
                    false,
                    false,
                    mode,
                );
            });
            let definition = if mode == Mode::Exact && ty != InType::S8 {
                let us = best(|| {
                    mma_tile_by_definition(
                        kind,
                        64,
                        N,
                        black_box(&a),
                        &b,
                        &mut d,
                        true,
                        false,
                        false,
                    );
                });
                format!("{us:10.1}")
            } else {
                String::new()
            };
            println!("{ty:?} {acc:?} {mode:?}\t{four:10.1} {one:10.1}   {definition}");
        }
    }
}
