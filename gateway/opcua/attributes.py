"""The Read service, and attributes as one user may see them (OPC 10000-4, 5.11.2)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from config import status as codes
from gateway.core.clock import Clock
from gateway.opcua import binary
from gateway.opcua.binary import NO_STRING, Reader, made_node
from gateway.opcua.index_range import cut
from gateway.opcua.methods import Methods
from gateway.opcua.monitoring.encoding import ticks_of
from gateway.opcua.names import NAMESPACE, own_id, standard_id
from gateway.opcua.nodes.builder import HISTORY_READ, READ, WRITE, Node
from gateway.opcua.nodes.shown import code, time_of
from gateway.opcua.nodes.space import Space
from gateway.opcua.service import Call, Fault, Services, response_head
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values
from gateway.opcua.work import Work

READS_MAX: Final = 10_000  # of one request: MaxNodesPerRead
READS_AT_ONCE: Final = 500  # values of points that are looked up together
_IDS: Final = ua.AttributeIds
_CODES: Final = ua.StatusCodes
_KINDS: Final = ua.VariantType
_VALUE: Final = int(_IDS.Value)
_READ_ITEM_BYTES_MIN: Final = 16
_POINT_STEPS: Final = 4  # of work: a value of a point, and anything else
_OTHER_STEPS: Final = 20
_RESPONSE: Final = ua.ObjectIds.ReadResponse_Encoding_DefaultBinary
_SOURCE_TIMES: Final = (0, 2)  # of TimestampsToReturn: source 0, server 1, both 2, neither 3
_SERVER_TIMES: Final = (1, 2)
_FORMS: Final = {
    _KINDS.Boolean: ("?", bool),
    _KINDS.UInt32: ("I", int),
    _KINDS.Int64: ("q", int),
    _KINDS.Double: ("d", float),
}
# Whole numbers that their type can hold; the table has them as doubles.
_SPANS: Final = {
    _KINDS.Boolean: (0.0, 1.0),
    _KINDS.UInt32: (0.0, 2.0**32 - 1),
    _KINDS.Int64: (-(2.0**63) + 1024, 2.0**63 - 1024),
}
# The well-known roles (OPC 10000-3, 4.9.2) that ours are, and bits of PermissionType (8.55).
_ROLES: Final = (
    (Role.OBSERVER, ua.ObjectIds.WellKnownRole_Observer),
    (Role.OPERATOR, ua.ObjectIds.WellKnownRole_Operator),
    (Role.ENGINEER, ua.ObjectIds.WellKnownRole_Engineer),
    (Role.ADMINISTRATOR, ua.ObjectIds.WellKnownRole_ConfigureAdmin),
    (Role.ADMINISTRATOR, ua.ObjectIds.WellKnownRole_SecurityAdmin),
)
_BROWSE: Final = 1
_READ_ROLES: Final = 2
_MAY_READ: Final = 32
_MAY_WRITE: Final = 64
_MAY_READ_HISTORY: Final = 128
_RECEIVE_EVENTS: Final = 2048
_CALL: Final = 4096


class Permits(Protocol):
    """Who may do what with a point; `gateway.opcua.security.rights.Rights`."""

    def may_read(self, user: User, tag: str) -> bool:
        """True where the user may see the point's value and history."""

    def may_write(self, user: User, tag: str) -> bool:
        """True where the user may set the point."""

    def may(self, user: User, role: Role, tag: str) -> bool:
        """True where the user may do what asks for `role` with the point."""


@lru_cache(maxsize=64)
def _packer(letter: str, mask: int) -> struct.Struct:
    text = "<B" + ("B" + letter if mask & 1 else "")
    text += "I" if mask & 2 else ""
    text += "q" if mask & 4 else ""
    return struct.Struct(text + ("q" if mask & 8 else ""))


