"""JSON and plain messages of one instrument: where each value is, and the messages that set it.

A path leads to a value: ``power``, ``a.b[0].c``, ``["a key with . in it"]``, or to the item of a
list that has certain values, ``readings[measurand=voltmagnitude,phase=A].data``. Where it leads to
an object with a key ``Value``, as the seeds' instrument servers send it, that is the value and the
``Time`` beside it its stamp. Everything here is pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from config import status
from config.model import REQUEST_TOPIC, Channel, EquipmentTags
from config.points import PointDef
from config.site import Instrument
from drivers.errors import Garbled
from drivers.inbox import Inbox, plausible_utc_ns, raw_value, text_number
from gateway.core.clock import Clock

PAYLOAD_BYTES_MAX: Final = 256 * 1024
PATH_STEPS_MAX: Final = 32
TOPIC_BYTES_MAX: Final = 1024
PERIOD_NS: Final = 1_000_000_000  # of requests, where a scan class has no period (tests)
VALUE: Final = "{value}"

_STEP: Final = re.compile(
    r"""\.?(?P<key>[^.\[\]"]+)      # a name
    |\[(?P<item>\d{1,6})\]          # a position
    |\["(?P<quoted>[^"]+)"\]        # a name with dots or brackets in it
    |\[(?P<where>[^\[\]=,"]+=[^\[\]=,"]+(?:,[^\[\]=,"]+=[^\[\]=,"]+)*)\]  # an item by its values
    """,
    re.VERBOSE,
)
# ISO 8601 with a zone; a local time without one says nothing.
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s*(Z|[+-]\d\d:?\d\d)", re.ASCII
)
_FROM_MS: Final = 1e11  # a larger number of seconds would be the year 5138, so it is milliseconds
_STAMPS: Final = ("Time", "timestamp")  # of the whole document: the seeds', and SOGNO's

Step = str | int | tuple[tuple[str, str], ...]


class Reading(NamedTuple):
    """A raw number, its status, and the device's own stamp where it sends one."""

    raw: float
    code: int
    utc_ns: int | None


UNREADABLE: Final = Reading(math.nan, status.BAD_DECODING_ERROR, None)
MISSING: Final = object()


def parse_path(text: str) -> tuple[Step, ...] | None:
    """The steps of a path; None where it is none."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        dotted = match is not None and match.group().startswith(".")
        if match is None or len(steps) == PATH_STEPS_MAX or (dotted and not steps):
            return None
        if match["key"] is not None and steps and not dotted:
            return None
        steps.append(_step(match))
        at = match.end()
    return tuple(steps) or None


def _step(match: re.Match[str]) -> Step:
    if match["item"] is not None:
        return int(match["item"])
    if match["where"] is not None:
        pairs = (pair.split("=", 1) for pair in match["where"].split(","))
        return tuple((name.strip(), value.strip()) for name, value in pairs)
    return match["key"] or match["quoted"]


def follow(document: Any, path: Sequence[Step]) -> Any:
    """What the path leads to; MISSING where it leads nowhere."""
    for step in path:
        if isinstance(step, str):
            document = document.get(step, MISSING) if isinstance(document, dict) else MISSING
        elif not isinstance(document, list):
            document = MISSING
        elif isinstance(step, int):
            document = document[step] if step < len(document) else MISSING
        else:
            fits = (item for item in document if _has(item, step))
            document = next(fits, MISSING)
        if document is MISSING:
            return MISSING
    return document


def _has(item: Any, pairs: Sequence[tuple[str, str]]) -> bool:
    return isinstance(item, dict) and all(_word(item.get(key)) == text for key, text in pairs)


def _word(value: Any) -> str | None:
    """A plain value as it stands in the document; None for lists and objects."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float, str)) else None


def load(payload: bytes) -> Any:
    """A JSON document. Raises Garbled where it is none, too large or too deep."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Garbled(f"a message of {len(payload)} bytes")
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, huge numbers
        raise Garbled(f"no JSON: {type(error).__name__}") from None


def read_json(document: Any, path: Sequence[Step], states: Sequence[str]) -> Reading | None:
    """The value at a path; None where the document does not have it."""
    found = follow(document, path)
    if found is MISSING:
        return None
    stamp = None
    if isinstance(document, dict):
        stamp = next((document[key] for key in _STAMPS if key in document), None)
    if isinstance(found, dict):
        if "Value" not in found:
            return UNREADABLE
        stamp = found.get("Time", stamp)
        found = found["Value"]
    return _reading(found, states)._replace(utc_ns=parse_time(stamp))


def read_plain(payload: bytes, states: Sequence[str]) -> Reading:
    """The number that is the whole message."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        return UNREADABLE
    try:
        return _reading(payload.decode(), states)
    except UnicodeDecodeError:
        return UNREADABLE


def _reading(found: Any, states: Sequence[str]) -> Reading:
    if found is None or found == "":
        return Reading(math.nan, status.GOOD, None)  # "no value", which is an answer
    number: float | None = None
    if isinstance(found, str):
        number = text_number(found, states)
    elif isinstance(found, (bool, int, float)):
        try:
            number = float(found)
        except OverflowError:
            number = math.inf
    return UNREADABLE if number is None else Reading(number, status.GOOD, None)


def parse_time(stamp: Any) -> int | None:
    """UTC nanoseconds of a stamp: ISO 8601 with zone, seconds or milliseconds since 1970."""
    if isinstance(stamp, (int, float)) and not isinstance(stamp, bool):
        if not 0 < stamp < 1e15:
            return None
        return plausible_utc_ns(round(stamp * (1e3 if stamp >= _FROM_MS else 1e6)) * 1000)
    match = _TIME.fullmatch(stamp.strip()) if isinstance(stamp, str) else None
    if match is None or not "1970" <= match[1] < "2262":  # numpy's nanoseconds end there
        return None
    try:
        local = np.datetime64(f"{match[1]}T{match[2].replace(',', '.')}", "ns")
    except ValueError:  # the 31st of February
        return None
    zone = match[3].replace(":", "")
    return plausible_utc_ns(int(local.astype(np.int64)) - _minutes(zone) * 60_000_000_000)


def _minutes(zone: str) -> int:
    if zone == "Z":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[3:5])
    return -minutes if zone[0] == "-" else minutes


