"""Event filters of OPC 10000-4, 7.22.3: what a clause gives, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.server.address_space import AddressSpace
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, variant_from_binary
from asyncua.ua.uaprotocol_auto import EventFilter as WireFilter
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.opcua.conditions.filters import EventFilter
from gateway.opcua.conditions.like import Like
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.event import UaEvent
from gateway.opcua.library import standard_space
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.builder import compact

I = ua.ObjectIds  # noqa: E741
C = ua.StatusCodes
F = ua.FilterOperator
BASE = standard_id(I.BaseEventType)
SERVER = standard_id(I.Server)


@pytest.fixture(scope="module")
def space() -> AddressSpace:
    """The trimmed standard namespace, as the server keeps it."""
    made = standard_space()
    compact(made)
    return made


@pytest.fixture(scope="module")
def types(space: AddressSpace) -> EventTypes:
    """Its event types."""
    return EventTypes(space)


def event(**given: Any) -> UaEvent:
    """An alarm's event."""
    values = {
        "type_id": standard_id(I.ExclusiveLevelAlarmType),
        "event_id": b"\x01" * 16,
        "source": own_id("Oven.Temperature"),
        "source_name": "Oven.Temperature",
        "notifiers": (SERVER,),
        "utc_ns": 1_700_000_000_123_456_700,
        "received_ns": 1_700_000_001_000_000_000,
        "severity": 700,
        "message": "Oven hot",
        "fields": {
            "AckedState/Id": ua.Variant(False),
            "Retain": ua.Variant(True),
            "ConditionName": ua.Variant("Oven_Hot"),
            "HighLimit": ua.Variant(900.0),
        },
        "condition": own_id("Alarms.Oven_Hot/Condition"),
    }
    return UaEvent(**{**values, **given})


def field(path: str, type_id: int = I.BaseEventType, **more: Any) -> ua.SimpleAttributeOperand:
    names = [ua.QualifiedName(part) for part in path.split("/")] if path else []
    given = {"AttributeId": ua.AttributeIds.Value, **more}
    return ua.SimpleAttributeOperand(
        TypeDefinitionId=standard_id(type_id), BrowsePath=names, **given
    )


def literal(value: Any, kind: Any = None) -> ua.LiteralOperand:
    return ua.LiteralOperand(Value=ua.Variant(value, kind))


def operand(value: Any) -> Any:
    """An operand: a field's path, an element's number, or a literal in a tuple."""
    if isinstance(value, str):
        return field(value)
    if isinstance(value, int):
        return ua.ElementOperand(Index=value)
    return literal(*value) if isinstance(value, tuple) else value


def wire(
    select: list[ua.SimpleAttributeOperand], elements: list[tuple[Any, ...]] | None = None
) -> ua.EventFilter:
    """A filter as it comes from a client."""
    made = WireFilter(SelectClauses=select)
    made.WhereClause.Elements = [
        ua.ContentFilterElement(FilterOperator=op, FilterOperands=[operand(o) for o in operands])
        for op, *operands in elements or []
    ]
    return struct_from_binary(WireFilter, Buffer(struct_to_binary(made)))


def wants(types: EventTypes, *elements: tuple[Any, ...], of: UaEvent | None = None) -> bool:
    """Whether a where clause wants the event."""
    made, result, code = EventFilter.parse(wire([field("EventId")], list(elements)), types)
    assert code == 0, result
    assert made is not None
    wanted = made.fields(of or event()) is not None
    assert (made.encoded(of or event()) is not None) == wanted
    return wanted


def refused(types: EventTypes, *elements: tuple[Any, ...]) -> list[tuple[int, list[int]]]:
    """The codes of a refused where clause: of each element and its operands."""
    made, result, code = EventFilter.parse(wire([field("EventId")], list(elements)), types)
    assert made is None
    assert code == C.BadEventFilterInvalid
    return [
        (one.StatusCode.value, [c.value for c in one.OperandStatusCodes])
        for one in result.WhereClauseResult.ElementResults
    ]


