"""Many power cuts over one life after the other: what is left is opened, judged, and lived on.

A `Life` is a program that writes files and says what it promises. `cut` records it, draws cuts at
moments of its life, and gives what is left of each to the life's own check. One of them is where
the next life begins, so that cuts while a store recovers from a cut are among them.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from tests.crash.power_disk import Disk, Mark, Op, Recorder, recording

CUTS_A_LIFE: Final = 25
GENERATIONS: Final = 6  # lives that build upon each other before a new disk is begun

Truth = TypeVar("Truth")


class Broken(Exception):
    """What a power cut must not do, was done; the message has the words to do it again."""


class Life(Protocol[Truth]):
    """A program under power cuts; `Truth` is what it has promised so far."""

    name: str

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], Truth]:
        """The files of a new disk, and what holds of them. `folder` is there to make them in."""

    def live(self, folder: Path, truth: Truth, chance: random.Random, recorder: Recorder) -> None:
        """Run; promises go into the recorder as marks."""

    def promise(self, truth: Truth, mark: Mark) -> None:
        """Bring the truth up to date."""

    def check(self, folder: Path, truth: Truth, chance: random.Random) -> None:
        """Open what is left and judge it. Raises Broken; brings the truth up to what it found."""


@dataclass
class Tally(Generic[Truth]):
    """How many cuts there were, by the way the power went and by what was under way."""

    cuts: int = 0
    lives: int = 0
    operations: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)


def cut(life: Life[Truth], folder: Path, *, cuts: int, seed: int) -> Tally[Truth]:
    """So many power cuts. Raises Broken with the seed."""
    tally: Tally[Truth] = Tally()
    chance = random.Random(f"{life.name} {seed}")
    generation = 0
    left, truth = life.begin(_lay_out(folder / "made", {}), chance)
    while tally.cuts < cuts:
        if generation and generation % GENERATIONS == 0:
            left, truth = life.begin(_lay_out(folder / "made", {}), chance)
        generation += 1
        try:
            left, truth = _one_life(life, folder, left, truth, chance, tally, cuts)
        except Broken as error:
            where = f"seed {seed}, cut {tally.cuts + 1}"
            raise Broken(f"{life.name}: {where}: {error}") from error
    return tally


def _one_life(
    life: Life[Truth],
    folder: Path,
    left: dict[str, bytes],
    truth: Truth,
    chance: random.Random,
    tally: Tally[Truth],
    cuts: int,
) -> tuple[dict[str, bytes], Truth]:
    running = _lay_out(folder / "running", left)
    with recording(running) as recorder:
        life.live(running, copy.deepcopy(truth), chance, recorder)
    tally.lives += 1
    tally.operations += len(recorder.ops)
    count = min(CUTS_A_LIFE, cuts - tally.cuts)
    moments = sorted(chance.randint(0, len(recorder.ops)) for _ in range(count))
    disk, at = Disk(recorder.found), 0
    heir = chance.randrange(count)
    found = left, truth
    for number, moment in enumerate(moments):
        for op in recorder.ops[at:moment]:
            if isinstance(op, Mark):
                life.promise(truth, op)
            else:
                disk.apply(op)
        at = moment
        how, remains = disk.cut(chance)
        expected = copy.deepcopy(truth)
        opened = _lay_out(folder / "opened", remains)
        try:
            with recording(opened):  # its flushes cost nothing
                life.check(opened, expected, chance)
        except Broken as error:
            told = f"{how} of what was not flushed, {_told(recorder.ops, moment)}"
            raise Broken(f"{error} (left: {told})") from error
        tally.cuts += 1
        tally.ways[how] += 1
        tally.moments[_told(recorder.ops, moment)] += 1
        if number == heir:
            found = remains, expected
    return found


def _lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder.resolve()


def _told(ops: list[Op], moment: int) -> str:
    """What was done last."""
    done = next((op for op in reversed(ops[:moment]) if not isinstance(op, Mark)), None)
    return f"after a {type(done).__name__.lower()}" if done is not None else "at the beginning"
