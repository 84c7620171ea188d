// The producer warpgroup: Q and the cache into shared memory.
//
// Pages: one thread of one warp feeds the copy engine. Other sources: four warps fetch 16 rows each of a block, convert them
// and store them into the same swizzled tiles.
#pragma once
#include "work.cuh"

namespace hadal {
namespace mla {

// The tile's rows of Q (rows of the next request too: they only make rows that nobody writes).
__device__ __forceinline__ void load_q(const Params& p, u32 smem, u32 first_row) {
    mbarrier_arrive_expect_tx(smem + Q_FULL_AT, TILES * p.q_box_rows * 128);
#pragma unroll
    for (u32 t = 0; t < TILES; ++t) {
        tma_load_3d(smem + Q_AT + t * TILE_BYTES, p.q, t * 64, first_row, 0, smem + Q_FULL_AT);
    }
}

template <u32 CL>
__device__ __forceinline__ void wait_empty(u32 bar, u32 parity) {
    if (CL == 1) {
        wait(bar, parity);
    } else {
        while (!mbarrier_try_wait_cluster(bar, parity)) {
        }
    }
}

// A page of request r's table, as the table has it; what lies outside of the table is not asked for.
__device__ __forceinline__ i32 read_page(const Params& p, u32 request, u32 entry) {
    return p.table[request * p.table_stride + entry];
}

template <u32 CL>
__device__ __forceinline__ void produce_pages(const Params& p, u32 smem, u32 lane) {
    const u32 unit = min(BLOCK, p.page_size);          // tokens of a copy
    const u32 units = BLOCK / unit;                    // copies of a column of a block
    Schedule<CL> schedule(p, lane);
    u32 blocks = 0, queries = 0;
    Work w;
    for (u32 k = blockIdx.x / CL; schedule.template find<true>(p, k, lane, w); k += p.workers) {
        if (w.block >= w.end) continue;
        wait(smem + Q_EMPTY_AT, (queries++ & 1) ^ 1);
        if (lane == 0) load_q(p, smem, w.first_row);
        // Lane l holds the page of unit `held + l`.
        u32 held = 0, count = 0;
        i32 page = 0;
        for (u32 block = w.block; block < w.end; ++block, ++blocks) {
            const u32 first = block * units;
            if (first + units > held + count) {
                held = first;
                count = 32;
                const u32 token = (first + lane) * unit;
                page = token < w.length ? read_page(p, w.request, token / p.page_size) : -1;
                const bool good = static_cast<u32>(page) < p.pages;
                if (!good && token < w.length && token < w.end * BLOCK) {
                    status_report(p.status, STATUS_INDEX, KERNEL_ID, IN_TABLE, w.request,
                                  static_cast<u64>(static_cast<long long>(page)), p.pages);
                }
                // The copy engine fills what lies outside of the cache with zeros.
                if (!good) page = 0x7fffffff;
            }
            const u32 in = blocks % STAGES, stage = smem + STAGES_AT + in * STAGE_BYTES;
            u64 mask = 0;
            for (u32 u = 0; u < units; ++u) {
                const bool good = static_cast<u32>(shuffle_from(static_cast<u32>(page), first - held + u)) < p.pages;
                if (good) mask |= (units == 1 ? ~0ull : (1ull << unit) - 1) << (u * unit);
            }
            wait_empty<CL>(smem + EMPTY_AT + in * 8, (blocks / STAGES & 1) ^ 1);
            if (lane == 0) store_shared_v2(smem + MASK_AT + in * 8, static_cast<u32>(mask), static_cast<u32>(mask >> 32));
#pragma unroll
            for (u32 g = 0; g < GROUPS; ++g) {
                const u32 full = smem + FULL_AT + (in * GROUPS + g) * 8;
                if (lane == 0) mbarrier_arrive_expect_tx(full, 3 * TILE_BYTES);
                for (u32 u = 0; u < units; ++u) {
                    const u32 at = static_cast<u32>(shuffle_from(static_cast<u32>(page), first - held + u));
                    if (lane != 0) continue;
                    const u32 offset = (first + u) * unit % p.page_size;
#pragma unroll
                    for (u32 t = 3 * g; t < 3 * g + 3; ++t) {
                        const u32 to = stage + t * TILE_BYTES + u * unit * 128;
                        if (CL == 1) {
                            tma_load_3d(to, p.kv, t * 64, offset, at, full);
                        } else if (t % CL == rank_in<CL>()) {
                            tma_load_3d_multicast(to, p.kv, t * 64, offset, at, full, (1u << CL) - 1);
                        }
                    }
                }
            }
        }
    }
}

// ------------------------------------------------------------------------------------ row by row

// Where 16 bytes go: token `t` (a multiple of 8), columns 8 chunk .. 8 chunk + 7 of the stage.
__device__ __forceinline__ u32 chunk_at(u32 stage, u32 t, u32 chunk) {
    return stage + chunk / 8 * TILE_BYTES + t * 128 + chunk % 8 * 16;
}

// The same of token t + i, i in 0..7: the 128-byte swizzle.
__device__ __forceinline__ u32 row_of(u32 at, u32 i) {
    return (at ^ (i * 16)) + i * 128;
}

// 16 E4M3 values times a scale, to bf16: exact but for one rounding to f32 and one to bf16 (none for powers of two).
__device__ __forceinline__ void dequantise(const U32x4& codes, float scale, u32 (&out)[8]) {
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 h = 0; h < 2; ++h) {
            float low, high;
            unpack_f16(unpack_e4m3(h == 0 ? words[i] & 0xffff : words[i] >> 16), low, high);
            out[2 * i + h] = pack_bf16(__fmul_rn(low, scale), __fmul_rn(high, scale));
        }
    }
}

