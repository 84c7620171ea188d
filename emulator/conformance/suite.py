"""What a case is, the register of all cases, and what cases share."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

TARGETS = (80, 89, 90)


@dataclass
class Case:
    """One foreign kernel with its arguments, its launch and what numpy says of the result.

    `make()` gives (arguments, verify); `verify` takes the arrays among the arguments, in order, as they are afterwards.
    """
    name: str
    source: Any
    target: int
    make: Callable
    grid: tuple = (1, 1, 1)
    # The driver's error that the launch must end with; empty where it must pass.
    fails: str = ""
    # What the kernel prints, as a set of lines; None where nothing is looked at.
    prints: Any = None
    # Known findings of unmodified foreign code: check -> why it is one. See README.md.
    known: dict = field(default_factory=dict)

    def result(self):
        """What a pass means, for the table."""
        known = "".join(f"; known {check}: {why}" for check, why in self.known.items())
        return (f"fails as it must: {self.fails}" if self.fails else "passed") + known


ALL: dict[str, Case] = {}


def add(case):
    """Registers a case."""
    if case.name in ALL:
        raise ValueError(f"two cases are called {case.name}")
    ALL[case.name] = case


def seed_of(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def rng(name):
    """Random numbers that depend on the name alone."""
    return np.random.default_rng(seed_of(name))


def numbers(name, shape, dtype, low=-4.0, high=4.0):
    """Random values of a type; integers over their whole range."""
    r = rng(name)
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return r.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return r.uniform(low, high, shape).astype(np.float32).astype(dtype)


class Rotation:
    """One target out of three, in turn, where a kernel is there for its arithmetic and not for its target."""

    def __init__(self):
        self.n = 0

    def next(self):
        self.n += 1
        return (TARGETS[self.n % 3],)
