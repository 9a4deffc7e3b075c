"""What a Sparkplug node's messages do to the points of an instrument: the state table alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import status
from drivers.errors import OutOfRange, Refused
from drivers.inbox import Inbox, readable
from drivers.mqtt import sparkplug
from drivers.mqtt.sparkplug import DataType, Metric, Payload
from drivers.mqtt.sparkplug_device import SparkplugReader
from gateway.core.clock import ManualClock
from tests.drivers.instruments import instrument

S = 1_000_000_000
BIRTH = (
    Metric("Flow", 1, DataType.FLOAT, 1.5),
    Metric("Count", 2, DataType.INT16, -3),
    Metric("Mode", 3, DataType.STRING, "run"),
    Metric("Other", 4, DataType.FLOAT, 9.0),
)


class Case:
    """A reader, its clock, and messages of node N with device D in group G."""

    def __init__(self, topic: str = "spBv1.0/G/+/N/D") -> None:
        made = instrument(
            {
                "Flow": {"Scalar": 2.0},
                "Count": {"ReadWrite": "RW", "AgeLimit": 30},
                "Status": {"IOPoint": "Mode", "States": ["stop", "run"]},
                "Out": {"ReadWrite": "W", "IOPoint": "Setpoint"},
            },
            Communication="MQTT",
            Payload="SparkplugB",
            DataReadTopic=topic,
        )
        channels = readable(made)
        self.instrument = made
        self.clock = ManualClock(1_770_000_000 * S)
        points = [made.points[name] for name in channels]
        self.inbox = Inbox(points, list(channels.values()), self.clock)
        self.reader = SparkplugReader(made, channels, self.inbox, self.clock)
        self.seq = 0

    def send(self, kind: str, *metrics: Metric, device: str = "D", **keys: Any) -> None:
        topic = f"spBv1.0/G/{kind}/N" + (f"/{device}" if kind.startswith("D") else "")
        payload = Payload(metrics, keys.get("ms", 1_763_700_000_000), keys.get("seq", self.seq))
        if kind != "NDEATH":
            self.seq = (self.seq + 1) % 256
        else:
            payload = replace(payload, seq=None)
        self.reader.take(topic, sparkplug.encode(payload), False)

    def born(self, *metrics: Metric) -> None:
        self.seq = 0
        self.send("NBIRTH", Metric("bdSeq", None, DataType.INT64, 4))
        self.send("DBIRTH", *(metrics or BIRTH))

    def shown(self) -> dict[str, tuple[float, int]]:
        """What waits, by channel."""
        update = self.inbox.take()
        if update is None:
            return {}
        assert update.codes is not None
        names = list(self.instrument.points)
        rows = zip(update.index, update.values, update.codes, strict=True)
        return {names[i - 1]: (float(v), int(c)) for i, v, c in rows}

    def asks(self) -> bool:
        """True where a rebirth is asked for now."""
        return bool(self.reader.due(self.clock.monotonic_ns()))


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_birth_says_everything_and_data_by_alias_follows(case: Case) -> None:
    case.born()
    assert case.shown() == {"Flow": (3.0, 0), "Count": (-3.0, 0), "Status": (1.0, 0)}
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0), Metric("", 4, DataType.FLOAT, 1.0))
    assert case.shown() == {"Flow": (4.0, 0)}


def test_the_type_of_data_without_one_is_its_births(case: Case) -> None:
    case.born()
    case.shown()
    raw = sparkplug.encode(Payload((Metric("", 2, DataType.UINT32, 0xFFF6),), 1, case.seq))
    untyped = raw.replace(b"\x20\x07", b"")  # cuts the datatype out
    assert len(untyped) == len(raw) - 2
    at = untyped.index(b"\x12") + 1
    untyped = untyped[:at] + bytes([untyped[at] - 2]) + untyped[at + 1 :]
    case.reader.take("spBv1.0/G/DDATA/N/D", untyped, False)
    assert case.shown() == {"Count": (-10.0, 0)}


def test_data_before_any_birth_is_not_understood_and_asked_for(case: Case) -> None:
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0))
    assert case.shown() == {}
    assert case.asks()
    topic, payload, qos = Case().reader.due(0)[0]
    assert (topic, qos) == ("spBv1.0/G/NCMD/N", 0)
    assert sparkplug.decode(payload).metrics[0].name == sparkplug.REBIRTH


def test_data_that_names_its_metric_and_type_needs_no_birth(case: Case) -> None:
    case.send("DDATA", Metric("Flow", None, DataType.FLOAT, 2.0))
    assert case.shown() == {"Flow": (4.0, 0)}


def test_historical_values_are_never_shown(case: Case) -> None:
    case.born()
    case.shown()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 7.0, historical=True))
    assert case.shown() == {}


def test_null_and_quality_are_passed_on(case: Case) -> None:
    case.born()
    case.shown()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, None))
    value, code = case.shown()["Flow"]
    assert math.isnan(value)
    assert code == status.GOOD  # the poll engine calls NaN BadSensorFailure
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 1.0, quality=0))
    assert case.shown()["Flow"][1] == status.BAD_DEVICE_FAILURE
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 1.0, quality=500))
    assert case.shown()["Flow"] == (2.0, status.UNCERTAIN_LAST_USABLE)
    case.send("DDATA", Metric("", 3, DataType.STRING, "sideways"))
    assert case.shown()["Status"][1] == status.BAD_DECODING_ERROR


def test_stamps_are_the_metrics_own_or_the_payloads(case: Case) -> None:
    case.born()
    case.shown()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 1.0, 1_763_700_001_500), ms=1_763_700_002_000)
    update = case.inbox.take()
    assert update is not None
    assert update.utc_ns.tolist() == [1_763_700_001_500_000_000]  # type: ignore[union-attr]
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 1.0), ms=1_763_700_002_000)
    update = case.inbox.take()
    assert update is not None
    assert update.utc_ns.tolist() == [1_763_700_002_000_000_000]  # type: ignore[union-attr]


def test_a_missing_message_makes_aliases_worthless_until_the_next_birth(case: Case) -> None:
    case.born()
    case.shown()
    case.clock.advance(60 * S)
    assert not case.asks()
    case.shown()
    case.seq += 1
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0))
    assert case.shown() == {}
    assert case.asks()
    assert not case.asks()  # once, and then with pauses
    case.born(*(Metric(m.name, m.alias + 10, m.datatype, m.value) for m in BIRTH if m.alias))
    case.shown()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0), Metric("", 11, DataType.FLOAT, 3.0))
    assert case.shown() == {"Flow": (6.0, 0)}


def test_other_devices_of_the_node_count_in_the_sequence(case: Case) -> None:
    case.born()
    case.shown()
    case.send("DBIRTH", Metric("Flow", 21, DataType.FLOAT, 7.0), device="Another")
    case.send("NDATA", Metric("Flow", 22, DataType.FLOAT, 7.0))
    assert case.shown() == {}
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0))
    assert case.shown() == {"Flow": (4.0, 0)}


def test_requests_for_births_become_rare_where_they_do_not_help(case: Case) -> None:
    asked = 0
    for _ in range(600):
        asked += case.asks()
        case.clock.advance(S)
    assert 10 <= asked <= 15
    assert Case().reader.due_ns() == 0


@pytest.mark.parametrize("kind", ["DDEATH", "NDEATH"])
def test_a_death_ends_all_points_and_a_birth_revives_them(case: Case, kind: str) -> None:
    case.born()
    case.shown()
    bd_seq = [Metric("bdSeq", None, DataType.INT64, 4)] if kind == "NDEATH" else []
    case.send(kind, *bd_seq)
    shown = case.shown()
    assert set(shown) == {"Flow", "Count", "Status"}
    assert {code for _, code in shown.values()} == {status.BAD_NOT_CONNECTED}
    case.clock.advance(60 * S)
    assert not case.asks()  # the dead don't answer
    case.born()
    assert case.shown()["Flow"] == (3.0, 0)


def test_the_death_of_an_older_session_kills_nobody(case: Case) -> None:
    case.born()
    case.shown()
    case.send("NDEATH", Metric("bdSeq", None, DataType.INT64, 3))
    assert case.shown() == {}
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0))
    assert case.shown() == {"Flow": (4.0, 0)}


def test_a_node_that_speaks_behind_its_death_is_asked_for_births(case: Case) -> None:
    case.send("NDEATH", Metric("bdSeq", None, DataType.INT64, 3))
    case.clock.advance(60 * S)
    assert not case.asks()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 2.0))
    assert case.asks()


def test_a_node_reports_changes_only_and_its_values_hold_while_it_lives(case: Case) -> None:
    """But a channel with an AgeLimit of its own has to be sent that often."""
    case.born()
    assert set(case.shown()) == {"Flow", "Count", "Status"}
    for _ in range(5):
        due_ns = case.reader.due_ns()
        assert due_ns is not None
        case.clock.advance(due_ns - case.clock.monotonic_ns())
        assert not case.asks()
        assert case.shown() == {"Flow": (3.0, 0), "Status": (1.0, 0)}
        assert not case.asks()
        assert case.shown() == {}  # not before the next is due


@pytest.mark.parametrize("end", ["gap", "death", "garbage", "node birth"])
def test_values_hold_no_longer_where_the_node_is_in_doubt(case: Case, end: str) -> None:
    case.born()
    case.shown()
    if end == "gap":
        case.seq += 1
        case.send("NDATA")
    elif end == "death":
        case.send("DDEATH")
    elif end == "garbage":
        case.reader.take("spBv1.0/G/DDATA/N/Another", b"\xff" * 9, False)
    else:
        case.seq = 0
        case.send("NBIRTH", Metric("bdSeq", None, DataType.INT64, 5))
    case.shown()
    for _ in range(5):
        case.clock.advance(10 * S)
        case.asks()
        assert case.shown() == {}


def test_what_a_birth_does_not_name_any_more_holds_no_longer(case: Case) -> None:
    case.born()
    case.born(BIRTH[0])
    case.shown()
    case.clock.advance(60 * S)
    case.asks()
    assert set(case.shown()) == {"Flow"}


def test_nothing_is_believed_behind_a_death_before_a_birth(case: Case) -> None:
    case.born()
    case.send("DDEATH")
    case.shown()
    case.clock.advance(60 * S)
    case.send("DDATA", Metric("Flow", None, DataType.FLOAT, 2.0))
    assert case.shown() == {}
    assert case.asks()
    case.send("DBIRTH", *BIRTH)
    assert case.shown()["Flow"] == (3.0, 0)


def test_an_alias_that_a_birth_gives_twice_means_nothing(case: Case) -> None:
    case.born(BIRTH[0], Metric("Other", 1, DataType.FLOAT, 9.0))
    case.shown()
    case.send("DDATA", Metric("", 1, DataType.FLOAT, 77.0))
    assert case.shown() == {}


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (DataType.UINT8, 300),
        (DataType.INT8, 0x1234),
        (DataType.INT16, 0x12345),
        (DataType.UINT16, 0xFFFFFFFF),
        (DataType.BOOLEAN, 2),
        (DataType.FLOAT, 0xFFFFFFFF),
    ],
)
def test_a_number_that_its_type_can_not_have_is_bad(
    case: Case, datatype: DataType, value: int
) -> None:
    """Cut to the type's size it would be another number, and look good."""
    case.born()
    case.shown()
    case.reader.take("spBv1.0/G/DDATA/N/D", metric_bytes(case.seq, datatype, 10, value), False)
    assert case.shown()["Flow"][1] == status.BAD_DECODING_ERROR


