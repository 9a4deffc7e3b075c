"""The SCPI driver: texts, configuration, and exchanges with the simulated instrument."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.findings import SiteError
from config.model import Channel, EquipmentTags
from config.site import Instrument
from drivers.contract import Surroundings, read_block
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, OutOfRange, Refused
from drivers.scpi.driver import PROTOCOL, ScpiDriver, check, plan
from drivers.scpi.link import LineSession
from drivers.scpi.text import (
    DATA_TYPES,
    AnswerDecoder,
    host_and_port,
    judge_confirmation,
    number_of,
    number_text,
    terminator,
)
from drivers.sim.scpi_server import ScpiServer, split_messages
from gateway.core.clock import SystemClock
from tests.drivers.instruments import scpi

# ---------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "data_type", "number"),
    [
        ("5", "NR1", 5.0),
        ("+5", "NR1", 5.0),
        ("-12 ", "int16", -12.0),
        ("5.0", "NR1", 5.0),
        ("12.50", "NR2", 12.5),
        (".5", "NR2", 0.5),
        ("-1.25E-03", "NR3", -0.00125),
        ("+1.0e+3\r", "float32", 1000.0),
        ("\x00 7", "NR2", 7.0),
        ("1", "Bool", 1.0),
        ("OFF", "Bool", 0.0),
        ("on", "bool", 1.0),
    ],
)
def test_a_number_in_each_form(text: str, data_type: str, number: float) -> None:
    assert number_of(text, data_type) == number


@pytest.mark.parametrize(
    "text", ["9.91E37", "9.9E37", "-9.9E37", "+9.90000E+37", "NAN", "inf", "1e999"]
)
def test_not_a_number_and_infinity_of_scpi_are_no_value(text: str) -> None:
    assert math.isnan(number_of(text, "NR3"))


@pytest.mark.parametrize(
    ("text", "data_type"),
    [
        ("", "NR2"),
        ("OK", "NR2"),
        ("1_000", "NR1"),
        ("0x10", "NR1"),
        ("5 V", "NR2"),
        ("١", "NR1"),
        ("1.5", "NR1"),
        ("40000", "int16"),
        ("2", "Bool"),
        ("nan", "Bool"),
        ("1.2.3", "NR2"),
        ('"5"', "NR2"),
    ],
)
def test_anything_else_is_garbled(text: str, data_type: str) -> None:
    with pytest.raises(Garbled):
        number_of(text, data_type)


def test_a_value_is_sent_in_its_channels_form_and_scale() -> None:
    assert number_text(Channel(DataType="NR2"), 12.5) == "12.5"
    assert number_text(Channel(DataType="NR1"), 12.4) == "12"
    assert number_text(Channel(DataType="Bool"), 1.0) == "1"
    assert number_text(Channel(DataType="NR2", Scalar=0.001, Offset=-0.5), 1.23) == "1230.5"
    assert number_text(Channel(DataType="NR3", Scalar=0.1), 0.7) == "7"
    assert number_text(Channel(DataType="Bool", Scalar=5), 1.0) == "1"


@pytest.mark.parametrize(
    ("data_type", "value"),
    [
        ("NR2", math.nan),
        ("NR2", math.inf),
        ("NR3", 1e38),
        ("int16", 32768),
        ("Bool", 2),
        ("Bool", 0.5),
        ("Bool", math.nan),
    ],
)
def test_what_does_not_fit_is_refused(data_type: str, value: float) -> None:
    with pytest.raises(OutOfRange):
        number_text(Channel(DataType=data_type), value)


def test_the_error_queue_confirms_or_refuses() -> None:
    for text in ('0,"No error"', '+0, "No error"', "1", "OK", '1;0,"No error"', '0,"a;b"'):
        judge_confirmation(text)
    with pytest.raises(Refused, match="Data out of range") as refusal:
        judge_confirmation('-222,"Data out of range; 99 V"')
    assert (refusal.value.code, refusal.value.permanent) == (-222, False)
    with pytest.raises(Refused) as refusal:
        judge_confirmation('1;-113,"Undefined header"')
    assert refusal.value.permanent
    for text in ("", "hello", '0,"No error";hello'):
        with pytest.raises(Garbled):
            judge_confirmation(text)


def tags(**keys: Any) -> EquipmentTags:
    return EquipmentTags.model_validate({"EquipmentName": "P", "Communication": "SCPI"} | keys)


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"VISA_address": "TCPIP::10.0.0.7::5025::SOCKET"}, ("10.0.0.7", 5025)),
        ({"VISA_address": "tcpip0::psu.lab::9221::socket"}, ("psu.lab", 9221)),
        ({"VISA_address": "TCPIP::[::1]::5025::SOCKET"}, ("::1", 5025)),
        ({"Connection": {"IP": "10.0.0.7"}}, ("10.0.0.7", 5025)),
        ({"Connection": {"IP": "10.0.0.7"}, "PortNum": 8000}, ("10.0.0.7", 8000)),
        ({"VISA_address": "TCPIP::10.0.0.7::INSTR"}, None),
        ({"VISA_address": "GPIB0::12::INSTR"}, None),
        ({"VISA_address": "TCPIP::10.0.0.7::99999::SOCKET"}, None),
        ({}, None),
    ],
)
def test_the_place_of_an_instrument(keys: dict[str, Any], place: tuple[str, int] | None) -> None:
    assert host_and_port(tags(**keys)) == place


def test_terminators_in_their_spellings() -> None:
    assert [terminator(t) for t in (None, "\n", "\\n", "LF")] == ["\n"] * 4
    assert [terminator(t) for t in ("\r\n", "\\r\\n", "CRLF")] == ["\r\n"] * 3
    assert terminator(";") is None


# ---------------------------------------------------------------- configuration


def rules(device: Instrument) -> list[tuple[str, str]]:
    return [(finding.key, finding.rule) for finding in check(device)]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"DataType": "HEX"}, ("DataType", "datatype-unknown")),
        ({"RequestText": None}, ("RequestText", "address-missing")),
        ({"ReadWrite": "RW"}, ("WriteText", "address-missing")),
        ({"ReadWrite": "RW", "WriteText": "VOLT"}, ("WriteText", "address-missing")),
        ({"Scalar": 0}, ("Scalar", "scalar-zero")),
        ({"RequestText": "VOLT?\nCURR?"}, ("RequestText", "text-invalid")),
        ({"RequestText": "SPÄNNUNG?"}, ("RequestText", "text-invalid")),
        (
            {"ReadWrite": "W", "WriteText": "OUTP {value}", "DataType": "Bool", "SafeValue": 5},
            ("SafeValue", "value-range"),
        ),
    ],
)
def test_each_mistake_in_a_channel_is_one_finding(keys: dict[str, Any], found) -> None:
    device = scpi({"X": {"RequestText": "VOLT?"} | keys})
    assert rules(device) == [(f"Channels.X.{found[0]}", found[1])]
    with pytest.raises(SiteError):
        plan(device)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"VISA_address": None}, ("EquipmentTags.VISA_address", "connection-missing")),
        ({"VISA_address": "USB0::1::INSTR"}, ("EquipmentTags.VISA_address", "connection-missing")),
        ({"ReadTerminalChar": "|"}, ("EquipmentTags.ReadTerminalChar", "terminator-unknown")),
    ],
)
def test_each_mistake_in_the_tags_is_one_finding(keys: dict[str, Any], found) -> None:
    assert rules(scpi({"X": {"RequestText": "VOLT?"}}, **keys)) == [found]


def test_channels_with_one_text_are_one_finding() -> None:
    device = scpi(
        {
            "A": {"RequestText": "MEAS:ARR?", "ArrayPos": 0},
            "B": {"RequestText": "MEAS:ARR?", "ArrayPos": 1},
            "C": {"RequestText": "meas:arr?", "ArrayPos": 1},
            "D": {"ReadWrite": "W", "WriteText": "VOLT {value}"},
            "E": {"ReadWrite": "W", "WriteText": "VOLT {value}"},
        }
    )
    found = [(f.key, f.severity, f.message.split(" share")[0]) for f in check(device)]
    assert found == [("Channels.B", "warning", "B and C"), ("Channels.D", "error", "D and E")]


def test_channels_with_one_query_share_one_block_in_their_class() -> None:
    blocks = plan(
        scpi(
            {
                "V": {"RequestText": "MEAS:ARR?", "ArrayPos": 0},
                "I": {"RequestText": "MEAS:ARR?", "ArrayPos": 2},
                "S": {"RequestText": "MEAS:ARR?", "ArrayPos": 1, "Class": "Slow"},
                "P": {"RequestText": "MEAS:", "IOPoint": "POW"},  # the seeds' two parts
                "W": {"ReadWrite": "W", "WriteText": "VOLT {value}"},
            }
        )
    )
    seen = [(b.label, b.scan_class, list(map(int, b.index))) for b in blocks]
    assert seen == [
        ("MEAS:ARR? (Fast)", "Fast", [1, 2]),
        ("MEAS:ARR? (Slow)", "Slow", [3]),
        ("MEAS:POW? (Fast)", "Fast", [4]),
    ]


def test_init_func_of_the_seed_begins_a_pass_with_init_text() -> None:
    keys = {"RequestText": "FETC:", "Init_Text": "MEAS:", "Init_Func": True}
    channels = {name: keys | {"IOPoint": name} for name in ("VOLT", "CURR")}
    assert [b.label for b in plan(scpi(channels))] == [
        "MEAS:VOLT? (Fast)",
        "FETC:CURR? (Fast)",
    ]


# ---------------------------------------------------------------- whatever a peer says


@given(
    st.text(max_size=60) | st.from_regex(r"[-+0-9.eE,;NaIFO\" ]{0,40}", fullmatch=True),
    st.sampled_from(DATA_TYPES),
    st.integers(0, 5),
)
def test_any_answer_is_a_number_or_garbled(answer: str, data_type: str, item: int) -> None:
    decode = AnswerDecoder([Channel(DataType=data_type)], [item])
    try:
        (value,) = decode(answer)
    except Garbled:
        return
    assert math.isnan(value) or abs(value) < 9.9e37


@given(st.text(max_size=60))
def test_any_confirmation_is_one_or_a_typed_error(answer: str) -> None:
    with contextlib.suppress(DriverError):
        judge_confirmation(answer)


class Wire(asyncio.Transport):
    """A transport that keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@given(st.lists(st.binary(max_size=40) | st.just(b"5\n"), max_size=8), st.booleans())
