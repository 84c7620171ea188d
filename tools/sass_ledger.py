#!/usr/bin/env python3
"""Counts instructions in the machine code that the crate embeds.

    python3 tools/sass_ledger.py            the table
    python3 tools/sass_ledger.py --check    and fails where a gate is broken

For each entry: registers and spills as ptxas reported them, local-memory instructions (LDL, STL) anywhere, and for the
innermost loop that holds QGMMA the "other instructions per K-block": (all - QGMMA - FFMA) / (QGMMA / 4). FMUL counts.

The disassembler comes from PyPI, hash-checked (tools/requirements.txt), into target/nvdisasm.
"""
import collections
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "target" / "sass"
TOOL = ROOT / "target" / "nvdisasm"
PINNED = "nvcc 13.0.88"  # bars hold for this compiler alone
OTHER_PER_K_BLOCK = {  # per piece of 64 rows, with the code for pairs of blocks in
    "sm90_fp8_gemm_1d2d_128x128": 40.0,
    "sm90_fp8_gemm_1d2d_64x128": 40.0,
    "sm90_fp8_gemm_1d2d_128x192": 48.0,
    "sm90_fp8_gemm_1d2d_256x128": 26.0,
    "sm90_fp8_gemm_swiglu_64x256": 42.0,
    "sm90_fp8_gemm_swiglu_128x256": 28.0,
}

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def nvdisasm():
    found = sorted(TOOL.glob("nvidia/*/bin/nvdisasm"))
    if not found:
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--require-hashes", "--target", str(TOOL), "-r", "tools/requirements.txt")
        found = sorted(TOOL.glob("nvidia/*/bin/nvdisasm"))
    return found[-1]


def functions(cubin):
    """Entry name -> list of (address, opcode, operands), and label -> address."""
    text = run(nvdisasm(), "-c", str(cubin))
    name, code, labels, pending = None, {}, {}, []
    for line in text.splitlines():
        if line.startswith(".text.") and line.endswith(":"):
            name = line[6:-1]
            code[name], labels[name] = [], {}
        elif name and re.match(r"^\.L\w*:", line):
            pending.append(line[:-1])
        elif name and (m := LINE.search(line)):
            address = int(m[1], 16)
            for label in pending:
                labels[name][label] = address
            pending = []
            code[name].append((address, m[2], m[3]))
    return code, labels


def main_loop(code, labels):
    """The smallest backward branch range that holds QGMMA."""
    best = None
    for address, op, rest in code:
        if op.split(".")[0] != "BRA" or not (m := re.search(r"\(?(\.L\w+)\)?", rest)):
            continue
        target = labels.get(m[1])
        if target is None or target > address:
            continue
        body = [o.split(".")[0] for a, o, _ in code if target <= a <= address]
        if "QGMMA" in body and (best is None or len(body) < len(best)):
            best = body
    return best


def main():
    check = "--check" in sys.argv[1:]
    # Nothing of kernels that are no more.
    shutil.rmtree(OUT, ignore_errors=True)
    table = run("cargo", "run", "--quiet", "--example", "build_info", "--", str(OUT))
    compiler = table.splitlines()[0].split(", ")[1]
    reported = {f[0]: f for f in (l.split() for l in table.splitlines()[2:])}
    broken = []
    print(f"{compiler}")
    print(f"{'entry':<38} {'regs':>4} {'spills':>6} {'local':>5} {'QGMMA':>5} {'FFMA':>4} {'other':>5} {'/K-block':>8}")
    for cubin in sorted(OUT.glob("*.cubin")):
        code, labels = functions(cubin)
        for name in sorted(code):
            local = sum(op.split(".")[0] in ("LDL", "STL") for _, op, _ in code[name])
            loop = main_loop(code[name], labels[name])
            registers, spills = reported[name][2], reported[name][5]
            row = f"{name:<38} {registers:>4} {spills:>6} {local:>5}"
            if local:
                broken.append(f"{name}: {local} local-memory instructions")
            if loop:
                n = collections.Counter(loop)
                other = len(loop) - n["QGMMA"] - n["FFMA"]
                per = other / (n["QGMMA"] / 4)
                row += f" {n['QGMMA']:>5} {n['FFMA']:>4} {other:>5} {per:>8.1f}"
                bar = OTHER_PER_K_BLOCK.get(name)
                if bar is not None and per > bar:
                    broken.append(f"{name}: {per:.1f} other instructions per K-block, at most {bar}")
            print(row)
            if "-v" in sys.argv and loop:
                print("   ", dict(collections.Counter(loop)))
    if check and compiler != PINNED:
        print(f"bars not checked: they hold for {PINNED}")
    elif check and broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
