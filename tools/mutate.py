#!/usr/bin/env python3
"""Breaks the GEMM on purpose, one thing at a time, and prints what notices.

    python3 tools/mutate.py              all mutants (about ten minutes on two cores)
    python3 tools/mutate.py NAME ...     those

Each mutant is a change of one place in a copy of the checkout (target/mutants). The tests that run it
are `same_bits…` and `pairs_with…` of the dense and grouped GEMM: every tile, late, early and shuffled completion, all checks on. A mutant that survives without
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
FP8 = "kernels/gemm/fp8/"
KERNEL, LOAD, MATH, STORE = FP8 + "kernel.cuh", FP8 + "load.cuh", FP8 + "multiply.cuh", FP8 + "store.cuh"
SCHEDULE, PTX = FP8 + "schedule.cuh", "kernels/ptx/"
TESTS = ["same_bits", "pairs_with"]
TARGETS = ["--test", "gemm", "--test", "gemm_grouped"]

EMPTY_WAIT = "            if (!wait_empty<T>(p, smem, ring)) return;\n            const u32 record"
FULL_WAIT = "while (!mbarrier_try_wait(slot + T::FULL_AT, parity)) {\n                        if"
EMPTY_ARRIVE = """                            warp_sync();  // every lane has read its scales
                            if (told != NOBODY) mbarrier_arrive_at(slot + T::EMPTY_AT, told);
