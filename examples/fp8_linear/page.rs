//! The comparison with f64, and the page that says how it went.

use std::time::{Duration, Instant};

use hadal::fp8::E4M3;
use hadal::gemm::GemmPlan;
use hadal::reference::gemm::{Blocks, Expected, Product, Rows};
use hadal::reference::quant;
use hadal::tensor::ScaleLayout;
use half::bf16;
use indicatif::{ProgressBar, ProgressStyle};

use crate::Failure;
use crate::device::Lease;

/// What the device worked on, copied back.
pub struct Operands {
    pub shape: (usize, usize, usize),
    pub a: Vec<E4M3>,
    pub sfa: Vec<f32>,
    pub scale_stride: usize,
    pub b: Vec<E4M3>,
    pub sfb: Vec<f32>,
    pub d: Vec<bf16>,
}

/// How D compares.
pub struct Verdict {
    /// Largest |d - f64|, and where.
    error: f64,
    at: (usize, usize),
    /// The bound there.
    bound: f64,
    /// Largest error / bound.
    used: f64,
    /// Root mean square of the error over that of D.
    relative: f64,
    /// Elements that have the bits of the kernel's CPU model.
    same_bits: usize,
    /// Elements beyond the bound, or not finite.
    beyond: usize,
    elements: usize,
    /// Activations whose codes or scales differ from the CPU quantiser's.
    quantised_otherwise: usize,
    took: Duration,
}

impl Verdict {
    pub fn within(&self) -> bool {
        self.beyond == 0 && self.quantised_otherwise == 0
    }
}

/// Compares every element with f64 and with the kernel's model.
pub fn compare(o: &Operands, x: &[bf16]) -> Result<Verdict, Failure> {
    let (m, n, k) = o.shape;
    let started = Instant::now();
    let q = quant::rows(x, m, k, ScaleLayout::ColumnMajor)?;
    let other = |a: u32, b: u32| usize::from(a != b);
    let codes: usize = q
        .codes
        .iter()
        .zip(&o.a)
        .map(|(x, y)| other(x.to_bits().into(), y.to_bits().into()))
        .sum();
    let scales: usize = q
        .scales
        .iter()
        .zip(&o.sfa)
        .map(|(x, y)| other(x.to_bits(), y.to_bits()))
        .sum();
    let a = Rows {
        codes: &o.a,
        scales: &o.sfa,
        scale_stride: o.scale_stride,
        m,
    };
    let product = Product::new(
        a,
        Blocks {
            codes: &o.b,
            scales: &o.sfb,
            n,
        },
        k,
    )?;
    let (mut e, mut model) = (vec![Expected::default(); n], vec![0.0f32; n]);
    let mut v = Verdict {
        error: 0.0,
        at: (0, 0),
        bound: 0.0,
        used: 0.0,
        relative: 0.0,
        same_bits: 0,
        beyond: 0,
        elements: m * n,
        quantised_otherwise: codes + scales,
        took: Duration::ZERO,
    };
    let (mut noise, mut signal) = (0.0, 0.0);
    let bar = ProgressBar::hidden();
    bar.set_length(m as u64);
    bar.set_style(ProgressStyle::with_template(
        "comparing with f64 {bar:40} {pos}/{len} rows {eta}",
    )?);
    for row in 0..m {
        // Shown only where it takes long enough to be read.
        if bar.is_hidden() && started.elapsed() > Duration::from_secs(1) {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        product.expected(row, &mut e)?;
        product.modelled(row, &mut model)?;
        for col in 0..n {
            let got = o.d[row * n + col];
            let error = (f64::from(got.to_f32()) - e[col].value).abs();
            let bound = e[col].bf16();
            noise += error * error;
            signal += e[col].value * e[col].value;
            v.same_bits += usize::from(got.to_bits() == bf16::from_f32(model[col]).to_bits());
            if error.is_nan() || error > bound {
                v.beyond += 1;
            }
            if error > v.error {
                (v.error, v.at, v.bound) = (error, (row, col), bound);
            }
            v.used = v.used.max(error / bound);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    v.relative = if signal > 0.0 {
        (noise / signal).sqrt()
    } else {
        0.0
    };
    v.took = started.elapsed();
    Ok(v)
}

/// What else the page says.
pub struct Facts<'a> {
    pub source: &'a str,
    pub lease: &'a Lease,
    pub plan: &'a GemmPlan<bf16>,
    pub took: Duration,
    pub shape: (usize, usize, usize),
}

pub fn print(f: &Facts<'_>, v: &Verdict) {
    let (m, n, k) = f.shape;
    let info = hadal::build_info();
    let tile = f.plan.tile();
    let name = format!("sm90_fp8_gemm_1d2d_{}x{}", tile.m, tile.n);
    let entry = info
        .kernels
        .iter()
        .flat_map(|k| k.entries)
        .find(|e| e.name == name);
    let device = f
        .lease
        .device
        .context()
        .name()
        .unwrap_or_else(|e| format!("(no name: {e:?})"));
    println!("FP8 linear layer");
    println!("  weight      {}", f.source);
    println!(
        "  device      {device}, {} SMs{}",
        f.lease.device.sms(),
        if f.lease.emulated() {
            ", emulated on this CPU"
        } else {
            ""
        }
    );
    println!(
        "  shapes      A [{m}, {k}] E4M3, 1x128 scales;  B [{n}, {k}] E4M3, 128x128 scales;  D [{m}, {n}] bf16"
    );
    print!("  kernel      {name}, {}", info.compiler);
    match entry {
        Some(e) => println!(
            ", {} registers, {} bytes spilled",
            e.registers,
            e.spill_stores + e.spill_loads
        ),
        None => println!(),
    }
    for (i, line) in f.plan.explain().lines().enumerate() {
        println!(
            "  {}  {line}",
            if i == 0 { "plan      " } else { "          " }
        );
    }
    let note = if f.lease.emulated() {
        " (emulated: says nothing of a GPU)"
    } else {
        ""
    };
    println!(
        "  time        {:.3?} from launch to checked status{note}",
        f.took
    );
    println!(
        "  quantiser   {}",
        match v.quantised_otherwise {
            0 => "codes and scales have the bits of the CPU reference".to_string(),
            n => format!("{n} codes or scales DIFFER from the CPU reference"),
        }
    );
    println!(
        "  against f64 largest error {:.3e} at {:?}, where {:.3e} is allowed; at most {:.1} % of the bound anywhere",
        v.error,
        v.at,
        v.bound,
        100.0 * v.used
    );
    println!(
        "              relative error (rms) {:.2e}; compared in {:.2?}",
        v.relative, v.took
    );
    println!(
        "  model       {} of {} elements have the bits of the kernel's CPU model",
        v.same_bits, v.elements
    );
    println!(
        "  {}",
        if v.within() {
            "PASS: every element is within its bound".into()
        } else {
            format!("FAIL: {} elements are beyond their bound", v.beyond)
        }
    );
}
