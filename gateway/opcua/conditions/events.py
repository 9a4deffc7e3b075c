"""Events of the journal as OPC UA shows them, live and out of the archive."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from asyncua import ua

from config.points import rule_tag
from gateway.core.records import Event
from gateway.opcua.conditions.alarm_event import alarm_event, text
from gateway.opcua.conditions.facts import (
    SERVER,
    SEVERITY_NORMAL,
    SEVERITY_TRIP,
    SEVERITY_TROUBLE,
    SITE,
    SiteFacts,
)
from gateway.opcua.conditions.states import life_of
from gateway.opcua.event import UaEvent
from gateway.opcua.names import MACHINE, member_id, own_id, standard_id
from gateway.opcua.nodes.machines import MACHINE_TYPE, transition_name

MESSAGE_CHARS_MAX: Final = 1000
_ID: Final = struct.Struct(">QQ")
_UINT64: Final = 2**64 - 1
_IDS: Final = ua.ObjectIds
BASE: Final = standard_id(_IDS.BaseEventType)
SYSTEM: Final = standard_id(_IDS.SystemEventType)
DEVICE_FAILURE: Final = standard_id(_IDS.DeviceFailureEventType)
TRANSITION: Final = standard_id(_IDS.TransitionEventType)

# What of an event is an alarm to people, beside its kind.
KINDS: Final = ("alarm", "trip", "state", "bypass", "device", "gateway")


def event_id(epoch: int, seq: int) -> bytes:
    """The EventId of an event of the journal: the same live, in a refresh and in the archive."""
    return _ID.pack(epoch & _UINT64, seq & _UINT64)


def event_of(
    event: Event,
    epoch: int,
    facts: SiteFacts,
    received_ns: int = 0,
) -> UaEvent | None:
    """An event of the journal; None where clients are shown none for it.

    epoch        of the batch that it came with
    received_ns  when the server got it; 0: take the event's own time

    Events of the archive have the same ids and fields as live ones. What the configuration says
    of an alarm is what it says now; an alarm that is gone is told as a plain event.
    """
    body = event.body
    made_id = event_id(epoch, event.seq)
    received_ns = received_ns or event.utc_ns
    if event.kind == "alarm":
        alarm = facts.alarms.get(rule_tag("alarm", str(body.get("name", ""))))
        life = life_of(body)
        if alarm is not None and life is not None:
            return alarm_event(alarm, life, made_id, event.utc_ns, received_ns)
    told = _TELLERS[event.kind](body, facts) if event.kind in _TELLERS else None
    if told is None:
        return None
    type_id, (source, notifiers), source_name, level, message, fields = told
    return UaEvent(
        type_id=type_id,
        event_id=made_id,
        source=source,
        source_name=source_name,
        notifiers=notifiers,
        utc_ns=event.utc_ns,
        received_ns=received_ns,
        severity=level,
        message=message[:MESSAGE_CHARS_MAX],
        fields=fields,
    )


_Place = tuple[ua.NodeId, tuple[ua.NodeId, ...]]
_Told = tuple[ua.NodeId, _Place, str, int, str, Mapping[str, ua.Variant]]


def _gone_alarm(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    """An alarm that the site no longer has."""
    name = str(body.get("name", ""))
    message = f"alarm {name}: {body.get('what', '')}"
    return BASE, (SITE, facts.notifiers("")), name, SEVERITY_NORMAL, message, {}


def _trip(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    name, active = str(body.get("name", "")), bool(body.get("active"))
    kind = str(body.get("kind", "trip"))
    said = "active" if active else "released"
    acts = active and kind != "permissive"
    message = f"{kind} {name} {said}"
    first_out = body.get("first_out")
    if acts and first_out:
        message += f"; first-out number {first_out}"
    if body.get("latched"):
        message += "; latched"
    if body.get("reason"):
        message += f"; {body['reason']}"
    level = SEVERITY_TRIP if acts and not body.get("reason") else SEVERITY_NORMAL
    tag = rule_tag("control", name)
    return BASE, facts.point(tag), tag, level, message, {}


def _state(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    machine = body.get("machine")
    if not isinstance(machine, str):
        name, level = str(body.get("name", "")), str(body.get("level", ""))
        tag = rule_tag("state", name)
        message = f"state {name}: {level or 'inactive'}"
        return BASE, facts.point(tag), tag, SEVERITY_NORMAL, message, {}
    tag = rule_tag("machine", machine)
    before, after = str(body.get("before", "")), str(body.get("state", ""))
    message = f"{machine}: {before or 'start'} to {after}, by {body.get('by', '')}"
    if body.get("when"):
        message += f"; when {body['when']}"
    _, notifiers = facts.point(tag)
    way = transition_name(before, after)
    fields = {
        "FromState": text(before),
        "FromState/Id": _node(member_id(tag, MACHINE_TYPE, before)),
        "ToState": text(after),
        "ToState/Id": _node(member_id(tag, MACHINE_TYPE, after)),
        "Transition": text(way),
        "Transition/Id": _node(member_id(tag, MACHINE_TYPE, way)),
    }
    if not before:
        fields = {name: value for name, value in fields.items() if name.startswith("ToState")}
    source = member_id(tag, MACHINE)
    return TRANSITION, (source, notifiers), tag, SEVERITY_NORMAL, message, fields


def _node(node: ua.NodeId) -> ua.Variant:
    return ua.Variant(node, ua.VariantType.NodeId, None, False)


def _bypass(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    name, what = str(body.get("name", "")), str(body.get("what", ""))
    message = f"bypass of {name}: {what}"
    if body.get("source"):
        message += f", by {body['source']}"
    if body.get("comment"):
        message += f"; {body['comment']}"
    level = SEVERITY_TROUBLE if what in ("begin", "cause holds") else SEVERITY_NORMAL
    tag = rule_tag("control", name)
    return BASE, facts.point(tag), tag, level, message, {}


def _device(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    name, up = str(body.get("device", "")), bool(body.get("up"))
    refuses = body.get("refuses")
    if isinstance(refuses, list) and refuses:
        message = f"device {name} refuses {', '.join(map(str, refuses))}"
    else:
        message = f"device {name} {'is back' if up else 'is lost'}"
    if body.get("reason"):
        message += f": {body['reason']}"
    failure = not up or bool(refuses)
    type_id = DEVICE_FAILURE if failure else SYSTEM
    level = SEVERITY_TROUBLE if failure else SEVERITY_NORMAL
    return type_id, facts.device(name), name, level, message, {}


def _gateway(body: Mapping[str, Any], facts: SiteFacts) -> _Told:
    what = str(body.get("what", ""))
    others = {key: value for key, value in body.items() if key != "what" and value != ""}
    if isinstance(others.get("value"), float):
        what = f"{what} = {others.pop('value'):g}"
    message = "; ".join((f"gateway: {what}", *(f"{key} {value}" for key, value in others.items())))
    place = (own_id("/Gateway") if "Gateway" in facts.equipment else SERVER, (SERVER, SITE))
    return SYSTEM, place, "Gateway", SEVERITY_NORMAL, message, {}


_TELLERS: Final = {
    "alarm": _gone_alarm,
    "trip": _trip,
    "state": _state,
    "bypass": _bypass,
    "device": _device,
    "gateway": _gateway,
}
