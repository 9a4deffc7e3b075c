"""One session with an MQTT 3.1.1 broker, on aiomqtt; every failure is a DriverError.

A session is used once. A message is handed over at once where it comes in, so nothing queues up.
The connection is made here and not on a thread of the library, so that it can be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiomqtt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from config.model import EquipmentTags
from drivers.errors import DriverError, NoAnswer, NotConnected
from drivers.server_url import MQTTS, ServerUrl, password_of
from gateway.core.mqtt_client import MqttClient

KEEPALIVE_S: Final = 5
CLOSE_TIMEOUT_S: Final = 1.0
OUTGOING_MAX: Final = 64
PACKET_BYTES_MAX: Final = 1024 * 1024
# CONNACK codes of MQTT 3.1.1 (4, 5) and their MQTT 5 equivalents, which paho reports for both.
_AUTH_CODES: Final = (4, 5, 134, 135)

# The library logs what brokers provoke; all of it is in our errors too.
_SILENT: Final = logging.getLogger("drivers.mqtt.link.library")
_SILENT.setLevel(logging.CRITICAL + 1)

_T = TypeVar("_T")

# topic, payload, retained
Take = Callable[[str, bytes, bool], None]


class _Doorbell(asyncio.Queue[aiomqtt.Message]):
    """Hands every message over where aiomqtt would queue it, and keeps one to ring with."""

    def __init__(self, take: Take) -> None:
        super().__init__(1)
        self._take = take

    def put_nowait(self, item: aiomqtt.Message) -> None:
        payload = item.payload if isinstance(item.payload, bytes) else b""
        self._take(item.topic.value, payload, item.retain)
        if self.empty():
            super().put_nowait(item)


class MqttLink:
    """A session with a broker."""

    def __init__(self, server: ServerUrl, tags: EquipmentTags, client_id: str, take: Take) -> None:
        """`take` gets every message, as it comes in; `Timeout` bounds each exchange.

        Raises NotConnected where the file of the password can't be read.
        """
        self._server = server
        self._tags = tags
        self._timeout_s = tags.Timeout
        self._fault = ""  # why the session ended, where the library doesn't say it
        self._client = client = MqttClient(
            server.host,
            server.port,
            username=server.user,
            password=password_of(tags),
            identifier=client_id,
            logger=_SILENT,
            keepalive=KEEPALIVE_S,
            timeout=tags.Timeout,
            clean_session=True,
            queue_type=cast(Any, lambda maxsize: _Doorbell(take)),
            max_queued_outgoing_messages=OUTGOING_MAX,
        )
        client.pending_calls_threshold = OUTGOING_MAX
        self._paho = paho = client._client
        self._receive = paho._sock_recv
        paho._sock_recv = self._receive_bounded  # type: ignore[method-assign]
        self._closed = asyncio.Event()
        paho.on_socket_close = self._on_socket_close

    def _receive_bounded(self, bufsize: int) -> bytes:
        """paho asks for a whole packet at once, up to 256 MB where a broker passes that on."""
        if bufsize > PACKET_BYTES_MAX:
            self._fault = f"a message of {bufsize} bytes; {PACKET_BYTES_MAX} are allowed"
            raise ConnectionError("oversized packet")
        try:
            return self._receive(bufsize)
        except ssl.SSLError as error:  # paho keeps the reason to itself
            self._fault = _reason(error)
            raise

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        self._closed.set()
        self._client._on_socket_close(client, userdata, sock)

    # ------------------------------------------------------------ begin and end

    async def connect(self) -> None:
        """Raises NotConnected, which says what the broker refused. `close` cleans up behind it."""
        try:
            sock = await self._open_socket()
            self._paho._create_socket = lambda: sock  # type: ignore[method-assign]
            # What the library does on a thread, because it would wait for the socket.
            self._client._client_connect()
            await self._answer()
        except aiomqtt.MqttError as error:
            raise self._refusal(error) from None
        except (OSError, ValueError) as error:  # ValueError: a host name that is none
            raise NotConnected(f"broker {self._server}: {_reason(error)}") from None

    async def _answer(self) -> None:
        """The broker's answer to our login, or the end of the connection in its place."""
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            both = (closed, self._client._connected)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if not self._client._connected.done():
            raise ConnectionError(self._fault or "it closed the connection without an answer")
        self._client._connected.result()

    async def _open_socket(self) -> socket.socket:
        """A TCP connection, and TLS on top where the URL asks for it."""
        loop = asyncio.get_running_loop()
        files = None
        if self._server.scheme == MQTTS:
            files = await loop.run_in_executor(None, TlsFiles, self._tags)
        found = await loop.getaddrinfo(
            self._server.host, self._server.port, type=socket.SOCK_STREAM
        )
        refused: OSError = ConnectionError("the name has no address")
        for family, kind, number, _, address in found:
            sock = socket.socket(family, kind, number)
            with contextlib.ExitStack() as undoing:
                undoing.callback(sock.close)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    limit_ms = KEEPALIVE_S * 2000
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
                try:
                    await loop.sock_connect(sock, address)
                except OSError as error:
                    refused = error
                    continue
                undoing.pop_all()
            return sock if files is None else await files.secure(sock, self._server.host)
        raise refused

    async def close(self) -> None:
        """Disconnects; a session that is broken already is only cleaned up."""
        try:
            if self._paho.is_connected():
                with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await self._client.__aexit__(None, None, None)
        finally:
            self._drop()
            ended = self._client._disconnected
            if ended.done() and not ended.cancelled():
                ended.exception()  # seen: asyncio would report it as never retrieved

    def _drop(self) -> None:
        """Ends the connection at once, however it hangs."""
        self._paho._sock_close()
        if self._client._misc_task is not None:
            self._client._misc_task.cancel()

    # ------------------------------------------------------------ errors

    def _refusal(self, error: aiomqtt.MqttError) -> NotConnected:
        if isinstance(error, aiomqtt.MqttCodeError):
            code = getattr(error.rc, "value", error.rc)
            reason = "user or password" if code in _AUTH_CODES else str(error)
            return NotConnected(f"broker {self._server} refuses this client: {reason}")
        return NotConnected(f"broker {self._server}: {error}")

    def _loss(self, error: aiomqtt.MqttError, what: str) -> DriverError:
        if self._fault:
            return NotConnected(f"broker {self._server}: {self._fault}")
        if "timed out" in str(error):
            return NoAnswer(
                f"broker {self._server}: no answer to a {what} within {self._timeout_s:g} s"
            )
        return NotConnected(f"broker {self._server}: session lost ({error})")

    async def _unless_lost(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` returns; the end of the session ends the waiting for it."""
        task = asyncio.ensure_future(work)
        try:
            both = (task, self._client._disconnected)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.check()
            return await task
        finally:
            task.cancel()

    # ------------------------------------------------------------ messages

    async def subscribe(self, topics: Sequence[str]) -> None:
        """With QoS 1. Raises NotConnected where the broker forbids one, or is gone."""
        if not topics:
            return
        try:
            answer = await self._unless_lost(self._client.subscribe([(t, 1) for t in topics]))
        except aiomqtt.MqttError as error:
            raise NotConnected(str(self._loss(error, "subscription"))) from None
        if len(answer) != len(topics):
            raise NotConnected(
                f"broker {self._server} answers {len(answer)} of {len(topics)} topics"
            )
        for topic, code in zip(topics, answer, strict=True):
            number: Any = getattr(code, "value", code)
            if number >= 0x80:
                raise NotConnected(f"broker {self._server} forbids the subscription of {topic}")

    async def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Returns when the broker has it (QoS 1), or it is sent. Raises NoAnswer, NotConnected."""
        try:
            await self._unless_lost(self._client.publish(topic, payload, qos=qos))
        except aiomqtt.MqttError as error:
            raise self._loss(error, "publication") from None

    def check(self) -> None:
        """Raises NotConnected where the session is over."""
        if self._client._disconnected.done():
            raise NotConnected(str(self._loss(aiomqtt.MqttError("disconnected"), "message")))

    async def ring(self, timeout_s: float | None) -> None:
        """Returns when messages came, or after the time. Raises NotConnected."""
        try:
            async with asyncio.timeout(timeout_s):
                await anext(self._client.messages)
        except TimeoutError:
            return
        except aiomqtt.MqttError as error:
            raise NotConnected(str(self._loss(error, "message"))) from None


# ---------------------------------------------------------------- TLS


class TlsFiles:
    """What we trust, and what we show of ourselves.

    With `ServerCertificateFile` the broker shows that very certificate, whatever names are in it,
    or one that bears its host and was issued by that authority. Without, the authorities that this
    machine trusts count, and the host must be in the certificate.
    """

    def __init__(self, tags: EquipmentTags) -> None:
        """Reads the files. Raises NotConnected where one can't be used."""
        self._pinned: frozenset[bytes] | None = None
        if tags.ServerCertificateFile is None:
            self._context = ssl.create_default_context()
        else:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.check_hostname = False  # see `secure`
            self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            self._pinned = self._trust(tags.ServerCertificateFile)
        if tags.CertificateFile is None:
            return
        try:
            # Without the function OpenSSL would ask for the key's password at the terminal.
            self._context.load_cert_chain(tags.CertificateFile, tags.KeyFile, lambda: "")
        except (OSError, ValueError) as error:
            text = f"CertificateFile {tags.CertificateFile} with KeyFile {tags.KeyFile} (PEM)"
            raise NotConnected(f"{text}: {_reason(error)}") from None

    def _trust(self, name: str) -> frozenset[bytes]:
        try:
            data = Path(name).read_bytes()
            pem = data.lstrip().startswith(b"-----BEGIN")
            found = (
                x509.load_pem_x509_certificates(data)
                if pem
                else [x509.load_der_x509_certificate(data)]
            )
            whole = [certificate.public_bytes(Encoding.DER) for certificate in found]
            for der in whole:
                self._context.load_verify_locations(cadata=der)
        except (OSError, ValueError) as error:
            text = f"ServerCertificateFile {name}: {_reason(error)}"
            raise NotConnected(text) from None
        return frozenset(whole)

    async def secure(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        """TLS on a connection, which is closed where that fails. Raises OSError."""
        with contextlib.ExitStack() as undoing:
            undoing.callback(sock.close)
            secured = self._context.wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
            undoing.callback(secured.close)  # it has taken the connection over
            await _handshake(secured)
            shown = secured.getpeercert(True) or b""
            if self._pinned is not None and shown not in self._pinned and not _bears(shown, host):
                raise ConnectionError(f"its certificate is issued for another host than {host}")
            undoing.pop_all()
            return secured


async def _handshake(secured: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            secured.do_handshake()
            return
        except ssl.SSLWantReadError:
            loop.add_reader(secured, ready.set)
        except ssl.SSLWantWriteError:
            loop.add_writer(secured, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(secured)
            loop.remove_writer(secured)


def _bears(shown: bytes, host: str) -> bool:
    """True where the certificate (DER) is for that host: RFC 9525, without a common name."""
    try:
        names = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        wanted, domain = host.lower(), "*." + host.lower().partition(".")[2]
        found = names.value.get_values_for_type(x509.DNSName)
        return any(name.lower() in (wanted, domain) for name in found)
    return address in names.value.get_values_for_type(x509.IPAddress)


def _reason(error: Exception) -> str:
    """An error in words, without the library's line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'reason', None) or error}"
    return str(getattr(error, "strerror", None) or error)
