// Words and rows in memory that several GPUs share: loads and stores at system scope, and vectors that pass by L1.
#pragma once
#include "types.cuh"

namespace hadal {

// st.release.sys.global.u64 [p], v
// PTX 6.0, sm_70. All that happens before it (this thread's accesses and, through a barrier, the CTA's) is visible to
// whoever acquires the word, on any device or the host. `.gpu` would not do: the reader is another GPU.
__device__ __forceinline__ void store_release_system_u64(u64* p, u64 v) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

// st.relaxed.sys.global.u64 [p], v
// PTX 6.0, sm_70. A word that is its own message: nothing else is published with it.
__device__ __forceinline__ void store_relaxed_system_u64(u64* p, u64 v) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

// ld.acquire.sys.global.u64 d, [p]
// PTX 6.0, sm_70. What was released with the word is visible to what follows.
__device__ __forceinline__ u64 load_acquire_system_u64(const u64* p) {
    u64 v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}

// ld.relaxed.sys.global.u64 d, [p]
// PTX 6.0, sm_70.
__device__ __forceinline__ u64 load_relaxed_system_u64(const u64* p) {
    u64 v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}

// atom.acq_rel.sys.global.cas.b64 old, [p], expected, desired
// PTX 6.0, sm_70. Also on a peer's memory.
__device__ __forceinline__ u64 compare_and_swap_system_u64(u64* p, u64 expected, u64 desired) {
    u64 old;
    asm volatile("atom.acq_rel.sys.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(old)
                 : "l"(p), "l"(expected), "l"(desired)
                 : "memory");
    return old;
}

// nanosleep.u32 ns
// PTX 6.3, sm_70. Between polls, so that they do not take issue slots and L2 bandwidth from the copies.
__device__ __forceinline__ void nanosleep(u32 ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns) : "memory"); }

// Sixteen bytes.
struct alignas(16) Vec {
    u32 x, y, z, w;
};

// ld.global.L1::no_allocate.v4.u32 d, [p]
// PTX 7.4, sm_70. Read once: leave L1 to others. Not `.nc`: peers have written these bytes while kernels of this GPU ran.
__device__ __forceinline__ Vec load_streaming(const void* p) {
    Vec v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

// st.global.L1::no_allocate.v4.u32 [p], v
// PTX 7.4, sm_70.
__device__ __forceinline__ void store_streaming(void* p, Vec v) {
    asm volatile("st.global.L1::no_allocate.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

// st.global.L1::no_allocate.v2.u32 [p], {x, y}
// PTX 7.4, sm_70.
__device__ __forceinline__ void store_streaming_v2(void* p, u32 x, u32 y) {
    asm volatile("st.global.L1::no_allocate.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(x), "r"(y) : "memory");
}

}  // namespace hadal
