"""What schedules cost a scan: a thousand outputs with a day of quarter-hours each.

The scan's own step for schedules is timed alone, in turns with the same step of a site without
any; then the scans in which a quarter-hour begins; then what a schedule costs that comes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import msgpack
import numpy as np

from bench._report import Report, arguments, say
from config.points import PointDef
from gateway import schedule_files
from gateway.commands import Commands
from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from gateway.core.schedule import Schedule, Slots, pack_schedule, unpack_schedule
from gateway.core.table import PointTable
from gateway.schedules import VISITS_MAX, Schedules

POINTS = 1000
SLOTS = 96
QUARTER_NS = 900_000_000_000
SCAN_NS = 100_000_000
START_NS = UTC_PLAUSIBLE_NS + QUARTER_NS


class Bench:
    """Outputs that take every write, their schedules, and a virtual clock."""

    def __init__(self) -> None:
        names = [f"Unit{at:04}.Power" for at in range(POINTS)]
        self.points = [
            PointDef(at + 1, tag, *tag.split("."), writable=True, safe_value=0.0, fallback=0.0,
                     value_min=0.0, value_max=1e6, tolerance=0.01, read_back=at + 1)
            for at, tag in enumerate(names)
        ]  # fmt: skip
        self.table = PointTable(self.points)
        self.receipts = 0
        self.commands = Commands(self.points, self._count)
        self.commands.device_back(range(1, POINTS + 1), 1)
        self.schedules = Schedules(self.commands, lambda kind, body: None, ManualClock(), 10**18)
        self.mono_ns = 1

    def _count(self, body: object) -> None:
        self.receipts += 1

    def scan(self) -> tuple[int, int]:
        """Nanoseconds of the step for schedules and of the arbitration behind it."""
        utc_ns = START_NS + self.mono_ns
        begin = perf_counter_ns()
        self.schedules.scan(self.mono_ns, utc_ns)
        middle = perf_counter_ns()
        writes = self.commands.arbitrate({}, self.table.rows, self.mono_ns)
        end = perf_counter_ns()
        for write in writes:
            self.commands.written(write.point.index, write.value, self.mono_ns)
            self.table.put_one(write.point.index, write.value, 0, utc_ns, self.mono_ns)
        self.mono_ns += SCAN_NS
        return middle - begin, end - middle

    def settle(self) -> None:
        """Until every output rests."""
        for _ in range(3 * POINTS // VISITS_MAX):
            self.scan()


def make_schedule(bench: Bench) -> Schedule:
    """The day of every point, in the form in which a message was read."""
    starts = START_NS + QUARTER_NS * np.arange(SLOTS, dtype=np.int64)
    random = np.random.default_rng(1)
    points = {p.tag: Slots(starts, random.uniform(0, 1e6, SLOTS)) for p in bench.points}
    end_ns = int(starts[-1]) + QUARTER_NS
    return Schedule("s1", "site", "day-ahead", START_NS, end_ns, "bench", points)


def took_ms(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    begin = perf_counter_ns()
    call()
    return (perf_counter_ns() - begin) / 1e6


def main() -> int:
    """Run and print."""
    given = arguments(__doc__)
    report = Report("schedules")
    plain, busy = Bench(), Bench()
    one = make_schedule(busy)
    say("a schedule comes")
    data = msgpack.packb(pack_schedule(one))
    report.figure("message_kb", len(data) / 1e3)
    report.figure("unpack_on_thread_ms", took_ms(lambda: unpack_schedule(msgpack.unpackb(data))))
    found = []
    judge = busy.schedules.judge
    report.figure("judge_on_thread_ms", took_ms(lambda: found.append(judge(one, START_NS))))
    taken = found[0]
    assert taken is not None
    with tempfile.TemporaryDirectory() as folder:
        report.figure("save_on_thread_ms", took_ms(lambda: schedule_files.save(Path(folder), one)))
        report.figure("load_ms", took_ms(lambda: schedule_files.load(Path(folder))))
    report.figure("put_ms", took_ms(lambda: busy.schedules.put(taken)))
    plain.settle()
    busy.settle()
    say("scans between two quarter-hours")
    rounds = 3000 if given.quick else 8000
    idle = [(plain.scan(), busy.scan()) for _ in range(rounds)]
    without, having = ([pair[side] for pair in idle] for side in (0, 1))
    report.figure("idle_step_without_us", median(s for s, _ in without) / 1e3)
    report.check("idle_step_us", median(s for s, _ in having) / 1e3, "<=", 5.0)
    report.figure("idle_arbitration_without_us", median(a for _, a in without) / 1e3)
    report.figure("idle_arbitration_us", median(a for _, a in having) / 1e3)
    say("scans in which a quarter-hour begins")
    steps: list[int] = []
    for quarter in range(1, 4 if given.quick else 12):
        busy.mono_ns = quarter * QUARTER_NS + 1
        steps += [busy.scan()[0] for _ in range(POINTS // VISITS_MAX)]
        busy.settle()
    report.figure("begin_step_ms_median", median(steps) / 1e6)
    report.figure("begin_step_ms_worst", max(steps) / 1e6)
    report.figure("begin_scans", POINTS // VISITS_MAX)
    driven = sum(o.driven == o.desired for o in busy.commands.outputs.values())
    report.check("outputs_at_their_slot", driven, ">=", POINTS)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
