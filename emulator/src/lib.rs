//! A CUDA driver library for the CPU.
