"""The loop's machine code is kept, and what is kept never ends a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numba import njit

from gateway.cli import replay_cache


def one_more(number: int) -> int:
    """In place of the loop, which takes seconds to compile."""
    return number + 1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATEPOST_KERNEL", str(tmp_path))
    return tmp_path


def hits(monkeypatch: pytest.MonkeyPatch) -> int:
    """What the next command finds, which compiles where that is nothing."""
    function: Any = njit(one_more)
    monkeypatch.setattr(replay_cache.replay_kernel, "run", function)
    replay_cache.keep()
    assert function(1) == 2
    return sum(function.stats.cache_hits.values())


def test_the_next_command_finds_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [hits(monkeypatch), hits(monkeypatch)] == [0, 1]


def test_what_is_damaged_is_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hits(monkeypatch)
    for kind in ("nbc", "nbi"):
        (file,) = place.rglob(f"*.{kind}")
        file.write_bytes(file.read_bytes()[:-50])
        assert hits(monkeypatch) == 0
        assert hits(monkeypatch) == 1


def test_other_sources_have_machine_code_of_their_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits(monkeypatch)
    monkeypatch.setattr(replay_cache, "_CONSTANTS", ())
    assert hits(monkeypatch) == 0
    assert len(list(place.glob("replay-*"))) == 1


def test_where_nothing_can_be_written_it_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GATEPOST_KERNEL", str(tmp_path / "file"))
    assert [hits(monkeypatch), hits(monkeypatch)] == [0, 0]
