//! A device for examples and tests: a GPU where there is one, else the emulator.
//!
//! `HADAL_DEVICE=auto|gpu|emulator` chooses; `HADAL_REQUIRE_GPU=1` makes a missing GPU a failure.
#![allow(dead_code)] // each program uses a part

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream};
use hadal::device::Device;
#[allow(unused_imports)] // the same
pub use hadal_emulator::client::{
    AsyncMode, Checks, Emulator, Knobs, Numerics, Report, Schedule, Universe,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What serves as the CUDA driver in this process.
pub enum Driver {
    Gpu,
    Emulator(Emulator),
}

/// Chosen once, printed once.
pub fn driver() -> Result<&'static Driver, Failure> {
    static D: OnceLock<Result<Driver, String>> = OnceLock::new();
    let d = D.get_or_init(|| {
        let d = choose().map_err(|e| e.to_string())?;
        eprintln!(
            "driver: {}",
            hadal_emulator::client::mapped_drivers().join(", ")
        );
        Ok(d)
    });
    d.as_ref().map_err(|e| e.clone().into())
}

fn gpus() -> usize {
    match hadal::device::probe() {
        Ok(_) => CudaContext::device_count().map_or(0, |n| n.max(0) as usize),
        Err(_) => 0,
    }
}

fn choose() -> Result<Driver, Failure> {
    let wanted = std::env::var("HADAL_DEVICE").unwrap_or_else(|_| "auto".into());
    let required = std::env::var("HADAL_REQUIRE_GPU").is_ok_and(|v| v == "1");
    match wanted.as_str() {
        "gpu" if gpus() == 0 => Err("HADAL_DEVICE=gpu, and there is none".into()),
        "gpu" => Ok(Driver::Gpu),
        "auto" if gpus() > 0 => Ok(Driver::Gpu),
        "auto" | "emulator" if required => Err("HADAL_REQUIRE_GPU=1, and no GPU is used".into()),
        "auto" | "emulator" => Ok(Driver::Emulator(hadal_emulator::install()?)),
        other => Err(format!("HADAL_DEVICE={other}: auto, gpu or emulator").into()),
    }
}

/// A device to work on. With the emulator it is leased: its memory, settings and findings are its own.
pub struct Lease {
    pub device: Device,
    pub stream: Arc<CudaStream>,
    pub universe: Option<Universe>,
}

impl Lease {
    /// `knobs` are the emulator's settings; a GPU has none.
    pub fn new(knobs: &Knobs) -> Result<Self, Failure> {
        let (universe, ordinal) = match driver()? {
            Driver::Gpu => (None, 0),
            Driver::Emulator(e) => {
                let u = e.universe(knobs)?;
                let ordinal = u.ordinal(0);
                (Some(u), ordinal)
            }
        };
        let context = CudaContext::new(ordinal)?;
        let mapped = hadal_emulator::client::mapped_drivers();
        if mapped.len() != 1 {
            return Err(format!("one driver should be mapped, there are {mapped:?}").into());
        }
        let stream = context.new_stream()?;
        Ok(Self {
            device: Device::new(&context)?,
            stream,
            universe,
        })
    }

    /// What the emulator found wrong so far.
    pub fn reports(&self) -> Vec<Report> {
        self.universe
            .as_ref()
            .map(Universe::reports)
            .unwrap_or_default()
    }

    pub fn emulated(&self) -> bool {
        self.universe.is_some()
    }
}
