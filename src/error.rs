//! What can go wrong, by where it is found: before a launch in the arguments, in the driver, or on the device.

/// An argument that does not fit. Nothing was launched, outputs are untouched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// A buffer has too few elements.
    #[error("{argument}: has {got} elements, needs {expected}")]
    Length {
        /// Which.
        argument: &'static str,
        /// Elements needed.
        expected: u64,
        /// Elements found.
        got: u64,
    },
    /// A pointer, stride or extent is not a multiple of what the hardware asks for.
    #[error("{argument}: {got} is not a multiple of {expected}")]
    Multiple {
        /// Which.
        argument: &'static str,
        /// It must be a multiple of this.
        expected: u64,
        /// Found.
        got: u64,
    },
    /// An extent or stride is larger than the kernel or the copy engine takes.
    #[error("{argument}: {got} is more than {limit}")]
    TooLarge {
        /// Which.
        argument: &'static str,
        /// The most.
        limit: u64,
        /// Found.
        got: u64,
    },
    /// An extent is smaller than it may be (0 where at least 1 is needed, a stride shorter than its row).
    #[error("{argument}: {got} is less than {limit}")]
    TooSmall {
        /// Which.
        argument: &'static str,
        /// The least.
        limit: u64,
        /// Found.
        got: u64,
    },
    /// An operand has another shape than the plan.
    #[error("{argument}: is {got:?}, the plan is for {expected:?}")]
    Shape {
        /// Which.
        argument: &'static str,
        /// Rows and columns of the plan.
        expected: (usize, usize),
        /// Rows and columns of the operand.
        got: (usize, usize),
    },
    /// An operand belongs to another stream than the launch: it might be freed or written while the kernel runs.
    #[error("{argument}: belongs to another stream than the launch")]
    StreamMismatch {
        /// Which.
        argument: &'static str,
    },
    /// An operand or stream belongs to another device than the operation.
    #[error("{argument}: belongs to device {got}, the operation to device {expected}")]
    DeviceMismatch {
        /// Which.
        argument: &'static str,
        /// Ordinal of the operation's device.
        expected: usize,
        /// Ordinal found.
        got: usize,
    },
    /// The output shares bytes with another operand.
    #[error("{argument}: overlaps {other}")]
    Overlap {
        /// The output.
        argument: &'static str,
        /// The operand it shares bytes with.
        other: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{argument}: does not go with this {other}")]
    Conflict {
        /// The one.
        argument: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A number is zero, negative or not finite where it must be positive.
    #[error("{argument}: is {got}, must be positive and finite")]
    NotPositive {
        /// Which.
        argument: &'static str,
        /// Found.
        got: f32,
    },
    /// The operation does not have this.
    #[error("{argument}: {reason}")]
    Unsupported {
        /// Which.
        argument: &'static str,
        /// What is in the way.
        reason: &'static str,
    },
    /// A null pointer where bytes are needed.
    #[error("{argument}: is null")]
    Null {
        /// Which.
        argument: &'static str,
    },
}

/// The driver, the device or the crate's kernels are not what is needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No CUDA driver on this machine.
    #[error("no CUDA driver: none of {tried:?} could be opened ({reason})")]
    DriverMissing {
        /// Library names tried, in order.
        tried: Vec<String>,
        /// What the last attempt said.
        reason: String,
    },
    /// The driver is too old for what the kernels need.
    #[error("the CUDA driver has version {got}, at least {needed} is needed")]
    DriverTooOld {
        /// Found, as the driver counts: 1000 x major + 10 x minor.
        got: u32,
        /// The least.
        needed: u32,
    },
    /// There are no kernels for this GPU.
    #[error("compute capability {major}.{minor} has no kernels here; 9.0 has")]
    UnsupportedDevice {
        /// Major.
        major: i32,
        /// Minor.
        minor: i32,
    },
    /// The crate was built without its kernels (documentation builds).
    #[error("this build of hadal has no kernels")]
    KernelsNotBuilt,
    /// The embedded PTX is newer than the driver understands and the machine code does not load either.
    #[error(
        "{kernel}: the driver is older than the PTX (CUDA_ERROR_UNSUPPORTED_PTX_VERSION); update it or build with an older toolkit"
    )]
    PtxTooNew {
        /// The unit.
        kernel: &'static str,
    },
    /// A kernel could not be loaded.
    #[error("{kernel}: {call} failed with {name} ({code}){log}")]
    Load {
        /// The unit.
        kernel: &'static str,
        /// The driver call.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: &'static str,
        /// What the driver's compiler said, if it did.
        log: String,
    },
    /// Another driver call failed.
    #[error("{call} failed with {name} ({code})")]
    Driver {
        /// The call.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: &'static str,
    },
    /// The copy engine's descriptor was refused although every documented rule holds.
    #[error(
        "{argument}: cuTensorMapEncodeTiled refused it ({code}); address {address:#x}, sizes {dims:?}, strides {strides:?}, box {box_dims:?}"
    )]
    TensorMap {
        /// Which operand.
        argument: &'static str,
        /// The driver's result.
        code: u32,
        /// Address.
        address: u64,
        /// Sizes, fastest first.
        dims: [u64; 3],
        /// Bytes from row to row, from matrix to matrix.
        strides: [u64; 2],
        /// Box.
        box_dims: [u32; 2],
    },
}

