"""The kernel's machine code: where it is kept, for which CPU, and what its linker leaves behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

import safety
from gateway import kernel_cache
from safety.native import MachineCode


def linker_kb() -> int:
    """Resident code of LLVM's library in this process."""
    total = 0
    counting = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            counting = words[1] == "r-xp" and "libllvmlite" in line
        elif counting and words[0] == "Rss:":
            total += int(words[1])
    return total


def test_the_code_of_the_linker_leaves_the_memory_and_can_be_used_again(tmp_path: Path) -> None:
    kernel_cache.load(tmp_path)
    assert linker_kb() < 8_000
    module = binding.parse_assembly("define i32 @f() { ret i32 7 }")
    module.verify()
    assert module.get_function("f").name == "f"
    assert linker_kb() > 0


def test_the_name_of_the_file_covers_every_source_of_the_kernel() -> None:
    folder = Path(safety.__path__[0])
    sources = {"native.py"}
    found = {"kernel.py"}
    while found:
        name = found.pop()
        sources.add(name)
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        imported = {line.split()[1] for line in lines if line.startswith("from safety.")}
        found |= {f"{module.removeprefix('safety.')}.py" for module in imported} - sources
    # Of the terms that layout.py names only the type is used.
    assert sources - {"terms.py"} == set(kernel_cache._SOURCES)


def test_a_cpu_that_is_named_does_not_get_the_features_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an image that is built on a newer machine dies of an illegal instruction elsewhere."""
    seen: list[tuple[str, str]] = []

    def compiled() -> MachineCode:
        seen.append((os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"]))
        return MachineCode("entry", b"code")

    monkeypatch.setattr(kernel_cache, "compile_kernel", compiled)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v2")
    named = kernel_cache.file_name()
    assert kernel_cache.main([str(tmp_path / "kernel-a.bin")]) == 0
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    assert kernel_cache.file_name() != named
    assert kernel_cache.main([str(tmp_path / "kernel-a.bin")]) == 0
    monkeypatch.delenv("NUMBA_CPU_FEATURES")
    monkeypatch.delenv("NUMBA_CPU_NAME")
    assert kernel_cache.target_cpu()[1] == binding.get_host_cpu_features().flatten()
    assert seen == [("x86-64-v2", ""), ("x86-64-v2", "+avx2")]
    assert os.listdir(tmp_path) == ["kernel-a.bin"]


def test_a_folder_that_can_not_be_written_costs_no_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = False

    def compile_kernel() -> MachineCode:
        nonlocal compiled
        compiled = True
        return MachineCode("entry", b"code")

    monkeypatch.setattr(kernel_cache, "compile_kernel", compile_kernel)
    (tmp_path / "file").touch()
    assert kernel_cache.main([str(tmp_path / "file" / "kernel-a.bin")]) == 1

    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    assert kernel_cache.main([str(tmp_path / "kernel-a.bin")]) == 1
    assert not compiled
    assert "kernel-a.bin: Read-only file system" in capsys.readouterr().err


def test_two_compile_at_once_and_a_damaged_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    shared, state = tmp_path / "shared", tmp_path / "state"
    place = shared / kernel_cache.file_name()
    command = [sys.executable, "-m", "gateway.kernel_cache", str(place)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert os.listdir(shared) == [place.name]
    state.mkdir()
    good = place.read_bytes()
    (state / place.name).write_bytes(good)
    monkeypatch.setenv("GATEPOST_KERNEL", str(shared))
    for damaged in (good[:5000], b"", good[:-1] + bytes([good[-1] ^ 1]), bytes(len(good))):
        place.write_bytes(damaged)
        assert kernel_cache.load(state) is not None
        assert place.read_bytes() == damaged