class Attributes:
    """Reads attributes of all nodes; values of points straight from the table."""

    def __init__(
        self,
        space: Space,
        values: Values,
        rights: Permits,
        clock: Clock,
        methods: Methods | None = None,
    ) -> None:
        self._space = space
        self._values = values
        self._rights = rights
        self._clock = clock
        self._methods = methods

    def services(self) -> Services:
        """What the transport dispatches to."""
        return {ua.ObjectIds.ReadRequest_Encoding_DefaultBinary: self._read}

    def attributes_of(self, node: ua.NodeId) -> Collection[int] | None:
        """The attributes that a node has, by their numbers; None where there is no such node."""
        data: Any = self._space.aspace.get(node)
        if data is None:
            return None
        own = {int(number) for number in data.attributes}
        if self._space.point_of(node):
            own.add(_VALUE)
        return own | {int(_IDS.RolePermissions), int(_IDS.UserRolePermissions)}

    def read(
        self, user: User, node: ua.NodeId, attribute: int, index_range: str | None
    ) -> ua.DataValue:
        """An attribute as a user may see it; what is wrong is the status of the value."""
        if attribute == _VALUE:
            index = self._space.point_of(node)
            if index:
                if not self._rights.may_read(user, str(node.Identifier)):
                    return self._bad(_CODES.BadUserAccessDenied)
                shown = self._values.value(index)
                return shown if not index_range else self._cut(shown, index_range)
        data: Any = self._space.aspace.get(node)
        if data is None:
            return self._bad(_CODES.BadNodeIdUnknown)
        shown = self._attribute(user, node, data, attribute)
        return shown if not index_range else self._cut(shown, index_range)

    # ------------------------------------------------------------ one attribute

    def _bad(self, status: int) -> ua.DataValue:
        shown = ua.DataValue(StatusCode=code(status), ServerTimestamp=time_of(self._clock.utc_ns()))
        shown.Value = None
        return shown

    def _cut(self, shown: ua.DataValue, index_range: str) -> ua.DataValue:
        """The part of a value that an index range names."""
        if shown.Value is None:
            return shown
        part = cut(shown.Value, index_range)
        if isinstance(part, int):
            return self._bad(part)
        return ua.DataValue(
            part,
            StatusCode=shown.StatusCode,
            SourceTimestamp=shown.SourceTimestamp,
            ServerTimestamp=shown.ServerTimestamp,
        )

    def _attribute(self, user: User, node: ua.NodeId, data: Any, attribute: int) -> ua.DataValue:
        held = data.get(attribute) if isinstance(data, Node) else data.attributes.get(attribute)
        if attribute in _BY_USER:
            content = _BY_USER[attribute](self, user, node, data, held)
            if isinstance(content, int):
                return self._bad(content)
            return ua.DataValue(content, ServerTimestamp=time_of(self._clock.utc_ns()))
        if held is None:
            return self._bad(_CODES.BadAttributeIdInvalid)
        if attribute == _VALUE and not self._rights.may_read(user, self._space.tag_of(node)):
            return self._bad(_CODES.BadUserAccessDenied)
        shown = held.value
        if held.value_callback is not None:
            shown = held.value_callback(node, ua.AttributeIds(attribute))
        if shown is None:
            return self._bad(_CODES.BadWaitingForInitialData)
        now = time_of(self._clock.utc_ns())
        source = None
        if attribute == _VALUE:
            source = shown.SourceTimestamp or self._space.since
        made = ua.DataValue(
            shown.Value, StatusCode=shown.StatusCode, SourceTimestamp=source, ServerTimestamp=now
        )
        made.Value = shown.Value
        return made

    def _access_level(self, user: User, node: ua.NodeId, data: Any, held: Any) -> ua.Variant | int:
        if held is None:
            return int(_CODES.BadAttributeIdInvalid)
        return ua.Variant(self._level(user, node, held.value.Value.Value), _KINDS.Byte)

    def _level(self, user: User, node: ua.NodeId, level: int) -> int:
        tag = self._space.tag_of(node)
        if not self._rights.may_read(user, tag):
            level &= ~(READ | HISTORY_READ)
        if level & WRITE and not self._rights.may_write(user, tag):
            level &= ~WRITE
        return level

    def _executable(self, user: User, node: ua.NodeId, data: Any, held: Any) -> ua.Variant | int:
        if held is None:
            return int(_CODES.BadAttributeIdInvalid)
        return ua.Variant(self._may_call(user, node), _KINDS.Boolean)

    def _may_call(self, user: User, node: ua.NodeId) -> bool:
        method = None if self._methods is None else self._methods.get(node)
        role = Role.OBSERVER if method is None else method.role
        return self._rights.may(user, role, self._space.tag_of(node))

    def _permissions(self, user: User, node: ua.NodeId, data: Any) -> int:
        """What a user may do with a node: bits of PermissionType."""
        if user.role == Role.NOBODY:
            return 0
        granted = _BROWSE | (_READ_ROLES if user.role == Role.ADMINISTRATOR else 0)
        attributes: Any = data.shared if isinstance(data, Node) else data.attributes
        level = attributes.get(_IDS.AccessLevel)
        if level is not None:
            bits = self._level(user, node, level.value.Value.Value)
            granted |= _MAY_READ if bits & READ else 0
            granted |= _MAY_WRITE if bits & WRITE else 0
            granted |= _MAY_READ_HISTORY if bits & HISTORY_READ else 0
        notifier = attributes.get(_IDS.EventNotifier)
        if notifier is not None and notifier.value.Value.Value:
            granted |= _RECEIVE_EVENTS
        if _IDS.Executable in attributes and self._may_call(user, node):
            granted |= _CALL
        return granted

    def _roles(self, user: User, node: ua.NodeId, data: Any, held: Any) -> ua.Variant | int:
        """What each role may; rights that hold for single users are left out."""
        if user.role != Role.ADMINISTRATOR:
            return int(_CODES.BadUserAccessDenied)
        return _permission_list(
            [(number, self._permissions(User("", role), node, data)) for role, number in _ROLES]
        )

    def _user_roles(self, user: User, node: ua.NodeId, data: Any, held: Any) -> ua.Variant | int:
        granted = self._permissions(user, node, data)
        return _permission_list([(n, granted) for role, n in _ROLES if role <= user.role])

    # ------------------------------------------------------------ the service

    async def _read(self, call: Call) -> bytes:
        body = Reader(call.body)
        if not body.f64() >= 0:
            raise Fault(_CODES.BadMaxAgeInvalid)
        stamps = body.u32()
        if stamps > 3:
            raise Fault(_CODES.BadTimestampsToReturnInvalid)
        count = body.count(_READ_ITEM_BYTES_MIN)
        if not count:
            raise Fault(_CODES.BadNothingToDo)
        if count > READS_MAX:
            raise Fault(_CODES.BadTooManyOperations)
        user = call.session.user
        parts: list[bytes] = []
        with Work(call, self._clock) as work:
            while len(parts) < count:
                await work.turn()
                wanted = min(READS_AT_ONCE, count - len(parts))
                parts += self._some(body, user, stamps, wanted, work)
        ticks = ticks_of(self._clock.utc_ns())
        head = response_head(_RESPONSE, call.header.RequestHandle, ticks)
        return head + binary.u32(count) + b"".join(parts) + NO_STRING

    def _some(self, body: Reader, user: User, stamps: int, count: int, work: Work) -> list[bytes]:
        """Answer the next ReadValueIds of a request, as many as fit into a turn.

        Values of points are looked up all at once. Raises Fault.
        """
        known, may_read = self._values.index, self._rights.may_read
        parts: list[bytes] = []
        places: list[int] = []
        indexes: list[int] = []
        for place in range(count):
            tag = body.value_of(NAMESPACE)
            index = 0 if tag is None else known.get(tag, 0)
            if tag is not None and index and may_read(user, tag):
                places.append(place)
                indexes.append(index)
                parts.append(b"")
                work.done += _POINT_STEPS
                continue
            if tag is None:
                shown = self._other(body, user, stamps)
            else:
                shown = _encoded(self.read(user, own_id(tag), _VALUE, None), stamps)
            parts.append(work.take(shown))
            work.done += _OTHER_STEPS
            if work.is_long:
                break
        if indexes:
            now_ns = self._clock.utc_ns()
            types = self._values.types
            rows = self._values.rows[indexes].tolist()
            for place, index, row in zip(places, indexes, rows, strict=True):
                parts[place] = work.take(_point(types[index], row, stamps, now_ns))
        return parts

    def _other(self, body: Reader, user: User, stamps: int) -> bytes:
        """Answer the next ReadValueId of a request, whatever it asks for."""
        node, attribute = made_node(body.node_id()), body.u32()
        index_range = body.string()
        encoding = body.qualified_name()
        shown = self.read(user, node, attribute, index_range)
        if encoding[1]:
            fault = _encoding_fault(attribute, encoding, shown)
            shown = self._bad(fault) if fault else shown
        return _encoded(shown, stamps)


