"""The link's copy of the point table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from config import status
from gateway.core.records import Birth
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.mirror import Mirror
from tests.gateway.points import land, point


def test_what_the_journal_held_back_never_shows_as_newer_than_the_birth() -> None:
    points = [point(1), point(2, "Dev.Other")]
    table, journal = PointTable(points), Journal(points, 1, "b" * 16)
    for step in range(1, 6):
        land(table, 1, float(step), step)
        journal.report(table, step)
    active: Any = SimpleNamespace(Active=True, Endpoint="opc.tcp://127.0.0.1:0/x")
    site: Any = SimpleNamespace(name="Site", link=SimpleNamespace(OpcUa=active))
    mirror = Mirror(site)
    mirror.born(Birth("Site", 1, 0, "b" * 16, "", 0, ()), table.rows)
    backlog = journal.after(0, records_max=3)
    assert backlog is not None
    mirror.update(backlog.records)
    assert mirror._records["value"][0] == 5.0
    land(table, 1, 6.0, 6)
    journal.report(table, 6)
    newest = journal.after(0)
    assert newest is not None
    mirror.update(newest.records)
    assert mirror._records["value"][0] == 6.0


def test_a_field_that_is_gone_leaves_nothing_good() -> None:
    active: Any = SimpleNamespace(Active=True, Endpoint="opc.tcp://127.0.0.1:0/x")
    site: Any = SimpleNamespace(name="Site", link=SimpleNamespace(OpcUa=active))
    mirror = Mirror(site)
    mirror.lost(1)  # before any birth: nothing to mark
    table = PointTable([point(1)])
    land(table, 1, 5.0, 1)
    mirror.born(Birth("Site", 1, 0, "b" * 16, "", 0, ()), table.rows)
    mirror.lost(2)
    assert np.all(mirror._records["status"] == status.BAD_NO_COMMUNICATION)
