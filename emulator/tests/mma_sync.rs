//! mma.sync: every shape and type of sm_80 to sm_90 on small integers, whose products every device and mode sums exactly.
//! Where an element lies is written here element by element, as the PTX ISA's figures say. Cost: seconds.

mod common;

use std::fmt::Write;

use common::{Arg, Device, device};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use hadal_emulator::client::{ComputeCapability, Knobs, Numerics};

#[derive(Clone, Debug)]
struct Form {
    m: usize,
    k: usize,
    a: &'static str,
    b: &'static str,
    c: &'static str,
    d: &'static str,
    /// Layouts of A and B.
    layout: &'static str,
    /// Before the types: `.satfinite`, a rounding.
    before: &'static str,
    /// Behind the types: `.xor.popc`.
    after: &'static str,
}

fn bits(ty: &str) -> usize {
    match ty {
        "b1" => 1,
        "s4" | "u4" => 4,
        "s8" | "u8" | "e4m3" | "e5m2" => 8,
        "f16" | "bf16" => 16,
        "f64" => 64,
        _ => 32,
    }
}

impl Form {
    fn volta(&self) -> bool {
        self.k == 4 && self.a == "f16"
    }

    fn opcode(&self) -> String {
        format!(
            "mma.sync.aligned.m{}n8k{}.{}{}.{}.{}.{}.{}{}",
            self.m, self.k, self.layout, self.before, self.d, self.a, self.b, self.c, self.after
        )
    }

    /// Elements of A, B and C that a lane holds; m8n8k4 is four operations.
    fn elements(&self) -> [usize; 3] {
        if self.volta() {
            return [4, 4, 8];
        }
        [self.m * self.k / 32, 8 * self.k / 32, self.m * 8 / 32]
    }

