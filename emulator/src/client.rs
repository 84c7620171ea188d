//! The way to the shared library: finding it, universes, reports. Nothing of the emulator's state is here.

use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

pub use crate::count::{
    Allocation, Counters, Dsmem, Launched, Line, Memory, Shared, SharedTraffic, Sync, Tma, Totals,
    Traffic, Transfer,
};
pub use crate::machine::knobs::{
    AsyncMode, Checks, ComputeCapability, Knobs, Numerics, OnDeadlock, Schedule,
};
pub use crate::machine::report::{Report, Severity};

/// File name of the shared library.
pub const FILE: &str = "libhadal_emulator.so";

/// Why the emulator is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The shared library is in none of these folders.
    #[error("{FILE} is in none of {0:?}; `cargo build -p hadal-emulator` makes it")]
    NotFound(Vec<PathBuf>),
    /// It could not be opened.
    #[error("{path} could not be opened: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: libloading::Error,
    },
    /// Another CUDA driver is loaded in this process.
    #[error("another driver is loaded already: {0}")]
    OtherDriver(String),
    /// A call of the library failed.
    #[error("{call} answered {code}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its result.
        code: u32,
    },
}

/// Files mapped into this process whose name says that they are a CUDA driver.
pub fn mapped_drivers() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files: Vec<String> = maps
        .lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .filter(|p| {
            let name = p.rsplit('/').next().unwrap_or_default();
            name.starts_with("libcuda.so") || name == FILE
        })
        .map(String::from)
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Where the shared library may be: cargo puts a dependency's beside test and bench programs, in `../deps` for examples.
pub fn candidates() -> Vec<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let folder = exe.parent().map(PathBuf::from).unwrap_or_default();
    vec![
        folder.join(FILE),
        folder.join("deps").join(FILE),
        folder.join("../deps").join(FILE),
        folder.join("..").join(FILE),
    ]
}

/// Opens the emulator as this process' CUDA driver. Whoever opens `libcuda.so` by name afterwards gets it.
///
/// # Errors
/// The library is not found or cannot be opened, or another driver is there first.
pub fn install() -> Result<Emulator, InstallError> {
    let all = candidates();
    let path = all
        .iter()
        .find(|p| p.exists())
        .ok_or_else(|| InstallError::NotFound(all.clone()))?;
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    if let Some(other) = mapped_drivers()
        .into_iter()
        .find(|f| std::path::Path::new(f) != path)
    {
        return Err(InstallError::OtherDriver(other));
    }
    // SAFETY: the library's initialisers touch nothing of this process.
    let lib = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let lib = lib.map_err(|source| InstallError::Open {
        path: path.clone(),
        source,
    })?;
    Ok(Emulator { lib, path })
}

/// The opened library. Dropping it does not unload the driver: this process keeps it to its end.
pub struct Emulator {
    lib: Library,
    path: PathBuf,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Emulator({})", self.path.display())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // One more reference, never given back.
        // SAFETY: as in `install`.
        if let Ok(l) = unsafe { Library::open(Some(&self.path), RTLD_NOW | RTLD_GLOBAL) } {
            std::mem::forget(l);
        }
    }
}

impl Emulator {
    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The function `name` as type `T`.
    ///
    /// # Safety
    /// `T` must be the function's type.
    ///
    /// # Errors
    /// The library does not have it.
    pub unsafe fn function<T>(&self, name: &str) -> Result<Symbol<T>, InstallError> {
        // SAFETY: the caller's duty.
        unsafe { self.lib.get(name.as_bytes()) }.map_err(|source| InstallError::Open {
            path: self.path.clone(),
            source,
        })
    }

