"""Services that look at nodes and references: Browse, BrowseNext, TranslateBrowsePaths and others.

Source: OPC 10000-4, 5.9. What a client has not taken yet of a long answer is kept in its session,
bounded in number and gone with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua import binary
from gateway.opcua.binary import NO_STRING, Reader, made_node
from gateway.opcua.monitoring.encoding import ticks_of
from gateway.opcua.names import standard_id
from gateway.opcua.nodes.builder import HAS_SUBTYPE, HAS_TYPE, Node
from gateway.opcua.nodes.space import Space
from gateway.opcua.service import Call, Fault, Services, response_head
from gateway.opcua.transport.session import Session
from gateway.opcua.work import Work

BROWSES_MAX: Final = 1_000  # of one request: MaxNodesPerBrowse
PATHS_MAX: Final = 1_000
REGISTRATIONS_MAX: Final = 10_000
CONTINUATIONS_MAX: Final = 20  # of one session: MaxBrowseContinuationPoints
REFERENCES_MAX: Final = 1_000  # of one node in one answer
ANSWER_MAX: Final = 20_000  # references in one answer; then nodes get continuation points
ELEMENTS_MAX: Final = 32  # of one path
TARGETS_MAX: Final = 200  # of one path
NAMED_FROM: Final = 50  # references of a node: from here on its targets are found by an index
NAMED_MAX: Final = 30  # such nodes whose index is kept
_NODE_STEPS: Final = 10  # of work: to take a NodeId and give it back
_KEPT: Final = "browse"
_CODES: Final = ua.StatusCodes
_IDS: Final = ua.AttributeIds
_REFERENCES: Final = standard_id(ua.ObjectIds.References)
_FORWARD: Final = 0  # BrowseDirection
_INVERSE: Final = 1
_BOTH: Final = 2
_TYPED: Final = (ua.NodeClass.Object, ua.NodeClass.Variable)
_NO_NODE: Final = binary.node_id(ua.NodeId())
_NO_NAME: Final = b"\x00\x00" + NO_STRING
_NO_TEXT: Final = b"\x00"
# Bits of the result mask (OPC 10000-4, 5.9.2).
_RESULT_KIND: Final = 1
_RESULT_FORWARD: Final = 2
_RESULT_CLASS: Final = 4
_RESULT_NAME: Final = 8
_RESULT_TEXT: Final = 16
_RESULT_TYPE: Final = 32


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a BrowseDescription asks for; `kinds` None = references of any type."""

    direction: int
    kinds: frozenset[ua.NodeId] | None
    classes: int
    results: int


@dataclass(slots=True)
class _Rest:
    """What a client has not taken yet of a node's references."""

    node: ua.NodeId
    wanted: _Wanted
    at: int
    limit: int
    generation: int


@dataclass(slots=True)
class _Kept:
    """Continuation points of a session, and the number that the next one gets."""

    rests: dict[bytes, _Rest]
    next: int = 1


def kept_of(session: Session) -> _Kept:
    """A session's continuation points."""
    kept: _Kept | None = session.kept.get(_KEPT)
    if kept is None:
        kept = session.kept[_KEPT] = _Kept({})
    return kept


def _content(data: Any, attribute: ua.AttributeIds) -> Any:
    held: Any = data.get(attribute) if isinstance(data, Node) else data.attributes[attribute]
    return held.value.Value.Value


