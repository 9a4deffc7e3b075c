"""The codec: lossless both ways, and deaf to everything that is no message of its own."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.records import RECORD, Batch, Birth, Event, Gap
from sync import wire
from tests.sync import support

CASES = sorted((Path(__file__).parents[1] / "cases" / "wire").glob("*.json"))
DOC = Path(__file__).parents[2] / "docs" / "wire.md"

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any batch: rows, events and gaps mixed, every bit pattern of a value, any stamp."""
    at = first = draw(st.integers(1, 2**62))
    seqs: list[int] = []
    events: list[Event] = []
    gaps: list[Gap] = []
    for kind in draw(st.lists(st.sampled_from("rrrreg"), min_size=1, max_size=30)):
        if kind == "r":
            seqs.append(at)
        elif kind == "e":
            body = draw(st.dictionaries(st.text(max_size=5), plain, max_size=3))
            events.append(Event(at, draw(st.integers(-(2**63), 2**63 - 1)), "alarm", body))
        else:
            length = draw(st.integers(1, 2**40))
            gaps.append(Gap(at, at + length - 1, draw(st.text(max_size=20))))
            at += length - 1
        at += 1
    if draw(st.booleans()):
        gaps.append(Gap(at, 0, "no farewell"))
        at += 1
    rows = np.zeros(len(seqs), dtype=RECORD)
    raw = draw(st.binary(min_size=32 * len(seqs), max_size=32 * len(seqs)))
    rows[:] = np.frombuffer(raw, dtype=RECORD)
    rows["seq"] = seqs
    if draw(st.booleans()):
        rows["status"] = 0
    return Batch(
        draw(st.integers(0, 2**63 - 1)), first, at - 1, "h", rows, tuple(events), tuple(gaps)
    )


def same(one: Batch, other: Batch) -> bool:
    """Equal, with values compared bit by bit (NaN has many of them)."""
    return (
        one.records.tobytes() == other.records.tobytes()
        and (one.epoch, one.first, one.last, one.birth)
        == (other.epoch, other.first, other.last, other.birth)
        and one.events == other.events
        and one.gaps == other.gaps
    )


@settings(max_examples=150, deadline=None)
@given(batches())
def test_a_frame_comes_back_bit_by_bit(batch: Batch) -> None:
    frame = wire.decode_frame(wire.encode_frame(batch, base=batch.first))
    assert frame.base == batch.first
    assert same(frame.batch, batch)


def test_a_large_frame_comes_back_and_is_small() -> None:
    batch = support.batch(1, 5000, events=(17, 4000), gaps=(Gap(100, 199, "lost"),))
    data = wire.encode_frame(batch, base=1)
    assert same(wire.decode_frame(data).batch, batch)
    assert len(data) < 5000 * 8


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_documented_vectors_hold(path: Path) -> None:
    case = json.loads(path.read_text())
    data = bytes.fromhex(case["hex"])
    decoded = getattr(wire, f"decode_{case['message']}")(data)
    assert describe(decoded) == case["fields"]
    assert case["hex"] in DOC.read_text().replace("\n", "")
    if case["message"] == "frame" and not path.stem.startswith("frame-codec-"):
        assert wire.encode_frame(decoded.batch, base=decoded.base) == data


def test_there_are_vectors_of_every_message() -> None:
    messages = {json.loads(path.read_text())["message"] for path in CASES}
    assert messages == {"frame", "birth", "presence", "ack"}


def describe(message: Any) -> dict[str, Any]:
    """A message as JSON, for vectors; NaN by its bits."""
    if isinstance(message, wire.Frame):
        batch = message.batch
        rows = [
            [
                int(r["seq"]),
                int(r["point"]),
                f"{int(r['status']):08x}",
                np.float64(r["value"]).tobytes()[::-1].hex(),
                int(r["utc_ns"]),
            ]
            for r in batch.records
        ]
        return {
            "base": message.base,
            "epoch": batch.epoch,
            "first": batch.first,
            "last": batch.last,
            "birth": batch.birth,
            "rows": rows,
            "events": [[e.seq, e.utc_ns, e.kind, dict(e.body)] for e in batch.events],
            "gaps": [[g.first, g.last, g.reason] for g in batch.gaps],
        }
    if isinstance(message, wire.Ack):
        return {
            "ack": [list(pair) for pair in message.contiguous.items()],
            "want": list(message.want),
            **({} if message.held is None else {"held": [list(span) for span in message.held]}),
        }
    if isinstance(message, wire.Death):
        return {"gateway": message.gateway}
    assert isinstance(message, Birth)
    return {
        "gateway": message.gateway,
        "epoch": message.epoch,
        "seq": message.seq,
        "hash": message.hash,
        "config_hash": message.config_hash,
        "utc_ns": message.utc_ns,
        "points": [dict(p) for p in message.points],
    }


