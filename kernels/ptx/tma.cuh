// The tensor copy engine (TMA): box-shaped copies between global and shared memory.
//
// A tensor map is made by the host and passed by value in a `__grid_constant__` parameter, so its
// address lies in parameter space and needs no acquire. Coordinates count elements, innermost
// dimension first, and may lie outside the tensor: a load fills with zeros, a store writes nothing
// there. A load always completes the bytes of the whole box, clipped or not.
#pragma once
#include "types.cuh"

namespace hadal {

// The driver's opaque 128-byte descriptor; only the copy engine reads it.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
static_assert(sizeof(TensorMap) == 128 && alignof(TensorMap) == 64, "a tensor map is 128 bytes");

// prefetch.tensormap [map]
// PTX 8.0, sm_90. A hint: brings the descriptor into the cache of the copy engine.
__device__ __forceinline__ void tma_prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
//     [dst], [map, {x, y, z}], [bar]
// PTX 8.0, sm_90. Writes shared memory in the async proxy; adds the box's bytes to `bar` of this CTA.
// `dst` is 128-byte aligned (1024 with the 128-byte swizzle, so that the pattern starts at the tile).
__device__ __forceinline__ void tma_load_3d(u32 dst, const TensorMap& map, u32 x, u32 y, u32 z, u32 bar) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(dst),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(bar)
        : "memory");
}

// cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
//     [dst], [map, {x, y, z}], [bar], ctas
// PTX 8.0, sm_90. Writes the box to the same place in each CTA whose bit is set in `ctas`, and adds its bytes to the barrier at
// the same place there.
__device__ __forceinline__ void tma_load_3d_multicast(u32 dst, const TensorMap& map, u32 x, u32 y, u32 z, u32 bar, u32 ctas) {
    asm volatile(
        "{\n\t"
        ".reg .b16 ctas;\n\t"
        "cvt.u16.u32 ctas, %6;\n\t"
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3, %4}], [%5], ctas;\n\t"
        "}" ::"r"(dst),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(bar), "r"(ctas)
        : "memory");
}

// cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [map, {x, y, z}], [src]
// PTX 8.0, sm_90. Reads shared memory in the async proxy; joins the thread's open bulk group.
__device__ __forceinline__ void tma_store_3d(const TensorMap& map, u32 x, u32 y, u32 z, u32 src) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(
            &map),
        "r"(x), "r"(y), "r"(z), "r"(src)
        : "memory");
}

// cp.async.bulk.commit_group
// PTX 8.0, sm_90. Closes the calling thread's open bulk group.
__device__ __forceinline__ void tma_commit_group() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// cp.async.bulk.wait_group.read N
// PTX 8.0, sm_90. Until at most N of the thread's groups have sources still to be read.
template <int N>
__device__ __forceinline__ void tma_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// cp.async.bulk.wait_group N
// PTX 8.0, sm_90. Until at most N of the thread's groups are incomplete: the writes have been made.
template <int N>
__device__ __forceinline__ void tma_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

// cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [dst], [src], bytes, [bar]
// PTX 8.0, sm_90. A run of bytes into this CTA's shared memory; adds them to `bar`. Both addresses and `bytes` are
// multiples of 16.
__device__ __forceinline__ void bulk_load(u32 dst, const void* src, u32 bytes, u32 bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(bar)
                 : "memory");
}

// cp.async.bulk.global.shared::cta.bulk_group [dst], [src], bytes
// PTX 8.0, sm_90. The other way, also to a peer's memory; joins the thread's open bulk group. Multiples of 16.
__device__ __forceinline__ void bulk_store(void* dst, u32 src, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst), "r"(src), "r"(bytes) : "memory");
}

}  // namespace hadal
