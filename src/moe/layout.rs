//! A window: the memory of a rank that its peers store into. A pure function of the configuration, the same on all ranks.
//!
//! ```text
//! offset   what                                                   size
//! 0        verdict cell (rank 0's is used)                        128
//! 128      abort cell                                             128
//! then for each channel, everything on multiples of 128:
//!          operation words   [4 kernels][blocks] u32              this rank's own
//!          count cells       [source][local experts + 1] u64      the last one: rows
//!          arrival cells     [dispatch, combine][source][block]
//!          meta              [source][capacity] records           16 + 8 (or 12) top_k bytes
//!          dispatch bank     [source][capacity] wire rows
//!          combine bank      [token][k] rows, or [token][rank]    2 hidden bytes
//!          origins           [max_rows] u64, total u32            this rank's own
//!          places            [source][capacity][k] u32            this rank's own, pre-reduced combines
//!          stats             [peer] of 64 bytes                   this rank's own
//! ```

use std::time::Duration;

use crate::error::{ArgumentError, at_least, at_most, multiple};
use crate::tensor::groups;

/// What a token's row is on its way to the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Opaque bytes, a multiple of 16.
    Bytes(usize),
    /// This many bf16 values (a multiple of 8), unchanged.
    Bf16(usize),
    /// This many bf16 values (a multiple of 16), quantised on the way: E4M3 codes and an f32 scale per 128, the rule of
    /// [`crate::quant::Quantizer::rows`].
    Fp8(usize),
}

impl Payload {
    /// Bytes of a row that a sender reads.
    pub fn input_bytes(self) -> usize {
        match self {
            Self::Bytes(n) => n,
            Self::Bf16(h) | Self::Fp8(h) => 2 * h,
        }
    }

    /// Bytes of a received row, without scales.
    pub fn output_bytes(self) -> usize {
        match self {
            Self::Bytes(n) => n,
            Self::Bf16(h) => 2 * h,
            Self::Fp8(h) => h,
        }
    }

    /// Scales of a row.
    pub fn scales(self) -> usize {
        match self {
            Self::Fp8(h) => groups(h),
            _ => 0,
        }
    }

    /// Bytes of a row on the wire: codes, then scales, then up to 16.
    pub fn wire_bytes(self) -> usize {
        (self.output_bytes() + 4 * self.scales()).next_multiple_of(16)
    }
}

/// How expert rows come back to their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CombineMode {
    /// Every pick's row travels and the owner sums them: the bits do not depend on the ranks.
    Exact,
    /// A rank sums the picks that it has for a token and sends one row, rounded to bf16: about a third fewer bytes with
    /// eight ranks and eight picks. The bits depend on which experts share a rank.
    PreReduced,
}

/// Who moves the rows of a dispatch. It changes no byte of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendPath {
    /// Copies by threads up to 512 tokens (and for quantised rows), by the copy engine above.
    Auto,
    /// Sixteen-byte loads and stores: least latency, several warps a row.
    Threads,
    /// The copy engine: most bytes for each SM. Not for quantised rows, which threads have to make.
    Bulk,
}

/// A group's configuration. All ranks must bring the same; a rank with another is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Ranks, 1 to 64.
    pub ranks: usize,
    /// Experts of all ranks, `ranks` to 1024; rank r has ⌈(experts - r) / ranks⌉ of them, neighbours.
    pub experts: usize,
    /// Picks of a token, 1 to 32.
    pub top_k: usize,
    /// Tokens a rank may bring, at most 2²⁴ / `top_k`.
    pub max_tokens: usize,
    /// Rows that a rank may send to one rank, at most `max_tokens` (which is always enough). Fewer save memory; more than
    /// that many is a typed failure of the whole operation, in which nothing is lost silently.
    pub capacity: usize,
    /// Rows in expert order that a rank may receive.
    pub max_rows: usize,
    /// A token's row.
    pub payload: Payload,
    /// Values of a combined row, a multiple of 8.
    pub hidden: usize,
    /// How rows come back.
    pub combine: CombineMode,
    /// Who moves the rows of a dispatch.
    pub path: SendPath,
    /// Thread blocks, and so SMs, of each kernel: 1 to 1024.
    pub blocks: usize,
    /// Micro-batches that may be in flight, 1 to 4.
    pub channels: usize,
    /// How long a kernel waits for a peer.
    pub deadline: Duration,
    /// The same for the first operation of a channel in a generation: peers may still be loading or capturing.
    pub warm_up_deadline: Duration,
}

