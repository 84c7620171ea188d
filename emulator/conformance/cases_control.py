"""Triton kernels around atomics, locks, branches, random numbers, printing and assembly."""

import numpy as np

import triton_basic as kb
from compare import exact
from device import BF16, given, output
from register import triton
from suite import Rotation, numbers, rng

rotation = Rotation()

SEMANTICS = [(sem, scope) for sem in ("relaxed", "acquire", "release", "acq_rel") for scope in ("cta", "gpu", "sys")]
turn = 0


def atomic(op, dt, keep, sem, scope, targets):
    """600 elements meet on four places; with `keep` the old values come back too."""
    real = dt.kind not in "iu"

    def make():
        x = numbers(f"atomic {op}", 600, dt) if not real else rng(f"atomic {op}").integers(0, 8, 600).astype(np.float32).astype(dt)
        start = np.zeros(4, dt) if op in ("add", "or", "xor") else x[:4].copy()
        groups = [np.append(x[j::4], start[j]) for j in range(4)]
        f = {"add": np.add, "max": np.maximum, "min": np.minimum, "and": np.bitwise_and, "or": np.bitwise_or,
             "xor": np.bitwise_xor}.get(op)

        def verify(a, out, *old):
            if op == "xchg":
                # Each value is seen once: by the next exchange, or at the end.
                for j in range(4):
                    exact(np.sort(np.append(old[0][j::4], out[j])), np.sort(groups[j]))
                return
            with np.errstate(over="ignore"):
                # Small integers: sums are exact in each type.
                exact(out, np.array([f.reduce(g.astype(np.float64 if real else dt)) for g in groups]).astype(dt))

        return [given(x), given(start)] + ([output(600, dt)] if keep else []) + [600], verify

    constants = {"OP": op, "SEM": sem, "SCOPE": scope, "BLOCK": 256 if scope != "cta" else 1024}
    if not keep:
        constants["old"] = None
    # Atomics of block scope are atomic to those of their own block only.
    triton(f"atomic/{op}-{dt.name}-{sem}-{scope}{'' if keep else '-red'}", kb.atomic, make, grid=(1 if scope == "cta" else 3,),
           constants=constants, targets=targets)


for op in ("add", "max", "min", "and", "or", "xor", "xchg"):
    for dt in ("int32", "uint32", "int64", "float32", "float64", "float16", BF16):
        dt = np.dtype(dt)
        if dt.kind not in "iu" and not (op == "add" or dt == np.float32 and op in ("max", "min", "xchg")):
            continue
        for keep in (True, False) if op == "add" else (True,):
            atomic(op, dt, keep, *SEMANTICS[turn % 12], (90,) if dt == BF16 else rotation.next())
            turn += 1
for sem, scope in SEMANTICS:
    atomic("add", np.dtype("uint64"), True, sem, scope, rotation.next())


def make():
    return [given(np.zeros(1, np.int32)), given(np.zeros(1, np.int32)), given(np.zeros(128, np.int32))], (
        lambda m, t, out: (exact(t, np.array([6], np.int32)), exact(out, (np.arange(128) * 6).astype(np.int32))))


triton("lock", kb.lock, make, grid=(6,), constants={"BLOCK": 128})


def make():
    x = rng("collatz").integers(1, 60, 500, dtype=np.int32)

    def steps(v):
        n = 0
        while v > 1:
            v = v // 2 if v % 2 == 0 else 3 * v + 1
            n += 1
        return n

    return [given(x), output(500, np.int32), 500], lambda a, out: exact(out, np.array([steps(int(v)) for v in x], np.int32))


triton("collatz", kb.collatz, make, grid=(4,), constants={"BLOCK": 128})


def make():
    x = numbers("calls", 256, np.int32) // 8
    return [given(x), output(256, np.int32)], lambda a, out: exact(out, ((x * 2 + 1) * 3 - 4).astype(np.int32))


triton("calls", kb.calls, make, constants={"BLOCK": 256})

for which in (2, 5):
    def make(which=which):
        x = numbers("branches", 512, np.int32) // 8
        want = x.copy()
        for b in range(4):
            s = slice(b * 128, b * 128 + 128)
            want[s] = (x[s] * 2 if which > 3 else x[s] + which) if b % 2 == 0 else x[s] + sum(range(which))
        return [given(x), output(512, np.int32), which], lambda a, out: exact(out, want)

    triton(f"branches/{which}", kb.branches, make, grid=(4,), constants={"BLOCK": 128})


def philox(seed, at):
    c = [at.astype(np.uint64) & 0xFFFFFFFF, at.astype(np.uint64) * 0, at.astype(np.uint64) * 0, at.astype(np.uint64) * 0]
    k = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + np.uint64(0x9E3779B9)) & mask, (k[1] + np.uint64(0xBB67AE85)) & mask]
    return c[0].astype(np.uint32)


def make():
    want = philox(1234, np.arange(512)).view(np.int32)
    return [output(512, np.int32), 1234], lambda out: exact(out, want)


triton("random/randint", kb.random, make, grid=(2,), constants={"KIND": "randint", "BLOCK": 256})


def make():
    def verify(out):
        assert np.isfinite(out).all() and abs(out.mean()) < 0.3 and 0.8 < out.std() < 1.2, (out.mean(), out.std())
    return [output(512, np.float32), 77], verify


triton("random/randn", kb.random, make, grid=(2,), constants={"KIND": "randn", "BLOCK": 256})


def make():
    x, y = numbers("asm x", 512, np.int8), numbers("asm y", 512, np.int8)
    a, b = x.view(np.uint8).reshape(-1, 4), y.view(np.uint8).reshape(-1, 4)
    t = np.stack([a[:, 0], b[:, 0], a[:, 1], b[:, 1]], axis=1)
    return [given(x), given(y), output(512, np.int8)], lambda p, q, out: exact(out.view(np.uint8).reshape(-1, 4), t ^ a ^ b)


triton("assembly", kb.assembly, make, constants={"BLOCK": 512})


def make():
    return [given(np.arange(128, dtype=np.int32))], lambda a: None


triton("print", kb.prints, make, constants={"BLOCK": 128})
triton("assert/holds", kb.asserts, make, constants={"BLOCK": 128, "LIMIT": 128}, debug=True)
triton("assert/fails", kb.asserts, make, constants={"BLOCK": 128, "LIMIT": 127}, debug=True, fails="CUDA_ERROR_ASSERT")


def make():
    x = numbers("strided", (64, 48), np.float32)
    return [given(x), output((16, 32), np.float32), 96, 1], lambda a, out: exact(out, x[0:32:2, :32].copy())


triton("strided", kb.strided, make, constants={"M": 16, "N": 32})


def make():
    x = numbers("cached", 1000, np.float32)
    return [given(x), output(1000, np.float32), 1000], lambda a, out: exact(out, (x + x) + x)


triton("cached", kb.cached, make, grid=(4,), constants={"BLOCK": 256})


def make():
    want = np.stack([np.arange(64) + b * (b + 1) // 2 for b in range(8)]).astype(np.int32)
    return [given(np.zeros(8, np.int32)), output((8, 64), np.int32)], lambda f, out: exact(out, want)


triton("turns", kb.turns, make, grid=(8,), constants={"BLOCK": 64})
