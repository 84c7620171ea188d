//! The exported functions: the CUDA driver API as a CPU gives it, and `hadalEmu…` for what hardware does not have.
//!
//! All state of the emulator hangs on [`library`], in whichever binary these functions are linked into; programs reach it
//! through the shared library alone.

mod attributes;
mod context;
mod control;
mod memory;
mod module;
mod mutant;
mod stream;
mod tensor_map;
mod universe;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use universe::Universe;

/// `CUresult`.
pub type CuResult = u32;

/// Result codes (cuda.h, `cudaError_enum`).
#[allow(dead_code)]
pub mod code {
    pub const SUCCESS: u32 = 0;
    pub const INVALID_VALUE: u32 = 1;
    pub const OUT_OF_MEMORY: u32 = 2;
    pub const NOT_INITIALIZED: u32 = 3;
    pub const NO_DEVICE: u32 = 100;
    pub const INVALID_DEVICE: u32 = 101;
    pub const INVALID_IMAGE: u32 = 200;
    pub const INVALID_CONTEXT: u32 = 201;
    pub const NO_BINARY_FOR_GPU: u32 = 209;
    pub const INVALID_PTX: u32 = 218;
    pub const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub const INVALID_HANDLE: u32 = 400;
    pub const NOT_FOUND: u32 = 500;
    pub const NOT_READY: u32 = 600;
    pub const ILLEGAL_ADDRESS: u32 = 700;
    pub const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
    pub const LAUNCH_TIMEOUT: u32 = 702;
    pub const PEER_ACCESS_ALREADY_ENABLED: u32 = 704;
    pub const PEER_ACCESS_NOT_ENABLED: u32 = 705;
    pub const CONTEXT_IS_DESTROYED: u32 = 709;
    pub const ASSERT: u32 = 710;
    pub const HOST_MEMORY_ALREADY_REGISTERED: u32 = 712;
    pub const HOST_MEMORY_NOT_REGISTERED: u32 = 713;
    pub const HARDWARE_STACK_ERROR: u32 = 714;
    pub const ILLEGAL_INSTRUCTION: u32 = 715;
    pub const MISALIGNED_ADDRESS: u32 = 716;
    pub const INVALID_PC: u32 = 718;
    pub const LAUNCH_FAILED: u32 = 719;
    pub const NOT_PERMITTED: u32 = 800;
    pub const NOT_SUPPORTED: u32 = 801;
    pub const STREAM_CAPTURE_UNSUPPORTED: u32 = 900;
    pub const INVALID_CLUSTER_SIZE: u32 = 912;
    pub const UNKNOWN: u32 = 999;
}

/// What an export does: success or a code.
pub type Res = Result<(), CuResult>;

/// Tags of handles: opaque numbers that no pointer looks like.
pub mod tag {
    pub const CONTEXT: u64 = 0x00C0_0000_0000_0000;
    pub const STREAM: u64 = 0x00C1_0000_0000_0000;
    pub const EVENT: u64 = 0x00C2_0000_0000_0000;
    pub const MODULE: u64 = 0x00C3_0000_0000_0000;
    pub const FUNCTION: u64 = 0x00C4_0000_0000_0000;
    pub const POOL: u64 = 0x00C5_0000_0000_0000;
    pub const MASK: u64 = 0xFFFF_0000_0000_0000;
}

/// A context: a device and whether it still exists.
#[derive(Clone)]
pub struct Context {
    /// Ordinal of its device.
    pub device: u32,
    /// The universe of that device.
    pub universe: Arc<Universe>,
    /// Retained this often (primary), or 1.
    pub count: u32,
    /// The device's primary context.
    pub primary: bool,
    /// Creation flags.
    pub flags: u32,
    /// CU_LIMIT_STACK_SIZE.
    pub stack: u32,
}

/// Everything behind the exports.
pub struct Library {
    /// `cuInit` was called.
    pub initialised: bool,
    /// By handle.
    pub contexts: HashMap<u64, Context>,
    /// By handle.
    pub modules: HashMap<u64, module::Module>,
    /// By handle.
    pub functions: HashMap<u64, module::Function>,
    /// By handle.
    pub streams: HashMap<u64, stream::StreamRef>,
    /// By handle.
    pub events: HashMap<u64, Arc<stream::Event>>,
    /// Device ordinals of each universe: first, and the universe.
    pub universes: Vec<(u32, Arc<Universe>)>,
    /// Device memory of all.
    pub memory: Arc<crate::machine::memory::Memory>,
    next: u64,
    next_ordinal: u32,
}

