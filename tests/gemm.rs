//! The FP8 GEMM: bits, bounds, edges, hostile memory, schedules. About a minute on two cores.

mod common;

use common::gemm::{
    HOSTILE, HOSTILE_BY_ROW, Loaded, Out, Padding, Problem, check, check_in, settled, verify,
};
use common::*;
use hadal::device::Status;
use hadal::fp8::E4M3;
use hadal::gemm::{Epilogue, Fp8Gemm, GemmOptions, GemmShape, Share, TILES, Tile};
use hadal::tensor::{Fp8Blocks, Fp8Rows, MatrixMut, Vector};
use half::{bf16, f16};
use rand::RngExt;

fn with(tile: Tile) -> GemmOptions {
    let mut o = GemmOptions::default();
    o.tile = Some(tile);
    o
}

fn sharing(tile: Tile, share: Share) -> GemmOptions {
    let mut o = with(tile);
    o.share = Some(share);
    o
}

const SHARES: [Share; 3] = [Share::None, Share::A, Share::B];

fn bits<D: Out>(d: &[D]) -> Vec<u32> {
    d.iter().map(|v| v.bits()).collect()
}

/// Every edge of M, N and K of the kernel: under a tile, at it, over it; tails of K; one K-block, fewer than the ring, more. Each
/// with one tile, type of D, sharing, layout of scales and SM count, such that every pair of values of two of these meets (all of
/// them on `HADAL_TESTS=full`). 25 s.
#[test]
fn edges() {
    let l = lease(&Knobs::default());
    let cases = [
        (1, 8, 16),
        (7, 16, 128),
        (8, 104, 112),
        (15, 112, 144),
        (16, 120, 256),
        (17, 128, 272),
        (31, 136, 640),
        (32, 240, 768),
        (33, 248, 784),
        (63, 256, 1152),
        (64, 264, 16),
        (65, 8, 1296),
        (127, 224, 128),
        (128, 336, 144),
        (129, 128, 400),
        (192, 40, 1024),
        (255, 200, 272),
        (257, 392, 528),
        (300, 328, 144),
        (385, 88, 128),
    ];
    let run = |i: usize, (m, n, k): (usize, usize, usize), c: [usize; 4]| {
        let p = Problem::random(m, n, k, i as u64);
        let mut o = sharing(TILES[c[0]], SHARES[c[1]]);
        o.sm_limit = [None, Some(3)][c[3] / 2];
        let pad = [HOSTILE, HOSTILE_BY_ROW][c[3] % 2];
        match c[2] {
            0 => drop(check_in::<bf16>(&l, &p, &o, pad)),
            1 => drop(check_in::<f16>(&l, &p, &o, pad)),
            _ => drop(check_in::<f32>(&l, &p, &o, pad)),
        }
    };
    let levels = [TILES.len(), 3, 3, 4];
    if full() {
        for (i, shape) in cases.into_iter().enumerate() {
            for j in 0..levels.iter().product() {
                let c = [j % 6, j / 6 % 3, j / 18 % 3, j / 54];
                run(i, shape, c);
            }
        }
    } else {
        for (j, c) in common::pairwise(&levels).into_iter().enumerate() {
            run(
                j % cases.len(),
                cases[j % cases.len()],
                c.try_into().unwrap(),
            );
        }
    }
    assert!(l.reports().is_empty(), "{:?}", l.reports());
}

/// Pairs of blocks whose second tile does not exist, more pairs than fit, and pairs of one row of tiles. 6 s.
#[test]
fn pairs_with_a_missing_half() {
    let l = lease(&Knobs::default());
    for (i, t) in TILES.into_iter().enumerate() {
        for (share, (m, n)) in [(Share::A, (70, 3)), (Share::B, (3 * t.m as usize - 5, 1))] {
            let n = (n * t.n as usize - 8).next_multiple_of(8);
            let p = Problem::random(m, n, 400, 100 + i as u64);
            let mut o = sharing(t, share);
            o.sm_limit = Some(2);
            check::<bf16>(&l, &p, &o);
        }
    }
    assert!(l.reports().is_empty(), "{:?}", l.reports());
}

