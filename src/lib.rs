//! Hand-written PTX and CUDA kernels for DeepSeek-class models, behind safe Rust.
//!
//! Every operation has the same life: a [`device::Device`] proves that the driver and the GPU are there; an operation such
//! as [`gemm::Fp8Gemm`] loads its kernels and proves that they run on it; a plan is made on the host alone; `run` encodes
//! arguments and launches on the caller's stream, on the caller's memory, and does nothing else: no allocation, no
//! synchronisation, no copy.
//!
//! ```no_run
//! use cudarc::driver::CudaContext;
//! use hadal::device::{Device, Status};
//! use hadal::fp8::E4M3;
//! use hadal::gemm::{Fp8Gemm, GemmOptions, GemmShape};
//! use hadal::tensor::{Fp8Blocks, Fp8Rows, MatrixMut};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (m, n, k) = (64, 576, 7168);
//! hadal::device::probe()?; // cudarc panics where there is no driver
//! let context = CudaContext::new(0)?;
//! let stream = context.default_stream();
//! let device = Device::new(&context)?;
//! let gemm = Fp8Gemm::new(&device)?;
//! let plan = gemm.plan::<half::bf16>(GemmShape { m, n, k }, &GemmOptions::default())?;
//! println!("{}", plan.explain());
//!
//! let a = stream.alloc_zeros::<E4M3>(m * k)?;
//! let sfa = stream.alloc_zeros::<f32>(k.div_ceil(128) * m.next_multiple_of(4))?;
//! let b = stream.alloc_zeros::<E4M3>(n * k)?;
//! let sfb = stream.alloc_zeros::<f32>(n.div_ceil(128) * k.div_ceil(128))?;
//! let mut d = stream.alloc_zeros::<half::bf16>(m * n)?;
//! let mut status = Status::new(&stream)?;
//! plan.run(&stream, &Fp8Rows::new(&stream, &a, &sfa, m, k)?, &Fp8Blocks::new(&stream, &b, &sfb, n, k)?,
//!     &mut MatrixMut::new(&stream, &mut d, m, n)?, &mut status)?;
//! status.check(&stream)?;
//! # Ok(())
//! # }
//! ```

mod build_info;
pub mod device;
pub mod error;
pub mod fp8;
pub mod gemm;
pub mod mla;
pub mod moe;
pub mod quant;
pub mod reference;
pub mod tensor;

pub use build_info::{BuildInfo, Kernel, KernelEntry, build_info};
