"""Foreign kernels against numpy, on the emulator: see README.md.

    python3 emulator/conformance/conformance.py [--filter TEXT] [--target 80|89|90] [--schedules N] [--ci] [--list] [--table]
"""

import argparse
import collections
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import environment

HERE = Path(__file__).resolve().parent
# Settings of the n-th run. All checks are on in each of them.
SCHEDULES = [
    ["--async", "lazy"],
    ["--schedule", "random", "--async", "random", "--seed", "1"],
    ["--async", "eager"],
    ["--schedule", "random", "--async", "lazy", "--seed", "2"],
    ["--schedule", "random", "--async", "eager", "--seed", "3"],
    ["--schedule", "random", "--async", "random", "--seed", "4"],
    ["--schedule", "random", "--async", "random", "--seed", "5", "--numerics", "fast"],
    ["--schedule", "random", "--async", "lazy", "--seed", "6"],
    ["--schedule", "random", "--async", "random", "--seed", "7"],
    ["--schedule", "random", "--async", "random", "--seed", "8"],
]


def pairwise(cases):
    """A small set of cases that has each pair of parts of a name (kernel, type, size, option, target) that occurs in any."""
    def pairs(case):
        parts = case.name.replace("/", " ").replace("-", " ").split()
        return {(a, b) for i, a in enumerate(parts) for b in parts[i:]}

    left = {c.name: pairs(c) for c in cases}
    by_name = {c.name: c for c in cases}
    open_pairs = set().union(*left.values())
    taken = []
    while open_pairs:
        best = max(left, key=lambda n: (len(left[n] & open_pairs), n))
        open_pairs -= left.pop(best)
        taken.append(by_name[best])
    return taken


def prepare(name):
    """Compiles one case. The reason of a failure, or None."""
    import cases  # noqa: F401: fills the register
    import compilers
    import suite
    case = suite.ALL[name]
    try:
        compilers.compiled(case, case.make()[0])
    except Exception as e:  # noqa: BLE001: compilers raise what they like
        return f"{case.source.compiler()} refuses it: {type(e).__name__}: {str(e)[:2000]}"
    return None


def command(schedule, target):
    return [str(environment.emulator_path()), "run", "--device", f"sm_{target}", *schedule, "--", sys.executable,
            str(HERE / "launch.py")]


def run_all(chosen, schedules, jobs):
    """Runs each case in each schedule. (case -> seconds in all, case -> first error with the command that replays it)."""
    seconds, bad, drivers = collections.Counter(), {}, set()
    for schedule in schedules:
        start = time.time()
        # The longest first, dealt out, so that the jobs end together.
        parts = collections.defaultdict(list)
        order = sorted(chosen, key=lambda c: -seconds[c.name])
        for i, c in enumerate(order):
            parts[i % jobs, c.target].append(c.name)
        waiting = collections.defaultdict(list)
        for (job, target), names in parts.items():
            waiting[job].append((target, names))
        running = {}

        def begin(job):
            target, names = waiting[job].pop()
            p = subprocess.Popen(command(schedule, target), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            p.stdin.write("\n".join(names))
            p.stdin.close()
            running[job] = p, target, names

        for job in list(waiting):
            begin(job)
        while running:
            for job, (p, target, names) in list(running.items()):
                left = set(names)
                for line in p.stdout:
                    if not line.startswith("{"):
                        continue
                    r = json.loads(line)
                    left.discard(r["case"])
                    drivers.add(r["driver"])
                    seconds[r["case"]] += r["seconds"]
                    if r["error"] and r["case"] not in bad:
                        replay = f"echo {r['case']} | {shlex.join(command(schedule, target))}"
                        bad[r["case"]] = f"{r['error']}\nreplay: {replay}"
                p.wait()
                for n in left:
                    bad.setdefault(n, f"it never ran with {' '.join(schedule)}: the launcher ended with {p.returncode}")
                del running[job]
                if waiting[job]:
                    begin(job)
        print(f"{' '.join(schedule)}: {len(chosen)} kernels in {time.time() - start:.0f} s, {len(bad)} failed so far", flush=True)
    drivers.discard("")
    print(f"driver: {', '.join(sorted(drivers)) or 'none'}")
    return seconds, bad


def table(rows, schedules):
    """KERNELS.md."""
    lines = [
        "# Foreign kernels that the emulator runs", "",
        "Written by `python3 emulator/conformance/conformance.py --table`. Each line: a kernel, who compiled it, for which target, how",
        "often it ran with every check on, and the result. Settings of the runs:", "",
        *[f"* `{' '.join(s)}`" for s in schedules], "",
        "| kernel | compiler | target | runs | result |", "|---|---|---|---|---|",
        *[f"| {n} | {c} | sm_{t} | {r} | {e} |" for n, c, t, r, e in rows], "",
    ]
    (HERE / "KERNELS.md").write_text("\n".join(lines))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--filter", default="", help="only cases whose name contains this")
    p.add_argument("--target", type=int, choices=(80, 89, 90), help="only cases of this target")
    p.add_argument("--schedules", type=int, default=2, choices=range(1, len(SCHEDULES) + 1), metavar=f"1..{len(SCHEDULES)}")
    p.add_argument("--ci", action="store_true", help="the subset that continuous integration runs")
    p.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    p.add_argument("--table", action="store_true", help="write KERNELS.md")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    a = p.parse_args()
    environment.run_inside()
    import cases  # noqa: F401: fills the register
    import suite

    chosen = [c for c in suite.ALL.values() if a.filter in c.name and a.target in (None, c.target)]
    if a.ci and chosen:
        chosen = pairwise(chosen)
    if a.list:
        print("\n".join(c.name for c in chosen))
        return 0
    if not chosen:
        sys.exit("no case has that name")
    environment.build_emulator()
    schedules = SCHEDULES[:a.schedules]
    start = time.time()
    bad = {}
    with ProcessPoolExecutor(a.jobs) as pool:
        for c, error in zip(chosen, pool.map(prepare, [c.name for c in chosen], chunksize=4)):
            if error:
                bad[c.name] = error
    print(f"compiled {len(chosen) - len(bad)} of {len(chosen)} kernels in {time.time() - start:.0f} s", flush=True)
    seconds, failed = run_all([c for c in chosen if c.name not in bad], schedules, a.jobs)
    refused = set(bad)
    bad |= failed
    slow = ", ".join(f"{n} {s / len(schedules):.1f} s" for n, s in seconds.most_common(5))
    print(f"slowest (mean of a run): {slow}")
    for n, e in bad.items():
        print(f"FAILED {n}\n  " + e.replace("\n", "\n  "))
    by = collections.Counter(c.source.compiler() for c in chosen)
    if a.table:
        table([(c.name, c.source.compiler(), c.target, 0 if c.name in refused else len(schedules),
                "failed" if c.name in bad else c.result()) for c in chosen], schedules)
    print(f"{len(chosen)} foreign kernels ({', '.join(f'{n} of {c}' for c, n in by.items())}), {len(schedules)} schedules, "
          f"{len(schedules) * (len(chosen) - len(refused))} runs, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
