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

// shfl.sync.up.b32 d, value, distance, 0, 0xffffffff
// PTX 6.0, sm_30. The value of the lane `distance` below; lanes that have none get their own.
__device__ __forceinline__ u32 shuffle_up(u32 value, u32 distance) {
    u32 d;
    asm volatile("shfl.sync.up.b32 %0, %1, %2, 0, 0xffffffff;" : "=r"(d) : "r"(value), "r"(distance));
    return d;
}

// shfl.sync.bfly.b32 d, value, mask, 0x1f, 0xffffffff
// PTX 6.0, sm_30. The value of the lane whose number differs in the bits of `mask`.
template <int MASK>
__device__ __forceinline__ float shuffle_xor(float value) {
    float d;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(d) : "f"(value), "n"(MASK));
    return d;
}
template <int MASK>
__device__ __forceinline__ u32 shuffle_xor(u32 value) {
    u32 d;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(d) : "r"(value), "n"(MASK));
    return d;
}

// redux.sync.or.b32 d, value, 0xffffffff
// PTX 7.0, sm_80. The bits that any lane has set: the same for all, and known to be so (it comes in a uniform register), so that
// the compiler keeps what follows from it uniform.
__device__ __forceinline__ u32 any_bits(u32 value) {
    u32 d;
    asm volatile("redux.sync.or.b32 %0, %1, 0xffffffff;" : "=r"(d) : "r"(value));
    return d;
}

// vote.sync.ballot.b32 d, p, 0xffffffff
// PTX 6.0, sm_30. Bit l is set where lane l's predicate is true.
__device__ __forceinline__ u32 ballot(bool predicate) {
    u32 d;
    asm volatile("{\n\t"
                 ".reg .pred p;\n\t"
                 "setp.ne.b32 p, %1, 0;\n\t"
                 "vote.sync.ballot.b32 %0, p, 0xffffffff;\n\t"
                 "}"
                 : "=r"(d)
                 : "r"(static_cast<u32>(predicate)));
    return d;
}

// The first lane whose predicate is true; at least one must be.
__device__ __forceinline__ u32 first_lane(bool predicate) {
    return static_cast<u32>(__ffs(static_cast<int>(ballot(predicate)))) - 1;
}

// barrier.cluster.arrive.release.aligned, barrier.cluster.wait.acquire.aligned
// PTX 7.8, sm_90. All threads of the cluster meet; what they wrote to each other's shared memory before is visible after.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// mov.u32 d, %cluster_ctarank
// PTX 7.8, sm_90.
__device__ __forceinline__ u32 cluster_rank() {
    u32 d;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(d));
    return d;
}

// mapa.shared::cluster.u32 d, addr, rank
// PTX 7.8, sm_90. The address, in the cluster's window, of CTA `rank`'s variable that this CTA has at `addr`.
__device__ __forceinline__ u32 map_to_rank(u32 addr, u32 rank) {
    u32 d;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(d) : "r"(addr), "r"(rank));
    return d;
}

// fence.proxy.async
// PTX 8.0, sm_90. As below for all of memory.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async;" ::: "memory");
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
