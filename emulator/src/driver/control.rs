//! What hardware does not have: universes, reports, counters; and how functions are found by name.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::{LEASED, Res, code, exports, library, put, ready};
use crate::count::Launched;
use crate::machine::Knobs;
use crate::machine::report::Report;

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers a message that belongs to no universe (a refused module, a failure of the emulator itself).
pub fn note(text: String) {
    if std::env::var_os("HADAL_EMU_PRINT").is_some() {
        eprintln!("hadal-emu: {text}");
    }
    NOTES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text);
}

/// Prints a finding if `HADAL_EMU_PRINT` is set.
pub fn show(r: &Report) {
    if std::env::var_os("HADAL_EMU_PRINT").is_some() {
        eprintln!("hadal-emu: {r}");
    }
}

/// What the environment turns on in every universe: counting, when there is a file for it.
pub fn force(k: &mut Knobs) {
    let listed = std::env::var_os(super::mutant::LIST).is_some();
    k.executed_lines |= listed;
    k.counters |= listed || std::env::var_os(COUNTERS).is_some();
}

/// File to which every launch's counters are appended.
const COUNTERS: &str = "HADAL_EMU_COUNTERS";

/// Appends launches to the file that `HADAL_EMU_COUNTERS` names, one line of JSON each.
pub fn record(launched: &[Launched]) {
    let Some(path) = std::env::var_os(COUNTERS).filter(|_| !launched.is_empty()) else {
        return;
    };
    let lines = launched.iter().map(serde_json::to_string);
    let written = lines
        .collect::<Result<Vec<_>, _>>()
        .map_err(std::io::Error::from);
    let written = written.and_then(|l| {
        let mut f = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)?;
        f.write_all((l.join("\n") + "\n").as_bytes())
    });
    if let Err(e) = written {
        note(format!("HADAL_EMU_COUNTERS={}: {e}", path.display()));
    }
}

/// Settings of the default universe; `HADAL_EMU_KNOBS` that do not parse are refused.
pub fn knobs_from_environment(devices: u32) -> Result<Knobs, u32> {
    let Ok(text) = std::env::var("HADAL_EMU_KNOBS") else {
        return Ok(Knobs {
            devices,
            ..Knobs::default()
        });
    };
    match serde_json::from_str::<Knobs>(&text) {
        Ok(k) => Ok(Knobs { devices, ..k }),
        Err(e) => {
            note(format!("HADAL_EMU_KNOBS: {e}"));
            Err(code::INVALID_VALUE)
        }
    }
}

