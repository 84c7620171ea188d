//! Instructions against their meaning written out on the host: warp exchange, votes, atomics, divergence, matrix loads and
//! stores, local memory, bit fields. Cost: a second.

mod common;

use common::{Arg, device};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use hadal_emulator::client::{Knobs, Schedule};

/// Runs `body` on 64 threads; each thread's `%r0` is its number, `%r1` its lane, `%rd0` the address of 64 words that hold
/// `input`, `buf` 4 KiB of shared memory at `%r2`. Gives `%r50` of each thread, and the 64 words.
fn run(body: &str, input: &[u32; 64]) -> (Vec<u32>, Vec<u32>) {
    let mut last = None;
    for seed in 0..3 {
        let schedule = if seed == 0 {
            Schedule::RoundRobin
        } else {
            Schedule::Random
        };
        let d = device(&Knobs {
            seed,
            schedule,
            ..Knobs::default()
        });
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 o)\n{{\n\
             .reg .pred %p<10>;\n.reg .b16 %h<10>;\n.reg .b32 %r<60>;\n.reg .f32 %f<20>;\n.reg .b64 %rd<20>;\n.reg .f64 %d<4>;\n\
             .local .align 16 .b8 depot[256];\n.shared .align 1024 .b8 buf[4096];\n\
             ld.param.u64 %rd0, [p];\nld.param.u64 %rd1, [o];\nmov.u32 %r0, %tid.x;\nand.b32 %r1, %r0, 31;\nmov.u32 %r2, buf;\n\
             mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd0, %rd2;\nld.global.u32 %r3, [%rd3];\nbar.sync 0;\n{body}\n\
             add.s64 %rd1, %rd1, %rd2;\nst.global.u32 [%rd1], %r50;\nret;\n}}\n"
        );
        let m = d.load(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
        let words = d.stream.clone_htod(input).unwrap();
        let mut out = d.stream.alloc_zeros::<u32>(64).unwrap();
        let a = [
            Arg::U64(words.device_ptr(&d.stream).0),
            Arg::U64(out.device_ptr_mut(&d.stream).0),
        ];
        let r = d.launch(m, "k", [1, 1, 1], [64, 1, 1], 0, &a);
        assert!(r.is_ok(), "{body}: {r:?} {}", d.report());
        let got = (
            d.stream.clone_dtoh(&out).unwrap(),
            d.stream.clone_dtoh(&words).unwrap(),
        );
        assert_eq!(
            *last.get_or_insert_with(|| got.clone()),
            got,
            "{body}: depends on the schedule"
        );
    }
    last.expect("three runs")
}

fn input() -> [u32; 64] {
    std::array::from_fn(|i| (i as u32).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995)
}

/// `%r50` of thread t is `want(t, input)`.
#[track_caller]
fn each(body: &str, want: impl Fn(usize, &[u32; 64]) -> u32) {
    let x = input();
    let (got, _) = run(body, &x);
    for (t, g) in got.iter().enumerate() {
        assert_eq!(*g, want(t, &x), "{body}: thread {t}");
    }
}

#[test]
fn shuffles() {
    let w = |t: usize| t & 32;
    each("shfl.sync.idx.b32 %r50, %r3, 5, 0x1f, -1;", |t, x| {
        x[w(t) + 5]
    });
    each("shfl.sync.up.b32 %r50, %r3, 3, 0, -1;", |t, x| {
        x[if t % 32 >= 3 { t - 3 } else { t }]
    });
    each("shfl.sync.down.b32 %r50, %r3, 3, 0x1f, -1;", |t, x| {
        x[if t % 32 < 29 { t + 3 } else { t }]
    });
    each("shfl.sync.bfly.b32 %r50, %r3, 6, 0x1f, -1;", |t, x| {
        x[t ^ 6]
    });
    // Segments of eight lanes, and whether the source was in range.
    each(
        "shfl.sync.down.b32 %r4|%p1, %r3, 3, 0x181f, -1;\nselp.b32 %r50, %r4, 7, %p1;",
        |t, x| if t % 8 < 5 { x[t + 3] } else { 7 },
    );
    each("shfl.sync.idx.b32 %r50, %r3, %r1, 0x1c1f, -1;", |t, x| x[t]);
}

