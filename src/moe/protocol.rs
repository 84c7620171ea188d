//! The cell protocol: how ranks tell each other that rows are there, that a bank may be written again, and that somebody
//! is missing, with nothing but stores into each other's windows.
//!
//! A rank has one **channel** for each micro-batch in flight. On a channel, operations are numbered 1, 2, 3, …: odd ones
//! dispatch, even ones combine, strictly in turn. A window holds for each channel a bank of rows for each direction and
//! these cells, each alone on a 128-byte line:
//!
//! ```text
//! count[src][expert]   {operation : 32 | rows : 32}   rows that rank src sends to a local expert; dispatch only
//! arrival[src][block]  {operation : 32 | 0}           all rows of block `block` of src's send kernel are in the bank
//! abort                verdict, 0 while all is well   what this generation died of, for this rank to see
//! verdict (rank 0)     verdict, 0 while all is well   the one verdict of the generation, set by compare-and-swap
//! ```
//!
//! A cell is compared for *equality* with the number of the operation at hand and never cleared: every operation writes
//! every cell, so an old value is never taken for a new one, and a graph's replay needs no argument from the host.
//!
//! The life of one operation on one rank ([`operation`] spells it out, the kernels follow it):
//!
//! ```text
//! send      for each destination: rows into its bank [me][block], then (release.sys) arrival[me][block] there
//! receive   for each source and block: (acquire.sys) its arrival cell, then the rows
//! ```
//!
//! # Why a bank may be written again without a barrier
//!
//! A bank that operation *n* filled is filled again by *n + 2*. My stores of *n + 2* follow my receive of *n + 1*, which saw
//! the arrival of *n + 1* from **every** peer; a peer releases that only after its own reads of *n*. So
//! `reads(n) -> release(n + 1) -> acquire(n + 1) -> stores(n + 2)`. It rests on five rules:
//!
//! 1. a send kernel starts only when the receive kernel before it has read everything (stream order; with programmatic
//!    dependent launch, `griddepcontrol.wait` comes before the first store);
//! 2. every operation signals and awaits **all** ranks, also those it exchanges no row with;
//! 3. arrival is released at system scope after the rows, and acquired before they are read;
//! 4. operations of a channel alternate; a second micro-batch has a channel, and so banks, of its own;
//! 5. a new generation starts only when every rank's kernels of the old one have ended.
//!
//! # Failure
//!
//! A wait that passes its deadline proposes [`Verdict`] {phase, peer, operation} by compare-and-swap to the verdict cell of
//! rank 0. Whoever comes first decides; everybody stores the *decided* verdict into all abort cells and leaves. Waits look
//! at their own rank's abort cell, kernels look at it before they start, so that queued launches drain at once. All ranks
//! thus report the same verdict. A new generation counts on from a number above all operations of the old one.
//!
//! `tests/moe_protocol.rs` explores every interleaving of two and three ranks over several operations, with stores that
//! become visible in any order, stalled ranks and premature deadlines, and shows for each rule the failure that follows
//! when it is dropped.

/// The two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Token rows to the ranks of their experts.
    Dispatch,
    /// Expert rows back to the ranks of their tokens.
    Combine,
}

impl Phase {
    /// Of an operation's number: odd ones dispatch.
    pub const fn of(operation: u32) -> Self {
        if operation % 2 == 1 {
            Self::Dispatch
        } else {
            Self::Combine
        }
    }
}

/// What a generation died of.
///
/// ```text
/// bit   63..32      31..24   23..16   15..0
///       operation   channel  kind     peer
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The operation that was waited for; its parity is the phase.
    pub operation: u32,
    /// Channel.
    pub channel: u8,
    /// What happened.
    pub kind: VerdictKind,
    /// The rank whose arrival or count was missing, or that found the fault.
    pub peer: u16,
}

