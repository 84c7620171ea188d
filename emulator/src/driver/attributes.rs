//! What a device says of itself.

/// Its name: honest about what it is.
pub const NAME: &str = "NVIDIA H100 80GB HBM3 (hadal-emulator)";

const TABLE: &str = include_str!("../../data/h100_attributes.txt");

/// Attribute `n` of device `ordinal`.
pub fn get(n: i32, ordinal: u32) -> Option<i32> {
    let row = TABLE
        .lines()
        .filter(|l| !l.starts_with('#'))
        .find_map(|l| {
            let mut f = l.split_whitespace();
            (f.next()?.parse::<i32>().ok()? == n).then(|| f.next()?.parse().ok())?
        })?;
    // Devices sit in slots of their own.
    Some(if n == 33 { 1 + ordinal as i32 } else { row })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_reads() {
        for l in super::TABLE.lines().filter(|l| !l.starts_with('#')) {
            let n: i32 = l.split_whitespace().next().unwrap().parse().unwrap();
            assert!(super::get(n, 0).is_some(), "{l}");
        }
        assert_eq!(super::get(16, 3), Some(132));
        assert_eq!(super::get(1000, 0), None);
    }
}
