"""NodeIds of the site's nodes. They depend on names only, so that a client's list stays good.

``ns=2;s=Equipment.Channel`` is a point, ``ns=2;s=/`` the site, ``ns=2;s=/Equipment`` an equipment;
what belongs to a node has its NodeId with ``/Name`` behind it, to any depth.
"""

from __future__ import annotations

from typing import Final

from asyncua import ua

NAMESPACE: Final = 2  # the site's; 1 is the server's own, as OPC 10000-3 asks
DI_NAMESPACE: Final = 3  # OPC 10000-100
DI_URI: Final = "http://opcfoundation.org/UA/DI/"

CONDITION: Final = "Condition"  # of an alarm's point: its condition object
MACHINE: Final = "StateMachine"  # of a machine's point: its state machine object


def standard_id(number: int) -> ua.NodeId:
    """The NodeId of a node that the standard defines."""
    return ua.NodeId(ua.Int32(number))


def own_id(name: str) -> ua.NodeId:
    """The NodeId of a node of the site."""
    return ua.NodeId(ua.String(name), ua.Int16(NAMESPACE))


def di_id(number: int) -> ua.NodeId:
    """The NodeId of a node that OPC 10000-100 defines."""
    return ua.NodeId(ua.Int32(number), ua.Int16(DI_NAMESPACE))


def member_id(tag: str, *path: str) -> ua.NodeId:
    """The NodeId of what belongs to a node, e.g. ``member_id("Alarms.Hot", CONDITION)``."""
    return own_id("/".join((tag, *path)))
