//! Compiles the kernels and embeds them: see `build/` for the toolkit, the cache and the gates.
//!
//! `DOCS_RS` set: no kernels; constructors then answer `KernelsNotBuilt`.

#[path = "build/compile.rs"]
mod compile;
#[path = "build/emit.rs"]
mod emit;
#[path = "build/toolkit.rs"]
mod toolkit;

use std::path::PathBuf;

/// A file in `kernels/` that is compiled by itself.
struct Unit {
    /// Relative to the crate.
    path: &'static str,
    arch: &'static str,
    /// Bytes of spill stores and loads that an entry may have.
    spills: u32,
}

/// All units. A `.cu` or `.ptx` file that is not here fails the build.
const UNITS: &[Unit] = &[
    Unit {
        path: "kernels/gemm/sm90_fp8_gemm_1d2d_128.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/gemm/sm90_fp8_gemm_1d2d_64.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/gemm/sm90_fp8_gemm_1d2d_wide.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/gemm/sm90_fp8_gemm_swiglu.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/moe/sm90_bf16_moe_combine.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/moe/sm90_moe_dispatch.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/moe/sm90_f32_moe_router.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/mla/sm90_16bit_mla_decode.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/mla/sm90_fp8_mla_decode.cu",
        arch: "90a",
        spills: 0,
    },
    Unit {
        path: "kernels/quant/sm90_bf16_quant_1x128.ptx",
        arch: "90",
        spills: 0,
    },
    Unit {
        path: "kernels/quant/sm90_quant_128x128.ptx",
        arch: "90",
        spills: 0,
    },
];

fn main() {
    for f in ["build.rs", "build", "kernels", "cuda-requirements.txt"] {
        println!("cargo::rerun-if-changed={f}");
    }
    for v in [
        "DOCS_RS",
        "HADAL_NVCC",
        "HADAL_FETCH_CUDA",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
    ] {
        println!("cargo::rerun-if-env-changed={v}");
    }
    if let Err(e) = run() {
        println!(
            "cargo::error={}",
            e.trim_end().replace('\n', "\ncargo::error=")
        );
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    if std::env::var_os("DOCS_RS").is_some() {
        return emit::write(&out, None, &[]);
    }
    compile::all_listed(UNITS.iter().map(|u| u.path))?;
    let toolkit = toolkit::find()?;
    // Compilers run beside each other, as many as cargo was told to.
    let jobs = std::env::var("NUM_JOBS")
        .ok()
        .and_then(|j| j.parse().ok())
        .unwrap_or(1)
        .clamp(1, UNITS.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let compiled: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(u) = UNITS.get(i) else {
                            return done;
                        };
                        done.push((i, compile::unit(&toolkit, u, &out)));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().expect("a worker does not panic"))
            .collect()
    });
    let mut built: Vec<_> = (0..UNITS.len()).map(|_| None).collect();
    for (i, unit) in compiled {
        built[i] = Some(unit?);
    }
    let built: Vec<_> = built.into_iter().flatten().collect();
    emit::write(&out, Some(&toolkit), &built)
}
