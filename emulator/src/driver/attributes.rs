//! What a device says of itself.

use crate::machine::device::ComputeCapability;

const H100: &str = include_str!("../../data/h100_attributes.txt");
const A100: &str = include_str!("../../data/a100_attributes.txt");
const L40S: &str = include_str!("../../data/l40s_attributes.txt");

fn row(table: &str, n: i32) -> Option<i32> {
    table.lines().filter(|l| !l.starts_with('#')).find_map(|l| {
        let mut f = l.split_whitespace();
        (f.next()?.parse::<i32>().ok()? == n).then(|| f.next()?.parse().ok())?
    })
}

/// Attribute `n` of device `ordinal`.
pub fn get(cc: ComputeCapability, n: i32, ordinal: u32) -> Option<i32> {
    let own = match cc {
        ComputeCapability::Cc80 => row(A100, n),
        ComputeCapability::Cc89 => row(L40S, n),
        ComputeCapability::Cc90 => None,
    };
    let value = own.or_else(|| row(H100, n))?;
    // Devices sit in slots of their own.
    Some(if n == 33 { 1 + ordinal as i32 } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_reads_and_agrees_with_the_limits() {
        use ComputeCapability::*;
        for (cc, table) in [(Cc80, A100), (Cc89, L40S), (Cc90, H100)] {
            for l in table.lines().filter(|l| !l.starts_with('#')) {
                let n: i32 = l.split_whitespace().next().unwrap().parse().unwrap();
                assert!(get(cc, n, 0).is_some(), "{l}");
            }
            let p = cc.profile();
            let a = |n| get(cc, n, 0).unwrap() as u32;
            assert_eq!(
                [a(16), a(39), a(106)],
                [p.sms, p.threads_per_sm, p.blocks_per_sm]
            );
            assert_eq!(
                [a(81), a(97), a(111)],
                [p.shared_per_sm, p.shared_per_block, p.shared_reserved]
            );
            assert_eq!([a(12), a(82)], [p.registers; 2]);
            assert_eq!((a(75), a(76)), cc.version());
            assert_eq!(a(120), u32::from(p.cluster[0] > 1));
        }
        assert_eq!(get(Cc90, 33, 3), Some(4));
        assert_eq!(get(Cc90, 1000, 0), None);
    }
}
