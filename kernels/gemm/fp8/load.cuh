// The producer warps: they walk the tiles and fill the ring of stages, whose full barriers hand them to the math warps.
//
// One warp does all when A comes by the copy engine. With the gather all four copy rows of A and scales, 16 and 4 bytes a thread;
// the first still loads B. The first also writes into the stage what the math warps cannot know: scales of B, and with the first
// K-block of a tile its record. A stage with a record that says stop is the last one.
#pragma once
#include "../../ptx/async_copy.cuh"
#include "../../ptx/cluster.cuh"
#include "../../ptx/grid.cuh"
#include "../../ptx/mbarrier.cuh"
#include "../../ptx/memory.cuh"
#include "../../ptx/status.cuh"
#include "../../ptx/sync.cuh"
#include "../../ptx/tma.cuh"
#include "schedule.cuh"

namespace hadal {
namespace gemm {

constexpr u32 GATHER_WARPS = 4;
constexpr u32 GATHER_LAG = 2;  // stages whose copies are under way while the next is asked for

// The ring of stages as one role sees it: use u of a stage has parity u & 1.
struct Ring {
    u32 slot, parity;

    __device__ __forceinline__ Ring(const Params& p, u32 smem) : slot(smem + p.ring), parity(0) {}

    __device__ __forceinline__ void advance(const Params& p, u32 smem) {
        slot = next(p, smem, slot);
        if (slot == smem + p.ring) parity ^= 1;
    }

