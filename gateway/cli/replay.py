"""``gatepost replay``: what the rules of a site would have done over recorded history."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer

from config.points import PointDef, state_number
from gateway.cli.output import CommandFailed, counted, print_json
from gateway.cli.site import JsonOption, SiteArgument, need_folder
from gateway.cli.times import duration_option, duration_text, iso_utc, time_option

if TYPE_CHECKING:
    from gateway.cli.history import History
    from gateway.cli.replay_events import Tracker
    from safety.layout import Program
    from safety.replay import Block, Replay, Timing

LIMIT_DEFAULT: Final = 200
STEP_DEFAULT_NS: Final = 1_000_000_000  # between scans in a pause, where the data show no step
PAUSE_STEPS: Final = 10  # as many steps without data count as a pause
PAUSE_RECORDED_NS: Final = 120_000_000_000  # two heartbeats, where a gateway recorded changes only


DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="CSV or Parquet file, a folder of them, a gateway's store or state folder, or a "
        "historian's file.",
    ),
]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Scan from here on, ISO 8601.")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to here, ISO 8601.")]
Every = Annotated[
    str | None, typer.Option("--every", metavar="STEP", help="Scan on this grid, e.g. 1s.")
]
Hold = Annotated[
    str | None,
    typer.Option("--hold", metavar="TIME", help="Values stand so long at least, e.g. 20min."),
]
ResetAfter = Annotated[
    str,
    typer.Option("--reset-after", metavar="TIME", help="Reset latches so long after their cause."),
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TAG=VALUE", help="A point that never changes; repeatable."),
]
MapFile = Annotated[
    Path | None, typer.Option("--map", metavar="FILE", help="JSON: name of a column -> tag.")
]
GatewayName = Annotated[
    str, typer.Option("--gateway", metavar="NAME", help="Whose values of a historian.")
]
Against = Annotated[
    Path | None,
    typer.Option("--against", metavar="SITE", help="Show what this other site does otherwise."),
]
FollowStates = Annotated[
    bool, typer.Option("--follow-states", help="Ask for the control states that the data show.")
]
Limit = Annotated[
    int, typer.Option("--limit", metavar="ROWS", min=0, help="Rows of the list at most.")
]


def replay(
    site: SiteArgument,
    data: DataArgument,
    since: From = None,
    until: To = None,
    every: Every = None,
    hold: Hold = None,
    reset_after: ResetAfter = "0s",
    constants: Constants = None,
    map_file: MapFile = None,
    gateway: GatewayName = "",
    against: Against = None,
    follow_states: FollowStates = False,
    limit: Limit = LIMIT_DEFAULT,
    json: JsonOption = False,
) -> None:
    """Run a site's rules over recorded history: every alarm, trip and state with time and cause.

    The kernel is the gateway's own. Nothing is driven, and the history goes on as it was recorded
    whatever the rules demand. docs/replay.md says how the data are read.
    """
    wanted = Wanted(
        duration_option("--every", every, zero=False),
        duration_option("--hold", hold),
        -1 if reset_after == "never" else duration_option("--reset-after", reset_after),
        time_option("--from", since),
        time_option("--to", until),
        follow_states,
    )
    paths = [need_folder(site), *([need_folder(against)] if against else [])]
    sides = [_side(path) for path in paths]
    from gateway.cli import history as histories
    from gateway.cli import replay_cache
    from gateway.cli.history_open import open_history
    from gateway.cli.replay_report import Report

    points = {point.tag: point for side in reversed(sides) for point in side.points}
    given = histories.read_map(map_file)
    known = histories.Columns(tuple(points.values()), given, str(map_file))
    held = _constants(constants or [], points)
    recorded = open_history(data, known, gateway, wanted.from_ns)
    replay_cache.keep()
    run = Run(sides, recorded, wanted, held, data)
    run.go()
    report = Report(run, known, str(data), limit)
    if json:
        print_json(report.as_json())
    else:
        report.print()


def _constants(texts: Sequence[str], points: dict[str, PointDef]) -> dict[str, float]:
    found = {}
    for text in texts:
        tag, equals, value = text.partition("=")
        point = points.get(tag.strip())
        if not equals or point is None:
            what = "the site has no such point" if equals else "give TAG=VALUE"
            raise CommandFailed(f"--set {text}: {what}")
        if point.source not in ("device", "gateway"):
            raise CommandFailed(f"--set {text}: the rules calculate this point")
        state = state_number(point.states, value.strip())
        try:
            found[point.tag] = float(value) if state is None else float(state)
        except ValueError:
            raise CommandFailed(f"--set {text}: {value!r} is no number and no state") from None
    return found


# ---------------------------------------------------------------- the run


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options ask for; 0 = not given, `reset_after_ns` negative = never."""

    every_ns: int
    hold_ns: int
    reset_after_ns: int
    from_ns: int | None
    to_ns: int | None
    follow_states: bool


@dataclass(frozen=True, slots=True)
class Side:
    """One site of a replay."""

    path: Path
    name: str
    program: Program
    points: tuple[PointDef, ...]
    period_ns: int


