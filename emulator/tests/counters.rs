//! Counters of launches whose numbers are known by hand. Cost: a second.

mod common;

use common::{Arg, Device, device};
use cudarc::driver::{DevicePtrMut, sys};
use hadal_emulator::client::{AsyncMode, Checks, Counters, Knobs, Launched};

fn counting(unique_bytes: bool) -> Knobs {
    Knobs {
        counters: true,
        unique_bytes,
        ..Knobs::default()
    }
}

/// A kernel: `%r0` is the thread, `%rd0` the memory given, `%rd1` = `%rd0` + 4 × thread, `%r5` shared memory of 8 KiB.
fn kernel(directives: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q) {directives}\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<4>;\n.reg .b32 %r<40>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<10>;\n\
         .shared .align 1024 .b8 buf[8192];\n.shared .align 8 .b8 bar[8];\n\
         mov.u32 %r0, %tid.x;\nld.param.u64 %rd0, [p];\nmul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd1, %rd0, %rd1;\n\
         ld.param.u64 %rd5, [q];\nmov.u32 %r5, buf;\nmov.u32 %r6, bar;\nsetp.eq.u32 %p0, %r0, 0;\n{body}\nret;\n}}\n"
    )
}

/// Runs it with 64 KiB of zeroes on `blocks` blocks of `threads`.
fn run(d: &Device, text: &str, blocks: u32, threads: u32) -> Launched {
    let m = d.load(text).expect("a module");
    let mut memory = d.stream.alloc_zeros::<u32>(16384).expect("memory");
    let p = memory.device_ptr_mut(&d.stream).0;
    let args = [Arg::U64(p), Arg::U64(p)];
    let r = d.launch(m, "k", [blocks, 1, 1], [threads, 1, 1], 0, &args);
    assert_eq!(r, Ok(()), "{:?}", d.universe.reports());
    let mut all = d.universe.launches();
    println!("{}", all.last().expect("a launch"));
    all.pop().expect("a launch")
}

/// One warp executes `body` without checks (shared memory is read unwritten).
fn warp(body: &str) -> Counters {
    let knobs = Knobs {
        checks: Checks::NONE,
        ..counting(false)
    };
    run(&device(&knobs), &kernel("", body), 1, 32).counters
}

/// `%r7` = `%r5` + thread × `step`.
fn shared_at(step: u32, what: &str) -> String {
    format!("mul.lo.u32 %r7, %r0, {step};\nadd.u32 %r7, %r7, %r5;\n{what}")
}

#[test]
fn sectors_of_global_memory() {
    let at = |step: u32, what: &str| {
        format!("mul.wide.u32 %rd2, %r0, {step};\nadd.s64 %rd2, %rd0, %rd2;\n{what}")
    };
    // (bytes, sectors, in excess)
    for (body, want) in [
        (at(4, "ld.global.u32 %r1, [%rd2];"), (128, 4, 0)),
        (at(4, "ld.global.u32 %r1, [%rd2+4];"), (128, 5, 1)),
        (at(128, "ld.global.u32 %r1, [%rd2];"), (128, 32, 28)),
        (at(0, "ld.global.u32 %r1, [%rd2];"), (128, 1, 0)),
        (at(2, "ld.global.u16 %h1, [%rd2];"), (64, 2, 0)),
        (at(8, "ld.global.v2.u32 {%r1, %r2}, [%rd2];"), (256, 8, 0)),
        (
            at(16, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];"),
            (512, 16, 0),
        ),
        (
            at(32, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];"),
            (512, 32, 16),
        ),
        (at(4, "ld.u32 %r1, [%rd2];"), (128, 4, 0)),
        (
            at(
                4,
                "setp.lt.u32 %p1, %r0, 8;\n@%p1 ld.global.u32 %r1, [%rd2];",
            ),
            (32, 1, 0),
        ),
        // The register of the address is overwritten by the load.
        (at(8, "ld.global.u64 %rd2, [%rd2];"), (256, 8, 0)),
    ] {
        let c = warp(&body);
        let l = c.global.load;
        assert_eq!(
            (l.requests, l.bytes, l.sectors, l.excess_sectors),
            (1, want.0, want.1, want.2),
            "{body}"
        );
        assert_eq!(c.l2_to_sm_bytes(), 32 * want.1, "{body}");
        assert_eq!(
            c.lines.iter().map(|l| l.excess_sectors).sum::<u64>(),
            want.2,
            "{body}"
        );
        assert_eq!(c.global.store.requests, 0);
    }
    let c = warp(&at(64, "st.global.u32 [%rd2], %r0;"));
    assert_eq!((c.global.store.bytes, c.global.store.sectors), (128, 32));
    assert_eq!(c.sm_to_l2_bytes(), 1024);
    assert_eq!(c.transfers.len(), 1);
}

