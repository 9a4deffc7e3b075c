"""The watchdog: outputs that toggle and a device that is fed, only while scans are on time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from config.model import WatchdogEntry
from gateway import watchdog
from gateway.outputs import Demand, Proposal, Wish
from gateway.watchdog import DEVICE_RETRY_NS, RESERVED, SIGN_PERIOD_NS, Watchdog
from tests.gateway.points import output
from tests.gateway.sites import Rig, eventually
from tests.gateway.test_commands import SECOND_NS, Bench

SCAN_NS = SECOND_NS // 10


class Kennel:
    """An output that toggles every second, a device file, and somebody who counts signs."""

    def __init__(self, entry: WatchdogEntry) -> None:
        self.bench = Bench(output(kind="discrete", states=("off", "on")), output(2, "Dev.Other"))
        self.events: list[dict[str, Any]] = []
        self.signs = 0
        self.watchdog = Watchdog(entry, SCAN_NS, self.bench.commands, self._event, (self._sign,))

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        assert kind == "gateway"
        self.events.append(body)

    def _sign(self) -> None:
        self.signs += 1

    def scan(self, lateness_ns: int = 0, times: int = 1) -> list[float]:
        """Some scans; what was written to the output that toggles."""
        found = []
        for _ in range(times):
            self.watchdog.scan(self.bench.now_ns, lateness_ns)
            found += [w.value for w in self.bench.cycle(SCAN_NS) if w.point.index == 1]
        return found


@pytest.fixture
def kennel() -> Kennel:
    """A watchdog with one output."""
    return Kennel(WatchdogEntry(Outputs=["Dev.Out"], Period=1.0))


# ---------------------------------------------------------------- outputs


def test_the_output_toggles_every_period(kennel: Kennel) -> None:
    assert kennel.scan(times=50) == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_it_stands_still_while_scans_are_late_and_goes_on_behind_that(kennel: Kennel) -> None:
    kennel.scan(times=20)
    assert kennel.scan(lateness_ns=SCAN_NS, times=50) == []
    assert kennel.scan(lateness_ns=SCAN_NS - 1, times=20) == [1.0, 0.0]


def test_it_stands_still_while_writes_to_it_fail(kennel: Kennel) -> None:
    kennel.scan(times=20)
    bench, tries = kennel.bench, []
    for _ in range(50):
        kennel.watchdog.scan(bench.now_ns, 0)
        for write in bench.scan():
            tries.append(write.value)
            bench.commands.write_failed(write.point.index, write.value, "no answer")
        bench.now_ns += SCAN_NS
    assert set(tries) == {1.0}  # the same value again and again, no other
    assert kennel.scan(times=20) in ([1.0, 0.0], [1.0, 0.0, 1.0])


def test_it_stands_still_while_its_device_is_silent_for_a_write(kennel: Kennel) -> None:
    kennel.scan(times=20)
    bench = kennel.bench
    written = []
    for _ in range(50):
        kennel.watchdog.scan(bench.now_ns, 0)
        written += bench.scan()
        bench.now_ns += SCAN_NS
    assert len(written) == 1


def test_nobody_else_may_have_the_output(kennel: Kennel) -> None:
    assert not kennel.bench.send(1.0)
    assert kennel.bench.last_reason() == RESERVED
    assert kennel.bench.send(1.0, "Dev.Other")


def test_protection_goes_before_it(kennel: Kennel) -> None:
    assert kennel.scan(times=5) == [1.0]
    kennel.bench.demands = {1: Demand(0.0, "Fire")}
    assert kennel.scan(times=30) == [0.0]
    kennel.bench.demands = {}
    assert len(kennel.scan(times=30)) >= 2


def test_an_offset_or_limit_does_not_touch_it(kennel: Kennel) -> None:
    kennel.bench.proposals = {1: Proposal(0.0, "Droop", -1.0, 0.0, 0.0)}
    assert kennel.scan(times=20) == [1.0, 0.0]


def test_it_is_told_once_however_often_it_toggles(kennel: Kennel) -> None:
    kennel.scan(times=200)
    assert kennel.bench.steps(cause="watchdog") == ["driven"]


def test_a_read_back_that_lags_does_not_make_it_fail(kennel: Kennel) -> None:
    bench = kennel.bench
    for _ in range(100):
        kennel.watchdog.scan(bench.now_ns, 0)
        for write in bench.scan():
            bench.commands.written(write.point.index, write.value, bench.now_ns)
        bench.now_ns += SCAN_NS
    assert "failed" not in bench.steps(tag="Dev.Out")


def test_names_that_are_no_outputs_are_left_out() -> None:
    kennel = Kennel(WatchdogEntry(Outputs=["Dev.Nothing"]))
    assert kennel.scan(times=50) == [0.0]  # its fallback, once


def test_a_wish_of_the_logic_does_not_stop_the_toggling(kennel: Kennel) -> None:
    kennel.scan(times=5)
    commands, rows = kennel.bench.commands, kennel.bench.table.rows
    commands.arbitrate({1: Wish()}, rows, kennel.bench.now_ns)
    assert len(kennel.scan(times=20)) == 2


# ---------------------------------------------------------------- signs


def test_signs_are_given_twice_a_second_while_scans_are_on_time(kennel: Kennel) -> None:
    kennel.scan(times=100)
    assert kennel.signs == 100 * SCAN_NS // SIGN_PERIOD_NS
    kennel.scan(lateness_ns=SCAN_NS, times=100)
    assert kennel.signs == 100 * SCAN_NS // SIGN_PERIOD_NS


def test_a_site_without_a_watchdog_gives_signs_too() -> None:
    bench, signs = Bench(), []
    watchdog = Watchdog(None, SCAN_NS, bench.commands, lambda *_: None, (lambda: signs.append(1),))
    watchdog.scan(bench.now_ns, 0)
    watchdog.stop()
    assert signs == [1]


# ---------------------------------------------------------------- the device


def reader_of(path: Path) -> int:
    """A fifo in the place of a watchdog device, and its other end."""
    os.mkfifo(path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1000)
    except BlockingIOError:
        return b""


def test_the_device_is_fed_every_period_and_disarmed_at_an_orderly_stop(tmp_path: Path) -> None:
    path = tmp_path / "watchdog"
    reader = reader_of(path)
    kennel = Kennel(WatchdogEntry(Device=str(path), Period=1.0))
    kennel.scan(times=30)
    assert read(reader) == b"..."
    kennel.scan(lateness_ns=SCAN_NS, times=30)
    assert read(reader) == b""
    kennel.watchdog.stop()
    assert read(reader) == b"V"
    assert os.read(reader, 10) == b""  # and it is closed
    kennel.watchdog.stop()
    os.close(reader)
    assert [event["what"] for event in kennel.events] == ["watchdog device armed"]


def test_a_terminal_stands_in_for_the_device() -> None:
    ours, theirs = os.openpty()
    try:
        kennel = Kennel(WatchdogEntry(Device=os.ttyname(theirs), Period=1.0))
        kennel.scan(times=20)
        kennel.watchdog.stop()
        heard = b""
        while len(heard) < 3:
            heard += os.read(ours, 100)
        assert heard == b"..V"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_process_that_ends_without_a_stop_does_not_disarm(tmp_path: Path) -> None:
    path = tmp_path / "watchdog"
    reader = reader_of(path)
    script = (
        "import os, sys\n"
        "from gateway.watchdog import DeviceFile\n"
        "device = DeviceFile(sys.argv[1], print)\n"
        "device.feed(0)\n"
        "os._exit(1)\n"
    )
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script, str(path)])
    assert read(reader) == b"."
    os.close(reader)


@pytest.mark.parametrize("kind", ["missing", "file", "folder", "nobody"])
def test_a_device_that_cannot_be_opened_is_told_once_and_tried_again(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "watchdog"
    if kind == "file":
        path.write_text("kept")
    elif kind == "folder":
        path.mkdir()
    elif kind == "nobody":
        os.mkfifo(path)
    kennel = Kennel(WatchdogEntry(Device=str(path), Period=0.1))
    kennel.scan(times=1000)
    (told,) = kennel.events
    assert told["what"] == "watchdog device not fed"
    assert told["reason"] and told["device"] == str(path)
    if kind == "file":
        assert path.read_text() == "kept"
        path.unlink()
    if kind == "folder":
        path.rmdir()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "nobody" else reader_of(path)
    kennel.scan(times=DEVICE_RETRY_NS // SCAN_NS + 2)
    assert read(reader)
    assert kennel.events[-1]["what"] == "watchdog device armed"
    os.close(reader)
    kennel.watchdog.stop()


def test_a_device_that_cannot_be_opened_is_tried_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = []

    def refuses(path: str) -> int:
        tries.append(path)
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(watchdog, "_open_device", refuses)
    kennel = Kennel(WatchdogEntry(Device="/dev/watchdog", Period=0.1))
    kennel.scan(times=1000)
    assert len(tries) == 1000 * SCAN_NS // DEVICE_RETRY_NS
    assert kennel.events[0]["reason"] == "Device or resource busy"


def test_a_device_that_takes_nothing_does_not_hold_up_the_scan(tmp_path: Path) -> None:
    path = tmp_path / "watchdog"
    reader = reader_of(path)
    kennel = Kennel(WatchdogEntry(Device=str(path), Period=0.1))
    kennel.scan(times=100_000 // 50)  # never read: a pipe holds 64 KiB
    os.set_blocking(reader, False)
    assert len(os.read(reader, 100_000)) == 2000
    os.close(reader)
    kennel.scan(times=2)  # the reader is gone: no signal, no error
    assert kennel.events[-1]["what"] == "watchdog device not fed"


# ---------------------------------------------------------------- a process that hangs

CHILD = """
import asyncio, dataclasses, signal, sys, threading
from pathlib import Path
from config.model import WatchdogEntry
from gateway import field, kernel_cache, process
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from safety.engine import Engine

