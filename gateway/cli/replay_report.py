"""What a replay found, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.cli.history import Columns, listed
from gateway.cli.output import console, counted, table
from gateway.cli.replay_compare import DIFFERENCES, Pair, compare
from gateway.cli.replay_events import Occurrence, Total, Tracker
from gateway.cli.times import duration_text, iso_utc

if TYPE_CHECKING:
    from gateway.cli.replay import Run, Side
    from safety.layout import Program

INPUTS_SHOWN: Final = 4  # of one line
SHARE_SHOWN: Final = 0.001  # a smaller share of odd values is not worth a warning
PROTECTIVE: Final = ("trip", "interlock")


class Report:
    """Everything about one run."""

    def __init__(self, run: Run, known: Columns, data: str, limit: int) -> None:
        self._run = run
        self._known = known
        self._data = data
        self._limit = limit
        self._pairs = (
            compare(*(tracker.occurrences for tracker in run.trackers))
            if len(run.trackers) == 2
            else []
        )

    # ------------------------------------------------------------ warnings

    def warnings(self) -> list[str]:
        """What a reader must know before he believes the rest."""
        run = self._run
        found = list(run.history.warnings)
        unknown = list(dict.fromkeys(self._known.unknown))
        if unknown:
            told = f"left out, no points of the site: {listed(unknown)}"
            found.append(f"{told}; --map FILE gives columns their points")
        if self._known.absent:
            found.append(self._known.absent)
        calculated = sorted(set(self._known.calculated))
        if calculated and not run.history.by_exception:
            found.append(f"calculated anew, not taken from the data: {listed(calculated)}")
        found.append(run.pauses.in_words())
        found += self._silent() + self._odd_values() + self._other_units()
        for side, tracker in zip(run.sides, run.trackers, strict=True):
            found += self._missing(side, tracker)
            if tracker.left_out:
                found.append(f"{tracker.left_out} events are counted but not listed")
        return list(dict.fromkeys(filter(None, found)))

    def _silent(self) -> list[str]:
        """Points that went bad between two of their values."""
        run = self._run
        silent = run.replays[0].silent
        tags = [point.tag for point in run.sides[0].points if silent[point.index]]
        if not tags:
            return []
        times = counted(int(silent.sum()), "time")
        told = f"no value came within the age limit, {times}: {listed(tags)}"
        if not run.history.by_exception:  # where several points change at once, a step says nothing
            told += f" (the data come every {duration_text(run.pauses.step_ns)})"
        return [f"{told}; --hold lets values stand longer"]

    def _other_units(self) -> list[str]:
        """Points that two sites measure in different units."""
        here, *others = self._run.sides
        units = {point.tag: point.units for point in here.points}
        return [
            f"{point.tag} is in {units[point.tag] or 'no unit'} in {here.path} and in "
            f"{point.units or 'no unit'} in {side.path}; both get the numbers of the first"
            for side in others
            for point in side.points
            if point.source == "device" and units.get(point.tag, point.units) != point.units
        ]

    def _odd_values(self) -> list[str]:
        found = []
        run = self._run
        tally = np.maximum.reduce([replaying.tally for replaying in run.replays])
        columns = run.history.columns
        for column, (count, bad, outside) in zip(columns, tally.tolist(), strict=True):
            # Recorded by exception, how many are bad says nothing about how long they were.
            if bad == count > 0 or (bad > SHARE_SHOWN * count and not run.history.by_exception):
                found.append(f"{column.tag}: {bad / count:.1%} of its values are bad")
            if outside > SHARE_SHOWN * count:
                share = f"{outside / count:.1%} of its values"
                found.append(f"{column.tag}: {share} lie outside of its range; is the unit right?")
        return found

    def _missing(self, side: Side, tracker: Tracker) -> list[str]:
        """Points that rules read and the data don't have."""
        run = self._run
        tally = np.maximum.reduce([replaying.tally for replaying in run.replays])
        have = {
            column.tag
            for column, row in zip(run.history.columns, tally.tolist(), strict=True)
            if row[0]
        }
        lacking = _lacking(side.program, side, have | run.held.keys())
        found = []
        name = self._name(side)
        for kinds, rules in ((PROTECTIVE, "trips or interlocks"), ((), "other rules")):
            protects = bool(kinds)
            tags = [t for t, used in lacking.items() if bool(used & set(PROTECTIVE)) == protects]
            if tags:
                found.append(
                    f"{name}: no values for {listed(tags)}, which {rules} read: never read; "
                    "give a column, or a constant with --set TAG=VALUE"
                )
        if side.program.watch.size and not tracker.startup_end_ns:
            found.append(
                f"{name}: the start-up trip never ended, because the inputs of trips and "
                "interlocks were never good all at once"
            )
        return found

    def _name(self, side: Side) -> str:
        """What a site is called here: two versions of one site bear the same name."""
        return side.name if len(self._run.sides) == 1 else str(side.path)

    # ------------------------------------------------------------ JSON

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        run = self._run
        found = {
            "site": str(run.sides[0].path),
            "data": self._data,
            "from": iso_utc(run.first_ns),
            "to": iso_utc(run.last_ns),
            "scans": run.scans,
            "warnings": self.warnings(),
            **self._side_json(0),
        }
        if len(run.sides) == 2:
            found["against"] = {
                "site": str(run.sides[1].path),
                **self._side_json(1),
                "differences": [self._pair_json(pair) for pair in self._pairs],
            }
        return found

    def _side_json(self, at: int) -> dict[str, Any]:
        run, tracker = self._run, self._run.trackers[at]
        return {
            "rules": len(run.sides[at].program.info),
            "startup_end": _time(tracker.startup_end_ns),
            "events": [self._event_json(one) for one in tracker.occurrences],
            "events_left_out": tracker.left_out,
            "summary": [self._total_json(total) for total in tracker.totals],
            "alarms": tracker.load.figures(run.first_ns, run.last_ns),
        }

    def _event_json(self, one: Occurrence) -> dict[str, Any]:
        return {
            "kind": one.kind,
            "name": one.name,
            "what": one.what,
            "to": one.to or None,
            "start": iso_utc(one.start_ns),
            "end": _time(one.end_ns),
            "lasted_s": one.length_ns(self._run.last_ns) / 1e9,
            "cause_gone": _time(one.cause_ns),
            "came_back": one.again,
            "first_out": one.first_out,
            "suppressed": one.suppressed,
            "on_bad": one.on_bad,
            "priority": one.priority,
            "cause": one.cause,
            "inputs": dict(one.inputs),
        }

    def _total_json(self, total: Total) -> dict[str, Any]:
        return {
            "kind": total.kind,
            "name": total.name,
            "count": total.count,
            "first": iso_utc(total.first_ns),
            "last": iso_utc(total.last_ns),
            "longest_s": total.longest_ns / 1e9,
            "active_s": total.active_ns / 1e9,
        }

    def _pair_json(self, pair: Pair) -> dict[str, Any]:
        here, there = pair.here, pair.there
        return {
            "difference": pair.difference,
            "here": self._event_json(here) if here else None,
            "there": self._event_json(there) if there else None,
        }

    # ------------------------------------------------------------ text

    def print(self) -> None:
        """The report on standard output; warnings on standard error."""
        run, out = self._run, console()
        for warning in self.warnings():
            console(stderr=True).print(f"warning: {warning}")
        names = " against ".join(self._name(side) for side in run.sides)
        span = f"{iso_utc(run.first_ns)} to {iso_utc(run.last_ns)}"
        rules = counted(len(run.sides[0].program.info), "rule")
        out.print(f"{names} over {self._data}: {span}, {counted(run.scans, 'scan')} of {rules}\n")
        if len(run.sides) == 2:
            self._print_pairs()
            for side, tracker in zip(run.sides, run.trackers, strict=True):
                out.print(f"\n{side.path}")
                self._print_summary(tracker)
            return
        self._print_events(run.trackers[0])
        self._print_summary(run.trackers[0])

    def _print_events(self, tracker: Tracker) -> None:
        out = console()
        shown = table("TIME", "KIND", "NAME", "WHAT", "LASTED", "WHY", right=("LASTED",))
        for one in tracker.occurrences[: self._limit]:
            shown.add_row(
                _short(one.start_ns), one.kind, one.name, one.from_to, self._lasted(one), why(one)
            )
        if tracker.occurrences:
            out.print(shown)
        else:
            out.print("no alarm, no trip, no change of state")
        more = len(tracker.occurrences) - self._limit
        if more > 0:
            out.print(f"... and {more} more; --limit lists more of them, --json all")
        out.print()

    def _lasted(self, one: Occurrence) -> str:
        text = duration_text(one.length_ns(self._run.last_ns))
        return text if one.end_ns else f"{text} *"

    def _print_summary(self, tracker: Tracker) -> None:
        out = console()
        shown = table(
            *("KIND", "NAME", "TIMES", "FIRST", "LAST", "LONGEST", "ALTOGETHER"),
            right=("TIMES", "LONGEST", "ALTOGETHER"),
        )
        for total in tracker.totals:
            shown.add_row(
                total.kind,
                total.name,
                str(total.count),
                _short(total.first_ns),
                _short(total.last_ns),
                duration_text(total.longest_ns),
                duration_text(total.active_ns),
            )
        if tracker.totals:
            out.print(shown)
        figures = tracker.load.figures(self._run.first_ns, self._run.last_ns)
        if figures["announced"]:
            chattering = listed(list(figures["chattering"])) or "none"
            out.print(
                f"\nalarms: {figures['announced']} announced, {figures['per_ten_minutes']:.2g} in "
                f"ten minutes on average, {figures['peak_in_ten_minutes']} at most; in a flood "
                f"{figures['flood_share']:.1%} of the time; chattering: {chattering}"
            )
        if any(not one.end_ns for one in tracker.occurrences):
            out.print("\n* still so at the end of the data")

    def _print_pairs(self) -> None:
        out = console()
        run = self._run
        if not self._pairs:
            out.print("both do the same")
            return
        shown = table("TIME", "KIND", "NAME", "WHAT", "DIFFERENCE")
        for pair in self._pairs[: self._limit]:
            one = pair.shown
            shown.add_row(
                _short(pair.start_ns), one.kind, one.name, one.from_to, pair.in_words(run.last_ns)
            )
        out.print(shown)
        more = len(self._pairs) - self._limit
        if more > 0:
            out.print(f"... and {more} more; --limit lists more of them, --json all")
        kinds = [pair.difference for pair in self._pairs]
        told = [f"{kinds.count(kind)} {kind}" for kind in DIFFERENCES if kind in kinds]
        out.print(f"\n{counted(len(kinds), 'difference')}: {', '.join(told)}")


