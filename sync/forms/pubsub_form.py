"""The form ``opcua``: OPC UA PubSub, JSON over MQTT (OPC 10000-14; docs/formats.md).

Values go as delta frames, each field a DataValue with its status and source time; retained are the
metadata of each data set, the connection, and the status, which is the last will, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.status import STATUS_ROWS
from gateway.core.clock import Clock
from sync.forms import pubsub_meta as meta
from sync.forms.forms import Opening, Publication, Reply
from sync.forms.json_form import pack
from sync.link.latest import Latest
from sync.link.tables import PointTable, Tables, split_tag
from sync.store.store import StoredFrame
from sync.wire import WireError

GROUP: Final = "gatepost"  # the writer group of a link that names none
VALUES_MAX: Final = 500  # of one NetworkMessage; about 60 kB
VERSIONS_MAX: Final = 64  # tables whose version is remembered

DISABLED, OPERATIONAL, ERROR = 0, 2, 3  # PubSubState, OPC 10000-14, 6.2.1
_TICK_NS: Final = 100  # of a DateTime
_NAMES: Final = {row.code: row.name for row in STATUS_ROWS}
_INFO_BITS: Final = 0xFFFF_0000  # without them a status has a name


def iso_ticks(utc_ns: NDArray[np.int64]) -> list[str]:
    """Times in ns since 1970 as OPC UA writes a DateTime: 100 ns, no zeros at the end."""
    whole = np.datetime_as_string(utc_ns.astype("datetime64[ns]"), unit="ns")
    return [f"{text[:-2].rstrip('0').rstrip('.')}Z" for text in whole.tolist()]


def data_value(value: float, status: int, utc_ns: int, time: str) -> dict[str, Any]:
    """A DataValue in the VerboseEncoding; Good is left out (OPC 10000-6, 5.4.2.18)."""
    shown: dict[str, Any] = {"Value": _number(value)}
    if status:
        shown["Status"] = code = {"Code": status}
        if name := _NAMES.get(status & _INFO_BITS):
            code["Symbol"] = name  # type: ignore[assignment]
    if utc_ns:
        shown["SourceTimestamp"] = time
    if rest := utc_ns % _TICK_NS:
        shown["SourcePicoseconds"] = rest * 100  # in steps of 10 ps
    return shown


def _number(value: float) -> float | str | None:
    """A Double; NaN stands for "no value" in this gateway, and is null."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


