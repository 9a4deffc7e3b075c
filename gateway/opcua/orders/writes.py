"""The Write service: values of points become commands (OPC 10000-4, 5.11.4).

All writes of a request are on their way before the first answer is waited for, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import struct_from_binary

from config.points import PointDef
from gateway.core.records import Command
from gateway.opcua.names import NAMESPACE
from gateway.opcua.orders.conversion import Mismatch, point_value
from gateway.opcua.orders.diagnostics import Words, array_length, small
from gateway.opcua.orders.orders import Orders
from gateway.opcua.orders.outcomes import OF_SILENCE
from gateway.opcua.orders.together import Together
from gateway.opcua.security.audit import Audit
from gateway.opcua.security.rights import Rights
from gateway.opcua.service import Call, Fault, Services
from gateway.opcua.transport.session import Session
from gateway.opcua.values import Values

WRITES_MAX: Final = 100  # of one request: MaxNodesPerWrite
_CODES: Final = ua.StatusCodes
_VALUE: Final = int(ua.AttributeIds.Value)
_ATTRIBUTES: Final = frozenset(int(attribute) for attribute in ua.AttributeIds)
_RANGE: Final = re.compile(r"\d{1,10}(:\d{1,10})?(,\d{1,10}(:\d{1,10})?)*")
Result = tuple[int, str]  # status code and reason of one write
# Attributes of a node by their numbers; None where there is no such node.
AttributesOf = Callable[[ua.NodeId], Collection[int] | None]


class _Refused(Exception):
    """A write that is not passed on: a status code and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Writes:
    """The Write service of one server."""

    def __init__(
        self,
        orders: Orders,
        values: Values,
        rights: Rights,
        audit: Audit,
        attributes_of: AttributesOf,
        lease_s: float = 0.0,
    ) -> None:
        """`lease_s` is how long a setpoint holds, 0 = until it is given back."""
        self._orders = orders
        self._values = values
        self._rights = rights
        self._audit = audit
        self._attributes_of = attributes_of
        self._lease_ns = int(lease_s * 1e9)
        self._work: Together[Result] = Together()

    def services(self) -> Services:
        """What the transport dispatches to."""
        return {ua.ObjectIds.WriteRequest_Encoding_DefaultBinary: self._write}

    async def _write(self, call: Call) -> ua.WriteResponse:
        count = array_length(call.body)
        if not count:
            raise Fault(_CODES.BadNothingToDo)
        if count > WRITES_MAX:
            raise Fault(_CODES.BadTooManyOperations)
        asked = struct_from_binary(ua.WriteParameters, call.body).NodesToWrite
        parts = [self._begin(call.session, write) for write in asked]
        found = await self._work.run(parts, call.meter)
        words = Words(call.header.ReturnDiagnostics)
        response = ua.WriteResponse()
        response.Results = [ua.StatusCode(ua.UInt32(code)) for code, _ in found]
        response.DiagnosticInfos = words.of(found)
        response.ResponseHeader.StringTable = words.table
        return response

    def _begin(
        self, session: Session, write: ua.WriteValue
    ) -> Result | Coroutine[Any, Any, Result]:
        """The result of a write that is refused here, or the rest of one that is passed on."""
        try:
            point = self._checked(session, write)
            value = self._value(point, write.Value)
        except _Refused as refused:
            return self._told(session, write, refused.code, str(refused), here=True)
        lease_ns = lease_of(point, self._lease_ns)
        command = self._orders.new(session, point.tag, value, lease_ns=lease_ns)
        outcome = self._orders.admit(session, command)
        if outcome is not None:
            return self._told(session, write, outcome.code, outcome.text, here=True)
        return self._ordered(session, write, command, self._values.value(point.index).Value)

    async def _ordered(
        self, session: Session, write: ua.WriteValue, command: Command, old: ua.Variant | None
    ) -> Result:
        outcome = await self._orders.order(command)
        reason = outcome.text if outcome.bad or outcome.reason else ""
        return self._told(session, write, outcome.code, reason, old, here=outcome.here)

    def _told(
        self,
        session: Session,
        write: ua.WriteValue,
        code: int,
        reason: str,
        old: ua.Variant | None = None,
        *,
        here: bool,
    ) -> Result:
        """The result, once the audit knows it."""
        self._audit.write(
            session,
            write.NodeId,
            small(write.Value.Value),
            code,
            reason,
            attribute=int(write.AttributeId),
            index_range=write.IndexRange,
            old=old,
            here=here,
        )
        return code, reason

    def _checked(self, session: Session, write: ua.WriteValue) -> PointDef:
        """The point that a write means. Raises _Refused."""
        node, attribute = write.NodeId, int(write.AttributeId)
        shown = self._attributes_of(node)
        if shown is None:
            raise _Refused(_CODES.BadNodeIdUnknown, "no such node")
        if attribute not in _ATTRIBUTES or attribute not in shown:
            raise _Refused(_CODES.BadAttributeIdInvalid, f"the node has no attribute {attribute}")
        if write.IndexRange and not _RANGE.fullmatch(write.IndexRange):
            raise _Refused(_CODES.BadIndexRangeInvalid, "not an index range")
        point = self._point(node) if attribute == _VALUE else None
        if point is None or not point.writable:
            raise _Refused(_CODES.BadNotWritable, "only values of writable points can be written")
        if not session.secured:
            reason = "nothing is written over a channel without security"
            raise _Refused(OF_SILENCE["no-security"], reason)
        if not self._rights.may_write(session.user, point.tag):
            reason = f"{session.user.name or 'anonymous'} may not write {point.tag}"
            raise _Refused(OF_SILENCE["no-right"], reason)
        if write.IndexRange:
            raise _Refused(_CODES.BadWriteNotSupported, "a part of a value can't be written")
        return point

    def _point(self, node: ua.NodeId) -> PointDef | None:
        if node.NamespaceIndex != NAMESPACE or not isinstance(node.Identifier, str):
            return None
        index = self._values.index.get(node.Identifier)
        return None if index is None else self._values.points[index - 1]

    def _value(self, point: PointDef, given: ua.DataValue) -> float:
        """The number that a written value means. Raises _Refused."""
        status = given.StatusCode
        times = (given.SourceTimestamp, given.ServerTimestamp)
        parts = (given.SourcePicoseconds, given.ServerPicoseconds)
        if (status is not None and status.value != 0) or any(x is not None for x in times + parts):
            reason = "only a value can be written, no status and no time"
            raise _Refused(_CODES.BadWriteNotSupported, reason)
        try:
            return point_value(given.Value, self._values.types[point.index])
        except Mismatch as mismatch:
            raise _Refused(mismatch.code, f"{point.tag}: {mismatch}") from mismatch


def lease_of(point: PointDef, lease_ns: int) -> int:
    """How long a setpoint of a client that names no lease holds: not longer than the point's."""
    if not lease_ns or not point.is_output:
        return 0
    return min(lease_ns, point.lease_ns) if point.lease_ns else lease_ns
