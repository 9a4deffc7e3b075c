"""What a Sparkplug B edge node says about the metrics of one instrument: births, data, deaths.

Source: Sparkplug 3.0.0, chapters 4 (topics), 5 (operation) and 6 (payloads). A pure state table:
messages in, values out, and the requests that it wants to be sent. Metrics carry an alias in place
of their name once a birth gave it, so data is only understood behind the birth of its session.
Where a message is missing (`seq`) the births may have been missed too, and the node is asked for
new ones. Nodes report changes only: between a birth and a death, with no message missing, what was
sent last holds, and goes out again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from config import status
from config.model import Channel
from config.points import PointDef
from config.site import Instrument
from drivers.errors import Garbled, OutOfRange, Refused
from drivers.inbox import Inbox, plausible_utc_ns, text_number, unscaled_value
from drivers.mqtt import sparkplug
from drivers.mqtt.sparkplug import BD_SEQ, REBIRTH, SEQ_MODULO, TEXTS, DataType, Metric, Payload
from drivers.mqtt.text import Message
from gateway.core.clock import Clock

REBIRTH_PAUSE_NS: Final = 5_000_000_000  # between two requests; doubles while they don't help
REBIRTH_PAUSE_NS_MAX: Final = 60_000_000_000
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
HOLD_NS_MIN: Final = 100_000_000  # values that hold go out again that often at most
AGE_NS: Final = 3_000_000_000  # where a point has no age limit (tests)

_QUALITY: Final = {0: status.BAD_DEVICE_FAILURE, 500: status.UNCERTAIN_LAST_USABLE}


def metric_name(name: str, channel: Channel) -> str:
    """The metric of a channel: `IOPoint`, or the channel's own name."""
    return name if channel.IOPoint is None else str(channel.IOPoint)


