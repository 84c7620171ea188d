//! One GEMM for each of many groups, in one launch.

use std::marker::PhantomData;

use cudarc::driver::CudaStream;

use super::launch::{Call, Core, Epilogue, Out};
use super::plan::Groups;
use super::{Output, Tile};
use crate::device::Status;
use crate::error::{ArgumentError, GemmError};
use crate::tensor::{Fp8Blocks, Fp8Rows, Indices, MatrixMut};

/// A planned grouped GEMM. Immutable; may be run any number of times and from any thread, and captured into a graph: how many rows
/// the groups have is read on the device.
#[derive(Debug)]
pub struct GroupedPlan<D: Output> {
    pub(super) core: Core,
    pub(super) out: PhantomData<D>,
}

impl<D: Output> GroupedPlan<D> {
    /// Bytes of scratch memory that `run` needs: none.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// The tile.
    pub fn tile(&self) -> Tile {
        self.core.estimate.tile
    }

    /// Blocks that will be launched.
    pub fn grid(&self) -> u32 {
        self.core.grid()
    }

    /// What was chosen and why, and what the hardware can do at best, for the rows expected.
    pub fn explain(&self) -> String {
        self.core.explain()
    }

    /// Launches on `stream`; nothing else. `index` is what the plan's [`Groups`] says; groups or rows whose index is out of range are
    /// left out and reported through `status`.
    ///
    /// Rows of D that belong to no group are not touched.
    ///
    /// # Errors
    /// An operand that does not fit the plan, the stream or the device; the driver's. Outputs are untouched.
    pub fn run(
        &self,
        stream: &CudaStream,
        a: &Fp8Rows<'_>,
        b: &Fp8Blocks<'_>,
        d: &mut MatrixMut<'_, D>,
        index: &Indices<'_>,
        status: &mut Status,
    ) -> Result<(), GemmError> {
        self.run_with(stream, a, b, d, (index, None), &Epilogue::default(), status)
    }

    /// As [`GroupedPlan::run`], with an epilogue, and with rows of A by index: row i of the plan is row `gather[i]` of `a`, which has
    /// rows of its own number. Not with [`Groups::Counts`], nor with a tile of more than 128 rows or a sharing.
    ///
    /// # Errors
    /// As [`GroupedPlan::run`].
    #[allow(clippy::too_many_arguments)] // seven operands of an operation that has seven
    pub fn run_with(
        &self,
        stream: &CudaStream,
        a: &Fp8Rows<'_>,
        b: &Fp8Blocks<'_>,
        d: &mut MatrixMut<'_, D>,
        (index, gather): (&Indices<'_>, Option<&Indices<'_>>),
        epilogue: &Epilogue<'_>,
        status: &mut Status,
    ) -> Result<(), GemmError> {
        if gather.is_some() {
            gathers(&self.core)?;
        }
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
            index: Some(index),
            gather,
            epilogue,
        };
        self.core.run(stream, &call, status)
    }
}

/// Refuses a gather that the kernel does not have.
pub(super) fn gathers(core: &Core) -> Result<(), ArgumentError> {
    let no = |reason| {
        Err(ArgumentError::Unsupported {
            argument: "gather",
            reason,
        })
    };
    if core.problem.by == Some(Groups::Counts) {
        return no("groups by counts have their own rows");
    }
    if core.estimate.share != super::Share::None {
        return no("the plan shares loads between blocks; plan with `gather`");
    }
    if core.estimate.tile.m > 128 {
        return no("the plan's tile has more than 128 rows; plan with `gather`");
    }
    Ok(())
}
