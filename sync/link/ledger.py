"""What of a link outlives its sessions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sync import wire
from sync.store.store import StoredFrame

SAY_MAX: Final = 256  # messages that wait for a session
DONE_MAX: Final = 65_536  # frames that arrived and that the store can't let go of
EPOCHS_MAX: Final = wire.ACK_EPOCHS_MAX


@dataclass(slots=True)
class Ledger:
    """Above all what arrived and isn't settled with the store yet."""

    acked: dict[int, int] = field(default_factory=dict)  # epoch -> all up to here is durable
    unsettled: dict[int, int] = field(default_factory=dict)  # the same, to be told to the store
    done: dict[int, None] = field(default_factory=dict)  # frames, to be told to the store
    settle: asyncio.Event = field(default_factory=asyncio.Event)
    said: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=SAY_MAX))
    newest: tuple[int, int] = (0, 0)  # epoch and sequence, for people
    selective: bool = True  # the far side confirms single frames, as far as is known
    salvages: int = 0  # of the store, when this was last begun anew
    resends: int = 0
    malformed: int = 0  # acknowledgements that make no sense
    unheard: int = 0  # messages that came while too many waited for their handler
    last_error: str = ""
    refused: tuple[int, str] = (0, "")  # the largest message that the last session broke at
    refusals: int = 0  # sessions in a row that broke at this one

    def broke(self, largest: tuple[int, str]) -> None:
        """A session broke; what may not have been read of it: bytes and topic of the largest."""
        (size, topic), (before, before_topic) = largest, self.refused
        same = size > 0 and topic == before_topic and abs(size - before) * 50 <= size
        self.refused, self.refusals = largest, self.refusals + 1 if same else 0

    def arrived(self, ids: Iterable[int]) -> None:
        """Frames arrived; where the store refuses to let go of many, some go out again."""
        self.done.update(dict.fromkeys(ids))
        while len(self.done) > DONE_MAX:
            del self.done[next(iter(self.done))]
        self.settle.set()

    def contiguous(self, epoch: int, seq: int) -> None:
        """All of an epoch up to this sequence arrived."""
        self.acked[epoch] = self.unsettled[epoch] = max(seq, self.acked.get(epoch, 0))
        while len(self.acked) > EPOCHS_MAX:
            del self.acked[min(self.acked)]
        self.newest = max(self.acked.items())
        self.settle.set()

    def is_done(self, frame: StoredFrame) -> bool:
        """True for a frame that arrived, although the store holds it still."""
        if frame.last <= self.acked.get(frame.epoch, 0):
            self.contiguous(frame.epoch, frame.last)
            return True
        return frame.id in self.done

    def forget(self) -> None:
        """The store was salvaged: whatever it holds now is to be sent."""
        self.acked.clear()
        self.unsettled.clear()
        self.done.clear()
