"""The store of frames under power cuts: with room, over its quota, and while it is salvaged."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch, Birth, Event
from sync import wire
from sync.errors import StoreError
from sync.store.store import Store, StoredFrame
from tests.crash.power_cuts import Broken
from tests.crash.power_disk import Mark, Recorder

LINKS: Final = ("cloud", "customer")
BIRTHS: Final = ("0123456789abcdef", "fedcba9876543210")
POINTS: Final = 20
COUNTER: Final = 3  # the point that counts
EVENT_EVERY: Final = 97  # each number that it divides is an event
AMPLE_BYTES: Final = 10**9
TIGHT_BYTES: Final = 1_000_000
_BEGIN_NS: Final = 1_763_700_000_000_000_000


def birth(name: str) -> Birth:
    """A point table of 20 points, one of which counts."""
    points = tuple(
        {"index": n, "tag": f"Rig.Point_{n}", "kind": "analog", "counter": n == COUNTER}
        for n in range(1, POINTS + 1)
    )
    return Birth("lab", 1, 0, name, "c0ffee", _BEGIN_NS, points)


def rows(epoch: int, numbers: NDArray[np.uint64]) -> NDArray[np.void]:
    """What the rows of these numbers are; wild values, so that a frame stays large."""
    found = np.zeros(len(numbers), dtype=RECORD)
    found["seq"] = numbers
    found["point"] = 1 + numbers % POINTS
    found["value"] = np.sin(numbers * 0.7 + epoch) * 1e3
    found["utc_ns"] = _BEGIN_NS + numbers.astype(np.int64) * 1_000_000
    return found


def event(number: int) -> Event:
    """What the event of a number is."""
    return Event(number, _BEGIN_NS + number * 1_000_000, "gateway", {"number": number})


def batch(epoch: int, first: int, count: int, name: str) -> Batch:
    """`count` numbers from `first` on."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    is_event = numbers % EVENT_EVERY == 0
    events = tuple(event(int(n)) for n in numbers[is_event])
    return Batch(epoch, first, first + count - 1, name, rows(epoch, numbers[~is_event]), events)


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame against what was stored under its numbers.

    birth        the point table that its rows need; empty where it has none
    gone         (n,) RECORD rows that it declares as lost
    events_gone  how many events it declares as lost
    wrong        what it holds instead of what was stored, in words
    """

    epoch: int
    first: int
    last: int
    birth: str
    gone: NDArray[np.void]
    events_gone: int
    wrong: str


@functools.lru_cache(maxsize=2_000)
def judged(payload: bytes) -> Judged:
    """Decode a frame and hold it against what was stored. The same ones come again and again."""
    found = wire.decode_frame(payload).batch
    expected = batch(found.epoch, found.first, found.last - found.first + 1, found.birth)
    lost = np.zeros(found.last - found.first + 1, dtype=np.bool_)
    for gap in found.gaps:
        lost[gap.first - found.first : gap.last - found.first + 1] = True
    is_gone = lost[(expected.records["seq"] - found.first).astype(np.intp)]
    events = tuple(event for event in expected.events if not lost[event.seq - found.first])
    wrong = ""
    if not np.array_equal(found.records, expected.records[~is_gone]):
        wrong = f"the rows of {found.epoch}:{found.first} are others than those stored"
    if found.events != events:
        wrong = f"the events of {found.epoch}:{found.first} are others than those stored"
    birth_needed = found.birth if len(found.records) else ""
    gone, events_gone = expected.records[is_gone], len(expected.events) - len(events)
    span = (found.epoch, found.first, found.last)
    return Judged(*span, birth_needed, gone, events_gone, wrong)


@dataclass
class StoreTruth:
    """What a store has promised.

    durable     epoch -> up to which number `append` has returned
    begun       epoch -> up to which number an `append` was called
    released    (link, epoch) -> up to which number the link was told to let go
    birth       name of the point table in force, where `put_birth` has returned
    damaged     the damaged file as it was found
    saved       numbers of epoch 1 that can be read out of it
    table_lost  their point table can't
    """

    durable: dict[int, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)
    released: dict[tuple[str, int], int] = field(default_factory=dict)
    birth: str = ""
    epoch: int = 1
    damaged: bytes = b""
    saved: set[int] = field(default_factory=set)
    table_lost: bool = False


class StoreLife:
    """Appends, acknowledgements of two links, new point tables, closing and opening."""

    def __init__(self, *, quota_bytes: int = AMPLE_BYTES) -> None:
        self.name = "store" if quota_bytes == AMPLE_BYTES else "store over its quota"
        self._quota_bytes = quota_bytes

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], StoreTruth]:
        """Nothing is stored."""
        return {}, StoreTruth()

    @contextlib.contextmanager
    def _open(self, folder: Path) -> Iterator[Store]:
        store = Store(folder / "link.sqlite", quota_bytes=self._quota_bytes, links=LINKS)
        with contextlib.closing(store):
            yield store

    # ------------------------------------------------------------ living

    def live(
        self, folder: Path, truth: StoreTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        """A few sessions; the last one is not ended in order."""
        large = chance.random() < 0.15 or self._quota_bytes != AMPLE_BYTES
        for _ in range(chance.randint(1, 3)):
            with self._open(folder) as store:
                for _ in range(chance.randint(5, 15)):
                    self._step(store, truth, chance, recorder, large)

    def _step(
        self,
        store: Store,
        truth: StoreTruth,
        chance: random.Random,
        recorder: Recorder,
        large: bool,
    ) -> None:
        what = chance.random()
        if not truth.birth or what < 0.05:
            name = chance.choice(BIRTHS)
            store.put_birth(name, wire.encode_birth(birth(name)))
            recorder.mark("birth", name)
            truth.birth = name
        elif what < 0.1:
            truth.epoch += 1
        elif what < 0.7:
            first = truth.durable.get(truth.epoch, 0) + 1
            count = chance.randint(4000, 9000) if large else chance.choice((1, 20, 300, 600))
            end = (truth.epoch, first + count - 1)
            recorder.mark("begun", end)
            store.append(batch(truth.epoch, first, count, truth.birth))
            recorder.mark("durable", end)
            truth.durable[truth.epoch] = end[1]
        else:
            link, epoch = chance.choice(LINKS), chance.randint(1, truth.epoch)
            seq = chance.randint(0, truth.durable.get(epoch, 0))
            recorder.mark("released", (link, epoch, seq))
            store.acknowledge(link, epoch, seq)

    def promise(self, truth: StoreTruth, mark: Mark) -> None:
        """See `Life`."""
        if mark.what == "birth":
            truth.birth = mark.value
        elif mark.what == "released":
            link, epoch, seq = mark.value
            truth.released[link, epoch] = max(seq, truth.released.get((link, epoch), 0))
        else:
            epoch, seq = mark.value
            truth.epoch = max(truth.epoch, epoch)
            {"begun": truth.begun, "durable": truth.durable}[mark.what][epoch] = seq

    # ------------------------------------------------------------ judging

    def check(self, folder: Path, truth: StoreTruth, chance: random.Random) -> None:
        """Open it: every number that was promised is there, once, with its value."""
        try:
            with self._open(folder) as store:
                self._check_salvage(store, truth)
                self._check_cursor(store, truth)
                for link in LINKS:
                    self._check_link(store, link, truth)
                if chance.random() < 0.2:
                    self._go_on(store, copy.deepcopy(truth), chance)
        except StoreError as error:
            raise Broken(f"it does not open: {error!r}") from error

    def _check_salvage(self, store: Store, truth: StoreTruth) -> None:
        if store.salvaged is not None:
            raise Broken(f"it was salvaged: {store.salvaged.problem}")

    def _go_on(self, store: Store, truth: StoreTruth, chance: random.Random) -> None:
        """What the cut left can be worked with, too."""
        recorder = Recorder(store.path.parent)
        for _ in range(3):
            self._step(store, truth, chance, recorder, False)
        for mark in recorder.ops:
            assert isinstance(mark, Mark)
            self.promise(truth, mark)
        for link in LINKS:
            self._check_link(store, link, truth)

    def _check_cursor(self, store: Store, truth: StoreTruth) -> None:
        cursor = store.cursor()
        for epoch, seq in truth.durable.items():
            if cursor is None or cursor[0] < epoch or (cursor[0] == epoch and cursor[1] < seq):
                raise Broken(f"epoch {epoch} was stored up to {seq}, the cursor is {cursor}")
        if cursor is not None:
            if cursor[1] > truth.begun.get(cursor[0], 0):
                raise Broken(f"the cursor {cursor} is beyond of what was ever appended")
            truth.durable[cursor[0]] = cursor[1]

    def _check_link(self, store: Store, link: str, truth: StoreTruth) -> None:
        held: dict[int, int] = {}  # epoch -> up to which number all is accounted for
        for frame in _pending(store, link):
            found = judged(frame.payload)
            before = held.get(found.epoch, 0)
            if before and found.first != before + 1:
                raise Broken(f"{link}: epoch {found.epoch}: {found.first} follows {before}")
            released = truth.released.get((link, found.epoch), 0)
            if not before and found.first > released + 1:
                raise Broken(f"{link}: epoch {found.epoch} begins at {found.first}, not {released}")
            held[found.epoch] = found.last
            if found.wrong:
                raise Broken(found.wrong)
            self._check_gone(found, truth)
            table_lost = truth.table_lost and found.epoch == 1
            if found.birth and store.birth(found.birth) is None and not table_lost:
                raise Broken(f"the point table of {found.epoch}:{found.first} is gone")
        for epoch, seq in truth.durable.items():
            if seq > truth.released.get((link, epoch), 0) and held.get(epoch, 0) < seq:
                raise Broken(f"{link}: epoch {epoch} ends at {held.get(epoch, 0)}, not at {seq}")

    def _check_gone(self, found: Judged, truth: StoreTruth) -> None:
        """Judge what is declared as lost."""
        tight = self._quota_bytes != AMPLE_BYTES
        if found.events_gone or (len(found.gone) and not tight):
            raise Broken(f"epoch {found.epoch}: a gap where nothing may be given up")
        if (found.gone["point"] == COUNTER).any():
            raise Broken(f"epoch {found.epoch}: a counter's value was given up")


def _pending(store: Store, link: str) -> Iterator[StoredFrame]:
    after = 0
    while frames := store.pending(link, after, 200):
        yield from frames
        after = frames[-1].id


class SalvageLife(StoreLife):
    """A damaged store is opened, and the power goes while it is salvaged."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "salvage"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], StoreTruth]:
        """A store with torn pages; the truth is what a salvage without a power cut saves."""
        path = folder / "link.sqlite"
        truth = StoreTruth()
        with self._open(folder) as store:
            store.put_birth(BIRTHS[0], wire.encode_birth(birth(BIRTHS[0])))
            for at in range(40):
                store.append(batch(1, 200 * at + 1, 200, BIRTHS[0]))
        content = bytearray(path.read_bytes())
        page = int.from_bytes(content[16:18], "big")  # https://www.sqlite.org/fileformat2.html
        for at in chance.sample(range(4, len(content) // page), 3):
            content[at * page : (at + 1) * page] = chance.randbytes(page)
        truth.damaged = bytes(content)
        path.write_bytes(content)
        with self._open(folder) as store:
            if store.salvaged is None:
                raise Broken("damage on three pages went unnoticed")
            for frame in _pending(store, LINKS[0]):
                found = wire.decode_frame(frame.payload).batch
                truth.saved |= {int(n) for n in found.records["seq"]}
            cursor = store.cursor()
            truth.table_lost = store.birth(BIRTHS[0]) is None
            truth.birth = "" if truth.table_lost else BIRTHS[0]
        if truth.saved:
            for link in LINKS:
                truth.released[link, 1] = min(truth.saved) - 1
        truth.begun[1] = 200 * 40
        truth.durable[1] = cursor[1] if cursor else 0
        return {path.name: bytes(content)}, truth

    def _check_salvage(self, store: Store, truth: StoreTruth) -> None:
        kept = store.path.with_name(store.path.name + ".damaged-1")
        if not kept.exists() or kept.read_bytes() != truth.damaged:
            raise Broken("the damaged file was not kept as it was")

    def _check_gone(self, found: Judged, truth: StoreTruth) -> None:
        gone = set(found.gone["seq"].tolist())
        lost = gone & truth.saved if found.epoch == 1 else gone
        if lost:
            raise Broken(f"epoch {found.epoch}: {min(lost)} can be read, and was not saved")