def test_selected_fields_stand_in_the_order_of_the_clauses(types: EventTypes) -> None:
    select = [
        *(field(p) for p in ("Severity", "EventType", "AckedState/Id", "Message", "LocalTime")),
        field("", I.ConditionType, AttributeId=ua.AttributeIds.NodeId),
        field("HighLimit", I.LimitAlarmType),
        field("HighLimit", I.NonExclusiveLimitAlarmType),
        field("AckedState", I.ConditionType, AttributeId=ua.AttributeIds.NodeId),
        field("ConditionName", I.ConditionType, IndexRange="0:3"),
        field("ConditionName", I.ConditionType, IndexRange="50"),
    ]
    made, result, code = EventFilter.parse(wire(select), types)
    assert code == 0
    assert made is not None
    assert all(c.value == 0 for c in result.SelectClauseResults)
    one = event()
    fields = made.fields(one)
    assert fields is not None
    assert [f.Value for f in fields] == [
        700,
        one.type_id,
        False,
        ua.LocalizedText("Oven hot"),
        None,
        own_id("Alarms.Oven_Hot/Condition"),
        900.0,
        None,
        own_id("Alarms.Oven_Hot/Condition/AckedState"),
        "Oven",
        None,
    ]
    encoded = made.encoded(one)
    assert encoded is not None
    buffer = Buffer(encoded)
    assert int.from_bytes(buffer.read(4), "little") == len(fields)
    assert [variant_from_binary(buffer) for _ in fields] == fields
    assert len(buffer) == 0


def test_times_are_those_of_the_event(types: EventTypes) -> None:
    made, _, _ = EventFilter.parse(wire([field("Time"), field("ReceiveTime")]), types)
    assert made is not None
    fields = made.fields(event())
    assert fields is not None
    assert [f.Value.microsecond for f in fields] == [123_456, 0]


def test_a_clause_that_never_gives_anything_has_its_own_result(types: EventTypes) -> None:
    other_namespace = field("Severity")
    other_namespace.BrowsePath = [ua.QualifiedName("Severity", 2)]
    nameless = field("Severity")
    nameless.BrowsePath = [ua.QualifiedName(None)]
    select = [
        field("Severity"),
        field("NoSuchThing"),
        other_namespace,
        nameless,
        field("Severity", I.FolderType),
        field("Severity", AttributeId=ua.AttributeIds.DisplayName),
        field("Severity", AttributeId=99),
        field("Severity", IndexRange="x"),
        field("", AttributeId=ua.AttributeIds.Value),
        field("HighLimit", I.SystemEventType),
        field("/".join(["Severity"] * 50)),
    ]
    made, result, code = EventFilter.parse(wire(select), types)
    assert code == 0
    assert made is not None
    assert [c.value for c in result.SelectClauseResults] == [
        0,
        C.BadNodeIdUnknown,
        C.BadNodeIdUnknown,
        C.BadBrowseNameInvalid,
        C.BadTypeDefinitionInvalid,
        C.BadAttributeIdInvalid,
        C.BadAttributeIdInvalid,
        C.BadIndexRangeInvalid,
        C.BadAttributeIdInvalid,
        C.BadNodeIdUnknown,
        C.BadNodeIdUnknown,
    ]
    fields = made.fields(event())
    assert fields is not None
    assert [f.Value for f in fields] == [700] + [None] * 10


@pytest.mark.parametrize("select", [[], [field("NoSuchThing")], [field("Severity")] * 201])
def test_a_filter_without_any_good_clause_is_refused(types: EventTypes, select: Any) -> None:
    made, _, code = EventFilter.parse(wire(select), types)
    assert made is None
    assert code == C.BadEventFilterInvalid


