"""One session with an MQTT 3.1.1 broker, on aiomqtt; every failure is a `LinkError`.

A session is used once: `async with MqttSession(...)`, and when it breaks, a new one. Nothing is
queued here beyond a few messages: what must not be lost stands in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import aiomqtt

from config.broker import without_password
from config.link import BrokerConnection
from gateway.core.mqtt_client import MqttClient
from sync.errors import LinkAddress, LinkAuth, LinkError, LinkLost, LinkRefused, LinkTimeout

INCOMING_MAX: Final = 256  # further ones are discarded; their senders send again
OUTGOING_MAX: Final = 256
CLOSE_TIMEOUT_S: Final = 1.0
FENCE_TOPIC: Final = "gatepost/fence"  # nobody subscribes to it
MQTTS: Final = "mqtts"  # the scheme of brokers that are spoken to over TLS
# CONNACK codes of MQTT 3.1.1 (4, 5) and their MQTT 5 equivalents, which paho reports for both.
_AUTH_CODES: Final = (4, 5, 134, 135)


# Keeps the clean-up of cancelled connections alive; each ends within its session's timeout.
_abandoned: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM form for a session over TLS; they are read anew for each session.

    authority    who issued the broker's certificate; None = whom this machine trusts
    certificate  what we show of ourselves, with `key`; None = nothing
    """

    authority: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, the broker's name is checked. Raises LinkAddress."""
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except (OSError, ValueError) as error:
            raise LinkAddress(f"broker: AuthorityFile {self.authority}: {_why(error)}") from None
        if self.certificate is not None:
            try:
                # Without the function OpenSSL would ask for the key's password at the terminal.
                context.load_cert_chain(self.certificate, self.key, lambda: "")
            except (OSError, ValueError) as error:
                files = f"CertificateFile {self.certificate} with KeyFile {self.key}"
                raise LinkAddress(f"broker: {files}: {_why(error)}") from None
        return context


