//! Gate and up projection, SwiGLU and quantisation in one kernel: A, B -> codes and scales of silu(A gate^T) * (A up^T).
//!
//! The kernel wants the rows of B interleaved, once and offline ([`interleave`]; [`deinterleave`] undoes it):
//!
//! ```text
//! row of B                          row of the checkpoint's [gate; up]
//! 256 T + 128 h      + c            gate  128 T + 64 h + 16 t + 2 j + e      c = 8 j + 2 t + e, j < 8, t < 4, e < 2
//! 256 T + 128 h + 64 + c            up    the same
//! ```
//! so that 256 rows make 128 columns of the result, the thread that has a sum of gate has the sum of up that goes with it, and its 16
//! results are neighbours. Scales go in pairs of blocks: 2 T is gate's block T, 2 T + 1 up's.

use cudarc::driver::CudaStream;

use super::launch::{Call, Core, Epilogue, Out};
use super::plan::{GemmOptions, GroupedShape, Groups, Problem};
use super::{Share, Tile, model, tiles};
use crate::device::raw::RawFunction;
use crate::device::{Device, Module, Status};
use crate::error::{ArgumentError, DeviceError, GemmError};
use crate::tensor::{Fp8Blocks, Fp8Out, Fp8Rows, Indices, ScaleLayout, groups};
use std::sync::Arc;
use tiles::{MAX_SMEM, SWIGLU_TILES};

/// Where a row of interleaved B comes from: (whether it is up's, the column of the result). Columns at or beyond the result's are padding.
pub fn source_row(row: usize) -> (bool, usize) {
    let (tile, in_tile) = (row / 256, row % 256);
    let (half, up, c) = (in_tile / 128, in_tile / 64 % 2 == 1, in_tile % 64);
    let (j, t, e) = (c / 8, c % 8 / 2, c % 2);
    (up, 128 * tile + 64 * half + 16 * t + 2 * j + e)
}

/// Rows of interleaved B for `inner` columns of the result: whole tiles of 256.
pub const fn interleaved_rows(inner: usize) -> usize {
    inner.div_ceil(128) * 256
}

