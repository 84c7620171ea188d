// The math warpgroups: per tile the sums of all K-blocks, then an epilogue.
#pragma once
#include "../../ptx/cluster.cuh"
#include "../../ptx/mbarrier.cuh"
#include "../../ptx/memory.cuh"
#include "../../ptx/sync.cuh"
#include "../../ptx/wgmma.cuh"
#include "tile.cuh"

namespace hadal {
namespace gemm {

// The tile as a math warp sees it.
template <class T>
struct Record {
    u32 m0, n0, group;
    // Per slab of the warpgroup: bits 0-15 this warp's 16 rows, bit 16 all of the slab's rows exist, bit 17 some do.
    u32 rows[T::DOWN];
};

constexpr u32 NOBODY = ~0u;
constexpr u32 SLAB_WHOLE = 1u << 16, SLAB_SOME = 1u << 17;

// Places of a math thread.
struct Place {
    u32 warp, lane;      // in the warpgroup, in the warp
    u32 group_m, group_n;  // warpgroup in the tile
    bool leader;         // of the warpgroup: issues its stores, as bulk groups belong to a thread
};

// Reads the record of the stage's tile. False: there is none, the work is done.
template <class T>
__device__ __forceinline__ bool read_record(u32 slot, const Place& at, Record<T>& r) {
    u32 stop;
    load_shared_v4(slot + T::RECORD_AT, r.m0, r.n0, r.group, stop);
    if (stop != 0) return false;
#pragma unroll
    for (u32 i = 0; i < T::DOWN; ++i) {
        u32 low, high;
        load_shared_v2(slot + T::MASK_AT + (at.group_m * T::DOWN + i) * 8, low, high);
        const u32 own = at.warp < 2 ? low : high;
        r.rows[i] = (own >> (at.warp % 2 * 16) & 0xffff) | ((low & high) == ~0u ? SLAB_WHOLE : 0) |
                    ((low | high) != 0 ? SLAB_SOME : 0);
    }
    return true;
}

// Waits until the stage is full. False: it never will be.
template <class T>
__device__ __forceinline__ bool wait_full(u32 slot, u32 parity, u32 abort_word) {
    while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {
        if (load_relaxed_shared_u32(abort_word) != 0) return false;
    }
    return true;
}

// The scale of columns 8j .. 8j+7 of a piece: `near` below the tile's first multiple of 128, `far` from there on.
//   EPILOGUE::PAIRS   64 columns of gate, 64 of up: two blocks
template <class T, bool PAIRS>
__device__ __forceinline__ float scale_of(u32 j, u32 near_cols, float near, float far) {
    if (PAIRS) return j < 8 ? near : far;
    if (!T::STRADDLES) return near;
    const u32 grain = 8 * j / T::GRAIN * T::GRAIN;
    if (grain == 0) return near;     // a tile starts in its near block, and on a multiple of GRAIN
    if (grain >= 128) return far;
    return grain < near_cols ? near : far;
}

template <class T, class Epilogue>
__device__ __forceinline__ void multiply(const Params& p, u32 smem, u32 k_blocks) {
    // Uniform in the warp, and known to be so.
    const u32 warp_in_cta = shuffle_from(threadIdx.x / 32, 0);
    const u32 warpgroup = warp_in_cta / 4;
    const Place at = {warp_in_cta % 4, threadIdx.x % 32, warpgroup / T::SIDE_BY_SIDE, warpgroup % T::SIDE_BY_SIDE,
                      threadIdx.x % WARPGROUP == 0};
    const u32 abort_word = smem + p.extra;                       // set by the producer
    const u32 gave_up_word = abort_word + 4 + at.group_m * 4;    // set by threads of this team
    const u32 team_barrier = 1 + at.group_m;

    const u32 pitch = p.sfa_pitch;          // bytes from row to row of SFA
    u32 row_sfa = T::SFA_AT + (at.group_m * (T::DOWN * SLAB) + 16 * at.warp + at.lane / 4) * pitch;
    u32 row_sfa8 = row_sfa + 8 * pitch;
    keep_in_register(row_sfa);
    keep_in_register(row_sfa8);
    const bool paired = p.flags & (SHARE_A | SHARE_B);
    // Lane l tells CTA l of the pair that this warp is done with a stage; a lone CTA has rank 0.
    u32 told = at.lane < (paired ? 2 : 1) ? at.lane : NOBODY;
    keep_in_register(told);

    // In uniform registers for good: else the compiler loads them from the parameters in each turn.
    const u32 stage = any_bits(p.stage), k_step = any_bits(32 / 16);
    const u32 slab_pitch = T::DOWN > 1 ? any_bits(SLAB * p.sfa_pitch) : 0;
    const u32 first = smem + p.ring;
    u32 slot = first, parity = 0, left = p.stages;
    // Descriptors of the stage, moved along with it. Shared addresses stay below 2^18, so steps never carry.
    const u64 first_a = wgmma_desc(wgmma_desc_low(first + at.group_m * (T::DOWN * SLAB * BK)));
    const u64 first_b = wgmma_desc(wgmma_desc_low(first + T::B_AT + at.group_n * (T::ACROSS * T::MMA_N * BK)));
    u64 desc_a = first_a, desc_b = first_b;
    // From the last step of one piece to the first of the next, and on to the next stage; in units of 16 bytes.
    constexpr u32 DOWN_STEP = (T::DOWN > 1 ? SLAB * BK / 16 : 0), ACROSS_STEP = (T::ACROSS > 1 ? T::MMA_N * BK / 16 : 0);
    const u32 next_a = any_bits((stage >> 4) - 6 - (T::PIECES - 1) * DOWN_STEP);
    const u32 next_b = any_bits((stage >> 4) - 6 - (T::PIECES - 1) * ACROSS_STEP);

    Epilogue epilogue;
    for (;;) {
        Record<T> record;
        // Where nothing will land no row exists: the warpgroup goes on to where it meets.
        const bool landed = wait_full<T>(slot, parity, abort_word);
        if (landed && !read_record<T>(slot, at, record)) break;
        u32 some = 0;
#pragma unroll
        for (u32 i = 0; i < T::DOWN; ++i) some |= landed ? record.rows[i] & SLAB_SOME : 0;
        some = any_bits(some);  // uniform, and known to be so: a shuffle's result is not

        float acc[T::PIECES][T::ACC], part[T::ACC];
        if (some == 0) {
            // No row of this warpgroup exists: it only frees the stages.
            for (u32 kb = k_blocks; kb != 0; --kb) {
                if (!wait_full<T>(slot, parity, abort_word)) break;
                warp_sync();
                if (told != NOBODY) mbarrier_arrive_at(slot + T::EMPTY_AT, told);
                slot += stage;
                wgmma_desc_step(desc_a, stage >> 4);
                wgmma_desc_step(desc_b, stage >> 4);
                if (--left == 0) {
                    slot = first;
                    desc_a = first_a;
                    desc_b = first_b;
                    parity ^= 1;
                    left = p.stages;
                }
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < T::PIECES; ++i)
#pragma unroll
                for (u32 j = 0; j < T::ACC; ++j) acc[i][j] = 0.0f;
            const u32 near_cols = 128 - record.n0 % 128;

            // K-blocks up to the end of the ring or of K: parity is constant among them.
            for (u32 kb = k_blocks; kb != 0;) {
                u32 count = min(kb, left);
                kb -= count;
                left -= count;
#pragma unroll 1
                do {
                    while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {
                        if (load_relaxed_shared_u32(abort_word) != 0) goto summed;  // nothing landed to read
                    }
                    float near, far;
                    load_shared_v2(slot + T::SFB_AT, near, far);
#pragma unroll
                    for (u32 i = 0; i < T::PIECES; ++i) {
                        const u32 slab = slot + i * slab_pitch;
                        const float sfa0 = load_shared_f32(slab + row_sfa);
                        const float sfa8 = load_shared_f32(slab + row_sfa8);
                        wgmma_fence();
                        wgmma_e4m3<0>(part, desc_a, desc_b);
#pragma unroll
                        for (u32 k = 1; k < 4; ++k) {
                            wgmma_desc_step(desc_a, k_step);
                            wgmma_desc_step(desc_b, k_step);
                            wgmma_e4m3<1>(part, desc_a, desc_b);
                        }
                        if (i + 1 == T::PIECES) {
                            wgmma_desc_step(desc_a, next_a);
                            wgmma_desc_step(desc_b, next_b);
                        } else {
                            wgmma_desc_step<DOWN_STEP - 6>(desc_a);
                            wgmma_desc_step<ACROSS_STEP - 6>(desc_b);
                        }
                        wgmma_commit_group();
                        const float near0 = __fmul_rn(sfa0, near), near8 = __fmul_rn(sfa8, near);
                        float far0 = near0, far8 = near8;
                        if (T::STRADDLES || Epilogue::PAIRS) {
                            far0 = __fmul_rn(sfa0, far);
                            far8 = __fmul_rn(sfa8, far);
                        }
                        wgmma_wait_group<0>(part);
                        if (i + 1 == T::PIECES) {
                            warp_sync();  // every lane has read its scales
                            if (told != NOBODY) mbarrier_arrive_at(slot + T::EMPTY_AT, told);
                        }
#pragma unroll
                        for (u32 j = 0; j < T::MMA_N / 8; ++j) {
                            const float f0 = scale_of<T, Epilogue::PAIRS>(j, near_cols, near0, far0);
                            const float f8 = scale_of<T, Epilogue::PAIRS>(j, near_cols, near8, far8);
                            acc[i][4 * j + 0] = __fmaf_rn(f0, part[4 * j + 0], acc[i][4 * j + 0]);
                            acc[i][4 * j + 1] = __fmaf_rn(f0, part[4 * j + 1], acc[i][4 * j + 1]);
                            acc[i][4 * j + 2] = __fmaf_rn(f8, part[4 * j + 2], acc[i][4 * j + 2]);
                            acc[i][4 * j + 3] = __fmaf_rn(f8, part[4 * j + 3], acc[i][4 * j + 3]);
                        }
                    }
                    slot += stage;
                } while (--count != 0);
                if (left == 0) {
                    slot = first;
                    desc_a = first_a;
                    desc_b = first_b;
                    parity ^= 1;
                    left = p.stages;
                }
            }
        }

summed:
        if (load_relaxed_shared_u32(abort_word) != 0) store_relaxed_shared_u32(gave_up_word, 1);
        epilogue.before_writing(at);
        named_barrier_sync<T::TEAM>(team_barrier);
        // The same answer in the whole team, whose threads wrote it before the barrier.
        if (load_relaxed_shared_u32(gave_up_word) != 0) break;
        if (some != 0) epilogue.write(p, smem, at, record, acc);
    }
    epilogue.end(at);
}

}  // namespace gemm
}  // namespace hadal
