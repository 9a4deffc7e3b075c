"""Sessions: made, activated, taken to another channel, ended (OPC 10000-4, 5.7).

A session outlives its connection until its timeout, and its subscriptions live on. Its token can't
be guessed, and is worth nothing on a channel that the session was not activated on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from itertools import count
from typing import Final, Protocol
from weakref import WeakValueDictionary

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from config.opcua import OpcUaEntry
from gateway.core.clock import Clock, secret
from gateway.opcua.service import Fault
from gateway.opcua.transport.channel import CRYPTO_ERRORS, NO_SECURITY, Channel, leaf
from gateway.opcua.transport.discovery import reachable
from gateway.opcua.transport.gate import Book, Gate
from gateway.opcua.transport.limits import (
    CLIENT_CHARS_MAX,
    MESSAGE_BYTES_MAX,
    NONCE_BYTES,
    REFUSALS_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSION_TIMEOUT_MS_MIN,
    SESSIONS_PER_CHANNEL_MAX,
)
from gateway.opcua.transport.openings import Openings
from gateway.opcua.transport.session import Session
from gateway.opcua.transport.shares import Account, Shares
from gateway.opcua.users import Role, User

_CODES: Final = ua.StatusCodes
_COUNTED: Final = (
    "CumulatedSessionCount",
    "SecurityRejectedSessionCount",
    "RejectedSessionCount",
    "SessionTimeoutCount",
    "SessionAbortCount",
)
_LOOK_NS: Final = 2_000_000_000  # between two looks whether users and certificates still count
_SHARE_OF_ONE: Final = 0.8  # of all sessions, for one user at one address


class Peer(Protocol):
    """The connection that a request came on."""

    channel: Channel
    account: Account

    def admitted(self) -> None:
        """A session is active on it."""

    def left(self, session: Session) -> None:
        """A session goes on on another connection."""


class Entry:
    """What the transport keeps of a session."""

    def __init__(self, session: Session, channel: Channel, timeout_ms: float, now_ns: int) -> None:
        self.session = session
        self.channel: Channel | None = channel
        self.peer: Peer | None = None  # on which it is active
        self.address = channel.peer
        self.certificate = channel.certificate
        self.policy = (channel.policy.URI, channel.policy.Mode)
        self.timeout_ns = int(timeout_ms * 1e6)
        self.heard_ns = now_ns
        self.nonce = secret(NONCE_BYTES)
        self.account: Account | None = None
        self.response_bytes_max = 0
        self.uri = ""  # of the client's application
        self.refusals = 0

    @property
    def active(self) -> bool:
        """True once it has a user."""
        return self.session.user.role > Role.NOBODY


class Sessions:
    """All sessions of the server."""

    def __init__(
        self, settings: OpcUaEntry, gate: Gate, book: Book, openings: Openings, clock: Clock
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._book = book
        self._openings = openings
        self._clock = clock
        self._entries: dict[ua.NodeId, Entry] = {}
        self._numbers = count(1)
        self._accounts: WeakValueDictionary[tuple[object, ...], Account] = WeakValueDictionary()
        self._looked_ns = clock.monotonic_ns()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self.shares = Shares(clock)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def counts(self) -> dict[str, int]:
        """Counts of ServerDiagnosticsSummaryDataType that concern sessions."""
        active = sum(entry.active for entry in self._entries.values())
        return {"CurrentSessionCount": active, **self._counts}

    # ------------------------------------------------------------ requests of a session

    def entry(self, token: ua.NodeId, channel: Channel) -> Entry:
        """The active session of a request. Raises Fault."""
        found = self._entries.get(token)
        if found is None:
            raise Fault(_CODES.BadSessionIdInvalid)
        if found.channel is not channel:
            raise Fault(_CODES.BadSecureChannelIdInvalid)
        if not found.active:
            self._end(found, delete_subscriptions=True)  # the standard asks for it (5.7.2)
            raise Fault(_CODES.BadSessionNotActivated)
        found.heard_ns = self._clock.monotonic_ns()
        return found

    # ------------------------------------------------------------ services

    async def create(self, peer: Peer, body: Buffer, own_url: str) -> ua.CreateSessionResponse:
        """CreateSession (OPC 10000-4, 5.7.2). Raises Fault."""
        channel, policy = peer.channel, peer.channel.policy
        asked = struct_from_binary(ua.CreateSessionParameters, body)
        client = _client(asked.ClientDescription, channel)
        try:
            self._check_creation(channel, asked)
        except Fault as fault:
            self._book.session("create", client, "", fault.code, certificate=channel.certificate)
            raise
        number = next(self._numbers)
        session = Session(
            ua.NodeId(ua.Int32(number), ua.Int16(1)),
            ua.NodeId(ua.ByteString(secret(NONCE_BYTES)), ua.Int16(0)),
            client,
            secured=channel.secured,
            encrypted=policy.Mode == ua.MessageSecurityMode.SignAndEncrypt,
        )
        timeout_ms = asked.RequestedSessionTimeout
        if not timeout_ms >= SESSION_TIMEOUT_MS_MIN:  # true for NaN, too
            timeout_ms = SESSION_TIMEOUT_MS_MIN
        timeout_ms = min(timeout_ms, SESSION_TIMEOUT_MS_MAX)
        entry = Entry(session, channel, timeout_ms, self._clock.monotonic_ns())
        entry.response_bytes_max = asked.MaxResponseMessageSize
        entry.uri = asked.ClientDescription.ApplicationUri or ""
        self._entries[session.token] = entry
        answer = ua.CreateSessionResponse()
        given = answer.Parameters
        given.SessionId, given.AuthenticationToken = session.id, session.token
        given.RevisedSessionTimeout = timeout_ms
        given.ServerNonce = entry.nonce
        given.ServerCertificate = self._own_certificate(channel)
        given.ServerEndpoints = self._gate.endpoints(reachable(own_url, asked.EndpointUrl))
        given.MaxRequestMessageSize = ua.UInt32(MESSAGE_BYTES_MAX)
        given.ServerSignature = ua.SignatureData()
        if policy.URI != NO_SECURITY:
            data = leaf(channel.certificate or b"") + (asked.ClientNonce or b"")
            sign = policy.asymmetric_cryptography.signature
            given.ServerSignature.Algorithm = policy.AsymmetricSignatureURI
            given.ServerSignature.Signature = await self._openings.compute(sign, data)
        self._book.session("create", client, "", 0, session.id, channel.certificate)
        return answer

    def _check_creation(self, channel: Channel, asked: ua.CreateSessionParameters) -> None:
        self._gate.changed()
        policy = channel.policy
        uri = asked.ClientDescription.ApplicationUri or ""
        if policy.URI == NO_SECURITY:
            if not self._settings.NoSecurity:
                raise Fault(_CODES.BadSecurityModeInsufficient)
        else:
            if len(asked.ClientNonce or b"") < NONCE_BYTES:
                raise Fault(_CODES.BadNonceInvalid)
            if leaf(asked.ClientCertificate or b"") != leaf(channel.certificate or b""):
                raise Fault(_CODES.BadCertificateInvalid)
        code = self._gate.check_session(channel.certificate, uri, channel.peer)
        if code:
            raise Fault(code)
        if asked.ServerUri and asked.ServerUri != self._gate.application_uri:
            raise Fault(_CODES.BadServerUriInvalid)
        here = sum(entry.channel is channel for entry in self._entries.values())
        if here >= SESSIONS_PER_CHANNEL_MAX:
            raise Fault(_CODES.BadTooManySessions)

    async def activate(
        self, peer: Peer, token: ua.NodeId, body: Buffer
    ) -> ua.ActivateSessionResponse:
        """ActivateSession (OPC 10000-4, 5.7.3), on the session's channel or another. Raises Fault.

        On another channel it must be the same certificate, policy, mode and user.
        """
        entry = self._entries.get(token)
        if entry is None:
            raise Fault(_CODES.BadSessionIdInvalid)
        asked = struct_from_binary(ua.ActivateSessionParameters, body)
        nonce = entry.nonce
        try:
            user = await self._user(peer.channel, entry, asked)
            if entry.session.closed or entry.nonce is not nonce:  # while the password was checked
                raise Fault(_CODES.BadSessionClosed)
            self._check_room(entry, user)
        except Fault as fault:
            # Whoever knows its token may try on other channels; it costs the session nothing.
            entry.refusals += entry.channel is peer.channel
            self._counts["RejectedSessionCount"] += 1
            self._counts["SecurityRejectedSessionCount"] += fault.code != _CODES.BadTooManySessions
            session = entry.session
            tried = _tried(asked.UserIdentityToken) or session.user.name
            self._book.session("activate", session.client, tried, fault.code, session.id)
            if entry.refusals >= REFUSALS_MAX:
                self._end(entry, delete_subscriptions=not entry.active)
            raise
        entry.refusals = 0
        self._counts["CumulatedSessionCount"] += not entry.active
        entry.session.user = user
        if entry.peer is not None and entry.peer is not peer:
            entry.peer.left(entry.session)
        entry.channel, entry.peer = peer.channel, peer
        entry.address = peer.channel.peer
        entry.nonce = secret(NONCE_BYTES)
        entry.heard_ns = self._clock.monotonic_ns()
        peer.account = entry.account = self._account(entry)
        peer.admitted()
        self._book.session("activate", entry.session.client, user.name, 0, entry.session.id)
        answer = ua.ActivateSessionResponse()
        answer.Parameters.ServerNonce = entry.nonce
        return answer

    async def _user(
        self, channel: Channel, entry: Entry, asked: ua.ActivateSessionParameters
    ) -> User:
        moved = entry.channel is not channel
        if moved:
            if not entry.active:
                raise Fault(_CODES.BadSecureChannelIdInvalid)
            if leaf(channel.certificate or b"") != leaf(entry.certificate or b""):
                raise Fault(_CODES.BadSecurityChecksFailed)
            if (channel.policy.URI, channel.policy.Mode) != entry.policy:
                raise Fault(_CODES.BadSecurityPolicyRejected)
        self._check_signature(channel, entry.nonce, asked.ClientSignature)
        token = asked.UserIdentityToken
        if token is None or type(token) is ua.ExtensionObject:
            token = ua.AnonymousIdentityToken()
        user = await self._gate.user_of(token, asked.UserTokenSignature, entry.nonce, channel)
        if moved and user.name != entry.session.user.name:
            raise Fault(_CODES.BadIdentityTokenRejected)
        return user

    def _own_certificate(self, channel: Channel) -> bytes:
        return channel.own_certificate or self._gate.certificate

    def _check_signature(self, channel: Channel, nonce: bytes, signature: ua.SignatureData) -> None:
        """The client proves that it has the key of its certificate."""
        policy = channel.policy
        if policy.URI == NO_SECURITY:
            return
        data = self._own_certificate(channel) + nonce
        try:
            if signature.Algorithm != policy.AsymmetricSignatureURI:
                raise Fault(_CODES.BadApplicationSignatureInvalid)
            policy.asymmetric_cryptography.verify(data, signature.Signature)
        except CRYPTO_ERRORS as error:
            raise Fault(_CODES.BadApplicationSignatureInvalid) from error

    def _account(self, entry: Entry) -> Account:
        """All sessions of a user at an address share one; nobody knows who is who without names."""
        user = entry.session.user.name
        if not user and not entry.certificate:
            return entry.account or self.shares.account()
        key = (leaf(entry.certificate or b""), user, entry.address)
        return self._accounts.setdefault(key, self.shares.account())

    def _check_room(self, entry: Entry, user: User) -> None:
        """The last place is an administrator's; no one at one address takes nearly all."""
        if entry.active:
            return
        active = [other for other in self._entries.values() if other.active]
        room = self._settings.ConnectionsMax - (user.role < Role.ADMINISTRATOR)
        mine = [
            other
            for other in active
            if other.session.user.name == user.name and other.address == entry.address
        ]
        too_many = len(mine) >= max(math.ceil(room * _SHARE_OF_ONE), 1)
        if len(active) < room and not too_many:
            return
        # A session whose client went away waits for nobody, perhaps.
        idle = [other for other in (mine if too_many else active) if other.channel is None]
        if not idle:
            raise Fault(_CODES.BadTooManySessions)
        self._end(min(idle, key=lambda other: other.heard_ns), delete_subscriptions=False)

    def close(self, peer: Peer, token: ua.NodeId, body: Buffer) -> ua.CloseSessionResponse:
        """CloseSession (OPC 10000-4, 5.7.4). Raises Fault."""
        entry = self._entries.get(token)
        if entry is None:
            raise Fault(_CODES.BadSessionIdInvalid)
        if entry.channel is not peer.channel:
            raise Fault(_CODES.BadSecureChannelIdInvalid)
        self._end(entry, delete_subscriptions=body.read(1) != b"\0")
        return ua.CloseSessionResponse()

    # ------------------------------------------------------------ endings

    def channel_gone(self, channel: Channel) -> None:
        """A connection is closed: active sessions wait for another one, the others end."""
        for entry in self:
            if entry.channel is channel:
                entry.channel = entry.peer = None
                if not entry.active:
                    self._end(entry, delete_subscriptions=True)

    def reap(self) -> None:
        """End sessions that were not heard of for their timeout, and those nobody trusts now."""
        now_ns = self._clock.monotonic_ns()
        look = now_ns - self._looked_ns > _LOOK_NS
        if look:
            self._looked_ns = now_ns
        for entry in self:
            if now_ns - entry.heard_ns > entry.timeout_ns:
                self._counts["SessionTimeoutCount"] += 1
                self._end(entry, delete_subscriptions=False)
            elif look and entry.active and not self._may_stay(entry):
                self._counts["SessionAbortCount"] += 1
                self._end(entry, delete_subscriptions=True)

    def _may_stay(self, entry: Entry) -> bool:
        return self._gate.may_stay(entry.session.user, entry.certificate, entry.uri)

    def stop(self) -> None:
        """End all."""
        for entry in self:
            self._end(entry, delete_subscriptions=True)

    def _end(self, entry: Entry, *, delete_subscriptions: bool) -> None:
        if self._entries.pop(entry.session.token, None) is not None:
            user = entry.session.user.name
            entry.session.end(delete_subscriptions)
            self._book.session("close", entry.session.client, user, 0, entry.session.id)


def _tried(token: object) -> str:
    """The name that somebody tried to log on with; he may have written anything there."""
    name = str(getattr(token, "UserName", None) or "")
    return "".join(sign for sign in name if sign.isprintable())[:CLIENT_CHARS_MAX]


def _client(description: ua.ApplicationDescription, channel: Channel) -> str:
    """How a client is called in receipts and audit events: its own name, certificate, address."""
    text = description.ApplicationName.Text or description.ApplicationUri or "unnamed"
    name = "".join(sign for sign in text if sign.isprintable())[:CLIENT_CHARS_MAX]
    if channel.certificate:
        name += f" {hashlib.sha1(leaf(channel.certificate), usedforsecurity=False).hexdigest()[:8]}"
    return f"{name} {channel.peer}"
