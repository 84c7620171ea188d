// D[M,N] = (A * sfa) (B * sfb)^T on Hopper: FP8 operands with fine-grained f32 scales.
//
//   A    [M,K]  E4M3, K contiguous          sfa  f32, one per row and 128 of K, stored M contiguous
//   B    [N,K]  E4M3, K contiguous          sfb  f32, one per 128 x 128 block, stored K contiguous
//   D    [M,N]  bf16 or f32, N contiguous
//
// A persistent grid of one CTA per SM walks tiles of BM x BN. BM/64 math warpgroups own 64 rows of
// the tile each; one thread of a producer warpgroup feeds them through a ring of shared-memory
// stages. Every 128 of K, four m64nNk32 wgmma build a partial sum from zero, which is then promoted:
//     final = fma(rn(sfa * sfb), partial, final)      f32, K-blocks ascending, from final = +0.
//
// docs/gemm.md holds the shared-memory map, the barrier table, who waits for whom and the proofs.
#include "../ptx/mbarrier.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/status.cuh"
#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma.cuh"

namespace hadal {
namespace gemm {

constexpr u32 KERNEL_ID = 1;
constexpr u32 WHERE_LOAD = 1;   // a stage's loads never completed
constexpr u32 WHERE_MATH = 2;   // a stage was full, but the math warps never freed it
constexpr u32 ABORTED = 1;      // the abort word, once the producer gave up

constexpr u32 BK = 128;             // the K-block: bytes of a tile row, and the granularity of scales
constexpr u32 WARPGROUP = 128;      // threads
constexpr u32 SLAB = 64;            // rows of D per math warpgroup
constexpr u32 MAX_GROUP = 16;       // M tiles walked side by side (see tile_at)
constexpr u32 PRODUCER_REGS = 40;
constexpr u32 MAX_SMEM = 232448;    // 227 KiB, what one CTA may have on sm_90

// The one by-value parameter. The host has the same struct (repr(C), align 64).
struct Params {
    TensorMap a;     // u8 {K, M}, box {128, BM}, 128B swizzle
    TensorMap b;     // u8 {K, N}, box {128, BN}, 128B swizzle
    TensorMap sfa;   // f32 {M, ceil(K/128)}, box {BM, 1}, no swizzle
    TensorMap d;     // {N, M}, box {BOX_COLS, 64}, swizzle as the tile says
    const float* sfb;
    u32* status;
    u32 m, n, k, ld_sfb;
    u64 deadline_ns;
};
static_assert(sizeof(Params) == 576 && alignof(Params) == 64, "Params is an interface");

// Everything that follows from a row of the tile table.
template <int BM_, int BN_, int OUT_BYTES_>
struct Tile {
    static constexpr u32 BM = BM_, BN = BN_, OUT_BYTES = OUT_BYTES_;
    static constexpr u32 WARPGROUPS = BM / SLAB;
    static constexpr u32 MATH_THREADS = WARPGROUPS * WARPGROUP;
    static constexpr u32 THREADS = MATH_THREADS + WARPGROUP;
    static constexpr u32 ACC = BN / 2;                        // f32 registers of one fragment
    static constexpr bool STRADDLES = 128 % BN != 0;          // may touch two scale blocks of B
    static constexpr u32 MATH_REGS = WARPGROUPS == 2 ? 232 : 248;

    // One stage of the ring: A, B, SFA, and the two barriers behind them.
    static constexpr u32 A_BYTES = BM * BK, B_BYTES = BN * BK, SFA_BYTES = BM * 4;
    static constexpr u32 B_AT = A_BYTES, SFA_AT = B_AT + B_BYTES;
    static constexpr u32 FULL_AT = SFA_AT + 512, EMPTY_AT = FULL_AT + 8;
    static constexpr u32 STAGE = SFA_AT + 1024;
    static constexpr u32 LOAD_BYTES = A_BYTES + B_BYTES + SFA_BYTES;

    // D: one buffer per math warpgroup. Boxes of 128 bytes in the 128-byte swizzle where BN allows
    // them, else one box as wide as the tile without a swizzle.
    static constexpr bool SWIZZLED = (BN * OUT_BYTES) % 128 == 0 && BN % 128 == 0;
    static constexpr u32 BOX_COLS = SWIZZLED ? 128 / OUT_BYTES : BN;
    static constexpr u32 BOXES = BN / BOX_COLS;
    static constexpr u32 PITCH = BOX_COLS * OUT_BYTES;
    static constexpr u32 BOX_BYTES = SLAB * PITCH;
    static constexpr u32 D_BYTES = BOXES * BOX_BYTES;         // per warpgroup

