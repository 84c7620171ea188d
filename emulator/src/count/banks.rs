//! Sectors of a request to global memory, wavefronts of one to shared memory.

/// Different sectors of 32 bytes among the addresses of the lanes in `mask`. An aligned access of up to 16 bytes lies in one.
pub fn sectors(addrs: &[u64; 32], mask: u32) -> u64 {
    let mut seen = [0u64; 32];
    let mut n = 0;
    let mut last = None;
    for (l, a) in addrs.iter().enumerate() {
        let s = a >> 5;
        if mask >> l & 1 == 0 || last == Some(s) {
            continue;
        }
        last = Some(s);
        if !seen[..n].contains(&s) {
            seen[n] = s;
            n += 1;
        }
    }
    n as u64
}

/// Wavefronts of an access of `bytes` per lane at byte offsets `at`, and how many it would take without conflicts.
///
/// 32 banks of 4 bytes each give one word a wavefront; lanes that want the same word share it. Up to 4 bytes a lane the whole
/// warp is one phase, 8 bytes make two phases of 16 lanes, 16 bytes four of 8: each phase that has lanes takes at least one.
pub fn wavefronts(at: &[u32; 32], bytes: u32, mask: u32) -> (u64, u64) {
    let lanes = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let words = bytes.div_ceil(4);
    let (mut taken, mut ideal) = (0, 0);
    for first in (0..32).step_by(lanes) {
        let of = mask >> first & (u32::MAX >> (32 - lanes));
        if of != 0 {
            taken += phase(&at[first..first + lanes], words, of);
            ideal += 1;
        }
    }
    (taken, ideal)
}

/// Wavefronts of one phase: the most different words that one bank has to give.
fn phase(at: &[u32], words: u32, mask: u32) -> u64 {
    let mut first = [u32::MAX; 32];
    let mut conflict = false;
    let active = || (0..at.len()).filter(|l| mask >> l & 1 != 0).map(|l| at[l]);
    for a in active() {
        for w in a / 4..a / 4 + words {
            let slot = &mut first[w as usize % 32];
            conflict |= *slot != u32::MAX && *slot != w;
            *slot = w;
        }
    }
    if !conflict {
        return 1;
    }
    let mut all: Vec<u32> = Vec::with_capacity(32);
    for a in active() {
        all.extend(a / 4..a / 4 + words);
    }
    all.sort_unstable();
    all.dedup();
    let mut per = [0u64; 32];
    for w in all {
        per[w as usize % 32] += 1;
    }
    per.into_iter().max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn at(f: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|l| f(l as u32))
    }

    #[test]
    fn words() {
        assert_eq!(wavefronts(&at(|l| 4 * l), 4, ALL), (1, 1));
        assert_eq!(wavefronts(&at(|_| 64), 4, ALL), (1, 1), "one word for all");
        assert_eq!(wavefronts(&at(|l| 128 * l), 4, ALL), (32, 1));
        assert_eq!(wavefronts(&at(|l| 128 * l), 4, 0xF), (4, 1));
        assert_eq!(wavefronts(&at(|l| 132 * l), 4, ALL), (1, 1), "padded");
        assert_eq!(wavefronts(&at(|l| 8 * l), 4, ALL), (2, 1));
        assert_eq!(
            wavefronts(&at(|l| 2 * l), 2, ALL),
            (1, 1),
            "two lanes, one word"
        );
        assert_eq!(wavefronts(&at(|l| l), 1, ALL), (1, 1));
        assert_eq!(wavefronts(&at(|l| 128 * (l / 2)), 4, ALL), (16, 1));
    }

    #[test]
    fn wide() {
        assert_eq!(wavefronts(&at(|l| 8 * l), 8, ALL), (2, 2));
        assert_eq!(wavefronts(&at(|l| 8 * l), 8, 0xFF), (1, 1));
        assert_eq!(wavefronts(&at(|l| 16 * l), 16, ALL), (4, 4));
        assert_eq!(wavefronts(&at(|l| 32 * l), 16, ALL), (8, 4));
        assert_eq!(wavefronts(&at(|l| 128 * l), 16, ALL), (32, 4));
        assert_eq!(wavefronts(&at(|_| 0), 16, ALL), (4, 4));
        // Rows of 128 bytes, 16 bytes of each: as they are, and with the 128-byte swizzle.
        assert_eq!(wavefronts(&at(|l| 128 * l + 32), 16, 0xFF), (8, 1));
        assert_eq!(
            wavefronts(&at(|l| 128 * l + ((2 ^ (l % 8)) * 16)), 16, ALL),
            (4, 4)
        );
    }

    #[test]
    fn lines_of_32_bytes() {
        let a = |f: fn(u64) -> u64| std::array::from_fn(|l| f(l as u64));
        assert_eq!(sectors(&a(|l| 4 * l), ALL), 4);
        assert_eq!(sectors(&a(|l| 4 * l + 4), ALL), 5);
        assert_eq!(sectors(&a(|_| 4), ALL), 1);
        assert_eq!(sectors(&a(|l| 128 * l), ALL), 32);
        assert_eq!(sectors(&a(|l| 16 * l), ALL), 16);
        assert_eq!(sectors(&a(|l| (l % 2) << 20), ALL), 2);
        assert_eq!(sectors(&a(|l| 32 * l), 0x8000_0001), 2);
        assert_eq!(sectors(&a(|l| l), 0), 0);
    }
}
