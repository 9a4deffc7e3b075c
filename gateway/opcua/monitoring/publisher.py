"""The Publish requests of one session, and which subscription answers them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.encoding import publish_response
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.session import Session

if TYPE_CHECKING:
    from gateway.opcua.monitoring.subscription import Subscription

KEPT: Final = "monitoring"  # where a session keeps its publisher
ENDED_MAX: Final = 100
_NEVER_NS: Final = 2**63
_CODES: Final = ua.StatusCodes


@dataclass(slots=True, eq=False)
class Request:
    """A Publish request that waits; `results` are those of its acknowledgements."""

    call: Call
    results: list[int]
    until_ns: int


class Publisher:
    """Publish requests of a session (OPC 10000-4, 5.14.5).

    subscriptions  the session's, by their ids
    late           those that answer the next request at once, the one that waits longest first
    """

    def __init__(self, session: Session, clock: Clock) -> None:
        self.session = session
        self.subscriptions: dict[int, Subscription] = {}
        self.late: dict[int, Subscription] = {}
        self._clock = clock
        self._requests: deque[Request] = deque(maxlen=limits.PUBLISH_REQUESTS_MAX)
        self._until_ns = _NEVER_NS  # when the first request runs out of time
        # Last words of subscriptions that the session has no more: id and message.
        self._ended: deque[tuple[int, bytes]] = deque(maxlen=ENDED_MAX)

    @property
    def items(self) -> int:
        """How many items the session has."""
        return sum(len(one.items) for one in self.subscriptions.values())

    @property
    def requests(self) -> int:
        """How many requests wait."""
        return len(self._requests)

    def take(self, call: Call, acknowledged: Sequence[ua.SubscriptionAcknowledgement]) -> None:
        """Take a request; it is answered as soon as there is something to say. Raises Fault."""
        now_ns = self._clock.monotonic_ns()
        results = [self._acknowledge(one) for one in acknowledged]
        if not self.subscriptions and not self._ended:
            raise Fault(_CODES.BadNoSubscription)
        self.has_request(now_ns)
        if len(self._requests) >= limits.PUBLISH_REQUESTS_MAX:
            self._requests.popleft().call.fault(_CODES.BadTooManyPublishRequests)
        hint_ms = int(call.header.TimeoutHint or 0)
        until_ns = now_ns + hint_ms * 1_000_000 if hint_ms else _NEVER_NS
        self._until_ns = min(self._until_ns, until_ns)
        self._requests.append(Request(call, results, until_ns))
        self.answer(now_ns)

    def _acknowledge(self, one: ua.SubscriptionAcknowledgement) -> int:
        subscription = self.subscriptions.get(one.SubscriptionId)
        if subscription is None:
            return _CODES.BadSubscriptionIdInvalid
        if not subscription.acknowledge(one.SequenceNumber):
            return _CODES.BadSequenceNumberUnknown
        return _CODES.Good

    def answer(self, now_ns: int) -> None:
        """Let late subscriptions answer: the highest priority first, then who waits longest."""
        while self._ended and self.has_request(now_ns):
            identity, content = self._ended.popleft()
            self._send(self._requests.popleft(), identity, (), content, more=False)
        while self.late and self.has_request(now_ns):
            first = max(self.late.values(), key=_priority)
            first.touch()
            self.serve(first, now_ns)
        if not self.subscriptions and not self._ended:
            self._refuse_all(_CODES.BadNoSubscription)

    def has_request(self, now_ns: int) -> bool:
        """True where a request waits whose client still waits for it."""
        self._drop_expired(now_ns)
        requests = self._requests
        # A connection that broke, or a Cancel, leaves requests that nobody reads the answer of.
        while requests and requests[0].call.done:
            requests.popleft()
        return bool(requests)

    def serve(self, subscription: Subscription, now_ns: int) -> None:
        """Let a subscription answer, with as many messages as it has and requests are there."""
        self.late.pop(subscription.id, None)
        more = True
        while more and self.has_request(now_ns):
            content, more = subscription.next_message()
            request = self._requests.popleft()
            self._send(request, subscription.id, subscription.retained, content, more=more)
        if more:
            subscription.be_late()

    def _send(
        self,
        request: Request,
        identity: int,
        available: Sequence[int] | dict[int, bytes],
        content: bytes,
        *,
        more: bool,
    ) -> None:
        handle = request.call.header.RequestHandle
        utc_ns = self._clock.utc_ns()
        request.call.answer(
            publish_response(
                handle, utc_ns, identity, available, content, request.results, more=more
            )
        )

    def _drop_expired(self, now_ns: int) -> None:
        """Answer requests whose client does not wait any longer."""
        if now_ns < self._until_ns:
            return
        waiting = list(self._requests)
        self._requests.clear()
        for request in waiting:
            if request.until_ns <= now_ns:
                request.call.fault(_CODES.BadTimeout)
            else:
                self._requests.append(request)
        self._until_ns = min((one.until_ns for one in self._requests), default=_NEVER_NS)

    def drop(self, subscription: Subscription, last_words: bytes | None = None) -> None:
        """The session has a subscription no more; `last_words` tell its client why."""
        self.subscriptions.pop(subscription.id, None)
        self.late.pop(subscription.id, None)
        if last_words is not None:
            self._ended.append((subscription.id, last_words))
        self.answer(self._clock.monotonic_ns())

    def end(self) -> None:
        """The session is over."""
        self._refuse_all(_CODES.BadSessionClosed)
        self._ended.clear()

    def _refuse_all(self, code: int) -> None:
        while self._requests:
            self._requests.popleft().call.fault(code)


def _priority(subscription: Subscription) -> int:
    return subscription.terms.priority


def publisher_of(
    session: Session, clock: Clock, ended: Callable[[Publisher, bool], None]
) -> Publisher:
    """A session's publisher, made when it is first asked for; `ended` hears of its end."""
    publisher: Publisher | None = session.kept.get(KEPT)
    if publisher is None:
        publisher = Publisher(session, clock)
        made = publisher
        session.kept[KEPT] = made
        session.at_end(lambda delete: ended(made, delete))
    return publisher
