// Loads, stores and atomics with an explicit state space, and the conversion that goes with them.
#pragma once
#include "types.cuh"

namespace hadal {

// The 32-bit shared-window address of a shared variable (cvta.to.shared.u64, then the low word).
__device__ __forceinline__ u32 shared_address(const void* p) {
    return static_cast<u32>(__cvta_generic_to_shared(p));
}

// ld.shared.f32 d, [addr]
// PTX 1.0, sm_10.
__device__ __forceinline__ float load_shared_f32(u32 addr) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(addr) : "memory");
    return v;
}

// ld.shared.v2.f32 {x, y}, [addr]
// PTX 1.0, sm_10. `addr` is 8-byte aligned.
__device__ __forceinline__ void load_shared_v2(u32 addr, float& x, float& y) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(addr) : "memory");
}

// ld.shared.v4.u32 {x, y, z, w}, [addr]
// PTX 1.0, sm_10. `addr` is 16-byte aligned.
__device__ __forceinline__ void load_shared_v4(u32 addr, u32& x, u32& y, u32& z, u32& w) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
                 : "r"(addr)
                 : "memory");
}

// red.shared.{add,min,max}.u32 [addr], v
// PTX 1.2, sm_12.
__device__ __forceinline__ void add_shared_u32(u32 addr, u32 v) {
    asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory");
}
__device__ __forceinline__ void min_shared_u32(u32 addr, u32 v) {
    asm volatile("red.shared.min.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory");
}
__device__ __forceinline__ void max_shared_u32(u32 addr, u32 v) {
    asm volatile("red.shared.max.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory");
}

// st.shared.v2.f32 [addr], {x, y}
// PTX 1.0, sm_10. `addr` is 8-byte aligned.
__device__ __forceinline__ void store_shared_v2(u32 addr, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(addr), "f"(x), "f"(y) : "memory");
}

// ld.shared.u32 / .v2.u32, st.shared.u32 / .v2.u32 / .f32 / .v4.u32
// PTX 1.0, sm_10. Aligned to the vector's size.
__device__ __forceinline__ u32 load_shared_u32(u32 addr) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(addr) : "memory");
    return v;
}
__device__ __forceinline__ void load_shared_v2(u32 addr, u32& x, u32& y) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x), "=r"(y) : "r"(addr) : "memory");
}
__device__ __forceinline__ void store_shared_u32(u32 addr, u32 v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory");
}
__device__ __forceinline__ void store_shared_u16(u32 addr, u32 v) {
    asm volatile("{\n\t.reg .b16 h;\n\tcvt.u16.u32 h, %1;\n\tst.shared.u16 [%0], h;\n\t}" ::"r"(addr), "r"(v) : "memory");
}
__device__ __forceinline__ void store_shared_v2(u32 addr, u32 x, u32 y) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(addr), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void store_shared_f32(u32 addr, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(addr), "f"(v) : "memory");
}
__device__ __forceinline__ void store_shared_v4(u32 addr, u32 x, u32 y, u32 z, u32 w) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(addr), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

// st.relaxed.cta.shared.u32 [addr], v
// PTX 6.0, sm_70. Strong: other threads may read the word at the same time.
__device__ __forceinline__ void store_relaxed_shared_u32(u32 addr, u32 v) {
    asm volatile("st.relaxed.cta.shared.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory");
}

// ld.relaxed.cta.shared.u32 d, [addr]
// PTX 6.0, sm_70. Strong: other threads may write the word at the same time.
__device__ __forceinline__ u32 load_relaxed_shared_u32(u32 addr) {
    u32 v;
    asm volatile("ld.relaxed.cta.shared.u32 %0, [%1];" : "=r"(v) : "r"(addr) : "memory");
    return v;
}

// stmatrix.sync.aligned.m8n8.x4.shared.b16 [addr], {a, b, c, d}
// PTX 7.8, sm_90. Stores four 8x8 matrices of 16-bit elements: lane 8j+r gives the 16-byte aligned
// address of row r of matrix j; lane l holds elements (l/4, 2(l%4)) and (l/4, 2(l%4)+1), low half first.
__device__ __forceinline__ void stmatrix_x4(u32 addr, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(addr),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

// ld.global.nc.f32 d, [p]
// PTX 3.1, sm_32. Read-only path: nothing in the grid may write these bytes.
__device__ __forceinline__ float load_global_nc_f32(const float* p) {
    float v;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(p));
    return v;
}

// ld.global.nc.v2.f32 {x, y}, [p]
// PTX 3.1, sm_32. As above; `p` is 8-byte aligned.
__device__ __forceinline__ void load_global_nc_v2(const float* p, float& x, float& y) {
    asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "l"(p));
}

// ld.global.u32 d, [p]
// PTX 1.0, sm_10.
__device__ __forceinline__ u32 load_global_u32(const void* p) {
    u32 v;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// ld.global.v2.f32 {x, y}, [p]
// PTX 1.0, sm_10. `p` is 8-byte aligned.
__device__ __forceinline__ void load_global_v2(const void* p, float& x, float& y) {
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "l"(p) : "memory");
}

// st.global.v2.f32 [p], {x, y}
// PTX 1.0, sm_10. `p` is 8-byte aligned.
__device__ __forceinline__ void store_global_v2(void* p, float x, float y) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(x), "f"(y) : "memory");
}

// st.global.u32 [p], v
// PTX 1.0, sm_10.
__device__ __forceinline__ void store_global_u32(u32* p, u32 v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// atom.relaxed.gpu.global.cas.b32 old, [p], expected, desired
// PTX 1.1 (".relaxed" 6.0), sm_11 (".relaxed" sm_70).
__device__ __forceinline__ u32 compare_and_swap_global_u32(u32* p, u32 expected, u32 desired) {
    u32 old;
    asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(old)
                 : "l"(p), "r"(expected), "r"(desired)
                 : "memory");
    return old;
}

// cvt.rn.bf16x2.f32 d, high, low
// PTX 7.0, sm_80. Two f32 to bf16, round to nearest even; `low` is the lower address.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

}  // namespace hadal
