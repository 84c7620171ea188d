// What all MLA decode kernels share: the parameter, the shared-memory map, the barriers.
#pragma once
#include "../ptx/convert.cuh"
#include "../ptx/global.cuh"
#include "../ptx/mbarrier.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/status.cuh"
#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma_16bit.cuh"

namespace hadal {
namespace mla {

using i32 = int;

constexpr u32 KERNEL_ID = 16;
constexpr u32 STATUS_INDEX = 2;
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
// Which argument a reported value stood in.
constexpr u32 IN_LENGTHS = 1;    // a length below 0 or beyond what the table can address
constexpr u32 IN_TABLE = 2;      // a page that is not in the cache
constexpr u32 IN_INDICES = 3;    // a slot that is not in the cache (-1 is legal and not reported)
constexpr u32 IN_OFFSETS = 4;    // offsets of queries that decrease, leave the tokens or exceed the plan's queries

constexpr u32 BLOCK = 64;        // tokens per step
constexpr u32 ROWS = 64;         // rows (query token, head) per tile
constexpr u32 DIMS = 576;        // a key
constexpr u32 LATENT = 512;      // of which the value
constexpr u32 TILES = DIMS / 64;        // columns of 64 elements: 128 bytes a row
constexpr u32 TILE_BYTES = 64 * 128;
constexpr u32 STAGES = 2;
constexpr u32 WARPGROUP = 128;   // threads
constexpr u32 THREADS = 4 * WARPGROUP;

// Roles of the four warpgroups, and their registers: 2 * 168 + 88 + 88 = 512 = 4 * 128, what 512 threads start with.
constexpr u32 ROLE_SCORES = 2, ROLE_PRODUCER = 3;  // 0 and 1 own columns 0..255 and 256..511 of O
constexpr u32 OUTPUT_REGS = 168, SCORES_REGS = 88, PRODUCER_REGS = 88;

// Shared memory. A stage and Q are nine tiles of 64 rows of 128 bytes in the 128-byte swizzle, P is one.
constexpr u32 Q_AT = 0;
constexpr u32 Q_BYTES = TILES * TILE_BYTES;
constexpr u32 STAGES_AT = Q_AT + Q_BYTES;
constexpr u32 STAGE_BYTES = TILES * TILE_BYTES;
constexpr u32 P_AT = STAGES_AT + STAGES * STAGE_BYTES;
constexpr u32 ALPHA_AT = P_AT + TILE_BYTES;       // f32 a row: factor of O, or at the end 1 / sum
constexpr u32 LSE_AT = ALPHA_AT + ROWS * 4;       // f32 a row: log2 of the sum, at the end
constexpr u32 RESCALE_AT = LSE_AT + ROWS * 4;     // u32 a warp of 16 rows: whether ALPHA holds factors other than 1
constexpr u32 MASK_AT = RESCALE_AT + 16;          // u64 a stage: which tokens exist
constexpr u32 TICKET_AT = MASK_AT + STAGES * 8;   // u32: what the count of splits was
constexpr u32 BARRIERS_AT = TICKET_AT + 16;
// Barriers. Copies come in three groups of three tiles, each with its own FULL.
constexpr u32 GROUPS = 3;
constexpr u32 FULL_AT = BARRIERS_AT;                        // [stage][group]
constexpr u32 EMPTY_AT = FULL_AT + STAGES * GROUPS * 8;     // [stage]
constexpr u32 Q_FULL_AT = EMPTY_AT + STAGES * 8;
constexpr u32 Q_EMPTY_AT = Q_FULL_AT + 8;
constexpr u32 P_FULL_AT = Q_EMPTY_AT + 8;
constexpr u32 P_EMPTY_AT = P_FULL_AT + 8;
constexpr u32 MEET_AT = P_EMPTY_AT + 8;                     // the output warps among themselves
constexpr u32 SMEM = MEET_AT + 8;
static_assert(SMEM == 230040 && SMEM <= 232448 && P_AT % 1024 == 0 && BARRIERS_AT % 8 == 0 && MASK_AT % 8 == 0, "shared memory");

// Where rows of the cache come from.
enum class Source {
    Pages,     // 16-bit rows of 1152 bytes, whole blocks by the copy engine
    Rows,      // the same rows, one by one
    Scaled,    // 656 bytes: 512 E4M3, 4 f32 scales (one for 128), 64 bf16
    Tensor,    // 576 E4M3, one f32 scale for all
};

// The one by-value parameter. The host has the same struct (repr(C), align 64).
struct Params {
    TensorMap q;             // {576, rows of q}, box {64, q_box_rows}, 128B swizzle
    TensorMap kv;            // Pages: {576, page size, pages}, box {64, min(64, page size), 1}, 128B swizzle
    const u8* cache;         // other sources
    const float* tensor_scale;
    const i32* table;        // [batch, table_width] pages; null with indices
    const i32* lengths;      // [batch] tokens; may be null with indices: all topk
    const i32* offsets;      // [batch + 1] first token of each request; null: request i has tokens i * queries ..
    const i32* indices;      // [tokens, topk] slots; null with a table
    const float* sink;       // [heads]; null: none
    u8* out;                 // [rows, 512] 16-bit
    float* lse;              // [rows]
    float* partial;          // slots of warps * (32 KiB + 64 bytes): see docs/mla.md
    u32* counters;           // [batch, max_tiles], 0 between launches
    u32* status;
    u64 page_stride;         // bytes
    u64 table_stride;        // elements from row to row of table or indices
    u32 batch, heads, queries, tokens;
    u32 capacity;            // tokens that a row of the table, or of the indices, can name
    u32 page_size, pages;
    u32 split_blocks;        // blocks of a split; 0: chosen on the device to fill `workers`
    u32 workers;             // CTAs (clusters) of the grid
    u32 max_tiles;           // row tiles of a request, at most
    u32 slot_warps;          // 16-row warps that a slot has room for
    u32 q_box_rows;
    float scale_log2;        // scale * log2(e), > 0
    u32 causal;
};
static_assert(sizeof(Params) == 448 && alignof(Params) == 64, "Params is an interface");

__device__ __forceinline__ void wait(u32 bar, u32 parity) {
    // Every wait of these kernels is for the CTA's own warps and copies (or its cluster's): none for another grid, device
    // or the host, so there is no deadline to keep.
    while (!mbarrier_try_wait(bar, parity)) {
    }
}

// Of the cluster; asked anew where it is needed, so that no register keeps it.
template <u32 CL>
__device__ __forceinline__ u32 rank_in() {
    return CL == 1 ? 0 : cluster_rank();
}

// All lanes are done: one arrival of the warp.
__device__ __forceinline__ void warp_arrive(u32 bar, u32 lane) {
    warp_sync();
    if (lane == 0) mbarrier_arrive(bar);
}

}  // namespace mla
}  // namespace hadal
