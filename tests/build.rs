//! What the build put into the crate.

use hadal::build_info;

#[test]
fn every_kernel_is_in_and_clean() {
    let info = build_info();
    println!("{} kernels by {}", info.kernels.len(), info.compiler);
    assert!(info.kernels_built);
    assert!(info.compiler.starts_with("nvcc "));
    let names: Vec<_> = info
        .kernels
        .iter()
        .map(|k| (k.name, k.arch, k.entries.len()))
        .collect();
    assert_eq!(
        names,
        [
            ("sm90_fp8_gemm_1d2d_128", "sm_90a", 2),
            ("sm90_fp8_gemm_1d2d_64", "sm_90a", 1),
            ("sm90_fp8_gemm_1d2d_wide", "sm_90a", 3),
            ("sm90_fp8_gemm_swiglu", "sm_90a", 2),
            ("sm90_bf16_moe_combine", "sm_90a", 3),
            ("sm90_moe_dispatch", "sm_90a", 4),
            ("sm90_f32_moe_router", "sm_90a", 1),
            ("sm90_16bit_mla_decode", "sm_90a", 6),
            ("sm90_fp8_mla_decode", "sm_90a", 2),
            ("sm90_bf16_quant_1x128", "sm_90", 2),
            ("sm90_quant_128x128", "sm_90", 3)
        ]
    );
    for k in info.kernels {
        assert_eq!(&k.cubin()[..4], b"\x7fELF");
        assert_eq!(k.cubin().as_ptr() as usize % 16, 0);
        for e in k.entries {
            println!("{e:?}");
            assert!(k.ptx().contains(&format!(".entry {}", e.name)));
            assert_eq!(
                (e.spill_stores, e.spill_loads, e.stack),
                (0, 0, 0),
                "{}",
                e.name
            );
            assert!(e.registers > 0);
        }
    }
}
