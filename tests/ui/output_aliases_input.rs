//! D may not be an operand's memory.
use cudarc::driver::{CudaSlice, CudaStream};
use hadal::tensor::{Matrix, MatrixMut};

fn f(stream: &CudaStream, memory: &mut CudaSlice<f32>) {
    let x = Matrix::new(stream, &*memory, 4, 4).unwrap();
    let d = MatrixMut::new(stream, memory, 4, 4).unwrap();
    drop((x, d));
}

fn main() {}
