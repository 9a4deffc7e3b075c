"""Recorded files as history: what is read, and what is said of files that are wrong."""

from __future__ import annotations

import gzip
import math
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from cloud.historian_sqlite import SqliteHistorian
from config import status
from config.points import PointDef
from drivers.sim.replay import POWER_FILE, data_file
from gateway.cli import history_csv
from gateway.cli.history import Columns, History, in_order
from gateway.cli.history_csv import CsvHistory
from gateway.cli.history_open import open_history
from gateway.cli.history_parquet import ParquetHistory
from gateway.cli.output import CommandFailed
from gateway.cli.times import time_ns
from gateway.core.records import RECORD, Batch, Birth
from sync.store.store import Store
from sync.wire import Frame, encode_birth

POINTS = (
    PointDef(1, "Stack.T", "Stack", "T", units="degC"),
    PointDef(2, "Stack.Valve", "Stack", "Valve", "discrete", states=("Closed", "Open")),
    PointDef(3, "Meter.P", "Meter", "P", units="kW"),
    PointDef(4, "Sum.P", "Sum", "P", source="virtual"),
    PointDef(5, "Alarms.High", "Alarms", "High", "discrete", "rule"),
)
BEGIN = "2026-03-01T00:00:0"
BEGIN_NS = time_ns("2026-03-01T00:00:00Z")
S = 1_000_000_000
Sample = tuple[int, str, float, int]  # second since BEGIN, tag, value, status


def known(given: dict[str, Any] | None = None) -> Columns:
    return Columns(POINTS, given or {}, "map.json")


def samples(history: History) -> list[Sample]:
    """Everything that a history says, time after time."""
    found = []
    for block in in_order(history, None):
        for at, time in enumerate(block.times.tolist()):
            for n in range(block.starts[at], block.starts[at + 1]):
                tag = history.columns[block.columns[n]].tag
                second = (time - BEGIN_NS) / S
                found.append((second, tag, float(block.values[n]), int(block.codes[n])))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.csv"


def of_csv(file: Path, text: str, given: dict[str, Any] | None = None) -> list[Sample]:
    file.write_text(text)
    return samples(CsvHistory(file, known(given)))


def refused(file: Path, text: str | bytes, given: dict[str, Any] | None = None) -> str:
    """What is said of a file that can't be read."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CommandFailed) as error:
        samples(CsvHistory(file, known(given)))
    return error.value.message


# ---------------------------------------------------------------- CSV


def test_a_column_a_point(file: Path) -> None:
    text = f"time,Stack.T,Stack.Valve\n{BEGIN}0Z,850.5,Open\n{BEGIN}1Z,,closed\n{BEGIN}2Z,nan,1\n"
    found = of_csv(file, text)
    assert [row[:2] for row in found] == [
        (0, "Stack.T"), (0, "Stack.Valve"), (1, "Stack.Valve"), (2, "Stack.T"), (2, "Stack.Valve"),
    ]  # fmt: skip
    assert [row[2] for row in found][:3] == [850.5, 1.0, 0.0]
    assert math.isnan(found[3][2])


def test_a_row_a_value(file: Path) -> None:
    text = (
        f"Time;Tag;Value;Status\n{BEGIN}0Z;Stack.T;850;Good\n{BEGIN}0Z;Stack.Valve;Open;\n"
        f"{BEGIN}1Z;Other.X;1;Good\n{BEGIN}1Z;Stack.T;;BadTimeout\n{BEGIN}2Z;Stack.T;7;0x40900000\n"
    )
    found = of_csv(file, text)
    assert found[:2] == [(0, "Stack.T", 850.0, 0), (0, "Stack.Valve", 1.0, 0)]
    assert math.isnan(found[2][2]) and found[2][3] == status.BAD_TIMEOUT
    assert found[3:] == [(2, "Stack.T", 7.0, status.UNCERTAIN_LAST_USABLE)]


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (("1772323200", "1772323201"), "s"),
        (("1772323200.0", "1772323201.0"), "s"),
        (("1.7723232e9", "1.772323201E+9"), "s"),
        (("1772323200000", "1772323201000"), "ms"),
        (("1772323200000000", "1772323201000000"), "µs"),
        (("1772323200000000000", "1772323201000000000"), "ns"),
        (("2026-03-01 00:00:00", "2026-03-01 00:00:01"), ""),
        (("2026-03-01T01:00:00+01:00", "2026-02-28T17:00:01-07:00"), ""),
        (("2026-03-01T00:00:00.000Z", "2026-03-01T00:00:01.000000000Z"), ""),
    ],
)
def test_times_of_every_form(file: Path, times: tuple[str, str], unit: str) -> None:
    file.write_text(f"time,Stack.T\n{times[0]},1\n{times[1]},2\n")
    history = CsvHistory(file, known())
    assert [row[0] for row in samples(history)] == [0, 1]
    assert history.warnings == ([f"times are read as {unit} since 1970"] if unit else [])


def test_digits_behind_the_point_of_an_epoch_time_are_kept(file: Path) -> None:
    found = of_csv(file, "time,Stack.T\n1772323200.000000001,1\n1772323200.5,2\n")
    assert [row[0] * S for row in found] == [1, S / 2]


def test_a_line_is_bounded_and_so_is_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packed file is a thousandth of what it unfolds to."""
    monkeypatch.setattr(history_csv, "CHARACTERS_MAX", 100)
    file = tmp_path / "history.csv.gz"
    lines = [f"{BEGIN}{at}Z,{'0' * 40}{at}" for at in range(6)]
    file.write_bytes(gzip.compress("\n".join(["time,Stack.T", *lines]).encode()))
    history = CsvHistory(file, known())
    assert [len(piece.times) for piece in history.pieces()] == [2, 2, 2]
    for head, line in (("time,Stack.T\n", 2), ("", 1)):
        file.write_bytes(gzip.compress((head + "1," + "0" * 200).encode()))
        with pytest.raises(CommandFailed, match=f"line {line}: longer than 100 characters"):
            samples(CsvHistory(file, known()))


