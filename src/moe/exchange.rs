//! Dispatch and combine on a channel, as states: what may come next is a method of what there is.
//!
//! ```text
//! Channel --dispatch--> InFlight<Dispatch> --receive--> Received --combine--> InFlight<Combine> --receive--> (Channel)
//! ```
//! Each step launches one kernel on the group's stream and returns; between `dispatch` and `receive` other work may run. A
//! state that is dropped midway leaves the channel out of step with the other ranks: it refuses further work until
//! [`super::Group::recover`].

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use half::bf16;

use super::group::Shared;
use super::layout::{ABORT_AT, CombineMode, Payload, SendPath, VERDICT_AT};
use super::operands::{Addends, ExpertRows, Picks, Rows};
use crate::device::Status;
use crate::device::raw::{self, Launch, RawFunction};
use crate::error::{ArgumentError, MoeError, at_most, multiple};
use crate::tensor::{Matrix, MatrixMut, Span};

const THREADS: u32 = 256;

/// Stages of the bulk send kernel and their barriers: 8 warps, 3 stages, 4096 bytes.
pub(crate) const BULK_SMEM: u32 = 8 * 3 * (4096 + 8);

/// Rows on their way to the experts.
#[derive(Debug)]
pub enum Dispatch {}

/// Rows on their way back.
#[derive(Debug)]
pub enum Combine {}

/// A step that was refused: what was tried on, unchanged, and why.
#[derive(Debug)]
pub struct Rejected<S> {
    /// The state, to try again with.
    pub state: S,
    /// Why.
    pub error: MoeError,
}

impl<S> From<Rejected<S>> for MoeError {
    fn from(r: Rejected<S>) -> Self {
        r.error
    }
}

impl<S> std::fmt::Display for Rejected<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl<S: std::fmt::Debug> std::error::Error for Rejected<S> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// `Group` of kernels/moe/group.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupParams {
    window: [u64; 64],
    verdict_at: u64,
    abort_at: u64,
    operation_at: u64,
    count_at: u64,
    arrival_at: u64,
    meta_at: u64,
    dispatch_at: u64,
    combine_at: u64,
    origin_at: u64,
    total_at: u64,
    places_at: u64,
    stats_at: u64,
    deadline_ns: u64,
    status: u64,
    rank: u32,
    ranks: u32,
    experts: u32,
    top_k: u32,
    blocks: u32,
    channel: u32,
    capacity: u32,
    max_tokens: u32,
    max_rows: u32,
    count_stride: u32,
    arrival_stride: u32,
    meta_stride: u32,
    wire_stride: u32,
    combine_stride: u32,
    reduce: u32,
    pad: u32,
}

const _: () = assert!(size_of::<GroupParams>() == 512 + 14 * 8 + 16 * 4);

#[repr(C)]
struct SendParams {
    g: GroupParams,
    rows: u64,
    ids: u64,
    weights: u64,
    row_stride: u64,
    row_bytes: u32,
    tokens: u32,
}

#[repr(C)]
struct ReceiveParams {
    g: GroupParams,
    rows: u64,
    scales: u64,
    counts: u64,
    offsets: u64,
    row_stride: u64,
    ld_scales: u64,
    row_bytes: u32,
    scale_groups: u32,
}

#[repr(C)]
struct CombineSendParams {
    g: GroupParams,
    rows: u64,
    row_stride: u64,
    row_bytes: u32,
    pad: u32,
}

#[repr(C)]
struct CombineReceiveParams {
    g: GroupParams,
    ids: u64,
    weights: u64,
    shared: u64,
    residual: u64,
    bias: u64,
    out: u64,
    ld_shared: u64,
    ld_residual: u64,
    ld_out: u64,
    row_bytes: u32,
    tokens: u32,
}

/// One micro-batch's way through the group; see the module's picture.
#[derive(Debug)]
pub struct Channel {
    shared: Arc<Shared>,
    index: usize,
    /// A state was dropped midway: this rank's operations no longer match the others'.
    out_of_step: bool,
    /// No operation of this generation is through yet.
    fresh: bool,
}

impl Channel {
    pub(crate) fn new(shared: &Arc<Shared>, index: usize) -> Self {
        Self {
            shared: shared.clone(),
            index,
            out_of_step: false,
            fresh: true,
        }
    }