def _side(path: Path) -> Side:
    """A site and its program. Raises SiteError."""
    from config.load import require_site
    from safety.compile import require_program

    site = require_site(path)
    return Side(path, site.name, require_program(site), site.points, site.scan_period_ns)


class Run:
    """The replay of one or two sites over one history, in one pass."""

    def __init__(
        self,
        sides: Sequence[Side],
        recorded: History,
        wanted: Wanted,
        held: dict[str, float],
        data: Path,
    ) -> None:
        self.sides = sides
        self.history = recorded
        self.wanted = wanted
        self.held = held
        self.pauses = Pauses(PAUSE_RECORDED_NS if recorded.by_exception else 0)
        self.replays: list[Replay] = []
        self.trackers: list[Tracker] = []
        self.first_ns = self.last_ns = 0
        self._data = data

    def go(self) -> None:
        """Read and replay everything. Raises CommandFailed."""
        from gateway.cli.history import in_order

        blocks = in_order(self.history, self.wanted.to_ns)
        first = next(blocks, None)
        if first is None:
            told = " up to --to" if self.wanted.to_ns is not None else ""
            raise CommandFailed(f"{self._data}: it holds no values{told}")
        self.pauses.follow(first)
        self._start(first)
        self._feed(itertools.chain([first], blocks))
        if self.scans == 0:
            end = iso_utc(self.pauses.last_ns)
            raise CommandFailed(f"{self._data}: it ends at {end}, before --from")

    def _timing(self) -> Timing:
        from safety.replay import NO_TIME, Timing

        period_ns = self.sides[0].period_ns
        wanted = self.wanted
        return Timing(
            every_ns=wanted.every_ns,
            # A gateway scans as soon as a device has answered, so every recorded change was seen.
            period_ns=0 if self.history.by_exception else period_ns,
            gap_ns=max(self.pauses.step_ns, period_ns),
            start_ns=NO_TIME if wanted.from_ns is None else wanted.from_ns,
            reset_after_ns=wanted.reset_after_ns,
        )

    def _start(self, first: Block) -> None:
        from gateway.cli.replay_events import Tracker
        from safety.replay import Replay

        tags = [column.tag for column in self.history.columns]
        timing = self._timing()
        for side in self.sides:
            replaying = Replay(
                side.program,
                side.points,
                tags,
                timing,
                hold_ns=self._hold_ns(side),
                held=self.held,
                follow_states=self.wanted.follow_states,
            )
            self.replays.append(replaying)
            self.trackers.append(Tracker(replaying.engine, side.points))
        self.first_ns = max(int(first.times[0]), self.wanted.from_ns or int(first.times[0]))

    def _hold_ns(self, side: Side) -> dict[str, int]:
        """How long values stand: what is reported by exception stands until the next heartbeat."""
        found = {}
        for point in side.points:
            limit_ns = point.age_ns_max
            if self.history.by_exception and limit_ns:
                limit_ns += 2 * point.heartbeat_ns
            found[point.tag] = max(limit_ns, self.wanted.hold_ns) if limit_ns else 0
        return found

    def _feed(self, blocks: Iterator[Block]) -> None:
        from gateway.cli.replay_progress import Progress

        with Progress() as progress:
            for number, block in enumerate(itertools.chain(blocks, [None])):
                for replaying, tracker in zip(self.replays, self.trackers, strict=True):
                    for notes in replaying.feed(block):
                        tracker.take(notes)
                if block is not None:
                    if number:
                        self.pauses.follow(block)
                    progress.show(block.done, int(block.times[-1]))
        self.last_ns = self.replays[0].last_ns
        for tracker in self.trackers:
            tracker.finish(self.last_ns)

    @property
    def scans(self) -> int:
        """Scans of each site."""
        return self.replays[0].scans


class Pauses:
    """The usual step of the data, and where they pause.

    step_ns   median time between two samples in the first block
    count     how many pauses there were, of more than PAUSE_STEPS steps
    """

    def __init__(self, least_ns: int = 0) -> None:
        """`least_ns` is the shortest pause that is worth a word."""
        self.step_ns = 0
        self._least_ns = least_ns
        self.count = 0
        self.longest_ns = 0
        self.longest_at_ns = 0
        self.last_ns = 0

    def follow(self, block: Block) -> None:
        """Look at the times of the next block."""
        steps = np.diff(block.times)
        if not self.step_ns:
            self.step_ns = int(np.median(steps)) if len(steps) else STEP_DEFAULT_NS
            self.last_ns = int(block.times[0])
        steps = np.diff(block.times, prepend=self.last_ns)
        pause_ns = max(PAUSE_STEPS * self.step_ns, self._least_ns)
        self.count += int(np.count_nonzero(steps > pause_ns))
        at = int(steps.argmax())
        if steps[at] > self.longest_ns:
            self.longest_ns = int(steps[at])
            self.longest_at_ns = int(block.times[at]) - self.longest_ns
        self.last_ns = int(block.times[-1])

    def in_words(self) -> str:
        """What a reader should know of them; empty where there are none."""
        if not self.count:
            return ""
        longest = f"{duration_text(self.longest_ns)} from {iso_utc(self.longest_at_ns)}"
        return f"the data pause {counted(self.count, 'time')}; the longest lasts {longest}"