def _point(kind: ua.VariantType, row: tuple[Any, ...], stamps: int, now_ns: int) -> bytes:
    """A point's DataValue; the same as `Values.value` gives, without its objects.

    row  of RECORD
    """
    _, _, status, value, utc_ns = row
    mask, letter = 0, ""
    content: list[Any] = []
    if status < codes.BAD:
        if kind != _KINDS.Double and not _fits(value, kind):
            status = codes.BAD_OUT_OF_RANGE
        else:
            letter, form = _FORMS[kind]
            mask = 1
            content += (kind.value, form(value))
    if status:
        mask |= 2
        content.append(status)
    if utc_ns > 0 and stamps in _SOURCE_TIMES:
        mask |= 4
        content.append(ticks_of(utc_ns))
    if stamps in _SERVER_TIMES:
        mask |= 8
        content.append(ticks_of(now_ns))
    return _packer(letter, mask).pack(mask, *content)


def _fits(value: float, kind: ua.VariantType) -> bool:
    low, high = _SPANS[kind]
    return low <= value <= high and value == int(value)


def _permission_list(granted: Sequence[tuple[int, int]]) -> ua.Variant:
    made = [
        ua.RolePermissionType(standard_id(number), ua.PermissionType(bits))
        for number, bits in granted
    ]
    return ua.Variant(made, _KINDS.ExtensionObject, is_array=True)


