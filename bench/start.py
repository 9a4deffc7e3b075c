"""Start, memory and restart of the two processes, on the demo site with its devices.

Cold = no compiled kernel, warm = with it. Python keeps its byte code, as it does where Gatepost is
installed, whatever the environment says. Memory is the resident set of field and link together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._report import Report, arguments, say
from gateway.cli.demo_site import copy_site
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError

SITE = Path(__file__).parents[1] / "config" / "sites" / "soec-lab"
PATIENCE_S = 60.0


def first_scan_s(site: Path, state: Path, cache: Path) -> float:
    """Seconds from starting the field process to its first scan."""
    environment = {**os.environ, "GATEPOST_KERNEL": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.field", str(site), "--state", str(state)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "first scan" in line:
                return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    raise SystemExit("the field process ended before its first scan")


def resident_mb(pid: int) -> float:
    """Resident set of a process, 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


async def status(socket: Path) -> dict[str, Any] | None:
    """What the field process says, or None."""
    client = LocalClient(socket)
    with contextlib.suppress(LocalError):
        await client.connect()
        shown: dict[str, Any] = (await client.request({"type": "status"}))["status"]
        await client.close()
        return shown
    return None


async def until(socket: Path, condition: Any) -> float:
    """Seconds until a status fulfils a condition."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE_S:
        shown = await status(socket)
        if shown is not None and condition(shown):
            return time.perf_counter() - began
        await asyncio.sleep(0.01)
    raise SystemExit("the gateway did not get there in time")


def start_demo(state: Path) -> subprocess.Popen[str]:
    """The demo of 20 s, as a user starts it."""
    options = ("--for", "20", "--json", "--state", str(state))
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.app", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


async def live(report: Report, state: Path) -> None:
    """Memory of the running demo, and the link's return after a kill."""
    demo = start_demo(state)
    paths = StatePaths(state)
    await until(paths.field_socket, lambda s: bool((s["link"] or {}).get("opcua")))
    await asyncio.sleep(5)
    pids = json.loads(paths.lock.read_text())
    field_mb, link_mb = resident_mb(pids["field"]), resident_mb(pids["link"])
    report.figure("resident_field_mb", field_mb)
    report.figure("resident_link_mb", link_mb)
    report.check("resident_both_mb", field_mb + link_mb, "<=", 250)
    os.kill(pids["link"], signal.SIGKILL)
    await until(paths.field_socket, lambda s: not s["link"])
    back_s = await until(paths.field_socket, lambda s: bool((s["link"] or {}).get("connected")))
    report.check("link_back_after_kill_s", back_s, "<=", 3)
    out, _ = await asyncio.to_thread(demo.communicate)
    result = json.loads(out)
    report.check("missing_after_kill", result["missing"], "<=", 0)
    report.check("duplicates_after_kill", result["duplicates"], "<=", 0)
    report.figure("scan_lateness_p99_ms", result["scan"]["lateness_p99_ms"])


def main() -> int:
    """Run the benchmark; the exit status says whether every limit holds."""
    options = arguments(__doc__)
    report = Report("start")
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as name:
        folder = Path(name)
        site = copy_site(SITE, folder / "site").folder
        say("first scan without a compiled kernel")
        cold = first_scan_s(site, folder / "a", folder / "cache")
        say("first scan with it")
        rounds = 2 if options.quick else 5
        warm = [first_scan_s(site, folder / "a", folder / "cache") for _ in range(rounds)]
        report.check("first_scan_cold_s", cold, "<=", 8)
        report.check("first_scan_warm_s", statistics.median(warm), "<=", 2)
        say("the demo, with a killed link")
        asyncio.run(live(report, folder / "demo"))
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
