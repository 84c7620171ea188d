// Warpgroup matrix multiply (wgmma) on 16-bit operands in shared memory, f32 sums.
//
// Fragments are those of wgmma.cuh. Two forms of tiles, both in the 128-byte swizzle, both starting on a multiple of 1024
// bytes, rows of 128 bytes (64 elements), groups of 8 rows 1024 bytes apart:
//
//   K-major    a row is an index of M or N, its 64 elements run along K. A step of 16 in K adds 32 bytes.
//   MN-major   a row is an index of K, its 64 elements run along M or N; the next 64 of M or N lie `leading` bytes further.
//              A step of 16 in K adds 2048 bytes (two groups of 8 rows).
#pragma once
#include "wgmma.cuh"

namespace hadal {

// The 16-bit types. The tag picks the instruction.
struct Bf16 {};
struct F16 {};

// Descriptor of an MN-major tile whose columns of 64 elements lie `LEADING` bytes apart (see wgmma.cuh for the fields).
template <u32 LEADING>
__device__ __forceinline__ u32 wgmma_desc_low_mn(u32 addr) {
    return ((addr & 0x3ffffu) >> 4) | ((LEADING >> 4) << 16);
}

#define HADAL_ACC8(d, i)                                                                        \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])

// wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 d, a-desc, b-desc, scale-d, 1, 1, 0, 0
// PTX 8.0, sm_90a. A K-major, B K-major: d[64,64] (+)= a[64,16] b[64,16]^T; scale-d 0 drops the old d.
__device__ __forceinline__ void wgmma_16bit_nt(Bf16, float (&d)[32], u64 a, u64 b, u32 scale_d) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %34, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, keep, 1, 1, 0, 0;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24)
        : "l"(a), "l"(b), "r"(scale_d)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 d, a-desc, b-desc, scale-d, 1, 1, 0, 0
// PTX 8.0, sm_90a. A K-major, B K-major: d[64,64] (+)= a[64,16] b[64,16]^T; scale-d 0 drops the old d.
__device__ __forceinline__ void wgmma_16bit_nt(F16, float (&d)[32], u64 a, u64 b, u32 scale_d) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %34, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, keep, 1, 1, 0, 0;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24)
        : "l"(a), "l"(b), "r"(scale_d)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 d, a-desc, b-desc, scale-d, 1, 1, 0, 1
// PTX 8.0, sm_90a. A K-major, B MN-major: d[64,128] (+)= a[64,16] b[16,128]; scale-d 0 drops the old d.
__device__ __forceinline__ void wgmma_16bit_nn(Bf16, float (&d)[64], u64 a, u64 b, u32 scale_d) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %66, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, keep, 1, 1, 0, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48), HADAL_ACC8(d, 56)
        : "l"(a), "l"(b), "r"(scale_d)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 d, a-desc, b-desc, scale-d, 1, 1, 0, 1
// PTX 8.0, sm_90a. A K-major, B MN-major: d[64,128] (+)= a[64,16] b[16,128]; scale-d 0 drops the old d.
__device__ __forceinline__ void wgmma_16bit_nn(F16, float (&d)[64], u64 a, u64 b, u32 scale_d) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %66, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, keep, 1, 1, 0, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48), HADAL_ACC8(d, 56)
        : "l"(a), "l"(b), "r"(scale_d)
        : "memory");
}

#undef HADAL_ACC8

}  // namespace hadal
