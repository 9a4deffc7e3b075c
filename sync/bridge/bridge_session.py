"""One session of a bridge with a broker: the receiver decides when a message is acknowledged.

MQTT 5 where the broker speaks it, else 3.1.1. Version 5 tells the retain flag of live messages,
bounds what is on the way to us, gives the reason of a refused publication, and carries the mark
by which a bridge knows its own messages again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from sync.errors import LinkAuth, LinkError, LinkLost, LinkTimeout
from sync.link.mqtt import BrokerAddress, MqttSession

RECEIVE_MAX: Final = 100  # messages that an MQTT 5 broker sends before we acknowledge one
PACKET_BYTES_MAX: Final = 32_000_000  # an MQTT 5 broker leaves out what is larger: it told us so
BYTES_MAX: Final = 268_435_455  # of a message, by MQTT's own form
HEADER_BYTES: Final = 1024  # of a message beside topic and payload, and more than it needs
CHUNK_BYTES: Final = 65_536  # paho would make room for a whole message before it came
SESSION_EXPIRY_S: Final = 0xFFFFFFFF  # never: what waits for us waits as long as it takes
MARK: Final = "gatepost-bridge"  # user property: a bridge that a message went through
_CARRIED: Final = ("PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData")
# Reason codes of MQTT 5 that no repetition changes: topic name, packet size, payload format.
_PERMANENT: Final = (0x90, 0x95, 0x99)


class MessageRefused(Exception):
    """The broker answers that it does not take a message; `permanent`: it never will."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an MQTT 5 message carries beside its payload.

    plain      properties that go on as they are, by name
    user       user properties, the marks among them
    expires_s  what is left of its life when it comes in; None = it does not expire
    """

    plain: tuple[tuple[str, Any], ...] = ()
    user: tuple[tuple[str, str], ...] = ()
    expires_s: int | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The bridges that it went through."""
        return tuple(value for name, value in self.user if name == MARK)


NO_ATTRIBUTES: Final = Attributes()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came in; `mid` names it for the acknowledgement, `dup`: perhaps again."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int
    dup: bool = False
    attributes: Attributes = NO_ATTRIBUTES