class PubSubForm:
    """See `sync.forms.forms.Form`."""

    ready = True

    def __init__(
        self,
        publisher: str,
        latest: Latest,
        clock: Clock,
        *,
        client_id: str,
        group: str,
        points: Sequence[str],
    ) -> None:
        """`publisher` is the PublisherId; `group` the name of the live writer group."""
        self.problem = ""
        self._publisher = publisher
        self._latest = latest
        self._clock = clock
        self._client_id = client_id
        self._group = group
        self._tables = Tables(points)
        self._versions: dict[str, int] = {}  # hash of a table -> its VersionTime
        self._writers: dict[tuple[str, bool], meta.Writer] = {}
        self._sequences: dict[int, int] = {}  # writer -> its last sequence number
        self._said = -1  # the changes of `latest` that the status on the broker covers

    # ------------------------------------------------------------ session

    def opening(self) -> Opening:
        """The status Error as last will (OPC 10000-14, 7.3.4.7.7)."""
        return Opening(self._client_id, self._status(ERROR))

    def begun(self) -> Sequence[Publication]:
        """The status: Error while the field process is gone."""
        self._said = self._latest.changes
        return (self._status(OPERATIONAL if self._latest.known else ERROR),)

    def due(self) -> Sequence[Publication]:
        """The status, where the field process went or came back."""
        return () if self._said == self._latest.changes else self.begun()

    def farewell(self) -> Sequence[Publication]:
        """The status Disabled."""
        return (self._status(DISABLED),)

    def received(self, topic: str, payload: bytes) -> Reply | None:
        """This form listens to nothing."""
        return None

    def _status(self, state: int) -> Publication:
        document = {**self._head("ua-status"), "IsCyclic": False, "Status": state}
        return Publication(meta.topic("status", self._publisher), pack(document), retain=True)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "MessageId": self._clock.new_id(),
            "MessageType": kind,
            "PublisherId": self._publisher,
        }

    def _now(self) -> str:
        return iso_ticks(np.array([self._clock.utc_ns()]))[0]

    # ------------------------------------------------------------ metadata

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        """The connection, the metadata of each writer, and a key frame of what is known."""
        try:
            table = self._tables.learn(name, body, current=current)
            if name not in self._versions:
                self._versions[name] = meta.version_of(name, table.utc_ns, self._versions)
        except WireError as error:
            self.problem = f"point table {name}: {error}"
            return ()
        self.problem = ""
        while len(self._versions) > VERSIONS_MAX:
            del self._versions[next(iter(self._versions))]
        # A backlog may have equipment that the table in force has not.
        known = {split_tag(p.tag)[0] for t in self._tables.all() for p in t.points.values()}
        self._writers = meta.writers_of(sorted(known), self._group)
        if not current:
            return ()
        return [self._connection(), *self._meta_data(table), *self._key_frames(table)]

    def knows(self, name: str) -> bool:
        """False where its table is none of those used last."""
        return name in self._tables and name in self._versions

    def _connection(self) -> Publication:
        document = {
            **self._head("ua-connection"),
            "Timestamp": self._now(),
            "Connection": meta.connection(self._publisher, list(self._writers.values())),
        }
        return Publication(meta.topic("connection", self._publisher), pack(document), retain=True)

    def _meta_data(self, table: PointTable) -> list[Publication]:
        found = []
        for equipment, points in meta.equipment_of(table).items():
            version = self._versions[table.name]
            data_set = meta.meta_data(self._publisher, equipment, points, version)
            both = (self._writers.get((equipment, live)) for live in (True, False))
            for writer in filter(None, both):
                document = {
                    **self._head("ua-metadata"),
                    "DataSetWriterId": writer.id,
                    "WriterGroupName": writer.group,
                    "DataSetWriterName": writer.name,
                    "Timestamp": self._now(),
                    "MetaData": data_set,
                }
                topic = meta.topic("metadata", self._publisher, writer.group, writer.name)
                found.append(Publication(topic, pack(document), retain=True))
        return found

    def _key_frames(self, table: PointTable) -> list[Publication]:
        birth = self._latest.birth
        if not self._latest.known or birth is None or birth.hash != table.name:
            return []
        return self._values(self._latest.rows, table, live=True, kind="ua-keyframe")

    # ------------------------------------------------------------ frames

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        """Values as delta frames. Events and gaps have no place in this form."""
        try:
            decoded, table = self._tables.read(frame.payload)
        except WireError as error:
            self.problem = f"a frame can't be read: {error}"
            return ()
        if table is None or table.name not in self._versions:
            return ()
        return self._values(decoded.batch.records, table, live=live, kind="ua-deltaframe")

    def _values(
        self, rows: NDArray[np.void], table: PointTable, *, live: bool, kind: str
    ) -> list[Publication]:
        by_writer: dict[str, list[dict[str, Any]]] = {}
        counts: dict[int, int] = {}
        times = iso_ticks(rows["utc_ns"])
        for row, time in zip(rows.tolist(), times, strict=True):
            _, index, status, value, utc_ns = row
            point = table.points.get(index)
            if point is None:
                continue
            equipment, channel = split_tag(point.tag)
            # A message names a field once: what a point has twice stands in the next one.
            turn = counts[index] = counts.get(index, -1) + 1
            payloads = by_writer.setdefault(equipment, [])
            if turn >= len(payloads):
                payloads.append({})
            payloads[turn][channel] = data_value(value, status, utc_ns, time)
        found = []
        for equipment, payloads in by_writer.items():
            writer = self._writers.get((equipment, live))
            if writer is None:
                self.problem = f"more than {meta.WRITER_IDS - 1} equipments have no number each"
                continue
            found += self._published(writer, payloads, self._versions[table.name], kind)
        return found

    def _published(
        self, writer: meta.Writer, payloads: Sequence[Mapping[str, Any]], version: int, kind: str
    ) -> list[Publication]:
        """Messages of up to `VALUES_MAX` values; a key frame stays whole."""
        topic = meta.topic("data", self._publisher, writer.group, writer.name)
        out: list[Publication] = []
        messages: list[dict[str, Any]] = []
        values = 0
        whole = kind == "ua-keyframe"
        for payload in (p for one in payloads for p in ([one] if whole else _cut(one))):
            if messages and values + len(payload) > VALUES_MAX:
                out.append(self._data(topic, writer, messages))
                messages, values = [], 0
            messages.append(self._message(writer, payload, version, kind))
            values += len(payload)
        return [*out, self._data(topic, writer, messages)] if messages else out

    def _message(
        self, writer: meta.Writer, payload: Mapping[str, Any], version: int, kind: str
    ) -> dict[str, Any]:
        sequence = self._sequences[writer.id] = (self._sequences.get(writer.id, 0) + 1) % 2**32
        return {
            "DataSetWriterId": writer.id,
            "DataSetWriterName": writer.name,
            "SequenceNumber": sequence,
            "MetaDataVersion": meta.version_document(version),
            "Timestamp": self._now(),
            "MessageType": kind,
            "Payload": payload,
        }

    def _data(
        self, topic: str, writer: meta.Writer, messages: Sequence[Mapping[str, Any]]
    ) -> Publication:
        head = {**self._head("ua-data"), "WriterGroupName": writer.group}
        return Publication(topic, pack({**head, "Messages": messages}))


def _cut(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A payload in parts of at most `VALUES_MAX` fields."""
    items = list(payload.items())
    return [dict(items[at : at + VALUES_MAX]) for at in range(0, len(items), VALUES_MAX)]