def metric_bytes(seq: int, datatype: int, field: int, value: int) -> bytes:
    """A payload with the metric Flow whose value, a whole number, stands in a field."""
    metric = b"\x0a\x04Flow" + bytes([4 << 3, datatype, field << 3]) + sparkplug._put_varint(value)
    return b"\x12" + bytes([len(metric)]) + metric + bytes([3 << 3, seq])


@pytest.mark.parametrize("field", [17, 18, 19])
def test_a_table_or_a_template_is_no_number(case: Case, field: int) -> None:
    case.born()
    case.shown()
    metric = b"\x0a\x04Flow" + b"\x20\x10" + sparkplug._put_varint(field << 3 | 2) + b"\x00"
    payload = b"\x12" + bytes([len(metric)]) + metric + bytes([3 << 3, case.seq])
    case.reader.take("spBv1.0/G/DDATA/N/D", payload, False)
    assert case.shown()["Flow"][1] == status.BAD_DECODING_ERROR


@pytest.mark.parametrize(("field", "key"), [(10, b"\x50"), (11, b"\x58")])
def test_a_command_goes_into_the_field_that_the_birth_used(
    case: Case, field: int, key: bytes
) -> None:
    """Some nodes have UInt32 in `long_value`, read only that, and would take the other for 0."""
    case.born()
    birth = metric_bytes(case.seq, DataType.UINT32, field, 7).replace(b"\x04Flow", b"\x08Setpoint")
    birth = birth[:1] + bytes([birth[1] + 4]) + birth[2:]
    case.reader.take("spBv1.0/G/DBIRTH/N/D", birth, False)
    _, payload, _ = case.reader.command(case.instrument.points["Out"], 5.0)
    assert payload.endswith(key + b"\x05")


