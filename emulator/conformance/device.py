"""Arrays and launches through cuda-python's driver bindings, and what the emulator adds to the driver."""

import ctypes
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from cuda.bindings import driver as cu

NAMES = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64",
    "float8_e4m3fn": "fp8e4nv", "float8_e5m2": "fp8e5",
}
BF16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E5M2 = np.dtype(ml_dtypes.float8_e5m2)


@dataclass
class Array:
    """A device array. `data` is copied there before the launch; without it nobody has written the array."""
    shape: tuple
    dtype: np.dtype
    data: np.ndarray | None = None

    @property
    def bytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass
class Descriptor:
    """A tensor map over an array, with the box that a block takes."""
    array: Array
    block: list


@dataclass
class Raw:
    """A kernel argument that is a structure: its bytes, with device addresses of arrays put in at offsets."""
    bytes: bytes
    arrays: dict | None = None


def given(data):
    """An input, or an output with a first value."""
    return Array(data.shape, data.dtype, np.ascontiguousarray(data))


def output(shape, dtype):
    """An output that nobody has written."""
    return Array(tuple(shape) if isinstance(shape, (tuple, list)) else (shape,), np.dtype(dtype))


def scalar_name(value):
    """The compiler's name of a scalar's type: Python's int is i32, its float fp32."""
    if isinstance(value, np.generic):
        return NAMES[value.dtype.name]
    return "fp32" if isinstance(value, float) else "i32"


def scalar(value):
    """(value, ctypes type) of a scalar argument."""
    if isinstance(value, np.generic):
        return value.item(), np.ctypeslib.as_ctypes_type(value.dtype)
    return (value, ctypes.c_float) if isinstance(value, float) else (value, ctypes.c_int32)


def check(result):
    """The values of a driver call; its error otherwise."""
    code, *values = result
    if code != cu.CUresult.CUDA_SUCCESS:
        raise RuntimeError(code.name)
    return values[0] if len(values) == 1 else values


def driver():
    """The file that is mapped as the driver, and the library."""
    with open("/proc/self/maps") as maps:
        files = {line.split()[-1] for line in maps if "libcuda.so" in line or "libhadal_emulator" in line}
    if len(files) != 1:
        raise RuntimeError(f"one driver should be mapped, found {sorted(files)}")
    return files.pop(), ctypes.CDLL("libcuda.so.1")


def _text(call, *arguments):
    text, need = ctypes.create_string_buffer(1 << 20), ctypes.c_size_t()
    call(*arguments, text, ctypes.c_size_t(len(text)), ctypes.byref(need))
    return text.value.decode()


def notes():
    """What the emulator says about a refused call."""
    return _text(driver()[1].hadalEmuNotes)


def reports():
    """The emulator's findings, as JSON."""
    return _text(driver()[1].hadalEmuReports, 0)


