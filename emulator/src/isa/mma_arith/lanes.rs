//! Exact mode for sixteen columns at once. The loops over lanes have fixed lengths and no branches, so that the compiler
//! makes vectors of them; they are compiled for the baseline and for AVX2.

use super::decode::{InType, Term, terms};
use super::epilogue::{LANES, Old, close};
use super::{Step, Vectors, exact, wide};

/// Columns whose operand stays decoded at a time.
pub const COLUMNS: usize = 64;
/// Exponent of a zero element: a product with it is below every other term.
const ZERO: i32 = -10_000;

/// The shape of an element's bits.
#[derive(Clone, Copy)]
pub struct Shape {
    pub exp_bits: u32,
    pub man_bits: u32,
    /// Low bits that are dropped.
    pub dropped: u32,
    /// The largest exponent has numbers too; only all ones is NaN.
    pub fn_style: bool,
}

impl Shape {
    /// Of a float type.
    pub const fn of(ty: InType) -> Self {
        let (exp_bits, man_bits, dropped, fn_style) = match ty {
            InType::E4M3 | InType::S8 | InType::U8 => (4, 3, 0, true),
            InType::E5M2 => (5, 2, 0, false),
            InType::F16 => (5, 10, 0, false),
            InType::Bf16 => (8, 7, 0, false),
            InType::Tf32 => (8, 10, 13, false),
        };
        Self {
            exp_bits,
            man_bits,
            dropped,
            fn_style,
        }
    }

    /// Infinity or NaN.
    #[inline(always)]
    pub const fn special(self, bits: u32) -> bool {
        let all = (1 << (self.exp_bits + self.man_bits)) - 1;
        let x = bits >> self.dropped & all;
        if self.fn_style {
            x == all
        } else {
            x >> self.man_bits == (1 << self.exp_bits) - 1
        }
    }

    /// Signed significand and exponent. Zero and what is not a number is (0, [`ZERO`]).
    #[inline(always)]
    const fn split(self, bits: u32) -> (i32, i32) {
        let x = bits >> self.dropped;
        let field = (x >> self.man_bits & ((1 << self.exp_bits) - 1)) as i32;
        let hidden = if field > 0 { 1 << self.man_bits } else { 0 };
        let sig = (x & ((1 << self.man_bits) - 1)) as i32 | hidden;
        let sig = if self.special(bits) { 0 } else { sig };
        let negative = x >> (self.exp_bits + self.man_bits) & 1 != 0;
        let field = if field > 1 { field } else { 1 };
        let exp = field - ((1 << (self.exp_bits - 1)) - 1);
        (
            if negative { -sig } else { sig },
            if sig == 0 { ZERO } else { exp },
        )
    }
}

/// Element `k` of a row.
#[inline(always)]
pub fn element(ty: InType, row: &[u8], k: usize) -> u32 {
    match ty.bytes() {
        1 => row[k].into(),
        2 => u16::from_le_bytes([row[2 * k], row[2 * k + 1]]).into(),
        _ => u32::from_le_bytes([row[4 * k], row[4 * k + 1], row[4 * k + 2], row[4 * k + 3]]),
    }
}

/// A row holds an infinity or a NaN.
pub fn special_row(ty: InType, row: &[u8]) -> bool {
    let shape = Shape::of(ty);
    (0..32 / ty.bytes()).fold(false, |s, k| s | shape.special(element(ty, row, k)))
}

/// One operation by whatever is fastest here.
pub fn tile(step: &Step, acc: &mut [u32], vectors: Vectors) {
    if wide::tile(step, acc, vectors) {
        return;
    }
    integers(step, acc, vectors);
}

/// One operation in integers.
pub fn integers(step: &Step, acc: &mut [u32], vectors: Vectors) {
    match vectors {
        Vectors::Baseline => baseline(step, acc),
        #[cfg(target_arch = "x86_64")]
        _ if step.kind.a.bytes() == 1 => {
            // SAFETY: all but `Vectors::Baseline` are only made where the processor has AVX2.
            unsafe { super::fp8_avx2::tile(step, acc) }
        }
        #[cfg(target_arch = "x86_64")]
        _ => {
            // SAFETY: as above.
            unsafe { avx2(step, acc) }
        }
    }
}

