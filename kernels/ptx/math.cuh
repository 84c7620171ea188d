// Approximate functions and comparisons of f32, with what the PTX ISA says of their errors.
#pragma once
#include "types.cuh"

namespace hadal {

// rcp.approx.ftz.f32 d, x
// PTX 1.4, sm_10. 1 / x; error at most 1 ulp; subnormals are zero, 1 / infinity is zero.
__device__ __forceinline__ float reciprocal_approx(float x) {
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

// min.NaN.f32, max.NaN.f32
// PTX 7.0, sm_80. NaN if either is.
__device__ __forceinline__ float min_nan(float x, float y) {
    float d;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(x), "f"(y));
    return d;
}
__device__ __forceinline__ float max_nan(float x, float y) {
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(x), "f"(y));
    return d;
}

}  // namespace hadal
