"""Receipts of the link for the field process: none is lost, and none blocks the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from config.load import require_site
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.local import LocalError, receipt_of
from gateway.remote import HELD_MAX, Remote
from tests.config.building import mini_files, write_site


class Client:
    """The link's end of the local stream; the field's end takes what is a receipt."""

    def __init__(self) -> None:
        self.took: list[Mapping[str, Any]] = []
        self.meanwhile: list[Any] = []  # what is done while a message is on its way
        self.fault: LocalError | None = None

    async def send(self, message: Mapping[str, Any]) -> None:
        if self.fault is not None:
            raise self.fault
        self.took.append(receipt_of(msgpack.unpackb(msgpack.packb(message))))
        if self.meanwhile:
            await self.meanwhile.pop()()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    site = require_site(write_site(tmp_path / "site", mini_files()))
    return Remote(site, StatePaths(tmp_path), SystemClock())


def body(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"command": f"c{number}", "step": "refused", "reason": "no", **more}


async def test_what_strangers_sent_can_be_journaled(remote: Remote) -> None:
    """A request of the site bus may name any channel: no text may break the local stream."""
    client: Any = Client()
    await remote.joined(client)
    await remote.journal(body(1, tag="Rig.\ud800", tags=["\udfff", "x" * 5000]))
    await remote.journal(body(2, tag="x" * 5000))
    assert [r["tag"] for r in client.took] == ["Rig.?", "x" * 1000]
    assert client.took[0]["tags"] == ["?", "x" * 1000]


async def test_what_comes_while_a_field_process_joins_is_journaled(remote: Remote) -> None:
    for number in range(HELD_MAX + 5):
        await remote.journal(body(number))
    client: Any = Client()
    client.meanwhile = [lambda: remote.journal(body(-1))]
    await remote.joined(client)
    await remote.journal(body(-2))
    told = [r["command"] for r in client.took]
    assert told[1:] == [*(f"c{n}" for n in range(6, HELD_MAX + 5)), "c-1", "c-2"]
    assert "5 receipts were lost" in client.took[0]["reason"]


async def test_a_stream_that_breaks_loses_no_receipt(remote: Remote) -> None:
    client: Any = Client()
    await remote.joined(client)
    client.fault = LocalError("gone")
    await remote.journal(body(1))
    remote.left()
    await remote.journal(body(2))
    client = Client()
    await remote.joined(client)
    assert [r["command"] for r in client.took] == ["c1", "c2"]
