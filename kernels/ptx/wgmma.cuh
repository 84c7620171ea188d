// Warpgroup matrix multiply (wgmma) on FP8 operands in shared memory.
//
// A warpgroup is four consecutive warps starting at a multiple of four. The accumulator fragment of
// m64nN: thread (warp w, lane 4g+t) holds d[i], i in 0..N/2-1, at
//     row 16w + g + 8*((i>>1)&1),  column 8*(i>>2) + 2t + (i&1).
// The instructions run asynchronously: from issue until wgmma_wait_group the accumulators must not be
// touched. wgmma reads shared memory in the async proxy; tiles that came by TMA and were observed
// through their mbarrier need no proxy fence.
#pragma once
#include "types.cuh"

namespace hadal {

// Shared-memory descriptor of a K-major tile with rows of 128 bytes in the 128-byte swizzle.
//   bits 0-13 start address >> 4 | 16-29 leading offset >> 4 (unused in this mode, 1)
//   bits 32-45 stride between groups of 8 rows >> 4 = 1024 >> 4 | 49-51 base offset 0 | 62-63 mode 1
// The tile starts on a multiple of 1024 bytes. Stepping K by 32 bytes adds 32 >> 4 to the low word.
constexpr u32 WGMMA_DESC_HIGH = (1024u >> 4) | (1u << 30);

__device__ __forceinline__ u32 wgmma_desc_low(u32 addr) {
    return ((addr & 0x3ffffu) >> 4) | (1u << 16);
}

// mov.b64 d, {low, high}
// PTX 1.0, sm_10.
__device__ __forceinline__ u64 wgmma_desc(u32 low) {
    u64 d;
    asm("mov.b64 %0, {%1, %2};" : "=l"(d) : "r"(low), "n"(WGMMA_DESC_HIGH));
    return d;
}

// add.u32 on the low word
// Moves a descriptor by STEP units of 16 bytes; the address field must not overflow. Opaque to the compiler, which else
// keeps the four descriptors of a K-block in registers of their own and copies each one's high word.
template <u32 STEP>
__device__ __forceinline__ void wgmma_desc_step(u64& d) {
    asm volatile("{\n\t"
                 ".reg .b32 low, high;\n\t"
                 "mov.b64 {low, high}, %0;\n\t"
                 "add.u32 low, low, %1;\n\t"
                 "mov.b64 %0, {low, high};\n\t"
                 "}"
                 : "+l"(d)
                 : "n"(STEP));
}

// As above by a number of units known at run time.
__device__ __forceinline__ void wgmma_desc_step(u64& d, u32 step) {
    asm volatile("{\n\t"
                 ".reg .b32 low, high;\n\t"
                 "mov.b64 {low, high}, %0;\n\t"
                 "add.u32 low, low, %1;\n\t"
                 "mov.b64 %0, {low, high};\n\t"
                 "}"
                 : "+l"(d)
                 : "r"(step));
}

// wgmma.fence.sync.aligned
// PTX 8.0, sm_90a. Orders earlier register accesses before the next wgmma's use of the accumulators.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// wgmma.commit_group.sync.aligned
// PTX 8.0, sm_90a. Closes the group of the wgmmas issued so far.
__device__ __forceinline__ void wgmma_commit_group() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// wgmma.wait_group.sync.aligned N
// PTX 8.0, sm_90a. Until at most N groups are pending. `d` is tied to it, so that the compiler reads
// no accumulator earlier.
template <int N, int REGS>
__device__ __forceinline__ void wgmma_wait_group(float (&d)[REGS]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#pragma unroll
    for (int i = 0; i < REGS; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define HADAL_ACC8(d, i)                                                                        \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])

// wgmma.mma_async.sync.aligned.m64n112k32.f32.e4m3.e4m3 d, a-desc, b-desc, scale-d, 1, 1
// PTX 8.0, sm_90a. d[64,112] (+)= a[64,32] b[112,32]^T; scale-d 0 drops the old d.
template <int SCALE_D>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[56], u64 a, u64 b) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %58, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n112k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55}, "
        "%56, %57, keep, 1, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48)
        : "l"(a), "l"(b), "n"(SCALE_D)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 d, a-desc, b-desc, scale-d, 1, 1
// PTX 8.0, sm_90a. d[64,128] (+)= a[64,32] b[128,32]^T; scale-d 0 drops the old d.
template <int SCALE_D>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[64], u64 a, u64 b) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %66, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, keep, 1, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48), HADAL_ACC8(d, 56)
        : "l"(a), "l"(b), "n"(SCALE_D)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n160k32.f32.e4m3.e4m3 d, a-desc, b-desc, scale-d, 1, 1
// PTX 8.0, sm_90a. d[64,160] (+)= a[64,32] b[160,32]^T; scale-d 0 drops the old d.
template <int SCALE_D>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[80], u64 a, u64 b) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %82, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n160k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, "
        "%72, %73, %74, %75, %76, %77, %78, %79}, "
        "%80, %81, keep, 1, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48), HADAL_ACC8(d, 56),
          HADAL_ACC8(d, 64), HADAL_ACC8(d, 72)
        : "l"(a), "l"(b), "n"(SCALE_D)
        : "memory");
}

// wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 d, a-desc, b-desc, scale-d, 1, 1
// PTX 8.0, sm_90a. d[64,192] (+)= a[64,32] b[192,32]^T; scale-d 0 drops the old d.
template <int SCALE_D>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[96], u64 a, u64 b) {
    asm volatile(
        "{\n\t"
        ".reg .pred keep;\n\t"
        "setp.ne.b32 keep, %98, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, "
        "%72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, "
        "%88, %89, %90, %91, %92, %93, %94, %95}, "
        "%96, %97, keep, 1, 1;\n\t"
        "}"
        : HADAL_ACC8(d, 0), HADAL_ACC8(d, 8), HADAL_ACC8(d, 16), HADAL_ACC8(d, 24),
          HADAL_ACC8(d, 32), HADAL_ACC8(d, 40), HADAL_ACC8(d, 48), HADAL_ACC8(d, 56),
          HADAL_ACC8(d, 64), HADAL_ACC8(d, 72), HADAL_ACC8(d, 80), HADAL_ACC8(d, 88)
        : "l"(a), "l"(b), "n"(SCALE_D)
        : "memory");
}

#undef HADAL_ACC8

}  // namespace hadal
