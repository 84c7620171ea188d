//! Time of one tensor-core step, by kind and mode: `cargo run --release -p hadal-emulator --example mma_speed`.
//!
//! Prints the best of several runs on one core, in microseconds, for m64n128 and m64n256 and 32 bytes of K, as four warps'
//! tiles of sixteen rows (how the interpreter calls it). Operands are what kernels have: numbers of a few powers of two round
//! one. A word as argument leaves out the kinds that do not contain it; `definition` times the definition too.

use std::hint::black_box;
use std::time::Instant;

use hadal_emulator::isa::mma_arith::{
    AccType, InType, MmaKind, Mode, mma_tile, mma_tile_by_definition,
};

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

/// Elements with exponents from -4 to 3, random signs and mantissas.
fn operand(ty: InType, bytes: usize, state: &mut u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (r, e) = ((*state >> 20) as u32, *state >> 60 & 7);
        let x = |bias: u32, man: u32, sign: u32| {
            (r & 1) << sign | (bias - 4 + e as u32) << man | (r >> 1 & ((1 << man) - 1))
        };
        match ty {
            InType::E4M3 => out.push(x(7, 3, 7) as u8),
            InType::E5M2 => out.push(x(15, 2, 7) as u8),
            InType::F16 => out.extend((x(15, 10, 15) as u16).to_le_bytes()),
            InType::Bf16 => out.extend((x(127, 7, 15) as u16).to_le_bytes()),
            InType::Tf32 => out.extend((x(127, 10, 18) << 13).to_le_bytes()),
            InType::S8 | InType::U8 => out.push(r as u8),
        }
    }
    out
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
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
    println!("us                      m64n128    m64n256");
    for (ty, acc) in kinds {
        let kind = MmaKind {
            a: ty,
            b: ty,
            acc,
            saturate: false,
        };
        let (a, b) = (
            operand(ty, 64 * 32, &mut state),
            operand(ty, 256 * 32, &mut state),
        );
        for mode in [Mode::Exact, Mode::Fast] {
            let name = format!("{ty:?} {acc:?} {mode:?}");
            if !name.contains(&wanted) && wanted != "definition" {
                continue;
            }
            let time = |n: usize| {
                let mut d = vec![0; 64 * n];
                best(|| {
                    for w in 0..4 {
                        let (a, d) = (&a[w * 512..][..512], &mut d[w * 16 * n..][..16 * n]);
                        let b = black_box(&b[..n * 32]);
                        mma_tile(kind, 16, n, black_box(a), b, d, true, false, false, mode);
                    }
                })
            };
            println!("{name:<20} {:10.1} {:10.1}", time(128), time(256));
        }
        if wanted == "definition" && ty != InType::S8 {
            let mut d = vec![0; 64 * 128];
            let us = best(|| {
                let b = &b[..128 * 32];
                mma_tile_by_definition(kind, 64, 128, black_box(&a), b, &mut d, true, false, false);
            });
            println!("{ty:?} {acc:?} definition {us:10.1}");
        }
    }
}
