"""The link's copy of the point table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config import status
from config.opcua import OpcUaEntry
from gateway import local
from gateway import mirror as module
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import Birth
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.mirror import FieldDesk, Mirror
from gateway.opcua.desk import NotPassedOn
from gateway.opcua.model import SiteModel
from sync.remote import inbox
from tests.gateway.opcua_case import rows, until
from tests.gateway.points import land, point


async def _no_archive() -> None:
    return None


def mirror_of(state: Path) -> Mirror:
    """A mirror that was not started, of a site without instruments."""
    active = OpcUaEntry(Endpoint="opc.tcp://127.0.0.1:0/x")
    site: Any = SimpleNamespace(name="Site", folder=state, link=SimpleNamespace(OpcUa=active))
    model = SiteModel("Site", "")
    return Mirror(site, model, StatePaths(state), SystemClock(), desk_of(state), _no_archive)


def desk_of(state: Path) -> FieldDesk:
    async def refuse(message: Mapping[str, Any]) -> None:
        raise inbox.NotPassedOn("nobody is there")

    return FieldDesk(StatePaths(state).field_socket, lambda: False, refuse, refuse)


def test_what_the_journal_held_back_never_shows_as_newer_than_the_birth(tmp_path: Path) -> None:
    points = [point(1), point(2, "Dev.Other")]
    table, journal = PointTable(points), Journal(points, 1, "b" * 16)
    for step in range(1, 6):
        land(table, 1, float(step), step)
        journal.report(table, step)
    mirror = mirror_of(tmp_path)
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


def test_a_field_that_is_gone_leaves_nothing_good(tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path)
    mirror.lost(1)  # before any birth: nothing to mark
    table = PointTable([point(1)])
    land(table, 1, 5.0, 1)
    mirror.born(Birth("Site", 1, 0, "b" * 16, "", 0, ()), table.rows)
    mirror.lost(2)
    assert np.all(mirror._records["status"] == status.BAD_NO_COMMUNICATION)


class Shown:
    """Stands for the server: what it was given."""

    def __init__(self) -> None:
        self.values: list[tuple[int, float]] = []

    def field(self, *, there: bool) -> None:
        pass

    async def start(self, *_: Any) -> None:
        pass

    async def update(self, records: Any) -> None:
        self.values += zip(records["point"].tolist(), records["value"].tolist(), strict=True)


async def test_the_server_gets_every_change_and_of_too_many_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEWS_ROWS_MAX", 10)
    table, shown, mirror = (
        PointTable([point(1), point(2, "Dev.Other")]),
        Shown(),
        mirror_of(tmp_path),
    )
    monkeypatch.setattr(mirror, "_server", shown)
    mirror.born(Birth("Site", 1, 0, "b", "", 0, ()), table.rows)

    def change(first: int, *given: tuple[int, float]) -> None:
        for seq, (index, value) in enumerate(given, first):
            (row,) = made = rows((index, value, 0))
            row["seq"] = seq
            mirror.update(made)

    running = asyncio.create_task(mirror.run())
    await until(lambda: shown.values)
    assert [index for index, _ in shown.values] == [1, 2]  # a birth is shown whole
    shown.values.clear()
    few = [(1, 1.0), (2, 5.0), (1, 2.0), (1, 3.0), (2, 6.0)]
    change(1, *few)
    await until(lambda: len(shown.values) == 5)
    assert shown.values == few
    shown.values.clear()
    change(10, *((1, float(n)) for n in range(20, 31)), (2, 7.0))
    await until(lambda: shown.values)
    assert shown.values == [(1, 30.0), (2, 7.0)]
    mirror.lost(1)
    change(30, (2, 8.0))
    await until(lambda: len(shown.values) == 4)
    assert shown.values[2:] == [(1, 30.0), (2, 8.0)]
    running.cancel()


async def test_a_desk_asks_again_where_the_field_process_was_another_and_says_when_none_answers(
    tmp_path: Path,
) -> None:
    paths = StatePaths(tmp_path)
    paths.make()
    desk = desk_of(tmp_path)
    with pytest.raises(NotPassedOn, match="no gateway is running"):
        await desk.ask({"type": "status"})
    with pytest.raises(NotPassedOn, match="nobody is there"):
        await desk.pass_on({"type": "command"})
    lives: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lives.append(writer)
        while (question := await local.receive(reader)) is not None:
            kind = "error" if question["type"] == "no" else "answer"
            await local.send(writer, {"type": kind, "reason": "not that", "life": len(lives)})
        writer.close()

    server = await asyncio.start_unix_server(answer, str(paths.field_socket))
    try:
        assert (await desk.ask({"type": "status"}))["life"] == 1
        assert (await desk.ask({"type": "status"}))["life"] == 1
        with pytest.raises(NotPassedOn, match="not that"):
            await desk.ask({"type": "no"})
        lives[0].close()
        assert (await desk.ask({"type": "status"}))["life"] == 2
    finally:
        await desk.close()
        await until(lambda: all(writer.is_closing() for writer in lives))
        server.close()
        await server.wait_closed()
