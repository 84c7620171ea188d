//! wgmma: every float type, K-major and MN-major operands in every swizzle, A from registers, against exact integers. The
//! layouts are computed here from their definition (PTX ISA, "Shared Memory Matrix Layout"). Cost: seconds.

mod common;

use std::fmt::Write;

use common::{Arg, device};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use hadal_emulator::client::{AsyncMode, Knobs, Numerics};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ty {
    E4m3,
    E5m2,
    F16,
    Bf16,
    Tf32,
}

impl Ty {
    fn bytes(self) -> usize {
        match self {
            Ty::E4m3 | Ty::E5m2 => 1,
            Ty::F16 | Ty::Bf16 => 2,
            Ty::Tf32 => 4,
        }
    }
    fn name(self) -> &'static str {
        match self {
            Ty::E4m3 => "e4m3",
            Ty::E5m2 => "e5m2",
            Ty::F16 => "f16",
            Ty::Bf16 => "bf16",
            Ty::Tf32 => "tf32",
        }
    }
    /// A small integer (|v| <= 4) in this type, little-endian.
    fn encode(self, v: i32) -> Vec<u8> {
        let f = v as f32;
        let (sign, exp, top2) = (
            f.to_bits() >> 31,
            (f.to_bits() >> 23 & 255) as i32 - 127,
            f.to_bits() >> 21 & 3,
        );
        match self {
            _ if v == 0 => vec![0; self.bytes()],
            Ty::E4m3 => vec![(sign << 7 | ((exp + 7) as u32) << 3 | top2 << 1) as u8],
            Ty::E5m2 => vec![(sign << 7 | ((exp + 15) as u32) << 2 | top2) as u8],
            Ty::F16 => half::f16::from_f32(f).to_le_bytes().to_vec(),
            Ty::Bf16 => half::bf16::from_f32(f).to_le_bytes().to_vec(),
            Ty::Tf32 => f.to_le_bytes().to_vec(),
        }
    }
}

/// Where an operand lies: bytes of the swizzle's span (16: none), and which index is contiguous.
#[derive(Clone, Copy, Debug)]
struct Layout {
    span: usize,
    mn_major: bool,
}

/// 16-byte pieces are exchanged with bits 7 and up of the offset.
fn swizzle(span: usize, off: usize) -> usize {
    off ^ ((off >> 7) & (span / 16 - 1)) << 4
}

impl Layout {
    /// Leading and stride byte offsets of the descriptor.
    fn offsets(self) -> (usize, usize) {
        match (self.mn_major, self.span) {
            (false, 16) => (128, 256),
            (false, s) => (16, 8 * s),
            (true, 16) => (8192, 128),
            (true, s) => (16 * s, 8 * s),
        }
    }

    /// Byte offset of element (mn, k).
    fn at(self, ty: Ty, mn: usize, k: usize) -> usize {
        let (lead, stride) = self.offsets();
        let b = ty.bytes();
        match (self.mn_major, self.span) {
            (false, 16) => mn / 8 * stride + k * b / 16 * lead + mn % 8 * 16 + k * b % 16,
            (false, s) => mn / 8 * stride + swizzle(s, mn % 8 * s + k * b),
            (true, 16) => mn / 8 * stride + k / 8 * lead + k % 8 * 16 + mn % 8 * b,
            (true, s) => {
                let chunk = s / b;
                mn / chunk * lead + k / 8 * stride + swizzle(s, k % 8 * s + mn % chunk * b)
            }
        }
    }

