"""How late scans start under full load, beside the same gateway idle, in one run.

Idle: 1,000 points and 500 rules that are scanned every 100 ms, devices polled once a minute, no
broker, no OPC UA client. Loaded: the same points polled every 100 ms (10,000 values/s), a broker
that is away half of the time so that a backlog drains, ingest behind it, and an OPC UA client that
monitors every point. Devices, broker, ingest and client share the machine's cores with the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench._peers_run import Helper, broker, free_port
from bench._report import Report, arguments, say
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError

DEVICES: Final = 10
REGISTERS: Final = 100
RULES: Final = 500
SCAN_MS: Final = 100
START_S: Final = 60.0
SETTLE_S: Final = 5.0
BROKER_AWAY_S: Final = 5.0
ROOT: Final = Path(__file__).parents[1]


def write_site(folder: Path, ports: list[int], period_s: float, broker_port: int, ua: int) -> None:
    """A site of 1,000 registers, each with a limit that half of the rules watch."""
    files: dict[str, Any] = {
        "Bench-Config.json": {
            "SystemTags": {"SystemName": "Lateness", "Personality": "Personality.json"},
            "Equipment": {f"D{n}": {"Config": f"D{n}.json"} for n in range(len(ports))},
            "DataSampling": {"All": {"FilterKey": "All", "Rate": period_s}},
            "Scan": {"Period": SCAN_MS, "Unit": "ms"},
        },
        "link.json": {
            "Broker": {"URL": f"mqtt://127.0.0.1:{broker_port}"},
            "OpcUa": {
                "Active": ua > 0,
                "Endpoint": f"opc.tcp://127.0.0.1:{ua or 4840}/gatepost",
                "NoSecurity": True,
            },
        },
        "Personality.json": {"Components": {"AlarmStates": "Alarms.json"}},
        "Alarms.json": {
            "AlarmStates": {
                f"Alarms/A{n}": {
                    "When": f"D{2 * n // 100}.r{2 * n % 100} > 70000 hysteresis 10 for 2s"
                }
                for n in range(RULES)
            }
        },
    }
    channel = {"Type": "HRegister", "DataType": "uint16", "Tags": ["All"]}
    for number, port in enumerate(ports):
        tags = {
            "EquipmentName": f"D{number}",
            "Communication": "ModbusTcp",
            "Connection": {"IP": "127.0.0.1"},
            "PortNum": port,
            "Timeout": 2,
        }
        channels = {f"r{at}": {**channel, "IOPoint": at} for at in range(REGISTERS)}
        files[f"D{number}.json"] = {"EquipmentTags": tags, "Channels": channels}
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


async def scan_status(state: Path, scans: int) -> dict[str, Any]:
    """The scan's statistics over its newest `scans` scans."""
    client = LocalClient(StatePaths(state).field_socket)
    await client.connect()
    try:
        answer = await client.request({"type": "status", "scans": scans})
    finally:
        await client.close()
    shown: dict[str, Any] = answer["status"]["scan"]
    return shown


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[Path]:
    """Field and link of the site in `folder`; yields the state folder once they scan."""
    state = folder / "state"
    words = ("run", str(folder / "site"), "--state", str(state))
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.app", *words], stdout=log, stderr=log, cwd=ROOT
        )
    try:
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(LocalError, OSError):
                if asyncio.run(scan_status(state, 1))["count"] > 0:
                    break
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit((folder / "output.log").read_text(encoding="utf-8")[-2000:])
            time.sleep(0.2)
        yield state
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def window(state: Path, seconds: float) -> dict[str, Any]:
    """The scans of the next `seconds`: their lateness, and how many were missed."""
    before = asyncio.run(scan_status(state, 1))
    time.sleep(seconds)
    now = asyncio.run(scan_status(state, 1))
    count = now["count"] - before["count"]
    shown = asyncio.run(scan_status(state, count))
    return {**shown, "overruns": now["overruns"] - before["overruns"], "count": count}


def idle(ports: list[int], seconds: float) -> dict[str, Any]:
    """The gateway with nothing to do but scan."""
    with tempfile.TemporaryDirectory(prefix="gatepost-lateness-") as name:
        folder = Path(name)
        write_site(folder / "site", ports, 60.0, free_port(), 0)
        with gateway(folder) as state:
            time.sleep(SETTLE_S)
            return window(state, seconds)


def loaded(report: Report, ports: list[int], seconds: float) -> dict[str, Any]:
    """The gateway with everything at once."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-late-")))
        port, ua = stack.enter_context(broker(folder)), free_port()
        command = ("cloud.ingest", "--broker", f"mqtt://127.0.0.1:{port}")
        ingest = subprocess.Popen(
            [sys.executable, "-m", *command, "--historian", str(folder / "historian.sqlite")],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(ingest.wait)
        stack.callback(ingest.terminate)
        write_site(folder / "site", ports, SCAN_MS / 1000, port, ua)
        state = stack.enter_context(gateway(folder))
        url, points = f"opc.tcp://127.0.0.1:{ua}/gatepost", DEVICES * REGISTERS
        client = Helper("bench._opcua_watch", url, "D", str(points))
        stack.callback(client.end)
        client.read()
        broker_pid = _listener(port)
        outages = stack.enter_context(_outages(broker_pid, seconds + SETTLE_S))
        time.sleep(SETTLE_S)
        seen = int(client.ask("count"))
        found = window(state, seconds)
        notified = int(client.ask("count")) - seen
        report.figure("opcua_notifications_per_s", notified / seconds)
        report.figure("broker_outages", len(outages))
        return found


def _listener(port: int) -> int:
    """The process that listens on a port of this machine."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise SystemExit("the broker does not listen")


@contextlib.contextmanager
def _outages(pid: int, seconds: float) -> Iterator[list[float]]:
    """Stop the broker for 5 of every 10 s, in a thread of its own; yields when each began."""
    import threading

    began: list[float] = []
    ended = threading.Event()

    def run() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not ended.wait(BROKER_AWAY_S):
            began.append(time.monotonic())
            os.kill(pid, signal.SIGSTOP)
            ended.wait(BROKER_AWAY_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield began
    finally:
        ended.set()
        thread.join()


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    rest_s, seconds = (14.0, 14.0) if options.quick else (200.0, 600.0)
    report = Report("lateness")
    devices = Helper("bench._modbus_fast", "--devices", str(DEVICES))
    try:
        ports = [int(word) for word in devices.read().split()]
        say(f"idle for {rest_s:g} s")
        rest = idle(ports, rest_s)
        say(f"loaded for {seconds:g} s")
        load = loaded(report, ports, seconds)
    finally:
        devices.end()
    for name, found in (("idle", rest), ("loaded", load)):
        report.figure(f"scans_{name}", found["count"])
        for percent in ("p50", "p99", "p999"):
            report.figure(f"lateness_{percent}_{name}_ms", found[f"lateness_{percent}_ms"])
    report.check("scans_missed", load["overruns"], "<=", 0)
    ratio = load["lateness_p999_ms"] / max(rest["lateness_p999_ms"], 1e-3)
    report.check("lateness_p999_loaded_to_idle", ratio, "<=", 3)
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
