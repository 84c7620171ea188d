//! The shared library answers to the driver's name: whoever opens `libcuda.so` after it was loaded gets it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
