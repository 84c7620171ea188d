// Clusters: CTAs that run at the same time and see each other's shared memory. A launch without a cluster is one of size 1.
#pragma once
#include "sync.cuh"

namespace hadal {

// mapa.shared::cluster.u32 remote, bar, rank
// mbarrier.arrive.shared::cluster.b64 _, [remote]
// PTX 8.0, sm_90. One arrival on the barrier that lies at `bar` in CTA `rank`. It says that reads of shared memory are over, which
// they are once their values have been used (wgmma: waited for). Not `.release.cluster`: that orders writes too, by a MEMBAR that
// waits for every store of the thread.
__device__ __forceinline__ void mbarrier_arrive_at(u32 bar, u32 rank) {
    asm volatile(
        "{\n\t"
        ".reg .b32 remote;\n\t"
        "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n\t"
        "}" ::"r"(bar),
        "r"(rank)
        : "memory");
}

// mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [bar], parity
// PTX 8.0, sm_90. As mbarrier_try_wait, for arrivals that may come from another CTA.
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
