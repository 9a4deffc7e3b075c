"""Formats of links for the conformance suite: how each is configured, and how a consumer reads it.

A new format is a row here, and passes the same tests on every broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sync import wire
from sync.errors import LinkError
from sync.forms.sparkplug_payload import Payload
from sync.link.mqtt import MqttSession, parse_url

Read = Callable[[str, bytes], Iterable[float]]


def read_gatepost(topic: str, payload: bytes) -> Iterable[float]:
    if topic.endswith(("/frames", "/backlog")):
        yield from wire.decode_frame(payload).batch.records["value"].tolist()


def read_json(topic: str, payload: bytes) -> Iterable[float]:
    document = json.loads(payload)
    if document["type"] == "values":
        yield from (value["value"] for value in document["values"])


def read_opcua(topic: str, payload: bytes) -> Iterable[float]:
    if "/data/" in topic:
        messages = json.loads(payload)["Messages"]
        for message in (m for m in messages if m["MessageType"] == "ua-deltaframe"):
            yield from (field["Value"] for field in message["Payload"].values())


def read_sparkplug(topic: str, payload: bytes) -> Iterable[float]:
    if "/NDATA/" in topic:
        message = Payload.FromString(payload)
        yield from (m.double_value for m in message.metrics if m.HasField("double_value"))


@dataclass(frozen=True)
class LinkRig:
    """A format: keys of the link, what a consumer subscribes, how it reads, and how it ends.

    ending  topic and words of the last message of a clean end
    """

    name: str
    keys: dict[str, Any]
    subscription: str
    read: Read
    ending: tuple[str, bytes]


RIGS = (
    LinkRig("gatepost", {"Format": "gatepost"}, "gatepost/lab/#", read_gatepost,
            ("gatepost/lab/birth", b"death")),
    LinkRig("json", {"Format": "json"}, "lab/#", read_json, ("lab/state", b'"online":false')),
    LinkRig("opcua", {"Format": "opcua"}, "opcua/json/#", read_opcua,
            ("opcua/json/status/lab", b'"Status":0')),
    LinkRig("sparkplug", {"Format": "sparkplug"}, "spBv1.0/lab/#", read_sparkplug,
            ("spBv1.0/lab/NDEATH/gatepost", b"bdSeq")),
)  # fmt: skip


@dataclass
class Consumer:
    """A client of the broker with a session that the broker keeps."""

    url: str
    rig: LinkRig
    values: list[float] = field(default_factory=list)
    last: tuple[str, bytes] = ("", b"")
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(LinkError):
                # mosquitto sends on what it kept with the next packet that it gets: the ping.
                session = MqttSession(
                    parse_url(self.url),
                    client_id="consumer",
                    timeout_s=2.0,
                    keepalive_s=2,
                    persistent=True,
                )
                async with session:
                    await session.subscribe([self.rig.subscription])
                    self.connected.set()
                    async for message in session.messages():
                        self.last = (message.topic, message.payload)
                        self.values += self.rig.read(message.topic, message.payload)
            self.connected.clear()
            await asyncio.sleep(0.05)


class Line:
    """The network between gateway and broker: bytes pass, or hang half-open, or it is cut."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        try:
            async with server:
                await asyncio.Event().wait()
        finally:
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._end(writer)
            return
        self._writers.add(far_writer)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        self._end(sink)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()

    def freeze(self) -> None:
        """Half-open: connections stand, and nothing comes through."""
        self._flows.clear()

    def thaw(self) -> None:
        """Whatever hung is gone for good; new connections work."""
        self.cut()
        self._flows.set()

    def cut(self) -> None:
        """Ends every connection; what was on its way is lost."""
        for writer in [*self._writers]:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
