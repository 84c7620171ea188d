// Which tile a CTA works on. Only producer warps ask; the math warps find the answer in the stage (Record).
//
//   ROWS_ONE_GROUP   A [M,K], B [1,N,K]
//   ROWS_COUNTS      A [G,M,K], B [G,N,K]; group g has rows [0, index[g])
//   ROWS_ENDS        A [M,K], B [G,N,K]; group g has rows [index[g-1], index[g]), index[-1] = 0
//   ROWS_EXPERTS     A [M,K], B [G,N,K]; row i belongs to group index[i], all rows of a group lie together; -1: to none
//
// Rows of groups need no alignment: a tile starts at the group's row and its record says which of its rows exist.
// Index buffers are not trusted. What is out of range is left out and reported:
//   a count above M: the group; an end above M or below one before it: the group, and those that start at it;
//   an expert that is no group: the row; an expert found in two places: the group.
#pragma once
#include "../../ptx/cluster.cuh"
#include "../../ptx/memory.cuh"
#include "../../ptx/status.cuh"
#include "../../ptx/sync.cuh"
#include "tile.cuh"

namespace hadal {
namespace gemm {

// A row of the table of groups in shared memory.
constexpr u32 GROUP_BYTES = 12;
constexpr u32 GROUP_TILES = 0;  // tiles (or pairs) of this and all groups before
constexpr u32 GROUP_START = 4;  // first row
constexpr u32 GROUP_ROWS = 8;   // rows

struct Work {
    u32 m0, n0;    // m0 counts rows of the operand: of the group with ROWS_COUNTS, else of all
    u32 group;
    u32 rows;      // rows of the tile that exist, 0..BM
};

template <class T>
__device__ __forceinline__ u32 m_units(const Params& p, u32 rows) {
    const u32 tiles = (rows + T::BM - 1) / T::BM;
    return p.flags & SHARE_B ? (tiles + 1) / 2 : tiles;
}

// ROWS_EXPERTS, all threads of the CTA: finds where each group's rows start and end. The table must be {0 runs, ~0, 0}.
__device__ __forceinline__ void find_runs(const Params& p, u32 table) {
    for (u32 i = threadIdx.x; i < p.m; i += blockDim.x) {
        const u32 expert = load_global_u32(p.index + i);
        if (expert >= p.groups) {
            if (expert != ~0u && blockIdx.x == 0)
                status_report(p.status, STATUS_INDEX, KERNEL_ID, INDEX_EXPERTS, 0, expert, p.groups);
            continue;
        }
        const u32 row = table + expert * GROUP_BYTES;
        if (i == 0 || load_global_u32(p.index + i - 1) != expert) {
            add_shared_u32(row + GROUP_TILES, 1);
            min_shared_u32(row + GROUP_START, i);
        }
        if (i + 1 == p.m || load_global_u32(p.index + i + 1) != expert) max_shared_u32(row + GROUP_ROWS, i + 1);
    }
}

// One warp: start and rows of each group, then the running sum of tiles. A lane has `per` neighbouring groups.
template <class T>
__device__ __forceinline__ void fill_table(const Params& p, u32 table, u32 lane) {
    const u32 per = (p.groups + 31) / 32;
    const u32 first = lane * per, end = min(first + per, p.groups);
    // ROWS_ENDS: no end may lie below one before it, so that no two groups share a row.
    u32 highest = 0;
    if (p.rows == ROWS_ENDS) {
        u32 own = 0;
        for (u32 g = first; g < end; ++g) own = max(own, load_global_u32(p.index + g));
        for (u32 step = 1; step < 32; step *= 2) {
            const u32 before = shuffle_up(own, step);
            if (lane >= step) own = max(own, before);
        }
        const u32 before = shuffle_up(own, 1);
        highest = lane == 0 ? 0 : before;
    }
    u32 sum = 0;
    bool bad = false;
    u32 got = 0, limit = 0;
    for (u32 g = first; g < end; ++g) {
        const u32 at = table + g * GROUP_BYTES;
        u32 start = 0, rows = 0;
        bool wrong = false;
        u32 seen = 0, bound = p.m;
        if (p.rows == ROWS_COUNTS) {
            seen = load_global_u32(p.index + g);
            wrong = seen > p.m;
            rows = seen;
        } else if (p.rows == ROWS_ENDS) {
            seen = load_global_u32(p.index + g);
            start = g == 0 ? 0 : load_global_u32(p.index + g - 1);
            wrong = seen > p.m || seen < highest || start != highest;
            highest = max(highest, seen);
            rows = seen - start;
        } else {
            const u32 runs = load_shared_u32(at + GROUP_TILES);
            seen = g;
            bound = p.groups;
            wrong = runs > 1;
            start = load_shared_u32(at + GROUP_START);
            rows = runs == 0 ? 0 : load_shared_u32(at + GROUP_ROWS) - start;
        }
        if (wrong) {
            rows = 0;
            if (!bad) {
                got = seen;
                limit = bound;
            }
            bad = true;
        }
        sum += m_units<T>(p, rows) * p.n_units;
        store_shared_u32(at + GROUP_TILES, sum);
        store_shared_u32(at + GROUP_START, start);
        store_shared_u32(at + GROUP_ROWS, rows);
    }
    u32 total = sum;
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 before = shuffle_up(total, step);
        if (lane >= step) total += before;
    }
    const u32 base = total - sum;
    for (u32 g = first; g < end; ++g) {
        const u32 at = table + g * GROUP_BYTES + GROUP_TILES;
        store_shared_u32(at, load_shared_u32(at) + base);
    }
    // The first bad group tells, once for the grid.
    const u32 bad_lanes = ballot(bad);
    if (blockIdx.x == 0 && bad_lanes != 0 && lane == __ffs(bad_lanes) - 1) {
        const u32 which = p.rows == ROWS_COUNTS ? INDEX_COUNTS : p.rows == ROWS_ENDS ? INDEX_ENDS : INDEX_EXPERTS;
        status_report(p.status, STATUS_INDEX, KERNEL_ID, which, 0, got, limit);
    }
}

// Walks the tiles of this CTA. Called by whole, converged warps.
//
// Tiles of a group go in bands of equal height (at most p.walk tiles along M); inside a band M runs fastest, so that a wave of
// CTAs covers a block of tiles whose rows of A and B stay in L2. With pairs, a unit is two tiles along the axis not shared.
template <class T>
struct Schedule {
    u32 unit, step, rank, table;

