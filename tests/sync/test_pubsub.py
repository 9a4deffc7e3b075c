"""OPC UA PubSub, JSON over MQTT: every message is one of the standard, nothing is lost in it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from asyncua import ua

from config.points import POINT
from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from gateway.core.records import RECORD, Batch, Birth
from sync import wire
from sync.forms import pubsub_form, pubsub_meta
from sync.forms.forms import Publication
from sync.forms.pubsub_form import PubSubForm
from sync.link.latest import Latest
from sync.store.store import StoredFrame
from tests.sync import pubsub_reader

HASH = "0123456789abcdef"
AT_NS = UTC_PLAUSIBLE_NS + 123_456_789
UNCERTAIN, BAD = 0x40900000, 0x80310000
POINTS = (
    {"index": 1, "tag": "Stack.Temperature", "units": "degC", "kind": "analog",
     "description": "in the middle", "value_min": 0.0, "value_max": 900.0},
    {"index": 2, "tag": "Stack.Mode", "kind": "discrete", "states": ["OFF", "ON"]},
    {"index": 3, "tag": "Meter.Power", "units": "W", "kind": "analog"},
)  # fmt: skip


def birth(name: str = HASH, points: Sequence[dict[str, Any]] = POINTS) -> Birth:
    return Birth("lab", 7, 0, name, "c0ffee", AT_NS, tuple(points))


def made(latest: Latest | None = None) -> PubSubForm:
    known = latest or Latest()
    return PubSubForm("lab", known, ManualClock(), client_id="x", group="gatepost", points=["*"])


def frame(*rows: tuple[int, int, float, int], name: str = HASH) -> StoredFrame:
    """Rows of (point, status, value, time), numbered from 1."""
    records = np.zeros(len(rows), dtype=RECORD)
    for at, (point, status, value, utc_ns) in enumerate(rows):
        records[at] = (at + 1, point, status, value, utc_ns)
    batch = Batch(7, 1, len(rows), name, records)
    return StoredFrame(1, 7, 1, len(rows), len(rows), name, wire.encode_frame(batch, base=1))


def born(form: PubSubForm, told: Birth | None = None) -> list[Publication]:
    told = told or birth()
    return list(form.born(told.hash, wire.encode_birth(told), current=True))


def document(publication: Publication) -> dict[str, Any]:
    """The message, with the fields that every NetworkMessage has checked."""
    found: dict[str, Any] = json.loads(publication.payload)
    uuid.UUID(found["MessageId"])
    assert found["PublisherId"] == "lab"
    kind = publication.topic.split("/")[2]
    assert found["MessageType"] == f"ua-{kind}"
    assert publication.retain == (kind != "data") and publication.qos == 1
    return found


def values(publications: Sequence[Publication]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(topic, field, DataValue) of every value, in order."""
    for publication in publications:
        for message in document(publication)["Messages"]:
            for name, value in message["Payload"].items():
                yield publication.topic, name, value


def test_values_are_data_values_of_delta_frames_with_status_and_time() -> None:
    form = made()
    born(form)
    sent = form.frame(
        frame((1, 0, 812.3, AT_NS), (2, UNCERTAIN, 1.0, AT_NS), (3, BAD, math.nan, AT_NS)),
        live=True,
    )
    assert [p.topic for p in sent] == [
        "opcua/json/data/lab/gatepost/Stack",
        "opcua/json/data/lab/gatepost/Meter",
    ]
    first = document(sent[0])
    assert first["WriterGroupName"] == "gatepost"
    (message,) = first["Messages"]
    assert message["MessageType"] == "ua-deltaframe"
    assert message["DataSetWriterName"] == "Stack"
    assert message["SequenceNumber"] == 1
    assert pubsub_reader.read(message["Timestamp"], "DateTime")
    time = {"SourceTimestamp": "2025-01-01T00:00:00.1234567Z", "SourcePicoseconds": 8900}
    shown = {name: value for _, name, value in values(sent)}
    assert shown == {
        "Temperature": {"Value": 812.3, **time},
        "Mode": {"Value": 1.0, "Status": {"Code": UNCERTAIN, "Symbol": "UncertainLastUsableValue"}}
        | time,
        "Power": {"Value": None, "Status": {"Code": BAD, "Symbol": "BadNoCommunication"}, **time},
    }
    for value in shown.values():
        at = pubsub_reader.read(value["SourceTimestamp"], "DateTime")
        assert at == datetime(2025, 1, 1, tzinfo=UTC)
        if "Status" in value:
            pubsub_reader.read(value["Status"], "StatusCode")


