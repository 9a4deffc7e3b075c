"""Schedules on the disk: whole or not there, a damaged one set aside, the others kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from gateway import schedule_files
from gateway.core.schedule import Schedule
from gateway.schedule_files import ScheduleFileError
from tests.gateway.schedules import schedule

OUT = "Dev.Out"


def same(first: Schedule, second: Schedule) -> bool:
    fields = ("id", "name", "kind", "issued_ns", "end_ns", "source")
    return all(getattr(first, name) == getattr(second, name) for name in fields) and all(
        np.array_equal(first.points[tag].starts, second.points[tag].starts)
        and np.array_equal(first.points[tag].values, second.points[tag].values, equal_nan=True)
        for tag in (*first.points, *second.points)
    )


def test_what_is_kept_is_read_again_and_a_version_takes_the_place_of_the_older(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "schedules"
    assert schedule_files.load(folder) == ([], [])
    first = schedule({OUT: [(0, 1), (900, None), (1000, 2.5)]}, 1800)
    other = schedule({OUT: [(0, 1)]}, 1800, kind="intraday")
    second = schedule({OUT: [(0, 3)]}, 900, version=2)
    for one in (first, other, second):
        schedule_files.save(folder, one)
    assert folder.stat().st_mode & 0o777 == 0o700
    found, problems = schedule_files.load(folder)
    assert problems == []
    assert len(found) == 2
    assert same(found[0], second)
    assert same(found[1], other)
    schedule_files.delete(folder, second)
    schedule_files.delete(folder, second)
    assert [one.kind for one in schedule_files.load(folder)[0]] == ["intraday"]


@pytest.mark.parametrize("damage", ["torn", "altered", "empty", "other"])
def test_a_damaged_file_is_set_aside_and_the_others_are_used(tmp_path: Path, damage: str) -> None:
    schedule_files.save(tmp_path, schedule({OUT: [(0, 1)]}, 900))
    schedule_files.save(tmp_path, schedule({OUT: [(0, 1)]}, 900, kind="intraday"))
    path = schedule_files.path_of(tmp_path, "day-ahead", "site")
    data = bytearray(path.read_bytes())
    if damage == "torn":
        data = data[: len(data) // 2]
    elif damage == "altered":
        data[len(data) // 2] ^= 1
    else:
        data = bytearray(b"" if damage == "empty" else b"\x93\x01\x02\x03")
    path.write_bytes(data)
    found, (problem,) = schedule_files.load(tmp_path)
    assert [one.kind for one in found] == ["intraday"]
    assert str(path) in problem
    assert path.with_suffix(".damaged").exists()
    assert not path.exists()
    assert len(schedule_files.load(tmp_path)[0]) == 1


def test_a_disk_that_refuses_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ScheduleFileError, match="day-ahead-"):
        schedule_files.save(tmp_path / "file", schedule({OUT: [(0, 1)]}, 900))


def test_a_full_disk_keeps_no_half_of_what_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = schedule({OUT: [(0, 1)]}, 900)
    schedule_files.save(tmp_path, kept)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    for name in ("site", "other"):
        with pytest.raises(ScheduleFileError, match="No space left"):
            schedule_files.save(tmp_path, schedule({OUT: [(0, 2)]}, 900, name=name, version=2))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
