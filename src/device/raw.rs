//! Every call of cudarc's `sys` layer in this crate.
//!
//! All of these are called with the context current on the calling thread, and through a driver that [`super::probe`] has
//! found.

use std::ffi::{CStr, c_char, c_int, c_void};

use cudarc::driver::{CudaContext, CudaStream, sys};

use crate::error::DeviceError;

/// Device attributes that the crate asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute {
    ComputeCapabilityMajor,
    ComputeCapabilityMinor,
    MultiprocessorCount,
}

/// Name of a result, from our own table: `Display` of an error must not enter the driver.
pub(crate) fn name(code: u32) -> &'static str {
    match code {
        1 => "CUDA_ERROR_INVALID_VALUE",
        2 => "CUDA_ERROR_OUT_OF_MEMORY",
        3 => "CUDA_ERROR_NOT_INITIALIZED",
        4 => "CUDA_ERROR_DEINITIALIZED",
        100 => "CUDA_ERROR_NO_DEVICE",
        101 => "CUDA_ERROR_INVALID_DEVICE",
        200 => "CUDA_ERROR_INVALID_IMAGE",
        201 => "CUDA_ERROR_INVALID_CONTEXT",
        209 => "CUDA_ERROR_NO_BINARY_FOR_GPU",
        218 => "CUDA_ERROR_INVALID_PTX",
        220 => "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        222 => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        400 => "CUDA_ERROR_INVALID_HANDLE",
        500 => "CUDA_ERROR_NOT_FOUND",
        600 => "CUDA_ERROR_NOT_READY",
        700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
        701 => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        702 => "CUDA_ERROR_LAUNCH_TIMEOUT",
        709 => "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        710 => "CUDA_ERROR_ASSERT",
        715 => "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        716 => "CUDA_ERROR_MISALIGNED_ADDRESS",
        718 => "CUDA_ERROR_INVALID_PC",
        719 => "CUDA_ERROR_LAUNCH_FAILED",
        900 => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        912 => "CUDA_ERROR_INVALID_CLUSTER_SIZE",
        _ => "an error this crate has no name for",
    }
}

/// An error of `call`.
pub(crate) fn failed(call: &'static str, code: u32) -> DeviceError {
    DeviceError::Driver {
        call,
        code,
        name: name(code),
    }
}

fn check(call: &'static str, r: sys::CUresult) -> Result<(), DeviceError> {
    match r as u32 {
        0 => Ok(()),
        code => Err(failed(call, code)),
    }
}

/// Turns cudarc's error into ours.
pub(crate) fn cudarc_error(call: &'static str, e: &cudarc::driver::DriverError) -> DeviceError {
    failed(call, e.0 as u32)
}

/// Makes the context current on this thread.
pub(crate) fn bind(context: &CudaContext) -> Result<(), DeviceError> {
    context
        .bind_to_thread()
        .map_err(|e| cudarc_error("cuCtxSetCurrent", &e))
}

/// A device attribute.
pub(crate) fn attribute(context: &CudaContext, a: Attribute) -> Result<i32, DeviceError> {
    use sys::CUdevice_attribute_enum as A;
    let a = match a {
        Attribute::ComputeCapabilityMajor => A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        Attribute::ComputeCapabilityMinor => A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        Attribute::MultiprocessorCount => A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    };
    context
        .attribute(a)
        .map_err(|e| cudarc_error("cuDeviceGetAttribute", &e))
}

/// Handle of a loaded module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawModule(sys::CUmodule);

/// Handle of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawFunction(sys::CUfunction);

// SAFETY: handles are numbers to the driver, which may be called from any thread.
unsafe impl Send for RawModule {}
// SAFETY: as above.
unsafe impl Sync for RawModule {}
// SAFETY: as above.
unsafe impl Send for RawFunction {}
// SAFETY: as above.
unsafe impl Sync for RawFunction {}

/// Loads machine code, or PTX text with its NUL. On failure the code and what the driver's compiler said.
///
/// # Safety
/// `image` is a whole cubin, or text that ends with a NUL.
pub(crate) unsafe fn load(image: &[u8]) -> Result<RawModule, (u32, String)> {
    let mut log = [0u8; 4096];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module = std::ptr::null_mut();
    // SAFETY: the caller's duty for the image; two options with their values; the log outlives the call.
    let r = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    match r as u32 {
        0 => Ok(RawModule(module)),
        code => {
            let text = CStr::from_bytes_until_nul(&log)
                .map(|c| c.to_string_lossy().into_owned())
                .unwrap_or_default();
            Err((code, text))
        }
    }
}