#[test]
fn conflicts_of_banks() {
    // (bytes, wavefronts, by conflicts)
    for (body, want) in [
        (shared_at(4, "ld.shared.u32 %r1, [%r7];"), (128, 1, 0)),
        (shared_at(128, "ld.shared.u32 %r1, [%r7];"), (128, 32, 31)),
        (shared_at(132, "ld.shared.u32 %r1, [%r7];"), (128, 1, 0)),
        (shared_at(0, "ld.shared.u32 %r1, [%r7];"), (128, 1, 0)),
        (shared_at(8, "ld.shared.u32 %r1, [%r7];"), (128, 2, 1)),
        (
            shared_at(8, "ld.shared.v2.u32 {%r1, %r2}, [%r7];"),
            (256, 2, 0),
        ),
        (shared_at(8, "ld.shared.u64 %rd2, [%r7];"), (256, 2, 0)),
        (
            shared_at(16, "ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%r7];"),
            (512, 4, 0),
        ),
        (
            shared_at(128, "ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%r7];"),
            (512, 32, 28),
        ),
        (shared_at(1, "ld.shared.u8 %h1, [%r7];"), (32, 1, 0)),
    ] {
        let l = warp(&body).shared.load;
        assert_eq!(
            (l.requests, l.bytes, l.wavefronts, l.extra_wavefronts),
            (1, want.0, want.1, want.2),
            "{body}"
        );
    }
    let c = warp(&shared_at(128, "st.shared.u32 [%r7], %r0;"));
    assert_eq!(c.shared.store.extra_wavefronts, 31);
    assert_eq!(c.bank_conflicts(), 31);
    let line = &c.lines[0];
    assert_eq!(
        (line.opcode.as_str(), line.executed, line.extra_wavefronts),
        ("st.shared.u32", 1, 31)
    );
    assert_eq!(c.global.load.requests + c.global.store.requests, 0);
}

/// Rows of 128 bytes, the same 16-byte column of each: eight rows in the same four banks, unless they are swizzled.
#[test]
fn matrices() {
    let plain = "mul.lo.u32 %r7, %r0, 128;\nadd.u32 %r7, %r7, %r5;\n";
    let swizzled = "and.b32 %r8, %r0, 7;\nshl.b32 %r8, %r8, 4;\nmul.lo.u32 %r7, %r0, 128;\nxor.b32 %r7, %r7, %r8;\nadd.u32 %r7, %r7, %r5;\n";
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r7];";
    let store = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r7], {%r0, %r0, %r0, %r0};";
    let l = warp(&format!("{plain}{load}")).shared.load;
    assert_eq!(
        (l.requests, l.bytes, l.wavefronts, l.extra_wavefronts),
        (1, 512, 32, 28)
    );
    let l = warp(&format!("{swizzled}{load}")).shared.load;
    assert_eq!(
        (l.requests, l.bytes, l.wavefronts, l.extra_wavefronts),
        (1, 512, 4, 0)
    );
    let s = warp(&format!("{plain}{store}")).shared.store;
    assert_eq!((s.wavefronts, s.extra_wavefronts), (32, 28));
    let x2 = "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r7];";
    let l = warp(&format!("{plain}{x2}")).shared.load;
    assert_eq!((l.bytes, l.wavefronts, l.extra_wavefronts), (256, 16, 14));
}

#[test]
fn mix_and_guards() {
    let body = "mov.u32 %r1, 0;\nLOOP:\nadd.u32 %r1, %r1, 1;\nadd.rn.f32 %f0, %f0, %f1;\nsetp.lt.u32 %p1, %r1, 10;\n@%p1 bra LOOP;\n\
                @!%p0 mov.u32 %r2, 1;\nsetp.gt.u32 %p2, %r0, 31;\n@%p2 mov.u32 %r3, 1;\nbar.sync 0;\nbar.warp.sync -1;\n";
    let d = device(&counting(false));
    let l = run(&d, &kernel("", body), 3, 64);
    assert_eq!(
        (l.kernel.as_str(), l.grid, l.block, l.completed),
        ("k", [3, 1, 1], [64, 1, 1], true)
    );
    let c = l.counters;
    let warps = 6;
    assert_eq!(c.blocks, 3);
    assert_eq!(c.opcodes["add.u32"], 10 * warps);
    assert_eq!(c.opcodes["bra"], 9 * warps);
    assert_eq!(c.classes["float"], 10 * warps);
    assert_eq!(c.classes["compare"], 12 * warps, "one in the kernel's head");
    assert_eq!(
        c.predicated_off,
        warps + 3,
        "bra at the end; %p2 holds in the second warp of a block alone"
    );
    assert_eq!(c.synced("bar.sync").executed, warps);
    // The first warp of a block waits for the second, which finds it there or waits for its turn.
    assert!((3..=6).contains(&c.synced("bar.sync").parked));
    assert_eq!(c.synced("bar.warp").executed, warps);
    assert_eq!(c.instructions, c.opcodes.values().sum::<u64>());
    assert_eq!(c.instructions, c.classes.values().sum::<u64>());
    // One lane of each block does not take the guarded mov.
    assert_eq!(c.thread_instructions, 32 * (c.instructions) - 3);
}

