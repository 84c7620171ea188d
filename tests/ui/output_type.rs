//! A plan for bf16 does not write f32.
use cudarc::driver::CudaStream;
use hadal::device::Status;
use hadal::gemm::GemmPlan;
use hadal::tensor::{Fp8Blocks, Fp8Rows, MatrixMut};
use half::bf16;

fn f(plan: &GemmPlan<bf16>, stream: &CudaStream, a: &Fp8Rows<'_>, b: &Fp8Blocks<'_>, d: &mut MatrixMut<'_, f32>, status: &mut Status) {
    plan.run(stream, a, b, d, status).unwrap();
}

fn main() {}
