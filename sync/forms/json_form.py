"""The form ``json``: documents that any MQTT client can read (docs/formats.md).

One message a topic and frame with all its values, one an event, one a gap; retained are the
definitions of the points, one message an equipment, and the state of the gateway.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.link import topic_root
from config.status import STATUS_ROWS
from gateway.core.records import Event, Gap
from sync.forms.forms import Opening, Publication, Reply
from sync.link.latest import Latest
from sync.link.tables import Point, PointTable, Tables, split_tag
from sync.store.store import StoredFrame
from sync.wire import WireError

VERSION: Final = 1
VALUES_MAX: Final = 500  # of one message; about 80 kB
POINTS_MAX: Final = 500  # of one message

REASON_UNREADABLE: Final = "unreadable in the store"
REASON_NO_TABLE: Final = "its point table is lost"

_NAMES: Final = {row.code: row.name for row in STATUS_ROWS}
_NO_LEVEL: Final = re.compile(r"[+#/\x00]")
_PLACE: Final = re.compile(r"\{(site|equipment|channel)\}")


def level(name: str) -> str:
    """A name as one level of a topic: wildcards and slashes become underscores."""
    return _NO_LEVEL.sub("_", name) or "_"


def status_name(code: int) -> str:
    """The OPC UA name of a status code, else its number in hexadecimal digits."""
    return _NAMES.get(code) or f"0x{code:08X}"


def iso_times(utc_ns: NDArray[np.int64]) -> list[str]:
    """Times in ns since 1970 as ISO 8601 with nine decimals: (n,) to n texts."""
    return [f"{t}Z" for t in np.datetime_as_string(utc_ns.astype("datetime64[ns]"), unit="ns")]


def plain(value: Any) -> Any:
    """What an event's body holds, as JSON can say it: NaN and infinities null, bytes in hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def pack(document: Mapping[str, Any]) -> bytes:
    """A document as bytes, without blanks."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def event_document(site: str, epoch: int, event: Event) -> dict[str, Any]:
    """An event as a document."""
    return {
        "v": VERSION,
        "type": "event",
        "site": site,
        "epoch": epoch,
        "seq": event.seq,
        "time": iso_times(np.array([event.utc_ns]))[0],
        "utc_ns": event.utc_ns,
        "kind": event.kind,
        "body": plain(event.body),
    }


def gap_document(site: str, epoch: int, gap: Gap) -> dict[str, Any]:
    """A gap as a document; `last` is null where nobody knows where the epoch ended."""
    return {
        "v": VERSION,
        "type": "gap",
        "site": site,
        "epoch": epoch,
        "first": gap.first,
        "last": gap.last or None,
        "reason": gap.reason,
    }


def definition(point: Point) -> dict[str, Any]:
    """A point's definition as a document."""
    equipment, channel = split_tag(point.tag)
    return {
        "tag": point.tag,
        "equipment": equipment,
        "channel": channel,
        "kind": "discrete" if point.discrete else "analog",
        "units": point.units,
        "description": point.description,
        "minimum": plain(point.value_min),
        "maximum": plain(point.value_max),
        "states": list(point.states),
    }


