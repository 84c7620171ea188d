//! FP8 GEMM with fine-grained scales: D = (A sfa)(B sfb)^T.
//!
//! `docs/gemm.md` has the kernel's layouts, the order of its sums, its error bound and what is promised of its bits.

mod plan;
mod tiles;

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::bf16;

pub use plan::{GemmOptions, GemmShape};
pub use tiles::{TILES, Tile};

use crate::device::raw::{self, Launch, RawFunction};
use crate::device::tensor_map::{Element as MapElement, Spec, TensorMap};
use crate::device::{Device, Module, Status};
use crate::error::{ArgumentError, DeviceError, GemmError, at_most, multiple};
use crate::tensor::{Element, Fp8Blocks, Fp8Rows, MatrixMut, groups};
use plan::choose;

/// Types that D may have. Sealed: `bf16` and `f32`.
pub trait Output: Element {
    #[doc(hidden)]
    const MAP: MapKind;
}

/// D's element in the copy engine's terms.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// bf16.
    Bf16,
    /// f32.
    F32,
}

impl Output for bf16 {
    const MAP: MapKind = MapKind::Bf16;
}

impl Output for f32 {
    const MAP: MapKind = MapKind::F32;
}

/// The FP8 GEMM on a device. Holding it proves that its kernels are loaded there.
#[derive(Debug)]
pub struct Fp8Gemm {
    device: Device,
    module: Arc<Module>,
    /// One kernel per tile and output: bf16, f32.
    functions: Vec<[RawFunction; 2]>,
}

impl Fp8Gemm {
    /// Loads the kernels.
    ///
    /// # Errors
    /// The build has no kernels, or the driver refuses them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let unit = crate::build_info()
            .kernel("sm90_fp8_gemm_1d2d")
            .ok_or(DeviceError::KernelsNotBuilt)?;
        let module = Module::load(device, unit)?;
        let mut functions = Vec::with_capacity(TILES.len());
        for t in &TILES {
            let get = |out: &str, bytes| {
                module.function(
                    &format!("sm90_fp8_gemm_1d2d_{}x{}_{out}", t.m, t.n),
                    t.smem_bytes(bytes),
                )
            };
            functions.push([get("bf16", 2)?, get("f32", 4)?]);
        }
        Ok(Self {
            device: device.clone(),
            module,
            functions,
        })
    }

    /// Chooses tile and grid for a shape. Host only.
    ///
    /// # Errors
    /// N not a multiple of 8, K not a multiple of 16 or 0, extents beyond 2^31 - 1.
    pub fn plan<D: Output>(
        &self,
        shape: GemmShape,
        options: &GemmOptions,
    ) -> Result<GemmPlan<D>, GemmError> {
        let GemmShape { m, n, k } = shape;
        for (name, v) in [("m", m), ("n", n), ("k", k)] {
            at_most(name, v as u64, i32::MAX as u64)?;
        }
        multiple("n", n as u64, 8)?;
        multiple("k", k as u64, 16)?;
        if k == 0 {
            return Err(ArgumentError::TooSmall {
                argument: "k",
                limit: 16,
                got: 0,
            }
            .into());
        }
        let sms = options
            .sm_limit
            .map_or(self.device.sms(), |l| l.clamp(1, self.device.sms()));
        let (tile, why) = choose(shape, sms, options.tile);
        let index = TILES.iter().position(|t| *t == tile).unwrap_or(0);
        let which = usize::from(D::MAP == MapKind::F32);
        Ok(GemmPlan {
            device: self.device.clone(),
            _module: self.module.clone(),
            function: self.functions[index][which],
            shape,
            tile,
            why,
            sms,
            deadline_ns: options.deadline_ns,
            _out: PhantomData,
        })
    }
}

/// A planned GEMM: one shape, one tile. Immutable; may be run any number of times and from any thread.
#[derive(Debug)]
pub struct GemmPlan<D: Output> {
    device: Device,
    _module: Arc<Module>,
    function: RawFunction,
    shape: GemmShape,
    tile: Tile,
    why: String,
    sms: u32,
    deadline_ns: u64,
    _out: PhantomData<D>,
}

/// The kernel's one parameter, as `kernels/gemm/sm90_fp8_gemm_1d2d.cu` has it.
#[repr(C, align(64))]
struct Params {
    a: TensorMap,
    b: TensorMap,
    sfa: TensorMap,
    d: TensorMap,
    sfb: u64,
    status: u64,
    m: u32,
    n: u32,
    k: u32,
    ld_sfb: u32,
    deadline_ns: u64,
}

