"""Devices that speak through an MQTT broker: JSON, plain numbers, or Sparkplug B.

They send by themselves; silence is found by the age limits of their points. Source: MQTT 3.1.1
(OASIS, 2014).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.model import Channel, EquipmentTags
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    data_type_faults,
    refuse,
    scalar_faults,
    shared_addresses,
    tag_findings,
    value_faults,
)
from drivers.contract import (
    Block,
    Cycle,
    DriverProtocol,
    Part,
    Surroundings,
    Update,
    one_by_one,
)
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.inbox import DATA_TYPES, TEXT, Inbox, raw_value, readable
from drivers.mqtt import sparkplug
from drivers.mqtt.sparkplug_device import SparkplugReader, metric_name
from drivers.mqtt.text import VALUE, Message, TextReader, place_of, topic_fault
from drivers.server_url import MQTTS, parse_server, server_faults

if TYPE_CHECKING:
    from drivers.mqtt.link import MqttLink

SCHEME: Final = "mqtt"
PORT: Final = 1883
TLS_PORT: Final = 8883
DEFAULT_SERVER: Final = f"{SCHEME}://127.0.0.1:{PORT}"
BIRTH_POLL_S: Final = 0.02  # between two looks whether a birth came


# ---------------------------------------------------------------- configuration


def _scheme(tags: EquipmentTags) -> tuple[str, int]:
    """Scheme and default port of `Server`."""
    secured = (tags.Server or "").startswith(f"{MQTTS}:")
    return (MQTTS, TLS_PORT) if secured else (SCHEME, PORT)


def _tls_faults(tags: EquipmentTags) -> list[Fault]:
    """Certificates without TLS, and one of our own without its key."""
    keys = ("CertificateFile", "KeyFile", "ServerCertificateFile")
    given = [key for key in keys if getattr(tags, key) is not None]
    if given and _scheme(tags)[0] == SCHEME:
        text = "Nothing is encrypted with mqtt://. Write mqtts://[user@]host:port into Server."
        return [Fault(given[0], "tls-off", text)]
    own = [key for key in keys[:2] if key not in given]
    if len(own) != 1:
        return []
    return [Fault(own[0], "certificate-missing", "A certificate of our own goes with its key.")]


def _tag_faults(tags: EquipmentTags, writes: bool) -> list[Fault]:
    scheme, port = _scheme(tags)
    faults = server_faults(tags, scheme, DEFAULT_SERVER, port) + _tls_faults(tags)
    if tags.Payload == "SparkplugB":
        place = sparkplug.parse_topic(tags.DataReadTopic or "")
        named = "" if place is None else f"{place.group}{place.node}{place.device}"
        if not named or any(sign in named for sign in "+#\x00"):
            text = (
                "Name the node, or its device: spBv1.0/<group>/+/<node> or "
                "spBv1.0/<group>/+/<node>/<device>."
            )
            faults.append(Fault("DataReadTopic", "topic-invalid", text))
        return faults
    for key in ("DataReadTopic", "DataWriteTopic"):
        topic = getattr(tags, key)
        if topic is not None and topic_fault(topic):
            faults.append(Fault(key, "topic-invalid", topic_fault(topic)))
    if tags.DataReadTopic is None:
        text = "The topic is missing. Give DataReadTopic, for example 'plant/meter_1'."
        faults.append(Fault("DataReadTopic", "address-missing", text))
    if tags.DataWriteTopic is None and writes:
        text = "Channels are written, and the topic is missing. Give DataWriteTopic."
        faults.append(Fault("DataWriteTopic", "address-missing", text))
    return faults


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    unknown = data_type_faults(channel, DATA_TYPES)
    faults += unknown
    if not unknown and channel.DataType.lower() == TEXT and not channel.States:
        text = "A text becomes a number by its place in States. List the texts there."
        faults.append(Fault("States", "states-missing", text))
    if channel.WriteText is not None and VALUE not in channel.WriteText:
        text = f"The message has no {VALUE} in it, where the number goes."
        faults.append(Fault("WriteText", "address-missing", text))
    if not faults:
        faults = value_faults(channel, lambda value: raw_value(channel, value))
    return faults


def check(instrument: Instrument) -> list[Finding]:
    """All findings about server, topics, paths and types."""
    tags, channels = instrument.tags, instrument.channels
    tag_faults = _tag_faults(tags, any(c.ReadWrite != "R" for c in channels.values()))
    topics_known = not any(fault.key.startswith("Data") for fault in tag_faults)
    findings = tag_findings(instrument, tag_faults)
    slots: dict[str, list[Hashable]] = {}
    for name, channel in channels.items():
        faults = _channel_faults(channel)
        if topics_known:
            try:
                slots[name] = _slots(tags, name, channel)
            except ValueError as error:
                faults.append(Fault("IOPoint", "address-missing", str(error)))
        findings += channel_findings(instrument, name, faults)
    return findings + shared_addresses(
        instrument, slots, lambda name: str(channels[name].IOPoint or name)
    )


def _slots(tags: EquipmentTags, name: str, channel: Channel) -> list[Hashable]:
    if tags.Payload == "SparkplugB":
        return [metric_name(name, channel)]
    place = place_of(tags, name, channel)
    slots: list[Hashable] = []
    if channel.ReadWrite != "W":
        slots.append(("read", place.topic, place.paths[:1]))
    if channel.ReadWrite != "R":
        slots.append(("write", place.write_topic, channel.WriteText or place.name))
    return slots


def plan(instrument: Instrument) -> list[Block]:
    """One block a scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    rows: dict[str, list[int]] = {}
    for name in readable(instrument):
        point = instrument.points[name]
        rows.setdefault(point.scan_class, []).append(point.index)
    return [
        Block(np.array(index, dtype=np.int32), scan_class, None, scan_class, pushed=True)
        for scan_class, index in rows.items()
    ]


