// Combine, exact: each expert row back to its token, and there the weighted sum.
//
//   send      expert rows y [rows, H] bf16 -> the owners' windows: combine bank [token][k]
//   receive   out[t] = round( ((sum over k ascending of w[t][k] * y[t][k]) + shared[t]) + residual[t]) + bias )
//
// The sum runs in f32 from +0 by fma, picks of -1 (and ids out of range) left out; what is added after it comes in the
// order above, each addition rounded to f32, and one rounding to bf16 ends it. A token's bits depend on its own rows and
// weights and nothing else: not on the number of ranks or blocks, nor on other tokens.
//
// Pre-reduced, by name (fewer bytes: a row a rank instead of a row a pick):
//   reduce_send   partial[t][r] = round(sum over the picks k of rank r, ascending, of w[t][k] * y[t][k])
//   receive       the sum over r ascending of partial[t][r] takes the place of the sum over k
// Its bits depend on which experts share a rank, and on nothing else.
#include "group.cuh"

namespace hadal {
namespace moe {

struct CombineSendParams {
    Group g;
    const u8* rows;
    u64 row_stride;        // bytes
    u32 row_bytes;         // a multiple of 16
    u32 pad;
};

struct CombineReceiveParams {
    Group g;
    const int* ids;
    const float* weights;
    const u8* shared;      // bf16 [T, H] or null
    const u8* residual;    // bf16 [T, H] or null
    const float* bias;     // f32 [H] or null
    u8* out;               // bf16 [T, H]
    u64 ld_shared, ld_residual, ld_out;   // bytes
    u32 row_bytes;
    u32 tokens;
};

__device__ __forceinline__ void unpack(Vec v, float (&x)[8]) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 n = 0; n < 4; ++n) {
        x[2 * n] = __uint_as_float(w[n] << 16);
        x[2 * n + 1] = __uint_as_float(w[n] & 0xffff0000u);
    }
}

__device__ __forceinline__ Vec pack_row(const float (&acc)[8]) {
    return {pack_bf16(acc[0], acc[1]), pack_bf16(acc[2], acc[3]), pack_bf16(acc[4], acc[5]), pack_bf16(acc[6], acc[7])};
}

__device__ __forceinline__ void add_row(float (&acc)[8], const u8* row) {
    float x[8];
    unpack(load_streaming(row), x);
#pragma unroll
    for (u32 n = 0; n < 8; ++n) acc[n] = __fadd_rn(acc[n], x[n]);
}

}  // namespace moe
}  // namespace hadal

extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_bf16_moe_combine_send(const __grid_constant__ hadal::moe::CombineSendParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    const Group& g = p.g;
    const u32 operation = *operation_word(g, COMBINE_SEND);
    if (__syncthreads_or(threadIdx.x == 0 && aborted(g)) != 0) return;
    const u32 lane = threadIdx.x % 32;
    const u32 rows = *reinterpret_cast<const u32*>(at(g, g.rank, g.total_at));
    const u64* origin = reinterpret_cast<const u64*>(at(g, g.rank, g.origin_at));
    const u32 chunks = (p.row_bytes + CHUNK - 1) / CHUNK;
    const u64 tasks = static_cast<u64>(rows) * chunks;
    for (u64 task = blockIdx.x * WARPS + threadIdx.x / 32; task < tasks; task += g.blocks * WARPS) {
        const u32 row = task / chunks, chunk = task % chunks;
        const u64 o = origin[row];
        const u8* from = p.rows + row * p.row_stride;
        u8* to = at(g, static_cast<u32>(o >> 32), g.combine_at) + (o & 0xffffffffu) * g.combine_stride;
        Vec v[VECS];
#pragma unroll
        for (u32 j = 0; j < VECS; ++j) {
            const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
            if (byte < p.row_bytes) v[j] = load_streaming(from + byte);
        }
#pragma unroll
        for (u32 j = 0; j < VECS; ++j) {
            const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
            if (byte < p.row_bytes) store_streaming(to + byte, v[j]);
        }
    }
    arrive(g, 1, operation);
    if (threadIdx.x == 0) *operation_word(g, COMBINE_SEND) = following(operation);
}

extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_bf16_moe_combine_reduce_send(const __grid_constant__ hadal::moe::CombineSendParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    __shared__ u32 rows[MAX_RANKS + 1];
    const Group& g = p.g;
    const u32 operation = *operation_word(g, COMBINE_SEND);
    if (__syncthreads_or(threadIdx.x == 0 && aborted(g)) != 0) return;
    if (threadIdx.x == 0) {
        // The counts of the dispatch are still in their cells: only the next dispatch writes them.
        rows[0] = 0;
        for (u32 r = 0; r < g.ranks; ++r) {
            const u64 index = static_cast<u64>(r) * g.count_stride + g.count_stride - 1;
            const u64 value = load_relaxed_system_u64(cell_at(g, g.rank, g.count_at, index));
            rows[r + 1] = rows[r] + min(static_cast<u32>(value), g.capacity);
        }
    }
    cta_sync();
    const u32 lane = threadIdx.x % 32;
    const u32 pieces = (p.row_bytes + 511) / 512;
    const u64 tasks = static_cast<u64>(rows[g.ranks]) * pieces;
    const u32* places = reinterpret_cast<const u32*>(at(g, g.rank, g.places_at));
    for (u64 task = blockIdx.x * WARPS + threadIdx.x / 32; task < tasks; task += g.blocks * WARPS) {
        const u32 row = task / pieces;
        const u32 byte = static_cast<u32>(task % pieces) * 512 + lane * 16;
        u32 source = 0;
        while (row >= rows[source + 1]) ++source;
        const u64 slot = static_cast<u64>(source) * g.capacity + (row - rows[source]);
        const u8* record = at(g, g.rank, g.meta_at) + slot * g.meta_stride;
        const u32 token = *reinterpret_cast<const u32*>(record);
        u32 place = NONE;
        float weight = 0.0f;
        if (lane < g.top_k) {
            place = places[slot * g.top_k + lane];
            weight = reinterpret_cast<const float*>(record + 16 + g.top_k * 8)[lane];
        }
        float acc[8] = {};
        for (u32 k = 0; k < g.top_k; ++k) {
            const u32 at_row = __shfl_sync(ALL, place, k);
            const float w = __shfl_sync(ALL, weight, k);
            if (at_row == NONE || byte >= p.row_bytes) continue;
            float x[8];
            unpack(load_streaming(p.rows + at_row * p.row_stride + byte), x);
#pragma unroll
            for (u32 n = 0; n < 8; ++n) acc[n] = __fmaf_rn(w, x[n], acc[n]);
        }
        if (byte >= p.row_bytes) continue;
        u8* to = at(g, source, g.combine_at) + (static_cast<u64>(token) * g.ranks + g.rank) * g.combine_stride;
        store_streaming(to + byte, pack_row(acc));
    }
    arrive(g, 1, operation);
    if (threadIdx.x == 0) *operation_word(g, COMBINE_SEND) = following(operation);
}

extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_bf16_moe_combine_receive(const __grid_constant__ hadal::moe::CombineReceiveParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    const Group& g = p.g;
    const u32 operation = *operation_word(g, COMBINE_RECEIVE);
    if (__syncthreads_or(threadIdx.x == 0 && aborted(g)) != 0) return;
    if (!wait_arrivals(g, 1, operation)) return;
    const Split split(g);
    // A warp does 512 bytes (256 channels) of a token, so that a few tokens still fill the machine.
    const u32 lane = threadIdx.x % 32;
    const u32 pieces = (p.row_bytes + 511) / 512;
    const u64 tasks = static_cast<u64>(p.tokens) * pieces;
    const u8* bank = at(g, g.rank, g.combine_at);
    for (u64 task = blockIdx.x * WARPS + threadIdx.x / 32; task < tasks; task += g.blocks * WARPS) {
        const u32 token = task / pieces;
        const u32 byte = static_cast<u32>(task % pieces) * 512 + lane * 16;
        const u64 first = static_cast<u64>(token) * g.top_k;
        u32 id = NONE;
        float weight = 0.0f;
        if (lane < g.top_k) {
            id = static_cast<u32>(p.ids[first + lane]);
            weight = p.weights[first + lane];
        }
        const bool picked = id < g.experts;
        const u32 owner = picked ? split.rank(id) : NONE;
        float acc[8] = {};
        if (g.reduce) {
            for (u32 r = 0; r < g.ranks; ++r) {
                if (__ballot_sync(ALL, owner == r) == 0 || byte >= p.row_bytes) continue;
                add_row(acc, bank + (static_cast<u64>(token) * g.ranks + r) * g.combine_stride + byte);
            }
        } else {
            for (u32 k = 0; k < g.top_k; ++k) {
                const bool there = __shfl_sync(ALL, picked, k);
                const float w = __shfl_sync(ALL, weight, k);
                if (!there || byte >= p.row_bytes) continue;
                float x[8];
                unpack(load_streaming(bank + (first + k) * g.combine_stride + byte), x);
#pragma unroll
                for (u32 n = 0; n < 8; ++n) acc[n] = __fmaf_rn(w, x[n], acc[n]);
            }
        }
        if (byte >= p.row_bytes) continue;
        if (p.shared != nullptr) add_row(acc, p.shared + token * p.ld_shared + byte);
        if (p.residual != nullptr) add_row(acc, p.residual + token * p.ld_residual + byte);
        if (p.bias != nullptr) {
#pragma unroll
            for (u32 n = 0; n < 8; ++n) acc[n] = __fadd_rn(acc[n], p.bias[byte / 2 + n]);
        }
        store_streaming(p.out + token * p.ld_out + byte, pack_row(acc));
    }
    if (threadIdx.x == 0) *operation_word(g, COMBINE_RECEIVE) = following(operation);
}