# ---------------------------------------------------------------- writing


def command(channel: Channel, name: str, topic: str, plain: bool, value: float) -> bytes:
    """The message that sets a channel. Raises OutOfRange.

    `WriteText` with the number in place of ``{value}``; else, plain, the number; else
    ``{"<name>": number}``, on the seeds' request topic in the seeds' form.
    """
    raw = raw_value(channel, value)
    if channel.WriteText is not None:
        return channel.WriteText.replace(
            VALUE, raw if isinstance(raw, str) else _json(raw)
        ).encode()
    if plain:
        return (raw if isinstance(raw, str) else _json(raw)).encode()
    if topic.startswith(REQUEST_TOPIC):
        return request("W", {name: raw})
    return _json({name: raw}).encode()


def request(read_write: str, channels: Mapping[str, Any]) -> bytes:
    """A request in the seeds' form, e.g. ``{"Read/Write": "R", "Channels": {"Power": ""}}``."""
    return _json({"Read/Write": read_write, "Channels": dict(channels)}).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


# ---------------------------------------------------------------- topics


class Message(NamedTuple):
    """A message to be sent."""

    topic: str
    payload: bytes
    qos: int


class Place(NamedTuple):
    """Where a channel is.

    topic        that it is read from
    paths        to its value, the first that the document has; empty for plain messages
    name         of the channel for the device
    write_topic  that it is written to; empty where none is declared
    """

    topic: str
    paths: tuple[tuple[Step, ...], ...]
    name: str
    write_topic: str


def wildcard_of(topic: str) -> str:
    """``+``, ``#``, or nothing; raises ValueError where the wildcards make no sense."""
    levels = topic.split("/")
    wild = [level for level in levels if "+" in level or "#" in level]
    if len(wild) > 1 or (wild and wild[0] not in ("+", "#")):
        raise ValueError("A topic may have one wildcard, + for a level or # at its end.")
    if wild == ["#"] and levels[-1] != "#":
        raise ValueError("The wildcard # stands at the end of a topic.")
    return wild[0] if wild else ""


def topic_fault(topic: str) -> str:
    """What is wrong with a topic; empty where nothing is."""
    if not topic or len(topic.encode()) > TOPIC_BYTES_MAX or "\x00" in topic:
        return f"A topic has 1 to {TOPIC_BYTES_MAX} bytes and no NUL."
    try:
        wildcard_of(topic)
    except ValueError as error:
        return str(error)
    return ""


