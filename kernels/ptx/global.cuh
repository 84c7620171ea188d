// Global memory across CTAs: fences, atomics, vector loads and stores.
#pragma once
#include "types.cuh"

namespace hadal {

struct alignas(16) U32x4 {
    u32 x, y, z, w;
};

// fence.acq_rel.gpu
// PTX 6.0, sm_70. What the thread wrote, or has observed, before it is visible on the device to whoever observes what the
// thread writes after it; and the same for reads the other way.
__device__ __forceinline__ void fence_acq_rel_gpu() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// atom.acq_rel.gpu.global.inc.u32 old, [p], last
// PTX 6.0 (".acq_rel"), sm_70. old = *p; *p = old >= last ? 0 : old + 1.
__device__ __forceinline__ u32 increment_wrap_gpu(u32* p, u32 last) {
    u32 old;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(last) : "memory");
    return old;
}

// ld.relaxed.gpu.global.f32 d, [p]
// PTX 6.0, sm_70. Never from a stale L1 line.
__device__ __forceinline__ float load_relaxed_gpu_f32(const float* p) {
    float v;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}

// ld.global.v4.f32 / st.global.v4.f32
// PTX 1.0, sm_10. `p` is 16-byte aligned.
__device__ __forceinline__ void load_global_v4(const float* p, float& x, float& y, float& z, float& w) {
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "l"(p) : "memory");
}
__device__ __forceinline__ void store_global_v4(float* p, float x, float y, float z, float w) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}
__device__ __forceinline__ void store_global_v4(void* p, u32 x, u32 y, u32 z, u32 w) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

// st.global.f32 [p], v
// PTX 1.0, sm_10.
__device__ __forceinline__ void store_global_f32(float* p, float v) {
    asm volatile("st.global.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
}

// ld.global.nc.u32 / .v4.u32
// PTX 3.1, sm_32. Read-only path: nothing in the grid may write these bytes. 16-byte aligned for v4.
__device__ __forceinline__ u32 load_global_nc_u32(const u32* p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ U32x4 load_global_nc_v4(const void* p) {
    U32x4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

}  // namespace hadal