fn baseline(step: &Step, acc: &mut [u32]) {
    by_type(step, acc);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(step: &Step, acc: &mut [u32]) {
    by_type(step, acc);
}

/// Makes the types constants of each copy.
#[inline(always)]
fn by_type(step: &Step, acc: &mut [u32]) {
    use InType::{Bf16, E4M3, E5M2, F16, Tf32};
    match (step.kind.a, step.kind.b, step.sum.kept) {
        (F16, _, 25) => typed(F16, F16, 25, step, acc),
        (F16, ..) => typed(F16, F16, 24, step, acc),
        (Bf16, _, 25) => typed(Bf16, Bf16, 25, step, acc),
        (Bf16, ..) => typed(Bf16, Bf16, 24, step, acc),
        (Tf32, _, 25) => typed(Tf32, Tf32, 25, step, acc),
        (Tf32, ..) => typed(Tf32, Tf32, 24, step, acc),
        (E5M2, E5M2, _) => typed(E5M2, E5M2, 13, step, acc),
        (E5M2, ..) => typed(E5M2, E4M3, 13, step, acc),
        (_, E5M2, _) => typed(E4M3, E5M2, 13, step, acc),
        _ => typed(E4M3, E4M3, 13, step, acc),
    }
}

/// Elements along lanes and K.
struct Columns {
    sig: [[i32; COLUMNS]; 32],
    exp: [[i32; COLUMNS]; 32],
}

#[inline(always)]
fn typed(ta: InType, tb: InType, kept: i32, step: &Step, acc: &mut [u32]) {
    let k_len = step.k;
    let (sa, sb) = (Shape::of(ta), Shape::of(tb));
    // Brings a product to `kept` fraction bits: at most 28 bits (8-bit floats: 15).
    let up = kept as u32 - sa.man_bits - sb.man_bits;
    let mut cols = Columns {
        sig: [[0; COLUMNS]; 32],
        exp: [[0; COLUMNS]; 32],
    };
    for (j0, b) in step.b.chunks(COLUMNS * 32).enumerate() {
        let width = b.len() / 32;
        for k in 0..k_len {
            let mut bits = [0; COLUMNS];
            for (x, row) in bits.iter_mut().zip(b.chunks_exact(32)) {
                *x = element(tb, row, k);
            }
            #[allow(clippy::needless_range_loop)] // lanes
            for j in 0..COLUMNS {
                let (sig, exp) = sb.split(bits[j]);
                cols.sig[k][j] = sig;
                cols.exp[k][j] = exp;
            }
        }
        let special = specials(tb, b);
        for (ra, row) in step.a.chunks_exact(32).zip(acc.chunks_exact_mut(step.n)) {
            let mut a = [(0, 0); 32];
            for (k, x) in a.iter_mut().enumerate().take(k_len) {
                let (sig, exp) = sa.split(element(ta, ra, k));
                *x = (if step.neg { -sig } else { sig } << up, exp);
            }
            let odd_row = special_row(ta, ra);
            let row = &mut row[j0 * COLUMNS..][..width];
            for (g, d) in row.chunks_mut(LANES).enumerate() {
                let old = Old::new(step.kind.acc, step.sum, &load(step, d));
                let (top, sums) = products(&a[..k_len], &cols, g * LANES, &old);
                let mut out = close(step.kind.acc, kept, &old, &top, &sums);
                let odd = &special[g * LANES..];
                if odd_row || (0..LANES).any(|l| odd[l] | old.special[l]) {
                    by_definition(step, ra, &b[g * LANES * 32..], d, &mut out);
                }
                store(d, &out);
            }
        }
    }
}

/// Which columns of up to [`COLUMNS`] hold an infinity or a NaN.
#[inline(always)]
pub fn specials(ty: InType, b: &[u8]) -> [bool; COLUMNS] {
    let mut special = [false; COLUMNS];
    for (s, row) in special.iter_mut().zip(b.chunks_exact(32)) {
        *s = special_row(ty, row);
    }
    special
}

/// Largest exponents and sums of cut products of sixteen columns from `at` on.
#[inline(always)]
fn products(
    a: &[(i32, i32)],
    cols: &Columns,
    at: usize,
    old: &Old,
) -> ([i32; LANES], [[i32; LANES]; 2]) {
    let mut top = old.exp;
    for (k, &(_, ea)) in a.iter().enumerate() {
        let eb = &cols.exp[k][at..at + LANES];
        for l in 0..LANES {
            top[l] = top[l].max(ea + eb[l]);
        }
    }
    let mut sums = [[0; LANES]; 2];
    let half = a.len() / 2;
    for (k, &(sa, ea)) in a.iter().enumerate() {
        let (sb, eb) = (&cols.sig[k][at..at + LANES], &cols.exp[k][at..at + LANES]);
        let sum = &mut sums[usize::from(k >= half)];
        for l in 0..LANES {
            let p = sa * sb[l];
            let mag = p.abs() >> (top[l] - ea - eb[l]).min(31);
            sum[l] += if p < 0 { -mag } else { mag };
        }
    }
    (top, sums)
}

/// Up to sixteen old accumulators.
#[inline(always)]
pub fn load(step: &Step, d: &[u32]) -> [u32; LANES] {
    let mut c = [0; LANES];
    if step.scale_d {
        if let Ok(d) = <&[u32; LANES]>::try_from(d) {
            c = *d;
        } else {
            c[..d.len()].copy_from_slice(d);
        }
    }
    c
}

/// Up to sixteen results.
#[inline(always)]
pub fn store(d: &mut [u32], out: &[u32; LANES]) {
    if let Ok(d) = <&mut [u32; LANES]>::try_from(&mut *d) {
        *d = *out;
    } else {
        d.copy_from_slice(&out[..d.len()]);
    }
}

/// Results of sixteen columns of which some have an infinity or a NaN on their way.
#[cold]
#[inline(never)]
pub fn by_definition(step: &Step, ra: &[u8], b: &[u8], d: &[u32], out: &mut [u32; LANES]) {
    let a: Vec<Term> = terms(step.kind.a, ra, step.neg);
    for ((&c, out), row) in d.iter().zip(out).zip(b.chunks_exact(32)) {
        let c = if step.scale_d { c } else { 0 };
        let b = terms(step.kind.b, row, false);
        *out = exact::dot(&a, &b, step.kind.acc, c, step.sum);
    }
}
