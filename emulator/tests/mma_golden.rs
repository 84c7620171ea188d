//! Every line of the golden tensor-core steps, bit for bit. Cost: under a second.

use hadal_emulator::client::ComputeCapability;
use hadal_emulator::isa::mma_arith::{AccType, InType, MmaKind, Mode, mma_sync, mma_tile};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// The types of A and B from `e4m3` or `e4m3e5m2`.
fn inputs(name: &str) -> (InType, InType) {
    match name {
        "e4m3e5m2" => (InType::E4M3, InType::E5M2),
        "e5m2e4m3" => (InType::E5M2, InType::E4M3),
        both => (input(both), input(both)),
    }
}

fn accumulator(name: &str) -> AccType {
    match name {
        "f16" => AccType::F16,
        "f32" => AccType::F32,
        other => panic!("unknown accumulator type {other}"),
    }
}

fn input(name: &str) -> InType {
    match name {
        "e4m3" => InType::E4M3,
        "e5m2" => InType::E5M2,
        "f16" => InType::F16,
        "bf16" => InType::Bf16,
        "tf32" => InType::Tf32,
        other => panic!("unknown operand type {other}"),
    }
}

#[test]
fn every_golden_line() {
    let text = include_str!("data/hopper_mma_numerics.csv");
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (no, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.starts_with('#'))
    {
        let f: Vec<&str> = line.split(',').collect();
        let kind: Vec<&str> = f[0].split('.').collect();
        assert_eq!(kind[0], "wgmma", "line {}", no + 1);
        let acc = accumulator(kind[2]);
        let (a, b) = inputs(kind[3]);
        let mut d = [u32::from_str_radix(f[3], 16).unwrap()];
        let k = MmaKind {
            a,
            b,
            acc,
            saturate: false,
        };
        mma_tile(
            k,
            1,
            1,
            &hex(f[1]),
            &hex(f[2]),
            &mut d,
            true,
            false,
            false,
            Mode::Exact,
        );
        assert_eq!(
            d[0],
            u32::from_str_radix(f[4], 16).unwrap(),
            "line {}: {line}",
            no + 1
        );
        *counts.entry(f[0]).or_default() += 1;
    }
    println!("{counts:?}");
    assert!(counts.values().sum::<usize>() > 3000);
}

/// The same for `mma.sync` on each device.
#[test]
fn every_golden_line_of_mma_sync() {
    let text = include_str!("data/mma_sync_numerics.csv");
    let mut counts = std::collections::BTreeMap::<(&str, &str), usize>::new();
    for (no, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.starts_with('#'))
    {
        let f: Vec<&str> = line.split(',').collect();
        let device = match f[0] {
            "80" => ComputeCapability::Cc80,
            "89" => ComputeCapability::Cc89,
            "90" => ComputeCapability::Cc90,
            other => panic!("unknown device {other}"),
        };
        let kind: Vec<&str> = f[1].split('.').collect();
        let (a, b) = inputs(kind[2]);
        let k = MmaKind {
            a,
            b,
            acc: accumulator(kind[1]),
            saturate: false,
        };
        let len: usize = kind[0][1..].parse().unwrap();
        let row = |text: &str| {
            let mut r = hex(text);
            r.resize(32, 0);
            r
        };
        let mut d = [u32::from_str_radix(f[4], 16).unwrap()];
        mma_sync(
            device,
            k,
            1,
            1,
            len,
            &row(f[2]),
            &row(f[3]),
            &mut d,
            Mode::Exact,
        );
        let want = u32::from_str_radix(f[5], 16).unwrap();
        assert_eq!(d[0], want, "line {}: {line}", no + 1);
        *counts.entry((f[0], f[1])).or_default() += 1;
    }
    println!("{counts:?}");
    assert_eq!(counts.len(), 8 + 24 + 8);
    assert!(counts.values().sum::<usize>() >= 1600);
}
