"""How long 30 days of 1 s data take: 1,000 points, 1,000 rules, 2.6 thousand million evaluations.

What is measured is what `gatepost replay` does: reading Parquet files with its own reader, blocks
through the compiled loop, the changes followed event by event. One day of measured-like values is
written and read 30 times over, its times shifted by a day each; 30 different days would make the
writing, which is not measured, 30 times as long. Everything runs on one core.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from bench import safety as rules
from bench._report import Report, arguments, say
from config.site import Site
from gateway.cli.history import Columns, in_order
from gateway.cli.history_parquet import ParquetHistory
from gateway.cli.replay_events import Tracker
from safety.compile import compile_site
from safety.layout import Program
from safety.replay import Block, Replay, Timing

POINTS = 1_000
RULES = 1_000
DAYS = 30
DAY_S = 86_400
QUICK_S = 4 * 3_600  # of history in a quick run
BEGIN_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S_NS = 1_000_000_000
HOUR_S = 3_600


def write_day(path: Path, seconds: int) -> None:
    """1,000 slow random walks around 890 with a step of 0.1, hour by hour, as a logger does."""
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(1)
    fields = [("time", pa.timestamp("ns", "UTC"))]
    schema = pa.schema(fields + [(f"P.p{at}", pa.float64()) for at in range(POINTS)])
    level = random.normal(885.0, 4.0, POINTS)
    with parquet.ParquetWriter(path, schema) as file:
        for first in range(0, seconds, HOUR_S):
            count = min(HOUR_S, seconds - first)
            steps = random.normal(0.0, 0.35, (count, POINTS))
            values = np.empty((count, POINTS))
            for at in range(count):
                level += steps[at] - 0.002 * (level - 885.0)
                values[at] = level
            times = BEGIN_NS + (first + np.arange(count, dtype=np.int64)) * S_NS
            columns = [pa.array(times, fields[0][1])]
            columns += [pa.array(np.ascontiguousarray(column)) for column in values.round(1).T]
            file.write_table(pa.table(columns, schema=schema))


class Days:
    """One day's file, read again and again; each time a day later."""

    by_exception = False

    def __init__(self, path: Path, known: Columns, days: int, seconds: int) -> None:
        self._day = ParquetHistory(path, known)
        self.columns = self._day.columns
        self.warnings: list[str] = []
        self._path, self._known = path, known
        self._days, self._seconds = days, seconds

    def pieces(self) -> Iterator[Block]:
        """The blocks of all days."""
        for day in range(self._days):
            shift_ns = day * self._seconds * S_NS
            for block in ParquetHistory(self._path, self._known).pieces():
                yield replace(block, times=block.times + shift_ns)


def make() -> tuple[Site, Program]:
    """The site of bench.safety with 1,000 points and 1,000 rules."""
    rules.POINTS, rules.OUTPUTS = POINTS, 50
    site = rules.make_site(RULES)
    program, findings = compile_site(site)
    assert program is not None, findings[:3]
    return site, program


def run(site: Site, program: Program, history: Days, report: Report) -> float:
    """Replay everything; seconds of the wall clock."""
    tags = [column.tag for column in history.columns]
    warm_up = Replay(program, site.points, tags, Timing(gap_ns=S_NS))
    say("compiling, and replaying a first block that does not count")
    for _ in warm_up.feed(next(in_order(history, None))):
        pass
    replay = Replay(program, site.points, tags, Timing(gap_ns=S_NS))
    tracker = Tracker(replay.engine, site.points)
    total = history._days * history._seconds
    start, cpu, told = perf_counter(), process_time(), perf_counter()
    notes_count = 0
    for block in _blocks(history):
        for notes in replay.feed(block):
            notes_count += len(notes.rows)
            tracker.take(notes)
        if perf_counter() - told > 5:
            told = perf_counter()
            done = replay.scans / total
            left = (told - start) * (1 - done) / done
            say(f"{done:.0%} done, {left:.0f} s left")
    seconds = perf_counter() - start
    tracker.finish(replay.last_ns)
    report.figure("scans", replay.scans)
    report.figure("changes", notes_count)
    report.figure("alarms_and_trips", sum(total.count for total in tracker.totals))
    report.figure("cpu_s", process_time() - cpu)
    return seconds


def _blocks(history: Days) -> Iterator[Block | None]:
    yield from in_order(history, None)
    yield None


def main() -> int:
    """Run and print."""
    options = arguments(__doc__)
    report = Report("replay")
    site, program = make()
    history_s = QUICK_S if options.quick else DAY_S
    days = 1 if options.quick else DAYS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.parquet"
        say(f"writing {history_s // HOUR_S} h of 1 s data of {POINTS} points")
        write_day(path, history_s)
        report.figure("file_mb", os.path.getsize(path) / 1e6)
        known = Columns(site.points, {}, "")
        seconds = run(site, program, Days(path, known, days, history_s), report)
    evaluations = days * history_s * RULES
    scale = DAYS * DAY_S / (days * history_s)
    report.figure("points", POINTS)
    report.figure("rules", RULES)
    report.figure("days_replayed", days * history_s / DAY_S)
    report.figure("extrapolated", options.quick)
    report.figure("rules_per_second", evaluations / seconds)
    report.figure("peak_memory_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    report.check("minutes", seconds * scale / 60, "<=", 3.0)
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