fn length(argument: &'static str, expected: usize, got: usize) -> Result<(), ArgumentError> {
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

/// `gate_up` [2 inner, k] (gate's rows, then up's) to [`interleaved_rows`] rows; rows of padding are `padding` (zero codes, which add
/// nothing to any row's maximum).
///
/// # Errors
/// The length is not 2 inner k.
pub fn interleave<T: Copy>(
    gate_up: &[T],
    inner: usize,
    k: usize,
    padding: T,
) -> Result<Vec<T>, ArgumentError> {
    length("gate_up", 2 * inner * k, gate_up.len())?;
    let mut out = Vec::with_capacity(interleaved_rows(inner) * k);
    for row in 0..interleaved_rows(inner) {
        let (up, col) = source_row(row);
        if col < inner {
            let at = (usize::from(up) * inner + col) * k;
            out.extend_from_slice(&gate_up[at..at + k]);
        } else {
            out.extend(std::iter::repeat_n(padding, k));
        }
    }
    Ok(out)
}

/// Undoes [`interleave`].
///
/// # Errors
/// The length is not that of `interleave`'s result.
pub fn deinterleave<T: Copy>(rows: &[T], inner: usize, k: usize) -> Result<Vec<T>, ArgumentError> {
    length("rows", interleaved_rows(inner) * k, rows.len())?;
    let Some(first) = rows.first() else {
        return Ok(Vec::new());
    };
    let mut out = vec![*first; 2 * inner * k];
    for (row, line) in rows.chunks_exact(k).enumerate() {
        let (up, col) = source_row(row);
        if col < inner {
            let at = (usize::from(up) * inner + col) * k;
            out[at..at + k].copy_from_slice(line);
        }
    }
    Ok(out)
}

/// Scales [2 ⌈inner / 128⌉, blocks] of gate's and then up's blocks, to pairs. `inner` must be a multiple of 128 where the checkpoint
/// has one array of scales for both, else a block would hold rows of both.
///
/// # Errors
/// The length differs.
pub fn interleave_scales(
    scales: &[f32],
    inner: usize,
    blocks: usize,
) -> Result<Vec<f32>, ArgumentError> {
    let half = groups(inner);
    length("scales", 2 * half * blocks, scales.len())?;
    Ok((0..2 * half)
        .flat_map(|b| &scales[(b % 2 * half + b / 2) * blocks..][..blocks])
        .copied()
        .collect())
}

/// Undoes [`interleave_scales`].
///
/// # Errors
/// The length differs.
pub fn deinterleave_scales(
    scales: &[f32],
    inner: usize,
    blocks: usize,
) -> Result<Vec<f32>, ArgumentError> {
    let half = groups(inner);
    length("scales", 2 * half * blocks, scales.len())?;
    Ok((0..2 * half)
        .flat_map(|b| &scales[(b % half * 2 + b / half) * blocks..][..blocks])
        .copied()
        .collect())
}

/// The SwiGLU GEMM on a device. Holding it proves that its kernels are loaded there.
#[derive(Debug)]
pub struct Fp8SwiGlu {
    device: Device,
    modules: Arc<[Arc<Module>]>,
    functions: Vec<RawFunction>,
}

impl Fp8SwiGlu {
    /// Loads the kernels.
    ///
    /// # Errors
    /// The build has no kernels, or the driver refuses them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let unit = crate::build_info()
            .kernel("sm90_fp8_gemm_swiglu")
            .ok_or(DeviceError::KernelsNotBuilt)?;
        let module = Module::load(device, unit)?;
        let functions = SWIGLU_TILES
            .iter()
            .map(|t| module.function(&format!("sm90_fp8_gemm_swiglu_{}x{}", t.m, t.n), MAX_SMEM))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            device: device.clone(),
            modules: Arc::new([module]),
            functions,
        })
    }

    fn core(&self, problem: Problem, options: &GemmOptions) -> Result<Core, GemmError> {
        problem.check()?;
        let sms = options
            .sm_limit
            .map_or(self.device.sms(), |l| l.clamp(1, self.device.sms()));
        let estimate = model::choose(&problem, sms, options.tile, options.share, true);
        let index = SWIGLU_TILES
            .iter()
            .position(|t| *t == estimate.tile)
            .unwrap_or_default();
        Ok(Core {
            device: self.device.clone(),
            _modules: self.modules.clone(),
            function: self.functions[index],
            problem,
            estimate,
            sms,
            options: *options,
        })
    }

    /// A plan for `m` rows, `inner` columns of the result and `k`. `clamp` bounds gate from above and up on both sides.
    ///
    /// # Errors
    /// K not a multiple of 16 or 0, extents beyond 2^31 - 1, a clamp that is not positive.
    pub fn plan(
        &self,
        (m, inner, k): (usize, usize, usize),
        clamp: Option<f32>,
        options: &GemmOptions,
    ) -> Result<SwiGluPlan, GemmError> {
        self.finish(
            GroupedShape {
                by: Groups::Ends,
                groups: 1,
                m,
                n: inner,
                k,
                expected_m: m,
            },
            None,
            clamp,
            false,
            options,
        )
    }

    /// As [`Fp8SwiGlu::plan`] for groups; `shape.n` is the columns of the result. With `gather` the plan can take rows of A by index.
    ///
    /// # Errors
    /// As [`Fp8SwiGlu::plan`]; more than 512 groups.
    pub fn plan_grouped(
        &self,
        shape: GroupedShape,
        clamp: Option<f32>,
        gather: bool,
        options: &GemmOptions,
    ) -> Result<SwiGluPlan, GemmError> {
        self.finish(shape, Some(shape.by), clamp, gather, options)
    }

    fn finish(
        &self,
        shape: GroupedShape,
        by: Option<Groups>,
        clamp: Option<f32>,
        gather: bool,
        options: &GemmOptions,
    ) -> Result<SwiGluPlan, GemmError> {
        let clamp = clamp.unwrap_or(f32::INFINITY);
        if clamp.is_nan() || clamp <= 0.0 {
            return Err(ArgumentError::Unsupported {
                argument: "clamp",
                reason: "must be positive",
            }
            .into());
        }
        crate::error::at_most("n", shape.n as u64, i32::MAX as u64 / 2)?;
        let mut options = *options;
        if gather {
            options.share = Some(Share::None);
        }
        let problem = Problem {
            by,
            groups: shape.groups,
            m: shape.m,
            n: interleaved_rows(shape.n),
            k: shape.k,
            expected_m: shape.expected_m.clamp(1, shape.m.max(1)),
            out_bytes: 1,
            swiglu: true,
        };
        Ok(SwiGluPlan {
            core: self.core(problem, &options)?,
            inner: shape.n,
            clamp,
        })
    }
}

