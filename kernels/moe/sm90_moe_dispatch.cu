// Dispatch: each token's row to the ranks of its experts, one copy a rank, and there to the rows of its experts.
//
//   send      rows [T, row bytes] (opaque bytes, or bf16 quantised on the way), ids [T,K]
//             -> the windows of the destination ranks: dispatch bank [me][slot], meta [me][slot], counts [me][expert]
//   receive   own window -> rows in expert order, counts and offsets of the local experts
//
// Where a row goes is a function of the ids alone:
//   slot    in the bank of rank r: how many earlier tokens of this rank have an expert there
//   index   in an expert: how many earlier picks of this rank (tokens ascending, then k) chose it
//   row     of the output: offset[expert] + picks of lower ranks for it + index
// Each send block owns a range of tokens and counts what comes before it; no atomics on global memory, no order in time
// that matters. Blocks of one kernel never wait for each other, so any number of them may be resident.
#include "../ptx/mbarrier.cuh"
#include "../ptx/tma.cuh"
#include "group.cuh"

namespace hadal {
namespace moe {

constexpr u32 PIECE = 4096;              // bytes of a row that the copy engine moves at a time
constexpr u32 STAGES = 3;                // of a warp
constexpr u32 BATCH = 64;                // tokens whose places are found at a time
constexpr u32 KERNEL_ID = 4;
constexpr u32 ARGUMENT_IDS = 1;

struct SendParams {
    Group g;
    const u8* rows;
    const int* ids;
    const float* weights;  // sent along where combines are pre-reduced
    u64 row_stride;        // bytes from row to row of the input
    u32 row_bytes;         // of the input, a multiple of 16
    u32 tokens;
};

struct ReceiveParams {
    Group g;
    u8* rows;              // [max_rows], row_stride bytes apart
    float* scales;         // scales[group * ld_scales + row], or null
    int* counts;           // [local experts]
    int* offsets;          // [local experts + 1]
    u64 row_stride;
    u64 ld_scales;
    u32 row_bytes;         // of a wire row without its scales, a multiple of 16
    u32 scale_groups;      // f32 behind them
};

struct SendShared {
    u32 rank_rows[MAX_RANKS];            // rows so far for each rank
    u32 expert_picks[MAX_EXPERTS];       // picks so far of each expert
    u32 target[BATCH * MAX_TOP_K];       // {rank : 8 | slot : 24}; NONE: this pick sends nothing
    u32 pick[BATCH * MAX_TOP_K];         // expert, or NONE
    u32 index[BATCH * MAX_TOP_K];
};

// Rows and picks of tokens [first, last), added up. Integer sums: the order does not matter.
__device__ __forceinline__ void count_tokens(const SendParams& p, const Split& split, SendShared& s, u32 first, u32 last) {
    for (u32 t = first + threadIdx.x; t < last; t += THREADS) {
        u64 seen = 0;
        for (u32 k = 0; k < p.g.top_k; ++k) {
            const u32 e = static_cast<u32>(p.ids[static_cast<u64>(t) * p.g.top_k + k]);
            if (e >= p.g.experts) continue;
            atomicAdd(&s.expert_picks[e], 1u);
            const u32 r = split.rank(e);
            if ((seen >> r & 1) == 0) {
                seen |= 1ull << r;
                atomicAdd(&s.rank_rows[r], 1u);
            }
        }
    }
}

__device__ __forceinline__ void clear_counts(const Group& g, SendShared& s) {
    for (u32 i = threadIdx.x; i < g.experts; i += THREADS) s.expert_picks[i] = 0;
    for (u32 i = threadIdx.x; i < g.ranks; i += THREADS) s.rank_rows[i] = 0;
}

// Block 0: what everybody will get from this rank, before any row. The words are their own messages. False: a bank is too
// small, and nobody gets anything.
__device__ __forceinline__ bool publish_counts(const SendParams& p, const Split& split, SendShared& s, u32 operation) {
    const Group& g = p.g;
    clear_counts(g, s);
    cta_sync();
    count_tokens(p, split, s, 0, p.tokens);
    cta_sync();
    bool fits = true;
    for (u32 r = threadIdx.x; r < g.ranks; r += THREADS) fits = fits && s.rank_rows[r] <= g.capacity;
    if (__syncthreads_and(fits) == 0) {
        if (threadIdx.x == 0) give_up(g, operation, VERDICT_OVERFLOW, g.rank);
        return false;
    }
    const u64 mine = static_cast<u64>(g.rank) * g.count_stride;
    for (u32 e = threadIdx.x; e < g.experts; e += THREADS) {
        const u32 r = split.rank(e);
        store_relaxed_system_u64(cell_at(g, r, g.count_at, mine + e - split.first(r)), cell(operation, s.expert_picks[e]));
    }
    for (u32 r = threadIdx.x; r < g.ranks; r += THREADS) {
        store_relaxed_system_u64(cell_at(g, r, g.count_at, mine + g.count_stride - 1), cell(operation, s.rank_rows[r]));
        stats_of(g, r).rows_to += s.rank_rows[r];
    }
    cta_sync();
    return true;
}

// One warp: places of tokens [first, last), in order. Lane k has pick k.
__device__ __forceinline__ void place(const SendParams& p, const Split& split, SendShared& s, u32 first, u32 last) {
    const Group& g = p.g;
    const u32 lane = threadIdx.x % 32;
    for (u32 t = first; t < last; ++t) {
        u32 e = NONE;
        if (lane < g.top_k) {
            e = static_cast<u32>(p.ids[static_cast<u64>(t) * g.top_k + lane]);
            if (e >= g.experts) {
                if (e != NONE) status_report(g.status, STATUS_INDEX, KERNEL_ID, ARGUMENT_IDS, blockIdx.x, e, g.experts);
                e = NONE;
            }
        }
        const u32 below = (1u << lane) - 1;
        // The first of the lanes with my rank takes the slot; picks of one expert count on in lane order.
        const u32 r = e == NONE ? NONE : split.rank(e);
        const u32 same_rank = __match_any_sync(ALL, r);
        const u32 same_expert = __match_any_sync(ALL, e);
        u32 slot = 0, index = 0;
        if (e != NONE) {
            slot = s.rank_rows[r];
            index = s.expert_picks[e] + __popc(same_expert & below);
        }
        warp_sync();
        if (e != NONE) {
            if ((same_rank & below) == 0) s.rank_rows[r] = slot + 1;
            if ((same_expert & below) == 0) s.expert_picks[e] += __popc(same_expert);
        }
        warp_sync();
        if (lane < g.top_k) {
            const u32 i = (t - first) * g.top_k + lane;
            // A slot past the bank: the operation is about to fail as an overflow, nothing is stored.
            const bool sends = e != NONE && (same_rank & below) == 0 && slot < g.capacity;
            s.target[i] = sends ? r << 24 | slot : NONE;
            s.pick[i] = e;
            s.index[i] = index;
        }
    }
}

__device__ __forceinline__ u8* bank_row(const Group& g, u32 target) {
    const u64 slot = static_cast<u64>(g.rank) * g.capacity + (target & 0xffffffu);
    return at(g, target >> 24, g.dispatch_at) + slot * g.wire_stride;
}

// One warp: what the receiver needs to know of a row: {token, 0, 0, 0}, for each k {local expert or NONE, index}, and where
// combines are pre-reduced the K weights.
__device__ __forceinline__ void send_meta(const SendParams& p, const Split& split, const SendShared& s, u32 token, u32 i) {
    const Group& g = p.g;
    const u32 lane = threadIdx.x % 32;
    const u32 e = lane < g.top_k ? s.pick[i + lane] : NONE;
    const u32 r = e == NONE ? NONE : split.rank(e);
    for (u32 k = 0; k < g.top_k; ++k) {
        const u32 target = s.target[i + k];
        if (target == NONE) continue;
        const u64 slot = static_cast<u64>(g.rank) * g.capacity + (target & 0xffffffu);
        u8* record = at(g, target >> 24, g.meta_at) + slot * g.meta_stride;
        if (lane < g.top_k) {
            const bool mine = r == target >> 24;
            store_streaming_v2(record + 16 + lane * 8, mine ? e - split.first(r) : NONE, s.index[i + lane]);
            if (g.reduce) {
                reinterpret_cast<float*>(record + 16 + g.top_k * 8)[lane] =
                    p.weights[static_cast<u64>(token) * g.top_k + lane];
            }
        }
        if (lane == 0) store_streaming(record, Vec{token, 0, 0, 0});
    }
}

// One warp: CHUNK bytes of a row to all its ranks. Read once, stored up to `ranks` times.
__device__ __forceinline__ void send_bytes(const SendParams& p, const SendShared& s, u32 token, u32 i, u32 chunk) {
    const u32 lane = threadIdx.x % 32;
    const u8* row = p.rows + static_cast<u64>(token) * p.row_stride;
    Vec v[VECS];
#pragma unroll
    for (u32 j = 0; j < VECS; ++j) {
        const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
        if (byte < p.row_bytes) v[j] = load_streaming(row + byte);
    }
    for (u32 k = 0; k < p.g.top_k; ++k) {
        const u32 target = s.target[i + k];
        if (target == NONE) continue;
        u8* to = bank_row(p.g, target);
#pragma unroll
        for (u32 j = 0; j < VECS; ++j) {
            const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
            if (byte < p.row_bytes) store_streaming(to + byte, v[j]);
        }
    }
}

__device__ __forceinline__ float low(u32 w) { return __uint_as_float(w << 16); }
__device__ __forceinline__ float high(u32 w) { return __uint_as_float(w & 0xffff0000u); }

__device__ __forceinline__ float finite_magnitude(float x) {
    const float a = fabsf(x);
    return a < __builtin_huge_valf() ? a : 0.0f;   // NaN, too
}

// cvt.rn.satfinite.e4m3x2.f32 d, high, low
// PTX 7.8, sm_89.
__device__ __forceinline__ u32 pack_e4m3(float a, float b) {
    unsigned short d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(b), "f"(a));
    return d;
}

// One warp: 1024 channels of a bf16 row as E4M3 codes with a scale per 128, the quantiser's rule (src/quant): sixteen
// lanes share a group.
__device__ __forceinline__ void send_quantised(const SendParams& p, const SendShared& s, u32 token, u32 i, u32 chunk) {
    const u32 lane = threadIdx.x % 32;
    const u8* row = p.rows + static_cast<u64>(token) * p.row_stride;
    const u32 channels = p.row_bytes / 2;
    u32 codes[VECS][2];
    float scale[VECS];
#pragma unroll
    for (u32 j = 0; j < VECS; ++j) {
        const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
        Vec v = {0, 0, 0, 0};
        if (byte < p.row_bytes) v = load_streaming(row + byte);
        const float x[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
        float amax = 0.0f;
#pragma unroll
        for (u32 n = 0; n < 8; ++n) amax = fmaxf(amax, finite_magnitude(x[n]));
#pragma unroll
        for (u32 d = 8; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(ALL, amax, d));
        scale[j] = __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
        u32 c[4];
#pragma unroll
        for (u32 n = 0; n < 4; ++n) c[n] = pack_e4m3(__fdiv_rn(x[2 * n], scale[j]), __fdiv_rn(x[2 * n + 1], scale[j]));
        codes[j][0] = c[0] | c[1] << 16;
        codes[j][1] = c[2] | c[3] << 16;
    }
    for (u32 k = 0; k < p.g.top_k; ++k) {
        const u32 target = s.target[i + k];
        if (target == NONE) continue;
        u8* to = bank_row(p.g, target);
        // Scales stand behind the codes, which end on 16 bytes (channels % 16 == 0).
        float* scales = reinterpret_cast<float*>(to + channels);
#pragma unroll
        for (u32 j = 0; j < VECS; ++j) {
            const u32 channel = chunk * (CHUNK / 2) + (j * 32 + lane) * 8;
            if (channel >= channels) continue;
            store_streaming_v2(to + channel, codes[j][0], codes[j][1]);
            if (lane % 16 == 0) scales[channel / 128] = scale[j];
        }
    }
}

// Whole CTA: everything of a send kernel but the bytes of the rows, which `rows(split, first token, how many)` moves.
template <class Rows>
__device__ __forceinline__ void send(const SendParams& p, SendShared& s, Rows rows) {
    const Group& g = p.g;
    const u32 operation = *operation_word(g, DISPATCH_SEND);
    if (__syncthreads_or(threadIdx.x == 0 && aborted(g)) != 0) return;
    const Split split(g);
    if (blockIdx.x == 0 && !publish_counts(p, split, s, operation)) return;
    // Blocks own ranges of equal length, the first ones a token more.
    const u32 base = p.tokens / g.blocks, extra = p.tokens % g.blocks;
    const u32 first = blockIdx.x * base + min(blockIdx.x, extra);
    const u32 last = first + base + (blockIdx.x < extra ? 1 : 0);
    clear_counts(g, s);
    cta_sync();
    count_tokens(p, split, s, 0, first);
    for (u32 t0 = first; t0 < last; t0 += BATCH) {
        const u32 n = min(BATCH, last - t0);
        cta_sync();
        if (threadIdx.x < 32) place(p, split, s, t0, t0 + n);
        cta_sync();
        rows(split, t0, n);
    }
    arrive(g, 0, operation);
    if (threadIdx.x == 0) *operation_word(g, DISPATCH_SEND) = following(operation);
}

// Whole CTA: a send kernel whose warps move a chunk of a row at a time, `move(token, its picks in s, chunk)`.
template <class Move>
__device__ __forceinline__ void send_by_threads(const SendParams& p, SendShared& s, Move move) {
    const u32 chunks = (p.row_bytes + CHUNK - 1) / CHUNK;
    send(p, s, [&](const Split& split, u32 t0, u32 n) {
        for (u32 task = threadIdx.x / 32; task < n * chunks; task += WARPS) {
            const u32 t = task / chunks, chunk = task % chunks;
            const u32 i = t * p.g.top_k;
            if (chunk == 0) send_meta(p, split, s, t0 + t, i);
            move(t0 + t, i, chunk);
        }
    });
}

// Whole CTA. Rank r's part of the output of local expert l starts at first[l * ranks + r]. False: it must leave.
struct ReceiveShared {
    u32 first[MAX_EXPERTS + MAX_RANKS];  // [local expert][rank]
    u32 rows[MAX_RANKS + 1];             // rows of lower ranks
    u32 starts[MAX_EXPERTS + 1];         // first row of each local expert
};

__device__ __forceinline__ bool read_counts(const Group& g, ReceiveShared& s, u32 operation, u32 locals) {
    bool ok = true;
    const u32 per_rank = locals + 1;     // counts of the experts, then the rows
    for (u32 i = threadIdx.x; i < g.ranks * per_rank && ok; i += THREADS) {
        const u32 source = i / per_rank, l = i % per_rank;
        const u64 index = static_cast<u64>(source) * g.count_stride + (l < locals ? l : g.count_stride - 1);
        u64 value = 0, waited;
        ok = wait_cell<false>(g, cell_at(g, g.rank, g.count_at, index), operation, source, value, waited);
        if (!ok) break;
        if (l < locals) {
            s.first[l * g.ranks + source] = static_cast<u32>(value);
        } else {
            s.rows[source + 1] = min(static_cast<u32>(value), g.capacity);
            if (blockIdx.x == 0) stats_of(g, source).rows_from += static_cast<u32>(value);
        }
    }
    if (__syncthreads_and(ok) == 0) return false;
    // Totals, then their running sum, then the places of the ranks within each expert.
    for (u32 l = threadIdx.x; l < locals; l += THREADS) {
        u32 total = 0;
        for (u32 r = 0; r < g.ranks; ++r) total += s.first[l * g.ranks + r];
        s.starts[l + 1] = total;
    }
    cta_sync();
    if (threadIdx.x < 32) {
        u32 carry = 0;
        for (u32 l0 = 0; l0 < locals; l0 += 32) {
            const u32 l = l0 + threadIdx.x;
            u32 v = l < locals ? s.starts[l + 1] : 0;
            for (u32 d = 1; d < 32; d *= 2) {
                const u32 other = __shfl_up_sync(ALL, v, d);
                if (threadIdx.x >= d) v += other;
            }
            if (l < locals) s.starts[l + 1] = v + carry;
            carry += __shfl_sync(ALL, v, 31);
        }
    } else if (threadIdx.x == 32) {
        s.starts[0] = 0;
        s.rows[0] = 0;
        for (u32 r = 0; r < g.ranks; ++r) s.rows[r + 1] += s.rows[r];
    }
    cta_sync();
    for (u32 l = threadIdx.x; l < locals; l += THREADS) {
        u32 next = s.starts[l];
        for (u32 r = 0; r < g.ranks; ++r) {
            const u32 n = s.first[l * g.ranks + r];
            s.first[l * g.ranks + r] = next;
            next += n;
        }
    }
    cta_sync();
    return true;
}

}  // namespace moe
}  // namespace hadal

extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_moe_dispatch_send(const __grid_constant__ hadal::moe::SendParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    __shared__ SendShared s;
    send_by_threads(p, s, [&](u32 token, u32 i, u32 chunk) { send_bytes(p, s, token, i, chunk); });
}

// bf16 rows as E4M3 codes and scales. An entry of its own: with both ways in one, ptxas spills.
extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_bf16_moe_dispatch_send_fp8(const __grid_constant__ hadal::moe::SendParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    __shared__ SendShared s;
    send_by_threads(p, s, [&](u32 token, u32 i, u32 chunk) { send_quantised(p, s, token, i, chunk); });
}

// The same bytes by the copy engine, for many tokens on few SMs: the first lane of each warp brings a piece of a row into
// a stage of shared memory and sends it on to all its ranks. STAGES pieces a warp are on their way at a time, whatever the
// latency, with no register or issue slot for the payload.
extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_moe_dispatch_send_bulk(const __grid_constant__ hadal::moe::SendParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    __shared__ SendShared s;
    extern __shared__ __align__(128) u8 stages[];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 stage0 = shared_address(stages) + warp * (STAGES * PIECE);
    const u32 bar0 = shared_address(stages) + WARPS * STAGES * PIECE + warp * STAGES * 8;
    if (lane == 0) {
        for (u32 i = 0; i < STAGES; ++i) mbarrier_init(bar0 + 8 * i, 1);
        // The copy engine sees the barriers; no other thread uses them.
        fence_mbarrier_init();
    }
    warp_sync();
    const u32 pieces = (p.row_bytes + PIECE - 1) / PIECE;
    u32 loaded = 0, sent = 0;    // pieces of this warp so far: stage = number % STAGES, parity = number / STAGES % 2
    send(p, s, [&](const Split& split, u32 t0, u32 n) {
        const u32 tasks = n * pieces;
        for (u32 t = warp; t < n; t += WARPS) send_meta(p, split, s, t0 + t, t * p.g.top_k);
        if (lane != 0) return;
        u32 next = warp;         // to be loaded
        for (u32 task = warp; task < tasks; task += WARPS) {
            // Keep STAGES - 1 loads ahead: a stage is free once its stores have read it, and the group before the last
            // committed one is the oldest that still may.
            for (; next < tasks && loaded - sent < STAGES - 1; next += WARPS) {
                tma_wait_group_read<0>();
                const u32 stage = loaded % STAGES;
                const u32 from = next % pieces * PIECE, bytes = min(PIECE, p.row_bytes - from);
                mbarrier_arrive_expect_tx(bar0 + 8 * stage, bytes);
                bulk_load(stage0 + stage * PIECE,
                          p.rows + static_cast<u64>(t0 + next / pieces) * p.row_stride + from, bytes, bar0 + 8 * stage);
                ++loaded;
            }
            const u32 stage = sent % STAGES;
            const u32 from = task % pieces * PIECE, bytes = min(PIECE, p.row_bytes - from);
            while (!mbarrier_try_wait(bar0 + 8 * stage, sent / STAGES % 2)) {
            }
            for (u32 k = 0; k < p.g.top_k; ++k) {
                const u32 target = s.target[task / pieces * p.g.top_k + k];
                if (target != NONE) bulk_store(bank_row(p.g, target) + from, stage0 + stage * PIECE, bytes);
            }
            tma_commit_group();
            ++sent;
        }
        // Written, not only read: the arrivals that follow say so.
        tma_wait_group<0>();
    });
}

