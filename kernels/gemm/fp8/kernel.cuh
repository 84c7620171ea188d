// D[M,N] = (A * sfa) (B * sfb)^T on Hopper: FP8 operands with fine-grained f32 scales, one group or many.
//
//   A    [M,K]  E4M3, K contiguous          sfa  f32, one per row and 128 of K
//   B    [N,K]  E4M3, K contiguous          sfb  f32, one per 128 x 128 block, stored K contiguous
//   D    [M,N]  bf16, f16 or f32, N contiguous
//
// A persistent grid of one CTA per SM walks tiles of BM x BN (tile.cuh). A producer warpgroup feeds one or two math warpgroups
// through a ring of shared-memory stages (load.cuh); it also says which tile a stage belongs to (schedule.cuh). Every 128 of K,
// four m64nNk32 wgmma build a partial sum from zero, which is then promoted (multiply.cuh):
//     final = fma(rn(sfa * sfb), partial, final)      f32, K-blocks ascending, from final = +0.
// An epilogue turns the sums into D (store.cuh) or into codes and scales (swiglu.cuh).
//
// docs/gemm.md holds the shared-memory map, the barrier table, who waits for whom and the proofs.
#pragma once
#include "load.cuh"
#include "multiply.cuh"

namespace hadal {
namespace gemm {

template <class T, class Epilogue>
__device__ __forceinline__ void run(const Params& p) {
    extern __shared__ __align__(1024) u8 dynamic_smem[];
    const u32 smem = shared_address(dynamic_smem);
    const u32 k_blocks = (p.k + BK - 1) / BK;
    const bool paired = p.flags & (SHARE_A | SHARE_B);
    const u32 table = smem + p.extra + T::TABLE_AT;

    if (threadIdx.x == 0) {
        tma_prefetch_map(p.a);
        tma_prefetch_map(p.b);
        tma_prefetch_map(p.sfa);
        tma_prefetch_map(p.d);
        for (u32 s = 0; s < p.stages; ++s) {
            const u32 slot = smem + p.ring + s * p.stage;
            // The thread that asks for the loads, and with the gather a lane of each warp that copies.
            mbarrier_init(slot + T::FULL_AT, p.flags & GATHER ? 1 + GATHER_WARPS : 1);
            // A lane of each math warp, of both CTAs of a pair.
            mbarrier_init(slot + T::EMPTY_AT, T::MATH_THREADS / 32 * (paired ? 2 : 1));
        }
#pragma unroll
        for (u32 w = 0; w < 4; ++w) store_relaxed_shared_u32(smem + p.extra + w * 4, 0);
        fence_mbarrier_init();
    }
    // A predecessor may still write what is read here, and read what is written.
    if (p.flags & PREDECESSOR) grid_wait_for_predecessors();
    if (p.rows != ROWS_ONE_GROUP) {
        if (p.rows == ROWS_EXPERTS) {
            for (u32 g = threadIdx.x; g < p.groups; g += T::THREADS) {
                const u32 at = table + g * GROUP_BYTES;
                store_shared_u32(at + GROUP_TILES, 0);
                store_shared_u32(at + GROUP_START, ~0u);
                store_shared_u32(at + GROUP_ROWS, 0);
            }
            cta_sync();
            find_runs(p, table);
            cta_sync();
        }
        if (threadIdx.x >= T::MATH_THREADS && threadIdx.x < T::MATH_THREADS + 32)
            fill_table<T>(p, table, threadIdx.x % 32);
    }
    if (paired) cluster_sync();
    else cta_sync();

    if (threadIdx.x >= T::MATH_THREADS) {
        setmaxnreg_dec<PRODUCER_REGS>();
        const u32 warp = shuffle_from((threadIdx.x - T::MATH_THREADS) / 32, 0), lane = threadIdx.x % 32;
        if (p.flags & GATHER) {
            if constexpr (T::BM <= 128) produce_gathered<T>(p, smem, k_blocks, warp, lane);
        } else if (warp == 0) {
            produce<T>(p, smem, k_blocks, lane);
        }
    } else {
        setmaxnreg_inc<T::MATH_REGS>();
        multiply<T, Epilogue>(p, smem, k_blocks);
    }
    // A CTA stays while its peer may write to its shared memory or arrive on its barriers.
    if (paired) {
        warp_sync();
        cluster_sync();
    }
}

}  // namespace gemm
}  // namespace hadal

#define HADAL_GEMM_ENTRY(NAME, TILE, EPILOGUE)                                                        \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 1)                                    \
        NAME(const __grid_constant__ hadal::gemm::Params p) {                                         \
        hadal::gemm::run<TILE, EPILOGUE>(p);                                                          \
    }
