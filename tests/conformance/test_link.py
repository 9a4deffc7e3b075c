"""Every format on every broker: nothing is lost, nothing waits without need, all is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.link import LinkEntry
from config.points import POINT
from gateway.core.clock import SystemClock
from sync.forms.formats import form_of
from sync.link.forward import Forwarder
from sync.link.latest import Latest
from sync.store.async_store import AsyncStore
from tests.conformance.link_rigs import RIGS, Consumer, Line, LinkRig
from tests.sync import support

FreePort = Callable[[], int]
FRAME = 10
TIMING = replace(support.QUICK, timeout_s=1.0, resend_s=60, silence_s=600)

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


class Site:
    """Store, link, line, broker and consumer."""

    def __init__(self, rig: LinkRig, kind: str, folder: Path, free_port: FreePort) -> None:
        self.rig = rig
        self.folder = folder
        self.broker = support.make_broker(kind, free_port(), folder / "broker")
        self.line = Line(free_port(), self.broker.port)
        self.consumer = Consumer(self.broker.url, rig)
        self.latest = Latest()
        self.latest.born(support.birth(), np.zeros(11, dtype=POINT))
        self.last = 0
        self.store: AsyncStore
        self.link: Forwarder

    async def start(self) -> None:
        self.broker.start()
        await self.broker.wait_ready()
        path = self.folder / "store.db"
        self.store = await AsyncStore.open(path, quota_bytes=10**9, links=("scada",))
        await self.store.put_birth(support.BIRTH, support.birth_bytes())
        self.begin()

    def begin(self) -> None:
        """The link as a process that has just begun makes it."""
        url = f"mqtt://127.0.0.1:{self.line.port}"
        entry = LinkEntry(URL=url, KeepAlive=2, **self.rig.keys)
        form = form_of("scada", entry, "lab", SystemClock(), self.latest, self.folder)
        self.link = Forwarder(
            self.store, "scada", entry, "lab", SystemClock(), form=form, timing=TIMING
        )

    async def append(self, frames: int) -> None:
        for _ in range(frames):
            batch = support.batch(self.last + 1, FRAME)
            await self.store.append(batch)
            self.latest.appended(batch)
            self.last += FRAME
            self.link.notify_appended()

    async def arrived(self) -> None:
        """The consumer has every value, and the store none."""
        wanted = set(range(1, self.last + 1))
        await support.eventually(lambda: wanted <= set(self.consumer.values))
        async with asyncio.timeout(10):
            while (await self.store.backlog("scada")).frames:
                await asyncio.sleep(0.02)
        assert set(self.consumer.values) == wanted


@pytest.fixture(params=[(rig, kind) for kind in ("nats", "mosquitto") for rig in RIGS],
                ids=lambda pair: f"{pair[0].name}-{pair[1]}")  # fmt: skip
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: FreePort
) -> AsyncIterator[Site]:
    made = Site(*request.param, tmp_path, free_port)
    await made.start()
    try:
        async with support.running(made.line.run(), made.consumer.run()):
            await made.consumer.connected.wait()
            yield made
        await made.store.close()
    finally:
        made.broker.kill()


async def test_backlog_live_half_open_line_and_a_clean_end(site: Site) -> None:
    await site.append(5)
    async with support.running(site.link.run()):
        await site.arrived()
        await site.append(3)
        await site.arrived()
        assert sorted(site.consumer.values) == [*range(1, site.last + 1)], "each value once"
        site.line.freeze()
        await site.append(4)  # the patience grows with the bytes under way
        await support.eventually(lambda: not site.link.status()["connected"])
        await site.append(16)
        assert (await site.store.backlog("scada")).frames == 20, "nobody had these"
        assert "127.0.0.1" in site.link.status()["last_error"]
        await site.append(2)
        site.line.thaw()
        await site.arrived()
        status = site.link.status()
        assert (status["connected"], status["last_error"], status["resends"]) == (True, "", 0)
    topic, words = site.rig.ending
    await support.eventually(
        lambda: site.consumer.last[0] == topic and words in site.consumer.last[1]
    )


async def test_a_broker_that_is_restarted_and_a_link_that_begins_anew(site: Site) -> None:
    async with support.running(site.link.run()):
        await site.append(3)
        await site.arrived()
        site.broker.stop()
        await support.eventually(lambda: not site.link.status()["connected"])
        await site.append(5)
    site.begin()
    await site.append(1)
    # A broker gives what it takes to whoever is there: the consumer has to be, before the link is.
    await support.eventually(lambda: not site.consumer.connected.is_set())
    site.broker.start()
    await site.consumer.connected.wait()
    async with support.running(site.link.run()):
        await site.arrived()
        await site.append(1)
        await site.arrived()
