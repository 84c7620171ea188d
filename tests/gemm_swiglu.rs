//! Gate and up projection with SwiGLU and quantisation: every code and scale within its bound, nothing else written. Half a minute on two
//! cores.

mod common;

use common::gemm::Problem;
use common::*;
use hadal::device::Status;
use hadal::fp8::E4M3;
use hadal::gemm::swiglu::{Fp8SwiGlu, interleave, interleave_scales};
use hadal::gemm::{GemmOptions, GroupedShape, Groups, SWIGLU_TILES, Share};
use hadal::reference::swiglu::Group;
use hadal::tensor::{Fp8Blocks, Fp8Out, Fp8Rows, Indices, ScaleLayout};
use rand::RngExt;

const CANARY: E4M3 = E4M3::from_bits(0x5A);
const CANARY_SCALE: f32 = -77.5;

struct Case {
    /// Rows of each group; one group for a dense run.
    counts: Vec<usize>,
    /// None: dense.
    by: Option<Groups>,
    inner: usize,
    k: usize,
    clamp: Option<f32>,
    layout: ScaleLayout,
    options: GemmOptions,
    seed: u64,
}

fn case(counts: &[usize], by: Option<Groups>, tile: usize) -> Case {
    let mut options = GemmOptions::default();
    options.tile = Some(SWIGLU_TILES[tile]);
    options.share = Some(Share::None);
    options.sm_limit = Some(3);
    Case {
        counts: counts.to_vec(),
        by,
        inner: 208,
        k: 272,
        clamp: None,
        layout: ScaleLayout::ColumnMajor,
        options,
        seed: 1,
    }
}

/// Runs a case and verifies all of it; codes and scales of the rows that exist, in order.
fn check(l: &Lease, c: &Case) -> (Vec<u8>, Vec<u32>) {
    let (k, inner, groups) = (c.k, c.inner, c.counts.len());
    let (blocks, out_blocks) = (k.div_ceil(128), inner.div_ceil(128));
    let mut r = rng(c.seed);
    // A product of gate and up of a size that SwiGLU bends: scales make sums of some units.
    let problems: Vec<Problem> = (c.counts.iter().enumerate())
        .map(|(i, m)| {
            let mut p = Problem::random(*m, 2 * out_blocks * 128, k, c.seed * 100 + i as u64);
            for s in &mut p.sfa {
                *s = 1e-3 * (1.0 + r.random_range(0..100) as f32 * 0.01);
            }
            for s in &mut p.sfb {
                *s = 1e-2 * (1.0 + r.random_range(0..100) as f32 * 0.01);
            }
            p
        })
        .collect();
    let counted = c.by == Some(Groups::Counts);
    let room = c.counts.iter().copied().max().unwrap_or(0) + 2;
    // Row of the operand -> group and its row.
    let mut rows: Vec<Option<(usize, usize)>> = Vec::new();
    let mut index = Vec::new();
    for (g, m) in c.counts.iter().enumerate() {
        rows.extend((0..*m).map(|j| Some((g, j))));
        if counted {
            rows.extend(vec![None; room - m]);
        }
        index.push(if counted { *m } else { rows.len() } as i32);
    }
    let layers = if counted { groups } else { 1 };
    let m = rows.len() / layers;
    let m4 = m.next_multiple_of(4);
    let mut a = vec![E4M3::NAN; rows.len() * k];
    let mut sfa = vec![f32::NAN; layers * blocks * m4];
    for (i, row) in rows.iter().enumerate() {
        let Some((g, j)) = *row else { continue };
        let p = &problems[g];
        a[i * k..][..k].copy_from_slice(&p.a[j * k..][..k]);
        for b in 0..blocks {
            sfa[i / m * blocks * m4 + b * m4 + i % m] = p.sfa[b * p.shape.m + j];
        }
    }
    // The checkpoint's [gate; up] of `inner` rows each: rows of the problem's B, gate's first.
    let half = out_blocks * 128;
    let (mut b, mut sfb) = (Vec::new(), Vec::new());
    for p in &problems {
        let gate_up: Vec<E4M3> = (0..2)
            .flat_map(|u| p.b[u * half * k..][..inner * k].iter().copied())
            .collect();
        b.extend(interleave(&gate_up, inner, k, E4M3::default()).unwrap());
        sfb.extend(interleave_scales(&p.sfb, inner, blocks).unwrap());
    }
    let s = &l.stream;
    let (ldy, lines) = (inner + 16, c.layout == ScaleLayout::ColumnMajor);
    let ld_scale = if lines { m + 3 } else { out_blocks + 2 };
    let scale_lines = if lines { out_blocks } else { m };
    let scale_group = ld_scale * (scale_lines + 1);
    let (a, sfa, b, sfb) = (
        s.clone_htod(&a).unwrap(),
        s.clone_htod(&sfa).unwrap(),
        s.clone_htod(&b).unwrap(),
        s.clone_htod(&sfb).unwrap(),
    );
    let index = s.clone_htod(&index).unwrap();
    let mut y = s.clone_htod(&vec![CANARY; (rows.len() + 2) * ldy]).unwrap();
    let mut ys = s
        .clone_htod(&vec![CANARY_SCALE; layers * scale_group])
        .unwrap();
    let mut status = Status::new(s).unwrap();
    let op = Fp8SwiGlu::new(&l.device).unwrap();
    let plan = match c.by {
        None => op.plan((m, inner, k), c.clamp, &c.options).unwrap(),
        Some(by) => {
            let shape = GroupedShape {
                by,
                groups,
                m,
                n: inner,
                k,
                expected_m: m / groups,
            };
            op.plan_grouped(shape, c.clamp, false, &c.options).unwrap()
        }
    };
    {
        let av = Fp8Rows::new(s, &a, &sfa, m, k)
            .and_then(|v| v.stack(layers, m * k, blocks * m4))
            .unwrap();
        let bv = Fp8Blocks::stacked(s, &b, &sfb, (groups, 2 * half, k)).unwrap();
        let mut yv = Fp8Out::new(s, &mut y, &mut ys, (m, inner), ldy, ld_scale)
            .and_then(|v| v.stack(layers, m * ldy, scale_group))
            .unwrap();
        let iv = Indices::new(s, &index, groups).unwrap();
        let by = c.by.map(|_| &iv);
        plan.run(s, &av, &bv, &mut yv, c.layout, (by, None), &mut status)
            .unwrap();
    }
    common::gemm::settled(l, &status);
    let (y, ys) = (s.clone_dtoh(&y).unwrap(), s.clone_dtoh(&ys).unwrap());

    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    let mut written = vec![false; ys.len()];
    for (i, row) in rows.iter().enumerate() {
        let line = &y[i * ldy..][..ldy];
        let Some((g, j)) = *row else {
            assert!(line.iter().all(|v| *v == CANARY), "row {i} was written");
            continue;
        };
        assert!(line[inner..].iter().all(|v| *v == CANARY), "beyond row {i}");
        let mut sums = vec![0f32; 2 * half];
        problems[g].product().modelled(j, &mut sums).unwrap();
        for block in 0..out_blocks {
            let columns = block * 128..(block * 128 + 128).min(inner);
            let up = half + columns.start..half + columns.end;
            let want = Group::new(
                &sums[columns.clone()],
                &sums[up],
                c.clamp.unwrap_or(f32::INFINITY),
            );
            let at = i / m * scale_group
                + if lines {
                    block * ld_scale + i % m
                } else {
                    i % m * ld_scale + block
                };
            written[at] = true;
            let (low, high) = want.scale();
            let got = f64::from(ys[at]);
            assert!(
                low <= got && got <= high,
                "row {i} block {block}: {got} not in {low}..{high}"
            );
            scales.push(ys[at].to_bits());
            for col in columns.clone() {
                let (low, high) = want.codes(col - columns.start, ys[at]);
                let got = line[col];
                assert!(
                    got == low || got == high || got.is_nan() && low.is_nan(),
                    "row {i} column {col}: {got:?} is neither {low:?} nor {high:?}"
                );
            }
        }
        codes.extend(line[..inner].iter().map(|v| v.to_bits()));
    }
    for (i, v) in ys.iter().enumerate() {
        assert!(written[i] || *v == CANARY_SCALE, "scale {i} was written");
    }
    assert!(y[rows.len() * ldy..].iter().all(|v| *v == CANARY));
    assert!(l.reports().is_empty(), "{:?}", l.reports());
    (codes, scales)
}

