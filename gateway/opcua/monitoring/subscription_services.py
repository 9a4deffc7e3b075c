"""The services of subscriptions (OPC 10000-4, 5.14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import struct_from_binary

from gateway.core.clock import Clock
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.encoding import republish_response
from gateway.opcua.monitoring.state import Terms
from gateway.opcua.monitoring.subscription import Subscription
from gateway.opcua.service import Call, Fault, Services
from gateway.opcua.transport.session import Session

if TYPE_CHECKING:
    from gateway.opcua.monitoring.subscriptions import Subscriptions

_CODES: Final = ua.StatusCodes
_IDS: Final = ua.ObjectIds


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))


def terms_of(asked: Any) -> Terms:
    """What a client gets of what it asks for, in CreateSubscription or ModifySubscription."""
    interval_ms = limits.publishing_interval_ms(asked.RequestedPublishingInterval)
    lifetime, keep_alive = limits.counts(
        interval_ms, asked.RequestedLifetimeCount, asked.RequestedMaxKeepAliveCount
    )
    return Terms(
        interval_ms, lifetime, keep_alive, asked.MaxNotificationsPerPublish, asked.Priority
    )


def _may_take(subscription: Subscription, session: Session) -> bool:
    """True where a session's user is the one that the subscription belongs to.

    Who has no name is known by the certificate and address of his client only (OPC 10000-4,
    5.14.7.1), and on a channel that signs.
    """
    owner = subscription.owner
    if owner is not None and owner.session is session:
        return True
    if session.user.name or subscription.user.name:
        return session.user.name == subscription.user.name
    return session.secured and session.client == subscription.client


class SubscriptionServices:
    """Create, modify, delete, publish, republish, transfer."""

    def __init__(self, subscriptions: Subscriptions, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._clock = clock

    def services(self) -> Services:
        """What is served here."""
        return {
            _IDS.CreateSubscriptionRequest_Encoding_DefaultBinary: self.create,
            _IDS.ModifySubscriptionRequest_Encoding_DefaultBinary: self.modify,
            _IDS.SetPublishingModeRequest_Encoding_DefaultBinary: self.set_publishing,
            _IDS.PublishRequest_Encoding_DefaultBinary: self.publish,
            _IDS.RepublishRequest_Encoding_DefaultBinary: self.republish,
            _IDS.TransferSubscriptionsRequest_Encoding_DefaultBinary: self.transfer,
            _IDS.DeleteSubscriptionsRequest_Encoding_DefaultBinary: self.delete,
        }

    async def create(self, call: Call) -> ua.CreateSubscriptionResponse:
        """CreateSubscription. Raises Fault."""
        asked = struct_from_binary(ua.CreateSubscriptionParameters, call.body)
        terms = terms_of(asked)
        made = self._subscriptions.create(call.session, terms, enabled=asked.PublishingEnabled)
        response = ua.CreateSubscriptionResponse()
        response.Parameters = ua.CreateSubscriptionResult(
            made.id, terms.interval_ms, terms.lifetime, terms.keep_alive
        )
        return response

    async def modify(self, call: Call) -> ua.ModifySubscriptionResponse:
        """ModifySubscription. Raises Fault."""
        asked = struct_from_binary(ua.ModifySubscriptionParameters, call.body)
        subscription = self._subscriptions.of(call.session, asked.SubscriptionId)
        terms = terms_of(asked)
        subscription.modify(terms)
        self._subscriptions.schedule(subscription)
        response = ua.ModifySubscriptionResponse()
        response.Parameters = ua.ModifySubscriptionResult(
            terms.interval_ms, terms.lifetime, terms.keep_alive
        )
        return response

    async def set_publishing(self, call: Call) -> ua.SetPublishingModeResponse:
        """SetPublishingMode. Raises Fault."""
        asked = struct_from_binary(ua.SetPublishingModeParameters, call.body)

        def one(subscription: Subscription) -> None:
            subscription.enabled = asked.PublishingEnabled

        response = ua.SetPublishingModeResponse()
        response.Parameters.Results = self._each(call, asked.SubscriptionIds, one)
        return response

    async def delete(self, call: Call) -> ua.DeleteSubscriptionsResponse:
        """DeleteSubscriptions. Raises Fault."""
        asked = struct_from_binary(ua.DeleteSubscriptionsParameters, call.body)
        response = ua.DeleteSubscriptionsResponse()
        response.Results = self._each(call, asked.SubscriptionIds, self._subscriptions.delete)
        return response

    def _each(
        self, call: Call, ids: Sequence[int], do: Callable[[Subscription], None]
    ) -> list[ua.StatusCode]:
        """Do the same with several subscriptions of the session."""
        _check_count(ids)
        results = []
        for identity in ids:
            try:
                do(self._subscriptions.of(call.session, identity))
            except Fault as fault:
                results.append(_status(fault.code))
            else:
                results.append(_status(_CODES.Good))
        return results

    async def publish(self, call: Call) -> None:
        """Publish; answered when a subscription has something to say. Raises Fault."""
        asked = struct_from_binary(ua.PublishParameters, call.body)
        acknowledged = asked.SubscriptionAcknowledgements
        if len(acknowledged) > limits.OPERATIONS_MAX:
            raise Fault(_CODES.BadTooManyOperations)
        self._subscriptions.publisher(call.session).take(call, acknowledged)

    async def republish(self, call: Call) -> bytes:
        """Republish. Raises Fault."""
        asked = struct_from_binary(ua.RepublishParameters, call.body)
        subscription = self._subscriptions.of(call.session, asked.SubscriptionId)
        content = subscription.retained.get(asked.RetransmitSequenceNumber)
        if content is None:
            raise Fault(_CODES.BadMessageNotAvailable)
        return republish_response(call.header.RequestHandle, self._clock.utc_ns(), content)

    async def transfer(self, call: Call) -> ua.TransferSubscriptionsResponse:
        """TransferSubscriptions. Raises Fault."""
        asked = struct_from_binary(ua.TransferSubscriptionsParameters, call.body)
        _check_count(asked.SubscriptionIds)
        response = ua.TransferSubscriptionsResponse()
        response.Parameters.Results = [
            self._transfer(call, identity, again=asked.SendInitialValues)
            for identity in asked.SubscriptionIds
        ]
        return response

    def _transfer(self, call: Call, identity: int, *, again: bool) -> ua.TransferResult:
        subscription = self._subscriptions.get(identity)
        if subscription is None:
            return ua.TransferResult(_status(_CODES.BadSubscriptionIdInvalid))
        if not _may_take(subscription, call.session):
            return ua.TransferResult(_status(_CODES.BadUserAccessDenied))
        mine = self._subscriptions.publisher(call.session).subscriptions
        if identity not in mine and len(mine) >= limits.SESSION_SUBSCRIPTIONS_MAX:
            return ua.TransferResult(_status(_CODES.BadTooManySubscriptions))
        self._subscriptions.give(subscription, call.session)
        if again:
            subscription.show_again()
        return ua.TransferResult(_status(_CODES.Good), list(subscription.retained))


def _check_count(ids: Sequence[int]) -> None:
    """Raises Fault where there are none, or too many."""
    if not ids:
        raise Fault(_CODES.BadNothingToDo)
    if len(ids) > limits.OPERATIONS_MAX:
        raise Fault(_CODES.BadTooManyOperations)
