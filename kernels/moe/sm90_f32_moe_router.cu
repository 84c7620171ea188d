// The gate of a mixture of experts: logits [T,E] f32 -> the K experts of each token and their weights.
//
//   score   sigmoid(logit), or softmax over the token's E logits
//   choice  score + bias[e]                      bias steers the choice alone, not the weight
//   groups  of E/G experts; a group's rank is the sum of its two largest choices; experts outside the best
//           `kept` groups are not chosen
//   picks   the K largest choices, ties by the smaller index, in that order
//   weight  score; divided by the sum of the K where `normalise`; times `scale`
//
// NaN logits have score 0 and are chosen by nobody: a pick that only they could fill has id -1 and weight 0.
// Every operation is IEEE f32 in a fixed order (exp below, no approximate instruction), so the reference on
// the CPU has the same bits: src/reference/moe.rs.
//
// A warp a token, eight tokens a CTA. Choices live in shared memory, expert e at e + e/32, so that lanes that
// scan a group each (stride E/G, mostly 32) use different banks.
#include "../ptx/sync.cuh"
#include "../ptx/types.cuh"

namespace hadal {
namespace moe {

constexpr u32 TOKENS = 8;
constexpr u32 ALL = 0xffffffffu;
constexpr float NEVER = -__builtin_huge_valf();

struct RouterParams {
    const float* logits;
    const float* bias;      // or null
    int* ids;
    float* weights;
    u64 ld_logits, ld_ids, ld_weights;
    u32 tokens, experts, top_k, groups, kept;
    u32 softmax, normalise;
    float scale;
};
static_assert(sizeof(RouterParams) == 88, "RouterParams is an interface");

// e^x for x <= 0; 0 below -87. x = n ln2 + r, |r| <= ln2/2, e^r by its Taylor series to r^7 (truncation below
// 6e-9), ln2 in two parts (Cody and Waite) so that r is exact to the last bit but one.
__device__ __forceinline__ float exp_of(float x) {
    if (!(x >= -87.0f)) return 0.0f;
    const float n = rintf(__fmul_rn(x, 1.44269502f));
    float r = __fmaf_rn(n, -0.693359375f, x);
    r = __fmaf_rn(n, 2.12194440e-4f, r);
    float p = 1.98412701e-4f;               // 1/7!
    p = __fmaf_rn(p, r, 1.38888892e-3f);    // 1/6!
    p = __fmaf_rn(p, r, 8.33333377e-3f);
    p = __fmaf_rn(p, r, 4.16666679e-2f);
    p = __fmaf_rn(p, r, 1.66666672e-1f);
    p = __fmaf_rn(p, r, 0.5f);
    p = __fmaf_rn(p, r, 1.0f);
    p = __fmaf_rn(p, r, 1.0f);
    // n >= -126: the power of two is normal.
    return __fmul_rn(p, __int_as_float((static_cast<int>(n) + 127) << 23));
}

__device__ __forceinline__ float sigmoid(float x) {
    if (x != x) return 0.0f;
    const float e = exp_of(-fabsf(x));
    return __fdiv_rn(x >= 0.0f ? 1.0f : e, __fadd_rn(1.0f, e));
}

// Larger choice first, then smaller index.
__device__ __forceinline__ bool before(float a, u32 i, float b, u32 j) { return a > b || (a == b && i < j); }

__device__ __forceinline__ u32 slot(u32 e) { return e + e / 32; }

}  // namespace moe
}  // namespace hadal

extern "C" __global__ void __launch_bounds__(256)
    sm90_f32_moe_router(const __grid_constant__ hadal::moe::RouterParams p) {
    using namespace hadal;
    using namespace hadal::moe;
    extern __shared__ float shared[];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 token = blockIdx.x * TOKENS + warp;
    if (token >= p.tokens) return;
    const u32 row = p.experts + (p.experts + 31) / 32;
    float* score = shared + warp * 2 * row;
    float* choice = score + row;
    const float* x = p.logits + token * p.ld_logits;

    // Scores.
    float top = NEVER, total = 0.0f;
    if (p.softmax) {
        for (u32 e = lane; e < p.experts; e += 32) top = fmaxf(top, x[e]);   // fmaxf ignores NaN
        for (u32 d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, d));
        // +inf: the infinite logits share everything.
        for (u32 e = lane; e < p.experts; e += 32) {
            const float v = x[e];
            const float s = v == top ? 1.0f : exp_of(__fsub_rn(v, top));
            score[slot(e)] = v == v ? s : 0.0f;
            total = __fadd_rn(total, score[slot(e)]);
        }
        for (u32 d = 16; d > 0; d /= 2) total = __fadd_rn(total, __shfl_xor_sync(ALL, total, d));
    }
    for (u32 e = lane; e < p.experts; e += 32) {
        const float v = x[e];
        const float s = p.softmax ? (total > 0.0f ? __fdiv_rn(score[slot(e)], total) : 0.0f) : sigmoid(v);
        score[slot(e)] = s;
        const float c = p.bias != nullptr ? __fadd_rn(s, p.bias[e]) : s;
        choice[slot(e)] = v == v && c == c ? c : NEVER;
    }
    warp_sync();

    // Groups: a lane each.
    u32 open = ALL;
    if (p.groups > 1) {
        const u32 size = p.experts / p.groups;
        float first = NEVER, second = NEVER;
        if (lane < p.groups) {
            for (u32 i = 0; i < size; ++i) {
                const float c = choice[slot(lane * size + i)];
                if (c > first) {
                    second = first;
                    first = c;
                } else if (c > second) {
                    second = c;
                }
            }
        }
        const float mine = lane < p.groups ? (size > 1 ? __fadd_rn(first, second) : first) : NEVER;
        // How many groups come before this one.
        u32 ahead = 0;
        for (u32 g = 0; g < p.groups; ++g) {
            const float other = __shfl_sync(ALL, mine, g);
            if (before(other, g, mine, lane)) ++ahead;
        }
        open = __ballot_sync(ALL, lane < p.groups && ahead < p.kept);
        for (u32 e = lane; e < p.experts; e += 32) {
            if ((open >> (e / size) & 1) == 0) choice[slot(e)] = NEVER;
        }
        warp_sync();
    }

    // Picks: lane k keeps pick k.
    u32 id = ALL;
    float weight = 0.0f;
    for (u32 k = 0; k < p.top_k; ++k) {
        float best = NEVER;
        u32 at = ALL;
        for (u32 e = lane; e < p.experts; e += 32) {
            const float c = choice[slot(e)];
            if (c > best) {     // ascending e: the smaller index stays
                best = c;
                at = e;
            }
        }
        for (u32 d = 16; d > 0; d /= 2) {
            const float b = __shfl_xor_sync(ALL, best, d);
            const u32 a = __shfl_xor_sync(ALL, at, d);
            if (before(b, a, best, at)) {
                best = b;
                at = a;
            }
        }
        if (at == ALL) break;   // the same in all lanes
        if (lane == k) {
            id = at;
            weight = score[slot(at)];
        }
        warp_sync();
        if (lane == 0) choice[slot(at)] = NEVER;
        warp_sync();
    }

    if (p.normalise) {
        float sum = 0.0f;       // picks in order
        for (u32 k = 0; k < p.top_k; ++k) sum = __fadd_rn(sum, __shfl_sync(ALL, weight, k));
        weight = sum > 0.0f ? __fdiv_rn(weight, sum) : 0.0f;
    }
    if (lane < p.top_k) {
        p.ids[token * p.ld_ids + lane] = static_cast<int>(id);
        p.weights[token * p.ld_weights + lane] = __fmul_rn(weight, p.scale);
    }
}