/// Both tiles, both layouts of scales, edges of rows and columns, tails of K, with and without a clamp. 10 s.
#[test]
fn dense() {
    let l = lease(&Knobs::default());
    for (i, (m, inner, k)) in [
        (1, 16, 16),
        (63, 128, 272),
        (64, 208, 128),
        (65, 144, 400),
        (129, 256, 144),
        (200, 272, 784),
    ]
    .into_iter()
    .enumerate()
    {
        for tile in 0..2 {
            let mut c = case(&[m], None, tile);
            (c.inner, c.k) = (inner, k);
            c.clamp = [None, Some(1.5)][(i + tile) % 2];
            c.layout = [ScaleLayout::ColumnMajor, ScaleLayout::RowMajor][i / 2 % 2];
            c.seed = 10 + i as u64;
            c.options.share = Some([Share::None, Share::A, Share::B][i % 3]);
            check(&l, &c);
        }
    }
}

/// Groups by counts and ends: tails of groups are not written. 6 s.
#[test]
fn grouped() {
    let l = lease(&Knobs::default());
    for by in [Groups::Counts, Groups::Ends] {
        for tile in 0..2 {
            let mut c = case(&[5, 0, 64, 130, 1], Some(by), tile);
            c.layout = [ScaleLayout::RowMajor, ScaleLayout::ColumnMajor][tile];
            check(&l, &c);
        }
    }
}

/// The same codes and scales under every schedule, with either tile and any number of SMs. 6 s.
#[test]
fn same_bits_under_every_schedule() {
    let mut first = None;
    for (i, knobs) in adversaries().into_iter().enumerate() {
        let l = lease(&knobs);
        for tile in 0..2 {
            let mut c = case(&[70], None, tile);
            c.options.sm_limit = Some(1 + i as u32);
            c.options.share = Some([Share::None, Share::A][i % 2]);
            let got = check(&l, &c);
            assert_eq!(
                *first.get_or_insert_with(|| got.clone()),
                got,
                "{knobs:?} tile {tile}"
            );
        }
    }
}
