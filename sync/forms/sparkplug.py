"""The form ``sparkplug``: a Sparkplug B edge node (docs/formats.md).

Source: Sparkplug 3.0.0 (Eclipse Foundation, 2022), chapters 4 to 6. Every point is a metric of the
node, ``Equipment/Channel``; there are no Sparkplug devices, because the quality of each metric says
already which equipment is silent. Nothing but a rebirth can be asked for: commands come signed,
another way.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from config import status
from gateway.core.clock import Clock
from gateway.core.files import replace_file
from gateway.core.records import Batch, Event, Gap
from sync.forms import json_form
from sync.forms import sparkplug_payload as sp
from sync.forms.forms import Opening, Publication, Reply
from sync.forms.sparkplug_metrics import (
    Sample,
    Value,
    describe,
    messages,
    metric_name,
    put_quality,
    put_value,
    value_of,
)
from sync.link.latest import Latest
from sync.link.tables import Point, PointTable, Tables
from sync.remote.floods import Floods, Pace
from sync.store.store import StoredFrame
from sync.wire import WireError

BIRTH_BYTES_WARNED: Final = 1_000_000  # brokers commonly refuse messages above 1 MiB
REBIRTH_PAUSE_NS: Final = 1_000_000_000  # between two births where no data has to go out
REBIRTH_BURST: Final = 3  # births that a host may ask for at once; then they come at a rate,
REBIRTH_BYTES_PER_S: Final = 100_000  # or a flood of requests would leave room for nothing else
NUMBERS: Final = 256  # of seq and bdSeq
EVENT, EVENT_ALIAS = "Gateway/Event", 1
GAP, GAP_ALIAS = "Gateway/Gap", 2
FIRST_ALIAS: Final = 3  # of the points
_MS: Final = 1_000_000
_VERBS: Final = ("NBIRTH", "NDATA", "NDEATH", "NCMD")

log = logging.getLogger(__name__)


class SparkplugForm:
    """See `sync.forms.forms.Form`."""

    def __init__(
        self,
        latest: Latest,
        clock: Clock,
        *,
        client_id: str,
        group: str,
        node: str,
        host: str | None,
        points: Sequence[str],
        number_file: Path,
    ) -> None:
        """`host` is the primary host that has to be online; `number_file` keeps bdSeq."""
        self._latest = latest
        self._clock = clock
        self._client_id = client_id
        self._topics = {k: f"{sp.NAMESPACE}/{group}/{k}/{node}" for k in _VERBS}
        self._group = group
        self._host = host
        self._state_topic = f"{sp.NAMESPACE}/STATE/{host}"
        self._host_ms: float | None = None  # the timestamp of the host's last valid state
        self._tables = Tables(points)
        self._aliases: dict[str, int] = {}  # tag -> alias, as of the last birth
        self._discrete: dict[str, bool] = {}
        self._number_file = number_file
        self._number = _read_number(number_file)
        self._seq = 0
        self._online = host is None
        self._born: str | None = None  # the table in force at the last birth of this session
        self._born_ns = -REBIRTH_PAUSE_NS
        self._birth_bytes = 0
        self._birth_due = False  # before anything else goes out
        self._birth_asked = False  # by a host
        self._asked = Floods()
        self._said = -1  # the changes of `latest` that the last birth covers
        self._shown: dict[int, tuple[int, int]] = {}  # alias -> epoch, sequence in the birth
        self._not_good: set[int] = set()  # aliases whose last status was not plainly Good
        self._trouble = ""
        self._command_told = False

    # ------------------------------------------------------------ session

    @property
    def ready(self) -> bool:
        """False while the primary host is away."""
        return self._online

    @property
    def problem(self) -> str:
        """Why nothing goes out, or may not arrive."""
        if not self._online:
            return f"the primary host {self._host} is offline: frames wait in the store"
        return self._trouble

    def opening(self) -> Opening:
        """The death of the next number as last will (tck-id-topics-nbirth-bdseq-increment)."""
        self._number = (self._number + 1) % NUMBERS
        heard = [self._topics["NCMD"]]
        if self._host is not None:
            heard.append(self._state_topic)
        return Opening(self._client_id, self._death(), tuple(heard))

    def begun(self) -> Sequence[Publication]:
        """Nothing: the birth follows, as soon as the primary host is online."""
        self._online = self._host is None
        self._host_ms = None
        self._born = None
        self._birth_due = self._birth_asked = self._command_told = False
        try:
            replace_file(self._number_file, json.dumps({"bdSeq": self._number}))
        except OSError as error:
            log.warning("link: %s: %s; after a restart bdSeq may repeat", self._number_file, error)
        return ()

    def farewell(self) -> Sequence[Publication]:
        """The death (tck-id-operational-behavior-edge-node-intentional-disconnect-ndeath)."""
        return (self._death(),)

    def _death(self) -> Publication:
        payload = sp.Payload(timestamp=self._now_ms())
        payload.metrics.add(
            name=sp.BD_SEQ,
            timestamp=self._now_ms(),
            datatype=sp.INT64,
            long_value=self._number,
        )
        return Publication(self._topics["NDEATH"], payload.SerializeToString())

    def _now_ms(self) -> int:
        return max(0, self._clock.utc_ns() // _MS)

    # ------------------------------------------------------------ what comes in

    def received(self, topic: str, payload: bytes) -> Reply | None:
        """A rebirth that is asked for, and the state of the primary host."""
        if topic == self._topics["NCMD"]:
            return self._commanded(payload)
        if self._host is not None and topic == self._state_topic:
            return self._host_state(payload)
        return None

    def _commanded(self, data: bytes) -> Reply:
        payload: Any = sp.parse(data)
        metrics = () if payload is None else payload.metrics
        if any(m.name == sp.REBIRTH and m.boolean_value for m in metrics):
            self._birth_asked = True
            return Reply(tuple(self.due()))
        if not self._command_told:
            log.warning("link: a Sparkplug command that is no rebirth is ignored")
            self._command_told = True
        return Reply()

    def _host_state(self, data: bytes) -> Reply:
        if len(data) > sp.PAYLOAD_BYTES_MAX:
            return Reply()
        try:
            state = json.loads(data)
            online, timestamp_ms = state["online"], state["timestamp"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return Reply()
        if not isinstance(online, bool) or not _is_time(timestamp_ms):
            return Reply()
        if self._host_ms is not None and timestamp_ms < self._host_ms:
            return Reply()  # the farewell of a session that the host has left behind
        self._host_ms = timestamp_ms
        was, self._online = self._online, online
        if online and not was:
            self._birth_due = True
            return Reply(tuple(self.due()))
        if was and not online:  # tck-id-message-flow-edge-node-birth-publish-phid-offline
            return Reply((self._death(),), end=True)
        return Reply()

    # ------------------------------------------------------------ births

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        """Learn a table. A new one in force, or one with further points, makes a new birth.

        A birth has every metric that will ever be sent in its session
        (tck-id-topics-nbirth-metric-reqs), so it has the points of a backlog's old table, too.
        """
        try:
            self._tables.learn(name, body, current=current)
        except WireError as error:
            self._trouble = f"point table {name}: {error}"
            return ()
        fresh = current and self._born != name
        if fresh or not self._aliases.keys() >= self._metrics().keys():
            self._birth_due = True
        return self.due()

    def knows(self, name: str) -> bool:
        """False where its table is none of those used last."""
        return name in self._tables

    def due(self) -> Sequence[Publication]:
        """A birth that was asked for, or that a loss of the field process makes necessary."""
        if not self._online or self._tables.current is None:
            return ()
        if not self._birth_due:
            changed = self._born is not None and self._said != self._latest.changes
            rests = self._clock.monotonic_ns() - self._born_ns < REBIRTH_PAUSE_NS
            if rests or not (changed or self._may_answer()):
                return ()
        return (self._birth(),)

    def _may_answer(self) -> bool:
        """True where a host asked for a birth, and not too often."""
        per_second = REBIRTH_BYTES_PER_S / max(self._birth_bytes, REBIRTH_BYTES_PER_S)
        pace = Pace(REBIRTH_BURST, per_second)
        return self._birth_asked and self._asked.let("", pace, self._clock.monotonic_ns())

    def _metrics(self) -> dict[str, Point]:
        """Every point that may be sent, by tag; definitions in force go before older ones."""
        metrics: dict[str, Point] = {}
        for table in self._tables.all():
            for point in table.points.values():
                metrics.setdefault(point.tag, point)
        return metrics

    def _birth(self) -> Publication:
        metrics = self._metrics()
        self._aliases = {tag: number for number, tag in enumerate(metrics, start=FIRST_ALIAS)}
        self._discrete = {tag: point.discrete for tag, point in metrics.items()}
        now_ms = self._now_ms()
        entries: list[tuple[int, str, int | None, int, Value, str]] = [
            (now_ms, sp.BD_SEQ, None, sp.INT64, self._number, ""),
            (now_ms, sp.REBIRTH, None, sp.BOOLEAN, False, ""),
            (now_ms, EVENT, EVENT_ALIAS, sp.STRING, None, ""),
            (now_ms, GAP, GAP_ALIAS, sp.STRING, None, ""),
        ]
        codes: dict[str, int] = {}
        current = self._current(now_ms)
        unknown = (now_ms, None, status.BAD_WAITING_FOR_INITIAL_DATA)
        for tag, alias in self._aliases.items():
            timestamp_ms, value, codes[tag] = current.get(tag, unknown)
            kind = sp.INT64 if self._discrete[tag] else sp.DOUBLE
            entries.append((timestamp_ms, metric_name(tag), alias, kind, value, tag))
        entries.sort(key=_timestamp)  # tck-id-operational-behavior-data-publish-nbirth-order
        payload = sp.Payload(timestamp=now_ms, seq=0)
        for at_ms, name, number, kind, shown, tag in entries:
            metric = payload.metrics.add(name=name, alias=number, timestamp=at_ms, datatype=kind)
            put_value(metric, shown)
            if tag:
                describe(metric, metrics[tag], codes[tag])
        self._not_good = {self._aliases[tag] for tag, code in codes.items() if code != status.GOOD}
        return self._finish_birth(payload.SerializeToString(), len(entries))

    def _finish_birth(self, data: bytes, metrics: int) -> Publication:
        self._seq = 0
        self._born = self._tables.current.name if self._tables.current else ""
        self._born_ns = self._clock.monotonic_ns()
        self._birth_bytes = len(data)
        self._birth_due = self._birth_asked = False
        self._said = self._latest.changes
        self._trouble = ""
        if len(data) > BIRTH_BYTES_WARNED:
            self._trouble = (
                f"the Sparkplug birth of {metrics} metrics has {len(data)} bytes, more than many "
                f"brokers take: choose fewer Points"
            )
        return Publication(self._topics["NBIRTH"], data, qos=0)

    def _current(self, now_ms: int) -> dict[str, tuple[int, float | int | None, int]]:
        """Time in ms, value and status of each point, by tag."""
        birth, known = self._latest.birth, self._latest.known
        self._shown = {}
        out: dict[str, tuple[int, float | int | None, int]] = {}
        if birth is None:
            return out
        for point, row in zip(birth.points, self._latest.rows.tolist(), strict=True):
            alias = self._aliases.get(point["tag"])
            if alias is None:
                continue
            seq, _, code, value, utc_ns = row
            self._shown[alias] = (birth.epoch, seq)
            timestamp_ms = max(0, utc_ns // _MS)
            if not known:
                timestamp_ms, code = now_ms, status.BAD_NO_COMMUNICATION
            shown = value_of(value, self._discrete[point["tag"]])
            out[point["tag"]] = (timestamp_ms, shown, code)
        return out

    # ------------------------------------------------------------ frames

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        """The frame's values, events and gaps as data messages, oldest first."""
        # A birth that waits goes ahead of all data
        # (tck-id-operational-behavior-data-commands-rebirth-action-1).
        due = self._born is None or self._birth_due or self._may_answer()
        out = [self._birth()] if due else []
        now_ms = self._now_ms()
        try:
            decoded, table = self._tables.read(frame.payload)
        except WireError:
            gap = Gap(frame.first, frame.last, json_form.REASON_UNREADABLE)
            return [*out, *self._data([self._gap(frame.epoch, gap, now_ms, not live)])]
        batch = decoded.batch
        gaps = list(batch.gaps)
        if len(batch.records) and table is None:
            seqs = batch.records["seq"]
            gaps.append(Gap(int(seqs[0]), int(seqs[-1]), json_form.REASON_NO_TABLE))
        samples = [self._gap(batch.epoch, gap, now_ms, not live) for gap in gaps]
        events = filter(self._tables.wants, batch.events)
        samples += [self._event(batch.epoch, event, not live) for event in events]
        if table is not None:
            samples += self._samples(batch, table, live)
        return [*out, *self._data(sorted(samples, key=lambda sample: sample.timestamp_ms))]

    def _samples(self, batch: Batch, table: PointTable, live: bool) -> list[Sample]:
        out = []
        for seq, index, code, value, utc_ns in batch.records.tolist():
            point = table.points.get(index)
            if point is None:
                continue
            alias = self._aliases[point.tag]
            # What the birth has shown already is history; so is what an outage left behind.
            old = not live or (batch.epoch, seq) <= self._shown.get(alias, (0, 0))
            timestamp_ms = max(0, utc_ns // _MS)
            shown = value_of(value, self._discrete[point.tag])
            out.append(Sample(alias, timestamp_ms, shown, old, code))
        return out

    def _event(self, epoch: int, event: Event, old: bool) -> Sample:
        document = json_form.event_document(self._group, epoch, event)
        text = json_form.pack(document).decode()
        return Sample(EVENT_ALIAS, max(0, event.utc_ns // _MS), text, old)

    def _gap(self, epoch: int, gap: Gap, now_ms: int, old: bool) -> Sample:
        text = json_form.pack(json_form.gap_document(self._group, epoch, gap)).decode()
        return Sample(GAP_ALIAS, now_ms, text, old)

    def _data(self, samples: Iterable[Sample]) -> list[Publication]:
        out: list[Publication] = []
        for part in messages(samples):
            self._seq = (self._seq + 1) % NUMBERS
            payload = sp.Payload(timestamp=self._now_ms(), seq=self._seq)
            for sample in part:
                self._add(payload, sample)
            out.append(Publication(self._topics["NDATA"], payload.SerializeToString(), qos=0))
        return out

    def _add(self, payload: Any, sample: Sample) -> None:
        metric = payload.metrics.add(alias=sample.alias, timestamp=sample.timestamp_ms)
        put_value(metric, sample.value)
        good = sample.code == status.GOOD
        if sample.historical:
            metric.is_historical = True
            if not good:
                put_quality(metric, sample.code)
            return
        if not good or sample.alias in self._not_good:
            put_quality(metric, sample.code)  # hosts may keep the last quality they heard
        if good:
            self._not_good.discard(sample.alias)
        else:
            self._not_good.add(sample.alias)


def _is_time(value: object) -> bool:
    """True for what can be compared as a time of STATE."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else True


def _timestamp(entry: tuple[int, str, int | None, int, Value, str]) -> int:
    return entry[0]


def _read_number(path: Path) -> int:
    """The bdSeq of the last session that was opened; -1 where there was none."""
    try:
        number = json.loads(path.read_text(encoding="utf-8"))["bdSeq"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return -1
    return number if isinstance(number, int) and 0 <= number < NUMBERS else -1
