"""Element-wise Triton kernels: arithmetic, the math library, conversions."""

import math

import numpy as np

import triton_basic as kb
from compare import exact, ulps, within
from device import BF16, E4M3, E5M2, given, output
from register import triton
from suite import TARGETS, Rotation, numbers

rotation = Rotation()

for i, dt in enumerate(["float32", "float16", BF16, "float64", "int8", "int16", "int32", "int64", "uint8", "uint32"]):
    dt = np.dtype(dt)

    def make(dt=dt):
        x, y = numbers("add x", 1000, dt), numbers("add y", 1000, dt)
        with np.errstate(over="ignore"):
            want = (x.astype(np.float32) + y.astype(np.float32)).astype(dt) if dt in (BF16, np.float16) else x + y
        return [given(x), given(y), output(1000, dt), 1000], lambda a, b, out: exact(out, want)

    triton(f"add/{dt.name}", kb.add, make, grid=(4,), constants={"BLOCK": 256}, targets=TARGETS if i < 3 else rotation.next())


def integer(op, x, y):
    with np.errstate(over="ignore", divide="ignore"):
        if op in ("floordiv", "mod"):
            # The compiler divides as C does, toward zero.
            big_x, big_y = [int(v) for v in x], [int(v) for v in y]
            quotients = [abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in zip(big_x, big_y)]
            if op == "mod":
                quotients = [a - q * b for a, b, q in zip(big_x, big_y, quotients)]
            bits = x.dtype.itemsize * 8
            return np.array([q & ((1 << bits) - 1) for q in quotients], np.uint64).astype(x.dtype)
        return {
            "sub": lambda: x - y, "mul": lambda: x * y, "min": lambda: np.minimum(x, y), "max": lambda: np.maximum(x, y),
            "and": lambda: x & y, "or": lambda: x | y, "xor": lambda: x ^ y, "shl": lambda: x << (y & 7),
            "shr": lambda: x >> (y & 7), "lt": lambda: (x < y).astype(x.dtype),
            "where": lambda: np.where(x < y, x, y * x.dtype.type(2)),
            "umulhi": lambda: ((x.astype(object) * y.astype(object)) >> (8 * x.dtype.itemsize)).astype(x.dtype),
        }[op]()


for dt in ["int32", "uint32", "int64", "uint64", "int16", "uint8", "int8"]:
    dt = np.dtype(dt)
    for op in ["sub", "mul", "floordiv", "mod", "min", "max", "and", "or", "xor", "shl", "shr", "lt", "where"] + (
            ["umulhi"] if dt.name in ("uint32", "uint64") else []):
        if dt.itemsize < 4 and op in ("and", "or", "xor", "lt"):
            continue

        def make(dt=dt, op=op):
            x, y = numbers(f"{op} x", 700, dt), numbers(f"{op} y", 700, dt)
            if op in ("floordiv", "mod"):
                y = np.where(y == 0, dt.type(3), y)
                y[:300] = np.where(y[:300] % 13 == 0, dt.type(7), y[:300] % dt.type(13))
                if dt.kind == "i":
                    y = np.where(y == -1, dt.type(5), y)
            want = integer(op, x, y)
            return [given(x), given(y), output(700, dt), 700], lambda a, b, out: exact(out, want)

        triton(f"{op}/{dt.name}", kb.arithmetic, make, grid=(3,), constants={"OP": op, "BLOCK": 256}, targets=rotation.next())


