//! A GEMM in hostile memory: everything that must not be read holds NaN, everything that must not be written a canary.

use cudarc::driver::{CudaSlice, DeviceRepr};
use hadal::device::Status;
use hadal::fp8::E4M3;
use hadal::gemm::{Epilogue, Fp8Gemm, GemmOptions, GemmPlan, GemmShape, Output};
use hadal::reference::gemm::{Blocks, Expected, Product, Rows};
use hadal::tensor::{Fp8Blocks, Fp8Rows, MatrixMut, ScaleLayout};
use half::{bf16, f16};
use rand::{Rng, RngExt};

use super::{Lease, code, rng};

const NAN: E4M3 = E4M3::NAN;

/// D's elements in the tests.
pub trait Out: Output + DeviceRepr + std::fmt::Debug {
    const CANARY: Self;
    fn bits(self) -> u32;
    fn round(x: f32) -> Self;
    fn bound(e: &Expected) -> f64;
}

impl Out for f32 {
    const CANARY: Self = -12345.678;
    fn bits(self) -> u32 {
        self.to_bits()
    }
    fn round(x: f32) -> Self {
        x
    }
    fn bound(e: &Expected) -> f64 {
        e.bound
    }
}

impl Out for bf16 {
    const CANARY: Self = bf16::from_bits(0xC5A5);
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
    fn round(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn bound(e: &Expected) -> f64 {
        e.bf16()
    }
}

impl Out for f16 {
    const CANARY: Self = f16::from_bits(0xC5A5);
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
    fn round(x: f32) -> Self {
        f16::from_f32(x)
    }
    fn bound(e: &Expected) -> f64 {
        // Beyond 65504 it is infinity: no bound.
        if e.value.abs() + e.bound > 65000.0 {
            f64::INFINITY
        } else {
            e.rounded(11, 2f64.powi(-24))
        }
    }
}

/// Packed operands in host memory; `sfa` is [k groups, m].
#[derive(Clone)]
pub struct Problem {
    pub shape: GemmShape,
    pub a: Vec<E4M3>,
    pub sfa: Vec<f32>,
    pub b: Vec<E4M3>,
    pub sfb: Vec<f32>,
}

impl Problem {
    pub fn groups(&self) -> usize {
        self.shape.k.div_ceil(128)
    }

    /// Random finite codes; scales distinct in every block, so that a swapped index shows.
    pub fn random(m: usize, n: usize, k: usize, seed: u64) -> Self {
        let mut r = rng(seed);
        let g = k.div_ceil(128);
        let scale = |i: usize, r: &mut dyn Rng| {
            (0.5 + i as f32 * 0.37) * (1.0 + r.random_range(0..1000) as f32 * 1e-3)
        };
        Self {
            shape: GemmShape { m, n, k },
            a: (0..m * k).map(|_| code(&mut r)).collect(),
            sfa: (0..g * m).map(|i| scale(i % 97, &mut r)).collect(),
            b: (0..n * k).map(|_| code(&mut r)).collect(),
            sfb: (0..n.div_ceil(128) * g)
                .map(|i| scale(i % 89, &mut r))
                .collect(),
        }
    }

    pub fn product(&self) -> Product<'_> {
        let GemmShape { m, n, k } = self.shape;
        let a = Rows {
            codes: &self.a,
            scales: &self.sfa,
            scale_stride: m,
            m,
        };
        Product::new(
            a,
            Blocks {
                codes: &self.b,
                scales: &self.sfb,
                n,
            },
            k,
        )
        .expect("lengths that fit")
    }
}

/// Where operands lie: bytes and elements beyond the row, rows beyond the last.
#[derive(Clone, Copy, Debug)]
pub struct Padding {
    pub lda: usize,
    pub ldb: usize,
    pub sfa: usize,
    pub sfb: usize,
    pub ldd: usize,
    pub rows: usize,
    /// Scales of A lie row by row.
    pub by_row: bool,
}

