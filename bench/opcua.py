"""The OPC UA server: start, what notifications cost, what they cost in the library's own server.

10,000 variables, every one of which changes. The server has a process of its own, and only its
processor time counts; clients are processes that count notifications without decoding them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench._opcua_server import DAY_END_NS, DAY_S
from bench._opcua_watch import Watch, connected
from bench._report import Report, arguments, say

ROOT: Final = Path(__file__).parents[1]
POINTS: Final = 10_000
SLOW: Final = (5, 1_000, 1_000)  # clients, items of each, ms between two changes
FAST: Final = (1, 1_000, 100)
SETTLE_S: Final = 1.5
EPOCH_TICKS: Final = 116_444_736_000_000_000


class Helper:
    """A process that answers lines."""

    def __init__(self, module: str, *given: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *given],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def read(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a helper process ended")
        return line

    def ask(self, text: str) -> float:
        """Its answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return float(self.read())

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    """`share` of a core that the server took, `rate` of notifications a second.

    unmonitored_us  of the points that no client monitored, after all others
    """

    share: float
    rate: float
    unmonitored_us: float = 0.0

    @property
    def cost_us(self) -> float:
        """Processor time for each notification."""
        return self.share / self.rate * 1e6 if self.rate else float("inf")


@contextlib.contextmanager
def serving(kind: str) -> Iterator[Helper]:
    """A server process; its first line comes when it is ready."""
    server = Helper("bench._opcua_server", kind, str(POINTS))
    try:
        yield server
    finally:
        server.end()


def loaded(
    server: Helper,
    url: str,
    load: tuple[int, int, int],
    seconds: float,
    folder: str = "",
    *,
    unmonitored: bool = False,
) -> Outcome:
    """How many clients, with how many items each, all values changing once in so many ms.

    With the `folder` of a client's certificate messages are signed and encrypted.
    """
    clients, items, period_ms = load
    with contextlib.ExitStack() as stack:
        watches = []
        for n in range(clients):
            given = (url, "D", str(items), str(period_ms), str(n * items), folder)
            watches.append(Helper("bench._opcua_watch", *given))
            stack.callback(watches[-1].end)
        for watch in watches:
            watch.read()
        server.ask(f"change {period_ms}")
        time.sleep(SETTLE_S)
        before, began = server.ask("cpu"), time.monotonic()
        seen = sum(watch.ask("count") for watch in watches)
        time.sleep(seconds)
        share = (server.ask("cpu") - before) / (time.monotonic() - began)
        notified = sum(watch.ask("count") for watch in watches) - seen
        rate = notified / (time.monotonic() - began)
        server.ask("change 0")
        cost_us = server.ask(f"unmonitored {clients * items}") / 1000 if unmonitored else 0.0
        return Outcome(share, rate, cost_us)


