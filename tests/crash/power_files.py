"""Small files under power cuts: what the field process retains, schedules, and the inbox's ids."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from gateway import retain, schedule_files
from gateway.core.schedule import schedule_of
from gateway.learned import Learned, LearnedError
from sync.errors import StoreError
from sync.remote.handled import PASSED, TAKEN, Entry, Handled
from tests.crash.power_cuts import Broken
from tests.crash.power_disk import Mark, Recorder

HOUR_NS: Final = 3_600_000_000_000
LONG: Final = 3_000  # characters: content of several sectors


@dataclass
class Versions:
    """Name of what is kept -> its version; 0 where it never was.

    durable  the last one whose keeping has returned
    begun    the last one whose keeping was begun
    """

    durable: dict[str, int] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)


class Keeper(Protocol):
    """Something of which the newest version is kept."""

    name: str
    names: tuple[str, ...]

    def save(self, folder: Path, name: str, version: int) -> None:
        """Keep a version durably."""

    def load(self, folder: Path) -> dict[str, int]:
        """Every version that is kept. Raises Broken where something is damaged."""


class KeeperLife:
    """Versions replace each other; one of them is always there, whole."""

    def __init__(self, keeper: Keeper) -> None:
        self.name = keeper.name
        self._keeper = keeper

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], Versions]:
        """Nothing is kept."""
        return {}, Versions()

    def live(
        self, folder: Path, truth: Versions, chance: random.Random, recorder: Recorder
    ) -> None:
        """Some new versions."""
        for _ in range(chance.randint(2, 8)):
            name = chance.choice(self._keeper.names)
            truth.durable[name] = truth.durable.get(name, 0) + 1
            recorder.mark("begun", (name, truth.durable[name]))
            self._keeper.save(folder, name, truth.durable[name])
            recorder.mark("durable", (name, truth.durable[name]))

    def promise(self, truth: Versions, mark: Mark) -> None:
        """See `Life`."""
        name, version = mark.value
        {"begun": truth.begun, "durable": truth.durable}[mark.what][name] = version

    def check(self, folder: Path, truth: Versions, chance: random.Random) -> None:
        """The newest version, or the one that was on its way."""
        found = self._keeper.load(folder)
        for name in self._keeper.names:
            low, high = truth.durable.get(name, 0), truth.begun.get(name, 0)
            if not low <= found.get(name, 0) <= high:
                raise Broken(f"{name}: version {low} was kept, {found.get(name, 0)} is there")
        truth.durable.update(found)


class RetainKeeper:
    """The latches of the field process: retain.json."""

    name = "retain"
    names = ("retain",)

    def save(self, folder: Path, name: str, version: int) -> None:
        """See `Keeper`."""
        latched = {f"Trip_{n}": {"level": n, "why": "x" * 50} for n in range(LONG // 100)}
        kept = retain.Retained(epoch=version, last=7, latched=latched, stop=bool(version % 2))
        retain.save(folder / "retain.json", kept)

    def load(self, folder: Path) -> dict[str, int]:
        """See `Keeper`."""
        try:
            kept = retain.load(folder / "retain.json")
        except retain.RetainError as error:
            raise Broken(str(error)) from error
        if kept.epoch and (kept.stop != bool(kept.epoch % 2) or not kept.latched):
            raise Broken(f"not what was kept: {kept}")
        return {"retain": kept.epoch}


class ScheduleKeeper:
    """Schedules, a file each."""

    name = "schedules"
    names = ("market", "night", "test")

    def save(self, folder: Path, name: str, version: int) -> None:
        """See `Keeper`."""
        slots = [[n * HOUR_NS, float(version)] for n in range(LONG // 16)]
        payload = {"schedule": name, "kind": "day-ahead", "points": {"Rig.Valve": slots}}
        payload["end_utc_ns"] = LONG * HOUR_NS
        made = schedule_of(f"{name}{version}", version, "test", payload)
        schedule_files.save(folder, made)

    def load(self, folder: Path) -> dict[str, int]:
        """See `Keeper`."""
        found, problems = schedule_files.load(folder)
        if problems:
            raise Broken(problems[0])
        for schedule in found:
            if any(value != schedule.issued_ns for value in schedule.points["Rig.Valve"].values):
                raise Broken(f"{schedule.name}: values of another version")
        return {schedule.name: schedule.issued_ns for schedule in found}


class LearnedKeeper:
    """Which blocks the devices refuse: learned.json."""

    name = "learned"
    names = ("learned",)

    def save(self, folder: Path, name: str, version: int) -> None:
        """See `Keeper`."""
        labels = [f"{n} {'x' * 50}" for n in range(LONG // 100)]
        Learned(folder / "learned.json").save({"Rig": [str(version), *labels]})

    def load(self, folder: Path) -> dict[str, int]:
        """See `Keeper`."""
        learned = Learned(folder / "learned.json")
        try:
            learned.load()
        except LearnedError as error:
            raise Broken(str(error)) from error
        return {"learned": int(next(iter(learned.labels("Rig")), 0))}


KEEPERS: Final[tuple[Keeper, ...]] = (RetainKeeper(), ScheduleKeeper(), LearnedKeeper())


@dataclass
class HandledTruth:
    """What the inbox has promised.

    admitted  ids that were passed on, since `admit` returned that they are new
    settled   ids whose outcome was noted
    next      number of the next message
    """

    admitted: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    next: int = 0


class HandledLife:
    """Messages are admitted, some twice, and settled; no id may be new a second time."""

    name = "inbox"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], HandledTruth]:
        """Nothing was handled."""
        return {}, HandledTruth()

    @contextlib.contextmanager
    def _open(self, folder: Path) -> Iterator[Handled]:
        with contextlib.closing(Handled(folder / "inbox.sqlite")) as handled:
            yield handled

    def live(
        self, folder: Path, truth: HandledTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        """A few sessions of the link process."""
        for _ in range(chance.randint(1, 3)):
            with self._open(folder) as handled:
                for _ in range(chance.randint(3, 10)):
                    self._step(handled, truth, chance, recorder)

    def _step(
        self, handled: Handled, truth: HandledTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        count = chance.choice((1, 1, 2, 20))
        names = [_name(truth.next + n) for n in range(count)]
        truth.next += count
        recorder.mark("next", truth.next)
        entries = [_entry(name, truth.next) for name in names]
        found = handled.admit(entries, truth.next, truth.next)
        recorder.mark("admitted", {n for n, a in zip(names, found, strict=True) if a.new})
        if chance.random() < 0.7:
            handled.settle([(name, PASSED, "") for name in names])
            recorder.mark("settled", set(names))

    def promise(self, truth: HandledTruth, mark: Mark) -> None:
        """See `Life`."""
        if mark.what == "next":
            truth.next = mark.value
        else:
            {"admitted": truth.admitted, "settled": truth.settled}[mark.what].update(mark.value)

    def check(self, folder: Path, truth: HandledTruth, chance: random.Random) -> None:
        """A message that was passed on is known, and refused when it comes a second time."""
        try:
            with self._open(folder) as handled:
                if handled.lost:
                    raise Broken("its file was set aside as damaged")
                known = handled.find(sorted(truth.admitted))
                if forgotten := truth.admitted - known.keys():
                    raise Broken(f"passed on, and forgotten: {min(forgotten)}")
                if open_ := [n for n in truth.settled if known[n].state == TAKEN]:
                    raise Broken(f"settled, and taken for unsettled: {min(open_)}")
                again = [_entry(name, truth.next) for name in sorted(truth.admitted)]
                if any(one.new for one in handled.admit(again, truth.next, truth.next)):
                    raise Broken("an id is taken for new a second time")
        except StoreError as error:
            raise Broken(f"it does not open: {error!r}") from error


def _name(number: int) -> str:
    return f"{number:032x}"


def _entry(name: str, now_ns: int) -> Entry:
    return Entry(name, "key", "market", "command", 1, now_ns + HOUR_NS, now_ns, TAKEN)