def _encoding_fault(attribute: int, encoding: tuple[int, str], shown: ua.DataValue) -> int:
    """Why a value can't be had in an encoding; 0 where it can. Only structures have any."""
    is_structure = shown.Value is not None and shown.Value.VariantType == _KINDS.ExtensionObject
    if attribute != _VALUE or (shown.Value is not None and not is_structure):
        return int(_CODES.BadDataEncodingInvalid)
    if encoding != (0, "Default Binary"):
        return int(_CODES.BadDataEncodingUnsupported)
    return 0


def _encoded(shown: ua.DataValue, stamps: int) -> bytes:
    made = ua.DataValue(
        StatusCode=None if not shown.StatusCode or not shown.StatusCode.value else shown.StatusCode,
        SourceTimestamp=shown.SourceTimestamp if stamps in _SOURCE_TIMES else None,
        ServerTimestamp=shown.ServerTimestamp if stamps in _SERVER_TIMES else None,
    )
    made.Value = shown.Value
    encoded: bytes = struct_to_binary(made)
    return encoded


_BY_USER: Final = {
    int(_IDS.UserAccessLevel): Attributes._access_level,
    int(_IDS.UserExecutable): Attributes._executable,
    int(_IDS.RolePermissions): Attributes._roles,
    int(_IDS.UserRolePermissions): Attributes._user_roles,
}
