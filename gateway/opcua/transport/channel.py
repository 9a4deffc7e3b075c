"""A secure channel: keys, tokens and sequence numbers of one connection (OPC 10000-6, 6.7).

The cryptography is the library's; what it lets pass is refused here: messages on a channel that is
not open, tokens that were never given out, a channel that is renewed in another mode.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.crypto.uacrypto import InvalidSignature
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary
from cryptography.exceptions import UnsupportedAlgorithm

from gateway.core.clock import Clock, secret
from gateway.opcua.service import Fault
from gateway.opcua.transport.bounded import Bounded, request_header
from gateway.opcua.transport.limits import (
    CHANNEL_LIFETIME_MS_MAX,
    CHANNEL_LIFETIME_MS_MIN,
    CHUNKS_MAX,
    STRANGER_READS_MAX,
)
from gateway.opcua.transport.wire import (
    MESSAGE,
    OPEN,
    SECURE_HEAD_BYTES,
    Limits,
    TransportFault,
)

NO_SECURITY: Final = SecurityPolicyNone.URI
_POLICY_BYTES_MAX: Final = 255
_CERTIFICATE_BYTES_MAX: Final = 16_384  # with its issuers
_SEQUENCE_MAX: Final = 2**32 - 1
_SEQUENCE_WRAPS: Final = 2**32 - 1024  # the highest that a number below 1024 may follow
_SECURE: Final = struct.Struct("<3scII")
_SYMMETRIC: Final = struct.Struct("<3scIII")
_SEQUENCE: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<i")
# What a signature, a padding or a key that is not right makes the library raise.
CRYPTO_ERRORS: Final = (
    InvalidSignature,
    UnsupportedAlgorithm,
    ua.UaError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Request:
    """Whose keys an OpenSecureChannel asks for, as its header says it before anything is proven."""

    policy_uri: str
    certificate: bytes | None  # DER, the client's own in front of its issuers
    thumbprint: bytes
    head_bytes: int


@dataclass(slots=True)
class _Token:
    number: int
    lifetime_ms: int
    ends_ns: int  # monotonic; the client may use it so long
    client_nonce: bytes = b""
    server_nonce: bytes = b""


def read_open(chunk: bytes) -> Request:
    """The header of an OpenSecureChannel. Raises TransportFault."""
    data = Buffer(chunk, SECURE_HEAD_BYTES)

    def text(bytes_max: int) -> bytes:
        length = _LENGTH.unpack(data.read(4))[0]
        if length > bytes_max:
            raise TransportFault(ua.StatusCodes.BadSecurityChecksFailed, "header too long")
        return data.read(length) if length > 0 else b""

    try:
        uri = text(_POLICY_BYTES_MAX).decode("ascii")
        certificate, thumbprint = text(_CERTIFICATE_BYTES_MAX), text(64)
    except (ua.UaError, struct.error, UnicodeDecodeError) as error:
        raise TransportFault(ua.StatusCodes.BadSecurityChecksFailed, "bad header") from error
    return Request(uri, certificate or None, thumbprint, data.cur_pos)


class Channel:
    """The channel of one connection. Sans I/O; `open` computes for milliseconds."""

    def __init__(self, number: int, peer: str, clock: Clock) -> None:
        """`peer` is the client's address, for audit."""
        self.number = number
        self.peer = peer
        self.policy: Any = SecurityPolicyNone()
        self.certificate: bytes | None = None
        self.limits = Limits()
        self._clock = clock
        self._token: _Token | None = None
        self._next: _Token | None = None
        self._tokens = 0
        self._received: int | None = None  # sequence numbers
        self._sent = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._parts_of = 0  # request id

    @property
    def is_open(self) -> bool:
        """True once its first keys are there."""
        return self._token is not None

    @property
    def secured(self) -> bool:
        """True where its messages are signed."""
        return bool(self.policy.Mode != ua.MessageSecurityMode.None_)

    @property
    def policy_uri(self) -> str:
        """Its security policy."""
        return str(self.policy.URI)

    @property
    def own_certificate(self) -> bytes:
        """Ours when it was opened, which may have been renewed since; empty without security."""
        return self.policy.host_certificate or b""

    def expired(self, now_ns: int) -> bool:
        """True where neither the token in use nor the one given out behind it is good any more."""
        ends = [token.ends_ns for token in (self._token, self._next) if token is not None]
        return bool(ends) and now_ns > max(ends)

    # ------------------------------------------------------------ opening and renewal

    def open(self, chunk: bytes, request: Request, policies: Sequence[Any]) -> bytes:
        """Check an OpenSecureChannel, make keys, give the answer; runs in a thread.

        `policies` are the factories of what the server offers. Raises TransportFault.
        """
        try:
            return self._open(chunk, request, policies)
        except CRYPTO_ERRORS as error:
            raise TransportFault(
                ua.StatusCodes.BadSecurityChecksFailed, "the channel can't be opened"
            ) from error
        except Fault as error:
            raise TransportFault(error.code, str(error)) from error

    def _open(self, chunk: bytes, request: Request, policies: Sequence[Any]) -> bytes:
        renewal = self.is_open
        if renewal:
            policy = self.policy
            if request.policy_uri != policy.URI or request.certificate != self.certificate:
                raise TransportFault(
                    ua.StatusCodes.BadSecurityChecksFailed, "renewed by somebody else"
                )
        else:
            policy = _made(policies, request, None)
        host = policy.host_certificate
        if host and policy.URI != NO_SECURITY and request.thumbprint != _thumbprint(host):
            raise TransportFault(ua.StatusCodes.BadCertificateInvalid, "not for this server")
        number, request_id, body = _opened(policy.asymmetric_cryptography, chunk, request)
        self._count(number)
        data = Bounded(body, STRANGER_READS_MAX)
        if nodeid_from_binary(data).Identifier != _OPEN_REQUEST:
            raise TransportFault(ua.StatusCodes.BadDecodingError, "no OpenSecureChannel")
        header = request_header(data)
        asked = struct_from_binary(ua.OpenSecureChannelParameters, data)
        kind = asked.RequestType
        if (kind == ua.SecurityTokenRequestType.Renew) != renewal:
            raise TransportFault(ua.StatusCodes.BadRequestTypeInvalid, "issue once, then renew")
        if renewal and asked.SecurityMode != policy.Mode:
            raise TransportFault(ua.StatusCodes.BadSecurityModeRejected, "the mode stays")
        if not renewal:
            policy = _made(policies, request, asked.SecurityMode)
        if len(asked.ClientNonce or b"") != policy.secure_channel_nonce_length and (
            policy.URI != NO_SECURITY
        ):
            raise TransportFault(ua.StatusCodes.BadNonceInvalid, "length of the nonce")
        self.policy, self.certificate = policy, request.certificate
        token = self._issue(asked)
        return self._open_answer(token, header.RequestHandle, request_id)

    def _issue(self, asked: ua.OpenSecureChannelParameters) -> _Token:
        lifetime_ms = max(asked.RequestedLifetime, CHANNEL_LIFETIME_MS_MIN)
        lifetime_ms = min(lifetime_ms, CHANNEL_LIFETIME_MS_MAX)
        self._tokens += 1
        token = _Token(
            self._tokens,
            lifetime_ms,
            # A quarter more, for what is under way (OPC 10000-4, 5.6.2).
            self._clock.monotonic_ns() + lifetime_ms * 1_250_000,
            asked.ClientNonce or b"",
            secret(self.policy.secure_channel_nonce_length),
        )
        if self._token is None:
            self._use(token)
        else:
            self._next = token
        return token

    def _use(self, token: _Token) -> None:
        """Take a token's keys into use, for both directions."""
        self._token, self._next = token, None
        client, server = token.client_nonce, token.server_nonce
        self.policy.make_local_symmetric_key(client, server)
        self.policy.make_remote_symmetric_key(server, client, token.lifetime_ms)

    def _open_answer(self, token: _Token, handle: int, request_id: int) -> bytes:
        now_ns = self._clock.utc_ns()
        answer = ua.OpenSecureChannelResponse()
        answer.ResponseHeader.RequestHandle = handle
        answer.ResponseHeader.Timestamp = utc_time(now_ns)
        answer.Parameters.ServerProtocolVersion = ua.UInt32(0)
        answer.Parameters.ServerNonce = token.server_nonce
        answer.Parameters.SecurityToken = ua.ChannelSecurityToken(
            ChannelId=ua.UInt32(self.number),
            TokenId=ua.UInt32(token.number),
            CreatedAt=utc_time(now_ns),
            RevisedLifetime=ua.UInt32(token.lifetime_ms),
        )
        policy, crypto = self.policy, self.policy.asymmetric_cryptography
        host, peer = policy.host_certificate, self.certificate
        if policy.URI == NO_SECURITY:
            host = peer = None
        security = _bytes(policy.URI.encode()) + _bytes(host)
        security += _bytes(_thumbprint(leaf(peer)) if peer else None)
        plain = _SEQUENCE.pack(self._sequence(), request_id) + struct_to_binary(answer)
        plain += crypto.padding(len(plain))
        blocks = (len(plain) + crypto.signature_size()) // crypto.plain_block_size()
        size = SECURE_HEAD_BYTES + len(security) + blocks * crypto.encrypted_block_size()
        head = _SECURE.pack(OPEN, b"F", size, self.number) + security
        signature = crypto.signature(head + plain)
        return head + bytes(crypto.encrypt(plain + signature))

    # ------------------------------------------------------------ messages

    def receive(self, chunk: bytes, bytes_max: int) -> tuple[int, bytes] | None:
        """Take a chunk; gives request id and body when the message is whole.

        Raises TransportFault.
        """
        try:
            kind, final, _, channel, token = _SYMMETRIC.unpack_from(chunk)
            self._check(kind, channel, token)
            number, request_id, part = self._plain(chunk)
        except CRYPTO_ERRORS as error:
            raise TransportFault(
                ua.StatusCodes.BadSecurityChecksFailed, "the message is not from this channel"
            ) from error
        except Fault as error:
            raise TransportFault(error.code, "the message can't be taken apart") from error
        self._count(number)
        if self._parts and request_id != self._parts_of:
            raise TransportFault(ua.StatusCodes.BadTcpInternalError, "messages are mixed up")
        if final == b"A":  # the client gave the message up
            self._parts, self._parts_bytes = [], 0
            return None
        self._parts.append(part)
        self._parts_bytes += len(part)
        self._parts_of = request_id
        if self._parts_bytes > bytes_max or len(self._parts) > CHUNKS_MAX:
            raise TransportFault(ua.StatusCodes.BadTcpMessageTooLarge, "the message is too large")
        if final == b"C":
            return None
        if final != b"F":
            raise TransportFault(ua.StatusCodes.BadTcpMessageTypeInvalid, "type of the chunk")
        parts, self._parts, self._parts_bytes = self._parts, [], 0
        return request_id, parts[0] if len(parts) == 1 else b"".join(parts)

    def _check(self, kind: bytes, channel: int, number: int) -> None:
        token, following = self._token, self._next
        if token is None or channel != self.number:
            raise TransportFault(
                ua.StatusCodes.BadTcpSecureChannelUnknown, f"no channel for {kind!r}"
            )
        if following is not None and number == following.number:
            self._use(following)
            token = following
        if number != token.number or self._clock.monotonic_ns() > token.ends_ns:
            raise TransportFault(ua.StatusCodes.BadSecureChannelTokenUnknown, "no such token")

    def _plain(self, chunk: bytes) -> tuple[int, int, bytes]:
        crypto = self.policy.symmetric_cryptography
        data = crypto.decrypt(chunk[_SYMMETRIC.size :])
        size = crypto.vsignature_size()
        if size:
            data, signature = data[:-size], data[-size:]
            crypto.verify(chunk[: _SYMMETRIC.size] + data, signature)
        data = crypto.remove_padding(data)
        number, request_id = _SEQUENCE.unpack_from(data)
        return number, request_id, bytes(data[_SEQUENCE.size :])

    def _count(self, number: int) -> None:
        """Each number is one more than the last, or small behind the largest."""
        last = self._received
        wrapped = last is not None and last >= _SEQUENCE_WRAPS and number < 1024
        if last is not None and number != last + 1 and not wrapped:
            raise TransportFault(
                ua.StatusCodes.BadSequenceNumberInvalid, f"sequence {number} behind {last}"
            )
        self._received = number

    def _sequence(self) -> int:
        self._sent = 1 if self._sent >= _SEQUENCE_MAX else self._sent + 1
        return self._sent

    def fits(self, body_bytes: int) -> bool:
        """True where the client takes a message of this size."""
        limits = self.limits
        if limits.message_bytes_max and body_bytes > limits.message_bytes_max:
            return False
        return not limits.chunks_max or -(-body_bytes // self._body_bytes()) <= limits.chunks_max

    @property
    def bytes_max(self) -> int:
        """The largest message that the client takes; 0 = it named no limit."""
        limits = self.limits
        limit = limits.chunks_max * self._body_bytes()
        return min((one for one in (limits.message_bytes_max, limit) if one), default=0)

    def _body_bytes(self) -> int:
        """What fits into a chunk to the client."""
        crypto = self.policy.symmetric_cryptography
        blocks = (self.limits.send_bytes - _SYMMETRIC.size) // crypto.encrypted_block_size()
        overhead = _SEQUENCE.size + crypto.signature_size() + crypto.min_padding_size()
        return int(blocks * crypto.plain_block_size() - overhead)

    def send(self, request_id: int, body: bytes) -> Iterator[bytes]:
        """A message as chunks for the socket; take all of them, in order."""
        assert self._token is not None
        crypto = self.policy.symmetric_cryptography
        step = self._body_bytes()
        for start in range(0, len(body), step):
            plain = _SEQUENCE.pack(self._sequence(), request_id) + body[start : start + step]
            plain += crypto.padding(len(plain))
            size = len(plain) + crypto.signature_size()
            size = size // crypto.plain_block_size() * crypto.encrypted_block_size()
            head = _SYMMETRIC.pack(
                MESSAGE,
                b"F" if start + step >= len(body) else b"C",
                _SYMMETRIC.size + size,
                self.number,
                self._token.number,
            )
            yield head + crypto.encrypt(plain + crypto.signature(head + plain))


_OPEN_REQUEST: Final = ua.ObjectIds.OpenSecureChannelRequest_Encoding_DefaultBinary


def utc_time(utc_ns: int) -> Any:
    """The library's time of a time in ns."""
    return ua.win_epoch_to_datetime(utc_ns // 100 + 116_444_736_000_000_000)


def leaf(certificate: bytes) -> bytes:
    """The first certificate of a chain in DER, by the length that stands in front of it."""
    if len(certificate) >= 4 and certificate[0] == 0x30 and certificate[1] == 0x82:
        return certificate[: 4 + int.from_bytes(certificate[2:4], "big")]
    return certificate


def _thumbprint(certificate: bytes) -> bytes:
    """What names a certificate; the standard asks for SHA-1 (OPC 10000-6, 6.7.2.3)."""
    return hashlib.sha1(certificate, usedforsecurity=False).digest()


def _bytes(data: bytes | None) -> bytes:
    return _LENGTH.pack(-1) if data is None else _LENGTH.pack(len(data)) + data


def _made(policies: Sequence[Any], request: Request, mode: Any) -> Any:
    """The policy that fits, with the client's certificate. Raises TransportFault."""
    for factory in policies:
        if factory.matches(request.policy_uri, mode):
            certificate = leaf(request.certificate) if request.certificate else None
            secured = request.policy_uri != NO_SECURITY
            if secured and certificate is None:
                raise TransportFault(ua.StatusCodes.BadSecurityChecksFailed, "no certificate")
            return factory.create(certificate if secured else None)
    if request.policy_uri == NO_SECURITY and mode in (None, ua.MessageSecurityMode.None_):
        return SecurityPolicyNone()  # for discovery; sessions ask what the site allows
    code = ua.StatusCodes.BadSecurityPolicyRejected
    raise TransportFault(code if mode is None else ua.StatusCodes.BadSecurityModeRejected, "policy")


def _opened(crypto: Any, chunk: bytes, request: Request) -> tuple[int, int, bytes]:
    """Decrypt and verify with the long-lived keys: sequence number, request id, body."""
    head = chunk[: request.head_bytes]
    if chunk[3:4] != b"F":
        raise TransportFault(ua.StatusCodes.BadTcpMessageTypeInvalid, "opened in pieces")
    data = crypto.decrypt(chunk[request.head_bytes :])
    size = crypto.vsignature_size()
    if size:
        data, signature = data[:-size], data[-size:]
        crypto.verify(head + data, signature)
    data = crypto.remove_padding(data)
    number, request_id = _SEQUENCE.unpack_from(data)
    return number, request_id, bytes(data[_SEQUENCE.size :])
