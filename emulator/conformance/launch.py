"""Runs cases in processes of their own, under the emulator. Reads names from standard input, prints a line of JSON for each."""

import ctypes
import json
import os
import sys
import tempfile
import time
import traceback

import cases  # noqa: F401: fills the register
import compilers
import suite
from device import Array, Descriptor, Device, Raw, driver, reports


def arrays_of(arguments):
    """The arrays among the arguments, each once, in order."""
    found = {}
    for a in arguments:
        for array in [a] if isinstance(a, Array) else [a.array] if isinstance(a, Descriptor) else \
                list((a.arrays or {}).values()) if isinstance(a, Raw) else []:
            found.setdefault(id(array), array)
    return list(found.values())


def run(case):
    """Raises where the launch or its result is not as it should be. Returns the file that served as the driver."""
    arguments, verify = case.make()
    ptx, meta = compilers.compiled(case, arguments)
    d = Device()
    module = d.load(ptx.read_text())
    arrays = arrays_of(arguments)
    at = {id(a): d.upload(a) for a in arrays}
    values = d.arguments(arguments, at, meta)
    blocks = case.grid[0] * case.grid[1] * case.grid[2] * meta.get("grid_scale", 1)
    for size in meta.get("scratch", []):
        values.append((d.scratch(blocks * size), ctypes.c_void_p))
    try:
        d.launch(module, meta, case.grid, values)
    except RuntimeError as e:
        if case.fails and case.fails in str(e):
            return driver()[0]
        raise
    if case.fails:
        raise RuntimeError(f"expected {case.fails}, and it passed")
    verify(*[d.download(at[id(a)], a) for a in arrays])
    return driver()[0]


def findings(case):
    """What the emulator found, but for the case's known ones, which need not show in each schedule."""
    found = json.loads(reports() or "[]")
    if case.fails:
        return ""
    strange = [f for f in found if f["check"] not in case.known]
    return f"findings: {json.dumps(strange)[:3000]}" if strange else ""


def attempt(case):
    """(error, driver) of one case."""
    where = ""
    with tempfile.TemporaryFile() as printed:
        keep = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            where = run(case)
            error = findings(case)
        except BaseException as e:  # noqa: BLE001: whatever it is, it is this case's
            error = f"{type(e).__name__}: {str(e)[:2000]}"
            if not isinstance(e, (RuntimeError, AssertionError)):
                error += "\n" + traceback.format_exc()[-2000:]
            try:
                error += f"\n{reports()[:3000]}"
            except BaseException:  # noqa: BLE001: the driver itself may be what is broken
                pass
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(keep, 1)
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    if not error and case.prints is not None:
        lines = sorted(text.splitlines())
        if lines != sorted(case.prints):
            error = f"printed {len(lines)} lines, expected {len(case.prints)}: {lines[:5]} for {sorted(case.prints)[:5]}"
    return error, where


def main():
    for name in sys.stdin.read().split():
        start = time.time()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            answer = json.dumps(attempt(suite.ALL[name])).encode()
            os.write(write, answer)
            os._exit(0)
        os.close(write)
        text = b""
        while part := os.read(read, 65536):
            text += part
        os.close(read)
        _, status = os.waitpid(child, 0)
        error, where = json.loads(text) if text else ("", "")
        if status != 0:
            error += f" the process ended with status {status}"
        print(json.dumps({"case": name, "seconds": round(time.time() - start, 3), "error": error, "driver": where}), flush=True)


if __name__ == "__main__":
    main()