def test_any_bytes_are_an_answer_or_end_the_session(chunks: list[bytes], asking: bool) -> None:
    async def feed() -> None:
        session, wire = LineSession("\n", "\n", 5.0, None), Wire()
        session.connection_made(wire)
        waiting = asyncio.create_task(session.ask("V?")) if asking else None
        await asyncio.sleep(0)
        for chunk in chunks:
            if not wire.closed:
                session.data_received(chunk)
        session.end(NotConnected("over"))
        if waiting is not None:
            with contextlib.suppress(DriverError):
                assert (await waiting).isascii()
        assert wire.closed
        assert session.lost is not None

    asyncio.run(feed())


# ---------------------------------------------------------------- exchanges


class Bench:
    """An instrument whose answers are a dictionary, and a driver."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.heard: list[str] = []
        self.server = ScpiServer(self.handle)
        self.driver: ScpiDriver | None = None
        self.instrument: Instrument | None = None

    def handle(self, message: str) -> str | None:
        self.heard.append(message)
        return self.answers.get(message)

    async def connect(self, channels: dict[str, dict[str, Any]], **keys: Any) -> None:
        port = await self.server.start()
        self.instrument = scpi(channels, port, **keys)
        self.driver = ScpiDriver(self.instrument, Surroundings(SystemClock()))
        await self.driver.connect()

    async def values(self) -> list[float]:
        assert self.driver
        assert self.instrument
        found: list[float] = []
        for block in plan(self.instrument):
            found += map(float, await read_block(PROTOCOL, self.driver, block))
        return found

    async def write(self, channel: str, value: float) -> None:
        assert self.driver
        assert self.instrument
        await self.driver.write(self.instrument.points[channel], value)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        if bench.driver:
            await bench.driver.close()
        await bench.server.stop()


async def test_an_answer_is_split_scaled_and_rounded(bench: Bench) -> None:
    bench.answers["MEAS:ARR?"] = "48.123,1,9.91E37,-0.5"
    await bench.connect(
        {
            "V": {"RequestText": "MEAS:ARR?", "ArrayPos": 0, "Decimal": 1},
            "On": {"RequestText": "MEAS:ARR?", "ArrayPos": 1, "DataType": "Bool", "Scalar": 9},
            "None": {"RequestText": "MEAS:ARR?", "ArrayPos": 2},
            "I": {"RequestText": "MEAS:ARR?", "ArrayPos": 3, "Offset": 1, "Scalar": 100},
        }
    )
    assert await bench.values() == pytest.approx([48.1, 1.0, math.nan, 50.0], nan_ok=True)
    assert bench.heard == ["MEAS:ARR?"]


async def test_a_missing_item_is_garbled_and_ends_the_session(bench: Bench) -> None:
    bench.answers["MEAS:ARR?"] = "48.1"
    await bench.connect({"I": {"RequestText": "MEAS:ARR?", "ArrayPos": 1}})
    with pytest.raises(Garbled, match="1 items, 2 expected"):
        await bench.values()
    bench.answers["MEAS:ARR?"] = "48.1,2"
    assert await bench.values() == [2.0]
    assert bench.server.connected == 2


async def test_after_a_timeout_the_session_is_opened_anew_by_itself(bench: Bench) -> None:
    bench.answers["VOLT?"] = "5"
    await bench.connect({"V": {"RequestText": "VOLT?", "Init_Text": "SYST:REM"}}, Timeout=0.4)
    await bench.until(lambda: bench.heard == ["SYST:REM"])
    bench.server.faults.silent = True
    with pytest.raises(NoAnswer):
        await bench.values()
    await bench.until(lambda: not bench.server.sessions)
    bench.server.faults.clear()
    assert await bench.values() == [5.0]
    assert bench.server.connected == 2
    assert bench.heard == ["SYST:REM", "SYST:REM", "VOLT?"]


async def test_init_texts_are_sent_once_a_connection_and_may_ask(bench: Bench) -> None:
    bench.answers |= {"*IDN?": "ACME,PSU,1,1.0", "VOLT?": "5", "CURR?": "1"}
    init = {"Init_Text": "SYST:REM"}
    await bench.connect(
        {
            "V": {"RequestText": "VOLT?"} | init,
            "I": {"RequestText": "CURR?"} | init,
            "Who": {"ReadWrite": "W", "WriteText": "X {value}", "Init_Text": "*IDN?"},
        }
    )
    assert await bench.values() == [5.0, 1.0]
    assert bench.heard == ["SYST:REM", "*IDN?", "VOLT?", "CURR?"]


async def test_an_init_text_without_an_answer_is_no_answer_of_connect(bench: Bench) -> None:
    with pytest.raises(NoAnswer):
        await bench.connect({"V": {"RequestText": "VOLT?", "Init_Text": "*IDN?"}}, Timeout=0.4)


async def test_a_command_is_sent_as_declared(bench: Bench) -> None:
    await bench.connect(
        {
            "V": {"ReadWrite": "W", "WriteText": "SOUR:VOLT {value},(@1)", "Scalar": 0.5},
            "On": {"ReadWrite": "W", "WriteText": "OUTP {value}", "DataType": "Bool"},
            "Seed": {"ReadWrite": "W", "RequestText": "SOUR:", "IOPoint": "CURR"},
            "Brace": {"ReadWrite": "W", "WriteText": "DISP '{0}{value}'"},
        }
    )
    await bench.write("V", 24)
    await bench.write("On", 1)
    await bench.write("Seed", 1.5)
    await bench.write("Brace", 3)
    await bench.until(lambda: len(bench.heard) == 4)
    assert bench.heard == ["SOUR:VOLT 48,(@1)", "OUTP 1", "SOUR:CURR 1.5", "DISP '{0}3'"]


async def test_a_command_that_asks_is_confirmed_by_the_answer(bench: Bench) -> None:
    await bench.connect({"V": {"ReadWrite": "W", "WriteText": "VOLT {value};:SYST:ERR?"}})
    bench.answers["SYST:ERR?"] = '0,"No error"'
    await bench.write("V", 5)
    bench.answers["SYST:ERR?"] = '-222,"Data out of range"'
    with pytest.raises(Refused, match="-222"):
        await bench.write("V", 999)
    bench.answers["SYST:ERR?"] = "what?"
    with pytest.raises(Garbled):
        await bench.write("V", 5)
    bench.answers["SYST:ERR?"] = "0"
    await bench.write("V", 5)
    assert bench.server.connected == 2  # the garbled session was not used again


async def test_bytes_that_nobody_asked_for_end_the_session(bench: Bench) -> None:
    bench.answers |= {"VOLT?": "5\n99", "CURR?": "1"}
    await bench.connect({"V": {"RequestText": "VOLT?"}})
    with pytest.raises(Garbled, match="more than was asked"):
        await bench.values()
    await bench.until(lambda: not bench.server.sessions)
    bench.answers["VOLT?"] = "5"
    assert await bench.values() == [5.0]
    (session,) = bench.server.sessions
    assert session.transport
    session.transport.write(b"77\n")  # a stray line while nothing is asked
    await bench.until(lambda: not bench.server.sessions)
    bench.answers["VOLT?"] = "6"
    assert await bench.values() == [6.0]
    assert bench.server.connected == 3


async def test_other_terminators(bench: Bench) -> None:
    bench.answers["VOLT?"] = "5\r"
    keys = {"ReadTerminalChar": "\r\n", "WriteTerminalChar": "\r\n"}
    await bench.connect({"V": {"RequestText": "VOLT?"}}, **keys)
    assert await bench.values() == [5.0]
    assert bench.heard == ["VOLT?"]


async def test_an_answer_without_an_end_is_bounded(bench: Bench) -> None:
    bench.answers["VOLT?"] = "5" * 70_000
    await bench.connect({"V": {"RequestText": "VOLT?"}}, Timeout=5)
    with pytest.raises(Garbled, match="65536"):
        await bench.values()


async def test_a_closed_connection_is_not_opened_behind_the_callers_back(bench: Bench) -> None:
    bench.answers["VOLT?"] = "5"
    await bench.connect({"V": {"RequestText": "VOLT?"}})
    assert await bench.values() == [5.0]
    await bench.server.stop()
    await bench.server.start()
    for _ in range(2):
        with pytest.raises(NotConnected):
            await bench.values()
    assert bench.server.connected == 1


def test_joined_messages_of_the_instrument_follow_the_header_path() -> None:
    line = 'SOUR:VOLT 5;CURR 1;*OPC?;:OUTP ON;STAT?;:DISP "a;b";:SYST:ERR?'
    assert list(split_messages(line)) == [
        "SOUR:VOLT 5",
        "SOUR:CURR 1",
        "*OPC?",
        "OUTP ON",
        "STAT?",
        'DISP "a;b"',
        "SYST:ERR?",
    ]