    __device__ __forceinline__ Schedule(const Params& p, u32 smem) {
        const u32 size = p.flags & (SHARE_A | SHARE_B) ? 2 : 1;
        rank = size == 2 ? cluster_rank() : 0;
        unit = blockIdx.x / size;
        step = gridDim.x / size;
        table = smem + p.extra + T::TABLE_AT;
    }

    // The next tile, or false.
    __device__ __forceinline__ bool next(const Params& p, u32 lane, Work& w) {
        u32 local = unit, group = 0, start = 0, rows = p.m;
        if (p.rows != ROWS_ONE_GROUP) {
            // The first group whose running sum is beyond the unit: by lanes of `per` groups, then in those.
            const u32 per = (p.groups + 31) / 32;
            const u32 last = min((lane + 1) * per, p.groups) - 1;
            const u32 beyond = ballot(load_shared_u32(table + last * GROUP_BYTES + GROUP_TILES) > unit);
            if (beyond == 0) return false;
            const u32 chunk = (__ffs(beyond) - 1) * per;
            const u32 mine = min(chunk + lane, p.groups - 1);
            const u32 inside = ballot(load_shared_u32(table + mine * GROUP_BYTES + GROUP_TILES) > unit);
            group = chunk + __ffs(inside) - 1;
            const u32 at = table + group * GROUP_BYTES;
            local = unit - (group == 0 ? 0 : load_shared_u32(at - GROUP_BYTES + GROUP_TILES));
            start = load_shared_u32(at + GROUP_START);
            rows = load_shared_u32(at + GROUP_ROWS);
        }
        const u32 units = m_units<T>(p, rows);
        if (p.rows == ROWS_ONE_GROUP && local >= units * p.n_units) return false;
        const u32 bands = (units + p.walk - 1) / p.walk;
        const u32 band = (units + bands - 1) / bands;
        const u32 per_band = band * p.n_units;
        const u32 first = local / per_band * band;
        const u32 in_band = local % per_band;
        const u32 height = min(band, units - first);
        const u32 mu = first + in_band % height, nu = in_band / height;
        const u32 m = (p.flags & SHARE_B ? 2 * mu + rank : mu) * T::BM;
        const u32 n = (p.flags & SHARE_A ? 2 * nu + rank : nu) * T::BN;
        // The second tile of the last pair may not exist: it is loaded (zeros) and computed, but has no rows.
        w.rows = m < rows && n < p.n ? min(rows - m, T::BM) : 0;
        w.m0 = start + m;
        w.n0 = n;
        w.group = group;
        unit += step;
        return true;
    }
};

}  // namespace gemm
}  // namespace hadal