def test_retained_messages_strangers_and_commands_are_ignored(case: Case) -> None:
    data = sparkplug.encode(Payload((Metric("Flow", None, DataType.FLOAT, 2.0),), 1, 0))
    case.reader.take("spBv1.0/G/DDATA/N/D", data, True)
    for topic in ("spBv1.0/G/DDATA/M/D", "spBv1.0/H/DDATA/N/D", "spBv1.0/G/DCMD/N/D", "x"):
        case.reader.take(topic, data, False)
    assert case.shown() == {}


def test_garbage_spoils_the_points_and_asks_for_a_birth(case: Case) -> None:
    case.born()
    case.shown()
    case.clock.advance(60 * S)
    case.reader.take("spBv1.0/G/DDATA/N/D", b"\xff" * 9, False)
    assert {code for _, code in case.shown().values()} == {status.BAD_DECODING_ERROR}
    assert case.asks()
    case.reader.take("spBv1.0/G/DDATA/N/Another", b"\xff" * 9, False)
    assert case.shown() == {}


def test_a_node_without_device_is_read() -> None:
    case = Case("spBv1.0/G/NDATA/N")
    case.send("NBIRTH", *BIRTH)
    assert case.shown()["Flow"] == (3.0, 0)
    case.clock.advance(60 * S)
    assert not case.asks()
    case.shown()
    case.send("DBIRTH", Metric("Flow", 9, DataType.FLOAT, 7.0))
    assert case.shown() == {}


