"""The form json: documents, topics, and nothing lost on the way."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from config import status
from gateway.core.records import RECORD, Batch, Birth, Event, Gap
from sync import wire
from sync.forms import json_form
from sync.forms.forms import Publication
from sync.forms.json_form import JsonForm
from sync.link.latest import Latest
from sync.store.store import StoredFrame
from tests.sync.support import EPOCH, batch, birth

T0_NS = 1_763_700_000_000_000_000
PLANT = Birth(
    gateway="lab",
    epoch=EPOCH,
    seq=0,
    hash="plant",
    config_hash="c0ffee",
    utc_ns=T0_NS,
    points=(
        {"index": 1, "tag": "Stack.Temperature", "kind": "analog", "units": "degC"},
        {"index": 2, "tag": "Stack.Mode", "kind": "discrete", "states": ["OFF", "ON"]},
        {"index": 3, "tag": "Feed/1.Flow+", "kind": "analog", "value_min": 0.0},
    ),
)


def form(
    *, topic: str = "{site}/{equipment}/{channel}", points: Sequence[str] = ("*",)
) -> JsonForm:
    made = JsonForm("lab", Latest(), client_id="gatepost-lab-x", topic=topic, points=points)
    made.born("plant", wire.encode_birth(PLANT), current=True)
    return made


def stored(data: Batch) -> StoredFrame:
    payload = wire.encode_frame(data, base=1)
    return StoredFrame(1, data.epoch, data.first, data.last, data.count, data.birth, payload)


def rows(*entries: tuple[int, int, int, float, int]) -> Batch:
    """(sequence, point, status, value, ns after T0) each."""
    made = np.array([(s, p, c, v, T0_NS + ns) for s, p, c, v, ns in entries], dtype=RECORD)
    return Batch(EPOCH, entries[0][0], entries[-1][0], "plant", made)


def documents(out: Sequence[Publication]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for publication in out:
        assert publication.qos == 1
        found[publication.topic].append(json.loads(publication.payload))
    return found


def test_a_row_becomes_a_value_with_everything_that_names_it() -> None:
    found = documents(form().frame(stored(rows((7, 1, 0, 812.3, 123_456_789))), live=True))
    assert found == {
        "lab/Stack/Temperature": [
            {
                "v": 1,
                "type": "values",
                "site": "lab",
                "epoch": EPOCH,
                "backlog": False,
                "values": [
                    {
                        "tag": "Stack.Temperature",
                        "value": 812.3,
                        "status": "Good",
                        "code": 0,
                        "time": "2025-11-21T04:40:00.123456789Z",
                        "utc_ns": T0_NS + 123_456_789,
                        "seq": 7,
                    }
                ],
            }
        ]
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null_with_its_status(value: float) -> None:
    code = status.BAD_COMMUNICATION_ERROR
    found = documents(form().frame(stored(rows((1, 1, code, value, 0))), live=False))
    (document,) = found["lab/Stack/Temperature"]
    assert document["backlog"] is True
    assert document["values"][0]["value"] is None
    assert document["values"][0]["status"] == "BadCommunicationError"


def test_every_bit_of_a_number_survives() -> None:
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3]
    entries = [(n, 1, 0, value, n) for n, value in enumerate(values, start=1)]
    found = documents(form().frame(stored(rows(*entries)), live=True))
    shown = [value["value"] for value in found["lab/Stack/Temperature"][0]["values"]]
    assert np.array(shown).tobytes() == np.array(values).tobytes()


def test_a_discrete_value_is_whole_and_names_its_state() -> None:
    entries = rows((1, 2, 0, 1.0, 0), (2, 2, 0, 7.0, 1), (3, 2, 0, 0.5, 2))
    found = documents(form().frame(stored(entries), live=True))
    values = found["lab/Stack/Mode"][0]["values"]
    assert [(v["value"], v.get("state")) for v in values] == [(1, "ON"), (7, None), (0.5, None)]
    assert isinstance(values[0]["value"], int)


def test_a_status_that_has_no_name_here_shows_its_number() -> None:
    found = documents(form().frame(stored(rows((1, 1, 0x80AB0000, 1.0, 0))), live=True))
    assert found["lab/Stack/Temperature"][0]["values"][0]["status"] == "0x80AB0000"


@pytest.mark.parametrize(
    ("template", "topic", "root"),
    [
        ("{site}/{equipment}/{channel}", "lab/Feed_1/Flow_", "lab"),
        ("{site}/{equipment}", "lab/Feed_1", "lab"),
        ("plant/x/{equipment}", "plant/x/Feed_1", "plant/x"),
        ("all", "all", "lab"),
        ("a/b", "a/b", "a"),
        ("{channel}", "Flow_", "lab"),
        ("x/{channel}/{equipment}", "x/Flow_/Feed_1", "x"),
        ("x/pre-{equipment}", "x/pre-Feed_1", "x"),
        ("{equipment}/{oops}", "Feed_1/{oops}", "lab"),
    ],
)
def test_topics_follow_the_template(template: str, topic: str, root: str) -> None:
    made = form(topic=template)
    data = rows((1, 3, 0, 1.0, 0))
    with_gap = Batch(EPOCH, 1, 2, "plant", data.records, gaps=(Gap(2, 2, "x"),))
    assert set(documents(made.frame(stored(with_gap), live=True))) == {topic, f"{root}/gaps"}
    assert documents(made.begun()).keys() == {f"{root}/state"}


def test_rows_of_one_topic_share_messages_of_bounded_size() -> None:
    count = 2 * json_form.VALUES_MAX + 1
    entries = [(n, 1 + n % 2, 0, float(n), n) for n in range(1, count + 1)]
    found = documents(form(topic="{site}/{equipment}").frame(stored(rows(*entries)), live=True))
    sizes = [len(document["values"]) for document in found["lab/Stack"]]
    assert sizes == [json_form.VALUES_MAX, json_form.VALUES_MAX, 1]
    shown = [value["seq"] for document in found["lab/Stack"] for value in document["values"]]
    assert shown == list(range(1, count + 1))


def test_only_chosen_points_go_out_and_a_frame_without_one_is_empty() -> None:
    made = form(points=["Stack.*"])
    data = rows((1, 1, 0, 1.0, 0), (2, 3, 0, 2.0, 0))
    assert documents(made.frame(stored(data), live=True)).keys() == {"lab/Stack/Temperature"}
    assert list(made.frame(stored(rows((1, 3, 0, 2.0, 0))), live=True)) == []
    events = tuple(
        Event(n, T0_NS, "receipt", {"tag": tag})
        for n, tag in enumerate(("Stack.Mode", "Feed/1.Flow+"), start=1)
    )
    data = Batch(EPOCH, 1, 2, "plant", np.zeros(0, dtype=RECORD), events)
    (document,) = documents(made.frame(stored(data), live=True))["lab/events/receipt"]
    assert document["body"]["tag"] == "Stack.Mode"


def test_an_event_travels_whole() -> None:
    body = {"rule": "High", "x": math.nan, "raw": b"\x01\xff", "deep": [{"y": -math.inf}, "°C"]}
    event = Event(1, T0_NS + 5, "alarm", body)
    data = Batch(EPOCH, 1, 1, "plant", np.zeros(0, dtype=RECORD), (event,))
    assert documents(form().frame(stored(data), live=True)) == {
        "lab/events/alarm": [
            {
                "v": 1,
                "type": "event",
                "site": "lab",
                "epoch": EPOCH,
                "seq": 1,
                "time": "2025-11-21T04:40:00.000000005Z",
                "utc_ns": T0_NS + 5,
                "kind": "alarm",
                "body": {"rule": "High", "x": None, "raw": "01ff", "deep": [{"y": None}, "°C"]},
            }
        ]
    }


def test_gaps_say_what_will_never_come() -> None:
    gaps = (Gap(3, 5, "store over its quota"), Gap(6, 0, "no farewell"))
    data = batch(1, 6, birth="plant", gaps=gaps)
    found = documents(form().frame(stored(data), live=True))["lab/gaps"]
    assert [(g["first"], g["last"], g["reason"]) for g in found] == [
        (3, 5, "store over its quota"),
        (6, None, "no farewell"),
    ]


def test_a_frame_that_nobody_can_read_is_declared() -> None:
    broken = StoredFrame(1, EPOCH, 4, 9, 6, "plant", b"\x81")
    (gap,) = documents(form().frame(broken, live=False))["lab/gaps"]
    assert (gap["first"], gap["last"]) == (4, 9)


def test_rows_whose_table_is_lost_are_declared() -> None:
    data = batch(1, 6, birth="gone", events=(1,))
    found = documents(form().frame(stored(data), live=False))
    (gap,) = found["lab/gaps"]
    assert (gap["first"], gap["last"]) == (2, 6)
    assert len(found["lab/events/gateway"]) == 1


def test_rows_of_an_older_table_have_its_names() -> None:
    made = form()
    made.born("old", wire.encode_birth(birth("old")), current=False)
    found = documents(made.frame(stored(batch(1, 1, birth="old")), live=False))
    assert found.keys() == {"lab/Device/Channel_2"}


def test_definitions_are_retained_one_message_an_equipment() -> None:
    made = JsonForm("lab", Latest(), client_id="x", topic="{site}/{equipment}", points=["*"])
    out = made.born("plant", wire.encode_birth(PLANT), current=True)
    assert all(publication.retain for publication in out)
    found = documents(out)
    assert found.keys() == {"lab/points/Stack", "lab/points/Feed_1"}
    (document,) = found["lab/points/Stack"]
    assert document["hash"] == "plant"
    assert document["points"][1]["states"] == ["OFF", "ON"]
    assert document["points"][0]["units"] == "degC"
    (feed,) = found["lab/points/Feed_1"]
    assert (feed["points"][0]["minimum"], feed["points"][0]["maximum"]) == (0.0, None)
    assert not made.born("old", wire.encode_birth(birth("old")), current=False)


def test_a_birth_that_makes_no_sense_is_a_problem_and_no_end() -> None:
    made = form()
    assert not made.born("odd", b"\x00", current=True)
    assert "odd" in made.problem


def test_the_state_follows_the_field_process_and_the_session() -> None:
    latest = Latest()
    made = JsonForm("lab", latest, client_id="x", topic="{site}/{equipment}", points=["*"])

    def state(publication: Publication | None) -> tuple[bool, bool]:
        assert publication is not None
        assert publication.retain and publication.topic == "lab/state"
        document = json.loads(publication.payload)
        return document["online"], document["measuring"]

    assert state(made.opening().will) == (False, False)
    assert [state(p) for p in made.begun()] == [(True, False)]
    assert not made.due()
    latest.born(PLANT, np.zeros(4, dtype=latest.rows.dtype))
    assert [state(p) for p in made.due()] == [(True, True)]
    latest.lost(T0_NS)
    assert [state(p) for p in made.due()] == [(True, False)]
    assert not made.due()
    assert [state(p) for p in made.farewell()] == [(False, False)]
    assert made.received("lab/state", b"") is None
