//! Every path equals the definition on random tiles of many kinds. Cost: seconds.

use super::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const FLOATS: [(InType, InType, AccType); 12] = [
    (InType::E4M3, InType::E4M3, AccType::F32),
    (InType::E4M3, InType::E5M2, AccType::F32),
    (InType::E5M2, InType::E4M3, AccType::F32),
    (InType::E5M2, InType::E5M2, AccType::F32),
    (InType::E4M3, InType::E4M3, AccType::F16),
    (InType::E4M3, InType::E5M2, AccType::F16),
    (InType::E5M2, InType::E4M3, AccType::F16),
    (InType::E5M2, InType::E5M2, AccType::F16),
    (InType::F16, InType::F16, AccType::F32),
    (InType::F16, InType::F16, AccType::F16),
    (InType::Bf16, InType::Bf16, AccType::F32),
    (InType::Tf32, InType::Tf32, AccType::F32),
];

/// What an operand's elements look like.
const STYLES: u64 = 6;

/// One element. `base` is an exponent field that the style may stay near to.
fn element(r: &mut Random, ty: InType, style: u64, base: u64) -> u32 {
    let shape = lanes::Shape::of(ty);
    let bits = 1 + shape.exp_bits + shape.man_bits;
    let make = |sign: u64, exp: u64, man: u64| {
        let exp = exp.min((1 << shape.exp_bits) - 1);
        let man = man & ((1 << shape.man_bits) - 1);
        ((sign & 1) << (bits - 1) | exp << shape.man_bits | man) as u32
    };
    let rest = r.next();
    let (sign, man) = (rest, rest >> 1);
    let code = match style {
        // Any code, specials too.
        0 => rest as u32 & ((1_u64 << bits) - 1) as u32,
        // Near one exponent.
        1 => make(sign, base + (rest >> 40 & 3), man),
        // Mostly zeroes of both signs.
        2 if rest >> 60 != 0 => make(sign, 0, 0),
        // Subnormals.
        3 => make(sign, 0, man),
        // The two ends.
        4 if rest >> 63 == 0 => make(sign, rest >> 40 & 1, man),
        4 => make(sign, (1 << shape.exp_bits) - 2 - (rest >> 40 & 1), man),
        // Any exponent.
        _ => make(sign, rest >> 40 & ((1 << shape.exp_bits) - 1), man),
    };
    let code = if style != 0 && shape.special(code << shape.dropped) {
        // The largest finite number.
        code & !(1 << shape.man_bits)
    } else {
        code
    };
    // What is dropped may be anything.
    code << shape.dropped | (r.next() & ((1 << shape.dropped) - 1)) as u32
}

fn operand(r: &mut Random, ty: InType, rows: usize) -> Vec<u8> {
    let (mut style, top) = (r.below(STYLES), 1 << lanes::Shape::of(ty).exp_bits);
    let (base, mixed) = (r.below(top), r.below(4) == 0);
    let mut bytes = Vec::new();
    for _ in 0..rows {
        if mixed {
            style = r.below(STYLES);
        }
        for _ in 0..32 / ty.bytes() {
            let x = element(r, ty, style, base).to_le_bytes();
            bytes.extend_from_slice(&x[..ty.bytes()]);
        }
        // Cancellation: the second half is the first; A's or B's signs will differ.
        if r.below(8) == 0 {
            let row = bytes.len() - 32;
            bytes.copy_within(row..row + 16, row + 16);
            let sign = ty.bytes() - 1;
            for at in (row + 16..row + 32).step_by(ty.bytes()) {
                bytes[at + sign] ^= 0x80;
            }
        }
    }
    bytes
}

fn accumulator(r: &mut Random, acc: AccType, style: u64) -> u32 {
    let x = r.next();
    match (acc, style) {
        (_, 0) => 0,
        (AccType::F16, 1) => x as u32 & 0xFFFF,
        (AccType::F16, 2) => x as u32 & 0x83FF,
        (AccType::F16, 3) => 0x8000,
        (AccType::F16, _) => x as u32 & 0x8FFF | 0x3000,
        (_, 1) => x as u32,
        (_, 2) => x as u32 & 0x807F_FFFF,
        (_, 3) => 0x8000_0000,
        // Near the products of 8-bit floats; near f32's ends.
        (_, 4) => x as u32 & 0x83FF_FFFF | 0x3C00_0000,
        (_, 5) => x as u32 & 0x81FF_FFFF,
        _ => x as u32 & 0x81FF_FFFF | 0x7D80_0000,
    }
}

