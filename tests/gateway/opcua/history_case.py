"""An archive in memory, and HistoryRead without a network: bytes in, structures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from numpy.typing import NDArray

from gateway.core.clock import ManualClock
from gateway.core.records import Event
from gateway.opcua.history.series import HISTORY
from gateway.opcua.history.service import Events, History
from gateway.opcua.names import own_id
from gateway.opcua.service import Call
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values
from tests.gateway.points import point

NS = 1_000_000_000
T0 = 1_790_000_000 * NS  # a whole second of 2026
POINTS = (
    point(1, "Stack.Temperature", units="degC"),
    point(2, "Fan.Running", kind="discrete", states=("stopped", "running")),
    point(3, "Stack.Mode", kind="discrete", states=("a", "b", "c")),
    point(4, "Stack.Count", kind="discrete"),
    point(5, "Secret.Value"),
)
ANYBODY = User("op", Role.OBSERVER)


class KeptEvent(NamedTuple):
    epoch: int
    event: Event


class FakeArchive:
    """What AsyncArchive does, on lists; `reads` counts what was asked for."""

    def __init__(self) -> None:
        self.points: dict[str, NDArray[np.void]] = {}
        self.kept: list[KeptEvent] = []
        self.missing: list[tuple[int, int, str]] = []
        self.reads: list[tuple[str, int, int, int]] = []
        self.error: Exception | None = None

    def put(self, tag: str, *given: tuple[float, float, int]) -> None:
        """(seconds after T0, value, status); in time order."""
        rows = np.zeros(len(given), dtype=HISTORY)
        for row, (at_s, value, status) in zip(rows, given, strict=True):
            row["utc_ns"] = T0 + round(at_s * NS)
            row["value"], row["status"] = value, status
        self.points[tag] = rows

    async def read(
        self,
        tag: str,
        start_ns: int,
        end_ns: int,
        limit: int = 0,
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> NDArray[np.void]:
        if self.error is not None:
            raise self.error
        self.reads.append((tag, start_ns, end_ns, limit))
        rows = self.points.get(tag, np.zeros(0, dtype=HISTORY))
        rows = rows[(rows["utc_ns"] >= start_ns) & (rows["utc_ns"] < end_ns)]
        rows = rows[::-1] if reverse else rows
        return rows[skip:][: limit or None]

    async def events(
        self,
        start_ns: int,
        end_ns: int,
        limit: int,
        kinds: Sequence[str] = (),
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> list[KeptEvent]:
        found = [one for one in self.kept if start_ns <= one.event.utc_ns < end_ns]
        found.sort(key=lambda one: one.event.utc_ns)
        found = found[::-1] if reverse else found
        return found[skip:][: limit or None]

    async def gaps(self, start_ns: int, end_ns: int) -> list[tuple[int, int, str]]:
        return [
            (max(low, start_ns), min(high, end_ns), why)
            for low, high, why in self.missing
            if low < end_ns and high > start_ns
        ]


def new_session(number: int = 1, user: User = ANYBODY) -> Session:
    made = Session(ua.NodeId(number, 1), ua.NodeId(b"secret", 1), "test", secured=True)
    made.user = user
    return made


def moment(at_s: float | None) -> datetime:
    """Seconds after T0 as the library has them; None = not specified."""
    if at_s is None:
        return ua.get_win_epoch()
    return datetime.fromtimestamp(T0 // NS, UTC) + timedelta(seconds=at_s)


def raw(
    start_s: float | None, end_s: float | None, limit: int = 0, *, bounds: bool = False
) -> ua.ReadRawModifiedDetails:
    return ua.ReadRawModifiedDetails(False, moment(start_s), moment(end_s), limit, bounds)


def processed(
    name: str, start_s: float, end_s: float, interval_s: float = 0, nodes: int = 1
) -> ua.ReadProcessedDetails:
    node = ua.NodeId(getattr(ua.ObjectIds, f"AggregateFunction_{name}"))
    how = ua.AggregateConfiguration()
    return ua.ReadProcessedDetails(
        moment(start_s), moment(end_s), interval_s * 1e3, [node] * nodes, how
    )


class Client:
    """A session at a History."""

    def __init__(self, history: History, session: Session | None = None) -> None:
        self.history = history
        self.session = session or new_session()
        self.bytes_max = 0  # that it takes; 0 = it says nothing
        self.largest = 0  # answer

    async def call(self, number: int, parameters: Any) -> bytes:
        answered: list[Any] = []
        header = ua.RequestHeader(RequestHandle=7)
        body = Buffer(struct_to_binary(parameters))
        one = Call(self.session, header, body, answered.append, answered.append)
        one.bytes_max = self.bytes_max
        found = await self.history.services()[number](one)
        assert isinstance(found, bytes)
        self.largest = max(self.largest, len(found))
        return found

    async def read(
        self,
        details: Any,
        *nodes: str | ua.NodeId,
        points: Sequence[bytes | None] = (),
        timestamps: ua.TimestampsToReturn = ua.TimestampsToReturn.Source,
        release: bool = False,
    ) -> list[ua.HistoryReadResult]:
        """Results of a HistoryRead of tags or nodes."""
        wanted = ua.HistoryReadParameters(details, timestamps, release, [])
        for at, node in enumerate(nodes):
            given = own_id(node) if isinstance(node, str) else node
            mark = points[at] if points else None
            one = ua.HistoryReadValueId(given, None, ua.QualifiedName(), mark)
            wanted.NodesToRead.append(one)
        found = await self.call(ua.ObjectIds.HistoryReadRequest_Encoding_DefaultBinary, wanted)
        response = struct_from_binary(ua.HistoryReadResponse, Buffer(found))
        assert response.ResponseHeader.RequestHandle == 7
        results: list[ua.HistoryReadResult] = response.Results
        return results

    async def values(self, details: Any, tag: str) -> list[tuple[float, Any, int]]:
        """(seconds after T0, value, code) of a tag, over all its continuation points."""
        found: list[tuple[float, Any, int]] = []
        mark: bytes | None = None
        while True:
            (result,) = await self.read(details, tag, points=(mark,))
            assert result.StatusCode.is_good(), result.StatusCode
            found += triples(result)
            mark = result.ContinuationPoint
            if mark is None:
                return found


def triples(result: ua.HistoryReadResult) -> list[tuple[float, Any, int]]:
    """(seconds after T0, value, code) of a result's values."""
    found = []
    for value in result.HistoryData.DataValues:
        content = value.Value.Value if value.Value is not None else None
        at_s = (value.SourceTimestamp.replace(tzinfo=UTC) - moment(0)).total_seconds()
        found.append((at_s, content, value.StatusCode.value))
    return found


def new_history(
    archive: FakeArchive | None,
    *,
    may_read: Callable[[User, str], bool] = lambda user, tag: not tag.startswith("Secret."),
    events: Events | None = None,
    clock: ManualClock | None = None,
) -> History:
    values = Values(ManualClock(T0))
    values.replace(POINTS)
    known = {ua.NodeId(ua.ObjectIds.Server), own_id("/"), own_id("/Stack")}
    return History(archive, values, may_read, known.__contains__, clock or ManualClock(T0), events)
