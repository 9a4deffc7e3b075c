"""The blocks of one scan class of a device: which are due, which rest, which fell apart.

A block that the device refuses is divided (`DriverProtocol.split`) until the refused address
stands alone; the others are read on. A division counts only when something of the block was
answered since: a device that refuses everything, as many do while they start, has no hole, and its
blocks are put together again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from drivers.contract import Block, Cycle, DriverProtocol

NS_PER_S: Final = 1_000_000_000
PAUSE_NS: Final = 2 * NS_PER_S  # first rest of a block; doubles
SILENT_PAUSE_MAX_NS: Final = 16 * NS_PER_S  # of one that is not answered, or with garbage
REFUSED_PAUSE_MAX_NS: Final = 64 * NS_PER_S  # of one that is refused


@dataclass(slots=True, eq=False)
class _Division:
    """A block in parts. `above` is the division that the block itself is a part of."""

    block: Block
    parts: Sequence[Block]
    above: _Division | None
    proved: bool = False  # something of it was answered


@dataclass(slots=True, eq=False)
class Batch:
    """A cycle, ready to be read, with what landing its parts needs.

    low, high   (N,) engineering limits of the cycle's rows; None where no row has any
    guarded     guarded[b] = how many of the blocks before b trips or interlocks read
    first_row   the cycle's rows are first_row, first_row + 1, ...; -1 = they lie apart
    """

    cycle: Cycle
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    guarded: list[int]
    first_row: int = -1


class ScanBlocks:
    """The blocks of one scan class; `next_ns` is the class's place on the grid.

    Every row that was planned is in exactly one of `blocks` at any time.
    """

    def __init__(
        self,
        period_ns: int,
        blocks: Sequence[Block],
        protocol: DriverProtocol,
        refused: Collection[str],
        batch: Callable[[Cycle], Batch],
        batch_blocks: int | None = None,
    ) -> None:
        """`refused`: labels that the device is known to refuse; `batch_blocks` limits a batch."""
        self.period_ns = period_ns
        self.next_ns = 0
        self.batch_blocks = batch_blocks
        self._protocol = protocol
        self._batch = batch
        self._blocks: list[Block] = []
        self._divisions: dict[Block, _Division] = {}  # by part
        self._resume_ns: dict[Block, int] = {}  # resting block -> when it is due again
        self._pause_ns: dict[Block, int] = {}  # block that failed -> its last rest
        self._refused: set[Block] = set()  # those that rest because they were refused
        self._garbled: set[Block] = set()  # those that rest because they ended connections
        self._batches: list[Batch] | None = None
        for block in blocks:
            self._blocks += self._known_parts(block, refused)

    @property
    def blocks(self) -> Sequence[Block]:
        """All blocks, resting ones included."""
        return self._blocks

    def rests(self, block: Block) -> bool:
        """True where a block is not to be asked for now."""
        return block in self._resume_ns

    def batches(self, now_ns: int) -> list[Batch]:
        """What is to be read now, in batches."""
        for block in [b for b, due_ns in self._resume_ns.items() if due_ns <= now_ns]:
            self._resume(block)
        if self._batches is None:
            self._batches = self.chunks([b for b in self._blocks if b not in self._resume_ns])
        return self._batches

    def chunks(self, blocks: Sequence[Block]) -> list[Batch]:
        """Some blocks as batches of at most `batch_blocks`."""
        size = self.batch_blocks or max(1, len(blocks))
        return [self.batch(blocks[at : at + size]) for at in range(0, len(blocks), size)]

    def batch(self, blocks: Sequence[Block]) -> Batch:
        """Some blocks as one batch."""
        return self._batch(self._protocol.cycle(blocks))

    # ------------------------------------------------------------ what became of a block

    @property
    def disturbed(self) -> bool:
        """True where it matters which blocks are answered: some were silent, or are divided."""
        return bool(self._pause_ns or self._divisions)

    def answered(self, block: Block) -> list[str]:
        """A block was answered; returns labels whose refusal this proves, to be remembered."""
        self._pause_ns.pop(block, None)
        labels = []
        division = self._divisions.get(block)
        while division is not None and not division.proved:
            division.proved = True
            self._pause_ns.pop(division.block, None)
            labels.append(division.block.label)
            division = division.above
        return labels

    def silent(self, block: Block, now_ns: int) -> None:
        """A block was not answered: it rests, longer each time."""
        self._rest(block, now_ns, SILENT_PAUSE_MAX_NS)

    def garbled(self, block: Block, now_ns: int) -> None:
        """The answer to a block ended the connection.

        The second time in a row it rests, over the next connections too: else those behind it
        would never be read.
        """
        if block in self._pause_ns:
            self._rest(block, now_ns, SILENT_PAUSE_MAX_NS)
            self._garbled.add(block)
        else:
            self._pause_ns[block] = 0

    def refused(self, block: Block, now_ns: int) -> list[Block]:
        """The device refused a block for good; returns its parts, to be read in its place.

        Empty where it can't be divided: then it rests, longer each time. A block of which all
        parts were refused is put together again and rests as a whole.
        """
        above = self._divisions.get(block)
        parts = self._protocol.split(block)
        if parts:
            self._replace([block], parts, _Division(block, parts, above))
            return parts
        self._rest(block, now_ns, REFUSED_PAUSE_MAX_NS)
        self._refused.add(block)
        while above is not None and not above.proved and self._refused.issuperset(above.parts):
            whole = above.block
            for part in above.parts:
                self._pause_ns.pop(part, None)
            self._replace(above.parts, [whole], above.above)
            self._rest(whole, now_ns, REFUSED_PAUSE_MAX_NS)
            self._refused.add(whole)
            above = above.above
        return []

    def wake(self) -> None:
        """A new connection: nothing rests any more, but what ended connections."""
        for block in [b for b in self._resume_ns if b not in self._garbled]:
            self._resume(block)

    # ------------------------------------------------------------ bookkeeping

    def _known_parts(self, block: Block, refused: Collection[str]) -> list[Block]:
        parts = self._protocol.split(block) if block.label in refused else []
        if not parts:
            return [block]
        return [small for part in parts for small in self._known_parts(part, refused)]

    def _rest(self, block: Block, now_ns: int, pause_max_ns: int) -> None:
        pause_ns = min(max(2 * self._pause_ns.get(block, 0), PAUSE_NS), pause_max_ns)
        self._pause_ns[block] = pause_ns
        self._resume_ns[block] = now_ns + pause_ns
        self._batches = None

    def _resume(self, block: Block) -> None:
        self._resume_ns.pop(block, None)
        self._refused.discard(block)
        self._garbled.discard(block)
        self._batches = None

    def _replace(
        self, old: Sequence[Block], new: Sequence[Block], division: _Division | None
    ) -> None:
        """Read `new`, which are parts of `division`, in the place of `old`."""
        gone = set(old)
        place = self._blocks.index(old[0])
        rest = [b for b in self._blocks if b not in gone]
        self._blocks = [*rest[:place], *new, *rest[place:]]
        for block in old:
            self._resume(block)
            self._divisions.pop(block, None)
        if division is not None:
            self._divisions |= dict.fromkeys(new, division)
