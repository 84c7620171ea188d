// Copies of 4 or 16 bytes a thread from global to shared memory that do not pass through registers (not the copy engine). They
// write in the generic proxy.
#pragma once
#include "types.cuh"

namespace hadal {

// cp.async.cg.shared.global [dst], [src], 16, bytes
// PTX 7.0, sm_80. 16 bytes past L1; the last 16 - `bytes` of them are zeros, and with `bytes` 0 nothing is read.
__device__ __forceinline__ void copy_async_16(u32 dst, const void* src, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes)
                 : "memory");
}

// cp.async.ca.shared.global [dst], [src], 4, bytes
// PTX 7.0, sm_80. 4 bytes through L1, or zeros with `bytes` 0.
__device__ __forceinline__ void copy_async_4(u32 dst, const void* src, u32 bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(dst), "l"(src), "r"(bytes)
                 : "memory");
}

// cp.async.commit_group
// PTX 7.0, sm_80. Closes the calling thread's open group, which may be empty.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// cp.async.wait_group N
// PTX 7.0, sm_80. Until at most N of the thread's groups are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace hadal