/// What a kernel found wrong on the device, told by [`crate::device::Status::check`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// A wait inside a kernel lasted longer than its deadline; the outputs of its block are not written.
    #[error(
        "{kernel}: block {block} waited {waited_ns} ns at place {place}, the deadline is {deadline_ns} ns"
    )]
    Timeout {
        /// Kernel.
        kernel: &'static str,
        /// Where in the kernel (its source names the places).
        place: u32,
        /// Linear block index.
        block: u32,
        /// Nanoseconds waited.
        waited_ns: u64,
        /// Nanoseconds allowed.
        deadline_ns: u64,
    },
    /// An index in an index buffer was out of range; it was skipped.
    #[error(
        "{kernel}: block {block} found index {got} in argument {argument}, the limit is {limit}"
    )]
    IndexOutOfRange {
        /// Kernel.
        kernel: &'static str,
        /// Which argument, as the kernel numbers them.
        argument: u32,
        /// Linear block index.
        block: u32,
        /// The index.
        got: u64,
        /// It must be below this.
        limit: u64,
    },
    /// The status buffer holds a code that no kernel writes.
    #[error("the status buffer holds the unknown code {code}")]
    Unknown {
        /// The code.
        code: u32,
    },
    /// The status could not be read: the launch itself failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Planning or running a GEMM failed; nothing was launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GemmError {
    /// An argument does not fit.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The device or driver refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Planning or running an attention failed; nothing was launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlaError {
    /// An argument does not fit.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The device or driver refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl From<GemmError> for MlaError {
    fn from(e: GemmError) -> Self {
        match e {
            GemmError::Argument(e) => Self::Argument(e),
            GemmError::Device(e) => Self::Device(e),
        }
    }
}

/// Quantising failed; nothing was launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// An argument does not fit.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The device or driver refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Routing, dispatching or combining failed. But for [`MoeError::Failed`], nothing was launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoeError {
    /// An argument does not fit.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The device or driver refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Ranks did not come to a meeting on the host.
    #[error("ranks {ranks:?} did not come")]
    Missing {
        /// Which.
        ranks: Vec<usize>,
    },
    /// A rank that there is not, or that somebody else has.
    #[error("rank {rank} of {ranks} is taken, or there is none")]
    RankTaken {
        /// The rank.
        rank: usize,
        /// Ranks of the group.
        ranks: usize,
    },
    /// A rank brought another configuration.
    #[error("rank {rank} has another `{field}`")]
    ConfigMismatch {
        /// The other rank.
        rank: usize,
        /// The first field that differs.
        field: &'static str,
    },
    /// Two devices cannot reach each other's memory.
    #[error("device {device} has no peer access to device {peer}")]
    NoPeerAccess {
        /// From here.
        device: usize,
        /// To there.
        peer: usize,
    },
    /// A state of this channel was dropped midway; the group must recover first.
    #[error("channel {channel} is out of step with the other ranks; recover the group")]
    OutOfStep {
        /// The channel.
        channel: usize,
    },
    /// The generation is over; all ranks get this same verdict. Outputs of its last operations mean nothing.
    #[error("{}", failed(.0))]
    Failed(crate::moe::protocol::Verdict),
    /// An abort cell holds what no kernel writes.
    #[error("the abort cell holds the unknown word {word:#x}")]
    Corrupt {
        /// The word.
        word: u64,
    },
}

fn failed(v: &crate::moe::protocol::Verdict) -> String {
    use crate::moe::protocol::{Phase, VerdictKind};
    let phase = match v.phase() {
        Phase::Dispatch => "dispatch",
        Phase::Combine => "combine",
    };
    let at = format!(
        "{phase} (operation {} of channel {})",
        v.operation, v.channel
    );
    match v.kind {
        VerdictKind::Timeout => format!("rank {} did not signal {at} before the deadline", v.peer),
        VerdictKind::Overflow => format!("rank {} had more rows than its capacity in {at}", v.peer),
        VerdictKind::Abandoned => format!("rank {} gave up in {at}", v.peer),
    }
}

/// `value` is a multiple of `of`.
pub(crate) fn multiple(argument: &'static str, value: u64, of: u64) -> Result<(), ArgumentError> {
    if value.is_multiple_of(of) {
        Ok(())
    } else {
        Err(ArgumentError::Multiple {
            argument,
            expected: of,
            got: value,
        })
    }
}

/// `value` is at most `limit`.
pub(crate) fn at_most(argument: &'static str, value: u64, limit: u64) -> Result<(), ArgumentError> {
    if value <= limit {
        Ok(())
    } else {
        Err(ArgumentError::TooLarge {
            argument,
            limit,
            got: value,
        })
    }
}

/// `value` is at least `limit`.
pub(crate) fn at_least(
    argument: &'static str,
    value: u64,
    limit: u64,
) -> Result<(), ArgumentError> {
    if value >= limit {
        Ok(())
    } else {
        Err(ArgumentError::TooSmall {
            argument,
            limit,
            got: value,
        })
    }
}
