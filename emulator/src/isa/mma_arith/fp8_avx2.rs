//! Exact mode for 8-bit floats in 16-bit lanes.
//!
//! A product of significands, brought to 13 fraction bits, has 15 bits, so a term fits a 16-bit lane before it is cut. AVX2
//! has no variable shift of 16-bit lanes. A shift right by `d + 1` is the high half of a product with `2^(15 - d)`, and a
//! byte shuffle looks that power up, for both bytes of a lane at once: the high byte is `2^(7 - d)` for d in 0..8, the low
//! byte `2^(15 - d)` for d in 8..16, so one table of eight powers and eight zeroes serves both, with the indices d and
//! d - 8. Hence each exponent is held twice in its lane.
//!
//! A vector holds two consecutive k of eight columns, as the multiply-add of pairs wants it: it applies the signs and adds
//! the two terms.

use std::arch::x86_64::*;

use super::Step;
use super::decode::InType;
use super::epilogue::{LANES, Old, close};
use super::lanes::{COLUMNS, Shape, by_definition, load, special_row, specials, store};

/// Exponent of a zero element. The sum of two, and of one with any other, still fits a byte and is below any product's.
const ZERO: i32 = -60;
/// No exponent of a product is below: twice that of E5M2's subnormals, and some room.
const LEAST: i32 = -40;
/// An old accumulator with such an exponent leaves nothing of any product: theirs are at most 30.
const FAR: i32 = 60;
/// Toggles between 1 and -1.
const FLIP: u16 = 0xFFFE;

/// A row of elements, two k of a column side by side.
type Row = [u16; 2 * COLUMNS];

/// Magnitudes, doubled exponents and signs (1, -1) by pairs of k.
#[repr(align(32))]
struct Columns {
    sig: [Row; 16],
    exp: [Row; 16],
    sign: [Row; 16],
}

/// A row of A: pairs of k as in [`Columns`]; signs are toggles.
#[derive(Default)]
struct Pairs {
    sig: [u32; 16],
    exp: [u32; 16],
    flip: [u32; 16],
}

/// Magnitude, doubled exponent, negative.
#[inline(always)]
fn split(shape: Shape, x: u16) -> (u16, u16, bool) {
    let man = x & ((1 << shape.man_bits) - 1);
    let field = x >> shape.man_bits & ((1 << shape.exp_bits) - 1);
    let sig = man | if field > 0 { 1 << shape.man_bits } else { 0 };
    let sig = if shape.special(x.into()) { 0 } else { sig };
    let bias = (1 << (shape.exp_bits - 1)) - 1;
    let exp = if sig == 0 {
        ZERO as i16
    } else {
        field.max(1) as i16 - bias
    };
    let exp = exp as u16 & 0xFF;
    (sig, exp << 8 | exp, x & 0x80 != 0)
}

