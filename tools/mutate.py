#!/usr/bin/env python3
"""Breaks the GEMM on purpose, one thing at a time, and prints what notices.

    python3 tools/mutate.py              all mutants (about ten minutes on two cores)
    python3 tools/mutate.py NAME ...     those

Each mutant is a change of one place in a copy of the checkout (target/mutants). The test that runs it is
`same_bits_under_every_schedule`: every tile, late, early and shuffled completion, all checks on. A mutant that survives without
a reason given here makes the exit status 1.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "src"
KERNEL = "kernels/gemm/sm90_fp8_gemm_1d2d.cu"
TESTS = ["same_bits_under_every_schedule"]

# name, file, what, by what
MUTANTS = [
    ("none", KERNEL, "", ""),
    ("full wait dropped", KERNEL, "while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {", "while (false) {"),
    ("full wait of the wrong phase", KERNEL, "while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {",
     "while (!mbarrier_try_wait(slot + T::FULL_AT, parity ^ 1)) {"),
    ("empty wait dropped", KERNEL, "            if (!wait_empty<T>(p, slot, parity)) {\n                store_relaxed_shared_u32(smem + T::ABORT_AT, ABORTED);\n                return;\n            }\n            const u32 full",
     "            const u32 full"),
    ("empty arrive dropped", KERNEL, "if (lane == 0) mbarrier_arrive(slot + T::EMPTY_AT);", ""),
    ("empty arrive by every lane", KERNEL, "if (lane == 0) mbarrier_arrive", "mbarrier_arrive"),
    ("empty arrive before the wgmma are done", KERNEL, "                wgmma_wait_group<0>(part);\n                warp_sync();  // every lane has read its SFA values\n                if (lane == 0) mbarrier_arrive(slot + T::EMPTY_AT);",
     "                warp_sync();\n                if (lane == 0) mbarrier_arrive(slot + T::EMPTY_AT);\n                wgmma_wait_group<0>(part);"),
    ("warp_sync before the empty arrive dropped", KERNEL, "warp_sync();  // every lane has read its SFA values", ""),
    ("expect_tx dropped", KERNEL, "mbarrier_arrive_expect_tx(full, T::LOAD_BYTES);", "mbarrier_arrive(full);"),
    ("expect_tx 16 bytes short", KERNEL, "mbarrier_arrive_expect_tx(full, T::LOAD_BYTES);", "mbarrier_arrive_expect_tx(full, T::LOAD_BYTES - 16);"),
    ("expect_tx 16 bytes long", KERNEL, "mbarrier_arrive_expect_tx(full, T::LOAD_BYTES);", "mbarrier_arrive_expect_tx(full, T::LOAD_BYTES + 16);"),
    ("fence.proxy.async dropped", KERNEL, "        fence_proxy_async_shared();\n", ""),
    ("wgmma.fence dropped", KERNEL, "                wgmma_fence();\n", ""),
    ("wgmma.commit_group dropped", KERNEL, "                wgmma_commit_group();\n", ""),
    ("wgmma.wait_group dropped", KERNEL, "                wgmma_wait_group<0>(part);\n", ""),
    ("wgmma.wait_group leaves one pending", KERNEL, "                wgmma_wait_group<0>(part);\n", "                wgmma_wait_group<1>(part);\n"),
    ("fence.mbarrier_init dropped", KERNEL, "        fence_mbarrier_init();\n", ""),
    ("bar.sync after the initialisation dropped", KERNEL, "    cta_sync();\n\n    if (threadIdx.x >= T::MATH_THREADS)", "    if (threadIdx.x >= T::MATH_THREADS)"),
    ("wait for the store's reads dropped", KERNEL, "        if (leader) tma_wait_group_read<0>();\n", ""),
    ("barrier before D is written dropped", KERNEL, "        named_barrier_sync<WARPGROUP>(barrier_id);\n        // The same answer", "        // The same answer"),
    ("barrier before D is stored dropped", KERNEL, "        fence_proxy_async_shared();\n        named_barrier_sync<WARPGROUP>(barrier_id);\n", "        fence_proxy_async_shared();\n"),
    ("commit of the store dropped", KERNEL, "            tma_commit_group();\n", ""),
    ("last wait for the store dropped", KERNEL, "    if (leader) tma_wait_group<0>();\n}", "}"),
    ("setmaxnreg.dec dropped", KERNEL, "        setmaxnreg_dec<PRODUCER_REGS>();\n", "        static_cast<void>(PRODUCER_REGS);\n"),
    ("descriptor of another swizzle", "kernels/ptx/wgmma.cuh", "(1024u >> 4) | (1u << 30)", "(1024u >> 4) | (2u << 30)"),
    ("K step of 16 bytes", KERNEL, "                wgmma_desc_step<2>(desc_b);\n                wgmma_e4m3<1>(part, desc_a, desc_b);\n                wgmma_desc_step<2>(desc_a);",
     "                wgmma_desc_step<1>(desc_b);\n                wgmma_e4m3<1>(part, desc_a, desc_b);\n                wgmma_desc_step<2>(desc_a);"),
    ("scale of the next row block", KERNEL, "const u32 block = n0 / 128;", "const u32 block = min(n0 / 128 + 1, (p.n - 1) / 128);"),
    ("partial sum not cleared", KERNEL, "wgmma_e4m3<0>(part,", "wgmma_e4m3<1>(part,"),
]


# Why nothing is the right answer.
HARMLESS = {
    "none": "",
    "warp_sync before the empty arrive dropped": "not seen: to the emulator a warp is one agent; its lanes' reads are not told apart",
    "fence.mbarrier_init dropped": "no fault in a block without a cluster: bar.sync publishes, and copies touch their mbarrier in the generic proxy",
}


def sync():
    """The checkout as git sees it, without touching what has not changed (so that cargo builds little)."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for f in filter(None, files):
        a, b = ROOT / f, COPY / f
        if not a.exists():
            continue
        if not b.exists() or a.read_bytes() != b.read_bytes():
            b.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(a, b)


