"""A gateway whose state folder lies on a small file system of its own; run inside a namespace.

``unshare --user --map-root-user --mount python -m tests.crash.small_disk full|read-only FOLDER``
prints what was seen as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from gateway.core.paths import StatePaths
from sync.errors import StoreReadOnly
from sync.store.reader import StoreReader
from sync.store.store import Store
from tests.gateway.running import Running
from tests.gateway.sites import ALARMS, Rig, eventually
from tests.gateway.test_link import LinkRunning
from tests.sync import support

DISK_BYTES: Final = 48_000_000
SCAN_S: Final = 0.02
NAMELESS: Final = 3  # exit status: no right to mount anything here
ALARM: Final = {
    "Alarms/Store": {
        "When": "(Gateway.Link_Connected == 1 and Gateway.Store_Ok == 0) for 1s",
        "Level": "Alarm",
    }
}


def mounted(folder: Path) -> Path:
    """A file system of 48 MB below `folder`."""
    disk = folder / "disk"
    disk.mkdir()
    options = f"size={DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        sys.exit(NAMELESS)
    return disk


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65_536))
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1))


async def full(folder: Path) -> dict[str, Any]:
    """The disk becomes full under a running gateway, and is freed again."""
    disk = mounted(folder)
    rig = Rig(folder)
    rig.state = disk / "state"
    await rig.start()
    rig.write(
        link={
            "Broker": {"URL": "mqtt://127.0.0.1:1"},
            "OpcUa": {"Active": False},
            "Store": {"FrameInterval": 0.05},
        }
    )
    alarms = {"AlarmStates": ALARMS["AlarmStates"] | ALARM}
    (rig.folder / "Alarms.json").write_text(json.dumps(alarms))
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    hot = asyncio.Event()
    moving = asyncio.create_task(_move(rig, hot))
    await eventually(lambda: running.value("Gateway.Store_Ok") == 1 and running.field.server.taken)
    seen = await _while_full(rig, running, link, disk / "filler", hot)
    (disk / "filler").unlink()
    await eventually(lambda: running.value("Gateway.Store_Ok") == 1)
    await eventually(lambda: not running.value("Alarms.Store"))
    moving.cancel()
    await running.end()
    epoch, last = running.field.epoch, running.field.journal.last
    seen["all_stored"] = await link.numbers(epoch) == list(range(1, last + 1))
    seen["gaps"] = sum(len(batch.gaps) for batch in await link.batches())
    await link.end()
    await rig.stop()
    return seen


async def _while_full(
    rig: Rig, running: Running, link: LinkRunning, filler: Path, hot: asyncio.Event
) -> dict[str, Any]:
    def scans() -> int:
        return running.field.statistics.count

    fill(filler)
    await eventually(lambda: link.link._store_error)
    begun = scans()
    await eventually(lambda: running.value("Alarms.Store") > 0)
    alarm_s = (scans() - begun) * SCAN_S
    # Control goes on: a command, a trip, a reset, and the scans themselves.
    begun, overruns = scans(), running.field.statistics.overruns
    opened = running.send("Rig.Valve", 1.0)
    await eventually(lambda: rig.valve)
    hot.set()
    await eventually(lambda: not rig.valve)
    await eventually(lambda: running.events("gateway", what="retain file not written"))
    await eventually(lambda: scans() >= begun + 50)
    return {
        "reason": link.link._store_error,
        "alarm_s": alarm_s,
        "alarm_events": len(running.events("alarm", name="Alarms/Store")),
        "store_events": len(running.events("gateway", what="Store_Ok", value=0.0)),
        "command": opened,
        "scans": scans() - begun,
        "overruns": running.field.statistics.overruns - overruns,
        "free_mb": running.value("Gateway.Store_Free"),
    }


async def _move(rig: Rig, hot: asyncio.Event) -> None:
    """The temperature is never the same, so there is always something to store."""
    step = 0
    while True:
        step += 1
        rig.temperature((950.0 if hot.is_set() else 20.0) + step % 300)
        await asyncio.sleep(0.02)


def read_only(folder: Path) -> dict[str, Any]:
    """A disk that can't be written: refused with cause and remedy, and everything can be read."""
    disk = mounted(folder)
    path = StatePaths(disk).store
    store = Store(path, quota_bytes=10**9)
    store.put_birth(support.BIRTH, support.birth_bytes())
    for at in range(10):
        store.append(support.batch(at * 100 + 1, 100))
    # As a crash leaves it: what came last stands in the log only.
    copy = {name.name: name.read_bytes() for name in disk.iterdir()}
    store.close()
    for name in list(disk.iterdir()):
        name.unlink()
    for name, content in copy.items():
        if not name.endswith("-shm"):
            (disk / name).write_bytes(content)
    log_bytes = path.with_name(path.name + "-wal").stat().st_size
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = {name.name: name.read_bytes() for name in disk.iterdir()}
    refused = ""
    try:
        Store(path, quota_bytes=10**9).close()
    except StoreReadOnly as error:
        refused = str(error)
    with StoreReader(path) as reader:
        records = sum(len(batch.records) for batch in reader.readable())
        copied = reader.copied
    after = {name.name: name.read_bytes() for name in disk.iterdir()}
    return {
        "refused": refused,
        "log_bytes": log_bytes,
        "records": records,
        "copied": copied,
        "unchanged": before == after,
    }


def main() -> int:
    """Run one of the two."""
    folder = Path(sys.argv[2])
    seen = asyncio.run(full(folder)) if sys.argv[1] == "full" else read_only(folder)
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
