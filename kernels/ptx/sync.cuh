// Warp and CTA synchronisation, the proxy fence, register hand-over, time.
#pragma once
#include "types.cuh"

namespace hadal {

// elect.sync _|leader, 0xffffffff
// PTX 8.0, sm_90. True in exactly one lane of a full, converged warp; always the same one.
__device__ __forceinline__ bool elect_one() {
    u32 leader;
    asm volatile("{\n\t"
                 ".reg .pred leader;\n\t"
                 "elect.sync _|leader, 0xffffffff;\n\t"
                 "selp.b32 %0, 1, 0, leader;\n\t"
                 "}"
                 : "=r"(leader)::"memory");
    return leader != 0;
}

// bar.warp.sync 0xffffffff
// PTX 6.0, sm_30. All lanes of the warp meet; their memory accesses before it are ordered before
// those after it.
__device__ __forceinline__ void warp_sync() {
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
}

// bar.sync 0
// PTX 1.0, sm_10. All threads of the CTA meet.
__device__ __forceinline__ void cta_sync() {
    asm volatile("bar.sync 0;" ::: "memory");
}

// bar.sync id, threads
// PTX 2.0, sm_20. `threads` threads (a multiple of 32) meet at named barrier `id` (0..15).
template <int THREADS>
__device__ __forceinline__ void named_barrier_sync(u32 id) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}

// shfl.sync.idx.b32 d, value, lane, 0x1f, 0xffffffff
// PTX 6.0, sm_30. Every lane gets `value` of lane `lane` (0..31).
__device__ __forceinline__ float shuffle_from(float value, u32 lane) {
    float d;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=f"(d)
                 : "f"(value), "r"(lane));
    return d;
}

// As above for an integer.
__device__ __forceinline__ u32 shuffle_from(u32 value, u32 lane) {
    u32 d;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=r"(d)
                 : "r"(value), "r"(lane));
    return d;
}

// fence.proxy.async.shared::cta
// PTX 8.0, sm_90. Orders the thread's ordinary accesses to shared memory against accesses of the
// async proxy (copy engine, wgmma), both ways.
__device__ __forceinline__ void fence_proxy_async_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// setmaxnreg.dec.sync.aligned.u32 n
// PTX 8.0, sm_90a. The warpgroup keeps n registers a thread (24..256, step 8), the rest goes back to
// the CTA's pool.
template <int N>
__device__ __forceinline__ void setmaxnreg_dec() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "register count");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// setmaxnreg.inc.sync.aligned.u32 n
// PTX 8.0, sm_90a. The warpgroup waits until the CTA's pool can raise it to n registers a thread.
template <int N>
__device__ __forceinline__ void setmaxnreg_inc() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "register count");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// mov.u64 d, %globaltimer
// PTX 3.1, sm_30. Nanoseconds; its step is coarse (up to about a microsecond).
__device__ __forceinline__ u64 global_timer_ns() {
    u64 ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
    return ns;
}

}  // namespace hadal
