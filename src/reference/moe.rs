//! The router, bit for bit, and the all-to-all as plain loops.

use half::bf16;

use super::long_enough;
use crate::error::ArgumentError;
use crate::moe::{RouterConfig, Scoring};

/// Expert ids and weights of each token, [tokens, top_k].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routed {
    /// The expert, or -1: nothing was left to pick.
    pub ids: Vec<i32>,
    /// Its weight; 0 for -1.
    pub weights: Vec<f32>,
}

/// e^x for x <= 0, 0 below -87, as the kernel computes it: x = n ln 2 + r with ln 2 in two parts (Cody and Waite), e^r by
/// its Taylor series to r^7, every operation rounded to nearest. Within two units in the last place.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() || x < -87.0 {
        return 0.0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    const C: [f32; 8] = [
        1.984_127e-4,
        1.388_888_9e-3,
        8.333_334e-3,
        4.166_666_8e-2,
        1.666_666_7e-1,
        0.5,
        1.0,
        1.0,
    ];
    let p = C[1..].iter().fold(C[0], |p, c| p.mul_add(r, *c));
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

fn sigmoid(x: f32) -> f32 {
    if x.is_nan() {
        return 0.0;
    }
    let e = exp(-x.abs());
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// The sum of 32 lanes as the kernel's butterfly adds them: neighbours 16, 8, 4, 2, 1 apart.
fn butterfly(mut lanes: [f32; 32]) -> f32 {
    for d in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|l| lanes[l] + lanes[l ^ d]);
    }
    lanes[0]
}

fn scores(x: &[f32], scoring: Scoring) -> Vec<f32> {
    if scoring == Scoring::Sigmoid {
        return x.iter().map(|v| sigmoid(*v)).collect();
    }
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f32> = x
        .iter()
        .map(|&v| match v {
            v if v.is_nan() => 0.0,
            v if v == top => 1.0,
            v => exp(v - top),
        })
        .collect();
    let mut lanes = [0.0f32; 32];
    for (e, p) in parts.iter().enumerate() {
        lanes[e % 32] += p;
    }
    let total = butterfly(lanes);
    parts
        .iter()
        .map(|p| if total > 0.0 { p / total } else { 0.0 })
        .collect()
}

/// Routes `tokens` rows of logits.
///
/// ```text
/// score   sigmoid(x) or softmax(x)_e; 0 for NaN
/// choice  score + bias_e; NaN (of x, too) is never chosen
/// groups  of experts / groups neighbours; a group ranks by the sum of its two largest choices (a group of one: by that
///         one), ties by the smaller index; experts outside the best `kept_groups` are not chosen
/// picks   the `top_k` largest choices in falling order, ties by the smaller index; -1 where none is left
/// weight  score; over the sum of the picks' scores, in order, if `normalise` (0 where that is 0); times `scale`
/// ```
/// (DeepSeek-V3 technical report, section 2.1.2; the group's rank is that of the model's published `modeling_deepseek.py`.)
///
/// # Errors
/// A rule that makes no sense, slices that are too short.
pub fn route(
    config: &RouterConfig,
    logits: &[f32],
    bias: Option<&[f32]>,
    tokens: usize,
) -> Result<Routed, ArgumentError> {
    config.checked()?;
    let n = config.experts;
    long_enough("logits", logits.len(), tokens, n, n)?;
    if let Some(b) = bias {
        long_enough("bias", b.len(), 1, n, n)?;
    }
    let mut out = Routed::default();
    for x in logits.chunks_exact(n).take(tokens) {
        let score = scores(x, config.scoring);
        let mut choice: Vec<f32> = (0..n)
            .map(|e| {
                let c = bias.map_or(score[e], |b| score[e] + b[e]);
                if x[e].is_nan() || c.is_nan() {
                    f32::NEG_INFINITY
                } else {
                    c
                }
            })
            .collect();
        if config.groups > 1 {
            let size = n / config.groups;
            let rank: Vec<f32> = choice
                .chunks_exact(size)
                .map(|g| {
                    let mut g = g.to_vec();
                    g.sort_by(|a, b| b.total_cmp(a));
                    if size > 1 { g[0] + g[1] } else { g[0] }
                })
                .collect();
            let ahead = |g: usize| {
                (0..config.groups)
                    .filter(|&o| rank[o] > rank[g] || (rank[o] == rank[g] && o < g))
                    .count()
            };
            for (e, c) in choice.iter_mut().enumerate() {
                if ahead(e / size) >= config.kept_groups {
                    *c = f32::NEG_INFINITY;
                }
            }
        }
        let first = out.weights.len();
        for _ in 0..config.top_k {
            let mut best: Option<usize> = None;
            for (e, c) in choice.iter().enumerate() {
                if *c > best.map_or(f32::NEG_INFINITY, |b| choice[b]) {
                    best = Some(e);
                }
            }
            out.ids.push(best.map_or(-1, |e| e as i32));
            out.weights.push(best.map_or(0.0, |e| score[e]));
            if let Some(e) = best {
                choice[e] = f32::NEG_INFINITY;
            }
        }
        let sum = out.weights[first..].iter().fold(0.0, |s, w| s + w);
        for w in &mut out.weights[first..] {
            if config.normalise {
                *w = if sum > 0.0 { *w / sum } else { 0.0 };
            }
            *w *= config.scale;
        }
    }
    Ok(out)
}