    // The stage after that of `slot`.
    __device__ __forceinline__ static u32 next(const Params& p, u32 smem, u32 slot) {
        return slot + p.stage == smem + p.extra ? smem + p.ring : slot + p.stage;
    }
};

// Waits until the math warps (of both CTAs of a pair) have freed the ring's stage, i.e. until the phase of parity `parity ^ 1` of
// its empty barrier is over. False: the deadline passed; reported, and the abort word is set.
template <class T>
__device__ __forceinline__ bool wait_empty(const Params& p, u32 smem, const Ring& ring) {
    const u32 empty = ring.slot + T::EMPTY_AT;
    if (mbarrier_try_wait_cluster(empty, ring.parity ^ 1)) return true;
    const u64 start = global_timer_ns();
    while (!mbarrier_try_wait_cluster(empty, ring.parity ^ 1)) {
        const u64 waited = global_timer_ns() - start;
        if (waited > p.deadline_ns) {
            // Whose fault: the stage's own loads, or the math warps that should have used them?
            const bool landed = mbarrier_try_wait(ring.slot + T::FULL_AT, ring.parity ^ 1);
            status_report(p.status, STATUS_TIMEOUT, KERNEL_ID, landed ? WHERE_MATH : WHERE_LOAD,
                          blockIdx.x, waited, p.deadline_ns);
            store_relaxed_shared_u32(smem + p.extra, ABORTED);
            return false;
        }
    }
    return true;
}

// The scales of B for 32 K-blocks of a tile, one K-block a lane: `near` is the scale block of the tile's first column, `far` the
// next one.
struct ScaleB {
    float near, far;
};

__device__ __forceinline__ ScaleB load_scale_b(const Params& p, const Work& w, u32 first_kb, u32 k_blocks, u32 lane) {
    ScaleB s = {0.0f, 0.0f};
    const u32 kb = first_kb + lane;
    if (kb < k_blocks && w.n0 < p.n) {
        const u32 block = w.n0 / 128, next = min(block + 1, (p.n - 1) / 128);
        const float* of_group = p.sfb + w.group * p.sfb_group + kb;
        s.near = load_global_nc_f32(of_group + static_cast<u64>(block) * p.ld_sfb);
        s.far = load_global_nc_f32(of_group + static_cast<u64>(next) * p.ld_sfb);
    }
    return s;
}

// Row masks of a tile whose first `rows` rows exist: bit r % 32 of word r / 32.
__device__ __forceinline__ u32 mask_word(u32 rows, u32 word) {
    const u32 n = rows > 32 * word ? min(rows - 32 * word, 32u) : 0;
    return n == 32 ? ~0u : (1u << n) - 1;
}

// Asks the copy engine for B, and without the gather for A and its scales. One thread.
template <class T>
__device__ __forceinline__ void load_stage(const Params& p, u32 slot, const Work& w, u32 kb, u32 rank) {
    const u32 full = slot + T::FULL_AT;
    const u32 flags = p.flags;
    const bool gathered = flags & GATHER;
    const u32 sfa_bytes = flags & SFA_ROW_MAJOR ? T::BM * 16 : T::BM * 4;
    mbarrier_arrive_expect_tx(full, gathered ? T::B_BYTES : T::A_BYTES + T::B_BYTES + sfa_bytes);
    const u32 k = kb * BK;
    if (flags & SHARE_B)
        tma_load_3d_multicast(slot + T::B_AT + rank * (T::B_BYTES / 2), p.b, k, w.n0 + rank * (T::BN / 2), w.group, full, 3);
    else
        tma_load_3d(slot + T::B_AT, p.b, k, w.n0, w.group, full);
    if (gathered) return;
    const u32 layer = p.rows == ROWS_COUNTS ? w.group : 0;
    if (flags & SHARE_A)
        tma_load_3d_multicast(slot + rank * (T::A_BYTES / 2), p.a, k, w.m0 + rank * (T::BM / 2), layer, full, 3);
    else
        tma_load_3d(slot, p.a, k, w.m0, layer, full);
    const bool by_row = flags & SFA_ROW_MAJOR;
    tma_load_3d(slot + T::SFA_AT, p.sfa, by_row ? kb : w.m0, by_row ? w.m0 : kb, layer, full);
}

// One warp: everything by the copy engine.
template <class T>
__device__ __forceinline__ void produce(const Params& p, u32 smem, u32 k_blocks, u32 lane) {
    Ring ring(p, smem);
    Schedule<T> schedule(p, smem);
    Work w;
    bool more = schedule.next(p, lane, w);
    ScaleB ahead = {0.0f, 0.0f};
    if (more) ahead = load_scale_b(p, w, 0, k_blocks, lane);
    while (more) {
        Work next;
        more = schedule.next(p, lane, next);
        ScaleB now = {0.0f, 0.0f};
        for (u32 kb = 0; kb < k_blocks; ++kb) {
            if (kb % 32 == 0) {
                now = ahead;
                if (kb + 32 < k_blocks) ahead = load_scale_b(p, w, kb + 32, k_blocks, lane);
                else if (more) ahead = load_scale_b(p, next, 0, k_blocks, lane);
            }
            if (!wait_empty<T>(p, smem, ring)) return;
            const u32 record = ring.slot + T::RECORD_AT;
            if (kb == 0) {
                if (lane < T::BM / 32) store_shared_u32(ring.slot + T::MASK_AT + lane * 4, mask_word(w.rows, lane));
                if (lane == 0) store_shared_v4(record, w.m0, w.n0, w.group, 0);
            }
            if (lane == kb % 32) store_shared_v2(ring.slot + T::SFB_AT, now.near, now.far);
            warp_sync();
            if (elect_one()) load_stage<T>(p, ring.slot, w, kb, schedule.rank);
            warp_sync();
            ring.advance(p, smem);
        }
        w = next;
    }
    grid_launch_dependents();
    if (!wait_empty<T>(p, smem, ring)) return;
    if (lane == 0) {
        store_shared_v4(ring.slot + T::RECORD_AT, 0, 0, 0, 1);
        mbarrier_arrive(ring.slot + T::FULL_AT);
    }
    // Stay until the other stages are used up: this warp is the watch over everyone's waits.
    for (u32 s = 1; s < p.stages; ++s) {
        ring.advance(p, smem);
        if (!wait_empty<T>(p, smem, ring)) return;
    }
}

// Four warps: rows of A by index. Thread t copies 16 bytes of each of rows t / 8, t / 8 + 16, ...: a warp's copy reads four
// whole lines. What is copied is visible to wgmma once its thread has waited and fenced; then a lane of each warp arrives.
template <class T>
__device__ __forceinline__ void produce_gathered(const Params& p, u32 smem, u32 k_blocks, u32 warp, u32 lane) {
    constexpr u32 STEPS = T::BM / 16;
    const u32 thread = warp * 32 + lane;
    const u32 chunk = thread % 8;
    // Bytes of the chunk in the 128-byte swizzle: chunks of a row change places with row % 8, and so (t / 8) % 8 does.
    const u32 in_tile = thread / 8 * BK + ((chunk ^ (thread / 8 % 8)) * 16);
    Ring ring(p, smem);
    u32 behind = ring.slot;  // the oldest stage whose copies nobody has told of
    u32 pending = 0;
    Schedule<T> schedule(p, smem);
    Work w;
    while (schedule.next(p, lane, w)) {
        u32 from[STEPS];  // source rows, ~0 for rows that do not exist
        u32 first_row = thread / 8;
        keep_in_register(first_row);  // else the rows are kept from tile to tile
#pragma unroll
        for (u32 i = 0; i < STEPS; ++i) {
            const u32 row = first_row + 16 * i;
            from[i] = row < w.rows ? load_global_u32(p.gather + w.m0 + row) : ~0u;
            if (from[i] >= p.a_rows) from[i] = ~0u;
        }
        u32 own = ~0u;
        if (thread < w.rows) {
            own = load_global_u32(p.gather + w.m0 + thread);
            if (own >= p.a_rows) {
                if (w.n0 == 0) status_report(p.status, STATUS_INDEX, KERNEL_ID, INDEX_GATHER, blockIdx.x, own, p.a_rows);
                own = ~0u;
            }
        }
        const u32 mask = ballot(own != ~0u);
        ScaleB now = {0.0f, 0.0f};
        for (u32 kb = 0; kb < k_blocks; ++kb) {
            if (warp == 0 && kb % 32 == 0) now = load_scale_b(p, w, kb, k_blocks, lane);
            if (!wait_empty<T>(p, smem, ring)) return;
            if (kb == 0 && lane == 0 && warp < T::BM / 32) store_shared_u32(ring.slot + T::MASK_AT + warp * 4, mask);
            if (warp == 0) {
                if (kb == 0 && lane == 0) store_shared_v4(ring.slot + T::RECORD_AT, w.m0, w.n0, w.group, 0);
                if (lane == kb % 32) store_shared_v2(ring.slot + T::SFB_AT, now.near, now.far);
                warp_sync();
                if (elect_one()) load_stage<T>(p, ring.slot, w, kb, 0);
                warp_sync();
            }
            const u32 k = kb * BK + chunk * 16;
#pragma unroll
            for (u32 i = 0; i < STEPS; ++i) {
                const bool there = from[i] != ~0u && k < p.k;
                const u8* src = p.a_data + (there ? static_cast<u64>(from[i]) * p.ld_a + k : 0);
                copy_async_16(ring.slot + in_tile + i * (16 * BK), src, there ? 16 : 0);
            }
            if (thread < T::BM) {
                const bool there = own != ~0u;
                const float* src = p.sfa_data + (there ? own * p.sfa_row + kb * p.sfa_block : 0);
                copy_async_4(ring.slot + T::SFA_AT + thread * 4, src, there ? 4 : 0);
            }
            copy_async_commit();
            ring.advance(p, smem);
            if (pending == GATHER_LAG) {
                copy_async_wait<GATHER_LAG>();
                fence_proxy_async_shared();
                warp_sync();
                if (lane == 0) mbarrier_arrive(behind + T::FULL_AT);
                behind = Ring::next(p, smem, behind);
            } else {
                ++pending;
            }
        }
    }
    copy_async_wait<0>();
    fence_proxy_async_shared();
    warp_sync();
    for (; pending != 0; --pending) {
        if (lane == 0) mbarrier_arrive(behind + T::FULL_AT);
        behind = Ring::next(p, smem, behind);
    }
    grid_launch_dependents();
    if (!wait_empty<T>(p, smem, ring)) return;
    if (lane == 0) {
        if (warp == 0) {
            store_shared_v4(ring.slot + T::RECORD_AT, 0, 0, 0, 1);
            mbarrier_arrive(ring.slot + T::FULL_AT);
        }
        mbarrier_arrive(ring.slot + T::FULL_AT);
    }
    for (u32 s = 1; s < p.stages; ++s) {
        ring.advance(p, smem);
        if (!wait_empty<T>(p, smem, ring)) return;
    }
}

}  // namespace gemm
}  // namespace hadal
