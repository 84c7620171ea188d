//! From checked operands to the kernel's one parameter, and the launch.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::model::{self, Estimate};
use super::plan::{GemmOptions, Groups, Problem, Share};
use crate::device::raw::{self, Extras, Launch, RawFunction};
use crate::device::tensor_map::{Element as MapElement, Spec, TensorMap};
use crate::device::{Device, Module, Status};
use crate::error::{ArgumentError, GemmError, at_least, at_most, multiple};
use crate::tensor::{Fp8Blocks, Fp8Rows, Indices, ScaleLayout, Span, Stack, Vector, groups};

/// The kernel's one parameter, as `kernels/gemm/fp8/tile.cuh` has it.
#[repr(C, align(64))]
struct Params {
    a: TensorMap,
    b: TensorMap,
    sfa: TensorMap,
    d: TensorMap,
    sfb: u64,
    sfb_group: u64,
    status: u64,
    d_data: u64,
    ld_d: u64,
    group_d: u64,
    bias: u64,
    row_weight: u64,
    group_weight: u64,
    index: u64,
    gather: u64,
    a_data: u64,
    sfa_data: u64,
    ld_a: u64,
    sfa_row: u64,
    sfa_block: u64,
    scales_out: u64,
    scale_row: u64,
    scale_block: u64,
    deadline_ns: u64,
    m: u32,
    n: u32,
    k: u32,
    ld_sfb: u32,
    groups: u32,
    rows: u32,
    flags: u32,
    out: u32,
    n_units: u32,
    walk: u32,
    ring: u32,
    stage: u32,
    stages: u32,
    extra: u32,
    a_rows: u32,
    alpha: f32,
    clamp: f32,
    sfa_pitch: u32,
    out_cols: u32,
    zero: [u32; 2],
}

const _: () = assert!(size_of::<Params>() == 768 && align_of::<Params>() == 64);

// Params::flags
const SHARE_A: u32 = 1;
const SHARE_B: u32 = 2;
const SFA_ROW_MAJOR: u32 = 4;
const GATHER: u32 = 8;
const ACCUMULATE: u32 = 16;
const PREDECESSOR: u32 = 32;

/// D's element.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutKind {
    /// bf16.
    Bf16,
    /// f16.
    F16,
    /// f32.
    F32,
}

/// What is done to the sums before they become D. Each step is rounded to f32, in this order:
///
/// ```text
/// v = alpha * sum                 where alpha is not 1
/// v = v * row_weight[row]         where there are weights
/// v = v + bias[column]            where there is a bias
/// v = v + D                       with `accumulate`
/// D = v, to D's type
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Epilogue<'a> {
    /// A factor of all sums.
    pub alpha: f32,
    /// A weight for each row of D: m of them, with counts groups x m. Routing weights of the down projection.
    pub row_weight: Option<&'a Vector<'a>>,
    /// A number for each column: n of them, with groups groups x n.
    pub bias: Option<&'a Vector<'a>>,
    /// D is added to, not replaced.
    pub accumulate: bool,
}

impl Default for Epilogue<'_> {
    /// D = sum.
    fn default() -> Self {
        Self {
            alpha: 1.0,
            row_weight: None,
            bias: None,
            accumulate: false,
        }
    }
}

/// Where the result goes.
pub(super) enum Out<'x, 'd> {
    Matrix {
        kind: OutKind,
        data: &'x Span<'d>,
        rows: usize,
        cols: usize,
        row_stride: usize,
        stack: Stack,
    },
    Codes {
        data: &'x Span<'d>,
        scales: &'x Span<'d>,
        rows: usize,
        cols: usize,
        row_stride: usize,
        stack: Stack,
        /// Scales from row to row, from group of 128 columns to group.
        scale_strides: (usize, usize),
        clamp: f32,
    },
}

/// Operands of a launch.
pub(super) struct Call<'x, 'd> {
    pub(super) a: &'x Fp8Rows<'d>,
    pub(super) b: &'x Fp8Blocks<'d>,
    pub(super) out: Out<'x, 'd>,
    pub(super) index: Option<&'x Indices<'d>>,
    pub(super) gather: Option<&'x Indices<'d>>,
    pub(super) epilogue: &'x Epilogue<'d>,
}