#[test]
fn votes_matches_reductions() {
    let half = |t: usize, x: &[u32; 64]| -> Vec<u32> { x[t & 32..(t & 32) + 32].to_vec() };
    let even = "and.b32 %r4, %r3, 1;\nsetp.eq.u32 %p1, %r4, 0;\n";
    let ballot = |t: usize, x: &[u32; 64]| {
        half(t, x)
            .iter()
            .enumerate()
            .fold(0, |a, (l, v)| a | (!v & 1) << l)
    };
    each(
        &format!("{even}vote.sync.ballot.b32 %r50, %p1, -1;"),
        ballot,
    );
    each(
        &format!("{even}vote.sync.any.pred %p2, %p1, -1;\nselp.b32 %r50, 1, 0, %p2;"),
        |t, x| u32::from(ballot(t, x) != 0),
    );
    each(
        &format!("{even}vote.sync.all.pred %p2, %p1, -1;\nselp.b32 %r50, 1, 0, %p2;"),
        |t, x| u32::from(ballot(t, x) == u32::MAX),
    );
    each(
        "and.b32 %r4, %r3, 3;\nmatch.any.sync.b32 %r50, %r4, -1;",
        |t, x| {
            half(t, x)
                .iter()
                .enumerate()
                .fold(0, |a, (l, v)| a | u32::from(v & 3 == x[t] & 3) << l)
        },
    );
    each("redux.sync.add.s32 %r50, %r3, -1;", |t, x| {
        half(t, x).iter().fold(0, |a: u32, v| a.wrapping_add(*v))
    });
    each("redux.sync.max.u32 %r50, %r3, -1;", |t, x| {
        half(t, x).into_iter().max().unwrap()
    });
    each("redux.sync.min.s32 %r50, %r3, -1;", |t, x| {
        half(t, x).into_iter().map(|v| v as i32).min().unwrap() as u32
    });
    each("redux.sync.xor.b32 %r50, %r3, -1;", |t, x| {
        half(t, x).into_iter().fold(0, |a, v| a ^ v)
    });
    each(
        "elect.sync _|%p1, -1;\nselp.b32 %r4, 1, 0, %p1;\nredux.sync.add.u32 %r50, %r4, -1;",
        |_, _| 1,
    );
    each(
        "setp.lt.u32 %p1, %r1, 9;\nmov.u32 %r50, 0;\n@%p1 activemask.b32 %r50;",
        |t, _| if t % 32 < 9 { 0x1ff } else { 0 },
    );
}

#[test]
fn atomics() {
    let total = |x: &[u32; 64]| x.iter().fold(0u32, |a, v| a.wrapping_add(*v));
    let x = input();
    // All on the first word: what is left in it does not depend on the order.
    let word = |op: &str| run(&format!("{op}\nmov.u32 %r50, 0;"), &x).1[0];
    assert_eq!(
        word("setp.ne.u32 %p1, %r0, 0;\n@%p1 red.global.add.u32 [%rd0], %r3;"),
        total(&x)
    );
    assert_eq!(
        word("atom.global.max.u32 %r4, [%rd0], %r3;"),
        *x.iter().max().unwrap()
    );
    assert_eq!(
        word("atom.global.min.s32 %r4, [%rd0], %r3;"),
        x.iter().map(|v| *v as i32).min().unwrap() as u32
    );
    assert_eq!(
        word("atom.global.or.b32 %r4, [%rd0], %r3;"),
        x.iter().fold(0, |a, v| a | v)
    );
    assert_eq!(word("atom.global.inc.u32 %r4, [%rd0], 40;"), {
        (0..64).fold(x[0], |v, _| if v >= 40 { 0 } else { v + 1 })
    });
    // A lock: 64 increments without an atomic add.
    let lock = "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.v2.u32 [%r2], {0, 0};\nbar.sync 0;\n\
                TRY:\natom.acquire.cta.shared.cas.b32 %r5, [%r2], 0, 1;\nsetp.ne.u32 %p2, %r5, 0;\n@%p2 bra TRY;\n\
                ld.relaxed.cta.shared.u32 %r6, [%r2+4];\nadd.u32 %r6, %r6, 1;\nst.relaxed.cta.shared.u32 [%r2+4], %r6;\n\
                st.release.cta.shared.u32 [%r2], 0;\nbar.sync 0;\nld.shared.u32 %r50, [%r2+4];";
    each(lock, |_, _| 64);
    each(
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r2], 0;\nbar.sync 0;\ncvt.rn.f32.u32 %f0, %r0;\natom.shared.add.f32 %f1, [%r2], %f0;\nbar.sync 0;\nld.shared.u32 %r50, [%r2];",
        |_, _| 2016f32.to_bits(),
    );
    each(
        "mov.b64 %rd5, 5;\nmul.wide.u32 %rd6, %r0, 8;\natom.global.exch.b32 %r50, [%rd3], %r0;",
        |t, x| x[t],
    );
}

