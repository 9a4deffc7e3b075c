"""Whether a store is sound: its structure, every frame, and every number between them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from gateway.core.records import Gap

if TYPE_CHECKING:
    from sync.store.reader import Kept, StoreReader

LISTED_MAX: Final = 1_000  # findings and gaps of one answer; how many there are is always said


class _Look:
    """What was seen of the frames so far."""

    def __init__(self, births: frozenset[str], ends: dict[int, int]) -> None:
        self.findings: list[str] = []
        self.gaps: list[dict[str, Any]] = []
        self.frames = self.records = 0
        self.more_gaps = 0
        self._births = births
        self._ends = ends
        self._last: dict[int, int] = {}  # epoch -> the last number seen

    def take(self, kept: Kept) -> None:
        """The next frame."""
        where = f"epoch {kept.epoch}: {kept.first} to {kept.last}"
        last = self._last.get(kept.epoch)
        if last is not None and kept.first > last + 1:
            self.findings.append(
                f"epoch {kept.epoch}: {last + 1} to {kept.first - 1}: neither stored nor declared"
            )
        if last is not None and kept.first <= last:
            self.findings.append(f"{where}: stored twice, {last} came before")
        self._last[kept.epoch] = max(kept.last, last or 0)
        if kept.batch is None:
            self.findings.append(f"{where}: the frame's bytes are damaged")
            return
        self.frames += 1
        self.records += len(kept.batch.records) + len(kept.batch.events)
        if (kept.batch.epoch, kept.batch.first, kept.batch.last) != (
            kept.epoch,
            kept.first,
            kept.last,
        ):
            self.findings.append(f"{where}: the frame itself has other numbers")
        if len(kept.batch.records) and kept.birth not in self._births:
            self.findings.append(f"{where}: its point table {kept.birth} is missing")
        for gap in kept.batch.gaps:
            self._note(kept.epoch, gap)

    def _note(self, epoch: int, gap: Gap) -> None:
        if len(self.gaps) >= LISTED_MAX:
            self.more_gaps += 1
            return
        self.gaps.append(
            {"epoch": epoch, "first": gap.first, "last": gap.last, "reason": gap.reason}
        )

    def end(self) -> None:
        """After the last frame."""
        for epoch, last in self._last.items():
            if last < self._ends.get(epoch, 0):
                self.findings.append(
                    f"epoch {epoch}: {last + 1} to {self._ends[epoch]}: taken, and not there"
                )


def verified(reader: StoreReader) -> dict[str, Any]:
    """The answer of ``gatepost store verify``. Raises StoreError where nothing can be read.

    The structure is read in one go, which would keep a running gateway's log from being emptied:
    beside one it is left out.
    """
    from sync.errors import StoreDamaged

    problem = "" if reader.in_use else reader.problem()
    look = _Look(frozenset(), {})
    try:
        look = _Look(frozenset(reader.births()), reader.ends())
        for kept in reader.frames():
            look.take(kept)
        if not reader.in_use:  # a running gateway appends and acknowledges meanwhile
            look.end()
    except StoreDamaged as error:
        problem = problem or str(error)
        readable = list(itertools.islice(_sizes(reader), LISTED_MAX * 1_000))
        look.frames, look.records = len(readable), sum(readable)
    if problem:
        look.findings.insert(0, f"the file is damaged: {problem}")
    return {
        "store": str(reader.path),
        "ok": not look.findings,
        "structure_checked": not reader.in_use,
        "frames": look.frames,
        "records": look.records,
        "findings": look.findings[:LISTED_MAX],
        "gaps": look.gaps,
        "gaps_more": look.more_gaps,
    }


def _sizes(reader: StoreReader) -> Any:
    """Records of each frame that can still be read."""
    for batch in reader.readable():
        yield len(batch.records) + len(batch.events)
