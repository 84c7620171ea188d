//! An operand borrows its memory.
use cudarc::driver::{CudaSlice, CudaStream};
use hadal::tensor::Matrix;

fn f(stream: &CudaStream, memory: CudaSlice<f32>) -> Matrix<'_, f32> {
    Matrix::new(stream, &memory, 4, 4).unwrap()
}

fn main() {}
