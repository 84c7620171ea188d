"""Triton kernels: element-wise work, reductions, scans, sorting, atomics, control flow."""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    tl.store(out + at, tl.load(x + at, mask=live) + tl.load(y + at, mask=live), mask=live)


@triton.jit
def arithmetic(x, y, out, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live, other=1)
    b = tl.load(y + at, mask=live, other=1)
    if OP == "sub":
        r = a - b
    elif OP == "mul":
        r = a * b
    elif OP == "div":
        r = a / b
    elif OP == "floordiv":
        r = a // b
    elif OP == "mod":
        r = a % b
    elif OP == "min":
        r = tl.minimum(a, b)
    elif OP == "max":
        r = tl.maximum(a, b)
    elif OP == "and":
        r = a & b
    elif OP == "or":
        r = a | b
    elif OP == "xor":
        r = a ^ b
    elif OP == "shl":
        r = a << (b & 7)
    elif OP == "shr":
        r = a >> (b & 7)
    elif OP == "umulhi":
        r = tl.umulhi(a, b)
    elif OP == "fma":
        r = tl.fma(a, b, a)
    elif OP == "div_rn":
        r = tl.div_rn(a, b)
    elif OP == "lt":
        r = (a < b).to(out.dtype.element_ty)
    elif OP == "where":
        r = tl.where(a < b, a, b * 2)
    elif OP == "minnan":
        r = tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "clamp":
        r = tl.clamp(a, -1.0, 1.0)
    else:
        tl.static_assert(False, "unknown operation")
    tl.store(out + at, r.to(out.dtype.element_ty), mask=live)


@triton.jit
def unary(x, out, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live, other=1.0)
    if OP == "exp":
        r = tl.exp(a)
    elif OP == "exp2":
        r = tl.exp2(a)
    elif OP == "log":
        r = tl.log(a)
    elif OP == "log2":
        r = tl.log2(a)
    elif OP == "sin":
        r = tl.sin(a)
    elif OP == "cos":
        r = tl.cos(a)
    elif OP == "sqrt":
        r = tl.sqrt(a)
    elif OP == "sqrt_rn":
        r = tl.sqrt_rn(a)
    elif OP == "rsqrt":
        r = tl.rsqrt(a)
    elif OP == "erf":
        r = tl.erf(a)
    elif OP == "abs":
        r = tl.abs(a)
    elif OP == "neg":
        r = -a
    elif OP == "floor":
        r = tl.floor(a)
    elif OP == "ceil":
        r = tl.ceil(a)
    elif OP == "sigmoid":
        r = tl.sigmoid(a)
    elif OP == "tanh":
        r = libdevice.tanh(a)
    elif OP == "cbrt":
        r = libdevice.cbrt(a)
    elif OP == "log1p":
        r = libdevice.log1p(a)
    elif OP == "expm1":
        r = libdevice.expm1(a)
    elif OP == "atan":
        r = libdevice.atan(a)
    elif OP == "asin":
        r = libdevice.asin(a)
    elif OP == "sinh":
        r = libdevice.sinh(a)
    elif OP == "tan":
        r = libdevice.tan(a)
    elif OP == "lgamma":
        r = libdevice.lgamma(a)
    elif OP == "erfinv":
        r = libdevice.erfinv(a)
    elif OP == "rint":
        r = libdevice.rint(a)
    elif OP == "trunc":
        r = libdevice.trunc(a)
    elif OP == "not":
        r = ~a
    elif OP == "popc":
        r = libdevice.popc(a)
    elif OP == "clz":
        r = libdevice.clz(a)
    elif OP == "ffs":
        r = libdevice.ffs(a)
    elif OP == "brev":
        r = libdevice.brev(a)
    else:
        tl.static_assert(False, "unknown operation")
    tl.store(out + at, r.to(out.dtype.element_ty), mask=live)


@triton.jit
def power(x, y, out, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live, other=1.0)
    b = tl.load(y + at, mask=live, other=1.0)
    if OP == "pow":
        r = libdevice.pow(a, b)
    elif OP == "fmod":
        r = libdevice.fmod(a, b)
    elif OP == "atan2":
        r = libdevice.atan2(a, b)
    elif OP == "hypot":
        r = libdevice.hypot(a, b)
    elif OP == "copysign":
        r = libdevice.copysign(a, b)
    else:
        r = libdevice.remainder(a, b)
    tl.store(out + at, r, mask=live)


@triton.jit
def cast(x, out, n, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live)
    if ROUND is None:
        r = a.to(out.dtype.element_ty)
    else:
        r = a.to(out.dtype.element_ty, fp_downcast_rounding=ROUND)
    tl.store(out + at, r, mask=live)


@triton.jit
def bitcast(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live)
    tl.store(out + at, a.to(out.dtype.element_ty, bitcast=True), mask=live)