@pytest.mark.parametrize(
    ("element", "wanted"),
    [
        ((F.Equals, "Severity", (700,)), True),
        ((F.Equals, "Severity", (700.0, ua.VariantType.Double)), True),
        ((F.Equals, "Severity", ("700",)), True),
        ((F.Equals, "Severity", ("seven",)), False),
        ((F.Equals, "SourceName", ("Oven.Temperature",)), True),
        ((F.Equals, "Message", ("Oven hot",)), True),
        ((F.Equals, "AckedState/Id", (False,)), True),
        ((F.Equals, "AckedState/Id", ("false",)), True),
        ((F.Equals, "SourceNode", ("ns=2;s=Oven.Temperature",)), True),
        ((F.Equals, "SourceNode", ("ns=x",)), False),
        ((F.Equals, "SuppressedState/Id", (False,)), False),
        ((F.IsNull, "SuppressedState/Id"), True),
        ((F.IsNull, "Severity"), False),
        ((F.GreaterThan, "Severity", (699,)), True),
        ((F.GreaterThan, "Severity", (700,)), False),
        ((F.GreaterThanOrEqual, "Severity", (700,)), True),
        ((F.LessThan, "Severity", (700,)), False),
        ((F.LessThanOrEqual, "Severity", (700,)), True),
        ((F.LessThan, "Severity", (float("nan"),)), False),
        ((F.LessThan, "SourceNode", ("ns=2;s=Z",)), False),
        ((F.Between, "Severity", (1,), (1000,)), True),
        ((F.Between, "Severity", (701,), (1000,)), False),
        ((F.InList, "Severity", (1,), (700,)), True),
        ((F.InList, "Severity", (1,), (2,)), False),
        ((F.Like, "SourceName", ("Oven%",)), True),
        ((F.Like, "Severity", ("7%",)), False),
        ((F.BitwiseAnd, "Severity", (4, ua.VariantType.UInt32)), False),
        ((F.OfType, (standard_id(I.AlarmConditionType),)), True),
        ((F.OfType, (standard_id(I.SystemEventType),)), False),
    ],
)
def test_operators(types: EventTypes, element: tuple[Any, ...], wanted: bool) -> None:
    assert wants(types, element) is wanted


def test_what_cannot_be_told_is_neither_true_nor_false(types: EventTypes) -> None:
    unknown = (F.Equals, "SuppressedState/Id", (True,))
    true = (F.IsNull, "SuppressedState/Id")
    assert not wants(types, unknown)
    assert not wants(types, (F.Not, 1), unknown)
    assert wants(types, (F.Or, 1, 2), unknown, true)
    assert not wants(types, (F.And, 1, 2), unknown, true)
    assert not wants(types, (F.Not, 1), (F.Or, 2, 3), unknown, true)
    assert wants(types, (F.Not, 1), (F.And, 2, 3), unknown, (F.Not, 4), true)


def test_a_cast_is_seen_by_other_operators(types: EventTypes) -> None:
    as_text = (F.Cast, "Severity", (standard_id(I.String),))
    assert wants(types, (F.Equals, 1, ("700",)), as_text)
    assert wants(types, (F.Like, 1, ("7%",)), as_text)
    too_small = (F.Cast, "Severity", (standard_id(I.Byte),))
    assert wants(types, (F.IsNull, 1), too_small)


def test_many_references_to_one_element_cost_one_evaluation(types: EventTypes) -> None:
    chain = [(F.And, at + 1, at + 1) for at in range(99)]
    assert wants(types, *chain, (F.GreaterThan, "Severity", (1,)))


