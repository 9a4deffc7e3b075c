"""One session with an OPC UA server, on asyncua; every failure is a DriverError.

Only the library's services are used: its own supervision would reconnect behind our back, log
what we report, and hide how old a value is. A session is used once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol
from asyncua.common.connection import TransportLimits
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509

from config.model import EquipmentTags
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.opcua.decoding import bind_decoder
from drivers.server_url import ServerUrl, password_of

CHUNK_BYTES_MAX: Final = 65535
MESSAGE_BYTES_MAX: Final = 1024 * 1024  # the library decodes one byte in up to 10 us
BATCH_MAX: Final = 500  # nodes of one request; fewer where the server says so
NOTIFICATIONS_MAX: Final = 1000  # of one publish response
LIFETIME_MS: Final = 60_000  # a subscription that nobody fetches from ends after this
INTERVAL_MS_MAX: Final = 1e12
REFERENCES_MAX: Final = 100_000  # of one node
CLOSE_TIMEOUT_S: Final = 1.0
RENEW_PART: Final = 0.75  # of a channel's lifetime, OPC 10000-4 section 5.5.2.1

_NAMESPACES: Final = ua.NodeId(ua.Int32(ua.ObjectIds.Server_NamespaceArray))
_STATE: Final = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_State))
_LIMITS: Final = (
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
)
_CODES: Final = ua.StatusCodes
# Service faults that end the session: what is asked next would fail as well.
_SESSION_ENDS: Final = frozenset(
    (
        *(_CODES.BadSessionIdInvalid, _CODES.BadSessionClosed, _CODES.BadSessionNotActivated),
        *(_CODES.BadSecureChannelIdInvalid, _CODES.BadSecureChannelClosed),
        *(_CODES.BadConnectionClosed, _CODES.BadServerHalted, _CODES.BadShutdown),
        *(_CODES.BadTcpSecureChannelUnknown, _CODES.BadCommunicationError),
        *(_CODES.BadSecurityChecksFailed, _CODES.BadNotConnected),
    )
)
# Asking again can't help.
_PERMANENT: Final = frozenset(
    (
        *(_CODES.BadNodeIdUnknown, _CODES.BadNodeIdInvalid, _CODES.BadAttributeIdInvalid),
        *(_CODES.BadNotWritable, _CODES.BadNotReadable, _CODES.BadUserAccessDenied),
        *(_CODES.BadTypeMismatch, _CODES.BadWriteNotSupported, _CODES.BadIndexRangeInvalid),
        *(_CODES.BadIndexRangeNoData, _CODES.BadNotSupported, _CODES.BadServiceUnsupported),
    )
)
# What the library may raise where a peer's answer makes no sense: it decodes without suspicion.
_LIBRARY_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

Notify = Callable[[ua.PublishResult], None]


def quiet() -> None:
    """The library logs what peers provoke; all of it is in our errors too."""
    for part in ("client", "common", "crypto"):
        logger = logging.getLogger(f"asyncua.{part}")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL + 1)


def code_name(code: int) -> str:
    """The name of a status code, e.g. BadNotWritable."""
    return str(ua.StatusCode(ua.UInt32(code)).name)


def refusal(code: int, what: str) -> Refused:
    """The server's word on one node."""
    return Refused(f"{what}: {code_name(code)}", code=code, permanent=code in _PERMANENT)


@contextlib.contextmanager
def typed_errors(what: str, timeout_s: float) -> Iterator[None]:
    """Whatever the library raises as a DriverError."""
    try:
        yield
    except DriverError:
        raise
    except TimeoutError:
        raise NoAnswer(f"no answer to {what} within {timeout_s:g} s") from None
    except OSError as error:
        raise NotConnected(f"{what}: {error}") from None
    except ua.UaStatusCodeError as error:
        if error.code in _SESSION_ENDS:
            raise NotConnected(f"{what}: the session ended, {code_name(error.code)}") from None
        raise refusal(error.code, what) from None
    except _LIBRARY_ERRORS as error:
        raise Garbled(f"{what}: {type(error).__name__}: {str(error)[:200]}") from None


class _Limits(TransportLimits):
    """What we take stays what we said, whatever the server's acknowledgement claims."""

    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        self.max_send_buffer = max(8192, min(self.max_send_buffer, msg.ReceiveBufferSize))


