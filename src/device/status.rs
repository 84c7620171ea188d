//! What kernels found wrong, in a buffer of the caller's.
//!
//! ```text
//! word  0     1       2      3      4 5        6 7      8..15
//!       code  kernel  place  block  got (u64)  limit    0
//! ```
//! Code 0: nothing. The first block that finds something writes; later ones are dropped.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, SyncOnDrop};

use super::raw;
use crate::error::{ArgumentError, DeviceError, StatusError};

const WORDS: usize = 16;

/// A status buffer: 64 bytes of device memory that belong to one stream.
#[derive(Debug)]
pub struct Status {
    words: CudaSlice<u32>,
}

impl Status {
    /// A clear status. Allocates; not for use while the stream captures.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        super::probe()?;
        let words = stream
            .alloc_zeros(WORDS)
            .map_err(|e| raw::cudarc_error("cuMemAllocAsync", &e))?;
        Ok(Self { words })
    }

    /// Clears it, in stream order.
    ///
    /// # Errors
    /// The driver's.
    pub fn reset(&mut self, stream: &Arc<CudaStream>) -> Result<(), DeviceError> {
        stream
            .memset_zeros(&mut self.words)
            .map_err(|e| raw::cudarc_error("cuMemsetD8Async", &e))
    }

    /// Waits for the stream and tells what its kernels found. The finding stays until [`Status::reset`].
    ///
    /// # Errors
    /// [`StatusError`]: what was found; the driver's error when a kernel failed outright.
    pub fn check(&self, stream: &Arc<CudaStream>) -> Result<(), StatusError> {
        let mut w = [0u32; WORDS];
        stream
            .memcpy_dtoh(&self.words, &mut w)
            .map_err(|e| raw::cudarc_error("cuMemcpyDtoHAsync", &e))?;
        stream
            .synchronize()
            .map_err(|e| raw::cudarc_error("cuStreamSynchronize", &e))?;
        decode(&w)
    }

    /// Address and guard for a launch on `stream`.
    pub(crate) fn bind<'a>(
        &'a mut self,
        stream: &'a CudaStream,
    ) -> Result<(u64, SyncOnDrop<'a>), ArgumentError> {
        if self.words.stream().cu_stream() != stream.cu_stream() {
            return Err(ArgumentError::StreamMismatch { argument: "status" });
        }
        Ok(self.words.device_ptr_mut(stream))
    }
}

fn kernel(id: u32) -> &'static str {
    match id {
        1 => "sm90_fp8_gemm",
        2 => "sm90_bf16_quant_1x128",
        3 => "sm90_quant_128x128",
        4 => "sm90_moe_dispatch_send",
        16 => "sm90_mla_decode",
        17 => "sm90_mla_append",
        _ => "an unknown kernel",
    }
}

fn decode(w: &[u32; WORDS]) -> Result<(), StatusError> {
    let pair = |i: usize| u64::from(w[i]) | u64::from(w[i + 1]) << 32;
    match w[0] {
        0 => Ok(()),
        1 => Err(StatusError::Timeout {
            kernel: kernel(w[1]),
            place: w[2],
            block: w[3],
            waited_ns: pair(4),
            deadline_ns: pair(6),
        }),
        2 => Err(StatusError::IndexOutOfRange {
            kernel: kernel(w[1]),
            argument: w[2],
            block: w[3],
            got: pair(4),
            limit: pair(6),
        }),
        code => Err(StatusError::Unknown { code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_errors() {
        let mut w = [0; WORDS];
        assert!(decode(&w).is_ok());
        w[..8].copy_from_slice(&[1, 1, 2, 7, 5, 1, 4, 0]);
        assert_eq!(
            decode(&w).unwrap_err().to_string(),
            "sm90_fp8_gemm: block 7 waited 4294967301 ns at place 2, the deadline is 4 ns"
        );
        w[0] = 2;
        assert!(matches!(
            decode(&w),
            Err(StatusError::IndexOutOfRange { limit: 4, .. })
        ));
        w[0] = 77;
        assert!(matches!(decode(&w), Err(StatusError::Unknown { code: 77 })));
    }
}