/// What all plans have.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) device: Device,
    /// Keeps the code loaded.
    pub(super) _modules: Arc<[Arc<Module>]>,
    pub(super) function: RawFunction,
    pub(super) problem: Problem,
    pub(super) estimate: Estimate,
    pub(super) sms: u32,
    pub(super) options: GemmOptions,
}

impl Core {
    /// Blocks that will be launched.
    pub(super) fn grid(&self) -> u32 {
        if self.problem.empty() {
            return 0;
        }
        let (t, share) = (self.estimate.tile, self.estimate.share);
        let size = if share == Share::None { 1 } else { 2 };
        let (m, n) = (t.m as usize, t.n as usize);
        let units = match share {
            Share::None => self.problem.tiles(m, n),
            Share::A => self.problem.tiles(m, 2 * n),
            Share::B => self.problem.tiles(2 * m, n),
        };
        units.min(u64::from(self.sms / size)) as u32 * size
    }

    pub(super) fn explain(&self) -> String {
        model::explain(&self.problem, &self.estimate, self.sms, false)
    }

    fn shape(
        argument: &'static str,
        expected: (usize, usize),
        got: (usize, usize),
    ) -> Result<(), ArgumentError> {
        if expected == got {
            Ok(())
        } else {
            Err(ArgumentError::Shape {
                argument,
                expected,
                got,
            })
        }
    }

    fn count(argument: &'static str, expected: usize, got: usize) -> Result<(), ArgumentError> {
        if expected == got {
            Ok(())
        } else {
            Err(ArgumentError::Length {
                argument,
                expected: expected as u64,
                got: got as u64,
            })
        }
    }

    /// Everything that can be wrong with operands.
    fn check(&self, stream: &CudaStream, c: &Call<'_, '_>) -> Result<(), ArgumentError> {
        let p = &self.problem;
        self.device.owns(stream)?;
        let (data, scales, rows, cols, stack) = match &c.out {
            Out::Matrix {
                data,
                rows,
                cols,
                stack,
                ..
            } => (data, None, *rows, *cols, *stack),
            Out::Codes {
                data,
                scales,
                rows,
                cols,
                stack,
                ..
            } => (data, Some(*scales), *rows, *cols, *stack),
        };
        let mut inputs = vec![
            ("a", &c.a.data),
            ("a.scales", &c.a.scales),
            ("b", &c.b.data),
            ("b.scales", &c.b.scales),
        ];
        inputs.extend(c.index.map(|i| ("index", &i.data)));
        inputs.extend(c.gather.map(|i| ("gather", &i.data)));
        inputs.extend(c.epilogue.bias.map(|i| ("bias", &i.data)));
        inputs.extend(c.epilogue.row_weight.map(|i| ("row_weight", &i.data)));
        for (argument, span) in &inputs {
            span.on(argument, stream)?;
        }
        let mut outputs = vec![("d", *data)];
        outputs.extend(scales.map(|s| ("d.scales", s)));
        for (argument, span) in &outputs {
            span.on(argument, stream)?;
            for (other, input) in &inputs {
                span.apart(argument, input, other)?;
            }
        }
        if let Some(s) = scales {
            s.apart("d.scales", data, "d")?;
        }

        match c.gather {
            None => Self::shape("a", (p.m, p.k), (c.a.m, c.a.k))?,
            Some(g) => {
                Self::shape("a", (c.a.m, p.k), (c.a.m, c.a.k))?;
                at_most("a", c.a.m as u64, i32::MAX as u64)?;
                Self::count("gather", p.m, g.len)?;
            }
        }
        Self::shape("b", (p.n, p.k), (c.b.n, c.b.k))?;
        let columns = if p.swiglu { p.n / 2 } else { p.n };
        if p.swiglu {
            // What was padded to 128 need not be stored.
            at_most("d: columns", cols as u64, columns as u64)?;
            at_least("d: columns", cols as u64 + 128, columns as u64 + 1)?;
            multiple("d: columns", cols as u64, 16)?;
            Self::shape("d", (p.m, cols), (rows, cols))?;
        } else {
            Self::shape("d", (p.m, columns), (rows, cols))?;
        }
        let layers = if p.by == Some(Groups::Counts) {
            p.groups
        } else {
            1
        };
        Self::count("a: matrices", layers, c.a.stack.count)?;
        Self::count("d: matrices", layers, stack.count)?;
        Self::count("b: matrices", p.groups, c.b.stack.count)?;
        match (p.by, c.index) {
            (None, _) => {}
            (Some(by), Some(i)) => {
                let expected = if by == Groups::Experts { p.m } else { p.groups };
                Self::count("index", expected, i.len)?;
            }
            (Some(_), None) => return Err(ArgumentError::Null { argument: "index" }),
        }
        if let Some(b) = c.epilogue.bias {
            Self::count("bias", p.groups * p.n, b.len)?;
        }
        if let Some(w) = c.epilogue.row_weight {
            Self::count("row_weight", layers * p.m, w.len)?;
        }
        at_most("b.scale_stride", c.b.scale_stride as u64, u32::MAX.into())
    }