    pub(crate) fn renew(&mut self) {
        (self.out_of_step, self.fresh) = (false, true);
    }

    fn group(&self, status: u64) -> GroupParams {
        let s = &self.shared;
        let (c, l) = (&s.config, &s.layout.channels[self.index]);
        let mut window = [0; 64];
        window[..s.addresses.len()].copy_from_slice(&s.addresses);
        let deadline = if self.fresh {
            c.warm_up_deadline
        } else {
            c.deadline
        };
        GroupParams {
            window,
            verdict_at: VERDICT_AT,
            abort_at: ABORT_AT,
            operation_at: l.operation_at,
            count_at: l.count_at,
            arrival_at: l.arrival_at,
            meta_at: l.meta_at,
            dispatch_at: l.dispatch_at,
            combine_at: l.combine_at,
            origin_at: l.origin_at,
            total_at: l.total_at,
            places_at: l.places_at,
            stats_at: l.stats_at,
            deadline_ns: u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX),
            status,
            rank: s.rank as u32,
            ranks: c.ranks as u32,
            experts: c.experts as u32,
            top_k: c.top_k as u32,
            blocks: c.blocks as u32,
            channel: self.index as u32,
            capacity: c.capacity as u32,
            max_tokens: c.max_tokens as u32,
            max_rows: c.max_rows as u32,
            count_stride: l.count_stride,
            arrival_stride: l.arrival_stride,
            meta_stride: l.meta_stride,
            wire_stride: l.wire_stride,
            combine_stride: l.combine_stride,
            reduce: u32::from(c.combine == CombineMode::PreReduced),
            pad: 0,
        }
    }

    /// One launch of one parameter.
    ///
    /// # Safety
    /// `params` is what `function` takes, and the memory behind it stays until the stream has run the launch.
    unsafe fn launch<P>(
        &self,
        function: RawFunction,
        smem: u32,
        params: &mut P,
    ) -> Result<(), MoeError> {
        let launch = Launch {
            grid: self.shared.config.blocks as u32,
            block: THREADS,
            smem,
        };
        raw::bind(self.shared.device.context())?;
        let mut args = [std::ptr::from_mut(params).cast::<c_void>()];
        // SAFETY: the caller's duty.
        unsafe { raw::launch(function, launch, &self.shared.stream, &mut args)? };
        Ok(())
    }

    fn on(&self, spans: &[(&'static str, &Span<'_>)]) -> Result<(), ArgumentError> {
        spans
            .iter()
            .try_for_each(|(name, span)| span.on(name, &self.shared.stream))
    }

    /// Sends the row of each token to the ranks of its experts. Ids of -1 are no picks; other ids that no expert has are
    /// left out and reported through `status`. Nothing waits: the kernel runs whether or not peers are there.
    ///
    /// # Errors
    /// A channel out of step; operands that do not fit the configuration; another stream; the driver's. Nothing is sent.
    pub fn dispatch<'a>(
        &'a mut self,
        rows: &Rows<'_>,
        picks: &'a Picks<'a>,
        status: &mut Status,
    ) -> Result<InFlight<'a, Dispatch>, MoeError> {
        if self.out_of_step {
            return Err(MoeError::OutOfStep {
                channel: self.index,
            });
        }
        let c = &self.shared.config;
        self.on(&[
            ("rows", &rows.data),
            ("ids", &picks.ids),
            ("weights", &picks.weights),
        ])?;
        let expected = (picks.tokens, c.payload.input_bytes());
        if (rows.rows, rows.row_bytes) != expected {
            return Err(ArgumentError::Shape {
                argument: "rows",
                expected,
                got: (rows.rows, rows.row_bytes),
            }
            .into());
        }
        if picks.top_k != c.top_k {
            let (expected, got) = ((picks.tokens, c.top_k), (picks.tokens, picks.top_k));
            return Err(ArgumentError::Shape {
                argument: "picks",
                expected,
                got,
            }
            .into());
        }
        at_most("tokens", picks.tokens as u64, c.max_tokens as u64)?;
        let stream = self.shared.stream.clone();
        let (status, guard) = status.bind(&stream)?;
        let mut params = SendParams {
            g: self.group(status),
            rows: rows.data.address,
            ids: picks.ids.address,
            weights: picks.weights.address,
            row_stride: rows.row_stride as u64,
            row_bytes: rows.row_bytes as u32,
            tokens: picks.tokens as u32,
        };
        let kernels = &self.shared.kernels;
        let bulk = match c.path {
            SendPath::Auto => picks.tokens > 512,
            SendPath::Threads => false,
            SendPath::Bulk => true,
        };
        let (function, smem) = match c.payload {
            Payload::Fp8(_) => (kernels.dispatch_send_fp8, 0),
            _ if bulk => (kernels.dispatch_send_bulk, BULK_SMEM),
            _ => (kernels.dispatch_send, 0),
        };
        // SAFETY: The parameter is the kernel's. It reads rows, ids and weights at [0, tokens), which the operands have checked against
        // their memory, and writes into windows at places below `capacity` and cells of this rank (src/moe/layout.rs), and
        // the status. Lifetime: rows, ids and status belong to the launch stream (checked above), where memory is freed in
        // stream order; windows are held by every rank until all streams have run (src/moe/group.rs).
        unsafe { self.launch(function, smem, &mut params)? };
        drop(guard);
        self.out_of_step = true;
        Ok(InFlight {
            channel: self,
            picks,
            phase: PhantomData,
        })
    }
}

