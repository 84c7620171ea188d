//! What went wrong, with its place.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// The grid is stopped.
    Error,
    /// The grid goes on.
    Warning,
}

/// How a fault shows to the host: the driver's result code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultCode {
    /// `CUDA_ERROR_ILLEGAL_ADDRESS` (700).
    IllegalAddress,
    /// `CUDA_ERROR_LAUNCH_TIMEOUT` (702): dead-locked or out of its step budget.
    LaunchTimeout,
    /// `CUDA_ERROR_ASSERT` (710).
    Assert,
    /// `CUDA_ERROR_HARDWARE_STACK_ERROR` (714).
    HardwareStack,
    /// `CUDA_ERROR_INVALID_PC` (718).
    InvalidPc,
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION` (715).
    IllegalInstruction,
    /// `CUDA_ERROR_MISALIGNED_ADDRESS` (716).
    Misaligned,
    /// `CUDA_ERROR_LAUNCH_FAILED` (719).
    LaunchFailed,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The check that found it: `bounds`, `alignment`, `use-after-free`, `uninitialised`, `race`, `proxy`, `mbarrier`,
    /// `wgmma`, `swizzle`, `divergence`, `deadlock`, `trap`, `barrier`.
    pub check: String,
    /// Severity.
    pub severity: Severity,
    /// What happened, in words and numbers.
    pub message: String,
    /// Kernel.
    pub kernel: String,
    /// Line in the PTX text, 0 where no instruction is to blame.
    pub line: u32,
    /// Column.
    pub col: u32,
    /// The instruction's opcode.
    pub instruction: String,
    /// Device ordinal.
    pub device: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lanes concerned.
    pub lanes: u32,
    /// Index of the first thread concerned.
    pub thread: [u32; 3],
    /// The other party, where there is one: what it did and where.
    pub other: Option<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{kind}[{}]: {}", self.check, self.message)?;
        write!(
            f,
            "\n  in {} ptx:{}:{} `{}`",
            self.kernel, self.line, self.col, self.instruction
        )?;
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "\n  device {} block ({bx},{by},{bz}) warp {} lanes {:#010x} thread ({tx},{ty},{tz})",
            self.device, self.warp, self.lanes
        )?;
        if let Some(o) = &self.other {
            write!(f, "\n  other party: {o}")?;
        }
        Ok(())
    }
}

/// Why a grid was stopped.
#[derive(Clone, Debug)]
pub struct Fault {
    /// As the host sees it.
    pub code: FaultCode,
    /// The finding.
    pub report: Report,
}

/// A finding before its place is known; the machine adds kernel, instruction, block and thread.
#[derive(Clone, Debug)]
pub struct Finding {
    /// As the host sees it.
    pub code: FaultCode,
    /// The check.
    pub check: &'static str,
    /// Words.
    pub message: String,
    /// Lanes concerned (0: all that executed).
    pub lanes: u32,
    /// The other party.
    pub other: Option<String>,
}

impl Finding {
    /// A finding of `check`.
    pub fn new(code: FaultCode, check: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            check,
            message: message.into(),
            lanes: 0,
            other: None,
        }
    }

    /// Names the lanes.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes;
        self
    }

    /// Names the other party.
    pub fn other(mut self, other: impl Into<String>) -> Self {
        self.other = Some(other.into());
        self
    }
}
