"""The kernel's machine code: what its linker leaves behind in memory."""

from __future__ import annotations

from pathlib import Path

from llvmlite import binding

from gateway import kernel_cache


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
