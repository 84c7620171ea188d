//! Multi-head latent attention, decoding: softmax(q K^T scale) V over a paged latent cache.
//!
//! A cached row is a key of 576 values whose first 512 are also the value, shared by all heads. [`MlaDecode`] takes any number
//! of heads from 1, several query tokens a request, caches of any [`CacheFormat`], dense (a [`PageTable`]) or sparse (a
//! [`Selection`]). One launch: splits of long requests are merged by whoever comes last.
//!
//! `docs/mla.md` has the kernels' layouts, the order of their sums, their error bound and what is promised of their bits.

mod format;
mod operands;
mod plan;
mod rope;
mod split;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};

pub use format::{
    Bf16Cache, CacheFormat, DIMS, F16Cache, Fp8Scaled, Fp8Tensor, Half, LATENT, ROPE, ScaleRule,
};
pub use operands::{Cache, Outputs, PageTable, Queries, Selection, Sinks};
pub use plan::{MlaOptions, MlaShape};
pub use rope::{PAIRS, Pairing, Rope, Yarn};
pub use split::{BLOCK, Extent, Item, ROWS, SplitRule, items, split_blocks};

use crate::device::raw::{self, Launch, RawFunction};
use crate::device::tensor_map::{Element as MapElement, Spec, TensorMap};
use crate::device::{Device, Module, Status};
use crate::error::{ArgumentError, DeviceError, MlaError, at_least, at_most};
use plan::Sizes;

/// Threads of a block and its dynamic shared memory, as `kernels/mla/layout.cuh` has them.
const THREADS: u32 = 512;
const SMEM: u32 = 230_040;

/// The attention on a device. Holding it proves that its kernels are loaded there.
#[derive(Debug)]
pub struct MlaDecode {
    device: Device,
    /// bf16, f16: whole blocks, the same for pairs of tiles, row by row.
    half: [[RawFunction; 3]; 2],
    /// 656-byte rows, 576-byte rows.
    fp8: [RawFunction; 2],
    modules: [Arc<Module>; 2],
}

impl MlaDecode {
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
        let half = load("sm90_16bit_mla_decode")?;
        let fp8 = load("sm90_fp8_mla_decode")?;
        let of = |t: &str| -> Result<[RawFunction; 3], DeviceError> {
            let get = |s: &str| half.function(&format!("sm90_{t}_mla_decode_{s}"), SMEM);
            Ok([get("pages")?, get("pages_x2")?, get("rows")?])
        };
        Ok(Self {
            device: device.clone(),
            half: [of("bf16")?, of("f16")?],
            fp8: [
                fp8.function("sm90_fp8_mla_decode_scaled", SMEM)?,
                fp8.function("sm90_fp8_mla_decode_tensor", SMEM)?,
            ],
            modules: [half, fp8],
        })
    }

    /// Plans for a shape. Host only.
    ///
    /// # Errors
    /// Extents of 0 or beyond what the kernels count, a scale that is not finite and positive.
    pub fn plan<F: CacheFormat>(
        &self,
        shape: MlaShape,
        scale: f32,
        options: &MlaOptions,
    ) -> Result<MlaPlan<F>, MlaError> {
        // NaN too.
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(ArgumentError::NotPositive {
                argument: "scale",
                got: scale,
            }
            .into());
        }
        let sizes = Sizes::new(shape, options, self.device.sms())?;
        let functions = match F::NAME {
            "bf16" => self.half[0],
            "f16" => self.half[1],
            "fp8_scaled" => [self.fp8[0]; 3],
            _ => [self.fp8[1]; 3],
        };
        Ok(MlaPlan {
            device: self.device.clone(),
            _modules: self.modules.clone(),
            functions,
            shape,
            sizes,
            scale_log2: (f64::from(scale) * std::f64::consts::LOG2_E) as f32,
            causal: options.causal,
            _format: std::marker::PhantomData,
        })
    }
}

/// Scratch memory for splits: partial results, and a count for each tile of rows. Any plan whose needs it covers may use it, one
/// launch after the other on its stream.
#[derive(Debug)]
pub struct MlaWorkspace {
    partial: CudaSlice<f32>,
    counters: CudaSlice<u32>,
}