def test_times_before_1970_keep_their_fraction(file: Path) -> None:
    found = of_csv(file, "time,Stack.T\n-1.25,1\n-0.5,2\n")
    assert [row[0] + BEGIN_NS / S for row in found] == [-1.25, -0.5]


@pytest.mark.parametrize("name", ["history.csv.gz", "history.csv"])
def test_a_file_may_be_packed(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(f"time,Stack.T\n{BEGIN}0Z,1\n".encode()))
    assert samples(open_history(file, known(), "", None)) == [(0, "Stack.T", 1.0, 0)]


def test_a_time_that_stands_twice_is_one_and_the_later_line_counts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"time,Stack.T,Meter.P\n{BEGIN}0Z,1,5\n{BEGIN}1Z,2,5\n{BEGIN}1Z,3,\n{BEGIN}2Z,4,5\n"
    for cells_max in (1, 3, 6, 9, 200):  # the two lines fall into one piece, or into two
        monkeypatch.setattr(history_csv, "CELLS_MAX", cells_max)
        file.write_text(text)
        history = CsvHistory(file, known())
        blocks = list(in_order(history, None))
        assert np.concatenate([b.times for b in blocks]).tolist() == [
            BEGIN_NS + at * S for at in range(3)
        ]
        assert [row[2] for row in samples(history) if row[1] == "Stack.T"] == [1, 2, 3, 4]
    assert "1 time stood there before; the later line counts" in history.warnings


def test_units_are_converted(file: Path) -> None:
    found = of_csv(file, f"time,Stack.T [K],Meter.P (MW)\n{BEGIN}0Z,300,0.25\n")
    assert [row[2] for row in found] == pytest.approx([26.85, 250.0])


def test_a_map_names_points_and_scales(file: Path) -> None:
    given = {"a": "Stack.T", "b": {"Tag": "Meter.P", "Scalar": 0.1, "Offset": 5}, "c": None}
    given["d"] = {"Tag": "Stack.Valve", "Unit": ""}
    found = of_csv(file, f"time,a,b,c,d\n{BEGIN}0Z,1,95,9,Open\n", given)
    assert [(row[1], row[2]) for row in found] == [
        ("Stack.T", 1.0), ("Meter.P", 10.0), ("Stack.Valve", 1.0),
    ]  # fmt: skip


def test_what_rules_calculate_is_not_taken(file: Path) -> None:
    file.write_text(f"time,Stack.T,Sum.P,Alarms.High,odd\n{BEGIN}0Z,1,2,3,4\n")
    columns = known()
    assert len(samples(CsvHistory(file, columns))) == 1
    assert columns.calculated == ["Sum.P", "Alarms.High"]
    assert columns.unknown == ["odd"]


