"""`gatepost store`: what a store holds, whether it is sound, and its contents as a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from config.points import PointDef
from gateway.cli.history import Columns
from gateway.cli.history_open import open_history
from sync.store.store import Store
from tests.cli.conftest import Gatepost
from tests.config.building import mini_files, write_site
from tests.crash.power_migration import FRAMES, NUMBERS, write_schema_1
from tests.sync import support

QUOTA_BYTES = 10**9
NUMBERS_OF_A_FRAME = 200


@contextlib.contextmanager
def opened(path: Path, *links: str) -> Iterator[Store]:
    """The store as a link process holds it."""
    with contextlib.closing(
        Store(path, quota_bytes=QUOTA_BYTES, links=links or ("cloud",))
    ) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of 20 frames, each of which begins with an event."""
    made = tmp_path / "state" / "link.sqlite"
    with opened(made, "cloud", "customer") as store:
        store.put_birth(support.BIRTH, support.birth_bytes())
        for at in range(20):
            first = at * NUMBERS_OF_A_FRAME + 1
            store.append(support.batch(first, NUMBERS_OF_A_FRAME, events=(first,)))
        store.acknowledge("customer", support.EPOCH, 10 * NUMBERS_OF_A_FRAME)
    return made


def tear(path: Path) -> None:
    """Zero a page in the middle of the file."""
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    middle = len(data) // 2 // page * page
    data[middle : middle + page] = bytes(page)
    path.write_bytes(data)


