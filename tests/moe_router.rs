//! The router: the reference's bits, in hostile memory. Cost: about 10 s of CPU.

mod common;

use common::*;
use hadal::error::{ArgumentError, MoeError};
use hadal::moe::{PicksMut, Router, RouterConfig, Scoring};
use hadal::reference::moe::route;
use hadal::tensor::Matrix;
use rand::RngExt;

fn check(l: &Lease, c: &RouterConfig, logits: &[f32], bias: Option<&[f32]>, tokens: usize) {
    let s = &l.stream;
    let (n, k, ld) = (c.experts, c.top_k, c.experts + 3);
    let mut padded = vec![f32::NAN; (tokens + 1) * ld];
    for t in 0..tokens {
        padded[t * ld..][..n].copy_from_slice(&logits[t * n..][..n]);
    }
    let x = s.clone_htod(&padded).unwrap();
    let b = bias.map(|b| s.clone_htod(b).unwrap());
    let mut ids = s.clone_htod(&vec![-77; tokens * k + 8]).unwrap();
    let mut weights = s.clone_htod(&vec![-7.25f32; tokens * k + 8]).unwrap();
    let router = Router::new(&l.device, c).unwrap();
    {
        let x = Matrix::with_stride(s, &x, tokens, n, ld).unwrap();
        let b = b.as_ref().map(|b| Matrix::new(s, b, 1, n).unwrap());
        let mut picks = PicksMut::new(s, &mut ids, &mut weights, tokens, k).unwrap();
        router.run(s, &x, b.as_ref(), &mut picks).unwrap();
    }
    let want = route(c, logits, bias, tokens).unwrap();
    let (ids, weights) = (s.clone_dtoh(&ids).unwrap(), s.clone_dtoh(&weights).unwrap());
    assert!(l.reports().is_empty(), "{:?}", l.reports());
    for i in 0..tokens * k {
        let place = (i / k, i % k);
        assert_eq!(ids[i], want.ids[i], "{c:?}: id at {place:?}");
        assert_eq!(
            weights[i].to_bits(),
            want.weights[i].to_bits(),
            "{c:?}: weight at {place:?}"
        );
    }
    assert!(ids[tokens * k..].iter().all(|v| *v == -77));
    assert!(weights[tokens * k..].iter().all(|v| *v == -7.25));
}

fn logits(seed: u64, n: usize, special: bool) -> Vec<f32> {
    let mut r = rng(seed);
    (0..n)
        .map(|_| match r.random_range(0..40) {
            0 if special => f32::NAN,
            1 if special => f32::INFINITY,
            2 if special => f32::NEG_INFINITY,
            3 => 1.0, // ties
            4 => 0.0,
            5 => r.random_range(-200.0..200.0),
            _ => r.random_range(-4.0..4.0),
        })
        .collect()
}

#[test]
fn many_rules() {
    let v3 = RouterConfig::DEEPSEEK_V3;
    let plain = RouterConfig {
        groups: 1,
        kept_groups: 1,
        ..v3
    };
    let rules = [
        v3,
        RouterConfig {
            scoring: Scoring::Softmax,
            normalise: false,
            scale: 1.0,
            ..plain
        },
        RouterConfig {
            experts: 1,
            top_k: 1,
            ..plain
        },
        RouterConfig {
            experts: 33,
            top_k: 32,
            ..plain
        },
        RouterConfig {
            experts: 32,
            groups: 32,
            kept_groups: 5,
            top_k: 7,
            ..v3
        },
        RouterConfig {
            experts: 1024,
            groups: 16,
            kept_groups: 3,
            top_k: 32,
            scoring: Scoring::Softmax,
            ..v3
        },
        RouterConfig {
            experts: 60,
            top_k: 4,
            groups: 3,
            kept_groups: 1,
            ..v3
        },
        RouterConfig {
            experts: 6,
            top_k: 6,
            groups: 3,
            kept_groups: 2,
            ..v3
        },
    ];
    for (k, knobs) in adversaries()
        .into_iter()
        .enumerate()
        .filter(|(k, _)| k % 2 == 0)
    {
        let l = lease(&knobs);
        for (i, c) in rules.iter().enumerate() {
            let bias: Vec<f32> = logits(90 + i as u64, c.experts, false)
                .iter()
                .map(|b| b * 0.1)
                .collect();
            for (tokens, special) in [(1, false), (7, true), (17, true)] {
                let x = logits(
                    (100 * k + 10 * i + tokens) as u64,
                    tokens * c.experts,
                    special,
                );
                check(&l, c, &x, (tokens != 7).then_some(&*bias), tokens);
            }
        }
        check(&l, &v3, &[], None, 0);
        check(&l, &v3, &vec![f32::NAN; 256], None, 1);
        check(&l, &v3, &vec![0.0; 256], Some(&vec![f32::NAN; 256]), 1);
    }
}

#[test]
fn bad_arguments() {
    let l = lease(&Knobs::default());
    let v3 = RouterConfig::DEEPSEEK_V3;
    let name = |e: MoeError| match e {
        MoeError::Argument(ArgumentError::TooLarge { argument, .. }) => argument,
        MoeError::Argument(ArgumentError::TooSmall { argument, .. }) => argument,
        MoeError::Argument(ArgumentError::Multiple { argument, .. }) => argument,
        MoeError::Argument(ArgumentError::Shape { argument, .. }) => argument,
        e => panic!("{e}"),
    };
    for (c, argument) in [
        (RouterConfig { experts: 0, ..v3 }, "experts"),
        (
            RouterConfig {
                experts: 1025,
                ..v3
            },
            "experts",
        ),
        (RouterConfig { top_k: 33, ..v3 }, "top_k"),
        (RouterConfig { top_k: 0, ..v3 }, "top_k"),
        (RouterConfig { groups: 33, ..v3 }, "groups"),
        (
            RouterConfig {
                kept_groups: 9,
                ..v3
            },
            "kept_groups",
        ),
        (RouterConfig { groups: 7, ..v3 }, "experts"),
    ] {
        assert_eq!(name(Router::new(&l.device, &c).unwrap_err()), argument);
    }
    let s = &l.stream;
    let router = Router::new(&l.device, &v3).unwrap();
    let x = s.alloc_zeros::<f32>(2 * 256).unwrap();
    let mut ids = s.clone_htod(&[-77; 16]).unwrap();
    let mut weights = s.alloc_zeros::<f32>(16).unwrap();
    {
        let x1 = Matrix::new(s, &x, 1, 256).unwrap();
        let x2 = Matrix::new(s, &x, 2, 255).unwrap();
        let b = Matrix::new(s, &x, 1, 255).unwrap();
        let mut picks = PicksMut::new(s, &mut ids, &mut weights, 2, 8).unwrap();
        assert_eq!(
            name(router.run(s, &x1, None, &mut picks).unwrap_err()),
            "logits"
        );
        assert_eq!(
            name(router.run(s, &x2, None, &mut picks).unwrap_err()),
            "logits"
        );
        let x = Matrix::new(s, &x, 2, 256).unwrap();
        assert_eq!(
            name(router.run(s, &x, Some(&b), &mut picks).unwrap_err()),
            "bias"
        );
    }
    assert!(PicksMut::new(s, &mut ids, &mut weights, 3, 8).is_err());
    assert_eq!(s.clone_dtoh(&ids).unwrap(), [-77; 16]);
}