/// The epilogue's steps in their order, each rounded to f32; D is read and replaced. 4 s.
#[test]
fn epilogue() {
    fn run<D: Out>(l: &Lease, t: Tile, steps: u32) {
        let (m, n, k) = (t.m as usize + 37, t.n as usize + 40, 272);
        let p = Problem::random(m, n, k, 7 + u64::from(steps));
        let mut r = rng(steps.into());
        let mut some =
            |len: usize| -> Vec<f32> { (0..len).map(|_| r.random_range(-2.0..2.0f32)).collect() };
        let (bias, weight) = (some(n), some(m));
        let old: Vec<D> = some(m * n).into_iter().map(|v| D::round(v * 1e4)).collect();
        let s = &l.stream;
        let (dev_bias, dev_weight) = (s.clone_htod(&bias).unwrap(), s.clone_htod(&weight).unwrap());
        let (vb, vw) = (
            Vector::new(s, &dev_bias, n).unwrap(),
            Vector::new(s, &dev_weight, m).unwrap(),
        );
        let mut e = Epilogue::default();
        if steps & 1 != 0 {
            e.alpha = 0.3;
        }
        if steps & 2 != 0 {
            e.row_weight = Some(&vw);
        }
        if steps & 4 != 0 {
            e.bias = Some(&vb);
        }
        e.accumulate = steps & 8 != 0;
        let plan = Fp8Gemm::new(&l.device)
            .unwrap()
            .plan::<D>(p.shape, &with(t))
            .unwrap();
        let mut on = Loaded::<D>::new(l, &p, HOSTILE);
        if e.accumulate {
            for row in 0..m {
                let mut d = on.d.slice_mut(row * on.ldd..row * on.ldd + n);
                s.memcpy_htod(&old[row * n..][..n], &mut d).unwrap();
            }
        }
        let mut status = Status::new(s).unwrap();
        on.launch(l, &plan, &e, &mut status);
        settled(l, &status);
        let d = on.canaries(l);
        let product = p.product();
        let mut model = vec![0f32; n];
        for row in 0..m {
            product.modelled(row, &mut model).unwrap();
            for col in 0..n {
                let mut v = model[col];
                if steps & 1 != 0 {
                    v *= 0.3;
                }
                if steps & 2 != 0 {
                    v *= weight[row];
                }
                if steps & 4 != 0 {
                    v += bias[col];
                }
                if steps & 8 != 0 {
                    v += old[row * n + col].to_f32();
                }
                let (got, want) = (d[row * n + col], D::round(v));
                assert_eq!(
                    got.bits(),
                    want.bits(),
                    "{t:?} steps {steps} row {row} column {col}"
                );
            }
        }
    }
    let l = lease(&Knobs::default());
    for (i, t) in TILES.into_iter().enumerate() {
        match i % 3 {
            0 => run::<bf16>(&l, t, 15),
            1 => run::<f32>(&l, t, 15),
            _ => run::<f16>(&l, t, 15),
        }
    }
    for steps in [1, 2, 4, 8] {
        run::<bf16>(&l, TILES[1], steps);
        run::<f16>(&l, TILES[2], steps);
        run::<f32>(&l, TILES[1], steps);
    }
    assert!(l.reports().is_empty(), "{:?}", l.reports());
}

/// A chain of dependents: each reads what the one before wrote, and D is still read by it. 2 s.
#[test]
fn dependents() {
    for knobs in adversaries() {
        let l = lease(&knobs);
        let p = Problem::random(70, 136, 400, 3);
        let mut o = sharing(TILES[1], Share::A);
        o.dependent = true;
        let gemm = Fp8Gemm::new(&l.device).unwrap();
        let plan = gemm.plan::<f32>(p.shape, &o).unwrap();
        let mut on = Loaded::<f32>::new(&l, &p, HOSTILE);
        let mut status = Status::new(&l.stream).unwrap();
        let mut e = Epilogue::default();
        on.launch(&l, &plan, &e, &mut status);
        e.accumulate = true;
        for _ in 0..3 {
            on.launch(&l, &plan, &e, &mut status);
        }
        settled(&l, &status);
        let d = on.canaries(&l);
        let product = p.product();
        let mut model = vec![0f32; 136];
        for row in 0..70 {
            product.modelled(row, &mut model).unwrap();
            for (got, v) in d[row * 136..].iter().zip(&model) {
                assert_eq!(got.to_bits(), (v + (v + (v + v))).to_bits());
            }
        }
        assert!(l.reports().is_empty(), "{:?}", l.reports());
    }
}

