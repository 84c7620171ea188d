//! Every bad argument is its own error, and outputs stay as they were. A few seconds.

mod common;

use common::*;
use cudarc::driver::CudaSlice;
use hadal::device::Status;
use hadal::error::{ArgumentError as E, GemmError, QuantError};
use hadal::fp8::E4M3;
use hadal::gemm::{Fp8Gemm, GemmOptions, GemmPlan, GemmShape};
use hadal::quant::Quantizer;
use hadal::tensor::{Fp8Blocks, Fp8Out, Fp8Rows, Matrix, MatrixMut, ScaleLayout};
use half::bf16;

const M: usize = 8;
const N: usize = 24;
const K: usize = 160;

struct Bench {
    a: CudaSlice<E4M3>,
    sfa: CudaSlice<f32>,
    b: CudaSlice<E4M3>,
    sfb: CudaSlice<f32>,
    d: CudaSlice<bf16>,
    status: Status,
    plan: GemmPlan<bf16>,
    l: Limited,
}

fn bench() -> Bench {
    let l = lease(&Knobs::default());
    let s = &l.stream;
    let gemm = Fp8Gemm::new(&l.device).unwrap();
    Bench {
        a: s.alloc_zeros(M * K + 64).unwrap(),
        sfa: s.alloc_zeros(2 * M).unwrap(),
        b: s.alloc_zeros(N * K).unwrap(),
        sfb: s.alloc_zeros(2).unwrap(),
        d: s.clone_htod(&[bf16::ONE; M * N + 8]).unwrap(),
        status: Status::new(s).unwrap(),
        plan: gemm
            .plan(GemmShape { m: M, n: N, k: K }, &GemmOptions::default())
            .unwrap(),
        l,
    }
}

fn argument(e: GemmError) -> E {
    match e {
        GemmError::Argument(e) => e,
        e => panic!("{e}"),
    }
}

#[test]
fn shapes_of_plans() {
    let b = bench();
    let gemm = Fp8Gemm::new(&b.l.device).unwrap();
    let plan = |m, n, k| {
        argument(
            gemm.plan::<bf16>(GemmShape { m, n, k }, &GemmOptions::default())
                .unwrap_err(),
        )
    };
    assert_eq!(
        plan(1, 12, 16),
        E::Multiple {
            argument: "n",
            expected: 8,
            got: 12
        }
    );
    assert_eq!(
        plan(1, 8, 24),
        E::Multiple {
            argument: "k",
            expected: 16,
            got: 24
        }
    );
    assert_eq!(
        plan(1, 8, 0),
        E::TooSmall {
            argument: "k",
            limit: 16,
            got: 0
        }
    );
    assert_eq!(
        plan(1 << 31, 8, 16),
        E::TooLarge {
            argument: "m",
            limit: (1 << 31) - 1,
            got: 1 << 31
        }
    );
    assert_eq!(
        plan(usize::MAX, 8, 16),
        E::TooLarge {
            argument: "m",
            limit: (1 << 31) - 1,
            got: u64::MAX
        }
    );
}