impl MlaWorkspace {
    /// Allocates what `plan` needs. Not for use while the stream captures.
    ///
    /// # Errors
    /// The driver's.
    pub fn new<F: CacheFormat>(
        stream: &Arc<CudaStream>,
        plan: &MlaPlan<F>,
    ) -> Result<Self, DeviceError> {
        let error = |e| raw::cudarc_error("cuMemAllocAsync", &e);
        // SAFETY: kernels write a slot before anything reads it.
        let partial = unsafe { stream.alloc(plan.sizes.partial_floats().max(1)) }.map_err(error)?;
        let counters = stream
            .alloc_zeros(plan.sizes.counters().max(1))
            .map_err(error)?;
        Ok(Self { partial, counters })
    }
}

/// A planned attention. Immutable; may be run any number of times and from any thread.
#[derive(Debug)]
pub struct MlaPlan<F: CacheFormat> {
    device: Device,
    _modules: [Arc<Module>; 2],
    functions: [RawFunction; 3],
    shape: MlaShape,
    sizes: Sizes,
    scale_log2: f32,
    causal: bool,
    _format: std::marker::PhantomData<F>,
}

/// The kernels' one parameter, as `kernels/mla/layout.cuh` has it.
#[repr(C, align(64))]
struct Params {
    q: TensorMap,
    kv: TensorMap,
    cache: u64,
    tensor_scale: u64,
    table: u64,
    lengths: u64,
    offsets: u64,
    indices: u64,
    sink: u64,
    out: u64,
    lse: u64,
    partial: u64,
    counters: u64,
    status: u64,
    page_stride: u64,
    table_stride: u64,
    batch: u32,
    heads: u32,
    queries: u32,
    tokens: u32,
    capacity: u32,
    page_size: u32,
    pages: u32,
    split_blocks: u32,
    workers: u32,
    max_tiles: u32,
    slot_warps: u32,
    q_box_rows: u32,
    scale_log2: f32,
    causal: u32,
}

const _: () = assert!(size_of::<Params>() == 448 && align_of::<Params>() == 64);

/// Where the tokens of each request come from, in the kernels' terms.
struct Tokens<'a> {
    pages: Option<&'a PageTable<'a>>,
    selection: Option<&'a Selection<'a>>,
}

impl<F: CacheFormat> MlaPlan<F> {
    /// Bytes of scratch memory that `run` needs: [`MlaWorkspace::new`] allocates them.
    pub fn workspace_bytes(&self) -> usize {
        4 * (self.sizes.partial_floats() + self.sizes.counters())
    }

    /// The shape.
    pub fn shape(&self) -> MlaShape {
        self.shape
    }

    /// Kernel, splits, grid, bytes and operations beside what the hardware can do at best.
    pub fn explain(&self) -> String {
        self.sizes.explain(self.shape, F::NAME, F::ROW_BYTES)
    }

    /// Attends to all tokens of each request's pages. Launches once; nothing else.
    ///
    /// A length below 0 counts as 0, one beyond the table as the table's; tokens on pages that the cache does not have are
    /// masked; requests whose offsets are wrong are left out. Each is reported through `status`.
    ///
    /// # Errors
    /// An operand that does not fit the plan, the stream or the device; the driver's. Outputs are untouched.
    #[allow(clippy::too_many_arguments)] // each an operand
    pub fn run(
        &self,
        stream: &CudaStream,
        q: &Queries<'_, F::Query>,
        cache: &Cache<'_, F>,
        table: &PageTable<'_>,
        sinks: Option<&Sinks<'_>>,
        out: &mut Outputs<'_, F::Query>,
        workspace: &mut MlaWorkspace,
        status: &mut Status,
    ) -> Result<(), MlaError> {
        let tokens = Tokens {
            pages: Some(table),
            selection: None,
        };
        self.launch(stream, q, cache, &tokens, sinks, out, workspace, status)
    }

    /// Attends to selected slots: each query token to its own. The plan's shape has `batch` query tokens, `queries` 1, and
    /// `capacity` topk. Launches once; nothing else.
    ///
    /// The slot -1 is none. Other slots that the cache does not have are masked and reported through `status`.
    ///
    /// # Errors
    /// As [`MlaPlan::run`].
    #[allow(clippy::too_many_arguments)] // each an operand
    pub fn run_selected(
        &self,
        stream: &CudaStream,
        q: &Queries<'_, F::Query>,
        cache: &Cache<'_, F>,
        selection: &Selection<'_>,
        sinks: Option<&Sinks<'_>>,
        out: &mut Outputs<'_, F::Query>,
        workspace: &mut MlaWorkspace,
        status: &mut Status,
    ) -> Result<(), MlaError> {
        let tokens = Tokens {
            pages: None,
            selection: Some(selection),
        };
        self.launch(stream, q, cache, &tokens, sinks, out, workspace, status)
    }