#[test]
fn atomics_fences_and_polls() {
    let body = "atom.global.add.u32 %r1, [%rd0], 1;\nred.global.add.u32 [%rd1], 1;\nst.shared.u32 [%r5], %r0;\natom.shared.add.u32 %r1, [%r5], 1;\n\
                ld.acquire.sys.global.u32 %r1, [%rd0];\nld.volatile.global.u32 %r1, [%rd0];\nld.global.u32 %r1, [%rd0];\n\
                fence.acq_rel.gpu;\nfence.acq_rel.sys;\nfence.sc.sys;\nmembar.sys;\nmembar.gl;\nfence.proxy.async;\n\
                st.release.sys.global.u32 [%rd0], %r0;\nred.release.sys.global.add.u32 [%rd0], 1;\nred.relaxed.sys.global.add.u32 [%rd0], 1;";
    let knobs = Knobs {
        checks: Checks::NONE,
        ..counting(false)
    };
    let c = run(&device(&knobs), &kernel("", body), 2, 32).counters;
    assert_eq!(c.global.atomic.requests, 2 * 4);
    assert_eq!(c.global.atomic.bytes, 2 * 4 * 128);
    assert_eq!(c.global.atomic.sectors, 2 * (1 + 4 + 1 + 1));
    assert_eq!(c.shared.atomics, 64);
    assert_eq!(c.strong_loads, 4);
    assert_eq!(c.fences["fence.acq_rel.gpu"], 2);
    assert_eq!(c.fences["membar.gl"], 2);
    assert_eq!(c.fences["fence.proxy.async"], 2);
    assert_eq!(
        c.system_releases,
        2 * 5,
        "two fences, membar.sys, st.release.sys, red.release.sys"
    );
}

/// A bulk copy that reaches four blocks reads its bytes once.
#[test]
fn multicast() {
    let body = "mov.u32 %r1, %cluster_ctarank;\nsetp.eq.and.u32 %p1, %r1, 0, %p0;\n\
         @%p0 mbarrier.init.shared::cta.b64 [%r6], 1;\n@%p0 fence.mbarrier_init.release.cluster;\n\
         barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], 256;\nmov.u16 %h0, 15;\n\
         @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5], [%rd0], 256, [%r6], %h0;\n\
         WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6], 0;\n@!%p2 bra WAIT;\n\
         mapa.shared::cluster.u32 %r8, %r5, 3;\nld.shared::cluster.u32 %r9, [%r8];\n\
         barrier.cluster.arrive;\nbarrier.cluster.wait;";
    for async_mode in [AsyncMode::Lazy, AsyncMode::Eager] {
        let d = device(&Knobs {
            async_mode,
            ..counting(true)
        });
        let l = run(&d, &kernel(".reqnctapercluster 4, 1, 1", body), 8, 64);
        assert_eq!(l.cluster, [4, 1, 1]);
        let c = l.counters;
        assert_eq!(
            (c.tma.loads, c.tma.load_bytes, c.tma.delivered_bytes),
            (2, 512, 8 * 256)
        );
        assert_eq!(c.l2_to_sm_bytes(), 512);
        assert_eq!(
            c.unique_read_bytes(),
            256,
            "both clusters read the same bytes"
        );
        // Block 3 of each cluster reads its own memory; the other six read 64 words of it.
        assert_eq!(c.dsmem.load_bytes, 6 * 64 * 4);
        assert_eq!(c.shared.load.bytes, 2 * 64 * 4);
        assert_eq!(c.synced("barrier.cluster.wait").executed, 2 * 8 * 2);
        assert_eq!(c.synced("mbarrier.try_wait").executed, 8 * 2);
    }
}

#[test]
fn bulk_stores() {
    let body = "@%p0 st.shared.v4.u32 [%r5], {%r0, %r0, %r0, %r0};\nfence.proxy.async;\n\
         @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r5], 16;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;";
    let c = run(&device(&counting(true)), &kernel("", body), 5, 32).counters;
    assert_eq!((c.tma.stores, c.tma.store_bytes), (5, 80));
    assert_eq!(c.unique_written_bytes(), 32, "one sector, five times");
    assert_eq!(c.sm_to_l2_bytes(), 80);
    let a = c.allocations[0];
    assert_eq!((a.bytes, a.store_bytes, a.load_bytes), (65536, 80, 0));
}