extern "C" __global__ void __launch_bounds__(hadal::moe::THREADS)
    sm90_moe_dispatch_receive(const __grid_constant__ hadal::moe::ReceiveParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    __shared__ ReceiveShared s;
    const Group& g = p.g;
    const u32 operation = *operation_word(g, DISPATCH_RECEIVE);
    if (__syncthreads_or(threadIdx.x == 0 && aborted(g)) != 0) return;
    const Split split(g);
    const u32 locals = split.count(g.rank);
    if (!read_counts(g, s, operation, locals)) return;
    const u32 total = s.starts[locals];
    if (total > g.max_rows) {
        if (threadIdx.x == 0) give_up(g, operation, VERDICT_OVERFLOW, g.rank);
        return;
    }
    if (blockIdx.x == 0) {
        for (u32 l = threadIdx.x; l <= locals; l += THREADS) {
            p.offsets[l] = static_cast<int>(s.starts[l]);
            if (l < locals) p.counts[l] = static_cast<int>(s.starts[l + 1] - s.starts[l]);
        }
        if (threadIdx.x == 0) *reinterpret_cast<u32*>(at(g, g.rank, g.total_at)) = total;
    }
    if (!wait_arrivals(g, 0, operation)) return;

    const u32 lane = threadIdx.x % 32;
    const u32 rows = s.rows[g.ranks];
    const u32 chunks = (p.row_bytes + CHUNK - 1) / CHUNK;
    const u64 tasks = static_cast<u64>(rows) * chunks;
    u64* origin = reinterpret_cast<u64*>(at(g, g.rank, g.origin_at));
    for (u64 task = blockIdx.x * WARPS + threadIdx.x / 32; task < tasks; task += g.blocks * WARPS) {
        const u32 row = task / chunks, chunk = task % chunks;
        u32 source = 0;
        while (row >= s.rows[source + 1]) ++source;
        const u64 slot = static_cast<u64>(source) * g.capacity + (row - s.rows[source]);
        const u8* record = at(g, g.rank, g.meta_at) + slot * g.meta_stride;
        const u8* from = at(g, g.rank, g.dispatch_at) + slot * g.wire_stride;
        Vec v[VECS];
#pragma unroll
        for (u32 j = 0; j < VECS; ++j) {
            const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
            if (byte < p.row_bytes) v[j] = load_streaming(from + byte);
        }
        // Lane k: where pick k goes, or NONE.
        u32 to = NONE;
        if (lane < g.top_k) {
            const u32* entry = reinterpret_cast<const u32*>(record + 16 + lane * 8);
            const u32 l = entry[0], index = entry[1];
            if (l < locals) {
                const u32 place = s.first[l * g.ranks + source] + index;
                if (place < s.starts[l + 1]) to = place;
            }
        }
        const u32 token = *reinterpret_cast<const u32*>(record);
        if (chunk == 0 && to != NONE) {
            origin[to] = static_cast<u64>(source) << 32 | (token * g.top_k + lane);
        }
        if (chunk == 0 && g.reduce && lane < g.top_k) {
            reinterpret_cast<u32*>(at(g, g.rank, g.places_at))[slot * g.top_k + lane] = to;
        }
        for (u32 k = 0; k < g.top_k; ++k) {
            const u32 place = __shfl_sync(ALL, to, k);
            if (place == NONE) continue;
            u8* out = p.rows + place * p.row_stride;
#pragma unroll
            for (u32 j = 0; j < VECS; ++j) {
                const u32 byte = chunk * CHUNK + (j * 32 + lane) * 16;
                if (byte < p.row_bytes) store_streaming(out + byte, v[j]);
            }
            if (chunk == 0) {
                const float* scales = reinterpret_cast<const float*>(from + p.row_bytes);
                for (u32 n = lane; n < p.scale_groups; n += 32) p.scales[n * p.ld_scales + place] = scales[n];
            }
        }
    }
    if (threadIdx.x == 0) *operation_word(g, DISPATCH_RECEIVE) = following(operation);
}
