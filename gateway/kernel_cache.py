"""Where the kernel's machine code is kept, and how it gets there.

``python -m gateway.kernel_cache FILE`` compiles it in a process of its own, so that the field
process never imports numba. A file is valid for one version of our source, of numba, of Python
and for one CPU; all of that is in its name. An image ships the file beside the package, made for
the CPU that ``NUMBA_CPU_NAME`` names; elsewhere the first start makes it. ``GATEPOST_KERNEL`` names
another folder than the package's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import logging
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import safety
from safety.native import (
    ARRAYS,
    Evaluate,
    MachineCode,
    MachineCodeError,
    compile_kernel,
    link,
)

log = logging.getLogger("gatepost.field")

BUILD_S_MAX: Final = 300.0
_SOURCES: Final = ("kernel.py", "kernel_cells.py", "kernel_states.py", "layout.py", "native.py")


class KernelError(Exception):
    """The kernel can be neither loaded nor compiled; the message says why."""


def file_name() -> str:
    """Names the machine code that fits this source, these versions and this CPU."""
    folder = Path(safety.__path__[0])
    parts = [(folder / name).read_bytes() for name in _SOURCES]
    parts.append(repr([kind.descr for kind in ARRAYS]).encode())  # the point table's form too
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    parts += [text.encode() for text in (*target_cpu(), sys.version, *versions)]
    return f"kernel-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.bin"


def target_cpu() -> tuple[str, str]:
    """Name and features of the CPU to compile for: this one, or what ``NUMBA_CPU_NAME`` names.

    numba gives a CPU that is named the features of the one it runs on, unless
    ``NUMBA_CPU_FEATURES`` says which it has; here a name stands for that CPU's own features.
    """
    from llvmlite import binding

    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name else binding.get_host_cpu_features().flatten()
    return name or binding.get_host_cpu_name(), features


def folder() -> Path:
    """Where machine code is kept: beside the package, or where ``GATEPOST_KERNEL`` says."""
    package = Path(safety.__path__[0]) / "__pycache__"
    return Path(os.environ.get("GATEPOST_KERNEL") or package)


def load(state: Path) -> Evaluate:
    """The kernel, from beside the package or from the state folder, else compiled first.

    Raises KernelError.
    """
    name = file_name()
    places = [folder() / name, state / name]
    for place in places:
        evaluate = _try(place)
        if evaluate is not None:
            _drop_linker()
            return evaluate
    said = ""
    for place in places:
        log.info("compiling the safety kernel; the next start will find it in %s", place.parent)
        said = _build(place)
        evaluate = _try(place)
        if evaluate is not None:
            _drop_linker()
            return evaluate
    raise KernelError(f"the safety kernel can't be compiled: {said}")


def _try(place: Path) -> Evaluate | None:
    """The kernel of one file; None where there is none, or a damaged one."""
    try:
        return link(_unpack(place.read_bytes()))
    except OSError:
        return None
    except MachineCodeError as error:
        log.warning("%s: %s; it is made anew", place, error)
        return None


def _build(place: Path) -> str:
    """Compile in another process; what that said where it failed."""
    command = [sys.executable, "-m", "gateway.kernel_cache", str(place)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BUILD_S_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.decode(errors="replace").strip()[-500:]


def _drop_linker() -> None:
    """LLVM's library has done its work; its code, 45 MB, leaves the memory.

    Only pages of the file that nobody can have changed: where one is wanted after all, the system
    reads it from the file again.
    """
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = end = 0
    for line in lines:
        name, *rest = line.split()
        if "-" in name and ":" not in name:
            ours = len(rest) == 5 and "libllvmlite" in rest[4] and "w" not in rest[0]
            start, end = (int(part, 16) for part in name.split("-")) if ours else (0, 0)
        elif name in ("Private_Dirty:", "Swap:") and rest[0] != "0":
            start = end = 0
        elif name == "VmFlags:" and end:
            madvise(start, end - start, mmap.MADV_DONTNEED)


def _pack(machine_code: MachineCode) -> bytes:
    body = machine_code.symbol.encode() + b"\n" + machine_code.code
    return hashlib.sha256(body).digest() + body


def _unpack(data: bytes) -> MachineCode:
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise MachineCodeError("the checksum does not match")
    symbol, code = body.split(b"\n", 1)
    return MachineCode(symbol.decode(), code)


def main(arguments: list[str]) -> int:
    """Compile and write one file, whole or not at all."""
    place = Path(arguments[0])
    beside = place.with_suffix(f".{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = target_cpu()
        beside.touch()  # a folder that can't be written is found before the seconds of compiling
        beside.write_bytes(_pack(compile_kernel()))
        beside.replace(place)
        for old in place.parent.glob("kernel-*.bin"):
            if old != place:
                old.unlink(missing_ok=True)
    except OSError as error:
        print(f"{place}: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()  # what a full disk left of it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