@pytest.mark.parametrize(
    ("element", "code", "operands"),
    [
        ((F.InView, "Severity"), C.BadFilterOperatorUnsupported, []),
        ((F.RelatedTo, "Severity"), C.BadFilterOperatorUnsupported, []),
        ((F.Equals, "Severity"), C.BadFilterOperandCountMismatch, []),
        ((F.Equals, "Severity", (1,), (2,)), C.BadFilterOperandCountMismatch, []),
        ((F.Equals, "Nothing", (1,)), C.BadFilterOperandInvalid, [C.BadNodeIdUnknown, 0]),
        ((F.Not, 0), C.BadFilterOperandInvalid, [C.BadFilterOperandInvalid]),
        ((F.Not, 7), C.BadFilterOperandInvalid, [C.BadFilterOperandInvalid]),
        ((F.Not, ua.AttributeOperand()), C.BadFilterOperandInvalid, [C.BadFilterOperandInvalid]),
        ((F.OfType, "Severity"), C.BadFilterOperandInvalid, [C.BadFilterOperandInvalid]),
        (
            (F.OfType, (standard_id(I.FolderType),)),
            C.BadFilterOperandInvalid,
            [C.BadNodeIdUnknown],
        ),
        (
            (F.Like, "Message", ("[",)),
            C.BadFilterOperandInvalid,
            [0, C.BadFilterLiteralInvalid],
        ),
        (
            (F.Equals, "Message", ("x" * 5000,)),
            C.BadFilterOperandInvalid,
            [0, C.BadFilterLiteralInvalid],
        ),
    ],
)
def test_a_where_clause_that_cannot_be_evaluated_says_where(
    types: EventTypes, element: tuple[Any, ...], code: int, operands: list[int]
) -> None:
    assert refused(types, element) == [(code, operands)]


def test_too_many_elements_are_refused(types: EventTypes) -> None:
    assert refused(types, *[(F.IsNull, "Severity")] * 101) == []
    assert refused(types, *[(F.Like, "Message", ("x",))] * 11) == []
    assert refused(types, (F.InList, "Message", *[("x",)] * 500)) == []


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("main%.%", "main.en", True),
        ("main%.%", "main", False),
        ("%en%", "gentle", True),
        ("%", "", True),
        ("", "", True),
        ("", "x", False),
        ("abc[13-68]", "abc2", False),
        ("abc[13-68]", "abc5", True),
        ("abc[^13-5]", "abc6", True),
        ("abc[^13-5]", "abc4", False),
        ("_a_", "bar", True),
        ("_a_", "ba", False),
        (r"5\%", "5%", True),
        (r"5\%", "50", False),
        ("a.c", "abc", False),
        ("%a%ab", "ab", False),
        ("%a%ab", "aab", True),
        ("[]]", "]", None),
        ("[b-a]", "a", None),
    ],
)
def test_like(pattern: str, text: str, fits: bool | None) -> None:
    if fits is None:
        with pytest.raises(ValueError, match=r"set|range"):
            Like(pattern)
    else:
        assert Like(pattern).fits(text) is fits


def test_no_pattern_searches_back_and_forth() -> None:
    # As one regular expression this would take longer than the world will last.
    assert not Like("%a" * 60 + "%b").fits("a" * 4000)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(width=32),
    st.text(max_size=8),
    st.sampled_from(["i=a", "g=zz", "b=%", "ns=a;s=b", "i=99999999999999999999", "ns=-5;i=1"]),
    st.binary(max_size=8),
    st.sampled_from([BASE, standard_id(I.Byte), own_id("Oven.Temperature")]),
    st.sampled_from([ua.LocalizedText("x"), ua.QualifiedName("x"), ua.EUInformation()]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.integers(10**17, 2 * 10**17).map(ua.win_epoch_to_datetime),
)
OPERANDS = st.one_of(
    VALUES.map(lambda value: (value,)),
    st.integers(0, 6),
    st.sampled_from(["Severity", "Time", "EventId", "AckedState/Id", "SourceNode", "No", ""]),
)
ELEMENTS = st.lists(
    st.tuples(st.sampled_from(list(F)), st.lists(OPERANDS, min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(ELEMENTS)
def test_any_where_clause_is_refused_or_evaluated(
    types: EventTypes, elements: list[tuple[Any, list[Any]]]
) -> None:
    given_elements = [(operator, *operands) for operator, operands in elements]
    made, result, code = EventFilter.parse(wire([field("EventId")], given_elements), types)
    assert len(result.WhereClauseResult.ElementResults) == len(elements)
    bad = [e for e in result.WhereClauseResult.ElementResults if e.StatusCode.value]
    assert bool(bad) == bool(code)
    if made is not None:
        fields = made.fields(event())
        assert fields is None or len(fields) == 1
