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

}  // namespace hadal
