"""The parts of the demonstration that need no process: copy of the site, report, times."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.historian import AuditReport, EpochAudit
from config.load import require_site
from gateway.cli.check import all_findings
from gateway.cli.demo import check_times, state_folder
from gateway.cli.demo_report import Outage, Report, trips_of
from gateway.cli.demo_site import copy_site, free_ports
from gateway.cli.demo_view import progress_line
from gateway.cli.output import CommandFailed
from gateway.core.records import Gap

LAB = Path("config/sites/soec-lab")
Gatepost = Callable[..., Any]


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports[:3]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_the_copy_differs_from_the_site_in_addresses_only(tmp_path: Path) -> None:
    copied = copy_site(LAB, tmp_path / "site")
    assert all_findings(copied.folder) == []
    site, original = require_site(copied.folder), require_site(LAB)
    assert [p.tag for p in site.points] == [p.tag for p in original.points]
    assert copied.name == site.link.Site == "soec-lab"
    for name, instrument in site.instruments.items():
        assert instrument.tags.PortNum == copied.instruments[name]
        assert instrument.tags.PortNum != original.instruments[name].tags.PortNum
    assert site.link.Broker.URL == copied.broker_url == f"mqtt://127.0.0.1:{copied.broker_port}"
    assert site.link.OpcUa.Endpoint == copied.opcua_url
    assert copied.opcua_url.endswith("/gatepost")
    used = [*copied.instruments.values(), copied.broker_port]
    assert len(set(used)) == len(used) == 7


def test_a_site_without_link_json_gets_one_with_its_own_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(LAB, source)
    (source / "link.json").unlink()
    copied = copy_site(source, tmp_path / "site")
    assert copied.name == "soec-lab"
    assert copied.broker_url == require_site(copied.folder).link.Broker.URL


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("soec-lab-Config.json", "{", "Expecting"),
        ("soec-lab-Config.json", "{}", "gatepost check shows what is wrong"),
        ("PSU.json", "[]", "gatepost check shows what is wrong"),
        ("PSU.json", None, "gatepost check shows what is wrong"),
        ("soec-lab-Config.json", None, "no site folder"),
    ],
)
def test_a_broken_site_is_refused_before_anything_starts(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(LAB, source)
    if text is None:
        (source / file).unlink()
    else:
        (source / file).write_text(text)
    with pytest.raises(CommandFailed, match=message):
        copy_site(source, tmp_path / "site")


@pytest.mark.parametrize(
    ("seconds", "outage"),
    [(0.0, None), (-1.0, None), (1e9, None), (None, 0.0), (10.0, 7.0), (float("nan"), None)],
)
def test_times_that_can_not_be_kept_are_refused(
    seconds: float | None, outage: float | None
) -> None:
    with pytest.raises(CommandFailed):
        check_times(seconds, outage)


def test_times_that_fit_are_taken() -> None:
    check_times(None, None)
    check_times(45.0, 12.0)
    check_times(None, 12.0)


def test_a_state_folder_that_holds_something_is_left_alone(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CommandFailed, match="is not empty"):
        state_folder(tmp_path)
    with pytest.raises(CommandFailed, match="can't be used"):
        state_folder(tmp_path / "letter.txt" / "state")
    done = gatepost("demo", "--for", "5", "--state", tmp_path)
    assert done.status == 2
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "words", [("--for", "soon"), ("--for", "0"), ("--for", "9", "--outage", "8"), ("--fast",)]
)
def test_bad_options_end_with_a_message_and_status_2(
    gatepost: Gatepost, words: tuple[str, ...]
) -> None:
    done = gatepost("demo", *words)
    assert (done.status, done.out) == (2, "")
    assert words[0] in done.err


def receipt(step: str, cause: str = "Control/Hot", **more: Any) -> dict[str, Any]:
    return {"tag": "Stack.Heater", "value": 0.0, "step": step, "cause": cause, **more}


def test_a_trip_is_verified_by_its_read_back_and_timed_by_its_write() -> None:
    (entry,) = trips_of([receipt("driven", reaction_ms=4.0), receipt("verified", reaction_ms=19.0)])
    assert entry == {
        "cause": "Control/Hot",
        "output": "Stack.Heater",
        "verified": True,
        "reaction_ms": 4.0,
    }


def test_a_trip_that_was_only_driven_is_not_verified() -> None:
    (entry,) = trips_of([receipt("driven", reaction_ms=4.0), receipt("failed")])
    assert entry["verified"] is False


def test_an_output_that_held_the_value_already_is_timed_by_its_read_back() -> None:
    (entry,) = trips_of([receipt("verified", reaction_ms=30.0)])
    assert entry["reaction_ms"] == 30.0


def test_start_up_stop_fallback_and_commands_are_no_trips() -> None:
    others = [receipt("verified", cause=cause) for cause in ("start-up", "stop", "fallback")]
    assert trips_of([*others, {"tag": "X.Y", "step": "verified", "command": "1"}]) == []


def test_the_report_fails_on_each_thing_that_was_not_shown() -> None:
    good = Report("lab", records=5)
    assert good.faults(trip=False, outage=False) == []
    assert len(good.faults(trip=True, outage=False)) == 1
    assert len(good.faults(trip=False, outage=True)) == 1
    good.trips = [{"verified": True}]
    good.outages = [Outage(3.0, 10, 1.5)]
    assert good.faults(trip=True, outage=True) == []
    good.outages = [Outage(3.0, 10, None)]
    assert len(good.faults(trip=True, outage=True)) == 1
    assert len(Report("lab", records=5, missing=1).faults(trip=False, outage=False)) == 1
    assert len(Report("lab", records=5, duplicates=1).faults(trip=False, outage=False)) == 1
    assert len(Report("lab").faults(trip=False, outage=False)) == 1


def audited(
    last: int, missing: tuple[tuple[int, int], ...] = (), gaps: tuple[Gap, ...] = ()
) -> AuditReport:
    rows = last - sum(high - low + 1 for low, high in missing)
    contiguous = missing[0][0] - 1 if missing else last
    epoch = EpochAudit(5, 1, last, rows, 0, contiguous, 0, missing, gaps)
    return AuditReport("lab", (epoch,))


@pytest.mark.parametrize(
    ("audit", "newest", "missing"),
    [
        (audited(40), {5: 40}, 0),
        (audited(40), {5: 43}, 3),
        (audited(40, ((7, 9),)), {5: 40}, 3),
        (audited(40, ((7, 9),)), {5: 41}, 4),
        (audited(40), {5: 40, 6: 12}, 12),
        (audited(40, gaps=(Gap(40, 0, "killed"),)), {5: 55}, 0),
        (audited(40, gaps=(Gap(3, 4, "quota"),)), {5: 42}, 2),
        (AuditReport("lab"), {5: 9}, 9),
    ],
)
def test_what_the_historian_lacks_is_counted(
    audit: AuditReport, newest: dict[int, int], missing: int
) -> None:
    report = Report("lab")
    report.take_audit(audit, newest)
    assert report.missing == missing
    assert report.records == sum(newest.values())
    assert bool(report.faults(trip=False, outage=False)) == bool(missing)


def test_declared_gaps_are_listed() -> None:
    report = Report("lab")
    report.take_audit(audited(40, gaps=(Gap(3, 4, "quota"),)), {5: 40})
    assert report.gaps == [{"epoch": 5, "first": 3, "last": 4, "reason": "quota"}]


def test_the_figures_are_json() -> None:
    report = Report("lab", outages=[Outage(3.0, 10, None)])
    assert json.loads(json.dumps(report.figures(), allow_nan=False))["outages"] == [
        {"seconds": 3.0, "backlog_max_records": 10, "drain_s": None}
    ]


def test_a_progress_line_says_what_is_wrong() -> None:
    status = {
        "devices": {"A": {"connected": True}, "B": {"connected": False}},
        "seq": 9,
        "taken": 8,
        "link": None,
        "rules": [{"name": "Control/Hot", "kind": "trip"}, {"name": "S", "kind": "state"}],
    }
    line = progress_line(status, 3.0)
    assert "1/2 devices" in line
    assert "broker not connected" in line
    assert line.endswith("active: Control/Hot")
