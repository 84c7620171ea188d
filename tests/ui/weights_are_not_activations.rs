//! Operands carry the meaning of their scales.
use cudarc::driver::CudaStream;
use hadal::device::Status;
use hadal::gemm::GemmPlan;
use hadal::tensor::{Fp8Blocks, MatrixMut};

fn f(plan: &GemmPlan<f32>, stream: &CudaStream, w: &Fp8Blocks<'_>, d: &mut MatrixMut<'_, f32>, status: &mut Status) {
    plan.run(stream, w, w, d, status).unwrap();
}

fn main() {}
