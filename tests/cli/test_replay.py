"""``gatepost replay``: reports, comparisons, warnings and refusals."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.historian_sqlite import SqliteHistorian
from gateway.cli.history_records import newest_so_far
from gateway.cli.replay_compare import compare
from gateway.cli.replay_events import AlarmLoad, Occurrence
from gateway.cli.times import duration_ns, duration_text, time_ns
from gateway.core.records import RECORD, Batch, Birth
from sync.wire import Frame

Gatepost = Callable[..., Any]
LAB = Path(__file__).parents[2] / "config" / "sites" / "soec-lab"
S = 1_000_000_000
WELL = {
    "Stack.Cell_Temperature": 800.0,
    "Stack.Cell_Temperature_2": 801.0,
    "Stack.Cell_Temperature_3": 799.0,
    "Stack.Cell_Voltage": 1.3,
    "Stack.E_Stop_Button": 0.0,
    "Stack.Gas_Leak": 0.0,
    "Stack.Hydrogen_Fire": 0.0,
    "Stack.Purge_Valve": 0.0,
    "Gas.Steam_Flow": 5.0,
    "Gas.Hydrogen_Flow": 1.0,
    "Gas.Hydrogen_Pressure": 25.0,
    "VFD_1.FAULT": 0.0,
    "VFD_1.Ventilation_Flow": 900.0,
    "PSU.Current": 20.0,
}
HOT = dict.fromkeys((tag for tag in WELL if "Temperature" in tag), 905.0)


def write(path: Path, rows: Sequence[dict[str, float]], tags: Sequence[str] = tuple(WELL)) -> Path:
    """A second a row; each says what is otherwise than WELL."""
    lines = [",".join(("time", *tags))]
    for at, row in enumerate(rows):
        cells = [f"{row.get(tag, WELL.get(tag, 0.0)):g}" for tag in tags]
        lines.append(",".join((f"2026-03-01T00:{at // 60:02d}:{at % 60:02d}Z", *cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two minutes in which the stack is too hot for ten seconds."""
    return write(tmp_path / "run.csv", [HOT if 30 <= at < 40 else {} for at in range(120)])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The lab's site with another limit of the stack's temperature."""
    folder = tmp_path / "other"
    shutil.copytree(LAB, folder)
    file = folder / "SOEC_Personality_AlarmStates.json"
    text = file.read_text()
    assert "900" in text
    file.write_text(text.replace("900", "950"))
    return folder


def events(found: dict[str, Any], kind: str) -> list[tuple[str, str, float]]:
    return [
        (event["name"], event["start"][14:19], event["lasted_s"])
        for event in found["events"]
        if event["kind"] == kind
    ]


def test_the_report_names_trips_with_time_and_cause(gatepost: Gatepost, data: Path) -> None:
    outcome = gatepost("replay", LAB, data)
    assert outcome.status == 0
    assert "120 scans of" in outcome.out
    line = next(line for line in outcome.out.splitlines() if " Control/Stack_OverTemp " in line)
    assert line.startswith("2026-03-01T00:00:30Z  trip")
    assert "11 s" in line and "Stack.Cell_Temperature = 905 degC" in line and "first-out" in line
    assert "alarms: 2 announced" in outcome.out
    assert outcome.err == ""


def test_json(gatepost: Gatepost, data: Path) -> None:
    found = json.loads(gatepost("replay", LAB, data, "--json").out)
    assert found["scans"] == 120 and found["from"] == "2026-03-01T00:00:00.000000Z"
    assert found["warnings"] == []
    assert events(found, "trip") == [("Control/Stack_OverTemp", "00:30", 11.0)]
    alarms = [("Alarms/Stack_OverTemp", "00:30", 10.0), ("Alarms/Stack_HighTemp", "00:31", 9.0)]
    assert events(found, "alarm") == alarms
    trip = next(event for event in found["events"] if event["kind"] == "trip")
    assert trip["inputs"]["Stack.Cell_Temperature"] == "905 degC"
    assert trip["cause_gone"] == "2026-03-01T00:00:40.000000Z"
    total = next(total for total in found["summary"] if total["kind"] == "trip")
    assert (total["count"], total["longest_s"], total["active_s"]) == (1, 11.0, 11.0)
    assert found["alarms"]["announced"] == 2


def test_against_another_site(gatepost: Gatepost, data: Path, other: Path) -> None:
    found = json.loads(gatepost("replay", LAB, data, "--against", other, "--json").out)
    assert events(found, "trip") and not events(found["against"], "trip")
    differences = [
        (pair["difference"], pair["here"]["kind"], pair["here"]["name"])
        for pair in found["against"]["differences"]
        if pair["here"] and pair["here"]["kind"] in ("trip", "alarm")
    ]
    assert ("only here", "trip", "Control/Stack_OverTemp") in differences
    assert {kind for kind, _, _ in differences} == {"only here"}
    text = gatepost("replay", LAB, data, "--against", other).out
    assert "only here, for 11 s" in text
    assert text.startswith(f"{LAB} against {other} over ")
    every = len(found["against"]["differences"])
    assert f"{every} differences: " in text
    assert "both do the same" in gatepost("replay", LAB, data, "--against", LAB).out


def test_units_that_differ_between_the_sites_are_said(
    gatepost: Gatepost, data: Path, other: Path
) -> None:
    file = other / "Gas.json"
    assert '"psia"' in file.read_text()
    file.write_text(file.read_text().replace('"psia"', '"bar"'))
    said = gatepost("replay", LAB, data, "--against", other).err
    assert f"Gas.Hydrogen_Pressure is in psia in {LAB} and in bar in {other}" in said


def test_what_a_gateway_recorded(gatepost: Gatepost, tmp_path: Path) -> None:
    """Changes and heartbeats only: a value stands until the next, far beyond its age limit."""
    moments = [
        (0, WELL),
        (60, WELL),
        (90, HOT),
        (100, {tag: WELL[tag] for tag in HOT}),
        (120, WELL),
    ]
    samples = [(at, tag, value) for at, row in moments for tag, value in row.items()]
    data = recorded(tmp_path / "historian.sqlite", samples)
    outcome = gatepost("replay", LAB, data, "--every", "1s", "--json")
    found = json.loads(outcome.out)
    assert found["warnings"] == []
    assert found["scans"] == 121
    assert events(found, "trip") == [("Control/Stack_OverTemp", "01:30", 11.0)]


def recorded(path: Path, samples: Sequence[tuple[int, str, float]]) -> Path:
    """A historian with samples (second of their source time, tag, value) in this order."""
    tags = list(WELL)
    points = tuple({"index": at, "tag": tag} for at, tag in enumerate(tags, 1))
    begin_ns = time_ns("2026-03-01T00:00:00Z")
    birth = Birth("lab", 9, 0, "b" * 16, "c" * 16, begin_ns, points)
    rows = np.zeros(len(samples), dtype=RECORD)
    rows["seq"] = np.arange(1, len(samples) + 1)
    rows["utc_ns"] = [begin_ns + at * S for at, _, _ in samples]
    rows["point"] = [tags.index(tag) + 1 for _, tag, _ in samples]
    rows["value"] = [value for _, _, value in samples]
    historian = SqliteHistorian(path)
    historian.store_birth("lab", birth)
    historian.commit_frame("lab", Frame(Batch(9, 1, len(samples), birth.hash, rows), 1))
    historian.close()
    return path


def test_a_repeated_old_value_is_no_clock_that_was_set_back(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    """A heartbeat of a point that has not changed bears the time since which it is so."""
    samples = [(0, tag, value) for tag, value in WELL.items()]
    for at in range(60, 500, 60):
        samples += [(at, "Gas.Steam_Flow", 5.0), (0, "Stack.Gas_Leak", 0.0)]
    said = gatepost("replay", LAB, recorded(tmp_path / "still.sqlite", samples)).err
    assert "set back" not in said
    samples += [(300, "Gas.Steam_Flow", 5.0), (1, "Stack.Gas_Leak", 0.0)]
    said = gatepost("replay", LAB, recorded(tmp_path / "back.sqlite", samples)).err
    assert "1 values are up to 3 min older" in said and "the clock was set back" in said


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_the_newest_time_of_each_point(batch: int) -> None:
    draw = random.Random(batch)
    ids = np.array([draw.randrange(5) for _ in range(60)], dtype=np.int32)
    times = np.array([draw.randrange(1000) for _ in range(60)])
    newest = np.full(5, -(2**62))
    for first in range(0, 60, batch):
        part = slice(first, first + batch)
        found = newest_so_far(ids[part], times[part], newest)
        for at, index in enumerate(ids[part].tolist()):
            newest[index] = max(newest[index], times[first + at])
            assert found[at] == newest[index]


def test_columns_of_the_map_that_the_data_lack_are_named(
    gatepost: Gatepost, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "map.json"
    file.write_text('{"LT-1": "Gas.Steam_Flow", "PSU.Current": "PSU.Current", "comment": null}')
    said = gatepost("replay", LAB, data, "--map", file).err
    assert f"warning: {file} maps columns that the data lack: LT-1\n" in said
    data.write_text("time,LT-2\n2026-03-01T00:00:00Z,1\n")
    refused = gatepost("replay", LAB, data, "--map", file)
    assert refused.status == 2 and "the data lack: LT-1, PSU.Current" in refused.err


def test_what_only_calls_itself_parquet(gatepost: Gatepost, tmp_path: Path) -> None:
    file = tmp_path / "run.parquet"
    for damaged in (b"", b"XXXX" + bytes(100), b"PAR1" + bytes(100)):
        file.write_bytes(damaged)
        outcome = gatepost("replay", LAB, file)
        assert outcome.status == 2 and "run.parquet: no Parquet file: " in outcome.err


def test_part_of_the_data(gatepost: Gatepost, data: Path) -> None:
    words = ("--from", "2026-03-01T00:00:35Z", "--to", "2026-03-01T00:00:37Z", "--json")
    found = json.loads(gatepost("replay", LAB, data, *words).out)
    assert found["scans"] == 3
    assert events(found, "trip") == [("Control/Stack_OverTemp", "00:35", 2.0)]
    late = gatepost("replay", LAB, data, "--from", "2026-04-01")
    assert late.status == 2 and "before --from" in late.err
    early = gatepost("replay", LAB, data, "--to", "2026-02-01")
    assert early.status == 2 and "holds no values up to --to" in early.err


def test_what_the_data_lack_is_said(gatepost: Gatepost, tmp_path: Path) -> None:
    tags = [tag for tag in WELL if tag != "Gas.Steam_Flow"]
    data = write(tmp_path / "run.csv", [{}] * 5, [*tags, "Operator"])
    said = gatepost("replay", LAB, data).err
    assert "left out, no points of the site: Operator; --map FILE gives columns their" in said
    assert "no values for Gas.Steam_Flow, which trips or interlocks read" in said
    assert "the start-up trip never ended" in said
    given = gatepost("replay", LAB, data, "--set", "Gas.Steam_Flow=5")
    assert "no values" not in given.err and "start-up" not in given.err


def test_odd_values_are_said(gatepost: Gatepost, tmp_path: Path) -> None:
    data = write(tmp_path / "run.csv", [{"Stack.Cell_Temperature": 1e6}] * 4 + [{}] * 4)
    assert "50.0% of its values lie outside of its range" in gatepost("replay", LAB, data).err


def test_pauses_are_said(gatepost: Gatepost, data: Path) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join(lines[:10] + lines[50:]))
    said = gatepost("replay", LAB, data).err
    assert "the data pause 1 time; the longest lasts 41 s from 2026-03-01T00:00:08" in said
    assert "no value came within the age limit" in said
    assert "age limit" not in gatepost("replay", LAB, data, "--hold", "1min").err


def test_the_list_is_cut_and_the_summary_is_whole(gatepost: Gatepost, data: Path) -> None:
    out = gatepost("replay", LAB, data, "--limit", "1").out
    assert "more; --limit lists more of them" in out
    assert "Control/Stack_OverTemp" in out  # in the summary


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--every", "0s"), "--every 0s: a duration above zero"),
        (("--hold", "soon"), "--hold soon: a duration such as 500ms"),
        (("--reset-after", "later"), "--reset-after later: a duration"),
        (("--from", "noon"), "--from noon: no ISO 8601 time"),
        (("--set", "Stack.X=1"), "--set Stack.X=1: the site has no such point"),
        (("--set", "Stack.Gas_Leak"), "--set Stack.Gas_Leak: give TAG=VALUE"),
        (("--set", "Stack.Gas_Leak=maybe"), "'maybe' is no number and no state"),
        (("--set", "Alarms.Gas_Leak=1"), "the rules calculate this point"),
        (("--map", "nowhere.json"), "nowhere.json: No such file"),
        (("--against", "nowhere"), "nowhere: no such site folder"),
    ],
)
def test_wrong_options(gatepost: Gatepost, data: Path, words: tuple[str, str], wanted: str) -> None:
    outcome = gatepost("replay", LAB, data, *words)
    assert outcome.status == 2
    assert wanted in outcome.err


def test_no_data_and_no_site(gatepost: Gatepost, tmp_path: Path) -> None:
    missing = gatepost("replay", LAB, tmp_path / "none.csv")
    assert missing.status == 2 and "none.csv: No such file or directory" in missing.err
    assert gatepost("replay", tmp_path / "site", tmp_path).status == 2
    header = write(tmp_path / "empty.csv", [])
    assert "it holds no values" in gatepost("replay", LAB, header).err


def test_a_site_with_errors_is_refused(gatepost: Gatepost, data: Path, other: Path) -> None:
    file = other / "SOEC_Personality_ControlStates.json"
    file.write_text(file.read_text().replace("alarm('Alarms/E_Stop')", "alarm('Alarms/Nobody')"))
    outcome = gatepost("replay", other, data)
    assert outcome.status == 2
    assert "Alarms/Nobody" in outcome.err


# ---------------------------------------------------------------- comparing, counting


def of(*spans: tuple[int, int], name: str = "A") -> list[Occurrence]:
    return [Occurrence("alarm", name, "High", first, last) for first, last in spans]


def told(here: list[Occurrence], there: list[Occurrence]) -> list[tuple[str, int]]:
    return [(pair.difference, pair.start_ns) for pair in compare(here, there)]


def spans_of(draw: random.Random) -> list[tuple[int, int]]:
    """Spans one behind the other; the last may go on to the end."""
    ends = sorted(draw.sample(range(1, 30), 2 * draw.randint(0, 6)))
    spans = list(zip(ends[::2], ends[1::2], strict=True))
    return [*spans[:-1], (spans[-1][0], 0)] if spans and draw.random() < 0.3 else spans


def meets(one: Occurrence, other: Occurrence) -> bool:
    """Whether both were the case at some moment."""
    begins = max(one.start_ns, other.start_ns)
    return begins < (one.end_ns or 99) and begins < (other.end_ns or 99)


def test_comparison_pairs_what_overlaps() -> None:
    assert told(of((1, 5)), of((1, 5))) == []
    assert told(of((1, 5)), of((3, 5))) == [("moved", 1)]
    assert told(of((1, 5)), of((5, 6))) == [("only here", 1), ("only there", 5)]
    assert told(of((1, 5), (7, 9)), of((7, 9))) == [("only here", 1)]
    assert told(of((7, 9)), of((1, 5), (7, 9))) == [("only there", 1)]
    assert told(of((1, 0)), of((2, 0))) == [("moved", 1)]  # both still so at the end
    assert told(of((1, 5)), of((1, 5), name="B")) == [("only here", 1), ("only there", 1)]


def test_short_ones_are_parts_of_a_long_one() -> None:
    short, long = of((1, 3), (4, 6)), of((1, 6))
    assert told(short, long) == [("part there", 1), ("part there", 4)]
    assert told(long, short) == [("part here", 1), ("part here", 4)]
    assert told(of((1, 3), (4, 0)), of((1, 0))) == [("part there", 1), ("part there", 4)]
    chain = told(of((1, 3), (5, 8), (10, 12)), of((2, 6), (7, 11)))
    assert chain == [("part there", 1), ("part there", 5), ("part there", 10)]
    assert told(of((1, 3), (5, 8)), of((2, 6), (7, 9))) == [("part there", 1), ("part here", 7)]


def test_whatever_overlaps_is_never_alone_and_nothing_is_forgotten() -> None:
    draw = random.Random(1)
    for _ in range(300):
        here, there = (of(*spans_of(draw)) for _ in range(2))
        named: set[int] = set()
        for pair in compare(here, there):
            named |= {id(pair.here), id(pair.there)}
            others = there if pair.difference == "only here" else here
            if pair.difference.startswith("only"):
                assert not any(meets(pair.shown, other) for other in others)
            else:
                assert pair.here is not None and pair.there is not None
                assert meets(pair.here, pair.there)
        for one, others in [(o, there) for o in here] + [(o, here) for o in there]:
            alike = any((o.start_ns, o.end_ns) == (one.start_ns, one.end_ns) for o in others)
            assert id(one) in named or alike


def test_a_part_in_words() -> None:
    day = time_ns("2026-03-01T00:00:00Z")
    here = of((day + 181 * S, day + 301 * S), (day + 421 * S, day + 541 * S))
    first, second = compare(here, of((day + 61 * S, day + 601 * S)))
    assert first.start_ns == here[0].start_ns and second.start_ns == here[1].start_ns
    assert second.in_words(0) == "there: part of the alarm 00:01:01-00:10:01"
    (first, _) = compare(of((day - 9 * S, 0)), of((day, day + S), (day + 2 * S, 0)))
    assert first.in_words(0) == "here: part of the alarm 2026-02-28T23:59:51-end of the data"


def test_another_end_of_a_ramp_is_a_difference() -> None:
    here, there = of((1, 5)), of((1, 5))
    there[0].to = "40 Hz"
    (pair,) = compare(here, there)
    assert pair.in_words(9) == "there it goes to 40 Hz"


def test_a_move_in_words() -> None:
    (pair,) = compare(of((10 * S, 20 * S)), of((12 * S, 19 * S)))
    assert pair.in_words(99 * S) == "there it begins 2 s later and ends 1 s earlier"


def test_alarms_as_eemua_counts_them() -> None:
    load = AlarmLoad()
    for at in range(12):
        load.announce("A", at * 10 * S)
    load.announce("B", 1500 * S)
    figures = load.figures(0, 2400 * S - 1)
    assert figures["announced"] == 13
    assert figures["per_ten_minutes"] == 13 / 4
    assert figures["peak_in_ten_minutes"] == 12
    assert figures["flood_share"] == 0.25
    assert figures["chattering"] == {"A": 1}


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("500ms", 500_000_000),
        ("1.5 s", 1_500_000_000),
        ("2d", 172_800 * S),
        ("1h30min", 5_400 * S),
        ("1 h 30 min", 5_400 * S),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize("text", ["", "30", "30min 1h", "1h 1h", "-1s", "9" * 400 + "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        duration_ns(text)


def test_a_duration_that_nobody_lives_to_see() -> None:
    with pytest.raises(ValueError, match="longer than 36500 days"):
        duration_ns("999999999d")


def test_durations_for_people() -> None:
    moments = (0, 350, 12_500, 90_000, 11_100_000)
    assert duration_text(53_445_123) == "53.45 ms"
    assert [duration_text(n * S // 1000) for n in moments] == [
        "0 ms", "350 ms", "12.5 s", "1 min 30 s", "3 h 5 min",
    ]  # fmt: skip
    assert duration_text(86_400 * S) == "1 d"


def test_times() -> None:
    assert time_ns("1970-01-01T00:00:00.5Z") == S // 2
    with pytest.raises(ValueError, match="no ISO 8601 time"):
        time_ns("2026-02-30")
