"""A site with all that the address space shows, and the space of it without a server."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.server.address_space import AddressSpace
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from config.model import AlarmRule
from config.points import GATEWAY_POINTS, PointDef
from config.states import ControlState, StateMachine, Transition
from gateway.core.clock import ManualClock
from gateway.opcua.library import standard_space
from gateway.opcua.model import CauseModel, EquipmentModel, SiteModel
from gateway.opcua.names import standard_id
from gateway.opcua.nodes.diagnostics import Diagnostics
from gateway.opcua.nodes.space import Space
from gateway.opcua.nodes.stage import Stage
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values
from tests.gateway.points import point

ENGINEER = User("eve", Role.ENGINEER)
NOW_NS = 1_790_000_000_123_456_000

DEVICES: tuple[dict[str, Any], ...] = (
    {"tag": "Stack.Temperature", "units": "degC", "value_min": 0, "value_max": 900},
    {"tag": "Stack.Voltage", "units": "V"},
    {"tag": "Stack.Current_Set", "units": "A", "writable": True, "value_min": 0, "value_max": 60},
    {"tag": "Stack.Power", "units": "W", "source": "virtual"},
    {"tag": "Stack.Hours", "kind": "discrete"},
    {"tag": "Fan.Running", "kind": "discrete", "states": ("stopped", "running")},
    {"tag": "Fan.Mode", "kind": "discrete", "states": ("off", "slow", "fast"), "writable": True},
    {"tag": "Fan.Ratio"},
)
RULES: tuple[dict[str, Any], ...] = (
    {"tag": "Alarms.Hot", "kind": "discrete", "source": "rule", "states": ("", "HIGH", "TRIP")},
    {"tag": "Controls.Hot_Trip", "kind": "discrete", "source": "rule"},
    {
        "tag": "States.Plant",
        "kind": "discrete",
        "source": "rule",
        "writable": True,
        "states": ("", "Off", "HeatUp", "Running"),
    },
)
MACHINE = StateMachine(
    Initial="Off",
    Description="the plant",
    States={
        "Off": ControlState(Description="all is cold"),
        "HeatUp": ControlState(MaxTime=60, OnTimeout="Off"),
        "Running": ControlState(),
    },
    Transitions=[
        Transition(From="Off", To="HeatUp", By=["operator"]),
        Transition(From="HeatUp", To="Running", When="Stack.Temperature > 700"),
        Transition(From="*", To="Off", By=["operator"]),
    ],
)
MODEL = SiteModel(
    site="Lab",
    hash="0123456789abcdef",
    equipment={
        "Stack": EquipmentModel(
            "Stack",
            "Hall 1/North",
            "Electrolyser",
            "ModbusTcp",
            "enapter-el",
            "",
            manufacturer="Enapter",
            model="EL 2.1",
            manual="Enapter Handbook",
            decimals={"Voltage": 2, "Hours": 1},
            definitions={"Power": "Stack.Voltage * Stack.Current_Set"},
        ),
        "Fan": EquipmentModel("Fan", "Hall 1/North", "Fan", "ModbusTcp", "", "drawing 7"),
    },
    alarms={"Alarms.Hot": AlarmRule(When="Stack.Temperature > 850", Level="HIGH")},
    machines={"States.Plant": MACHINE},
    causes={"Controls.Hot_Trip": CauseModel("Hot_Trip", "Trip", "too hot", 600.0)},
)


def points_of(*given: dict[str, Any]) -> tuple[PointDef, ...]:
    """Numbered points."""
    return tuple(point(number, **one) for number, one in enumerate(given, 1))


def gateway_points() -> list[dict[str, Any]]:
    """The gateway's own points, as every site has them."""
    return [
        {
            "tag": f"Gateway.{channel}",
            "kind": kind,
            "units": units,
            "writable": writable,
            "source": "gateway",
            "description": about,
        }
        for channel, kind, units, writable, about in GATEWAY_POINTS
    ]


SITE = points_of(*DEVICES, *gateway_points(), *RULES)


@functools.cache
def _standard() -> AddressSpace:
    return standard_space()


def standard_copy() -> AddressSpace:
    """OPC UA's own nodes; what one test adds or takes away, no other sees."""
    base = _standard()
    space = Stage(base, frozenset())
    for node in list(base._nodes):
        data = space.opened(node)
        data.attributes = dict(data.attributes)
    return space


def made_space(
    model: SiteModel = MODEL, points: Sequence[PointDef] = SITE, *, history: bool = True
) -> Space:
    """A space that shows a site; no point has a value yet."""
    clock = ManualClock(NOW_NS)
    values = Values(clock)
    diagnostics = Diagnostics(clock, values, "urn:host:gatepost:Lab", "urn:gatepost:Lab")
    diagnostics.history = history
    space = Space(standard_copy(), values, clock, diagnostics)
    show(space, model, points)
    return space


def show(space: Space, model: SiteModel, points: Sequence[PointDef]) -> list[Any]:
    """Another configuration, as the server does it."""
    prepared = space.prepare(model, points)
    space.values.replace(points)
    return space.take_over(prepared)


def put(space: Space, tag: str, value: float, status: int = 0, utc_ns: int = NOW_NS) -> None:
    """A value from the field."""
    from gateway.core.records import RECORD

    row = np.zeros(1, dtype=RECORD)
    row["point"] = space.values.index[tag]
    row["value"], row["status"], row["utc_ns"] = value, status, utc_ns
    space.values.update(row)
    space.update(row)


def targets(space: Space, node: ua.NodeId, kind: int, *, forward: bool = True) -> list[ua.NodeId]:
    """Where references of one type lead to."""
    wanted = standard_id(kind)
    return [
        one.NodeId
        for one in space.aspace[node].references
        if one.IsForward == forward and one.ReferenceTypeId == wanted
    ]


def attribute(space: Space, node: ua.NodeId, number: ua.AttributeIds) -> Any:
    """What an attribute holds."""
    held = space.aspace[node].attributes[number]
    shown = held.value_callback(node, number) if held.value_callback else held.value
    assert shown is not None
    return shown.Value.Value if shown.Value is not None else None


def browse_name(space: Space, node: ua.NodeId) -> tuple[int, str]:
    """Namespace and name."""
    name = attribute(space, node, ua.AttributeIds.BrowseName)
    return name.NamespaceIndex, name.Name


async def asked(services: Any, request: Any, session: Session) -> Any:
    """The response to a request of the library's, or the code of a Fault."""
    name = type(request).__name__
    encoding = getattr(ua.ObjectIds, f"{name}_Encoding_DefaultBinary")
    body = Buffer(struct_to_binary(request.Parameters))
    call = Call(session, ua.RequestHeader(RequestHandle=7), body, _never, _never)
    try:
        encoded = await services[encoding](call)
    except Fault as fault:
        return fault.code
    answer = Buffer(encoded)
    kind = nodeid_from_binary(answer)
    name = name.replace("Request", "Response")
    assert kind.Identifier == getattr(ua.ObjectIds, f"{name}_Encoding_DefaultBinary")
    response = struct_from_binary(getattr(ua, name), Buffer(bytes(encoded)))
    assert response.ResponseHeader.RequestHandle == 7
    return response


def _never(content: Any) -> None:
    raise AssertionError(content)


def session_of(user: User = ENGINEER) -> Session:
    """An active session."""
    made = Session(ua.NodeId(1, 1), ua.NodeId(2, 1), "test", secured=True)
    made.user = user
    return made