def spoil_a_body(path: Path) -> None:
    """Change a byte of one frame without hurting the file."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        number, body = conn.execute(
            "SELECT id, body FROM frames ORDER BY id LIMIT 1 OFFSET 5"
        ).fetchone()
        spoilt = bytes([body[0] ^ 1]) + body[1:]
        conn.execute("UPDATE frames SET body = ? WHERE id = ?", (spoilt, number))
        conn.commit()


# ---------------------------------------------------------------- status


def test_status_says_what_is_held_and_what_each_link_needs(gatepost: Gatepost, path: Path) -> None:
    shown = json.loads(gatepost("store", "status", path, "--json").out)
    assert shown["frames"] == 20
    assert shown["records"] == 20 * NUMBERS_OF_A_FRAME
    assert shown["in_use"] is False
    assert shown["bytes"] == sum(shown["files"].values())
    assert shown["files"]["store"] == path.stat().st_size
    assert shown["epochs"] == [{"epoch": support.EPOCH, "last": 20 * NUMBERS_OF_A_FRAME}]
    left = {link["name"]: link["frames"] for link in shown["links"]}
    assert left == {"cloud": 20, "customer": 10}
    assert shown["oldest"] == "2025-11-21T04:40:00.002000Z"
    said = gatepost("store", "status", path.parent)
    assert said.status == 0
    for word in ("20 frames", "customer", "sequence 4000 of epoch 7", "not in use"):
        assert word in said.out


def test_status_of_a_site_knows_the_quota(gatepost: Gatepost, path: Path, tmp_path: Path) -> None:
    said = gatepost("store", "status", "config/sites/soec-lab", "--state", path.parent)
    assert said.status == 0
    assert "% taken" in said.out


def test_status_beside_a_running_gateway_changes_nothing(gatepost: Gatepost, path: Path) -> None:
    with opened(path, "cloud", "customer") as store:
        shown = json.loads(gatepost("store", "status", path, "--json").out)
        assert shown["in_use"] is True
        store.append(support.batch(20 * NUMBERS_OF_A_FRAME + 1, 10))
        again = json.loads(gatepost("store", "status", path, "--json").out)
        assert again["records"] == shown["records"] + 10


@pytest.mark.parametrize("command", ["status", "verify", "export"])
def test_what_is_no_store_is_said_so(gatepost: Gatepost, tmp_path: Path, command: str) -> None:
    empty, text, other = tmp_path / "empty", tmp_path / "text", tmp_path / "other.sqlite"
    empty.mkdir()
    text.write_text("no database at all, but a text of some length")
    with contextlib.closing(sqlite3.connect(other)) as conn:
        conn.execute("CREATE TABLE t (x)")
    for where, word in (
        (tmp_path / "nowhere", "no such file or folder"),
        (empty, "no store"),
        (text, "it is no SQLite database"),
        (other, "no store of a gateway"),
    ):
        said = gatepost("store", command, where)
        assert said.status in (1, 2)
        assert word in said.err, said.err
        assert said.out == ""


def test_a_store_of_a_newer_version_is_left_alone(gatepost: Gatepost, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 99")
    said = gatepost("store", "status", path)
    assert said.status == 2
    assert "newer version" in said.err


def test_a_site_without_a_store_says_where_it_would_be(gatepost: Gatepost, tmp_path: Path) -> None:
    said = gatepost("store", "status", "config/sites/soec-lab", "--state", tmp_path / "none")
    assert said.status == 2
    assert "there is no store" in said.err
    assert "--state" in said.err


# ---------------------------------------------------------------- verify


def test_a_sound_store_is_sound(gatepost: Gatepost, path: Path) -> None:
    said = gatepost("store", "verify", path)
    assert said.status == 0
    assert "sound: 20 frames, 4000 records, 0 declared gaps" in said.err


def test_verify_beside_a_running_gateway_leaves_the_pages_out(
    gatepost: Gatepost, path: Path
) -> None:
    with opened(path, "cloud", "customer"):
        said = gatepost("store", "verify", path)
    assert said.status == 0
    assert "when it is not in use" in said.err


def test_a_damaged_frame_is_named(gatepost: Gatepost, path: Path) -> None:
    spoil_a_body(path)
    said = gatepost("store", "verify", path)
    assert said.status == 1
    assert "epoch 7: 1001 to 1200: the frame's bytes are damaged" in said.out


def test_a_torn_page_is_damage_and_the_rest_is_counted(gatepost: Gatepost, path: Path) -> None:
    tear(path)
    before = path.read_bytes()
    found = json.loads(gatepost("store", "verify", path, "--json").out)
    assert found["ok"] is False
    assert "damaged" in found["findings"][0]
    assert 0 < found["frames"] < 20
    assert path.read_bytes() == before, "the damaged file was changed"


def test_numbers_that_are_neither_there_nor_declared_are_a_finding(
    gatepost: Gatepost, path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("DELETE FROM frames WHERE first = 1001")
        conn.execute("DELETE FROM frames WHERE first = 3801")
        conn.execute("UPDATE cursors SET seq = 4000")
        conn.commit()
    said = gatepost("store", "verify", path)
    assert said.status == 1
    assert "1001 to 1200: neither stored nor declared" in said.out
    assert "3801 to 4000: taken, and not there" in said.out


def test_a_declared_gap_is_shown_and_no_fault(gatepost: Gatepost, path: Path) -> None:
    with opened(path, "cloud", "customer") as store:
        store.append(support.batch(20 * NUMBERS_OF_A_FRAME + 11, 10))
    said = gatepost("store", "verify", path)
    assert said.status == 0
    assert "declared: epoch 7: 4001 to 4010: hole in local stream" in said.out


# ---------------------------------------------------------------- export


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_value_with_all_its_digits(gatepost: Gatepost, path: Path) -> None:
    said = gatepost("store", "export", path)
    assert said.status == 0
    rows = rows_of(said.out)
    assert len(rows) == 20 * (NUMBERS_OF_A_FRAME - 1)
    assert rows[0] == {
        "time": "2025-11-21T04:40:00.002000000Z",
        "tag": "Device.Channel_3",
        "value": "2.0",
        "status": "Good",
        "units": "K",
        "epoch": "7",
        "seq": "2",
    }
    assert "3980 values written" in said.err


def test_what_is_selected_is_written(gatepost: Gatepost, path: Path, tmp_path: Path) -> None:
    since, until = "2025-11-21T04:40:00.5Z", "2025-11-21T04:40:00.6Z"
    said = gatepost(
        *("store", "export", path, "--tag", "Device.Channel_1", "--since", since, "--until", until)
    )
    rows = rows_of(said.out)
    assert [int(row["seq"]) for row in rows] == list(range(500, 600, 10))
    assert gatepost("store", "export", path, "--since", "2099-01-01").out.count("\n") == 1


def test_parquet_holds_the_same_and_replay_reads_both(
    gatepost: Gatepost, path: Path, tmp_path: Path
) -> None:
    points = [PointDef(n, f"Device.Channel_{n}", "Device", f"Channel_{n}") for n in range(1, 11)]
    sums = []
    for name in ("out.parquet", "out.csv"):
        out = tmp_path / name
        assert gatepost("store", "export", path, "--out", out).status == 0
        history = open_history(out, Columns(points, {}, "none"), "", None)
        blocks = list(history.pieces())
        sums.append(
            (sum(len(b.values) for b in blocks), sum(float(b.values.sum()) for b in blocks))
        )
    assert sums[0] == sums[1]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 20 * (NUMBERS_OF_A_FRAME - 1)
    assert table["time"].type == pyarrow.timestamp("ns", tz="UTC")
    assert np.array_equal(table["value"].to_numpy(), table["seq"].to_numpy().astype(float))
    assert not list(tmp_path.glob(".*"))


def test_events_and_gaps_are_exported(gatepost: Gatepost, path: Path, tmp_path: Path) -> None:
    with opened(path, "cloud", "customer") as store:
        store.append(support.batch(20 * NUMBERS_OF_A_FRAME + 11, 10))
    said = gatepost("store", "export", path, "--events")
    rows = rows_of(said.out)
    assert [row["kind"] for row in rows].count("gateway") == 20
    assert json.loads(rows[0]["body"]) == {"number": 1}
    gap = next(row for row in rows if row["kind"] == "gap")
    assert (gap["seq"], json.loads(gap["body"])["last"]) == ("4001", 4010)
    assert "10 numbers of the stream are declared as lost" in said.err
    out = tmp_path / "events.parquet"
    assert gatepost("store", "export", path, "--events", "--out", out).status == 0
    assert pyarrow.parquet.read_table(out).num_rows == len(rows)


def test_a_damaged_store_is_exported_as_far_as_it_goes(gatepost: Gatepost, path: Path) -> None:
    tear(path)
    before = path.read_bytes()
    said = gatepost("store", "export", path)
    assert said.status == 0
    assert 0 < len(rows_of(said.out)) < 20 * (NUMBERS_OF_A_FRAME - 1)
    assert "it is damaged" in said.err
    assert "the rest is left out" in said.err
    assert path.read_bytes() == before


def test_a_store_of_the_first_schema_is_read(gatepost: Gatepost, tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    write_schema_1(path)
    assert gatepost("store", "verify", path).status == 0
    shown = json.loads(gatepost("store", "status", path, "--json").out)
    assert (shown["schema"], shown["frames"]) == (1, FRAMES)
    assert len(rows_of(gatepost("store", "export", path).out)) > FRAMES * NUMBERS * 0.9


def test_export_says_what_it_can_t_do(gatepost: Gatepost, path: Path, tmp_path: Path) -> None:
    said = gatepost("store", "export", path, "--out", tmp_path / "out.xlsx")
    assert said.status == 2
    assert "*.csv or *.parquet" in said.err
    said = gatepost("store", "export", path, "--out", tmp_path / "none" / "out.csv")
    assert said.status == 2
    assert "No such file" in said.err
    said = gatepost("store", "export", path, "--events", "--tag", "Device.Channel_1")
    assert said.status == 2
    said = gatepost("store", "export", path, "--out", "/dev/full/out.csv")
    assert said.status == 2


# ---------------------------------------------------------------- what nobody needs, and nobody has


def test_status_tells_what_every_link_has_let_go_of(gatepost: Gatepost, path: Path) -> None:
    with opened(path, "cloud", "customer") as store:
        for link in ("cloud", "customer"):
            store.acknowledge(link, support.EPOCH, 20 * NUMBERS_OF_A_FRAME)
    shown = json.loads(gatepost("store", "status", path, "--json").out)
    assert {link["name"]: link["frames"] for link in shown["links"]} == {"cloud": 0, "customer": 0}
    assert shown["let_go_frames"] == shown["frames"] > 0
    assert "deleted with the next append" in gatepost("store", "status", path).out


def test_status_of_a_site_lists_every_link_that_is_configured(
    gatepost: Gatepost, path: Path, tmp_path: Path
) -> None:
    files = mini_files()
    files["link.json"] = {"Links": {"customer": {}, "later": {}, "off": {"Active": False}}}
    site = write_site(tmp_path / "site", files)
    said = gatepost("store", "status", site, "--state", path.parent)
    assert "later" in said.out and "new: " in said.out and "off" not in said.out
    shown = json.loads(gatepost("store", "status", site, "--state", path.parent, "--json").out)
    links = [(link["name"], link["new"], link["frames"]) for link in shown["links"]]
    assert links == [("cloud", False, 20), ("customer", False, 10), ("later", True, 20)]
    assert shown["let_go_frames"] == 0


def test_export_of_a_tag_that_is_not_there_is_refused(gatepost: Gatepost, path: Path) -> None:
    out = path.parent / "x.csv"
    said = gatepost("store", "export", path, "--tag", "Nope.x", "--out", out)
    assert said.status == 2 and not out.exists()
    assert "--tag Nope.x: the store knows no such point. There are: " in said.err