GOOD_FRAME = wire.encode_frame(support.batch(5, 40, events=(7,), gaps=(Gap(9, 12, "x"),)), base=3)
GOOD = {
    "frame": GOOD_FRAME,
    "birth": wire.encode_birth(support.birth()),
    "ack": wire.encode_ack(wire.Ack({7: 99}, ("abc",), ((7, 120, 140),))),
}
DECODERS = {"frame": wire.decode_frame, "birth": wire.decode_birth, "ack": wire.decode_ack}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_wire_error(kind: str, data: bytes) -> None:
    with pytest.raises(wire.WireError):
        DECODERS[kind](data)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_mutated_message_is_refused_or_still_a_message(kind: str, data: st.DataObject) -> None:
    raw = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not raw:
            break
    try:
        DECODERS[kind](bytes(raw))
    except wire.WireError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_body_with_a_right_checksum_is_refused_or_a_batch(data: st.DataObject) -> None:
    raw = bytearray(msgpack.unpackb(GOOD_FRAME)["body"])
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        wire.decode_frame(wire.wrap_body(bytes(raw), base=3))
    except wire.WireError:
        pass


def test_every_cut_of_a_message_is_refused() -> None:
    for kind, data in GOOD.items():
        for length in range(len(data)):
            with pytest.raises(wire.WireError):
                DECODERS[kind](data[:length])


def body_of(**changes: Any) -> bytes:
    body = msgpack.unpackb(msgpack.unpackb(GOOD_FRAME)["body"])
    return wire.wrap_body(msgpack.packb(body | changes), base=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -1},
        {"epoch": 2**63},
        {"epoch": True},
        {"epoch": 1.0},
        {"first": 0},
        {"first": 45},
        {"last": 4},
        {"last": 45},
        {"rows": 34},
        {"rows": 2**31},
        {"rows": "35"},
        {"birth": ""},
        {"birth": b"abc"},
        {"birth": "a" * 200},
        {"status": -1},
        {"status": 2**32},
        {"status": None},
        {"columns": b""},
        {"codec": 4},
        {"codec": 1},
        {"spans": None},
        {"spans": ["x", 1]},
        {"spans": ["x", 0, b""]},
        {"spans": ["x", 1, b"\x01\x00\x03\x00"]},
        {"spans": ["x", 1, b"\x00\x01\x00\x40"]},
        {"spans": ["x", 10**9, b"\x00\x00"]},
        {"spans": ["over rows", 1, b"\x01\x00\x05\x00"]},
        {"spans": [b"x", 1, b"\x00\x00"]},
        {"codec": None},
        {"columns": zlib.compress(bytes(100_000_000))},
        {"codec": None, "columns": zlib.compress(bytes(100_000_000))},
        {"codec": None, "columns": zlib.compress(bytes(35 * 20)) + b"tail"},
        {"codec": None, "columns": zlib.compress(bytes(35 * 20))[:-2]},
        {"columns": zlib.compress(bytes(35 * 20)) + b"tail"},
        {"columns": zlib.compress(bytes(35 * 20))[:-2]},
        {"events": None},
        {"events": [[7, 0, "gateway"]]},
        {"events": [[4, 0, "gateway", {}]]},
        {"events": [[7, 0, "gateway", {1: 2}]]},
        {"events": [[7, 0, "gateway", []]]},
        {"events": [[7, 2**63, "gateway", {}]]},
        {"events": [[7, 0, "gateway", {}], [7, 0, "gateway", {}]]},
        {"events": [[7, 0, "gateway", {"x": [[[[[[[[[[1]]]]]]]]]]}]]},
        {"gaps": [[9, 12]]},
        {"gaps": [[9, 8, "x"]]},
        {"gaps": [[9, 0, "open in the middle"]]},
        {"gaps": [[9, 2**62, "x"]]},
        {"gaps": [[6, 9, "over the event"]]},
        {"gaps": [[9, 12, "x" * 1000]]},
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    wire.decode_frame(body_of())
    with pytest.raises(wire.WireError):
        wire.decode_frame(body_of(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"v": 2}, {"v": True}, {"v": None}, {"base": 0}, {"base": 46}, {"crc": 1}, {"body": "text"}],
)
def test_a_frame_with_a_wrong_envelope_is_refused(changes: dict[str, Any]) -> None:
    outer = msgpack.unpackb(GOOD_FRAME)
    with pytest.raises(wire.WireError):
        wire.decode_frame(msgpack.packb(outer | changes))


