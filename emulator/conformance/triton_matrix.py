"""Triton kernels around tl.dot: matrix products, attention, convolution, scaled formats, tensor descriptors."""

import triton
import triton.language as tl


@triton.jit
def dot(a, b, out, sam, sak, sbk, sbn, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
        PRECISION: tl.constexpr, ACC: tl.constexpr):
    """One block, one product."""
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    x = tl.load(a + m[:, None] * sam + k[None, :] * sak)
    y = tl.load(b + k[:, None] * sbk + n[None, :] * sbn)
    r = tl.dot(x, y, input_precision=PRECISION, out_dtype=ACC)
    tl.store(out + m[:, None] * N + n[None, :], r.to(out.dtype.element_ty))


@triton.jit
def gemm(a, b, out, m_len, n_len, k_len, sam, sak, sbk, sbn,
         BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr, STAGES: tl.constexpr):
    """Pointers and masks, a pipelined loop over K."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pa = a + m[:, None] * sam + k[None, :] * sak
    pb = b + k[:, None] * sbk + n[None, :] * sbn
    acc = tl.zeros([BM, BN], ACC)
    for k0 in tl.range(0, k_len, BK, num_stages=STAGES):
        x = tl.load(pa, mask=(m[:, None] < m_len) & (k[None, :] < k_len - k0), other=0.0)
        y = tl.load(pb, mask=(k[:, None] < k_len - k0) & (n[None, :] < n_len), other=0.0)
        acc = tl.dot(x, y, acc, input_precision="tf32", out_dtype=ACC)
        pa += BK * sak
        pb += BK * sbk
    tl.store(out + m[:, None] * n_len + n[None, :], acc.to(out.dtype.element_ty),
             mask=(m[:, None] < m_len) & (n[None, :] < n_len))


@triton.jit
def gemm_host_descriptors(a, b, out, k_len, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                          TRANS_A: tl.constexpr, TRANS_B: tl.constexpr, STAGES: tl.constexpr):
    """Tensor maps made by the host."""
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in tl.range(0, k_len, BK, num_stages=STAGES):
        if TRANS_A:
            x = a.load([k0, m0]).T
        else:
            x = a.load([m0, k0])
        if TRANS_B:
            y = b.load([n0, k0]).T
        else:
            y = b.load([k0, n0])
        acc = tl.dot(x, y, acc)
    out.store([m0, n0], acc.to(out.dtype))


@triton.jit
def gemm_device_descriptors(a, b, out, m_len, n_len, k_len, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                            STAGES: tl.constexpr):
    """Tensor maps made on the device; blocks stay and take tile after tile."""
    da = tl.make_tensor_descriptor(a, shape=[m_len, k_len], strides=[k_len, 1], block_shape=[BM, BK])
    db = tl.make_tensor_descriptor(b, shape=[n_len, k_len], strides=[k_len, 1], block_shape=[BN, BK])
    do = tl.make_tensor_descriptor(out, shape=[m_len, n_len], strides=[n_len, 1], block_shape=[BM, BN])
    tiles_n = tl.cdiv(n_len, BN)
    tiles = tl.cdiv(m_len, BM) * tiles_n
    for t in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=1):
        m0 = t // tiles_n * BM
        n0 = t % tiles_n * BN
        acc = tl.zeros([BM, BN], tl.float32)
        for k0 in tl.range(0, k_len, BK, num_stages=STAGES):
            acc = tl.dot(da.load([m0, k0]), db.load([n0, k0]).T, acc)
        do.store([m0, n0], acc.to(out.dtype.element_ty))


@triton.jit
def copy_descriptor(x, out, m0, n0, OP: tl.constexpr):
    v = x.load([m0, n0])
    if OP == "store":
        out.store([m0, n0], v)
    elif OP == "add":
        out.atomic_add([m0, n0], v)
    elif OP == "max":
        out.atomic_max([m0, n0], v)
    else:
        out.atomic_or([m0, n0], v)


@triton.jit
def gather_descriptor(x, rows, out, n0, M: tl.constexpr, N: tl.constexpr):
    r = tl.load(rows + tl.arange(0, M))
    v = x.gather(r, n0)
    tl.store(out + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :], v)


@triton.jit
def attention(q, k, v, out, scale, seq, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
              CAUSAL: tl.constexpr, STAGES: tl.constexpr):
    """Online softmax over blocks of keys; one head per program of the second axis."""
    m0 = tl.program_id(0) * BM
    head = tl.program_id(1) * seq * D
    m = m0 + tl.arange(0, BM)
    n = tl.arange(0, BN)
    d = tl.arange(0, D)
    x = tl.load(q + head + m[:, None] * D + d[None, :])
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = m0 + BM if CAUSAL else seq
    for n0 in tl.range(0, end, BN, num_stages=STAGES):
        y = tl.load(k + head + (n0 + n)[None, :] * D + d[:, None])
        s = tl.dot(x, y) * (scale * 1.4426950408889634)
        if CAUSAL:
            s = tl.where(m[:, None] >= (n0 + n)[None, :], s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        fade = tl.exp2(top - new)
        total = total * fade + tl.sum(p, 1)
        z = tl.load(v + head + (n0 + n)[:, None] * D + d[None, :])
        acc = tl.dot(p.to(z.dtype), z, acc * fade[:, None])
        top = new
    tl.store(out + head + m[:, None] * D + d[None, :], (acc / total[:, None]).to(out.dtype.element_ty))


@triton.jit
def split_k(a, b, out, m_len, n_len, k_len, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr):
    """Partial sums met by atomics."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(tl.program_id(2) * BK, k_len, BK * PARTS):
        k = k0 + tl.arange(0, BK)
        acc = tl.dot(tl.load(a + m[:, None] * k_len + k[None, :]), tl.load(b + k[:, None] * n_len + n[None, :]), acc)
    tl.atomic_add(out + m[:, None] * n_len + n[None, :], acc)


@triton.jit
def chained(a, b, c, out, N: tl.constexpr):
    """The result of one product is the left operand of the next."""
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    x = tl.dot(tl.load(a + at), tl.load(b + at))
    tl.store(out + at, tl.dot(x.to(a.dtype.element_ty), tl.load(c + at)))


@triton.jit
def batched(a, b, out, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """A product with a batch dimension inside the block."""
    p = tl.arange(0, B)[:, None, None]
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    x = tl.load(a + p * M * K + m[None, :, None] * K + k[None, None, :])
    y = tl.load(b + p * K * N + k[None, :, None] * N + n[None, None, :])
    tl.store(out + p * M * N + m[None, :, None] * N + n[None, None, :], tl.dot(x, y))


@triton.jit
def scaled(a, sa, b, sb, out, FORMAT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PACK: tl.constexpr):
    """Microscaled operands: a power-of-two scale for each 32 of K."""
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K // PACK)
    s = tl.arange(0, K // 32)
    x = tl.load(a + m[:, None] * (K // PACK) + k[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    p = tl.load(sa + m[:, None] * (K // 32) + s[None, :])
    q = tl.load(sb + n[:, None] * (K // 32) + s[None, :])
    r = tl.dot_scaled(x, p, FORMAT, y, q, FORMAT)
    tl.store(out + m[:, None] * N + n[None, :], r)
