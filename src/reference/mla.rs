//! Attention over a latent cache in f64, with an error bound for each result, and the merge of partial results.
//!
//! The keys are what the cache's codec gives ([`crate::mla::CacheFormat::decode`]): the values that the kernels compute with,
//! exactly. So the bound judges the kernels alone; what a format loses of the original values is said at the format.

use std::f64::consts::LN_2;

pub use super::gemm::Expected;
use crate::error::ArgumentError;
use crate::mla::{DIMS, LATENT};

/// One row: a query of one head against the tokens that it sees.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// 576 values.
    pub query: &'a [f32],
    /// Tokens, 576 values each; the first 512 are the token's value.
    pub keys: &'a [f32],
    /// Which tokens the row sees, one flag a token.
    pub seen: &'a [bool],
    /// Factor of the scores.
    pub scale: f32,
    /// The head's sink: a further score without a value. It takes part in the weights, not in the log-sum.
    pub sink: Option<f32>,
    /// Significant bits of the type that P and the result are rounded to: 8 for bf16, 11 for f16.
    pub digits: i32,
    /// Spacing of that type's subnormals.
    pub least: f64,
    /// Splits whose partial results are merged, at most; 1 for none.
    pub splits: usize,
}

/// A row's result.
///
/// A row that sees no token has value 0 in all columns and the log-sum -inf.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// 512 values, bounds before rounding to the result's type.
    pub out: Vec<Expected>,
    /// ln of the sum of exponentials, and its bound.
    pub lse: Expected,
    /// Weights in f64, one a token.
    pub weights: Vec<f64>,
}

const U: f64 = 1.0 / (1 << 24) as f64; // f32's rounding
const EX2: f64 = 4.0 * U; // ex2.approx: relative 2^-22 (PTX ISA)

/// A dot product as the tensor cores take it, 16 terms a step: value in f64 and how far the hardware's may be from it.
///
/// A step aligns 16 products and the old sum to the largest exponent among them and keeps 25 fraction bits: each term loses less
/// than 2^-25 of the largest magnitude; the sum is cut to f32, 2^-23 of itself (MMA-Sim, arXiv 2511.10909).
fn dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut sum, mut error) = (0.0f64, 0.0f64);
    for (x, y) in a.chunks(16).zip(b.chunks(16)) {
        let (mut step, mut most) = (0.0, sum.abs());
        for (p, q) in x.iter().zip(y) {
            let t = f64::from(*p) * f64::from(*q);
            step += t;
            most = f64::max(most, t.abs());
        }
        sum += step;
        error += 17.0 * (most + error) * 2f64.powi(-25);
        error += (sum.abs() + error) * 2f64.powi(-23);
    }
    (sum, error)
}