@triton.jit
def reduce(x, out, OP: tl.constexpr, AXIS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    a = tl.load(x + m[:, None] * N + n[None, :])
    if OP == "sum":
        r = tl.sum(a, axis=AXIS)
    elif OP == "max":
        r = tl.max(a, axis=AXIS)
    elif OP == "min":
        r = tl.min(a, axis=AXIS)
    elif OP == "xor":
        r = tl.xor_sum(a, axis=AXIS)
    elif OP == "argmax":
        r = tl.argmax(a, axis=AXIS)
    elif OP == "argmin":
        r = tl.argmin(a, axis=AXIS)
    else:
        tl.static_assert(False, "unknown operation")
    if AXIS == 0:
        tl.store(out + n, r)
    else:
        tl.store(out + m, r)


@triton.jit
def reduce_all(x, out, N: tl.constexpr):
    a = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.sum(a))


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def _linear(a0, b0, a1, b1):
    return a1 * a0, a1 * b0 + b1


@triton.jit
def scan(x, out, OP: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    a = tl.load(x + at)
    if OP == "cumsum":
        r = tl.cumsum(a, axis=AXIS, reverse=REVERSE)
    elif OP == "cumprod":
        r = tl.cumprod(a, axis=AXIS, reverse=REVERSE)
    else:
        r = tl.associative_scan(a, AXIS, _product, reverse=REVERSE)
    tl.store(out + at, r)


@triton.jit
def recurrence(gate, x, out, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    g = tl.load(gate + at)
    v = tl.load(x + at)
    _, h = tl.associative_scan((g, v), 1, _linear)
    tl.store(out + at, h)


@triton.jit
def softmax(x, out, stride, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    a = tl.load(x + row * stride + c, mask=c < n, other=float("-inf")).to(tl.float32)
    e = tl.exp(a - tl.max(a, axis=0))
    tl.store(out + row * stride + c, (e / tl.sum(e, axis=0)).to(out.dtype.element_ty), mask=c < n)


@triton.jit
def layer_norm(x, w, b, out, mean_out, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for s in range(0, n, BLOCK):
        c = s + tl.arange(0, BLOCK)
        total += tl.load(x + row * n + c, mask=c < n, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / n
    square = tl.zeros([BLOCK], tl.float32)
    for s in range(0, n, BLOCK):
        c = s + tl.arange(0, BLOCK)
        v = tl.where(c < n, tl.load(x + row * n + c, mask=c < n, other=0.0).to(tl.float32) - mean, 0.0)
        square += v * v
    scale = tl.rsqrt(tl.sum(square, axis=0) / n + eps)
    tl.store(mean_out + row, mean)
    for s in range(0, n, BLOCK):
        c = s + tl.arange(0, BLOCK)
        live = c < n
        v = (tl.load(x + row * n + c, mask=live, other=0.0).to(tl.float32) - mean) * scale
        v = v * tl.load(w + c, mask=live) + tl.load(b + c, mask=live)
        tl.store(out + row * n + c, v.to(out.dtype.element_ty), mask=live)


@triton.jit
def transpose(x, out, M: tl.constexpr, N: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    a = tl.load(x + m[:, None] * N + n[None, :])
    tl.store(out + n[:, None] * M + m[None, :], tl.trans(a))


@triton.jit
def shuffle(x, out, OP: tl.constexpr, N: tl.constexpr):
    c = tl.arange(0, N)
    a = tl.load(x + c)
    if OP == "flip":
        tl.store(out + c, tl.flip(a))
    elif OP == "sort":
        tl.store(out + c, tl.sort(a))
    elif OP == "sort_down":
        tl.store(out + c, tl.sort(a, descending=True))
    elif OP == "interleave":
        tl.store(out + tl.arange(0, 2 * N), tl.interleave(a, a * 2))
    elif OP == "join":
        j = tl.join(a, a + 1)
        p, q = tl.split(j)
        tl.store(out + c, p * q)
    elif OP == "reshape":
        r = tl.permute(tl.reshape(a, [N // 8, 2, 4]), (2, 0, 1))
        tl.store(out + c, tl.reshape(r, [N]))
    elif OP == "gather":
        tl.store(out + c, tl.gather(a, (c * 7 + 3) % N, 0))
    elif OP == "topk":
        tl.store(out + tl.arange(0, 8), tl.topk(a, 8))
    elif OP == "cat":
        tl.store(out + tl.arange(0, 2 * N), tl.cat(a, a, can_reorder=True))
    else:
        tl.static_assert(False, "unknown operation")


@triton.jit
def histogram(x, out, N: tl.constexpr, BINS: tl.constexpr):
    h = tl.histogram(tl.load(x + tl.arange(0, N)), BINS)
    tl.store(out + tl.arange(0, BINS), h)


@triton.jit
def atomic(x, out, old, n, OP: tl.constexpr, SEM: tl.constexpr, SCOPE: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    v = tl.load(x + at, mask=live)
    p = out + at % 4
    if OP == "add":
        r = tl.atomic_add(p, v, mask=live, sem=SEM, scope=SCOPE)
    elif OP == "max":
        r = tl.atomic_max(p, v, mask=live, sem=SEM, scope=SCOPE)
    elif OP == "min":
        r = tl.atomic_min(p, v, mask=live, sem=SEM, scope=SCOPE)
    elif OP == "and":
        r = tl.atomic_and(p, v, mask=live, sem=SEM, scope=SCOPE)
    elif OP == "or":
        r = tl.atomic_or(p, v, mask=live, sem=SEM, scope=SCOPE)
    elif OP == "xor":
        r = tl.atomic_xor(p, v, mask=live, sem=SEM, scope=SCOPE)
    else:
        r = tl.atomic_xchg(p, v, mask=live, sem=SEM, scope=SCOPE)
    if old is not None:
        tl.store(old + at, r, mask=live)


@triton.jit
def lock(mutex, total, out, BLOCK: tl.constexpr):
    """Blocks add to an array one after the other, under a lock."""
    while tl.atomic_cas(mutex, 0, 1, sem="acquire") == 1:
        pass
    c = tl.arange(0, BLOCK)
    seen = tl.load(total)
    tl.store(out + c, tl.load(out + c) + c)
    tl.store(total, seen + 1)
    tl.debug_barrier()
    tl.atomic_xchg(mutex, 0, sem="release")


@triton.jit
def collatz(x, out, n, BLOCK: tl.constexpr):
    """A loop of unknown length whose condition is the whole block's."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    v = tl.load(x + at, mask=live, other=1)
    steps = tl.zeros([BLOCK], tl.int32)
    while tl.max(v, axis=0) > 1:
        steps += (v > 1).to(tl.int32)
        v = tl.where(v > 1, tl.where(v % 2 == 0, v // 2, 3 * v + 1), v)
    tl.store(out + at, steps, mask=live)


@triton.jit(noinline=True)
def _polynomial(v, a, b):
    return v * a + b


@triton.jit
def calls(x, out, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    v = tl.load(x + c)
    v = _polynomial(v, 2, 1)
    v = _polynomial(v, 3, -4)
    tl.store(out + c, v)


@triton.jit
def branches(x, out, which, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + c)
    if tl.program_id(0) % 2 == 0:
        if which > 3:
            v = v * 2
        else:
            v = v + which
    else:
        for k in range(which):
            v = v + k
    tl.store(out + c, v)


@triton.jit
def random(out, seed, KIND: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if KIND == "randint":
        tl.store(out + at, tl.randint(seed, at))
    elif KIND == "rand":
        tl.store(out + at, tl.rand(seed, at))
    else:
        tl.store(out + at, tl.randn(seed, at))


@triton.jit
def assembly(x, y, out, BLOCK: tl.constexpr):
    """Packed bytes through instructions written by hand."""
    c = tl.arange(0, BLOCK)
    r = tl.inline_asm_elementwise(
        "{ .reg .b32 t; prmt.b32 t, $1, $2, 0x5140; lop3.b32 $0, t, $1, $2, 0x96; }",
        "=r,r,r", [tl.load(x + c), tl.load(y + c)], dtype=tl.int8, is_pure=True, pack=4)
    tl.store(out + c, r)


@triton.jit
def prints(x, BLOCK: tl.constexpr):
    v = tl.load(x + tl.arange(0, BLOCK))
    tl.device_print("value", v)


@triton.jit
def asserts(x, LIMIT: tl.constexpr, BLOCK: tl.constexpr):
    v = tl.load(x + tl.arange(0, BLOCK))
    tl.device_assert(v < LIMIT, "too large")


@triton.jit
def strided(x, out, sm, sn, M: tl.constexpr, N: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    tl.store(out + m[:, None] * N + n[None, :], tl.load(x + m[:, None] * sm + n[None, :] * sn))


@triton.jit
def cached(x, out, n, BLOCK: tl.constexpr):
    """Cache hints and volatile accesses."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    a = tl.load(x + at, mask=live, cache_modifier=".ca")
    b = tl.load(x + at, mask=live, cache_modifier=".cg")
    c = tl.load(x + at, mask=live, volatile=True)
    a = a * 0.5 + tl.load(x + at, mask=live, eviction_policy="evict_last") * 0.5
    b = b * 0.5 + tl.load(x + at, mask=live, eviction_policy="evict_first") * 0.5
    tl.store(out + at, a + b + c, mask=live, cache_modifier=".wb")
    tl.store(out + at, a + b + c, mask=live, cache_modifier=".cs")


@triton.jit
def turns(flags, out, BLOCK: tl.constexpr):
    """Each block waits for the one before it, then goes on from its result."""
    me = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    if me > 0:
        while tl.atomic_add(flags + me - 1, 0, sem="acquire") == 0:
            pass
        v = tl.load(out + (me - 1) * BLOCK + c)
    else:
        v = c
    tl.store(out + me * BLOCK + c, v + me)
    tl.debug_barrier()
    tl.atomic_xchg(flags + me, 1, sem="release")
