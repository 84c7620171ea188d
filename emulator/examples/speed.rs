//! How fast the interpreter is: three loops on one core, in million warp instructions a second.
//!
//! ```text
//! cargo run --release -p hadal-emulator --example speed
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::time::Instant;

use common::{Arg, device};
use cudarc::driver::DevicePtrMut;
use hadal_emulator::client::{Checks, Knobs};

const WARPS: u32 = 8;
const ROUNDS: u32 = 100_000;

/// A kernel that repeats `body` and stores a result, so that nothing is for nothing.
fn kernel(body: &str) -> String {
    let mut s = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u32 rounds)\n{\n\
         .reg .pred %p<8>;\n.reg .b32 %r<32>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 buf[4096];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, 0;\nld.param.u32 %r2, [rounds];\nmov.u32 %r3, buf;\nshl.b32 %r4, %r0, 2;\n\
         add.s32 %r5, %r3, %r4;\nst.shared.u32 [%r5], %r0;\ncvt.rn.f32.u32 %f0, %r0;\nmov.f32 %f1, 0f3F800001;\n\
         mov.f32 %f2, 0f3F000000;\nmov.u32 %r10, %r0;\nmov.u32 %r11, 7;\nmov.u32 %r12, %r0;\nmov.u32 %r13, 1;\nLOOP:\n",
    );
    s.push_str(body);
    s.push_str(
        "add.u32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, %r2;\n@%p0 bra LOOP;\n\
         cvt.rzi.u32.f32 %r20, %f0;\nadd.u32 %r20, %r20, %r10;\nadd.u32 %r20, %r20, %r12;\n\
         ld.param.u64 %rd1, [out];\nmul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd1, %rd1, %rd2;\nst.global.u32 [%rd1], %r20;\nret;\n}\n",
    );
    s
}

fn alu() -> String {
    let mut s = String::new();
    for i in 0..4 {
        let _ = write!(
            s,
            "add.u32 %r10, %r10, %r11;\nxor.b32 %r12, %r12, %r10;\nfma.rn.f32 %f0, %f0, %f1, %f2;\n\
             shl.b32 %r13, %r12, {i};\nmul.lo.u32 %r11, %r11, %r13;\nmax.u32 %r14, %r10, %r12;\nand.b32 %r15, %r14, %r13;\n"
        );
    }
    s
}

fn mixed() -> String {
    let mut s = String::new();
    for _ in 0..4 {
        s.push_str(
            "ld.shared.u32 %r16, [%r5];\nadd.u32 %r10, %r10, %r16;\nsetp.gt.u32 %p1, %r10, %r12;\nselp.b32 %r12, %r10, %r16, %p1;\n\
             xor.b32 %r17, %r12, %r10;\nfma.rn.f32 %f0, %f0, %f1, %f2;\nst.shared.u32 [%r5], %r17;\n",
        );
    }
    s
}

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or(": unknown");
    println!("CPU{cpu}, one core; {WARPS} warps");
    let (alu, mixed) = (kernel(&alu()), kernel(&mixed()));
    for (name, text, checks, aim) in [
        ("ALU", &alu, Checks::NONE, 150.0),
        ("mixed", &mixed, Checks::NONE, 80.0),
        ("mixed, all checks", &mixed, Checks::ALL, 30.0),
    ] {
        let best = (0..3).map(|_| run(text, checks)).fold(0.0, f64::max);
        println!("{name:<20} {best:>7.1} M warp instructions/s (aim {aim})");
    }
}

fn run(text: &str, checks: Checks) -> f64 {
    let d = device(&Knobs {
        checks,
        ..Knobs::default()
    });
    let m = d.load(text).expect("a kernel");
    let mut out = d
        .stream
        .alloc_zeros::<u32>(32 * WARPS as usize)
        .expect("memory");
    let address = out.device_ptr_mut(&d.stream).0;
    let before = d.universe.totals().instructions;
    let t = Instant::now();
    d.launch(
        m,
        "k",
        [1, 1, 1],
        [32 * WARPS, 1, 1],
        0,
        &[Arg::U64(address), Arg::U32(ROUNDS)],
    )
    .expect("a run");
    let seconds = t.elapsed().as_secs_f64();
    (d.universe.totals().instructions - before) as f64 / seconds * 1e-6
}