/// Copies `text` with a NUL into a buffer; answers the room it needs.
///
/// # Safety
/// `buffer` has `cap` bytes or is null.
unsafe fn copy_out(text: &str, buffer: *mut c_char, cap: usize, need: *mut usize) -> Res {
    // SAFETY: the caller's duty.
    unsafe {
        if !need.is_null() {
            put(need, text.len() + 1)?;
        }
        if buffer.is_null() {
            return Ok(());
        }
        if cap < text.len() + 1 {
            return Err(code::INVALID_VALUE);
        }
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}

fn universe(first: c_int) -> Result<std::sync::Arc<super::universe::Universe>, u32> {
    let l = ready()?;
    u32::try_from(first)
        .ok()
        .and_then(|f| l.universe(f))
        .ok_or(code::INVALID_DEVICE)
}

/// Name and text of a result.
fn result(c: u32) -> Option<(&'static CStr, &'static CStr)> {
    Some(match c {
        code::SUCCESS => (c"CUDA_SUCCESS", c"no error"),
        code::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        code::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        code::NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        code::NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no device"),
        code::INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        code::INVALID_IMAGE => (c"CUDA_ERROR_INVALID_IMAGE", c"invalid module image"),
        code::INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid context"),
        code::NO_BINARY_FOR_GPU => (
            c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            c"no code in the image runs on the device",
        ),
        code::INVALID_PTX => (c"CUDA_ERROR_INVALID_PTX", c"the PTX was refused"),
        code::UNSUPPORTED_PTX_VERSION => (
            c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            c"the PTX is newer than the driver",
        ),
        301 => (c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found"),
        code::INVALID_HANDLE => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid handle"),
        code::NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        code::NOT_READY => (c"CUDA_ERROR_NOT_READY", c"not finished yet"),
        code::ILLEGAL_ADDRESS => (
            c"CUDA_ERROR_ILLEGAL_ADDRESS",
            c"illegal memory access by a kernel",
        ),
        code::LAUNCH_OUT_OF_RESOURCES => (
            c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            c"too many resources for a launch",
        ),
        code::LAUNCH_TIMEOUT => (
            c"CUDA_ERROR_LAUNCH_TIMEOUT",
            c"a kernel ran too long or came to a standstill",
        ),
        code::PEER_ACCESS_ALREADY_ENABLED => (
            c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
            c"peer access is enabled already",
        ),
        code::PEER_ACCESS_NOT_ENABLED => (
            c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED",
            c"peer access is not enabled",
        ),
        code::CONTEXT_IS_DESTROYED => (
            c"CUDA_ERROR_CONTEXT_IS_DESTROYED",
            c"the context is destroyed",
        ),
        code::ASSERT => (c"CUDA_ERROR_ASSERT", c"an assertion of a kernel failed"),
        code::HOST_MEMORY_ALREADY_REGISTERED => (
            c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
            c"registered already",
        ),
        code::HOST_MEMORY_NOT_REGISTERED => {
            (c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"not registered")
        }
        code::HARDWARE_STACK_ERROR => (
            c"CUDA_ERROR_HARDWARE_STACK_ERROR",
            c"a thread's stack overflowed",
        ),
        code::INVALID_PC => (c"CUDA_ERROR_INVALID_PC", c"a call of what is no function"),
        code::ILLEGAL_INSTRUCTION => (
            c"CUDA_ERROR_ILLEGAL_INSTRUCTION",
            c"illegal instruction in a kernel",
        ),
        code::MISALIGNED_ADDRESS => (
            c"CUDA_ERROR_MISALIGNED_ADDRESS",
            c"misaligned address in a kernel",
        ),
        code::LAUNCH_FAILED => (c"CUDA_ERROR_LAUNCH_FAILED", c"a kernel failed"),
        code::NOT_PERMITTED => (c"CUDA_ERROR_NOT_PERMITTED", c"not permitted"),
        code::NOT_SUPPORTED => (c"CUDA_ERROR_NOT_SUPPORTED", c"not supported"),
        code::STREAM_CAPTURE_UNSUPPORTED => (
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"not permitted during capture",
        ),
        code::INVALID_CLUSTER_SIZE => (c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"invalid cluster size"),
        code::UNKNOWN => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
        _ => return None,
    })
}

exports! {
    fn cuGetErrorName(c: u32, out: *mut *const c_char) {
        let r = result(c);
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, r.map_or(std::ptr::null(), |r| r.0.as_ptr()))? };
        r.map(|_| ()).ok_or(code::INVALID_VALUE)
    }
    fn cuGetErrorString(c: u32, out: *mut *const c_char) {
        let r = result(c);
        // SAFETY: as the API asks of its caller.
        unsafe { put(out, r.map_or(std::ptr::null(), |r| r.1.as_ptr()))? };
        r.map(|_| ()).ok_or(code::INVALID_VALUE)
    }
    fn cuGetExportTable(_table: *mut *const c_void, _id: *const c_void) {
        Err(code::NOT_FOUND)
    }
    fn cuGetProcAddress_v2(symbol: *const c_char, out: *mut *const c_void, version: c_int, _flags: u64, status: *mut c_int) {
        if symbol.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: as the API asks of its caller.
        let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy().into_owned();
        let newest = ["_v4", "_v3", "_v2", ""].iter().find_map(|v| super::find(&format!("{name}{v}")));
        // SAFETY: as above; CU_GET_PROC_ADDRESS_SUCCESS is 0, ..._SYMBOL_NOT_FOUND 1, ..._VERSION_NOT_SUFFICIENT 2.
        unsafe {
            put(out, newest.filter(|_| version >= 2000).unwrap_or(std::ptr::null()))?;
            if !status.is_null() {
                put(status, c_int::from(newest.is_none()))?;
            }
        }
        newest.map(|_| ()).ok_or(code::NOT_FOUND)
    }
    fn cuGetProcAddress(symbol: *const c_char, out: *mut *const c_void, version: c_int, flags: u64) {
        // SAFETY: as the API asks of its caller.
        match unsafe { cuGetProcAddress_v2(symbol, out, version, flags, std::ptr::null_mut()) } {
            code::SUCCESS => Ok(()),
            c => Err(c),
        }
    }
    fn cuProfilerStart() {
        ready().map(|_| ())
    }
    fn cuProfilerStop() {
        ready().map(|_| ())
    }
    /// Starts a universe. `knobs`: JSON of `machine::Knobs`. Its devices have the ordinals from `first` on.
    fn hadalEmuUniverseCreate(knobs: *const c_char, first: *mut c_int) {
        if knobs.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: a NUL-terminated text.
        let text = unsafe { CStr::from_ptr(knobs) }.to_string_lossy().into_owned();
        let k: Knobs = serde_json::from_str(&text).map_err(|_| code::INVALID_VALUE)?;
        if k.devices == 0 || k.devices > 64 {
            return Err(code::INVALID_VALUE);
        }
        let mut l = library()?;
        l.initialised |= l.universes.iter().any(|(f, _)| *f == 0);
        if !l.initialised {
            drop(l);
            // SAFETY: no pointers.
            match unsafe { super::context::cuInit(0) } {
                code::SUCCESS => {}
                c => return Err(c),
            }
            l = library()?;
        }
        let (f, _) = l.add_universe(k, None);
        // SAFETY: as the contract of this function asks.
        unsafe { put(first, f as c_int) }
    }
    /// Ends a leased universe: its work stops, its memory is freed, its handles are void.
    fn hadalEmuUniverseDestroy(first: c_int) {
        let u = universe(first)?;
        if u.first < LEASED {
            return Err(code::INVALID_VALUE);
        }
        let mut l = ready()?;
        l.universes.retain(|(f, _)| *f != u.first);
        let dead: Vec<u64> = l.contexts.iter().filter(|(_, c)| std::sync::Arc::ptr_eq(&c.universe, &u)).map(|(h, _)| *h).collect();
        l.contexts.retain(|h, _| !dead.contains(h));
        l.streams.retain(|_, s| !std::sync::Arc::ptr_eq(&s.universe, &u));
        drop(l);
        u.stop();
        Ok(())
    }
    /// All findings of a universe as JSON.
    fn hadalEmuReports(first: c_int, buffer: *mut c_char, cap: usize, need: *mut usize) {
        let text = serde_json::to_string(&universe(first)?.reports()).map_err(|_| code::UNKNOWN)?;
        // SAFETY: as the contract of this function asks.
        unsafe { copy_out(&text, buffer, cap, need) }
    }
    /// What kernels of a universe printed, as a JSON string.
    fn hadalEmuOutput(first: c_int, buffer: *mut c_char, cap: usize, need: *mut usize) {
        let text = universe(first)?.output();
        let text = serde_json::to_string(&String::from_utf8_lossy(&text)).map_err(|_| code::UNKNOWN)?;
        // SAFETY: as the contract of this function asks.
        unsafe { copy_out(&text, buffer, cap, need) }
    }
    /// Every launch of a universe that has ended, with its counters, as JSON.
    fn hadalEmuLaunches(first: c_int, buffer: *mut c_char, cap: usize, need: *mut usize) {
        let text = serde_json::to_string(&universe(first)?.launches()).map_err(|_| code::UNKNOWN)?;
        // SAFETY: as the contract of this function asks.
        unsafe { copy_out(&text, buffer, cap, need) }
    }
    /// Sums over all that ran in a universe as JSON.
    fn hadalEmuTotals(first: c_int, buffer: *mut c_char, cap: usize, need: *mut usize) {
        let text = serde_json::to_string(&universe(first)?.totals()).map_err(|_| code::UNKNOWN)?;
        // SAFETY: as the contract of this function asks.
        unsafe { copy_out(&text, buffer, cap, need) }
    }
    /// Messages that belong to no universe, as a JSON list: refused modules.
    fn hadalEmuNotes(buffer: *mut c_char, cap: usize, need: *mut usize) {
        let notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = serde_json::to_string(&notes).map_err(|_| code::UNKNOWN)?;
        // SAFETY: as the contract of this function asks.
        unsafe { copy_out(&text, buffer, cap, need) }
    }
    /// Version of the `hadalEmu…` functions.
    fn hadalEmuVersion(version: *mut c_int) {
        // SAFETY: as the contract of this function asks.
        unsafe { put(version, 1) }
    }
}