/// A planned SwiGLU GEMM. Immutable; may be run any number of times and from any thread.
#[derive(Debug)]
pub struct SwiGluPlan {
    core: Core,
    inner: usize,
    clamp: f32,
}

impl SwiGluPlan {
    /// Bytes of scratch memory that `run` needs: none.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// The tile, in columns of B.
    pub fn tile(&self) -> Tile {
        self.core.estimate.tile
    }

    /// Blocks that will be launched.
    pub fn grid(&self) -> u32 {
        self.core.grid()
    }

    /// What was chosen and why, and what the hardware can do at best.
    pub fn explain(&self) -> String {
        self.core.explain()
    }

    /// Launches on `stream`; nothing else. `b` is interleaved; `y` gets codes [m, inner] and scales where `layout` says, as a quantiser
    /// writes them. `index` is what a grouped plan's [`Groups`] says, none for a dense plan; `gather` as in
    /// [`super::GroupedPlan::run_with`].
    ///
    /// # Errors
    /// An operand that does not fit the plan, the stream or the device; the driver's. Outputs are untouched.
    #[allow(clippy::too_many_arguments)] // the operation has as many operands
    pub fn run(
        &self,
        stream: &CudaStream,
        a: &Fp8Rows<'_>,
        b: &Fp8Blocks<'_>,
        y: &mut Fp8Out<'_>,
        layout: ScaleLayout,
        (index, gather): (Option<&Indices<'_>>, Option<&Indices<'_>>),
        status: &mut Status,
    ) -> Result<(), GemmError> {
        if gather.is_some() {
            super::grouped::gathers(&self.core)?;
        }
        let blocks = groups(self.inner);
        let (lines, n, scale_strides) = match layout {
            ScaleLayout::ColumnMajor => (blocks, y.rows, (1, y.scale_stride)),
            ScaleLayout::RowMajor => (y.rows, blocks, (y.scale_stride, 1)),
        };
        y.room(lines, n)?;
        if y.k != self.inner {
            return Err(ArgumentError::Shape {
                argument: "d",
                expected: (self.core.problem.m, self.inner),
                got: (y.rows, y.k),
            }
            .into());
        }
        let call = Call {
            a,
            b,
            out: Out::Codes {
                data: &y.data,
                scales: &y.scales,
                rows: y.rows,
                cols: y.k,
                row_stride: y.row_stride,
                stack: y.stack,
                scale_strides,
                clamp: self.clamp,
            },
            index,
            gather,
            epilogue: &Epilogue::default(),
        };
        self.core.run(stream, &call, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_is_a_permutation_and_comes_back() {
        for inner in [16, 128, 208, 384] {
            let rows = interleaved_rows(inner);
            let mut seen = vec![0; 2 * rows];
            for r in 0..rows {
                let (up, col) = source_row(r);
                seen[usize::from(up) * rows + col] += 1;
                // Gate and up of a column lie 64 rows apart, in one half.
                let (_, other) = source_row(r ^ 64);
                assert_eq!(col, other);
            }
            assert_eq!(seen.iter().sum::<i32>(), rows as i32);
            assert!(seen.iter().all(|s| *s < 2));
            let x: Vec<u32> = (0..2 * inner as u32 * 3).collect();
            let there = interleave(&x, inner, 3, u32::MAX).unwrap();
            assert_eq!(deinterleave(&there, inner, 3).unwrap(), x);
            let s: Vec<f32> = (0..2 * groups(inner) * 5).map(|v| v as f32).collect();
            let there = interleave_scales(&s, inner, 5).unwrap();
            assert_eq!(deinterleave_scales(&there, inner, 5).unwrap(), s);
        }
        assert!(interleave(&[1u8; 3], 16, 2, 0).is_err());
        assert!(deinterleave(&[1u8; 3], 16, 2).is_err());
    }
}