class _Protocol(UASocketProtocol):
    """Ends the connection where a chunk is announced that is larger than any."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.receive_buffer is not None and len(self.receive_buffer) > CHUNK_BYTES_MAX:
            self.receive_buffer = None
            if self.transport is not None:
                self.transport.abort()


class _Transport(UaClient):
    """The library's transport within our limits."""

    last: UASocketProtocol | None = None

    def _make_protocol(self) -> UASocketProtocol:
        limits = _Limits(CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 0, MESSAGE_BYTES_MAX)
        self.protocol = _Protocol(self._timeout, self.security_policy, limits)
        self.protocol.on_connection_lost = self._on_transport_lost
        self.protocol.is_session_closing = self._is_session_closing
        self.last = self.protocol  # the library forgets it before its socket is closed
        return self.protocol


class Session:
    """A session: connect, use, close."""

    def __init__(self, server: ServerUrl, tags: EquipmentTags, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called when the connection ends."""
        quiet()
        bind_decoder()
        self._server = server
        self._tags = tags
        self._timeout_s = tags.Timeout
        self._on_lost = on_lost
        self._client = client = Client(str(server), timeout=tags.Timeout)
        self._transport = client.uaclient = _Transport(tags.Timeout)
        client.nodes = Shortcuts(client.uaclient.session)
        client.name = client.description = "Gatepost"
        self._batch = self._monitor_batch = BATCH_MAX
        self._namespaces: list[str] = []
        self._failed: str | None = None

    # ------------------------------------------------------------ begin and end

    async def connect(self) -> None:
        """Connect and open a session. Raises NotConnected within Timeout."""
        where = str(self._server)
        try:
            with typed_errors(where, self._timeout_s):
                async with asyncio.timeout(self._timeout_s):
                    await self._connect()
        except (NoAnswer, Refused, Garbled) as error:
            raise NotConnected(str(error)) from None
        except asyncio.CancelledError:
            self.abort()
            raise

    async def _connect(self) -> None:
        client = self._client
        await self._secure()
        await client.connect_sessionless()
        assert client.uaclient.protocol is not None
        client.uaclient.protocol.on_connection_lost = self._lost
        await client.create_session()
        user, password = self._server.user, password_of(self._tags)
        if user is not None:
            policy = client.server_policy(ua.UserTokenType.UserName)
            clear = policy.SecurityPolicyUri in (None, "", security_policies.SecurityPolicyNone.URI)
            if password and clear and self._tags.Security == "None":
                raise NotConnected("the server takes the password in the clear only; set Security")
        await client.activate_session(user, password)
        await self._ask_about_server()

    async def _secure(self) -> None:
        tags = self._tags
        if tags.Security == "None":
            return
        policy = getattr(security_policies, f"SecurityPolicy{tags.Security}")
        assert tags.CertificateFile is not None and tags.KeyFile is not None
        own = _file("CertificateFile", tags.CertificateFile)
        theirs = tags.ServerCertificateFile
        self._client.application_uri = _application_uri(tags.CertificateFile, own)
        await self._client.set_security(
            policy,
            own,
            _file("KeyFile", tags.KeyFile),
            server_certificate=theirs and _file("ServerCertificateFile", theirs),
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )

    async def _ask_about_server(self) -> None:
        nodes = [_NAMESPACES, *(ua.NodeId(ua.Int32(number)) for number in _LIMITS)]
        names, *limits = await self._client.uaclient.session.read_attributes(
            nodes, ua.AttributeIds.Value
        )
        content: Any = names.Value.Value if names.Value is not None else None
        self._namespaces = [str(name) for name in content] if isinstance(content, list) else []
        sizes: list[Any] = [limit.Value.Value if limit.Value else None for limit in limits]
        self._batch, self._monitor_batch = (
            min(BATCH_MAX, size) if isinstance(size, int) and size > 0 else BATCH_MAX
            for size in sizes
        )

    def _lost(self, error: Exception | None) -> None:
        self.fail(f"the server closed the connection{f' ({error})' if error else ''}")

    def fail(self, reason: str) -> None:
        """The session can't be used any more."""
        self._failed = self._failed or reason
        self._on_lost()

    def check(self) -> None:
        """Raises NotConnected where the session is over."""
        if self._failed is not None:
            raise NotConnected(f"{self._server}: {self._failed}")

    async def close(self) -> None:
        """Close the session; never raises."""
        self._failed = self._failed or "the connection was closed"
        with contextlib.suppress(DriverError), typed_errors("closing", CLOSE_TIMEOUT_S):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.disconnect()
        publishing = self._client.uaclient.session._publish_task
        if publishing is not None:  # the library cancels it and leaves it alone
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        protocol = self._transport.last
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()

    # ------------------------------------------------------------ nodes

    def resolve(self, text: str) -> ua.NodeId | None:
        """A NodeId out of its text; None where the server doesn't know the namespace."""
        head, mark, rest = text.partition(";")
        if not head.startswith("nsu="):
            return ua.NodeId.from_string(text)
        uri = head.removeprefix("nsu=")
        if not mark or uri not in self._namespaces:
            return None
        return ua.NodeId.from_string(f"ns={self._namespaces.index(uri)};{rest}")

    def name_of(self, node: ua.NodeId) -> str:
        """The text of a NodeId, with the namespace's URI: its number may change with a restart."""
        text = node.to_string()
        at = node.NamespaceIndex
        if not 0 < at < len(self._namespaces) or ";" in self._namespaces[at]:
            return text
        return f"nsu={self._namespaces[at]};{text.partition(';')[2]}"

    async def read(
        self, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds = ua.AttributeIds.Value
    ) -> list[ua.DataValue]:
        """An attribute of nodes, in as many requests as the server's limit needs."""
        self.check()
        values: list[ua.DataValue] = []
        with typed_errors(f"read of {len(nodes)} nodes", self._timeout_s):
            for start in range(0, len(nodes), self._batch):
                chunk = list(nodes[start : start + self._batch])
                found = await self._client.uaclient.session.read_attributes(chunk, attribute)
                if len(found) != len(chunk):
                    raise Garbled(f"{len(found)} values for {len(chunk)} nodes")
                values += found
        return values

    async def write(self, node: ua.NodeId, value: ua.Variant, index_range: str | None) -> None:
        """Write a node's value. Raises Refused with the server's status."""
        self.check()
        item = ua.WriteValue()
        item.NodeId = node
        item.AttributeId = ua.AttributeIds.Value
        item.IndexRange = index_range
        item.Value = ua.DataValue(value, StatusCode=None)  # many a PLC refuses a status
        parameters = ua.WriteParameters()
        parameters.NodesToWrite = [item]
        with typed_errors("write", self._timeout_s):
            results = await self._client.uaclient.session.write(parameters)
            if len(results) != 1:
                raise Garbled(f"{len(results)} results of one write")
            code = int(results[0].value)
        if code & 0x80000000:
            raise refusal(code, f"write of {node.to_string()}")

    async def probe(self) -> None:
        """Raises NotConnected where the server does not answer."""
        try:
            await self.read([_STATE])
        except NoAnswer as error:
            raise NotConnected(str(error)) from None

    @property
    def renew_s(self) -> float:
        """The channel is to be renewed that long after it was opened."""
        return max(1.0, self._client.secure_channel_timeout / 1000 * RENEW_PART)

    async def renew(self) -> None:
        """Renew the keys of the channel."""
        with typed_errors("renewal of the channel", self._timeout_s):
            await self._client.open_secure_channel(renew=True)
            self._client.uaclient.revolve_security_token()

    # ------------------------------------------------------------ subscriptions

    async def subscribe(self, interval_ms: float, notify: Notify) -> tuple[int, float]:
        """A subscription that answers at least once every `interval_ms`, if the server grants it.

        Returns its number and the longest time in ms between two answers.
        """
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = interval_ms
        parameters.RequestedMaxKeepAliveCount = 1
        parameters.RequestedLifetimeCount = max(10, int(LIFETIME_MS / interval_ms))
        parameters.MaxNotificationsPerPublish = NOTIFICATIONS_MAX
        parameters.PublishingEnabled = True
        with typed_errors("subscription", self._timeout_s):
            result = await self._client.uaclient.session.create_subscription(parameters, notify)
            longest_ms = result.RevisedPublishingInterval * max(1, result.RevisedMaxKeepAliveCount)
            if not 0 <= longest_ms < INTERVAL_MS_MAX:  # NaN is neither
                raise Garbled(f"a subscription that answers every {longest_ms:g} ms")
            return int(result.SubscriptionId), float(longest_ms)

    async def unsubscribe(self, number: int) -> None:
        """End a subscription."""
        with typed_errors("end of a subscription", self._timeout_s):
            await self._client.uaclient.session.delete_subscriptions([number])

    async def monitor(
        self, number: int, nodes: Sequence[tuple[int, ua.NodeId]], interval_ms: float
    ) -> list[float]:
        """Watch nodes under handles of our own; in ms how often each is sampled, inf = never."""
        found_ms: list[float] = []
        with typed_errors(f"monitoring of {len(nodes)} nodes", self._timeout_s):
            for start in range(0, len(nodes), self._monitor_batch):
                parameters = ua.CreateMonitoredItemsParameters()
                parameters.SubscriptionId = number
                parameters.TimestampsToReturn = ua.TimestampsToReturn.Source
                chunk = nodes[start : start + self._monitor_batch]
                parameters.ItemsToCreate = [_item(h, node, interval_ms) for h, node in chunk]
                results = await self._client.uaclient.session.create_monitored_items(parameters)
                if len(results) != len(chunk):
                    raise Garbled(f"{len(results)} results for {len(chunk)} nodes")
                found_ms += [
                    math.inf
                    if result.StatusCode.is_bad()
                    else float(result.RevisedSamplingInterval)
                    for result in results
                ]
        return found_ms

    async def browse(self, node: ua.NodeId) -> AsyncIterator[ua.ReferenceDescription]:
        """The children of a node, over hierarchical references."""
        description = ua.BrowseDescription()
        description.NodeId = node
        description.BrowseDirection = ua.BrowseDirection.Forward
        description.ReferenceTypeId = ua.NodeId(ua.Int32(ua.ObjectIds.HierarchicalReferences))
        description.IncludeSubtypes = True
        description.ResultMask = ua.UInt32(ua.BrowseResultMask.All)
        parameters = ua.BrowseParameters()
        parameters.NodesToBrowse = [description]
        with typed_errors(f"browse of {node.to_string()}", self._timeout_s):
            (result,) = await self._client.uaclient.session.browse(parameters)
        seen = 0
        while True:
            for reference in result.References or ():
                yield reference
            seen += max(1, len(result.References or ()))
            if not result.ContinuationPoint or seen >= REFERENCES_MAX:
                return
            following = ua.BrowseNextParameters()
            following.ContinuationPoints = [result.ContinuationPoint]
            with typed_errors(f"browse of {node.to_string()}", self._timeout_s):
                (result,) = await self._client.uaclient.session.browse_next(following)


def _item(handle: int, node: ua.NodeId, interval_ms: float) -> ua.MonitoredItemCreateRequest:
    item = ua.MonitoredItemCreateRequest()
    item.ItemToMonitor.NodeId = node
    item.ItemToMonitor.AttributeId = ua.AttributeIds.Value
    item.MonitoringMode = ua.MonitoringMode.Reporting
    item.RequestedParameters.ClientHandle = handle
    item.RequestedParameters.SamplingInterval = interval_ms
    item.RequestedParameters.QueueSize = 1  # the newest value is what counts
    item.RequestedParameters.DiscardOldest = True
    return item


def _file(key: str, name: str) -> uacrypto.CertProperties:
    """A certificate or a key, PEM or DER by its content: the library would go by the name."""
    try:
        data = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise NotConnected(f"{key} {name}: {reason}") from None
    kind = "pem" if data.lstrip().startswith(b"-----BEGIN") else "der"
    return uacrypto.CertProperties(data, kind)


def _application_uri(name: str, file: uacrypto.CertProperties) -> str:
    """The URI in our certificate: the server compares it with what we say about ourselves."""
    pem = file.extension == "pem"
    load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
    assert isinstance(file.path_or_content, bytes)
    try:
        names = load(file.path_or_content).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return str(names.value.get_values_for_type(x509.UniformResourceIdentifier)[0])
    except (ValueError, LookupError, x509.ExtensionNotFound):
        text = "no certificate with an application URI in it"
        raise NotConnected(f"CertificateFile {name}: {text}") from None
