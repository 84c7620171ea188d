//! The quantisers: the reference's bits, in hostile memory. About ten seconds.

mod common;

use common::*;
use cudarc::driver::DeviceRepr;
use hadal::fp8::E4M3;
use hadal::quant::Quantizer;
use hadal::reference;
use hadal::tensor::{Element, Fp8Out, Matrix, ScaleLayout};
use half::{bf16, f16};
use rand::RngExt;

const CANARY: E4M3 = E4M3::from_bits(0xA5);
const SCALE_CANARY: f32 = -77.25;

/// Quantises `x` [rows, k] with padding everywhere and compares every byte. `layout` None: blocks.
fn check<T: Element + DeviceRepr>(
    l: &Lease,
    x: &[T],
    rows: usize,
    k: usize,
    layout: Option<ScaleLayout>,
    nan: T,
) {
    let s = &l.stream;
    let g = k.div_ceil(128);
    let (ldx, ldy) = (k + 16, k + 32);
    let mut padded = vec![nan; (rows + 2) * ldx];
    for r in 0..rows {
        padded[r * ldx..][..k].copy_from_slice(&x[r * k..][..k]);
    }
    let (lines, per_line) = match layout {
        Some(ScaleLayout::ColumnMajor) => (g, rows),
        Some(ScaleLayout::RowMajor) => (rows, g),
        None => (rows.div_ceil(128), g),
    };
    let ldsf = per_line.next_multiple_of(4) + 4;
    let x_on = s.clone_htod(&padded).unwrap();
    let mut y = s.clone_htod(&vec![CANARY; (rows + 2) * ldy]).unwrap();
    let mut sf = s
        .clone_htod(&vec![SCALE_CANARY; (lines + 2) * ldsf])
        .unwrap();
    let q = Quantizer::new(&l.device).unwrap();
    {
        let mut out = Fp8Out::new(s, &mut y, &mut sf, (rows, k), ldy, ldsf).unwrap();
        match layout {
            Some(layout) => {
                // Rows come in bf16 alone.
                assert_eq!(T::NAME, "bf16");
                let x: Vec<bf16> = padded.iter().map(|v| bf16::from_f32(v.to_f32())).collect();
                let x_on = s.clone_htod(&x).unwrap();
                let m = Matrix::with_stride(s, &x_on, rows, k, ldx).unwrap();
                q.rows(s, &m, &mut out, layout).unwrap();
            }
            None => q
                .blocks(
                    s,
                    &Matrix::with_stride(s, &x_on, rows, k, ldx).unwrap(),
                    &mut out,
                )
                .unwrap(),
        }
    }
    let want = match layout {
        Some(layout) => reference::quant::rows(x, rows, k, layout),
        None => reference::quant::blocks(x, rows, k),
    }
    .unwrap();
    let (y, sf) = (s.clone_dtoh(&y).unwrap(), s.clone_dtoh(&sf).unwrap());
    for (i, v) in y.iter().enumerate() {
        let (r, c) = (i / ldy, i % ldy);
        let expected = if r < rows && c < k {
            want.codes[r * k + c]
        } else {
            CANARY
        };
        assert_eq!(
            *v,
            expected,
            "{} {rows} x {k} {layout:?}: code at row {r} column {c}",
            T::NAME
        );
    }
    for (i, v) in sf.iter().enumerate() {
        let (line, c) = (i / ldsf, i % ldsf);
        let expected = if line < lines && c < per_line {
            want.scales[line * want.scale_stride + c]
        } else {
            SCALE_CANARY
        };
        assert_eq!(
            v.to_bits(),
            expected.to_bits(),
            "{} {rows} x {k} {layout:?}: scale at line {line} column {c}",
            T::NAME
        );
    }
    assert!(l.reports().is_empty(), "{:?}", l.reports());
}

/// Values of all sizes, some of them special.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut r = rng(seed);
    (0..n)
        .map(|_| match r.random_range(0..60) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => 0.0,
            4 => -0.0,
            5 => 1e-40,
            6 => r.random_range(-60000.0..60000.0),
            _ => r.random_range(-2.0..2.0) * 2f32.powi(r.random_range(-12..4)),
        })
        .collect()
}

#[test]
fn rows_at_every_edge() {
    for knobs in adversaries().into_iter().skip(1).take(2) {
        let l = lease(&knobs);
        for (i, (m, k)) in [
            (1, 16),
            (2, 112),
            (15, 128),
            (16, 144),
            (17, 256),
            (33, 2064),
            (3, 2048),
            (1, 7168),
        ]
        .into_iter()
        .enumerate()
        {
            let x: Vec<bf16> = values(m * k, i as u64)
                .into_iter()
                .map(bf16::from_f32)
                .collect();
            for layout in [ScaleLayout::ColumnMajor, ScaleLayout::RowMajor] {
                check(&l, &x, m, k, Some(layout), bf16::NAN);
            }
        }
    }
}

#[test]
fn blocks_at_every_edge() {
    let l = lease(&Knobs::default());
    for (i, (n, k)) in [
        (1, 16),
        (16, 128),
        (127, 112),
        (128, 128),
        (129, 144),
        (260, 400),
    ]
    .into_iter()
    .enumerate()
    {
        let x = values(n * k, 100 + i as u64);
        check(&l, &x, n, k, None, f32::NAN);
        check(
            &l,
            &x.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>(),
            n,
            k,
            None,
            bf16::NAN,
        );
        check(
            &l,
            &x.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>(),
            n,
            k,
            None,
            f16::NAN,
        );
    }
}

/// All 65536 bf16 values, next to different largest ones.
#[test]
fn every_bf16() {
    let l = lease(&Knobs::default());
    let mut x: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    check(&l, &x, 32, 2048, Some(ScaleLayout::ColumnMajor), bf16::NAN);
    // Neighbours of unlike size, so that each group spans the whole range.
    x.sort_by_key(|v| v.to_bits().reverse_bits());
    check(&l, &x, 512, 128, Some(ScaleLayout::RowMajor), bf16::NAN);
}

/// Scales of groups that are zero, not finite, tiny or huge.
#[test]
fn extreme_groups() {
    let l = lease(&Knobs::default());
    let mut x = vec![0.0f32; 128 * 8];
    x[128..256].fill(f32::NAN);
    x[256..384].fill(f32::INFINITY);
    x[384..512].fill(1e-38);
    x[512..640].fill(3.3e38);
    x[640..768].fill(-4.48e-2);
    x[768] = 1e-4;
    let x: Vec<bf16> = x.into_iter().map(bf16::from_f32).collect();
    check(&l, &x, 1, 1024, Some(ScaleLayout::RowMajor), bf16::NAN);
    check(&l, &x, 8, 128, Some(ScaleLayout::ColumnMajor), bf16::NAN);
    check(&l, &x, 8, 128, None, bf16::NAN);
}
