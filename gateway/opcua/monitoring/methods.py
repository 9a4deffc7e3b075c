"""Methods of the Server object that belong to subscriptions (OPC 10000-5, 9.1 and 9.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from asyncua import ua

from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.names import standard_id
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role

if TYPE_CHECKING:
    from gateway.opcua.monitoring.subscriptions import Subscriptions

_UINT32: Final = standard_id(ua.ObjectIds.UInt32)
_SERVER: Final = standard_id(ua.ObjectIds.Server)


def _argument(name: str, rank: ua.ValueRank) -> ua.Argument:
    return ua.Argument(Name=name, DataType=_UINT32, ValueRank=rank)


def _tag(node: ua.NodeId) -> str:
    """They are the Server object's only."""
    if node != _SERVER:
        raise MethodFault(ua.StatusCodes.BadMethodInvalid, "not a method of this object")
    return ""


def _numbers(values: Sequence[int]) -> ua.Variant:
    return ua.Variant(list(values), ua.VariantType.UInt32, is_array=True)


def add_methods(methods: Methods, subscriptions: Subscriptions) -> None:
    """Register GetMonitoredItems and ResendData."""

    async def get_monitored_items(
        session: Session, node: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        items = subscriptions.of_method(session, inputs[0].Value).items.values()
        return [_numbers([item.id for item in items]), _numbers([item.handle for item in items])]

    async def resend_data(
        session: Session, node: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        subscriptions.of_method(session, inputs[0].Value).show_again()
        return []

    asked = (_argument("SubscriptionId", ua.ValueRank.Scalar),)
    found = tuple(
        _argument(name, ua.ValueRank.OneDimension) for name in ("ServerHandles", "ClientHandles")
    )
    get = Method("GetMonitoredItems", asked, found, Role.OBSERVER, _tag, get_monitored_items)
    resend = Method("ResendData", asked, (), Role.OBSERVER, _tag, resend_data)
    ids = ua.ObjectIds
    for number in (ids.Server_GetMonitoredItems, ids.ServerType_GetMonitoredItems):
        methods.add(standard_id(number), get)
    for number in (ids.Server_ResendData, ids.ServerType_ResendData):
        methods.add(standard_id(number), resend)
