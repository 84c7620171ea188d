// What host and device agree on (Params), and what follows from a row of the tile table (Tile).
#pragma once
#include "../../ptx/tma.cuh"
#include "../../ptx/types.cuh"

namespace hadal {
namespace gemm {

constexpr u32 KERNEL_ID = 1;  // dense, grouped and SwiGLU
// Places in the kernel, for the status.
constexpr u32 WHERE_LOAD = 1;     // a stage's loads never completed
constexpr u32 WHERE_MATH = 2;     // a stage was full, but the math warps never freed it
// Index buffers, for the status.
constexpr u32 INDEX_COUNTS = 1;
constexpr u32 INDEX_ENDS = 2;
constexpr u32 INDEX_EXPERTS = 3;
constexpr u32 INDEX_GATHER = 4;
constexpr u32 ABORTED = 1;        // the abort word, once the producer gave up

constexpr u32 BK = 128;           // the K-block: bytes of a tile row, and the granularity of scales
constexpr u32 WARPGROUP = 128;    // threads
constexpr u32 SLAB = 64;          // rows of one wgmma
constexpr u32 PRODUCER_REGS = 40;

// How rows of A belong to groups (see schedule.cuh).
enum Rows : u32 { ROWS_ONE_GROUP, ROWS_COUNTS, ROWS_ENDS, ROWS_EXPERTS };
// D's element.
enum Out : u32 { OUT_BF16, OUT_F16, OUT_F32 };
// Params::flags
constexpr u32 SHARE_A = 1;        // the CTAs of a pair have the same rows: each loads half of A for both
constexpr u32 SHARE_B = 2;        // the same columns: each loads half of B for both
constexpr u32 SFA_ROW_MAJOR = 4;  // SFA's box is 4 K-blocks x BM rows, the first of the 4 is used
constexpr u32 GATHER = 8;         // row i of a group is row gather[i] of A
constexpr u32 ACCUMULATE = 16;    // D += ...
constexpr u32 PREDECESSOR = 32;   // launched as a programmatic dependent

// The one by-value parameter. The host has the same struct (repr(C), align 64).
struct Params {
    TensorMap a;     // u8 {K, rows, groups or 1}, box {128, BM (half when shared), 1}, 128B swizzle
    TensorMap b;     // u8 {K, N, groups}, box {128, BN (half when shared), 1}, 128B swizzle
    TensorMap sfa;   // f32 {rows, ceil(K/128), groups or 1}, box {BM, 1, 1}; row-major {ceil(K/128), rows, ..}, box {4, BM, 1}
    TensorMap d;     // {N, rows, groups or 1}, box {BOX_COLS, 64, 1}, swizzle as the tile says; unused for f32
    const float* sfb;
    u64 sfb_group;          // scales from group to group
    u32* status;
    u8* d_data;
    u64 ld_d, group_d;      // elements from row to row, from group to group
    const float* bias;      // null: none; [groups, N]
    const float* row_weight;  // null: none; one per row of D
    u64 group_weight;       // weights, or SwiGLU's scales, from group to group
    const u32* index;       // counts, ends or experts
    const u32* gather;
    const u8* a_data;       // for the gather
    const float* sfa_data;
    u64 ld_a, sfa_row, sfa_block;  // bytes from row to row; scales from row to row, from K-block to K-block
    float* scales_out;      // SwiGLU
    u64 scale_row, scale_block;    // SwiGLU: scales from row to row, from block of 128 columns to block
    u64 deadline_ns;
    u32 m, n, k, ld_sfb;    // m: rows of A's operand and of D; Mmax with counts; of the index with the gather
    u32 groups, rows, flags, out;
    u32 n_units;            // tiles, or pairs of tiles, along N
    u32 walk;               // most tiles (or pairs) along M that are walked side by side
    u32 ring, stage, stages, extra;  // bytes: where the stages start, their size, their number, where the rest starts
    u32 a_rows;             // rows that the gather may name
    float alpha;
    float clamp;            // SwiGLU: largest |up| and gate; infinity for none
    u32 sfa_pitch;          // bytes from row to row of a stage's SFA: 4, or 16 when row-major
    u32 out_cols;           // SwiGLU: columns of the result that are stored
    u32 zero[2];
};
static_assert(sizeof(Params) == 768 && alignof(Params) == 64, "Params is an interface");

// Everything that follows from a row of the tile table. A warpgroup computes PIECES of 64 x MMA_N with one set of partial sums:
// DOWN slabs one below the other, or ACROSS side by side (one of the two is 1). GROUPS_M x GROUPS_N warpgroups make the tile.
template <int MMA_N_, int DOWN_, int ACROSS_, int GROUPS_M, int GROUPS_N>
struct Tile {
    static constexpr u32 MMA_N = MMA_N_, DOWN = DOWN_, ACROSS = ACROSS_;
    static constexpr u32 PIECES = DOWN * ACROSS;
    static constexpr u32 SIDE_BY_SIDE = GROUPS_N;
    static constexpr u32 WARPGROUPS = GROUPS_M * GROUPS_N;
    static constexpr u32 BM = SLAB * DOWN * GROUPS_M, BN = MMA_N * ACROSS * GROUPS_N;
    static constexpr u32 MATH_THREADS = WARPGROUPS * WARPGROUP;
    static constexpr u32 THREADS = MATH_THREADS + WARPGROUP;
    static constexpr u32 ACC = MMA_N / 2;                     // f32 registers of one fragment
    static constexpr u32 MATH_REGS = WARPGROUPS == 2 ? 232 : 248;
    // Warpgroups that meet before D is written: they decide together whether the tile is whole.
    static constexpr u32 TEAM = GROUPS_N * WARPGROUP;