fn tiles(seed: u64, count: usize, mut check: impl FnMut(&Step, &[u32], &str)) {
    let mut r = Random(seed);
    for case in 0..count {
        for (a_type, b_type, acc_type) in FLOATS {
            let kind = MmaKind {
                a: a_type,
                b: b_type,
                acc: acc_type,
                saturate: false,
            };
            let (m, n) = (1 + r.below(9) as usize, 1 + r.below(150) as usize);
            let (mut a, mut b) = (operand(&mut r, a_type, m), operand(&mut r, b_type, n));
            // A step of the other devices every other time: 16 bytes of K, zeroes behind.
            let (mut sum, mut k) = (Summation::wgmma(kind), kind.k());
            if case % 2 == 1 {
                sum = Summation::mma(kind, ComputeCapability::Cc89);
                k /= 2;
                a.chunks_exact_mut(32).for_each(|x| x[16..].fill(0));
                b.chunks_exact_mut(32).for_each(|x| x[16..].fill(0));
            }
            let style = r.below(9);
            let old: Vec<u32> = (0..m * n)
                .map(|_| {
                    let style = if style > 6 { r.below(7) } else { style };
                    accumulator(&mut r, acc_type, style)
                })
                .collect();
            let step = Step {
                kind,
                sum,
                k,
                n,
                a: &a,
                b: &b,
                scale_d: r.below(8) != 0,
                neg: r.below(4) == 0,
            };
            let name = format!(
                "seed {seed} case {case} {kind:?} {m} x {n} scale_d {} neg {}",
                step.scale_d, step.neg
            );
            check(&step, &old, &name);
        }
    }
}

fn by_definition(step: &Step, old: &[u32]) -> Vec<u32> {
    let k = step.kind.k();
    let a = terms(step.kind.a, step.a, step.neg);
    let b = terms(step.kind.b, step.b, false);
    let one = |(i, &c): (usize, &u32)| {
        let (a, b) = (&a[i / step.n * k..][..k], &b[i % step.n * k..][..k]);
        let c = if step.scale_d { c } else { 0 };
        exact::dot(a, b, step.kind.acc, c, step.sum)
    };
    old.iter().enumerate().map(one).collect()
}

fn compare(step: &Step, old: &[u32], want: &[u32], got: &[u32], name: &str) {
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        assert!(
            want == got,
            "{name}, row {} column {}: C {:08x}, want {want:08x}, got {got:08x}",
            i / step.n,
            i % step.n,
            old[i]
        );
    }
}

/// The sets of vectors that this machine has.
fn every_vectors() -> Vec<Vectors> {
    let mut all = vec![Vectors::Baseline];
    #[cfg(target_arch = "x86_64")]
    if vectors() != Vectors::Baseline {
        all.push(vectors());
    }
    all
}

#[test]
fn vectors_equal_the_definition() {
    let (mut outputs, mut nan, mut zero, mut infinite) = (0, 0, 0, 0);
    let (mut in_f32, mut all) = (0, 0);
    tiles(1, 400, |step, old, name| {
        let want = by_definition(step, old);
        all += every_vectors().len();
        for &x in &want {
            let f32_result = step.kind.acc == AccType::F32;
            outputs += 1;
            nan += usize::from(x == if f32_result { 0x7FFF_FFFF } else { 0x7FFF });
            zero += usize::from(x == 0);
            infinite +=
                usize::from(x & 0x7FFF_FFFF == 0x7F80_0000 && f32_result || x & 0x7FFF == 0x7C00);
        }
        for v in every_vectors() {
            let mut got = old.to_vec();
            lanes::tile(step, &mut got, v);
            compare(step, old, &want, &got, name);
            let mut got = old.to_vec();
            lanes::integers(step, &mut got, v);
            compare(step, old, &want, &got, name);
            let mut got = old.to_vec();
            if wide::tile(step, &mut got, v) {
                in_f32 += 1;
                compare(step, old, &want, &got, name);
            }
        }
    });
    // 4 of the 12 kinds are f16 or wider; of those two, tiles with far exponents are left to integers.
    assert!(in_f32 > 0, "{in_f32} of {all}");
    // Neither drowned in special values nor without them.
    assert!(
        nan < outputs / 2 && nan > outputs / 100,
        "{nan} of {outputs}"
    );
    assert!(infinite > outputs / 1000, "{infinite} of {outputs}");
    assert!(
        zero > outputs / 1000 && zero < outputs / 2,
        "{zero} of {outputs}"
    );
}

#[test]
fn fast_does_not_depend_on_vectors() {
    tiles(2, 60, |step, old, name| {
        let (mut want, mut got) = (old.to_vec(), old.to_vec());
        fast::tile(step, &mut want, Vectors::Baseline);
        fast::tile(step, &mut got, vectors());
        compare(step, old, &want, &got, name);
    });
}

fn one(kind: MmaKind, a: &[u8], b: &[u8], c: u32, mode: Mode) -> u32 {
    let (mut ra, mut rb, mut d) = ([0; 32], [0; 32], [c]);
    ra[..a.len()].copy_from_slice(a);
    rb[..b.len()].copy_from_slice(b);
    mma_tile(kind, 1, 1, &ra, &rb, &mut d, true, false, false, mode);
    d[0]
}

const E4M3: MmaKind = MmaKind {
    a: InType::E4M3,
    b: InType::E4M3,
    acc: AccType::F32,
    saturate: false,
};

