"""The parts of the demonstration that need no process: copy of the site, report, times."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cloud.historian import AuditReport, EpochAudit
from config.load import require_site
from drivers.scpi.text import host_and_port
from gateway.cli.check import all_findings
from gateway.cli.demo import check_times, state_folder
from gateway.cli.demo_report import Outage, Report, report_view, trips_of, verdict_of
from gateway.cli.demo_run import Demo, Options
from gateway.cli.demo_site import copy_site, free_ports
from gateway.cli.demo_view import DemoView, progress_line
from gateway.cli.operation import start_electrolysis
from gateway.cli.output import CommandFailed
from gateway.core.records import Gap
from tests.cli.test_operate import STATUS

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


def test_an_instrument_with_a_visa_address_is_moved_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(LAB, source)
    psu = json.loads((source / "PSU.json").read_text())
    del psu["EquipmentTags"]["Connection"], psu["EquipmentTags"]["PortNum"]
    psu["EquipmentTags"]["VISA_address"] = "TCPIP::192.0.2.7::5025::SOCKET"
    (source / "PSU.json").write_text("\ufeff" + json.dumps(psu), encoding="utf-8")
    assert all_findings(source) == []
    copied = copy_site(source, tmp_path / "site")
    assert all_findings(copied.folder) == []
    tags = require_site(copied.folder).instruments["PSU"].tags
    assert host_and_port(tags) == ("127.0.0.1", copied.instruments["PSU"])


def test_the_name_in_topics_is_the_one_that_the_gateway_takes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(LAB, source)
    (source / "link.json").unlink()
    root = json.loads((source / "soec-lab-Config.json").read_text())
    root["SystemTags"]["SystemName"] = "SOEC Lab #2"
    (source / "soec-lab-Config.json").write_text(json.dumps(root))
    copied = copy_site(source, tmp_path / "site")
    assert copied.name == require_site(copied.folder).name == "soec-lab-2"


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
        ("link.json", "[]", "gatepost check shows what is wrong"),
        ("link.json", '{"Broker": null}', "gatepost check shows what is wrong"),
        ("link.json", '{"OpcUa": {"Endpoint": "http://[x/"}}', "gatepost check shows"),
        ("PSU.json", "[" * 100_000, "PSU.json"),
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


def test_start_up_stop_fallback_states_and_commands_are_no_trips() -> None:
    causes = ("start-up", "stop", "fallback", "Operation: Hot_Standby")
    others = [receipt("verified", cause=cause) for cause in causes]
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


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([], "nothing missing, nothing twice"),
        ([(5, 3, 3)], "1 number declared lost"),
        ([(5, 3, 4), (6, 1, 7)], "9 numbers declared lost"),
        ([(5, 40, 0)], "the tail of epoch 5 declared lost"),
        ([(5, 3, 4), (5, 40, 0)], "2 numbers declared lost, the tail of epoch 5 declared lost"),
    ],
)
def test_the_last_line_counts_what_was_declared_lost(
    gaps: list[tuple[int, int, int]], words: str
) -> None:
    named = [{"epoch": e, "first": f, "last": last, "reason": "x"} for e, f, last in gaps]
    text = verdict_of(named).plain
    assert text.endswith(words)
    assert ("declared" in text) is bool(gaps)


def test_the_report_for_people_names_the_epoch_of_a_gap() -> None:
    report = Report("lab", records=9, stored=4, acknowledged=3)
    report.gaps = [{"epoch": 5, "first": 40, "last": 0, "reason": "killed"}]
    screen = Console(width=100)
    with screen.capture() as captured:
        screen.print(report_view(report, []))
    text = captured.get()
    assert "epoch 5, from 40 on: killed" in text
    assert "up to 4 stored, 3 acknowledged" in text


def test_a_new_epoch_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo(copy_site(LAB, tmp_path / "site"), tmp_path / "run", Options())
    demo._note_status(STATUS)
    demo._note_status({**STATUS, "seq": 41})
    assert "anew" not in capsys.readouterr().err
    demo._note_status({**STATUS, "epoch": 8, "seq": 1})
    assert "safe values, the setpoints given before are ended" in capsys.readouterr().err


def test_the_live_table_of_the_laboratory_fits_a_small_terminal_with_its_messages() -> None:
    view = DemoView()
    view._console = Console(width=80, height=24)
    devices = dict.fromkeys("ABCDEF", STATUS["devices"]["Stack"])
    rules = [{"name": f"S{n}", "kind": "state", "level": "x", "latched": False} for n in range(20)]
    view.addresses(*("x" * 60 for _ in range(3)), "try: " + "y" * 100)
    for note in ("one", "two", "three"):
        view.note(note)
    view.update({**STATUS, "devices": devices, "rules": rules}, 3.0, None)
    with view._console.capture() as captured:
        view._console.print(view._draw())
    lines = captured.get().splitlines()
    assert len(lines) <= 24
    assert "three" in [line.strip() for line in lines]
    assert "and 1" in lines[-2] or "more active rules" in lines[-1]


class NoOutputs:
    """An operator at a site that has only one of the laboratory's outputs."""

    async def reset_trips(self, seconds: float) -> None: ...

    async def tags(self) -> set[str]:
        return {"VFD_1.RUN_STOP", "Pump.Run"}

    async def set_all(self, wanted: list[tuple[str, float]]) -> None:
        assert all(tag == "VFD_1.RUN_STOP" for tag, _ in wanted)


async def test_what_another_site_lacks_of_the_laboratory_is_known() -> None:
    lacking = await start_electrolysis(NoOutputs())  # type: ignore[arg-type]
    assert "PSU.Output_State" in lacking
    assert "VFD_1.RUN_STOP" not in lacking


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
    stated = {**status, "machines": [{"name": "Operation", "state": "Off"}]}
    assert "  Operation: Off  active" in progress_line(stated, 3.0)