    /// What operands must agree on.
    fn check(
        &self,
        stream: &CudaStream,
        q: &Queries<'_, F::Query>,
        cache: &Cache<'_, F>,
        tokens: &Tokens<'_>,
        sinks: Option<&Sinks<'_>>,
        out: &Outputs<'_, F::Query>,
    ) -> Result<(), ArgumentError> {
        self.device.owns(stream)?;
        let mut inputs = vec![("q", &q.data), ("cache", &cache.data)];
        inputs.extend(cache.scale.as_ref().map(|s| ("cache.scale", s)));
        inputs.extend(sinks.map(|s| ("sinks", &s.data)));
        let shape = |argument, expected, got| {
            if expected == got {
                Ok(())
            } else {
                Err(ArgumentError::Shape {
                    argument,
                    expected,
                    got,
                })
            }
        };
        let MlaShape {
            batch,
            queries,
            heads,
            capacity,
        } = self.shape;
        if let Some(t) = tokens.pages {
            inputs.extend([("table", &t.pages), ("lengths", &t.lengths)]);
            inputs.extend(t.offsets.as_ref().map(|o| ("offsets", o)));
            at_most("table: requests", t.batch as u64, batch as u64)?;
            at_most(
                "table: tokens",
                (t.width as u64).saturating_mul(cache.page_size as u64),
                capacity as u64,
            )?;
            if t.offsets.is_none() {
                shape("q", (t.batch * queries, heads), (q.tokens, q.heads))?;
            }
        }
        if let Some(s) = tokens.selection {
            inputs.push(("slots", &s.slots));
            inputs.extend(s.lengths.as_ref().map(|l| ("lengths", l)));
            at_most("slots: tokens", s.tokens as u64, batch as u64)?;
            at_most("slots: topk", s.topk as u64, capacity as u64)?;
            at_most("queries", queries as u64, 1)?;
            shape("q", (s.tokens, heads), (q.tokens, q.heads))?;
            at_most(
                "cache: slots",
                (cache.pages as u64).saturating_mul(cache.page_size as u64),
                1 << 31,
            )?;
        }
        shape("q", (q.tokens, heads), (q.tokens, q.heads))?;
        shape("out", (q.tokens, heads), (out.tokens, out.heads))?;
        if let Some(s) = sinks {
            shape("sinks", (1, heads), (1, s.heads))?;
        }
        for (argument, span) in inputs {
            span.on(argument, stream)?;
            out.out.apart("out", span, argument)?;
            out.lse.apart("lse", span, argument)?;
        }
        out.out.on("out", stream)?;
        out.lse.on("lse", stream)
    }

