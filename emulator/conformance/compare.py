"""Comparisons. Every bound is derived from the number of roundings of the operation it covers."""

import numpy as np

F32, F16, BF16 = 2.0 ** -24, 2.0 ** -11, 2.0 ** -8


def exact(got, want):
    """The same bits; NaN of any payload are alike."""
    assert got.shape == want.shape, (got.shape, want.shape)
    if got.dtype.kind in "biu":
        same = got == want
    else:
        g, w = got.astype(np.float64), want.astype(np.float64)
        same = (g == w) & (np.signbit(g) == np.signbit(w)) | np.isnan(g) & np.isnan(w)
    if not same.all():
        at = np.argwhere(~same)[0]
        raise AssertionError(f"{(~same).sum()} of {same.size} differ, first at {tuple(at)}: "
                             f"{got[tuple(at)]} for {want[tuple(at)]}")


def within(got, want, bound):
    """|got - want| <= bound, element by element, in f64."""
    assert got.shape == want.shape, (got.shape, want.shape)
    g, w = got.astype(np.float64), np.asarray(want, np.float64)
    error = np.abs(g - w)
    ok = (error <= bound) | (g == w) | np.isnan(g) & np.isnan(w)
    if not ok.all():
        at = tuple(np.argwhere(~ok)[0])
        limit = np.broadcast_to(bound, g.shape)[at]
        raise AssertionError(f"{(~ok).sum()} of {ok.size} out of bounds, first at {at}: "
                             f"{g[at]} for {w[at]}, error {error[at]:.3e}, bound {limit:.3e}")


def ulps(dtype, want, n):
    """n units in the last place of the f64 reference's value in `dtype`."""
    digits, least = {"float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126), "float64": (52, -1022)}[dtype]
    e = np.floor(np.log2(np.maximum(np.abs(np.asarray(want, np.float64)), 2.0 ** least)))
    return n * 2.0 ** (np.maximum(e, least) - digits)


def product(a, b, kind, out, steps_of=16):
    """A matrix product and the bound of its error.

    Tensor cores cut each product of a step at F fraction bits below the largest (F = 13 for 8-bit floats on cc 8.9 and
    9.0, 24 or more otherwise), so a step of L terms errs by at most (L + 1) * 2^-F of the largest, which is at most the
    sum of |a||b| so far; then the result is rounded or cut to 23 (13) bits. tf32 operands lose 13 bits of their mantissa.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    want = x @ y
    size = np.abs(x) @ np.abs(y)
    k = a.shape[-1]
    if kind == "i8":
        return want, np.zeros_like(size)
    unit = 2.0 ** -13 if kind == "fp8" else 2.0 ** -23
    steps = -(-k // (32 if kind == "fp8" else steps_of))
    terms = 33 if kind == "fp8" else steps_of + 1
    bound = size * steps * (terms + 1) * unit
    if kind == "tf32":
        bound = bound + size * (2 * 2.0 ** -10 + 2.0 ** -20)
    if kind == "f64":
        bound = size * k * 2.0 ** -52
    extra = {"float16": F16, "bfloat16": BF16}.get(np.dtype(out).name, 0.0)
    return want, bound + (np.abs(want) + bound) * extra