#[test]
fn divergence() {
    // Collatz steps: every lane its own number of rounds, then all lanes meet for a reduction.
    let steps = |v: u32| {
        let (mut v, mut n) = (v, 0);
        while v != 1 {
            v = if v % 2 == 0 { v / 2 } else { 3 * v + 1 };
            n += 1;
        }
        n
    };
    let body = "and.b32 %r4, %r3, 255;\nadd.u32 %r4, %r4, 1;\nmov.u32 %r5, 0;\n\
                LOOP:\nsetp.eq.u32 %p1, %r4, 1;\n@%p1 bra DONE;\nand.b32 %r6, %r4, 1;\nsetp.eq.u32 %p2, %r6, 0;\n@%p2 bra EVEN;\n\
                mad.lo.u32 %r4, %r4, 3, 1;\nbra NEXT;\nEVEN:\nshr.u32 %r4, %r4, 1;\nNEXT:\nadd.u32 %r5, %r5, 1;\nbra LOOP;\n\
                DONE:\nredux.sync.add.u32 %r7, %r5, -1;\nshl.b32 %r7, %r7, 8;\nadd.u32 %r50, %r7, %r5;";
    each(body, |t, x| {
        let n = |i: usize| steps((x[i] & 255) + 1);
        let all: u32 = (t & 32..(t & 32) + 32).map(n).sum();
        (all << 8) + n(t)
    });
    // Lanes that end early do not take part.
    each(
        "setp.gt.u32 %p1, %r1, 30;\nmov.u32 %r50, 0;\n@%p1 bra SKIP;\nmov.u32 %r50, 9;\nSKIP:\nadd.u32 %r50, %r50, 1;",
        |t, _| if t % 32 == 31 { 1 } else { 10 },
    );
}

/// Row r of matrix m: eight 16-bit values, 16 bytes, at byte (8 m + r) * 16 of shared memory. Value: its number.
const FILL: &str = "shl.b32 %r4, %r0, 4;\nadd.u32 %r4, %r4, %r2;\nshl.b32 %r5, %r0, 3;\n\
     add.u32 %r6, %r5, 1;\nshl.b32 %r6, %r6, 16;\nor.b32 %r10, %r6, %r5;\nadd.u32 %r11, %r10, 0x20002;\nadd.u32 %r12, %r11, 0x20002;\nadd.u32 %r13, %r12, 0x20002;\n\
     st.shared.v4.b32 [%r4], {%r10, %r11, %r12, %r13};\nbar.sync 0;\nshl.b32 %r7, %r1, 4;\nadd.u32 %r7, %r7, %r2;\n";

