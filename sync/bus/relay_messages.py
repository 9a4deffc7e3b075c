"""The messages of the seed's site bus, ``Relay/...``: what is said and what is asked. Pure.

Byte for byte the form of the instrument servers of idaholab/node-red (commit b83beab0), which
write Python's `json.dumps` of plain dicts; their readers look values up by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from config.model import REQUEST_TOPIC
from config.points import switch_number
from config.site_bus import DATA_TOPIC

REQUEST: Final = REQUEST_TOPIC
DATA: Final = DATA_TOPIC
SERVER_ISSUE: Final = "Relay/ServerIssue/"
COMM_ISSUE: Final = "Relay/CommIssue/"
POISON_PILL: Final = "Relay/PoisonPill/"
ALIVE: Final = "Relay/Alive/"  # with the slash, and nothing behind it

REQUEST_BYTES_MAX: Final = 64 * 1024
REQUEST_CHANNELS_MAX: Final = 500
ISSUE_CHARS_MAX: Final = 400
SECOND_NS: Final = 1_000_000_000


class BadRequest(Exception):
    """A message on the bus that asks for nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of an equipment: channels, with their values where it is a write."""

    write: bool
    channels: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """A value for the bus; `detail` stands behind the seed's two names."""

    value: float | int
    utc_ns: int
    detail: Mapping[str, str]


def stamp(utc_ns: int) -> str:
    """``2025-10-14 11:51:44``, in UTC: the seed's form, which has no place for a zone."""
    return str(np.datetime64(utc_ns // SECOND_NS, "s")).replace("T", " ")


def stamp_exact(utc_ns: int) -> str:
    """``2025-10-14T11:51:44.123Z``."""
    return f"{np.datetime64(utc_ns // 1_000_000, 'ms')}Z"


def alive(equipment: str) -> bytes:
    """What a server says of itself when it has connected."""
    return json.dumps({"success?": "totally", "Instrument": equipment}).encode()


def issue(text: str) -> bytes:
    """A trouble: a JSON string, of bounded length."""
    return json.dumps(text[:ISSUE_CHARS_MAX]).encode()


def channel_issue(equipment: str, doing: str, channel: str, reason: str) -> bytes:
    """A trouble with one channel. The seed's text leaves the channel out."""
    return issue(f"Issue with {equipment} {doing} {channel}: {reason}")


def bad_request(reason: str) -> bytes:
    """The seed's words for a message that it can't use."""
    return issue(f"[Received bad message or instrument comms: {reason}]")


def data(equipment: str, readings: Mapping[str, Reading]) -> bytes:
    """Values of an equipment; an empty map where none is good."""
    channels = {
        name: {"Value": r.value, "Time": stamp(r.utc_ns), **r.detail}
        for name, r in readings.items()
    }
    return json.dumps({equipment: channels}).encode()


def _no_constant(name: str) -> float:
    raise BadRequest(f"{name} is no number of JSON")


def parse_request(payload: bytes) -> Request:
    """A request taken apart. Raises BadRequest."""
    if len(payload) > REQUEST_BYTES_MAX:
        raise BadRequest(f"a request of {len(payload)} bytes")
    try:
        message = json.loads(payload, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"no JSON at {where}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"no text in {error.encoding} at byte {error.start + 1}") from None
    except RecursionError:
        raise BadRequest("no JSON: nested too deeply") from None
    except ValueError:  # what Python refuses to make a whole number of
        raise BadRequest("a number has too many digits") from None
    if not isinstance(message, dict):
        raise BadRequest("a request is an object")
    kind, channels = message.get("Read/Write"), message.get("Channels")
    if kind not in ("R", "W"):
        raise BadRequest('"Read/Write" is "R" or "W"')
    if not isinstance(channels, dict) or not channels:
        raise BadRequest('"Channels" is an object, {"<channel>": <value>}')
    if len(channels) > REQUEST_CHANNELS_MAX:
        raise BadRequest(f"more than {REQUEST_CHANNELS_MAX} channels")
    return Request(kind == "W", channels)


def number_of(point: Mapping[str, Any], value: Any) -> float:
    """The number that a request's value stands for at a point. Raises BadRequest.

    The seed's own rules write "OFF" and "ON"; a discrete point also takes the names of its states.
    """
    if isinstance(value, str):
        text = value.strip()
        named = switch_number(tuple(point["states"]), text) if point["kind"] == "discrete" else None
        if named is not None:
            return float(named)
        try:
            number = float("" if "_" in text else text)  # 1_5 is a slip, not 15
        except ValueError:
            known = ", ".join(point["states"]) or "a number, ON or OFF"
            expected = known if point["kind"] == "discrete" else "a number"
            raise BadRequest(f"{value[:40]!r} is none of its values; expected {expected}") from None
    elif isinstance(value, bool) and point["kind"] != "discrete":
        raise BadRequest(f"{json.dumps(value)} is none of its values; expected a number")
    elif isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise BadRequest("it has no value")
    if not math.isfinite(number):
        raise BadRequest("not a finite number")
    return number
