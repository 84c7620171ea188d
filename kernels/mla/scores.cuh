// The scores warpgroup: S = Q K^T of a block, the online softmax, P into shared memory.
//
// Sums are kept against a reference exponent m of the row that is not its maximum but at most 8 below it: as long as no score
// exceeds m by more than 8 (in powers of two), O need not be rescaled, which is nearly always. P is then at most 2^8.
#pragma once
#include "work.cuh"

namespace hadal {
namespace mla {

constexpr float SLACK = 8.0f;
constexpr u32 SCORES_BARRIER = 1;  // named barrier of the warpgroup
#define HADAL_INFINITY __int_as_float(0x7f800000)

template <class T>
__device__ __forceinline__ u32 pack(float low, float high);
template <>
__device__ __forceinline__ u32 pack<Bf16>(float low, float high) {
    return pack_bf16(low, high);
}
template <>
__device__ __forceinline__ u32 pack<F16>(float low, float high) {
    return pack_f16(low, high);
}

__device__ __forceinline__ u64 first_bits(i32 n) {
    return n <= 0 ? 0 : n >= 64 ? ~0ull : (1ull << n) - 1;
}

// One row of a thread's fragment.
struct Row {
    float m;      // reference exponent; -inf: nothing seen yet
    float sum;    // this thread's part of sum 2^(x - m)
};

// Largest score of the row in the warp's fragment; `PART` 0: row g, 2: row g + 8.
template <u32 PART>
__device__ __forceinline__ float row_max(const float (&s)[32]) {
    float x = fmaxf(s[PART], s[PART + 1]);
#pragma unroll
    for (u32 j = 1; j < 8; ++j) x = fmaxf(x, fmaxf(s[4 * j + PART], s[4 * j + PART + 1]));
    x = fmaxf(x, shuffle_xor<1>(x));
    return fmaxf(x, shuffle_xor<2>(x));
}

// Moves the reference where the scores have outgrown it. The factor for what was summed before.
__device__ __forceinline__ float advance(Row& r, float x) {
    if (r.m == -HADAL_INFINITY) {
        r.m = x;  // what was summed is 0
        return 1.0f;
    }
    if (!(x > r.m + SLACK)) return 1.0f;
    const float alpha = exp2_approx(r.m - x);
    r.m = x;
    r.sum *= alpha;
    return alpha;
}

template <u32 PART>
__device__ __forceinline__ void exponentiate(float (&s)[32], Row& r, float scale_log2) {
    const float m = r.m == -HADAL_INFINITY ? 0.0f : r.m;
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
#pragma unroll
        for (u32 e = 0; e < 2; ++e) {
            float& x = s[4 * j + PART + e];
            x = exp2_approx(__fmaf_rn(x, scale_log2, -m));
            r.sum += x;
        }
    }
}

// Tokens that do not exist may hold anything, NaN too, which 0 * NaN would carry into O: their values become zero.
__device__ __forceinline__ void clear_tokens(u32 stage, u64 exist, u32 warp, u32 lane) {
    u32 missing = ~static_cast<u32>(exist >> (16 * warp)) & 0xffff;
    const u32 to = stage + 16 * warp * 128 + lane / 8 * TILE_BYTES + lane % 8 * 16;
    while (missing != 0) {
        const u32 token = static_cast<u32>(__ffs(static_cast<int>(missing))) - 1;
        store_shared_v4(to + token * 128, 0, 0, 0, 0);
        store_shared_v4(to + token * 128 + 4 * TILE_BYTES, 0, 0, 0, 0);
        missing &= missing - 1;
    }
}

template <class T, Source SOURCE, u32 CL>
__device__ __forceinline__ void scores(const Params& p, u32 smem) {
    const u32 warp = shuffle_from(threadIdx.x / 32, 0) % 4;
    const u32 lane = threadIdx.x % 32;
    const u32 group = lane / 4, quad = lane % 4;
    const u32 row = 16 * warp + group;
    // stmatrix: lane -> row 16 w + lane % 16, columns 8 (lane / 16) of each 16.
    const u32 p_row = smem + P_AT + (16 * warp + lane % 16) * 128;
    const u32 p_half = lane / 16, p_swizzle = lane % 8;

    Schedule<CL> schedule(p, lane);
    u32 blocks = 0, messages = 0, queries = 0;  // how often stages, P and Q have been used
    Work w;
    for (u32 k = blockIdx.x / CL; schedule.template find<false>(p, k, lane, w); k += p.workers) {
        const bool active = 16 * warp < w.rows;
        // Tokens below this are seen by the row; `all` by every row of the tile.
        i32 limit_a = w.length, limit_b = w.length, all = w.length;
        if (p.causal && w.queries > 1) {
            const u32 at = w.tile * ROWS;
            const i32 last = static_cast<i32>(w.length) - static_cast<i32>(w.queries) + 1;
            limit_a = last + static_cast<i32>((at + row) / p.heads);
            limit_b = last + static_cast<i32>((at + row + 8) / p.heads);
            all = last + static_cast<i32>(at / p.heads);
        }
        Row a = {-HADAL_INFINITY, 0.0f}, b = a;
        if (w.block < w.end) wait(smem + Q_FULL_AT, queries++ & 1);

        for (u32 block = w.block; block < w.end; ++block, ++blocks) {
            const u32 in = blocks % STAGES, parity = blocks / STAGES & 1;
            const u32 stage = smem + STAGES_AT + in * STAGE_BYTES;
            float s[32];
#pragma unroll
            for (u32 g = 0; g < GROUPS; ++g) {
                if (SOURCE == Source::Pages || g == 0) {
                    wait(smem + FULL_AT + (in * GROUPS + g) * 8, parity);
                    wgmma_fence();  // after every wait: ptxas else puts one in itself (C7519)
                }
                const u64 q_desc = wgmma_desc(wgmma_desc_low(smem + Q_AT + g * 3 * TILE_BYTES));
                const u64 k_desc = wgmma_desc(wgmma_desc_low(stage + g * 3 * TILE_BYTES));
#pragma unroll
                for (u32 i = 0; i < 12; ++i) {
                    const u32 step = (i / 4 * TILE_BYTES + i % 4 * 32) >> 4;
                    wgmma_16bit_nt(T(), s, q_desc + step, k_desc + step, g != 0 || i != 0);
                }
            }
            wgmma_commit_group();
            u32 mask_low, mask_high;
            load_shared_v2(smem + MASK_AT + in * 8, mask_low, mask_high);
            const i32 from = static_cast<i32>(block * BLOCK);
            wgmma_wait_group<0>(s);
            if (block + 1 == w.end) warp_arrive(smem + Q_EMPTY_AT, lane);

            const u64 mask = static_cast<u64>(mask_high) << 32 | mask_low;
            const u64 exist = mask & first_bits(static_cast<i32>(w.length) - from);
            if (mask != ~0ull || from + static_cast<i32>(BLOCK) > all) {
                const u64 seen_a = (mask & first_bits(limit_a - from)) >> (2 * quad);
                const u64 seen_b = (mask & first_bits(limit_b - from)) >> (2 * quad);
#pragma unroll
                for (u32 j = 0; j < 8; ++j) {
#pragma unroll
                    for (u32 e = 0; e < 2; ++e) {
                        if (!(seen_a >> (8 * j + e) & 1)) s[4 * j + e] = -HADAL_INFINITY;
                        if (!(seen_b >> (8 * j + e) & 1)) s[4 * j + 2 + e] = -HADAL_INFINITY;
                    }
                }
            }

            float alpha_a = 1.0f, alpha_b = 1.0f;
            if (active) {
                alpha_a = advance(a, row_max<0>(s) * p.scale_log2);
                alpha_b = advance(b, row_max<2>(s) * p.scale_log2);
                exponentiate<0>(s, a, p.scale_log2);
                exponentiate<2>(s, b, p.scale_log2);
            }
            const bool rescale = ballot(alpha_a != 1.0f || alpha_b != 1.0f) != 0;

            wait(smem + P_EMPTY_AT, (messages++ & 1) ^ 1);
            if (SOURCE == Source::Pages && exist != ~0ull) {
                named_barrier_sync<WARPGROUP>(SCORES_BARRIER);  // the other warps' S has read the block, too
                clear_tokens(stage, exist, warp, lane);
            }
            if (rescale && quad == 0) {
                store_shared_f32(smem + ALPHA_AT + row * 4, alpha_a);
                store_shared_f32(smem + ALPHA_AT + row * 4 + 32, alpha_b);
            }
            if (lane == 0) store_shared_u32(smem + RESCALE_AT + warp * 4, rescale);
            if (active) {
#pragma unroll
                for (u32 j = 0; j < 8; j += 2) {
                    stmatrix_x4(p_row + ((j + p_half) ^ p_swizzle) * 16,
                                pack<T>(s[4 * j + 0], s[4 * j + 1]), pack<T>(s[4 * j + 2], s[4 * j + 3]),
                                pack<T>(s[4 * j + 4], s[4 * j + 5]), pack<T>(s[4 * j + 6], s[4 * j + 7]));
                }
            }
            fence_proxy_async_shared();
            warp_arrive(smem + P_FULL_AT, lane);
        }

        // The item's last message: 1 / sum and the log of the sum.
        wait(smem + P_EMPTY_AT, (messages++ & 1) ^ 1);
        if (active) {
            a.sum += shuffle_xor<1>(a.sum);
            a.sum += shuffle_xor<2>(a.sum);
            b.sum += shuffle_xor<1>(b.sum);
            b.sum += shuffle_xor<2>(b.sum);
            if (quad == 0) {
                const bool sink = p.sink != nullptr && w.splits == 1;
#pragma unroll
                for (u32 i = 0; i < 2; ++i) {
                    const Row& r = i == 0 ? a : b;
                    const float m = r.m == -HADAL_INFINITY ? 0.0f : r.m;
                    float below = r.sum;
                    if (sink) below += exp2_approx(__fmaf_rn(p.sink[(w.tile * ROWS + row + 8 * i) % p.heads], LOG2E, -m));
                    const float inverse = r.sum == 0.0f ? 0.0f : __frcp_rn(below);
                    const float lse = r.sum == 0.0f ? -HADAL_INFINITY : m + log2_approx(r.sum);
                    store_shared_f32(smem + ALPHA_AT + (row + 8 * i) * 4, inverse);
                    store_shared_f32(smem + LSE_AT + (row + 8 * i) * 4, lse);
                }
            }
        }
        warp_arrive(smem + P_FULL_AT, lane);
    }
}

}  // namespace mla
}  // namespace hadal
