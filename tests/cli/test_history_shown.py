"""What the command line shows of the history that a gateway keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.cli import view
from sync.store.links import HISTORY
from tests.cli.conftest import Gatepost
from tests.cli.test_operate import STATUS
from tests.cli.test_store import opened
from tests.sync import support


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ({}, ""),
        ({"first_ns": 0, "problem": ""}, "empty"),
        ({"first_ns": 1_763_700_000_000_000_000}, "since 2025-11-21T04:40:00Z"),
        ({"problem": "store x: the disk is full"}, "the disk is full"),
        (
            {"first_ns": 1_763_700_000_000_000_000, "damaged": "x.damaged-1"},
            "its file was damaged and lies in x.damaged-1",
        ),
    ],
)
def test_status_says_since_when_and_what_is_wrong(history: dict[str, Any], words: str) -> None:
    link = {**STATUS["link"], **({"history": history} if history else {})}
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(view.status_view({**STATUS, "link": link}))
    rows = [line for line in captured.get().splitlines() if line.strip().startswith("history")]
    assert len(rows) == bool(history)
    assert all(words in row for row in rows)


def test_the_store_names_the_place_of_the_history(gatepost: Gatepost, tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    with opened(path, "cloud", HISTORY) as store:
        store.append(support.batch(1, 10))
        store.acknowledge("cloud", support.EPOCH, 10)
    shown = gatepost("store", "status", str(path)).out
    (row,) = [line for line in shown.splitlines() if "(history)" in line]
    assert row.split()[1:3] == ["1", "10"]
    assert HISTORY not in shown
