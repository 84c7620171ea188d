// The SwiGLU epilogue: gate and up sums -> E4M3 codes and a scale per row and 128 columns.
//
//   h  = silu(gate) * up        silu(x) = x / (1 + e^-x); with a clamp first gate = min(gate, c), up = min(max(up, -c), c)
//   sf = rn(max(amax, 1e-4) / 448)     amax: largest finite |h| of the row's 128 columns
//   y  = E4M3(h * rn(1 / sf))          to nearest even, saturating; NaN stays NaN
//
// Rows of B are interleaved offline (hadal::gemm::swiglu): of 256 columns of a tile, each 128 hold 64 of gate and then the 64 of up
// that go with them, so a thread has both. Within 64, column 8j + 2t + e of the product (which thread t of a quad holds) is column
// 16t + 2j + e of the result: a thread's 16 values are 16 neighbouring codes, stored at once. No shared memory, and rows that do
// not exist are left out by a predicate.
#pragma once
#include "../../ptx/convert.cuh"
#include "../../ptx/global.cuh"
#include "../../ptx/math.cuh"
#include "../../ptx/memory.cuh"
#include "../../ptx/sync.cuh"
#include "multiply.cuh"

namespace hadal {
namespace gemm {

template <class T>
struct SwiGlu {
    static constexpr bool PAIRS = true;
    static constexpr float LOG2_E = 1.4426950408889634f;

    __device__ __forceinline__ void before_writing(const Place&) {}
    __device__ __forceinline__ void end(const Place&) {}

    __device__ __forceinline__ static float activate(float gate, float up) {
        const float e = exp2_approx(__fmul_rn(gate, -LOG2_E));
        return __fmul_rn(__fmul_rn(gate, reciprocal_approx(__fadd_rn(1.0f, e))), up);
    }

    // |x|, or 0 where x is no finite number.
    __device__ __forceinline__ static float finite(float x) {
        const float a = fabsf(x);
        return a < __int_as_float(0x7f800000) ? a : 0.0f;
    }

    __device__ __forceinline__ void write(const Params& p, u32 smem, const Place& at, const Record<T>& r,
                                          float (&acc)[T::PIECES][T::ACC]) {
        if (p.clamp < __int_as_float(0x7f800000)) {
#pragma unroll
            for (u32 i = 0; i < T::PIECES; ++i)
#pragma unroll
                for (u32 v = 0; v < 32; ++v) {
                    acc[i][v] = min_nan(acc[i][v], p.clamp);
                    acc[i][v + 32] = max_nan(min_nan(acc[i][v + 32], p.clamp), -p.clamp);
                }
        }
        float max0 = 0.0f, max8 = 0.0f;  // of rows 16 warp + lane / 4, and 8 on
#pragma unroll
        for (u32 i = 0; i < T::PIECES; ++i)
#pragma unroll
            for (u32 v = 0; v < 32; ++v) {
                const float h = activate(acc[i][v], acc[i][v + 32]);
                acc[i][v] = h;
                if (v & 2) max8 = fmaxf(max8, finite(h));
                else max0 = fmaxf(max0, finite(h));
            }
        max0 = fmaxf(max0, shuffle_xor<1>(max0));
        max8 = fmaxf(max8, shuffle_xor<1>(max8));
        max0 = fmaxf(max0, shuffle_xor<2>(max0));
        max8 = fmaxf(max8, shuffle_xor<2>(max8));
        const u32 row = 16 * at.warp + at.lane / 4, quad = at.lane % 4;
        if constexpr (T::SIDE_BY_SIDE == 2) {
            // The other half of the row's columns is the other warpgroup's.
            const u32 exchange = smem + p.extra + T::EXCHANGE_AT;
            if (quad == 0) {
                store_shared_f32(exchange + (at.group_n * SLAB + row) * 4, max0);
                store_shared_f32(exchange + (at.group_n * SLAB + row + 8) * 4, max8);
            }
            named_barrier_sync<T::TEAM>(1 + at.group_m);
            const u32 other = exchange + ((at.group_n ^ 1) * SLAB + row) * 4;
            max0 = fmaxf(max0, load_shared_f32(other));
            max8 = fmaxf(max8, load_shared_f32(other + 8 * 4));
        }
        const float sf0 = __fdiv_rn(fmaxf(max0, 1e-4f), 448.0f), sf8 = __fdiv_rn(fmaxf(max8, 1e-4f), 448.0f);
        const float inv0 = __frcp_rn(sf0), inv8 = __frcp_rn(sf8);
        const bool has0 = r.rows[0] >> (at.lane / 4) & 1, has8 = r.rows[0] >> (at.lane / 4 + 8) & 1;
        const u64 in_tile = r.m0 + at.group_m * SLAB + row;
#pragma unroll
        for (u32 i = 0; i < T::PIECES; ++i) {
            const u32 col = r.n0 / 2 + (T::ACROSS > 1 ? i : at.group_n) * 64 + 16 * quad;
            u32 low[4], high[4];
#pragma unroll
            for (u32 w = 0; w < 4; ++w) {
                const float* v = acc[i] + 8 * w;
                low[w] = pack_e4m3(v[0] * inv0, v[1] * inv0) | pack_e4m3(v[4] * inv0, v[5] * inv0) << 16;
                high[w] = pack_e4m3(v[2] * inv8, v[3] * inv8) | pack_e4m3(v[6] * inv8, v[7] * inv8) << 16;
            }
            u8* d = p.d_data + r.group * p.group_d + in_tile * p.ld_d + col;
            if (col < p.out_cols) {
                if (has0) store_global_v4(d, low[0], low[1], low[2], low[3]);
                if (has8) store_global_v4(d + 8 * p.ld_d, high[0], high[1], high[2], high[3]);
            }
        }
        if (quad == 0 && at.group_n == 0) {
            float* s = p.scales_out + r.group * p.group_weight + in_tile * p.scale_row + r.n0 / 256 * p.scale_block;
            if (has0) store_global_f32(s, sf0);
            if (has8) store_global_f32(s + 8 * p.scale_row, sf8);
        }
    }
};

}  // namespace gemm
}  // namespace hadal
