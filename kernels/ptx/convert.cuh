// Conversions and approximate functions.
#pragma once
#include "types.cuh"

namespace hadal {

// ex2.approx.ftz.f32 d, x
// PTX 1.4, sm_10. 2^x; relative error at most 2^-22 (PTX ISA); -inf gives +0, results below 2^-126 give 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

// lg2.approx.ftz.f32 d, x
// PTX 1.4, sm_10. log2 x; absolute error at most 2^-22 for x in (0.5, 2), relative 2^-22 elsewhere (PTX ISA).
__device__ __forceinline__ float log2_approx(float x) {
    float d;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

// cvt.rn.f16x2.f32 d, high, low
// PTX 7.0, sm_80. Two f32 to f16, round to nearest even; `low` is the lower address.
__device__ __forceinline__ u32 pack_f16(float low, float high) {
    u32 d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

// cvt.rn.f16x2.e4m3x2 d, x
// PTX 8.1, sm_89. Two E4M3 to f16, exact; the low byte gives the low half. NaN codes give NaN.
__device__ __forceinline__ u32 unpack_e4m3(u32 two) {
    u32 d;
    asm("{\n\t"
        ".reg .b16 x;\n\t"
        "cvt.u16.u32 x, %1;\n\t"
        "cvt.rn.f16x2.e4m3x2 %0, x;\n\t"
        "}"
        : "=r"(d)
        : "r"(two));
    return d;
}

// cvt.f32.f16 low, high of a pair
// PTX 1.0, sm_10 (f16). Exact.
__device__ __forceinline__ void unpack_f16(u32 two, float& low, float& high) {
    asm("{\n\t"
        ".reg .b16 l, h;\n\t"
        "mov.b32 {l, h}, %2;\n\t"
        "cvt.f32.f16 %0, l;\n\t"
        "cvt.f32.f16 %1, h;\n\t"
        "}"
        : "=f"(low), "=f"(high)
        : "r"(two));
}

// cvt.rn.satfinite.e4m3x2.f32 d, high, low
// PTX 7.8 (sm_89; 8.1 there), sm_90. Two f32 to E4M3, round to nearest even; beyond +-448, infinities too, +-448; NaN 0x7F.
__device__ __forceinline__ u32 pack_e4m3(float low, float high) {
    unsigned short d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
    return d;
}

// mov.b32 {low, high}, v; shl.b32 / and.b32
// PTX 1.0. The two bf16 of a word as f32: exact.
__device__ __forceinline__ void unpack_bf16(u32 v, float& low, float& high) {
    low = __uint_as_float(v << 16);
    high = __uint_as_float(v & 0xffff0000u);
}

}  // namespace hadal
