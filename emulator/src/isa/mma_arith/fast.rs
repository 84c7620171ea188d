//! The plain mode: products and sums in f64, one rounding.
//!
//! Products are exact in f64 for every type, so the result does not depend on fused multiply-adds; the order of the sum is
//! fixed, so it does not depend on the vectors either.

use super::decode::{AccType, InType, terms};
use super::exact::round_f16;
use super::{Step, Vectors};

/// Columns that are held in f64 at a time.
const COLUMNS: usize = 64;
/// Columns that are summed together.
const LANES: usize = 16;

pub fn tile(step: &Step, acc: &mut [u32], vectors: Vectors) {
    match vectors {
        Vectors::Baseline => sums(step, acc),
        #[cfg(target_arch = "x86_64")]
        _ => {
            // SAFETY: all but `Vectors::Baseline` are only made where the processor has AVX2.
            unsafe { avx2(step, acc) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(step: &Step, acc: &mut [u32]) {
    sums(step, acc);
}

/// The value of each code of a byte type.
fn byte_values(ty: InType) -> [f64; 256] {
    let codes: [u8; 256] = std::array::from_fn(|i| i as u8);
    let mut values = [0.0; 256];
    for (v, t) in values.iter_mut().zip(terms(ty, &codes, false)) {
        *v = t.value();
    }
    values
}

static E4M3: std::sync::LazyLock<[f64; 256]> =
    std::sync::LazyLock::new(|| byte_values(InType::E4M3));
static E5M2: std::sync::LazyLock<[f64; 256]> =
    std::sync::LazyLock::new(|| byte_values(InType::E5M2));

/// A row's elements.
#[inline(always)]
fn values(ty: InType, row: &[u8], out: &mut [f64; 32]) {
    let bytes = |table: &[f64; 256], out: &mut [f64; 32]| {
        for (v, &x) in out.iter_mut().zip(row) {
            *v = table[usize::from(x)];
        }
    };
    match ty {
        InType::E4M3 => bytes(&E4M3, out),
        InType::E5M2 => bytes(&E5M2, out),
        InType::Bf16 => {
            for (v, x) in out.iter_mut().zip(row.chunks_exact(2)) {
                let x = u32::from(u16::from_le_bytes([x[0], x[1]])) << 16;
                *v = f64::from(f32::from_bits(x));
            }
        }
        InType::Tf32 => {
            for (v, x) in out.iter_mut().zip(row.chunks_exact(4)) {
                let x = u32::from_le_bytes([x[0], x[1], x[2], x[3]]) & !0x1FFF;
                *v = f64::from(f32::from_bits(x));
            }
        }
        InType::F16 => {
            for (v, x) in out.iter_mut().zip(row.chunks_exact(2)) {
                *v = half::f16::from_le_bytes([x[0], x[1]]).to_f64();
            }
        }
        // Integers are not summed here.
        InType::S8 | InType::U8 => out.fill(0.0),
    }
}

#[inline(always)]
fn sums(step: &Step, acc: &mut [u32]) {
    let (kind, n) = (step.kind, step.n);
    let k_len = step.k;
    let mut cols = [[0.0_f64; COLUMNS]; 32];
    for (j0, b) in step.b.chunks(COLUMNS * 32).enumerate() {
        let width = b.len() / 32;
        for (j, row) in b.chunks_exact(32).enumerate() {
            let mut v = [0.0; 32];
            values(kind.b, row, &mut v);
            for k in 0..k_len {
                cols[k][j] = v[k];
            }
        }
        for (ra, row) in step.a.chunks_exact(32).zip(acc.chunks_exact_mut(n)) {
            let mut a = [0.0; 32];
            values(kind.a, ra, &mut a);
            if step.neg {
                a.iter_mut().for_each(|x| *x = -*x);
            }
            let row = &mut row[j0 * COLUMNS..][..width];
            for (g, d) in row.chunks_mut(LANES).enumerate() {
                let mut sum = [0.0_f64; LANES];
                for (k, &x) in a.iter().enumerate().take(k_len) {
                    let b = &cols[k][g * LANES..g * LANES + LANES];
                    for l in 0..LANES {
                        sum[l] += x * b[l];
                    }
                }
                for (d, sum) in d.iter_mut().zip(sum) {
                    *d = round(kind.acc, step.scale_d, *d, sum);
                }
            }
        }
    }
}

/// Adds the old accumulator and rounds. Zeroes are +0, as in exact mode.
#[inline(always)]
fn round(acc: AccType, scale_d: bool, c: u32, sum: f64) -> u32 {
    match acc {
        AccType::F16 => {
            let c = half::f16::from_bits(c as u16).to_f64();
            f16_from_f64(sum + if scale_d { c } else { 0.0 })
        }
        _ => {
            let c = f64::from(f32::from_bits(c));
            let value = (sum + if scale_d { c } else { 0.0 }) as f32 + 0.0;
            if value.is_nan() {
                0x7FFF_FFFF
            } else {
                value.to_bits()
            }
        }
    }
}

/// As [`f16_from_f64`], with the sign of a zero kept.
pub fn f16_from_f64_signed(x: f64) -> u32 {
    let r = f16_from_f64(x);
    r | u32::from(r == 0 && x.is_sign_negative()) << 15
}

/// Nearest f16, ties to even, in one rounding.
fn f16_from_f64(x: f64) -> u32 {
    let (bits, negative) = (x.to_bits(), x.is_sign_negative());
    match bits >> 52 & 0x7FF {
        0x7FF if x.is_nan() => 0x7FFF,
        0x7FF => 0x7C00 | u32::from(negative) << 15,
        // Far below every f16.
        0 => 0,
        e => round_f16(negative, bits & ((1 << 52) - 1) | 1 << 52, e as i32 - 1075),
    }
}
