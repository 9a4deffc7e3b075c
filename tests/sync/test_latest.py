"""The latest values: whole tables, what became durable, and the end of the field process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from config import status
from config.points import POINT
from sync.link.latest import Latest
from tests.sync.support import batch, birth


def table(points: int) -> np.ndarray:
    rows = np.zeros(points + 1, dtype=POINT)
    rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
    rows["value"] = np.arange(points + 1)
    return rows


def test_nothing_is_known_before_the_field_speaks() -> None:
    latest = Latest()
    latest.appended(batch(1, 10))
    assert latest.birth is None and not latest.known and not len(latest.rows)


def test_a_table_then_what_became_durable() -> None:
    latest = Latest()
    latest.born(birth(), table(10))
    assert latest.known and latest.changes == 1
    assert list(latest.rows["value"]) == list(range(1, 11))
    latest.appended(batch(1, 25))
    assert sorted(latest.rows["value"]) == list(range(16, 26))
    assert latest.rows["point"].tolist() == list(range(1, 11))
    latest.appended(batch(1, 10))  # older
    assert sorted(latest.rows["value"]) == list(range(16, 26))
    assert latest.changes == 1


def test_rows_of_another_table_or_epoch_change_nothing() -> None:
    latest = Latest()
    latest.born(birth(), table(10))
    latest.appended(batch(1, 10, birth="other"))
    latest.appended(batch(1, 10, epoch=8))
    assert list(latest.rows["value"]) == list(range(1, 11))


def test_points_may_come_in_any_order_of_their_indexes() -> None:
    latest = Latest()
    born = birth()
    latest.born(replace(born, points=born.points[::-1]), table(10))
    latest.appended(batch(1, 10))
    shown = dict(zip(latest.rows["point"].tolist(), latest.rows["seq"].tolist(), strict=True))
    assert shown == {1 + n % 10: n for n in range(1, 11)}


def test_a_loss_counts_once_until_the_field_is_back() -> None:
    latest = Latest()
    latest.lost(5)
    assert latest.changes == 0
    latest.born(birth(), table(10))
    latest.lost(7)
    latest.lost(9)
    assert (latest.known, latest.utc_ns, latest.changes) == (False, 7, 2)
    latest.born(birth(), table(10))
    assert latest.known and latest.changes == 3