const _: () = assert!(size_of::<Params>() == 576 && align_of::<Params>() == 64);

impl<D: Output> GemmPlan<D> {
    /// Bytes of scratch memory that `run` needs: none.
    pub fn workspace_bytes(&self) -> usize {
        0
    }

    /// The tile.
    pub fn tile(&self) -> Tile {
        self.tile
    }

    /// Blocks that will be launched: one per SM at most, 0 for an empty D.
    pub fn grid(&self) -> u32 {
        let tiles = self.shape.m.div_ceil(self.tile.m as usize)
            * self.shape.n.div_ceil(self.tile.n as usize);
        tiles.min(self.sms as usize) as u32
    }

    /// Tile and reason, waves, bytes and operations beside what the hardware can do at best.
    pub fn explain(&self) -> String {
        plan::explain(self.shape, self.tile, &self.why, self.sms, D::BYTES)
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
        let GemmShape { m, n, k } = self.shape;
        self.device.owns(stream)?;
        for (argument, span) in [
            ("a", &a.data),
            ("a.scales", &a.scales),
            ("b", &b.data),
            ("b.scales", &b.scales),
            ("d", &d.data),
        ] {
            span.on(argument, stream)?;
        }
        for (argument, expected, got) in [
            ("a", (m, k), (a.m, a.k)),
            ("b", (n, k), (b.n, b.k)),
            ("d", (m, n), (d.rows, d.cols)),
        ] {
            if expected != got {
                return Err(ArgumentError::Shape {
                    argument,
                    expected,
                    got,
                }
                .into());
            }
        }
        for (other, span) in [
            ("a", &a.data),
            ("a.scales", &a.scales),
            ("b", &b.data),
            ("b.scales", &b.scales),
        ] {
            d.data.apart("d", span, other)?;
        }
        at_most("b.scale_stride", b.scale_stride as u64, u32::MAX.into())?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (status_address, _status) = status.bind(stream)?;
        let t = self.tile;
        let codes = |argument, address, rows: usize, stride: usize, box_rows| Spec {
            argument,
            element: MapElement::U8,
            address,
            dims: [k as u64, rows as u64],
            stride: stride as u64,
            box_dims: [128, box_rows],
            swizzle: true,
        };
        let (element, swizzle) = match D::MAP {
            MapKind::Bf16 => (MapElement::Bf16, t.swizzled_d()),
            MapKind::F32 => (MapElement::F32, t.swizzled_d()),
        };
        let mut params = Params {
            a: TensorMap::new(&codes("a", a.data.address, m, a.row_stride, t.m))?,
            b: TensorMap::new(&codes("b", b.data.address, n, b.row_stride, t.n))?,
            sfa: TensorMap::new(&Spec {
                argument: "a.scales",
                element: MapElement::F32,
                address: a.scales.address,
                dims: [m as u64, groups(k) as u64],
                stride: a.scale_stride as u64 * 4,
                box_dims: [t.m, 1],
                swizzle: false,
            })?,
            d: TensorMap::new(&Spec {
                argument: "d",
                element,
                address: d.data.address,
                dims: [n as u64, m as u64],
                stride: (d.row_stride * D::BYTES) as u64,
                box_dims: [t.d_box_cols(D::BYTES as u32), 64],
                swizzle,
            })?,
            sfb: b.scales.address,
            status: status_address,
            m: m as u32,
            n: n as u32,
            k: k as u32,
            ld_sfb: b.scale_stride as u32,
            deadline_ns: self.deadline_ns,
        };
        let launch = Launch {
            grid: self.grid(),
            block: t.threads(),
            smem: t.smem_bytes(D::BYTES as u32),
        };
        raw::bind(self.device.context())?;
        let mut args = [std::ptr::from_mut(&mut params).cast::<c_void>()];
        // SAFETY: The kernel has one parameter of this struct's layout (asserted on both sides). What it reads and writes:
        // A, B and D through maps whose sizes are those that `Fp8Rows`, `Fp8Blocks` and `MatrixMut` checked against their
        // memory, which the copy engine never leaves; sfb at [0, ⌈n/128⌉) x [0, ⌈k/128⌉), checked likewise; 32 bytes of the
        // status. D shares no byte with the rest. Lifetime: each of these belongs to `stream` (checked above; for raw parts
        // the caller has promised it), memory is freed in stream order, so it is still there when the launch runs.
        unsafe { raw::launch(self.function, launch, stream, &mut args)? };
        Ok(())
    }
}