impl GroupConfig {
    /// DeepSeek-V3's shape on `ranks` ranks: 256 experts, 8 picks, rows of 7168 values in FP8 on the wire, two channels,
    /// capacities that always suffice.
    pub fn deepseek_v3(ranks: usize, max_tokens: usize) -> Self {
        let locals = 256usize.div_ceil(ranks.max(1));
        Self {
            ranks,
            experts: 256,
            top_k: 8,
            max_tokens,
            capacity: max_tokens,
            max_rows: ranks * max_tokens * locals.min(8),
            payload: Payload::Fp8(7168),
            hidden: 7168,
            combine: CombineMode::Exact,
            path: SendPath::Auto,
            blocks: 24,
            channels: 2,
            deadline: Duration::from_secs(1),
            warm_up_deadline: Duration::from_secs(60),
        }
    }

    /// Whether the configuration makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn checked(&self) -> Result<(), ArgumentError> {
        let top_k = self.top_k.max(1) as u64;
        for (name, value, low, high) in [
            ("ranks", self.ranks, 1, 64),
            ("experts", self.experts, self.ranks, 1024),
            ("top_k", self.top_k, 1, 32),
            (
                "max_tokens",
                self.max_tokens,
                1,
                ((1 << 24) - 1) / top_k as usize,
            ),
            ("capacity", self.capacity, 1, self.max_tokens),
            ("max_rows", self.max_rows, 1, i32::MAX as usize),
            ("hidden", self.hidden, 8, 1 << 20),
            ("payload", self.payload.input_bytes(), 16, 1 << 21),
            ("blocks", self.blocks, 1, 1024),
            ("channels", self.channels, 1, 4),
        ] {
            at_least(name, value as u64, low as u64)?;
            at_most(name, value as u64, high as u64)?;
        }
        multiple("hidden", self.hidden as u64, 8)?;
        if self.path == SendPath::Bulk && matches!(self.payload, Payload::Fp8(_)) {
            return Err(ArgumentError::Conflict {
                argument: "path",
                other: "payload",
            });
        }
        match self.payload {
            Payload::Bytes(n) => multiple("payload", n as u64, 16),
            Payload::Bf16(h) => multiple("payload", h as u64, 8),
            Payload::Fp8(h) => multiple("payload", h as u64, 16),
        }
    }

    /// The first field in which `other` differs.
    pub(crate) fn differs(&self, other: &Self) -> Option<&'static str> {
        [
            ("ranks", self.ranks == other.ranks),
            ("experts", self.experts == other.experts),
            ("top_k", self.top_k == other.top_k),
            ("max_tokens", self.max_tokens == other.max_tokens),
            ("capacity", self.capacity == other.capacity),
            ("max_rows", self.max_rows == other.max_rows),
            ("payload", self.payload == other.payload),
            ("hidden", self.hidden == other.hidden),
            ("combine", self.combine == other.combine),
            ("path", self.path == other.path),
            ("blocks", self.blocks == other.blocks),
            ("channels", self.channels == other.channels),
            ("deadline", self.deadline == other.deadline),
            (
                "warm_up_deadline",
                self.warm_up_deadline == other.warm_up_deadline,
            ),
        ]
        .into_iter()
        .find_map(|(name, same)| (!same).then_some(name))
    }

    /// Experts of rank `rank`: the first, and how many.
    pub fn experts_of(&self, rank: usize) -> (usize, usize) {
        let (base, extra) = (self.experts / self.ranks, self.experts % self.ranks);
        (
            rank * base + rank.min(extra),
            base + usize::from(rank < extra),
        )
    }

    /// Bytes of a rank's window.
    pub fn window_bytes(&self) -> u64 {
        Layout::new(self).bytes
    }
}

/// Offsets in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub channels: Vec<ChannelLayout>,
    pub bytes: u64,
}