def test_pieces_are_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_csv, "CELLS_MAX", 20)
    lines = [f"2026-03-01T00:{at // 60:02d}:{at % 60:02d}Z,{at}" for at in range(100)]
    file.write_text("time,Stack.T\n" + "\n".join(lines))
    pieces = list(CsvHistory(file, known()).pieces())
    assert {len(piece.times) for piece in pieces} == {10}
    assert [piece.done for piece in pieces] == sorted(piece.done for piece in pieces)
    assert pieces[-1].done == 1.0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "line 1: it is empty"),
        ("time\n", "line 1: one column only"),
        ("1,2\n3,4\n", "line 1: no names of columns"),
        (f"time,Stack.T\n{BEGIN}0Z,1\n{BEGIN}1Z\n", "line 3: 1 cells in place of the header's 2"),
        (f"time,Stack.T\n{BEGIN}1Z,1\n\n{BEGIN}0Z,1\n", "line 4: 2026-03-01T00:00:00Z is before"),
        (f"time,Stack.T\n{BEGIN}0Z,1\nnoon,1\n", "line 3: time: 'noon': no ISO 8601 time"),
        ("time,Stack.T\n9999-01-01,1\n", "line 2: time: '9999-01-01': a year from 1678 to 2261"),
        (f"time,Stack.T\n1772323200,1\n{BEGIN}1Z,1\n", "line 3: time: '2026-03-01T00:00:01Z'"),
        (f"time,Stack.T\n{BEGIN}0Z,1\n{BEGIN}1Z,hot\n", "line 3: Stack.T: 'hot' is no number"),
        (f'time,Stack.T\n{BEGIN}0Z,"1,5"\n', "write numbers with a decimal point"),
        (f"time,Stack.Valve\n{BEGIN}0Z,ajar\n", "nor one of its states Closed, Open"),
        (f"time,a,b\n{BEGIN}0Z,1,2\n", "no column is a point of the site (columns: a, b)"),
        (f"time,Stack.T,Stack.T [K]\n{BEGIN}0Z,1,2\n", "Stack.T and Stack.T [K] are both Stack.T"),
        (f"time,Stack.T [bar]\n{BEGIN}0Z,1\n", "its unit bar can't become degC of Stack.T"),
        (
            f"time,tag,value,status\n{BEGIN}0Z,Stack.T,1,fine\n",
            "line 2: 'fine' is no OPC UA status",
        ),
        (f'time,Stack.T\n{BEGIN}0Z,"1\n', "line 2: unexpected end of data"),
        (b"time,Stack.T\n\xff\xfe\n", "line 2: no text in UTF-8"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_line_and_remedy(
    file: Path, text: str | bytes, wanted: str
) -> None:
    said = refused(file, text)
    assert said.startswith(str(file)) or "can't become" in said
    assert wanted in said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"a": "Stack.X"}, "the site has no point Stack.X"),
        ({"a": 7}, "a tag, null, or"),
        ({"a": {"Tag": "Stack.T", "Scale": 2}}, "unknown key Scale"),
        ({"a": {"Tag": "Stack.T", "Scalar": "2"}}, "a wrong type"),
    ],
)
def test_a_map_that_is_wrong_is_refused(file: Path, given: dict[str, Any], wanted: str) -> None:
    assert wanted in refused(file, f"time,a\n{BEGIN}0Z,1\n", given)


# ---------------------------------------------------------------- Parquet


def write_parquet(file: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), file)
    return file


def times(*seconds: int, unit: str = "ms", zone: str | None = "Europe/Berlin") -> Any:
    counts = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": S}[unit]
    first = BEGIN_NS // S
    return pa.array([(first + at) * counts for at in seconds], pa.timestamp(unit, zone))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_a_column_a_point(tmp_path: Path, unit: str, zone: str | None) -> None:
    file = write_parquet(
        tmp_path / "day.parquet",
        time=times(0, 1, 2, unit=unit, zone=zone),
        **{
            "Stack.T": pa.array([1.5, None, float("nan")]),
            "Stack.Valve": pa.array(["Open", "Closed", None]).dictionary_encode(),
            "Meter.P": pa.array([7, 8, 9], pa.int16()),
            "odd": pa.array([1, 2, 3]),
        },
    )
    found = samples(open_history(file, known(), "", None))
    assert [row[:3] for row in found if not math.isnan(row[2])] == [
        (0, "Stack.T", 1.5), (0, "Stack.Valve", 1.0), (0, "Meter.P", 7.0),
        (1, "Stack.Valve", 0.0), (1, "Meter.P", 8.0), (2, "Meter.P", 9.0),
    ]  # fmt: skip
    assert [row[:2] for row in found if math.isnan(row[2])] == [(2, "Stack.T")]