#[test]
fn lengths_strides_alignment() {
    let mut t = bench();
    let s = t.l.stream.clone();
    let rows =
        |m, k, row, scale| Fp8Rows::with_strides(&s, &t.a, &t.sfa, (m, k), row, scale).unwrap_err();
    assert_eq!(
        rows(9, K, K, 12),
        E::Length {
            argument: "a",
            expected: 9 * 160,
            got: 8 * 160 + 64
        }
    );
    assert_eq!(
        rows(M, K, K - 16, 8),
        E::TooSmall {
            argument: "a",
            limit: 160,
            got: 144
        }
    );
    assert_eq!(
        rows(M, K, K + 8, 8),
        E::Multiple {
            argument: "a",
            expected: 16,
            got: 168
        }
    );
    assert_eq!(
        rows(M, K, K, 12),
        E::Length {
            argument: "a.scales",
            expected: 20,
            got: 16
        }
    );
    assert_eq!(
        rows(M, K, K, 4),
        E::TooSmall {
            argument: "a.scale_stride",
            limit: 8,
            got: 4
        }
    );
    assert_eq!(
        rows(M, K, K, 9),
        E::Multiple {
            argument: "a.scale_stride",
            expected: 4,
            got: 9
        }
    );
    assert_eq!(
        rows(usize::MAX, K, 1 << 62, 8),
        E::TooLarge {
            argument: "a",
            limit: 1 << 48,
            got: u64::MAX
        }
    );
    let off = t.a.slice(8..);
    assert!(matches!(
        Fp8Rows::new(&s, &off, &t.sfa, 1, 16),
        Err(E::Multiple {
            argument: "a",
            expected: 16,
            ..
        })
    ));
    let off = t.sfa.slice(1..);
    assert!(matches!(
        Fp8Rows::new(&s, &t.a, &off, 1, 16),
        Err(E::Multiple {
            argument: "a.scales",
            expected: 16,
            ..
        })
    ));
    let blocks = |n, k, row, scale| {
        Fp8Blocks::with_strides(&s, &t.b, &t.sfb, (n, k), row, scale).unwrap_err()
    };
    assert_eq!(
        blocks(25, K, K, 2),
        E::Length {
            argument: "b",
            expected: 4000,
            got: 3840
        }
    );
    assert_eq!(
        blocks(N, K, K, 1),
        E::TooSmall {
            argument: "b.scale_stride",
            limit: 2,
            got: 1
        }
    );
    assert_eq!(
        blocks(129, 16, 16, 2),
        E::Length {
            argument: "b.scales",
            expected: 3,
            got: 2
        }
    );
    let d = MatrixMut::with_stride(&s, &mut t.d, M, N, 12).unwrap_err();
    assert_eq!(
        d,
        E::TooSmall {
            argument: "d.row_stride",
            limit: 24,
            got: 12
        }
    );
    let d = MatrixMut::with_stride(&s, &mut t.d, M, N, 25).unwrap_err();
    assert_eq!(
        d,
        E::Multiple {
            argument: "d.row_stride",
            expected: 16,
            got: 50
        }
    );
    let d = MatrixMut::new(&s, &mut t.d, M + 1, N).unwrap_err();
    assert_eq!(
        d,
        E::Length {
            argument: "d",
            expected: 216,
            got: 200
        }
    );
    let mut off = t.d.slice_mut(1..);
    assert!(matches!(
        MatrixMut::new(&s, &mut off, 1, 8),
        Err(E::Multiple {
            argument: "d",
            expected: 16,
            ..
        })
    ));
}

#[test]
fn operands_that_do_not_fit_the_plan() {
    let mut t = bench();
    let s = t.l.stream.clone();
    let run = |m: usize, n: usize, k: usize, t: &mut Bench| {
        let a = Fp8Rows::new(&s, &t.a, &t.sfa, m, k).unwrap();
        let b = Fp8Blocks::new(&s, &t.b, &t.sfb, n, k).unwrap();
        let mut d = MatrixMut::new(&s, &mut t.d, m, n).unwrap();
        argument(t.plan.run(&s, &a, &b, &mut d, &mut t.status).unwrap_err())
    };
    assert_eq!(
        run(M - 1, N, K, &mut t),
        E::Shape {
            argument: "a",
            expected: (8, 160),
            got: (7, 160)
        }
    );
    assert_eq!(
        run(M, N - 8, K, &mut t),
        E::Shape {
            argument: "b",
            expected: (24, 160),
            got: (16, 160)
        }
    );
    assert_eq!(
        run(M, N, K - 16, &mut t),
        E::Shape {
            argument: "a",
            expected: (8, 160),
            got: (8, 144)
        }
    );
    let a = Fp8Rows::new(&s, &t.a, &t.sfa, M, K).unwrap();
    let b = Fp8Blocks::new(&s, &t.b, &t.sfb, N, K).unwrap();
    let mut d = MatrixMut::new(&s, &mut t.d, M - 1, N).unwrap();
    let e = argument(t.plan.run(&s, &a, &b, &mut d, &mut t.status).unwrap_err());
    assert_eq!(
        e,
        E::Shape {
            argument: "d",
            expected: (8, 24),
            got: (7, 24)
        }
    );
    drop(d);
    untouched(&t);
}

