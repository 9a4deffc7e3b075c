"""A field process that answers as it is told, and sessions, for the tests of writes and calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_to_binary

from config.opcua import OpcUaRight
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD, Batch, Event
from gateway.opcua.desk import NotPassedOn
from gateway.opcua.names import own_id
from gateway.opcua.orders.orders import Orders
from gateway.opcua.security.rights import Rights
from gateway.opcua.service import Call
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values
from tests.gateway.points import output, point

POINTS = (
    output(1, "Rig.Setpoint", value_min=0, value_max=100, units="degC", lease_ns=900 * 10**9),
    output(2, "Rig.Valve", kind="discrete", states=("closed", "open")),
    output(3, "Rig.Steps", kind="discrete"),
    output(4, "Rig.Blind", read_back=0),
    point(5, "Rig.Temperature"),
    point(6, "States.Plant", kind="discrete", source="rule", writable=True, states=("", "A", "B")),
    point(7, "Gateway.E_Stop", kind="discrete", source="gateway", writable=True),
    point(8, "Gateway.Reset", kind="discrete", source="gateway", writable=True),
    point(9, "Controls.Hot", kind="discrete", source="rule", states=("", "TRIP")),
    output(10, "PSU.Current", value_max=50),
)
RIGHTS = [OpcUaRight(Points=["PSU.*"], Write="engineer")]
ALL_ATTRIBUTES = frozenset(range(1, 28))


def steps(*names: str, code: str = "", reason: str = "") -> list[dict[str, Any]]:
    """Receipts; code and reason belong to the last one."""
    made = [{"step": name, "reason": "", "value": 0.0} for name in names]
    if made:
        made[-1] |= {"reason": reason, **({"code": code} if code else {})}
    return made


@dataclass
class FakeDesk:
    """Takes commands and lets `says` answer them; `orders` hears the answers."""

    orders: Orders | None = None
    ready: bool = True
    fails: str = ""
    says: Callable[[Mapping[str, Any]], list[dict[str, Any]]] = field(
        default=lambda command: steps("accepted", "driven", "verified")
    )
    commands: list[dict[str, Any]] = field(default_factory=list)
    journaled: list[Mapping[str, Any]] = field(default_factory=list)

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        if self.fails:
            raise NotPassedOn(self.fails)
        command = message["command"]
        self.commands.append(command)
        asyncio.get_running_loop().call_soon(self._answer, command)
        await asyncio.sleep(0)

    async def journal(self, body: Mapping[str, Any]) -> None:
        self.journaled.append(body)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        raise NotPassedOn("nobody asks here")

    def _answer(self, command: Mapping[str, Any]) -> None:
        bodies = [{**body, "command": command["id"]} for body in self.says(command)]
        self.tell(*bodies)

    def tell(self, *bodies: Mapping[str, Any]) -> None:
        assert self.orders is not None
        events = tuple(Event(1, 1, "receipt", body) for body in bodies)
        self.orders.heard(Batch(1, 1, 1, "", np.empty(0, dtype=RECORD), events))


@dataclass
class Heard:
    """An audit that keeps what it is told."""

    writes: list[tuple[Any, ...]] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)  # the points that calls named

    def write(
        self, session: Session, node: ua.NodeId, value: Any, code: int, why: str, **more: Any
    ) -> None:
        self.writes.append((str(node.Identifier), code, why, more["here"]))

    def call(
        self, session: Session, node: ua.NodeId, method: ua.NodeId, *rest: Any, **more: Any
    ) -> None:
        self.calls.append((str(method.Identifier), rest[1], rest[2], more["here"]))
        self.about.append(more["about"])


def site_values() -> Values:
    values = Values(SystemClock())
    values.replace(POINTS)
    return values


def rights() -> Rights:
    return Rights(RIGHTS)


def made_session(
    role: Role = Role.OPERATOR, name: str = "anna", *, secured: bool = True, points: Any = ("*",)
) -> Session:
    session = Session(own_id("session"), own_id("secret"), "panel 10.0.0.9", secured=secured)
    session.user = User(name, role, tuple(points))
    return session


def attributes_of(node: ua.NodeId) -> frozenset[int] | None:
    return None if "Nowhere" in str(node.Identifier) else ALL_ATTRIBUTES


def call_of(session: Session, parameters: Any, diagnostics: int = 0) -> Call:
    header = ua.RequestHeader()
    header.ReturnDiagnostics = diagnostics
    body = Buffer(struct_to_binary(parameters))
    return Call(session, header, body, lambda response: None, lambda code: None)


def plain(content: Any, kind: ua.VariantType = ua.VariantType.Double) -> ua.DataValue:
    """A value without status and times."""
    value = ua.DataValue(ua.Variant(content, kind))
    value.StatusCode = None
    return value


def write_of(
    tag: str, value: ua.DataValue, attribute: int = 13, index_range: str | None = None
) -> ua.WriteValue:
    write = ua.WriteValue()
    write.NodeId, write.AttributeId = own_id(tag), attribute
    write.IndexRange, write.Value = index_range, value
    return write


def name_of(code: int) -> str:
    return str(ua.StatusCode(ua.UInt32(code)).name)