def test_commands_have_the_type_of_the_birth(case: Case) -> None:
    points = case.instrument.points
    with pytest.raises(Refused, match="no birth"):
        case.reader.command(points["Out"], 1.0)
    assert not case.reader.ready(points["Out"])
    case.born(*BIRTH, Metric("Setpoint", 5, DataType.UINT8, 0))
    assert case.reader.ready(points["Out"])
    topic, payload, _ = case.reader.command(points["Out"], 200.0)
    assert topic == "spBv1.0/G/DCMD/N/D"
    (metric,) = sparkplug.decode(payload).metrics
    assert (metric.name, metric.datatype, metric.value) == ("Setpoint", DataType.UINT8, 200)
    for value in (-1.0, 256.0, math.nan):
        with pytest.raises(OutOfRange):
            case.reader.command(points["Out"], value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH"]),
            st.integers(0, 300),
            st.lists(
                st.tuples(st.sampled_from(["", "Flow", "Count", "bdSeq"]), st.integers(0, 3)),
                max_size=3,
            ),
            st.binary(max_size=12),
        ),
        max_size=12,
    )
)
def test_any_sequence_of_messages_leaves_a_reader_that_works(
    messages: list[tuple[str, int, list[tuple[str, int]], bytes]],
) -> None:
    case = Case()
    for kind, seq, metrics, tail in messages:
        made = tuple(Metric(n, a, DataType.FLOAT, float(a)) for n, a in metrics)
        topic = f"spBv1.0/G/{kind}/N" + ("/D" if kind.startswith("D") else "")
        case.reader.take(topic, sparkplug.encode(Payload(made, 1, seq)) + tail, False)
        case.reader.due(case.clock.monotonic_ns())
    case.shown()
    case.born()
    assert case.shown()["Flow"] == (3.0, 0)