// Two neighbouring chunks, the first of them even, of token t + i. Every second group of four lanes writes them the other way
// round, so that eight lanes meet no bank twice (their tiles lie a multiple of 128 bytes apart).
__device__ __forceinline__ void store_pair(u32 at, u32 i, const u32 (&x)[8], bool swap) {
    const u32 first = row_of(at, i) ^ (swap ? 16 : 0);
    store_shared_v4(first, swap ? x[4] : x[0], swap ? x[5] : x[1], swap ? x[6] : x[2], swap ? x[7] : x[3]);
    store_shared_v4(first ^ 16, swap ? x[0] : x[4], swap ? x[1] : x[5], swap ? x[2] : x[6], swap ? x[3] : x[7]);
}

constexpr u32 AHEAD = 8;  // rows that a warp has in flight

// Addresses of AHEAD rows, 0 for a token that does not exist.
struct Fetched {
    U32x4 latent[AHEAD];
    float scale[AHEAD];
    U32x4 rope[2];
};

constexpr U32x4 NOTHING = {0, 0, 0, 0};

__device__ __forceinline__ const u8* address_of(u64 mine, u32 lane_of_row) {
    const u32 low = shuffle_from(static_cast<u32>(mine), lane_of_row);
    const u32 high = shuffle_from(static_cast<u32>(mine >> 32), lane_of_row);
    return reinterpret_cast<const u8*>(static_cast<u64>(high) << 32 | low);
}

template <Source SOURCE>
__device__ __forceinline__ void fetch(const Params& p, u64 mine, u32 first, u32 lane, float tensor_scale, Fetched& f) {
#pragma unroll
    for (u32 i = 0; i < AHEAD; ++i) {
        const u8* row = address_of(mine, first + i);
        f.latent[i] = row == nullptr ? NOTHING : load_global_nc_v4(row + lane * 16);
        if (SOURCE == Source::Scaled) {
            f.scale[i] = row == nullptr ? 0.0f : load_global_nc_f32(reinterpret_cast<const float*>(row + LATENT) + lane / 8);
        } else {
            f.scale[i] = tensor_scale;
        }
    }
    if (SOURCE == Source::Scaled) {  // eight lanes a row, four rows at a time
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const u8* row = address_of(mine, first + 4 * i + lane / 8);
            f.rope[i] = row == nullptr ? NOTHING : load_global_nc_v4(row + LATENT + 16 + lane % 8 * 16);
        }
    } else {  // four lanes a row, eight rows at once
        const u8* row = address_of(mine, first + lane / 4);
        f.rope[0] = row == nullptr ? NOTHING : load_global_nc_v4(row + LATENT + lane % 4 * 16);
    }
}

template <Source SOURCE>
__device__ __forceinline__ void put(const Fetched& f, u32 stage, u32 token, u32 lane) {
    u32 x[8];
    const u32 at = chunk_at(stage, token, 2 * lane);
#pragma unroll
    for (u32 i = 0; i < AHEAD; ++i) {
        dequantise(f.latent[i], f.scale[i], x);
        store_pair(at, i, x, lane / 4 % 2);
    }
    if (SOURCE == Source::Scaled) {
        const u32 rope = chunk_at(stage, token, 64 + lane % 8);
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const U32x4& r = f.rope[i];
            store_shared_v4(row_of(rope, 4 * i + lane / 8), r.x, r.y, r.z, r.w);
        }
    } else {
        dequantise(f.rope[0], f.scale[0], x);
        store_pair(chunk_at(stage, token, 64 + lane % 4 * 2), lane / 4, x, lane / 4 % 2);
    }
}

