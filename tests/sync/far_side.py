"""A far side that the test plays itself, over a real broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from config.link import BrokerEntry
from gateway.core.clock import Clock, SystemClock
from sync import wire
from sync.link.forward import Forwarder
from sync.link.lanes import Timing
from sync.link.mqtt import MqttSession, parse_url
from sync.store.async_store import AsyncStore
from tests.sync import support

PATIENT = replace(support.QUICK, resend_s=60.0, silence_s=600.0, window_start=128)


class FarSide:
    """Collects what a forwarder publishes, and acknowledges what the test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = MqttSession(parse_url(url), client_id="far-side", timeout_s=10)
        self.frames: list[tuple[str, wire.Frame]] = []
        self.heard: list[bytes] = []
        self.presence: list[wire.Birth | wire.Death] = []

    async def read(self) -> None:
        async for message in self.session.messages():
            channel = message.topic.rpartition("/")[2]
            if channel == "receipts":
                self.heard.append(message.payload)
            elif channel == "birth":
                self.presence.append(wire.decode_presence(message.payload))
            else:
                self.frames.append((channel, wire.decode_frame(message.payload)))

    def firsts(self, channel: str | None = None) -> list[int]:
        return [f.batch.first for c, f in self.frames if channel in (None, c)]

    async def ack(self, seq: int, epoch: int = support.EPOCH, *spans: tuple[int, int]) -> None:
        held = tuple((epoch, first, last) for first, last in spans)
        await self.say(wire.encode_ack(wire.Ack({epoch: seq}, held=held)))

    async def say(self, payload: bytes) -> None:
        await self.session.publish("gatepost/lab/ack", payload)


def forwarder(
    store: AsyncStore,
    far: FarSide,
    timing: Timing = support.QUICK,
    *,
    clock: Clock | None = None,
    name: str = "cloud",
    options: dict[str, Any] | None = None,
    **entry: Any,
) -> Forwarder:
    """A forwarder to the broker of `far`; `entry` are keys of Broker, `options` of Forwarder."""
    keys = BrokerEntry(**{"URL": far.url, **entry})
    clock = clock or SystemClock()
    return Forwarder(store, name, keys, "lab", clock, timing=timing, **(options or {}))


async def fill(store: AsyncStore, count: int, first: int = 1, events: tuple[int, ...] = ()) -> None:
    """Frames of ten numbers each; those that begin with one of `events` hold an event."""
    for number in range(first, first + 10 * count, 10):
        await store.append(support.batch(number, 10, events=(number,) if number in events else ()))
