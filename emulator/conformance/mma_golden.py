"""Writes emulator/tests/data/mma_sync_numerics.csv: single dot products of mma.sync by the bit-exact model mmasim.

    python3 -m venv v && v/bin/pip install mmasim==2.1.1 torch ninja setuptools && v/bin/python mma_golden.py > FILE

The model's own arithmetic is called; nothing of the emulator is. The same call gives the same file.
"""

import random
import sys
import types

import torch

# The model's f64 part compiles C++ when it is imported; only its other part is used here.
fma = types.ModuleType("mmasim.arithmetic.fma")
fma.MMA_FMA = object
sys.modules["mmasim.arithmetic.fma"] = fma
from mmasim.nv_ptx.sim import MMA  # noqa: E402

LINES = 40
SHAPES = {  # exponent bits, mantissa bits, bits that are dropped
    "f16": (5, 10, 0),
    "bf16": (8, 7, 0),
    "tf32": (8, 10, 13),
    "e4m3": (4, 3, 0),
    "e5m2": (5, 2, 0),
    "f32": (8, 23, 0),
}
TORCH = {
    "f16": (torch.int16, torch.float16),
    "bf16": (torch.int16, torch.bfloat16),
    "tf32": (torch.int32, torch.float32),
    "f32": (torch.int32, torch.float32),
    "e4m3": (torch.uint8, torch.float8_e4m3fn),
    "e5m2": (torch.uint8, torch.float8_e5m2),
}


def element(rng, ty, style, base):
    e, m, dropped = SHAPES[ty]
    sign, man, top = rng.getrandbits(1), rng.getrandbits(m), (1 << e) - 1
    if style == 0 and rng.random() < 0.2:  # anything, specials too
        exp = rng.randrange(top + 1)
    elif style == 1:  # near one exponent
        exp = min(base + rng.randrange(4), top - 1)
    elif style == 2:  # mostly zeroes
        exp, man = (rng.randrange(top), man) if rng.random() < 0.4 else (0, 0)
    elif style == 3:  # subnormals
        exp = 0
    elif style == 4:  # around one
        exp = top // 2 - 3 + rng.randrange(6)
    else:
        exp = rng.randrange(top)
    return (sign << (e + m) | exp << m | man) << dropped | rng.getrandbits(dropped or 1) % (1 << dropped)


def tensor(ty, values):
    bits, of = TORCH[ty]
    width = 8 * torch.empty(0, dtype=bits).element_size()
    signed = [v - (1 << width) if bits != torch.uint8 and v >> (width - 1) else v for v in values]
    return torch.tensor(signed, dtype=bits).view(of)


def to_hex(ty, values):
    width = torch.empty(0, dtype=TORCH[ty][0]).element_size()
    return "".join(v.to_bytes(width, "little").hex() for v in values)


def main():
    print("# One dot product of mma.sync per line: device,kind,a,b,c,d. kind: <k>.<accumulator type>.<operand types>")
    print("# a, b: operand bytes in k order, hex (16- and 32-bit elements little-endian); c, d: accumulator bits, hex")
    print("# (f32: 8 digits, f16: 4). Written by emulator/conformance/mma_golden.py with mmasim 2.1.1 (PyPI).")
    base = [f"m16n8k{k}.{d}.f16.f16.{d}" for k in (8, 16) for d in ("f32", "f16")]
    base += [f"m16n8k{k}.f32.bf16.bf16.f32" for k in (8, 16)]
    base += [f"m16n8k{k}.f32.tf32.tf32.f32" for k in (4, 8)]
    fp8 = [
        f"m16n8k{k}.{d}.{a}.{b}.{d}"
        for k in (16, 32)
        for d in ("f32", "f16")
        for a in ("e4m3", "e5m2")
        for b in ("e4m3", "e5m2")
    ]
    for arch, device, kinds in (
        ("Ampere", "80", base),
        ("Ada Lovelace", "89", base + fp8),
        ("Hopper", "90", base),
    ):
        for kind in kinds:
            rng = random.Random(f"{device} {kind}")
            model = MMA(arch, kind)
            acc, ta, tb = kind.split(".")[1:4]
            for line in range(LINES):
                style = [rng.randrange(6) for _ in range(2)]
                near = [rng.randrange(1 << SHAPES[t][0]) for t in (ta, tb)]
                a = [element(rng, ta, style[0], near[0]) for _ in range(model.k)]
                b = [element(rng, tb, style[1], near[1]) for _ in range(model.k)]
                c = 0 if line % 4 == 0 else element(rng, acc, rng.choice([1, 2, 4, 4, 5]), near[0])
                d = model.dpa(tensor(ta, a)[None], tensor(tb, b)[None], tensor(acc, [c]))
                bits = int(d.view(TORCH[acc][0])[0]) & (0xFFFF if acc == "f16" else 0xFFFFFFFF)
                if torch.isnan(d[0]):
                    bits = 0x7FFF if acc == "f16" else 0x7FFFFFFF
                width = 4 if acc == "f16" else 8
                types_ = ta if ta == tb else ta + tb
                print(f"{device},k{model.k}.{acc}.{types_},{to_hex(ta, a)},{to_hex(tb, b)},{c:0{width}x},{bits:0{width}x}")


main()