#[test]
fn matrix_loads_and_stores() {
    let value = |m: usize, row: usize, col: usize| ((8 * m + row) * 8 + col) as u32;
    // Lane l has columns 2 (l % 4), 2 (l % 4) + 1 of row l / 4.
    let pair = |m: usize, t: usize| {
        value(m, t % 32 / 4, 2 * (t % 4)) | value(m, t % 32 / 4, 2 * (t % 4) + 1) << 16
    };
    let turned = |m: usize, t: usize| {
        value(m, 2 * (t % 4), t % 32 / 4) | value(m, 2 * (t % 4) + 1, t % 32 / 4) << 16
    };
    for m in 0..4 {
        let load = |mods: &str| {
            format!(
                "{FILL}ldmatrix.sync.aligned.m8n8.x4{mods}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r7];\nmov.u32 %r50, %r2{m};"
            )
        };
        each(&load(""), |t, _| pair(m, t));
        each(&load(".trans"), |t, _| turned(m, t));
    }
    each(
        &format!("{FILL}ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r50}}, [%r7];"),
        |t, _| pair(0, t),
    );
    each(
        &format!("{FILL}ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r20, %r50}}, [%r7];"),
        |t, _| pair(1, t),
    );
    // Stored and loaded again: the identity; transposed twice as well. Each warp in a kilobyte of its own.
    for (s, l) in [("", ""), (".trans", ".trans")] {
        let body = format!(
            "{FILL}shr.u32 %r8, %r0, 5;\nshl.b32 %r8, %r8, 10;\nadd.u32 %r9, %r7, %r8;\nadd.u32 %r9, %r9, 2048;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r7];\n\
             stmatrix.sync.aligned.m8n8.x4{s}.shared.b16 [%r9], {{%r20, %r21, %r22, %r23}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x4{l}.shared.b16 {{%r30, %r31, %r32, %r33}}, [%r9];\nmov.u32 %r50, %r32;"
        );
        each(&body, |t, _| pair(2, t));
    }
    // Where stmatrix puts things, seen by an ordinary load: row 0 of matrix 1, transposed, is column 0.
    let body = format!(
        "{FILL}shr.u32 %r8, %r0, 5;\nshl.b32 %r8, %r8, 10;\nadd.u32 %r9, %r7, %r8;\nadd.u32 %r9, %r9, 2048;\n\
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r7];\n\
         stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r9], {{%r20, %r21, %r22, %r23}};\nbar.warp.sync -1;\n\
         add.u32 %r9, %r2, %r8;\nld.shared.u16 %r50, [%r9+2182];"
    );
    // 2048 + 128 (matrix 1) + 0 (row 0) + 6 (column 3) = row 3, column 0 of the source.
    each(&body, |_, _| value(1, 3, 0));
}

#[test]
fn local_memory_and_generic_addresses() {
    // A table in local memory, indexed by data, through its own and through a generic address.
    let body = "mov.u32 %r4, 0;\nFILL:\nmul.lo.u32 %r5, %r4, %r4;\nadd.u32 %r5, %r5, %r0;\nmov.b64 %rd5, depot;\nmul.wide.u32 %rd6, %r4, 4;\nadd.s64 %rd6, %rd5, %rd6;\n\
                st.local.u32 [%rd6], %r5;\nadd.u32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 16;\n@%p1 bra FILL;\n\
                and.b32 %r6, %r3, 15;\nmul.wide.u32 %rd7, %r6, 4;\ncvta.local.u64 %rd8, %rd5;\nadd.s64 %rd8, %rd8, %rd7;\nld.u32 %r50, [%rd8];";
    each(body, |t, x| (x[t] & 15).pow(2) + t as u32);
    each(
        "shl.b32 %r4, %r0, 2;\nadd.u32 %r4, %r4, %r2;\ncvt.u64.u32 %rd5, %r4;\ncvta.shared.u64 %rd5, %rd5;\nst.u32 [%rd5], %r3;\nld.shared.u32 %r50, [%r4];",
        |t, x| x[t],
    );
    each("ld.u32 %r50, [%rd3];", |t, x| x[t]);
}