    // Whole CTA: D buffers | stages | abort word, and a gave-up word per math warpgroup.
    static constexpr u32 STAGES_AT = WARPGROUPS * D_BYTES;
    static constexpr u32 FIT = (MAX_SMEM - 128 - STAGES_AT) / STAGE;
    static constexpr u32 STAGES = FIT < 8 ? FIT : 8;
    static constexpr u32 STAGES_END = STAGES_AT + STAGES * STAGE;
    static constexpr u32 ABORT_AT = STAGES_END;
    static constexpr u32 SMEM = ABORT_AT + 128;

    static_assert(BM % SLAB == 0 && BN % 16 == 0 && BN <= 128, "tile shape");
    static_assert(STAGE % 1024 == 0 && D_BYTES % 1024 == 0, "swizzled tiles start on 1024 bytes");
    static_assert(STAGES >= 4 && SMEM <= MAX_SMEM, "shared memory");
};

struct Coord {
    u32 m0, n0;
};

// Tile index -> coordinates. M tiles go in groups of equal height (at most MAX_GROUP); inside a group
// M runs fastest. A wave of 132 tiles then covers about 16 x 8 tiles, so A and B rows both stay in L2.
template <class T>
struct Walk {
    u32 m_tiles, n_tiles, tiles, group;

    __device__ __forceinline__ explicit Walk(const Params& p) {
        m_tiles = (p.m + T::BM - 1) / T::BM;
        n_tiles = (p.n + T::BN - 1) / T::BN;
        tiles = m_tiles * n_tiles;
        const u32 groups = (m_tiles + MAX_GROUP - 1) / MAX_GROUP;
        group = (m_tiles + groups - 1) / groups;
    }