def test_special_numbers_and_times() -> None:
    form = made()
    born(form)
    sent = form.frame(frame((3, 0, math.inf, 0), (3, 0, -math.inf, 10**9)), live=True)
    assert [value for _, _, value in values(sent)] == [
        {"Value": "Infinity"},
        {"Value": "-Infinity", "SourceTimestamp": "1970-01-01T00:00:01Z"},
    ]


def test_a_point_with_several_values_has_each_in_a_message_of_its_own_in_order() -> None:
    form = made()
    born(form)
    rows = [(1, 0, float(n), AT_NS + n) for n in range(3)] + [(2, 0, 5.0, AT_NS)]
    (sent,) = form.frame(frame(*rows), live=True)
    messages = document(sent)["Messages"]
    shown = [{name: value["Value"] for name, value in m["Payload"].items()} for m in messages]
    assert shown == [{"Temperature": 0.0, "Mode": 5.0}, {"Temperature": 1.0}, {"Temperature": 2.0}]
    assert [m["SequenceNumber"] for m in messages] == [1, 2, 3]


def test_many_values_make_several_messages_and_all_of_them_arrive() -> None:
    points = [{"index": n, "tag": f"Big.P{n}", "kind": "analog"} for n in range(1, 1201)]
    form = made()
    born(form, birth(points=points))
    rows = [(n, 0, float(turn), AT_NS) for turn in range(2) for n in range(1, 1201)]
    sent = form.frame(frame(*rows), live=True)
    assert len(sent) > 4
    for publication in sent:
        messages = document(publication)["Messages"]
        assert sum(len(m["Payload"]) for m in messages) <= pubsub_form.VALUES_MAX
    found = [(name, value["Value"]) for _, name, value in values(sent)]
    assert len(found) == 2400 and set(found) == {(f"P{n}", float(t)) for n, _, t, _ in rows}


def test_a_backlog_goes_to_writers_of_its_own() -> None:
    form = made()
    born(form)
    (live,) = form.frame(frame((1, 0, 1.0, AT_NS)), live=True)
    (late,) = form.frame(frame((1, 0, 0.5, AT_NS - 10**9)), live=False)
    assert late.topic == "opcua/json/data/lab/gatepost-backlog/Stack"
    ids = [document(p)["Messages"][0]["DataSetWriterId"] for p in (live, late)]
    assert ids[0] != ids[1] and all(0 < number < 65_536 for number in ids)


def test_metadata_is_what_the_standard_says_and_names_every_field() -> None:
    form = made()
    told = {p.topic: document(p) for p in born(form) if "/metadata/" in p.topic}
    assert told.keys() == {
        f"opcua/json/metadata/lab/{group}/{name}"
        for group in ("gatepost", "gatepost-backlog")
        for name in ("Stack", "Meter")
    }
    stack = told["opcua/json/metadata/lab/gatepost/Stack"]
    found = pubsub_reader.read(stack["MetaData"], "DataSetMetaDataType")
    assert found.Name == "Stack"
    temperature, mode = found.Fields
    assert temperature.Name == "Temperature"
    assert temperature.Description.Text == "in the middle"
    assert (
        temperature.DataType == ua.NodeId(ua.Int32(ua.ObjectIds.Double))
        and temperature.BuiltInType == 11
    )
    assert temperature.ValueRank == -1
    properties = {entry.Key: entry.Value for entry in temperature.Properties}
    assert properties["EngineeringUnits"].DisplayName.Text == "degC"
    assert (properties["EURange"].Low, properties["EURange"].High) == (0.0, 900.0)
    assert [text.Text for text in mode.Properties[0].Value] == ["OFF", "ON"]
    assert len({field.DataSetFieldId for field in found.Fields}) == 2
    (sent,) = form.frame(frame((1, 0, 1.0, AT_NS)), live=True)
    (message,) = document(sent)["Messages"]
    assert message["DataSetWriterId"] == stack["DataSetWriterId"]
    assert message["MetaDataVersion"] == stack["MetaData"]["ConfigurationVersion"]
    seconds = message["MetaDataVersion"]["MajorVersion"]
    assert seconds == AT_NS // 10**9 - pubsub_meta.EPOCH_2000_S