    /// Checks, encodes, launches.
    pub(super) fn run(
        &self,
        stream: &CudaStream,
        c: &Call<'_, '_>,
        status: &mut Status,
    ) -> Result<(), GemmError> {
        self.check(stream, c)?;
        let p = &self.problem;
        if p.empty() {
            return Ok(());
        }
        let (status_address, _status) = status.bind(stream)?;
        let (t, share) = (self.estimate.tile, self.estimate.share);
        let by_row = c.a.layout == ScaleLayout::RowMajor && c.gather.is_none();
        let buffered = matches!(&c.out, Out::Matrix { kind, .. } if *kind != OutKind::F32);
        let smem = t.smem(buffered, by_row, p.table());
        let half = |shared: Share, rows: u32| if share == shared { rows / 2 } else { rows };
        let blocks = groups(p.k);

        let b = TensorMap::new(&Spec {
            argument: "b",
            element: MapElement::U8,
            address: c.b.data.address,
            dims: [p.k as u64, p.n as u64, p.groups as u64],
            strides: [c.b.row_stride as u64, c.b.stack.stride as u64],
            box_dims: [128, half(Share::B, t.n)],
            swizzle: true,
        })?;
        let (a, sfa) = if c.gather.is_some() || c.a.m == 0 {
            (b, b) // never used, but prefetched: a whole map
        } else {
            let layers = c.a.stack.count as u64;
            let a = TensorMap::new(&Spec {
                argument: "a",
                element: MapElement::U8,
                address: c.a.data.address,
                dims: [p.k as u64, p.m as u64, layers],
                strides: [c.a.row_stride as u64, c.a.stack.stride as u64],
                box_dims: [128, half(Share::A, t.m)],
                swizzle: true,
            })?;
            let (dims, box_dims) = if by_row {
                ([blocks as u64, p.m as u64, layers], [4, t.m])
            } else {
                ([p.m as u64, blocks as u64, layers], [t.m, 1])
            };
            let sfa = TensorMap::new(&Spec {
                argument: "a.scales",
                element: MapElement::F32,
                address: c.a.scales.address,
                dims,
                strides: [
                    c.a.scale_stride as u64 * 4,
                    c.a.stack.scale_stride as u64 * 4,
                ],
                box_dims,
                swizzle: false,
            })?;
            (a, sfa)
        };
        let mut params = Params {
            a,
            b,
            sfa,
            d: b,
            sfb: c.b.scales.address,
            sfb_group: c.b.stack.scale_stride as u64,
            status: status_address,
            d_data: 0,
            ld_d: 0,
            group_d: 0,
            bias: c.epilogue.bias.map_or(0, |v| v.data.address),
            row_weight: c.epilogue.row_weight.map_or(0, |v| v.data.address),
            group_weight: 0,
            index: c.index.map_or(0, |v| v.data.address),
            gather: c.gather.map_or(0, |v| v.data.address),
            a_data: c.a.data.address,
            sfa_data: c.a.scales.address,
            ld_a: c.a.row_stride as u64,
            sfa_row: 0,
            sfa_block: 0,
            scales_out: 0,
            scale_row: 0,
            scale_block: 0,
            deadline_ns: self.options.deadline_ns,
            m: p.m as u32,
            n: p.n as u32,
            k: p.k as u32,
            ld_sfb: c.b.scale_stride as u32,
            groups: p.groups as u32,
            rows: match p.by {
                None => 0,
                Some(Groups::Counts) => 1,
                Some(Groups::Ends) => 2,
                Some(Groups::Experts) => 3,
            },
            flags: match share {
                Share::None => 0,
                Share::A => SHARE_A,
                Share::B => SHARE_B,
            },
            out: 0,
            n_units: (p.n as u32)
                .div_ceil(t.n)
                .div_ceil(if share == Share::A { 2 } else { 1 }),
            walk: self.estimate.walk,
            ring: smem.ring,
            stage: smem.stage,
            stages: smem.stages,
            extra: smem.extra,
            a_rows: c.a.m as u32,
            alpha: c.epilogue.alpha,
            clamp: f32::INFINITY,
            sfa_pitch: if by_row { 16 } else { 4 },
            out_cols: 0,
            zero: [0; 2],
        };
        (params.sfa_row, params.sfa_block) = match c.a.layout {
            ScaleLayout::ColumnMajor => (1, c.a.scale_stride as u64),
            ScaleLayout::RowMajor => (c.a.scale_stride as u64, 1),
        };
        for (wanted, flag) in [
            (by_row, SFA_ROW_MAJOR),
            (c.gather.is_some(), GATHER),
            (c.epilogue.accumulate, ACCUMULATE),
            (self.options.dependent, PREDECESSOR),
        ] {
            if wanted {
                params.flags |= flag;
            }
        }
        let counted = p.by == Some(Groups::Counts);
        if counted {
            params.group_weight = p.m as u64;
        }
        match &c.out {
            Out::Matrix {
                kind,
                data,
                row_stride,
                stack,
                ..
            } => {
                params.out = *kind as u32;
                params.d_data = data.address;
                params.ld_d = *row_stride as u64;
                params.group_d = if counted { stack.stride as u64 } else { 0 };
                let element = match kind {
                    OutKind::F16 => MapElement::F16,
                    _ => MapElement::Bf16,
                };
                if *kind != OutKind::F32 {
                    params.d = TensorMap::new(&Spec {
                        argument: "d",
                        element,
                        address: data.address,
                        dims: [p.n as u64, p.m as u64, stack.count as u64],
                        strides: [*row_stride as u64 * 2, stack.stride as u64 * 2],
                        box_dims: [t.d_box_cols(), 64],
                        swizzle: t.swizzled_d(),
                    })?;
                }
            }
            Out::Codes {
                data,
                scales,
                cols,
                row_stride,
                stack,
                scale_strides,
                clamp,
                ..
            } => {
                params.d_data = data.address;
                params.ld_d = *row_stride as u64;
                params.group_d = if counted { stack.stride as u64 } else { 0 };
                params.scales_out = scales.address;
                params.scale_row = scale_strides.0 as u64;
                params.scale_block = scale_strides.1 as u64;
                params.group_weight = if counted {
                    stack.scale_stride as u64
                } else {
                    0
                };
                params.out_cols = *cols as u32;
                params.clamp = *clamp;
            }
        }
        let launch = Launch {
            grid: self.grid(),
            block: t.threads(),
            smem: smem.total,
        };
        let extras = Extras {
            cluster: if share == Share::None { 1 } else { 2 },
            dependent: self.options.dependent,
        };
        raw::bind(self.device.context())?;
        let mut args = [std::ptr::from_mut(&mut params).cast::<c_void>()];
        // SAFETY: The kernel has one parameter of this struct's layout (asserted on both sides). What it reads and writes:
        // A, B, their scales and D through maps or at rows and columns that the operands have checked against their memory, and
        // that the kernel does not leave: rows of a group lie below m whatever the index buffers hold, gathered rows below the
        // rows of A, both checked on the device before use; bias, weights and index buffers at the lengths checked above; 32
        // bytes of the status. D shares no byte with the rest. With `dependent` the kernel waits for its predecessors before its
        // first access. Lifetime: each of these belongs to `stream` (checked above; for raw parts the caller has promised it),
        // memory is freed in stream order, so it is still there when the launch runs.
        unsafe { raw::launch_with(self.function, launch, extras, stream, &mut args)? };
        Ok(())
    }
}
