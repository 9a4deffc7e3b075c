"""ReadRaw against the table of OPC 10000-11, 4.6, and over continuation points."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.opcua.history import service
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.bounded import Bounded
from sync.errors import StoreFailed
from tests.gateway.opcua.history_case import (
    NS,
    T0,
    Client,
    FakeArchive,
    moment,
    new_history,
    new_session,
    processed,
    raw,
    triples,
)

TAG = "Stack.Temperature"
FIRST = LAST = "bound"
_CODES = ua.StatusCodes
# Values stand at minutes 0, 2, 3, 5 and 6. (start, end, limit, bounds) -> minutes given; a bound
# that was not found as ("bound", minute).
TABLE = [
    ((0, 5, 0, True), [0, 2, 3, 5]),
    ((0, 5, 0, False), [0, 2, 3]),
    ((1, 4, 0, True), [0, 2, 3, 5]),
    ((1, 4, 0, False), [2, 3]),
    ((5, 0, 0, True), [5, 3, 2, 0]),
    ((5, 0, 0, False), [5, 3, 2]),
    ((4, 1, 0, True), [5, 3, 2, 0]),
    ((4, 1, 0, False), [3, 2]),
    ((-1, 5, 0, True), [(FIRST, -1), 0, 2, 3, 5]),
    ((-1, 5, 0, False), [0, 2, 3]),
    ((1, 7, 0, True), [0, 2, 3, 5, 6, (LAST, 7)]),
    ((1, 7, 0, False), [2, 3, 5, 6]),
    ((0, 5, 3, True), [0, 2, 3]),
    ((0, 5, 3, False), [0, 2, 3]),
    ((1, 4, 3, True), [0, 2, 3]),
    ((1, 4, 3, False), [2, 3]),
    ((5, 0, 3, True), [5, 3, 2]),
    ((5, 0, 3, False), [5, 3, 2]),
    ((4, 1, 3, True), [5, 3, 2]),
    ((4, 1, 3, False), [3, 2]),
    ((-1, 5, 3, True), [(FIRST, -1), 0, 2]),
    ((-1, 5, 3, False), [0, 2, 3]),
    ((1, 7, 3, True), [0, 2, 3]),
    ((1, 7, 3, False), [2, 3, 5]),
    ((0, None, 3, True), [0, 2, 3]),
    ((0, None, 3, False), [0, 2, 3]),
    ((0, None, 6, True), [0, 2, 3, 5, 6, (LAST, 6 + 1 / 60)]),
    ((0, None, 6, False), [0, 2, 3, 5, 6]),
    ((7, None, 6, True), [6, (LAST, 6 + 1 / 60)]),
    ((7, None, 6, False), []),
    ((None, 6, 3, True), [6, 5, 3]),
    ((None, 6, 3, False), [6, 5, 3]),
    ((None, 6, 6, True), [6, 5, 3, 2, 0, (FIRST, -1 / 60)]),
    ((None, 6, 6, False), [6, 5, 3, 2, 0]),
    ((None, -12, 6, True), [0, (FIRST, -1 / 60)]),
    ((None, -12, 6, False), []),
    ((-12, -12, 0, True), [(FIRST, -12), 0]),
    ((-12, -12, 0, False), []),
    ((-12, -12, 1, True), [(FIRST, -12)]),
    ((-12, -12, 2, True), [(FIRST, -12), 0]),
    ((0, 0, 0, True), [0, 2]),
    ((0, 0, 0, False), [0]),
    ((0, 0, 1, True), [0]),
    ((1, 1, 0, True), [0, 2]),
    ((1, 1, 0, False), []),
    ((1, 1, 1, True), [0]),
]


def minutes(at: float | None) -> float | None:
    return None if at is None else at * 60


def archive_of_minutes() -> FakeArchive:
    archive = FakeArchive()
    archive.put(TAG, *((at * 60, float(at), 0) for at in (0, 2, 3, 5, 6)))
    return archive


@pytest.mark.parametrize(("asked", "given"), TABLE, ids=str)
async def test_bounds_are_those_of_the_standards_table(asked, given) -> None:
    start, end, limit, bounds = asked
    client = Client(new_history(archive_of_minutes()))
    details = raw(minutes(start), minutes(end), limit, bounds=bounds)
    (result,) = await client.read(details, TAG)
    wanted = [
        (pytest.approx(one[1] * 60), None, _CODES.BadBoundNotFound)
        if isinstance(one, tuple)
        else (one * 60, float(one), 0)
        for one in given
    ]
    assert triples(result) == wanted
    good = {0, _CODES.GoodMoreData} if given else {_CODES.GoodNoData}
    assert result.StatusCode.value in good


@pytest.mark.parametrize("budget", [1, 2, 3, 100])
@pytest.mark.parametrize("asked", [one for one, _ in TABLE if None not in one and not one[2]])
async def test_pieces_of_any_size_make_the_same_whole(monkeypatch, asked, budget: int) -> None:
    start, end, _, bounds = asked
    whole = Client(new_history(archive_of_minutes()))
    wanted = await whole.values(raw(minutes(start), minutes(end), bounds=bounds), TAG)
    monkeypatch.setattr(service, "ANSWER_VALUES_MAX", budget)
    pieces = Client(new_history(archive_of_minutes()))
    found = await pieces.values(raw(minutes(start), minutes(end), bounds=bounds), TAG)
    assert found == wanted
    limited = await whole.values(raw(minutes(start), minutes(end), budget, bounds=bounds), TAG)
    assert limited == wanted


@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize(("asked", "given"), [one for one in TABLE if None in one[0]], ids=str)
async def test_so_many_values_from_one_time_on_in_pieces(monkeypatch, asked, given, budget) -> None:
    start, end, limit, bounds = asked
    monkeypatch.setattr(service, "ANSWER_VALUES_MAX", budget)
    client = Client(new_history(archive_of_minutes()))
    found = await client.values(raw(minutes(start), minutes(end), limit, bounds=bounds), TAG)
    assert len(found) == len(given)
    assert [value for _, value, code in found if not code] == [
        float(one) for one in given if not isinstance(one, tuple)
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
@pytest.mark.parametrize("backward", [False, True])
async def test_equal_times_are_given_once_each(limit: int, backward: bool) -> None:
    archive = FakeArchive()
    archive.put(TAG, *((at // 4, float(at), 0) for at in range(30)))
    client = Client(new_history(archive))
    span = (100, -1) if backward else (-1, 100)
    found = await client.values(raw(*span, limit), TAG)
    values = [value for _, value, _ in found]
    assert values == (list(range(30))[::-1] if backward else list(range(30)))


async def test_values_travel_in_the_types_of_their_points() -> None:
    archive = FakeArchive()
    archive.put("Fan.Running", (0, 1, 0), (1, 0, 0x40000000), (2, 2, 0), (3, 1, 0x80050000))
    archive.put("Stack.Mode", (0, 2, 0), (1, -1, 0), (2, 0.5, 0))
    archive.put("Stack.Count", (0, -5, 0), (1, 2.0**53, 0), (2, 1e300, 0))
    archive.put(TAG, (0, float("nan"), 0), (1, 1e308, 0x40A40000), (2, 3.0, 0x80000000))
    client = Client(new_history(archive))
    out = _CODES.BadOutOfRange
    assert await client.values(raw(0, 9), "Fan.Running") == [
        (0, True, 0), (1, False, 0x40000000), (2, None, out), (3, None, 0x80050000)
    ]  # fmt: skip
    assert await client.values(raw(0, 9), "Stack.Mode") == [
        (0, 2, 0), (1, None, out), (2, None, out)
    ]  # fmt: skip
    assert await client.values(raw(0, 9), "Stack.Count") == [
        (0, -5, 0), (1, 2**53, 0), (2, None, out)
    ]  # fmt: skip
    found = await client.values(raw(0, 9), TAG)
    assert found[0][1] != found[0][1]
    assert found[1:] == [(1, 1e308, 0x40A40000), (2, None, 0x80000000)]


async def test_times_have_the_100_ns_of_the_wire() -> None:
    archive = FakeArchive()
    archive.put(TAG, (1.000_000_25, 1.0, 0), (1.000_000_349, 2.0, 0), (1.000_000_4, 3.0, 0))
    client = Client(new_history(archive))
    answer = await client.call(
        ua.ObjectIds.HistoryReadRequest_Encoding_DefaultBinary,
        ua.HistoryReadParameters(
            raw(0, 9),
            ua.TimestampsToReturn.Source,
            False,
            [ua.HistoryReadValueId(ua.NodeId(TAG, 2))],
        ),
    )
    ticks = [int(archive.points[TAG]["utc_ns"][at]) // 100 for at in range(3)]
    assert len(set(ticks)) == 3
    for tick in ticks:
        assert (tick + 116_444_736_000_000_000).to_bytes(8, "little") in answer


async def test_what_is_missing_is_told_where_it_begins() -> None:
    archive = FakeArchive()
    archive.put(TAG, (0, 1.0, 0), (10, 2.0, 0), (50, 3.0, 0), (60, 4.0, 0))
    t0 = int(archive.points[TAG]["utc_ns"][0])
    archive.missing = [
        (t0 - 100, t0 - 50, "before the point was there"),
        (t0 + 10 * 10**9, t0 + 45 * 10**9, "lost"),
        (t0 + 60 * 10**9, t0 + 60 * 10**9, "nothing"),
    ]
    client = Client(new_history(archive))
    wanted = [
        (0, 1.0, 0), (10, 2.0, 0), (10, None, _CODES.BadDataLost), (50, 3.0, 0), (60, 4.0, 0)
    ]  # fmt: skip
    assert await client.values(raw(-9, 99), TAG) == wanted
    assert await client.values(raw(99, -9), TAG) == wanted[::-1]
    for limit in (1, 2, 3, 4):
        assert await client.values(raw(-9, 99, limit), TAG) == wanted
        assert await client.values(raw(99, -9, limit), TAG) == wanted[::-1]


async def test_a_point_of_nothing_has_no_data() -> None:
    client = Client(new_history(FakeArchive()))
    (result,) = await client.read(raw(0, 9), TAG)
    assert result.StatusCode.value == _CODES.GoodNoData
    assert result.HistoryData.DataValues == []
    (result,) = await client.read(raw(0, 9, bounds=True), TAG)
    bad = _CODES.BadBoundNotFound
    assert triples(result) == [(0, None, bad), (9, None, bad)]


async def test_a_continuation_point_is_its_sessions_and_good_once() -> None:
    history = new_history(archive_of_minutes())
    mine, other = Client(history), Client(history, new_session(2))
    (result,) = await mine.read(raw(0, 999, 2), TAG)
    mark = result.ContinuationPoint
    assert result.StatusCode.value == _CODES.GoodMoreData
    assert len(mark) == 16
    invalid = _CODES.BadContinuationPointInvalid
    (stolen,) = await other.read(raw(0, 999, 2), TAG, points=(mark,))
    assert stolen.StatusCode.value == invalid
    (result,) = await mine.read(raw(0, 999, 2), TAG, points=(mark,))
    assert [value for _, value, _ in triples(result)] == [3.0, 5.0]
    (again,) = await mine.read(raw(0, 999, 2), TAG, points=(mark,))
    assert again.StatusCode.value == invalid
    (elsewhere,) = await mine.read(raw(0, 999), "Fan.Running", points=(result.ContinuationPoint,))
    assert elsewhere.StatusCode.value == invalid
    assert len(history.continuations) == 0


async def test_continuation_points_are_released_with_their_session_or_before() -> None:
    history = new_history(archive_of_minutes())
    client = Client(history)
    marks = [(await client.read(raw(0, 999, 1), TAG))[0].ContinuationPoint for _ in range(3)]
    assert len(history.continuations) == 3
    results = await client.read(raw(0, 999), TAG, TAG, points=(marks[0], b"x" * 16), release=True)
    codes = [one.StatusCode.value for one in results]
    assert codes == [0, _CODES.BadContinuationPointInvalid]
    assert len(history.continuations) == 2
    client.session.end(True)
    assert len(history.continuations) == 0


async def test_a_session_has_so_many_continuation_points(monkeypatch) -> None:
    monkeypatch.setattr("gateway.opcua.history.continuation.SESSION_MAX", 2)
    client = Client(new_history(archive_of_minutes()))
    results = await client.read(raw(0, 999, 1), TAG, TAG, TAG)
    codes = [one.StatusCode.value for one in results]
    more = _CODES.GoodMoreData
    assert codes == [more, more, _CODES.BadNoContinuationPoints]


async def test_who_may_not_read_and_what_has_no_history_is_said() -> None:
    archive = archive_of_minutes()
    archive.put("Secret.Value", (0, 1.0, 0))
    client = Client(new_history(archive))
    results = await client.read(
        raw(0, 9),
        "Secret.Value", "No.Such", "/Stack", ua.NodeId(ua.ObjectIds.Server), ua.NodeId(TAG, 3),
    )  # fmt: skip
    assert [one.StatusCode.value for one in results] == [
        _CODES.BadUserAccessDenied,
        _CODES.BadNodeIdUnknown,
        _CODES.BadHistoryOperationUnsupported,
        _CODES.BadHistoryOperationUnsupported,
        _CODES.BadNodeIdUnknown,
    ]
    (result,) = await Client(new_history(None)).read(raw(0, 9), TAG)
    assert result.StatusCode.value == _CODES.BadHistoryOperationUnsupported


async def test_requests_that_ask_for_nothing_possible_are_refused() -> None:
    archive = archive_of_minutes()
    client = Client(new_history(archive))

    async def code(details, **more) -> int:
        return (await client.read(details, TAG, **more))[0].StatusCode.value

    assert await code(raw(None, None, 5)) == _CODES.BadInvalidTimestampArgument
    assert await code(raw(0, None)) == _CODES.BadInvalidTimestampArgument
    assert await code(raw(None, 0)) == _CODES.BadInvalidTimestampArgument
    modified = ua.ReadRawModifiedDetails(True, moment(0), moment(9), 0, False)
    assert await code(modified) == _CODES.BadHistoryOperationUnsupported
    server = ua.TimestampsToReturn.Server
    assert await code(raw(0, 9), timestamps=server) == _CODES.BadTimestampNotSupported
    assert await code(raw(0, 9), timestamps=ua.TimestampsToReturn.Both) == 0
    archive.error = StoreFailed("gone")
    assert await code(raw(0, 9)) == _CODES.BadDataUnavailable
    neither = ua.TimestampsToReturn.Neither
    for fault, details, nodes, more in (
        (_CODES.BadNothingToDo, raw(0, 9), (), {}),
        (_CODES.BadTooManyOperations, raw(0, 9), (TAG,) * 1001, {}),
        (_CODES.BadTimestampsToReturnInvalid, raw(0, 9), (TAG,), {"timestamps": neither}),
        (_CODES.BadHistoryOperationInvalid, ua.ReadValueId(), (TAG,), {}),
    ):
        with pytest.raises(Fault) as refused:
            await client.read(details, *nodes, **more)
        assert refused.value.code == fault


async def test_nobody_changes_history() -> None:
    client = Client(new_history(FakeArchive()))
    update = ua.HistoryUpdateParameters([ua.ReadValueId(), ua.ReadValueId()])
    number = ua.ObjectIds.HistoryUpdateRequest_Encoding_DefaultBinary
    answer = await client.call(number, update)
    response = struct_from_binary(ua.HistoryUpdateResponse, Buffer(answer))
    codes = [one.StatusCode.value for one in response.Results]
    assert codes == [_CODES.BadHistoryOperationUnsupported] * 2


async def test_a_request_reads_so_much_and_the_next_goes_on(monkeypatch) -> None:
    monkeypatch.setattr("gateway.opcua.history.source.REQUEST_ROWS_MAX", 100)
    archive = FakeArchive()
    archive.put(TAG, *((at, float(at), 0) for at in range(90)))
    client = Client(new_history(archive))
    marks: tuple[bytes | None, ...] = (None,) * 5
    sizes = []
    while marks:
        results = await client.read(raw(0, 999), *(TAG,) * len(marks), points=marks)
        sizes.append([len(one.HistoryData.DataValues) for one in results])
        marks = tuple(one.ContinuationPoint for one in results if one.ContinuationPoint)
    assert sizes == [[90, 90, 0, 0, 0], [90, 90, 0], [90]]
    details = processed("Count", 0, 90, 1)
    assert len(await client.values(details, TAG)) == 90


async def test_a_session_reads_one_request_after_the_other() -> None:
    archive = archive_of_minutes()
    client = Client(new_history(archive))
    going = 0
    most = 0
    read = archive.read

    async def slow(*given, **more):
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0)
        found = await read(*given, **more)
        going -= 1
        return found

    archive.read = slow  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.read(raw(0, 999), TAG, TAG)) for _ in range(8)]
    assert most == 1
    assert all(len(triples(one)) == 5 for task in tasks for one in task.result())


async def test_a_thousand_nodes_share_an_answer(monkeypatch) -> None:
    monkeypatch.setattr(service, "ANSWER_VALUES_MAX", 3000)
    archive = FakeArchive()
    archive.put(TAG, *((at, float(at % 7), 0) for at in range(100)))
    archive.put("Stack.Mode", (0, 1.0, 0))
    client = Client(new_history(archive))
    results = await client.read(raw(0, 100), *("Stack.Mode",) * 500, *(TAG,) * 500)
    sizes = [len(one.HistoryData.DataValues) for one in results]
    assert sizes[:500] == [1] * 500
    # What the first half left is for the second.
    assert sum(sizes) == 3000
    assert min(sizes[500:]) >= 4
    assert all(one.ContinuationPoint for one in results[500:])


@settings(max_examples=100, deadline=None)
@given(
    which=st.integers(0, 3),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=4),
    length=st.integers(0, 400),
)
def test_bytes_of_no_request_are_refused(which: int, cuts: list, length: int) -> None:
    """Whatever comes is answered, or refused with a Fault or a decoder's error."""
    details = (
        raw(0, 9, 3, bounds=True),
        processed("Average", 0, 9, 1),
        ua.ReadAtTimeDetails([moment(1), moment(2)], True),
        ua.ReadEventDetails(3, moment(0), moment(9), ua.EventFilter()),
    )[which]
    node = ua.HistoryReadValueId(ua.NodeId(TAG, 2), "1:2", ua.QualifiedName("x"), b"point")
    source = ua.TimestampsToReturn.Source
    body = bytearray(struct_to_binary(ua.HistoryReadParameters(details, source, False, [node])))
    for at, content in cuts:
        body[at % len(body) : at % len(body) + len(content)] = content
    data = Bounded(bytes(body[: length or None]), 1000)

    async def served() -> None:
        history = new_history(archive_of_minutes())
        header = ua.RequestHeader()
        call = Call(new_session(), header, data, lambda body: None, lambda code: None)
        await history.services()[ua.ObjectIds.HistoryReadRequest_Encoding_DefaultBinary](call)

    with contextlib.suppress(Fault, ua.UaError):
        asyncio.run(served())


