"""Blocks of a scan class under random answers, refusals, silences, garbage and new connections."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drivers.contract import Block, Cycle, DriverProtocol
from gateway.blocks import (
    NS_PER_S,
    PAUSE_NS,
    REFUSED_PAUSE_MAX_NS,
    SILENT_PAUSE_MAX_NS,
    Batch,
    ScanBlocks,
)

ROWS = 12


def block(first: int, last: int) -> Block:
    """The rows first to last - 1."""
    return Block(np.arange(first, last, dtype=np.int32), "Fast", (first, last), f"{first}-{last}")


def split(whole: Block) -> list[Block]:
    """Thirds, down to one row."""
    first, last = whole.request
    if last - first == 1:
        return []
    step = max(1, (last - first) // 3)
    marks = [*range(first, last, step), last]
    return [block(a, b) for a, b in pairwise(marks)]


PROTOCOL = DriverProtocol((), lambda _: [], lambda _: [], lambda *_: None, split=split)  # type: ignore[arg-type]


def scan_blocks(refused: tuple[str, ...] = (), batch_blocks: int | None = None) -> ScanBlocks:
    """Two planned blocks over all rows."""
    plan = [block(0, 9), block(9, ROWS)]
    make = lambda cycle: Batch(cycle, None, None, [])  # noqa: E731
    return ScanBlocks(NS_PER_S, plan, PROTOCOL, refused, make, batch_blocks)


@dataclass(frozen=True)
class Step:
    """What the device does during one poll: rows that it refuses, answers not, garbles."""

    refuses: frozenset[int]
    silent: frozenset[int]
    garbles: frozenset[int]
    seconds: int
    reconnects: bool


some = st.frozensets(st.integers(0, ROWS - 1), max_size=ROWS)
all_rows = st.just(frozenset(range(ROWS)))
none = st.just(frozenset[int]())
steps = st.builds(
    Step, some | all_rows | none, some | none, none | some, st.integers(0, 70), st.booleans()
)


class Device:
    """Polls once a step, as gateway/poll.py does, and checks what must hold all the time."""

    def __init__(self, group: ScanBlocks) -> None:
        self.group = group
        self.now_ns = 0
        self.labels: set[str] = set()  # proved
        self.refused: set[str] = set()

    def covered(self) -> None:
        rows = [row for b in self.group.blocks for row in b.index.tolist()]
        assert rows == list(range(ROWS))

    def poll(self, step: Step) -> set[int]:
        """Returns the rows that were answered."""
        self.now_ns += step.seconds * NS_PER_S
        asked: set[str] = set()
        answered: set[int] = set()
        waiting = list(self.group.batches(self.now_ns))
        while waiting:
            again: list[Block] = []
            for b in waiting.pop(0).cycle.blocks:
                assert b in self.group.blocks
                assert b.label not in asked  # nothing twice in one poll
                assert not self.group.rests(b)
                asked.add(b.label)
                rows = set(b.index.tolist())
                if rows & step.garbles:
                    self.group.garbled(b, self.now_ns)
                    self.group.wake()
                    return answered
                if rows & step.refuses:
                    self.refused.add(b.label)
                    again += self.group.refused(b, self.now_ns)
                elif rows & step.silent:
                    self.group.silent(b, self.now_ns)
                else:
                    answered |= rows
                    self.labels |= set(self.group.answered(b))
                self.covered()
            waiting[:0] = self.group.chunks(again)
        if step.reconnects:
            self.group.wake()
        return answered


@given(
    st.lists(steps, min_size=1, max_size=12),
    st.frozensets(st.sampled_from(["0-9", "0-3", "3-6", "9-12"])),
    st.sampled_from([None, 1, 2]),
)
def test_rows_are_never_lost_nor_asked_twice_and_what_is_learned_was_refused(
    script: list[Step], known: frozenset[str], batch_blocks: int | None
) -> None:
    device = Device(scan_blocks(tuple(known), batch_blocks))
    device.covered()
    for step in script:
        device.poll(step)
        device.covered()
    assert device.labels <= device.refused
    # Whatever happened: a device that is well again is read whole, soon.
    well = Step(frozenset(), frozenset(), frozenset(), 70, False)
    assert device.poll(well) == set(range(ROWS))
    assert device.poll(well) == set(range(ROWS))


@given(some)
def test_one_life_learns_every_hole(holes: frozenset[int]) -> None:
    """The next life asks for no block that has a hole and something that can be read."""
    first = Device(scan_blocks())
    first.poll(Step(holes, frozenset(), frozenset(), 0, False))
    second = Device(scan_blocks(tuple(first.labels)))
    second.poll(Step(holes, frozenset(), frozenset(), 0, False))
    for label in second.refused:
        low, high = map(int, label.split("-"))
        assert set(range(low, high)) <= holes


def test_a_device_that_refuses_everything_is_asked_whole_blocks_again_and_ever_more_rarely() -> (
    None
):
    device = Device(scan_blocks())
    everything = Step(frozenset(range(ROWS)), frozenset(), frozenset(), 0, False)
    device.poll(everything)
    assert [b.label for b in device.group.blocks] == ["0-9", "9-12"]
    assert device.labels == set()
    rests = []
    for _ in range(8):
        for seconds in range(1, 100):
            if device.group.batches(device.now_ns + seconds * NS_PER_S):
                break
        rests.append(seconds * NS_PER_S)
        device.now_ns += seconds * NS_PER_S
        device.poll(everything)
    assert rests[:3] == [PAUSE_NS, 2 * PAUSE_NS, 4 * PAUSE_NS]
    assert rests[-1] == REFUSED_PAUSE_MAX_NS


def test_a_proved_division_survives_a_device_that_refuses_everything_for_a_while() -> None:
    device = Device(scan_blocks())
    device.poll(Step(frozenset({1}), frozenset(), frozenset(), 0, False))
    learned = set(device.labels)
    device.poll(Step(frozenset(range(ROWS)), frozenset(), frozenset(), 70, False))
    assert device.labels == learned == {"0-9", "0-3"}


def test_what_ended_a_connection_twice_rests_over_the_next_one() -> None:
    device = Device(scan_blocks())
    garbage = Step(frozenset(), frozenset(), frozenset({0}), 0, True)
    assert device.poll(garbage) == set()
    assert device.poll(garbage) == set()
    assert device.poll(garbage) == set(range(9, ROWS))
    device.now_ns += SILENT_PAUSE_MAX_NS
    well = Step(frozenset(), frozenset(), frozenset(), 0, False)
    assert device.poll(well) == set(range(ROWS))


def test_a_cycle_of_a_batch_is_what_the_protocol_makes() -> None:
    group = scan_blocks(batch_blocks=1)
    assert [type(b.cycle) for b in group.batches(0)] == [Cycle, Cycle]
