"""A client that we did not write listens on the broker while the site runs."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from sync import wire
from tests.crash.town import Town


async def test_mosquitto_sub_sees_live_frames_that_hold_the_device_s_values(town: Town) -> None:
    program = shutil.which("mosquitto_sub")
    assert program, "mosquitto_sub is missing: tools/system-packages installs it"
    process = await asyncio.create_subprocess_exec(
        *(program, "-h", "127.0.0.1", "-p", str(town.broker.port), "-q", "1"),
        *("-t", "gatepost/small/frames", "-t", "gatepost/small/birth", "-C", "4", "-F", "%t %x"),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    messages = [line.split() for line in out.decode().splitlines()]
    births = [bytes.fromhex(data) for topic, data in messages if topic.endswith("/birth")]
    frames = [bytes.fromhex(data) for topic, data in messages if topic.endswith("/frames")]
    birth = wire.decode_birth(births[0])  # retained: a late listener gets it first
    tags = [str(point["tag"]) for point in birth.points]
    temperature = tags.index("Rig.Temperature") + 1
    values = [
        float(row["value"])
        for data in frames
        for row in wire.decode_frame(data).batch.records
        if row["point"] == temperature
    ]
    assert values
    assert all(value == pytest.approx(round(value)) and 20 <= value < 520 for value in values)
