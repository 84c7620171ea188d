//! The only place that talks to the driver.

mod module;
mod probe;
pub(crate) mod raw;
mod status;
pub(crate) mod tensor_map;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

pub(crate) use module::Module;
pub use probe::{DriverVersion, probe};
pub use status::Status;

use crate::error::{ArgumentError, DeviceError};

/// The oldest driver that has tensor maps and cluster launches: CUDA 12.0.
const OLDEST_DRIVER: u32 = 12000;

/// A GPU that this crate has kernels for. Holding it proves that the driver is there and new enough, and that the GPU has
/// compute capability 9.0.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    sms: u32,
}

impl Device {
    /// Looks at the context's GPU.
    ///
    /// # Errors
    /// No driver or an old one, another GPU, a build without kernels.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let version = probe()?;
        if version.0 < OLDEST_DRIVER {
            return Err(DeviceError::DriverTooOld {
                got: version.0,
                needed: OLDEST_DRIVER,
            });
        }
        if !crate::build_info().kernels_built {
            return Err(DeviceError::KernelsNotBuilt);
        }
        raw::bind(context)?;
        let major = raw::attribute(context, raw::Attribute::ComputeCapabilityMajor)?;
        let minor = raw::attribute(context, raw::Attribute::ComputeCapabilityMinor)?;
        if (major, minor) != (9, 0) {
            return Err(DeviceError::UnsupportedDevice { major, minor });
        }
        let sms = raw::attribute(context, raw::Attribute::MultiprocessorCount)?;
        Ok(Self {
            context: context.clone(),
            sms: sms.max(1) as u32,
        })
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Streaming multiprocessors.
    pub fn sms(&self) -> u32 {
        self.sms
    }

    /// Refuses a stream of another device.
    pub(crate) fn owns(&self, stream: &CudaStream) -> Result<(), ArgumentError> {
        let got = stream.context().ordinal();
        if got == self.context.ordinal() && stream.context().cu_ctx() == self.context.cu_ctx() {
            Ok(())
        } else {
            Err(ArgumentError::DeviceMismatch {
                argument: "stream",
                expected: self.context.ordinal(),
                got,
            })
        }
    }
}