fn untouched(t: &Bench) {
    assert!(
        t.l.stream
            .clone_dtoh(&t.d)
            .unwrap()
            .iter()
            .all(|v| *v == bf16::ONE)
    );
    t.status.check(&t.l.stream).unwrap();
    assert!(t.l.reports().is_empty());
}

#[test]
fn other_streams_and_devices() {
    let mut t = bench();
    let s = t.l.stream.clone();
    let other = t.l.device.context().new_stream().unwrap();
    assert_eq!(
        Fp8Rows::new(&other, &t.a, &t.sfa, M, K).unwrap_err(),
        E::StreamMismatch { argument: "a" }
    );
    let foreign: CudaSlice<f32> = other.alloc_zeros(64).unwrap();
    assert_eq!(
        Fp8Rows::new(&s, &t.a, &foreign, M, K).unwrap_err(),
        E::StreamMismatch {
            argument: "a.scales"
        }
    );
    assert_eq!(
        Fp8Blocks::new(&s, &t.b, &foreign, N, K).unwrap_err(),
        E::StreamMismatch {
            argument: "b.scales"
        }
    );
    {
        let a = Fp8Rows::new(&s, &t.a, &t.sfa, M, K).unwrap();
        let b = Fp8Blocks::new(&s, &t.b, &t.sfb, N, K).unwrap();
        let mut d = MatrixMut::new(&s, &mut t.d, M, N).unwrap();
        let e = argument(
            t.plan
                .run(&other, &a, &b, &mut d, &mut t.status)
                .unwrap_err(),
        );
        assert_eq!(e, E::StreamMismatch { argument: "a" });
        let mut status = Status::new(&other).unwrap();
        let e = argument(t.plan.run(&s, &a, &b, &mut d, &mut status).unwrap_err());
        assert_eq!(e, E::StreamMismatch { argument: "status" });
    }
    untouched(&t);
    if !t.l.emulated() {
        println!(
            "skipped: wrong device (the emulator leases several, this machine's GPUs are one)"
        );
        return;
    }
    let elsewhere = bench();
    let s2 = elsewhere.l.stream.clone();
    let a = Fp8Rows::new(&s2, &elsewhere.a, &elsewhere.sfa, M, K).unwrap();
    let b = Fp8Blocks::new(&s2, &elsewhere.b, &elsewhere.sfb, N, K).unwrap();
    let mut d = MatrixMut::new(&s, &mut t.d, M, N).unwrap();
    let e = argument(t.plan.run(&s2, &a, &b, &mut d, &mut t.status).unwrap_err());
    assert!(
        matches!(
            e,
            E::DeviceMismatch {
                argument: "stream",
                ..
            }
        ),
        "{e}"
    );
    drop(d);
    untouched(&t);
}

