//! A linear layer of DeepSeek-V3 from its checkpoint to a checked result.
//!
//! Reads a weight in the FP8 checkpoint format (or quantises a bf16, f16 or f32 one), quantises bf16 activations, runs the
//! FP8 GEMM and compares every element with f64. Without arguments it first writes a seeded `kv_a_proj_with_mqa`.
//!
//! On a machine with an sm_90 GPU the same program runs there.

#[path = "../support/device.rs"]
mod device;

mod activations;
mod checkpoint;
mod page;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use cudarc::driver::CudaSlice;
use hadal::device::Status;
use hadal::fp8::E4M3;
use hadal::gemm::{Fp8Gemm, GemmOptions, GemmShape};
use hadal::quant::Quantizer;
use hadal::tensor::{Fp8Blocks, Fp8Out, Fp8Rows, Matrix, MatrixMut, ScaleLayout};
use half::bf16;

use checkpoint::Weight;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An FP8 linear layer from a DeepSeek-V3 checkpoint, checked against f64.
#[derive(Parser)]
struct Arguments {
    /// A .safetensors file, or a folder with model.safetensors or model.safetensors.index.json.
    #[arg(long, requires = "tensor")]
    checkpoint: Option<PathBuf>,
    /// The weight's name, `model.layers.0.self_attn.kv_a_proj_with_mqa.weight` for example.
    #[arg(long, requires = "checkpoint")]
    tensor: Option<String>,
    /// Rows of the seeded weight (output features).
    #[arg(long, default_value_t = 576, conflicts_with = "checkpoint")]
    n: usize,
    /// Columns of the seeded weight (input features).
    #[arg(long, default_value_t = 7168, conflicts_with = "checkpoint")]
    k: usize,
    /// Rows of activations.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Seed of weights and activations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> std::process::ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Whether every element lies within its bound.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let scratch;
    let (path, name) = match (&arguments.checkpoint, &arguments.tensor) {
        (Some(p), Some(t)) => (p.clone(), t.clone()),
        _ => {
            scratch =
                checkpoint::Scratch::named(&format!("hadal-fp8-linear-{}", std::process::id()))?;
            (
                checkpoint::write_seeded(
                    scratch.path(),
                    (arguments.n, arguments.k),
                    arguments.seed,
                )?,
                checkpoint::SEEDED.into(),
            )
        }
    };
    let file = checkpoint::open(&path, &name)?;
    let weight = file.weight()?;
    let (m, n, k) = (arguments.tokens as usize, weight.n, weight.k);

    let lease = device::Lease::new(&device::Knobs::default())?;
    let stream = &lease.stream;
    let quantizer = Quantizer::new(&lease.device)?;
    let gemm = Fp8Gemm::new(&lease.device)?;
    let plan = gemm.plan::<bf16>(GemmShape { m, n, k }, &GemmOptions::default())?;
    let mut status = Status::new(stream)?;

    // Weights: as the checkpoint has them, or block-quantised here.
    let (b, sfb): (CudaSlice<E4M3>, CudaSlice<f32>) = match &weight.data {
        Weight::Fp8 { codes, scales } => (stream.clone_htod(*codes)?, stream.clone_htod(scales)?),
        Weight::Bf16(v) => blocks(&quantizer, stream, v, n, k)?,
        Weight::F16(v) => blocks(&quantizer, stream, v, n, k)?,
        Weight::F32(v) => blocks(&quantizer, stream, v, n, k)?,
    };

    // Activations: a scale per token and 128 channels, laid out as the copy engine takes them.
    let x = activations::heavy_tailed(m, k, arguments.seed);
    let x_on = stream.clone_htod(&x)?;
    let scale_stride = m.next_multiple_of(4);
    let mut a: CudaSlice<E4M3> = stream.alloc_zeros(m * k)?;
    let mut sfa: CudaSlice<f32> = stream.alloc_zeros(scale_stride * k.div_ceil(128))?;
    quantizer.rows(
        stream,
        &Matrix::new(stream, &x_on, m, k)?,
        &mut Fp8Out::new(stream, &mut a, &mut sfa, (m, k), k, scale_stride)?,
        ScaleLayout::ColumnMajor,
    )?;

    let mut d: CudaSlice<bf16> = stream.alloc_zeros(m * n)?;
    stream.synchronize()?;
    let started = Instant::now();
    plan.run(
        stream,
        &Fp8Rows::new(stream, &a, &sfa, m, k)?,
        &Fp8Blocks::new(stream, &b, &sfb, n, k)?,
        &mut MatrixMut::new(stream, &mut d, m, n)?,
        &mut status,
    )?;
    status.check(stream)?;
    let took = started.elapsed();

    let result = page::Operands {
        shape: (m, n, k),
        a: stream.clone_dtoh(&a)?,
        sfa: stream.clone_dtoh(&sfa)?,
        scale_stride,
        b: stream.clone_dtoh(&b)?,
        sfb: stream.clone_dtoh(&sfb)?,
        d: stream.clone_dtoh(&d)?,
    };
    let verdict = page::compare(&result, &x)?;
    page::print(
        &page::Facts {
            source: &file.describe(),
            lease: &lease,
            plan: &plan,
            took,
            shape: (m, n, k),
        },
        &verdict,
    );
    for r in lease.reports() {
        println!("{r}");
    }
    Ok(verdict.within() && lease.reports().is_empty())
}

fn blocks<T: hadal::tensor::Element + cudarc::driver::DeviceRepr>(
    quantizer: &Quantizer,
    stream: &std::sync::Arc<cudarc::driver::CudaStream>,
    values: &[T],
    n: usize,
    k: usize,
) -> Result<(CudaSlice<E4M3>, CudaSlice<f32>), Failure> {
    let x = stream.clone_htod(values)?;
    let groups = k.div_ceil(128);
    let mut y = stream.alloc_zeros(n * k)?;
    let mut sf = stream.alloc_zeros(n.div_ceil(128) * groups)?;
    quantizer.blocks(
        stream,
        &Matrix::new(stream, &x, n, k)?,
        &mut Fp8Out::new(stream, &mut y, &mut sf, (n, k), k, groups)?,
    )?;
    Ok((y, sf))
}