def _why(error: Exception) -> str:
    """An error in words, without the library's line numbers."""
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "reason", None) or error)
    return str(getattr(error, "strerror", None) or error)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker listens and who asks; without `tls` nothing is encrypted."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: TlsFiles | None = None

    @property
    def url(self) -> str:
        """The address as it may be shown: without the password."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtt' if self.tls is None else MQTTS}://{user}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came in."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when the session breaks."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


def parse_url(
    url: str, password_file: str | None = None, tls: TlsFiles | None = None
) -> BrokerAddress:
    """``mqtt[s]://[user@]host[:port]``, a file with the password, and those for mqtts.

    The port is 1883, or 8883 for mqtts, where none is given. Raises LinkAddress.
    """
    tls = tls or TlsFiles()
    shown = without_password(url)
    try:
        parts = urlsplit(url)
        secured = parts.scheme == MQTTS
        port = parts.port or (8883 if secured else 1883)
    except ValueError:  # its text may hold a part of the password
        raise LinkAddress(
            f"broker {shown!r}: it is no URL, or its port is none (key URL)"
        ) from None
    if parts.scheme not in ("mqtt", MQTTS) or not parts.hostname or parts.path not in ("", "/"):
        raise LinkAddress(f"broker {shown!r}: expected mqtts://[user@]host:port (key URL)")
    if not secured and tls != TlsFiles():
        raise LinkAddress(f"broker {shown!r}: files for TLS are given; write mqtts:// (key URL)")
    if parts.password is not None:
        raise LinkAddress("broker: the password stands in a file, not in the URL (PasswordFile)")
    user = unquote(parts.username) if parts.username else None
    password = None
    if password_file is not None:
        if user is None:
            raise LinkAddress(f"broker {shown!r}: PasswordFile needs a user in the URL")
        try:
            password = Path(password_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LinkAddress(f"broker: PasswordFile {password_file}: {error}") from None
    return BrokerAddress(parts.hostname, port, user, password, tls if secured else None)


def address_of(entry: BrokerConnection) -> BrokerAddress:
    """The address in link.json, with its files. Raises LinkAddress."""
    files = TlsFiles(entry.AuthorityFile, entry.CertificateFile, entry.KeyFile)
    return parse_url(entry.URL, entry.PasswordFile, files)


class MqttSession:
    """A session; publishes with QoS 1. Use as an asynchronous context manager, once."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        keepalive_s: int = 10,
        timeout_s: float = 5.0,
        will: Will | None = None,
        persistent: bool = False,
    ) -> None:
        """`timeout_s` bounds the connection, each subscription and each publication.

        With `persistent` the broker keeps subscriptions and messages for this `client_id`.
        """
        self._address = address
        self._client_id = client_id
        self._keepalive_s = keepalive_s
        self._timeout_s = timeout_s
        self._will = will
        self._persistent = persistent
        self._client: aiomqtt.Client | None = None
        self._closed = asyncio.Event()
        self._fault = ""  # why the connection ended, where the library doesn't say it

    def _make(self, **more: Any) -> aiomqtt.Client:
        """The library's client; `more` are arguments for it that go before ours."""
        will = self._will
        session = {"clean_session": not self._persistent, **more}
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Bytes that the far end's kernel leaves unanswered break the connection after this.
            wait_ms = int(self._keepalive_s * 2000)
            options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wait_ms))
        client = MqttClient(
            self._address.host,
            self._address.port,
            username=self._address.user,
            password=self._address.password,
            identifier=self._client_id,
            keepalive=self._keepalive_s,
            timeout=self._timeout_s,
            will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain) if will else None,
            # Beyond that paho would hold back what has QoS 1 and let QoS 0 overtake it.
            max_inflight_messages=OUTGOING_MAX,
            max_queued_incoming_messages=INCOMING_MAX,
            max_queued_outgoing_messages=OUTGOING_MAX,
            socket_options=options,
            tls_context=None if self._address.tls is None else self._address.tls.context(),
            **session,
        )
        client.pending_calls_threshold = OUTGOING_MAX
        # paho's own limit of the TCP handshake; aiomqtt doesn't pass one on.
        client._client.connect_timeout = self._timeout_s
        self._watch(client)
        return client

    def _watch(self, client: aiomqtt.Client) -> None:
        """Notice a broker that closes in place of an answer.

        One does that where it refuses our certificate; the library would wait for the answer and
        keep the reason to itself.
        """
        paho: Any = client._client
        loop, receive = asyncio.get_running_loop(), paho._sock_recv

        def received(size: int) -> Any:
            try:
                return receive(size)
            except ssl.SSLError as error:
                self._fault = f"TLS: {_why(error)}"
                raise

        def secured(plain: socket.socket) -> Any:
            context = paho._ssl_context
            wrapped = context.wrap_socket(
                plain, server_hostname=self._address.host, do_handshake_on_connect=False
            )
            done = False
            try:
                wrapped.settimeout(self._timeout_s)
                wrapped.do_handshake()
                done = True
            finally:
                if not done:  # paho would leave it to the garbage collector
                    wrapped.close()
            return wrapped

        def closed(*arguments: Any) -> None:
            client._on_socket_close(*arguments)
            loop.call_soon_threadsafe(self._closed.set)

        paho._sock_recv, paho._ssl_wrap_socket = received, secured
        paho.on_socket_close = closed

    async def __aenter__(self) -> Self:
        """Connects. Raises LinkRefused, LinkAuth, LinkTimeout, LinkAddress (files of TLS)."""
        assert self._client is None, "a session is used once"
        self._client = self._make()
        entering = asyncio.ensure_future(self._client.__aenter__())
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((entering, closing), return_when=asyncio.FIRST_COMPLETED)
            if not entering.done():
                await self._abandon(entering)
                reason = self._fault or "it closed the connection without an answer"
                raise LinkRefused(f"broker {self._address.url}: {reason}")
            await entering
        except asyncio.CancelledError:
            # The connection is being made on a thread, which nobody can cancel.
            task = asyncio.create_task(self._abandon(entering))
            _abandoned.add(task)
            task.add_done_callback(_abandoned.discard)
            raise
        except aiomqtt.MqttError as error:
            self._drop()
            raise self._refusal(error) from None
        finally:
            closing.cancel()
        return self

    async def _abandon(self, entering: asyncio.Future[aiomqtt.Client]) -> None:
        """Ends a connection that is still being made, as soon as there is something to end."""
        assert self._client is not None
        while not entering.done() and self._client._client.socket() is None:
            await asyncio.sleep(0.02)
        self._drop()
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        self._drop()

    def _refusal(self, error: aiomqtt.MqttError) -> LinkError:
        where = self._address.url
        if isinstance(error, aiomqtt.MqttCodeError):
            code = getattr(error.rc, "value", error.rc)
            if code in _AUTH_CODES:
                return LinkAuth(f"broker {where} refuses this client ({error}): user or password")
            return LinkRefused(f"broker {where} refuses the session ({error})")
        if "timed out" in str(error):
            return LinkTimeout(f"broker {where}: no answer within {self._timeout_s:g} s")
        return LinkRefused(f"broker {where}: {error}")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnects; a session that is broken already is only cleaned up."""
        assert self._client is not None
        try:
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._client.__aexit__(None, None, None)
        finally:
            self._drop()

    def _drop(self) -> None:
        """Ends a connection that may hang: the event loop then sees its end and cleans up."""
        if self._client is None:
            return
        sock = self._client._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Publishes; returns when the broker has taken it (QoS 1) or it is on its way (QoS 0).

        `timeout_s` takes the place of the session's. Raises LinkError.
        """
        assert self._client is not None
        try:
            await self._client.publish(topic, payload, qos=qos, retain=retain, timeout=timeout_s)
        except aiomqtt.MqttError as error:
            raise self._loss(error, f"publication on {topic}") from None

    async def fence(self, *, timeout_s: float | None = None) -> None:
        """Returns when the broker has read everything that was sent before. Raises LinkError.

        A broker reads a connection in order and must answer an UNSUBSCRIBE also where no such
        subscription exists (MQTT 3.1.1, 3.10.4), so its answer stands for what has QoS 0.
        """
        assert self._client is not None
        try:
            await self._client.unsubscribe(FENCE_TOPIC, timeout=timeout_s)
        except aiomqtt.MqttError as error:
            raise self._loss(error, "fence") from None

    async def subscribe(self, topics: Iterable[str], *, qos: int = 1) -> None:
        """Subscribes. Raises LinkError, LinkAuth where the broker forbids one."""
        assert self._client is not None
        wanted = [(topic, qos) for topic in topics]
        try:
            answer = await self._client.subscribe(wanted)
        except aiomqtt.MqttError as error:
            raise self._loss(error, "subscription") from None
        codes = [getattr(code, "value", code) for code in answer]
        for (topic, _), code in zip(wanted, codes, strict=True):
            if code >= 0x80:
                raise LinkAuth(f"broker {self._address.url} forbids the subscription of {topic}")

    def _loss(self, error: aiomqtt.MqttError, what: str) -> LinkError:
        if "timed out" in str(error):
            return LinkTimeout(f"broker {self._address.url}: no answer to a {what}")
        return LinkLost(f"broker {self._address.url}: session lost ({error})")

    @property
    def waiting(self) -> int:
        """How many messages came in and were not taken yet."""
        assert self._client is not None
        return len(self._client.messages)

    async def messages(self) -> AsyncIterator[Message]:
        """What comes in, for ever. Raises LinkLost when the session breaks."""
        assert self._client is not None
        try:
            async for message in self._client.messages:
                payload = message.payload
                data = payload if isinstance(payload, bytes) else bytes(str(payload), "utf-8")
                yield Message(message.topic.value, data, message.retain)
        except aiomqtt.MqttError as error:
            raise self._loss(error, "message") from None
