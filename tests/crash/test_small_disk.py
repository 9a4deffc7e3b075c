"""A disk that is really full, or really read-only: control goes on, and everybody hears of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.small_disk import NAMELESS

ROOT = Path(__file__).parents[2]
ALARM_S_MAX = 5.0  # of scans, from the first refused frame to the alarm


async def seen(what: str, folder: Path) -> dict[str, Any]:
    """What tests/crash/small_disk.py saw, in namespaces of its own."""
    program = shutil.which("unshare")
    if program is None:
        pytest.skip("unshare (util-linux) is missing, so no file system can be mounted for a test")
    process = await asyncio.create_subprocess_exec(
        *(program, "--user", "--map-root-user", "--mount", sys.executable, "-W", "error"),
        *("-m", "tests.crash.small_disk", what, str(folder)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode == NAMELESS or b"unshare failed" in err:
        pytest.skip(f"this machine lets nobody mount a file system: {err.decode().strip()}")
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.slow
async def test_a_full_disk_stops_nothing_loses_nothing_and_is_heard_of(tmp_path: Path) -> None:
    found = await seen("full", tmp_path)
    assert "the disk is full: free space" in found["reason"]
    assert found["alarm_s"] <= ALARM_S_MAX
    assert found["alarm_events"] >= 1
    assert found["store_events"] >= 1
    assert found["free_mb"] < 1
    assert found["command"]
    assert found["scans"] >= 50
    assert found["overruns"] <= found["scans"]  # it goes on, on a machine that may be busy
    assert found["all_stored"]
    assert found["gaps"] == 0


async def test_a_read_only_disk_is_refused_and_can_be_read(tmp_path: Path) -> None:
    found = await seen("read-only", tmp_path)
    assert "can't be written" in found["refused"] or "read-only" in found["refused"]
    assert found["log_bytes"] > 0
    assert found["copied"]
    assert found["records"] == 1000
    assert found["unchanged"]