/// Kinds of [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VerdictKind {
    /// Rank `peer` did not signal before the deadline.
    Timeout = 1,
    /// Rank `peer` had more rows for one rank than a bank holds.
    Overflow = 2,
    /// A caller gave up the group.
    Abandoned = 3,
}

impl Verdict {
    /// As a word; never 0, since operations count from 1.
    pub const fn pack(self) -> u64 {
        (self.operation as u64) << 32
            | (self.channel as u64) << 24
            | (self.kind as u64) << 16
            | self.peer as u64
    }

    /// From a word; `None` for 0 and for words that no verdict has.
    pub const fn unpack(word: u64) -> Option<Self> {
        let kind = match (word >> 16) as u8 {
            1 => VerdictKind::Timeout,
            2 => VerdictKind::Overflow,
            3 => VerdictKind::Abandoned,
            _ => return None,
        };
        let operation = (word >> 32) as u32;
        if operation == 0 {
            return None;
        }
        Some(Self {
            operation,
            channel: (word >> 24) as u8,
            kind,
            peer: word as u16,
        })
    }

    /// The phase that was under way.
    pub const fn phase(self) -> Phase {
        Phase::of(self.operation)
    }
}

/// A count or arrival cell's word.
pub const fn cell(operation: u32, value: u32) -> u64 {
    (operation as u64) << 32 | value as u64
}

/// The first operation of the generation after one in which no rank got past `last`: a dispatch, and above it.
///
/// Numbers wrap at 2³²; 0 is left out, since it is what cells hold before their first use. A cell cannot be mistaken after
/// a wrap, because each operation in between has written it.
pub const fn next_generation(last: u32) -> u32 {
    let next = last.wrapping_add(2) | 1;
    if next == u32::MAX { 1 } else { next }
}

/// A step of one block of a send or receive kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Rows into the bank of rank `to`, at `[me][block]`: plain or bulk stores, visible to others in any order.
    Store {
        /// Destination.
        to: u8,
    },
    /// `arrival[me][block] = operation` at rank `to`, after this block's stores (release.sys).
    Release {
        /// Destination.
        to: u8,
    },
    /// Until all arrival cells of rank `from` hold the operation (acquire.sys).
    Acquire {
        /// Source.
        from: u8,
    },
    /// The rows of rank `from`.
    Read {
        /// Source.
        from: u8,
    },
}

/// The two kernels of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Packs and sends.
    Send,
    /// Waits and reads.
    Receive,
}

/// The steps that each block of a kernel takes, in a group of `ranks` ranks.
pub fn operation(half: Half, ranks: u8) -> Vec<Step> {
    match half {
        // All rows leave before the first arrival: one wait for the bulk stores instead of one for each destination.
        Half::Send => (0..ranks)
            .map(|to| Step::Store { to })
            .chain((0..ranks).map(|to| Step::Release { to }))
            .collect(),
        Half::Receive => (0..ranks)
            .flat_map(|from| [Step::Acquire { from }, Step::Read { from }])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_survive_packing() {
        for kind in [
            VerdictKind::Timeout,
            VerdictKind::Overflow,
            VerdictKind::Abandoned,
        ] {
            let v = Verdict {
                operation: 0x8000_0003,
                channel: 1,
                kind,
                peer: 63,
            };
            assert_eq!(Verdict::unpack(v.pack()), Some(v));
            assert_eq!(v.phase(), Phase::Dispatch);
        }
        assert_eq!(Verdict::unpack(0), None);
        assert_eq!(Verdict::unpack(9 << 16 | 1 << 32), None);
        assert_eq!(Verdict::unpack(1 << 16), None);
    }

    #[test]
    fn generations_start_with_a_dispatch_above_the_last() {
        for last in [0, 1, 2, 3, 1000, u32::MAX - 4, u32::MAX - 1, u32::MAX] {
            let n = next_generation(last);
            assert_eq!(Phase::of(n), Phase::Dispatch);
            assert!(
                n != 0 && n != last && n.wrapping_sub(last) < 8,
                "{last} -> {n}"
            );
        }
    }
}
