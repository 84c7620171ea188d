//! What the emulator's tests share: a leased device, a loaded kernel, launches through cudarc's raw layer.
#![allow(dead_code)]

pub mod bench;

use std::ffi::{CString, c_void};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream, result, sys};
use hadal_emulator::client::{Emulator, Knobs, Report, Universe};

/// The emulator, installed once in this process. Prints which file serves as the driver.
pub fn emulator() -> &'static Emulator {
    static E: OnceLock<Emulator> = OnceLock::new();
    E.get_or_init(|| {
        let e = hadal_emulator::install().expect("the emulator beside the test");
        println!("driver: {}", e.path().display());
        e
    })
}

/// A device of its own.
pub struct Device {
    limit: Limit,
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub universe: Universe,
}

/// Leases a device with these settings.
pub fn device(knobs: &Knobs) -> Device {
    let universe = emulator().universe(knobs).expect("a universe");
    let context = CudaContext::new(universe.ordinal(0)).expect("a context");
    assert_eq!(
        hadal_emulator::client::mapped_drivers().len(),
        1,
        "one driver and no other"
    );
    let stream = context.default_stream();
    Device {
        limit: Limit::new(300),
        context,
        stream,
        universe,
    }
}

/// Ends the process when it lives longer than it may: nothing else ends a test that waits for a driver.
struct Limit(#[allow(dead_code)] std::sync::mpsc::Sender<()>);

impl Limit {
    fn new(seconds: u64) -> Self {
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        let test = std::thread::current()
            .name()
            .unwrap_or("a test")
            .to_string();
        std::thread::spawn(move || {
            let waited = rx.recv_timeout(std::time::Duration::from_secs(seconds));
            if waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test}: not done within {seconds} s");
                std::process::abort();
            }
        });
        Self(tx)
    }
}

/// A kernel argument: its bytes.
pub enum Arg {
    U32(u32),
    U64(u64),
    F32(f32),
    Bytes(Vec<u8>),
}

impl Device {
    /// Loads PTX; on failure the reason.
    pub fn load(&self, ptx: &str) -> Result<sys::CUmodule, String> {
        self.context.bind_to_thread().expect("a current context");
        let text = CString::new(ptx).expect("no NUL");
        // SAFETY: a NUL-terminated text.
        unsafe { result::module::load_data(text.as_ptr().cast()) }
            .map_err(|e| format!("{e:?}: {:?}", emulator().notes().last()))
    }

    /// Launches `name` and waits.
    pub fn launch(
        &self,
        module: sys::CUmodule,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        smem: u32,
        args: &[Arg],
    ) -> Result<(), sys::CUresult> {
        let name = CString::new(name).expect("no NUL");
        // SAFETY: the module is loaded; the arguments are as many and as large as the kernel's.
        unsafe {
            let f = result::module::get_function(module, name).map_err(|e| e.0)?;
            if smem > 49152 {
                result::function::set_function_attribute(
                    f,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    smem as i32,
                )
                .map_err(|e| e.0)?;
            }
            let mut ptrs: Vec<*mut c_void> = args
                .iter()
                .map(|a| match a {
                    Arg::U32(v) => std::ptr::from_ref(v) as *mut c_void,
                    Arg::U64(v) => std::ptr::from_ref(v) as *mut c_void,
                    Arg::F32(v) => std::ptr::from_ref(v) as *mut c_void,
                    Arg::Bytes(v) => v.as_ptr() as *mut c_void,
                })
                .collect();
            result::launch_kernel(
                f,
                grid.into(),
                block.into(),
                smem,
                self.stream.cu_stream(),
                &mut ptrs,
            )
            .map_err(|e| e.0)?;
            result::stream::synchronize(self.stream.cu_stream()).map_err(|e| e.0)
        }
    }

    /// The one finding of a failed run.
    pub fn report(&self) -> Report {
        let all = self.universe.reports();
        assert!(!all.is_empty(), "a finding");
        all.into_iter().next_back().expect("one")
    }
}
