"""Signed messages of services: the envelope of commands, schedules and queries. Pure.

On the wire a message is a msgpack map of four: format version ``v``, the name of the ``key``, the
``signature`` and the ``body``. The body is bytes, themselves a msgpack map (the envelope), and is
signed as it stands, so that nobody has to agree on one way to encode a map. The signature is
Ed25519 (RFC 8032) over `DOMAIN` and the body: a signature that was made for anything else is none
here. docs/wire.md describes it byte for byte, with test vectors.

Whose keys count, and for which points, stands in config/command_keys.py; whether a message is in
time, and new, is decided in sync/remote/inbox.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.core.schedule import POINTS_MAX
from sync import plain
from sync.plain import WireError

VERSION: Final = 1
DOMAIN: Final = b"gatepost signed message 1\0"  # stands before what is signed, nowhere else
SIGNATURE_BYTES: Final = 64
COMMAND, SCHEDULE, QUERY = TYPES = ("command", "schedule", "query")
WRITE: Final = "write"  # the action of a write that names no other

MESSAGE_BYTES_MAX: Final = 786_432  # as a frame: it passes brokers with a limit of 1 MiB
KEYS_MAX: Final = 16  # of the outer map, which anybody can make
PAYLOAD_DEPTH_MAX: Final = 6
MAPS_MAX: Final = 256  # of an envelope; a command of 64 writes has 65
ID_CHARS_MAX: Final = 64
KEY_CHARS_MAX: Final = 64  # also of the site
SOURCE_CHARS_MAX: Final = 128
TAG_CHARS_MAX: Final = 256  # as on the local stream
ACTION_CHARS_MAX: Final = 64
COMMENT_CHARS_MAX: Final = 1_000
WRITES_MAX: Final = 64  # points that one command sets
QUERIES_MAX: Final = 64  # commands that one query asks about
TIME_NS_MAX: Final = 2**63 - 1

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")  # no "/": `writes` number with it
_ENVELOPE: Final = frozenset(("id", "time", "source", "destination", "type", "expires", "payload"))
_WRITE: Final = frozenset(("tag", "value", "lease_ns", "release", "action", "comment"))


@dataclass(frozen=True, slots=True)
class Signed:
    """A message as it came, its signature not proven yet."""

    key: str
    signature: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a service says: the seeds' envelope.

    id           unique; a message with an id that was seen before is not carried out again
    time_ns      when it was issued, UTC, by the service's clock
    source       who asks, free text for the audit
    destination  the site that it is for
    type         ``command``, ``schedule`` or ``query``
    expires_ns   UTC; behind it nobody may begin to carry the message out
    payload      what is asked for, by its type; see `writes_of`, `tags_of`, `asked_of`
    """

    id: str
    time_ns: int
    source: str
    destination: str
    type: str
    expires_ns: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Write:
    """One wish of a command; its receipts carry ``<id of the message>/<number from 1>``.

    value     in engineering units
    lease_ns  how long the setpoint holds from its acceptance
    release   give the point back; `value` is ignored
    action    ``write``, or what to do with a rule's point
    """

    tag: str
    value: float
    lease_ns: int
    release: bool
    action: str
    comment: str


# ---------------------------------------------------------------- bytes


def encode(envelope: Envelope) -> bytes:
    """The body of a message. Raises WireError."""
    body = plain.pack(
        {
            "id": envelope.id,
            "time": envelope.time_ns,
            "source": envelope.source,
            "destination": envelope.destination,
            "type": envelope.type,
            "expires": envelope.expires_ns,
            "payload": envelope.payload,
        }
    )
    decode(body)  # what a gateway would refuse is refused here
    return body


def decode(body: bytes) -> Envelope:
    """The inverse of `encode`; the payload is plain, and otherwise not looked at.

    Raises WireError and nothing else.
    """
    data = _unpack_map(body, "body", MAPS_MAX)
    _only(data, _ENVELOPE, "body")
    payload = data.get("payload")
    plain.check_plain(payload, PAYLOAD_DEPTH_MAX)
    name = plain.text(data, "id", ID_CHARS_MAX)
    if not _ID.fullmatch(name):
        raise WireError("id: use 1 to 64 letters, digits, '.', '_', ':' and '-'")
    envelope = Envelope(
        id=name,
        time_ns=plain.integer(data, "time", 1, TIME_NS_MAX),
        source=_printable(data, "source", SOURCE_CHARS_MAX),
        destination=plain.text(data, "destination", KEY_CHARS_MAX),
        type=plain.text(data, "type", KEY_CHARS_MAX),
        expires_ns=plain.integer(data, "expires", 1, TIME_NS_MAX),
        payload=payload,
    )
    if envelope.type not in TYPES:
        raise WireError(f"type: {envelope.type!r} is none of {', '.join(TYPES)}")
    if envelope.expires_ns <= envelope.time_ns:
        raise WireError("expires: not later than time")
    return envelope


def sign(body: bytes, key: str, private: Ed25519PrivateKey) -> bytes:
    """A message for the topic: `body` with the name and signature of a key. Raises WireError."""
    signature = private.sign(DOMAIN + body)
    message = plain.pack({"v": VERSION, "key": key, "signature": signature, "body": body})
    unwrap(message)
    return message


