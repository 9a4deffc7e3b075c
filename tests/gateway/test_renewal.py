"""The link's renewal of the gateway's certificate, against a real service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.renewal import Renewal
from sync.enrol_client import join
from sync.enrolment import Identity
from tests.cloud.test_enrol import HOUR_NS, Cloud
from tests.gateway.sites import eventually

DAY_NS = 24 * HOUR_NS


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """A service that listens; its certificates live for 90 days."""
    made = Cloud(tmp_path / "authority")
    await made.start()
    yield made
    await made.service.stop()


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    renewal = Renewal(identity.folder, cloud.clock, period_s=0.05)
    task = asyncio.create_task(renewal.run())
    await join(cloud.token(), identity)
    first = identity.pair.read_bytes()
    await eventually(lambda: renewal.status()["certificate_ends_ns"] > cloud.clock.utc_ns())
    cloud.clock.ahead_ns = 59 * DAY_NS
    await asyncio.sleep(0.2)
    assert identity.pair.read_bytes() == first
    cloud.clock.ahead_ns = 61 * DAY_NS
    await eventually(lambda: identity.pair.read_bytes() != first)
    end_ns = cloud.clock.utc_ns() + 89 * DAY_NS
    await eventually(lambda: renewal.status()["certificate_ends_ns"] > end_ns)
    assert renewal.status()["certificate_fault"] == ""
    assert not task.done()
    await end(task)


async def test_what_hinders_a_renewal_is_told_and_it_is_tried_again(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    first = identity.pair.read_bytes()
    url = identity.service.read_text(encoding="utf-8")
    identity.service.write_text("https://127.0.0.1:1\n", encoding="utf-8")
    cloud.clock.ahead_ns = 61 * DAY_NS
    renewal = Renewal(identity.folder, cloud.clock, period_s=0.05)
    task = asyncio.create_task(renewal.run())
    await eventually(lambda: "127.0.0.1:1" in renewal.status()["certificate_fault"])
    identity.service.write_text(url, encoding="utf-8")
    await eventually(lambda: identity.pair.read_bytes() != first)
    await eventually(lambda: renewal.status()["certificate_fault"] == "")
    identity.pair.write_text("nonsense", encoding="utf-8")
    await eventually(lambda: "no certificate" in renewal.status()["certificate_fault"])
    identity.pair.unlink()
    await eventually(lambda: not any(renewal.status().values()))
    await end(task)


async def test_while_nobody_set_the_clock_nothing_is_renewed(cloud: Cloud, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    cloud.clock.ahead_ns = -cloud.clock.utc_ns()
    renewal = Renewal(identity.folder, cloud.clock, period_s=0.02)
    task = asyncio.create_task(renewal.run())
    await asyncio.sleep(0.2)
    assert not any(renewal.status().values())
    await end(task)


def test_a_gateway_without_a_certificate_loads_nothing_for_one() -> None:
    loads = "[m for m in ('aiohttp', 'cryptography.x509') if m in sys.modules]"
    code = f"import sys, gateway.link; print({loads})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
