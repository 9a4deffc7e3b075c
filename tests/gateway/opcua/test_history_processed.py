"""ReadProcessed, ReadAtTime and ReadEvents as services: pieces, directions, types, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from asyncua import ua

from gateway.core.records import Event
from gateway.opcua.conditions.filters import EventFilter
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.event import UaEvent
from gateway.opcua.history import past, processed, service
from gateway.opcua.history.service import Events
from gateway.opcua.library import standard_space
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.service import Fault
from tests.gateway.opcua import history_case
from tests.gateway.opcua.history_case import (
    NS,
    T0,
    Client,
    FakeArchive,
    KeptEvent,
    moment,
    new_history,
    triples,
)

TAG = "Stack.Temperature"
SERVER = standard_id(ua.ObjectIds.Server)
CALCULATED, INTERPOLATED, PARTIAL = 0x401, 0x402, 0x404
SUB_NORMAL = 0x40A40000
_CODES = ua.StatusCodes


def every_second(count: int = 600) -> FakeArchive:
    archive = FakeArchive()
    archive.put(TAG, *((at, float(at), 0) for at in range(count)))
    archive.put("Fan.Running", *((at, float(at // 10 % 2), 0) for at in range(0, count, 10)))
    archive.put("Stack.Mode", *((at, float(at // 10 % 3), 0) for at in range(0, count, 10)))
    return archive


async def test_averages_of_minutes_in_both_directions() -> None:
    client = Client(new_history(every_second()))
    forward = await client.values(history_case.processed("Average", 60, 240, 60), TAG)
    assert forward == [(at, at + 29.5, CALCULATED) for at in (60, 120, 180)]
    backward = await client.values(history_case.processed("Average", 240, 60, 60), TAG)
    assert backward == [(at, at - 29.5, CALCULATED) for at in (240, 180, 120)]
    rest = await client.values(history_case.processed("Count", 60, 130, 60), TAG)
    assert rest == [(60, 60, CALCULATED), (120, 10, CALCULATED)]
    rest = await client.values(history_case.processed("Count", 130, 60, 60), TAG)
    assert rest == [(130, 60, CALCULATED), (70, 10, CALCULATED)]
    whole = await client.values(history_case.processed("Maximum", 60, 130), TAG)
    assert whole == [(60, 129.0, CALCULATED)]


@pytest.mark.parametrize("name", ["Average", "TimeAverage", "Interpolative", "DurationGood", "End"])
@pytest.mark.parametrize("backward", [False, True])
async def test_pieces_of_any_size_make_the_same_results(
    monkeypatch: pytest.MonkeyPatch, name: str, backward: bool
) -> None:
    span = (630, -30) if backward else (-30, 630)
    details = history_case.processed(name, *span, 7)
    wanted = await Client(new_history(every_second())).values(details, TAG)
    assert len(wanted) == math.ceil(660 / 7)
    for rows, budget in ((1, 1000), (8, 1000), (50, 3), (10_000, 1)):
        monkeypatch.setattr(processed, "PIECE_ROWS", rows)
        monkeypatch.setattr(service, "ANSWER_VALUES_MAX", budget)
        assert await Client(new_history(every_second())).values(details, TAG) == wanted


async def test_an_interval_of_too_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processed, "PIECE_ROWS", 10)
    monkeypatch.setattr(processed, "INTERVAL_ROWS_MAX", 100)
    client = Client(new_history(every_second()))
    (result,) = await client.read(history_case.processed("Average", 0, 600, 200), TAG)
    assert result.StatusCode.value == _CODES.BadResourceUnavailable


async def test_results_have_the_type_that_the_standard_asks_for() -> None:
    client = Client(new_history(every_second()))
    for name, tag, kind in (
        ("Interpolative", "Fan.Running", ua.VariantType.Boolean),
        ("Maximum", "Stack.Mode", ua.VariantType.UInt32),
        ("Delta", "Stack.Mode", ua.VariantType.Int64),
        ("Range", TAG, ua.VariantType.Double),
        ("Average", "Stack.Mode", ua.VariantType.Double),
        ("Count", TAG, ua.VariantType.Int32),
        ("PercentGood", "Fan.Running", ua.VariantType.Double),
    ):
        (result,) = await client.read(history_case.processed(name, 3, 598), tag)
        (value,) = result.HistoryData.DataValues
        assert value.Value.VariantType == kind, name


async def test_discrete_values_are_stepped_and_measured_ones_are_not() -> None:
    client = Client(new_history(every_second()))
    found = await client.values(history_case.processed("Interpolative", 5, 30, 10), "Stack.Mode")
    assert found == [(5, 0, INTERPOLATED), (15, 1, INTERPOLATED), (25, 2, INTERPOLATED)]
    found = await client.values(history_case.processed("Interpolative", 5.5, 6), TAG)
    assert found == [(5.5, 5.5, INTERPOLATED)]


async def test_a_gap_makes_aggregates_uncertain() -> None:
    archive = every_second(100)
    rows = archive.points[TAG]
    archive.points[TAG] = rows[(rows["value"] <= 40) | (rows["value"] >= 70)]
    archive.missing = [(T0 + 40 * NS, T0 + 70 * NS, "lost")]
    client = Client(new_history(archive))
    found = await client.values(history_case.processed("TimeAverage", 30, 90, 20), TAG)
    uncertain = SUB_NORMAL | CALCULATED
    assert found == [(30, 40.0, uncertain), (50, 60.0, uncertain), (70, 80.0, CALCULATED)]
    found = await client.values(history_case.processed("PercentGood", 30, 90, 20), TAG)
    assert found == [(30, 50.0, CALCULATED), (50, 0.0, CALCULATED), (70, 100.0, CALCULATED)]
    found = await client.values(history_case.processed("PercentBad", 30, 90, 20), TAG)
    assert found == [(30, 50.0, CALCULATED), (50, 100.0, CALCULATED), (70, 0.0, CALCULATED)]


async def test_values_at_any_times_in_the_order_asked_for() -> None:
    archive = FakeArchive()
    archive.put(
        TAG, (10, 10.0, 0), (20, 20.0, 0), (30, 0.0, 0x80000000), (40, 40.0, 0), (50, 5.0, 1 << 30)
    )
    client = Client(new_history(archive))
    times = [moment(at) for at in (45, 15, 20, 5, 30, 50, 60)]
    interpolated = await client.values(ua.ReadAtTimeDetails(times, False), TAG)
    assert interpolated == [
        (45, 40.0, SUB_NORMAL | INTERPOLATED),
        (15, 15.0, INTERPOLATED),
        (20, 20.0, 0),
        (5, None, _CODES.BadNoData),
        (30, 30.0, SUB_NORMAL | INTERPOLATED),
        (50, 5.0, 1 << 30),
        (60, 40.0, SUB_NORMAL | INTERPOLATED),
    ]
    bounded = await client.values(ua.ReadAtTimeDetails(times, True), TAG)
    assert bounded == [
        (45, 22.5, SUB_NORMAL | INTERPOLATED),
        (15, 15.0, INTERPOLATED),
        (20, 20.0, 0),
        (5, None, _CODES.BadNoData),
        (30, None, 0x80000000),
        (50, 5.0, 1 << 30),
        (60, 5.0, SUB_NORMAL | INTERPOLATED),
    ]
    found = await client.values(ua.ReadAtTimeDetails([moment(25), moment(35)], True), TAG)
    assert found == [(25, 20.0, SUB_NORMAL | INTERPOLATED), (35, None, _CODES.BadNoData)]


@pytest.mark.parametrize(("rows", "budget"), [(1, 100), (7, 2), (1000, 1)])
async def test_times_are_answered_in_pieces(
    monkeypatch: pytest.MonkeyPatch, rows: int, budget: int
) -> None:
    times = [moment(at) for at in (300.5, 3, 599, 9.25, 700, -5, 42, 42)]
    details = ua.ReadAtTimeDetails(times, False)
    wanted = await Client(new_history(every_second())).values(details, TAG)
    monkeypatch.setattr(processed, "PIECE_ROWS", rows)
    monkeypatch.setattr(service, "ANSWER_VALUES_MAX", budget)
    assert await Client(new_history(every_second())).values(details, TAG) == wanted
    assert wanted[0] == (300.5, 300.5, INTERPOLATED)


async def test_what_can_not_be_computed_is_refused() -> None:
    client = Client(new_history(every_second()))

    async def code(details: object) -> int:
        return int((await client.read(details, TAG))[0].StatusCode.value)

    good = history_case.processed("Average", 0, 10, 5)
    assert await code(good) == 0
    assert await code(history_case.processed("TimeAverage2", 0, 10)) == (
        _CODES.BadAggregateNotSupported
    )
    assert await code(history_case.processed("Average", 5, 5, 1)) == _CODES.BadInvalidArgument
    for interval in (-1.0, math.nan, math.inf, 1e-12):
        assert await code(history_case.processed("Average", 0, 9, interval)) == (
            _CODES.BadInvalidArgument
        )
    unbounded = history_case.processed("Average", 0, 9)
    unbounded.EndTime = ua.get_win_epoch()
    assert await code(unbounded) == _CODES.BadInvalidTimestampArgument
    assert await code(ua.ReadAtTimeDetails([], True)) == _CODES.BadInvalidTimestampArgument
    for bad, good_share in ((101, 100), (100, 101), (20, 30)):
        strange = history_case.processed("Average", 0, 9)
        strange.AggregateConfiguration = ua.AggregateConfiguration(
            False, True, bad, good_share, False
        )
        assert await code(strange) == _CODES.BadAggregateConfigurationRejected
    with pytest.raises(Fault) as refused:
        await client.read(history_case.processed("Average", 0, 9, nodes=2), TAG)
    assert refused.value.code == _CODES.BadAggregateListMismatch
    with pytest.raises(Fault) as refused:
        await client.read(ua.ReadAtTimeDetails([moment(0)] * 10_001, True), TAG)
    assert refused.value.code == _CODES.BadTooManyOperations


async def test_a_configuration_of_the_client_counts() -> None:
    archive = FakeArchive()
    archive.put(TAG, (0, 1.0, 0), (1, 3.0, 0), (2, 50.0, 1 << 30), (3, 5.0, 0), (9, 1.0, 0))
    client = Client(new_history(archive))
    details = history_case.processed("Average", 0, 4)
    assert await client.values(details, TAG) == [(0, 3.0, SUB_NORMAL | CALCULATED)]
    details.AggregateConfiguration = ua.AggregateConfiguration(False, True, 100, 70, False)
    assert await client.values(details, TAG) == [(0, 3.0, CALCULATED)]


# -- events


def teller(kept: KeptEvent) -> UaEvent | None:
    """Events of odd numbers, shown at the server or at the site."""
    event = kept.event
    if event.seq % 2 == 0:
        return None
    node = SERVER if event.seq % 4 == 1 else own_id("/")
    return UaEvent(
        standard_id(ua.ObjectIds.BaseEventType), str(event.seq).encode(), node, "s", (node,),
        event.utc_ns, event.utc_ns, 100, f"number {event.seq}", {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def types() -> EventTypes:
    return EventTypes(standard_space())


def event_filter() -> ua.EventFilter:
    def clause(name: str) -> ua.SimpleAttributeOperand:
        return ua.SimpleAttributeOperand(
            standard_id(ua.ObjectIds.BaseEventType),
            [ua.QualifiedName(name)],
            ua.AttributeIds.Value,
        )

    return ua.EventFilter([clause("EventId"), clause("Message")])


def event_client(types: EventTypes, count: int = 40) -> Client:
    archive = FakeArchive()
    archive.kept = [
        KeptEvent(1, Event(seq, T0 + seq // 3 * NS, "gateway", {})) for seq in range(count)
    ]
    events = Events(types, {SERVER, own_id("/")}, teller)
    return Client(new_history(archive, events=events))


def asked(start: float | None, end: float | None, limit: int = 0) -> ua.ReadEventDetails:
    return ua.ReadEventDetails(limit, moment(start), moment(end), event_filter())


async def numbers(client: Client, details: ua.ReadEventDetails, node: ua.NodeId) -> list[int]:
    found: list[int] = []
    mark = None
    while True:
        (result,) = await client.read(details, node, points=(mark,))
        assert result.StatusCode.is_good()
        found += [int(one.EventFields[0].Value) for one in result.HistoryData.Events]
        mark = result.ContinuationPoint
        if mark is None:
            return found


@pytest.mark.parametrize(("look", "limit"), [(500, 0), (3, 0), (1, 1), (5, 2)])
async def test_events_of_a_node_in_both_directions(monkeypatch, types, look, limit) -> None:
    monkeypatch.setattr(past, "LOOK_EVENTS", look)
    client = event_client(types)
    at_server = [seq for seq in range(40) if seq % 4 == 1]
    assert await numbers(client, asked(0, 99, limit), SERVER) == at_server
    assert await numbers(client, asked(99, -1, limit), SERVER) == at_server[::-1]
    site = [seq for seq in range(9, 27) if seq % 4 == 3]
    assert await numbers(client, asked(3, 9, limit), own_id("/")) == site
    # In backward order the earlier end is not among them.
    back = [seq for seq in range(12, 30) if seq % 4 == 3]
    assert await numbers(client, asked(9, 3, limit), own_id("/")) == back[::-1]


async def test_events_are_no_more_than_the_client_takes(types) -> None:
    client = event_client(types, 400)
    client.bytes_max = 500
    wanted = [seq for seq in range(400) if seq % 4 == 1]
    assert await numbers(client, asked(0, 999), SERVER) == wanted
    assert client.largest <= 500


async def test_nodes_of_a_request_share_its_filter_and_its_time(monkeypatch, types) -> None:
    """A thousand times the same node with a filter that nothing fits must not take a thousand."""
    client = event_client(types, 4000)
    archive, clock = client.history._archive, client.history._clock
    parsed, looked = 0, 0
    parse, events = EventFilter.parse, archive.events

    def counted(*args: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return parse(*args)

    async def slow(*args: Any, **kwargs: Any) -> Any:
        nonlocal looked
        looked += 1
        clock.advance(100_000_000)
        return await events(*args, **kwargs)

    monkeypatch.setattr(EventFilter, "parse", counted)
    monkeypatch.setattr(archive, "events", slow)
    results = await client.read(asked(0, 9999), *[SERVER] * 1000)
    assert parsed == 1
    assert looked == 20
    assert results[-1].StatusCode.value == _CODES.GoodMoreData
    (result,) = await client.read(asked(0, 9999), SERVER, points=[results[-1].ContinuationPoint])
    assert result.HistoryData.Events, "the next request goes on"


async def test_so_many_events_from_one_time_on(types) -> None:
    client = event_client(types)
    assert await numbers(client, asked(0, None, 3), SERVER) == [1, 5, 9]
    assert await numbers(client, asked(None, 99, 3), SERVER) == [37, 33, 29]
    (result,) = await client.read(asked(500, 600), SERVER)
    assert result.StatusCode.value == _CODES.GoodNoData
    assert result.HistoryData.Events == []


async def test_events_that_can_not_be_read_are_refused(types) -> None:
    client = event_client(types)

    async def code(details: object, node: ua.NodeId) -> int:
        return int((await client.read(details, node))[0].StatusCode.value)

    assert await code(asked(0, None), SERVER) == _CODES.BadInvalidTimestampArgument
    assert await code(asked(0, 9), own_id(TAG)) == _CODES.BadHistoryOperationUnsupported
    assert await code(asked(0, 9), own_id("/Stack")) == _CODES.BadHistoryOperationUnsupported
    nothing = asked(0, 9)
    nothing.Filter = ua.EventFilter()
    assert await code(nothing, SERVER) == _CODES.BadEventFilterInvalid
    (result,) = await client.read(history_case.raw(0, 9), SERVER)
    assert result.StatusCode.value == _CODES.BadHistoryOperationUnsupported
    assert triples((await client.read(history_case.raw(0, 9, bounds=True), TAG))[0])
