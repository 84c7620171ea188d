// The plain epilogue: D = [D +] alpha * sums * row_weight + bias, each operation rounded to f32 in this order, then to D's type.
//
// 16-bit D goes through shared memory: slabs whose 64 rows all exist by the copy engine, which goes on while the next tile is
// computed; of the others each warp stores the rows that exist itself, 16 bytes a lane. So a tile's tail never touches the next
// group. f32 goes from the registers, 32 bytes a row and instruction: whole sectors.
#pragma once
#include "../../ptx/convert.cuh"
#include "../../ptx/global.cuh"
#include "../../ptx/memory.cuh"
#include "../../ptx/sync.cuh"
#include "../../ptx/tma.cuh"
#include "multiply.cuh"

namespace hadal {
namespace gemm {

template <class T>
struct Store {
    static constexpr bool PAIRS = false;

    // Once the leader's previous stores have read the buffer, all of the warpgroup may write it.
    __device__ __forceinline__ void before_writing(const Place& at) {
        if (at.leader) tma_wait_group_read<0>();
    }

    __device__ __forceinline__ void end(const Place& at) {
        if (at.leader) tma_wait_group<0>();
    }

    // The thread's rows of a slab in D: elements from its start, row 16 warp + lane / 4; the other is 8 rows on.
    __device__ __forceinline__ static u64 first_row(const Params& p, const Place& at, const Record<T>& r, u32 slab) {
        const u32 row = r.m0 + (at.group_m * T::DOWN + slab) * SLAB + 16 * at.warp + at.lane / 4;
        return r.group * p.group_d + row * p.ld_d;
    }

    // alpha, row weight, bias, D: in this order.
    __device__ __forceinline__ static void finish(const Params& p, const Place& at, const Record<T>& r, u32 slab,
                                                  float (&acc)[T::ACC]) {
        const bool has0 = r.rows[slab] >> (at.lane / 4) & 1, has8 = r.rows[slab] >> (at.lane / 4 + 8) & 1;
        if (p.alpha != 1.0f) {
#pragma unroll
            for (u32 i = 0; i < T::ACC; ++i) acc[i] = __fmul_rn(acc[i], p.alpha);
        }
        if (p.row_weight != nullptr) {
            const u32 row = r.m0 + (at.group_m * T::DOWN + slab) * SLAB + 16 * at.warp + at.lane / 4;
            const float* w = p.row_weight + r.group * p.group_weight + row;
            const float w0 = has0 ? load_global_nc_f32(w) : 0.0f, w8 = has8 ? load_global_nc_f32(w + 8) : 0.0f;
#pragma unroll
            for (u32 i = 0; i < T::ACC; ++i) acc[i] = __fmul_rn(acc[i], i & 2 ? w8 : w0);
        }
        const u32 col = r.n0 + at.lane % 4 * 2;
        if (p.bias != nullptr) {
            const float* bias = p.bias + static_cast<u64>(r.group) * p.n;
#pragma unroll
            for (u32 j = 0; j < T::MMA_N / 8; ++j) {
                if (col + 8 * j < p.n) {
                    float x, y;
                    load_global_nc_v2(bias + col + 8 * j, x, y);
                    acc[4 * j + 0] = __fadd_rn(acc[4 * j + 0], x);
                    acc[4 * j + 1] = __fadd_rn(acc[4 * j + 1], y);
                    acc[4 * j + 2] = __fadd_rn(acc[4 * j + 2], x);
                    acc[4 * j + 3] = __fadd_rn(acc[4 * j + 3], y);
                }
            }
        }
        if (p.flags & ACCUMULATE) {
            const u32 size = p.out == OUT_F32 ? 4 : 2;
            const u8* d0 = p.d_data + (first_row(p, at, r, slab) + col) * size;
            const u8* d8 = d0 + 8 * p.ld_d * size;
#pragma unroll
            for (u32 j = 0; j < T::MMA_N / 8; ++j) {
                const bool in = col + 8 * j < p.n;
                float x0 = 0, y0 = 0, x8 = 0, y8 = 0;
                if (has0 && in) load_d(p.out, d0 + 8 * j * size, x0, y0);
                if (has8 && in) load_d(p.out, d8 + 8 * j * size, x8, y8);
                acc[4 * j + 0] = __fadd_rn(acc[4 * j + 0], x0);
                acc[4 * j + 1] = __fadd_rn(acc[4 * j + 1], y0);
                acc[4 * j + 2] = __fadd_rn(acc[4 * j + 2], x8);
                acc[4 * j + 3] = __fadd_rn(acc[4 * j + 3], y8);
            }
        }
    }

    // Two neighbouring elements of D as f32.
    __device__ __forceinline__ static void load_d(u32 out, const u8* d, float& x, float& y) {
        if (out == OUT_F32) load_global_v2(d, x, y);
        else if (out == OUT_BF16) unpack_bf16(load_global_u32(d), x, y);
        else unpack_f16(load_global_u32(d), x, y);
    }

