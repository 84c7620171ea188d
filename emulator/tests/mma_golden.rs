//! Every line of the golden tensor-core steps, bit for bit. Cost: under a second.

use hadal_emulator::isa::mma_arith::{AccType, InType, MmaKind, Mode, mma_tile};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
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
        let acc = if kind[2] == "f16" {
            AccType::F16
        } else {
            AccType::F32
        };
        let (a, b) = match kind[3] {
            "e4m3e5m2" => ("e4m3", "e5m2"),
            "e5m2e4m3" => ("e5m2", "e4m3"),
            both => (both, both),
        };
        let (a, b) = (input(a), input(b));
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