    fn descriptor(self) -> u64 {
        let (lead, stride) = self.offsets();
        let mode = match self.span {
            16 => 0u64,
            128 => 1,
            64 => 2,
            _ => 3,
        };
        (lead as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | mode << 62
    }
}

struct Case {
    a: Ty,
    b: Ty,
    n: usize,
    la: Layout,
    lb: Layout,
    /// A comes from registers.
    registers: bool,
}

const REGION: usize = 32768;

fn kernel(c: &Case) -> String {
    let regs = c.n / 2;
    let list: Vec<String> = (0..regs).map(|i| format!("%f{i}")).collect();
    let kk = 32 / c.a.bytes();
    let mut s = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 image, .param .u64 out, .param .u64 da, .param .u64 db, .param .u64 frag)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<40>;\n.reg .f32 %f<{}>;\n.reg .b64 %rd<20>;\n\
         .shared .align 1024 .b8 buf[{}];\n\
         ld.param.u64 %rd0, [image];\nld.param.u64 %rd1, [out];\nld.param.u64 %rd2, [da];\nld.param.u64 %rd3, [db];\nld.param.u64 %rd10, [frag];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, buf;\nshl.b32 %r2, %r0, 2;\nmov.u32 %r3, 0;\n\
         COPY:\nadd.u32 %r4, %r2, %r3;\ncvt.u64.u32 %rd4, %r4;\nadd.s64 %rd4, %rd4, %rd0;\nld.global.u32 %r5, [%rd4];\n\
         add.u32 %r6, %r1, %r4;\nst.shared.u32 [%r6], %r5;\nadd.u32 %r3, %r3, 512;\nsetp.lt.u32 %p0, %r3, {};\n@%p0 bra COPY;\n\
         fence.proxy.async;\nbar.sync 0;\n\
         shr.u32 %r7, %r1, 4;\ncvt.u64.u32 %rd5, %r7;\nadd.s64 %rd2, %rd2, %rd5;\nadd.s64 %rd3, %rd3, %rd5;\nadd.s64 %rd3, %rd3, {};\n",
        regs + 1,
        2 * REGION,
        2 * REGION,
        REGION / 16
    );
    if c.registers {
        s.push_str("shl.b32 %r20, %r0, 4;\ncvt.u64.u32 %rd11, %r20;\nadd.s64 %rd11, %rd11, %rd10;\nld.global.v4.u32 {%r21, %r22, %r23, %r24}, [%rd11];\n");
    }
    s.push_str("wgmma.fence.sync.aligned;\n");
    let a = if c.registers {
        "{%r21, %r22, %r23, %r24}"
    } else {
        "%rd2"
    };
    let majors = match (c.a.bytes(), c.registers) {
        (2, false) => format!(", {}, {}", u8::from(c.la.mn_major), u8::from(c.lb.mn_major)),
        (2, true) => format!(", {}", u8::from(c.lb.mn_major)),
        _ => String::new(),
    };
    let _ = write!(
        s,
        "wgmma.mma_async.sync.aligned.m64n{}k{kk}.f32.{}.{} {{{}}}, {a}, %rd3, 0, 1, 1{majors};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
         shr.u32 %r8, %r0, 5;\nand.b32 %r9, %r0, 31;\nshr.u32 %r10, %r9, 2;\nshl.b32 %r8, %r8, 4;\nadd.u32 %r8, %r8, %r10;\n\
         and.b32 %r11, %r9, 3;\nshl.b32 %r11, %r11, 1;\n",
        c.n,
        c.a.name(),
        c.b.name(),
        list.join(", ")
    );
    for i in 0..regs {
        let (row, col) = (8 * (i >> 1 & 1), 8 * (i >> 2) + (i & 1));
        let _ = write!(
            s,
            "add.u32 %r12, %r8, {row};\nmul.lo.u32 %r12, %r12, {};\nadd.u32 %r12, %r12, %r11;\nadd.u32 %r12, %r12, {col};\n\
             mul.wide.u32 %rd6, %r12, 4;\nadd.s64 %rd6, %rd6, %rd1;\nst.global.f32 [%rd6], %f{i};\n",
            c.n
        );
    }
    s.push_str("ret;\n}\n");
    s
}

