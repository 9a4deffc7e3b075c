"""An alarm's event as OPC UA shows it: the fields of its condition at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from asyncua import ua

from config import status as codes
from gateway.opcua.conditions.facts import AlarmFacts
from gateway.opcua.conditions.states import FLAGS, Life
from gateway.opcua.event import NULL, UaEvent
from gateway.opcua.names import standard_id
from gateway.opcua.values import EPOCH_TICKS

TEXT_CHARS_MAX: Final = 1000
UNCERTAIN: Final = 0x40000000
QUALITIES: Final = {"good": codes.GOOD, "uncertain": UNCERTAIN, "bad": codes.BAD}
LIMIT_STATES: Final = {
    "HighHigh": ua.ObjectIds.ExclusiveLimitStateMachineType_HighHigh,
    "High": ua.ObjectIds.ExclusiveLimitStateMachineType_High,
    "Low": ua.ObjectIds.ExclusiveLimitStateMachineType_Low,
    "LowLow": ua.ObjectIds.ExclusiveLimitStateMachineType_LowLow,
}
_KINDS: Final = ua.VariantType


@lru_cache(maxsize=4096)
def text(content: str) -> ua.Variant:
    """A LocalizedText."""
    shown = ua.LocalizedText(content[:TEXT_CHARS_MAX])
    return ua.Variant(shown, _KINDS.LocalizedText, None, False)


@lru_cache(maxsize=64)
def node(number: int) -> ua.Variant:
    """A NodeId of namespace 0; 0 is the null NodeId."""
    return ua.Variant(standard_id(number), _KINDS.NodeId, None, False)


@lru_cache(maxsize=64)
def code(number: int) -> ua.Variant:
    """A StatusCode."""
    return ua.Variant(ua.StatusCode(ua.UInt32(number)), _KINDS.StatusCode, None, False)


@lru_cache(maxsize=1024)
def number(value: float) -> ua.Variant:
    """A Double."""
    return ua.Variant(value, _KINDS.Double, None, False)


def time(utc_ns: int) -> ua.Variant:
    """A DateTime."""
    shown = ua.win_epoch_to_datetime(utc_ns // 100 + EPOCH_TICKS)
    return ua.Variant(shown, _KINDS.DateTime, None, False)


def string(content: str) -> ua.Variant:
    """A String."""
    return ua.Variant(content[:TEXT_CHARS_MAX], _KINDS.String, None, False)


YES: Final = ua.Variant(True, _KINDS.Boolean, None, False)
NO: Final = ua.Variant(False, _KINDS.Boolean, None, False)
NO_SEVERITY: Final = ua.Variant(0, _KINDS.UInt16, None, False)
NULL_NODE: Final = ua.Variant(ua.NodeId(), _KINDS.NodeId, None, False)

# Two-state variable -> what it says when false and when true (OPC 10000-9, annex A).
STATE_NAMES: Final = {
    "EnabledState": ("Disabled", "Enabled"),
    "AckedState": ("Unacknowledged", "Acknowledged"),
    "ActiveState": ("Inactive", "Active"),
    "SuppressedState": ("Unsuppressed", "Suppressed"),
    "OutOfServiceState": ("In service", "Out of service"),
    "LatchedState": ("Unlatched", "Latched"),
}
_STATE_FIELDS: Final = {
    (name, value): (text(names[value]), YES if value else NO)
    for name, names in STATE_NAMES.items()
    for value in (False, True)
}


def alarm_event(
    facts: AlarmFacts,
    life: Life,
    event_id: bytes,
    utc_ns: int,
    received_ns: int,
    *,
    lost: bool = False,
    active_ns: int = 0,
    acked_ns: int = 0,
) -> UaEvent:
    """The event of a condition.

    lost       the field process is gone: nobody knows how the alarm stands
    active_ns  when its ActiveState changed last, acked_ns its AckedState; UTC, 0 = not known

    The severity is that of the alarm's priority, whatever its state: a control room sorts its
    list by it. So LastSeverity is 0, as before a first change (OPC 10000-9, 5.5.2).
    """
    fields = dict(fixed_fields(facts))
    flags = FLAGS[life.state]
    for name, value in (
        ("EnabledState", True),
        ("AckedState", flags.acked),
        ("ActiveState", life.is_active),
        ("SuppressedState", flags.suppressed),
        ("OutOfServiceState", flags.out_of_service),
    ):
        fields[name], fields[f"{name}/Id"] = _STATE_FIELDS[name, value]
    fields["ActiveState/TransitionTime"] = time(active_ns) if active_ns else NULL
    fields["AckedState/TransitionTime"] = time(acked_ns) if acked_ns else NULL
    if facts.rule.Latch:
        fields["LatchedState"], fields["LatchedState/Id"] = _STATE_FIELDS[
            "LatchedState", life.latched
        ]
    aside = flags.shelved or flags.suppressed or flags.out_of_service
    fields["SuppressedOrShelved"] = YES if aside else NO
    fields["Retain"] = YES if life.is_retained else NO
    at = time(utc_ns)
    quality = QUALITIES.get(life.quality, codes.BAD)
    fields["Quality"] = code(codes.BAD_NO_COMMUNICATION if lost else quality)
    fields["Quality/SourceTimestamp"] = at
    fields["LastSeverity"], fields["LastSeverity/SourceTimestamp"] = NO_SEVERITY, at
    fields["Comment"], fields["Comment/SourceTimestamp"] = text(life.comment), at
    fields["ClientUserId"] = string(life.by)
    _shelving(fields, life, utc_ns, shelved=flags.shelved)
    if facts.kind.limits:
        _limit(fields, facts, life)
    return UaEvent(
        type_id=facts.type_id,
        event_id=event_id,
        source=facts.source,
        source_name=facts.source_name,
        notifiers=facts.notifiers,
        utc_ns=utc_ns,
        received_ns=received_ns,
        severity=facts.severity,
        message=message_of(facts, life),
        fields=fields,
        condition=facts.condition,
    )


def fixed_fields(facts: AlarmFacts) -> Mapping[str, ua.Variant]:
    """Fields of a condition that never change while it is there."""
    if not facts.fixed:
        facts.fixed.update(_fixed_fields(facts))
    return facts.fixed


def _fixed_fields(facts: AlarmFacts) -> dict[str, ua.Variant]:
    shelve_max_ms = facts.rule.ShelveMax * 1e3
    fields = {
        "ConditionClassId": node(ua.ObjectIds.ProcessConditionClassType),
        "ConditionClassName": text("ProcessConditionClass"),
        "ConditionName": string(facts.name),
        "BranchId": NULL_NODE,
        "InputNode": ua.Variant(facts.input, _KINDS.NodeId, None, False),
        "MaxTimeShelved": number(shelve_max_ms),
        "OnDelay": number(facts.rule.OnDelay * 1e3),
        "OffDelay": number(facts.rule.OffDelay * 1e3),
    }
    for name, limit in facts.kind.limits.items():
        fields[f"{name}Limit"] = number(limit)
    if facts.kind.type_id == ua.ObjectIds.OffNormalAlarmType:
        fields["NormalState"] = NULL_NODE
    return fields


def message_of(facts: AlarmFacts, life: Life) -> str:
    """What an operator reads: level, what it is about, and what to do while it is there."""
    rule = facts.rule
    about = rule.Description or facts.name
    parts = [f"{life.level}: {about}" if life.level else about]
    if life.what and life.what != "activated":
        parts.append(life.what)
    if life.is_active:
        parts += [f"{name}: {said}" for name, said in _advice(rule.Cause, rule.Action) if said]
    return "; ".join(parts)[:TEXT_CHARS_MAX]


def _advice(cause: str, action: str) -> tuple[tuple[str, str], ...]:
    return (("cause", cause), ("action", action))


def _shelving(fields: dict[str, ua.Variant], life: Life, utc_ns: int, *, shelved: bool) -> None:
    ids = ua.ObjectIds
    name = "TimedShelved" if shelved else "Unshelved"
    number_of = ids.ShelvedStateMachineType_TimedShelved if shelved else _UNSHELVED
    fields["ShelvingState/CurrentState"] = text(name)
    fields["ShelvingState/CurrentState/Id"] = node(number_of)
    left_ns = max(0, life.until_utc_ns - utc_ns) if shelved else 0
    fields["ShelvingState/UnshelveTime"] = ua.Variant(left_ns / 1e6, _KINDS.Double, None, False)


_UNSHELVED: Final = ua.ObjectIds.ShelvedStateMachineType_Unshelved


def _limit(fields: dict[str, ua.Variant], facts: AlarmFacts, life: Life) -> None:
    """Which limit is exceeded; nothing where none is."""
    state = facts.kind.states.get(life.level, "") if life.is_active else ""
    fields["LimitState/CurrentState"] = text(state) if state else NULL
    fields["LimitState/CurrentState/Id"] = node(LIMIT_STATES[state]) if state else NULL_NODE
