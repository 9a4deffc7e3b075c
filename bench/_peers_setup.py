"""Brings the gateways that `bench.peers` measures beside ours, each pinned, into a cache folder.

    python -m bench._peers_setup

The network is used here and nowhere else: what a peer would install at its first start is
installed now. What is there already is left alone. None of npm's install scripts are run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench._report import say

# The gateway's Modbus connector installs the last three by itself at its start, in these versions.
THINGSBOARD: Final = (
    "thingsboard-gateway==3.8.5",
    "pymodbus==3.9.2",
    "pyserial==3.5",
    "pyserial-asyncio==0.6",
)
NODE_RED: Final = {"node-red": "4.1.15", "node-red-contrib-modbus": "5.23.3"}
PATIENCE_S: Final = 600


class NotInstalled(Exception):
    """A peer is not there and can't be brought; the message says why."""


def cache_folder() -> Path:
    """Where the peers are kept: $GATEPOST_PEERS, or below the user's cache."""
    if given := os.environ.get("GATEPOST_PEERS"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gatepost-peers"


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(f"{' '.join(command[:3])}: {lines[-1] if lines else done.returncode}")


def _finished(folder: Path, wanted: str) -> bool:
    stamp = folder / "installed.json"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == wanted


def thingsboard() -> Path:
    """The interpreter of the ThingsBoard gateway's environment. Raises NotInstalled."""
    folder = cache_folder() / "thingsboard"
    wanted = json.dumps(THINGSBOARD)
    python = folder / "venv" / "bin" / "python"
    if not _finished(folder, wanted):
        say("installing the ThingsBoard gateway")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([sys.executable, "-m", "venv", "venv"], folder)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        _run([*pip, "--quiet", *THINGSBOARD], folder)
        (folder / "installed.json").write_text(wanted, encoding="utf-8")
    return python


def node_red() -> Path:
    """The folder that holds Node-RED and its Modbus nodes. Raises NotInstalled."""
    folder = cache_folder() / "node-red"
    wanted = json.dumps(NODE_RED)
    if shutil.which("node") is None:
        raise NotInstalled("node is missing: install Node.js 18 or newer")
    if not _finished(folder, wanted):
        if shutil.which("npm") is None:
            raise NotInstalled("npm is missing: install it")
        say("installing Node-RED")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        package = {"name": "gatepost-bench-peers", "private": True, "dependencies": NODE_RED}
        (folder / "package.json").write_text(json.dumps(package), encoding="utf-8")
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        (folder / "installed.json").write_text(wanted, encoding="utf-8")
    return folder


def main() -> int:
    """Install both; the exit status is 1 where one can't be installed."""
    status = 0
    for name, install in (("ThingsBoard gateway", thingsboard), ("Node-RED", node_red)):
        try:
            say(f"{name}: {install()}")
        except NotInstalled as error:
            say(f"{name}: {error}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