def place_of(tags: EquipmentTags, name: str, channel: Channel) -> Place:
    """Where a channel is, by topics that are in order. Raises ValueError with the reason."""
    read, write = tags.DataReadTopic or "", tags.DataWriteTopic or ""
    wild = {topic: wildcard_of(topic) for topic in (read, write)}
    text = None if channel.IOPoint is None else str(channel.IOPoint)
    part, path = "", text
    if any(wild.values()):
        if text is None:
            raise ValueError("The topic has a wildcard: say what stands there, '<part>:<path>'.")
        part, _, rest = text.partition(":")
        path = rest or None
        if not part or any(sign in part for sign in "+#\x00"):
            raise ValueError(f"'{part}' can't stand in a topic.")
        if "/" in part and "+" in wild.values():
            raise ValueError(f"'{part}' is more than the one level that + stands for.")
    read, write = (topic.replace(wild[topic] or "\x00", part) for topic in (read, write))
    if tags.Payload == "Plain":
        return Place(read, (), name, write)
    if path is None:
        # The seeds' servers name the equipment first: {"Opto": {"Cell_Voltage": {"Value": ...
        return Place(read, ((name,), (tags.EquipmentName, name)), name, write)
    steps = parse_path(path)
    if steps is None:
        raise ValueError(f"'{path}' is no path. Write for example power, a.b[0].c.")
    names = [step for step in steps if isinstance(step, str)]
    return Place(read, (steps,), names[-1] if names else name, write)


class TextReader:
    """Reads JSON documents or plain numbers, and writes them."""

    def __init__(
        self,
        instrument: Instrument,
        channels: Mapping[str, Channel],
        inbox: Inbox,
        clock: Clock,
    ) -> None:
        """`channels` are those that are read, in the order of the inbox's places."""
        tags = instrument.tags
        self._clock = clock
        self._inbox = inbox
        self._plain = tags.Payload == "Plain"
        self._channels = instrument.channels
        self._by_name = {n: place_of(tags, n, c) for n, c in instrument.channels.items()}
        self._rows: dict[str, list[tuple[int, Place, Sequence[str]]]] = {}
        for row, (name, channel) in enumerate(channels.items()):
            place = self._by_name[name]
            self._rows.setdefault(place.topic, []).append((row, place, channel.States))
        self.topics = tuple(self._rows)
        self._asks = {} if self._plain else self._requests(instrument, channels)
        self._due_ns: dict[str, int] = {}
        self.reset()

    def _requests(
        self, instrument: Instrument, channels: Mapping[str, Channel]
    ) -> dict[str, tuple[int, list[Message]]]:
        """The seeds' instrument servers send nothing unasked: scan class -> period, requests."""
        asked: dict[str, dict[str, list[str]]] = {}
        for name in channels:
            place = self._by_name[name]
            if place.write_topic.startswith(REQUEST_TOPIC):
                topics = asked.setdefault(instrument.points[name].scan_class, {})
                topics.setdefault(place.write_topic, []).append(place.name)
        return {
            scan_class: (
                instrument.periods_ns.get(scan_class, PERIOD_NS),
                [
                    Message(topic, request("R", dict.fromkeys(names, "")), 0)
                    for topic, names in topics.items()
                ],
            )
            for scan_class, topics in asked.items()
        }

    def reset(self) -> None:
        """A new connection."""
        self._due_ns = dict.fromkeys(self._asks, self._clock.monotonic_ns())

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message came in. One that is retained may be old: it is uncertain."""
        document: Any = None
        garbled = False
        rows = self._rows.get(topic, ())
        if rows and not self._plain:
            try:
                document = load(payload)
            except Garbled:
                garbled = True
        for row, place, states in rows:
            reading: Reading | None
            if garbled:
                reading = Reading(math.nan, status.BAD_DECODING_ERROR, None)
            elif self._plain:
                reading = read_plain(payload, states)
            else:
                found = (read_json(document, path, states) for path in place.paths)
                reading = next((r for r in found if r is not None), None)
            if reading is None:
                continue  # a device may send one value at a time
            old = retained and reading.code == status.GOOD
            code = status.UNCERTAIN_LAST_USABLE if old else reading.code
            self._inbox.put(row, reading.raw, code, reading.utc_ns)

    def due(self, now_ns: int) -> list[Message]:
        """What is to be sent now: the requests for values, on a grid."""
        messages: list[Message] = []
        for scan_class, due_ns in self._due_ns.items():
            if now_ns >= due_ns:
                period_ns, asks = self._asks[scan_class]
                messages += asks
                missed = (now_ns - due_ns) // period_ns
                self._due_ns[scan_class] = due_ns + (1 + missed) * period_ns
        return messages

    def due_ns(self) -> int | None:
        """When something will be due."""
        return min(self._due_ns.values(), default=None)

    def ready(self, point: PointDef) -> bool:
        """Everything is known from the start."""
        return True

    def command(self, point: PointDef, value: float) -> Message:
        """The message that sets a point. Raises OutOfRange."""
        channel, place = self._channels[point.channel], self._by_name[point.channel]
        payload = command(channel, place.name, place.write_topic, self._plain, value)
        return Message(place.write_topic, payload, 1)
