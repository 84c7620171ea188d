//! The gate: which experts a token goes to, and with which weights.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::PicksMut;
use crate::device::raw::{self, Launch, RawFunction};
use crate::device::{Device, Module};
use crate::error::{ArgumentError, DeviceError, MoeError, at_least, at_most, multiple};
use crate::tensor::Matrix;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// `1 / (1 + e^-x)` (DeepSeek-V3).
    Sigmoid,
    /// Softmax over all experts of the token.
    Softmax,
}

/// A gate's rule; see [`crate::reference::moe::route`] for every operation of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// Experts, 1 to 1024.
    pub experts: usize,
    /// Picks of a token, 1 to 32, at most `experts`.
    pub top_k: usize,
    /// Groups of equally many neighbouring experts, 1 to 32; 1: no groups.
    pub groups: usize,
    /// Groups that picks may come from, 1 to `groups`.
    pub kept_groups: usize,
    /// Scores.
    pub scoring: Scoring,
    /// Divide the weights of a token by their sum.
    pub normalise: bool,
    /// Factor of the weights (`routed_scaling_factor`).
    pub scale: f32,
}

impl RouterConfig {
    /// DeepSeek-V3 and R1: 256 experts, 8 picks out of 4 of 8 groups, sigmoid scores, normalised, times 2.5
    /// (`config.json` of the model).
    pub const DEEPSEEK_V3: Self = Self {
        experts: 256,
        top_k: 8,
        groups: 8,
        kept_groups: 4,
        scoring: Scoring::Sigmoid,
        normalise: true,
        scale: 2.5,
    };

    /// Whether the rule makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn checked(&self) -> Result<(), ArgumentError> {
        for (name, value, low, high) in [
            ("experts", self.experts, 1, 1024),
            ("top_k", self.top_k, 1, self.experts.min(32)),
            ("groups", self.groups, 1, self.experts.min(32)),
            ("kept_groups", self.kept_groups, 1, self.groups),
        ] {
            at_least(name, value as u64, low)?;
            at_most(name, value as u64, high as u64)?;
        }
        multiple("experts", self.experts as u64, self.groups as u64)
    }
}

/// The gate on a device. Holding it proves that its kernel is loaded there.
#[derive(Debug)]
pub struct Router {
    device: Device,
    function: RawFunction,
    config: RouterConfig,
    _module: Arc<Module>,
}

/// As `kernels/moe/sm90_f32_moe_router.cu` has it.
#[repr(C)]
struct Params {
    logits: u64,
    bias: u64,
    ids: u64,
    weights: u64,
    ld_logits: u64,
    ld_ids: u64,
    ld_weights: u64,
    tokens: u32,
    experts: u32,
    top_k: u32,
    groups: u32,
    kept: u32,
    softmax: u32,
    normalise: u32,
    scale: f32,
}

const _: () = assert!(size_of::<Params>() == 88);

/// Tokens of a thread block.
const TOKENS: u32 = 8;

impl Router {
    /// Loads the kernel.
    ///
    /// # Errors
    /// A rule that makes no sense; the build has no kernels, or the driver refuses them.
    pub fn new(device: &Device, config: &RouterConfig) -> Result<Self, MoeError> {
        config.checked()?;
        let unit = crate::build_info()
            .kernel("sm90_f32_moe_router")
            .ok_or(DeviceError::KernelsNotBuilt)?;
        let module = Module::load(device, unit)?;
        Ok(Self {
            device: device.clone(),
            function: module.function("sm90_f32_moe_router", Self::smem(config))?,
            config: *config,
            _module: module,
        })
    }

    /// Scores and choices of each token of a block, one in 32 left free against bank conflicts.
    fn smem(c: &RouterConfig) -> u32 {
        let row = c.experts + c.experts.div_ceil(32);
        TOKENS * 2 * row as u32 * 4
    }

    /// The rule.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// Routes the rows of `logits` [tokens, experts]; `bias` [1, experts] is added to the scores for the choice alone. The
    /// results have the bits of [`crate::reference::moe::route`]. For no tokens nothing is launched.
    ///
    /// # Errors
    /// Shapes that differ from the rule's, another stream or device; the driver's. Outputs are untouched.
    pub fn run(
        &self,
        stream: &CudaStream,
        logits: &Matrix<'_, f32>,
        bias: Option<&Matrix<'_, f32>>,
        picks: &mut PicksMut<'_>,
    ) -> Result<(), MoeError> {
        let c = &self.config;
        self.device.owns(stream)?;
        logits.data.on("logits", stream)?;
        picks.ids.on("ids", stream)?;
        picks.weights.on("weights", stream)?;
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
        shape(
            "logits",
            (picks.tokens, c.experts),
            (logits.rows, logits.cols),
        )?;
        shape("picks", (logits.rows, c.top_k), (picks.tokens, picks.top_k))?;
        if let Some(b) = bias {
            b.data.on("bias", stream)?;
            shape("bias", (1, c.experts), (b.rows, b.cols))?;
        }
        let inputs = [
            Some(("logits", &logits.data)),
            bias.map(|b| ("bias", &b.data)),
        ];
        for (name, span) in inputs.into_iter().flatten() {
            picks.ids.apart("ids", span, name)?;
            picks.weights.apart("weights", span, name)?;
        }
        picks.ids.apart("ids", &picks.weights, "weights")?;
        let tokens = picks.tokens as u64;
        at_most("tokens", tokens, i32::MAX as u64)?;
        if tokens == 0 {
            return Ok(());
        }
        let mut params = Params {
            logits: logits.data.address,
            bias: bias.map_or(0, |b| b.data.address),
            ids: picks.ids.address,
            weights: picks.weights.address,
            ld_logits: logits.row_stride as u64,
            ld_ids: c.top_k as u64,
            ld_weights: c.top_k as u64,
            tokens: tokens as u32,
            experts: c.experts as u32,
            top_k: c.top_k as u32,
            groups: c.groups as u32,
            kept: c.kept_groups as u32,
            softmax: u32::from(c.scoring == Scoring::Softmax),
            normalise: u32::from(c.normalise),
            scale: c.scale,
        };
        let launch = Launch {
            grid: (tokens as u32).div_ceil(TOKENS),
            block: 32 * TOKENS,
            smem: Self::smem(c),
        };
        raw::bind(self.device.context())?;
        let mut args = [std::ptr::from_mut(&mut params).cast::<c_void>()];
        // SAFETY: The kernel has one parameter of this struct's layout (asserted on both sides). It reads logits at rows <
        // tokens and columns < experts and bias at [0, experts), writes ids and weights at [0, tokens) x [0, top_k); the
        // operands have checked all of these against their memory, and outputs share no byte with anything else. Lifetime:
        // each operand belongs to `stream` (checked above; for raw parts the caller has promised it), memory is freed in
        // stream order, so it is still there when the launch runs.
        unsafe { raw::launch(self.function, launch, stream, &mut args)? };
        Ok(())
    }
}
