"""What travels between the edge and the cloud, as bytes. Pure: no socket, no clock, no store.

Four messages, each one msgpack map with the format version under ``v``: frame (a `Batch`),
birth (the point table), death (the last will) and acknowledgement. docs/wire.md describes them
byte for byte, with test vectors.

Decoding trusts nothing: lengths, ranges, types and sizes are checked before anything is built,
decompression is bounded by the size that the header promises, and whatever is wrong ends in a
`WireError`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch, Birth, Event, Gap
from sync import columns, plain
from sync.plain import WireError

VERSION: Final = 1
CODECS: Final = (2, columns.CODEC)  # of a frame's columns: what is read; the last is written

# Brokers refuse large messages; nats-server takes 1 MiB by default. The rest is headroom for
# topic and headers.
FRAME_BYTES_MAX: Final = 786_432
BIRTH_BYTES_MAX: Final = 1_000_000
ACK_BYTES_MAX: Final = 65_536

FRAME_ROWS_MAX: Final = 100_000
FRAME_EVENTS_MAX: Final = 100_000
FRAME_GAPS_MAX: Final = 10_000
SPANS_FROM: Final = 8  # gaps of one reason, from which on they travel as spans
_SIZES_MAX: Final = (FRAME_ROWS_MAX, FRAME_EVENTS_MAX, FRAME_GAPS_MAX)
EVENT_BYTES_MAX: Final = 65_536
EVENT_DEPTH_MAX: Final = 8
BIRTH_POINTS_MAX: Final = 1_000_000
BIRTH_UNPACKED_BYTES_MAX: Final = 64_000_000
ACK_EPOCHS_MAX: Final = 64
ACK_WANT_MAX: Final = 64
ACK_HELD_MAX: Final = 512
NAME_CHARS_MAX: Final = 128
REASON_CHARS_MAX: Final = 400

NUMBER_MAX: Final = 2**63 - 1  # epochs and sequences fit a signed 64-bit integer everywhere
_NUMBER_MIN: Final = -(2**63)


class FrameTooLarge(WireError):
    """The batch makes more than `FRAME_BYTES_MAX` bytes or `FRAME_ROWS_MAX` rows: split it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A batch as it travels.

    `base` is the lowest sequence of the batch's epoch that the sender still holds: everything
    below it was acknowledged or will never come.
    """

    batch: Batch
    base: int


@dataclass(frozen=True, slots=True)
class Death:
    """The gateway left, or its broker noticed that it is gone."""

    gateway: str


@dataclass(frozen=True, slots=True)
class Ack:
    """What the historian holds durably.

    contiguous  epoch -> highest sequence up to which nothing is missing
    want        hashes of births that frames need and the historian doesn't know
    held        (epoch, first, last) of what was committed since the last acknowledgement, also
                beyond a hole; None: this side never says so
    """

    contiguous: Mapping[int, int] = field(default_factory=dict)
    want: tuple[str, ...] = ()
    held: tuple[tuple[int, int, int], ...] | None = None


# ---------------------------------------------------------------- frames


def encode_frame(batch: Batch, *, base: int) -> bytes:
    """A batch as the payload of one message. Raises WireError, FrameTooLarge."""
    return wrap_body(encode_body(batch), base=base)


def decode_frame(data: bytes) -> Frame:
    """The inverse of `encode_frame`. Raises WireError and nothing else."""
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"frame of {len(data)} bytes, {FRAME_BYTES_MAX} are allowed")
    outer = plain.unpack_map(data, "frame")
    _check_version(outer)
    base = plain.integer(outer, "base", 1, NUMBER_MAX)
    body = plain.binary(outer, "body")
    if zlib.crc32(body) != plain.integer(outer, "crc", 0, 2**32 - 1):
        raise WireError("frame: the checksum is not that of the body")
    batch = decode_body(body)
    if base > batch.last + 1:
        raise WireError(f"frame: base {base} lies behind the frame, which ends at {batch.last}")
    return Frame(batch, base)


def without_base(data: bytes) -> bytes:
    """A frame that says nothing of what its sender holds: anything below it may still come."""
    return plain.pack({**plain.unpack_map(data, "frame"), "base": 1})


def wrap_body(body: bytes, *, base: int) -> bytes:
    """The payload of a body that `encode_body` made; the store keeps bodies.

    `base` moves with every acknowledgement, so it stands outside of the stored part.
    """
    if not 1 <= base <= NUMBER_MAX:
        raise WireError(f"frame: base {base} is no sequence")
    return plain.pack({"v": VERSION, "base": base, "crc": zlib.crc32(body), "body": body})


def encode_body(batch: Batch) -> bytes:
    """The part of a frame that never changes. Raises WireError, FrameTooLarge."""
    rows = batch.records
    sizes = (len(rows), len(batch.events), len(batch.gaps))
    if any(size > most for size, most in zip(sizes, _SIZES_MAX, strict=True)):
        raise FrameTooLarge(f"batch of {sizes} rows, events, gaps; {_SIZES_MAX} are allowed")
    if not 0 <= batch.epoch <= NUMBER_MAX or len(batch.birth) > NAME_CHARS_MAX:
        raise WireError(f"batch: epoch {batch.epoch} or birth {batch.birth!r} is out of range")
    numbers = _row_numbers(batch.first, batch.last, batch.events, batch.gaps, len(rows))
    if not np.array_equal(numbers, rows["seq"]):
        raise WireError("batch: rows, events and gaps don't take every number once, ascending")
    if len(rows) and not batch.birth:
        raise WireError("batch: rows without the birth that names their points")
    status = rows["status"]
    constant = int(status[0]) if len(rows) and bool((status == status[0]).all()) else None
    body = plain.pack(
        {
            "epoch": batch.epoch,
            "first": batch.first,
            "last": batch.last,
            "birth": batch.birth,
            "rows": len(rows),
            "status": constant,
            "codec": columns.CODEC,
            "columns": columns.encode(rows, constant) if len(rows) else b"",
            "events": [_event_item(event) for event in batch.events],
            **_gap_items(batch.first, batch.gaps),
        }
    )
    if len(body) > FRAME_BYTES_MAX - 64:
        raise FrameTooLarge(f"batch makes {len(body)} bytes, {FRAME_BYTES_MAX} are allowed")
    return body


def decode_body(body: bytes) -> Batch:
    """The inverse of `encode_body`. Raises WireError and nothing else."""
    data = plain.unpack_map(body, "frame")
    epoch = plain.integer(data, "epoch", 0, NUMBER_MAX)
    first = plain.integer(data, "first", 1, NUMBER_MAX)
    last = plain.integer(data, "last", first, NUMBER_MAX)
    birth = plain.text(data, "birth", NAME_CHARS_MAX)
    count = plain.integer(data, "rows", 0, FRAME_ROWS_MAX)
    events = tuple(_event(item) for item in plain.array(data, "events", FRAME_EVENTS_MAX))
    gaps = tuple(_gap(item) for item in plain.array(data, "gaps", FRAME_GAPS_MAX))
    if "spans" in data:
        gaps = tuple(sorted((*gaps, *_spans(first, last, data)), key=lambda gap: gap.first))
    rows = np.zeros(count, dtype=RECORD)
    rows["seq"] = _row_numbers(first, last, events, gaps, count)
    if count:
        if not birth:
            raise WireError("frame: rows without a birth")
        _fill_columns(rows, data)
    elif plain.binary(data, "columns"):
        raise WireError("frame: columns without rows")
    rows.flags.writeable = False
    return Batch(epoch, first, last, birth, rows, events, gaps)


def _row_numbers(
    first: int, last: int, events: Sequence[Event], gaps: Sequence[Gap], rows: int
) -> NDArray[np.uint64]:
    """The numbers of `first` to `last` that no event and no gap takes: (rows,) ascending.

    A gap with an open end (`last` = 0) takes its first number only, and that is the batch's
    last: nothing follows it in its epoch.
    """
    if not 1 <= first <= last <= NUMBER_MAX:
        raise WireError(f"batch: {first} to {last} is no range of sequences")
    taken = [(event.seq, event.seq) for event in events]
    for gap in gaps:
        if gap.last == 0 and gap.first != last:
            raise WireError("batch: a gap with an open end must be the last number")
        taken.append((gap.first, gap.last or gap.first))
    taken.sort()
    starts: list[int] = []
    runs: list[int] = []
    at = first
    for low, high in taken:
        if low < at or high < low or high > last:
            raise WireError("batch: events and gaps overlap or lie outside of the batch")
        starts.append(at)
        runs.append(low - at)
        at = high + 1
    starts.append(at)
    runs.append(last + 1 - at)
    if sum(runs) != rows:
        raise WireError(f"batch: {rows} rows for {sum(runs)} numbers")
    before = np.cumsum([0, *runs[:-1]])
    offsets = np.array(starts, dtype=np.uint64) - before.astype(np.uint64)
    numbers: NDArray[np.uint64] = np.repeat(offsets, runs)
    numbers += np.arange(rows, dtype=np.uint64)
    return numbers


def _fill_columns(rows: NDArray[np.void], data: Mapping[str, Any]) -> None:
    constant = data.get("status")
    if constant is not None:
        constant = plain.integer(data, "status", 0, 2**32 - 1)
    block = plain.binary(data, "columns")
    if data.get("codec") is None:  # a frame that an older version has stored
        columns.decode_version_1(block, rows, constant)
        return
    codec = plain.integer(data, "codec", CODECS[0], CODECS[-1])
    columns.decode(block, rows, constant, codec=codec)


# ---------------------------------------------------------------- events and gaps


def _event(item: object) -> Event:
    if not isinstance(item, list) or len(item) != 4:
        raise WireError("frame: an event is [seq, utc_ns, kind, body]")
    seq, utc_ns, kind, body = item
    named = {"seq": seq, "utc_ns": utc_ns, "kind": kind}
    if not isinstance(body, dict):
        raise WireError("frame: the body of an event is a map")
    plain.check_plain(body, EVENT_DEPTH_MAX)
    return Event(
        plain.integer(named, "seq", 1, NUMBER_MAX),
        plain.integer(named, "utc_ns", _NUMBER_MIN, NUMBER_MAX),
        plain.text(named, "kind", NAME_CHARS_MAX),
        body,
    )


def _gap(item: object) -> Gap:
    if not isinstance(item, list) or len(item) != 3:
        raise WireError("frame: a gap is [first, last, reason]")
    named = dict(zip(("first", "last", "reason"), item, strict=True))
    return Gap(
        plain.integer(named, "first", 1, NUMBER_MAX),
        plain.integer(named, "last", 0, NUMBER_MAX),
        plain.text(named, "reason", REASON_CHARS_MAX),
    )


def _gap_items(first: int, gaps: Sequence[Gap]) -> dict[str, Any]:
    """Gaps as they travel: many of one reason as spans, any others one by one.

    What thins measurements out leaves a gap between any two rows that it kept.
    """
    reasons = Counter(gap.reason for gap in gaps if gap.last)
    reason, count = reasons.most_common(1)[0] if reasons else ("", 0)
    dense = count >= SPANS_FROM
    found: dict[str, Any] = {
        "gaps": [
            [g.first, g.last, g.reason[:REASON_CHARS_MAX]]
            for g in gaps
            if not (dense and g.last and g.reason == reason)
        ]
    }
    if dense:
        pairs = sorted((g.first, g.last) for g in gaps if g.last and g.reason == reason)
        block = columns.encode_spans(first, np.array(pairs, dtype=np.int64))
        found["spans"] = [reason[:REASON_CHARS_MAX], count, block]
    return found


def _spans(first: int, last: int, data: Mapping[str, Any]) -> list[Gap]:
    item = data["spans"]
    if not isinstance(item, list) or len(item) != 3:
        raise WireError("frame: spans is [reason, count, columns]")
    named = dict(zip(("reason", "count", "columns"), item, strict=True))
    reason = plain.text(named, "reason", REASON_CHARS_MAX)
    count = plain.integer(named, "count", 1, FRAME_GAPS_MAX)
    pairs = columns.decode_spans(plain.binary(named, "columns"), first, last, count)
    return [Gap(low, high, reason) for low, high in pairs]


def _event_item(event: Event) -> list[Any]:
    """An event as it travels. What can't travel of its body is replaced by the body's names.

    An event is never dropped, and one monstrous event must not hold up all that follow.
    """
    body = dict(event.body)
    names = [str(name)[:NAME_CHARS_MAX] for name in body][:32]
    try:
        plain.check_plain(body, EVENT_DEPTH_MAX)
        size = len(plain.pack(body))
        if size > EVENT_BYTES_MAX:
            body = {"too_large_bytes": size, "names": names}
    except WireError as error:
        body = {"unreadable": str(error)[:REASON_CHARS_MAX], "names": names}
    named = {"utc_ns": event.utc_ns}
    plain.integer(named, "utc_ns", _NUMBER_MIN, NUMBER_MAX)
    return [event.seq, event.utc_ns, event.kind[:NAME_CHARS_MAX], body]


# ---------------------------------------------------------------- birth, death, acknowledgement


def encode_birth(birth: Birth) -> bytes:
    """The point table as the payload of one message. Raises WireError."""
    points = plain.pack([dict(point) for point in birth.points])
    if len(points) > BIRTH_UNPACKED_BYTES_MAX or len(birth.points) > BIRTH_POINTS_MAX:
        raise WireError(f"birth of {len(birth.points)} points is too large")
    data = plain.pack(
        {
            "v": VERSION,
            "kind": "birth",
            "gateway": birth.gateway,
            "epoch": birth.epoch,
            "seq": birth.seq,
            "hash": birth.hash,
            "config_hash": birth.config_hash,
            "utc_ns": birth.utc_ns,
            "size": len(points),
            "points": zlib.compress(points, 6),
        }
    )
    if len(data) > BIRTH_BYTES_MAX:
        raise WireError(f"birth makes {len(data)} bytes, {BIRTH_BYTES_MAX} are allowed")
    return data


def decode_birth(data: bytes) -> Birth:
    """The inverse of `encode_birth`. Raises WireError and nothing else."""
    presence = decode_presence(data)
    if isinstance(presence, Death):
        raise WireError("a death where a birth is expected")
    return presence


def encode_death(gateway: str) -> bytes:
    """The last will of a gateway, for the topic of its birth."""
    return plain.pack({"v": VERSION, "kind": "death", "gateway": gateway})


def decode_presence(data: bytes) -> Birth | Death:
    """What stands on the birth topic: a birth or a death. Raises WireError and nothing else."""
    if len(data) > BIRTH_BYTES_MAX:
        raise WireError(f"birth of {len(data)} bytes, {BIRTH_BYTES_MAX} are allowed")
    outer = plain.unpack_map(data, "birth")
    _check_version(outer)
    gateway = plain.text(outer, "gateway", NAME_CHARS_MAX)
    if outer.get("kind") == "death":
        return Death(gateway)
    if outer.get("kind") != "birth":
        raise WireError("birth: kind is neither birth nor death")
    size = plain.integer(outer, "size", 1, BIRTH_UNPACKED_BYTES_MAX)
    points = plain.unpack(columns.inflate(plain.binary(outer, "points"), size), "birth")
    if not isinstance(points, list) or len(points) > BIRTH_POINTS_MAX:
        raise WireError("birth: points is a list of maps")
    for point in points:
        if not isinstance(point, dict):
            raise WireError("birth: points is a list of maps")
        plain.check_plain(point, 2)
        plain.integer(point, "index", 0, 2**32 - 1)
        plain.text(point, "tag", 4 * NAME_CHARS_MAX)
    return Birth(
        gateway=gateway,
        epoch=plain.integer(outer, "epoch", 0, NUMBER_MAX),
        seq=plain.integer(outer, "seq", 0, NUMBER_MAX),
        hash=plain.text(outer, "hash", NAME_CHARS_MAX),
        config_hash=plain.text(outer, "config_hash", NAME_CHARS_MAX),
        utc_ns=plain.integer(outer, "utc_ns", _NUMBER_MIN, NUMBER_MAX),
        points=tuple(points),
    )


def encode_ack(ack: Ack) -> bytes:
    """An acknowledgement as the payload of one message. Raises WireError."""
    if len(ack.contiguous) > ACK_EPOCHS_MAX or len(ack.want) > ACK_WANT_MAX:
        raise WireError("acknowledgement: too many epochs or births")
    pairs = [[epoch, seq] for epoch, seq in ack.contiguous.items()]
    found: dict[str, Any] = {"v": VERSION, "ack": pairs, "want": list(ack.want)}
    if ack.held is not None:
        if len(ack.held) > ACK_HELD_MAX:
            raise WireError("acknowledgement: too many spans")
        found["held"] = [list(span) for span in ack.held]
    return plain.pack(found)


def decode_ack(data: bytes) -> Ack:
    """The inverse of `encode_ack`. Raises WireError and nothing else."""
    if len(data) > ACK_BYTES_MAX:
        raise WireError(f"acknowledgement of {len(data)} bytes")
    outer = plain.unpack_map(data, "acknowledgement")
    _check_version(outer)
    contiguous: dict[int, int] = {}
    for pair in plain.array(outer, "ack", ACK_EPOCHS_MAX):
        if not isinstance(pair, list) or len(pair) != 2:
            raise WireError("acknowledgement: ack is a list of [epoch, sequence]")
        named = {"epoch": pair[0], "seq": pair[1]}
        epoch = plain.integer(named, "epoch", 0, NUMBER_MAX)
        contiguous[epoch] = plain.integer(named, "seq", 0, NUMBER_MAX)
    want = [
        plain.text({"want": name}, "want", NAME_CHARS_MAX)
        for name in plain.array(outer, "want", ACK_WANT_MAX)
    ]
    return Ack(contiguous, tuple(want), _held(outer) if "held" in outer else None)


def _held(data: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    held = []
    for span in plain.array(data, "held", ACK_HELD_MAX):
        if not isinstance(span, list) or len(span) != 3:
            raise WireError("acknowledgement: held is a list of [epoch, first, last]")
        named = dict(zip(("epoch", "first", "last"), span, strict=True))
        epoch = plain.integer(named, "epoch", 0, NUMBER_MAX)
        first = plain.integer(named, "first", 1, NUMBER_MAX)
        held.append((epoch, first, plain.integer(named, "last", first, NUMBER_MAX)))
    return tuple(held)


def _check_version(data: Mapping[str, Any]) -> None:
    version = data.get("v")
    if version != VERSION or isinstance(version, bool):
        raise WireError(f"format version {version!r}; this side speaks {VERSION}")
