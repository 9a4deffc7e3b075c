"""Long answers: bounded, one at a time for each session, and cut into turns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_to_binary

from gateway.core.clock import ManualClock
from gateway.opcua.attributes import READS_MAX, Attributes
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.space import Space
from gateway.opcua.security.rights import Rights
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.session import Session
from gateway.opcua.views import PATHS_MAX, TARGETS_MAX, Views
from gateway.opcua.work import TURN_NS, Work
from tests.gateway.opcua.nodes_case import DEVICES, MODEL, made_space, points_of, session_of

LARGEST = standard_id(18948)  # of all constants of the standard's nodes: 1.6 kB
WIDE = points_of(*DEVICES, *({"tag": f"Big.C{number:0>90}"} for number in range(TARGETS_MAX - 10)))


@pytest.fixture(scope="module")
def space() -> Space:
    return made_space(MODEL, WIDE)


def call_of(request: Any, session: Session, *, bytes_max: int = 0) -> Call:
    body = Buffer(struct_to_binary(request.Parameters))
    header = ua.RequestHeader()
    return Call(session, header, body, lambda answer: None, lambda code: None, bytes_max=bytes_max)


def reading(space: Space, call: Call) -> Coroutine[Any, Any, Any]:
    made = Attributes(space, space.values, Rights([]), ManualClock(0))
    service = made.services()[ua.ObjectIds.ReadRequest_Encoding_DefaultBinary]
    return service(call)  # type: ignore[return-value]


def read_of(node: ua.NodeId, times: int) -> Any:
    request = ua.ReadRequest()
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
    request.Parameters.NodesToRead = [ua.ReadValueId(node, ua.AttributeIds.Value)] * times
    return request


async def test_a_read_that_no_message_can_carry_ends_early(space: Space) -> None:
    with pytest.raises(Fault) as caught:
        await reading(space, call_of(read_of(LARGEST, READS_MAX), session_of()))
    assert caught.value.code == ua.StatusCodes.BadResponseTooLarge


async def test_a_client_s_own_limit_ends_a_read_too(space: Space) -> None:
    with pytest.raises(Fault) as caught:
        await reading(space, call_of(read_of(LARGEST, 10), session_of(), bytes_max=8_192))
    assert caught.value.code == ua.StatusCodes.BadResponseTooLarge


async def test_paths_that_lead_to_more_than_a_message_end_early(space: Space) -> None:
    request = ua.TranslateBrowsePathsToNodeIdsRequest()
    element = ua.RelativePathElement(
        ReferenceTypeId=standard_id(ua.ObjectIds.HasComponent),
        IsInverse=False,
        IncludeSubtypes=False,
        TargetName=ua.QualifiedName(),
    )
    path = ua.BrowsePath(own_id("/Big"), ua.RelativePath([element]))
    request.Parameters.BrowsePaths = [path] * PATHS_MAX
    number = ua.ObjectIds.TranslateBrowsePathsToNodeIdsRequest_Encoding_DefaultBinary
    with pytest.raises(Fault) as caught:
        await Views(space, ManualClock(0)).services()[number](call_of(request, session_of()))
    assert caught.value.code == ua.StatusCodes.BadResponseTooLarge


async def test_a_session_has_one_long_answer_under_way(space: Space) -> None:
    session, other = session_of(), session_of()
    first = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 5_000), session)))
    await asyncio.sleep(0)
    long = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 300), session)))
    short = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 3), session)))
    others = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 300), other)))
    await asyncio.wait([short, others])
    assert not first.done()
    assert not long.done()
    await first
    assert not long.done()
    await long


async def test_a_cancelled_answer_lets_the_next_begin(space: Space) -> None:
    session = session_of()
    gone = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 5_000), session)))
    waits = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 5_000), session)))
    long = asyncio.create_task(reading(space, call_of(read_of(own_id("/"), 300), session)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waits.cancel()
    gone.cancel()
    await asyncio.wait_for(long, 20)


async def test_a_step_that_takes_long_ends_the_turn() -> None:
    clock = ManualClock(0)
    with Work(call_of(read_of(own_id("/"), 1), session_of()), clock) as work:
        assert not work.is_long
        clock.advance(TURN_NS)
        assert work.is_long
        await work.turn()
        assert not work.is_long