def floats(op, x, y):
    with np.errstate(all="ignore"):
        return {
            "sub": lambda: x - y, "mul": lambda: x * y, "div": lambda: x / y, "div_rn": lambda: x / y,
            "min": lambda: np.fmin(x, y), "max": lambda: np.fmax(x, y), "minnan": lambda: np.minimum(x, y),
            "lt": lambda: (x < y).astype(x.dtype), "where": lambda: np.where(x < y, x, y * 2),
            "fma": lambda: x * y + x, "clamp": lambda: np.clip(x, -1, 1), "mod": lambda: np.fmod(x, y),
        }[op]()


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-42, -1e-40, 3e38, 65504.0, 6e-8, 0.5, 2.5, 3.5, -2.5]
for dt in ["float32", "float16", BF16, "float64"]:
    dt = np.dtype(dt)
    for op in ["sub", "mul", "div", "div_rn", "min", "max", "minnan", "lt", "where", "fma", "clamp"]:
        if op == "div_rn" and dt != np.float32 or op == "clamp" and dt == np.float64:
            continue

        def make(dt=dt, op=op):
            x, y = numbers(f"{op} x", 700, dt), numbers(f"{op} y", 700, dt)
            if op not in ("div", "clamp"):
                with np.errstate(over="ignore"):
                    s = np.array(SPECIAL, np.float32).astype(dt)
                x[:256], y[:256] = np.repeat(s, 16), np.tile(s, 16)
            wide = (lambda v: v.astype(np.float64))
            want = floats(op, wide(x), wide(y))

            def verify(a, b, out):
                with np.errstate(all="ignore"):
                    want_dt = want.astype(np.float32).astype(dt) if dt not in (np.float32, np.float64) else want.astype(dt)
                if op == "div" and dt == np.float32:
                    within(out, want, ulps("float32", want, 2.0))       # div.full: 2 ulp
                elif op == "div" and dt != np.float64:
                    within(out, want, ulps(dt.name, want, 0.51))
                elif op in ("min", "max", "minnan", "clamp", "where"):
                    # The sign of a zero among zeros is not promised.
                    exact(out + dt.type(0), want_dt + dt.type(0))
                elif op == "fma" and dt == np.float64:
                    within(out[256:], want[256:], ulps("float64", np.abs(wide(x) * wide(y))[256:] + 4, 1))
                else:
                    exact(out, want_dt)

            return [given(x), given(y), output(700, dt), 700], verify

        triton(f"{op}/{dt.name}", kb.arithmetic, make, grid=(3,), constants={"OP": op, "BLOCK": 256},
             targets=rotation.next(), enable_fp_fusion=False)

ERF = np.vectorize(math.erf)
LGAMMA = np.vectorize(math.lgamma)


def exponential(x):
    """exp(x) is ex2.approx(x * log2(e)): two roundings of the argument, which the result feels |x| times over, and 2 ulp."""
    return 2 + np.abs(x)


# Units in the last place that the CUDA math library's documentation allows, or a function of x that gives them.
UNARY = {
    "exp": (np.exp, exponential, (-20, 20)), "exp2": (np.exp2, 4, (-20, 20)), "log": (np.log, 4, (0.01, 50)),
    "log2": (np.log2, 4, (0.01, 50)), "sin": (np.sin, 2, (-9, 9)), "cos": (np.cos, 2, (-9, 9)),
    "sqrt": (np.sqrt, 2, (0.001, 99)), "sqrt_rn": (np.sqrt, 0.5, (0.001, 99)),
    "rsqrt": (lambda v: 1 / np.sqrt(v), 2, (0.001, 99)), "erf": (ERF, 2, (-4, 4)), "abs": (np.abs, 0, (-4, 4)),
    "neg": (np.negative, 0, (-4, 4)), "floor": (np.floor, 0, (-9, 9)), "ceil": (np.ceil, 0, (-9, 9)),
    "sigmoid": (lambda v: 1 / (1 + np.exp(-v)), lambda v: exponential(v) + 4, (-9, 9)), "tanh": (np.tanh, 2, (-4, 4)),
    "cbrt": (np.cbrt, 1, (-99, 99)), "log1p": (np.log1p, 1, (-0.9, 9)), "expm1": (np.expm1, 1, (-4, 9)),
    "atan": (np.arctan, 2, (-9, 9)), "asin": (np.arcsin, 2, (-1, 1)), "sinh": (np.sinh, 3, (-9, 9)),
    "tan": (np.tan, 4, (-1.4, 1.4)), "lgamma": (LGAMMA, 6, (2.5, 30)), "rint": (np.rint, 0, (-9, 9)),
    "trunc": (np.trunc, 0, (-9, 9)),
}
for op, (f, limit, (lo, hi)) in UNARY.items():
    for dt in ["float32"] + (["float64"] if op in (
            "exp", "log", "sin", "sqrt", "rsqrt", "erf", "floor", "tanh", "abs", "cbrt", "rint") else []):
        def make(op=op, f=f, limit=limit, lo=lo, hi=hi, dt=dt):
            x = numbers(f"unary {op}", 500, dt, lo, hi)
            want = f(x.astype(np.float64))

            def verify(a, out):
                # Near a zero of the logarithm its absolute error counts: 2^-22 of ex2/lg2.approx.
                floor = 2.0 ** -21 if op in ("log", "log2") and dt == "float32" else 0.0
                n = limit(x.astype(np.float64)) if callable(limit) else limit
                within(out, want, ulps(dt, want, n + 0.01) + floor)

            return [given(x), output(500, dt), 500], verify

        triton(f"{op}/{dt}", kb.unary, make, grid=(2,), constants={"OP": op, "BLOCK": 256}, targets=rotation.next())