/// Attention of one row in f64, with bounds.
///
/// The bound follows the kernels' arithmetic. With c = scale log2(e), m the kernels' reference exponent (any number within 8
/// of scores already seen) and X the largest |c s| seen, a token's weight 2^(c s - m) comes out with a relative error e^d - 1:
///
/// ```text
/// d  =  ln 2 (c E + 3 u |c s| + u (|c s| + X))    E the dot product's bound; c's rounding, its product, the fused multiply-add
///    +  2^-22                                     ex2.approx
///    +  R (2^-22 + 2 ln 2 u X)                    R rescales: factors 2^(m - m'); R <= blocks, and each raises m by 8: R <= X/4 + 1
/// r  =  2^-digits, + least/2 absolute             P's rounding (P's largest is at least 1 in the end, so least/2 of the sum at most)
/// ```
/// Then for column j, with W the true weights, N = sum W v, A = sum W |v|, t the number of tokens and B = sum W (e^d - 1) + L:
///
/// ```text
/// L  =  (t/4 + 8) u                               the row's sum, four lanes of a quad, then two shuffles
/// |O_j - N_j|  <=  ( sum W |v| (e^d - 1 + r) + least/2 sum |v| + S A + |N| B ) / (1 - B)  +  4 u |N|
/// S  =  (t/16 + 4) (17 * 2^-25 + 2^-23)           the tensor cores' steps over tokens, as in the dot product
/// ```
/// A merge of splits adds 2 A (d' + splits u) with d' = 4 u (1 + |lse|) + 2^-22 for its weights and sums. The log-sum is off by
/// -ln(1 - B), by lg2.approx (2^-22 of max(1, log2 of the sum)) and by four roundings of itself.
///
/// # Errors
/// Slices whose lengths do not fit.
pub fn attend(r: &Row<'_>) -> Result<Attention, ArgumentError> {
    let n = r.seen.len();
    super::long_enough("query", r.query.len(), 1, DIMS, DIMS)?;
    super::long_enough("keys", r.keys.len(), n, DIMS, DIMS)?;
    let c = f64::from(r.scale);
    let mut scores = vec![f64::NEG_INFINITY; n];
    let mut errors = vec![0.0; n];
    let (mut most, mut extent) = (f64::NEG_INFINITY, 0.0f64);
    for i in 0..n {
        if r.seen[i] {
            let (s, e) = dot(&r.query[..DIMS], &r.keys[i * DIMS..][..DIMS]);
            (scores[i], errors[i]) = (c * s, c * e);
            most = f64::max(most, c * s);
            extent = f64::max(extent, (c * s).abs() / LN_2);
        }
    }
    if r.seen.iter().all(|s| !s) {
        return Ok(Attention {
            out: vec![Expected::default(); LATENT],
            lse: Expected {
                value: f64::NEG_INFINITY,
                bound: 0.0,
            },
            weights: vec![0.0; n],
        });
    }
    let mut weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let lse = most + sum.ln();
    let sink = r.sink.map_or(0.0, |s| (f64::from(s) - lse).exp());
    let rescales = ((n / 64 + 1) as f64).min(extent / 4.0 + 1.0);
    let mut off = vec![0.0; n];
    let mut mean = 0.0;
    for i in 0..n {
        weights[i] /= sum;
        let cs = scores[i].abs() / LN_2;
        if r.seen[i] {
            let d = errors[i]
                + LN_2 * U * (4.0 * cs + extent)
                + EX2
                + rescales * (EX2 + 2.0 * LN_2 * U * extent);
            off[i] = d.exp_m1();
            mean += weights[i] * off[i];
        }
    }
    let mean = mean + (n as f64 / 4.0 + 8.0) * U;
    let rounding = 2f64.powi(-r.digits);
    // A token far below the others flushes to 0 instead: nothing that could be seen.
    let flush = n as f64 * 2f64.powi(-120);
    let mma = (n as f64 / 16.0 + 4.0) * (17.0 * 2f64.powi(-25) + 2f64.powi(-23));
    let merging = if r.splits > 1 {
        2.0 * (4.0 * U * (1.0 + lse.abs() / LN_2) + EX2 + (r.splits as f64 + 4.0) * U)
    } else {
        0.0
    };
    let (mut value, mut magnitude) = (vec![0.0; LATENT], vec![0.0; LATENT]);
    let (mut wrong, mut plain) = (vec![0.0; LATENT], vec![0.0; LATENT]);
    for i in (0..n).filter(|i| r.seen[*i]) {
        for (j, v) in r.keys[i * DIMS..][..LATENT].iter().enumerate() {
            let v = f64::from(*v);
            value[j] += weights[i] * v;
            magnitude[j] += weights[i] * v.abs();
            wrong[j] += weights[i] * v.abs() * (off[i] + rounding * (1.0 + off[i]));
            plain[j] += v.abs();
        }
    }
    // The sink's share: exact but for an ex2.approx and the roundings of its argument.
    let keep = 1.0 / (1.0 + sink);
    let sink_error = match r.sink {
        Some(s) if s.is_finite() => {
            let argument = f64::from(s).abs() / LN_2 + extent;
            (1.0 - keep) * (EX2 + 4.0 * U * argument * LN_2)
        }
        _ => 0.0,
    };
    let out = (0..LATENT)
        .map(|j| {
            let n = value[j].abs();
            let above =
                wrong[j] + (r.least / 2.0 + flush) * plain[j] + mma * magnitude[j] + n * mean;
            let error = above / (1.0 - mean) + (4.0 * U + sink_error) * n + merging * magnitude[j];
            Expected {
                value: value[j] * keep,
                bound: if mean < 0.5 {
                    error * keep
                } else {
                    f64::INFINITY
                },
            }
        })
        .collect();
    let lse_bound = -(1.0 - mean).ln()
        + EX2 * LN_2 * f64::max(1.0, sum.log2() + 8.0)
        + 6.0 * U * (lse.abs() + extent)
        + merging;
    Ok(Attention {
        out,
        lse: Expected {
            value: lse,
            bound: if mean < 0.5 { lse_bound } else { f64::INFINITY },
        },
        weights,
    })
}

