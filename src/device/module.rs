//! Loaded kernels.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::{Device, raw};
use crate::build_info::Kernel;
use crate::error::DeviceError;

/// A unit's kernels on a device. Unloaded when the last clone goes.
#[derive(Debug)]
pub(crate) struct Module {
    raw: raw::RawModule,
    context: Arc<CudaContext>,
    unit: &'static str,
}

impl Module {
    /// Loads the machine code; where the driver refuses it (another architecture version, 209; a broken image, 200) the PTX.
    pub(crate) fn load(device: &Device, unit: &'static Kernel) -> Result<Arc<Self>, DeviceError> {
        raw::bind(device.context())?;
        // SAFETY: the build embeds whole cubins and NUL-terminated PTX.
        let loaded = match unsafe { raw::load(unit.cubin) } {
            // SAFETY: as above.
            Err((200 | 209, _)) => unsafe { raw::load(unit.ptx.as_bytes()) },
            other => other,
        };
        match loaded {
            Ok(raw) => Ok(Arc::new(Self {
                raw,
                context: device.context().clone(),
                unit: unit.name,
            })),
            Err((222, _)) => Err(DeviceError::PtxTooNew { kernel: unit.name }),
            Err((code, log)) => Err(DeviceError::Load {
                kernel: unit.name,
                call: "cuModuleLoadDataEx",
                code,
                name: raw::name(code),
                log: if log.is_empty() {
                    log
                } else {
                    format!(": {log}")
                },
            }),
        }
    }

    /// A kernel, with its dynamic shared memory granted.
    pub(crate) fn function(
        &self,
        name: &str,
        dynamic_smem: u32,
    ) -> Result<raw::RawFunction, DeviceError> {
        raw::bind(&self.context)?;
        let c = CString::new(name).map_err(|_| raw::failed("cuModuleGetFunction", 500))?;
        raw::function(self.raw, &c, dynamic_smem).map_err(|e| match e {
            DeviceError::Driver { call, code, name } => DeviceError::Load {
                kernel: self.unit,
                call,
                code,
                name,
                log: String::new(),
            },
            e => e,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if raw::bind(&self.context).is_ok() {
            // SAFETY: operations hold the module while they can launch; the driver keeps the code of running kernels.
            unsafe { raw::unload(self.raw) };
        }
    }
}