fn check(c: &Case, knobs: &Knobs) {
    let k = 32 / c.a.bytes();
    let mut x = 7u32;
    let mut value = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 16) as i32 % 9 - 4
    };
    let a: Vec<i32> = (0..64 * k).map(|_| value()).collect();
    let b: Vec<i32> = (0..c.n * k).map(|_| value()).collect();
    let mut image = vec![0xEEu8; 2 * REGION];
    for (i, v) in a.iter().enumerate() {
        let at = c.la.at(c.a, i / k, i % k);
        image[at..at + c.a.bytes()].copy_from_slice(&c.a.encode(*v));
    }
    for (i, v) in b.iter().enumerate() {
        let at = REGION + c.lb.at(c.b, i / k, i % k);
        image[at..at + c.b.bytes()].copy_from_slice(&c.b.encode(*v));
    }
    // A's fragment: register r of a thread holds row 16 w + l / 4 + 8 (r & 1), bytes 4 (l % 4) + 16 (r >> 1) and on.
    let mut frag = vec![0u8; 128 * 16];
    for t in 0..128 {
        for r in 0..4 {
            let row = 16 * (t / 32) + t % 32 / 4 + 8 * (r & 1);
            let first = (4 * (t % 4) + 16 * (r >> 1)) / c.a.bytes();
            let bytes: Vec<u8> = (0..4 / c.a.bytes())
                .flat_map(|j| c.a.encode(a[row * k + first + j]))
                .collect();
            frag[t * 16 + r * 4..][..4].copy_from_slice(&bytes);
        }
    }
    let d = device(knobs);
    let name = format!(
        "{:?} x {:?} n{} {:?} {:?} registers {}",
        c.a, c.b, c.n, c.la, c.lb, c.registers
    );
    let m = d.load(&kernel(c)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let image = d.stream.clone_htod(&image).unwrap();
    let frag = d.stream.clone_htod(&frag).unwrap();
    let mut out = d.stream.alloc_zeros::<f32>(64 * c.n).unwrap();
    let arguments = [
        Arg::U64(image.device_ptr(&d.stream).0),
        Arg::U64(out.device_ptr_mut(&d.stream).0),
        Arg::U64(c.la.descriptor()),
        Arg::U64(c.lb.descriptor()),
        Arg::U64(frag.device_ptr(&d.stream).0),
    ];
    let r = d.launch(m, "k", [1, 1, 1], [128, 1, 1], 0, &arguments);
    assert!(r.is_ok(), "{name}: {r:?} {}", d.report());
    let out = d.stream.clone_dtoh(&out).unwrap();
    for (i, got) in out.iter().enumerate() {
        let want: i32 = (0..k)
            .map(|j| a[i / c.n * k + j] * b[i % c.n * k + j])
            .sum();
        assert_eq!(
            *got,
            want as f32,
            "{name}: row {} column {}",
            i / c.n,
            i % c.n
        );
    }
}

const SPANS: [usize; 4] = [16, 32, 64, 128];

#[test]
fn k_major_in_every_swizzle() {
    let pairs = [
        (Ty::E4m3, Ty::E4m3),
        (Ty::E4m3, Ty::E5m2),
        (Ty::E5m2, Ty::E4m3),
        (Ty::E5m2, Ty::E5m2),
        (Ty::F16, Ty::F16),
        (Ty::Bf16, Ty::Bf16),
        (Ty::Tf32, Ty::Tf32),
    ];
    for (a, b) in pairs {
        for (i, span) in SPANS.into_iter().enumerate() {
            for n in [[8, 24, 64, 256], [16, 128, 40, 192]][i % 2] {
                let l = |span| Layout {
                    span,
                    mn_major: false,
                };
                check(
                    &Case {
                        a,
                        b,
                        n,
                        la: l(span),
                        lb: l(SPANS[(i + n / 8) % 4]),
                        registers: false,
                    },
                    &Knobs::default(),
                );
            }
        }
    }
}

#[test]
fn mn_major_in_every_swizzle() {
    for ty in [Ty::F16, Ty::Bf16] {
        for (i, span) in SPANS.into_iter().enumerate() {
            for (ma, mb) in [(true, false), (false, true), (true, true)] {
                let l = |span, mn_major| Layout { span, mn_major };
                let n = [64, 128, 256, 192][i];
                check(
                    &Case {
                        a: ty,
                        b: ty,
                        n,
                        la: l(span, ma),
                        lb: l(SPANS[(i + 1) % 4], mb),
                        registers: false,
                    },
                    &Knobs::default(),
                );
            }
        }
    }
}