def walked(
    rows: list[tuple[int, float]], gaps: list[tuple[int, int]], start: int, end: int, bounds: bool
) -> list[tuple[float, float | None, int]]:
    """ReadRaw in plain Python: rows and gaps as (second, value) and (from, to)."""
    whole = [(at, 0, float(value), 0) for at, value in sorted(rows, key=lambda row: row[0])]
    first = min((at for at, _ in rows), default=None)
    begins = {low for low, high in gaps if low < high and first is not None and low >= first}
    whole += [(at, 1, None, _CODES.BadDataLost) for at in begins]
    whole.sort(key=lambda row: row[:2])
    if end < start:
        inner = [row for row in whole if end < row[0] <= start][::-1]
        outer = [row for row in whole if row[0] > start], [row for row in whole if row[0] <= end]
        before, after = outer[0][:1], outer[1][-1:]
    else:
        inner = [row for row in whole if start <= row[0] < end or row[0] == start]
        high = max(end, start + 1) if end == start else end
        before = [row for row in whole if row[0] < start][-1:]
        after = [row for row in whole if row[0] >= high][:1]
    found = [(row[0], row[2], row[3]) for row in inner]
    if not bounds:
        return found
    missing = _CODES.BadBoundNotFound
    head = [] if any(row[0] == start for row in whole) else before or [(start, 0, None, missing)]
    tail = after or [(end, 0, None, missing)]
    return [
        *((row[0], row[2], row[3]) for row in head),
        *found,
        *((row[0], row[2], row[3]) for row in tail),
    ]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99)), max_size=12),
    gaps=st.lists(st.tuples(st.integers(-2, 12), st.integers(-2, 14)), max_size=4),
    start=st.integers(-3, 15),
    end=st.integers(-3, 15),
    bounds=st.booleans(),
    limit=st.integers(0, 4),
)
def test_a_walk_gives_each_row_once_whatever_is_missing(
    rows: list, gaps: list, start: int, end: int, bounds: bool, limit: int
) -> None:
    archive = FakeArchive()
    archive.put(TAG, *((at, value, 0) for at, value in sorted(rows, key=lambda row: row[0])))
    archive.missing = [(T0 + low * NS, T0 + high * NS, "lost") for low, high in gaps]
    client = Client(new_history(archive))
    found = asyncio.run(client.values(raw(start, end, limit, bounds=bounds), TAG))
    assert found == walked(rows, gaps, start, end, bounds)


@pytest.mark.parametrize("bytes_max", [0, 800_000, 10_000, 1_000])
async def test_an_answer_is_no_larger_than_the_client_takes(bytes_max: int) -> None:
    archive = FakeArchive()
    bad = 0x80310000
    archive.put(TAG, *((at, float(at), bad if at % 9 == 0 else 0) for at in range(5000)))
    client = Client(new_history(archive))
    client.bytes_max = bytes_max
    wanted = [(at, None if at % 9 == 0 else float(at)) for at in range(5000)]
    found = await client.values(raw(0, 9999), TAG)
    assert [(at, value) for at, value, _ in found] == wanted
    assert client.largest <= (bytes_max or 10**6)
    await client.read(raw(0, 9999), *(TAG,) * 10)
    assert client.largest <= (bytes_max or 10**7)
