//! The grouped GEMM: groups of any size without alignment, rows by index, indices that are wrong. About a minute on two cores.

mod common;

use common::gemm::Out;
use common::grouped::Case;
use common::*;
use hadal::gemm::{GemmOptions, Groups, Share, TILES, Tile};
use half::{bf16, f16};
use rand::RngExt;

const BY: [Groups; 3] = [Groups::Counts, Groups::Ends, Groups::Experts];

fn options(tile: Tile, share: Share, sms: u32) -> GemmOptions {
    let mut o = GemmOptions::default();
    o.tile = Some(tile);
    o.share = Some(share);
    o.sm_limit = Some(sms);
    o
}

fn case(by: Groups, counts: &[usize]) -> Case {
    Case {
        by,
        counts: counts.to_vec(),
        n: 136,
        k: 272,
        room: counts.iter().copied().max().unwrap_or(0) + 3,
        by_row: false,
        gather: false,
        options: options(TILES[0], Share::None, 3),
        seed: 5,
    }
}

fn as_type<T>(i: usize, bf: impl Fn() -> T, f: impl Fn() -> T, single: impl Fn() -> T) -> T {
    match i % 3 {
        0 => bf(),
        1 => f(),
        _ => single(),
    }
}

fn check(l: &Lease, c: &Case, kind: usize) {
    as_type(
        kind,
        || drop(c.check::<bf16>(l)),
        || drop(c.check::<f16>(l)),
        || drop(c.check::<f32>(l)),
    );
}

/// Groups that are empty, of one row, a row beside a tile's edge, more than a tile; by counts, ends and experts, gathered or not,
/// with every tile, sharing, layout of scales and type of D: every pair of these (all of them on `HADAL_TESTS=full`). 25 s.
#[test]
fn covering() {
    let l = lease(&Knobs::default());
    let counts: [&[usize]; 6] = [
        &[3, 0, 64, 1, 70],
        &[0, 129, 5],
        &[63, 65],
        &[0, 0, 1],
        &[128, 0, 127, 2],
        &[260, 7],
    ];
    let levels = [counts.len(), 3, TILES.len(), 2, 2, 3, 2];
    let run = |row: &[usize], seed: u64| {
        let mut c = case(BY[row[1]], counts[row[0]]);
        // What the kernel does not have: see `GroupedPlan::run_with`.
        c.gather = row[3] == 1 && c.by != Groups::Counts && TILES[row[2]].m <= 128;
        let share = if row[6] == 1 && !c.gather {
            Share::A
        } else {
            Share::None
        };
        c.options = options(TILES[row[2]], share, 2);
        c.by_row = row[4] == 1;
        c.n = [136, 328, 192][row[0] % 3];
        c.k = [272, 128, 656][seed as usize % 3];
        c.seed = seed;
        check(&l, &c, row[5]);
    };
    if full() {
        for i in 0..levels.iter().product::<usize>() {
            let mut at = i;
            let row: Vec<usize> = (levels.iter().map(|n| {
                let v = at % n;
                at /= n;
                v
            }))
            .collect();
            run(&row, i as u64);
        }
    } else {
        for (i, row) in pairwise(&levels).iter().enumerate() {
            run(row, i as u64);
        }
    }
}

/// All empty, the first, the last, one that takes all, full to the last row of its room. 4 s.
#[test]
fn lopsided() {
    let l = lease(&Knobs::default());
    for by in BY {
        for counts in [
            &[0usize, 0, 0][..],
            &[0, 9, 9],
            &[9, 9, 0],
            &[0, 200, 0],
            &[40],
        ] {
            let mut c = case(by, counts);
            c.room = counts.iter().copied().max().unwrap_or(0).max(1);
            check(&l, &c, 0);
        }
    }
}

/// 256 and 512 groups, most of a few rows or none. 10 s.
#[test]
fn many_groups() {
    let l = lease(&Knobs::default());
    for (i, (by, groups)) in [
        (Groups::Counts, 256),
        (Groups::Ends, 512),
        (Groups::Experts, 256),
    ]
    .into_iter()
    .enumerate()
    {
        let mut r = rng(9 + i as u64);
        let counts: Vec<usize> = (0..groups)
            .map(|_| [0, 0, 1, 2, 3, 7][r.random_range(0..6)])
            .collect();
        let mut c = case(by, &counts);
        (c.n, c.k) = (16, 48);
        c.room = 8;
        c.options = options(TILES[[0, 3, 5][i]], Share::None, 7);
        check(&l, &c, i);
    }
}

/// Bits of a row depend on its own data, its group's B, N and K: not on how rows are grouped, gathered, tiled or scheduled. 12 s.
#[test]
fn same_bits_however_scheduled() {
    let counts = [70usize, 0, 5, 130];
    let mut first: Option<Vec<Vec<u32>>> = None;
    for (i, knobs) in adversaries().into_iter().enumerate() {
        let l = lease(&knobs);
        for (j, by) in BY.into_iter().enumerate() {
            let mut c = case(by, &counts);
            c.gather = by != Groups::Counts && i % 2 == 0;
            let share = if i % 2 == 1 { Share::A } else { Share::None };
            c.options = options(TILES[(i + j) % 5], share, 2 + i as u32);
            let data = c.data();
            let (d, found) = c.run::<bf16>(&l, &data);
            found.unwrap();
            let mut rows: Vec<_> = data
                .rows
                .iter()
                .enumerate()
                .filter_map(|(at, r)| r.map(|r| (r, at)))
                .collect();
            rows.sort_unstable();
            let bits: Vec<Vec<u32>> = rows
                .iter()
                .map(|(_, at)| {
                    d[at * (c.n + 8)..][..c.n]
                        .iter()
                        .map(|v| v.bits())
                        .collect()
                })
                .collect();
            assert_eq!(
                *first.get_or_insert_with(|| bits.clone()),
                bits,
                "{c:?} {knobs:?}"
            );
            c.verify(&data, &d, |_, _| false);
        }
    }
}

