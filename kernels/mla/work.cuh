// Which part of which request a CTA works on. Every warp finds out for itself, from the lengths in device memory: no host,
// no metadata kernel, so that a captured graph may be replayed with other lengths.
//
// Request r has tiles(r) = ceil(queries * heads / 64) row tiles and splits(r) = max(1, ceil(blocks / split_blocks)) splits.
// Work items are numbered through all requests: splits ascending, the row tiles of a split next to each other (they read
// the same tokens at the same time). Worker c of w takes items c, c + w, c + 2w, ...
//
// With CL = 2 an item is a pair of row tiles for a cluster of two CTAs.
#pragma once
#include "layout.cuh"

namespace hadal {
namespace mla {

struct Work {
    u32 request;
    u32 tile;            // row tile of the request, of this CTA
    u32 splits;
    u32 slot, slot_step; // this item's slot for partial results; from split to split
    u32 split;
    u32 first_row;       // row of q and out of the tile's row 0
    u32 rows;            // rows of the tile, 0..64
    u32 queries;         // of the request
    u32 length;          // tokens of the request
    u32 block, end;      // blocks of 64 tokens
};

struct Request {
    u32 first_token, queries, length;
};

template <bool REPORT>
__device__ __forceinline__ Request read_request(const Params& p, u32 r) {
    Request a = {r * p.queries, p.queries, p.capacity};
    if (p.offsets != nullptr) {
        const i32 from = p.offsets[r], to = p.offsets[r + 1];
        const bool good = from >= 0 && to >= from && static_cast<u32>(to) <= p.tokens && static_cast<u32>(to - from) <= p.queries;
        if (REPORT && !good) status_report(p.status, STATUS_INDEX, KERNEL_ID, IN_OFFSETS, r, static_cast<u32>(to), p.tokens + 1);
        a.first_token = good ? from : 0;
        a.queries = good ? to - from : 0;
    }
    if (p.lengths != nullptr) {
        const i32 n = p.lengths[r];
        const bool good = n >= 0 && static_cast<u32>(n) <= p.capacity;
        if (REPORT && !good) {
            status_report(p.status, STATUS_INDEX, KERNEL_ID, IN_LENGTHS, r, static_cast<u64>(static_cast<long long>(n)),
                          static_cast<u64>(p.capacity) + 1);
        }
        a.length = n < 0 ? 0 : min(static_cast<u32>(n), p.capacity);
    }
    return a;
}

__device__ __forceinline__ u32 scan_add(u32 v, u32 lane) {
#pragma unroll
    for (u32 d = 1; d < 32; d *= 2) {
        const u32 below = shuffle_up(v, d);
        if (lane >= d) v += below;
    }
    return v;
}

template <u32 CL>
struct Schedule {
    u32 base = 0, items = 0, slots = 0;  // the next 32 requests, and what stands before them
    u32 split_blocks;

    // The split length. Fixed: the plan's, so that a request's splits depend on its own length alone. Else the shortest one
    // with which all items fit the workers once (or no split at all, where that cannot be).
    __device__ __forceinline__ Schedule(const Params& p, u32 lane) {
        split_blocks = p.split_blocks;
        if (split_blocks != 0) return;
        u32 low = 1, high = max(1u, (p.capacity + BLOCK - 1) / BLOCK);
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            u64 total = 0;
            for (u32 b = 0; b < p.batch && total <= p.workers; b += 32) {
                u32 n = 0;
                if (b + lane < p.batch) {
                    const Request a = read_request<false>(p, b + lane);
                    const u32 tiles = (a.queries * p.heads + ROWS * CL - 1) / (ROWS * CL);
                    const u32 blocks = (a.length + BLOCK - 1) / BLOCK;
                    n = tiles * max(1u, (blocks + middle - 1) / middle);
                }
                total += shuffle_from(scan_add(n, lane), 31);
            }
            if (total <= p.workers) high = middle; else low = middle + 1;
        }
        split_blocks = high;
    }

    // Item `k`; items must be asked for in ascending order. False: there are fewer.
    template <bool REPORT>
    __device__ __forceinline__ bool find(const Params& p, u32 k, u32 lane, Work& w) {
        for (; base < p.batch; base += 32) {
            Request a = {0, 0, 0};
            if (base + lane < p.batch) a = read_request<REPORT>(p, base + lane);
            const u32 rows = a.queries * p.heads;
            const u32 tiles = (rows + ROWS * CL - 1) / (ROWS * CL);
            const u32 blocks = (a.length + BLOCK - 1) / BLOCK;
            const u32 splits = max(1u, (blocks + split_blocks - 1) / split_blocks);
            const u32 mine = tiles * splits;
            const u32 my_slots = splits > 1 ? mine * CL : 0;
            const u32 upto = scan_add(mine, lane), slots_upto = scan_add(my_slots, lane);
            const u32 total = shuffle_from(upto, 31);
            if (k - items < total) {
                const u32 who = first_lane(upto > k - items);
                const u32 in = k - items - shuffle_from(upto - mine, who);
                const u32 t = shuffle_from(tiles, who);
                const u32 b = shuffle_from(blocks, who);
                const u32 r = shuffle_from(rows, who);
                w.request = base + who;
                w.tile = in % t * CL + rank_in<CL>();
                w.split = in / t;
                w.splits = shuffle_from(splits, who);
                w.slot_step = t * CL;
                w.slot = slots + shuffle_from(slots_upto - my_slots, who) + w.split * w.slot_step + w.tile;
                w.first_row = shuffle_from(a.first_token, who) * p.heads + w.tile * ROWS;
                w.rows = r > w.tile * ROWS ? min(ROWS, r - w.tile * ROWS) : 0;
                w.queries = shuffle_from(a.queries, who);
                w.length = shuffle_from(a.length, who);
                w.block = w.split * split_blocks;
                w.end = min(b, w.block + split_blocks);
                return true;
            }
            items += total;
            slots += shuffle_from(slots_upto, 31);
        }
        return false;
    }
};

}  // namespace mla
}  // namespace hadal
