"""Point tables as forms keep them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.core.records import RECORD, Batch, Event
from sync import wire
from sync.link import tables
from sync.link.tables import Tables, split_tag
from sync.wire import WireError
from tests.sync.support import birth


@pytest.mark.parametrize(
    ("tag", "patterns", "chosen"),
    [
        ("Meter.Power", ["*"], True),
        ("Meter.Power", ["Meter.*"], True),
        ("Meter.Power", ["meter.*"], False),
        ("Meter.Power", ["Meter"], False),
        ("Meter.Power", ["*.Power", "x"], True),
        ("Meter.Power", ["Meter.Powe?"], True),
        ("Meter.Power", [], False),
    ],
)
def test_patterns_choose_tags(tag: str, patterns: list[str], chosen: bool) -> None:
    assert Tables(patterns).wants(Event(1, 0, "alarm", {"tag": tag})) is chosen


def test_a_tag_has_an_equipment_and_a_channel() -> None:
    assert split_tag("Meter.Power.Phase") == ("Meter", "Power.Phase")
    assert split_tag("Power") == ("", "Power")


def test_keys_that_a_birth_leaves_out_have_defaults() -> None:
    table = Tables(["*"]).learn("a", wire.encode_birth(birth("a")), current=True)
    point = table.points[1]
    assert (point.tag, point.units, point.discrete) == ("Device.Channel_1", "K", False)
    assert point.states == () and math.isnan(point.value_min)


def test_the_table_in_force_and_those_used_last_are_kept() -> None:
    known = Tables(["*"])
    bodies = {f"t{n}": wire.encode_birth(birth(f"t{n}", points=1)) for n in range(40)}
    for name, body in bodies.items():
        known.learn(name, body, current=name == "t0")
        assert known.get("t2" if len(known.all()) > 2 else "t0") is not None
    assert "t1" not in known and known.get("t1") is None
    assert {"t0", "t2", "t39"} <= set(filter(known.__contains__, bodies))
    assert len(known.all()) == tables.TABLES_MAX
    assert known.all()[0] is known.current


def test_a_table_that_is_known_is_not_read_again() -> None:
    known = Tables(["*"])
    first = known.learn("a", wire.encode_birth(birth("a")), current=False)
    assert known.learn("a", b"\x00", current=True) is first
    with pytest.raises(WireError):
        known.learn("b", b"\x00", current=True)


def test_events_of_points_that_are_not_chosen_stay_away() -> None:
    known = Tables(["Meter.*"])
    for body, wanted in (
        ({"tag": "Meter.Power"}, True),
        ({"tag": "Stack.Mode"}, False),
        ({"rule": "x"}, True),
        ({"tag": 3}, True),
    ):
        assert known.wants(Event(1, 0, "alarm", body)) is wanted


def test_a_frame_comes_with_the_table_of_its_rows() -> None:
    known = Tables(["*"])
    table = known.learn("a", wire.encode_birth(birth("a")), current=True)
    for name, wanted in (("a", table), ("b", None)):
        data = Batch(1, 1, 1, name, np.zeros(1, dtype=RECORD))
        data.records["seq"] = 1
        assert known.read(wire.encode_frame(data, base=1))[1] is wanted
    with pytest.raises(WireError):
        known.read(b"")