/// An operation whose rows are on their way.
#[derive(Debug)]
#[must_use = "a channel whose operation is dropped midway is out of step until the group recovers"]
pub struct InFlight<'a, P> {
    channel: &'a mut Channel,
    picks: &'a Picks<'a>,
    phase: PhantomData<P>,
}

/// Rows of this rank's experts, and what it takes to send them back.
#[derive(Debug)]
#[must_use = "a channel whose operation is dropped midway is out of step until the group recovers"]
pub struct Received<'a> {
    channel: &'a mut Channel,
    picks: &'a Picks<'a>,
}

impl<'a> InFlight<'a, Dispatch> {
    /// Waits on the device for all ranks and puts the rows in the order of this rank's experts: by expert, then rank, then
    /// token, then k. `out.offsets` and `out.counts` tell where each expert's rows are.
    ///
    /// # Errors
    /// An output that does not fit the configuration, another stream, the driver's; the state comes back unchanged.
    pub fn receive(self, out: &mut ExpertRows<'_>) -> Result<Received<'a>, Rejected<Self>> {
        match self.try_receive(out) {
            Ok(()) => Ok(Received {
                channel: self.channel,
                picks: self.picks,
            }),
            Err(error) => Err(Rejected { state: self, error }),
        }
    }

    fn try_receive(&self, out: &mut ExpertRows<'_>) -> Result<(), MoeError> {
        let s = &self.channel.shared;
        let c = &s.config;
        let locals = c.experts_of(s.rank).1;
        out.checked(&s.stream, c.payload, c.max_rows, locals)?;
        let (scales, ld_scales) = out
            .scales
            .as_ref()
            .map_or((0, 0), |(s, ld)| (s.address, *ld as u64));
        let mut params = ReceiveParams {
            g: self.channel.group(0),
            rows: out.rows.address,
            scales,
            counts: out.counts.address,
            offsets: out.offsets.address,
            row_stride: out.row_stride as u64,
            ld_scales,
            row_bytes: c.payload.output_bytes() as u32,
            scale_groups: c.payload.scales() as u32,
        };
        // SAFETY: The parameter is the kernel's. It reads this rank's window and writes rows below `max_rows` (and the total it
        // found, whichever is less), their scales, `locals` counts and `locals + 1` offsets, which `checked` has held against
        // their memory. Lifetime: outputs belong to the launch stream; the window as in `dispatch`.
        unsafe {
            self.channel
                .launch(s.kernels.dispatch_receive, 0, &mut params)
        }
    }
}

impl<'a> Received<'a> {
    /// Sends expert rows back to their tokens' ranks: `y` holds a row for each received one, in the same order, and room
    /// for `max_rows`. Work that fills `y` belongs on the group's stream before this.
    ///
    /// # Errors
    /// A shape other than [max_rows, hidden], another stream, the driver's; the state comes back unchanged.
    pub fn combine(self, y: &Matrix<'_, bf16>) -> Result<InFlight<'a, Combine>, Rejected<Self>> {
        match self.try_combine(y) {
            Ok(()) => Ok(InFlight {
                channel: self.channel,
                picks: self.picks,
                phase: PhantomData,
            }),
            Err(error) => Err(Rejected { state: self, error }),
        }
    }

    fn try_combine(&self, y: &Matrix<'_, bf16>) -> Result<(), MoeError> {
        let s = &self.channel.shared;
        let c = &s.config;
        self.channel.on(&[("y", &y.data)])?;
        if (y.rows, y.cols) != (c.max_rows, c.hidden) {
            let (expected, got) = ((c.max_rows, c.hidden), (y.rows, y.cols));
            return Err(ArgumentError::Shape {
                argument: "y",
                expected,
                got,
            }
            .into());
        }
        multiple("y", y.data.address, 16)?;
        multiple("y.row_stride", 2 * y.row_stride as u64, 16)?;
        let mut params = CombineSendParams {
            g: self.channel.group(0),
            rows: y.data.address,
            row_stride: 2 * y.row_stride as u64,
            row_bytes: 2 * c.hidden as u32,
            pad: 0,
        };
        let function = match c.combine {
            CombineMode::Exact => s.kernels.combine_send,
            CombineMode::PreReduced => s.kernels.combine_reduce_send,
        };
        // SAFETY: The parameter is the kernel's. It reads rows of y below the total that the receive kernel left, at most
        // `max_rows`, and writes into the combine banks at places that the receive kernel computed from {token, k} of the
        // owner. Lifetime: y belongs to the launch stream; windows as in `dispatch`.
        unsafe { self.channel.launch(function, 0, &mut params) }
    }
}

impl InFlight<'_, Combine> {
    /// Waits on the device for all ranks and writes `out[t] = round((sum over k of w[t][k] y[t][k]) + add)`: f32, picks in
    /// ascending k by fma from +0, then `add` in its order, one rounding. The bits are those of
    /// [`crate::reference::moe::combine`] for any number of ranks and blocks. The channel is free again.
    ///
    /// # Errors
    /// Operands that do not fit, another stream, the driver's; the state comes back unchanged.
    pub fn receive(
        self,
        out: &mut MatrixMut<'_, bf16>,
        add: &Addends<'_>,
    ) -> Result<(), Rejected<Self>> {
        match self.try_receive(out, add) {
            Ok(()) => {
                self.channel.out_of_step = false;
                self.channel.fresh = false;
                Ok(())
            }
            Err(error) => Err(Rejected { state: self, error }),
        }
    }