/// One operation.
///
/// The compiler asks callers outside of AVX2 code to make sure that the processor has it.
#[target_feature(enable = "avx2")]
pub fn tile(step: &Step, acc: &mut [u32]) {
    use InType::{E4M3, E5M2};
    match (step.kind.a, step.kind.b) {
        (E5M2, E5M2) => typed(E5M2, E5M2, step, acc),
        (E5M2, _) => typed(E5M2, E4M3, step, acc),
        (_, E5M2) => typed(E4M3, E5M2, step, acc),
        _ => typed(E4M3, E4M3, step, acc),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn typed(ta: InType, tb: InType, step: &Step, acc: &mut [u32]) {
    let (sa, sb) = (Shape::of(ta), Shape::of(tb));
    // One more than 13 fraction bits: the cut shifts by d + 1.
    let up = 14 - sa.man_bits - sb.man_bits;
    let mut cols = Columns {
        sig: [[0; 2 * COLUMNS]; 16],
        exp: [[0; 2 * COLUMNS]; 16],
        sign: [[0; 2 * COLUMNS]; 16],
    };
    for (j0, b) in step.b.chunks(COLUMNS * 32).enumerate() {
        let width = b.len() / 32;
        for kk in 0..16 {
            let mut bytes = [0_u8; 2 * COLUMNS];
            for (x, row) in bytes.chunks_exact_mut(2).zip(b.chunks_exact(32)) {
                x.copy_from_slice(&row[2 * kk..2 * kk + 2]);
            }
            let (sig, exp, sign) = (&mut cols.sig[kk], &mut cols.exp[kk], &mut cols.sign[kk]);
            for (i, &x) in bytes.iter().enumerate() {
                let (s, e, negative) = split(sb, x.into());
                sig[i] = s;
                exp[i] = e;
                sign[i] = if negative { 1 ^ FLIP } else { 1 };
            }
        }
        let special = specials(tb, b);
        for (ra, row) in step.a.chunks_exact(32).zip(acc.chunks_exact_mut(step.n)) {
            let mut a = Pairs::default();
            for (kk, x) in ra.chunks_exact(2).enumerate() {
                let (s0, e0, n0) = split(sa, x[0].into());
                let (s1, e1, n1) = split(sa, x[1].into());
                let pair = |lo: u16, hi: u16| u32::from(lo) | u32::from(hi) << 16;
                let flip = |negative: bool| if negative != step.neg { FLIP } else { 0 };
                a.sig[kk] = pair(s0 << up, s1 << up);
                a.exp[kk] = pair(e0, e1);
                a.flip[kk] = pair(flip(n0), flip(n1));
            }
            let odd_row = special_row(ta, ra);
            let row = &mut row[j0 * COLUMNS..][..width];
            for (g, d) in row.chunks_mut(LANES).enumerate() {
                let old = Old::new(step.kind.acc, step.sum, &load(step, d));
                let (top, sums) = products(&a, &cols, g * LANES, &old);
                let mut out = close(step.kind.acc, 13, &old, &top, &[sums, [0; LANES]]);
                let odd = &special[g * LANES..];
                if odd_row || (0..LANES).any(|l| odd[l] | old.special[l]) {
                    by_definition(step, ra, &b[g * LANES * 32..], d, &mut out);
                }
                store(d, &out);
            }
        }
    }
}

/// Sixteen lanes from `row[at..]`.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes16(row: &Row, at: usize) -> __m256i {
    let lanes: &[u16; 16] = row[at..at + 16].try_into().unwrap_or(&[0; 16]);
    // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load8(x: &[i32]) -> __m256i {
    let x: &[i32; 8] = x.try_into().unwrap_or(&[0; 8]);
    // SAFETY: 32 bytes are readable behind the reference; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store8(x: __m256i, to: &mut [i32]) {
    let Ok(to) = <&mut [i32; 8]>::try_from(to) else {
        return;
    };
    // SAFETY: 32 bytes are writable behind the reference; the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// Largest exponents and sums of cut products of sixteen columns from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
fn products(a: &Pairs, cols: &Columns, at: usize, old: &Old) -> ([i32; LANES], [i32; LANES]) {
    let at = [2 * at, 2 * at + 16];
    let mut most = [_mm256_set1_epi8(i8::MIN); 2];
    for kk in 0..16 {
        let ea = _mm256_set1_epi32(a.exp[kk] as i32);
        for v in 0..2 {
            let e = _mm256_add_epi8(ea, lanes16(&cols.exp[kk], at[v]));
            most[v] = _mm256_max_epi8(most[v], e);
        }
    }
    let mut top = [0; LANES];
    // By 16-bit lane: the largest exponent less 8 in the low byte, itself in the high byte.
    let mut limit = [_mm256_setzero_si256(); 2];
    for v in 0..2 {
        // Larger of the two k, as 32 bits.
        let most = _mm256_max_epi8(most[v], _mm256_slli_epi32::<16>(most[v]));
        let most = _mm256_srai_epi32::<24>(most);
        // No product but zeroes: theirs is no exponent.
        let zeroes = _mm256_cmpgt_epi32(_mm256_set1_epi32(LEAST), most);
        let most = _mm256_blendv_epi8(most, _mm256_set1_epi32(-1000), zeroes);
        let largest = _mm256_max_epi32(most, load8(&old.exp[8 * v..8 * v + 8]));
        store8(largest, &mut top[8 * v..8 * v + 8]);
        let near = _mm256_min_epi32(
            _mm256_max_epi32(largest, _mm256_set1_epi32(ZERO)),
            _mm256_set1_epi32(FAR),
        );
        let high = _mm256_slli_epi32::<8>(near);
        let low = _mm256_and_si256(
            _mm256_sub_epi32(near, _mm256_set1_epi32(8)),
            _mm256_set1_epi32(0xFF),
        );
        let pair = _mm256_and_si256(_mm256_or_si256(high, low), _mm256_set1_epi32(0xFFFF));
        limit[v] = _mm256_or_si256(pair, _mm256_slli_epi32::<16>(pair));
    }
    let powers = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        -128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0,
    ));
    let last = _mm256_set1_epi8(15);
    let mut sums = [_mm256_setzero_si256(); 2];
    for kk in 0..16 {
        let ea = _mm256_set1_epi32(a.exp[kk] as i32);
        let sa = _mm256_set1_epi32(a.sig[kk] as i32);
        let flip = _mm256_set1_epi32(a.flip[kk] as i32);
        for v in 0..2 {
            let e = _mm256_add_epi8(ea, lanes16(&cols.exp[kk], at[v]));
            // Negative indices give zero, and so do those of 8 and more.
            let index = _mm256_min_epi8(_mm256_subs_epi8(limit[v], e), last);
            let power = _mm256_shuffle_epi8(powers, index);
            let product = _mm256_mullo_epi16(sa, lanes16(&cols.sig[kk], at[v]));
            let cut = _mm256_mulhi_epu16(product, power);
            let sign = _mm256_xor_si256(flip, lanes16(&cols.sign[kk], at[v]));
            sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(cut, sign));
        }
    }
    let mut out = [0; LANES];
    for v in 0..2 {
        store8(sums[v], &mut out[8 * v..8 * v + 8]);
    }
    (top, out)
}