def test_a_frame_larger_than_a_broker_takes_is_refused_on_both_sides() -> None:
    batch = support.batch(1, wire.FRAME_ROWS_MAX)
    noise = np.random.default_rng(1).integers(-(2**62), 2**62, size=(2, wire.FRAME_ROWS_MAX))
    batch.records["value"], batch.records["utc_ns"] = noise
    with pytest.raises(wire.FrameTooLarge):
        wire.encode_frame(batch, base=1)
    with pytest.raises(wire.FrameTooLarge):
        wire.encode_frame(support.batch(1, wire.FRAME_ROWS_MAX + 1), base=1)
    with pytest.raises(wire.WireError):
        wire.decode_frame(bytes(wire.FRAME_BYTES_MAX + 1))


def test_a_birth_that_inflates_beyond_its_promise_is_refused() -> None:
    outer = msgpack.unpackb(GOOD["birth"])
    outer["points"] = zlib.compress(bytes(200_000_000))
    with pytest.raises(wire.WireError, match="promises"):
        wire.decode_birth(msgpack.packb(outer))


def test_thousands_of_gaps_take_few_bytes() -> None:
    rows = np.zeros(4000, dtype=RECORD)
    rows["seq"] = np.arange(1, 4001) * 20
    rows["point"] = 1
    gaps = tuple(Gap(n * 20 - 19, n * 20 - 1, "store over its quota") for n in range(1, 4001))
    batch = Batch(7, 1, 80_000, "h", rows, (), gaps)
    data = wire.encode_frame(batch, base=1)
    assert len(data) < 1000
    assert same(wire.decode_frame(data).batch, batch)


def test_a_batch_that_skips_a_number_is_not_encoded() -> None:
    good = support.batch(1, 10)
    rows = good.records[good.records["seq"] != 4]
    with pytest.raises(wire.WireError):
        wire.encode_frame(Batch(7, 1, 10, "h", rows), base=1)
    with pytest.raises(wire.WireError):
        wire.encode_frame(Batch(7, 1, 10, "h", good.records[::-1]), base=1)


def test_an_event_that_is_too_large_keeps_its_place_and_its_names() -> None:
    event = Event(1, 5, "alarm", {"text": "x" * (wire.EVENT_BYTES_MAX + 1), "level": "High"})
    batch = Batch(7, 1, 1, "", np.zeros(0, dtype=RECORD), (event,))
    (came,) = wire.decode_frame(wire.encode_frame(batch, base=1)).batch.events
    assert came.seq == 1
    assert came.body["names"] == ["text", "level"]
    assert came.body["too_large_bytes"] > wire.EVENT_BYTES_MAX


def test_an_event_that_msgpack_does_not_know_keeps_its_place_and_its_names() -> None:
    nested: dict[str, Any] = {}
    for _ in range(20):
        nested = {"deeper": nested}
    for body in ({"a": object()}, {"a": {1: 2}}, {"a": 2**70}, {"a": nested}):
        batch = Batch(7, 3, 3, "", np.zeros(0, dtype=RECORD), (Event(3, 5, "alarm", body),))
        (came,) = wire.decode_body(wire.encode_body(batch)).events
        assert (came.seq, came.kind, came.body["names"]) == (3, "alarm", ["a"])
        assert came.body["unreadable"]


@pytest.mark.parametrize(
    "bad",
    [
        {"epoch": -1},
        {"epoch": 2**63},
        {"birth": "b" * 200},
        {"birth": ""},
        {"first": 0},
        {"last": 10},
        {"events": (Event(40, 2**63, "alarm", {}),)},
    ],
)
def test_what_could_not_be_decoded_is_not_encoded(bad: dict[str, Any]) -> None:
    good = support.batch(5, 36, events=(40,))
    wire.encode_body(good)
    with pytest.raises(wire.WireError):
        wire.encode_body(dataclasses.replace(good, **bad))


def test_too_long_words_are_cut_not_refused() -> None:
    rows = np.zeros(0, dtype=RECORD)
    batch = Batch(7, 1, 2, "", rows, (Event(1, 5, "k" * 999, {}),), (Gap(2, 2, "r" * 999),))
    came = wire.decode_body(wire.encode_body(batch))
    assert len(came.events[0].kind) == wire.NAME_CHARS_MAX
    assert len(came.gaps[0].reason) == wire.REASON_CHARS_MAX


def test_a_death_is_told_from_a_birth() -> None:
    assert wire.decode_presence(wire.encode_death("lab")) == wire.Death("lab")
    assert wire.decode_presence(GOOD["birth"]) == support.birth()
    with pytest.raises(wire.WireError):
        wire.decode_birth(wire.encode_death("lab"))