    // One stage of the ring: A, B, and behind them barriers, scales of B, the tile's record, scales of A.
    static constexpr u32 A_BYTES = BM * BK, B_BYTES = BN * BK;
    static constexpr u32 B_AT = A_BYTES;
    static constexpr u32 FULL_AT = B_AT + B_BYTES, EMPTY_AT = FULL_AT + 8;
    static constexpr u32 SFB_AT = FULL_AT + 16;               // 2 f32
    static constexpr u32 RECORD_AT = FULL_AT + 32;            // m0, n0, group, stop; then BM/32 words of row masks
    static constexpr u32 MASK_AT = RECORD_AT + 16;
    static constexpr u32 SFA_AT = FULL_AT + 128;              // BM f32, or BM x 4

    // Behind the stages: abort word, a gave-up word per team, row maxima, the table of groups.
    static constexpr u32 EXCHANGE_AT = 16;                    // 2 x 64 f32, where warpgroups lie side by side
    static constexpr u32 TABLE_AT = EXCHANGE_AT + (GROUPS_N == 2 ? 512 : 0);

    // Columns of B's 128 x 128 scale blocks: a tile starts on a multiple of GRAIN, so which of two blocks a column belongs to
    // changes at multiples of GRAIN only.
    static constexpr u32 GRAIN = MMA_N % 128 == 0 ? 128 : MMA_N % 64 == 0 ? 64 : MMA_N % 32 == 0 ? 32 : 16;
    static constexpr bool STRADDLES = GRAIN < 128;

    // D, 16-bit types: one buffer of 64 x MMA_N per piece. Boxes of 128 bytes in the 128-byte swizzle where MMA_N allows them,
    // else one box as wide as the tile without a swizzle.
    static constexpr bool SWIZZLED = MMA_N % 64 == 0;
    static constexpr u32 BOX_COLS = SWIZZLED ? 64 : MMA_N;
    static constexpr u32 BOXES = MMA_N / BOX_COLS;
    static constexpr u32 PITCH = BOX_COLS * 2;
    static constexpr u32 BOX_BYTES = SLAB * PITCH;
    static constexpr u32 D_BYTES = BOXES * BOX_BYTES;

    static_assert(MMA_N % 16 == 0 && (DOWN == 1 || ACROSS == 1), "tile shape");
    static_assert(GRAIN + 128 >= MMA_N || MMA_N + 128 - GRAIN <= 256, "a tile touches at most two scale blocks");
    static_assert((A_BYTES / 2) % 1024 == 0 && (B_BYTES / 2) % 1024 == 0, "swizzled halves start on 1024 bytes");
};

}  // namespace gemm
}  // namespace hadal
