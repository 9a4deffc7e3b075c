"""The Call service: who may call which method on which object (OPC 10000-4, 5.12.2).

The methods of a request run side by side and are begun in their order, so that a hundred
acknowledgements take one scan and not a hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import struct_from_binary

from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.orders.arguments import ArgumentsRefused, checked
from gateway.opcua.orders.diagnostics import Words, array_length, small
from gateway.opcua.orders.outcomes import OF_SILENCE, OutcomeFault
from gateway.opcua.orders.together import Together
from gateway.opcua.security.audit import Audit
from gateway.opcua.security.rights import Rights
from gateway.opcua.service import Call, Fault, Services
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role

CALLS_MAX: Final = 100  # of one request: MaxNodesPerMethodCall
INPUTS_SHOWN_MAX: Final = 20  # in an audit event
METHOD_S: Final = 20.0  # how long a method may take
_CODES: Final = ua.StatusCodes
_METHOD_ID: Final = int(ua.AttributeIds.Executable)


@dataclass(frozen=True, slots=True)
class _Result:
    """What one call gives back."""

    code: int
    reason: str = ""
    outputs: Sequence[ua.Variant] = ()
    inputs: Sequence[tuple[int, str]] = ()


class Calls:
    """The Call service of one server."""

    def __init__(
        self,
        methods: Methods,
        rights: Rights,
        audit: Audit,
        attributes_of: Callable[[ua.NodeId], Collection[int] | None],
    ) -> None:
        """`attributes_of` has the attributes of a node; None where there is no such node."""
        self._methods = methods
        self._rights = rights
        self._audit = audit
        self._attributes_of = attributes_of
        self._work: Together[_Result] = Together()

    def services(self) -> Services:
        """What the transport dispatches to."""
        return {ua.ObjectIds.CallRequest_Encoding_DefaultBinary: self._call}

    async def _call(self, call: Call) -> ua.CallResponse:
        count = array_length(call.body)
        if not count:
            raise Fault(_CODES.BadNothingToDo)
        if count > CALLS_MAX:
            raise Fault(_CODES.BadTooManyOperations)
        asked = struct_from_binary(ua.CallParameters, call.body).MethodsToCall
        parts = [self._begin(call.session, request) for request in asked]
        found = await self._work.run(parts, call.meter)
        words = Words(call.header.ReturnDiagnostics)
        response = ua.CallResponse()
        response.Results = [_shown(result, words) for result in found]
        response.DiagnosticInfos = words.of([(result.code, result.reason) for result in found])
        response.ResponseHeader.StringTable = words.table
        return response

    def _begin(
        self, session: Session, request: ua.CallMethodRequest
    ) -> _Result | Coroutine[Any, Any, _Result]:
        """The result of a call that is refused, or the rest of one that may be carried out."""
        try:
            method = self._found(request)
            self._allow(session, method, request.ObjectId)
            inputs = checked(request.InputArguments or [], method.inputs)
        except ArgumentsRefused as refused:
            result = _Result(refused.code, str(refused), (), refused.results)
        except MethodFault as fault:
            result = _Result(fault.code, str(fault))
        else:
            return self._run(session, request, method, inputs)
        return self._told(session, request, result, here=True)

    async def _run(
        self,
        session: Session,
        request: ua.CallMethodRequest,
        method: Method,
        inputs: Sequence[ua.Variant],
    ) -> _Result:
        here = True
        try:
            async with asyncio.timeout(METHOD_S):
                outputs = await method.run(session, request.ObjectId, inputs)
            # What only reads is done here; the rest is the field's, which has receipts of it.
            result, here = _Result(_CODES.Good, "", outputs), method.role <= Role.OBSERVER
        except ArgumentsRefused as refused:
            result = _Result(refused.code, str(refused), (), refused.results)
        except OutcomeFault as told:
            here = told.outcome.here
            result = _Result(told.code, str(told), told.outputs)
        except MethodFault as fault:
            result = _Result(fault.code, str(fault))
        except TimeoutError:
            reason = f"the method did not end within {METHOD_S:g} s; perhaps it did its work"
            result = _Result(_CODES.BadTimeout, reason)
        return self._told(session, request, result, here=here)

    def _told(
        self, session: Session, request: ua.CallMethodRequest, result: _Result, *, here: bool
    ) -> _Result:
        """The result, once the audit knows it."""
        method = self._methods.get(request.MethodId)
        given = (request.InputArguments or [])[:INPUTS_SHOWN_MAX]
        hidden = method is not None and method.hidden
        given = [] if hidden else given
        self._audit.call(
            session,
            request.ObjectId,
            request.MethodId,
            [small(variant) for variant in given],
            result.code,
            result.reason,
            outputs=[] if hidden else [small(variant) for variant in result.outputs],
            about="" if method is None else method.about(given),
            here=here,
        )
        return result

    def _found(self, request: ua.CallMethodRequest) -> Method:
        """The method that is meant. Raises MethodFault."""
        if self._attributes_of(request.ObjectId) is None:
            raise MethodFault(_CODES.BadNodeIdUnknown, "no such object")
        method = self._methods.get(request.MethodId)
        if method is not None:
            return method
        shown = self._attributes_of(request.MethodId)
        if shown is not None and _METHOD_ID in shown:
            raise MethodFault(_CODES.BadNotExecutable, "nobody carries this method out")
        raise MethodFault(_CODES.BadMethodInvalid, "no such method")

    def _allow(self, session: Session, method: Method, node: ua.NodeId) -> None:
        """Raise MethodFault where a session may not call a method on an object."""
        tag = method.tag(node)
        if method.role > Role.OBSERVER and not session.secured:
            reason = f"{method.name} can't be called over a channel without security"
            raise MethodFault(OF_SILENCE["no-security"], reason)
        plain = method.role <= Role.OBSERVER
        if plain and session.user.role >= method.role and self._rights.may_read(session.user, tag):
            return
        if plain or not self._rights.may(session.user, method.role, tag):
            who = session.user.name or "anonymous"
            reason = f"{who} may not call {method.name}" + (f" on {tag}" if tag else "")
            raise MethodFault(OF_SILENCE["no-right"], reason)


def _shown(result: _Result, words: Words) -> ua.CallMethodResult:
    shown = ua.CallMethodResult()
    shown.StatusCode = ua.StatusCode(ua.UInt32(result.code))
    shown.InputArgumentResults = [ua.StatusCode(ua.UInt32(code)) for code, _ in result.inputs]
    shown.InputArgumentDiagnosticInfos = words.of(result.inputs)
    shown.OutputArguments = list(result.outputs)
    return shown