def test_the_connection_tells_where_everything_is() -> None:
    form = made()
    sent = born(form)
    (told,) = [p for p in sent if "/connection/" in p.topic]
    found = pubsub_reader.read(document(told)["Connection"], "PubSubConnectionDataType")
    assert found.PublisherId == "lab"
    assert [group.Name for group in found.WriterGroups] == ["gatepost", "gatepost-backlog"]
    topics = set()
    for group in found.WriterGroups:
        mask = ua.JsonNetworkMessageContentMask(group.MessageSettings.NetworkMessageContentMask)
        assert mask & ua.JsonNetworkMessageContentMask.WriterGroupName
        for writer in group.DataSetWriters:
            topics |= {
                writer.TransportSettings.QueueName,
                writer.TransportSettings.MetaDataQueueName,
            }
            bits = ua.DataSetFieldContentMask(writer.DataSetFieldContentMask)
            assert bits & ua.DataSetFieldContentMask.SourceTimestamp
    assert {p.topic for p in sent if "/metadata/" in p.topic} <= topics


def test_a_key_frame_tells_what_is_known_at_the_beginning() -> None:
    latest = Latest()
    table = np.zeros(4, dtype=POINT)
    table["value"] = [0, 1.5, 1, 3.5]
    table["utc_ns"] = AT_NS
    latest.born(birth(), table)
    form = made(latest)
    sent = [p for p in born(form) if "/data/" in p.topic]
    kinds = {m["MessageType"] for p in sent for m in document(p)["Messages"]}
    assert kinds == {"ua-keyframe"}
    shown = {name: value["Value"] for _, name, value in values(sent)}
    assert shown == {"Temperature": 1.5, "Mode": 1.0, "Power": 3.5}


def test_the_status_is_the_last_will_and_follows_the_field() -> None:
    latest = Latest()
    form = made(latest)

    def state(publications: Sequence[Publication | None]) -> ua.PubSubState:
        (told,) = publications
        assert told is not None and told.topic == "opcua/json/status/lab"
        found = document(told)
        assert found["IsCyclic"] is False and "Timestamp" not in found
        return ua.PubSubState(found["Status"])

    assert state([form.opening().will]) is ua.PubSubState.Error
    latest.born(birth(), np.zeros(4, dtype=POINT))
    assert state(form.begun()) is ua.PubSubState.Operational
    assert form.due() == ()
    latest.lost(AT_NS)
    assert state(form.due()) is ua.PubSubState.Error
    assert state(form.farewell()) is ua.PubSubState.Disabled


def test_numbers_of_writers_stay_while_equipment_comes_and_goes() -> None:
    few = pubsub_meta.writers_of(["Stack", "Meter"], "g")
    many = pubsub_meta.writers_of(["Stack", "Meter", *(f"E{n}" for n in range(300))], "g")
    assert all(many[key].id == writer.id for key, writer in few.items())
    assert len({writer.id for writer in many.values()}) == 604


def test_a_new_table_has_another_version_and_old_frames_keep_theirs() -> None:
    form = made()
    born(form)
    born(form, birth("other", [*POINTS, {"index": 4, "tag": "New.X", "kind": "analog"}]))
    versions = []
    for name in (HASH, "other"):
        (sent,) = form.frame(frame((1, 0, 1.0, AT_NS), name=name), live=True)
        versions.append(document(sent)["Messages"][0]["MetaDataVersion"]["MajorVersion"])
    assert versions[0] != versions[1]


@pytest.mark.parametrize("payload", [b"", b"nonsense"])
def test_what_can_not_be_read_is_said_and_goes_nowhere(payload: bytes) -> None:
    form = made()
    assert form.born(HASH, payload, current=True) == ()
    assert form.problem
    assert form.frame(StoredFrame(1, 7, 1, 1, 1, HASH, payload), live=True) == ()
