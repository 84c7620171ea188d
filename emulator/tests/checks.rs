//! Each check with a kernel that trips it and a near miss that does not. Cost: seconds.

mod common;

use common::{Arg, Device, device};
use cudarc::driver::{DevicePtr, sys::CUresult as Code};
use hadal_emulator::client::{Checks, Knobs, Report, Schedule};

/// A kernel of 64 threads (two warps) with 1 KiB of shared memory `buf`, an mbarrier `bar` and a global buffer `%rd0`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<8>;\n.reg .b32 %r<40>;\n.reg .f32 %f<40>;\n.reg .b64 %rd<16>;\n\
         .shared .align 1024 .b8 buf[4096];\n.shared .align 8 .b8 bar[8];\n\
         ld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\nshr.u32 %r1, %r0, 5;\nmov.u32 %r2, buf;\nmov.u32 %r3, bar;\n\
         shl.b32 %r4, %r0, 2;\nadd.u32 %r4, %r4, %r2;\nsetp.eq.u32 %p0, %r0, 0;\nsetp.eq.u32 %p1, %r1, 0;\n{body}\nret;\n}}\n"
    )
}

fn knobs() -> Knobs {
    Knobs {
        step_limit: 1_000_000,
        ..Knobs::default()
    }
}

/// Runs it on `threads` threads with 256 written bytes of global memory.
fn run_with(body: &str, threads: u32, knobs: &Knobs) -> (Result<(), Code>, Vec<Report>) {
    let d: Device = device(knobs);
    let m = d.load(&kernel(body)).expect("a module");
    let memory = d.stream.clone_htod(&[0u8; 256]).expect("memory");
    let p = memory.device_ptr(&d.stream).0;
    let r = d.launch(m, "k", [1, 1, 1], [threads, 1, 1], 0, &[Arg::U64(p)]);
    (r, d.universe.reports())
}

fn run(body: &str) -> (Result<(), Code>, Vec<Report>) {
    run_with(body, 64, &knobs())
}

/// The run fails with `code`, the first finding is of `check`.
#[track_caller]
fn trips(body: &str, check: &str, code: Code) -> Report {
    let (r, reports) = run(body);
    let first = reports.into_iter().next().expect("a finding");
    assert_eq!((first.check.as_str(), r), (check, Err(code)), "{first}");
    assert_eq!(first.kernel, "k");
    first
}

#[track_caller]
fn passes(body: &str) {
    let (r, reports) = run(body);
    assert!(
        r.is_ok() && reports.is_empty(),
        "{r:?} {}",
        reports.iter().map(ToString::to_string).collect::<String>()
    );
}

#[test]
fn bounds() {
    let r = trips(
        "@%p0 ld.global.u32 %r5, [%rd0+256];",
        "bounds",
        Code::CUDA_ERROR_ILLEGAL_ADDRESS,
    );
    assert_eq!(
        (r.instruction.as_str(), r.lanes, r.thread),
        ("ld.global.u32", 1, [0, 0, 0])
    );
    passes("@%p0 ld.global.u32 %r5, [%rd0+252];");
    trips(
        "@%p0 st.global.u32 [%rd0+-4], %r0;",
        "bounds",
        Code::CUDA_ERROR_ILLEGAL_ADDRESS,
    );
    trips(
        "@%p0 ld.shared.u32 %r5, [%r2+8192];",
        "bounds",
        Code::CUDA_ERROR_ILLEGAL_ADDRESS,
    );
}

#[test]
fn alignment() {
    trips(
        "@%p0 ld.global.u32 %r5, [%rd0+2];",
        "alignment",
        Code::CUDA_ERROR_MISALIGNED_ADDRESS,
    );
    passes("@%p0 ld.global.u16 %r5, [%rd0+2];");
    trips(
        "@%p0 st.shared.v4.b32 [%r2+8], {%r0, %r0, %r0, %r0};",
        "alignment",
        Code::CUDA_ERROR_MISALIGNED_ADDRESS,
    );
    passes("@%p0 st.shared.v4.b32 [%r2+16], {%r0, %r0, %r0, %r0};");
}