/// Unloads a module.
///
/// # Safety
/// No kernel of it may be running or be launched later.
pub(crate) unsafe fn unload(m: RawModule) {
    // SAFETY: the caller's duty. A failure leaves the module to the driver.
    let _ = unsafe { sys::cuModuleUnload(m.0) };
}

/// A kernel of a module, ready for `dynamic_smem` bytes of dynamic shared memory.
pub(crate) fn function(
    m: RawModule,
    name: &CStr,
    dynamic_smem: u32,
) -> Result<RawFunction, DeviceError> {
    let mut f = std::ptr::null_mut();
    // SAFETY: a loaded module, a NUL-terminated name.
    check("cuModuleGetFunction", unsafe {
        sys::cuModuleGetFunction(&mut f, m.0, name.as_ptr().cast::<c_char>())
    })?;
    if dynamic_smem > 0 {
        let a = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a function of a loaded module.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(f, a, dynamic_smem as c_int)
        })?;
    }
    Ok(RawFunction(f))
}

/// Grid, block, dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: u32,
    pub(crate) block: u32,
    pub(crate) smem: u32,
}

/// What a launch may ask for beyond its sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extras {
    /// Blocks of a cluster, along x; 1 for none.
    pub(crate) cluster: u32,
    /// It may start before its predecessor in the stream has ended: the kernel waits itself (`griddepcontrol.wait`).
    pub(crate) dependent: bool,
}

/// Launches a kernel whose parameters are given by address, in order.
///
/// # Safety
/// The parameters are as many and as large as the kernel's; the memory they name is valid for what the kernel does with it
/// until it has run, in stream order.
pub(crate) unsafe fn launch(
    f: RawFunction,
    l: Launch,
    stream: &CudaStream,
    params: &mut [*mut c_void],
) -> Result<(), DeviceError> {
    let extras = Extras {
        cluster: 1,
        dependent: false,
    };
    // SAFETY: the caller's duty.
    unsafe { launch_with(f, l, extras, stream, params) }
}

/// As [`launch`], with more.
///
/// # Safety
/// As [`launch`]. With `dependent` the kernel touches nothing that its predecessor may write, and writes nothing, before it has
/// waited.
pub(crate) unsafe fn launch_with(
    f: RawFunction,
    l: Launch,
    extras: Extras,
    stream: &cudarc::driver::CudaStream,
    params: &mut [*mut c_void],
) -> Result<(), DeviceError> {
    use sys::CUlaunchAttributeID as Id;
    // SAFETY: plain numbers, for which zeros are values.
    let mut attrs: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    if extras.cluster > 1 {
        attrs[count].id = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attrs[count].value.clusterDim.x = extras.cluster;
        attrs[count].value.clusterDim.y = 1;
        attrs[count].value.clusterDim.z = 1;
        count += 1;
    }
    if extras.dependent {
        attrs[count].id = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attrs[count].value.programmaticStreamSerializationAllowed = 1;
        count += 1;
    }
    let config = sys::CUlaunchConfig {
        gridDimX: l.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: l.block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: l.smem,
        hStream: stream.cu_stream(),
        attrs: attrs.as_mut_ptr(),
        numAttrs: count as u32,
    };
    // SAFETY: the caller's duty; `count` attributes.
    check("cuLaunchKernelEx", unsafe {
        sys::cuLaunchKernelEx(&config, f.0, params.as_mut_ptr(), std::ptr::null_mut())
    })
}

