//! Arithmetic of the tensor cores: one K step of 32 bytes.
//!
//! Exact mode is the truncated fused dot-product-add of Hopper (MMA-Sim, arXiv 2511.10909): all products and the old
//! accumulator are aligned to the largest exponent, each is cut toward zero to F fraction bits, the cut terms are summed
//! exactly, and the sum is cut (f16: rounded to nearest even).

mod decode;
mod exact;

pub use decode::{AccType, InType};
use decode::{Term, terms};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bit for bit as Hopper's wgmma.
    Exact,
    /// Products and sums in f64, rounded once to the accumulator's type.
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

/// D = A B^T (+ D): `a` has `m` rows and `b` has `n` rows of 32 bytes, K contiguous; `acc` is m x n row-major, the bits of
/// an accumulator in each word (f16 in the low half). `scale_d` false ignores the old D.
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
    let k = 32 / kind.a.bytes();
    if kind.acc == AccType::S32 {
        for (i, d) in acc.iter_mut().enumerate().take(m * n) {
            let (ra, rb) = (&a[i / n * 32..][..32], &b[i % n * 32..][..32]);
            let dot: i64 = (0..32).map(|j| kind.a.int(ra[j]) * kind.b.int(rb[j])).sum();
            let sum = dot + if scale_d { i64::from(*d as i32) } else { 0 };
            *d = if kind.saturate {
                sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32
            } else {
                sum as i32 as u32
            };
        }
        return;
    }
    let ta: Vec<Term> = terms(kind.a, &a[..m * 32], neg_a);
    let tb: Vec<Term> = terms(kind.b, &b[..n * 32], neg_b);
    let fp8 = kind.a.bytes() == 1;
    for (i, d) in acc.iter_mut().enumerate().take(m * n) {
        let (ra, rb) = (&ta[i / n * k..][..k], &tb[i % n * k..][..k]);
        let c = if scale_d { *d } else { 0 };
        *d = match mode {
            Mode::Exact => exact::dot(ra, rb, kind.acc, c, fp8),
            Mode::Fast => fast(ra, rb, kind.acc, c),
        };
    }
}

fn fast(a: &[Term], b: &[Term], acc: AccType, c: u32) -> u32 {
    let c = match acc {
        AccType::F16 => half::f16::from_bits(c as u16).to_f64(),
        _ => f64::from(f32::from_bits(c)),
    };
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(x, y)| x.value() * y.value())
        .sum::<f64>()
        + c;
    match acc {
        AccType::F16 => u32::from(if sum.is_nan() {
            0x7FFF
        } else {
            half::f16::from_f64(sum).to_bits()
        }),
        _ if sum.is_nan() => 0x7FFF_FFFF,
        _ => (sum as f32).to_bits(),
    }
}
