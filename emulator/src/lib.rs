//! A CUDA driver library for the CPU: devices made of CPU time that run the very PTX a GPU would get.

pub mod check;
pub mod isa;
pub mod machine;
pub mod ptx;
