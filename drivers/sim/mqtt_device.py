"""Simulated devices behind an MQTT broker: one that speaks JSON, and a Sparkplug B edge node.

Both are clients of any broker, as the devices are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import aiomqtt

from drivers.errors import DriverError
from drivers.mqtt import sparkplug
from drivers.mqtt.sparkplug import (
    BD_SEQ,
    REBIRTH,
    SEQ_MODULO,
    DataType,
    Metric,
    Payload,
    Topic,
    Value,
)
from gateway.core.clock import Clock
from gateway.core.mqtt_client import MqttClient

RETRY_S: Final = 0.1


class MqttDevice:
    """A client that stays connected until `stop`; subclasses say what it sends and understands."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self.host = host
        self.port = port
        self.name = name
        self.requests = 0  # understood commands since the first start
        self._client: aiomqtt.Client | None = None
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    async def start(self) -> None:
        """Returns when the device is connected and subscribed."""
        self._task = asyncio.create_task(self._run())
        await self.connected.wait()

    async def stop(self) -> None:
        """Disconnect; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.connected.clear()

    async def _run(self) -> None:
        while True:
            try:
                async with self.client() as client:
                    self._client = client
                    await self.begin(client)
                    self.connected.set()
                    sending = asyncio.create_task(self._send(client))
                    try:
                        async for message in client.messages:
                            if isinstance(message.payload, bytes):
                                await self.take(client, message.topic.value, message.payload)
                    finally:
                        sending.cancel()
                        await asyncio.gather(sending, return_exceptions=True)
            except aiomqtt.MqttError:
                self.connected.clear()
                await asyncio.sleep(RETRY_S)
            finally:
                self._client = None

    async def _send(self, client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            await self.send(client)

    def client(self, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
        """A client for one connection."""
        return MqttClient(self.host, self.port, identifier=self.name, timeout=5, will=will)

    async def begin(self, client: aiomqtt.Client) -> None:
        """Subscribe, and say what is to be said once."""
        raise TypeError("a device of its own kind says what it does")

    async def send(self, client: aiomqtt.Client) -> None:
        """Send for ever."""

    async def take(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        """A message came in."""


class JsonDevice(MqttDevice):
    """Publishes its values every `period_s` as one document, and takes ``{"name": number}``."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        topic: str,
        write_topic: str,
        values: dict[str, Any],
        period_s: float = 0.5,
    ) -> None:
        super().__init__(host, port, f"sim-{topic.replace('/', '-')}")
        self.values = values
        self.topic = topic
        self.write_topic = write_topic
        self.period_s = period_s
        self.silent = False

    async def begin(self, client: aiomqtt.Client) -> None:
        """Listens for commands."""
        await client.subscribe(self.write_topic, qos=1)

    async def send(self, client: aiomqtt.Client) -> None:
        """The values, on and on."""
        while True:
            if not self.silent:
                await client.publish(self.topic, json.dumps(self.values).encode())
            await asyncio.sleep(self.period_s)

    async def take(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        """Sets what it knows and ignores the rest."""
        try:
            wanted = json.loads(payload)
        except ValueError:
            return
        if isinstance(wanted, dict) and not self.silent:
            self.requests += 1
            self.values |= {name: wanted[name] for name in wanted if name in self.values}


class SparkplugNode(MqttDevice):
    """An edge node with one device: births, data by alias, deaths, rebirths, commands."""

    def __init__(
        self,
        host: str,
        port: int,
        clock: Clock,
        *,
        group: str = "Plant",
        node: str = "Node",
        device: str = "Device",
        metrics: Mapping[str, tuple[DataType, Value]],
        period_s: float = 0.5,
    ) -> None:
        super().__init__(host, port, f"sim-{group}-{node}")
        self.group, self.node, self.device = group, node, device
        self.types = {name: kind for name, (kind, _) in metrics.items()}
        self.values: dict[str, Value] = {name: value for name, (_, value) in metrics.items()}
        self.aliases = {name: number for number, name in enumerate(metrics, start=1)}
        self.births = 0
        self.period_s = period_s
        self.silent = False
        self._clock = clock
        self._seq = 0
        self._bd_seq = -1

    def client(self, will: aiomqtt.Will | None = None) -> aiomqtt.Client:
        """A client whose will is the node's death."""
        self._bd_seq = (self._bd_seq + 1) % SEQ_MODULO
        return super().client(aiomqtt.Will(self._topic("NDEATH", ""), self._death(), qos=1))

    def _topic(self, kind: str, device: str) -> str:
        return str(Topic(self.group, kind, self.node, device))

    def _death(self) -> bytes:
        return sparkplug.encode(Payload((Metric(BD_SEQ, None, DataType.INT64, self._bd_seq),)))

    async def begin(self, client: aiomqtt.Client) -> None:
        """Listens for commands and gives birth."""
        for kind, device in (("NCMD", ""), ("DCMD", self.device)):
            await client.subscribe(self._topic(kind, device), qos=1)
        await self.give_birth(client)

    async def give_birth(self, client: aiomqtt.Client) -> None:
        """The birth of the node and of its device."""
        self.births += 1
        self._seq = 0
        node = (
            Metric(BD_SEQ, None, DataType.INT64, self._bd_seq),
            Metric(REBIRTH, None, DataType.BOOLEAN, False),
        )
        await self._publish(client, "NBIRTH", "", node)
        metrics = tuple(
            Metric(name, self.aliases[name], kind, self.values[name])
            for name, kind in self.types.items()
        )
        await self._publish(client, "DBIRTH", self.device, metrics)

    async def _publish(
        self, client: aiomqtt.Client, kind: str, device: str, metrics: tuple[Metric, ...]
    ) -> None:
        now_ms = self._clock.utc_ns() // 1_000_000
        stamped = tuple(replace(metric, timestamp_ms=now_ms) for metric in metrics)
        payload = sparkplug.encode(Payload(stamped, now_ms, self._seq))
        self._seq = (self._seq + 1) % SEQ_MODULO
        await client.publish(self._topic(kind, device), payload)

    def skip(self) -> None:
        """Pretend that a message was lost."""
        self._seq = (self._seq + 1) % SEQ_MODULO

    async def send(self, client: aiomqtt.Client) -> None:
        """The device's values by alias, on and on."""
        while True:
            await asyncio.sleep(self.period_s)
            if not self.silent:
                await self.send_data(client)

    async def send_data(self, client: aiomqtt.Client | None = None) -> None:
        """All values of the device, by alias."""
        client = client or self._client
        assert client is not None, "not connected"
        metrics = tuple(
            # The datatype tells the encoder how; a receiver has it from the birth as well.
            Metric("", self.aliases[name], self.types[name], value)
            for name, value in self.values.items()
        )
        await self._publish(client, "DDATA", self.device, metrics)

    async def send_device_death(self) -> None:
        """The node lost its device."""
        assert self._client is not None, "not connected"
        await self._publish(self._client, "DDEATH", self.device, ())

    async def take(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        """Commands: a rebirth, and values of the device."""
        try:
            content = sparkplug.decode(payload)
        except DriverError:
            return
        for metric in content.metrics:
            if metric.name == REBIRTH and metric.value:
                await self.give_birth(client)
            elif metric.name in self.values and metric.value is not None and not self.silent:
                self.requests += 1
                self.values[metric.name] = metric.value
