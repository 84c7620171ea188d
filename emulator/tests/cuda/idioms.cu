// What C++ compiles to beside plain arithmetic: recursion, tables of functions, virtual calls, switches, printf, assert,
// alloca, tables of addresses, structures by value. Each kernel writes out[thread].
#include <cassert>
#include <cstdio>

using u32 = unsigned int;

__device__ __noinline__ u32 fibonacci(u32 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void recursion(u32 *out) { out[threadIdx.x] = fibonacci(threadIdx.x % 12); }

// A frame with an array in it, whose address goes down: each activation must have its own.
__device__ __noinline__ u32 sum_down(u32 n, u32 *above) {
    u32 own[4] = {n, n + 1, n + 2, above ? above[n % 4] : 7};
    if (n == 0) return own[3];
    u32 below = sum_down(n - 1, own);
    return below + own[(n + below) % 4];
}

extern "C" __global__ void frames(u32 *out) { out[threadIdx.x] = sum_down(threadIdx.x % 7, nullptr); }

__device__ bool is_odd(u32 n);
__device__ __noinline__ bool is_even(u32 n) { return n == 0 ? true : is_odd(n - 1); }
__device__ __noinline__ bool is_odd(u32 n) { return n == 0 ? false : is_even(n - 1); }

extern "C" __global__ void mutual(u32 *out) { out[threadIdx.x] = is_even(threadIdx.x); }

using Function = u32 (*)(u32, u32);
__device__ __noinline__ u32 add(u32 a, u32 b) { return a + b; }
__device__ __noinline__ u32 mul(u32 a, u32 b) { return a * b; }
__device__ __noinline__ u32 mix(u32 a, u32 b) { return (a << 8) ^ b; }
__device__ Function table[3] = {add, mul, mix};

extern "C" __global__ void pointers(u32 *out) {
    u32 t = threadIdx.x;
    out[t] = table[t % 3](t, 5);
}

struct Shape {
    u32 x;
    __device__ Shape(u32 x) : x(x) {}
    __device__ virtual u32 area() const = 0;
};
struct Square : Shape {
    __device__ Square(u32 x) : Shape(x) {}
    __device__ u32 area() const override { return x * x; }
};
struct Bar : Shape {
    u32 y;
    __device__ Bar(u32 x, u32 y) : Shape(x), y(y) {}
    __device__ u32 area() const override { return x * y; }
};
__device__ __noinline__ u32 measure(const Shape *s) { return s->area(); }

extern "C" __global__ void virtuals(u32 *out) {
    u32 t = threadIdx.x;
    Square a(t);
    Bar b(t, 3);
    out[t] = measure(t % 2 ? static_cast<const Shape *>(&a) : &b);
}

extern "C" __global__ void switches(u32 *out) {
    u32 t = threadIdx.x, v = t * 3;
    switch (t % 11) {
    case 0: v = v * 5 + 1; break;
    case 1: v = v ^ 77; break;
    case 2: v = v << 3; break;
    case 3: v = __popc(v); break;
    case 4: v = v / 7; break;
    case 5: v = v - 1000; break;
    case 6: v = __brev(v); break;
    case 7: v = v % 13; break;
    case 8: v = ~v; break;
    case 9: v = v * v; break;
    default: v = 42;
    }
    out[t] = v;
}

struct Triple {
    u32 a;
    double b;
    unsigned short c[3];
};
__device__ __noinline__ Triple turn(Triple t, u32 by) {
    Triple r;
    r.a = t.c[by % 3];
    r.b = t.b * by;
    for (int i = 0; i < 3; i++) r.c[i] = static_cast<unsigned short>(t.a + i);
    return r;
}

extern "C" __global__ void structures(u32 *out) {
    u32 t = threadIdx.x;
    Triple r = turn(turn({t, 1.5, {10, 20, 30}}, t), 2);
    out[t] = r.a + static_cast<u32>(r.b) + r.c[1];
}

struct __attribute__((packed)) Packed {
    char tag;
    const u32 *where;
    u32 value;
};
__device__ u32 words[4] = {3, 1, 4, 1};
__device__ Packed packed[2] = {{'a', words + 2, 100}, {'b', words, 200}};
__constant__ float weights[2][2] = {{1.5f, 2.5f}, {-0.5f}};
__device__ const char *const names[2] = {"first", "second"};

extern "C" __global__ void initialisers(u32 *out) {
    u32 t = threadIdx.x, k = t % 2;
    out[t] = packed[k].value + *packed[k].where + packed[k].tag + static_cast<u32>(weights[k][0] * 10.0f + 20.0f) + names[k][2];
}

extern "C" __global__ void prints(u32 *out) {
    u32 t = threadIdx.x;
    if (t == 3) printf("thread %u: %5.2f %s %c %lld 0x%08x %%\n", t, 2.0 / 3.0, "text", 'c', -5000000000ll, 0xbeefu);
    if (t == 40) printf("no arguments\n");
    out[t] = t == 5 ? printf("%d|%-4d|%+d\n", 1, 2, 3) : 0;
}

extern "C" __global__ void asserts(u32 *out) {
    assert(threadIdx.x < 40);
    out[threadIdx.x] = 1;
}

extern "C" __global__ void allocates(u32 *out) {
    u32 t = threadIdx.x, n = t % 9 + 1;
    u32 *a = static_cast<u32 *>(__builtin_alloca(n * sizeof(u32)));
    for (u32 i = 0; i < n; i++) a[i] = i * t;
    u32 s = 0;
    for (u32 i = 0; i < n; i++) s += a[n - 1 - i] * (i + 1);
    out[t] = s;
}
