"""Triton kernels that work across lanes: reductions, scans, sorting, normalisation."""

import numpy as np

import triton_basic as kb
from compare import BF16 as U_BF16
from compare import F16 as U_F16
from compare import F32 as U_F32
from compare import exact, within
from device import BF16, given, output
from register import triton
from suite import TARGETS, Rotation, numbers, rng

rotation = Rotation()

for op in ("sum", "max", "min", "xor", "argmax", "argmin"):
    for axis in (0, 1):
        for dt in ("float32", "int32", "float16", "int64"):
            if op == "xor" and dt.startswith("float"):
                continue
            for warps in (4, 8) if dt in ("float32",) else (4,):
                def make(op=op, axis=axis, dt=np.dtype(dt)):
                    x = numbers(f"reduce {op} {dt.name}", (32, 64), dt)
                    if op == "xor":
                        want = np.bitwise_xor.reduce(x, axis=axis)
                    elif op == "sum" and dt.kind == "f":
                        want = x.astype(np.float64).sum(axis=axis)
                    else:
                        with np.errstate(over="ignore"):
                            want = getattr(np, op)(x, axis=axis)
                    if op in ("argmax", "argmin"):
                        want = want.astype(np.int32)
                    out_dt = np.dtype("int32") if op in ("argmax", "argmin") else np.dtype("float32") if (
                        dt == np.float16 and op == "sum") else dt
                    if op == "sum" and dt.kind in "iu":
                        want = want.astype(out_dt)
                    verify = (lambda a, out: exact(out, want)) if want.dtype == out_dt and not (
                        op == "sum" and dt.kind == "f") else (lambda a, out: within(
                            out, want, np.abs(x.astype(np.float64)).sum(axis=axis) * 64 * (
                                U_F32 if dt == np.float32 else U_F16)))
                    return [given(x), output(want.shape, out_dt)], verify

                triton(f"reduce/{op}-{axis}-{dt}-{warps}w", kb.reduce, make,
                     constants={"OP": op, "AXIS": axis, "M": 32, "N": 64}, targets=rotation.next(), num_warps=warps)


def make():
    x = numbers("reduce all", 4096, np.float32)
    return [given(x), output(1, np.float32)], lambda a, out: within(
        out, x.astype(np.float64).sum(keepdims=True), np.abs(x).sum() * 64 * U_F32)


triton("reduce/all", kb.reduce_all, make, constants={"N": 4096})

for op in ("cumsum", "cumprod", "product"):
    for axis in (0, 1):
        for reverse in (False, True):
            for dt in ("float32", "int32", "float64") if op == "cumsum" else ("float32", "int32"):
                def make(op=op, axis=axis, reverse=reverse, dt=np.dtype(dt)):
                    x = numbers(f"scan {op}", (16, 32), dt, 0.8, 1.2)
                    y = np.flip(x, axis) if reverse else x
                    with np.errstate(over="ignore"):
                        wide = y.astype(np.float64) if dt.kind == "f" else y
                        r = (np.cumsum if op == "cumsum" else np.cumprod)(wide, axis=axis, dtype=wide.dtype)
                    want = np.flip(r, axis) if reverse else r
                    unit = U_F32 if dt == np.float32 else 2.0 ** -53
                    return [given(x), output((16, 32), dt)], lambda a, out: (
                        exact(out, want) if dt.kind == "i" else within(out, want, np.abs(want) * 64 * unit))

                triton(f"scan/{op}-{axis}-{dt}{'-reverse' if reverse else ''}", kb.scan, make,
                     constants={"OP": op, "AXIS": axis, "REVERSE": reverse, "M": 16, "N": 32}, targets=rotation.next())


def make():
    g, x = numbers("gate", (8, 128), np.float32, 0, 1), numbers("recurrence", (8, 128), np.float32)
    want = np.zeros((8, 128))
    h = np.zeros(8)
    for t in range(128):
        h = g[:, t].astype(np.float64) * h + x[:, t]
        want[:, t] = h
    return [given(g), given(x), output((8, 128), np.float32)], lambda a, b, out: within(out, want, 200 * 60 * U_F32)