def test_parquet_a_row_a_value(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "day.parquet",
        time=times(0, 0, 1),
        tag=["Stack.T", "Other.X", "Stack.T"],
        value=[300.0, 1.0, None],
        status=pa.array([0, 0, status.BAD_TIMEOUT], pa.uint32()),
    )
    found = samples(ParquetHistory(file, known({"Stack.T": {"Tag": "Stack.T", "Unit": "K"}})))
    assert found[0] == (0, "Stack.T", pytest.approx(26.85), 0)
    assert found[1][3] == status.BAD_TIMEOUT and len(found) == 2


def test_parquet_units_stand_with_the_column(tmp_path: Path) -> None:
    field = pa.field("Stack.T", pa.float64(), metadata={"unit": "K"})
    schema = pa.schema([pa.field("time", pa.timestamp("s")), field])
    table = pa.table([times(0, unit="s", zone=None), pa.array([300.0])], schema=schema)
    parquet.write_table(table, tmp_path / "day.parquet")
    found = samples(ParquetHistory(tmp_path / "day.parquet", known()))
    assert found[0][2] == pytest.approx(26.85)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"Stack.T": [1.0]}, "no column of times"),
        ({"time": times(1, 0), "Stack.T": [1.0, 2.0]}, "row 2: time goes back"),
        ({"time": times(0), "Stack.T": [[1.0]]}, "Stack.T: list"),
        ({"time": times(0), "Stack.T": ["hot"]}, "'hot' is no number"),
        ({"time": ["noon"], "Stack.T": [1.0]}, "row 1: time: 'noon'"),
        ({"time": [math.nan, 1.0], "Stack.T": [1.0, 2.0]}, "row 1: time: no finite number"),
        ({"time": [1.0, math.inf], "Stack.T": [1.0, 2.0]}, "row 2: time: 'inf': a year from 1678"),
        ({"time": [1, 10**12], "Stack.T": [1.0, 2.0]}, "row 2: time: '1000000000000': a year"),
        ({"time": pa.array([None], pa.timestamp("s")), "Stack.T": [1.0]}, "row 1: no time"),
        ({"time": times(0), "x": [1.0]}, "no column is a point of the site"),
    ],
)
def test_parquet_that_is_wrong_is_refused(
    tmp_path: Path, columns: dict[str, Any], wanted: str
) -> None:
    file = write_parquet(tmp_path / "day.parquet", **columns)
    with pytest.raises(CommandFailed, match=r"day\.parquet") as error:
        samples(ParquetHistory(file, known()))
    assert wanted in error.value.message


def test_parquet_with_two_columns_of_times_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "day.parquet"
    columns = [times(0), times(0), pa.array([1.0])]
    parquet.write_table(pa.table(columns, names=["time", "time", "Stack.T"]), file)
    with pytest.raises(CommandFailed, match="time: two columns have this name"):
        ParquetHistory(file, known())


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), "categorical"])
def test_parquet_texts_of_every_kind(tmp_path: Path, kind: Any) -> None:
    def texts(*words: str) -> Any:
        plain = pa.array(words)
        return plain.dictionary_encode() if kind == "categorical" else plain.cast(kind)

    file = write_parquet(
        tmp_path / "day.parquet",
        time=texts(f"{BEGIN}0Z", f"{BEGIN}1Z"),
        **{"Stack.Valve": texts("Open", "Closed"), "Stack.T": pa.nulls(2)},
    )
    found = samples(ParquetHistory(file, known()))
    assert found == [(0, "Stack.Valve", 1.0, 0), (1, "Stack.Valve", 0.0, 0)]


def test_parquet_fractions_of_seconds_are_exact(tmp_path: Path) -> None:
    seconds = [BEGIN_NS / S + 0.25, BEGIN_NS / S + 0.5]
    file = write_parquet(tmp_path / "day.parquet", time=seconds, **{"Stack.T": [1.0, 2.0]})
    assert [row[0] for row in samples(ParquetHistory(file, known()))] == [0.25, 0.5]


def test_parquet_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "day.parquet", time=times(0), **{"Stack.T": [1.0]})
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CommandFailed, match="no Parquet file"):
        samples(open_history(file, known(), "", None))