/// Counts beyond the room or negative: those groups are left out and reported, the others are right. 3 s.
#[test]
fn bad_counts() {
    let l = lease(&Knobs::default());
    for (tile, bad) in [(0, i32::MAX), (1, -1), (5, 36)] {
        let mut c = case(Groups::Counts, &[5, 20, 0, 32]);
        c.room = 35;
        c.options.tile = Some(TILES[tile]);
        let mut data = c.data();
        data.index[1] = bad;
        let (d, found) = c.run::<bf16>(&l, &data);
        c.verify(&data, &d, |g, _| g == 1);
        let said = found.unwrap_err();
        assert!(
            said.contains(&format!(
                "index {} in argument 1, the limit is 35",
                bad as u32
            )),
            "{said}"
        );
    }
}

/// Ends that fall or lie beyond the rows: no row is computed for two groups, what is left out is reported. 3 s.
#[test]
fn bad_ends() {
    let l = lease(&Knobs::default());
    let good = [10, 30, 30, 70];
    // The group whose end is bad, and the end; which groups are left out. A group that starts at a bad end is left out with it.
    for (at, end, out) in [
        (1, 5, &[1, 2][..]),
        (1, -7, &[1, 2, 3]),
        (3, 1000, &[3]),
        (2, 29, &[2, 3]),
    ] {
        let c = case(Groups::Ends, &[10, 20, 0, 40]);
        let mut data = c.data();
        assert_eq!(data.index, good);
        data.index[at] = end;
        let (d, found) = c.run::<f32>(&l, &data);
        c.verify(&data, &d, |g, _| out.contains(&g));
        let said = found.unwrap_err();
        assert!(said.contains("argument 2"), "{said}");
    }
}

/// Experts that are none, and rows of one expert in two places. 3 s.
#[test]
fn bad_experts() {
    let l = lease(&Knobs::default());
    // A row whose expert is no group: that row is left out.
    let c = case(Groups::Experts, &[70, 3, 40]);
    let mut data = c.data();
    let row = data.rows.iter().position(|r| *r == Some((0, 69))).unwrap();
    data.index[row] = 3;
    let (d, found) = c.run::<bf16>(&l, &data);
    c.verify(&data, &d, |_, at| at == row);
    let said = found.unwrap_err();
    assert!(
        said.contains("index 3 in argument 3, the limit is 3"),
        "{said}"
    );
    // A row of another expert in the middle: its own expert is then in two places, and so is the one it cuts. Both are left out.
    let mut data = c.data();
    let row = data.rows.iter().position(|r| *r == Some((0, 30))).unwrap();
    data.index[row] = 2;
    let (d, found) = c.run::<bf16>(&l, &data);
    c.verify(&data, &d, |g, _| g != 1);
    assert!(found.unwrap_err().contains("argument 3"));
}

/// Gathered rows that A does not have are left out, their neighbours are right. 3 s.
#[test]
fn bad_gather() {
    let l = lease(&Knobs::default());
    for (tile, bad) in [(0, -1), (1, 1 << 30)] {
        let mut c = case(Groups::Ends, &[70, 3, 40]);
        c.gather = true;
        c.options.tile = Some(TILES[tile]);
        let mut data = c.data();
        data.gather[33] = bad;
        let (d, found) = c.run::<bf16>(&l, &data);
        c.verify(&data, &d, |_, at| at == 33);
        assert!(
            found
                .unwrap_err()
                .contains(&format!("index {} in argument 4", bad as u32))
        );
    }
}

/// Random groups; more of them with `HADAL_TESTS=full`. 8 s.
#[test]
fn random_groups() {
    let mut r = rng(77);
    for i in 0..if full() { 300 } else { 8 } {
        let l = lease(&adversaries()[i % 4]);
        let counts: Vec<usize> = (0..r.random_range(1..9))
            .map(|_| r.random_range(0..4) * r.random_range(0..50))
            .collect();
        let mut c = case(BY[r.random_range(0..3)], &counts);
        let tile = TILES[r.random_range(0..TILES.len())];
        c.gather = r.random::<bool>() && c.by != Groups::Counts && tile.m <= 128;
        let share = if r.random::<bool>() && !c.gather {
            Share::A
        } else {
            Share::None
        };
        c.options = options(tile, share, r.random_range(1..6));
        c.by_row = r.random();
        c.n = r.random_range(1..50) * 8;
        c.k = r.random_range(1..40) * 16;
        c.seed = 100 + i as u64;
        println!("{c:?}");
        check(&l, &c, i);
    }
}