triton("scan/recurrence", kb.recurrence, make, constants={"M": 8, "N": 128})

for dt in (np.dtype("float32"), np.dtype("float16"), BF16):
    for n, block, warps in ((781, 1024, 4), (2048, 2048, 8)):
        def make(dt=dt, n=n):
            x = numbers("softmax", (5, n), dt)
            e = np.exp(x.astype(np.float64) - x.astype(np.float64).max(axis=1, keepdims=True))
            want = e / e.sum(axis=1, keepdims=True)
            unit = {"float32": 64 * U_F32, "float16": 2 * U_F16, "bfloat16": 2 * U_BF16}[dt.name]
            return [given(x), output((5, n), dt), n, n], lambda a, out: within(
                out, want, want * unit + (2.0 ** -24 if dt == np.float16 else 0))

        triton(f"softmax/{dt.name}-{n}", kb.softmax, make, grid=(5,), constants={"BLOCK": block}, num_warps=warps,
             targets=TARGETS if dt == np.float32 else rotation.next())


def make():
    x = numbers("norm", (4, 1100), np.float16)
    w, b = numbers("w", 1100, np.float16), numbers("b", 1100, np.float16)
    v = x.astype(np.float64)
    mean = v.mean(axis=1, keepdims=True)
    want = (v - mean) / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5) * w.astype(np.float64) + b.astype(np.float64)
    return [given(x), given(w), given(b), output(x.shape, np.float16), output(4, np.float32), 1100, 1e-5], (
        lambda x_, w_, b_, out, mean_: (within(out, want, np.abs(want) * 2 * U_F16 + 16 * 100 * U_F32),
                                        within(mean_, mean[:, 0], 4 * 20 * U_F32)))


triton("layer_norm", kb.layer_norm, make, grid=(4,), constants={"BLOCK": 512})

for dt in ("float32", "float16", "int8", "float64"):
    def make(dt=np.dtype(dt)):
        x = numbers("transpose", (64, 32), dt)
        return [given(x), output((32, 64), dt)], lambda a, out: exact(out, x.T.copy())

    triton(f"transpose/{dt}", kb.transpose, make, constants={"M": 64, "N": 32}, targets=rotation.next())

for op in ("flip", "sort", "sort_down", "interleave", "join", "reshape", "gather", "topk", "cat"):
    for dt in ("float32", "int32", "int16"):
        def make(op=op, dt=np.dtype(dt)):
            n = 256
            x = numbers(f"shuffle {op}", n, dt)
            with np.errstate(over="ignore"):
                want = {
                    "flip": lambda: x[::-1], "sort": lambda: np.sort(x), "sort_down": lambda: np.sort(x)[::-1],
                    "interleave": lambda: np.stack([x, x * dt.type(2)], axis=1).reshape(-1),
                    "join": lambda: x * (x + dt.type(1)),
                    "reshape": lambda: x.reshape(n // 8, 2, 4).transpose(2, 0, 1).reshape(-1),
                    "gather": lambda: x[(np.arange(n) * 7 + 3) % n], "topk": lambda: np.sort(x)[::-1][:8],
                    "cat": lambda: np.sort(np.concatenate([x, x])),
                }[op]().copy()
            verify = (lambda a, out: exact(np.sort(out), want)) if op == "cat" else (lambda a, out: exact(out, want))
            return [given(x), output(want.shape, dt)], verify

        triton(f"order/{op}-{dt}", kb.shuffle, make, constants={"OP": op, "N": 256}, targets=rotation.next())


def make():
    x = rng("histogram").integers(0, 32, 1024, dtype=np.int32)
    return [given(x), output(32, np.int32)], lambda a, out: exact(out, np.bincount(x, minlength=32).astype(np.int32))


triton("histogram", kb.histogram, make, constants={"N": 1024, "BINS": 32})
