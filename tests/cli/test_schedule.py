"""``gatepost schedule`` against a real field process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from config.points import PointDef
from gateway.cli.output import CommandFailed
from gateway.cli.schedule_table import FAULTS_MAX, read_table
from gateway.cli.times import iso_utc
from gateway.core.clock import SystemClock
from tests.gateway.running import Running
from tests.gateway.sites import Rig, eventually

Gatepost = Callable[..., Any]
HOUR_NS = 3_600_000_000_000
Ask = Callable[..., Any]


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Running]:
    """A field process whose start-up trip is released; its valve is `Rig.Valve`."""
    rig = Rig(tmp_path)
    await rig.start()
    running = Running(rig)
    await running.ready()
    yield running
    await running.end()
    await rig.stop()


@pytest.fixture
def ask(gatepost: Gatepost, plant: Running, tmp_path: Path) -> Ask:
    """Runs ``gatepost schedule WORD SITE ...`` beside the field process."""

    async def run(word: str, *words: object) -> Any:
        given = (word, tmp_path / "site", *words, "--state", tmp_path / "state")
        return await asyncio.to_thread(gatepost, "schedule", *given)

    return run


def table(folder: Path, *rows: str) -> Path:
    path = folder / "plan.csv"
    path.write_text("\n".join(("time,Rig.Valve", *rows)) + "\n", encoding="utf-8")
    return path


def around_now(folder: Path) -> Path:
    """The valve is open for an hour around now and closed for another."""
    now_ns = SystemClock().utc_ns()
    times = [iso_utc(now_ns + hours * HOUR_NS // 2) for hours in (-1, 1, 3)]
    return table(folder, f"{times[0]},1", f"{times[1]},0", f"{times[2]},")


async def test_a_table_is_sent_shown_and_cleared(ask: Ask, plant: Running, tmp_path: Path) -> None:
    assert (await ask("show")).out == "no schedules\n"
    sent = await ask("send", around_now(tmp_path), "--name", "peak")
    assert (sent.status, sent.out) == (0, "accepted: schedule peak\n")
    await eventually(lambda: plant.value("Rig.Valve") == 1)
    shown = await ask("show", "--point", "Rig.Valve")
    for words in ("peak", "day-ahead", "Rig.Valve", "command line"):
        assert words in shown.out
    answer = json.loads((await ask("show", "--point", "Rig.Valve", "--json")).out)
    assert [slot[2] for slot in answer["slots"]] == [1, 0]
    assert answer["now"][0]["value"] == 1
    cleared = await ask("clear", "--name", "peak")
    assert (cleared.status, cleared.out) == (0, "accepted: schedule peak\n")
    await eventually(lambda: plant.value("Rig.Valve") == 0)
    assert (await ask("show")).out == "no schedules\n"
    assert (await ask("clear")).out == "no schedules\n"
    missing = await ask("clear", "--name", "peak")
    assert (missing.status, missing.err) == (2, "gatepost: no schedule is called peak\n")


async def test_what_the_gateway_refuses_ends_with_status_1_and_the_reason(
    ask: Ask, tmp_path: Path
) -> None:
    now = iso_utc(SystemClock().utc_ns())
    done = await ask("send", table(tmp_path, f"{now},1"), "--end", "2099-01-01")
    assert done.status == 1
    assert "refused: schedule local: it ends more than 8 days ahead" in done.out
    done = await ask("send", table(tmp_path, "2026-01-01,1", "2026-01-01T01:00,"), "--json")
    assert done.status == 1
    assert json.loads(done.out)[0]["reason"] == "it is over already"
    done = await ask("send", around_now(tmp_path), "--kind", "weekly")
    assert (done.status, done.err) == (
        2, "gatepost: --kind weekly: there are intraday and day-ahead\n",
    )  # fmt: skip
    done = await ask("show", "--point", "Rig.Vlave")
    assert done.status == 2
    assert "Rig.Valve" in done.err


async def test_status_shows_what_schedules_do(
    gatepost: Gatepost, ask: Ask, plant: Running, tmp_path: Path
) -> None:
    await ask("send", around_now(tmp_path))
    await eventually(lambda: plant.value("Gateway.Schedule_Points") == 1)
    words = ("status", tmp_path / "site", "--state", tmp_path / "state")
    done = await asyncio.to_thread(gatepost, *words)
    assert "schedules  1, 1 points driven, the first runs out in" in done.out


MIN_NS = 60_000_000_000
VALVE = PointDef(
    1, "Rig.Valve", "Rig", "Valve", kind="discrete", writable=True, states=("Closed", "Open")
)
POWER = PointDef(2, "A", "", "A", units="kW", writable=True, value_min=0.0, value_max=10.0)
ROW = "2026-01-01T00:00:00Z"


def test_the_last_slot_is_as_long_as_the_one_before_unless_an_end_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, "2026-01-01T00:00,1", "2026-01-01T00:15,Open", "2026-01-01T00:30,")
    known = {"Rig.Valve": VALVE}
    points, end_ns = read_table(path, known, None)
    start_ns = points["Rig.Valve"][0][0]
    assert [(at - start_ns, value) for at, value in points["Rig.Valve"]] == [
        (0, 1.0), (15 * MIN_NS, 1.0),
    ]  # fmt: skip
    assert end_ns - start_ns == 30 * MIN_NS
    path = table(tmp_path, "2026-01-01T00:00+01:00,1", "", "2026-01-01T00:15+01:00,0")
    points, end_ns = read_table(path, known, None)
    assert start_ns - points["Rig.Valve"][0][0] == 60 * MIN_NS
    assert end_ns - points["Rig.Valve"][0][0] == 30 * MIN_NS
    assert read_table(path, known, 10**18)[1] == 10**18


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the first line is `time,TAG,...`"),
        ("when,A\n", "the first line is"),
        ("time,A,A\n", "two columns"),
        (f"time,A\n{ROW},1,2\n", ":2: 3 cells, the header has 2"),
        ("time,A\nnoon,1\n", ":2: 'noon' is no ISO 8601 time"),
        (f"time,A\n{ROW},lots\n", ":2: A: 'lots' is no number"),
        (f"time,A\n{ROW},1\n{ROW},2\n", ":3: not later than the line before"),
        (f"time,A\n{ROW},1\n", "say --end"),
        ("time,A\n", "say --end"),
        ("time,A\xff\n", "no CSV file"),
    ],
)
def test_a_table_that_is_none_is_named_with_its_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "plan.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CommandFailed) as failed:
        read_table(path, {"A": POWER}, None)
    assert reason in failed.value.message


def test_all_faults_of_a_table_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    lines = (
        "time,A,Rig.Vlave,Rig.Valve,Rig.Temperature",
        "2026-01-01T00:00,lots,1,Open,1",
        "2026-01-01T00:30,11,ajar,Closed,2",
        "2026-01-01T00:15,1,1,Ajar,3",
        "noon,1,1,2,4",
        "2026-01-01T01:00,1",
        "2026-01-01T01:15,inf,,,",
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    shown = PointDef(3, "Rig.Temperature", "Rig", "Temperature")
    known = {point.tag: point for point in (POWER, VALVE, shown)}
    with pytest.raises(CommandFailed) as failed:
        read_table(path, known, None)
    assert failed.value.message.splitlines() == [
        f'{path}:1: Rig.Vlave: no such point. Did you mean "Rig.Valve"?',
        f"{path}:1: Rig.Temperature: not an output",
        f"{path}:2: A: 'lots' is no number",
        f"{path}:3: A: 11: outside 0 to 10 kW",
        f"{path}:4: not later than the line before",
        f"{path}:4: Rig.Valve: 'Ajar' is no number and no state of Rig.Valve (Closed, Open)",
        f"{path}:5: 'noon' is no ISO 8601 time, such as 2026-03-01T12:00:00Z",
        f"{path}:5: Rig.Valve: 2: not one of the point's discrete values",
        f"{path}:6: 2 cells, the header has 5",
        f"{path}:7: A: inf: not a finite number",
    ]


def test_a_table_full_of_faults_names_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    rows = "".join(f"2026-01-01T00:{minute:02},lots\n" for minute in range(60))
    path.write_text(f"time,A\n{rows}", encoding="utf-8")
    with pytest.raises(CommandFailed) as failed:
        read_table(path, {"A": POWER}, None)
    told = failed.value.message.splitlines()
    assert len(told) == FAULTS_MAX + 1
    assert told[-1] == f"and {60 - FAULTS_MAX} more faults"


async def test_a_table_is_checked_against_the_site_before_it_is_sent(
    ask: Ask, tmp_path: Path
) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(
        "time,Rig.Setpoint,Rig.Vlave\n2026-01-01T00:00,1000,1\n2026-01-01T01:00,x,\n",
        encoding="utf-8",
    )
    done = await ask("send", path)
    assert done.status == 2
    for words in ("Rig.Vlave: no such point", "outside 0 to 100 degC", "'x' is no number"):
        assert words in done.err


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as failed:
        read_table(tmp_path / "none.csv", {}, None)
    assert "none.csv: No such file" in failed.value.message
