"""What the suite needs on a fresh machine: packages, compilers, the emulator. Standard library only."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Packages, compilers and compiled kernels. HADAL_CONFORMANCE moves it.
HOME = Path(os.environ.get("HADAL_CONFORMANCE", ROOT / "target" / "conformance")).resolve()
CACHE = HOME / "ptx"


def python():
    """The interpreter of the suite's own environment, which is made when it is missing or its pins have changed."""
    def make(folder):
        venv.create(folder, with_pip=True)
        _pip(folder, HERE / "requirements.txt")
    return _kept("venv", HERE / "requirements.txt", make) / "bin" / "python"


def _pip(folder, pins, *more):
    """Installs exactly what `pins` names with the environment's own pip."""
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
                    "--root-user-action=ignore", "--no-deps", "--require-hashes", "--only-binary=:all:", *more, "-r", pins],
                   check=True)


def _kept(name, pins, make):
    """A folder that `make` fills, once for each content of `pins`."""
    stamp = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    folder = HOME / name
    mark = folder / "pins"
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (mark.exists() and mark.read_text() == stamp):
            print(f"installing {pins.name} into {folder}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            mark.write_text(stamp)
    return folder


def _toolkit(name, pins):
    """nvcc out of wheels."""
    def make(folder):
        _pip(python().parent.parent, pins, "--target", folder)
        for tools in (*folder.glob("nvidia/cu*/bin"), *folder.glob("nvidia/cu*/nvvm/bin")):
            for tool in tools.iterdir():
                tool.chmod(tool.stat().st_mode | 0o111)
    found = sorted(_kept(name, pins, make).glob("nvidia/cu*/bin/nvcc"))
    if not found:
        sys.exit(f"{pins.name} holds no nvcc")
    return found[0]


def nvcc(version):
    """The nvcc of release 13.0 (the one that this project pins) or 13.5."""
    if version == "13.0":
        own = sorted((ROOT / ".cuda").glob("nvidia/cu*/bin/nvcc"))
        return own[0] if own else _toolkit("nvcc-13.0", ROOT / "cuda-requirements.txt")
    return _toolkit("nvcc-13.5", HERE / "requirements-nvcc-13.5.txt")


def emulator_path():
    """hadal-emu. HADAL_EMU names one of your own."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return Path(os.environ.get("HADAL_EMU", target / "release" / "hadal-emu"))


def build_emulator():
    """Builds hadal-emu, unless HADAL_EMU names one."""
    if "HADAL_EMU" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "hadal-emulator"], cwd=ROOT, check=True)


def run_inside():
    """Goes on in the suite's own environment, unless this process is in it."""
    wanted = python()
    if Path(sys.prefix).resolve() != wanted.parent.parent.resolve():
        os.execv(wanted, [str(wanted), *sys.argv])
