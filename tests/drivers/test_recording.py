"""Recordings: read back, damaged, and played as devices."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.sim import recording
from drivers.sim.recording import (
    Frame,
    Recording,
    RecordingError,
    RecordingServer,
    data_keys,
    exchanges,
    load_recording,
)

HEAD = {"recording": "gatepost", "version": 1, "device": "Dev", "protocol": "SCPI"}


def lines(*content: Any) -> str:
    return "".join(json.dumps(line) + "\n" for line in content)


# ---------------------------------------------------------------- files


@given(st.binary(max_size=60))
def test_bytes_come_back_as_they_went(data: bytes) -> None:
    keys = data_keys(data)
    json.dumps(keys)
    back = bytes.fromhex(keys["hex"]) if "hex" in keys else keys["text"].encode("ascii")
    assert back == data


def test_a_recording_is_read(tmp_path: Path) -> None:
    file = tmp_path / "r"
    file.write_text(
        lines(
            HEAD,
            {"t_ms": 1.5, "sent": True, "text": "VOLT?\n", "meaning": "query VOLT?"},
            {"t_ms": 2, "sent": False, "hex": "35FF0a"},
            {"t_ms": 2, "values": {"Dev.V": None}},
            {"t_ms": 3, "note": "Dev is lost"},
        )
    )
    read = load_recording(file)
    assert (read.device, read.protocol) == ("Dev", "SCPI")
    assert read.frames == [Frame(1.5, True, b"VOLT?\n"), Frame(2.0, False, b"5\xff\n")]


FRAME = {"t_ms": 1, "sent": True, "text": "V?\n"}


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", 1, "no recording"),
        ("{}\n", 1, "no recording"),
        (lines(HEAD | {"version": 2}), 1, "version 2"),
        (lines(HEAD) + "no\n", 2, "no JSON"),
        (lines(HEAD, FRAME) + '{"t_ms": 1, "se', 3, "cut off here"),
        (lines(HEAD) + "[1]\n", 2, "JSON object"),
        (lines(HEAD) + "\xff\xfe\n", 2, "no JSON"),
        (lines(HEAD, FRAME | {"t_ms": -1}), 2, "t_ms"),
        (lines(HEAD, FRAME | {"t_ms": "1"}), 2, "t_ms"),
        (lines(HEAD) + '{"t_ms": NaN, "sent": true, "text": ""}\n', 2, "t_ms"),
        (lines(HEAD, FRAME | {"sent": 1}), 2, "sent"),
        (lines(HEAD, FRAME | {"hex": "00"}), 2, "either text or hex"),
        (lines(HEAD, {"t_ms": 1, "sent": True}), 2, "either text or hex"),
        (lines(HEAD, {"t_ms": 1, "sent": True, "hex": "0"}), 2, "hex"),
        (lines(HEAD, {"t_ms": 1, "sent": True, "hex": 5}), 2, "hex must be a string"),
        (lines(HEAD, FRAME | {"text": "\u00e4"}), 2, "text"),
        (lines(HEAD) + "[" * 100_000, 2, "no JSON"),
    ],
)
def test_a_damaged_recording_names_its_line(
    tmp_path: Path, text: str, where: int, reason: str
) -> None:
    file = tmp_path / "r"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(RecordingError) as error:
        load_recording(file)
    assert str(error.value).startswith(f"{file}:{where}: ")
    assert reason in str(error.value)


def test_a_line_without_an_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LINE_BYTES_MAX", 100)
    file = tmp_path / "r"
    file.write_text(lines(HEAD) + " " * 200)
    with pytest.raises(RecordingError, match=":2: the line is longer"):
        load_recording(file)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
KEYS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("t_ms", "sent", "text", "hex", "recording", "version"), JUNK)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KEYS | st.just(FRAME), max_size=6), st.binary(max_size=20))
def test_whatever_a_file_holds_is_a_recording_or_a_typed_error(
    tmp_path: Path, content: list[Any], tail: bytes
) -> None:
    file = tmp_path / "r"
    file.write_bytes(lines(HEAD, *content).encode() + tail)
    try:
        exchanges(load_recording(file))
    except RecordingError:
        pass


@given(
    st.sampled_from(list(recording.FORMS)),
    st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=12),
)
def test_frames_of_any_bytes_give_exchanges_or_a_typed_error(
    protocol: str, frames: list[tuple[bool, bytes]]
) -> None:
    made = Recording("Dev", protocol, [Frame(1.0, sent, data) for sent, data in frames])
    try:
        found = exchanges(made)
    except RecordingError:
        return
    assert sum(map(len, found.values())) <= sum(len(data) for _, data in frames) + len(frames)


def test_a_protocol_that_can_not_be_replayed_is_named() -> None:
    with pytest.raises(RecordingError, match="OpcUa can't be replayed; ModbusTcpGeneric"):
        exchanges(Recording("Dev", "OpcUa", [Frame(0, True, b"x")]))


# ---------------------------------------------------------------- play


class Client:
    """A connection to the simulator."""

    def __init__(self, server: RecordingServer) -> None:
        self.server = server

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.server.port)

    async def ask(self, data: bytes, size: int) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Stage:
    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.servers: list[RecordingServer] = []

    async def play(
        self, protocol: str, frames: Sequence[tuple[float, bool, bytes]], **keys: Any
    ) -> Client:
        made = Recording("Dev", protocol, [Frame(*frame) for frame in frames])
        server = RecordingServer(made, **keys)
        await server.start()
        client = Client(server)
        await client.connect()
        self.servers.append(server)
        self.clients.append(client)
        return client


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    for client in stage.clients:
        await client.close()
    for server in stage.servers:
        await server.stop()


def adu(number: int, rest: bytes) -> bytes:
    return struct.pack(">HHH", number, 0, len(rest)) + rest


READ = bytes.fromhex("03 03 0064 0001")
WRITE = bytes.fromhex("03 06 0064 0007")
ONE, TWO = bytes.fromhex("03 03 02 0001"), bytes.fromhex("03 03 02 0002")


async def test_modbus_answers_come_in_turn_with_the_number_of_the_new_request(
    stage: Stage,
) -> None:
    # The second answer came ahead of the first, and in two pieces; the last request had none.
    second = adu(2, TWO)
    client = await stage.play(
        "ModbusTcp",
        [
            (0, True, adu(1, READ) + adu(2, READ)),
            (1, False, second[:5]),
            (2, False, second[5:] + adu(1, ONE)),
            (3, True, adu(3, WRITE)),
            (4, False, adu(3, WRITE)),
        ],
    )
    for number, answer in ((70, TWO), (71, ONE), (72, TWO)):
        assert await client.ask(adu(number, READ), len(adu(0, answer))) == adu(number, answer)
    assert await client.ask(adu(73, WRITE), 12) == adu(73, WRITE)
    # What was not recorded is an illegal address.
    unknown = bytes.fromhex("03 03 0065 0001")
    assert await client.ask(adu(74, unknown), 9) == adu(74, bytes.fromhex("03 83 02"))
    assert (client.server.requests, client.server.unknown) == (5, 1)


async def test_a_request_that_had_no_answer_has_none_in_its_turn(stage: Stage) -> None:
    frames = [(0.0, True, adu(1, READ)), (1.0, True, adu(2, READ)), (2.0, False, adu(2, ONE))]
    client = await stage.play("ModbusTcpGeneric", frames)
    turns = sorted(answer.data for answer in client.server._answers[READ])
    assert turns == [b"", ONE]
    client.writer.write(adu(5, READ))
    answer = await client.ask(adu(6, READ), 11)
    assert answer[6:] == ONE  # one of the two, and not both


async def test_frames_of_a_serial_line_are_served_over_tcp(stage: Stage) -> None:
    client = await stage.play(
        "ModbusRTU", [(0, True, READ + b"cc"), (1, False, ONE[:3]), (2, False, ONE[3:] + b"cc")]
    )
    assert await client.ask(adu(9, READ), 11) == adu(9, ONE)


async def test_text_is_answered_line_by_line_and_the_unknown_is_silence(stage: Stage) -> None:
    client = await stage.play(
        "SCPI",
        [
            (0, True, b"VOLT?\r\n"),
            (1, False, b"1\n"),
            (2, True, b"VOLT 5\n"),
            (3, True, b"VOLT?\n"),
            (4, False, b"5\n"),
        ],
    )
    assert await client.ask(b"VOLT?\n", 2) == b"1\n"
    assert await client.ask(b"CURR?\nVOLT 5\nVOLT?\r\n", 2) == b"5\n"
    assert client.server.unknown == 1


async def test_the_recorded_delay_is_kept_where_that_is_wanted(stage: Stage) -> None:
    frames = [(0.0, True, b"V?\n"), (150.0, False, b"1\n")]
    client = await stage.play("SCPI", frames, timing=True)
    client.writer.write(b"V?\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.reader.readexactly(2)
    async with asyncio.timeout(10):
        assert await client.reader.readexactly(2) == b"1\n"


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        ("ModbusTcp", b"GET / HTTP/1.1\r\n\r\n"),
        ("ModbusTcp", adu(1, READ) + b"\1\2\3\4\0\5\6\7"),
        ("SCPI", b"x" * 70_000),
    ],
)
async def test_what_is_not_the_protocol_ends_the_connection(
    stage: Stage, protocol: str, data: bytes
) -> None:
    frames = [(0.0, True, adu(1, READ)), (1.0, False, adu(1, ONE))]
    client = await stage.play(protocol, frames)
    client.writer.write(data)
    async with asyncio.timeout(10):
        try:
            while await client.reader.read(100):
                pass
        except ConnectionError:
            pass