    // f32: a thread holds two neighbouring columns of rows r and r + 8.
    __device__ __forceinline__ static void store_f32(const Params& p, const Place& at, const Record<T>& r, u32 slab,
                                                     const float (&acc)[T::ACC]) {
        const u32 col = r.n0 + at.lane % 4 * 2;
        float* d0 = reinterpret_cast<float*>(p.d_data) + first_row(p, at, r, slab) + col;
        float* d8 = d0 + 8 * p.ld_d;
        const bool has0 = r.rows[slab] >> (at.lane / 4) & 1, has8 = r.rows[slab] >> (at.lane / 4 + 8) & 1;
#pragma unroll
        for (u32 j = 0; j < T::MMA_N / 8; ++j) {
            const bool in = col + 8 * j < p.n;
            if (in && has0) store_global_v2(d0 + 8 * j, acc[4 * j + 0], acc[4 * j + 1]);
            if (in && has8) store_global_v2(d8 + 8 * j, acc[4 * j + 2], acc[4 * j + 3]);
        }
    }

    // Byte of the 16 bytes `chunk` (8 columns) of a row in a slab's buffer.
    __device__ __forceinline__ static u32 chunk_at(u32 row, u32 chunk) {
        const u32 in_box = chunk % (T::BOX_COLS / 8);
        const u32 place = T::SWIZZLED ? in_box ^ (row & 7) : in_box;
        return chunk / (T::BOX_COLS / 8) * T::BOX_BYTES + row * T::PITCH + place * 16;
    }

    // Registers -> the slab's buffer, in the layout of its boxes: stmatrix x4 covers 16 rows x 16 columns, its matrices are (rows
    // 0-7, 8-15) x (columns 0-7, 8-15).
    template <class Pack>
    __device__ __forceinline__ static void write_d(const float (&acc)[T::ACC], u32 buffer, const Place& at, Pack pack) {
        const u32 row = 16 * at.warp + (at.lane & 15), half = at.lane >> 4;
#pragma unroll
        for (u32 j = 0; j < T::MMA_N / 8; j += 2)
            stmatrix_x4(buffer + chunk_at(row, j + half), pack(acc[4 * j + 0], acc[4 * j + 1]),
                        pack(acc[4 * j + 2], acc[4 * j + 3]), pack(acc[4 * j + 4], acc[4 * j + 5]),
                        pack(acc[4 * j + 6], acc[4 * j + 7]));
    }

    // The warp's rows that exist, from the buffer: 16 bytes a lane, lanes along a row first.
    __device__ __forceinline__ static void copy_rows(const Params& p, const Place& at, const Record<T>& r, u32 slab, u32 buffer) {
        constexpr u32 CHUNKS = T::MMA_N / 8;
        const u32 first = r.m0 + (at.group_m * T::DOWN + slab) * SLAB + 16 * at.warp;
        u8* d = p.d_data + (r.group * p.group_d + first * p.ld_d + r.n0) * 2;
#pragma unroll 1
        for (u32 i = at.lane; i < 16 * CHUNKS; i += 32) {
            const u32 row = i / CHUNKS, chunk = i % CHUNKS;
            if (!(r.rows[slab] >> row & 1) || r.n0 + 8 * chunk >= p.n) continue;
            u32 x, y, z, w;
            load_shared_v4(buffer + chunk_at(16 * at.warp + row, chunk), x, y, z, w);
            store_global_v4(d + (row * p.ld_d + 8 * chunk) * 2, x, y, z, w);
        }
    }

    __device__ __forceinline__ void write(const Params& p, u32 smem, const Place& at, const Record<T>& r,
                                          float (&acc)[T::PIECES][T::ACC]) {
        const u32 buffer = smem + at.group_m * (T::PIECES * T::D_BYTES);
#pragma unroll
        for (u32 i = 0; i < T::PIECES; ++i) {
            finish(p, at, r, i, acc[i]);
            if (p.out == OUT_F32) store_f32(p, at, r, i, acc[i]);
            else if (p.out == OUT_BF16) write_d(acc[i], buffer + i * T::D_BYTES, at, pack_bf16);
            else write_d(acc[i], buffer + i * T::D_BYTES, at, pack_f16);
        }
        if (p.out == OUT_F32) return;
        bool whole = true;
#pragma unroll
        for (u32 i = 0; i < T::PIECES; ++i) whole = whole && (r.rows[i] & SLAB_WHOLE);
        if (!whole) {
            warp_sync();
#pragma unroll
            for (u32 i = 0; i < T::PIECES; ++i) copy_rows(p, at, r, i, buffer + i * T::D_BYTES);
            return;
        }
        // D was read by ordinary loads, and will be written by the copy engine.
        if (p.flags & ACCUMULATE) fence_proxy_async();
        else fence_proxy_async_shared();
        named_barrier_sync<T::TEAM>(1 + at.group_m);
        if (at.leader) {
            const u32 layer = p.rows == ROWS_COUNTS ? r.group : 0;
#pragma unroll
            for (u32 i = 0; i < T::PIECES; ++i)
#pragma unroll
                for (u32 box = 0; box < T::BOXES; ++box) {
                    const u32 n = r.n0 + box * T::BOX_COLS;
                    if (n < p.n)
                        tma_store_3d(p.d, n, r.m0 + (at.group_m * T::DOWN + i) * SLAB, layer,
                                     buffer + i * T::D_BYTES + box * T::BOX_BYTES);
                }
            tma_commit_group();
        }
    }
};

}  // namespace gemm
}  // namespace hadal