/// What the model promises: integers small enough come out exactly, whatever the order. 1 s.
#[test]
fn exact_integers() {
    let l = lease(&Knobs::default());
    let (m, n, k) = (70, 136, 400);
    let mut r = rng(5);
    let (a, b): (Vec<i32>, Vec<i32>) = (
        (0..m * k).map(|_| r.random_range(-4..=4)).collect(),
        (0..n * k).map(|_| r.random_range(-4..=4)).collect(),
    );
    let mut p = Problem::random(m, n, k, 0);
    p.a = a.iter().map(|v| E4M3::from_f32(*v as f32)).collect();
    p.b = b.iter().map(|v| E4M3::from_f32(*v as f32)).collect();
    p.sfa.fill(4.0);
    p.sfb.fill(0.125);
    for t in TILES {
        let d = check::<f32>(&l, &p, &with(t));
        for (i, got) in d.iter().enumerate() {
            let want: i32 = (0..k).map(|j| a[i / n * k + j] * b[i % n * k + j]).sum();
            assert_eq!(*got, want as f32 * 0.5);
        }
    }
}

/// Scales of any size; what is not finite stays in its own row or columns. 2 s.
#[test]
fn extreme_scales() {
    let l = lease(&Knobs::default());
    let (m, n, k) = (20, 264, 512);
    let mut p = Problem::random(m, n, k, 11);
    for (i, s) in p.sfa.iter_mut().enumerate() {
        *s = [1e-30, 1e30, 0.0, 1e-40, -1.5, 3.0, 1e-20, 1e20][i % 8];
    }
    for (i, s) in p.sfb.iter_mut().enumerate() {
        *s = [1e-12, 1e5, 1e-42, 2.0, 0.0, 1e30][i % 6];
    }
    check::<f32>(&l, &p, &GemmOptions::default());
    check::<bf16>(&l, &p, &GemmOptions::default());
    // NaN and infinity: row 3 and columns 128..256.
    let mut p = Problem::random(m, n, k, 12);
    p.sfa[m + 3] = f32::NAN;
    p.sfa[m + 5] = f32::INFINITY;
    p.sfb[4] = f32::NAN;
    for t in TILES {
        let d = check::<f32>(&l, &p, &with(t));
        for (i, v) in d.iter().enumerate() {
            let (row, col) = (i / n, i % n);
            if row != 5 {
                assert_eq!(
                    v.is_nan(),
                    row == 3 || (128..256).contains(&col),
                    "row {row} column {col}"
                );
            }
        }
    }
    // NaN codes likewise.
    let mut p = Problem::random(m, n, k, 13);
    p.a[7 * k + 100] = E4M3::NAN;
    p.b[130 * k] = E4M3::from_bits(0xFF);
    let d = check::<bf16>(&l, &p, &GemmOptions::default());
    assert!(
        d.iter()
            .enumerate()
            .all(|(i, v)| v.is_nan() == (i / n == 7 || i % n == 130))
    );
}

/// Bits do not depend on when copies land or who runs first; every check is on. 10 s.
#[test]
fn same_bits_under_every_schedule() {
    let p = Problem::random(130, 248, 1680, 21);
    for (i, t) in TILES.into_iter().enumerate() {
        let mut first: Option<Vec<u32>> = None;
        for (j, knobs) in adversaries().into_iter().enumerate() {
            let l = lease(&knobs);
            let mut o = sharing(t, SHARES[(i + j) % 3]);
            o.sm_limit = Some(2);
            let d = bits(&check::<bf16>(&l, &p, &o));
            assert!(l.reports().is_empty(), "{:?}", l.reports());
            assert_eq!(*first.get_or_insert_with(|| d.clone()), d, "{knobs:?}");
        }
    }
}