    /// Leases devices of their own.
    ///
    /// # Errors
    /// The settings are refused.
    pub fn universe(&self, knobs: &Knobs) -> Result<Universe, InstallError> {
        let text =
            CString::new(serde_json::to_string(knobs).unwrap_or_default()).unwrap_or_default();
        let mut first = 0;
        // SAFETY: the type of this export.
        let f = unsafe {
            self.function::<unsafe extern "C" fn(*const c_char, *mut c_int) -> u32>(
                "hadalEmuUniverseCreate",
            )?
        };
        // SAFETY: a NUL-terminated text and a place for the answer.
        let code = unsafe { f(text.as_ptr(), &mut first) };
        if code != 0 {
            return Err(InstallError::Call {
                call: "hadalEmuUniverseCreate",
                code,
            });
        }
        // SAFETY: the types of these exports.
        unsafe {
            Ok(Universe {
                first,
                devices: knobs.devices,
                destroy: self.function("hadalEmuUniverseDestroy")?,
                reports: self.function("hadalEmuReports")?,
                totals: self.function("hadalEmuTotals")?,
                launches: self.function("hadalEmuLaunches")?,
                output: self.function("hadalEmuOutput")?,
            })
        }
    }

    /// Messages that belong to no universe: why a module was refused.
    pub fn notes(&self) -> Vec<String> {
        // SAFETY: the type of this export.
        let f = unsafe {
            self.function::<unsafe extern "C" fn(*mut c_char, usize, *mut usize) -> u32>(
                "hadalEmuNotes",
            )
        };
        let Ok(f) = f else { return Vec::new() };
        // SAFETY: the contract of the export.
        let text = read_text(|b, n, need| unsafe { f(b, n, need) });
        serde_json::from_str(&text).unwrap_or_default()
    }
}

fn read_text(call: impl Fn(*mut c_char, usize, *mut usize) -> u32) -> String {
    let mut need = 0;
    if call(std::ptr::null_mut(), 0, &mut need) != 0 {
        return String::new();
    }
    // The text may have grown between the question and the answer.
    loop {
        let mut buffer = vec![0u8; need + 4096];
        if call(buffer.as_mut_ptr().cast(), buffer.len(), &mut need) == 0 {
            let end = buffer.iter().position(|b| *b == 0).unwrap_or(0);
            return String::from_utf8_lossy(&buffer[..end]).into_owned();
        }
        if need < buffer.len() {
            return String::new();
        }
    }
}

type Text = unsafe extern "C" fn(c_int, *mut c_char, usize, *mut usize) -> u32;

/// Leased devices. Dropping it stops their work and frees their memory.
pub struct Universe {
    first: c_int,
    devices: u32,
    destroy: Symbol<unsafe extern "C" fn(c_int) -> u32>,
    reports: Symbol<Text>,
    totals: Symbol<Text>,
    launches: Symbol<Text>,
    output: Symbol<Text>,
}

impl std::fmt::Debug for Universe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Universe({}..{})",
            self.first,
            self.first + self.devices as c_int
        )
    }
}

impl Universe {
    /// Ordinal of device `i`, for `cuDeviceGet`.
    pub fn ordinal(&self, i: u32) -> usize {
        self.first as usize + i as usize
    }

    /// All findings so far.
    pub fn reports(&self) -> Vec<Report> {
        // SAFETY: the contract of the export.
        let text = read_text(|b, n, need| unsafe { (self.reports)(self.first, b, n, need) });
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// What kernels have printed. It went to standard output as well.
    pub fn output(&self) -> String {
        // SAFETY: the contract of the export.
        let text = read_text(|b, n, need| unsafe { (self.output)(self.first, b, n, need) });
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Sums over all that ran, whatever the knobs.
    pub fn totals(&self) -> Totals {
        // SAFETY: the contract of the export.
        let text = read_text(|b, n, need| unsafe { (self.totals)(self.first, b, n, need) });
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Every launch that has ended, in that order, with its counters. Empty without the knob `counters`.
    pub fn launches(&self) -> Vec<Launched> {
        // SAFETY: the contract of the export.
        let text = read_text(|b, n, need| unsafe { (self.launches)(self.first, b, n, need) });
        serde_json::from_str(&text).unwrap_or_default()
    }
}

impl Drop for Universe {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { (self.destroy)(self.first) };
    }
}