class Views:
    """The view services of one server."""

    def __init__(self, space: Space, clock: Clock) -> None:
        self._space = space
        self._clock = clock
        self._subtypes: dict[ua.NodeId, frozenset[ua.NodeId]] = {}
        self._generation = 0
        self._encoded: dict[ua.NodeId, bytes] = {}  # of reference types and type definitions
        self._named: dict[ua.NodeId, dict[tuple[str, int], list[Any]]] = {}

    def services(self) -> Services:
        """What the transport dispatches to."""
        ids = ua.ObjectIds
        return {
            ids.BrowseRequest_Encoding_DefaultBinary: self._browse,
            ids.BrowseNextRequest_Encoding_DefaultBinary: self._browse_next,
            ids.TranslateBrowsePathsToNodeIdsRequest_Encoding_DefaultBinary: self._translate,
            ids.RegisterNodesRequest_Encoding_DefaultBinary: self._register,
            ids.UnregisterNodesRequest_Encoding_DefaultBinary: self._unregister,
        }

    def _head(self, call: Call, encoding: int) -> bytes:
        return response_head(encoding, call.header.RequestHandle, ticks_of(self._clock.utc_ns()))

    def _refresh(self) -> None:
        """Forget what another configuration may have changed."""
        if self._generation != self._space.generation:
            self._generation = self._space.generation
            self._subtypes.clear()
            self._encoded.clear()
            self._named.clear()

    def subtypes(self, kind: ua.NodeId) -> frozenset[ua.NodeId]:
        """A type with all its subtypes."""
        self._refresh()
        known = self._subtypes.get(kind)
        if known is None:
            found, waiting = {kind}, [kind]
            while waiting:
                data = self._space.aspace.get(waiting.pop())
                for one in data.references if data is not None else ():
                    below = one.IsForward and one.ReferenceTypeId == HAS_SUBTYPE
                    if below and one.NodeId not in found:
                        found.add(one.NodeId)
                        waiting.append(one.NodeId)
            known = self._subtypes[kind] = frozenset(found)
        return known

    def _kinds(self, kind: ua.NodeId, *, subtypes: bool) -> frozenset[ua.NodeId] | None:
        """The reference types that are asked for; None for any. Raises Fault."""
        if kind.is_null() or (subtypes and kind == _REFERENCES):
            return None
        data = self._space.aspace.get(kind)
        if data is None or _content(data, _IDS.NodeClass) != ua.NodeClass.ReferenceType:
            raise Fault(_CODES.BadReferenceTypeIdInvalid)
        return self.subtypes(kind) if subtypes else frozenset((kind,))

    # ------------------------------------------------------------ Browse

    async def _browse(self, call: Call) -> bytes:
        body = Reader(call.body)
        view = made_node(body.node_id())
        body.i64()
        body.u32()
        limit = body.u32()
        limit = min(limit, REFERENCES_MAX) or REFERENCES_MAX
        count = body.count(15)
        if not view.is_null():
            raise Fault(_CODES.BadViewIdUnknown)  # there are no views
        _check(count, BROWSES_MAX)
        parts = []
        with Work(call, self._clock) as work:
            for _ in range(count):
                parts.append(work.take(await self._one(call.session, body, limit, work)))
                await work.turn()
        head = self._head(call, ua.ObjectIds.BrowseResponse_Encoding_DefaultBinary)
        return head + binary.u32(count) + b"".join(parts) + NO_STRING

    async def _one(self, session: Session, body: Reader, limit: int, work: Work) -> bytes:
        """Answer the next BrowseDescription of a request."""
        node, direction = made_node(body.node_id()), body.u32()
        kind, subtypes = made_node(body.node_id()), body.flag()
        classes, results = body.u32(), body.u32()
        work.done += 1
        if node not in self._space.aspace:
            return _failed(_CODES.BadNodeIdUnknown)
        if direction > _BOTH:
            return _failed(_CODES.BadBrowseDirectionInvalid)
        try:
            kinds = self._kinds(kind, subtypes=subtypes)
        except Fault as fault:
            return _failed(fault.code)
        wanted = _Wanted(direction, kinds, classes, results)
        rest = _Rest(node, wanted, 0, limit, self._space.generation)
        return await self._answer(session, rest, work)

    async def _browse_next(self, call: Call) -> bytes:
        body = Reader(call.body)
        release, count = body.flag(), body.count(4)
        _check(count, BROWSES_MAX)
        kept = kept_of(call.session)
        parts = []
        with Work(call, self._clock) as work:
            for _ in range(count):
                rest = kept.rests.pop(body.octets() or b"", None)
                if rest is None or rest.generation != self._space.generation:
                    parts.append(_failed(_CODES.BadContinuationPointInvalid))
                elif release:
                    parts.append(_result(0, b"", []))
                else:
                    parts.append(work.take(await self._answer(call.session, rest, work)))
                await work.turn()
        head = self._head(call, ua.ObjectIds.BrowseNextResponse_Encoding_DefaultBinary)
        return head + binary.u32(count) + b"".join(parts) + NO_STRING

    async def _answer(self, session: Session, rest: _Rest, work: Work) -> bytes:
        """The next references of a node, and a continuation point where there are more."""
        data: Any = self._space.aspace.get(rest.node)
        if data is None:  # a part of a condition, made when it is asked for
            return _failed(_CODES.BadNodeIdUnknown)
        found: list[bytes] = []
        limit = min(rest.limit, max(ANSWER_MAX - work.given, 0))
        references = data.references
        while rest.at < len(references):
            one = references[rest.at]
            shown = self._shown(one, rest.wanted)
            if shown is not None:
                if len(found) >= limit:
                    break
                found.append(shown)
            rest.at += 1
            work.done += 1
            if work.is_long:
                await work.turn()
        work.given += len(found)
        if rest.at >= len(references):
            return _result(0, b"", found)
        kept = kept_of(session)
        if len(kept.rests) >= CONTINUATIONS_MAX:
            work.given -= len(found)
            return _failed(_CODES.BadNoContinuationPoints)
        name = kept.next.to_bytes(8, "little")
        kept.next += 1
        kept.rests[name] = rest
        return _result(0, name, found)

    def _shown(self, one: Any, wanted: _Wanted) -> bytes | None:
        """A ReferenceDescription; None where the client didn't ask for this reference."""
        if wanted.direction != _BOTH and one.IsForward != (wanted.direction == _FORWARD):
            return None
        if wanted.kinds is not None and one.ReferenceTypeId not in wanted.kinds:
            return None
        target: Any = self._space.aspace.get(one.NodeId)
        if target is None:
            return None
        number = _content(target, _IDS.NodeClass)
        if wanted.classes and not wanted.classes & number:
            return None
        results = wanted.results
        name, text = _names(target)
        parts = (
            self._known(one.ReferenceTypeId) if results & _RESULT_KIND else _NO_NODE,
            b"\x01" if results & _RESULT_FORWARD and one.IsForward else b"\x00",
            binary.node_id(one.NodeId),
            binary.qualified_name(*name) if results & _RESULT_NAME else _NO_NAME,
            binary.localized_text(text) if results & _RESULT_TEXT else _NO_TEXT,
            binary.u32(number if results & _RESULT_CLASS else 0),
            self._definition(target, number) if results & _RESULT_TYPE else _NO_NODE,
        )
        return b"".join(parts)

    def _known(self, node: ua.NodeId) -> bytes:
        """A NodeId that stands in many references, encoded once."""
        known = self._encoded.get(node)
        if known is None:
            known = self._encoded[node] = binary.node_id(node)
        return known

    def _definition(self, target: Any, number: int) -> bytes:
        if number in _TYPED:
            for one in target.references:
                if one.IsForward and one.ReferenceTypeId == HAS_TYPE:
                    return self._known(one.NodeId)
        return _NO_NODE

    # ------------------------------------------------------------ paths

    async def _translate(self, call: Call) -> bytes:
        body = Reader(call.body)
        count = body.count(6)
        _check(count, PATHS_MAX)
        parts = []
        with Work(call, self._clock) as work:
            for _ in range(count):
                start = made_node(body.node_id())
                elements = []
                for _ in range(body.count(9)):
                    kind = made_node(body.node_id())
                    is_inverse, subtypes = body.flag(), body.flag()
                    elements.append((kind, is_inverse, subtypes, body.qualified_name()))
                parts.append(work.take(await self._path(start, elements, work)))
        encoding = ua.ObjectIds.TranslateBrowsePathsToNodeIdsResponse_Encoding_DefaultBinary
        head = self._head(call, encoding)
        return head + binary.u32(count) + b"".join(parts) + NO_STRING

    async def _path(
        self,
        start: ua.NodeId,
        elements: Sequence[tuple[ua.NodeId, bool, bool, tuple[int, str]]],
        work: Work,
    ) -> bytes:
        """A BrowsePathResult."""
        if start not in self._space.aspace:
            return _no_path(_CODES.BadNodeIdUnknown)
        if not elements:
            return _no_path(_CODES.BadNothingToDo)
        if len(elements) > ELEMENTS_MAX:
            return _no_path(_CODES.BadTooManyOperations)
        here = [start]
        for position, (kind, is_inverse, subtypes, name) in enumerate(elements):
            if not name[1] and position < len(elements) - 1:
                return _no_path(_CODES.BadBrowseNameInvalid)
            try:
                kinds = self._kinds(kind, subtypes=subtypes)
            except Fault:
                kinds = frozenset()  # no reference is of a type that there isn't
            found: dict[ua.NodeId, None] = {}
            for node in here:
                for target in self._targets(node, kinds, is_inverse, name, work):
                    found[target] = None
                    if len(found) > TARGETS_MAX:
                        return _no_path(_CODES.BadTooManyMatches)
                await work.turn()
            here = list(found)
        if not here:
            return _no_path(_CODES.BadNoMatch)
        # Behind each target: how much of the path is left, all ones for nothing.
        shown = b"".join(binary.node_id(node) + NO_STRING for node in here)
        return binary.u32(0) + binary.u32(len(here)) + shown

    def _targets(
        self,
        node: ua.NodeId,
        kinds: frozenset[ua.NodeId] | None,
        is_inverse: bool,
        name: tuple[int, str],
        work: Work,
    ) -> Iterator[ua.NodeId]:
        """Nodes that one element of a path leads to; without a name, all."""
        data = self._space.aspace.get(node)
        references: Sequence[Any] = data.references if data is not None else ()
        if name[1] and len(references) > NAMED_FROM:
            references = self._by_name(node, references, work).get((name[1], name[0]), ())
        for one in references:
            work.done += 1
            if one.IsForward == is_inverse:
                continue
            if kinds is not None and one.ReferenceTypeId not in kinds:
                continue
            target = self._space.aspace.get(one.NodeId)
            if target is None:
                continue
            if not name[1] or _names(target)[0] == (name[1], name[0]):
                yield one.NodeId

    def _by_name(
        self, node: ua.NodeId, references: Sequence[Any], work: Work
    ) -> dict[tuple[str, int], list[Any]]:
        """The references of a node with many of them, by the browse names of their targets."""
        self._refresh()
        known = self._named.get(node)
        if known is None:
            if len(self._named) >= NAMED_MAX:
                self._named.clear()
            known = self._named[node] = {}
            for one in references:
                target = self._space.aspace.get(one.NodeId)
                if target is not None:
                    known.setdefault(_names(target)[0], []).append(one)
            work.done += len(references)
        return known

    # ------------------------------------------------------------ registered nodes

    async def _register(self, call: Call) -> bytes:
        """Nodes stay what they are: nothing is faster under another name here."""
        body = Reader(call.body)
        count = body.count(2)
        _check(count, REGISTRATIONS_MAX)
        parts = []
        with Work(call, self._clock) as work:
            for _ in range(count):
                parts.append(work.take(binary.node_id(made_node(body.node_id()))))
                work.done += _NODE_STEPS
                await work.turn()
        head = self._head(call, ua.ObjectIds.RegisterNodesResponse_Encoding_DefaultBinary)
        return head + binary.u32(count) + b"".join(parts)

    async def _unregister(self, call: Call) -> bytes:
        body = Reader(call.body)
        _check(body.count(2), REGISTRATIONS_MAX)
        return self._head(call, ua.ObjectIds.UnregisterNodesResponse_Encoding_DefaultBinary)


def _check(count: int, most: int) -> None:
    if not count:
        raise Fault(_CODES.BadNothingToDo)
    if count > most:
        raise Fault(_CODES.BadTooManyOperations)


def _names(target: Any) -> tuple[tuple[str, int], str]:
    """Browse name (with its namespace) and display name of a node."""
    if isinstance(target, Node):
        return target.name, target.name[0]
    name = _content(target, _IDS.BrowseName)
    return (name.Name or "", name.NamespaceIndex), _content(target, _IDS.DisplayName).Text or ""


def _result(status: int, continuation: bytes, found: Sequence[bytes]) -> bytes:
    """A BrowseResult."""
    point = NO_STRING if not continuation else binary.u32(len(continuation)) + continuation
    return binary.u32(status) + point + binary.u32(len(found)) + b"".join(found)


def _failed(status: int) -> bytes:
    return binary.u32(status) + NO_STRING + NO_STRING


def _no_path(status: int) -> bytes:
    return binary.u32(status) + NO_STRING