template <Source SOURCE>
__device__ __forceinline__ void produce_rows(const Params& p, u32 smem, u32 lane) {
    const u32 warp = shuffle_from(threadIdx.x / 32, 0) % 4;
    const float tensor_scale = SOURCE == Source::Tensor ? load_global_nc_f32(p.tensor_scale) : 0.0f;
    Schedule<1> schedule(p, lane);
    u32 blocks = 0, queries = 0;
    Work w;
    for (u32 k = blockIdx.x; schedule.template find<true>(p, k, lane, w); k += p.workers) {
        if (w.block >= w.end) continue;
        wait(smem + Q_EMPTY_AT, (queries++ & 1) ^ 1);
        if (warp == 0 && lane == 0) load_q(p, smem, w.first_row);
        for (u32 block = w.block; block < w.end; ++block, ++blocks) {
            // Lane l of the first 16: token 16 warp + l of the block.
            const u32 token = block * BLOCK + 16 * warp + lane % 16;
            u64 mine = 0;
            if (token < w.length) {
                u32 page, offset;
                bool good;
                if (p.indices != nullptr) {
                    const i32 slot = p.indices[w.request * p.table_stride + token];
                    page = static_cast<u32>(slot) / p.page_size;
                    offset = static_cast<u32>(slot) % p.page_size;
                    good = slot >= 0 && page < p.pages;
                    if (!good && slot != -1 && lane < 16) {
                        status_report(p.status, STATUS_INDEX, KERNEL_ID, IN_INDICES, w.request,
                                      static_cast<u64>(static_cast<long long>(slot)), static_cast<u64>(p.pages) * p.page_size);
                    }
                } else {
                    const i32 entry = read_page(p, w.request, token / p.page_size);
                    page = static_cast<u32>(entry);
                    offset = token % p.page_size;
                    good = page < p.pages;
                    if (!good && lane < 16) {
                        status_report(p.status, STATUS_INDEX, KERNEL_ID, IN_TABLE, w.request,
                                      static_cast<u64>(static_cast<long long>(entry)), p.pages);
                    }
                }
                if (good) {
                    constexpr u32 ROW_BYTES = SOURCE == Source::Rows ? DIMS * 2 : SOURCE == Source::Scaled ? 656 : 576;
                    mine = reinterpret_cast<u64>(p.cache) + page * p.page_stride + static_cast<u64>(offset) * ROW_BYTES;
                }
            }
            const u32 exist = ballot(mine != 0) & 0xffff;
            const u32 in = blocks % STAGES, stage = smem + STAGES_AT + in * STAGE_BYTES;
            const u32 empty = smem + EMPTY_AT + in * 8, parity = (blocks / STAGES & 1) ^ 1;

            if (SOURCE == Source::Rows) {
                wait(empty, parity);
#pragma unroll 1
                for (u32 first = 0; first < 16; first += 4) {
                    const u32 to = chunk_at(stage, 16 * warp + first / 8 * 8, lane);
                    U32x4 x[4][2], rope;
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        const u8* row = address_of(mine, first + i);
#pragma unroll
                        for (u32 c = 0; c < 2; ++c) {
                            x[i][c] = row == nullptr ? NOTHING : load_global_nc_v4(row + (lane + 32 * c) * 16);
                        }
                    }
                    const u8* row = address_of(mine, first + lane / 8);
                    rope = row == nullptr ? NOTHING : load_global_nc_v4(row + LATENT * 2 + lane % 8 * 16);
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
                        for (u32 c = 0; c < 2; ++c) {
                            const U32x4& v = x[i][c];
                            store_shared_v4(row_of(to + c * 4 * TILE_BYTES, first % 8 + i), v.x, v.y, v.z, v.w);
                        }
                    }
                    store_shared_v4(row_of(chunk_at(stage, 16 * warp + first / 8 * 8, 64 + lane % 8), first % 8 + lane / 8), rope.x, rope.y, rope.z, rope.w);
                }
            } else {
                Fetched f;
                fetch<SOURCE>(p, mine, 0, lane, tensor_scale, f);
                wait(empty, parity);
                put<SOURCE>(f, stage, 16 * warp, lane);
                fetch<SOURCE>(p, mine, AHEAD, lane, tensor_scale, f);
                put<SOURCE>(f, stage, 16 * warp + AHEAD, lane);
            }
            if (lane == 0) store_shared_u16(smem + MASK_AT + in * 8 + warp * 2, exist);
            fence_proxy_async_shared();
            warp_arrive(smem + FULL_AT + in * GROUPS * 8, lane);
        }
    }
}

}  // namespace mla
}  // namespace hadal
