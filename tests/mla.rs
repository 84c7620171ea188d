//! Latent attention: bounds, edges, hostile memory, schedules. About two minutes of CPU time.

mod common;

use common::mla::{Bits16, Case, Problem, Stored, check, run};
use common::*;
use hadal::mla::{Bf16Cache, CacheFormat, F16Cache, Fp8Scaled, Fp8Tensor, ScaleRule, SplitRule};

/// Every edge of tokens and rows meets the copy engine's kernels, alone and in pairs, and pages of each size; a request
/// without tokens among them. 10 s.
#[test]
fn dense_edges() {
    let l = lease(&Knobs {
        numerics: Numerics::Fast,
        ..Knobs::default()
    });
    let cases = [
        (vec![0, 1], 1, 1, 64),
        (vec![63, 64, 65], 1, 3, 16),
        (vec![129, 0, 20], 1, 9, 32),
        (vec![140, 31], 2, 16, 128),
        (vec![65], 3, 21, 64),
        (vec![70, 2], 1, 64, 256),
        (vec![70, 200], 1, 65, 64),
        (vec![66, 0], 1, 96, 16),
        (vec![1, 190], 1, 128, 64),
        (vec![150], 2, 128, 32),
        (vec![3], 4, 63, 64),
    ];
    for (i, (lengths, queries, heads, page_size)) in cases.into_iter().enumerate() {
        let case = Case {
            lengths,
            queries,
            heads,
            page_size,
            causal: i % 3 != 1,
            pairs: i % 2 == 0,
            seed: i as u64,
            ..Case::default()
        };
        if i % 2 == 0 {
            check::<Bf16Cache>(&l, &case);
        } else {
            check::<F16Cache>(&l, &case);
        }
    }
    assert!(l.reports().is_empty());
}

/// FP8 rows, and 16-bit rows on pages that the copy engine does not take. 10 s.
#[test]
fn row_by_row() {
    let l = lease(&Knobs {
        numerics: Numerics::Fast,
        ..Knobs::default()
    });
    let cases = [
        (vec![0, 1, 65], 1, 3, 64),
        (vec![130], 2, 16, 53),
        (vec![70, 2], 1, 70, 2),
        (vec![64, 63], 1, 128, 576),
    ];
    for (i, (lengths, queries, heads, page_size)) in cases.into_iter().enumerate() {
        let case = Case {
            lengths,
            queries,
            heads,
            page_size,
            rule: if i % 2 == 0 {
                ScaleRule::Amax
            } else {
                ScaleRule::PowerOfTwo
            },
            seed: 50 + i as u64,
            ..Case::default()
        };
        check::<Fp8Scaled>(&l, &case);
        check::<Fp8Tensor>(&l, &case);
        if page_size != 64 {
            check::<Bf16Cache>(&l, &case);
            check::<F16Cache>(&l, &case);
        }
    }
    assert!(l.reports().is_empty());
}

/// Splits of one block up to none, merged in the same launch; fixed and filling. 10 s.
#[test]
fn splits() {
    let l = lease(&Knobs {
        numerics: Numerics::Fast,
        ..Knobs::default()
    });
    for (i, split) in [SplitRule::Fixed(64), SplitRule::Fixed(128), SplitRule::Fill]
        .into_iter()
        .enumerate()
    {
        for (heads, queries) in [(5, 1), (40, 2), (128, 1)] {
            let case = Case {
                lengths: vec![500, 0, 64, 129],
                queries,
                heads,
                split: Some(split),
                seed: 80 + i as u64,
                sinks: (i != 1).then(|| (0..heads).map(|h| h as f32 * 0.1 - 1.0).collect()),
                sm_limit: Some(4 + 7 * i as u32),
                ..Case::default()
            };
            check::<Bf16Cache>(&l, &case);
            if heads == 5 {
                check::<Fp8Scaled>(&l, &case);
            }
        }
    }
    assert!(l.reports().is_empty());
}

/// Selected slots: holes, lengths, any topk, any heads, any page size, sinks. 10 s.
#[test]
fn selections() {
    let l = lease(&Knobs {
        numerics: Numerics::Fast,
        ..Knobs::default()
    });
    let cases = [
        (1, 64, 1, 1),
        (64, 2, 8, 2),
        (130, 61, 64, 1),
        (65, 53, 128, 3),
        (100, 69, 96, 1),
    ];
    for (i, (topk, page_size, heads, queries)) in cases.into_iter().enumerate() {
        let tokens = 2 * queries;
        let case = Case {
            lengths: vec![90, 40],
            queries,
            heads,
            page_size,
            topk: Some(topk),
            topk_lengths: (i % 2 == 1)
                .then(|| (0..tokens).map(|t| (t * 29 % (topk + 1)) as i32).collect()),
            holes: [5, 0, 2, 1, 3][i],
            sinks: (i % 2 == 0).then(|| {
                (0..heads)
                    .map(|h| match h % 5 {
                        3 => f32::INFINITY,
                        4 => f32::NEG_INFINITY,
                        _ => h as f32 * 0.05,
                    })
                    .collect()
            }),
            split: (i == 2).then_some(SplitRule::Fixed(64)),
            seed: 110 + i as u64,
            ..Case::default()
        };
        check::<Fp8Scaled>(&l, &case);
        check::<Bf16Cache>(&l, &case);
        if i == 2 {
            check::<F16Cache>(&l, &case);
            check::<Fp8Tensor>(&l, &case);
        }
    }
    assert!(l.reports().is_empty());
}

fn schedules_of<F: CacheFormat>(case: &Case)
where
    F::Query: Bits16,
    F::Storage: Stored,
{
    let p = Problem::<F>::new(case);
    let mut first = None;
    for knobs in adversaries() {
        let l = lease(&knobs);
        let o = run(&l, &p);
        assert!(l.reports().is_empty(), "{:?}", l.reports());
        let bits = o.bits();
        if let Some(f) = &first {
            assert!(bits == *f, "{case:?} {knobs:?}");
        } else {
            p.verify(&o, 1 + case.heads / 4);
            first = Some(bits);
        }
    }
}

/// Exact tensor cores: bits do not depend on when copies land or who runs first; every check is on. 30 s.
#[test]
fn same_bits_under_every_schedule() {
    let base = Case {
        lengths: vec![330, 0, 65],
        queries: 2,
        heads: 9,
        split: Some(SplitRule::Fixed(128)),
        sm_limit: Some(3),
        seed: 7,
        ..Case::default()
    };
    schedules_of::<Bf16Cache>(&base);
    schedules_of::<Fp8Scaled>(&base);
    schedules_of::<Bf16Cache>(&Case {
        heads: 65,
        lengths: vec![200],
        queries: 1,
        sm_limit: Some(4),
        ..base.clone()
    });
    schedules_of::<F16Cache>(&Case {
        topk: Some(140),
        page_size: 61,
        ..base
    });
}