/// First ordinal of leased universes.
pub const LEASED: u32 = 64;

static LIBRARY: LazyLock<Option<Mutex<Library>>> = LazyLock::new(|| {
    let memory = Arc::new(crate::machine::memory::Memory::new().ok()?);
    Some(Mutex::new(Library {
        initialised: false,
        contexts: HashMap::new(),
        modules: HashMap::new(),
        functions: HashMap::new(),
        streams: HashMap::new(),
        events: HashMap::new(),
        universes: Vec::new(),
        memory,
        next: 1,
        next_ordinal: LEASED,
    }))
});

/// The state.
pub fn library() -> Result<MutexGuard<'static, Library>, CuResult> {
    let l = LIBRARY.as_ref().ok_or(code::OUT_OF_MEMORY)?;
    Ok(l.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The state, once `cuInit` has been called.
pub fn ready() -> Result<MutexGuard<'static, Library>, CuResult> {
    let l = library()?;
    if l.initialised {
        Ok(l)
    } else {
        Err(code::NOT_INITIALIZED)
    }
}

impl Library {
    /// A handle never given before.
    pub fn handle(&mut self, tag: u64) -> u64 {
        self.next += 1;
        tag | self.next << 4
    }

    /// Starts a universe with the first free ordinals (`first`: with these).
    pub fn add_universe(
        &mut self,
        knobs: crate::machine::Knobs,
        first: Option<u32>,
    ) -> (u32, Arc<Universe>) {
        let n = knobs.devices;
        let first = first.unwrap_or_else(|| {
            self.next_ordinal += n;
            self.next_ordinal - n
        });
        let u = Universe::start(first, knobs, self.memory.clone());
        self.universes.push((first, u.clone()));
        (first, u)
    }

    /// What device `ordinal` is.
    pub fn compute_capability(
        &self,
        ordinal: u32,
    ) -> Result<crate::machine::device::ComputeCapability, CuResult> {
        let u = self.universe(ordinal).ok_or(code::INVALID_DEVICE)?;
        Ok(u.compute_capability())
    }

    /// The universe of a device.
    pub fn universe(&self, ordinal: u32) -> Option<Arc<Universe>> {
        let found = self
            .universes
            .iter()
            .find(|(f, u)| ordinal >= *f && ordinal - f < u.devices);
        found.map(|(_, u)| u.clone())
    }
}

/// Runs the body of an export: no panic may cross into C.
pub fn guard(name: &str, body: impl FnOnce() -> Res) -> CuResult {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(c)) => c,
        Err(_) => {
            control::note(format!("{name}: the emulator itself failed"));
            code::UNKNOWN
        }
    }
}

/// Writes through a pointer that a C caller gave.
///
/// # Safety
/// `p` must be null or valid for a write.
pub unsafe fn put<T>(p: *mut T, v: T) -> Res {
    if p.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller's duty.
    unsafe { p.write(v) };
    Ok(())
}

/// Defines exports and a table to find them by name.
macro_rules! exports {
    ($( $(#[$m:meta])* fn $name:ident($($a:ident: $t:ty),* $(,)?) $body:block )*) => {
        $(
            $(#[$m])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($a: $t),*) -> $crate::driver::CuResult {
                $crate::driver::guard(stringify!($name), || -> $crate::driver::Res { $body })
            }
        )*
        /// The export called `name`.
        pub fn find(name: &str) -> Option<*const std::ffi::c_void> {
            match name {
                $( stringify!($name) => Some($name as *const std::ffi::c_void), )*
                _ => None,
            }
        }
    };
}
pub(crate) use exports;

/// The export called exactly `name`.
fn find(name: &str) -> Option<*const c_void> {
    [
        context::find,
        memory::find,
        module::find,
        stream::find,
        tensor_map::find,
        control::find,
    ]
    .iter()
    .find_map(|f| f(name))
}
