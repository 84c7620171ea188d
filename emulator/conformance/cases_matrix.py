"""Triton kernels around tl.dot."""

import numpy as np
import triton.language as tl

import triton_matrix as km
from compare import BF16 as U_BF16
from compare import F16 as U_F16
from compare import F32 as U_F32
from compare import exact, product, within
from device import BF16, E4M3, E5M2, Descriptor, given, output
from register import triton
from suite import TARGETS, numbers, rng

KINDS = {
    "fp16": (np.dtype("float16"), "f16"), "bf16": (BF16, "bf16"), "tf32": (np.dtype("float32"), "tf32"),
    "e4m3": (E4M3, "fp8"), "e5m2": (E5M2, "fp8"), "s8": (np.dtype("int8"), "i8"), "f64": (np.dtype("float64"), "f64"),
    "ieee": (np.dtype("float32"), "f32"), "tf32x3": (np.dtype("float32"), "f32"),
}


def matrix(name, shape, dtype):
    if dtype.kind in "iu":
        return numbers(name, shape, dtype)
    return numbers(name, shape, dtype, -2, 2)


def operands(kind, m, n, k, ta=False, tb=False):
    """A (m, k) and B (k, n), stored as they are or transposed; the two arrays and their strides."""
    dt, _ = KINDS[kind]
    a = matrix(f"a {kind}", (k, m) if ta else (m, k), dt)
    b = matrix(f"b {kind}", (n, k) if tb else (k, n), dt)
    sa = (1, m) if ta else (k, 1)
    sb = (1, k) if tb else (n, 1)
    return a, b, (a.T if ta else a), (b.T if tb else b), sa, sb


def result(kind, x, y, out):
    """What to expect, and how to compare."""
    if KINDS[kind][1] == "i8":
        want = (x.astype(np.int64) @ y.astype(np.int64)).astype(np.int32)
        return lambda got: exact(got, want)
    want, bound = product(x, y, KINDS[kind][1], out)
    return lambda got: within(got, want, bound)


for kind in KINDS:
    for m, n, k in ((16, 16, 32), (64, 64, 64), (128, 64, 32)):
        for ta, tb in ((False, False), (True, False), (False, True), (True, True)):
            for warps in (4, 8) if (m, ta, tb) == (128, False, True) else (4,):
                if kind == "f64" and (m, ta, tb) == (128, True, True):
                    continue
                out = {"i8": np.dtype("int32"), "f64": np.dtype("float64")}.get(KINDS[kind][1], np.dtype("float32"))

                def make(kind=kind, m=m, n=n, k=k, ta=ta, tb=tb, out=out):
                    a, b, x, y, sa, sb = operands(kind, m, n, k, ta, tb)
                    check = result(kind, x, y, out)
                    return [given(a), given(b), output((m, n), out), *sa, *sb], lambda p, q, r: check(r)

                targets = TARGETS if kind in ("fp16", "bf16", "tf32", "s8", "e5m2") else (89, 90) if kind == "e4m3" else (80, 90)
                if (m, n, k) == (16, 16, 32):
                    targets = targets[-1:]
                triton(f"dot/{kind}-{m}x{n}x{k}-{'t' if ta else 'n'}{'t' if tb else 'n'}-{warps}w", km.dot, make,
                     constants={"M": m, "N": n, "K": k, "PRECISION": kind if kind in ("ieee", "tf32x3") else "tf32",
                                "ACC": {"i8": tl.int32, "f64": tl.float64}.get(KINDS[kind][1], tl.float32)},
                     targets=targets, num_warps=warps)


def make():
    a, b, x, y, sa, sb = operands("fp16", 64, 64, 64)
    want = x.astype(np.float64) @ y.astype(np.float64)
    size = np.abs(x.astype(np.float64)) @ np.abs(y.astype(np.float64))
    return [given(a), given(b), output((64, 64), np.float16), *sa, *sb], lambda p, q, r: within(r, want, size * 6 * U_F16)


triton("dot/fp16-acc-fp16", km.dot, make, constants={"M": 64, "N": 64, "K": 64, "PRECISION": "tf32", "ACC": tl.float16})