for op, f in {
    "not": lambda v: ~v, "popc": lambda v: np.array([bin(int(t) & 0xFFFFFFFF).count("1") for t in v]),
    "clz": lambda v: np.array([32 - int(int(t) & 0xFFFFFFFF).bit_length() for t in v]),
    "ffs": lambda v: np.array([(int(t) & -int(t)).bit_length() for t in v]),
    "brev": lambda v: np.array([int(f"{int(t) & 0xFFFFFFFF:032b}"[::-1], 2) for t in v]).astype(np.uint32).view(np.int32),
}.items():
    def make(op=op, f=f):
        x = numbers(f"bits {op}", 500, np.int32)
        x[:5] = [0, 1, -1, 1 << 30, -(1 << 31)]
        want = f(x).astype(np.int32)
        return [given(x), output(500, np.int32), 500], lambda a, out: exact(out, want)

    triton(f"{op}/int32", kb.unary, make, grid=(2,), constants={"OP": op, "BLOCK": 256}, targets=rotation.next())

for op, f, limit in [("pow", np.power, 9), ("fmod", np.fmod, 0), ("atan2", np.arctan2, 3), ("hypot", np.hypot, 3),
                     ("copysign", np.copysign, 0)]:
    for dt in ("float32", "float64"):
        def make(op=op, f=f, limit=limit, dt=dt):
            x, y = numbers(f"{op} x", 500, dt, 0.1, 9), numbers(f"{op} y", 500, dt, -4, 4)
            want = f(x.astype(np.float64), y.astype(np.float64))
            return [given(x), given(y), output(500, dt), 500], lambda a, b, out: within(
                out, want, ulps(dt, want, limit + 0.01))

        triton(f"{op}/{dt}", kb.power, make, grid=(2,), constants={"OP": op, "BLOCK": 256}, targets=rotation.next())