def hang():
    print("hangs", flush=True)
    threading.Event().wait()

async def main(folder, state, device):
    site, program = field.prepare(Path(folder))
    entry = WatchdogEntry(Outputs=["Rig.Beat"], Period=0.05, Device=device)
    site = dataclasses.replace(site, system=site.system.model_copy(update={"Watchdog": entry}))
    paths = process.open_state(Path(state))
    engine = Engine(program, kernel_cache.load(paths.folder))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hang)
    await field.Field(site, engine, paths, SystemClock()).run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_scan_that_hangs_stops_outputs_device_and_notifications(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    beat = {"Type": "Coil", "DataType": "bool", "ReadWrite": "W", "IOPoint": 7, "SafeValue": 0}
    rig.write(channels={"Beat": beat | {"Tags": ["Fast"]}})
    reader = reader_of(tmp_path / "watchdog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, str(rig.folder), str(rig.state)),
            str(tmp_path / "watchdog"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            seen: set[bool] = set()

            def toggles() -> bool:
                seen.add(bool(rig.bank.coils[7]))
                return len(seen) == 2

            await eventually(toggles, 40)
            await eventually(lambda: bool(read(reader)))
            await eventually(lambda: bool(read(reader)))
            assert notified.recv(100) == b"READY=1\nWATCHDOG=1"
            await eventually(lambda: _drained(notified))
            child.send_signal(signal.SIGUSR1)
            assert child.stdout is not None
            assert await child.stdout.readline() == b"hangs\n"
            await asyncio.sleep(0.2)  # what it had sent before has arrived
            _drained(notified)
            read(reader)
            stands = {bool(rig.bank.coils[7])}
            for _ in range(100):
                await asyncio.sleep(0.01)
                stands.add(bool(rig.bank.coils[7]))
            assert len(stands) == 1
            assert read(reader) == b""
            assert not _drained(notified)
        finally:
            child.kill()
            await child.wait()
            await rig.stop()
    assert read(reader) == b""  # killed: not disarmed
    os.close(reader)


def _drained(notified: socket.socket) -> bool:
    """Whether there was anything to hear; all of it is heard."""
    found = False
    while True:
        try:
            found |= b"WATCHDOG=1" in notified.recv(100)
        except BlockingIOError:
            return found
