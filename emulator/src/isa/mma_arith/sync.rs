//! `mma.sync`: which steps a device makes of an instruction.
//!
//! | device | instruction | steps |
//! |---|---|---|
//! | 8.0, 8.9 | f16, bf16, tf32 | 16 bytes of K each, 24 bits |
//! | 8.9 | 8-bit floats | 16 bytes of K each, 13 bits |
//! | 9.0 | f16, bf16, tf32 | one, 25 bits |
//! | 9.0 | 8-bit floats | widened to f16; elements 0, 1 of each four with C = 0, then 2, 3 on top; C is added to that, rounded to nearest |
//! | all | f16 m8n8k4 | fused multiply-adds in f32 |
//!
//! The first three rows are MMA-Sim's (arXiv 2511.10909); the last two are read off the machine code that ptxas 13.0 makes
//! of them for sm_80, sm_89 and sm_90.

use super::decode::{AccType, InType, terms};
use super::{MmaKind, Mode, Step, Summation, fast, lanes, vectors};
use crate::machine::knobs::ComputeCapability;

/// D = A B^T + D as `device` does it: `a` has `m` rows and `b` has `n` rows of 32 bytes, zeroes behind the `k` elements that
/// the instruction has; `acc` is m x n row-major, the bits of an accumulator in each word (f16 in the low half). Floats only.
///
/// # Panics
/// If a slice is shorter than `m * 32`, `n * 32`, `m * n`.
#[allow(clippy::too_many_arguments)]
pub fn mma_sync(
    device: ComputeCapability,
    kind: MmaKind,
    m: usize,
    n: usize,
    k: usize,
    a: &[u8],
    b: &[u8],
    acc: &mut [u32],
    mode: Mode,
) {
    let (a, b, acc) = (&a[..m * 32], &b[..n * 32], &mut acc[..m * n]);
    let sum = Summation::mma(kind, device);
    if mode == Mode::Fast {
        return fast::tile(&step(kind, sum, k, n, a, b), acc, vectors());
    }
    if kind.eight_bits() && device == ComputeCapability::Cc90 {
        let half = MmaKind {
            a: InType::F16,
            b: InType::F16,
            ..kind
        };
        let mut dot = vec![0; m * n];
        for pair in 0..2 {
            let (a, b) = (widen(kind.a, a, pair), widen(kind.b, b, pair));
            lanes::tile(&step(half, sum, k / 2, n, &a, &b), &mut dot, vectors());
        }
        for (c, d) in acc.iter_mut().zip(dot) {
            *c = add(kind.acc, *c, d);
        }
        return;
    }
    let of_step = sum.step / kind.a.bytes();
    if k <= of_step {
        return lanes::tile(&step(kind, sum, k, n, a, b), acc, vectors());
    }
    for at in (0..k * kind.a.bytes()).step_by(sum.step) {
        let (a, b) = (part(a, at, sum.step), part(b, at, sum.step));
        lanes::tile(&step(kind, sum, of_step, n, &a, &b), acc, vectors());
    }
}

fn step<'a>(
    kind: MmaKind,
    sum: Summation,
    k: usize,
    n: usize,
    a: &'a [u8],
    b: &'a [u8],
) -> Step<'a> {
    Step {
        kind,
        sum,
        k,
        n,
        a,
        b,
        scale_d: true,
        neg: false,
    }
}

/// Bytes `at..at + n` of each row, zeroes behind.
fn part(rows: &[u8], at: usize, n: usize) -> Vec<u8> {
    let mut out = vec![0; rows.len()];
    for (o, r) in out.chunks_exact_mut(32).zip(rows.chunks_exact(32)) {
        o[..n].copy_from_slice(&r[at..at + n]);
    }
    out
}

/// Elements 0 and 1 (`pair` 1: 2 and 3) of each four 8-bit floats, as f16.
fn widen(ty: InType, rows: &[u8], pair: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len());
    for four in rows.chunks_exact(4) {
        for &x in &four[2 * pair..2 * pair + 2] {
            let h = if ty == InType::E5M2 {
                u16::from(x) << 8
            } else {
                let value = terms(ty, &[x], false)[0].value();
                if value.is_nan() {
                    0x7FFF
                } else {
                    // Exact; zeroes keep no sign, which no sum sees.
                    half::f16::from_f64(value).to_bits()
                }
            };
            out.extend_from_slice(&h.to_le_bytes());
        }
    }
    out
}

/// c + d in the accumulator's type, to nearest even.
fn add(acc: AccType, c: u32, d: u32) -> u32 {
    if acc == AccType::F16 {
        let f = |x: u32| half::f16::from_bits(x as u16).to_f64();
        // The sum of two f16 is exact in f64.
        return fast::f16_from_f64_signed(f(c) + f(d));
    }
    let r = f32::from_bits(c) + f32::from_bits(d);
    if r.is_nan() { 0x7FFF_FFFF } else { r.to_bits() }
}

/// One element of m8n8k4 with f16 operands: `c` has the type `c_type`, the result `d_type`.
pub fn volta(
    a: [u16; 4],
    b: [u16; 4],
    c: u32,
    c_type: AccType,
    d_type: AccType,
    mode: Mode,
) -> u32 {
    let f = |x: u16| half::f16::from_bits(x).to_f32();
    let (a, b) = (a.map(f), b.map(f));
    let c = match c_type {
        AccType::F16 => f(c as u16),
        _ => f32::from_bits(c),
    };
    let r = if mode == Mode::Fast {
        let dot = (0..4).fold(0.0, |s, k| s + f64::from(a[k]) * f64::from(b[k]));
        let exact = dot + f64::from(c);
        if d_type == AccType::F16 {
            return fast::f16_from_f64_signed(exact);
        }
        exact as f32
    } else if d_type == AccType::F16 {
        // Products of f16 are exact in f32.
        let pair = |k: usize| a[k + 1].mul_add(b[k + 1], a[k] * b[k]);
        let r = c + pair(0) + pair(2);
        return fast::f16_from_f64_signed(f64::from(r));
    } else {
        c + (0..4).fold(0.0, |s: f32, k| a[k].mul_add(b[k], s))
    };
    if r.is_nan() { 0x7FFF_FFFF } else { r.to_bits() }
}