async def _read_day(url: str) -> tuple[float, int]:
    """Seconds for a day of one point, and how many values came."""
    from asyncua import ua

    from gateway.opcua.names import own_id

    client = await connected(url)
    async with client:
        watch, count, point = Watch(client), 0, None
        details = ua.ReadRawModifiedDetails(
            IsReadModified=False,
            NumValuesPerNode=0,
            ReturnBounds=False,
            StartTime=ua.win_epoch_to_datetime((DAY_END_NS // 100 - DAY_S * 10**7) + EPOCH_TICKS),
            EndTime=ua.win_epoch_to_datetime(DAY_END_NS // 100 + EPOCH_TICKS),
        )
        began = time.perf_counter()
        while True:
            node = ua.HistoryReadValueId(own_id("D0.r0"), ContinuationPoint=point)
            request = ua.HistoryReadRequest()
            request.Parameters = ua.HistoryReadParameters(
                details, ReleaseContinuationPoints=False, NodesToRead=[node]
            )
            body = await watch.ask(request)
            # TypeId, header, number of results, status, continuation point, then HistoryData.
            status, size = struct.unpack_from("<Ii", body, 32)
            if status:
                raise SystemExit(f"HistoryRead: {status:#x}")
            at = 40 + max(0, size)
            point = bytes(body[40:at]) if size > 0 else None
            count += max(0, struct.unpack_from("<i", body, at + 9)[0])
            if point is None:
                return time.perf_counter() - began, count


def measure_encrypted(
    report: Report, server: Helper, said: dict[str, Any], seconds: float, *, quick: bool
) -> None:
    """The same loads with messages that are signed and encrypted."""
    loads = (("5x1000_at_1s", SLOW, 35.0), ("1x1000_at_100ms", FAST, 40.0))
    for name, load, most in loads[:1] if quick else loads:
        say(f"{name}, signed and encrypted")
        seen = loaded(server, said["url"], load, seconds, said["folder"])
        clients, items, period_ms = load
        whole = clients * items * 1000 / period_ms
        report.check(f"encrypted_cpu_{name}_percent", 100 * seen.share, "<=", most)
        report.check(f"encrypted_delivered_{name}_share", seen.rate / whole, ">=", 0.8)


def measure_ours(
    report: Report, seconds: float, stack: contextlib.ExitStack, *, quick: bool
) -> Any:
    """Everything of our server: the cost of a notification, us; and the other server, starting."""
    with serving("ours") as server:
        said = json.loads(server.read())
        report.check("start_s", said["start_s"], "<=", 4.0)
        cost_us = server.ask("unmonitored 0") / 1000
        report.check("unmonitored_change_us", cost_us, "<=", 1.0)
        # It builds while the clients do, which takes nothing from the processor time of ours.
        other = stack.enter_context(serving("plain"))
        say("5 clients x 1,000 items at 1 s")
        slow = loaded(server, said["url"], SLOW, seconds)
        report.check("cpu_5x1000_at_1s_percent", 100 * slow.share, "<=", 35.0)
        report.figure("notifications_5x1000_at_1s_per_s", slow.rate)
        report.check("delivered_5x1000_at_1s_share", slow.rate / 5_000, ">=", 0.8)
        say("1 client x 1,000 items at 100 ms")
        fast = loaded(server, said["url"], FAST, seconds)
        report.check("cpu_1x1000_at_100ms_percent", 100 * fast.share, "<=", 40.0)
        report.figure("notifications_1x1000_at_100ms_per_s", fast.rate)
        report.check("delivered_1x1000_at_100ms_share", fast.rate / 10_000, ">=", 0.9)
        report.figure("cost_5x1000_at_1s_us", slow.cost_us)
        report.figure("cost_1x1000_at_100ms_us", fast.cost_us)
        measure_encrypted(report, server, said, seconds, quick=quick)
        say("1 client x 1,000 items that want every change")
        every = loaded(server, said["url"], (1, 1_000, 50), 1.0, unmonitored=True)
        report.check("unmonitored_beside_1000_eager_us", every.unmonitored_us, "<=", 1.0)
        say("a day of history")
        server.ask("history")
        took_s, count = asyncio.run(_read_day(said["url"]))
        report.figure("history_day_values", count)
        report.check("history_day_s", took_s if count == DAY_S else float("inf"), "<=", 1.0)
        return slow.cost_us, other


def main() -> int:
    """Measure and print."""
    given = arguments(__doc__)
    report = Report("opcua")
    seconds = 3.0 if given.quick else 30.0
    with contextlib.ExitStack() as stack:
        cost_us, server = measure_ours(report, seconds, stack, quick=given.quick)
        said = json.loads(server.read())
        say("the library's own server, 5 clients x 1,000 items at 1 s")
        report.figure("plain_start_s", said["start_s"])
        plain = loaded(server, said["url"], SLOW, seconds)
    report.figure("plain_cpu_5x1000_at_1s_percent", 100 * plain.share)
    report.figure("plain_notifications_5x1000_at_1s_per_s", plain.rate)
    report.figure("plain_cost_5x1000_at_1s_us", plain.cost_us)
    report.check("plain_to_ours_cost", plain.cost_us / cost_us, ">=", 2.0)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
