//! The all-to-all: the reference's bytes and bits, in hostile memory, over ranks, routings, payloads and schedules.

mod common;

use common::moe::*;
use common::*;
use hadal::moe::Payload;

/// Three rounds, so that banks are used again: full, uneven, and with the routing that is asked for.
fn rounds(c: &hadal::moe::GroupConfig, routing: Routing, seed: u64) -> Vec<Round> {
    let t = c.max_tokens;
    let full = vec![t; c.ranks];
    let uneven: Vec<usize> = (0..c.ranks).map(|r| (r * 5 + 1) % (t + 1)).collect();
    let none_on_some: Vec<usize> = (0..c.ranks)
        .map(|r| if r % 2 == 0 { 0 } else { t })
        .collect();
    vec![
        round(c, &full, Routing::Random, seed),
        round(c, &uneven, routing, seed + 1),
        round(c, &none_on_some, Routing::Random, seed + 2),
        round(c, &full, routing, seed + 3),
    ]
}

#[test]
fn two_ranks() {
    let c = config(2, 8, 3, 9, Payload::Bf16(264), 264);
    exchange(&c, &rounds(&c, Routing::Random, 1), &Knobs::default());
}

#[test]
fn one_rank_alone() {
    let c = config(1, 5, 2, 7, Payload::Bytes(48), 16);
    exchange(&c, &rounds(&c, Routing::AllToOne, 2), &Knobs::default());
}
