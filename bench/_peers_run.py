"""One measurement of `bench.peers`: broker, devices, watcher and one gateway, all as processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench._peers_gateways import Gatepost, Gateway, Load

START_S: Final = 60.0
BROKER_S: Final = 10.0


class RunFailed(Exception):
    """A measurement came to nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one gateway did with one load.

    values_per_s   arrived at the subscriber
    cpu_share      processor seconds a second, of the gateway's whole process tree
    answers_per_s  requests that the devices answered
    """

    load: Load
    values_per_s: float
    cpu_share: float
    answers_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    bytes_per_value: float
    resident_mb: float
    both_mb: float

    @property
    def per_cpu_s(self) -> float:
        """Values for one second of processor time."""
        return self.values_per_s / self.cpu_share if self.cpu_share else 0.0

    def line(self) -> str:
        """For the log."""
        return (
            f"{self.load.values_per_s:,.0f}/s asked, {self.values_per_s:,.0f}/s arrived, "
            f"{100 * self.cpu_share:.1f} % of a core, {self.per_cpu_s:,.0f} a CPU-second, "
            f"p50 {self.latency_p50_ms:.0f} ms, p99 {self.latency_p99_ms:.0f} ms, "
            f"{self.resident_mb:.0f} MB, {self.bytes_per_value:.1f} bytes a value, "
            f"{self.answers_per_s:,.0f} answers/s"
        )


class Helper:
    """A process of ours that is asked with a line and answers with a line."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        """The next line. Raises RunFailed where the process ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RunFailed(f"{self._process.args!r} ended by itself")
        return line.strip()

    def ask(self, word: str) -> str:
        """Say a word, return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> None:
        """Close its input and wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int]:
    """mosquitto on a free port, without persistence and without limits on its queues."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise RunFailed("mosquitto is missing: tools/system-packages installs it")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + BROKER_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError as error:
                if time.monotonic() > until or process.poll() is not None:
                    raise RunFailed(f"mosquitto does not answer: {error}") from error
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def measure(kind: type[Gateway], load: Load, *, warm_s: float, seconds: float) -> Outcome:
    """Run one gateway under one load. Raises RunFailed and NotInstalled."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-peers-")))
        port = stack.enter_context(broker(folder))
        devices = Helper("bench._modbus_fast", "--devices", str(load.devices))
        stack.callback(devices.end)
        ports = [int(word) for word in devices.read().split()]
        watch = Helper("bench._peers_watch", str(port), kind.name)
        stack.callback(watch.end)
        gateway = kind(folder / "gateway")
        stack.callback(gateway.end)
        gateway.start(load, ports, port)
        _wait(gateway, watch)
        time.sleep(warm_s)
        return _window(gateway, devices, watch, load, seconds)


def _wait(gateway: Gateway, watch: Helper) -> None:
    until = time.monotonic() + START_S
    while json.loads(watch.ask("seen"))["messages"] < 2:
        if not gateway.running or time.monotonic() > until:
            raise RunFailed(f"{gateway.name} sends nothing: {gateway.log_end()}")
        time.sleep(0.1)


def _window(
    gateway: Gateway, devices: Helper, watch: Helper, load: Load, seconds: float
) -> Outcome:
    answered, used, began = int(devices.ask("")), gateway.cpu_s(), time.monotonic()
    watch.ask("begin")
    time.sleep(seconds)
    cpu_s, span_s = gateway.cpu_s() - used, time.monotonic() - began
    answers = int(devices.ask("")) - answered
    resident_mb = gateway.resident_mb()
    both_mb = gateway.both_mb() if isinstance(gateway, Gatepost) else resident_mb
    found: dict[str, Any] = json.loads(watch.ask("end"))
    return Outcome(
        load=load,
        values_per_s=found["values"] / found["seconds"],
        cpu_share=cpu_s / span_s,
        answers_per_s=answers / span_s,
        latency_p50_ms=found["latency_p50_ms"],
        latency_p99_ms=found["latency_p99_ms"],
        bytes_per_value=found["bytes_per_value"],
        resident_mb=resident_mb,
        both_mb=both_mb,
    )