pub(crate) const VERDICT_AT: u64 = 0;
pub(crate) const ABORT_AT: u64 = 128;

/// Offsets of a channel, and strides: cells for counts and arrivals, bytes for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelLayout {
    pub operation_at: u64,
    pub count_at: u64,
    pub arrival_at: u64,
    pub meta_at: u64,
    pub dispatch_at: u64,
    pub combine_at: u64,
    pub origin_at: u64,
    pub total_at: u64,
    pub places_at: u64,
    pub stats_at: u64,
    pub count_stride: u32,
    pub arrival_stride: u32,
    pub meta_stride: u32,
    pub wire_stride: u32,
    pub combine_stride: u32,
}

impl Layout {
    pub fn new(c: &GroupConfig) -> Self {
        let mut end = 256u64;
        let mut take = |n: u64, of: u64| {
            let at = end;
            end += (n * of).next_multiple_of(128);
            at
        };
        let [ranks, top_k, blocks] = [c.ranks as u64, c.top_k as u64, c.blocks as u64];
        // Sources' cells on lines of their own: 16 cells a line.
        let count_stride = (c.experts.div_ceil(c.ranks.max(1)) as u64 + 1).next_multiple_of(16);
        let arrival_stride = blocks.next_multiple_of(16);
        let reduce = c.combine == CombineMode::PreReduced;
        let meta_stride = (16 + if reduce { 12 } else { 8 } * top_k).next_multiple_of(16);
        let returned = if reduce { ranks } else { top_k };
        let wire_stride = c.payload.wire_bytes() as u64;
        let combine_stride = 2 * c.hidden as u64;
        let rows = ranks * c.capacity as u64;
        let channels = (0..c.channels)
            .map(|_| ChannelLayout {
                operation_at: take(4 * blocks, 4),
                count_at: take(ranks * count_stride, 8),
                arrival_at: take(2 * ranks * arrival_stride, 8),
                meta_at: take(rows, meta_stride),
                dispatch_at: take(rows, wire_stride),
                combine_at: take(c.max_tokens as u64 * returned, combine_stride),
                origin_at: take(c.max_rows as u64, 8),
                total_at: take(1, 4),
                places_at: take(if reduce { rows * top_k } else { 0 }, 4),
                stats_at: take(ranks, 64),
                count_stride: count_stride as u32,
                arrival_stride: arrival_stride as u32,
                meta_stride: meta_stride as u32,
                wire_stride: wire_stride as u32,
                combine_stride: combine_stride as u32,
            })
            .collect();
        Self {
            channels,
            bytes: end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_split_evenly() {
        let mut c = GroupConfig::deepseek_v3(3, 8);
        c.experts = 10;
        let all: Vec<_> = (0..3).map(|r| c.experts_of(r)).collect();
        assert_eq!(all, [(0, 4), (4, 3), (7, 3)]);
    }

    #[test]
    fn parts_do_not_overlap() {
        let c = GroupConfig {
            capacity: 5,
            max_rows: 77,
            payload: Payload::Fp8(144),
            hidden: 136,
            ..GroupConfig::deepseek_v3(3, 9)
        };
        assert!(c.checked().is_ok());
        let l = Layout::new(&c);
        let mut ends = vec![256];
        for x in &l.channels {
            for (at, bytes) in [
                (x.operation_at, 4 * 4 * 24),
                (x.count_at, 3 * 8 * u64::from(x.count_stride)),
                (x.arrival_at, 2 * 3 * 8 * u64::from(x.arrival_stride)),
                (x.meta_at, 15 * 80),
                (x.dispatch_at, 15 * 160),
                (x.combine_at, 9 * 8 * 272),
                (x.origin_at, 77 * 8),
                (x.total_at, 4),
                (x.stats_at, 3 * 64),
            ] {
                assert!(at % 128 == 0 && at >= ends[ends.len() - 1]);
                ends.push(at + bytes);
            }
            assert!(x.count_stride > 86);
        }
        assert!(l.bytes >= ends[ends.len() - 1]);
        assert_eq!(c.window_bytes(), l.bytes);
    }
}