class JsonForm:
    """See `sync.forms.forms.Form`."""

    ready = True

    def __init__(
        self, site: str, latest: Latest, *, client_id: str, topic: str, points: Sequence[str]
    ) -> None:
        """`topic` is a template with {site}, {equipment}, {channel}; `points` are patterns."""
        self.problem = ""
        self._site = site
        self._latest = latest
        self._client_id = client_id
        self._template = topic
        self._root = topic_root(topic).replace("{site}", level(site))
        self._tables = Tables(points)
        self._topics: dict[str, str] = {}  # tag -> topic of its values
        self._said = -1  # the changes of `latest` that the state on the broker covers

    def _rendered(self, tag: str) -> str:
        equipment, channel = split_tag(tag)
        names = {"site": self._site, "equipment": equipment, "channel": channel}
        return _PLACE.sub(lambda place: level(names[place[1]]), self._template)

    # ------------------------------------------------------------ session

    def opening(self) -> Opening:
        """The state `offline` as last will."""
        return Opening(self._client_id, self._state(online=False))

    def begun(self) -> Sequence[Publication]:
        """The state `online`."""
        self._said = self._latest.changes
        return (self._state(online=True),)

    def due(self) -> Sequence[Publication]:
        """The state, where the field process went or came back."""
        return () if self._said == self._latest.changes else self.begun()

    def farewell(self) -> Sequence[Publication]:
        """The state `offline`."""
        return (self._state(online=False),)

    def received(self, topic: str, payload: bytes) -> Reply | None:
        """This form listens to nothing."""
        return None

    def _state(self, *, online: bool) -> Publication:
        document = {
            "v": VERSION,
            "type": "state",
            "site": self._site,
            "online": online,
            "measuring": online and self._latest.known,
        }
        return Publication(f"{self._root}/state", pack(document), retain=True)

    # ------------------------------------------------------------ definitions

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        """The definitions of the chosen points, one retained message an equipment."""
        try:
            table = self._tables.learn(name, body, current=current)
        except WireError as error:
            self.problem = f"point table {name}: {error}"
            return ()
        self.problem = ""
        if current:
            self._topics.clear()
        for known in self._tables.all() if current else (table,):
            for point in known.points.values():
                self._topics[point.tag] = self._rendered(point.tag)
        return self._definitions(table) if current else ()

    def knows(self, name: str) -> bool:
        """False where its table is none of those used last."""
        return name in self._tables

    def _definitions(self, table: PointTable) -> list[Publication]:
        by_equipment: dict[str, list[dict[str, Any]]] = {}
        for point in table.points.values():
            by_equipment.setdefault(split_tag(point.tag)[0], []).append(definition(point))
        out = []
        for equipment, points in by_equipment.items():
            for part, at in enumerate(range(0, len(points), POINTS_MAX)):
                document = {
                    "v": VERSION,
                    "type": "points",
                    "site": self._site,
                    "hash": table.name,
                    "points": points[at : at + POINTS_MAX],
                }
                beside = f"/{part + 1}" if part else ""
                topic = f"{self._root}/points/{level(equipment)}{beside}"
                out.append(Publication(topic, pack(document), retain=True))
        return out

    # ------------------------------------------------------------ frames

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        """Values by topic, then events and gaps."""
        try:
            decoded, table = self._tables.read(frame.payload)
        except WireError:
            return [self._gap(frame.epoch, Gap(frame.first, frame.last, REASON_UNREADABLE))]
        batch = decoded.batch
        out: list[Publication] = []
        for event in filter(self._tables.wants, batch.events):
            document = event_document(self._site, batch.epoch, event)
            out.append(Publication(f"{self._root}/events/{level(event.kind)}", pack(document)))
        gaps = list(batch.gaps)
        if len(batch.records) and table is None:
            seqs = batch.records["seq"]
            gaps.append(Gap(int(seqs[0]), int(seqs[-1]), REASON_NO_TABLE))
        out += [self._gap(batch.epoch, gap) for gap in gaps]
        if table is not None:
            out += self._values(batch.epoch, batch.records, table, live)
        return out

    def _gap(self, epoch: int, gap: Gap) -> Publication:
        return Publication(f"{self._root}/gaps", pack(gap_document(self._site, epoch, gap)))

    def _values(
        self, epoch: int, rows: NDArray[np.void], table: PointTable, live: bool
    ) -> list[Publication]:
        by_topic: dict[str, list[dict[str, Any]]] = {}
        times = iso_times(rows["utc_ns"])
        for row, time in zip(rows.tolist(), times, strict=True):
            seq, index, status, value, utc_ns = row
            point = table.points.get(index)
            if point is None:
                continue
            shown: dict[str, Any] = {
                "tag": point.tag,
                "value": value if math.isfinite(value) else None,
                "status": status_name(status),
                "code": status,
                "time": time,
                "utc_ns": utc_ns,
                "seq": seq,
            }
            if point.discrete and value.is_integer():
                shown["value"] = whole = int(value)
                if 0 <= whole < len(point.states):
                    shown["state"] = point.states[whole]
            by_topic.setdefault(self._topics[point.tag], []).append(shown)
        head = {
            "v": VERSION,
            "type": "values",
            "site": self._site,
            "epoch": epoch,
            "backlog": not live,
        }
        return [
            Publication(topic, pack({**head, "values": values[at : at + VALUES_MAX]}))
            for topic, values in by_topic.items()
            for at in range(0, len(values), VALUES_MAX)
        ]
