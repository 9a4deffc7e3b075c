"""``gatepost run``: the gateway in the foreground, with devices that aren't there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.load import require_site
from gateway import supervisor
from gateway.cli.demo_site import copy_site
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError

END_S = 40.0


@pytest.mark.parametrize("bad", [True, False])
def test_the_whole_check_comes_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gatepost: Callable[..., Any], bad: bool
) -> None:
    """A faulty rule is found by no loader: only compiling shows it."""
    started: list[Path] = []
    monkeypatch.setattr(supervisor, "main", lambda site, state: started.append(site) or 0)
    site = copy_site(Path("config/sites/soec-lab"), tmp_path / "site").folder
    controls = next(site.glob("*ControlStates.json"))
    content = json.loads(controls.read_text())
    rule = {"When": "Stack.Nothing > 1", "Method": "HeatOff"}
    if bad:
        content["Automatic_Controls"]["Control/New"] = rule
    content["Control_Methods"]["Unused"] = []
    controls.write_text(json.dumps(content))
    done = gatepost("run", site, "--state", tmp_path / "state")
    assert "[method-unused]" in done.err, "warnings are shown too"
    assert ("[reference-undefined]" in done.err) is bad
    assert (done.status, done.out) == (2 if bad else 0, "")
    assert started == ([] if bad else [site])
    assert ("1 error, 1 warning; nothing was started" in done.err) is bad
    assert not (tmp_path / "state").exists()


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
