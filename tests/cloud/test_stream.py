"""A historian's values in the order of the gateway's journal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud.historian_sqlite import SqliteHistorian
from cloud.stream import HistorianStream
from sync.wire import Frame
from tests.sync import support

LAB = "lab"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "historian.db"


def made(path: Path) -> SqliteHistorian:
    historian = SqliteHistorian(path)
    historian.store_birth(LAB, support.birth())
    return historian


def commit(historian: SqliteHistorian, first: int, count: int, epoch: int = support.EPOCH) -> None:
    historian.commit_frame(LAB, Frame(support.batch(first, count, epoch=epoch), 1))


def numbers(stream: HistorianStream) -> list[int]:
    parts = [rows["seq"] for rows, _ in stream.rows(LAB, None)]
    return np.concatenate(parts).tolist() if parts else []


def test_a_backlog_that_live_values_overtook_is_put_back_into_its_place(path: Path) -> None:
    historian = made(path)
    commit(historian, 1, 10)
    for first in (101, 111, 121):  # live; they end up in one chunk with the first ten
        commit(historian, first, 10)
    for first in range(11, 101, 5):
        commit(historian, first, 5)
    commit(historian, 1, 10, support.EPOCH + 1)
    historian.close()
    stream = HistorianStream(path)
    assert numbers(stream) == [*range(1, 131), *range(1, 11)]
    stream.close()


def test_a_reader_sees_one_state_while_ingest_joins_chunks(path: Path) -> None:
    historian = made(path)
    commit(historian, 1, 100)
    commit(historian, 101, 10)
    stream = HistorianStream(path)
    rows = stream.rows(LAB, None)
    first, _ = next(rows)
    assert first["seq"].tolist() == list(range(1, 101))
    commit(historian, 111, 100)  # the chunk of 101 to 110 is gone, its number is another's
    (rest,) = [part["seq"].tolist() for part, _ in rows]
    assert rest == list(range(101, 111))
    stream.close()
    historian.close()


def test_an_empty_historian_has_no_rows(path: Path) -> None:
    made(path).close()
    stream = HistorianStream(path)
    assert numbers(stream) == []
    stream.close()
