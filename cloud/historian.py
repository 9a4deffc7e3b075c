"""What a historian is: the port that ingest writes to and queries read from.

`cloud/historian_sqlite.py` implements it; PostgreSQL will. A historian is idempotent on
(gateway, epoch, sequence): a frame that comes twice, or overlaps another, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gateway.core.records import Birth, Gap
from sync.wire import Frame

QUERY_ROWS_MAX: Final = 1_000_000
REASON_BELOW_BASE: Final = "acknowledged before this historian, or given up by the sender"


class HistorianError(Exception):
    """The historian could not do it now; nothing was committed, so nothing is acknowledged."""


class HistorianBusy(HistorianError):
    """Another process holds it locked."""


class HistorianFull(HistorianError):
    """No room on its disk."""


class HistorianDamaged(HistorianError):
    """Its files are damaged."""


class UnknownBirth(Exception):
    """A frame refers to a point table that this historian has not seen."""

    def __init__(self, gateway: str, name: str) -> None:
        self.gateway = gateway
        self.name = name
        super().__init__(f"{gateway}: the point table {name} is not known")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value; NaN stands for "no value", and `status` says why."""

    gateway: str
    tag: str
    epoch: int
    seq: int
    value: float
    status: int
    utc_ns: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the historian holds it."""

    gateway: str
    epoch: int
    seq: int
    utc_ns: int
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EpochAudit:
    """One epoch of a gateway, counted from the rows themselves.

    missing     numbers between 1 and `last` that are neither row nor event nor in a gap
    duplicates  numbers that are held more than once
    gaps        numbers that were declared lost; `last` = 0 where the end is unknown
    """

    epoch: int
    first: int
    last: int
    rows: int
    events: int
    contiguous: int
    duplicates: int
    missing: tuple[tuple[int, int], ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the historian holds of a gateway."""

    gateway: str
    epochs: tuple[EpochAudit, ...] = field(default=())

    @property
    def missing(self) -> int:
        """How many numbers are missing."""
        return sum(last - first + 1 for epoch in self.epochs for first, last in epoch.missing)

    @property
    def duplicates(self) -> int:
        """How many numbers are held more than once."""
        return sum(epoch.duplicates for epoch in self.epochs)

    @property
    def rows(self) -> int:
        """How many values are held."""
        return sum(epoch.rows for epoch in self.epochs)

    @property
    def events(self) -> int:
        """How many events are held."""
        return sum(epoch.events for epoch in self.epochs)


class Historian(Protocol):
    """A durable, idempotent store of frames. Every method may raise HistorianError."""

    def store_birth(self, gateway: str, birth: Birth) -> None:
        """Keeps a point table; the same one again changes nothing."""

    def set_online(self, gateway: str, online: bool) -> None:
        """Notes whether a gateway holds a session with the broker."""

    def commit_frame(self, gateway: str, frame: Frame) -> None:
        """Makes a frame durable. Raises UnknownBirth where its point table is not known."""

    def commit_frames(self, frames: Sequence[tuple[str, Frame]]) -> None:
        """Makes (gateway, frame) pairs durable in one commit; all of them or none."""

    def contiguous(self, gateway: str, epoch: int) -> int:
        """The highest sequence up to which nothing is missing; 0 where nothing is held."""

    def knows_birth(self, gateway: str, name: str) -> bool:
        """True where the point table of this hash is known."""

    def gateways(self) -> list[str]:
        """The names of all gateways."""

    def query(
        self,
        tags: Sequence[str] | None = None,
        *,
        gateway: str | None = None,
        from_ns: int | None = None,
        to_ns: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Sample]:
        """Values of some or all tags, `from_ns` <= time < `to_ns`, in the order of time."""

    def events(
        self,
        *,
        gateway: str | None = None,
        kind: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Events of one kind or all, in the order of epoch and sequence."""

    def audit(self, gateway: str) -> AuditReport:
        """Counts what is held of a gateway, and what is missing."""

    def close(self) -> None:
        """Ends the session."""
