//! What a rank has seen of its peers: waits, rows, bytes.

use std::fmt;
use std::time::Duration;

use super::layout::{CombineMode, GroupConfig};

/// A peer, as this rank has seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Time that dispatches were held up by it: from the first poll in vain to its last arrival, as block 0 saw it.
    pub dispatch_wait: Duration,
    /// The same for combines.
    pub combine_wait: Duration,
    /// Dispatches that it held up.
    pub late_dispatches: u64,
    /// Combines that it held up.
    pub late_combines: u64,
    /// Token rows sent to it.
    pub rows_to: u64,
    /// Token rows received from it.
    pub rows_from: u64,
}

impl PeerStats {
    /// Adds a channel's words (`Stats` of kernels/moe/group.cuh).
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let mut w = bytes
            .chunks_exact(8)
            .map(|b| b.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || w.next().unwrap_or(0);
        self.dispatch_wait += Duration::from_nanos(next());
        self.combine_wait += Duration::from_nanos(next());
        self.late_dispatches += next();
        self.late_combines += next();
        self.rows_to += next();
        self.rows_from += next();
    }

    /// Both waits.
    pub fn wait(&self) -> Duration {
        self.dispatch_wait + self.combine_wait
    }
}

/// All peers of a rank, itself among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// By rank.
    pub peers: Vec<PeerStats>,
    /// Bytes of a dispatched row on the wire.
    pub dispatch_row_bytes: usize,
    /// Bytes of a combined row on the wire; with [`CombineMode::Exact`] one for each pick of a dispatched row.
    pub combine_row_bytes: usize,
    /// How rows come back.
    pub combine: CombineMode,
}

impl Observation {
    pub(crate) fn new(c: &GroupConfig, peers: Vec<PeerStats>) -> Self {
        Self {
            peers,
            dispatch_row_bytes: c.payload.wire_bytes(),
            combine_row_bytes: 2 * c.hidden,
            combine: c.combine,
        }
    }

    /// The peer that was waited for longest, where anybody was.
    pub fn straggler(&self) -> Option<(usize, Duration)> {
        let waits = self.peers.iter().map(PeerStats::wait).enumerate();
        waits
            .max_by_key(|(rank, wait)| (*wait, std::cmp::Reverse(*rank)))
            .filter(|(_, wait)| !wait.is_zero())
    }

    /// Rows to the busiest rank over the mean of all; 1 is even, the number of ranks the worst. `None` before any row.
    pub fn imbalance(&self) -> Option<f64> {
        let total: u64 = self.peers.iter().map(|p| p.rows_to).sum();
        let most = self.peers.iter().map(|p| p.rows_to).max()?;
        (total > 0).then(|| most as f64 * self.peers.len() as f64 / total as f64)
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "peer  rows to  rows from  bytes to  dispatch wait (late)  combine wait (late)"
        )?;
        for (rank, p) in self.peers.iter().enumerate() {
            writeln!(
                f,
                "{rank:4}  {:7}  {:9}  {:8}  {:?} ({})  {:?} ({})",
                p.rows_to,
                p.rows_from,
                p.rows_to * self.dispatch_row_bytes as u64,
                p.dispatch_wait,
                p.late_dispatches,
                p.combine_wait,
                p.late_combines
            )?;
        }
        if let Some((rank, wait)) = self.straggler() {
            writeln!(f, "rank {rank} was waited for longest: {wait:?}")?;
        }
        if let Some(rho) = self.imbalance() {
            writeln!(f, "rows to the busiest rank over the mean: {rho:.2}")?;
        }
        Ok(())
    }
}
