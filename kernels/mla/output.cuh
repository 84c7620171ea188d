// The output warpgroups: O = P V for 256 of the 512 columns each, the results, and the merge of splits.
#pragma once
#include "scores.cuh"

namespace hadal {
namespace mla {

constexpr u32 ACC = 128;  // f32 registers: 64 rows x 256 columns over 128 threads
constexpr u32 SLOT_WARP_FLOATS = 2 * ACC / 4 * 32 * 4;  // partial O of 16 rows: [column half][i][lane][4]

// The accumulators of columns 0..127 and 128..255.
__device__ __forceinline__ float (&left(float (&acc)[ACC]))[ACC / 2] {
    return reinterpret_cast<float(&)[ACC / 2]>(acc);
}
__device__ __forceinline__ float (&right(float (&acc)[ACC]))[ACC / 2] {
    return reinterpret_cast<float(&)[ACC / 2]>(acc[ACC / 2]);
}

// Transposes 4 x 4 words over the four lanes of a quad: lane t gives words 0..3, gets word t of each.
__device__ __forceinline__ void transpose_quad(u32 (&x)[4], u32 quad) {
    const bool odd = quad & 1, high = quad & 2;
#pragma unroll
    for (u32 i = 0; i < 4; i += 2) {
        const u32 got = shuffle_xor<1>(odd ? x[i] : x[i + 1]);
        if (odd) x[i] = got; else x[i + 1] = got;
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        const u32 got = shuffle_xor<2>(high ? x[i] : x[i + 2]);
        if (high) x[i] = got; else x[i + 2] = got;
    }
}

// The warp's 16 rows, 256 columns, to `out`, 16 bytes a lane.
template <class T>
__device__ __forceinline__ void store_rows(const float (&acc)[ACC], u8* out, u32 first_row, u32 row, u32 rows, u32 half, u32 quad) {
#pragma unroll
    for (u32 part = 0; part < 2; ++part) {
        u8* at = out + (static_cast<u64>(first_row + row + 8 * part) * LATENT + half * 256) * 2;
#pragma unroll
        for (u32 j = 0; j < 32; j += 4) {
            u32 x[4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) x[i] = pack<T>(acc[4 * (j + i) + 2 * part], acc[4 * (j + i) + 2 * part + 1]);
            transpose_quad(x, quad);
            if (row + 8 * part < rows) store_global_v4(at + (j + quad) * 16, x[0], x[1], x[2], x[3]);
        }
    }
}

__device__ __forceinline__ void scale_rows(float (&acc)[ACC], float a, float b) {
#pragma unroll
    for (u32 j = 0; j < 32; ++j) {
        acc[4 * j + 0] *= a;
        acc[4 * j + 1] *= a;
        acc[4 * j + 2] *= b;
        acc[4 * j + 3] *= b;
    }
}

// Where slot `slot` keeps the log-sums of a warp's 16 rows, and its partial O.
__device__ __forceinline__ float* slot_at(const Params& p, u32 slot, u32 warp) {
    return p.partial + static_cast<u64>(slot) * p.slot_warps * (SLOT_WARP_FLOATS + 16) + warp * (SLOT_WARP_FLOATS + 16);
}

// The splits of one row tile, in ascending order, whoever comes last:
//     M = max lse_i    G = sum 2^(lse_i - M) (+ 2^(sink - M))    O = sum (2^(lse_i - M) / G) O_i
template <class T>
__device__ __forceinline__ void merge(const Params& p, float (&acc)[ACC], const Work& w, u32 half, u32 warp, u32 lane) {
    const u32 quad = lane % 4, group = lane / 4, row = 16 * warp + group;
    const u32 first = w.slot - w.split * w.slot_step;
    float most[2] = {-HADAL_INFINITY, -HADAL_INFINITY}, sum[2] = {0.0f, 0.0f};
    for (u32 i = 0; i < w.splits; ++i) {
        const float* lse = slot_at(p, first + i * w.slot_step, warp);
        most[0] = fmaxf(most[0], load_relaxed_gpu_f32(lse + group));
        most[1] = fmaxf(most[1], load_relaxed_gpu_f32(lse + group + 8));
    }
#pragma unroll
    for (u32 e = 0; e < 2; ++e) most[e] = most[e] == -HADAL_INFINITY ? 0.0f : most[e];
    for (u32 i = 0; i < w.splits; ++i) {
        const float* lse = slot_at(p, first + i * w.slot_step, warp);
        sum[0] += exp2_approx(load_relaxed_gpu_f32(lse + group) - most[0]);
        sum[1] += exp2_approx(load_relaxed_gpu_f32(lse + group + 8) - most[1]);
    }
    float inverse[2];
#pragma unroll
    for (u32 e = 0; e < 2; ++e) {
        float below = sum[e];
        if (p.sink != nullptr) {
            below += exp2_approx(__fmaf_rn(p.sink[(w.tile * ROWS + row + 8 * e) % p.heads], LOG2E, -most[e]));
        }
        inverse[e] = sum[e] == 0.0f ? 0.0f : __frcp_rn(below);
        const float lse = sum[e] == 0.0f ? -HADAL_INFINITY : (most[e] + log2_approx(sum[e])) * LN2;
        if (half == 0 && quad == 0 && row + 8 * e < w.rows) store_global_f32(p.lse + w.first_row + row + 8 * e, lse);
    }
#pragma unroll
    for (u32 i = 0; i < ACC; ++i) acc[i] = 0.0f;
    for (u32 i = 0; i < w.splits; ++i) {
        const float* slot = slot_at(p, first + i * w.slot_step, warp);
        const float a = exp2_approx(load_relaxed_gpu_f32(slot + group) - most[0]) * inverse[0];
        const float b = exp2_approx(load_relaxed_gpu_f32(slot + group + 8) - most[1]) * inverse[1];
        const float* from = slot + 16 + half * (SLOT_WARP_FLOATS / 2) + lane * 4;
#pragma unroll
        for (u32 j = 0; j < 32; ++j) {
            float x, y, z, v;
            load_global_v4(from + j * 128, x, y, z, v);
            acc[4 * j + 0] = __fmaf_rn(a, x, acc[4 * j + 0]);
            acc[4 * j + 1] = __fmaf_rn(a, y, acc[4 * j + 1]);
            acc[4 * j + 2] = __fmaf_rn(b, z, acc[4 * j + 2]);
            acc[4 * j + 3] = __fmaf_rn(b, v, acc[4 * j + 3]);
        }
    }
    store_rows<T>(acc, p.out, w.first_row, row, w.rows, half, quad);
}

template <class T, Source SOURCE, u32 CL>
__device__ __forceinline__ void output(const Params& p, u32 smem) {
    const u32 warp_in_cta = shuffle_from(threadIdx.x / 32, 0);
    const u32 half = warp_in_cta / 4, warp = warp_in_cta % 4;
    const u32 lane = threadIdx.x % 32, quad = lane % 4;
    const u32 row = 16 * warp + lane / 4;
    const u64 p_desc = wgmma_desc(wgmma_desc_low(smem + P_AT));

    Schedule<CL> schedule(p, lane);
    u32 blocks = 0, messages = 0, meetings = 0;
    Work w;
    for (u32 k = blockIdx.x / CL; schedule.template find<false>(p, k, lane, w); k += p.workers) {
        float acc[ACC];
#pragma unroll
        for (u32 i = 0; i < ACC; ++i) acc[i] = 0.0f;
        for (u32 block = w.block; block < w.end; ++block, ++blocks) {
            const u32 in = blocks % STAGES;
            wait(smem + P_FULL_AT, messages++ & 1);
            if (load_shared_u32(smem + RESCALE_AT + warp * 4) != 0) {
                scale_rows(acc, load_shared_f32(smem + ALPHA_AT + row * 4), load_shared_f32(smem + ALPHA_AT + row * 4 + 32));
            }
            // Values: 64 tokens (K) x 256 columns (N), columns contiguous.
            const u32 values = smem + STAGES_AT + in * STAGE_BYTES + half * 4 * TILE_BYTES;
            const u64 v_desc = wgmma_desc(wgmma_desc_low_mn<TILE_BYTES>(values));
            wgmma_fence();
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                // Two of 128 columns: one of 256 needs more registers than ptxas grants a kernel of 512 threads (C7602).
                wgmma_16bit_nn(T(), left(acc), p_desc + i * (32 >> 4), v_desc + i * (2048 >> 4), 1);
                wgmma_16bit_nn(T(), right(acc), p_desc + i * (32 >> 4), v_desc + (i * 2048 + 2 * TILE_BYTES >> 4), 1);
            }
            wgmma_commit_group();
            wgmma_wait_group<0>(acc);
            warp_sync();
            if (lane == 0) {
                mbarrier_arrive(smem + P_EMPTY_AT);
                if (CL == 1) {
                    mbarrier_arrive(smem + EMPTY_AT + in * 8);
                } else {
#pragma unroll
                    for (u32 c = 0; c < CL; ++c) mbarrier_arrive_cluster(map_to_rank(smem + EMPTY_AT + in * 8, c));
                }
            }
        }

        wait(smem + P_FULL_AT, messages++ & 1);
        const bool active = 16 * warp < w.rows;
        float lse_a = 0.0f, lse_b = 0.0f;
        if (active) {
            lse_a = load_shared_f32(smem + LSE_AT + row * 4);
            lse_b = load_shared_f32(smem + LSE_AT + row * 4 + 32);
            scale_rows(acc, load_shared_f32(smem + ALPHA_AT + row * 4), load_shared_f32(smem + ALPHA_AT + row * 4 + 32));
        }
        warp_arrive(smem + P_EMPTY_AT, lane);
        if (w.rows == 0) continue;  // the whole CTA
        if (w.splits == 1) {
            if (active) {
                store_rows<T>(acc, p.out, w.first_row, row, w.rows, half, quad);
                if (half == 0 && quad == 0) {
                    if (row < w.rows) store_global_f32(p.lse + w.first_row + row, lse_a * LN2);
                    if (row + 8 < w.rows) store_global_f32(p.lse + w.first_row + row + 8, lse_b * LN2);
                }
            }
            continue;
        }

        if (active) {
            float* slot = slot_at(p, w.slot, warp);
            if (quad == 0 && half == 0) {
                store_global_f32(slot + row % 16, lse_a);
                store_global_f32(slot + row % 16 + 8, lse_b);
            }
            float* to = slot + 16 + half * (SLOT_WARP_FLOATS / 2) + lane * 4;
#pragma unroll
            for (u32 j = 0; j < 32; ++j) store_global_v4(to + j * 128, acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]);
        }
        // Release: what each thread wrote is on the device before the count says so.
        fence_acq_rel_gpu();
        warp_arrive(smem + MEET_AT, lane);
        wait(smem + MEET_AT, meetings++ & 1);
        if (warp_in_cta == 0 && lane == 0) {
            u32* counter = p.counters + static_cast<u64>(w.request) * p.max_tiles + w.tile;
            store_shared_u32(smem + TICKET_AT, increment_wrap_gpu(counter, w.splits - 1));
        }
        warp_arrive(smem + MEET_AT, lane);
        wait(smem + MEET_AT, meetings++ & 1);
        const bool last = load_shared_u32(smem + TICKET_AT) == w.splits - 1;
        if (!last) continue;
        // Acquire: the other splits' stores, which the count has observed.
        fence_acq_rel_gpu();
        if (active) merge<T>(p, acc, w, half, warp, lane);
    }
}

}  // namespace mla
}  // namespace hadal
