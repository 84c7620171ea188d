//! Quantisers: bf16, f16 or f32 to E4M3 with f32 scales.
//!
//! ```text
//! sf = RN(max(amax, 1e-4) / 448)     amax: largest finite |x| of the group
//! y  = E4M3(x / sf)                  f32 division, to nearest even, saturating at +-448
//! ```
//! A group is 128 columns of a row (activations) or a block of 128 x 128 (weights); at the edges it has the columns and rows
//! that exist. NaN gives the code 0x7F and infinities +-448; neither touches the scale. 1e-4 keeps the scale of an all-zero
//! group away from zero (DeepSeek-V3's kernels clamp so). [`crate::reference::quant`] computes the same bits.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::bf16;

use crate::device::raw::{self, Launch, RawFunction};
use crate::device::{Device, Module};
use crate::error::{ArgumentError, DeviceError, QuantError, at_most, multiple};
use crate::tensor::{Element, Fp8Out, Matrix, ScaleLayout, groups};

const THREADS: u32 = 256;

/// The quantisers on a device. Holding it proves that their kernels are loaded there.
#[derive(Debug)]
pub struct Quantizer {
    device: Device,
    rows: [RawFunction; 2],
    /// bf16, f16, f32.
    blocks: [RawFunction; 3],
    _modules: [Arc<Module>; 2],
}

/// What all entries take, in this order.
struct Arguments {
    x: u64,
    y: u64,
    sf: u64,
    rows: u32,
    k: u32,
    ldx: u64,
    ldy: u64,
    ldsf: u64,
}

impl Arguments {
    fn pointers(&mut self) -> [*mut c_void; 8] {
        fn p<T>(v: &mut T) -> *mut c_void {
            std::ptr::from_mut(v).cast()
        }
        [
            p(&mut self.x),
            p(&mut self.y),
            p(&mut self.sf),
            p(&mut self.rows),
            p(&mut self.k),
            p(&mut self.ldx),
            p(&mut self.ldy),
            p(&mut self.ldsf),
        ]
    }
}

impl Quantizer {
    /// Loads the kernels.
    ///
    /// # Errors
    /// The build has no kernels, or the driver refuses them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let load = |name| {
            let unit = crate::build_info()
                .kernel(name)
                .ok_or(DeviceError::KernelsNotBuilt)?;
            Module::load(device, unit)
        };
        let rows = load("sm90_bf16_quant_1x128")?;
        let blocks = load("sm90_quant_128x128")?;
        Ok(Self {
            device: device.clone(),
            rows: [
                rows.function("sm90_bf16_quant_1x128_mn", 0)?,
                rows.function("sm90_bf16_quant_1x128_row", 0)?,
            ],
            blocks: [
                blocks.function("sm90_bf16_quant_128x128", 0)?,
                blocks.function("sm90_f16_quant_128x128", 0)?,
                blocks.function("sm90_f32_quant_128x128", 0)?,
            ],
            _modules: [rows, blocks],
        })
    }

    /// Activations: `x` [m, k] with a scale per row and 128 columns, placed as `layout` says. For m = 0 nothing is launched.
    ///
    /// ```text
    /// ColumnMajor   y.scales[g * scale_stride + row]    scale_stride >= m
    /// RowMajor      y.scales[row * scale_stride + g]    scale_stride >= ceil(k / 128)
    /// ```
    ///
    /// # Errors
    /// Shapes that differ, k not a multiple of 16, rows of x that do not start on 16 bytes, scales that do not fit, another
    /// stream or device; the driver's. Outputs are untouched.
    pub fn rows(
        &self,
        stream: &CudaStream,
        x: &Matrix<'_, bf16>,
        y: &mut Fp8Out<'_>,
        layout: ScaleLayout,
    ) -> Result<(), QuantError> {
        let (m, k) = (x.rows, x.cols);
        match layout {
            ScaleLayout::ColumnMajor => y.room(groups(k), m)?,
            ScaleLayout::RowMajor => y.room(m, groups(k))?,
        }
        let (function, blocks) = match layout {
            ScaleLayout::ColumnMajor => (self.rows[0], m.div_ceil(16) as u64 * groups(k) as u64),
            ScaleLayout::RowMajor => (self.rows[1], m as u64 * groups(k).div_ceil(16) as u64),
        };
        self.launch(stream, x, y, function, blocks)
    }

    /// Weights: `x` [n, k] with a scale per block of 128 x 128, `y.scales[row / 128 * scale_stride + col / 128]`.
    ///
    /// # Errors
    /// As [`Quantizer::rows`].
    pub fn blocks<T: Element>(
        &self,
        stream: &CudaStream,
        x: &Matrix<'_, T>,
        y: &mut Fp8Out<'_>,
    ) -> Result<(), QuantError> {
        y.room(groups(x.rows), groups(x.cols))?;
        let function = match T::NAME {
            "bf16" => self.blocks[0],
            "f16" => self.blocks[1],
            _ => self.blocks[2],
        };
        self.launch(
            stream,
            x,
            y,
            function,
            groups(x.rows) as u64 * groups(x.cols) as u64,
        )
    }

    fn launch<T: Element>(
        &self,
        stream: &CudaStream,
        x: &Matrix<'_, T>,
        y: &mut Fp8Out<'_>,
        function: RawFunction,
        blocks: u64,
    ) -> Result<(), QuantError> {
        self.device.owns(stream)?;
        for (argument, span) in [("x", &x.data), ("y", &y.data), ("y.scales", &y.scales)] {
            span.on(argument, stream)?;
        }
        if (x.rows, x.cols) != (y.rows, y.k) {
            return Err(ArgumentError::Shape {
                argument: "y",
                expected: (x.rows, x.cols),
                got: (y.rows, y.k),
            }
            .into());
        }
        y.data.apart("y", &x.data, "x")?;
        y.scales.apart("y.scales", &x.data, "x")?;
        y.scales.apart("y.scales", &y.data, "y")?;
        at_most("rows", x.rows as u64, i32::MAX as u64)?;
        at_most("k", x.cols as u64, i32::MAX as u64)?;
        multiple("k", x.cols as u64, 16)?;
        at_most("x: thread blocks", blocks, i32::MAX as u64)?;
        if blocks == 0 {
            return Ok(());
        }
        multiple("x", x.data.address, 16)?;
        if x.rows > 1 {
            multiple("x.row_stride", (x.row_stride * T::BYTES) as u64, 16)?;
        }
        let mut a = Arguments {
            x: x.data.address,
            y: y.data.address,
            sf: y.scales.address,
            rows: x.rows as u32,
            k: x.cols as u32,
            ldx: x.row_stride as u64,
            ldy: y.row_stride as u64,
            ldsf: y.scale_stride as u64,
        };
        raw::bind(self.device.context())?;
        let launch = Launch {
            grid: blocks as u32,
            block: THREADS,
            smem: 0,
        };
        // SAFETY: The eight parameters are the kernel's. It reads x at rows < rows, columns < k and writes y there and a
        // scale per group, all of which the operands have checked against their memory; the outputs share no byte with each
        // other or with x. Lifetime: each operand belongs to `stream` (checked above; for raw parts the caller has promised
        // it), memory is freed in stream order, so it is still there when the launch runs.
        unsafe { raw::launch(function, launch, stream, &mut a.pointers())? };
        Ok(())
    }
}