pub const HOSTILE: Padding = Padding {
    lda: 48,
    ldb: 16,
    sfa: 8,
    sfb: 3,
    ldd: 8,
    rows: 3,
    by_row: false,
};

/// The same with scales of A row by row.
pub const HOSTILE_BY_ROW: Padding = Padding {
    by_row: true,
    ..HOSTILE
};

/// `rows` rows of `cols` from a packed matrix, `stride` apart, `fill` between, `extra` rows of it behind.
fn spread<T: Copy>(
    packed: &[T],
    rows: usize,
    cols: usize,
    stride: usize,
    extra: usize,
    fill: T,
) -> Vec<T> {
    let mut v = vec![fill; (rows + extra) * stride];
    for r in 0..rows {
        v[r * stride..][..cols].copy_from_slice(&packed[r * cols..][..cols]);
    }
    v
}

/// Operands on the device.
pub struct Loaded<D> {
    pub shape: GemmShape,
    pub a: CudaSlice<E4M3>,
    pub sfa: CudaSlice<f32>,
    pub b: CudaSlice<E4M3>,
    pub sfb: CudaSlice<f32>,
    pub d: CudaSlice<D>,
    pub lda: usize,
    pub ldb: usize,
    pub ld_sfa: usize,
    pub ld_sfb: usize,
    pub ldd: usize,
    pub layout: ScaleLayout,
}

impl<D: Out> Loaded<D> {
    pub fn new(l: &Lease, p: &Problem, pad: Padding) -> Self {
        let GemmShape { m, n, k } = p.shape;
        let g = p.groups();
        let (lda, ldb, ldd) = (k + pad.lda, k + pad.ldb, n + pad.ldd);
        let line = if pad.by_row { g } else { m };
        let (ld_sfa, ld_sfb) = (line.next_multiple_of(4) + pad.sfa, g + pad.sfb);
        let sfa = if pad.by_row {
            let by_row: Vec<f32> = (0..m * g).map(|i| p.sfa[i % g * m + i / g]).collect();
            spread(&by_row, m, g, ld_sfa, pad.rows, f32::NAN)
        } else {
            spread(&p.sfa, g, m, ld_sfa, pad.rows, f32::NAN)
        };
        let up = |v: &[E4M3]| l.stream.clone_htod(v).expect("codes");
        let upf = |v: &[f32]| l.stream.clone_htod(v).expect("scales");
        Self {
            shape: p.shape,
            a: up(&spread(&p.a, m, k, lda, pad.rows, NAN)),
            sfa: upf(&sfa),
            b: up(&spread(&p.b, n, k, ldb, pad.rows, NAN)),
            sfb: upf(&spread(
                &p.sfb,
                n.div_ceil(128),
                g,
                ld_sfb,
                pad.rows,
                f32::NAN,
            )),
            d: l.stream
                .clone_htod(&vec![D::CANARY; (m + pad.rows) * ldd])
                .expect("D"),
            lda,
            ldb,
            ld_sfa,
            ld_sfb,
            ldd,
            layout: if pad.by_row {
                ScaleLayout::RowMajor
            } else {
                ScaleLayout::ColumnMajor
            },
        }
    }

    /// Launches a plan.
    pub fn launch(
        &mut self,
        l: &Lease,
        plan: &GemmPlan<D>,
        epilogue: &Epilogue<'_>,
        status: &mut Status,
    ) {
        let GemmShape { m, n, k } = self.shape;
        let s = &l.stream;
        let a = Fp8Rows::with_layout(
            s,
            &self.a,
            &self.sfa,
            (m, k),
            self.lda,
            self.ld_sfa,
            self.layout,
        );
        let b = Fp8Blocks::with_strides(s, &self.b, &self.sfb, (n, k), self.ldb, self.ld_sfb);
        let mut d = MatrixMut::with_stride(s, &mut self.d, m, n, self.ldd).expect("d");
        plan.run_with(s, &a.expect("a"), &b.expect("b"), &mut d, epilogue, status)
            .expect("a launch");
    }