def environment():
    env = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target" / "mutants" / "target"), RUST_BACKTRACE="0")
    nvcc = sorted((ROOT / ".cuda").glob("nvidia/*/bin/nvcc"))
    if nvcc and "HADAL_NVCC" not in env:
        env["HADAL_NVCC"] = str(nvcc[-1])
    return env


def verdict(out):
    """What noticed: the emulator's check, or the comparison."""
    found = re.search(r"^(error|warning)\[([\w-]+)\]: (.*)", out, re.M)
    if found:
        return found[2], found[3]
    if "failed to run custom build command" in out:
        return "the build", re.search(r"^error: [^\n]*?: (kernels/[^\n]*)", out, re.M)[1]
    if "could not compile" in out:
        sys.exit(out)
    found = re.search(r"panicked at [^\n]*\n([^\n]*)", out)
    return ("comparison", found[1]) if found else ("nothing", "")


def main():
    wanted = sys.argv[1:]
    survivors = 0
    sync()
    print("| mutant | noticed by | what it says |\n|---|---|---|", flush=True)
    for name, path, old, new in MUTANTS:
        if wanted and name not in wanted:
            continue
        source = (ROOT / path).read_text()
        if old and source.count(old) < 1:
            sys.exit(f"{name}: {path} has no {old!r}")
        target = COPY / path
        target.write_text(source.replace(old, new, 1) if old else source)
        done = subprocess.run(["cargo", "test", "--test", "gemm", "--", *TESTS], cwd=COPY, env=environment(), capture_output=True, text=True)
        target.write_text(source)
        if done.returncode == 0:
            by, text = "nothing", HARMLESS.get(name, "")
            survivors += name not in HARMLESS
        else:
            by, text = verdict(done.stdout + done.stderr)
        print(f"| {name} | {by} | {text[:150]} |", flush=True)
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
