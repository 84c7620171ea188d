"""Shorthands that register a case for each of its targets."""

import suite
from compilers import Triton


def three(grid):
    return tuple(grid) + (1,) * (3 - len(grid))


def triton(name, kernel, make, grid=(1,), constants=None, targets=suite.TARGETS, fails="", prints=None, known=None, **options):
    """Cases of a Triton kernel; `options` go to its compiler."""
    for t in targets:
        source = Triton(kernel, constants or {}, {"num_warps": 4, "enable_fp_fusion": True, **options})
        suite.add(suite.Case(f"{name}/sm_{t}", source, t, make, three(grid), fails, prints, known or {}))
