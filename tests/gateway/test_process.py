"""The mains of field and link: bad surroundings end in one clear message and exit status 2."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.core.paths import StatePaths
from gateway.core.records import Command
from gateway.local import LocalClient, LocalError
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


async def test_a_console_that_takes_nothing_any_more_does_not_stop_the_field(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    nobody, console = os.pipe()  # as of a terminal that was stopped with Ctrl-S
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.field", str(rig.folder), "--state", str(rig.state)),
        stderr=console,
    )
    os.close(console)
    client = LocalClient(StatePaths(rig.state).field_socket)
    try:
        async with asyncio.timeout(45):
            while True:
                try:
                    await client.connect()
                    break
                except LocalError:
                    await asyncio.sleep(0.1)
            for number in range(400):  # each refusal is a line of the log
                command = Command(f"c{number}", "Rig.Nothing", 1.0, source="x" * 250)
                steps = [r["step"] async for r in client.command(asdict(command))]
                assert steps == ["refused"]
            count = (await client.request({"type": "status"}))["status"]["scan"]["count"]
            while (await client.request({"type": "status"}))["status"]["scan"]["count"] == count:
                await asyncio.sleep(0.05)
    finally:
        await client.close()
        process.kill()
        await process.wait()
        os.close(nobody)
        await rig.stop()
