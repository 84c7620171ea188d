//! Writes `kernels.rs`, which `src/build_info.rs` includes.

use std::fmt::Write;
use std::path::Path;

use super::compile::Built;
use super::toolkit::Toolkit;

pub fn write(out: &Path, toolkit: Option<&Toolkit>, built: &[Built]) -> Result<(), String> {
    let mut s = String::new();
    let compiler = toolkit
        .map(|t| format!("nvcc {}", t.version))
        .unwrap_or_default();
    let _ = writeln!(s, "const COMPILER: &str = {compiler:?};");
    let _ = writeln!(s, "static KERNELS: [Kernel; {}] = [", built.len());
    for b in built {
        for (from, extension) in [(&b.ptx, "ptx"), (&b.cubin, "cubin")] {
            let to = out.join(format!("{}.{extension}", b.name));
            std::fs::copy(from, &to)
                .map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))?;
        }
        let _ = writeln!(
            s,
            "    Kernel {{ name: {0:?}, arch: {1:?}, cubin: {{ static C: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{0}.cubin\"))); &C.0 }}, \
             ptx: concat!(include_str!(concat!(env!(\"OUT_DIR\"), \"/{0}.ptx\")), \"\\0\"), entries: &[",
            b.name, b.arch
        );
        for e in &b.entries {
            let _ = writeln!(
                s,
                "        KernelEntry {{ name: {:?}, registers: {}, static_shared: {}, stack: {}, spill_stores: {}, spill_loads: {} }},",
                e.name, e.registers, e.static_shared, e.stack, e.spill_stores, e.spill_loads
            );
        }
        s.push_str("    ] },\n");
    }
    s.push_str("];\n");
    std::fs::write(out.join("kernels.rs"), s).map_err(|e| format!("kernels.rs: {e}"))
}