#[test]
fn a_from_registers() {
    let eager = Knobs {
        async_mode: AsyncMode::Eager,
        numerics: Numerics::Fast,
        ..Knobs::default()
    };
    for ty in [Ty::E4m3, Ty::E5m2, Ty::F16, Ty::Bf16, Ty::Tf32] {
        let l = Layout {
            span: 128,
            mn_major: false,
        };
        for knobs in [&Knobs::default(), &eager] {
            check(
                &Case {
                    a: ty,
                    b: ty,
                    n: 96,
                    la: l,
                    lb: l,
                    registers: true,
                },
                knobs,
            );
        }
    }
}

/// f16 results: two columns in a register.
#[test]
fn half_accumulators() {
    for ty in [Ty::F16, Ty::E4m3, Ty::E5m2] {
        let (n, k) = (72, 32 / ty.bytes());
        let l = Layout {
            span: 64,
            mn_major: false,
        };
        let c = Case {
            a: ty,
            b: ty,
            n,
            la: l,
            lb: l,
            registers: false,
        };
        // The f32 kernel with half as many registers, and words of two columns.
        let regs: Vec<String> = (0..n / 4).map(|i| format!("%r{}", 100 + i)).collect();
        let text = kernel(&c);
        let (head, _) = text.split_once("wgmma.mma_async").expect("the operation");
        let head = head.replace(".reg .b32 %r<40>", ".reg .b32 %r<200>");
        let majors = if ty == Ty::F16 { ", 0, 0" } else { "" };
        let mut s = format!(
            "{head}wgmma.mma_async.sync.aligned.m64n{n}k{k}.f16.{0}.{0} {{{1}}}, %rd2, %rd3, 0, 1, 1{majors};\n\
             wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
             shr.u32 %r8, %r0, 5;\nand.b32 %r9, %r0, 31;\nshr.u32 %r10, %r9, 2;\nshl.b32 %r8, %r8, 4;\nadd.u32 %r8, %r8, %r10;\n\
             and.b32 %r11, %r9, 3;\n",
            ty.name(),
            regs.join(", ")
        );
        for (i, r) in regs.iter().enumerate() {
            let _ = write!(
                s,
                "add.u32 %r12, %r8, {};\nmul.lo.u32 %r12, %r12, {};\nadd.u32 %r12, %r12, %r11;\nadd.u32 %r12, %r12, {};\n\
                 mul.wide.u32 %rd6, %r12, 4;\nadd.s64 %rd6, %rd6, %rd1;\nst.global.b32 [%rd6], {r};\n",
                8 * (i & 1),
                n / 2,
                4 * (i >> 1)
            );
        }
        s.push_str("ret;\n}\n");
        let (a, b): (Vec<i32>, Vec<i32>) = (
            (0..64 * k).map(|i| (i * 7 % 9) as i32 - 4).collect(),
            (0..n * k).map(|i| (i * 5 % 7) as i32 - 3).collect(),
        );
        let mut image = vec![0u8; 2 * REGION];
        for (i, v) in a.iter().enumerate() {
            let at = l.at(ty, i / k, i % k);
            image[at..at + ty.bytes()].copy_from_slice(&ty.encode(*v));
        }
        for (i, v) in b.iter().enumerate() {
            let at = REGION + l.at(ty, i / k, i % k);
            image[at..at + ty.bytes()].copy_from_slice(&ty.encode(*v));
        }
        let d = device(&Knobs::default());
        let m = d.load(&s).expect("a module");
        let image = d.stream.clone_htod(&image).unwrap();
        let mut out = d.stream.alloc_zeros::<half::f16>(64 * n).unwrap();
        let arguments = [
            Arg::U64(image.device_ptr(&d.stream).0),
            Arg::U64(out.device_ptr_mut(&d.stream).0),
            Arg::U64(l.descriptor()),
            Arg::U64(l.descriptor()),
            Arg::U64(0),
        ];
        let r = d.launch(m, "k", [1, 1, 1], [128, 1, 1], 0, &arguments);
        assert!(r.is_ok(), "{ty:?}: {r:?} {}", d.report());
        let out = d.stream.clone_dtoh(&out).unwrap();
        for (i, got) in out.iter().enumerate() {
            let want: i32 = (0..k).map(|j| a[i / n * k + j] * b[i % n * k + j]).sum();
            assert_eq!(
                got.to_f32(),
                want as f32,
                "{ty:?}: row {} column {}",
                i / n,
                i % n
            );
        }
    }
}
