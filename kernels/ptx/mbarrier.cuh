// mbarrier: the 8-byte shared-memory barrier that counts arrivals and bytes.
//
// One wrapper per instruction. `bar` is a 32-bit shared address of an 8-byte aligned object.
// Phases are named by parity: a barrier starts in phase 0, and "wait for parity p" is true once the
// phase of parity p is the one just before the current phase. Hence waiting for parity 1 on a fresh
// barrier returns at once.
#pragma once
#include "types.cuh"

namespace hadal {

// mbarrier.init.shared::cta.b64 [bar], count
// PTX 7.0, sm_80. Sets phase 0, expected and pending arrivals `count`, byte count 0.
__device__ __forceinline__ void mbarrier_init(u32 bar, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

// fence.mbarrier_init.release.cluster
// PTX 8.0, sm_90. Orders this thread's mbarrier.init before what follows, for the threads of the
// cluster and for the copy engine; a CTA barrier must still carry the news to the other threads.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// mbarrier.arrive.shared::cta.b64 _, [bar]
// PTX 7.0 (".shared::cta" 7.8), sm_80. One arrival; release semantics at CTA scope.
__device__ __forceinline__ void mbarrier_arrive(u32 bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// mbarrier.arrive.release.cluster.shared::cluster.b64 _, [bar]
// PTX 8.0, sm_90. One arrival at a barrier of any CTA of the cluster (`bar` from mapa); release semantics at cluster scope.
__device__ __forceinline__ void mbarrier_arrive_cluster(u32 bar) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}

// mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], bytes
// PTX 8.0, sm_90. First adds `bytes` to what the current phase waits for, then arrives once.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

// mbarrier.try_wait.parity.shared::cta.b64 done, [bar], parity
// PTX 7.8, sm_90. Acquire semantics at CTA scope when true. May sleep for a time of the hardware's
// choosing, and may return false although nothing is wrong: callers loop.
__device__ __forceinline__ bool mbarrier_try_wait(u32 bar, u32 parity) {
    u32 done;
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
                 "selp.b32 %0, 1, 0, done;\n\t"
                 "}"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done != 0;
}

// mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [bar], parity
// PTX 8.0, sm_90. As above, with acquire semantics at cluster scope: for barriers that other CTAs arrive at.
__device__ __forceinline__ bool mbarrier_try_wait_cluster(u32 bar, u32 parity) {
    u32 done;
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n\t"
                 "selp.b32 %0, 1, 0, done;\n\t"
                 "}"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done != 0;
}

}  // namespace hadal
