"""The form sparkplug, read by Eclipse Tahu's library: rebirths, deaths, the primary host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.forms import sparkplug
from tests.sync.sparkplug_edge import (
    NCMD,
    NOW_NS,
    PAUSE_NS,
    STATE,
    T0_MS,
    Edge,
    known_edge,
    rows,
)
from tests.sync.sparkplug_host import Peer, peer


@pytest.fixture(scope="module")
def library() -> Iterator[Peer]:
    with peer() as found:
        yield found


@pytest.fixture
def edge(library: Peer, tmp_path: Path) -> Edge:
    return known_edge(library, tmp_path)


# ---------------------------------------------------------------- rebirths and commands


def test_a_rebirth_is_given_at_once_with_the_same_number(edge: Edge, library: Peer) -> None:
    edge.start()
    edge.frame(rows((8, 1, 0, 1.0, 0)))
    edge.clock.advance(PAUSE_NS)
    assert not edge.say(NCMD, library.rebirth())
    assert edge.host.births == 2 and edge.host.number == 0
    edge.frame(rows((9, 1, 0, 1.0, 1_000_000)))  # the host checks that it is number 1


def test_rebirths_in_a_row_are_one_and_go_ahead_of_data(edge: Edge, library: Peer) -> None:
    edge.start()
    edge.clock.advance(PAUSE_NS)
    for _ in range(100):
        edge.say(NCMD, library.rebirth())
    assert edge.host.births == 2
    edge.frame(rows((8, 1, 0, 1.0, 0)))
    assert edge.host.births == 3 and edge.host.seq == 1
    for _ in range(100):
        edge.say(NCMD, library.rebirth())
    edge.clock.advance(PAUSE_NS)
    edge.host.publications(edge.form.due())
    assert edge.host.births == 4
    assert not edge.form.due()


def test_a_flood_of_requests_leaves_room_for_data(
    edge: Edge, library: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.start()
    request = library.rebirth()
    monkeypatch.setattr(sparkplug, "REBIRTH_BYTES_PER_S", 50)
    for seq in range(8, 308):  # ten seconds
        edge.clock.advance(33_000_000)
        for _ in range(3):
            edge.say(NCMD, request)
        edge.host.publications(edge.form.due())
        edge.frame(rows((seq, 1, 0, 1.0, seq * 10**6)))
    assert len(edge.host.changes) == 300
    assert 4 <= edge.host.births <= 1 + sparkplug.REBIRTH_BURST + 2
    edge.clock.advance(3600 * 10**9)
    edge.host.publications(edge.form.due())
    births = edge.host.births
    assert not edge.form.due()
    edge.latest.lost(NOW_NS)  # is told whoever floods
    edge.clock.advance(PAUSE_NS)
    edge.host.publications(edge.form.due())
    assert edge.host.births == births + 1


def test_other_commands_and_nonsense_are_ignored(
    edge: Edge, library: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    edge.start()
    edge.clock.advance(PAUSE_NS)
    setpoint = {"name": "Stack/Temperature", "type": "Double", "value": 900.0}
    write = library.encode({"timestamp": T0_MS, "metrics": [setpoint]})
    for payload in (write, library.rebirth(False), b"", b"\xff" * 40, b"\x12" * 100_000):
        assert not edge.say(NCMD, payload)
    assert edge.host.births == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert edge.form.received("spBv1.0/Plant/NCMD/other", library.rebirth()) is None


# ---------------------------------------------------------------- sessions and deaths


def test_the_will_is_a_death_with_the_number_of_the_birth(edge: Edge, tmp_path: Path) -> None:
    for number in range(3):
        edge.start()
        assert edge.host.number == number
        assert (edge.will.qos, edge.will.retain) == (1, False)
        edge.host.publication(edge.will)
        assert not edge.host.online
    edge.form = edge.make()  # the process began anew
    edge.start()
    assert edge.host.number == 3


def test_a_try_to_connect_takes_a_number_of_its_own(edge: Edge) -> None:
    edge.start()
    edge.form.opening()
    edge.start()
    assert edge.host.number == 2
    (tmp,) = edge.folder.iterdir()
    assert json.loads(tmp.read_text()) == {"bdSeq": 2}


@pytest.mark.parametrize("text", ["", "[]", '{"bdSeq": "x"}', '{"bdSeq": 300}', "\x00", "{}"])
def test_numbers_begin_at_zero_where_none_is_kept(edge: Edge, text: str) -> None:
    (edge.folder / "sparkplug-scada.json").write_text(text)
    edge.form = edge.make()
    edge.start()
    assert edge.host.number == 0


def test_the_number_after_255_is_zero(edge: Edge) -> None:
    (edge.folder / "sparkplug-scada.json").write_text('{"bdSeq": 255}')
    edge.form = edge.make()
    edge.start()
    assert edge.host.number == 0


def test_a_number_that_cant_be_kept_stops_nothing(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    edge.folder = edge.folder / "missing"
    edge.form = edge.make()
    edge.start()
    assert edge.host.online
    assert "bdSeq may repeat" in caplog.text


def test_a_clean_end_is_a_death(edge: Edge) -> None:
    edge.start()
    edge.host.publications(edge.form.farewell())
    assert edge.host.deaths == [0] and not edge.host.online


# ---------------------------------------------------------------- the primary host


@pytest.fixture
def waiting(library: Peer, tmp_path: Path) -> Edge:
    """An edge node with a primary host that was not heard yet."""
    made = Edge(library, tmp_path, host="SCADA")
    made.know((0, 5, 812.3, 0))
    made.connect()
    return made


def test_nothing_goes_out_before_the_primary_host_is_online(waiting: Edge) -> None:
    assert not waiting.form.ready
    assert "SCADA" in waiting.form.problem
    waiting.born()
    assert waiting.host.births == 0
    assert not waiting.state(True, T0_MS)
    assert waiting.form.ready and waiting.form.problem == ""
    assert waiting.host.births == 1
    waiting.born()
    assert waiting.host.births == 1


def test_it_listens_to_its_own_primary_host(waiting: Edge) -> None:
    assert waiting.form.opening().subscriptions == (NCMD, STATE)
    assert waiting.form.received("spBv1.0/STATE/OTHER", b'{"online":true,"timestamp":1}') is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"ONLINE",
        b"{}",
        b"[1]",
        b'{"online":1,"timestamp":1}',
        b'{"online":true}',
        b'{"online":true,"timestamp":"1"}',
        b'{"online":true,"timestamp":true}',
        b'{"online":true,"timestamp":NaN}',
        b'{"online":true,"timestamp":Infinity}',
        b'{"online":true,"timestamp":1' + b"0" * 400 + b".0}",
        b'{"online":true,"timestamp":1}' + b" " * 100_000,
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_state_that_makes_no_sense_is_no_state(waiting: Edge, payload: bytes) -> None:
    assert not waiting.say(STATE, payload)
    assert not waiting.form.ready


def test_a_host_that_leaves_ends_the_session_with_a_death(waiting: Edge) -> None:
    waiting.born()
    waiting.state(True, T0_MS)
    assert waiting.state(False, T0_MS)
    assert waiting.host.deaths == [0] and not waiting.host.online
    assert not waiting.form.ready
    waiting.connect()
    assert not waiting.state(False, T0_MS)  # retained: it waits, and does not connect for ever
    waiting.born()
    assert waiting.host.births == 1
    waiting.state(True, T0_MS + 1)
    assert waiting.host.births == 2 and waiting.host.number == 1


def test_an_older_farewell_of_the_host_is_no_farewell(waiting: Edge) -> None:
    waiting.born()
    waiting.state(True, T0_MS)
    assert not waiting.state(False, T0_MS - 1)
    assert waiting.form.ready and waiting.host.online
    assert not waiting.state(True, T0_MS + 1)
    assert waiting.host.births == 1


def test_an_older_hello_of_the_host_is_no_hello(waiting: Edge) -> None:
    waiting.born()
    waiting.state(False, T0_MS)
    waiting.state(True, T0_MS - 1)
    assert not waiting.form.ready
    waiting.state(True, T0_MS)
    assert waiting.form.ready
