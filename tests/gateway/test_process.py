"""The mains of field and link: bad surroundings end in one clear message and exit status 2."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.gateway.sites import Rig


async def run(name: str, site: Path, state: Path) -> tuple[int, str]:
    """Exit status and standard error of a main."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"gateway.{name}", str(site), "--state", str(state)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        _, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, error.decode()


@pytest.mark.parametrize("name", ["field", "link"])
async def test_a_broken_site_is_refused_with_its_findings(tmp_path: Path, name: str) -> None:
    (tmp_path / "Site-Config.json").write_text("{ not json")
    code, said = await run(name, tmp_path, tmp_path / "state")
    assert code == 2
    assert "Site-Config.json" in said and "json-syntax" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["field", "link"])
async def test_a_state_folder_that_cannot_be_made_is_said(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    (tmp_path / "file").write_text("no folder")
    code, said = await run(name, rig.folder, tmp_path / "file" / "state")
    await rig.stop()
    assert code == 2
    assert "state folder" in said and "--state" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["field", "link"])
async def test_both_end_when_their_parent_is_gone(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"gateway.{name}", str(rig.folder)),
        *("--state", str(rig.state), "--parent-pipe"),
        stdin=read,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(read)
    os.close(write)
    async with asyncio.timeout(40):
        assert await process.wait() == 0
    await rig.stop()
