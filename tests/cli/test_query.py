"""``gatepost query`` on a historian that holds a few rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cloud.historian_sqlite import SqliteHistorian
from config.status import BAD_TIMEOUT
from gateway.cli.times import iso_utc
from gateway.core.records import RECORD, Batch, Birth, Event
from sync.wire import Frame

Gatepost = Callable[..., Any]
NOON_NS = 1_767_225_600_000_000_000 + 12 * 3_600_000_000_000  # 2026-01-01T12:00:00Z


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two points, one value a second from noon on, and two events."""
    path = tmp_path / "historian.sqlite"
    points = tuple({"index": i, "tag": tag} for i, tag in ((1, "Stack.T"), (2, "PSU.I")))
    birth = Birth("lab", 9, 0, "b" * 16, "c" * 16, NOON_NS, points)
    rows = np.zeros(4, dtype=RECORD)
    rows["seq"] = (1, 2, 3, 4)
    rows["point"] = (1, 2, 1, 2)
    rows["value"] = (800.5, 30.0, 801.25, np.nan)
    rows["status"] = (0, 0, 0, BAD_TIMEOUT)
    rows["utc_ns"] = NOON_NS + np.arange(4) * 1_000_000_000
    events = (
        Event(5, NOON_NS, "trip", {"name": "Control/Hot", "active": True}),
        Event(
            6,
            NOON_NS + 5_000_000_000,
            "receipt",
            {"command": "0123abcd" * 4, "tag": "PSU.I", "step": "verified"},
        ),
    )
    historian = SqliteHistorian(path)
    historian.store_birth("lab", birth)
    batch = Batch(9, 1, 6, birth.hash, rows, events)
    historian.commit_frame("lab", Frame(batch, 1))
    historian.close()
    return path


def test_values_come_in_the_order_of_time(gatepost: Gatepost, file: Path) -> None:
    rows = json.loads(gatepost("query", file, "--json").out)
    assert [row["tag"] for row in rows] == ["Stack.T", "PSU.I", "Stack.T", "PSU.I"]
    assert rows[0] == {
        "time": "2026-01-01T12:00:00.000000Z",
        "gateway": "lab",
        "tag": "Stack.T",
        "value": 800.5,
        "status": "Good",
        "epoch": 9,
        "seq": 1,
    }
    assert (rows[3]["value"], rows[3]["status"]) == (None, "BadTimeout")


def test_tags_times_and_a_limit_select(gatepost: Gatepost, file: Path) -> None:
    def values(*words: str) -> list[float]:
        return [row["value"] for row in json.loads(gatepost("query", file, *words, "--json").out)]

    assert values("--tag", "Stack.T") == [800.5, 801.25]
    assert values("--tag", "Stack.T", "--tag", "PSU.I", "--limit", "3") == [30.0, 801.25, None]
    assert values("--since", "2026-01-01T12:00:02Z", "--limit", "1") == [None]
    assert values("--until", "2026-01-01T13:00:01+01:00") == [800.5]
    assert values("--since", "2026-01-01 12:00:01", "--until", "2026-01-01T12:00:02") == [30.0]
    assert values("--since", "2026-01-02") == []
    assert values("--tag", "No.Such") == []


def test_csv_is_csv_with_all_digits_and_an_empty_field_for_no_value(
    gatepost: Gatepost, file: Path
) -> None:
    rows = list(csv.DictReader(io.StringIO(gatepost("query", file, "--csv").out)))
    assert [row["value"] for row in rows] == ["800.5", "30.0", "801.25", ""]


def test_events_come_with_kind_and_body(gatepost: Gatepost, file: Path) -> None:
    rows = json.loads(gatepost("query", file, "--events", "--json").out)
    assert [row["kind"] for row in rows] == ["trip", "receipt"]
    assert rows[0]["body"] == {"name": "Control/Hot", "active": True}
    later = gatepost("query", file, "--events", "--since", "2026-01-01T12:00:01Z").out
    assert "step=verified" in later
    assert "Control/Hot" not in later


def test_an_event_is_one_line_with_a_short_identifier(
    gatepost: Gatepost, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = gatepost("query", file, "--events").out
    assert len(out.splitlines()) == 3
    assert "step=verified, tag=PSU.I, command=0123abcd" in out
    assert "0123abcd0" not in out
    assert "0123abcd0" in gatepost("query", file, "--events", "--csv").out
    assert "GATEWAY" not in out
    assert "EPOCH" not in out
    monkeypatch.setattr("gateway.cli.query.console", lambda: Console(width=60, markup=False))
    assert len(gatepost("query", file, "--events").out.splitlines()) == 3


def test_several_gateways_are_told_apart(gatepost: Gatepost, file: Path) -> None:
    historian = SqliteHistorian(file)
    event = Event(1, NOON_NS, "trip", {"name": "Control/Far"})
    historian.commit_frame("far", Frame(Batch(9, 1, 1, "", np.zeros(0, RECORD), (event,)), 1))
    historian.close()
    head = gatepost("query", file, "--events").out.splitlines()[0].split()
    assert head == ["TIME", "GATEWAY", "SEQ", "KIND", "BODY"]
    assert "GATEWAY" not in gatepost("query", file).out


def test_the_table_shows_every_column_uncut(gatepost: Gatepost, file: Path) -> None:
    out = gatepost("query", file).out
    assert "2026-01-01T12:00:02.000000Z" in out
    assert "801.25" in out
    assert "BadTimeout" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "yesterday"), "--since yesterday: no ISO 8601 time"),
        (("--until", "2026-13-01"), "--until 2026-13-01: no ISO 8601 time"),
        (("--until", "2300-01-01"), "--until 2300-01-01: a year from 1678 to 2261"),
        (("--since", "1500-01-01"), "--since 1500-01-01: a year from 1678 to 2261"),
        (("--since", "2026-01-01T12:00:00+99:99"), "no ISO 8601 time"),
        (("--json", "--csv"), "either --json or --csv"),
        (("--events", "--tag", "Stack.T"), "--tag selects values"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    gatepost: Gatepost, file: Path, words: tuple[str, ...], message: str
) -> None:
    done = gatepost("query", file, *words)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_a_file_that_is_not_there_or_no_historian_is_said(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    done = gatepost("query", tmp_path / "none.sqlite")
    assert done.status == 2
    assert "no such file" in done.err
    assert not (tmp_path / "none.sqlite").exists()
    other = tmp_path / "other.sqlite"
    other.write_text("this is a text and no database, whatever its name says" * 40)
    done = gatepost("query", other)
    assert done.status == 2
    assert "historian" in done.err
    empty = tmp_path / "empty.sqlite"
    empty.write_bytes(b"")
    assert gatepost("query", empty).status == 2


def test_times_are_iso_in_utc() -> None:
    assert iso_utc(NOON_NS + 123_456_789) == "2026-01-01T12:00:00.123456Z"
    assert iso_utc(0) == "1970-01-01T00:00:00.000000Z"
