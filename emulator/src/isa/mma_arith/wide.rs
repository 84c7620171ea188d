//! Exact mode for f16, bf16 and tf32, with products in f32.
//!
//! A product of two significands of at most 11 bits fits f32's 24, so the f32 product is exact as long as it is a normal
//! number. A term is cut toward zero to `kept` fraction bits below the largest exponent `top`: that is what a conversion to
//! an integer does to the product times `2^(kept - top)`, again exact, or too small to leave anything.
//!
//! f16 stays inside f32's range whatever its values. bf16 and tf32 do while no exponent is beyond [`FAR`]; tiles with others
//! go to the integer lanes.

use super::decode::InType;
use super::epilogue::{LANES, Old, close};
use super::lanes::{COLUMNS, Shape, by_definition, element, load, special_row, specials, store};
use super::{Step, Vectors};

/// The largest magnitude of an element's exponent: products then lie in 2^-100 .. 2^102, and the scale stays finite.
const FAR: i32 = 50;
/// Exponent of a zero element: a product with it is below every floor.
const ZERO: i16 = -1000;

/// Elements along lanes and K.
struct Columns {
    value: [[f32; COLUMNS]; 16],
    exp: [[i16; COLUMNS]; 16],
}

/// Value and exponent of an element; zero, [`ZERO`] for zeroes and what is no number.
#[inline(always)]
fn split(ty: InType, bits: u32) -> (f32, i16) {
    let shape = Shape::of(ty);
    let x = bits >> shape.dropped;
    let field = (x >> shape.man_bits & ((1 << shape.exp_bits) - 1)) as i32;
    let man = x & ((1 << shape.man_bits) - 1);
    let none = shape.special(bits) || (field == 0 && man == 0);
    let exp = field.max(1) - ((1 << (shape.exp_bits - 1)) - 1);
    let value = match ty {
        InType::Bf16 => f32::from_bits(bits << 16),
        InType::Tf32 => f32::from_bits(bits & !0x1FFF),
        _ => {
            // A significand with its leading one, less that one where the exponent field is 0.
            let sign = (x & 0x8000) << 16;
            let high = f32::from_bits(sign | ((exp + 127) as u32) << 23 | man << 13);
            let one = f32::from_bits(sign | ((exp + 127) as u32) << 23);
            if field == 0 { high - one } else { high }
        }
    };
    if none {
        (0.0, ZERO)
    } else {
        (value, exp as i16)
    }
}

/// Whether every product of the tile is a normal f32 or zero. What is no number counts as zero here.
fn near(ty: InType, rows: &[u8]) -> bool {
    if ty == InType::F16 {
        return true;
    }
    let n = ty.bytes();
    let exps = rows.chunks_exact(n).map(|x| {
        let bits = if n == 2 {
            u32::from(u16::from_le_bytes([x[0], x[1]]))
        } else {
            u32::from_le_bytes([x[0], x[1], x[2], x[3]])
        };
        i32::from(split(ty, bits).1)
    });
    // Without branches: most tiles pass.
    exps.fold(true, |ok, e| {
        ok & ((e == i32::from(ZERO)) | (e.abs() <= FAR))
    })
}