FLOATS = [np.dtype(t) for t in ("float32", "float16", BF16, "float64")]
for src in FLOATS + [np.dtype(t) for t in ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")]:
    for dst in FLOATS + [np.dtype(t) for t in ("int8", "int16", "int32", "int64", "uint32")]:
        if src == dst:
            continue

        def make(src=src, dst=dst):
            x = numbers(f"cast {src.name} {dst.name}", 900, src, -120, 120) if src.kind not in "iu" else numbers(
                f"cast {src.name}", 900, src)
            if src.kind not in "iu" and dst.kind == "u":
                x = np.abs(x)
            if src.kind not in "iu" and dst.kind not in "iu":
                with np.errstate(over="ignore"):
                    x[:16] = np.array(SPECIAL, np.float32).astype(src)
            with np.errstate(all="ignore"):
                if dst in (BF16, np.float16) and src.kind in "iu":
                    # Through f32, as the compiler does, except where it says otherwise: compared with a bound below.
                    want = x.astype(np.float64)
                elif dst == BF16 and src == np.float64:
                    want = x.astype(np.float32).astype(BF16)
                elif src == BF16 or src == np.float16:
                    want = x.astype(np.float32).astype(dst)
                else:
                    want = x.astype(dst)

            def verify(a, out):
                if dst in (BF16, np.float16) and src.kind in "iu":
                    top = 65504.0 if dst == np.float16 else 3e38
                    live = np.abs(want) < top
                    within(out[live], want[live], ulps(dst.name, want[live], 0.51))
                else:
                    exact(out, want)

            return [given(x), output(900, dst), 900], verify

        triton(f"cast/{src.name}-{dst.name}", kb.cast, make, grid=(4,), constants={"ROUND": None, "BLOCK": 256},
             targets=rotation.next())

for fp8 in (E4M3, E5M2):
    for other in (np.dtype("float32"), np.dtype("float16"), BF16):
        def make_up(fp8=fp8, other=other):
            x = np.arange(256, dtype=np.uint8).view(fp8)
            want = x.astype(np.float32).astype(other)
            if fp8 == E5M2 and other == BF16:
                # The compiler scales bits here: infinities and NaN become the next numbers in line.
                code = np.arange(256)
                top = (code & 0x7C) == 0x7C
                value = np.where(code < 128, 1, -1) * 2.0 ** 16 * (1 + (code & 3) / 4)
                want[top] = value[top].astype(other)
            return [given(x), output(256, other), 256], lambda a, out: exact(out, want)

        def make_down(fp8=fp8, other=other):
            x = numbers(f"to {fp8.name}", 2048, other, -500, 500)
            x[1000:] = (x[1000:].astype(np.float32) / 2.0 ** 15).astype(other)
            with np.errstate(all="ignore"):
                y = x.astype(np.float32)
                top = 448.0 if fp8 == E4M3 else 57344.0
                want = np.clip(y, -top, top).astype(fp8)
            return [given(x), output(2048, fp8), 2048], lambda a, out: exact(out, want)

        targets = (89, 90) if fp8 == E4M3 else TARGETS
        triton(f"cast/{fp8.name}-{other.name}", kb.cast, make_up, constants={"ROUND": None, "BLOCK": 256}, targets=targets)
        triton(f"cast/{other.name}-{fp8.name}", kb.cast, make_down, grid=(8,), constants={"ROUND": "rtne", "BLOCK": 256},
             targets=targets if other != BF16 or fp8 == E5M2 else (89, 90))

for dst in (np.dtype("float16"), BF16):
    def make(dst=dst):
        x = numbers(f"rtz {dst.name}", 512, np.float32)
        near = x.astype(dst)
        over = np.abs(near.astype(np.float64)) > np.abs(x.astype(np.float64))
        bits = near.view(np.uint16) - over.astype(np.uint16)
        want = bits.view(dst)
        return [given(x), output(512, dst), 512], lambda a, out: exact(out, want)

    triton(f"cast-rtz/{dst.name}", kb.cast, make, grid=(2,), constants={"ROUND": "rtz", "BLOCK": 256})

for src, dst in [("float32", "int32"), ("int64", "float64"), ("float16", "int16"), (BF16, "int16"), ("int8", E5M2)]:
    def make(src=np.dtype(src), dst=np.dtype(dst)):
        x = numbers(f"bitcast {src.name}", 600, src)
        return [given(x), output(600, dst), 600], lambda a, out: exact(
            out.view(f"u{dst.itemsize}"), x.view(f"u{dst.itemsize}"))

    triton(f"bitcast/{np.dtype(src).name}-{np.dtype(dst).name}", kb.bitcast, make, grid=(3,), constants={"BLOCK": 256},
         targets=rotation.next())
