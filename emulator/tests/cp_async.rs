//! cp.async: sizes, what is left out of the source, groups, mbarriers; races and proxies. Cost: seconds.

mod common;

use common::bench::{Bench, word};

fn bench() -> Bench {
    Bench {
        target: "sm_80",
        ..Bench::default()
    }
}

/// Every size and cache level; each thread copies 16 bytes from 16 tid into its own place and stores what came 2048 on.
#[test]
fn sizes_and_left_out_bytes() {
    let copy = |op: &str| {
        format!(
            "shl.b32 %r5, %r0, 4; add.u32 %r6, %r2, %r5; cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd0, %rd1;\n\
             mov.u32 %r10, 0x11111111; st.shared.v4.b32 [%r6], {{%r10, %r10, %r10, %r10}};\n\
             and.b32 %r7, %r0, 7; setp.lt.u32 %p3, %r7, 3;\n{op}\n\
             cp.async.commit_group;\ncp.async.wait_group 0;\n\
             ld.shared.v4.b32 {{%r11, %r12, %r13, %r14}}, [%r6];\nst.global.v4.b32 [%rd1+2048], {{%r11, %r12, %r13, %r14}};"
        )
    };
    // The instruction, the bytes it writes, the bytes that thread t reads.
    type Case = (&'static str, usize, fn(usize) -> usize);
    let cases: [Case; 9] = [
        ("cp.async.ca.shared.global [%r6], [%rd1], 4;", 4, |_| 4),
        ("cp.async.ca.shared::cta.global [%r6], [%rd1], 8;", 8, |_| 8),
        (
            "cp.async.ca.shared.global.L2::128B [%r6], [%rd1], 16;",
            16,
            |_| 16,
        ),
        ("cp.async.cg.shared.global [%r6], [%rd1], 16;", 16, |_| 16),
        ("cp.async.cg.shared.global [%r6], [%rd1], 16, 0;", 16, |_| 0),
        (
            "cp.async.cg.shared.global [%r6], [%rd1], 16, %r7;",
            16,
            |t| t % 8,
        ),
        (
            "min.u32 %r7, %r7, 4; cp.async.ca.shared.global [%r6], [%rd1], 4, %r7;",
            4,
            |t| (t % 8).min(4),
        ),
        ("cp.async.ca.shared.global [%r6], [%rd1], 8, %p3;", 8, |t| {
            if t % 8 < 3 { 0 } else { 8 }
        }),
        (
            "createpolicy.fractional.L2::evict_first.b64 %rd2, 1.0;\n\
             cp.async.cg.shared.global.L2::cache_hint.L2::256B [%r6], [%rd1], 16, %r7, %rd2;",
            16,
            |t| t % 8,
        ),
    ];
    for (op, bytes, read) in cases {
        let out = bench().passes(&copy(op));
        let input = bench().memory;
        for t in 0..64 {
            let mut want = [0x11; 16];
            want[..bytes].fill(0);
            let n = read(t);
            want[..n].copy_from_slice(&input[16 * t..16 * t + n]);
            assert_eq!(out[2048 + 16 * t..2064 + 16 * t], want, "{op} thread {t}");
        }
    }
}

/// A size of 0 and an ignored source touch nothing: the address may be anything.
#[test]
fn nothing_is_read_where_nothing_is_asked() {
    bench().passes(
        "mov.u64 %rd1, 24; @%p0 cp.async.cg.shared.global [%r2], [%rd1], 16, 0; cp.async.wait_all;",
    );
    bench().passes("setp.ne.u32 %p3, %r0, 9999; mov.u64 %rd1, 1; @%p0 cp.async.ca.shared.global [%r2], [%rd1], 4, %p3; cp.async.wait_all;");
    bench().trips(
        "mov.u64 %rd1, 32; @%p0 cp.async.cg.shared.global [%r2], [%rd1], 16; cp.async.wait_all;",
        "bounds",
    );
    bench().trips(
        "@%p0 cp.async.cg.shared.global [%r2], [%rd0+4096], 16; cp.async.wait_all;",
        "bounds",
    );
    bench().trips(
        "@%p0 cp.async.cg.shared.global [%r2], [%rd0+8], 16;",
        "alignment",
    );
    bench().trips(
        "@%p0 cp.async.ca.shared.global [%r2+4], [%rd0], 8;",
        "alignment",
    );
    bench().trips(
        "mov.u32 %r5, 5; @%p0 cp.async.ca.shared.global [%r2], [%rd0], 4, %r5;",
        "cp.async",
    );
    bench().trips(
        "@%p0 cp.async.cg.shared.global [%r2+32768], [%rd0], 16; cp.async.wait_all;",
        "bounds",
    );
}

/// Three groups; the wait for all but the newest lets the first two be read, by other warps behind a barrier.
const GROUPS: &str = "mov.u32 %r20, 1024; shl.b32 %r5, %r0, 2; cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd0, %rd1;\n\
     cp.async.ca.shared.global [%r4], [%rd1], 4; cp.async.commit_group;\n\
     cp.async.ca.shared.global [%r4+256], [%rd1+256], 4; cp.async.commit_group;\n\
     cp.async.ca.shared.global [%r4+512], [%rd1+512], 4; cp.async.commit_group;\n";

#[test]
fn groups_are_waited_for_in_order() {
    let read = |wait: &str, at: u32| {
        format!(
            "{GROUPS}{wait}\nbar.sync 0;\nxor.b32 %r6, %r0, 32; shl.b32 %r6, %r6, 2; add.u32 %r6, %r6, %r2;\n\
             ld.shared.u32 %r7, [%r6+{at}]; st.global.u32 [%rd1+2048], %r7; cp.async.wait_all;"
        )
    };
    for (n, at) in [(2, 0), (1, 256), (1, 0), (0, 512), (0, 256)] {
        let out = bench().passes(&read(&format!("cp.async.wait_group {n};"), at));
        for t in 0..64usize {
            let from = 4 * (t ^ 32) + at as usize;
            assert_eq!(word(&out, 2048 + 4 * t), word(&bench().memory, from));
        }
    }
    bench().passes(&read("cp.async.wait_all;", 512));
    for (n, at) in [(3, 0), (2, 256), (1, 512)] {
        bench().trips(&read(&format!("cp.async.wait_group {n};"), at), "race");
    }
    bench().trips(&read("", 0), "race");
    // Without the barrier the other warp knows nothing of the wait.
    bench().trips(
        &read("cp.async.wait_all;", 0).replace("bar.sync 0;", ""),
        "race",
    );
    // Written while the copy may still come.
    bench().trips(&format!("{GROUPS}st.shared.u32 [%r4], %r0;"), "race");
    bench().passes(&format!(
        "{GROUPS}cp.async.wait_group 2; st.shared.u32 [%r4], %r0;"
    ));
    // An uncommitted copy belongs to no group that wait_group waits for; wait_all waits for it.
    let open = |wait: &str| {
        format!(
            "shl.b32 %r5, %r0, 2; cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd0, %rd1;\n\
             cp.async.ca.shared.global [%r4], [%rd1], 4;\n{wait}\nld.shared.u32 %r7, [%r4];"
        )
    };
    bench().trips(&open("cp.async.wait_group 0;"), "race");
    bench().passes(&open("cp.async.wait_all;"));
}

/// Groups are a thread's own: half of the lanes commit twice.
#[test]
fn groups_are_per_thread() {
    let out = bench().passes(&format!(
        "{GROUPS}setp.lt.u32 %p4, %r0, 16;\n@%p4 cp.async.commit_group;\ncp.async.wait_group 0;\n\
         ld.shared.u32 %r7, [%r4+512]; st.global.u32 [%rd1+2048], %r7;"
    ));
    for t in 0..64 {
        assert_eq!(word(&out, 2048 + 4 * t), word(&bench().memory, 4 * t + 512));
    }
}

/// Warp 0 copies and tracks its copies with an mbarrier of 32 (+ 0) arrivals, warp 1 reads behind it.
fn tracked(count: u32, arrive: &str, wait: &str) -> String {
    format!(
        "@%p0 mbarrier.init.shared.b64 [%r3], {count};\nshl.b32 %r5, %r0, 4; add.u32 %r6, %r2, %r5;\n\
         st.shared.v4.u32 [%r6], {{%r0, %r0, %r0, %r0}};\nbar.sync 0;\n cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd0, %rd1;\n\
         @!%p1 bra READ;\ncp.async.cg.shared.global [%r6], [%rd1], 16;\n{arrive}\nbra END;\n\
         READ:\n{wait}\nld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r6+-512];\n\
         st.global.v4.u32 [%rd1+1536], {{%r10, %r11, %r12, %r13}};\nEND:\n"
    )
}

const WAIT: &str = "W: mbarrier.try_wait.parity.shared.b64 %p5, [%r3], 0;\n@!%p5 bra W;";

#[test]
fn mbarriers_track_copies() {
    let noinc = "cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];";
    // Without .noinc each asynchronous arrival brings its own count; the ordinary ones complete the phase.
    let counted =
        "cp.async.mbarrier.arrive.shared::cta.b64 [%r3]; mbarrier.arrive.shared.b64 %rd5, [%r3];";
    for arrive in [
        noinc,
        counted,
        &noinc.replace(".shared", "").replace("[%r3]", "[%rd9]"),
    ] {
        let generic = "cvt.u64.u32 %rd8, %r3; cvta.shared.u64 %rd9, %rd8;\n";
        let body = tracked(32, &format!("{generic}{arrive}"), WAIT);
        let out = Bench::default().passes(&body);
        assert_eq!(out[2048..2560], Bench::default().memory[..512], "{arrive}");
    }
    // No wait; a wait for a phase that does not depend on the copies.
    Bench::default().trips(&tracked(32, noinc, ""), "race");
    Bench::default().trips(
        &tracked(32, "mbarrier.arrive.shared.b64 %rd5, [%r3];", WAIT),
        "race",
    );
    // A copy behind the arrival is not tracked by it.
    Bench::default().trips(
        &tracked(
            32,
            "cp.async.mbarrier.arrive.noinc.shared.b64 [%r3]; cp.async.cg.shared.global [%r6], [%rd1], 16; cp.async.wait_all;",
            WAIT,
        ),
        "race",
    );
    // An object that is not there.
    Bench::default().trips(
        "@%p0 cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];",
        "mbarrier",
    );
}

/// Copies are of the generic proxy: a bulk copy of what they brought needs a fence behind the wait.
#[test]
fn the_async_proxy_needs_a_fence() {
    let body = |fence: &str| {
        format!(
            "@!%p0 bra END;\ncp.async.cg.shared.global [%r2], [%rd0], 16; cp.async.wait_all;\n{fence}\n\
             cp.async.bulk.global.shared::cta.bulk_group [%rd0+2048], [%r2], 16;\n\
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\nEND:\n"
        )
    };
    let b = Bench::default();
    b.trips(&body(""), "proxy");
    let out = b.passes(&body("fence.proxy.async.shared::cta;"));
    assert_eq!(out[2048..2064], b.memory[..16]);
}
