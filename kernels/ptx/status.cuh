// The status buffer: 16 words of device memory, zeroed by the host, in which a kernel says what it
// found wrong. The first reporter wins; the words of later ones are dropped.
//
//   w0 code (0 ok, 1 time-out, 2 index out of range)   w1 kernel   w2 place in the kernel
//   w3 linear block   w4,w5 value seen (low, high)   w6,w7 its limit (low, high)   w8..15 zero
#pragma once
#include "memory.cuh"

namespace hadal {

constexpr u32 STATUS_TIMEOUT = 1;
constexpr u32 STATUS_INDEX = 2;

__device__ __forceinline__ void status_report(u32* status, u32 code, u32 kernel, u32 place,
                                              u32 block, u64 got, u64 limit) {
    if (compare_and_swap_global_u32(status, 0, code) != 0) return;
    store_global_u32(status + 1, kernel);
    store_global_u32(status + 2, place);
    store_global_u32(status + 3, block);
    store_global_u32(status + 4, static_cast<u32>(got));
    store_global_u32(status + 5, static_cast<u32>(got >> 32));
    store_global_u32(status + 6, static_cast<u32>(limit));
    store_global_u32(status + 7, static_cast<u32>(limit >> 32));
}

}  // namespace hadal
