"""Events on the console: enough to follow, never so many that the scan waits for them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gateway.core.records import Event
from gateway.event_log import LINES_MAX, WAITING, EventLog


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "gatepost.field")
    return caplog


def event(kind: str, /, **body: Any) -> Event:
    return Event(1, 0, kind, body)


def test_a_flood_of_alarms_takes_some_lines_and_hides_no_trip(
    heard: pytest.LogCaptureFixture,
) -> None:
    log = EventLog()
    for at in range(1_000):
        log.hear(event("alarm", name=f"A{at}", announced=True))
    log.hear(event("trip", name="OverTemp", active=True))
    assert len(heard.records) == LINES_MAX + 1
    assert heard.messages[-1] == "trip: name=OverTemp, active=True"
    log.next_second()
    assert heard.messages[-1] == f"alarm: {1_000 - LINES_MAX} more"
    log.next_second()
    log.hear(event("alarm", name="B", announced=True))
    assert heard.messages[-1] == "alarm: name=B, announced=True"
    assert len(heard.records) == LINES_MAX + 3


def test_what_calls_nobody_is_no_warning(heard: pytest.LogCaptureFixture) -> None:
    log = EventLog()
    log.hear(event("alarm", name="A", announced=True))
    log.hear(event("alarm", name="A", announced=False))
    log.hear(event("receipt", step="verified"))
    log.hear(event("receipt", step="refused", reason="no"))
    assert [record.levelname for record in heard.records] == ["WARNING", "INFO", "WARNING"]


def test_what_is_over_or_comes_back_says_so_and_is_no_warning(
    heard: pytest.LogCaptureFixture,
) -> None:
    log = EventLog()
    log.hear(event("device", device="Rig", up=False, reason="no answer"))
    log.hear(event("device", device="Rig", up=True, reason=""))
    log.hear(event("device", device="Rig", up=True, refuses=["a"], refused_blocks=1))
    log.hear(event("trip", name="OverTemp", active=True, kind="trip"))
    log.hear(event("trip", name="OverTemp", active=False, kind="trip"))
    log.hear(event("trip", name="May_Start", active=True, kind="permissive"))
    log.hear(event("alarm", name="A", active=False, announced=False))
    assert [(r.levelname, r.getMessage()) for r in heard.records] == [
        ("WARNING", "device: device=Rig, up=False, reason=no answer"),
        ("INFO", "device: device=Rig, up=True"),
        ("WARNING", "device: device=Rig, up=True, refuses=['a'], refused_blocks=1"),
        ("WARNING", "trip: name=OverTemp, active=True, kind=trip"),
        ("INFO", "trip: name=OverTemp, active=False, kind=trip"),
        ("INFO", "trip: name=May_Start, active=True, kind=permissive"),
        ("INFO", "alarm: name=A, active=False"),
    ]


def test_a_comment_can_not_look_like_another_line(heard: pytest.LogCaptureFixture) -> None:
    comment = "gas test\n2026-01-01 field: WARNING: trip: all is well \x1b[2J"
    EventLog().hear(event("alarm", name="A", comment=comment))
    (line,) = heard.messages
    assert line.isprintable()
    assert r"gas test\n2026-01-01" in line


def test_a_trip_that_was_never_read_is_the_start_up(heard: pytest.LogCaptureFixture) -> None:
    log = EventLog()
    log.hear(event("trip", name="OverTemp", active=True, kind="trip", reason=WAITING))
    log.hear(event("gateway", what="start-up trip released"))
    log.hear(event("gateway", what="start-up trip released", still_active="OverTemp"))
    assert [record.levelname for record in heard.records] == ["INFO", "INFO", "WARNING"]
    assert "waiting for first values" in heard.messages[0]