/// A row's bits depend on its own data, N and K: not on M, its neighbours, the tile, or the number of SMs. 5 s.
#[test]
fn batch_invariant() {
    let l = lease(&Knobs::default());
    let (n, k) = (248, 640);
    let whole = Problem::random(140, n, k, 31);
    let reference = bits(&check::<f32>(&l, &whole, &with(TILES[0])));
    for (m, tile, sms) in [
        (140, 2, 1),
        (140, 1, 3),
        (1, 1, 132),
        (65, 0, 1),
        (100, 2, 2),
        (140, 3, 4),
        (99, 4, 1),
        (131, 5, 2),
    ] {
        let mut p = whole.clone();
        p.shape.m = m;
        p.a.truncate(m * k);
        p.sfa = (0..p.groups())
            .flat_map(|g| whole.sfa[g * 140..][..m].to_vec())
            .collect();
        let mut o = with(TILES[tile]);
        o.sm_limit = Some(sms);
        assert_eq!(
            bits(&check::<f32>(&l, &p, &o)),
            reference[..m * n],
            "{m} rows, tile {tile}, {sms} SMs"
        );
    }
}

/// Plain f32 accumulation instead of Hopper's: other bits, the same bound. 3 s.
#[test]
fn fast_numerics_within_the_bound() {
    let l = lease(&Knobs {
        numerics: Numerics::Fast,
        ..Knobs::default()
    });
    let p = Problem::random(70, 264, 1168, 41);
    let gemm = Fp8Gemm::new(&l.device).unwrap();
    for t in TILES {
        let plan = gemm.plan::<f32>(p.shape, &with(t)).unwrap();
        let d = Loaded::new(&l, &p, HOSTILE).run(&l, &plan, &mut Status::new(&l.stream).unwrap());
        verify(&p, &d, 0..p.shape.m, !l.emulated());
    }
}

/// No rows or no columns: nothing is launched.
#[test]
fn empty() {
    let l = lease(&Knobs::default());
    let before = l.universe.as_ref().map(|u| u.totals().grids);
    for (m, n) in [(0, 128), (5, 0), (0, 0)] {
        check::<bf16>(&l, &Problem::random(m, n, 256, 1), &GemmOptions::default());
    }
    assert_eq!(l.universe.as_ref().map(|u| u.totals().grids), before);
}

/// The same plan and buffers, again and again: no state is left behind. 2 s.
#[test]
fn again() {
    let l = lease(&Knobs::default());
    let p = Problem::random(64, 256, 896, 51);
    let plan = Fp8Gemm::new(&l.device)
        .unwrap()
        .plan::<bf16>(p.shape, &GemmOptions::default())
        .unwrap();
    let mut status = Status::new(&l.stream).unwrap();
    let mut on = Loaded::new(&l, &p, HOSTILE);
    let first = bits(&on.run(&l, &plan, &mut status));
    for _ in 0..8 {
        assert_eq!(bits(&on.run(&l, &plan, &mut status)), first);
    }
}

/// Rows further than 2^31 bytes and elements apart. 1 s; the memory between is never touched.
#[test]
fn offsets_beyond_31_bits() {
    let l = lease(&Knobs::default());
    let (m, n, k) = (3usize, 16usize, 144usize);
    let p = Problem::random(m, n, k, 61);
    let (lda, ldd) = ((1usize << 31) + 16, (1usize << 31) + 8);
    let stream = &l.stream;
    // SAFETY: E4M3 and f32 have no invalid bits; what is read below has been written.
    let (mut a, mut d) = unsafe {
        (
            stream.alloc::<E4M3>(2 * lda + k).unwrap(),
            stream.alloc::<f32>(2 * ldd + n).unwrap(),
        )
    };
    for row in 0..m {
        stream
            .memcpy_htod(
                &p.a[row * k..][..k],
                &mut a.slice_mut(row * lda..row * lda + k),
            )
            .unwrap();
    }
    let mut on = Loaded::<f32>::new(&l, &p, HOSTILE);
    let plan = Fp8Gemm::new(&l.device)
        .unwrap()
        .plan::<f32>(p.shape, &GemmOptions::default())
        .unwrap();
    let mut status = Status::new(stream).unwrap();
    let want = bits(&on.run(&l, &plan, &mut status));
    {
        let x = Fp8Rows::with_strides(stream, &a, &on.sfa, (m, k), lda, on.ld_sfa).unwrap();
        let w = Fp8Blocks::with_strides(stream, &on.b, &on.sfb, (n, k), on.ldb, on.ld_sfb).unwrap();
        let mut y = MatrixMut::with_stride(stream, &mut d, m, n, ldd).unwrap();
        plan.run(stream, &x, &w, &mut y, &mut status).unwrap();
    }
    status.check(stream).unwrap();
    for row in 0..m {
        let got = stream
            .clone_dtoh(&d.slice(row * ldd..row * ldd + n))
            .unwrap();
        assert_eq!(bits(&got), want[row * n..][..n]);
    }
}

