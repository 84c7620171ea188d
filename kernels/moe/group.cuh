// What the four kernels of the all-to-all share: the group's parameters, cells, waits, and how a rank gives up.
//
// The protocol (who may write what when, and why no barrier is needed) is src/moe/protocol.rs; the window's layout is
// src/moe/layout.rs. All cells are compared for equality with the operation's number and never cleared.
#pragma once
#include "../ptx/memory.cuh"
#include "../ptx/status.cuh"
#include "../ptx/sync.cuh"
#include "../ptx/system.cuh"

namespace hadal {
namespace moe {

constexpr u32 MAX_RANKS = 64;
constexpr u32 MAX_EXPERTS = 1024;
constexpr u32 MAX_TOP_K = 32;
constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 CHUNK = 2048;              // bytes of a row that a warp moves at a time: 4 vectors a lane
constexpr u32 VECS = CHUNK / 512;
constexpr u32 NONE = 0xffffffffu;
constexpr u32 ALL = 0xffffffffu;

constexpr u32 VERDICT_TIMEOUT = 1;
constexpr u32 VERDICT_OVERFLOW = 2;

// The kernels of an operation pair; each block counts its operations in a word of its own.
enum Kernel : u32 { DISPATCH_SEND, DISPATCH_RECEIVE, COMBINE_SEND, COMBINE_RECEIVE };

struct Group {
    u8* window[MAX_RANKS];     // of each rank, as this device sees it
    u64 verdict_at;            // offsets into a window, the same in all
    u64 abort_at;
    u64 operation_at;          // [4][blocks] u32
    u64 count_at;              // [ranks][count_stride] cells
    u64 arrival_at;            // [2][ranks][arrival_stride] cells
    u64 meta_at;               // [ranks][capacity] records of meta_stride bytes
    u64 dispatch_at;           // [ranks][capacity] rows of wire_stride bytes
    u64 combine_at;            // [max_tokens][top_k] rows of combine_stride bytes
    u64 origin_at;             // [max_rows] u64: where an expert row came from, {rank : 32 | token * top_k + k : 32}
    u64 total_at;              // u32: expert rows
    u64 places_at;             // pre-reduced combines: [ranks][capacity][top_k] u32, where each pick of a row went
    u64 stats_at;              // [ranks] Stats
    u64 deadline_ns;
    u32* status;
    u32 rank, ranks, experts, top_k, blocks, channel;
    u32 capacity, max_tokens, max_rows;
    u32 count_stride, arrival_stride, meta_stride, wire_stride, combine_stride;
    u32 reduce;                // combines are pre-reduced: a row a rank instead of a row a pick
    u32 pad;
};
static_assert(sizeof(Group) == 512 + 14 * 8 + 16 * 4, "Group is an interface");

// What this rank has seen of a peer, summed over operations. Block 0 of each kernel keeps it, nobody else writes it.
struct Stats {
    u64 wait_ns[2];      // dispatch, combine: from the first poll in vain to the peer's last arrival
    u64 waits[2];        // operations in which there was such a poll
    u64 rows_to, rows_from;
    u64 pad[2];
};
static_assert(sizeof(Stats) == 64, "Stats is an interface");

__device__ __forceinline__ u8* at(const Group& g, u32 rank, u64 offset) { return g.window[rank] + offset; }
__device__ __forceinline__ u64* cell_at(const Group& g, u32 rank, u64 offset, u64 index) {
    return reinterpret_cast<u64*>(at(g, rank, offset)) + index;
}
__device__ __forceinline__ u64 cell(u32 operation, u32 value) {
    return static_cast<u64>(operation) << 32 | value;
}

__device__ __forceinline__ Stats& stats_of(const Group& g, u32 peer) {
    return reinterpret_cast<Stats*>(at(g, g.rank, g.stats_at))[peer];
}

// Experts are split as evenly as can be, the first `experts % ranks` ranks have one more.
struct Split {
    u32 base, extra;
    __device__ __forceinline__ explicit Split(const Group& g) : base(g.experts / g.ranks), extra(g.experts % g.ranks) {}
    __device__ __forceinline__ u32 rank(u32 e) const {
        const u32 wide = extra * (base + 1);
        return e < wide ? e / (base + 1) : extra + (e - wide) / base;
    }
    __device__ __forceinline__ u32 first(u32 r) const { return r * base + min(r, extra); }
    __device__ __forceinline__ u32 count(u32 r) const { return base + (r < extra ? 1 : 0); }
};

// The operation at hand: this block's own word, which nobody else touches.
__device__ __forceinline__ u32* operation_word(const Group& g, Kernel k) {
    return reinterpret_cast<u32*>(at(g, g.rank, g.operation_at)) + k * g.blocks + blockIdx.x;
}

// Dispatches are odd, combines even; 0 is what cells hold before their first use.
__device__ __forceinline__ u32 following(u32 operation) {
    const u32 next = operation + 2;
    return next == 0 ? 2 : next;
}

__device__ __forceinline__ bool aborted(const Group& g) {
    return load_relaxed_system_u64(cell_at(g, g.rank, g.abort_at, 0)) != 0;
}

// One thread: proposes a verdict, learns the one that was decided, and tells everybody.
__device__ __noinline__ void give_up(const Group& g, u32 operation, u32 kind, u32 peer) {
    const u64 mine = static_cast<u64>(operation) << 32 | g.channel << 24 | kind << 16 | peer;
    const u64 old = compare_and_swap_system_u64(cell_at(g, 0, g.verdict_at, 0), 0, mine);
    const u64 decided = old != 0 ? old : mine;
    for (u32 r = 0; r < g.ranks; ++r) store_relaxed_system_u64(cell_at(g, r, g.abort_at, 0), decided);
}

// Until `cell` carries the operation's number. False: the deadline passed, or the generation is over. `waited` gets the
// nanoseconds, 0 where hardly any.
template <bool ACQUIRE>
__device__ __forceinline__ bool wait_cell(const Group& g, const u64* cell, u32 operation, u32 peer, u64& value,
                                          u64& waited) {
    u64 start = 0;
    waited = 0;
    for (u32 spins = 0;; ++spins) {
        value = ACQUIRE ? load_acquire_system_u64(cell) : load_relaxed_system_u64(cell);
        if (static_cast<u32>(value >> 32) == operation) {
            if (start != 0) waited = global_timer_ns() - start;
            return true;
        }
        if (spins < 16) continue;
        if (aborted(g)) return false;
        const u64 now = global_timer_ns();
        if (start == 0) {
            start = now;
        } else if (now - start > g.deadline_ns) {
            give_up(g, operation, VERDICT_TIMEOUT, peer);
            return false;
        }
        nanosleep(64);
    }
}

// The whole CTA: until every block of every rank has arrived. False: it must leave.
__device__ __forceinline__ bool wait_arrivals(const Group& g, u32 phase, u32 operation) {
    __shared__ unsigned long long longest[MAX_RANKS];
    for (u32 r = threadIdx.x; r < g.ranks; r += THREADS) longest[r] = 0;
    cta_sync();
    bool ok = true;
    const u32 cells = g.ranks * g.blocks;
    for (u32 i = threadIdx.x; i < cells && ok; i += THREADS) {
        const u32 source = i / g.blocks, block = i % g.blocks;
        const u64 index = (static_cast<u64>(phase) * g.ranks + source) * g.arrival_stride + block;
        u64 ignored, waited;
        ok = wait_cell<true>(g, cell_at(g, g.rank, g.arrival_at, index), operation, source, ignored, waited);
        if (waited != 0) atomicMax(&longest[source], waited);
    }
    ok = __syncthreads_and(ok) != 0;
    if (blockIdx.x == 0) {
        for (u32 r = threadIdx.x; r < g.ranks; r += THREADS) {
            if (longest[r] == 0) continue;
            Stats& s = stats_of(g, r);
            s.wait_ns[phase] += longest[r];
            s.waits[phase] += 1;
        }
    }
    return ok;
}

// The whole CTA: everything it has stored is there; all ranks are told, also those it had nothing for.
__device__ __forceinline__ void arrive(const Group& g, u32 phase, u32 operation) {
    cta_sync();     // the CTA's stores happen before the releases below
    for (u32 r = threadIdx.x; r < g.ranks; r += THREADS) {
        const u64 index = (static_cast<u64>(phase) * g.ranks + g.rank) * g.arrival_stride + blockIdx.x;
        store_release_system_u64(cell_at(g, r, g.arrival_at, index), cell(operation, 0));
    }
}

}  // namespace moe
}  // namespace hadal