#[test]
fn use_after_free() {
    let d = device(&knobs());
    let m = d.load(&kernel("@%p0 ld.global.u32 %r5, [%rd0];")).unwrap();
    let go = |p| d.launch(m, "k", [1, 1, 1], [64, 1, 1], 0, &[Arg::U64(p)]);
    let memory = d.stream.clone_htod(&[0u8; 256]).unwrap();
    let p = memory.device_ptr(&d.stream).0;
    assert_eq!(go(p), Ok(()));
    drop(memory);
    let other = d.stream.clone_htod(&[0u8; 256]).unwrap();
    assert_eq!(go(p), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(d.report().check, "use-after-free");
    drop(other);
}

#[test]
fn uninitialised_shared() {
    let r = trips(
        "ld.shared.u32 %r5, [%r4];",
        "uninitialised",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
    assert_eq!(r.instruction, "ld.shared.u32");
    passes("st.shared.u32 [%r4], %r0;\nld.shared.u32 %r5, [%r4];");
    // One byte of four.
    trips(
        "@%p0 st.shared.u8 [%r2], %r0;\n@%p0 ld.shared.u16 %r5, [%r2];",
        "uninitialised",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
    passes("@%p0 st.shared.u16 [%r2], %r0;\n@%p0 ld.shared.u8 %r5, [%r2+1];");
}

#[test]
fn races_on_shared_memory() {
    // Each warp reads what the other wrote.
    let zero = "st.shared.u32 [%r4], 0;\nbar.sync 0;\n";
    let swap = |between: &str| {
        format!(
            "{zero}st.shared.u32 [%r4], %r0;\n{between}\nxor.b32 %r6, %r4, 128;\nld.shared.u32 %r5, [%r6];"
        )
    };
    for seed in 0..8 {
        let k = Knobs {
            schedule: Schedule::Random,
            seed,
            ..knobs()
        };
        let (r, reports) = run_with(&swap(""), 64, &k);
        assert_eq!(r, Err(Code::CUDA_ERROR_LAUNCH_FAILED));
        assert!(
            reports[0].check == "race" && reports[0].other.is_some(),
            "{}",
            reports[0]
        );
    }
    passes(&swap("bar.sync 0;"));
    // Reads that a barrier comes too early for.
    let again = format!("{}\n", swap("bar.sync 0;"));
    trips(
        &format!(
            "{again}xor.b32 %r6, %r4, 128;\nst.shared.u32 [%r6], %r1;\nst.shared.u32 [%r4], %r1;"
        ),
        "race",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
    passes(&format!("{again}bar.sync 0;\nst.shared.u32 [%r4], %r1;"));
    // A barrier that only one warp takes part in orders nothing between the two.
    trips(
        &swap("@%p1 bar.sync 1, 32;"),
        "race",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
}

#[test]
fn proxies() {
    let copy = |fence: &str, after: &str| {
        format!(
            "st.shared.u32 [%r4], %r0;\n{fence}\nbar.sync 0;\n{after}\n\
             @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r2], 256;\n\
             @%p0 cp.async.bulk.commit_group;\n@%p0 cp.async.bulk.wait_group 0;"
        )
    };
    let r = trips(&copy("", ""), "proxy", Code::CUDA_ERROR_LAUNCH_FAILED);
    assert!(r.other.is_some_and(|o| o.contains("fence.proxy.async")));
    passes(&copy("fence.proxy.async;", ""));
    // The writer has to fence: the issuer's fence after the barrier is no substitute.
    trips(
        &copy("", "fence.proxy.async;"),
        "proxy",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
}

#[test]
fn a_source_that_is_overwritten_while_it_is_copied() {
    let body = |wait: &str| {
        format!(
            "st.shared.u32 [%r4], %r0;\nfence.proxy.async;\nbar.sync 0;\n\
             @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r2], 256;\n\
             @%p0 cp.async.bulk.commit_group;\n{wait}\n@%p0 st.shared.u32 [%r2], %r1;\n\
             @%p0 cp.async.bulk.wait_group 0;"
        )
    };
    trips(&body(""), "race", Code::CUDA_ERROR_LAUNCH_FAILED);
    passes(&body("@%p0 cp.async.bulk.wait_group.read 0;"));
}

#[test]
fn mbarriers() {
    let wait = "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;\n@!%p2 bra WAIT;";
    let init = "@%p0 mbarrier.init.shared::cta.b64 [%r3], 64;\nbar.sync 0;\n";
    trips(wait, "mbarrier", Code::CUDA_ERROR_LAUNCH_FAILED);
    passes(&format!(
        "{init}mbarrier.arrive.shared::cta.b64 _, [%r3];\n{wait}"
    ));
    // 63 arrivals of 64.
    let r = trips(
        &format!("{init}@!%p0 mbarrier.arrive.shared::cta.b64 _, [%r3];\n{wait}"),
        "deadlock",
        Code::CUDA_ERROR_LAUNCH_TIMEOUT,
    );
    assert!(r.message.contains("mbarrier"), "{r}");
    trips(
        "@%p0 mbarrier.init.shared::cta.b64 [%r3], 0;",
        "mbarrier",
        Code::CUDA_ERROR_LAUNCH_FAILED,
    );
    passes("@%p0 mbarrier.init.shared::cta.b64 [%r3], 1;");
}

#[test]
fn bytes_of_an_mbarrier() {
    let load = |bytes: u32| {
        format!(
            "@%p0 mbarrier.init.shared::cta.b64 [%r3], 1;\n@%p0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n\
             @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {bytes};\n\
             @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 256, [%r3];\n\
             WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;\n@!%p2 bra WAIT;\nld.shared.u32 %r5, [%r4];"
        )
    };
    passes(&load(256));
    let r = trips(&load(272), "deadlock", Code::CUDA_ERROR_LAUNCH_TIMEOUT);
    assert!(r.message.contains("16"), "names what is missing: {r}");
    let (r, reports) = run(&load(240));
    assert!(
        r.is_err() && !reports.is_empty(),
        "too few bytes are expected"
    );
}

#[test]
fn deadlocks_and_endless_loops() {
    let r = trips(
        "@%p1 bar.sync 1, 64;",
        "deadlock",
        Code::CUDA_ERROR_LAUNCH_TIMEOUT,
    );
    assert!(r.message.contains("barrier 1"), "{r}");
    passes("bar.sync 1, 64;");
    let (r, _) = run("LOOP:\nbra LOOP;");
    assert_eq!(r, Err(Code::CUDA_ERROR_LAUNCH_TIMEOUT));
    let (r, reports) = run("trap;");
    assert!(r.is_err());
    assert_eq!(reports[0].check, "trap");
}

/// A 64 x 8 x 16 product of zeroes by one warpgroup; `read` comes between issue and wait, `fence` before.
fn product(fence: &str, read: &str) -> String {
    let zero: String = (0..8)
        .map(|i| {
            format!(
                "st.shared.v4.b32 [%r8+{}], {{%r9, %r9, %r9, %r9}};\n",
                i * 16
            )
        })
        .collect();
    // Descriptors: no swizzle, offsets of 128 and 256 bytes between core matrices.
    format!(
        "shl.b32 %r8, %r0, 5;\nadd.u32 %r8, %r8, %r2;\nmov.u32 %r9, 0;\n{}\
         mov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\nmov.f32 %f3, %f0;\n\
         fence.proxy.async;\nbar.sync 0;\n\
         shr.u32 %r10, %r2, 4;\nor.b32 %r10, %r10, 0x80000;\nmov.u32 %r11, 0x10;\nmov.b64 %rd1, {{%r10, %r11}};\n\
         {fence}\nwgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %rd1, %rd1, 1, 1, 1, 0, 0;\n\
         wgmma.commit_group.sync.aligned;\n{read}\nwgmma.wait_group.sync.aligned 0;\nadd.f32 %f5, %f0, %f1;",
        zero.lines()
            .take(2)
            .map(|l| format!("{l}\n"))
            .collect::<String>()
    )
}

#[test]
fn registers_of_matrix_operations_in_flight() {
    let go = |body: &str| run_with(body, 128, &knobs());
    let (r, reports) = go(&product("wgmma.fence.sync.aligned;", ""));
    assert!(r.is_ok() && reports.is_empty(), "{r:?} {reports:?}");
    let (r, reports) = go(&product(
        "wgmma.fence.sync.aligned;",
        "add.f32 %f6, %f2, %f2;",
    ));
    assert!(r.is_err());
    assert_eq!(reports[0].check, "wgmma", "{}", reports[0]);
    // One group may be pending: it is this one.
    let one = "wgmma.wait_group.sync.aligned 1;\nadd.f32 %f6, %f2, %f2;";
    let (r, reports) = go(&product("wgmma.fence.sync.aligned;", one));
    assert!(r.is_err());
    assert_eq!(reports[0].check, "wgmma", "{}", reports[0]);
    // A register of its own may be touched.
    let (r, _) = go(&product(
        "wgmma.fence.sync.aligned;",
        "mov.f32 %f6, 0f00000000;",
    ));
    assert!(r.is_ok());
    // The accumulators were written before, and no fence orders that.
    let (r, reports) = go(&product("", ""));
    assert!(r.is_err());
    assert_eq!(reports[0].check, "wgmma", "{}", reports[0]);
}

#[test]
fn the_register_pool() {
    let go = |dec: &str| {
        let text = kernel(&format!(
            "setp.lt.u32 %p2, %r1, 8;\n@%p2 bra MATH;\n{dec}\nret;\nMATH:\nsetmaxnreg.inc.sync.aligned.u32 232;"
        ));
        let text = text.replace(
            "k(.param .u64 p)",
            "k(.param .u64 p)\n.maxntid 384, 1, 1\n.minnctapersm 1",
        );
        let d = device(&knobs());
        let m = d.load(&text).expect("a module");
        let r = d.launch(m, "k", [1, 1, 1], [384, 1, 1], 0, &[Arg::U64(0)]);
        (r, d.universe.reports())
    };
    let (r, reports) = go("setmaxnreg.dec.sync.aligned.u32 40;");
    assert!(r.is_ok(), "{r:?} {reports:?}");
    // Warps that end keep their registers.
    let (r, reports) = go("");
    assert_eq!(r, Err(Code::CUDA_ERROR_LAUNCH_TIMEOUT));
    assert!(
        reports[0].check == "deadlock" && reports[0].message.contains("registers"),
        "{}",
        reports[0]
    );
}

#[test]
fn checks_can_be_turned_off() {
    let off = Knobs {
        checks: Checks::NONE,
        ..knobs()
    };
    let (r, reports) = run_with("ld.shared.u32 %r5, [%r4];", 64, &off);
    assert!(r.is_ok() && reports.is_empty());
    // Bounds cannot.
    let (r, _) = run_with("@%p0 ld.global.u32 %r5, [%rd0+256];", 64, &off);
    assert_eq!(r, Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
}

#[test]
fn unknown_instructions_are_refused_with_their_line() {
    let d = device(&knobs());
    for (body, word) in [
        ("frobnicate.u32 %r5, %r4;", "frobnicate"),
        ("add.u32.fast %r5, %r4, %r4;", "fast"),
        ("ld.global.u32 %r5, [%rd77];", "%rd77"),
        ("@%p0 bra NOWHERE;", "NOWHERE"),
    ] {
        let e = d.load(&kernel(body)).expect_err(body);
        assert!(e.contains("INVALID_PTX") && e.contains(word), "{e}");
    }
}