#[test]
fn bits_and_bytes() {
    each("popc.b32 %r50, %r3;", |t, x| x[t].count_ones());
    each("clz.b32 %r50, %r3;", |t, x| x[t].leading_zeros());
    each("brev.b32 %r50, %r3;", |t, x| x[t].reverse_bits());
    each("bfe.u32 %r50, %r3, 5, 9;", |t, x| x[t] >> 5 & 0x1ff);
    each("bfe.s32 %r50, %r3, 5, 9;", |t, x| {
        ((x[t] << 18) as i32 >> 23) as u32
    });
    each("bfi.b32 %r50, %r0, %r3, 8, 6;", |t, x| {
        x[t] & !0x3f00 | (t as u32) << 8
    });
    each("prmt.b32 %r50, %r3, %r0, 0x4127;", |t, x| {
        let b = [x[t].to_le_bytes(), (t as u32).to_le_bytes()].concat();
        u32::from_le_bytes([b[7], b[2], b[1], b[4]])
    });
    each("shf.l.wrap.b32 %r50, %r0, %r3, %r0;", |t, x| {
        ((u64::from(x[t]) << 32 | t as u64) << (t % 32) >> 32) as u32
    });
    each("lop3.b32 %r50, %r3, %r0, 0x0f0f0f0f, 0xe8;", |t, x| {
        let (a, b, c) = (x[t], t as u32, 0x0f0f_0f0f);
        a & b | a & c | b & c
    });
    each("mul.hi.u32 %r50, %r3, %r3;", |t, x| {
        ((u64::from(x[t]) * u64::from(x[t])) >> 32) as u32
    });
    each("mad.lo.s32 %r50, %r3, %r0, 17;", |t, x| {
        x[t].wrapping_mul(t as u32).wrapping_add(17)
    });
    each("shl.b32 %r50, %r3, %r0;", |t, x| {
        if t < 32 { x[t] << t } else { 0 }
    });
    each("shr.s32 %r50, %r3, %r0;", |t, x| {
        (x[t] as i32 >> t.min(31)) as u32
    });
    each("add.cc.u32 %r4, %r3, %r3;\naddc.u32 %r50, 0, 0;", |t, x| {
        x[t] >> 31
    });
    each("div.s32 %r50, %r3, 7;", |t, x| (x[t] as i32 / 7) as u32);
    each("rem.u32 %r50, %r3, 1000;", |t, x| x[t] % 1000);
    each("sad.u32 %r50, %r3, %r0, 5;", |t, x| {
        x[t].abs_diff(t as u32) + 5
    });
}

#[test]
fn conversions() {
    each("cvt.rn.f32.s32 %f0, %r3;\nmov.b32 %r50, %f0;", |t, x| {
        (x[t] as i32 as f32).to_bits()
    });
    each(
        "cvt.rn.f32.u32 %f0, %r3;\ncvt.rzi.s32.f32 %r50, %f0;",
        |t, x| (x[t] as f32) as i32 as u32,
    );
    each(
        "cvt.rn.f32.s32 %f0, %r3;\nmul.f32 %f0, %f0, 0f30000000;\ncvt.rn.bf16x2.f32 %r50, %f0, %f0;",
        |t, x| {
            let b = u32::from(
                half::bf16::from_f32(x[t] as i32 as f32 * f32::from_bits(0x3000_0000)).to_bits(),
            );
            b << 16 | b
        },
    );
    each(
        "cvt.rn.f64.u32 %d0, %r3;\nsqrt.rn.f64 %d0, %d0;\ncvt.rni.u32.f64 %r50, %d0;",
        |t, x| f64::from(x[t]).sqrt().round_ties_even() as u32,
    );
    each("cvt.u8.u32 %h0, %r3;\ncvt.s32.s8 %r50, %h0;", |t, x| {
        x[t] as i8 as i32 as u32
    });
    each(
        "cvt.sat.u8.s32 %h0, %r3;\ncvt.u32.u16 %r50, %h0;",
        |t, x| (x[t] as i32).clamp(0, 255) as u32,
    );
}
