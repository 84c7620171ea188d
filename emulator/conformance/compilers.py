"""From a case's source to PTX and what a launch has to know, kept under a name made of everything that went in."""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import environment
from device import NAMES, Array, Descriptor, scalar_name

HERE = Path(__file__).resolve().parent


def digest(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(repr(p).encode())
        h.update(b"\0")
    return h.hexdigest()[:32]


def store(path, text):
    """Whole or not at all: several processes fill the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    part.replace(path)


@dataclass
class Triton:
    """A `triton.jit` function. `constants` are its constexpr arguments, `options` the compiler's."""
    kernel: Any
    constants: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    def compiler(self):
        import triton
        return f"Triton {triton.__version__}"

    def parameters(self, arguments):
        signature, attributes = {}, {}
        names = [n for n in self.kernel.arg_names if n not in self.constants]
        for n in self.kernel.arg_names:
            signature[n] = "constexpr"
        for n, a in zip(names, arguments, strict=True):
            at = (self.kernel.arg_names.index(n),)
            if isinstance(a, Array):
                signature[n] = "*" + NAMES[a.dtype.name]
                attributes[at] = [["tt.divisibility", 16]]
            elif isinstance(a, Descriptor):
                signature[n] = f"tensordesc<{NAMES[a.array.dtype.name]}{list(a.block)}>"
            else:
                signature[n] = scalar_name(a)
                if isinstance(a, int) and a % 16 == 0:
                    attributes[at] = [["tt.divisibility", 16]]
        return signature, attributes

    def key(self, target, arguments):
        constants = {k: str(v) for k, v in self.constants.items()}
        return digest(self.compiler(), self.kernel.cache_key, self.parameters(arguments), constants, self.options, target)

    def compile(self, target, arguments):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        signature, attributes = self.parameters(arguments)
        source = ASTSource(self.kernel, signature, constexprs=self.constants, attrs=attributes)
        done = triton.compile(source, target=GPUTarget("cuda", target, 32), options=self.options)
        m, ptx = done.metadata, done.asm["ptx"]
        threads = 32 * m.num_warps
        for line in ptx.splitlines():
            # Warps of specialised partitions come on top of num_warps.
            if line.strip().startswith((".reqntid", ".maxntid")):
                threads = int(line.split()[1].rstrip(","))
                break
        return ptx, {
            "entry": m.name, "shared": m.shared, "block": [threads, 1, 1], "cluster": [m.num_ctas, 1, 1],
            "grid_scale": m.num_ctas, "scratch": [m.global_scratch_size, m.profile_scratch_size],
            "tensors": [dict(t) for t in (m.tensordesc_meta or [])], "descriptors_expand": True,
        }


@dataclass
class Cuda:
    """A kernel of a CUDA C++ file in `cuda/`."""
    file: str
    entry: str
    block: tuple
    shared: int = 0
    cluster: tuple = (1, 1, 1)
    cooperative: bool = False
    version: str = "13.0"
    flags: tuple = ()
    # Suffix of the architecture: "a" for sm_90a.
    feature: str = ""

    def compiler(self):
        return f"nvcc {self.version}"

    def key(self, target, arguments):
        text = "".join(f.read_text() for f in [HERE / "cuda" / self.file, *sorted((HERE / "cuda").glob("*.h"))])
        pins = "cuda-requirements.txt" if self.version == "13.0" else "emulator/conformance/requirements-nvcc-13.5.txt"
        return digest(text, (environment.ROOT / pins).read_text(), self.flags, target, self.feature)

    def compile(self, target, arguments):
        nvcc = environment.nvcc(self.version)
        out = environment.CACHE / f"{os.getpid()}-{self.file}.ptx"
        out.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [nvcc, "-ptx", f"-arch=compute_{target}{self.feature}", "-std=c++17", "-I", nvcc.parent.parent / "include" / "cccl",
             "-Wno-deprecated-gpu-targets", *self.flags, HERE / "cuda" / self.file, "-o", out],
            capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        ptx = out.read_text()
        out.unlink()
        return ptx, {}

    def meta(self):
        return {
            "entry": self.entry, "shared": self.shared, "block": list(self.block), "cluster": list(self.cluster),
            "cooperative": self.cooperative,
        }


def compiled(case, arguments):
    """(path of the PTX, what the launch needs). Compiles where the cache has nothing."""
    key = case.source.key(case.target, arguments)
    ptx, meta = environment.CACHE / f"{key}.ptx", environment.CACHE / f"{key}.json"
    if not (ptx.exists() and meta.exists()):
        text, facts = case.source.compile(case.target, arguments)
        store(ptx, text)
        store(meta, json.dumps(facts))
    facts = json.loads(meta.read_text())
    if hasattr(case.source, "meta"):
        facts |= case.source.meta()
    return ptx, facts
