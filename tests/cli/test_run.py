"""``gatepost run``: the gateway in the foreground, with devices that aren't there."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from config.load import require_site
from gateway.cli.demo_site import copy_site
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError

END_S = 40.0


async def start(*words: str, state: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.cli.app",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "GATEPOST_STATE": str(state)},
    )


async def answers(paths: StatePaths) -> bool:
    client = LocalClient(paths.field_socket)
    try:
        await client.connect()
        return (await client.request({"type": "status"}))["status"]["scan"]["count"] > 0
    except LocalError:
        return False
    finally:
        await client.close()


@pytest.mark.slow
async def test_it_runs_without_its_devices_refuses_a_second_one_and_ends_on_ctrl_c(
    tmp_path: Path,
) -> None:
    site = copy_site(Path("config/sites/soec-lab"), tmp_path / "site").folder
    state = tmp_path / "state"
    first = await start("run", str(site), state=state)
    try:
        async with asyncio.timeout(END_S):
            while not await answers(StatePaths(state / require_site(site).name)):
                assert first.returncode is None
                await asyncio.sleep(0.1)
            second = await start("run", str(site), state=state)
            out, err = await second.communicate()
            assert (second.returncode, out) == (1, b"")
            assert b"in use by another gatepost" in err
            assert b"Traceback" not in err
            first.send_signal(signal.SIGINT)
            out, err = await first.communicate()
        assert (first.returncode, out) == (0, b"")
        assert b"Traceback" not in err
    finally:
        if first.returncode is None:
            first.terminate()
            await first.communicate()