    /// Runs a plan, checks the status and every canary, gives D packed.
    pub fn run(&mut self, l: &Lease, plan: &GemmPlan<D>, status: &mut Status) -> Vec<D> {
        self.launch(l, plan, &Epilogue::default(), status);
        settled(l, status);
        self.canaries(l)
    }

    /// Checks what lies round D, gives D packed.
    pub fn canaries(&self, l: &Lease) -> Vec<D> {
        let GemmShape { m, n, .. } = self.shape;
        let raw = l.stream.clone_dtoh(&self.d).expect("D");
        let mut out = Vec::with_capacity(m * n);
        for (i, v) in raw.iter().enumerate() {
            let (row, col) = (i / self.ldd, i % self.ldd);
            if row < m && col < n {
                out.push(*v);
            } else {
                assert_eq!(
                    v.bits(),
                    D::CANARY.bits(),
                    "written outside of D at row {row} column {col}"
                );
            }
        }
        out
    }
}

/// Waits, and fails with what was found.
pub fn settled(l: &Lease, status: &Status) {
    if let Err(e) = status.check(&l.stream) {
        let found: Vec<_> = l.reports().iter().map(ToString::to_string).collect();
        panic!("{e}\n{}", found.join("\n"));
    }
}

fn same(x: f32, y: f32, bits: (u32, u32)) -> bool {
    bits.0 == bits.1 || x.is_nan() && y.is_nan()
}

/// `rows` of D have the model's bits and lie within the bound.
pub fn verify<D: Out>(p: &Problem, d: &[D], rows: impl Iterator<Item = usize>, bits: bool) {
    let n = p.shape.n;
    let product = p.product();
    let (mut e, mut model) = (vec![Expected::default(); n], vec![0.0f32; n]);
    for row in rows {
        product.expected(row, &mut e).expect("a row");
        product.modelled(row, &mut model).expect("a row");
        for col in 0..n {
            let (got, want) = (d[row * n + col], D::round(model[col]));
            if bits {
                assert!(
                    same(got.to_f32(), want.to_f32(), (got.bits(), want.bits())),
                    "{:?} row {row} column {col}: {got:?}, the model has {want:?}, f64 {}",
                    p.shape,
                    e[col].value
                );
            }
            if e[col].bound.is_finite() && e[col].value.abs() < 3e38 {
                let error = (f64::from(got.to_f32()) - e[col].value).abs();
                assert!(
                    error <= D::bound(&e[col]),
                    "{:?} row {row} column {col}: {got:?} is {error:e} from {}, the bound is {:e}",
                    p.shape,
                    e[col].value,
                    D::bound(&e[col])
                );
            }
        }
    }
}

/// Plans and runs in hostile memory and verifies every row.
pub fn check<D: Out>(l: &Lease, p: &Problem, options: &GemmOptions) -> Vec<D> {
    let gemm = Fp8Gemm::new(&l.device).expect("kernels");
    let plan = gemm.plan::<D>(p.shape, options).expect("a plan");
    let mut status = Status::new(&l.stream).expect("a status");
    let d = Loaded::new(l, p, HOSTILE).run(l, &plan, &mut status);
    verify(p, &d, 0..p.shape.m, true);
    d
}

/// As [`check`] with operands as `pad` says.
pub fn check_in<D: Out>(l: &Lease, p: &Problem, options: &GemmOptions, pad: Padding) -> Vec<D> {
    let gemm = Fp8Gemm::new(&l.device).expect("kernels");
    let plan = gemm.plan::<D>(p.shape, options).expect("a plan");
    let mut status = Status::new(&l.stream).expect("a status");
    let d = Loaded::new(l, p, pad).run(l, &plan, &mut status);
    verify(p, &d, 0..p.shape.m, true);
    d
}