/// Encodes a three-dimensional tensor map. Answers the driver's result.
pub(crate) fn encode(map: &mut [u64; 16], s: &super::tensor_map::Spec) -> u32 {
    use sys::{
        CUtensorMapDataType as T, CUtensorMapFloatOOBfill as F, CUtensorMapInterleave as I,
        CUtensorMapL2promotion as L, CUtensorMapSwizzle as S,
    };
    let ty = match s.element {
        super::tensor_map::Element::U8 => T::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        super::tensor_map::Element::F32 => T::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        super::tensor_map::Element::F16 => T::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        super::tensor_map::Element::Bf16 => T::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let swizzle = if s.swizzle {
        S::CU_TENSOR_MAP_SWIZZLE_128B
    } else {
        S::CU_TENSOR_MAP_SWIZZLE_NONE
    };
    let boxes = [s.box_dims[0], s.box_dims[1], 1];
    let steps = [1u32; 3];
    let mut out = std::mem::MaybeUninit::<sys::CUtensorMap>::zeroed();
    // SAFETY: three dimensions, two strides, a place for the map.
    let r = unsafe {
        sys::cuTensorMapEncodeTiled(
            out.as_mut_ptr(),
            ty,
            3,
            s.address as *mut c_void,
            s.dims.as_ptr(),
            s.strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            I::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            L::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            F::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    // SAFETY: all bytes were zeroed, and any bytes are a map.
    *map = unsafe { out.assume_init() }.opaque;
    r as u32
}

/// Device memory outside cudarc's pools: peers reach it once they have enabled access.
///
/// # Errors
/// The driver's.
pub(crate) fn allocate(context: &CudaContext, bytes: u64) -> Result<u64, DeviceError> {
    bind(context)?;
    let mut at = 0;
    // SAFETY: a place for the address.
    check("cuMemAlloc", unsafe {
        sys::cuMemAlloc_v2(&mut at, bytes as usize)
    })?;
    Ok(at)
}

/// Frees it. A failure leaves it to the context.
///
/// # Safety
/// It came from [`allocate`], and no kernel uses it any more.
pub(crate) unsafe fn free(context: &CudaContext, at: u64) {
    if bind(context).is_ok() {
        // SAFETY: the caller's duty.
        let _ = unsafe { sys::cuMemFree_v2(at) };
    }
}

/// Copies to the device and waits.
///
/// # Safety
/// `at` and the bytes behind it are device memory that nobody else uses.
pub(crate) unsafe fn write(
    context: &CudaContext,
    at: u64,
    bytes: &[u8],
) -> Result<(), DeviceError> {
    bind(context)?;
    // SAFETY: the caller's duty.
    check("cuMemcpyHtoD", unsafe {
        sys::cuMemcpyHtoD_v2(at, bytes.as_ptr().cast(), bytes.len())
    })
}

/// Sets bytes to zero and waits.
///
/// # Safety
/// As [`write`].
pub(crate) unsafe fn zero(context: &CudaContext, at: u64, bytes: u64) -> Result<(), DeviceError> {
    bind(context)?;
    // SAFETY: the caller's duty.
    check("cuMemsetD8", unsafe {
        sys::cuMemsetD8_v2(at, 0, bytes as usize)
    })?;
    // SAFETY: no arguments.
    check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
}

/// Reads bytes behind what `stream` does, and waits for it.
///
/// # Safety
/// `out.len()` bytes of device memory at `at`.
pub(crate) unsafe fn read(stream: &CudaStream, at: u64, out: &mut [u8]) -> Result<(), DeviceError> {
    bind(stream.context())?;
    // SAFETY: the caller's duty; `out` outlives the copy, which the synchronisation below ends.
    check("cuMemcpyDtoHAsync", unsafe {
        sys::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), at, out.len(), stream.cu_stream())
    })?;
    synchronize(stream)
}

/// Waits for a stream.
pub(crate) fn synchronize(stream: &CudaStream) -> Result<(), DeviceError> {
    stream
        .synchronize()
        .map_err(|e| cudarc_error("cuStreamSynchronize", &e))
}

/// Lets kernels of `context` reach the memory of `peer`. False: the hardware cannot.
pub(crate) fn enable_peer(context: &CudaContext, peer: &CudaContext) -> Result<bool, DeviceError> {
    bind(context)?;
    let mut can = 0;
    // SAFETY: a place for the answer; two devices.
    check("cuDeviceCanAccessPeer", unsafe {
        sys::cuDeviceCanAccessPeer(&mut can, context.cu_device(), peer.cu_device())
    })?;
    if can == 0 {
        return Ok(false);
    }
    // SAFETY: two live contexts.
    match unsafe { sys::cuCtxEnablePeerAccess(peer.cu_ctx(), 0) } as u32 {
        // 704: somebody has enabled it before.
        0 | 704 => Ok(true),
        code => Err(failed("cuCtxEnablePeerAccess", code)),
    }
}