/// One operation, if all of it is near enough. Answers whether it was.
pub fn tile(step: &Step, acc: &mut [u32], vectors: Vectors) -> bool {
    match vectors {
        Vectors::Baseline => whole::<0>(step, acc),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => {
            // SAFETY: `Vectors::Avx2` is only made where the processor has AVX2.
            unsafe { avx2(step, acc) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(step: &Step, acc: &mut [u32]) -> bool {
    whole::<1>(step, acc)
}

#[inline(always)]
fn whole<const LEVEL: u8>(step: &Step, acc: &mut [u32]) -> bool {
    match step.kind.a {
        InType::F16 => typed::<LEVEL>(InType::F16, step, acc),
        InType::Bf16 => typed::<LEVEL>(InType::Bf16, step, acc),
        InType::Tf32 => typed::<LEVEL>(InType::Tf32, step, acc),
        _ => false,
    }
}

#[inline(always)]
fn typed<const LEVEL: u8>(ty: InType, step: &Step, acc: &mut [u32]) -> bool {
    if !near(ty, step.a) || !near(ty, step.b) {
        return false;
    }
    let kept = if step.sum.kept == 25 { 25 } else { 24 };
    let mut cols = Columns {
        value: [[0.0; COLUMNS]; 16],
        exp: [[ZERO; COLUMNS]; 16],
    };
    for (j0, b) in step.b.chunks(COLUMNS * 32).enumerate() {
        let width = b.len() / 32;
        for k in 0..step.k {
            let mut bits = [0; COLUMNS];
            for (x, row) in bits.iter_mut().zip(b.chunks_exact(32)) {
                *x = element(ty, row, k);
            }
            for (j, &x) in bits.iter().enumerate() {
                (cols.value[k][j], cols.exp[k][j]) = split(ty, x);
            }
        }
        let special = specials(ty, b);
        for (ra, row) in step.a.chunks_exact(32).zip(acc.chunks_exact_mut(step.n)) {
            let mut a = [(0.0, ZERO); 16];
            for (k, x) in a.iter_mut().enumerate().take(step.k) {
                let (value, exp) = split(ty, element(ty, ra, k));
                *x = (if step.neg { -value } else { value }, exp);
            }
            let odd_row = special_row(ty, ra);
            let row = &mut row[j0 * COLUMNS..][..width];
            for (g, d) in row.chunks_mut(LANES).enumerate() {
                let old = Old::new(step.kind.acc, step.sum, &load(step, d));
                let (top, sums) = products::<LEVEL>(&a[..step.k], &cols, g * LANES, &old, kept);
                let mut out = close(step.kind.acc, kept, &old, &top, &sums);
                let odd = &special[g * LANES..];
                if odd_row || (0..LANES).any(|l| odd[l] | old.special[l]) {
                    by_definition(step, ra, &b[g * LANES * 32..], d, &mut out);
                }
                store(d, &out);
            }
        }
    }
    true
}

/// Largest exponents and sums of cut products of sixteen columns from `at` on, with the vectors of `LEVEL`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // lanes
fn products<const LEVEL: u8>(
    a: &[(f32, i16)],
    cols: &Columns,
    at: usize,
    old: &Old,
    kept: i32,
) -> ([i32; LANES], [[i32; LANES]; 2]) {
    let mut most = [i16::MIN; LANES];
    for (k, &(_, ea)) in a.iter().enumerate() {
        let eb = &cols.exp[k][at..at + LANES];
        for l in 0..LANES {
            most[l] = most[l].max(ea + eb[l]);
        }
    }
    let mut top = [0; LANES];
    let mut scale = [0.0; LANES];
    for l in 0..LANES {
        top[l] = i32::from(most[l]).max(old.exp[l]);
        // Beyond f32 only where all products are zeroes.
        scale[l] = f32::from_bits(((127 + kept - top[l]).min(254) as u32) << 23);
    }
    let half = a.len() / 2;
    let sum = |first: usize, a: &[(f32, i16)]| match LEVEL {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller was compiled for these vectors.
        1 => unsafe { x86::sum8(a, &cols.value[first..], at, &scale) },
        _ => sum(a, &cols.value[first..], at, &scale),
    };
    (top, [sum(0, &a[..half]), sum(half, &a[half..])])
}

/// Sum of the scaled products, each cut to an integer.
#[inline(always)]
fn sum(a: &[(f32, i16)], rows: &[[f32; COLUMNS]], at: usize, scale: &[f32; LANES]) -> [i32; LANES] {
    let mut sum = [0; LANES];
    for (&(va, _), row) in a.iter().zip(rows) {
        let vb = &row[at..at + LANES];
        for l in 0..LANES {
            // A product is below four times two to its exponent, which is at most `top`: this is below 2^(kept + 2).
            sum[l] += (va * vb[l] * scale[l]) as i32;
        }
    }
    sum
}

/// [`sum`] in vectors: left to itself the compiler takes the lanes of these loops apart.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop)] // halves of several arrays
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, LANES};

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn sum8(
        a: &[(f32, i16)],
        rows: &[[f32; COLUMNS]],
        at: usize,
        scale: &[f32; LANES],
    ) -> [i32; LANES] {
        let mut out = [0; LANES];
        // SAFETY: sixteen lanes lie behind each pointer; loads and stores need no alignment.
        unsafe {
            let scale = [scale.as_ptr(), scale.as_ptr().add(8)].map(|p| _mm256_loadu_ps(p));
            let mut sum = [_mm256_setzero_si256(); 2];
            for (&(va, _), row) in a.iter().zip(rows) {
                let (va, vb) = (_mm256_set1_ps(va), row[at..at + LANES].as_ptr());
                for v in 0..2 {
                    let p = _mm256_mul_ps(va, _mm256_loadu_ps(vb.add(8 * v)));
                    let cut = _mm256_cvttps_epi32(_mm256_mul_ps(p, scale[v]));
                    sum[v] = _mm256_add_epi32(sum[v], cut);
                }
            }
            for v in 0..2 {
                _mm256_storeu_si256(out.as_mut_ptr().add(8 * v).cast(), sum[v]);
            }
        }
        out
    }
}