def encode_tiled(kind, address, dims, strides, box, swizzle, fill=0):
    """A tensor map in host memory, by the driver's own numbers. Goes past the bindings, whose objects are aligned to 16 bytes
    where cuda.h asks for 64."""
    n = len(dims)
    room = ctypes.create_string_buffer(128 + 64)
    at = -(-ctypes.addressof(room) // 64) * 64
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    code = driver()[1].cuTensorMapEncodeTiled(
        ctypes.c_void_p(at), u32(kind), u32(n), u64(address), (u64 * n)(*dims), (u64 * max(n - 1, 1))(*strides),
        (u32 * n)(*box), (u32 * n)(*[1] * n), u32(0), u32(swizzle), u32(2), u32(fill))
    if code != 0:
        raise RuntimeError(cu.CUresult(code).name)
    return at, room


class Device:
    """Device 0 with its primary context."""

    def __init__(self):
        check(cu.cuInit(0))
        self.device = check(cu.cuDeviceGet(0))
        self.context = check(cu.cuDevicePrimaryCtxRetain(self.device))
        check(cu.cuCtxSetCurrent(self.context))

    def upload(self, array):
        at = check(cu.cuMemAlloc(max(array.bytes, 1)))
        if array.data is not None and array.bytes:
            check(cu.cuMemcpyHtoD(at, array.data.ctypes.data, array.bytes))
        return int(at)

    def download(self, at, array):
        out = np.empty(array.shape, array.dtype)
        if array.bytes:
            check(cu.cuMemcpyDtoH(out.ctypes.data, at, array.bytes))
        return out

    def scratch(self, size):
        return int(check(cu.cuMemAlloc(size))) if size else 0

    def load(self, ptx):
        code, module = cu.cuModuleLoadData(ptx.encode() + b"\0")
        if code != cu.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{code.name}: {notes()}")
        return module

    def tensor_map(self, at, descriptor, meta):
        """As Triton asks for it: element type in the device's numbering, swizzle, box."""
        # The device's numbers of element types (tensormap.replace) differ from the host's.
        kind = {8: 10, 9: 8, 10: 9}.get(meta["elem_type"], meta["elem_type"])
        shape, size = descriptor.array.shape, meta["elem_size"]
        strides, s = [], size
        for n in reversed(shape[1:]):
            s *= n
            strides.append(s)
        return encode_tiled(kind, at, list(reversed(shape)), strides, list(reversed(meta["block_size"])), meta["swizzle"])

    def arguments(self, given, at, meta):
        """(value, ctypes type) of each kernel parameter; `at` has the addresses of the arrays by identity."""
        values, maps = [], iter(meta.get("tensors", []))
        for a in given:
            if isinstance(a, Array):
                values.append((at[id(a)], ctypes.c_void_p))
            elif isinstance(a, Raw):
                raw = bytearray(a.bytes)
                for offset, array in (a.arrays or {}).items():
                    raw[offset:offset + 8] = at[id(array)].to_bytes(8, "little")
                values.append((bytes(raw), bytes))
            elif isinstance(a, Descriptor):
                shape = a.array.shape
                values.append((self.tensor_map(at[id(a.array)], a, next(maps)), None))
                if meta.get("descriptors_expand"):
                    # Triton passes shape and strides after the map.
                    values += [(n, ctypes.c_int32) for n in shape]
                    values += [(int(np.prod(shape[i + 1:])), ctypes.c_int64) for i in range(len(shape))]
            else:
                values.append(scalar(a))
        return values

    def launch(self, module, meta, grid, arguments):
        """Launches and waits. `arguments`: (value, ctypes type) pairs; a tensor map has the type None."""
        function = check(cu.cuModuleGetFunction(module, meta["entry"].encode()))
        if meta["shared"] > 48 << 10:
            check(cu.cuFuncSetAttribute(
                function, cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, meta["shared"]))
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid[0] * meta.get("grid_scale", 1), grid[1], grid[2]
        config.blockDimX, config.blockDimY, config.blockDimZ = meta["block"]
        config.sharedMemBytes = meta["shared"]
        config.hStream = cu.CUstream(0)
        attributes, cluster = [], meta.get("cluster", [1, 1, 1])
        if max(cluster) > 1:
            a = cu.CUlaunchAttribute()
            a.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            a.value.clusterDim.x, a.value.clusterDim.y, a.value.clusterDim.z = cluster
            attributes.append(a)
        if meta.get("cooperative"):
            a = cu.CUlaunchAttribute()
            a.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            a.value.cooperative = 1
            attributes.append(a)
        config.attrs, config.numAttrs = attributes, len(attributes)
        # cuLaunchKernelEx takes an array of pointers to the values; the buffers live until it returns.
        buffers = []
        for value, kind in arguments:
            if kind is None:
                buffers.append(value)
                continue
            b = (ctypes.c_char * max(len(value), 1)).from_buffer_copy(value) if kind is bytes else kind(value)
            buffers.append(b)
        pointers = (ctypes.c_void_p * max(len(buffers), 1))(*[
            b[0] if kind is None else ctypes.addressof(b) for b, (_, kind) in zip(buffers, arguments)])
        check(cu.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0))
        check(cu.cuCtxSynchronize())