/// On a device whose default stream is used, too.
#[test]
fn default_stream() {
    let mut l = lease(&Knobs::default());
    l.stream = l.device.context().default_stream();
    check::<bf16>(
        &l,
        &Problem::random(9, 24, 160, 71),
        &GemmOptions::default(),
    );
}

/// Random shapes, strides, tiles and schedules; more of them with `HADAL_TESTS=full`. 15 s.
#[test]
fn random_problems() {
    let count = if full() { 400 } else { 12 };
    let mut r = rng(81);
    for i in 0..count {
        let knobs = &adversaries()[i % 4];
        let l = lease(knobs);
        let (m, n, k) = (
            r.random_range(1..200),
            r.random_range(1..40) * 8,
            r.random_range(1..70) * 16,
        );
        let p = Problem::random(m, n, k, 1000 + i as u64);
        let tile = TILES[r.random_range(0..TILES.len())];
        let pad = Padding {
            lda: r.random_range(0..4) * 16,
            ldb: r.random_range(0..4) * 16,
            sfa: r.random_range(0..3) * 4,
            sfb: r.random_range(0..3),
            ldd: r.random_range(0..3) * 8,
            rows: r.random_range(0..3),
            by_row: r.random(),
        };
        let mut o = sharing(tile, SHARES[r.random_range(0..3)]);
        o.sm_limit = Some(r.random_range(1..8));
        println!("{m} x {n} x {k}, {}x{}, {pad:?}, {knobs:?}", tile.m, tile.n);
        let plan = Fp8Gemm::new(&l.device)
            .unwrap()
            .plan::<bf16>(p.shape, &o)
            .unwrap();
        let d = Loaded::new(&l, &p, pad).run(&l, &plan, &mut Status::new(&l.stream).unwrap());
        verify(&p, &d, 0..m, true);
    }
}

/// DeepSeek-V3's linear layers at 64 tokens: bits and bound for every row, on `HADAL_TESTS=full`; two small ones always,
/// eight rows of each. 20 s.
#[test]
fn deepseek_v3_shapes() {
    let all = [
        (576, 7168),
        (2112, 7168),
        (24576, 1536),
        (32768, 512),
        (7168, 16384),
        (4096, 7168),
        (7168, 2048),
    ];
    let (shapes, step) = if full() {
        (&all[..], 1)
    } else {
        (&all[..1], 8)
    };
    for &(n, k) in shapes {
        let l = lease(&Knobs::default());
        let p = Problem::random(64, n, k, 91);
        let t = std::time::Instant::now();
        let plan = Fp8Gemm::new(&l.device)
            .unwrap()
            .plan::<bf16>(p.shape, &GemmOptions::default())
            .unwrap();
        let d = Loaded::new(&l, &p, HOSTILE).run(&l, &plan, &mut Status::new(&l.stream).unwrap());
        let ran = t.elapsed();
        verify(&p, &d, (0..64).step_by(step), true);
        println!(
            "64 x {n} x {k}: ran {ran:.2?}, verified {:.2?}",
            t.elapsed() - ran
        );
    }
}

/// A plan is a pure function of the shape; its page names what matters.
#[test]
fn plans() {
    let l = lease(&Knobs::default());
    let gemm = Fp8Gemm::new(&l.device).unwrap();
    let plan = gemm
        .plan::<bf16>(
            GemmShape {
                m: 64,
                n: 576,
                k: 7168,
            },
            &GemmOptions::default(),
        )
        .unwrap();
    assert_eq!(
        (
            plan.tile().m,
            plan.tile().n,
            plan.grid(),
            plan.workspace_bytes()
        ),
        (64, 128, 6, 0)
    );
    let page = plan.explain();
    for word in ["64x128", "5 tiles", "GFLOP", "memory bound"] {
        assert!(page.contains(word), "{word} in {page}");
    }
}
