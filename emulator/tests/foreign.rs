//! What kernels of other compilers taught: each case as small as it gets. Cost: seconds.

mod common;

use common::{Arg, device};
use cudarc::driver::{DevicePtr, sys::CUresult as Code};
use hadal_emulator::client::{Knobs, Report, Severity};

/// A kernel for two warps: `%r0` thread, `%r1` warp, `%p1` the first warp, `buf` shared memory, `%rd0` 256 bytes.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<16>;\n.shared .align 16 .b8 buf[1024];\n\
         ld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\nshr.u32 %r1, %r0, 5;\nmov.u32 %r2, buf;\n\
         setp.eq.u32 %p0, %r0, 0;\nsetp.eq.u32 %p1, %r1, 0;\n{body}\nret;\n}}\n"
    )
}

fn run(body: &str) -> (Result<(), Code>, Vec<Report>) {
    let d = device(&Knobs {
        step_limit: 1_000_000,
        ..Knobs::default()
    });
    let m = d.load(&kernel(body)).expect("a module");
    let memory = d.stream.clone_htod(&[0u8; 256]).expect("memory");
    let p = memory.device_ptr(&d.stream).0;
    let r = d.launch(m, "k", [1, 1, 1], [64, 1, 1], 0, &[Arg::U64(p)]);
    (r, d.universe.reports())
}

#[track_caller]
fn races(body: &str) {
    let (r, reports) = run(body);
    let first = reports.first().expect("a finding");
    assert_eq!(first.check, "race", "{first}");
    assert_eq!(r, Err(Code::CUDA_ERROR_LAUNCH_FAILED));
}

#[track_caller]
fn passes(body: &str) {
    let (r, reports) = run(body);
    let text: String = reports.iter().map(ToString::to_string).collect();
    let error = reports.iter().any(|r| r.severity == Severity::Error);
    assert!(r.is_ok() && !error, "{r:?} {text}");
}

/// Warps that hold copies of a value store it to the same place: no race as long as the value is the same.
#[test]
fn two_warps_store_the_same_value() {
    passes("st.shared.u32 [%r2], 7;\nbar.sync 0;\nld.shared.u32 %r5, [%r2];");
    races("st.shared.u32 [%r2], %r1;");
    passes("st.shared.v2.u32 [%r2], {7, 8};");
    races("st.shared.v2.u32 [%r2], {7, %r1};");
    passes(
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {7};\nbar.sync 0;\nld.shared.u32 %r5, [%r2];",
    );
    races("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r1};");
}

/// What follows two such stores has to be ordered after both.
#[test]
fn after_two_stores_of_the_same_value() {
    let both = "mov.u32 %r6, 7;\nst.shared.u32 [%r2], %r6;\n";
    races(&format!("{both}@%p1 st.shared.u32 [%r2], 8;"));
    races(&format!("{both}@!%p1 st.shared.u32 [%r2], 8;"));
    passes(&format!("{both}bar.sync 0;\n@!%p1 st.shared.u32 [%r2], 8;"));
    races(&format!(
        "{both}bar.sync 0;\n@!%p1 st.shared.u32 [%r2], 8;\n@%p1 ld.shared.u32 %r5, [%r2];"
    ));
}

/// Bytes of one word that belong to different warps.
#[test]
fn warps_with_bytes_of_their_own() {
    let own = "add.u32 %r3, %r2, %r1;\nmov.u16 %h0, 3;\nst.shared.u8 [%r3], %h0;\n";
    passes(&format!("{own}ld.shared.u8 %h1, [%r3];"));
    passes(&format!(
        "{own}bar.sync 0;\nld.shared.u8 %h1, [%r2];\nld.shared.u8 %h1, [%r2+1];"
    ));
    races(&format!("{own}ld.shared.u8 %h1, [%r2];"));
    // Each in its byte again, after reads of both; then without the second barrier.
    let again = "cvt.u16.u32 %h2, %r1;\nst.shared.u8 [%r3], %h2;";
    let read = "bar.sync 0;\nld.shared.u8 %h1, [%r2];\nld.shared.u8 %h1, [%r2+1];\n";
    passes(&format!("{own}{read}bar.sync 0;\n{again}"));
    races(&format!("{own}{read}{again}"));
    races(
        "shl.b32 %r3, %r1, 1;\nadd.u32 %r3, %r3, %r2;\nst.shared.u16 [%r3], 1;\nst.shared.u32 [%r2], %r1;",
    );
}

/// ptxas takes the qualifiers of memory accesses in any order; Triton, libcu++ and cooperative groups write them in three.
#[test]
fn qualifiers_in_any_order() {
    for ld in [
        "ld.acquire.gpu.global.b32",
        "ld.global.gpu.acquire.b32",
        "ld.b32.acquire.gpu.global",
    ] {
        passes(&format!("{ld} %r5, [%rd0];"));
    }
    for atom in [
        "atom.release.gpu.global.add.u32",
        "atom.global.gpu.release.add.u32",
        "atom.add.release.gpu.global.u32",
    ] {
        passes(&format!("{atom} %r5, [%rd0], 1;"));
    }
    passes("red.add.noftz.relaxed.gpu.global.f16x2 [%rd0], %r0;\n{.reg.b32 f; mov.b32 f, 0;}");
    let d = device(&Knobs::default());
    let refused = d.load(&kernel("ld.global.gpu.gpu.acquire.b32 %r5, [%rd0];"));
    assert!(refused.is_err_and(|e| e.contains("gpu")));
}
