"""The Read service: values of points, other attributes, what each user may see."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua
from hypothesis import given, settings
from hypothesis import strategies as st

from config import status
from config.opcua import OpcUaRight
from gateway.core.clock import ManualClock
from gateway.opcua import attributes as limits
from gateway.opcua.attributes import Attributes
from gateway.opcua.index_range import cut
from gateway.opcua.methods import Method, Methods
from gateway.opcua.names import member_id, own_id, standard_id
from gateway.opcua.nodes.space import Space
from gateway.opcua.security.rights import Rights
from gateway.opcua.users import NOBODY, Role, User
from tests.gateway.opcua.nodes_case import (
    NOW_NS,
    SITE,
    asked,
    made_space,
    put,
    session_of,
)

CODES = ua.StatusCodes
KINDS = ua.AttributeIds
BOTH = ua.TimestampsToReturn.Both
OBSERVER = User("olga", Role.OBSERVER)
OPERATOR = User("otto", Role.OPERATOR, ("Fan.*",))
ENGINEER = User("eve", Role.ENGINEER)
ADMINISTRATOR = User("ada", Role.ADMINISTRATOR)
RIGHTS = Rights([OpcUaRight(Points=["Stack.Voltage"], Read="engineer", Write="engineer")])


@pytest.fixture(scope="module")
def space() -> Space:
    made = made_space()
    for number, given_point in enumerate(SITE):
        if number % 7:
            put(made, given_point.tag, float(number % 2))
    return made


def attributes(space: Space, methods: Methods | None = None) -> Attributes:
    return Attributes(space, space.values, RIGHTS, ManualClock(NOW_NS + 5_000_000), methods)


def wanted(node: ua.NodeId, attribute: int = KINDS.Value, span: str | None = None) -> Any:
    made = ua.ReadValueId()
    made.NodeId, made.AttributeId, made.IndexRange = node, attribute, span
    made.DataEncoding = ua.QualifiedName(None, 0)
    return made


async def read(
    space: Space,
    *items: Any,
    user: User = ENGINEER,
    stamps: ua.TimestampsToReturn = BOTH,
    age: float = 0.0,
) -> Any:
    request = ua.ReadRequest()
    request.Parameters.MaxAge, request.Parameters.TimestampsToReturn = age, stamps
    request.Parameters.NodesToRead = list(items)
    answer = await asked(attributes(space).services(), request, session_of(user))
    return answer if isinstance(answer, int) else answer.Results


def code(value: ua.DataValue) -> int:
    return 0 if value.StatusCode is None else value.StatusCode.value


# -- values of points -----------------------------------------------------------------------------


async def test_many_values_are_those_that_each_is_read_alone(space: Space) -> None:
    one_by_one = attributes(space)
    results = await read(space, *(wanted(own_id(point.tag)) for point in SITE))
    for point, result in zip(SITE, results, strict=True):
        alone = one_by_one.read(ENGINEER, own_id(point.tag), KINDS.Value, None)
        assert result.Value == (alone.Value if alone.Value is not None else ua.Variant())
        assert code(result) == code(alone)
        assert result.SourceTimestamp == alone.SourceTimestamp


@settings(max_examples=100, deadline=None)
@given(
    tag=st.sampled_from(["Stack.Temperature", "Fan.Running", "Fan.Mode", "Stack.Hours"]),
    value=st.floats() | st.integers(-3, 5).map(float) | st.sampled_from([2.0**32, 2.0**63]),
    code_given=st.sampled_from([row.code for row in status.STATUS_ROWS]),
    utc_ns=st.sampled_from([0, NOW_NS]),
    stamps=st.sampled_from(list(ua.TimestampsToReturn)[:4]),
)
async def test_any_value_is_encoded_as_the_library_would(
    tag: str, value: float, code_given: int, utc_ns: int, stamps: ua.TimestampsToReturn
) -> None:
    space = _shared()
    put(space, tag, value, code_given, utc_ns)
    fast, slow = await read(
        space, wanted(own_id(tag)), wanted(own_id(tag), span=None), stamps=stamps
    )
    alone = space.values.value(space.values.index[tag])
    assert code(fast) == code(alone)
    if alone.Value is None:
        assert fast.Value is None or fast.Value.VariantType == ua.VariantType.Null
    else:
        assert repr(fast.Value) == repr(alone.Value)
    both = (ua.TimestampsToReturn.Both,)
    has_source = stamps in (*both, ua.TimestampsToReturn.Source) and utc_ns
    assert fast.SourceTimestamp == (alone.SourceTimestamp if has_source else None)
    assert bool(fast.ServerTimestamp) == (stamps in (*both, ua.TimestampsToReturn.Server))
    assert repr(fast) == repr(slow)


_SPACES: list[Space] = []


def _shared() -> Space:
    if not _SPACES:
        _SPACES.append(made_space())
    return _SPACES[0]


async def test_what_a_request_has_wrong_is_refused(space: Space) -> None:
    item = wanted(own_id("Fan.Mode"))
    assert await read(space) == CODES.BadNothingToDo
    assert await read(space, item, age=-1.0) == CODES.BadMaxAgeInvalid
    assert await read(space, item, age=float("nan")) == CODES.BadMaxAgeInvalid
    many = [item] * (limits.READS_MAX + 1)
    assert await read(space, *many) == CODES.BadTooManyOperations
    invalid = ua.TimestampsToReturn.Invalid
    assert await read(space, item, stamps=invalid) == CODES.BadTimestampsToReturnInvalid


# -- other attributes -----------------------------------------------------------------------------


async def test_attributes_of_all_nodes(space: Space) -> None:
    fan, mode = own_id("/Fan"), own_id("Fan.Mode")
    results = await read(
        space,
        wanted(fan, KINDS.BrowseName),
        wanted(fan, KINDS.NodeClass),
        wanted(fan, KINDS.NodeId),
        wanted(mode, KINDS.DataType),
        wanted(mode, KINDS.AccessLevel),
        wanted(standard_id(2253), KINDS.DisplayName),
    )
    shown = [one.Value.Value for one in results]
    assert (shown[0].Name, shown[0].NamespaceIndex) == ("Fan", 2)
    assert shown[1:5] == [ua.NodeClass.Object, fan, standard_id(7), 7]
    assert shown[5].Text == "Server"
    assert all(one.SourceTimestamp is None and one.ServerTimestamp for one in results)


async def test_what_is_not_there_has_its_status(space: Space) -> None:
    results = await read(
        space,
        wanted(own_id("none")),
        wanted(own_id("/Fan")),
        wanted(own_id("/Fan"), KINDS.AccessLevel),
        wanted(own_id("Fan.Mode"), 99),
        wanted(own_id("Fan.Mode"), KINDS.UserExecutable),
        wanted(ua.NodeId(b"opaque", 7)),
    )
    assert [code(one) for one in results] == [
        CODES.BadNodeIdUnknown,
        *[CODES.BadAttributeIdInvalid] * 4,
        CODES.BadNodeIdUnknown,
    ]


async def test_properties_have_the_time_of_their_configuration(space: Space) -> None:
    (shown,) = await read(space, wanted(own_id("Stack.Voltage/EngineeringUnits")))
    assert shown.SourceTimestamp == space.since


async def test_the_server_tells_of_itself(space: Space) -> None:
    numbers = (2255, 2259, 2267, 2269, 2254, 2994, 2277, 11705)
    results = await read(space, *(wanted(standard_id(number)) for number in numbers))
    uris, state, level, profiles, servers, auditing, sessions, reads = (
        one.Value.Value for one in results
    )
    assert uris == [
        "http://opcfoundation.org/UA/",
        "urn:host:gatepost:Lab",
        "urn:gatepost:Lab",
        "http://opcfoundation.org/UA/DI/",
    ]
    assert (state, level, servers, auditing) == (0, 255, ["urn:host:gatepost:Lab"], True)
    assert profiles
    assert (sessions, reads) == (0, 0)
    status_of, summary = await read(space, wanted(standard_id(2256)), wanted(standard_id(2275)))
    assert status_of.Value.Value.BuildInfo.ProductName == "Gatepost"
    assert summary.Value.Value.CurrentSessionCount == 0
    (sessions_array,) = await read(space, wanted(standard_id(3707)))
    assert code(sessions_array) == CODES.BadNotReadable


async def test_encodings_are_of_structures_only(space: Space) -> None:
    binary, json = (ua.QualifiedName(f"Default {name}", 0) for name in ("Binary", "JSON"))
    unit = own_id("Stack.Temperature/EngineeringUnits")
    items = [wanted(unit), wanted(unit), wanted(own_id("Fan.Mode")), wanted(unit, KINDS.NodeId)]
    for item, encoding in zip(items, (binary, json, binary, binary), strict=True):
        item.DataEncoding = encoding
    assert [code(one) for one in await read(space, *items)] == [
        0,
        CODES.BadDataEncodingUnsupported,
        CODES.BadDataEncodingInvalid,
        CODES.BadDataEncodingInvalid,
    ]


# -- index ranges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("0", ["a"]),
        ("1:2", ["b", "c"]),
        ("2:9", ["c"]),
        ("0:1,0", ["a", "b"]),
        ("3", CODES.BadIndexRangeNoData),
        ("1,5", CODES.BadIndexRangeNoData),
        ("0,0,0", CODES.BadIndexRangeNoData),
        ("2:1", CODES.BadIndexRangeInvalid),
        ("1:1", CODES.BadIndexRangeInvalid),
        ("a", CODES.BadIndexRangeInvalid),
        ("-1", CODES.BadIndexRangeInvalid),
        ("1:", CODES.BadIndexRangeInvalid),
        (",".join("0" * 9), CODES.BadIndexRangeInvalid),
    ],
)
def test_a_part_of_an_array(span: str, expected: Any) -> None:
    part = cut(ua.Variant(["a", "b", "c"], ua.VariantType.String), span)
    assert (part if isinstance(part, int) else part.Value) == expected


def test_a_part_of_a_text_and_of_a_number() -> None:
    assert getattr(cut(ua.Variant("abc"), "1:2"), "Value", None) == "bc"
    assert cut(ua.Variant(1.0), "0") == CODES.BadIndexRangeNoData


async def test_index_ranges_of_points_and_properties(space: Space) -> None:
    names, number, text = await read(
        space,
        wanted(own_id("Fan.Mode/EnumStrings"), span="1:2"),
        wanted(own_id("Fan.Mode"), span="0"),
        wanted(standard_id(2262), span="0:2"),
    )
    assert [one.Text for one in names.Value.Value] == ["slow", "fast"]
    assert code(number) == CODES.BadIndexRangeNoData
    assert text.Value.Value == "urn"


# -- users ----------------------------------------------------------------------------------------


async def test_a_value_is_for_those_who_may_read_it(space: Space) -> None:
    hidden = [own_id("Stack.Voltage"), own_id("Stack.Voltage/EngineeringUnits")]
    for user, expected in ((OBSERVER, CODES.BadUserAccessDenied), (ENGINEER, 0)):
        results = await read(space, *(wanted(node) for node in hidden), user=user)
        assert [code(one) for one in results] == [expected, expected]
    (name,) = await read(space, wanted(hidden[0], KINDS.BrowseName), user=OBSERVER)
    assert name.Value.Value.Name == "Voltage"
    results = await read(space, wanted(own_id("Fan.Mode")), wanted(standard_id(2258)), user=NOBODY)
    assert [code(one) for one in results] == [CODES.BadUserAccessDenied] * 2


@pytest.mark.parametrize(
    ("user", "levels"),
    [
        (OBSERVER, [5, 5, 0]),
        (OPERATOR, [5, 7, 0]),
        (ENGINEER, [7, 7, 5]),
        (NOBODY, [0, 0, 0]),
    ],
)
async def test_access_level_is_the_users(space: Space, user: User, levels: list[int]) -> None:
    tags = ("Stack.Current_Set", "Fan.Mode", "Stack.Voltage")
    items = (wanted(own_id(tag), KINDS.UserAccessLevel) for tag in tags)
    assert [one.Value.Value for one in await read(space, *items, user=user)] == levels


async def test_role_permissions_are_the_users_and_all_for_administrators(space: Space) -> None:
    mode, voltage = own_id("Fan.Mode"), own_id("Stack.Voltage")
    mine, others = await read(
        space,
        wanted(mode, KINDS.UserRolePermissions),
        wanted(mode, KINDS.RolePermissions),
        user=OPERATOR,
    )
    assert code(others) == CODES.BadUserAccessDenied
    granted = {one.RoleId.Identifier: int(one.Permissions) for one in mine.Value.Value}
    assert granted == {
        ua.ObjectIds.WellKnownRole_Observer: 1 | 32 | 64 | 128,
        ua.ObjectIds.WellKnownRole_Operator: 1 | 32 | 64 | 128,
    }
    (all_roles,) = await read(space, wanted(voltage, KINDS.RolePermissions), user=ADMINISTRATOR)
    granted = {one.RoleId.Identifier: int(one.Permissions) for one in all_roles.Value.Value}
    assert granted[ua.ObjectIds.WellKnownRole_Observer] == 1
    assert granted[ua.ObjectIds.WellKnownRole_Engineer] == 1 | 32 | 128


async def test_a_method_is_executable_for_its_role() -> None:
    space = made_space()

    def build(nodes: Any, model: Any, points: Any) -> None:
        nodes.method(member_id("/Gateway", "Reset"), "Reset", own_id("/Gateway"))

    space.builders.append(build)
    space.take_over(space.prepare(space.model, SITE))
    methods = Methods()
    node = member_id("/Gateway", "Reset")

    async def run(*given: Any) -> tuple[()]:
        return ()

    methods.add(node, Method("Reset", (), (), Role.ENGINEER, lambda node: "", run))
    made = attributes(space, methods)
    for user, may in ((OBSERVER, False), (OPERATOR, False), (ENGINEER, True)):
        shown = made.read(user, node, KINDS.UserExecutable, None)
        assert shown.Value is not None
        assert shown.Value.Value is may
    assert made.read(OBSERVER, node, KINDS.Executable, None).Value == ua.Variant(True)


async def test_attributes_of_a_node_are_named(space: Space) -> None:
    made = attributes(space)
    assert made.attributes_of(own_id("none")) is None
    known = made.attributes_of(own_id("Fan.Mode"))
    assert known is not None
    assert {KINDS.Value, KINDS.DataType, KINDS.UserRolePermissions} <= set(known)
    assert KINDS.Value not in (made.attributes_of(own_id("/Fan")) or ())


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=120))
async def test_random_bytes_are_answered_or_refused(body: bytes) -> None:
    from asyncua.common.utils import Buffer

    from gateway.opcua.service import Call, Fault

    service = attributes(_shared()).services()[ua.ObjectIds.ReadRequest_Encoding_DefaultBinary]
    head = b"\0" * 8 + b"\x02\0\0\0" + b"\x01\0\0\0"
    call = Call(session_of(), ua.RequestHeader(), Buffer(head + body), print, print)
    try:
        await service(call)
    except Fault:
        pass