def test_without_pyarrow_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_parquet(tmp_path / "day.parquet", time=times(0), **{"Stack.T": [1.0]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CommandFailed, match="needs the package pyarrow"):
        open_history(file, known(), "", None)


# ---------------------------------------------------------------- what a gateway recorded


def recorded() -> Iterator[Batch]:
    """Two frames of two points; the second one begins with a value that is a little older."""
    for first, rows in (
        (1, [(1, 850.0, 0, 0.0), (2, 1.0, 0, 0.2)]),
        (3, [(2, 0.0, 0, 0.1), (1, 870.0, 0, 1.0), (1, math.nan, status.BAD_TIMEOUT, 2.0)]),
    ):
        found = np.zeros(len(rows), dtype=RECORD)
        found["seq"] = np.arange(first, first + len(rows))
        found["point"] = [row[0] for row in rows]
        found["value"] = [row[1] for row in rows]
        found["status"] = [row[2] for row in rows]
        found["utc_ns"] = [BEGIN_NS + round(row[3] * S) for row in rows]
        yield Batch(9, first, first + len(rows) - 1, "b" * 16, found)


BIRTH = Birth(
    "lab", 9, 0, "b" * 16, "c" * 16, BEGIN_NS,
    ({"index": 1, "tag": "Stack.T"}, {"index": 2, "tag": "Stack.Valve"}),
)  # fmt: skip
RECORDED = [
    (0.0, "Stack.T", 850.0, 0),
    (0.2, "Stack.Valve", 1.0, 0),
    (0.2, "Stack.Valve", 0.0, 0),  # the stream's order counts
    (1.0, "Stack.T", 870.0, 0),
]


def test_the_store_of_a_gateway(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=10_000_000)
    store.put_birth("b" * 16, encode_birth(BIRTH))
    for batch in recorded():
        store.append(batch)
    for place in (tmp_path, tmp_path / "link.sqlite"):  # a state folder, a file; in use
        history = open_history(place, known(), "", None)
        found = samples(history)
        assert found[:-1] == RECORDED
        assert found[-1][3] == status.BAD_TIMEOUT
        assert history.by_exception
        assert history.warnings == []
    store.close()


def test_a_store_without_its_point_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=10_000_000)
    for batch in recorded():
        store.append(batch)
    store.close()
    history = open_history(tmp_path, known(), "", None)
    assert samples(history) == []
    assert history.warnings == ["5 values are left out: their point table is lost"]


def test_a_historian(tmp_path: Path) -> None:
    file = tmp_path / "historian.sqlite"
    historian = SqliteHistorian(file)
    historian.store_birth("lab", BIRTH)
    for batch in recorded():
        historian.commit_frame("lab", Frame(batch, 1))
    historian.close()
    assert samples(open_history(file, known(), "lab", None))[:-1] == RECORDED
    assert samples(open_history(file, known(), "", BEGIN_NS + 9_999 * S)) == []
    with pytest.raises(CommandFailed, match="name a gateway with --gateway; it has lab"):
        open_history(file, known(), "other", None)


def test_another_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite"
    with sqlite3.connect(file) as conn:
        conn.execute("CREATE TABLE t (a)")
    conn.close()
    with pytest.raises(CommandFailed, match="neither a gateway's store nor a historian's"):
        open_history(file, known(), "", None)


# ---------------------------------------------------------------- folders, real data


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(f"time,Stack.T\n{BEGIN}0Z,1\n{BEGIN}1Z,2\n")
    write_parquet(tmp_path / "2.parquet", time=times(2, 3), **{"Meter.P": [7.0, 8.0]})
    (tmp_path / "notes.txt").write_text("not data")
    assert [row[:3] for row in samples(open_history(tmp_path, known(), "", None))] == [
        (0, "Stack.T", 1.0), (1, "Stack.T", 2.0), (2, "Meter.P", 7.0), (3, "Meter.P", 8.0),
    ]  # fmt: skip
    (tmp_path / "3.csv").write_text(f"time,Stack.T\n{BEGIN}2Z,1\n")
    with pytest.raises(CommandFailed, match=r"3.csv: begins before 2.parquet ends"):
        samples(open_history(tmp_path, known(), "", None))


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no store"):
        open_history(tmp_path, known(), "", None)


def test_measured_data() -> None:
    """A minute series of a PV system as its laboratory published it."""
    path = data_file(POWER_FILE)
    name = path.read_text(encoding="utf-8").splitlines()[0].split(",")[1]
    found = samples(CsvHistory(path, known({name: {"Tag": "Meter.P", "Unit": "W"}})))
    assert len(found) > 2_000
    power = [row[2] for row in found if not math.isnan(row[2])]
    assert 3.0 < max(power) < 8.0  # kW
