"""Hostile OPC UA clients for a minute: a good one is served, memory is bounded, the field scans on.

A whole gateway (field and link) with 1,000 registers and an OPC UA server without security, so that
everybody may have sessions: the worst case. A hundred connections attack it in every way that
bench/_opcua_raw.py knows. Meanwhile a good client reads ten times a second and monitors a point.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from bench._opcua_raw import Raw, Refused, read_request
from bench._peers_run import Helper, free_port
from bench._report import Report, say
from bench.lateness import DEVICES, ROOT, gateway, window, write_site

REST_S: Final = 10.0
TRIES: Final = 100
PERIOD_S: Final = 0.1


class Good:
    """The good client, in a thread of its own."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.took_ms: list[float] = []
        self.lost = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Good:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        raw = await connected(self.place)
        request = read_request(10)
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                await asyncio.wait_for(raw.ask(request), 30)
            except (Refused, TimeoutError, OSError):
                self.lost += 1
                raw.close()
                raw = await connected(self.place)
                continue
            self.took_ms.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(PERIOD_S)
        raw.close()

    def take(self) -> list[float]:
        """Times since the last look, in order of their length, in ms."""
        taken, self.took_ms = sorted(self.took_ms), []
        return taken or [float("inf")]


async def connected(place: str) -> Raw:
    """A session; tried until there is one."""
    for _ in range(TRIES):
        with contextlib.suppress(OSError, Refused, TimeoutError):
            raw = await asyncio.wait_for(Raw.connect(place), 10)
            await asyncio.wait_for(raw.session(), 10)
            return raw
        await asyncio.sleep(0.2)
    raise SystemExit("the good client can't connect")


@contextlib.contextmanager
def watched(process: psutil.Process) -> Iterator[list[float]]:
    """The resident memory of a process every half second, in MB."""
    found: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            found.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def link_of(port: int) -> psutil.Process:
    """The process that listens on a port."""
    for _ in range(TRIES):
        for row in psutil.net_connections("tcp"):
            if row.laddr and row.laddr[1] == port and row.status == psutil.CONN_LISTEN and row.pid:
                return psutil.Process(row.pid)
        time.sleep(0.3)
    raise SystemExit(f"nothing listens on {port}")


def percentile(sorted_ms: list[float], part: float) -> float:
    """A value that `part` of the others don't exceed."""
    return sorted_ms[min(int(len(sorted_ms) * part), len(sorted_ms) - 1)]


def attacked(place: str, seconds: float) -> dict[str, int]:
    """Attack from another process, and say how often."""
    command = [sys.executable, "-m", "bench._opcua_raw", place, str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    hits: dict[str, int] = json.loads(done.stdout)
    return hits


def measure(report: Report, folder: Path, ports: list[int], seconds: float) -> None:
    """One gateway, at rest and attacked."""
    port = free_port()
    write_site(folder / "site", ports, 1.0, free_port(), port)
    link_file = folder / "site" / "link.json"
    link: dict[str, Any] = json.loads(link_file.read_text(encoding="utf-8"))
    link["OpcUa"]["NoSecurity"] = True
    link_file.write_text(json.dumps(link), encoding="utf-8")
    with gateway(folder) as state:
        process = link_of(port)
        place = f"127.0.0.1:{port}"
        with Good(place) as good:
            time.sleep(5.0)
            good.take()
            say(f"at rest for {REST_S:g} s")
            rest = window(state, REST_S)
            rest_ms = good.take()
            memory_mb = process.memory_info().rss / 1e6
            say(f"attacked for {seconds:g} s")
            hits: dict[str, int] = {}
            thread = threading.Thread(target=lambda: hits.update(attacked(place, seconds)))
            with watched(process) as memory:
                thread.start()
                load = window(state, seconds)
                thread.join()
            load_ms = good.take()
            time.sleep(15.0)
            good.take()
        lost = good.lost
    for kind, count in hits.items():
        report.figure(f"attacks_{kind}", count)
    for name, times in (("rest", rest_ms), ("attacked", load_ms)):
        report.figure(f"read_p50_{name}_ms", percentile(times, 0.5))
        report.figure(f"read_p99_{name}_ms", percentile(times, 0.99))
        report.figure(f"read_{name}_ms_max", times[-1])
        report.figure(f"reads_{name}", len(times))
    report.check("good_client_lost_connections", lost, "<=", 0)
    report.check("read_attacked_ms_max", load_ms[-1], "<=", 2000)
    report.figure("memory_rest_mb", memory_mb)
    report.check("memory_grown_mb_max", max(memory) - memory_mb, "<=", 200)
    report.figure("memory_grown_last_minus_middle_mb", memory[-1] - memory[len(memory) // 2])
    report.figure("lateness_p99_rest_ms", rest["lateness_p99_ms"])
    report.figure("lateness_p99_attacked_ms", load["lateness_p99_ms"])
    report.check("scans_missed_attacked", load["overruns"], "<=", 0)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they attack")
    options = parser.parse_args()
    report = Report("opcua_hostile")
    devices = Helper("bench._modbus_fast", "--devices", str(DEVICES))
    try:
        ports = [int(word) for word in devices.read().split()]
        with tempfile.TemporaryDirectory(prefix="gatepost-hostile-") as name:
            measure(report, Path(name), ports, 15.0 if options.quick else options.seconds)
    finally:
        devices.end()
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