for kind, bm, bn, bk, stages, warps, ta, tb in [
    ("fp16", 64, 64, 32, 1, 4, False, False), ("fp16", 64, 64, 32, 3, 4, False, False),
    ("fp16", 128, 128, 64, 3, 8, False, True), ("fp16", 128, 64, 64, 4, 4, True, True),
    ("bf16", 64, 128, 64, 4, 4, False, False), ("bf16", 128, 128, 32, 2, 8, True, False),
    ("tf32", 64, 64, 32, 3, 4, False, True), ("tf32", 128, 64, 32, 4, 8, False, False),
    ("e5m2", 64, 64, 64, 3, 4, False, True), ("e4m3", 128, 128, 128, 3, 8, False, True),
    ("e4m3", 64, 64, 64, 4, 4, False, False), ("s8", 64, 64, 64, 3, 4, False, True), ("s8", 128, 128, 64, 2, 8, False, False),
    ("f64", 32, 32, 16, 2, 4, False, False), ("ieee", 32, 32, 32, 2, 4, False, False),
]:
    m, n, k = 2 * bm - 5, bn + 16, 5 * bk + 16
    out = {"i8": np.dtype("int32"), "f64": np.dtype("float64"), "f16": np.dtype("float16"), "bf16": BF16}.get(
        KINDS[kind][1], np.dtype("float32"))

    def make(kind=kind, m=m, n=n, k=k, ta=ta, tb=tb, out=out):
        a, b, x, y, sa, sb = operands(kind, m, n, k, ta, tb)
        check = result(kind, x, y, out)
        return [given(a), given(b), output((m, n), out), m, n, k, *sa, *sb], lambda p, q, r: check(r)

    triton(f"gemm/{kind}-{bm}x{bn}x{bk}-s{stages}-{warps}w-{'t' if ta else 'n'}{'t' if tb else 'n'}", km.gemm, make,
         grid=(-(-m // bm), -(-n // bn)), targets=(89, 90) if kind == "e4m3" else TARGETS,
         constants={"BM": bm, "BN": bn, "BK": bk, "STAGES": stages,
                    "ACC": {"i8": tl.int32, "f64": tl.float64}.get(KINDS[kind][1], tl.float32)}, num_warps=warps)

for kind, bm, bn, bk, stages, warps, ctas, ta, tb in [
    ("fp16", 64, 64, 64, 3, 4, 1, False, True), ("fp16", 128, 128, 64, 3, 8, 1, False, False),
    ("fp16", 128, 64, 32, 4, 4, 1, True, False), ("bf16", 64, 128, 64, 2, 4, 1, True, True),
    ("bf16", 128, 256, 64, 3, 8, 1, False, True), ("e4m3", 128, 128, 128, 3, 8, 1, False, True),
    ("e5m2", 64, 64, 64, 3, 4, 1, False, True), ("tf32", 64, 64, 32, 3, 4, 1, False, True),
    ("fp16", 128, 128, 64, 3, 4, 2, False, True), ("bf16", 128, 128, 64, 2, 4, 4, False, False),
]:
    m, n, k = 2 * bm - 16, bn + 32, 4 * bk + 16
    out = {"f16": np.dtype("float16"), "bf16": BF16}.get(KINDS[kind][1], np.dtype("float32"))

    def make(kind=kind, m=m, n=n, k=k, ta=ta, tb=tb, out=out, bm=bm, bn=bn, bk=bk):
        a, b, x, y, _, _ = operands(kind, m, n, k, ta, tb)
        check = result(kind, x, y, out)
        p, q, r = given(a), given(b), output((m, n), out)
        return [Descriptor(p, [bk, bm] if ta else [bm, bk]), Descriptor(q, [bn, bk] if tb else [bk, bn]),
                Descriptor(r, [bm, bn]), k], lambda p, q, r: check(r)

    triton(f"gemm_host_descriptors/{kind}-{bm}x{bn}x{bk}-s{stages}-{warps}w-{ctas}c-{'t' if ta else 'n'}{'t' if tb else 'n'}",
         km.gemm_host_descriptors, make, grid=(-(-m // bm), -(-n // bn)), targets=(90,),
         constants={"BM": bm, "BN": bn, "BK": bk, "TRANS_A": ta, "TRANS_B": tb, "STAGES": stages},
         num_warps=warps, num_ctas=ctas)

for kind, bm, bn, bk, stages, warps in [
    ("fp16", 64, 64, 64, 3, 4), ("bf16", 128, 128, 64, 3, 8), ("e4m3", 128, 64, 128, 3, 4), ("fp16", 128, 64, 32, 1, 4),
]:
    m, n, k = 2 * bm - 16, 2 * bn + 32, 3 * bk + 16
    out = {"f16": np.dtype("float16"), "bf16": BF16}.get(KINDS[kind][1], np.dtype("float32"))

    def make(kind=kind, m=m, n=n, k=k, out=out):
        a, b, x, y, _, _ = operands(kind, m, n, k, False, True)
        check = result(kind, x, y, out)
        return [given(a), given(b), output((m, n), out), m, n, k], lambda p, q, r: check(r)

    triton(f"gemm_device_descriptors/{kind}-{bm}x{bn}x{bk}-s{stages}-{warps}w", km.gemm_device_descriptors, make, grid=(3,),
         targets=(80, 90) if kind != "e4m3" else (89, 90), constants={"BM": bm, "BN": bn, "BK": bk, "STAGES": stages},
         num_warps=warps)

for op, dt in (("store", "float16"), ("store", "float32"), ("store", "int8"), ("add", "float32"), ("add", "int32"),
               ("add", "float16"), ("max", "int32"), ("or", "int32")):
    def make(op=op, dt=np.dtype(dt)):
        x = numbers("copy x", (70, 64), dt)
        y = numbers("copy y", (70, 64), dt) if op != "store" else np.zeros((70, 64), dt)
        want = y.copy()
        s = (slice(40, 70), slice(16, 64))
        with np.errstate(over="ignore"):
            want[s] = {"store": lambda: x[s], "add": lambda: x[s] + y[s], "max": lambda: np.maximum(x[s], y[s]),
                       "or": lambda: x[s] | y[s]}[op]()
        p, q = given(x), given(y)
        return [Descriptor(p, [32, 64]), Descriptor(q, [32, 64]), 40, 16], lambda a, out: exact(out, want)

    triton(f"descriptor/{op}-{dt}", km.copy_descriptor, make, constants={"OP": op}, targets=(90,))

for causal, d, stages, warps, dt in ((False, 64, 2, 4, np.dtype("float16")), (True, 64, 3, 4, np.dtype("float16")),
                                     (True, 128, 2, 8, BF16)):
    def make(causal=causal, d=d, dt=dt):
        h, s = 2, 256
        q, k, v = (numbers(f"attention {t}", (h, s, d), dt, -1, 1) for t in "qkv")
        x, y, z = (t.astype(np.float64) for t in (q, k, v))
        scale = d ** -0.5
        w = x @ y.transpose(0, 2, 1) * scale
        if causal:
            w = np.where(np.tril(np.ones((s, s), bool)), w, -np.inf)
        p = np.exp(w - w.max(axis=2, keepdims=True))
        want = p @ z / p.sum(axis=2, keepdims=True)
        # Weights and the result are rounded to the inputs' type; all weights sum to one and |v| <= 1.
        unit = U_F16 if dt == np.float16 else U_BF16
        return [given(q), given(k), given(v), output((h, s, d), dt), float(scale), s], lambda q, k, v, out: within(
            out, want, 2 * unit + 4e-5)

    triton(f"attention/{'causal' if causal else 'full'}-{d}-{dt.name}-{warps}w", km.attention, make, grid=(4, 2),
         constants={"BM": 64, "BN": 64, "D": d, "CAUSAL": causal, "STAGES": stages}, num_warps=warps)


def make():
    a, b, x, y, _, _ = operands("fp16", 64, 64, 256)
    want, bound = product(x, y, "f16", np.float32)
    return [given(a), given(b), given(np.zeros((64, 64), np.float32)), 64, 64, 256], lambda p, q, r: within(
        r, want, bound + np.abs(want) * 8 * U_F32 + 1e-4)


triton("split_k", km.split_k, make, grid=(2, 2, 4), constants={"BM": 32, "BN": 32, "BK": 32, "PARTS": 4})

for dt in (np.dtype("float16"), BF16):
    def make(dt=dt):
        a, b, c = (numbers(f"chain {t}", (64, 64), dt, -1, 1) for t in "abc")
        x, y, z = (t.astype(np.float64) for t in (a, b, c))
        want = (x @ y) @ z
        unit = U_F16 if dt == np.float16 else U_BF16
        return [given(a), given(b), given(c), output((64, 64), np.float32)], lambda p, q, r, out: within(
            out, want, (np.abs(x) @ np.abs(y)) @ np.abs(z) * 1.1 * unit)

    triton(f"chained/{dt.name}", km.chained, make, constants={"N": 64})


def make():
    a, b = numbers("batch a", (4, 16, 32), np.float16, -1, 1), numbers("batch b", (4, 32, 16), np.float16, -1, 1)
    want = a.astype(np.float64) @ b.astype(np.float64)
    return [given(a), given(b), output((4, 16, 16), np.float32)], lambda p, q, r: within(r, want, 32 * 32 * 2.0 ** -22)


triton("batched", km.batched, make, constants={"B": 4, "M": 16, "N": 16, "K": 32})

for fmt, dt in (("e4m3", E4M3), ("e5m2", E5M2), ("bf16", BF16)):
    def make(dt=dt):
        m, n, k = 64, 64, 64
        a, b = numbers("scaled a", (m, k), dt, -2, 2), numbers("scaled b", (k, n), dt, -2, 2)
        r = rng("scales")
        sa, sb = (r.integers(122, 132, (s, k // 32), dtype=np.uint8) for s in (m, n))
        x = a.astype(np.float64) * np.repeat(2.0 ** (sa.astype(np.float64) - 127), 32, axis=1)
        y = b.astype(np.float64) * np.repeat(2.0 ** (sb.astype(np.float64) - 127), 32, axis=1).T
        want = x @ y
        return [given(a), given(sa), given(b), given(sb), output((m, n), np.float32)], lambda *g: within(
            g[-1], want, np.abs(x) @ np.abs(y) * 80 * 2.0 ** -22)

    triton(f"scaled/{fmt}", km.scaled, make, targets=(89, 90) if fmt == "e4m3" else TARGETS,
         constants={"FORMAT": fmt, "M": 64, "N": 64, "K": 64, "PACK": 1})