    fn try_receive(
        &self,
        out: &mut MatrixMut<'_, bf16>,
        add: &Addends<'_>,
    ) -> Result<(), MoeError> {
        let s = &self.channel.shared;
        let c = &s.config;
        let p = self.picks;
        let shape = (p.tokens, c.hidden);
        self.channel.on(&[("d", &out.data)])?;
        if (out.rows, out.cols) != shape {
            return Err(ArgumentError::Shape {
                argument: "d",
                expected: shape,
                got: (out.rows, out.cols),
            }
            .into());
        }
        out.data.apart("d", &p.ids, "ids")?;
        out.data.apart("d", &p.weights, "weights")?;
        add.checked(&s.stream, shape, &out.data)?;
        let at = |m: Option<&Matrix<'_, bf16>>| {
            m.map_or((0, 0), |m| (m.data.address, 2 * m.row_stride as u64))
        };
        let ((shared, ld_shared), (residual, ld_residual)) = (at(add.shared), at(add.residual));
        let mut params = CombineReceiveParams {
            g: self.channel.group(0),
            ids: p.ids.address,
            weights: p.weights.address,
            shared,
            residual,
            bias: add.bias.map_or(0, |b| b.data.address),
            out: out.data.address,
            ld_shared,
            ld_residual,
            ld_out: 2 * out.row_stride as u64,
            row_bytes: 2 * c.hidden as u32,
            tokens: p.tokens as u32,
        };
        // SAFETY: The parameter is the kernel's. It reads this rank's combine bank at [0, tokens) x [0, top_k), ids, weights and
        // addends at the same tokens, and writes `out` there; all checked against their memory, and `out` shares no byte with
        // them. Lifetime: each operand belongs to the launch stream; the window as in `dispatch`.
        unsafe {
            self.channel
                .launch(s.kernels.combine_receive, 0, &mut params)
        }
    }
}