# ---------------------------------------------------------------- the driver


class MqttDriver:
    """A device behind a broker; the contract is drivers.contract.PushDriver."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        server = parse_server(tags.Server or DEFAULT_SERVER, *_scheme(tags))
        assert server is not None
        channels = readable(instrument)
        points = [instrument.points[name] for name in channels]
        self._server = server
        self._tags = tags
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._inbox = Inbox(points, list(channels.values()), self._clock)
        make = SparkplugReader if tags.Payload == "SparkplugB" else TextReader
        self._reader: SparkplugReader | TextReader = make(
            instrument, channels, self._inbox, self._clock
        )
        self._link: MqttLink | None = None

    async def connect(self) -> None:
        """A session with the broker, and its subscriptions. Raises NotConnected."""
        await self.close()
        client_id = f"gatepost{self._clock.new_id()[:14]}"  # brokers must take 23 characters
        from drivers.mqtt.link import MqttLink

        link = MqttLink(self._server, self._tags, client_id, self._take)
        self._reader.reset()
        self._inbox.clear()
        self._link = link
        async with contextlib.AsyncExitStack() as undoing:
            undoing.push_async_callback(self.close)
            try:
                async with asyncio.timeout(self._tags.Timeout):
                    await link.connect()
                    await link.subscribe(self._reader.topics)
                    await self._send_due(link)
            except TimeoutError:
                text = f"broker {self._server}: no answer within {self._tags.Timeout:g} s"
                raise NotConnected(text) from None
            undoing.pop_all()

    async def close(self) -> None:
        """End the session; may be called twice."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """Nobody can be asked here: every part is a refusal."""
        return one_by_one(cycle, self._unasked, self._clock)

    async def _unasked(self, block: Block) -> NDArray[np.float64]:
        raise Refused("a device behind MQTT sends by itself and can't be asked", permanent=True)

    async def updates(self) -> AsyncIterator[Update]:
        """What the device sent. Raises NotConnected when the session with the broker ends."""
        while True:
            link = self._connected()
            link.check()
            await self._send_due(link)
            update = self._inbox.take()
            if update is not None:
                yield update
                continue
            due_ns = self._reader.due_ns()
            wait_s = None
            if due_ns is not None:
                wait_s = max(0.0, (due_ns - self._clock.monotonic_ns()) / 1e9)
            await link.ring(wait_s)

    async def write(self, point: PointDef, value: float) -> None:
        """Publish a command. With JSON and plain payloads the broker has it when this returns.

        No device confirms over MQTT: the read-back tells. Raises OutOfRange, and Refused where a
        Sparkplug birth has not named the metric within Timeout.
        """
        link = self._connected()
        deadline_ns = self._clock.monotonic_ns() + int(self._tags.Timeout * 1e9)
        while not self._reader.ready(point) and self._clock.monotonic_ns() < deadline_ns:
            await asyncio.sleep(BIRTH_POLL_S)
        await self._publish(link, self._reader.command(point, value))

    # ------------------------------------------------------------ messages

    def _connected(self) -> MqttLink:
        if self._link is None:
            raise NotConnected("not connected")
        return self._link

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._surroundings.tap is not None:
            self._surroundings.tap.frame(False, payload, f"{topic}{', retained' * retained}")
        self._reader.take(topic, payload, retained)

    async def _publish(self, link: MqttLink, message: Message) -> None:
        if self._surroundings.tap is not None:
            self._surroundings.tap.frame(True, message.payload, message.topic)
        await link.publish(message.topic, message.payload, message.qos)

    async def _send_due(self, link: MqttLink) -> None:
        for message in self._reader.due(self._clock.monotonic_ns()):
            try:
                await self._publish(link, message)
            except NoAnswer as error:
                raise NotConnected(str(error)) from None


PROTOCOL: Final = DriverProtocol(
    names=("MQTT",),
    plan=plan,
    check=check,
    open=MqttDriver,
    pushes=True,
    keys=frozenset(
        (
            "Server",
            "PasswordFile",
            "CertificateFile",
            "KeyFile",
            "ServerCertificateFile",
            "DataReadTopic",
            "DataWriteTopic",
            "Payload",
        )
    ),
)
