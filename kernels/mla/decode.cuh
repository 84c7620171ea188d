// The kernel: barriers, roles. docs/mla.md holds the map, the table of barriers and the proofs.
#pragma once
#include "output.cuh"
#include "produce.cuh"

namespace hadal {
namespace mla {

template <class T, Source SOURCE, u32 CL>
__device__ __forceinline__ void decode(const Params& p) {
    extern __shared__ __align__(1024) u8 dynamic_smem[];
    const u32 smem = shared_address(dynamic_smem);
    const u32 role = threadIdx.x / WARPGROUP;

    if (threadIdx.x == 0) {
        tma_prefetch_map(p.q);
        if (SOURCE == Source::Pages) tma_prefetch_map(p.kv);
#pragma unroll
        for (u32 s = 0; s < STAGES; ++s) {
#pragma unroll
            for (u32 g = 0; g < GROUPS; ++g) {
                mbarrier_init(smem + FULL_AT + (s * GROUPS + g) * 8, SOURCE == Source::Pages ? 1 : 4);
            }
            mbarrier_init(smem + EMPTY_AT + s * 8, 8 * CL);  // output warps of the cluster
        }
        mbarrier_init(smem + Q_FULL_AT, 1);
        mbarrier_init(smem + Q_EMPTY_AT, 4);   // scores warps
        mbarrier_init(smem + P_FULL_AT, 4);
        mbarrier_init(smem + P_EMPTY_AT, 8);   // output warps
        mbarrier_init(smem + MEET_AT, 8);
        fence_mbarrier_init();
    }
    // Rows of Q that no copy fills, and P of warps without rows, are read by wgmma all the same: zeros.
    if (role == ROLE_SCORES) {
        const u32 t = threadIdx.x % WARPGROUP;
        for (u32 i = t; i < TILE_BYTES / 16; i += WARPGROUP) store_shared_v4(smem + P_AT + i * 16, 0, 0, 0, 0);
        const u32 from = p.q_box_rows * 8;  // chunks of 16 bytes
        for (u32 tile = 0; tile < TILES; ++tile) {
            for (u32 i = from + t; i < TILE_BYTES / 16; i += WARPGROUP) {
                store_shared_v4(smem + Q_AT + tile * TILE_BYTES + i * 16, 0, 0, 0, 0);
            }
        }
        fence_proxy_async_shared();
    }
    cta_sync();
    if (CL > 1) cluster_sync();  // nobody arrives at, or copies to, a CTA whose barriers are not there

    if (role == ROLE_PRODUCER) {
        setmaxnreg_dec<PRODUCER_REGS>();
        const u32 lane = threadIdx.x % 32;
        if (SOURCE != Source::Pages) {
            produce_rows<SOURCE>(p, smem, lane);
        } else if (threadIdx.x < ROLE_PRODUCER * WARPGROUP + 32) {
            produce_pages<CL>(p, smem, lane);
        }
    } else if (role == ROLE_SCORES) {
        setmaxnreg_dec<SCORES_REGS>();
        scores<T, SOURCE, CL>(p, smem);
    } else {
        setmaxnreg_inc<OUTPUT_REGS>();
        output<T, SOURCE, CL>(p, smem);
    }
    if (CL > 1) cluster_sync();  // nobody leaves while the other may still copy to it or arrive at its barriers
}

}  // namespace mla
}  // namespace hadal

#define HADAL_MLA_ENTRY(NAME, T, SOURCE)                                                     \
    extern "C" __global__ void __launch_bounds__(hadal::mla::THREADS, 1)                     \
        NAME(const __grid_constant__ hadal::mla::Params p) {                                 \
        hadal::mla::decode<hadal::T, hadal::mla::Source::SOURCE, 1>(p);                      \
    }

#define HADAL_MLA_ENTRY_PAIR(NAME, T, SOURCE)                                                \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(hadal::mla::THREADS, 1) \
        NAME(const __grid_constant__ hadal::mla::Params p) {                                 \
        hadal::mla::decode<hadal::T, hadal::mla::Source::SOURCE, 2>(p);                      \
    }
