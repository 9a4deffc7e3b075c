"""The form sparkplug, read by Eclipse Tahu's library: births and data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import status
from gateway.core.records import RECORD, Batch, Event, Gap
from sync import wire
from sync.forms import sparkplug, sparkplug_metrics
from sync.store.store import StoredFrame
from tests.sync.sparkplug_edge import (
    NOW_NS,
    PAUSE_NS,
    PLANT,
    T0_MS,
    T0_NS,
    Edge,
    known_edge,
    rows,
)
from tests.sync.sparkplug_host import Peer, peer
from tests.sync.support import EPOCH, batch, birth


@pytest.fixture(scope="module")
def library() -> Iterator[Peer]:
    with peer() as found:
        yield found


@pytest.fixture
def edge(library: Peer, tmp_path: Path) -> Edge:
    return known_edge(library, tmp_path)


# ---------------------------------------------------------------- births


def test_a_birth_has_every_metric_with_its_value_and_definition(edge: Edge) -> None:
    edge.start()
    host = edge.host
    assert host.online and host.births == 1
    assert host.birth.keys() == {
        *("bdSeq", "Node Control/Rebirth", "Gateway/Event", "Gateway/Gap"),
        *("Stack/Temperature", "Stack/Mode", "Feed/Flow"),
    }
    temperature = host.birth["Stack/Temperature"]
    assert (temperature.value, temperature.timestamp_ms) == (812.3, T0_MS)
    assert (temperature.quality, temperature.code) == (192, 0)
    assert host.birth["Stack/Mode"].value == 1
    flow = host.birth["Feed/Flow"]
    assert (flow.value, flow.quality, flow.code) == (3.5, 0, status.BAD_TIMEOUT)
    found = host.properties["Stack/Temperature"]
    assert found["engUnit"] == "degC" and found["documentation"] == "middle of the stack"
    assert (found["engLow"], found["engHigh"]) == (0, 1200)
    assert json.loads(host.properties["Stack/Mode"]["states"]) == ["OFF", "ON"]
    assert "engHigh" not in host.properties["Feed/Flow"]


def test_what_was_never_read_is_null_and_not_good(library: Peer, tmp_path: Path) -> None:
    edge = Edge(library, tmp_path)
    edge.know()
    edge.start()
    shown = edge.host.birth["Stack/Temperature"]
    assert (shown.value, shown.quality) == (None, 0)
    assert shown.code == status.BAD_WAITING_FOR_INITIAL_DATA


def test_a_link_that_knows_no_values_gives_birth_without_them(
    library: Peer, tmp_path: Path
) -> None:
    edge = Edge(library, tmp_path)
    edge.start()
    assert edge.host.birth["Stack/Temperature"].quality == 0
    edge.know((0, 1, 5.0, 0))
    edge.clock.advance(PAUSE_NS)
    edge.host.publications(edge.form.due())
    assert edge.host.birth["Stack/Temperature"].value == 5


def test_a_lost_field_process_leaves_nothing_good(edge: Edge) -> None:
    edge.start()
    assert not edge.form.due()
    edge.latest.lost(NOW_NS)
    edge.clock.advance(PAUSE_NS)
    edge.host.publications(edge.form.due())
    names = ("Stack/Temperature", "Stack/Mode", "Feed/Flow")
    assert [edge.host.current[name].quality for name in names] == [0, 0, 0]
    assert edge.host.current["Stack/Temperature"].value == 812.3
    assert not edge.form.due()


def test_the_birth_shows_what_became_durable_since(edge: Edge) -> None:
    edge.connect()
    edge.latest.appended(rows((8, 1, 0, 900.0, 50_000_000), (9, 1, 0, 901.0, 60_000_000)))
    edge.latest.appended(rows((4, 2, 0, 0.0, 0)))  # older than what is known
    edge.born()
    assert edge.host.birth["Stack/Temperature"].value == 901
    assert edge.host.birth["Stack/Mode"].value == 1


def test_a_new_configuration_gives_birth_anew(edge: Edge) -> None:
    edge.start()
    more = replace(PLANT, hash="more", points=(*PLANT.points, {"index": 4, "tag": "Feed.Valve"}))
    edge.born(more)
    assert edge.host.births == 2 and "Feed/Valve" in edge.host.birth
    edge.born(more)
    assert edge.host.births == 2  # nothing is new


def test_a_backlog_of_an_older_table_is_in_the_birth_before_its_data(edge: Edge) -> None:
    edge.start()
    edge.born(birth("old"), current=False)
    assert edge.host.births == 2
    assert edge.host.birth["Device/Channel_3"].value is None
    assert edge.frame(batch(1, 10, birth="old"), live=False) == 1
    assert {c.name for c in edge.host.changes} == {f"Device/Channel_{n}" for n in range(1, 11)}
    assert all(change.historical for change in edge.host.changes)
    assert edge.host.current["Device/Channel_3"].value is None


def test_only_chosen_points_are_metrics(library: Peer, tmp_path: Path) -> None:
    edge = Edge(library, tmp_path, points=["Feed.*"])
    edge.start()
    assert "Feed/Flow" in edge.host.birth and "Stack/Mode" not in edge.host.birth
    assert edge.frame(rows((8, 1, 0, 1.0, 0))) == 0
    assert edge.frame(rows((8, 1, 0, 1.0, 0), (9, 3, 0, 2.0, 0))) == 1
    assert [change.name for change in edge.host.changes] == ["Feed/Flow"]


def test_a_birth_that_brokers_may_refuse_is_said(edge: Edge, monkeypatch: Any) -> None:
    edge.start()
    assert edge.form.problem == ""
    monkeypatch.setattr(sparkplug, "BIRTH_BYTES_WARNED", 100)
    edge.born(replace(PLANT, hash="other"))
    assert "choose fewer Points" in edge.form.problem


def test_a_table_that_makes_no_sense_is_a_problem_and_no_end(edge: Edge) -> None:
    edge.connect()
    assert not edge.form.born("odd", b"\x00", current=True)
    assert "odd" in edge.form.problem
    edge.born()
    assert edge.form.problem == ""


# ---------------------------------------------------------------- data


def test_data_goes_by_alias_with_time_quality_and_status(edge: Edge) -> None:
    edge.start()
    uncertain = status.UNCERTAIN_LAST_USABLE
    edge.frame(
        rows(
            (8, 1, 0, 813.0, 10_000_000),
            (9, 2, 0, 0.0, 20_000_000),
            (10, 1, uncertain, 813.5, 30_000_000),
            (11, 3, status.BAD_COMMUNICATION_ERROR, math.nan, 40_000_000),
        )
    )
    assert [(c.name, c.value, c.quality, c.code) for c in edge.host.changes] == [
        ("Stack/Temperature", 813, 192, 0),
        ("Stack/Mode", 0, 192, 0),
        ("Stack/Temperature", 813.5, 500, uncertain),
        ("Feed/Flow", None, 0, status.BAD_COMMUNICATION_ERROR),
    ]
    assert [c.timestamp_ms - T0_MS for c in edge.host.changes] == [10, 20, 30, 40]
    assert not any(change.historical for change in edge.host.changes)


def test_a_value_that_is_good_again_says_so(edge: Edge, library: Peer) -> None:
    edge.start()
    seen: list[Mapping[str, Any]] = []
    for seq, code in ((8, status.BAD_TIMEOUT), (9, 0), (10, 0)):
        data = rows((seq, 1, code, 1.0, seq * 10**6))
        frame = StoredFrame(1, EPOCH, seq, seq, 1, "plant", wire.encode_frame(data, base=1))
        (out,) = edge.form.frame(frame, live=True)
        seen.append(library.decode(out.payload)["fields"]["metrics"][0].get("properties", {}))
    values = [[v.get("intValue") for v in found.get("values", [])][:1] for found in seen]
    assert values == [[0], [192], []]


def test_a_value_that_is_plainly_good_again_says_so(edge: Edge) -> None:
    edge.start()
    overridden = status.GOOD_LOCAL_OVERRIDE
    edge.frame(rows((8, 1, overridden, 1.0, 1_000_000), (9, 1, 0, 1.0, 2_000_000)))
    edge.frame(rows((10, 1, 0, 1.0, 3_000_000)))
    shown = [(change.code, change.quality) for change in edge.host.changes]
    assert shown == [(overridden, 192), (0, 192), (0, 192)]
    assert edge.host.told == [True, True, False]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, None), (5e-324, 5e-324)],
)
def test_numbers_at_the_edges(edge: Edge, value: float, shown: object) -> None:
    edge.start()
    edge.frame(rows((8, 1, 0, value, 0)))
    assert edge.host.changes[0].value == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-1.0, -1), (2.0**62, 2**62), (-(2.0**63), -(2**63)), (2.0**63, None), (0.5, None)],
)
def test_discrete_values_are_whole(edge: Edge, value: float, shown: object) -> None:
    edge.start()
    edge.frame(rows((8, 2, 0, value, 0)))
    assert edge.host.changes[0].value == shown


def test_a_backlog_is_historical_and_leaves_the_current_value(edge: Edge) -> None:
    edge.start()
    edge.frame(rows((8, 1, 0, 1.0, 1_000_000)), live=False)
    assert edge.host.changes[0].historical
    assert edge.host.current["Stack/Temperature"].value == 812.3


def test_what_the_birth_has_overtaken_is_historical(edge: Edge) -> None:
    edge.start()  # the temperature is known up to number 5
    edge.frame(rows((5, 1, 0, 1.0, 0), (6, 1, 0, 2.0, 1_000_000)))
    assert [change.historical for change in edge.host.changes] == [True, False]
    edge.frame(rows((90, 1, 0, 3.0, 2_000_000), epoch=EPOCH - 1))
    assert edge.host.changes[-1].historical


def test_data_is_in_the_order_of_time_whatever_the_clock_did(edge: Edge) -> None:
    edge.start()
    edge.frame(rows((8, 1, 0, 1.0, 5_000_000), (9, 2, 0, 0.0, 1_000_000), (10, 1, 0, 2.0, 3_000)))
    assert [change.timestamp_ms for change in edge.host.changes] == [T0_MS, T0_MS + 1, T0_MS + 5]


def test_two_values_of_one_millisecond_go_in_two_messages(edge: Edge) -> None:
    edge.start()
    entries = [(n, 1, 0, float(n), n * 1000) for n in range(8, 12)]
    assert edge.frame(rows(*entries)) == 4
    assert [change.value for change in edge.host.changes] == [8, 9, 10, 11]


def test_no_value_comes_before_an_older_one_of_its_point(edge: Edge) -> None:
    """Two values within a millisecond need two messages; the newest one comes last."""
    edge.start()
    times_ns = (0, 400_000, 1_000_000, 1_500_000, 2_000_000)
    entries = [(n, 1, 0, float(n), times_ns[n - 8]) for n in range(8, 13)]
    assert edge.frame(rows(*entries, (13, 2, 0, 0.0, 0))) == 3
    temperatures = [c.value for c in edge.host.changes if c.name == "Stack/Temperature"]
    assert temperatures == [8, 9, 10, 11, 12]
    assert edge.host.current["Stack/Temperature"].value == 12


def test_messages_are_of_bounded_size(edge: Edge) -> None:
    edge.start()
    data = np.zeros(2001, dtype=RECORD)
    data["seq"] = np.arange(8, 8 + len(data))
    data["point"] = 1
    data["utc_ns"] = T0_NS + np.arange(len(data)) * 1_000_000
    assert edge.frame(Batch(EPOCH, 8, 2008, "plant", data), live=False) == 3
    assert edge.host.seq == 3


def test_messages_with_long_texts_are_of_bounded_size(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparkplug_metrics, "TEXT_BYTES_MAX", 50_000)
    edge.start()
    sizes = [20_000, 20_000, 20_000, 60_000, 50]
    events = tuple(
        Event(n, T0_NS + n * 10**6, "gateway", {"text": "°" * (size // 2)})
        for n, size in enumerate(sizes, start=8)
    )
    data = Batch(EPOCH, 8, 12, "plant", np.zeros(0, dtype=RECORD), events)
    out = edge.form.frame(
        StoredFrame(1, EPOCH, 8, 12, 5, "plant", wire.encode_frame(data, base=1)), live=True
    )
    assert [len(p.payload) // 10_000 for p in out] == [4, 2, 6, 0]
    edge.host.publications(out)
    assert len(edge.host.changes) == 5


def test_messages_are_numbered_round_to_zero(edge: Edge) -> None:
    edge.start()
    entries = [(n, 1, 0, float(n), n) for n in range(8, 308)]  # within one millisecond
    assert edge.frame(rows(*entries)) == 300
    assert edge.host.seq == 300 % 256
    assert [change.value for change in edge.host.changes] == [*range(8, 308)]


def test_events_and_gaps_are_texts(edge: Edge) -> None:
    edge.start()
    event = Event(9, T0_NS + 3_000_000, "alarm", {"rule": "High"})
    gap = Gap(10, 12, "store over its quota")
    data = replace(rows((8, 1, 0, 1.0, 0)), last=12, events=(event,), gaps=(gap,))
    edge.frame(data)
    by_name = {change.name: change for change in edge.host.changes}
    shown = json.loads(by_name["Gateway/Event"].value)
    assert (shown["kind"], shown["seq"], shown["body"]) == ("alarm", 9, {"rule": "High"})
    shown = json.loads(by_name["Gateway/Gap"].value)
    assert (shown["first"], shown["last"], shown["reason"]) == (10, 12, "store over its quota")


def test_what_nobody_can_read_is_declared(edge: Edge) -> None:
    edge.start()
    edge.host.publications(
        edge.form.frame(StoredFrame(1, EPOCH, 4, 9, 6, "plant", b"\x81"), live=False)
    )
    edge.frame(batch(1, 6, birth="gone", events=(1,)), live=False)
    gaps = [json.loads(c.value) for c in edge.host.changes if c.name == "Gateway/Gap"]
    assert [(gap["first"], gap["last"]) for gap in gaps] == [(4, 9), (2, 6)]
    assert [c.name for c in edge.host.changes].count("Gateway/Event") == 1


def test_data_never_goes_before_a_birth(edge: Edge) -> None:
    edge.connect()
    assert edge.frame(rows((8, 1, 0, 1.0, 0))) > 0  # the host checks the order
    assert edge.host.births == 1