/// A row in expert order, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Rank that brought the token.
    pub rank: usize,
    /// Its token.
    pub token: usize,
    /// Which of the token's picks.
    pub k: usize,
}

/// What rank `rank` receives: for each of its experts, in order, its rows by rank, then token, then k. `ids[r]` are the
/// picks [tokens, top_k] of rank r; those that no expert has are left out.
pub fn dispatch(ids: &[Vec<i32>], top_k: usize, experts: usize, rank: usize) -> Vec<Vec<Origin>> {
    let ranks = ids.len();
    let count = |r: usize| experts / ranks + usize::from(r < experts % ranks);
    let first: usize = (0..rank).map(count).sum();
    (first..first + count(rank))
        .map(|expert| {
            let rows = |(r, ids): (usize, &Vec<i32>)| {
                let chosen = |i: &usize| ids[*i] == expert as i32;
                let origin = move |i: usize| Origin {
                    rank: r,
                    token: i / top_k,
                    k: i % top_k,
                };
                (0..ids.len())
                    .filter(chosen)
                    .map(origin)
                    .collect::<Vec<_>>()
            };
            ids.iter().enumerate().flat_map(rows).collect()
        })
        .collect()
}

/// What is added to a combined row, in this order; each may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    /// The shared expert's row.
    pub shared: Option<&'a [bf16]>,
    /// The residual.
    pub residual: Option<&'a [bf16]>,
    /// The bias.
    pub bias: Option<&'a [f32]>,
}

/// The pre-reduced form: `owner[k]` is the rank that has pick k. Each rank's picks are summed as in [`combine`] and rounded
/// to bf16; these partial sums, ranks ascending, are then added from +0 in f32, and the rest as there.
pub fn combine_pre_reduced(
    rows: &[Option<&[bf16]>],
    weights: &[f32],
    owner: &[usize],
    add: Added<'_>,
    hidden: usize,
) -> Vec<bf16> {
    let mut ranks: Vec<usize> = (rows.iter().zip(owner))
        .filter_map(|(row, r)| row.map(|_| *r))
        .collect();
    ranks.sort_unstable();
    ranks.dedup();
    let partial: Vec<Vec<bf16>> = ranks
        .iter()
        .map(|r| {
            let mine: Vec<Option<&[bf16]>> = (rows.iter().zip(owner))
                .map(|(row, o)| row.filter(|_| o == r))
                .collect();
            combine(&mine, weights, Added::default(), hidden)
        })
        .collect();
    let partial: Vec<Option<&[bf16]>> = partial.iter().map(|p| Some(p.as_slice())).collect();
    // A weight of one makes the fma the plain sum.
    combine(&partial, &vec![1.0; partial.len()], add, hidden)
}

/// One token: `rows[k]` is its pick's row, `None` for a pick that there is not. Sums in f32 by fma from +0, k ascending,
/// then shared, residual, bias, each addition rounded; one rounding to bf16.
pub fn combine(
    rows: &[Option<&[bf16]>],
    weights: &[f32],
    add: Added<'_>,
    hidden: usize,
) -> Vec<bf16> {
    (0..hidden)
        .map(|h| {
            let picks = rows.iter().zip(weights);
            let mut sum = picks.fold(0.0f32, |s, (row, w)| {
                row.map_or(s, |row| w.mul_add(row[h].to_f32(), s))
            });
            if let Some(x) = add.shared {
                sum += x[h].to_f32();
            }
            if let Some(x) = add.residual {
                sum += x[h].to_f32();
            }
            if let Some(x) = add.bias {
                sum += x[h];
            }
            bf16::from_f32(sum)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        for i in 0..200_000 {
            let x = -(i as f32) * 4.34e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (got / want - 1.0).abs() < 2.4e-7,
                "exp({x}) = {got}, {want}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn by_hand() {
        let mut c = RouterConfig {
            experts: 4,
            top_k: 2,
            groups: 2,
            kept_groups: 1,
            scoring: Scoring::Sigmoid,
            normalise: true,
            scale: 2.0,
        };
        // Groups rank 0.5 + 0.5 and 0.5 + 0.5: the first wins the tie, and so does its first expert.
        let r = route(&c, &[0.0; 4], None, 1).unwrap();
        assert_eq!((r.ids, r.weights), (vec![0, 1], vec![1.0, 1.0]));
        // The bias chooses and does not weigh.
        let r = route(&c, &[0.0; 4], Some(&[0.0, 0.0, 0.0, 9.0]), 1).unwrap();
        assert_eq!((r.ids, r.weights), (vec![3, 2], vec![1.0, 1.0]));
        // Nobody is left.
        let nan = f32::NAN;
        let one = RouterConfig {
            groups: 1,
            kept_groups: 1,
            ..c
        };
        let r = route(&one, &[nan, nan, nan, 0.0], None, 1).unwrap();
        assert_eq!((r.ids, r.weights), (vec![3, -1], vec![2.0, 0.0]));
        c.scoring = Scoring::Softmax;
        (c.groups, c.normalise, c.scale) = (1, false, 1.0);
        let r = route(&c, &[f32::INFINITY, 3.0, f32::INFINITY, nan], None, 1).unwrap();
        assert_eq!((r.ids, r.weights), (vec![0, 2], vec![0.5, 0.5]));
        c.top_k = 5;
        assert!(route(&c, &[0.0; 4], None, 1).is_err());
    }
}