    /// Element i of A in a lane: operation, row, k.
    fn a_place(&self, lane: usize, i: usize) -> (usize, usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        let top = |first: bool| if first { g } else { g + 8 };
        let (row, k) = match (self.m, self.k, bits(self.a)) {
            (8, 4, 16) => {
                let (op, high) = (lane % 16 / 4, lane / 16 * 4);
                let (row, k) = if self.layout.starts_with("row") {
                    (lane % 4 + high, i)
                } else {
                    (i + high, lane % 4)
                };
                return (op, row, k);
            }
            (16, 8, 16) => (top(i < 2), 2 * t + i % 2),
            (16, 16, 16) => (
                top([0, 1, 4, 5].contains(&i)),
                2 * t + i % 2 + if i < 4 { 0 } else { 8 },
            ),
            (16, 4, 32) => (top(i == 0), t),
            (16, 8, 32) => (top(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
            (8, 16, 8) => (g, 4 * t + i),
            (16, 16, 8) => (top(i < 4), 4 * t + i % 4),
            (16, 32, 8) => (
                top(i < 4 || (8..12).contains(&i)),
                4 * t + i % 4 + if i < 8 { 0 } else { 16 },
            ),
            (8, 32, 4) => (g, 8 * t + i),
            (16, 32, 4) => (top(i < 8), 8 * t + i % 8),
            (16, 64, 4) => (
                top(i < 8 || (16..24).contains(&i)),
                8 * t + i % 8 + if i < 16 { 0 } else { 32 },
            ),
            (8, 128, 1) => (g, 32 * t + i),
            (16, 128, 1) => (top(i < 32), 32 * t + i % 32),
            (16, 256, 1) => (
                top(i < 32 || (64..96).contains(&i)),
                32 * t + i % 32 + if i < 64 { 0 } else { 128 },
            ),
            (8, 4, 64) => (g, t),
            (16, 4, 64) => (top(i == 0), t),
            (16, 8, 64) => (top(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
            (16, 16, 64) => (top(i.is_multiple_of(2)), i / 2 * 4 + t),
            other => panic!("{other:?}"),
        };
        (0, row, k)
    }

    /// Element i of B in a lane: operation, k, column.
    fn b_place(&self, lane: usize, i: usize) -> (usize, usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        let k = match (self.k, bits(self.a)) {
            (4, 16) => {
                let (op, high) = (lane % 16 / 4, lane / 16 * 4);
                let (k, col) = if self.layout.ends_with("col") {
                    (i, lane % 4 + high)
                } else {
                    (lane % 4, i + high)
                };
                return (op, k, col);
            }
            (8, 16) => 2 * t + i,
            (16, 16) => 2 * t + i % 2 + if i < 2 { 0 } else { 8 },
            (4, 32) => t,
            (8, 32) => [t, t + 4][i],
            (16, 8) => 4 * t + i,
            (32, 8) => 4 * t + i % 4 + if i < 4 { 0 } else { 16 },
            (32, 4) => 8 * t + i,
            (64, 4) => 8 * t + i % 8 + if i < 8 { 0 } else { 32 },
            (128, 1) => 32 * t + i,
            (256, 1) => 32 * t + i % 32 + if i < 32 { 0 } else { 128 },
            (_, 64) => t + 4 * i,
            other => panic!("{other:?}"),
        };
        (0, k, g)
    }

    /// Element i of C or D in a lane: operation, row, column.
    fn c_place(&self, lane: usize, i: usize, ty: &str) -> (usize, usize, usize) {
        if self.volta() {
            let (op, high) = (lane % 16 / 4, lane / 16 * 4);
            return if ty == "f16" {
                (op, lane % 4 + high, i)
            } else {
                (
                    op,
                    (lane & 1) + (i & 2) + high,
                    (i & 4) + (lane & 2) + (i & 1),
                )
            };
        }
        let row = lane / 4 + if i < 2 { 0 } else { 8 };
        (0, row, lane % 4 * 2 + i % 2)
    }
}

/// A small integer in a type.
fn encode(ty: &str, v: i64) -> u64 {
    let f = v as f32;
    // Three significant bits are enough for what is asked of the 8-bit floats.
    let narrow = |bias: i32, man: u32| {
        if v == 0 {
            return 0;
        }
        let (sign, e) = (f.to_bits() >> 31, (f.to_bits() >> 23 & 255) as i32 - 127);
        let m = (f.to_bits() & 0x7F_FFFF) >> (23 - man);
        u64::from(sign << 7 | ((e + bias) as u32) << man | m)
    };
    match ty {
        "e4m3" => narrow(7, 3),
        "e5m2" => narrow(15, 2),
        "f16" => half::f16::from_f32(f).to_bits().into(),
        "bf16" => half::bf16::from_f32(f).to_bits().into(),
        "f32" => f.to_bits().into(),
        // What is dropped may be anything.
        "tf32" => u64::from(f.to_bits() | 0x1ABC),
        "f64" => (v as f64).to_bits(),
        _ => v as u64 & (u64::MAX >> (64 - bits(ty))),
    }
}

fn decode(ty: &str, x: u64) -> i64 {
    match ty {
        "f16" => half::f16::from_bits(x as u16).to_f32() as i64,
        "f32" => f32::from_bits(x as u32) as i64,
        "f64" => f64::from_bits(x) as i64,
        _ => i64::from(x as i32),
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        ((self.0 >> 33) % n) as i64
    }

    fn value(&mut self, ty: &str) -> i64 {
        match ty {
            "b1" => self.below(2),
            "s4" => self.below(16) - 8,
            "u4" => self.below(16),
            "s8" => self.below(256) - 128,
            "u8" => self.below(256),
            _ => self.below(7) - 3,
        }
    }
}

/// A fragment as the words that lanes hold.
fn pack(
    words: usize,
    ty: &str,
    count: usize,
    value: impl Fn(usize, usize) -> i64,
) -> Vec<Vec<u32>> {
    let n = bits(ty);
    (0..32)
        .map(|lane| {
            let mut w = vec![0u32; words];
            for i in 0..count {
                let x = encode(ty, value(lane, i));
                for half in 0..n.div_ceil(32) {
                    w[(i * n) / 32 + half] |= ((x >> (32 * half)) as u32) << (i * n % 32);
                }
            }
            w
        })
        .collect()
}

fn words(ty: &str, count: usize) -> usize {
    (count * bits(ty)).div_ceil(32)
}

fn kernel(form: &Form, name: &str) -> String {
    let n = form.elements();
    let wide = form.a == "f64";
    let regs = |ty: &str, count: usize| words(ty, count) / if wide { 2 } else { 1 };
    let of = |ty: &str| match ty {
        "f32" => "f32",
        "f64" => "f64",
        _ => "b32",
    };
    let input = if wide { "f64" } else { "b32" };
    let all = [
        ("a", input, regs(form.a, n[0])),
        ("b", input, regs(form.b, n[1])),
        ("c", of(form.c), regs(form.c, n[2])),
        ("d", of(form.d), regs(form.d, n[2])),
    ];
    let mut s = format!(
        ".visible .entry {name}(.param .u64 p) {{\n.reg .b64 q, u; .reg .b32 l;\nld.param.u64 q, [p];\n\
         mov.u32 l, %laneid; mul.wide.u32 u, l, 256; add.u64 q, q, u;\n"
    );
    let (mut at, mut lists) = (0, Vec::new());
    for (v, ty, count) in all {
        let _ = writeln!(s, ".reg .{ty} {v}<{count}>;");
        for r in 0..count {
            if v != "d" {
                let _ = writeln!(s, "ld.global.{ty} {v}{r}, [q + {at}];");
            }
            at += if wide { 8 } else { 4 };
        }
        let list: Vec<_> = (0..count).map(|r| format!("{v}{r}")).collect();
        lists.push(format!("{{{}}}", list.join(", ")));
    }
    let _ = writeln!(
        s,
        "{} {}, {}, {}, {};",
        form.opcode(),
        lists[3],
        lists[0],
        lists[1],
        lists[2]
    );
    let (ty, count) = (all[3].1, all[3].2);
    for r in 0..count {
        let place = 128 + r * if wide { 8 } else { 4 };
        let _ = writeln!(s, "st.global.{ty} [q + {place}], d{r};");
    }
    s + "ret;\n}\n"
}

/// Forms of a target.
fn forms(target: u32) -> Vec<Form> {
    let base = Form {
        m: 16,
        k: 8,
        a: "f16",
        b: "f16",
        c: "f32",
        d: "f32",
        layout: "row.col",
        before: "",
        after: "",
    };
    let mut all = Vec::new();
    let mut add = |m, k, a, b, c, d| {
        all.push(Form {
            m,
            k,
            a,
            b,
            c,
            d,
            ..base.clone()
        });
    };
    for k in [8, 16] {
        add(16, k, "f16", "f16", "f32", "f32");
        add(16, k, "f16", "f16", "f16", "f16");
        add(16, k, "bf16", "bf16", "f32", "f32");
        add(16, k / 2, "tf32", "tf32", "f32", "f32");
    }
    if target >= 89 {
        for (k, a) in [(16, "e4m3"), (16, "e5m2"), (32, "e4m3"), (32, "e5m2")] {
            for b in ["e4m3", "e5m2"] {
                add(16, k, a, b, "f32", "f32");
                add(16, k, a, b, "f16", "f16");
            }
        }
    }
    add(8, 4, "f64", "f64", "f64", "f64");
    if target >= 90 {
        for k in [4, 8, 16] {
            add(16, k, "f64", "f64", "f64", "f64");
        }
    }
    for (a, b) in [("s", "s"), ("s", "u"), ("u", "s"), ("u", "u")] {
        let name = |t: &str, n: u32| match (t, n) {
            ("s", 8) => "s8",
            ("u", 8) => "u8",
            ("s", _) => "s4",
            _ => "u4",
        };
        for (m, k, n) in [
            (8, 16, 8),
            (16, 16, 8),
            (16, 32, 8),
            (8, 32, 4),
            (16, 32, 4),
            (16, 64, 4),
        ] {
            add(m, k, name(a, n), name(b, n), "s32", "s32");
        }
    }
    for (m, k) in [(8, 128), (16, 128), (16, 256)] {
        add(m, k, "b1", "b1", "s32", "s32");
    }
    let mut more = Vec::new();
    for f in &mut all {
        match f.a {
            "s8" | "u8" | "s4" | "u4" => more.push(Form {
                before: ".satfinite",
                ..f.clone()
            }),
            "b1" => {
                f.after = ".and.popc";
                more.push(Form {
                    after: ".xor.popc",
                    ..f.clone()
                });
            }
            "f64" => more.extend([".rn", ".rz", ".rm", ".rp"].map(|before| Form {
                before,
                ..f.clone()
            })),
            _ => {}
        }
    }
    all.extend(more);
    for layout in ["row.col", "row.row", "col.row", "col.col"] {
        for (c, d) in [("f32", "f32"), ("f16", "f32"), ("f16", "f16")] {
            all.push(Form {
                m: 8,
                k: 4,
                c,
                d,
                layout,
                ..base.clone()
            });
        }
    }
    all
}

fn check(d: &Device, module: cudarc::driver::sys::CUmodule, form: &Form, name: &str, seed: u64) {
    let mut r = Random(seed);
    let (n, ops) = (form.elements(), if form.volta() { 4 } else { 1 });
    let mut fill = |rows: usize, cols: usize, ty: &str| -> Vec<i64> {
        (0..ops * rows * cols).map(|_| r.value(ty)).collect()
    };
    let (a, b) = (fill(form.m, form.k, form.a), fill(form.k, 8, form.b));
    let mut c = fill(form.m, 8, form.c);
    if form.c == "s32" {
        // The ends, where sums wrap or are clamped.
        for (i, c) in c.iter_mut().enumerate() {
            *c += [0, i64::from(i32::MAX) - 3, i64::from(i32::MIN) + 3][i % 3];
        }
    }
    let at = |(op, row, col): (usize, usize, usize), rows: usize, cols: usize| {
        (op * rows + row) * cols + col
    };
    let parts = [
        pack(words(form.a, n[0]), form.a, n[0], |l, i| {
            a[at(form.a_place(l, i), form.m, form.k)]
        }),
        pack(words(form.b, n[1]), form.b, n[1], |l, i| {
            b[at(form.b_place(l, i), form.k, 8)]
        }),
        pack(words(form.c, n[2]), form.c, n[2], |l, i| {
            c[at(form.c_place(l, i, form.c), form.m, 8)]
        }),
    ];
    let mut image = vec![0xFFFF_FFFFu32; 32 * 64];
    for lane in 0..32 {
        let all: Vec<u32> = parts.iter().flat_map(|p| p[lane].clone()).collect();
        assert!(all.len() <= 32, "inputs of a lane");
        image[lane * 64..lane * 64 + all.len()].copy_from_slice(&all);
    }
    let mut buffer = d.stream.clone_htod(&image).unwrap();
    {
        let (p, _guard) = buffer.device_ptr_mut(&d.stream);
        d.launch(module, name, [1; 3], [32, 1, 1], 0, &[Arg::U64(p)])
            .unwrap_or_else(|e| panic!("{}: {e:?} {:?}", form.opcode(), d.universe.reports()));
    }
    let out: Vec<u32> = d.stream.clone_dtoh(&buffer).unwrap();
    let _ = buffer.device_ptr(&d.stream);
    for lane in 0..32 {
        for i in 0..n[2] {
            let (w, shift) = (i * bits(form.d) / 32, i * bits(form.d) % 32);
            let word = |j: usize| u64::from(out[lane * 64 + 32 + j]);
            let got = match bits(form.d) {
                16 => word(w) >> shift & 0xFFFF,
                32 => word(w),
                _ => word(w) | word(w + 1) << 32,
            };
            let (op, row, col) = form.c_place(lane, i, form.d);
            let dot: i64 = (0..form.k)
                .map(|k| {
                    let (x, y) = (
                        a[at((op, row, k), form.m, form.k)],
                        b[at((op, k, col), form.k, 8)],
                    );
                    match form.after {
                        ".xor.popc" => x ^ y,
                        _ => x * y,
                    }
                })
                .sum();
            let sum = dot + c[at((op, row, col), form.m, 8)];
            let want = match form.before {
                ".satfinite" => sum.clamp(i32::MIN.into(), i32::MAX.into()),
                _ if form.d == "s32" => i64::from(sum as i32),
                _ => sum,
            };
            assert_eq!(
                decode(form.d, got),
                want,
                "{} lane {lane} element {i}: row {row} column {col}",
                form.opcode()
            );
        }
    }
}

fn every_form(target: u32, compute_capability: ComputeCapability, numerics: Numerics) {
    let d = device(&Knobs {
        compute_capability,
        numerics,
        ..Knobs::default()
    });
    let forms = forms(target);
    let mut text = format!(".version 8.8\n.target sm_{target}\n.address_size 64\n");
    for (i, f) in forms.iter().enumerate() {
        text += &kernel(f, &format!("k{i}"));
    }
    let module = d.load(&text).expect("the module");
    for (i, f) in forms.iter().enumerate() {
        check(&d, module, f, &format!("k{i}"), i as u64);
    }
    println!("sm_{target}: {} forms", forms.len());
}

#[test]
fn every_form_of_sm_80() {
    every_form(80, ComputeCapability::Cc80, Numerics::Exact);
}

#[test]
fn every_form_of_sm_89() {
    every_form(89, ComputeCapability::Cc89, Numerics::Exact);
}

#[test]
fn every_form_of_sm_90() {
    every_form(90, ComputeCapability::Cc90, Numerics::Exact);
    every_form(90, ComputeCapability::Cc90, Numerics::Fast);
}