def _lacking(program: Program, side: Side, have: set[str]) -> dict[str, set[str]]:
    """Points that rules read and nobody gives -> the kinds of these rules."""
    found: dict[str, set[str]] = {}
    for info in program.info:
        for index in info.inputs:
            point = side.points[index - 1]
            if point.source == "device" and point.tag not in have:
                found.setdefault(point.tag, set()).add(info.kind)
    return found


def why(one: Occurrence) -> str:
    """Cause and inputs of an occurrence in one line."""
    inputs = ", ".join(f"{tag} = {text}" for tag, text in one.inputs[:INPUTS_SHOWN])
    if len(one.inputs) > INPUTS_SHOWN:
        inputs += f" and {len(one.inputs) - INPUTS_SHOWN} more"
    text = " | ".join(filter(None, (one.cause, inputs)))
    marks = [f"first-out {one.first_out}"] if one.first_out and one.kind in PROTECTIVE else []
    marks += ["bad inputs"] if one.on_bad else []
    marks += ["suppressed by design"] if one.suppressed else []
    marks += [f"came back {counted(one.again, 'time')}"] if one.again else []
    return text + (f" ({', '.join(marks)})" if marks else "")


def _short(utc_ns: int) -> str:
    """A time to the millisecond."""
    return iso_utc(utc_ns)[:23].removesuffix(".000") + "Z"


def _time(utc_ns: int) -> str | None:
    return iso_utc(utc_ns) if utc_ns else None