    __device__ __forceinline__ Coord at(u32 tile) const {
        const u32 per_group = group * n_tiles;
        const u32 first_m = tile / per_group * group;
        const u32 in_group = tile % per_group;
        const u32 height = min(group, m_tiles - first_m);
        return {(first_m + in_group % height) * T::BM, in_group / height * T::BN};
    }
};

// ------------------------------------------------------------------------------------ producer

// Waits until the math warps have freed a stage (`slot`, use number of parity `parity`), i.e. until the
// phase of parity `parity ^ 1` of its empty barrier is over. False: the deadline passed; reported.
template <class T>
__device__ __forceinline__ bool wait_empty(const Params& p, u32 slot, u32 parity) {
    if (mbarrier_try_wait(slot + T::EMPTY_AT, parity ^ 1)) return true;
    const u64 start = global_timer_ns();
    while (!mbarrier_try_wait(slot + T::EMPTY_AT, parity ^ 1)) {
        const u64 waited = global_timer_ns() - start;
        if (waited > p.deadline_ns) {
            // Whose fault: the stage's own loads, or the math warps that should have used them?
            const bool landed = mbarrier_try_wait(slot + T::FULL_AT, parity ^ 1);
            status_report(p.status, STATUS_TIMEOUT, KERNEL_ID, landed ? WHERE_MATH : WHERE_LOAD,
                          blockIdx.x, waited, p.deadline_ns);
            return false;
        }
    }
    return true;
}

template <class T>
__device__ __forceinline__ void produce(const Params& p, u32 smem, const Walk<T>& walk, u32 k_blocks) {
    const u32 first = smem + T::STAGES_AT, end = smem + T::STAGES_END;
    u32 slot = first, parity = 0;
    for (u32 tile = blockIdx.x; tile < walk.tiles; tile += gridDim.x) {
        const Coord at = walk.at(tile);
        for (u32 kb = 0; kb < k_blocks; ++kb) {
            if (!wait_empty<T>(p, slot, parity)) {
                store_relaxed_shared_u32(smem + T::ABORT_AT, ABORTED);
                return;
            }
            const u32 full = slot + T::FULL_AT;
            mbarrier_arrive_expect_tx(full, T::LOAD_BYTES);
            tma_load_2d(slot, p.a, kb * BK, at.m0, full);
            tma_load_2d(slot + T::B_AT, p.b, kb * BK, at.n0, full);
            tma_load_2d(slot + T::SFA_AT, p.sfa, at.m0, kb, full);
            slot += T::STAGE;
            if (slot == end) {
                slot = first;
                parity ^= 1;
            }
        }
    }
    // Stay until the last stages are used: this thread is the watch over everyone's waits.
    for (u32 s = 0; s < T::STAGES; ++s) {
        if (!wait_empty<T>(p, slot, parity)) {
            store_relaxed_shared_u32(smem + T::ABORT_AT, ABORTED);
            return;
        }
        slot += T::STAGE;
        if (slot == end) {
            slot = first;
            parity ^= 1;
        }
    }
}

// ------------------------------------------------------------------------------------ math

// The scales of B for the K-blocks of one segment, one K-block a lane: `near` is the block of the
// tile's first column, `far` the next one, for tiles that straddle.
struct ScaleB {
    float near, far;
};

template <class T>
__device__ __forceinline__ ScaleB load_scale_b(const Params& p, u32 n0, u32 first_kb, u32 k_blocks,
                                               u32 lane) {
    ScaleB s = {0.0f, 0.0f};
    const u32 kb = first_kb + lane;
    if (lane < T::STAGES && kb < k_blocks) {
        const u32 block = n0 / 128;
        s.near = load_global_nc_f32(p.sfb + (static_cast<u64>(block) * p.ld_sfb + kb));
        if (T::STRADDLES) {
            const u32 next = min(block + 1, (p.n - 1) / 128);
            s.far = load_global_nc_f32(p.sfb + (static_cast<u64>(next) * p.ld_sfb + kb));
        }
    }
    return s;
}

// Registers -> the warpgroup's D buffer, in the layout of its TMA boxes.
template <class T>
__device__ __forceinline__ void write_d(const float (&acc)[T::ACC], u32 buffer, u32 warp, u32 lane) {
    if constexpr (T::OUT_BYTES == 2) {
        // stmatrix x4 covers 16 rows x 16 columns: matrices (rows 0-7, 8-15) x (columns 0-7, 8-15).
        const u32 row = 16 * warp + (lane & 15);
        const u32 half = lane >> 4;
        const u32 row_at = buffer + row * T::PITCH;
#pragma unroll
        for (u32 j = 0; j < T::BN / 8; j += 2) {
            const u32 in_box = j % (T::BOX_COLS / 8);
            const u32 box_at = j / (T::BOX_COLS / 8) * T::BOX_BYTES;
            const u32 chunk = T::SWIZZLED ? (in_box + half) ^ (row & 7) : in_box + half;
            stmatrix_x4(row_at + box_at + chunk * 16,
                        pack_bf16(acc[4 * j + 0], acc[4 * j + 1]),
                        pack_bf16(acc[4 * j + 2], acc[4 * j + 3]),
                        pack_bf16(acc[4 * j + 4], acc[4 * j + 5]),
                        pack_bf16(acc[4 * j + 6], acc[4 * j + 7]));
        }
    } else {
        // A thread holds two neighbouring columns of rows r and r + 8: 8 bytes each.
        const u32 row = 16 * warp + lane / 4;
        const u32 t = lane % 4;
        const u32 row_at = buffer + row * T::PITCH;
#pragma unroll
        for (u32 j = 0; j < T::BN / 8; ++j) {
            const u32 in_box = j % (T::BOX_COLS / 8);
            const u32 box_at = j / (T::BOX_COLS / 8) * T::BOX_BYTES;
            const u32 chunk = T::SWIZZLED ? (2 * in_box + t / 2) ^ (row & 7) : 2 * in_box + t / 2;
            const u32 at = row_at + box_at + chunk * 16 + (t & 1) * 8;
            store_shared_v2(at, acc[4 * j + 0], acc[4 * j + 1]);
            store_shared_v2(at + 8 * T::PITCH, acc[4 * j + 2], acc[4 * j + 3]);
        }
    }
}

template <class T>
__device__ __forceinline__ void multiply(const Params& p, u32 smem, const Walk<T>& walk, u32 k_blocks) {
    // Uniform in the warp, and known to be so.
    const u32 warp_in_cta = shuffle_from(threadIdx.x / 32, 0);
    const u32 group = warp_in_cta / 4;
    const u32 warp = warp_in_cta % 4;
    const u32 lane = threadIdx.x % 32;
    const bool leader = threadIdx.x % WARPGROUP == 0;  // issues the stores: bulk groups are per thread
    const u32 barrier_id = 1 + group;
    const u32 d_buffer = smem + group * T::D_BYTES;
    const u32 abort_word = smem + T::ABORT_AT;              // set by the producer
    const u32 gave_up_word = abort_word + 4 + group * 4;    // set by threads of this warpgroup
    u32 row_sfa = T::SFA_AT + (group * SLAB + 16 * warp + lane / 4) * 4;
    keep_in_register(row_sfa);
    const u32 first = smem + T::STAGES_AT, end = smem + T::STAGES_END;

    u32 tile = blockIdx.x;
    if (tile >= walk.tiles) return;
    Coord at = walk.at(tile);
    ScaleB scale_b = load_scale_b<T>(p, at.n0, 0, k_blocks, lane);

    u32 slot = first, parity = 0;
    // Descriptors of the stage, moved along with it. Shared addresses stay below 2^18, so steps never carry.
    const u64 first_a = wgmma_desc(wgmma_desc_low(first + group * (SLAB * BK)));
    const u64 first_b = wgmma_desc(wgmma_desc_low(first + T::B_AT));
    u64 desc_a = first_a, desc_b = first_b;

    for (;;) {
        const u32 next_tile = tile + gridDim.x;
        const Coord next = next_tile < walk.tiles ? walk.at(next_tile) : at;

        float acc[T::ACC], part[T::ACC];
#pragma unroll
        for (u32 i = 0; i < T::ACC; ++i) acc[i] = 0.0f;
        const u32 near_pairs = T::STRADDLES ? (128 - at.n0 % 128) / 16 : 0;  // pairs of 8 columns

        // A segment: K-blocks up to the end of the ring or of K. Parity is constant in it.
        for (u32 kb = 0; kb < k_blocks;) {
            const u32 count = min(k_blocks - kb, (end - slot) / T::STAGE);
            kb += count;
            const bool last = kb == k_blocks;
            const ScaleB scale_b_next =
                load_scale_b<T>(p, last ? next.n0 : at.n0, last ? 0 : kb, k_blocks, lane);
#pragma unroll 1
            for (u32 i = 0; i < count; ++i, slot += T::STAGE) {
                while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {
                    if (load_relaxed_shared_u32(abort_word) != 0) goto tile_done;  // nothing landed to read
                }
                const float sfa0 = load_shared_f32(slot + row_sfa);
                const float sfa8 = load_shared_f32(slot + row_sfa + 8 * 4);

                wgmma_fence();
                wgmma_e4m3<0>(part, desc_a, desc_b);
                wgmma_desc_step<2>(desc_a);
                wgmma_desc_step<2>(desc_b);
                wgmma_e4m3<1>(part, desc_a, desc_b);
                wgmma_desc_step<2>(desc_a);
                wgmma_desc_step<2>(desc_b);
                wgmma_e4m3<1>(part, desc_a, desc_b);
                wgmma_desc_step<2>(desc_a);
                wgmma_desc_step<2>(desc_b);
                wgmma_e4m3<1>(part, desc_a, desc_b);
                wgmma_desc_step<(T::STAGE >> 4) - 6>(desc_a);
                wgmma_desc_step<(T::STAGE >> 4) - 6>(desc_b);
                wgmma_commit_group();
                const float near = shuffle_from(scale_b.near, i);
                const float s0 = __fmul_rn(sfa0, near), s8 = __fmul_rn(sfa8, near);
                float far0 = s0, far8 = s8;
                if (T::STRADDLES) {
                    const float far = shuffle_from(scale_b.far, i);
                    far0 = __fmul_rn(sfa0, far);
                    far8 = __fmul_rn(sfa8, far);
                }
                wgmma_wait_group<0>(part);
                warp_sync();  // every lane has read its SFA values
                if (lane == 0) mbarrier_arrive(slot + T::EMPTY_AT);

#pragma unroll
                for (u32 j = 0; j < T::BN / 8; ++j) {
                    const bool is_near = !T::STRADDLES || j / 2 < near_pairs;
                    const float f0 = is_near ? s0 : far0, f8 = is_near ? s8 : far8;
                    acc[4 * j + 0] = __fmaf_rn(f0, part[4 * j + 0], acc[4 * j + 0]);
                    acc[4 * j + 1] = __fmaf_rn(f0, part[4 * j + 1], acc[4 * j + 1]);
                    acc[4 * j + 2] = __fmaf_rn(f8, part[4 * j + 2], acc[4 * j + 2]);
                    acc[4 * j + 3] = __fmaf_rn(f8, part[4 * j + 3], acc[4 * j + 3]);
                }
            }
            if (slot == end) {
                slot = first;
                desc_a = first_a;
                desc_b = first_b;
                parity ^= 1;
            }
            scale_b = scale_b_next;
        }

tile_done:
        if (load_relaxed_shared_u32(abort_word) != 0) store_relaxed_shared_u32(gave_up_word, 1);
        // Once the leader's previous store has read the buffer, all of the warpgroup may write it.
        if (leader) tma_wait_group_read<0>();
        named_barrier_sync<WARPGROUP>(barrier_id);
        // The same answer in the whole warpgroup, whose threads wrote it before the barrier.
        if (load_relaxed_shared_u32(gave_up_word) != 0) break;
        write_d<T>(acc, d_buffer, warp, lane);
        fence_proxy_async_shared();
        named_barrier_sync<WARPGROUP>(barrier_id);
        if (leader && at.m0 + group * SLAB < p.m) {
#pragma unroll
            for (u32 box = 0; box < T::BOXES; ++box) {
                const u32 n = at.n0 + box * T::BOX_COLS;
                if (n < p.n) tma_store_2d(p.d, n, at.m0 + group * SLAB, d_buffer + box * T::BOX_BYTES);
            }
            tma_commit_group();
        }

        if (next_tile >= walk.tiles) break;
        tile = next_tile;
        at = next;
    }
    if (leader) tma_wait_group<0>();
}

// ------------------------------------------------------------------------------------ kernel

template <class T>
__device__ __forceinline__ void run(const Params& p) {
    extern __shared__ __align__(1024) u8 dynamic_smem[];
    const u32 smem = shared_address(dynamic_smem);
    const Walk<T> walk(p);
    const u32 k_blocks = (p.k + BK - 1) / BK;

    if (threadIdx.x == 0) {
        tma_prefetch_map(p.a);
        tma_prefetch_map(p.b);
        tma_prefetch_map(p.sfa);
        tma_prefetch_map(p.d);
#pragma unroll
        for (u32 s = 0; s < T::STAGES; ++s) {
            const u32 slot = smem + T::STAGES_AT + s * T::STAGE;
            mbarrier_init(slot + T::FULL_AT, 1);                     // the producer thread
            mbarrier_init(slot + T::EMPTY_AT, T::MATH_THREADS / 32); // one lane of each math warp
        }
#pragma unroll
        for (u32 w = 0; w < 1 + T::WARPGROUPS; ++w) store_relaxed_shared_u32(smem + T::ABORT_AT + w * 4, 0);
        fence_mbarrier_init();
    }
    cta_sync();

    if (threadIdx.x >= T::MATH_THREADS) {
        setmaxnreg_dec<PRODUCER_REGS>();
        if (threadIdx.x < T::MATH_THREADS + 32 && elect_one()) produce<T>(p, smem, walk, k_blocks);
    } else {
        setmaxnreg_inc<T::MATH_REGS>();
        multiply<T>(p, smem, walk, k_blocks);
    }
}

}  // namespace gemm
}  // namespace hadal

#define HADAL_GEMM_ENTRY(BM, BN, NAME, OUT_BYTES)                                       \
    extern "C" __global__ void                                                          \
    __launch_bounds__(hadal::gemm::Tile<BM, BN, OUT_BYTES>::THREADS, 1)                 \
        sm90_fp8_gemm_1d2d_##BM##x##BN##_##NAME(                                        \
            const __grid_constant__ hadal::gemm::Params p) {                            \
        hadal::gemm::run<hadal::gemm::Tile<BM, BN, OUT_BYTES>>(p);                      \
    }

HADAL_GEMM_ENTRY(128, 128, bf16, 2)
HADAL_GEMM_ENTRY(128, 128, f32, 4)
HADAL_GEMM_ENTRY(64, 128, bf16, 2)
HADAL_GEMM_ENTRY(64, 128, f32, 4)
HADAL_GEMM_ENTRY(128, 112, bf16, 2)
HADAL_GEMM_ENTRY(128, 112, f32, 4)
