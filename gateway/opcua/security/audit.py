"""Audit events (OPC 10000-3, 4.13 and OPC 10000-5, 6.4.3 ff.), and receipts of what was refused.

What the field process carried out has its own receipts; what the server refused by itself is
journaled from here, so that both stand in one history.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.conditions.audits import audit_of, condition_of
from gateway.opcua.desk import Desk
from gateway.opcua.event import UaEvent
from gateway.opcua.names import NAMESPACE, own_id, standard_id
from gateway.opcua.security.codes import Code
from gateway.opcua.users import User

log = logging.getLogger("gatepost.opcua")

SERVER: Final = standard_id(ua.ObjectIds.Server)
WAITING_MAX: Final = 200  # receipts on their way to the field process
# What strangers can cause, and each user without a command: alarms wait in the same queues of
# clients and must not be driven out of them.
BURST: Final = 50
PER_S: Final = 5.0
USERS_MAX: Final = 200  # whose floods are counted
SEVERITY_DONE: Final = 100
SEVERITY_REFUSED: Final = 500
TEXT_CHARS_MAX: Final = 500

Emit = Callable[[UaEvent], None]

_SESSION_TYPES: Final = {
    "create": ua.ObjectIds.AuditCreateSessionEventType,
    "activate": ua.ObjectIds.AuditActivateSessionEventType,
    "close": ua.ObjectIds.AuditSessionEventType,
}
_SESSION_SOURCES: Final = {
    "create": "Session/CreateSession",
    "activate": "Session/ActivateSession",
    "close": "Session/CloseSession",
}
_CERTIFICATE_TYPES: Final[dict[int, int]] = {
    Code.CERTIFICATE_TIME_INVALID: ua.ObjectIds.AuditCertificateExpiredEventType,
    Code.CERTIFICATE_ISSUER_TIME_INVALID: ua.ObjectIds.AuditCertificateExpiredEventType,
    Code.CERTIFICATE_UNTRUSTED: ua.ObjectIds.AuditCertificateUntrustedEventType,
    Code.CERTIFICATE_CHAIN_INCOMPLETE: ua.ObjectIds.AuditCertificateUntrustedEventType,
    Code.CERTIFICATE_REVOKED: ua.ObjectIds.AuditCertificateRevokedEventType,
    Code.CERTIFICATE_ISSUER_REVOKED: ua.ObjectIds.AuditCertificateRevokedEventType,
    Code.CERTIFICATE_REVOCATION_UNKNOWN: ua.ObjectIds.AuditCertificateRevokedEventType,
    Code.CERTIFICATE_ISSUER_REVOCATION_UNKNOWN: ua.ObjectIds.AuditCertificateRevokedEventType,
    Code.CERTIFICATE_USE_NOT_ALLOWED: ua.ObjectIds.AuditCertificateMismatchEventType,
    Code.CERTIFICATE_ISSUER_USE_NOT_ALLOWED: ua.ObjectIds.AuditCertificateMismatchEventType,
    Code.CERTIFICATE_URI_INVALID: ua.ObjectIds.AuditCertificateDataMismatchEventType,
}


class Acting(Protocol):
    """What audit asks of a session."""

    @property
    def id(self) -> ua.NodeId:
        """Its NodeId."""

    @property
    def user(self) -> User:
        """Whose it is."""

    @property
    def client(self) -> str:
        """Name and address of the client."""


class Allowance:
    """So many at once, and so many a second; what goes beyond is counted."""

    def __init__(self, clock: Clock, burst: int = BURST, per_s: float = PER_S) -> None:
        self._clock = clock
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._last_ns = clock.monotonic_ns()
        self.over = 0

    def take(self) -> bool:
        """True where one more may pass; False counts it in `over`."""
        now_ns = self._clock.monotonic_ns()
        grown = self._left + (now_ns - self._last_ns) / 1e9 * self._per_s
        self._left, self._last_ns = min(grown, float(self._burst)), now_ns
        if self._left < 1.0:
            self.over += 1
            return False
        self._left -= 1.0
        return True

    def told(self) -> int:
        """How many were over; from now on it counts anew."""
        over, self.over = self.over, 0
        return over


class Audit:
    """Tells clients and the journal who did what. Nothing here waits but `run`."""

    def __init__(self, emit: Emit, desk: Desk | None, clock: Clock) -> None:
        self.emit = emit
        self.desk = desk
        self._clock = clock
        self._strangers = Allowance(clock)
        self._users: dict[str, Allowance] = {}
        self._unsaid = 0
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=WAITING_MAX)
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Hand receipts over until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and self.desk is not None:
                await self.desk.journal(self._waiting.popleft())

    # ------------------------------------------------------------ who is there

    def session(
        self,
        what: str,
        client: str,
        user: str,
        code: int,
        session: ua.NodeId | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """A session was made, activated or closed ("create", "activate", "close"), or was not.

        code  0, or why not
        """
        allowance = self._of(user) if user and not code else self._strangers
        if not allowance.take():
            return
        fields = {"SessionId": _variant(session or ua.NodeId(), ua.VariantType.NodeId)}
        if what == "create":
            fields["ClientCertificate"] = _variant(certificate, ua.VariantType.ByteString)
        source = _SESSION_SOURCES[what]
        text = f"{source[8:]} of {client}, user {user or 'anonymous'}"
        over = allowance.told()
        self._send(_SESSION_TYPES[what], source, code, text, user, fields, over=over)
        if code and what == "activate":
            self._refused(f"log on: {_named(code)}", f"opcua:{user}@{client}", over=over)

    def certificate(
        self, client: str, thumbprint: str, code: int, certificate: bytes | None = None
    ) -> None:
        """A certificate was refused; `client` is its name and the address it came from."""
        if not self._strangers.take():
            return
        kind = _CERTIFICATE_TYPES.get(code, ua.ObjectIds.AuditCertificateInvalidEventType)
        fields = {"Certificate": _variant(certificate, ua.VariantType.ByteString)}
        if kind == ua.ObjectIds.AuditCertificateDataMismatchEventType:
            fields["InvalidHostname"] = _variant("", ua.VariantType.String)
            fields["InvalidUri"] = _variant(client[:TEXT_CHARS_MAX], ua.VariantType.String)
        text = f"certificate {thumbprint} of {client}"
        over = self._strangers.told()
        self._send(kind, "Security/Certificate", code, text, "", fields, over=over)

    # ------------------------------------------------------------ what was done

    def write(
        self,
        session: Acting,
        node: ua.NodeId,
        value: ua.DataValue | ua.Variant | None,
        code: int,
        reason: str,
        *,
        attribute: int = ua.AttributeIds.Value,
        index_range: str | None = None,
        old: ua.Variant | None = None,
        here: bool = True,
    ) -> None:
        """A client wrote an attribute, or was refused.

        here  it was refused here; False where the field process has a receipt of it
        """
        over = self._over(session, here)
        if over < 0:
            return
        new = value.Value if isinstance(value, ua.DataValue) else value
        fields = {
            "AttributeId": _variant(int(attribute), ua.VariantType.UInt32),
            "IndexRange": _variant(index_range, ua.VariantType.String),
            "OldValue": old or ua.Variant(),
            "NewValue": new or ua.Variant(),
            "SessionId": _variant(session.id, ua.VariantType.NodeId),
        }
        kind = ua.ObjectIds.AuditWriteUpdateEventType
        text = f"write of {node_text(node)} by {_who(session)}{_because(reason)}"
        self._send(kind, "Attribute/Write", code, text, session.user.name, fields, node, over)
        if code & 0x80000000 and here:
            self._refused(reason or _named(code), _source(session), _tag(node), new, over)

    def call(
        self,
        session: Acting,
        object_id: ua.NodeId,
        method_id: ua.NodeId,
        inputs: Sequence[ua.Variant],
        code: int,
        reason: str,
        *,
        outputs: Sequence[ua.Variant] = (),
        about: str = "",
        here: bool = True,
    ) -> None:
        """A client called a method, or was refused.

        about  the point that its inputs name, which is the event's source then: who may not read
               the point must not learn what was set
        here   as in `write`; or it was done here, like all that only reads
        """
        over = self._over(session, here)
        if over < 0:
            return
        fields = {
            "MethodId": _variant(method_id, ua.VariantType.NodeId),
            "StatusCodeId": _variant(ua.StatusCode(ua.UInt32(code)), ua.VariantType.StatusCode),
            "InputArguments": _variants(inputs),
            "OutputArguments": _variants(outputs),
            "SessionId": _variant(session.id, ua.VariantType.NodeId),
        }
        text = f"call of {node_text(method_id)} on {node_text(object_id)} by {_who(session)}"
        text += _because(reason)
        kind, name = ua.ObjectIds.AuditUpdateMethodEventType, "Attribute/Call"
        source = own_id(about) if about else object_id
        told = audit_of(method_id)
        if told is not None:
            kind, name, source = told.type, told.source_name, condition_of(object_id)
            fields |= told.values(inputs)
        self._send(kind, name, code, text, session.user.name, fields, source, over)
        if code & 0x80000000 and here:
            why = f"{node_text(method_id)}: {reason or _named(code)}"
            self._refused(why, _source(session), _tag(source), over=over)

    # ------------------------------------------------------------ bounds

    def _of(self, user: str) -> Allowance:
        if user not in self._users and len(self._users) >= USERS_MAX:
            self._users.clear()
        return self._users.setdefault(user, Allowance(self._clock))

    def _over(self, session: Acting, here: bool) -> int:
        """How many of the user's like it were not told; below 0 where this one isn't, either.

        Commands have a pace of their own and are all told.
        """
        if not here:
            return 0
        allowance = self._of(session.user.name)
        return allowance.told() if allowance.take() else -1

    def pushed(
        self,
        session: Acting,
        kind: int,
        object_id: ua.NodeId,
        method: tuple[ua.NodeId, str],
        what: str,
        fields: Mapping[str, ua.NodeId],
    ) -> None:
        """A certificate or a trust list was changed by a method, of this NodeId and name."""
        told = {
            "MethodId": _variant(method[0], ua.VariantType.NodeId),
            "StatusCodeId": _variant(ua.StatusCode(), ua.VariantType.StatusCode),
            "InputArguments": _variants(()),
            "OutputArguments": _variants(()),
            "SessionId": _variant(session.id, ua.VariantType.NodeId),
            **{name: _variant(node, ua.VariantType.NodeId) for name, node in fields.items()},
        }
        text = f"{what}, by {_who(session)}"
        log.warning("opcua: %s", text)
        self._send(kind, f"Method/{method[1]}", 0, text, session.user.name, told, object_id)

    # ------------------------------------------------------------ the ways out

    def _send(
        self,
        kind: int,
        source_name: str,
        code: int,
        text: str,
        user: str,
        fields: Mapping[str, ua.Variant],
        source: ua.NodeId = SERVER,
        over: int = 0,
    ) -> None:
        now_ns = self._clock.utc_ns()
        if over:
            text += f"; {over} more like it were not told"
        good = not code & 0x80000000
        common = {
            "ActionTimeStamp": ua.Variant(_time(now_ns), ua.VariantType.DateTime),
            "Status": ua.Variant(good, ua.VariantType.Boolean),
            "ServerId": _variant("", ua.VariantType.String),
            "ClientAuditEntryId": _variant("", ua.VariantType.String),
            "ClientUserId": _variant(user, ua.VariantType.String),
        }
        if "StatusCodeId" not in fields and not good:
            text += f": {_named(code)}"
        if kind in _SECURITY:
            status = ua.StatusCode(ua.UInt32(code))
            common["StatusCodeId"] = _variant(status, ua.VariantType.StatusCode)
        self.emit(
            UaEvent(
                type_id=standard_id(kind),
                event_id=bytes.fromhex(self._clock.new_id()),
                source=source,
                source_name=source_name,
                notifiers=(SERVER,),
                utc_ns=now_ns,
                received_ns=now_ns,
                severity=SEVERITY_DONE if good else SEVERITY_REFUSED,
                message=text[:TEXT_CHARS_MAX],
                fields={**common, **fields},
            )
        )

    def _refused(
        self,
        reason: str,
        source: str,
        tag: str = "",
        value: ua.Variant | None = None,
        over: int = 0,
    ) -> None:
        """A receipt for the journal; what has no room in its row is counted in the next one."""
        if len(self._waiting) >= WAITING_MAX:
            self._unsaid += over + 1
            return
        over, self._unsaid = over + self._unsaid, 0
        body: dict[str, Any] = {
            "command": "",
            "tag": tag,
            "value": _number(value),
            "origin": "operator",
            "source": source[:256],
            "step": "refused",
            "reason": reason[:TEXT_CHARS_MAX] + (f" (and {over} more)" if over else ""),
            "by": "opcua",
        }
        self._waiting.append(body)
        self._wake.set()


_SECURITY: Final = frozenset({*_SESSION_TYPES.values(), *_CERTIFICATE_TYPES.values()}) | {
    ua.ObjectIds.AuditCertificateInvalidEventType
}


_CONFIDENTIAL: Final = _SECURITY | {
    *(ua.ObjectIds.CertificateUpdatedAuditEventType, ua.ObjectIds.TrustListUpdatedAuditEventType)
}


def is_confidential(event: UaEvent) -> bool:
    """True for what only engineers and administrators are told: who came, who was turned away."""
    return event.type_id.Identifier in _CONFIDENTIAL and event.type_id.NamespaceIndex == 0


def node_text(node: ua.NodeId) -> str:
    """A NodeId for people: a point's tag, or the standard's notation."""
    return _tag(node) or str(node.to_string())


def _tag(node: ua.NodeId) -> str:
    if node.NamespaceIndex == NAMESPACE and isinstance(node.Identifier, str):
        return node.Identifier.partition("/")[0]
    return ""


def _named(code: int) -> str:
    return str(ua.StatusCode(ua.UInt32(code)).name)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _who(session: Acting) -> str:
    return f"{session.user.name or 'anonymous'} from {session.client}"


def _source(session: Acting) -> str:
    return f"opcua:{session.user.name}@{session.client}"


def _number(value: ua.Variant | None) -> float:
    content = None if value is None else value.Value
    return float(content) if isinstance(content, bool | int | float) else 0.0


def _variant(value: Any, kind: ua.VariantType) -> ua.Variant:
    return ua.Variant(value, kind, is_array=False) if value is not None else ua.Variant(None, kind)


def _variants(values: Sequence[ua.Variant]) -> ua.Variant:
    return ua.Variant(list(values), ua.VariantType.Variant, is_array=True)


def _time(utc_ns: int) -> Any:
    return ua.win_epoch_to_datetime(utc_ns // 100 + 116_444_736_000_000_000)