class SparkplugReader:
    """Reads the metrics of a node, or of one of its devices."""

    def __init__(
        self,
        instrument: Instrument,
        channels: Mapping[str, Channel],
        inbox: Inbox,
        clock: Clock,
    ) -> None:
        """`channels` are those that are read, in the order of the inbox's places."""
        source = sparkplug.parse_topic(instrument.tags.DataReadTopic or "")
        assert source is not None
        self._source = source
        self._inbox = inbox
        self._clock = clock
        self._instrument = instrument
        self._places: dict[str, list[tuple[int, Sequence[str]]]] = {}
        for place, (name, channel) in enumerate(channels.items()):
            wanted = self._places.setdefault(metric_name(name, channel), [])
            wanted.append((place, channel.States))
        known = (metric_name(name, channel) for name, channel in instrument.channels.items())
        self._known = frozenset(known)
        self._all = range(len(channels))
        # A channel with an age limit of its own has to be sent that often.
        self._holding = [p for p, c in enumerate(channels.values()) if c.AgeLimit is None]
        ages_ns = [instrument.points[name].age_ns_max or AGE_NS for name in channels]
        self._hold_ns = max(HOLD_NS_MIN, min(ages_ns, default=AGE_NS) // 3)
        # "#" also stands for nothing: the node's own messages and those of all its devices, which
        # share one sequence.
        self.topics = (f"{sparkplug.NAMESPACE}/{source.group}/+/{source.node}/#",)
        self.reset()

    def reset(self) -> None:
        """A new connection: nothing is known of the node."""
        self._aliases: dict[int, str] = {}  # of our metrics
        self._types: dict[str, int] = {}  # metric -> datatype, as its birth says
        self._wide: set[str] = set()  # metrics whose birth used `long_value`
        self._live: set[int] = set()  # places that were sent since the birth
        self._hold_due_ns = 0
        self._is_dead = False
        self._seq: int | None = None  # that comes next
        self._bd_seq: int | None = None
        self._wants_birth = True
        self._ask_ns = self._clock.monotonic_ns()
        self._pause_ns = REBIRTH_PAUSE_NS

    # ------------------------------------------------------------ messages in

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message came in. Sparkplug retains none of these: one that is retained is too old."""
        place = sparkplug.parse_topic(topic)
        source = self._source
        if retained or place is None or (place.group, place.node) != (source.group, source.node):
            return
        if place.kind not in ("NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH"):
            return  # commands of other hosts
        ours = place.device == source.device
        try:
            if len(payload) > PAYLOAD_BYTES_MAX:
                raise Garbled(f"Sparkplug: a payload of {len(payload)} bytes")
            content = sparkplug.decode(payload)
        except Garbled:
            self._garbled(ours)
            return
        if place.kind == "NDEATH":
            self._node_death(content)
            return
        if place.kind == "NBIRTH":
            self._node_birth(content)
        else:
            self._count(content.seq)
        if place.kind == "DDEATH" and ours:
            self._dead()
        elif ours and place.kind.endswith("BIRTH"):
            self._birth(content)
        elif ours and place.kind.endswith("DATA"):
            self._data(content)

    def _garbled(self, ours: bool) -> None:
        """It may have been a birth, or have counted: what follows can't be trusted either."""
        self._distrust()
        if ours:
            for place in self._all:
                self._inbox.put(place, math.nan, status.BAD_DECODING_ERROR)

    def _distrust(self) -> None:
        self._forget()
        self._wants_birth = True

    def _forget(self) -> None:
        self._aliases.clear()
        self._types.clear()
        self._wide.clear()
        self._live.clear()

    def _node_birth(self, content: Payload) -> None:
        """A new session; devices that it had are not there until their own births."""
        self._distrust()
        self._wants_birth = self._source.device != ""
        self._ask_ns = max(self._ask_ns, self._clock.monotonic_ns() + self._pause_ns)
        self._seq = None
        self._count(content.seq)
        bd_seq = (m.value for m in content.metrics if m.name == BD_SEQ)
        self._bd_seq = next((v for v in bd_seq if isinstance(v, int)), None)

    def _count(self, seq: int | None) -> None:
        """Every message of a session counts on; one that is missing may have been a birth."""
        if seq is None or seq >= SEQ_MODULO or (self._seq is not None and seq != self._seq):
            self._distrust()
        self._seq = None if seq is None else (seq + 1) % SEQ_MODULO

    def _node_death(self, content: Payload) -> None:
        """The will of a session; that of an older one than the node's may come late."""
        bd_seq = next((m.value for m in content.metrics if m.name == BD_SEQ), None)
        if self._bd_seq is None or bd_seq is None or bd_seq == self._bd_seq:
            self._seq = None
            self._dead()

    def _dead(self) -> None:
        self._distrust()
        self._is_dead = True
        self._wants_birth = False  # it will come by itself when it can
        for place in self._all:
            self._inbox.put(place, math.nan, status.BAD_NOT_CONNECTED)

    def _birth(self, content: Payload) -> None:
        self._wants_birth = self._is_dead = False
        self._pause_ns = REBIRTH_PAUSE_NS
        self._hold_due_ns = self._clock.monotonic_ns() + self._hold_ns
        self._forget()
        taken: set[int] = set()
        for metric in content.metrics:
            if metric.name in self._known:
                self._types[metric.name] = metric.datatype
                if metric.wide:
                    self._wide.add(metric.name)
            if metric.alias is None:
                continue
            if metric.alias in taken:
                self._aliases.pop(metric.alias, None)  # nobody knows which of them is meant
            elif metric.name in self._known:
                self._aliases[metric.alias] = metric.name
            taken.add(metric.alias)
        self._data(content)

    def _data(self, content: Payload) -> None:
        if not self._types:
            self._wants_birth = True
        if self._is_dead:
            return
        for metric in content.metrics:
            alias = -1 if metric.alias is None else metric.alias
            name = metric.name or self._aliases.get(alias, "")
            datatype = metric.datatype or self._types.get(name, 0)
            if not metric.historical and datatype and name in self._places:
                self._put(name, datatype, metric, content.timestamp_ms)

    def _put(self, name: str, datatype: int, metric: Metric, sent_ms: int | None) -> None:
        stamp_ms = metric.timestamp_ms or sent_ms or 0
        utc_ns = plausible_utc_ns(stamp_ms * 1_000_000)
        code = _QUALITY.get(192 if metric.quality is None else metric.quality, status.GOOD)
        for place, states in self._places[name]:
            raw = sparkplug.number_of(metric.value, datatype)
            if isinstance(metric.value, str):
                raw = text_number(metric.value, states)
            self._live.add(place)
            if raw is None:
                self._inbox.put(place, math.nan, status.BAD_DECODING_ERROR, utc_ns)
            else:
                self._inbox.put(place, raw, code, utc_ns)

    # ------------------------------------------------------------ messages out

    def due(self, now_ns: int) -> list[Message]:
        """What is to be sent now: the request for new births, rarely where it does not help.

        What holds goes into the inbox again.
        """
        if self._types and now_ns >= self._hold_due_ns:
            self._inbox.again([place for place in self._holding if place in self._live])
            self._hold_due_ns = now_ns + self._hold_ns
        if not self._wants_birth or now_ns < self._ask_ns:
            return []
        self._ask_ns = now_ns + self._pause_ns
        self._pause_ns = min(2 * self._pause_ns, REBIRTH_PAUSE_NS_MAX)
        topic = sparkplug.Topic(self._source.group, "NCMD", self._source.node)
        return [self._command(topic, Metric(REBIRTH, None, DataType.BOOLEAN, True))]

    def due_ns(self) -> int | None:
        """When something will be due."""
        due_ns = [self._ask_ns] if self._wants_birth else []
        due_ns += [self._hold_due_ns] if self._types else []
        return min(due_ns, default=None)

    def ready(self, point: PointDef) -> bool:
        """True where the birth said what type the metric of an output has."""
        return self._metric_of(point) in self._types

    def _metric_of(self, point: PointDef) -> str:
        return metric_name(point.channel, self._instrument.channels[point.channel])

    def command(self, point: PointDef, value: float) -> Message:
        """The command that sets a metric, in the type of its birth.

        Raises OutOfRange, and Refused where no birth named the metric.
        """
        channel, name = self._instrument.channels[point.channel], self._metric_of(point)
        source = self._source
        if name not in self._types:
            who = f"{source.node}/{source.device}" if source.device else source.node
            raise Refused(f"no birth of {who} has named the metric '{name}'")
        datatype = self._types[name]
        shown = unscaled_value(channel, value, text=datatype in TEXTS)
        if datatype == DataType.BOOLEAN and shown not in (0.0, 1.0):
            raise OutOfRange(f"{value:g} is neither 0 nor 1 (Boolean)")
        kind = "DCMD" if source.device else "NCMD"
        topic = sparkplug.Topic(source.group, kind, source.node, source.device)
        wide = name in self._wide
        return self._command(topic, Metric(name, None, datatype, shown, wide=wide))

    def _command(self, topic: sparkplug.Topic, metric: Metric) -> Message:
        now_ms = self._clock.utc_ns() // 1_000_000
        stamped = replace(metric, timestamp_ms=now_ms)
        payload = sparkplug.encode(Payload((stamped,), now_ms))
        return Message(str(topic), payload, 0)  # QoS 0: chapter 5.16 asks for it