/// Steps that tell thirteen bits from fourteen, cutting from rounding, each term from the sum.
#[test]
fn telling_steps() {
    let run = |a: &[u8], b: &[u8], c: f32| {
        let bits = c.to_bits();
        [Mode::Exact, Mode::Fast].map(|mode| f32::from_bits(one(E4M3, a, b, bits, mode)))
    };
    let ulp = |e: i32| 2f32.powi(e);
    assert_eq!(run(&[0x38, 0x08], &[0x38, 0x04], 0.0), [1.0 + ulp(-13); 2]);
    assert_eq!(
        run(&[0x38, 0x08], &[0x38, 0x02], 0.0),
        [1.0, 1.0 + ulp(-14)]
    );
    assert_eq!(
        run(&[0x38, 8, 8], &[0x38, 2, 2], 0.0),
        [1.0, 1.0 + ulp(-13)]
    );
    assert_eq!(
        run(&[0x38, 0x88], &[0x38, 0x02], 0.0),
        [1.0, 1.0 - ulp(-14)]
    );
    assert_eq!(
        run(&[0x3C, 0x08], &[0x3C, 0x04], 0.0),
        [2.25, 2.25 + ulp(-13)]
    );
    assert_eq!(run(&[0x38], &[0x38], 8192.0), [8193.0; 2]);
    assert_eq!(run(&[0x38; 32], &[0x38; 32], 16384.0), [16384.0, 16416.0]);
    assert_eq!(
        run(&[0x7E, 0xFE, 0x38], &[0x7E, 0x7E, 0x38], 0.0),
        [0.0, 1.0]
    );
    assert_eq!(
        run(&[0x78, 0x38, 0x38, 0x38], &[0x78, 0x38, 0x48, 0x50], 0.0),
        [65544.0, 65549.0]
    );
    assert_eq!(run(&[], &[], 1.0 + ulp(-20)), [1.0, 1.0 + ulp(-20)]);
}

#[test]
fn special_values() {
    for mode in [Mode::Exact, Mode::Fast] {
        let run = |kind, a: u8, b: u8, c: u32| one(kind, &[a], &[b], c, mode);
        let inf = 0x7F80_0000;
        // NaN of both signs, old accumulators that are not numbers.
        assert_eq!(run(E4M3, 0x7F, 0, 0), 0x7FFF_FFFF);
        assert_eq!(run(E4M3, 0, 0xFF, 0), 0x7FFF_FFFF);
        assert_eq!(run(E4M3, 0x38, 0x38, 0xFFC0_0001), 0x7FFF_FFFF);
        assert_eq!(run(E4M3, 0x38, 0x38, inf), inf);
        assert_eq!(run(E4M3, 0x38, 0x38, inf | 1 << 31), inf | 1 << 31);
        // E5M2 has infinities.
        let e5 = MmaKind {
            a: InType::E5M2,
            ..E4M3
        };
        assert_eq!(run(e5, 0x7C, 0x38, 0), inf);
        assert_eq!(run(e5, 0x7C, 0xB8, 0), inf | 1 << 31);
        assert_eq!(run(e5, 0x7C, 0x00, 0), 0x7FFF_FFFF);
        assert_eq!(run(e5, 0x7C, 0xB8, inf), 0x7FFF_FFFF);
        assert_eq!(run(e5, 0x7D, 0x38, 0), 0x7FFF_FFFF);
        // A zero is +0.
        assert_eq!(run(E4M3, 0x80, 0x38, 1 << 31), 0);
        // Half results.
        let half = MmaKind {
            acc: AccType::F16,
            ..E4M3
        };
        assert_eq!(run(half, 0x7F, 0, 0), 0x7FFF);
        assert_eq!(run(half, 0x7E, 0x7E, 0), 0x7C00);
        assert_eq!(run(half, 0x7E, 0xFE, 0), 0xFC00);
        // An ignored old accumulator may be anything.
        let (a, mut d) = ([0x38; 32], [0x7FC0_0000]);
        mma_tile(E4M3, 1, 1, &a, &a, &mut d, false, false, true, mode);
        assert_eq!(d, [(-32f32).to_bits()]);
    }
}

#[test]
fn integers_wrap_or_saturate() {
    let run = |a: InType, b: InType, x: u8, y: u8, c: i32, saturate| {
        let kind = MmaKind {
            a,
            b,
            acc: AccType::S32,
            saturate,
        };
        let mut d = [c as u32; 2];
        let (x, y) = ([x; 32], [[y; 32], [0; 32]].concat());
        mma_tile(kind, 1, 2, &x, &y, &mut d, true, false, false, Mode::Exact);
        assert_eq!(d[1] as i32, c);
        d[0] as i32
    };
    use InType::{S8, U8};
    assert_eq!(run(U8, U8, 255, 255, 0, false), 32 * 255 * 255);
    assert_eq!(run(S8, U8, 255, 255, 7, false), 7 - 32 * 255);
    assert_eq!(run(S8, S8, 128, 128, 0, true), 32 * 128 * 128);
    assert_eq!(run(U8, U8, 1, 1, i32::MAX, true), i32::MAX);
    assert_eq!(run(U8, U8, 1, 1, i32::MAX, false), i32::MIN + 31);
    assert_eq!(run(S8, U8, 255, 1, i32::MIN, true), i32::MIN);
    assert_eq!(run(S8, U8, 255, 1, i32::MIN, false), i32::MAX - 31);
}
