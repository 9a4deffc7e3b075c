"""Records: what the journal numbers and the local stream, the store and the wire carry.

One numbered stream holds everything that happened in the field process: changes of values
(`RECORD` rows) and events. Each takes the next sequence number of the epoch; an epoch is one
life of the field process. A number that nobody can deliver any more is declared in a `Gap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RECORD: Final = np.dtype(
    [
        ("seq", "u8"),
        ("point", "u4"),  # index of the point in the birth's table
        ("status", "u4"),
        ("value", "f8"),
        ("utc_ns", "i8"),  # source time
    ]
)
assert RECORD.itemsize == 32

# Kinds of events; one table for the stream, the historian and the docs.
EVENT_KINDS: Final[Mapping[str, str]] = {
    "alarm": "an alarm came, went, was acknowledged, shelved, suppressed or taken out of service",
    "trip": "a trip, interlock or permissive became active, or was released",
    "state": "a system state changed, or a control state was entered",
    "bypass": "a bypass of a cause began or ended, or its cause came or went meanwhile",
    "receipt": "a step in the life of a command or of a protective write",
    "device": "a device was lost or came back",
    "gateway": "the gateway itself: start, stop, overrun, store or link trouble",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `body` holds msgpack-able names and values."""

    seq: int
    utc_ns: int
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequence numbers `first` to `last` of an epoch that will never be delivered, and why.

    `last` = 0 where the end is unknown: the epoch ended without a farewell.
    """

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A contiguous piece of one epoch's stream.

    Every number from `first` to `last` is a row of `records`, an event, or inside a gap.
    `birth` names (by hash) the point table that the rows' indexes refer to.
    """

    epoch: int
    first: int
    last: int
    birth: str
    records: NDArray[np.void]
    events: tuple[Event, ...] = ()
    gaps: tuple[Gap, ...] = field(default=())

    @property
    def count(self) -> int:
        """How many numbers the batch spans."""
        return self.last - self.first + 1


def pack_batch(batch: Batch) -> dict[str, Any]:
    """A batch as msgpack-able mapping, for the local stream. Rows travel as raw bytes."""
    return {
        "epoch": batch.epoch,
        "first": batch.first,
        "last": batch.last,
        "birth": batch.birth,
        "records": batch.records.tobytes(),
        "events": [[e.seq, e.utc_ns, e.kind, dict(e.body)] for e in batch.events],
        "gaps": [[g.first, g.last, g.reason] for g in batch.gaps],
    }


def unpack_batch(data: Mapping[str, Any]) -> Batch:
    """The inverse of `pack_batch`. Raises KeyError, TypeError or ValueError on other data."""
    return Batch(
        epoch=int(data["epoch"]),
        first=int(data["first"]),
        last=int(data["last"]),
        birth=str(data["birth"]),
        records=np.frombuffer(data["records"], dtype=RECORD),
        events=tuple(Event(int(s), int(t), str(k), b) for s, t, k, b in data["events"]),
        gaps=tuple(Gap(int(f), int(n), str(r)) for f, n, r in data["gaps"]),
    )


@dataclass(frozen=True, slots=True)
class Command:
    """A wish to set a point (DESIGN section 4). There is no second way to an output.

    id          unique; a second command with the same id is answered, not executed
    value       in engineering units
    origin      who asks: ``operator``, ``remote`` or ``schedule``; decides the rank
    lease_ns    how long the setpoint holds from its acceptance; 0 = until replaced or released
    expires_ns  wall time (UTC) after which the command must not be executed; 0 = never
    release     true: give the point back (end the setpoint of this origin); value is ignored
    source      free text for the audit: user, client address
    action      what to do with the point: ``write`` its value, or with a rule's point one of
                ``acknowledge``, ``shelve``, ``unshelve``, ``out-of-service``, ``in-service``,
                ``bypass``, ``end-bypass``; `lease_ns` is then how long a shelving or bypass lasts
    comment     why, for the audit
    seen_utc_ns  of an acknowledgement: when the alarm was announced as its operator has seen it;
                what was announced since is not acknowledged. 0 = however it stands
    """

    id: str
    tag: str
    value: float
    origin: str = "operator"
    lease_ns: int = 0
    expires_ns: int = 0
    release: bool = False
    source: str = ""
    action: str = "write"
    comment: str = ""
    seen_utc_ns: int = 0


@dataclass(frozen=True, slots=True)
class Birth:
    """The whole table at one moment: definitions and values, sent before the first batch.

    `hash` names the definitions (not the values); `points` are PointDef fields as mappings.
    """

    gateway: str
    epoch: int
    seq: int
    hash: str
    config_hash: str
    utc_ns: int
    points: tuple[Mapping[str, Any], ...]
