//! The all-to-all: the reference's bytes and bits, in hostile memory, over ranks, routings, payloads and schedules.
//!
//! Cost: about 60 s of CPU.

mod common;

use common::moe::*;
use common::*;
use hadal::moe::{CombineMode, GroupConfig, Payload, SendPath};

/// Rounds on two channels in turn, each often enough that banks are used again.
fn rounds(c: &GroupConfig, routing: Routing, seed: u64) -> Vec<Round> {
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
        round(c, &uneven, routing, seed + 3),
        round(c, &full, routing, seed + 4),
    ]
}

/// A row per case: ranks, experts, top-k, tokens, payload, hidden, blocks, routing, index of the adversary. Each pair of
/// values of two neighbouring columns stands in some row.
#[test]
fn a_covering_set() {
    use Payload::{Bf16, Bytes, Fp8};
    use Routing::{AllToOne, EmptyRank, Nothing, Random};
    let cases = [
        (1, 1, 1, 1, Bf16(8), 8, 1, Random, 0),
        (1, 7, 3, 65, Fp8(144), 136, 5, AllToOne, 1),
        (2, 8, 3, 9, Bf16(264), 264, 3, Random, 2),
        (2, 2, 2, 130, Bytes(16), 8, 4, EmptyRank, 3),
        (3, 10, 8, 17, Fp8(1040), 1032, 2, Random, 3),
        (3, 3, 1, 64, Bytes(2064), 256, 7, Nothing, 1),
        (4, 9, 5, 5, Bf16(1024), 1024, 1, EmptyRank, 1),
        (4, 256, 8, 33, Fp8(128), 64, 6, AllToOne, 2),
        (5, 11, 4, 3, Bytes(4112), 520, 16, Random, 0),
        (8, 64, 8, 4, Fp8(256), 264, 2, Random, 2),
        (8, 16, 2, 1, Bf16(2056), 2056, 3, EmptyRank, 0),
        (2, 40, 32, 6, Fp8(16), 16, 2, Random, 1),
    ];
    for (i, (ranks, experts, top_k, tokens, payload, hidden, blocks, routing, adversary)) in
        cases.into_iter().enumerate()
    {
        let mut c = config(ranks, experts, top_k, tokens, payload, hidden);
        c.blocks = blocks;
        // Every other case pre-reduced, two of three by the copy engine where that can be.
        if i % 2 == 1 {
            c.combine = CombineMode::PreReduced;
        }
        if i % 3 != 1 && !matches!(payload, Fp8(_)) {
            c.path = SendPath::Bulk;
        }
        let knobs = &adversaries()[adversary];
        exchange(&c, &rounds(&c, routing, 100 * i as u64), knobs);
    }
}

/// The same bits for any number of ranks and blocks: the tokens of one round, dealt to 1, 2, 3 and 4 ranks.
#[test]
fn bits_do_not_depend_on_the_ranks() {
    // `exchange` compares with a reference that knows nothing of ranks but where a token lives; here the tokens stay the same.
    for (ranks, blocks) in [(1, 2), (2, 1), (3, 5), (4, 3)] {
        let mut c = config(ranks, 12, 4, 12, Payload::Bf16(72), 72);
        c.blocks = blocks;
        let whole = round(
            &config(1, 12, 4, 12, Payload::Bf16(72), 72),
            &[12],
            Routing::Random,
            77,
        );
        let per = 12 / ranks;
        let deal = |n: usize, r: usize| r * per * n..(r + 1) * per * n;
        let dealt = Round {
            ids: (0..ranks)
                .map(|r| whole.ids[0][deal(4, r)].to_vec())
                .collect(),
            weights: (0..ranks)
                .map(|r| whole.weights[0][deal(4, r)].to_vec())
                .collect(),
            rows: (0..ranks)
                .map(|r| whole.rows[0][deal(144, r)].to_vec())
                .collect(),
            shared: (0..ranks)
                .map(|r| whole.shared[0][deal(72, r)].to_vec())
                .collect(),
            residual: (0..ranks)
                .map(|r| whole.residual[0][deal(72, r)].to_vec())
                .collect(),
            bias: whole.bias.clone(),
        };
        exchange(&c, &[dealt], &Knobs::default());
    }
}

/// Every rank count, more tokens, wider rows, and every adversary.
#[test]
fn the_full_matrix() {
    if !full() {
        println!("skipped: HADAL_TESTS=full runs it");
        return;
    }
    for ranks in 1..=8 {
        for (i, (tokens, top_k, experts)) in [
            (0, 1, 8),
            (1, 8, 256),
            (64, 32, 64),
            (513, 4, 9),
            (4096, 2, 16),
        ]
        .into_iter()
        .enumerate()
        {
            for (j, payload) in [Payload::Bytes(16), Payload::Bf16(2048), Payload::Fp8(7168)]
                .into_iter()
                .enumerate()
            {
                let hidden = if tokens > 600 { 8 } else { 264 };
                let payload = if tokens > 600 {
                    Payload::Bytes(16)
                } else {
                    payload
                };
                if tokens > 600 && j > 0 {
                    continue;
                }
                let mut c = config(
                    ranks,
                    experts.max(ranks),
                    top_k.min(experts),
                    tokens.max(1),
                    payload,
                    hidden,
                );
                c.blocks = [1, 3, 8][(i + j + ranks) % 3];
                let routing = [
                    Routing::Random,
                    Routing::AllToOne,
                    Routing::EmptyRank,
                    Routing::Nothing,
                ][(i + j) % 4];
                let knobs = &adversaries()[(ranks + i + j) % 4];
                let seed = (ranks * 100 + i * 10 + j) as u64;
                if tokens == 0 {
                    exchange(&c, &[round(&c, &vec![0; ranks], routing, seed)], knobs);
                } else {
                    exchange(&c, &rounds(&c, routing, seed), knobs);
                }
            }
        }
    }
}