    #[allow(clippy::too_many_arguments)] // each an operand
    fn launch(
        &self,
        stream: &CudaStream,
        q: &Queries<'_, F::Query>,
        cache: &Cache<'_, F>,
        tokens: &Tokens<'_>,
        sinks: Option<&Sinks<'_>>,
        out: &mut Outputs<'_, F::Query>,
        workspace: &mut MlaWorkspace,
        status: &mut Status,
    ) -> Result<(), MlaError> {
        self.check(stream, q, cache, tokens, sinks, out)?;
        let batch = tokens
            .pages
            .map_or(0, |t| t.batch)
            .max(tokens.selection.map_or(0, |s| s.tokens));
        if q.tokens == 0 || batch == 0 {
            return Ok(());
        }
        if workspace.partial.stream().cu_stream() != stream.cu_stream() {
            return Err(ArgumentError::StreamMismatch {
                argument: "workspace",
            }
            .into());
        }
        at_least(
            "workspace.partial",
            workspace.partial.len() as u64,
            self.sizes.partial_floats() as u64,
        )?;
        at_least(
            "workspace.counters",
            workspace.counters.len() as u64,
            self.sizes.counters() as u64,
        )?;
        let whole = !F::TENSOR_SCALE
            && F::ROW_BYTES == 2 * DIMS
            && tokens.pages.is_some()
            && cache.page_size >= 16
            && cache.page_size.is_power_of_two();
        let pair = whole && self.sizes.pairs;
        let function = self.functions[if !whole { 2 } else { usize::from(pair) }];
        let (workers, grid) = self.sizes.grid(pair);
        let (partial, _partial) = workspace.partial.device_ptr_mut(stream);
        let (counters, _counters) = workspace.counters.device_ptr_mut(stream);
        let (status_address, _status) = status.bind(stream)?;
        let rows = q.tokens * q.heads;
        let q_box_rows = self.sizes.q_box_rows;
        let address = |s: Option<&crate::tensor::Span<'_>>| s.map_or(0, |s| s.address);
        let q_map = TensorMap::new(&Spec {
            argument: "q",
            element: MapElement::Bf16,
            address: q.data.address,
            dims: [DIMS as u64, rows as u64, 1],
            strides: [q.row_stride as u64 * 2; 2],
            box_dims: [64, q_box_rows],
            swizzle: true,
        })?;
        // A cache without pages has no memory to describe; no copy then names a place inside of the map.
        let kv = if whole && cache.pages > 0 {
            TensorMap::new(&Spec {
                argument: "cache",
                element: MapElement::Bf16,
                address: cache.data.address,
                dims: [DIMS as u64, cache.page_size as u64, cache.pages as u64],
                strides: [2 * DIMS as u64, cache.page_stride],
                box_dims: [64, cache.page_size.min(BLOCK) as u32],
                swizzle: true,
            })?
        } else {
            TensorMap::new(&Spec {
                argument: "cache",
                element: MapElement::Bf16,
                address: q.data.address,
                dims: [DIMS as u64, 1, 1],
                strides: [2 * DIMS as u64, 2 * DIMS as u64],
                box_dims: [64, cache.page_size.min(BLOCK) as u32],
                swizzle: true,
            })?
        };
        let mut params = Params {
            q: q_map,
            kv,
            cache: cache.data.address,
            tensor_scale: address(cache.scale.as_ref()),
            table: address(tokens.pages.map(|t| &t.pages)),
            lengths: address(
                tokens
                    .pages
                    .map(|t| &t.lengths)
                    .or(tokens.selection.and_then(|s| s.lengths.as_ref())),
            ),
            offsets: address(tokens.pages.and_then(|t| t.offsets.as_ref())),
            indices: address(tokens.selection.map(|s| &s.slots)),
            sink: address(sinks.map(|s| &s.data)),
            out: out.out.address,
            lse: out.lse.address,
            partial,
            counters,
            status: status_address,
            page_stride: cache.page_stride,
            table_stride: tokens
                .pages
                .map_or(0, |t| t.stride)
                .max(tokens.selection.map_or(0, |s| s.stride)) as u64,
            batch: batch as u32,
            heads: q.heads as u32,
            queries: self.shape.queries as u32,
            tokens: q.tokens as u32,
            capacity: tokens
                .pages
                .map_or(0, |t| t.width * cache.page_size)
                .max(tokens.selection.map_or(0, |s| s.topk)) as u32,
            page_size: cache.page_size as u32,
            pages: cache.pages as u32,
            split_blocks: self.sizes.split_blocks,
            workers,
            max_tiles: self.sizes.max_tiles,
            slot_warps: self.sizes.slot_warps,
            q_box_rows,
            scale_log2: self.scale_log2,
            causal: self.causal.into(),
        };
        let launch = Launch {
            grid,
            block: THREADS,
            smem: SMEM,
        };
        raw::bind(self.device.context())?;
        let mut args = [std::ptr::from_mut(&mut params).cast::<c_void>()];
        // SAFETY: The kernel has one parameter of this struct's layout (asserted on both sides). It reads q and, where it copies
        // whole blocks, the cache through maps of the sizes that `Queries` and `Cache` checked against their memory, which the
        // copy engine never leaves; other rows of the cache at pages below `pages` and places below `page_size`, checked on the
        // device; the table at rows below `batch` and columns below `capacity / page_size` (lengths are cut to `capacity`), or
        // the slots at columns below `capacity`; lengths, offsets, sinks and scale inside of what their operands checked. It
        // writes rows of out and lse below `tokens * heads` (offsets are checked against `tokens`), partial results in the slots
        // and counters that `Sizes` counted, and the status. The outputs share no byte with an input. Lifetime: each of these
        // belongs to `stream` (checked; for raw parts the caller has promised it), memory is freed in stream order, so it is
        // still there when the launch runs.
        unsafe { raw::launch(function, launch, stream, &mut args)? };
        Ok(())
    }
}