"""
WGMMA_WAIT = "                        wgmma_wait_group<0>(part);\n"
BYTES = "gathered ? T::B_BYTES : T::A_BYTES + T::B_BYTES + sfa_bytes);"

# name, file, what, by what
MUTANTS = [
    ("none", KERNEL, "", ""),
    ("full wait dropped", MATH, FULL_WAIT, "while (false) {\n                        if"),
    ("full wait of the wrong phase", MATH, FULL_WAIT, FULL_WAIT.replace("parity)", "parity ^ 1)")),
    ("full wait before the record dropped", MATH, "wait_full<T>(slot, parity, abort_word);\n        if", "true;\n        if"),
    ("empty wait dropped", LOAD, EMPTY_WAIT, "            const u32 record"),
    ("empty arrive dropped", MATH, EMPTY_ARRIVE, ""),
    ("empty arrive by every lane", MATH, EMPTY_ARRIVE, EMPTY_ARRIVE.replace("if (told != NOBODY) mbarrier_arrive_at(slot + T::EMPTY_AT, told)", "mbarrier_arrive_at(slot + T::EMPTY_AT, told == NOBODY ? 0 : told)")),
    ("empty arrive before the wgmma are done", MATH, "                        wgmma_wait_group<0>(part);\n                        if (i + 1 == T::PIECES) {\n" + EMPTY_ARRIVE + "                        }\n",
     "                        if (i + 1 == T::PIECES) {\n" + EMPTY_ARRIVE + "                        }\n" + WGMMA_WAIT),
    ("empty arrive at the peer dropped", MATH, "at.lane < (paired ? 2 : 1)", "at.lane < 1"),
    ("empty arrive where no row exists dropped", MATH, "                warp_sync();\n                if (told != NOBODY) mbarrier_arrive_at(slot + T::EMPTY_AT, told);\n", "                warp_sync();\n"),
    ("warp_sync before the empty arrive dropped", MATH, "                            warp_sync();  // every lane has read its scales\n", ""),
    ("expect_tx 16 bytes short", LOAD, BYTES, BYTES.replace(");", ") - 16);").replace("gathered", "(gathered")),
    ("expect_tx 16 bytes long", LOAD, BYTES, BYTES.replace(");", ") + 16);").replace("gathered", "(gathered")),
    ("fence of gathered rows dropped", LOAD, "                fence_proxy_async_shared();\n", ""),
    ("wait for gathered rows dropped", LOAD, "                copy_async_wait<GATHER_LAG>();\n", ""),
    ("gathered rows without the swizzle", LOAD, "(chunk ^ (thread / 8 % 8)) * 16", "chunk * 16"),
    ("fence.proxy.async of D dropped", STORE, "        else fence_proxy_async_shared();\n", ""),
    ("wgmma.fence dropped", MATH, "                        wgmma_fence();\n", ""),
    ("wgmma.commit_group dropped", MATH, "                        wgmma_commit_group();\n", ""),
    ("wgmma.wait_group dropped", MATH, WGMMA_WAIT, ""),
    ("wgmma.wait_group leaves one pending", MATH, WGMMA_WAIT, WGMMA_WAIT.replace("<0>", "<1>")),
    ("fence.mbarrier_init dropped", KERNEL, "        fence_mbarrier_init();\n", ""),
    ("barrier after the initialisation dropped", KERNEL, "    if (paired) cluster_sync();\n    else cta_sync();\n", "    if (paired) cluster_sync();\n"),
    ("pair meets at the start as blocks alone", KERNEL, "    if (paired) cluster_sync();\n    else cta_sync();\n", "    cta_sync();\n"),
    ("pair does not meet at the end", KERNEL, "        warp_sync();\n        cluster_sync();\n", ""),
    ("wait for the store's reads dropped", STORE, "        if (at.leader) tma_wait_group_read<0>();\n", ""),
    ("barrier before D is written dropped", MATH, "        named_barrier_sync<T::TEAM>(team_barrier);\n        // The same answer", "        // The same answer"),
    ("barrier before D is stored dropped", STORE, "        named_barrier_sync<T::TEAM>(1 + at.group_m);\n", ""),
    ("commit of the store dropped", STORE, "            tma_commit_group();\n", ""),
    ("last wait for the store dropped", STORE, "        if (at.leader) tma_wait_group<0>();\n", ""),
    ("warp_sync before rows are copied dropped", STORE, "            warp_sync();\n#pragma unroll\n            for (u32 i = 0; i < T::PIECES; ++i) copy_rows", "#pragma unroll\n            for (u32 i = 0; i < T::PIECES; ++i) copy_rows"),
    ("whole slabs are not asked for", STORE, "whole = whole && (r.rows[i] & SLAB_WHOLE);", "whole = true;"),
    ("mask of rows ignored", STORE, "if (!(r.rows[slab] >> row & 1) || ", "if ("),
    ("mask a row too long", LOAD, "n == 32 ? ~0u : (1u << n) - 1", "n == 32 ? ~0u : (2u << n) - 1"),
    ("tile starts at the operand's row", SCHEDULE, "w.m0 = start + m;", "w.m0 = m;"),
    ("setmaxnreg.dec dropped", KERNEL, "        setmaxnreg_dec<PRODUCER_REGS>();\n", "        static_cast<void>(PRODUCER_REGS);\n"),
    ("descriptor of another swizzle", PTX + "wgmma.cuh", "(1024u >> 4) | (1u << 30)", "(1024u >> 4) | (2u << 30)"),
    ("K step of 16 bytes", MATH, "any_bits(32 / 16)", "any_bits(16 / 16)"),
    ("scale of the next row block", LOAD, "const u32 block = w.n0 / 128,", "const u32 block = min(w.n0 / 128 + 1, (p.n - 1) / 128),"),
    ("one scale where a tile straddles", MATH, "return grain < near_cols ? near : far;", "return near;"),
    ("scale of the wrong K-block", LOAD, "if (lane == kb % 32) store_shared_v2(ring.slot + T::SFB_AT, now.near, now.far);\n            warp_sync();\n            if (elect_one())", "if (lane == (kb + 1) % 32) store_shared_v2(ring.slot + T::SFB_AT, now.near, now.far);\n            warp_sync();\n            if (elect_one())"),
    ("partial sum not cleared", MATH, "wgmma_e4m3<0>(part,", "wgmma_e4m3<1>(part,"),
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
        done = subprocess.run(["cargo", "test", *TARGETS, "--", *TESTS], cwd=COPY, env=environment(), capture_output=True, text=True)
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
