//! What can be set for a universe.

use serde::{Deserialize, Serialize};

pub use super::device::ComputeCapability;

/// When asynchronous copies and matrix operations take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AsyncMode {
    /// At once, when they are issued.
    Eager,
    /// As late as the rules allow: when nothing else can run.
    Lazy,
    /// In random order at random times.
    Random,
}

/// Arithmetic of the tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numerics {
    /// Bit for bit as Hopper does it.
    Exact,
    /// Plain f32 accumulation: fast and unbiased.
    Fast,
}

/// Who runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Each warp in turn.
    RoundRobin,
    /// Seeded random warps and quanta, random block order.
    Random,
}

/// What to do when nothing can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDeadlock {
    /// Report it and stop the grid.
    Report,
    /// Let virtual time pass, so that waits with a deadline see it expire; report when that does not help either.
    AdvanceTime,
}

/// The checks, each on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Checks {
    pub uninitialised_global: bool,
    pub uninitialised_shared: bool,
    pub race_shared: bool,
    pub proxy: bool,
    pub mbarrier: bool,
    pub wgmma: bool,
    pub swizzle: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Self = Self {
        uninitialised_global: true,
        uninitialised_shared: true,
        race_shared: true,
        proxy: true,
        mbarrier: true,
        wgmma: true,
        swizzle: true,
    };
    /// None but what keeps the machine itself sane (bounds, alignment).
    pub const NONE: Self = Self {
        uninitialised_global: false,
        uninitialised_shared: false,
        race_shared: false,
        proxy: false,
        mbarrier: false,
        wgmma: false,
        swizzle: false,
    };
}

/// All settings of a universe. What a text leaves out has its default; what it names and is not here is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// Devices.
    pub devices: u32,
    /// Device profile.
    pub compute_capability: ComputeCapability,
    /// Seed of everything random.
    pub seed: u64,
    /// Schedule.
    pub schedule: Schedule,
    /// Completion of asynchronous operations.
    pub async_mode: AsyncMode,
    /// Tensor-core arithmetic.
    pub numerics: Numerics,
    /// Approximate functions give one of the two neighbours of the exact value, by seed, in place of the nearest.
    pub approx_jitter: bool,
    /// Checks.
    pub checks: Checks,
    /// Dead-locks.
    pub on_deadlock: OnDeadlock,
    /// Warp instructions that one grid may take before it counts as live-locked.
    pub step_limit: u64,
    /// Count what each launch does (`docs/counters.md`).
    pub counters: bool,
    /// And which sectors of global memory it touches, allocation by allocation. Needs `counters`.
    pub unique_bytes: bool,
    /// And which lines of the PTX text were executed. Needs `counters`.
    pub executed_lines: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            devices: 1,
            compute_capability: ComputeCapability::Cc90,
            seed: 1,
            schedule: Schedule::RoundRobin,
            async_mode: AsyncMode::Lazy,
            numerics: Numerics::Exact,
            approx_jitter: false,
            checks: Checks::ALL,
            on_deadlock: OnDeadlock::Report,
            step_limit: 20_000_000_000,
            counters: false,
            unique_bytes: false,
            executed_lines: false,
        }
    }
}