#[test]
fn repeats_are_told_from_first_touches() {
    let body = "mov.u32 %r1, 0;\nLOOP:\nld.global.u32 %r2, [%rd1];\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p1, %r1, 10;\n@%p1 bra LOOP;\n\
                st.global.u32 [%rd1+4096], %r2;";
    let c = run(&device(&counting(true)), &kernel("", body), 4, 64).counters;
    assert_eq!(c.global_read_bytes(), 4 * 64 * 4 * 10);
    assert_eq!(c.unique_read_bytes(), 64 * 4);
    assert_eq!(c.unique_written_bytes(), 64 * 4);
    assert_eq!(c.global_written_bytes(), 4 * 64 * 4);
    assert_eq!(c.allocations.len(), 1);
}

/// Two devices: bytes that cross between them are told from those that stay.
#[test]
fn devices() {
    let d = device(&Knobs {
        devices: 2,
        ..counting(false)
    });
    let (a, b) = (d.universe.ordinal(0) as u32, d.universe.ordinal(1) as u32);
    let other = cudarc::driver::CudaContext::new(b as usize).expect("a context");
    let theirs = other
        .default_stream()
        .alloc_zeros::<u32>(64)
        .expect("memory");
    other.default_stream().synchronize().expect("done");
    d.context.bind_to_thread().expect("current");
    // SAFETY: a live context; the memory outlives the launch.
    unsafe { sys::cuCtxEnablePeerAccess(other.cu_ctx(), 0) }
        .result()
        .expect("peer access");
    let mut ours = d.stream.alloc_zeros::<u32>(64).expect("memory");
    let body = "mul.wide.u32 %rd6, %r0, 4;\nadd.s64 %rd6, %rd5, %rd6;\nld.global.u32 %r1, [%rd6];\nst.global.u32 [%rd1], %r1;\n\
                ld.global.v2.u32 {%r1, %r2}, [%rd0];\nred.global.add.u32 [%rd6], 1;";
    let m = d.load(&kernel("", body)).expect("a module");
    let theirs_at = cudarc::driver::DevicePtr::device_ptr(&theirs, &other.default_stream()).0;
    let args = [
        Arg::U64(ours.device_ptr_mut(&d.stream).0),
        Arg::U64(theirs_at),
    ];
    d.launch(m, "k", [1, 1, 1], [32, 1, 1], 0, &args)
        .expect("a run");
    let c = &d.universe.launches()[0].counters;
    println!("{c}");
    assert_eq!(c.transferred(Some(b), Some(a)), 128);
    assert_eq!(c.transferred(Some(a), Some(b)), 128, "the reduction");
    assert_eq!(
        c.transferred(Some(a), Some(a)),
        128 + 256,
        "the store, the vectors"
    );
    assert_eq!(c.transfers.len(), 3);
}

/// One warpgroup, one operation: 64 × 8 × 16.
#[test]
fn tensor_operations() {
    let body = "mov.u64 %rd2, 0x4000004000000000;\nwgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}, %rd3, %rd3, 0, 1, 1, 0, 0;\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";
    let body = format!(
        "shr.u32 %r7, %r5, 4;\ncvt.u64.u32 %rd3, %r7;\nor.b64 %rd3, %rd3, 0x0000004000010000;\n{body}"
    );
    let d = device(&Knobs {
        checks: Checks::NONE,
        ..counting(false)
    });
    let c = run(&d, &kernel("", &body), 1, 128).counters;
    assert_eq!(c.tensor_macs["wgmma.f16"], 64 * 8 * 16);
    assert_eq!(c.macs(), d.universe.totals().wgmma_macs);
    assert_eq!(c.synced("wgmma.wait_group").executed, 4);
    assert_eq!(c.fences["wgmma.fence.sync.aligned"], 4);
}

#[test]
fn a_launch_that_fails_is_noted_and_off_means_off() {
    let d = device(&counting(false));
    let m = d.load(&kernel("", "trap;")).expect("a module");
    let args = [Arg::U64(0), Arg::U64(0)];
    assert!(d.launch(m, "k", [1, 1, 1], [32, 1, 1], 0, &args).is_err());
    let all = d.universe.launches();
    assert_eq!(all.len(), 1);
    assert!(!all[0].completed);
    let text = serde_json::to_string(&all).expect("a text");
    let back: Vec<Launched> = serde_json::from_str(&text).expect("the same");
    assert_eq!(back, all);

    let d = device(&Knobs::default());
    let m = d.load(&kernel("", "")).expect("a module");
    d.launch(m, "k", [1, 1, 1], [32, 1, 1], 0, &args)
        .expect("a run");
    assert!(d.universe.launches().is_empty());
    assert_eq!(d.universe.totals().grids, 1);
}
