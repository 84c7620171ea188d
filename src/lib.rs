//! Hand-written PTX and CUDA kernels for DeepSeek-class models, behind safe Rust.
