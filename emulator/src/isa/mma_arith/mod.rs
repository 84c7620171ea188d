//! Arithmetic of the tensor cores: one K step of 32 bytes. Pure functions of bits, without machine state.
//!
//! Exact mode is the truncated fused dot-product-add of Hopper (MMA-Sim, arXiv 2511.10909): all products and the old
//! accumulator are aligned to the largest exponent, each is cut toward zero to F fraction bits (13 for 8-bit floats, 25
//! otherwise), the cut terms are summed exactly, and the sum is cut (f16: rounded to nearest even). Zero sums are +0, NaN
//! results are canonical (0x7FFFFFFF, 0x7FFF), an infinity comes from infinities or from a sum too large.
//!
//! | file | what |
//! |---|---|
//! | `exact` | the definition in straight lines, one output after the other: what the others must equal |
//! | `lanes` | the same for sixteen columns at once, all float types, left to the compiler to vectorise |
//! | `wide` | the usual case of f16, bf16 and tf32: products in f32 |
//! | `fp8_avx2` | the inner loop for 8-bit floats in 16-bit lanes |
//! | `epilogue` | the accumulator as a term, and the result, for lanes |
//! | `fast` | the plain mode |
//! | `sync` | `mma.sync`: the same with each device's step, and what some devices make of other instructions |
//! | `double` | f64: fused multiply-adds in order, with a rounding |
//!
//! Zero terms have the model's exponent -133 (f32 results) or -21 (f16 results), one more before 9.0. The accumulator is a term too. If it is
//! zero it brings that exponent itself; if not, its own is above it (at least -126, -14). So the largest exponent never is
//! below that floor, and zero products need no exponent: the lanes leave them out.

mod decode;
mod double;
mod epilogue;
mod exact;
mod fast;
#[cfg(target_arch = "x86_64")]
mod fp8_avx2;
mod lanes;
mod sync;
#[cfg(test)]
mod tests;
mod wide;

use crate::machine::knobs::ComputeCapability;
pub use decode::{AccType, InType};
use decode::{Term, terms};
pub use double::{Rounding, fma};
pub use sync::{mma_sync, volta};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bit for bit as Hopper's wgmma.
    Exact,
    /// Products and sums in f64 (k ascending, the old accumulator last), rounded once to the accumulator's type.
    Fast,
}

/// Types of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmaKind {
    /// Elements of A.
    pub a: InType,
    /// Elements of B.
    pub b: InType,
    /// Accumulator.
    pub acc: AccType,
    /// Integer accumulators saturate instead of wrapping.
    pub saturate: bool,
}

impl MmaKind {
    /// Elements of 32 bytes of K.
    const fn k(self) -> usize {
        32 / self.a.bytes()
    }

    const fn eight_bits(self) -> bool {
        matches!(self.a, InType::E4M3 | InType::E5M2)
    }
}

/// How a tensor core sums the products of one step (MMA-Sim's parameters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summation {
    /// Fraction bits that an aligned term keeps. With 13, f32 results have 13 mantissa bits too.
    kept: i32,
    /// Exponent of a zero term with f32 results; with f16 results it is 112 above.
    zero: i32,
    /// Bytes of K in a step.
    step: usize,
}

impl Summation {
    /// `wgmma` on 9.0.
    const fn wgmma(kind: MmaKind) -> Self {
        Self {
            kept: if kind.eight_bits() { 13 } else { 25 },
            zero: -133,
            step: 32,
        }
    }

    /// `mma.sync` on a device: 9.0 sums 32 bytes of K in a step with 25 bits, 8.x sums 16 bytes with 24 bits (8-bit floats,
    /// which only 8.9 has as such: 13).
    const fn mma(kind: MmaKind, device: ComputeCapability) -> Self {
        match device {
            ComputeCapability::Cc90 => Self {
                kept: 25,
                zero: -133,
                step: 32,
            },
            _ => Self {
                kept: if kind.eight_bits() { 13 } else { 24 },
                zero: -132,
                step: 16,
            },
        }
    }