class BridgeSession(MqttSession):
    """Use as an asynchronous context manager, once. All methods on one event loop."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        keepalive_s: int,
        timeout_s: float,
        version: int,
        persistent: bool,
        begun: Callable[[bool], None],
        take: Callable[[Arrival], None],
    ) -> None:
        """A session of MQTT version 5 or 4 (which is 3.1.1).

        begun  called before the first message; True where the broker kept our session
        take   called for every message, as it comes in
        """
        super().__init__(
            address,
            client_id=client_id,
            keepalive_s=keepalive_s,
            timeout_s=timeout_s,
            persistent=persistent,
        )
        self.version = version
        self._begun = begun
        self._take = take
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._reason = ""
        self._bytes_max = BYTES_MAX

    def _make(self, **more: Any) -> aiomqtt.Client:
        if self.version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = RECEIVE_MAX
            properties.MaximumPacketSize = PACKET_BYTES_MAX
            if self._persistent:
                properties.SessionExpiryInterval = SESSION_EXPIRY_S
            more |= {
                "protocol": aiomqtt.ProtocolVersion.V5,
                "clean_session": None,
                "clean_start": not self._persistent,
                "properties": properties,
            }
        client = super()._make(**more)
        library = client._client
        library.manual_ack_set(True)
        library.on_message = self._on_message
        library.on_publish = self._on_publish
        on_connect, receive = client._on_connect, library._sock_recv

        def bounded(bufsize: int) -> bytes:
            return receive(min(bufsize, CHUNK_BYTES))

        def connected(one: Any, two: Any, flags: Any, code: Any, properties: Any = None) -> None:
            if not code.is_failure:
                self._bytes_max = getattr(properties, "MaximumPacketSize", BYTES_MAX)
                self._begun(bool(flags.session_present))
            on_connect(one, two, flags, code, properties)

        library.on_connect = connected
        library._sock_recv = bounded  # type: ignore[method-assign]
        return client

    # ------------------------------------------------------------ what comes in

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no broker passes that on; nobody could want it
            self.acknowledge(message.mid, message.qos)
            return
        self._take(
            Arrival(
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.mid,
                message.dup,
                _attributes(message.properties),
            )
        )

    def acknowledge(self, mid: int, qos: int) -> None:
        """The message is safe elsewhere. Where the session is over, the broker sends it again."""
        assert self._client is not None
        if qos and self.alive:
            self._client._client.ack(mid, qos)

    async def listen(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribes to (filter, QoS) each. Raises LinkError, LinkAuth where one is forbidden."""
        assert self._client is not None
        if not filters:
            return
        wanted: Any = list(filters)
        if self.version == paho.MQTTv5:
            wanted = [
                (
                    name,
                    SubscribeOptions(
                        qos=qos,
                        noLocal=True,
                        retainAsPublished=True,
                        retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
                    ),
                )
                for name, qos in filters
            ]
        # Messages come in before the answer, and may end the session.
        asking = asyncio.create_task(self._client.subscribe(wanted))
        both: tuple[asyncio.Future[Any], ...] = (asking, self._over)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise self._lost()
            answer = asking.result()
        except aiomqtt.MqttError as error:
            raise self._loss(error, "subscription") from None
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        for (name, _), code in zip(filters, answer, strict=True):
            number: Any = getattr(code, "value", code)
            if number >= 0x80:
                raise LinkAuth(f"broker {self._address.url} forbids the subscription of {name}")

    # ------------------------------------------------------------ what goes out

    async def send(
        self, topic: str, payload: bytes, qos: int, retain: bool, attributes: Attributes
    ) -> None:
        """Returns when the broker has taken the message (QoS 1), or it is on its way (QoS 0).

        Raises LinkError, and MessageRefused with the broker's reason.
        """
        assert self._client is not None
        if len(payload) + len(topic.encode()) + HEADER_BYTES > self._bytes_max:
            text = f"{topic}: {len(payload)} bytes, the broker takes {self._bytes_max}"
            raise MessageRefused(text, permanent=True)
        properties = _properties(attributes) if self.version == paho.MQTTv5 else None
        info = self._client._client.publish(topic, payload, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise self._lost()
        if not qos:
            return
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers[info.mid] = answer
        try:
            ended: tuple[asyncio.Future[Any], ...] = (answer, self._over)
            await asyncio.wait(ended, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._answers.pop(info.mid, None)
        if answer.done():
            _check(answer.result(), topic)
        elif self._over.done():
            raise self._lost()
        else:
            text = f"no answer to a publication within {self._timeout_s:g} s"
            raise LinkTimeout(f"broker {self._address.url}: {text}")

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, code: Any, properties: Any = None
    ) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(int(getattr(code, "value", code)))

    # ------------------------------------------------------------ the end

    @property
    def _over(self) -> asyncio.Future[None]:
        assert self._client is not None
        return self._client._disconnected

    @property
    def alive(self) -> bool:
        """False once the session is over."""
        return not self._over.done()

    async def over(self) -> LinkError:
        """Waits until the session is over; returns why."""
        await asyncio.wait({self._over})
        return self._lost()

    def _lost(self) -> LinkError:
        error = self._over.exception() if self._over.done() else None
        if self._reason:
            return LinkLost(f"broker {self._address.url}: {self._reason}")
        return LinkLost(f"broker {self._address.url}: session lost ({error or 'disconnected'})")

    def break_off(self, reason: str) -> None:
        """Ends the session at once; what was not acknowledged comes again in the next one."""
        self._reason = self._reason or reason
        self._drop()
        if not self._over.done():
            self._over.set_exception(aiomqtt.MqttError(reason))


def _check(code: int, topic: str) -> None:
    if code >= 0x80:
        permanent = code in _PERMANENT
        raise MessageRefused(f"{topic}: the broker answers 0x{code:02X}", permanent=permanent)


def _attributes(properties: Any) -> Attributes:
    if properties is None or properties.isEmpty():
        return NO_ATTRIBUTES
    plain = tuple((n, getattr(properties, n)) for n in _CARRIED if hasattr(properties, n))
    user = tuple(getattr(properties, "UserProperty", ()))
    return Attributes(plain, user, getattr(properties, "MessageExpiryInterval", None))


def _properties(attributes: Attributes) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in attributes.plain:
        setattr(properties, name, value)
    for pair in attributes.user:
        properties.UserProperty = pair  # the library adds it to those that are there
    if attributes.expires_s is not None:
        properties.MessageExpiryInterval = attributes.expires_s
    return properties
