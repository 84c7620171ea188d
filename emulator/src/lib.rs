//! A CUDA driver library for the CPU: devices made of CPU time that run the very PTX a GPU would get.
//!
//! The crate builds two things. The shared library exports the CUDA driver API; programs that open `libcuda.so` find it
//! after [`install`], or under `hadal-emu run`. This Rust face is [`client`]: it opens the library and talks to it, and
//! holds no state. The modules below are public for the emulator's own tests.

pub mod check;
pub mod client;
pub mod count;
mod driver;
pub mod isa;
pub mod machine;
pub mod mutate;
pub mod ptx;

pub use client::{Emulator, Knobs, Universe, install};