    const fn zero_of(self, acc: AccType) -> i32 {
        match acc {
            AccType::F16 => self.zero + 112,
            _ => self.zero,
        }
    }
}

/// Code compiled for this machine's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vectors {
    /// What every machine of the target has.
    Baseline,
    /// 256-bit integer vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

fn vectors() -> Vectors {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return Vectors::Avx2;
    }
    Vectors::Baseline
}

/// D = A B^T (+ D): `a` has `m` rows and `b` has `n` rows of 32 bytes, K contiguous; `acc` is m x n row-major, the bits of
/// an accumulator in each word (f16 in the low half). `scale_d` false ignores the old D.
///
/// Operations with less than 32 bytes of K are the same with zeroes behind: zero products change nothing.
///
/// # Panics
/// If a slice is shorter than `m * 32`, `n * 32`, `m * n`.
#[allow(clippy::too_many_arguments)]
pub fn mma_tile(
    kind: MmaKind,
    m: usize,
    n: usize,
    a: &[u8],
    b: &[u8],
    acc: &mut [u32],
    scale_d: bool,
    neg_a: bool,
    neg_b: bool,
    mode: Mode,
) {
    let (a, b, acc) = (&a[..m * 32], &b[..n * 32], &mut acc[..m * n]);
    // Both negations only choose the products' sign, and a NaN's sign is lost.
    let step = Step {
        kind,
        sum: Summation::wgmma(kind),
        k: kind.k(),
        n,
        a,
        b,
        scale_d,
        neg: neg_a != neg_b,
    };
    match (kind.acc, mode) {
        (AccType::S32, _) => integer(&step, acc),
        (_, Mode::Fast) => fast::tile(&step, acc, vectors()),
        (_, Mode::Exact) => lanes::tile(&step, acc, vectors()),
    }
}

/// [`mma_tile`] in exact mode, straight from the definition: slow, for comparison.
///
/// # Panics
/// As there.
#[allow(clippy::too_many_arguments)]
pub fn mma_tile_by_definition(
    kind: MmaKind,
    m: usize,
    n: usize,
    a: &[u8],
    b: &[u8],
    acc: &mut [u32],
    scale_d: bool,
    neg_a: bool,
    neg_b: bool,
) {
    let k = kind.k();
    let ta: Vec<Term> = terms(kind.a, &a[..m * 32], neg_a);
    let tb: Vec<Term> = terms(kind.b, &b[..n * 32], neg_b);
    for (i, d) in acc.iter_mut().enumerate().take(m * n) {
        let c = if scale_d { *d } else { 0 };
        *d = exact::dot(
            &ta[i / n * k..][..k],
            &tb[i % n * k..][..k],
            kind.acc,
            c,
            Summation::wgmma(kind),
        );
    }
}

/// The operands of one operation.
struct Step<'a> {
    kind: MmaKind,
    sum: Summation,
    /// Elements of K; behind them all are zero.
    k: usize,
    n: usize,
    a: &'a [u8],
    b: &'a [u8],
    scale_d: bool,
    /// Products are negated.
    neg: bool,
}

fn integer(step: &Step, acc: &mut [u32]) {
    let widen = |ty: InType, rows: &[u8]| -> Vec<i16> {
        match ty {
            InType::S8 => rows.iter().map(|&x| i16::from(x as i8)).collect(),
            _ => rows.iter().map(|&x| i16::from(x)).collect(),
        }
    };
    let (a, b) = (widen(step.kind.a, step.a), widen(step.kind.b, step.b));
    for (i, d) in acc.iter_mut().enumerate() {
        let (ra, rb) = (&a[i / step.n * 32..][..32], &b[i % step.n * 32..][..32]);
        // At most 32 * 255 * 255.
        let dot: i32 = ra
            .iter()
            .zip(rb)
            .map(|(&x, &y)| i32::from(x) * i32::from(y))
            .sum();
        let old = if step.scale_d { *d as i32 } else { 0 };
        *d = if step.kind.saturate {
            old.saturating_add(dot)
        } else {
            old.wrapping_add(dot)
        } as u32;
    }
}