#[test]
fn raw_parts_that_overlap() {
    let mut t = bench();
    let s = t.l.stream.clone();
    let memory: CudaSlice<u8> = s.alloc_zeros(8192).unwrap();
    let base = {
        use cudarc::driver::DevicePtr;
        memory.device_ptr(&s).0
    };
    // SAFETY: all lie inside `memory`, which nobody else uses.
    let (a, d) = unsafe {
        (
            Fp8Rows::from_raw_parts(&s, (base, M * K), (base + 4096, 16), (M, K), K, 8).unwrap(),
            MatrixMut::<bf16>::from_raw_parts(
                &s,
                (base + M as u64 * K as u64 - 16, M * N),
                M,
                N,
                N,
            ),
        )
    };
    let b = Fp8Blocks::new(&s, &t.b, &t.sfb, N, K).unwrap();
    let e = argument(
        t.plan
            .run(&s, &a, &b, &mut d.unwrap(), &mut t.status)
            .unwrap_err(),
    );
    assert_eq!(
        e,
        E::Overlap {
            argument: "d",
            other: "a"
        }
    );
    // SAFETY: as above.
    let mut d = unsafe {
        MatrixMut::<bf16>::from_raw_parts(&s, (base + 4096 + 48, M * N), M, N, N).unwrap()
    };
    let e = argument(t.plan.run(&s, &a, &b, &mut d, &mut t.status).unwrap_err());
    assert_eq!(
        e,
        E::Overlap {
            argument: "d",
            other: "a.scales"
        }
    );
    // SAFETY: refused before anything is read.
    let e =
        unsafe { Fp8Rows::from_raw_parts(&s, (0, M * K), (base, 16), (M, K), K, 8) }.unwrap_err();
    assert_eq!(e, E::Null { argument: "a" });
    assert!(s.clone_dtoh(&memory).unwrap().iter().all(|v| *v == 0));
}

#[test]
fn quantiser_arguments() {
    let l = lease(&Knobs::default());
    let s = &l.stream;
    let q = Quantizer::new(&l.device).unwrap();
    let x: CudaSlice<bf16> = s.alloc_zeros(20 * 272).unwrap();
    let mut y: CudaSlice<E4M3> = s.clone_htod(&[E4M3::from_bits(1); 20 * 272]).unwrap();
    let mut sf: CudaSlice<f32> = s.clone_htod(&[1.0f32; 40]).unwrap();
    let mut rows = |xm: usize, xk: usize, xs: usize, m: usize, k: usize, sfs: usize, layout| -> E {
        let x = Matrix::with_stride(s, &x, xm, xk, xs).unwrap();
        let mut y = match Fp8Out::new(s, &mut y, &mut sf, (m, k), k, sfs) {
            Ok(y) => y,
            Err(e) => return e,
        };
        match q.rows(s, &x, &mut y, layout).unwrap_err() {
            QuantError::Argument(e) => e,
            e => panic!("{e}"),
        }
    };
    use ScaleLayout::{ColumnMajor, RowMajor};
    assert_eq!(
        rows(4, 256, 256, 5, 256, 8, ColumnMajor),
        E::Shape {
            argument: "y",
            expected: (4, 256),
            got: (5, 256)
        }
    );
    assert_eq!(
        rows(4, 256, 260, 4, 256, 4, ColumnMajor),
        E::Multiple {
            argument: "x.row_stride",
            expected: 16,
            got: 520
        }
    );
    assert_eq!(
        rows(4, 24, 24, 4, 24, 4, ColumnMajor),
        E::Multiple {
            argument: "y",
            expected: 16,
            got: 24
        }
    );
    assert_eq!(
        rows(4, 256, 256, 4, 256, 3, ColumnMajor),
        E::TooSmall {
            argument: "y.scale_stride",
            limit: 4,
            got: 3
        }
    );
    assert_eq!(
        rows(4, 256, 256, 4, 256, 1, RowMajor),
        E::TooSmall {
            argument: "y.scale_stride",
            limit: 2,
            got: 1
        }
    );
    assert_eq!(
        rows(4, 256, 256, 4, 256, 37, ColumnMajor),
        E::Length {
            argument: "y.scales",
            expected: 41,
            got: 40
        }
    );
    assert_eq!(
        rows(20, 272, 272, 20, 272, 20, ColumnMajor),
        E::Length {
            argument: "y.scales",
            expected: 60,
            got: 40
        }
    );
    assert!(s.clone_dtoh(&y).unwrap().iter().all(|v| v.to_bits() == 1));
    assert!(s.clone_dtoh(&sf).unwrap().iter().all(|v| *v == 1.0));
}
