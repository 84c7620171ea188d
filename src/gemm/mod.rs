//! FP8 GEMM with fine-grained scales: D = (A sfa)(B sfb)^T, dense and grouped.
//!
//! `docs/gemm.md` has the kernel's layouts, the order of its sums, its error bound and what is promised of its bits.

mod grouped;
mod launch;
mod model;
mod plan;
pub mod swiglu;
mod tiles;

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::{bf16, f16};

pub use grouped::GroupedPlan;
pub use launch::{Epilogue, OutKind};
pub use model::{Bound, Estimate};
pub use plan::{GemmOptions, GemmShape, GroupedShape, Groups, MAX_GROUPS, Share};
pub use tiles::{SWIGLU_TILES, TILES, Tile};

use crate::device::raw::RawFunction;
use crate::device::{Device, Module, Status};
use crate::error::{DeviceError, GemmError};
use crate::tensor::{Element, Fp8Blocks, Fp8Rows, MatrixMut};
use launch::{Call, Core, Out};
use plan::Problem;
use tiles::MAX_SMEM;

/// Types that D may have. Sealed: `bf16`, `f16` and `f32`.
pub trait Output: Element {
    #[doc(hidden)]
    const KIND: OutKind;
}

impl Output for bf16 {
    const KIND: OutKind = OutKind::Bf16;
}

impl Output for f16 {
    const KIND: OutKind = OutKind::F16;
}

impl Output for f32 {
    const KIND: OutKind = OutKind::F32;
}

/// The units that hold the kernels, and which tiles each has.
const UNITS: [&str; 3] = [
    "sm90_fp8_gemm_1d2d_64",
    "sm90_fp8_gemm_1d2d_128",
    "sm90_fp8_gemm_1d2d_wide",
];

/// The FP8 GEMM on a device. Holding it proves that its kernels are loaded there.
#[derive(Debug)]
pub struct Fp8Gemm {
    device: Device,
    modules: Arc<[Arc<Module>]>,
    /// One kernel per tile.
    functions: Vec<RawFunction>,
}

impl Fp8Gemm {
    /// Loads the kernels.
    ///
    /// # Errors
    /// The build has no kernels, or the driver refuses them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let mut modules = Vec::with_capacity(UNITS.len());
        for name in UNITS {
            let unit = crate::build_info()
                .kernel(name)
                .ok_or(DeviceError::KernelsNotBuilt)?;
            modules.push((unit, Module::load(device, unit)?));
        }
        let mut functions = Vec::with_capacity(TILES.len());
        for t in &TILES {
            let name = format!("sm90_fp8_gemm_1d2d_{}x{}", t.m, t.n);
            let (_, module) = modules
                .iter()
                .find(|(u, _)| u.entries.iter().any(|e| e.name == name))
                .ok_or(DeviceError::KernelsNotBuilt)?;
            functions.push(module.function(&name, MAX_SMEM)?);
        }
        Ok(Self {
            device: device.clone(),
            modules: modules.into_iter().map(|(_, m)| m).collect(),
            functions,
        })
    }

    fn core(&self, problem: Problem, options: &GemmOptions) -> Result<Core, GemmError> {
        problem.check()?;
        let sms = options
            .sm_limit
            .map_or(self.device.sms(), |l| l.clamp(1, self.device.sms()));
        // Whichever way A's scales come, the tile has room.
        let estimate = model::choose(&problem, sms, options.tile, options.share, true);
        let index = TILES
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

    /// Chooses tile, sharing and grid for a shape. Host only.
    ///
    /// # Errors
    /// N not a multiple of 8, K not a multiple of 16 or 0, extents beyond 2^31 - 1.
    pub fn plan<D: Output>(
        &self,
        shape: GemmShape,
        options: &GemmOptions,
    ) -> Result<GemmPlan<D>, GemmError> {
        let GemmShape { m, n, k } = shape;
        let problem = Problem {
            by: None,
            groups: 1,
            m,
            n,
            k,
            expected_m: m,
            out_bytes: D::BYTES,
            swiglu: false,
        };
        Ok(GemmPlan {
            core: self.core(problem, options)?,
            out: PhantomData,
        })
    }

    /// As [`Fp8Gemm::plan`] for groups. With `gather` the plan can take rows of A by index.
    ///
    /// # Errors
    /// As [`Fp8Gemm::plan`]; more than 512 groups.
    pub fn plan_grouped<D: Output>(
        &self,
        shape: GroupedShape,
        gather: bool,
        options: &GemmOptions,
    ) -> Result<GroupedPlan<D>, GemmError> {
        let mut options = *options;
        if gather {
            options.share = Some(Share::None);
            if options.tile.is_none() && shape.expected_m > 64 {
                options.tile = Some(TILES[0]);
            }
        }
        Ok(GroupedPlan {
            core: self.core(grouped_problem(shape, D::BYTES, false), &options)?,
            out: PhantomData,
        })
    }
}

fn grouped_problem(shape: GroupedShape, out_bytes: usize, swiglu: bool) -> Problem {
    Problem {
        by: Some(shape.by),
        groups: shape.groups,
        m: shape.m,
        n: shape.n,
        k: shape.k,
        expected_m: shape.expected_m.clamp(1, shape.m.max(1)),
        out_bytes,
        swiglu,
    }
}

/// A planned GEMM: one shape, one tile. Immutable; may be run any number of times and from any thread.
#[derive(Debug)]
pub struct GemmPlan<D: Output> {
    core: Core,
    out: PhantomData<D>,
}

impl<D: Output> GemmPlan<D> {
    /// Bytes of scratch memory that `run` needs: none.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// The tile.
    pub fn tile(&self) -> Tile {
        self.core.estimate.tile
    }

    /// What the planner's model says of this plan.
    pub fn estimate(&self) -> Estimate {
        self.core.estimate
    }

    /// Blocks that will be launched: one per SM at most, an even number of them with a sharing, 0 for an empty D.
    pub fn grid(&self) -> u32 {
        self.core.grid()
    }

    /// Tile, cluster and reason, waves, bytes and operations beside what the hardware can do at best.
    pub fn explain(&self) -> String {
        self.core.explain()
    }

    /// Launches on `stream`. Encodes four tensor maps and the parameters and makes one launch; nothing else.
    ///
    /// # Errors
    /// An operand that does not fit the plan, the stream or the device; the driver's. Outputs are untouched.
    pub fn run(
        &self,
        stream: &CudaStream,
        a: &Fp8Rows<'_>,
        b: &Fp8Blocks<'_>,
        d: &mut MatrixMut<'_, D>,
        status: &mut Status,
    ) -> Result<(), GemmError> {
        self.run_with(stream, a, b, d, &Epilogue::default(), status)
    }

    /// As [`GemmPlan::run`], with an epilogue.
    ///
    /// # Errors
    /// As [`GemmPlan::run`].
    pub fn run_with(
        &self,
        stream: &CudaStream,
        a: &Fp8Rows<'_>,
        b: &Fp8Blocks<'_>,
        d: &mut MatrixMut<'_, D>,
        epilogue: &Epilogue<'_>,
        status: &mut Status,
    ) -> Result<(), GemmError> {
        let call = Call {
            a,
            b,
            out: Out::Matrix {
                kind: D::KIND,
                data: &d.data,
                rows: d.rows,
                cols: d.cols,
                row_stride: d.row_stride,
                stack: d.stack,
            },
            index: None,
            gather: None,
            epilogue,
        };
        self.core.run(stream, &call, status)
    }
}