def unwrap(data: bytes) -> Signed:
    """A message as it came; nothing in it is proven. Raises WireError and nothing else."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise WireError(f"message of {len(data)} bytes, {MESSAGE_BYTES_MAX} are allowed")
    outer = _unpack_map(data, "message", 1, max_array_len=0, max_map_len=KEYS_MAX)
    version = outer.get("v")
    if version != VERSION or isinstance(version, bool):
        raise WireError(f"format version {version!r}; this side speaks {VERSION}")
    signature = plain.binary(outer, "signature")
    if len(signature) != SIGNATURE_BYTES:
        raise WireError(f"signature: {len(signature)} bytes, not {SIGNATURE_BYTES}")
    key = _printable(outer, "key", KEY_CHARS_MAX)
    return Signed(key, signature, plain.binary(outer, "body"))


def verify(message: Signed, public: bytes) -> bool:
    """True where the key with these 32 public bytes signed the message's body."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(message.signature, DOMAIN + message.body)
    except (InvalidSignature, ValueError):  # ValueError: no public key
        return False
    return True


# ---------------------------------------------------------------- payloads


def writes_of(envelope: Envelope) -> tuple[Write, ...]:
    """The wishes of a command: its payload is one of them or a list. Raises WireError."""
    payload = envelope.payload
    items = payload if isinstance(payload, list) else [payload]
    if not 1 <= len(items) <= WRITES_MAX:
        raise WireError(f"payload: {len(items)} writes; 1 to {WRITES_MAX} are allowed")
    return tuple(_write(item) for item in items)


def _write(item: object) -> Write:
    if not isinstance(item, dict):
        raise WireError("payload: a write is a map with tag, value, lease_ns")
    _only(item, _WRITE, "payload")
    item = {"lease_ns": 0, "release": False, "action": WRITE, "comment": "", **item}
    if item["release"] is True or item["action"] != WRITE:
        item.setdefault("value", 0.0)  # and to nothing else: a point would be set to it
    value, release = item.get("value"), item["release"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError("payload: value is no number")
    if not isinstance(release, bool):
        raise WireError("payload: release is neither true nor false")
    if not math.isfinite(value):
        raise WireError("payload: value is not a finite number")
    return Write(
        tag=_tag(item.get("tag")),
        value=float(value),
        lease_ns=plain.integer(item, "lease_ns", 0, TIME_NS_MAX),
        release=release,
        action=_printable(item, "action", ACTION_CHARS_MAX),
        comment=_printable(item, "comment", COMMENT_CHARS_MAX),
    )


def tags_of(envelope: Envelope) -> tuple[str, ...]:
    """The points that a command or a schedule would set; a query sets none. Raises WireError.

    Of a schedule only the names are read: gateway/core/schedule.py knows the rest.
    """
    if envelope.type == COMMAND:
        return tuple(write.tag for write in writes_of(envelope))
    if envelope.type == QUERY:
        return ()
    payload = envelope.payload
    points = payload.get("points") if isinstance(payload, dict) else None
    if not isinstance(points, dict):
        raise WireError("payload: a schedule is a map with schedule, kind, points, end_utc_ns")
    if len(points) > POINTS_MAX:
        raise WireError(f"payload: {len(points)} points; {POINTS_MAX} are allowed")
    return tuple(_tag(tag) for tag in points)


def asked_of(envelope: Envelope) -> tuple[str, ...]:
    """The ids of the messages that a query asks about: payload ``{"commands": [id, ...]}``.

    Raises WireError.
    """
    payload = envelope.payload
    if not isinstance(payload, dict):
        raise WireError("payload: a query is a map with commands, a list of ids")
    names = plain.array(payload, "commands", QUERIES_MAX)
    return tuple(plain.text({"id": name}, "id", ID_CHARS_MAX) for name in names)


# ---------------------------------------------------------------- distrust


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in a map")  # which of them counts would be a guess
    return made


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _unpack_map(data: bytes, what: str, maps_max: int, **limits: int) -> dict[str, Any]:
    """With one more map than `maps_max` it ends at once: thousands keep their reader busy."""
    left = maps_max

    def hook(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {maps_max} maps")
        return _once(pairs)

    try:
        value = msgpack.unpackb(data, object_pairs_hook=hook, ext_hook=_no_extension, **limits)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"{what}: no msgpack: {error}") from None
    if not isinstance(value, dict):
        raise WireError(f"{what}: not a map")
    return value


def _only(data: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    """Raises WireError for a key that this version doesn't know: it might change the meaning."""
    unknown = [str(name)[:32] for name in data if name not in known]
    if unknown:
        raise WireError(f"{what}: unknown key {unknown[0]!r}")


def _printable(data: Mapping[str, Any], name: str, chars_max: int) -> str:
    text = plain.text(data, name, chars_max)
    if not text.isprintable():
        raise WireError(f"{name}: it holds control characters")
    return text


def _tag(value: object) -> str:
    tag = _printable({"tag": value}, "tag", TAG_CHARS_MAX)
    if not tag:
        raise WireError("tag: it is empty")
    return tag
