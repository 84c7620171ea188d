// Names of the fixed-width integers used on both sides of a launch.
#pragma once

namespace hadal {

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

// No instruction: makes a value opaque, so that the compiler keeps it instead of computing it anew in each turn of a loop.
__device__ __forceinline__ void keep_in_register(u32& value) {
    asm volatile("" : "+r"(value));
}

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(float) == 4, "unexpected data model");

}  // namespace hadal
