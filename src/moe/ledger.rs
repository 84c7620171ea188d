//! What a round trip must cost at least, what it costs here, and how long that should take: a model, not a measurement.

use std::fmt;

use super::layout::{CombineMode, GroupConfig};

/// NVLink 4 of an H100: 18 links of 25 GB/s in each direction (NVIDIA H100 datasheet), in bytes a second.
const NVLINK: f64 = 450e9;
/// The part of it that remote stores reach: 0.82, a design goal; published all-to-alls on H200 and GB200 show 0.62 to 0.73.
const REACHED: f64 = 0.82;
/// Seconds before the first byte and after the last: a launch (2 µs), the first load (0.7), a store's way to the peer (1), a
/// poll (0.5). Barrier-free packet exchanges measure 3.7 µs (NCCL's all-to-all sample on GB200).
const FIXED: f64 = 4.2e-6;
/// Counting the ids before a block's own, for each 1024 tokens: 8 loads a thread that wait for each other four at a time.
const SCAN: f64 = 1.0e-6;

/// One direction of a round trip for one rank, at uniform routing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes to other ranks that cannot be avoided: each row once to each rank that has an expert for it.
    pub floor_bytes: f64,
    /// Bytes to other ranks: rows, meta, counts and arrival cells.
    pub wire_bytes: f64,
    /// The time of the kernels if the wire is at its reachable rate.
    pub seconds: f64,
}

/// What a round trip of `tokens` tokens a rank costs; see [`GroupConfig::ledger`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ledger {
    /// Tokens of each rank.
    pub tokens: usize,
    /// Ranks that a token's row goes to, the own one among them.
    pub copies: f64,
    /// Rows to the experts.
    pub dispatch: Cost,
    /// Rows back: one for each pick, or one for each rank.
    pub combine: Cost,
    /// System-scope releases of a thread block and kernel.
    pub releases: usize,
    /// Launches of a round trip.
    pub launches: usize,
    /// SMs that they use.
    pub sms: usize,
}

impl GroupConfig {
    /// The cost of a round trip in which each token picks `top_k` different experts, all equally likely.
    ///
    /// Copies of a row: R (1 - C(E - E/R, K) / C(E, K)), of which (R - 1) / R go to other ranks.
    pub fn ledger(&self, tokens: usize) -> Ledger {
        let [r, e, k, t] = [self.ranks, self.experts, self.top_k, tokens].map(|v| v as f64);
        // A rank is missed when all picks fall on the others.
        let missed: f64 = (0..self.top_k)
            .map(|i| ((e - e / r - i as f64) / (e - i as f64)).max(0.0))
            .product();
        let copies = r * (1.0 - missed);
        let away = (r - 1.0) / r;
        let payload = self.payload.output_bytes() as f64 + 4.0 * self.payload.scales() as f64;
        let entry = match self.combine {
            CombineMode::Exact => 8,
            CombineMode::PreReduced => 12,
        };
        let meta = (16 + entry * self.top_k).next_multiple_of(16) as f64;
        let arrivals = 8.0 * self.blocks as f64 * (r - 1.0);
        let counts = 8.0 * (e * away + r - 1.0);
        let time = |bytes: f64, scan: f64| FIXED + scan + bytes / (NVLINK * REACHED);
        let rows = t * copies * away;
        let wire = rows * (self.payload.wire_bytes() as f64 + meta) + arrivals + counts;
        let row = 2.0 * self.hidden as f64;
        let back = match self.combine {
            CombineMode::Exact => t * k * away * row,
            CombineMode::PreReduced => rows * row,
        };
        Ledger {
            tokens,
            copies,
            dispatch: Cost {
                floor_bytes: rows * payload,
                wire_bytes: wire,
                seconds: time(wire, SCAN * (t / 1024.0).min(8.0)),
            },
            combine: Cost {
                floor_bytes: rows * row,
                wire_bytes: back + arrivals,
                seconds: time(back + arrivals, 0.0),
            },
            releases: self.ranks,
            launches: 4,
            sms: self.blocks,
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tokens a rank, {:.2} copies a row, {} launches, {} SMs, {} system-scope releases a block",
            self.tokens, self.copies, self.launches, self.sms, self.releases
        )?;
        for (name, c) in [("dispatch", self.dispatch), ("combine", self.combine)] {
            writeln!(
                f,
                "  {name:8} {:.3} MB to others, floor {:.3} MB ({:+.1} %), modelled {:.1} us",
                c.wire_bytes * 1e-6,
                c.floor_bytes * 1e-6,
                100.0 * (c.wire_bytes / c.floor_bytes.max(1.0) - 1.0),
                c.seconds * 1e6
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_row() {
        // E = 256, K = 8; the sums are easily made with binomial coefficients.
        for (ranks, copies) in [
            (2, 1.99),
            (4, 3.61),
            (8, 5.30),
            (16, 6.52),
            (32, 7.27),
            (64, 7.68),
        ] {
            let l = GroupConfig::deepseek_v3(ranks, 128).ledger(128);
            assert!(
                (l.copies - copies).abs() < 0.006,
                "{ranks} ranks: {}",
                l.copies
            );
        }
    }

    #[test]
    fn the_wire_is_within_two_percent_of_its_floor() {
        for tokens in [128, 4096] {
            let l = GroupConfig::deepseek_v3(8, 4096).ledger(tokens);
            println!("{l}");
            assert!(l.dispatch.wire_bytes < 1.02 * l.dispatch.floor_bytes);
        }
    }
}
