"""Events that the subscriptions make themselves."""

from __future__ import annotations

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.event import UaEvent
from gateway.opcua.names import standard_id

# No where clause hides it, nor begin and end of a refresh (OPC 10000-9, 4.5).
REFRESH_REQUIRED = standard_id(ua.ObjectIds.RefreshRequiredEventType)
_SERVER = standard_id(ua.ObjectIds.Server)


def _event_of(clock: Clock, type_id: ua.NodeId, severity: int, message: str) -> UaEvent:
    utc_ns = clock.utc_ns()
    return UaEvent(
        type_id=type_id,
        event_id=bytes.fromhex(clock.new_id()),
        source=_SERVER,
        source_name="Server",
        notifiers=(_SERVER,),
        utc_ns=utc_ns,
        received_ns=utc_ns,
        severity=severity,
        message=message,
        fields={},
    )


def overflow_of(clock: Clock) -> UaEvent:
    """What a client gets instead of events that had no room (OPC 10000-4, 5.13.1.5)."""
    kind = standard_id(ua.ObjectIds.EventQueueOverflowEventType)
    return _event_of(clock, kind, 500, "Events were lost: the queue of the item was full")


def refresh_start(clock: Clock) -> UaEvent:
    """What a refresh of conditions begins with (OPC 10000-9, 5.11)."""
    kind = standard_id(ua.ObjectIds.RefreshStartEventType)
    return _event_of(clock, kind, 1, "Refresh begins")


def refresh_end(clock: Clock) -> UaEvent:
    """What a refresh of conditions ends with (OPC 10000-9, 5.11)."""
    return _event_of(clock, standard_id(ua.ObjectIds.RefreshEndEventType), 1, "Refresh ends")


def refresh_required(clock: Clock) -> UaEvent:
    """What asks a client to refresh its conditions (OPC 10000-9, 5.11.4)."""
    return _event_of(clock, REFRESH_REQUIRED, 1, "Conditions may have changed unheard")
