"""Browse, BrowseNext, TranslateBrowsePathsToNodeIds, RegisterNodes."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from asyncua import ua
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.clock import ManualClock
from gateway.opcua import views as limits
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.space import Space
from gateway.opcua.transport.session import Session
from gateway.opcua.views import Views, kept_of
from tests.gateway.opcua.nodes_case import (
    MODEL,
    SITE,
    asked,
    browse_name,
    made_space,
    points_of,
    session_of,
    show,
)

IDS = ua.ObjectIds
CODES = ua.StatusCodes
BIG = points_of(*({"tag": f"Big.C{number}"} for number in range(2_500)))


@pytest.fixture(scope="module")
def space() -> Space:
    return made_space()


@pytest.fixture(scope="module")
def big() -> Space:
    return made_space(MODEL, BIG)


def services(space: Space) -> Any:
    return Views(space, ManualClock(0)).services()


def description(
    node: ua.NodeId,
    *,
    kind: int = IDS.References,
    direction: ua.BrowseDirection = ua.BrowseDirection.Forward,
    subtypes: bool = True,
    classes: int = 0,
    results: int = 63,
) -> ua.BrowseDescription:
    made = ua.BrowseDescription()
    made.NodeId, made.BrowseDirection = node, direction
    made.ReferenceTypeId = standard_id(kind) if kind else ua.NodeId()
    made.IncludeSubtypes = subtypes
    made.NodeClassMask, made.ResultMask = classes, results
    return made


async def browse(
    space: Space, *nodes: ua.BrowseDescription, session: Session | None = None, limit: int = 0
) -> Any:
    request = ua.BrowseRequest()
    request.Parameters.NodesToBrowse = list(nodes)
    request.Parameters.RequestedMaxReferencesPerNode = limit
    answer = await asked(services(space), request, session or session_of())
    return answer if isinstance(answer, int) else answer.Results


async def browse_next(space: Space, session: Session, *points: bytes, release: bool = False) -> Any:
    request = ua.BrowseNextRequest()
    request.Parameters.ReleaseContinuationPoints = release
    request.Parameters.ContinuationPoints = list(points)
    return (await asked(services(space), request, session)).Parameters.Results


def names(result: Any) -> list[str]:
    return [one.BrowseName.Name for one in result.References]


# -- Browse ---------------------------------------------------------------------------------------


async def test_a_reference_is_described_whole(space: Space) -> None:
    (result,) = await browse(space, description(own_id("/Fan"), kind=IDS.HasComponent))
    assert names(result) == ["DeviceHealth", "Running", "Mode", "Ratio"]
    mode = result.References[2]
    assert mode.NodeId == own_id("Fan.Mode")
    assert mode.ReferenceTypeId == standard_id(IDS.HasComponent)
    assert mode.IsForward is True
    assert mode.NodeClass == ua.NodeClass.Variable
    assert mode.TypeDefinition == standard_id(IDS.MultiStateDiscreteType)
    assert (mode.BrowseName.NamespaceIndex, mode.DisplayName.Text) == (2, "Mode")


async def test_a_result_mask_leaves_the_rest_out(space: Space) -> None:
    wanted = description(own_id("/Fan"), kind=IDS.HasComponent, results=8)
    (result,) = await browse(space, wanted)
    mode = result.References[2]
    assert (mode.BrowseName.Name, mode.NodeId) == ("Mode", own_id("Fan.Mode"))
    assert mode.ReferenceTypeId.is_null()
    assert mode.TypeDefinition.is_null()
    assert (mode.NodeClass, mode.DisplayName.Text) == (0, None)


async def test_direction_type_and_class_choose_references(space: Space) -> None:
    node = own_id("Fan.Mode")
    inverse = description(node, direction=ua.BrowseDirection.Inverse)
    (result,) = await browse(space, inverse)
    assert [one.NodeId for one in result.References] == [own_id("/Fan")]
    assert result.References[0].IsForward is False
    both = description(node, kind=0, direction=ua.BrowseDirection.Both)
    (result,) = await browse(space, both)
    assert names(result) == ["Fan", "MultiStateDiscreteType", "EnumStrings"]
    hierarchical = description(node, kind=IDS.HierarchicalReferences)
    (result,) = await browse(space, hierarchical)
    assert names(result) == ["EnumStrings"]
    exact = description(node, kind=IDS.HierarchicalReferences, subtypes=False)
    (result,) = await browse(space, exact)
    assert names(result) == []
    objects = description(own_id("/Gateway"), kind=IDS.HasComponent, classes=ua.NodeClass.Object)
    (result,) = await browse(space, objects)
    assert names(result) == ["Diagnostics"]


async def test_what_can_not_be_browsed_is_said_of_each_node(space: Space) -> None:
    wrong_kind = description(own_id("/Fan"), kind=IDS.BaseObjectType)
    no_kind = description(own_id("/Fan"), kind=99_999)
    results = await browse(space, description(own_id("none")), wrong_kind, no_kind)
    assert [one.StatusCode.value for one in results] == [
        CODES.BadNodeIdUnknown,
        CODES.BadReferenceTypeIdInvalid,
        CODES.BadReferenceTypeIdInvalid,
    ]
    assert await browse(space) == CODES.BadNothingToDo
    too_many = [description(own_id("/"))] * (limits.BROWSES_MAX + 1)
    assert await browse(space, *too_many) == CODES.BadTooManyOperations


async def test_a_view_is_unknown(space: Space) -> None:
    request = ua.BrowseRequest()
    request.Parameters.View.ViewId = own_id("view")
    request.Parameters.NodesToBrowse = [description(own_id("/"))]
    assert await asked(services(space), request, session_of()) == CODES.BadViewIdUnknown


# -- BrowseNext -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1_000, 700, 5_000])
async def test_a_long_answer_is_taken_in_pieces(big: Space, limit: int) -> None:
    session = session_of()
    wanted = description(own_id("/Big"), kind=IDS.HasComponent)
    (result,) = await browse(big, wanted, session=session, limit=limit)
    found = names(result)
    while result.ContinuationPoint:
        assert len(result.References) == min(limit or 1_000, 1_000)
        (result,) = await browse_next(big, session, result.ContinuationPoint)
        found += names(result)
    assert found == ["DeviceHealth", *(f"C{number}" for number in range(2_500))]
    assert kept_of(session).rests == {}


async def test_an_answer_that_fits_exactly_has_no_continuation_point(big: Space) -> None:
    wanted = description(own_id("Big.C1"), kind=0)
    (result,) = await browse(big, wanted, limit=1)
    assert (len(result.References), result.ContinuationPoint) == (1, None)


async def test_continuation_points_are_bounded_and_can_be_given_back(big: Space) -> None:
    session = session_of()
    wanted = description(own_id("/Big"), kind=IDS.HasComponent)
    many = [wanted] * (limits.CONTINUATIONS_MAX + 2)
    results = await browse(big, *many, session=session, limit=1)
    codes = [one.StatusCode.value for one in results]
    assert codes == [0] * limits.CONTINUATIONS_MAX + [CODES.BadNoContinuationPoints] * 2
    assert len(kept_of(session).rests) == limits.CONTINUATIONS_MAX
    points = [one.ContinuationPoint for one in results[: limits.CONTINUATIONS_MAX]]
    for result in await browse_next(big, session, *points, release=True):
        assert (result.StatusCode.value, result.ContinuationPoint) == (0, None)
    (again,) = await browse_next(big, session, points[0])
    assert again.StatusCode.value == CODES.BadContinuationPointInvalid
    (result,) = await browse(big, wanted, session=session, limit=1)
    assert result.ContinuationPoint


async def test_a_continuation_point_is_its_sessions_own(big: Space) -> None:
    wanted = description(own_id("/Big"), kind=IDS.HasComponent)
    mine, other = session_of(), session_of()
    (result,) = await browse(big, wanted, session=mine, limit=1)
    (stolen,) = await browse_next(big, other, result.ContinuationPoint)
    assert stolen.StatusCode.value == CODES.BadContinuationPointInvalid
    (taken,) = await browse_next(big, mine, result.ContinuationPoint)
    assert names(taken) == ["C0"]


async def test_one_answer_is_bounded_however_many_nodes_are_asked_for(big: Space) -> None:
    wanted = description(own_id("/Big"), kind=IDS.HasComponent)
    results = await browse(big, *[wanted] * 100)
    assert sum(len(one.References) for one in results) <= limits.ANSWER_MAX


async def test_a_continuation_point_ends_with_its_configuration() -> None:
    space = made_space()
    session = session_of()
    (result,) = await browse(space, description(own_id("/Stack")), session=session, limit=1)
    show(space, MODEL, SITE[:4])
    (late,) = await browse_next(space, session, result.ContinuationPoint)
    assert late.StatusCode.value == CODES.BadContinuationPointInvalid


# -- paths ----------------------------------------------------------------------------------------


def path_of(start: ua.NodeId, *elements: tuple[Any, ...]) -> ua.BrowsePath:
    path = ua.BrowsePath()
    path.StartingNode = start
    for name, namespace, *more in elements:
        element = ua.RelativePathElement()
        element.ReferenceTypeId = standard_id(more[0] if more else IDS.HierarchicalReferences)
        element.IncludeSubtypes = True
        element.IsInverse = bool(more[1]) if len(more) > 1 else False
        element.TargetName = ua.QualifiedName(name, namespace)
        path.RelativePath.Elements.append(element)
    return path


async def translate(space: Space, *paths: ua.BrowsePath) -> Any:
    request = ua.TranslateBrowsePathsToNodeIdsRequest()
    request.Parameters.BrowsePaths = list(paths)
    answer = await asked(services(space), request, session_of())
    return answer if isinstance(answer, int) else answer.Results


def found(result: Any) -> list[str]:
    assert all(one.RemainingPathIndex == 0xFFFFFFFF for one in result.Targets)
    return [one.TargetId.to_string() for one in result.Targets]


async def test_a_path_leads_to_a_node(space: Space) -> None:
    objects = standard_id(IDS.ObjectsFolder)
    whole = path_of(objects, ("Lab", 2), ("Fan", 2), ("Mode", 2), ("EnumStrings", 0))
    back = path_of(own_id("Fan.Mode"), ("Fan", 2, IDS.HasComponent, True))
    device = path_of(objects, ("DeviceSet", 3), ("Stack", 2), ("Manufacturer", 3))
    results = await translate(space, whole, back, device)
    assert [found(one) for one in results] == [
        ["ns=2;s=Fan.Mode/EnumStrings"],
        ["ns=2;s=/Fan"],
        ["ns=2;s=/Stack/Manufacturer"],
    ]


async def test_what_has_no_path_is_said_of_each(space: Space) -> None:
    fan = own_id("/Fan")
    results = await translate(
        space,
        path_of(own_id("none"), ("Mode", 2)),
        path_of(fan),
        path_of(fan, ("Mode", 0)),
        path_of(fan, ("", 0), ("EnumStrings", 0)),
        path_of(fan, ("Mode", 2, IDS.BaseObjectType)),
        path_of(fan, *[("Mode", 2)] * (limits.ELEMENTS_MAX + 1)),
    )
    assert [one.StatusCode.value for one in results] == [
        CODES.BadNodeIdUnknown,
        CODES.BadNothingToDo,
        CODES.BadNoMatch,
        CODES.BadBrowseNameInvalid,
        CODES.BadNoMatch,
        CODES.BadTooManyOperations,
    ]
    assert await translate(space) == CODES.BadNothingToDo


async def test_the_last_name_may_be_left_out(space: Space) -> None:
    (result,) = await translate(space, path_of(own_id("/Fan"), ("", 0, IDS.HasComponent)))
    assert found(result)[1:] == ["ns=2;s=Fan.Running", "ns=2;s=Fan.Mode", "ns=2;s=Fan.Ratio"]


async def test_too_many_targets_are_refused(big: Space) -> None:
    (result,) = await translate(big, path_of(own_id("/Big"), ("", 0, IDS.HasComponent)))
    assert result.StatusCode.value == CODES.BadTooManyMatches


@settings(max_examples=60, deadline=None)
@given(data=st.data())
async def test_a_path_that_was_browsed_leads_where_browsing_led(data: st.DataObject) -> None:
    """Walk down by Browse, anywhere; the path of the names walked finds the same node."""
    space = _shared()
    roots = [standard_id(IDS.RootFolder), own_id("/"), standard_id(IDS.Server)]
    start = here = data.draw(st.sampled_from(roots))
    elements: list[tuple[Any, ...]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        wanted = description(here, kind=IDS.HierarchicalReferences)
        (result,) = await browse(space, wanted)
        if not result.References:
            break
        step = data.draw(st.sampled_from(result.References))
        kind = step.ReferenceTypeId.Identifier
        elements.append((step.BrowseName.Name, step.BrowseName.NamespaceIndex, kind))
        here = step.NodeId
    (result,) = await translate(space, path_of(start, *elements))
    assert here.to_string() in found(result)
    assert {browse_name(space, one.TargetId) for one in result.Targets} == {
        browse_name(space, here)
    }


_SPACES: list[Space] = []


def _shared() -> Space:
    if not _SPACES:
        _SPACES.append(made_space())
    return _SPACES[0]


# -- registered nodes -----------------------------------------------------------------------------


async def test_registered_nodes_are_what_they_were(space: Space) -> None:
    nodes = [own_id("Fan.Mode"), standard_id(2258), ua.NodeId(b"x", 4), own_id("none")]
    nodes.append(ua.NodeId(uuid.UUID(int=5), 3))
    request = ua.RegisterNodesRequest()
    request.Parameters.NodesToRegister = nodes
    answer = await asked(services(space), request, session_of())
    assert answer.Parameters.RegisteredNodeIds == nodes
    undo = ua.UnregisterNodesRequest()
    undo.Parameters.NodesToUnregister = nodes
    assert not isinstance(await asked(services(space), undo, session_of()), int)
    undo.Parameters.NodesToUnregister = []
    assert await asked(services(space), undo, session_of()) == CODES.BadNothingToDo


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=80), number=st.sampled_from([527, 533, 554, 560, 566]))
async def test_random_bytes_are_answered_or_refused(body: bytes, number: int) -> None:
    from asyncua.common.utils import Buffer

    from gateway.opcua.service import Call, Fault

    call = Call(session_of(), ua.RequestHeader(), Buffer(body), print, print)
    try:
        await services(_shared())[number](call)
    except Fault:
        pass
