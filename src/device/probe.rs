//! Is there a driver? Asked before cudarc's first call, which panics where there is none.

use std::sync::OnceLock;

use crate::error::DeviceError;

/// The CUDA version that the driver supports, as it counts: 1000 x major + 10 x minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion(pub u32);

/// Opens the driver library under the names that cudarc tries, in its order, and asks for its version. The answer is kept.
///
/// # Errors
/// [`DeviceError::DriverMissing`] with the names tried.
pub fn probe() -> Result<DriverVersion, DeviceError> {
    // A missing driver is looked for again: it may be installed, or opened by path, later.
    static FOUND: OnceLock<DriverVersion> = OnceLock::new();
    if let Some(v) = FOUND.get() {
        return Ok(*v);
    }
    let tried = cudarc::get_lib_name_candidates("cuda");
    let mut reason = String::from("no name to try");
    for name in &tried {
        // SAFETY: the CUDA driver's initialisers ask nothing of their caller.
        let lib = match unsafe { libloading::Library::new(name) } {
            Ok(lib) => lib,
            Err(e) => {
                reason = chain(&e);
                continue;
            }
        };
        // SAFETY: the type of this function in every version of cuda.h.
        let f = unsafe { lib.get::<unsafe extern "C" fn(*mut i32) -> u32>(b"cuDriverGetVersion") };
        let mut version = 0;
        match f {
            // SAFETY: a valid place for the answer; the function works before cuInit.
            Ok(f) => match unsafe { f(&mut version) } {
                0 => {
                    // The driver stays loaded: cudarc opens it again by name.
                    std::mem::forget(lib);
                    return Ok(*FOUND.get_or_init(|| DriverVersion(version.max(0) as u32)));
                }
                code => reason = format!("{name}: cuDriverGetVersion answered {code}"),
            },
            Err(e) => reason = chain(&e),
        }
    }
    Err(DeviceError::DriverMissing { tried, reason })
}

fn chain(e: &dyn std::error::Error) -> String {
    match e.source() {
        Some(s) => format!("{e}: {}", chain(s)),
        None => e.to_string(),
    }
}
