//! What the build put into this crate.

#[repr(C, align(16))]
#[allow(dead_code)] // unused where the build has no kernels
struct Aligned<T: ?Sized>(T);

/// A compiled file of `kernels/`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The file's name without its extension.
    pub name: &'static str,
    /// What the machine code is for: `sm_90a`.
    pub arch: &'static str,
    /// Its entry points.
    pub entries: &'static [KernelEntry],
    pub(crate) cubin: &'static [u8],
    /// Ends with a NUL.
    pub(crate) ptx: &'static str,
}

impl Kernel {
    /// The machine code (an ELF image).
    pub fn cubin(&self) -> &'static [u8] {
        self.cubin
    }

    /// The PTX that the machine code was made from.
    pub fn ptx(&self) -> &'static str {
        self.ptx.trim_end_matches('\0')
    }
}

/// An entry point, as ptxas reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEntry {
    /// Its name in the module.
    pub name: &'static str,
    /// Registers a thread has at launch.
    pub registers: u32,
    /// Bytes of static shared memory; dynamic shared memory is the plan's.
    pub static_shared: u32,
    /// Bytes of stack a thread has.
    pub stack: u32,
    /// Bytes of registers written to local memory for want of registers.
    pub spill_stores: u32,
    /// Bytes of registers read back.
    pub spill_loads: u32,
}

/// What the build put into this crate.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// Version of the crate.
    pub version: &'static str,
    /// The compiler: `nvcc 13.0.88`. Empty where there are no kernels.
    pub compiler: &'static str,
    /// Whether the kernels are in: not in documentation builds.
    pub kernels_built: bool,
    /// The compiled files.
    pub kernels: &'static [Kernel],
}

impl BuildInfo {
    /// The compiled file `name`.
    pub fn kernel(&self, name: &str) -> Option<&'static Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

mod generated {
    #[allow(unused_imports)] // the same
    use super::{Aligned, Kernel, KernelEntry};

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

    pub(super) const fn compiler() -> &'static str {
        COMPILER
    }

    pub(super) const fn kernels() -> &'static [Kernel] {
        &KERNELS
    }
}

/// What the build put into this crate.
pub fn build_info() -> BuildInfo {
    let kernels = generated::kernels();
    BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        compiler: generated::compiler(),
        kernels_built: !kernels.is_empty(),
        kernels,
    }
}