/// Merges the partial result (`from`, `from_lse`) over other tokens into (`into`, `into_lse`): log-sums are natural logarithms,
/// -inf for a part that saw nothing, whose values do not count.
///
/// # Errors
/// Lengths differ.
pub fn merge(
    into: &mut [f32],
    into_lse: &mut f32,
    from: &[f32],
    from_lse: f32,
) -> Result<(), ArgumentError> {
    if into.len() != from.len() {
        return Err(ArgumentError::Length {
            argument: "from",
            expected: into.len() as u64,
            got: from.len() as u64,
        });
    }
    let (a, b) = (f64::from(*into_lse), f64::from(from_lse));
    let most = a.max(b);
    if most == f64::NEG_INFINITY {
        into.fill(0.0);
        return Ok(());
    }
    let (wa, wb) = ((a - most).exp(), (b - most).exp());
    let sum = wa + wb;
    for (x, y) in into.iter_mut().zip(from) {
        let part = |w: f64, v: f32| if w == 0.0 { 0.0 } else { w * f64::from(v) };
        *x = ((part(wa, *x) + part(wb, *y)) / sum) as f32;
    }
    *into_lse = (most + sum.ln()) as f32;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(query: &'a [f32], keys: &'a [f32], seen: &'a [bool]) -> Row<'a> {
        Row {
            query,
            keys,
            seen,
            scale: 0.1,
            sink: None,
            digits: 8,
            least: 2f64.powi(-133),
            splits: 1,
        }
    }

    fn data(n: usize) -> (Vec<f32>, Vec<f32>) {
        let f = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) * 2e-3;
        (
            (0..DIMS).map(f).collect(),
            (0..n * DIMS).map(|i| f(i * 3 + 1)).collect(),
        )
    }

    #[test]
    fn one_token_gives_its_value() {
        let (q, k) = data(3);
        let a = attend(&row(&q, &k, &[false, true, false])).unwrap();
        for (j, o) in a.out.iter().enumerate() {
            assert_eq!(o.value, f64::from(k[DIMS + j]));
            assert!(
                o.bound >= 2f64.powi(-8) * o.value.abs() && o.bound < 0.01 * o.value.abs() + 1e-30
            );
        }
    }

    #[test]
    fn nothing_seen() {
        let (q, k) = data(2);
        let a = attend(&row(&q, &k, &[false, false])).unwrap();
        assert!(a.out.iter().all(|o| o.value == 0.0) && a.lse.value == f64::NEG_INFINITY);
    }

    /// Two halves merged are the whole; a part that saw nothing changes nothing, even if it holds NaN.
    #[test]
    fn merging() {
        let (q, k) = data(9);
        let seen = |f: fn(usize) -> bool| (0..9).map(f).collect::<Vec<_>>();
        let part = |s: &[bool]| {
            let a = attend(&row(&q, &k, s)).unwrap();
            (
                a.out.iter().map(|o| o.value as f32).collect::<Vec<_>>(),
                a.lse.value as f32,
            )
        };
        let (whole, lse) = part(&seen(|_| true));
        let (mut o, mut l) = part(&seen(|i| i < 4));
        let (p, m) = part(&seen(|i| i >= 4));
        merge(&mut o, &mut l, &p, m).unwrap();
        merge(&mut o, &mut l, &[f32::NAN; LATENT], f32::NEG_INFINITY).unwrap();
        assert!((l - lse).abs() < 1e-5);
        assert!(o.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5));
        let mut nothing = (vec![f32::NAN; LATENT], f32::NEG_INFINITY);
        merge(&mut nothing.0, &mut nothing.1, &p, m).unwrap();
        assert_eq!((nothing.0, nothing.1), (p.clone(), m));
        assert!(merge(&mut o, &mut l, &p[1..], m).is_err());
    }

    /// A sink takes weight away; +inf takes all, -inf none. The log-sum does not see it.
    #[test]
    fn sinks() {
        let (q, k) = data(5);
        let seen = [true; 5];
        let with = |sink| {
            attend(&Row {
                sink,
                ..row(&q, &k, &seen)
            })
            .unwrap()
        };
        let (plain, equal) = (with(None), with(Some(with(None).lse.value as f32)));
        assert_eq!(plain.lse.value, equal.lse.value);
        for (a, b) in plain.out.iter().zip(&equal.out) {
            assert!((a.value / 2.0 - b.value).abs() < 1e-6);
        }
        assert!(with(Some(f32::INFINITY)).out.iter().all(|o| o.value == 0.0));
        assert_eq!(
            with(Some(f32::NEG_INFINITY)).out[3].value,
            plain.out[3].value
        );
    }
}
