"""All subscriptions of the server: who has them, what they are told, and their one timer."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, ParamSpec

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from gateway.core.clock import Clock
from gateway.opcua.event import UaEvent
from gateway.opcua.methods import MethodFault, Methods
from gateway.opcua.monitoring import events, limits
from gateway.opcua.monitoring.item_services import ItemServices
from gateway.opcua.monitoring.items import EventItem, Parse, Reader
from gateway.opcua.monitoring.methods import add_methods
from gateway.opcua.monitoring.points import DISABLED, REPORTING
from gateway.opcua.monitoring.publisher import Publisher, publisher_of
from gateway.opcua.monitoring.state import Shared, State, Terms
from gateway.opcua.monitoring.subscription import Subscription
from gateway.opcua.monitoring.subscription_services import SubscriptionServices
from gateway.opcua.service import Fault, Services
from gateway.opcua.transport.session import Session
from gateway.opcua.users import User
from gateway.opcua.values import Values

log = logging.getLogger("gatepost.link")

P = ParamSpec("P")

TURN_NS: Final = 5_000_000  # so long it works before other tasks of the process get their turn
TOLD_MAX: Final = 10  # rows of one point that are told of those that come at once
HEAP_SPARE: Final = 64  # entries that count no more are swept out from here on
_CODES: Final = ua.StatusCodes


class Subscriptions:
    """Subscriptions and monitored items of all sessions (OPC 10000-4, 5.13 and 5.14).

    may_see  whether a user may get an event; everybody may until the server says otherwise
    """

    def __init__(self, values: Values, attributes: Reader, filters: Parse, clock: Clock) -> None:
        self.may_see: Callable[[User, UaEvent], bool] = lambda user, event: True
        self._shared = Shared(values, attributes, clock)
        self._clock = clock
        self._all: dict[int, Subscription] = {}
        self._made = 0
        self._heap: list[tuple[int, int]] = []  # due (monotonic ns), id of the subscription
        self._due: dict[int, int] = {}  # the entry of the heap that counts, by id
        self._wake = asyncio.Event()
        self._eager = np.zeros(1, dtype=np.bool_)  # points whose every change somebody wants
        self._eager_any = False
        self._at = np.full(1, -1, dtype=np.int64)
        self._listeners: dict[ua.NodeId, dict[int, tuple[Subscription, EventItem]]] = {}
        self._items = ItemServices(self, self._shared, filters)
        self._services = SubscriptionServices(self, clock)
        self._resize()
        values.changed = self.changed
        values.replaced = self.replaced

    def services(self) -> Services:
        """What transport serves with it."""
        return {**self._services.services(), **self._items.services()}

    def add_methods(self, methods: Methods) -> None:
        """Register GetMonitoredItems and ResendData."""
        add_methods(methods, self)

    @property
    def count(self) -> int:
        """How many subscriptions there are."""
        return len(self._all)

    @property
    def items(self) -> int:
        """How many monitored items there are."""
        return self._shared.items

    def counts(self) -> dict[str, int]:
        """What the server's diagnostics show (ServerDiagnosticsSummaryDataType)."""
        intervals = {one.terms.interval_ms for one in self._all.values()}
        return {
            "CurrentSubscriptionCount": len(self._all),
            "CumulatedSubscriptionCount": self._made,
            "PublishingIntervalCount": len(intervals),
        }

    # -- subscriptions -------------------------------------------------------------------------

    def publisher(self, session: Session) -> Publisher:
        """The Publish requests of a session."""
        return publisher_of(session, self._clock, self._session_ended)

    def create(self, session: Session, terms: Terms, *, enabled: bool) -> Subscription:
        """A new subscription. Raises Fault where there are too many."""
        publisher = self.publisher(session)
        if len(publisher.subscriptions) >= limits.SESSION_SUBSCRIPTIONS_MAX:
            raise Fault(_CODES.BadTooManySubscriptions)
        self._check_room(session.user)
        self._made += 1
        made = Subscription(self._made, self._shared, terms, publisher, enabled=enabled)
        self._all[made.id] = publisher.subscriptions[made.id] = made
        self.schedule(made)
        return made

    def _check_room(self, user: User) -> None:
        """The last places are for others; what no session has makes room. Raises Fault."""
        mine = self._of_user(user)
        if len(mine) < math.ceil(limits.SUBSCRIPTIONS_MAX * limits.USER_SHARE):
            if len(self._all) < limits.SUBSCRIPTIONS_MAX:
                return
            mine = list(self._all.values())
        idle = [one for one in mine if one.owner is None]
        if not idle:
            raise Fault(_CODES.BadTooManySubscriptions)
        self.delete(idle[0])

    def _of_user(self, user: User) -> list[Subscription]:
        return [one for one in self._all.values() if one.user.name == user.name]

    def has_items_left(self, user: User) -> bool:
        """True where a user may have one item more."""
        share = math.ceil(limits.ITEMS_MAX * limits.USER_SHARE)
        if self.items < share:
            return True
        if self.items >= limits.ITEMS_MAX:
            return False
        return sum(len(one.items) for one in self._of_user(user)) < share

    def get(self, identity: int) -> Subscription | None:
        """A subscription of any session."""
        return self._all.get(identity)

    def of(self, session: Session, identity: int) -> Subscription:
        """A subscription of a session, whose client shows that it is there. Raises Fault."""
        subscription = self.publisher(session).subscriptions.get(identity)
        if subscription is None:
            raise Fault(_CODES.BadSubscriptionIdInvalid)
        subscription.touch()
        return subscription

    def delete(self, subscription: Subscription) -> None:
        """End a subscription."""
        for item in subscription.event_items():
            self.forget(item)
        self._all.pop(subscription.id, None)
        self._due.pop(subscription.id, None)
        subscription.end()

    def give(self, subscription: Subscription, session: Session) -> None:
        """Let another session have a subscription; the old one is told."""
        before, after = subscription.owner, self.publisher(session)
        if before is after:
            return
        if before is not None:
            subscription.owner = None
            words = subscription.closing_message(_CODES.GoodSubscriptionTransferred)
            before.drop(subscription, words)
        subscription.owner = after
        after.subscriptions[subscription.id] = subscription
        subscription.touch()
        if subscription.state is State.LATE:
            subscription.be_late()
            after.answer(self._clock.monotonic_ns())

    def _session_ended(self, publisher: Publisher, delete: bool) -> None:
        publisher.end()
        for subscription in list(publisher.subscriptions.values()):
            if delete:
                self.delete(subscription)
            else:
                subscription.owner = None
        publisher.subscriptions.clear()
        publisher.late.clear()

    # -- what is told --------------------------------------------------------------------------

    def _resize(self) -> None:
        size = len(self._shared.values.rows)
        self._shared.stamps = np.zeros(size, dtype=np.int64)
        self._shared.batch = 0
        self._eager = np.zeros(size, dtype=np.bool_)
        self._at = np.full(size, -1, dtype=np.int64)
        self._shared.stale = True

    def changed(self, records: NDArray[np.void]) -> None:
        """Points changed: (N,) RECORD rows in their order. Hook of `Values`."""
        shared = self._shared
        if shared.stale:
            self._collect_eager()
        index = records["point"]
        shared.batch += 1
        shared.stamps[index] = shared.batch
        if not self._eager_any:
            return
        wanted = self._eager[index]
        if wanted.any():
            self._tell(records if wanted.all() else records[wanted])

    def _collect_eager(self) -> None:
        self._shared.stale = False
        self._eager[:] = False
        for subscription in self._all.values():
            self._eager[subscription.eager_points()] = True
        self._eager_any = bool(self._eager.any())

    def _tell(self, records: NDArray[np.void]) -> None:
        """Tell items that want every change; of a point that comes twice, one row after another.

        Where a point comes more than `TOLD_MAX` times, the last one is told behind the first ones.
        """
        at, server_ns = self._at, self._clock.utc_ns()
        for left in range(TOLD_MAX - 1, -1, -1):
            index = records["point"]
            place = np.arange(len(records))
            if left:
                # From behind, so that the first row of each point stays.
                at[index[::-1]] = place[::-1]
            else:
                at[index] = place
            for subscription in list(self._all.values()):
                self._guarded(subscription, subscription.changed, at, records, server_ns)
            later = at[index] != place
            at[index] = -1
            records = records[later]
            if not len(records):
                return

    def replaced(self, gone: Sequence[str]) -> None:
        """There is another point table. Hook of `Values`."""
        self._resize()
        for subscription in list(self._all.values()):
            self._guarded(subscription, subscription.moved)

    @property
    def listening(self) -> int:
        """How many items are told of events."""
        return sum(len(items) for items in self._listeners.values())

    def listen(self, subscription: Subscription, item: EventItem) -> None:
        """Tell an item of its node's events."""
        self._listeners.setdefault(item.node, {})[item.id] = (subscription, item)

    def forget(self, item: EventItem) -> None:
        """Tell an item of no more events."""
        listeners = self._listeners.get(item.node, {})
        listeners.pop(item.id, None)
        if not listeners:
            self._listeners.pop(item.node, None)

    def offer(self, event: UaEvent) -> None:
        """Queue an event in the items that want it."""
        is_notice = event.type_id == events.REFRESH_REQUIRED
        for node in event.notifiers:
            for subscription, item in list(self._listeners.get(node, {}).values()):
                self._guarded(subscription, self._offer, subscription, item, event, is_notice)

    def _offer(
        self, subscription: Subscription, item: EventItem, event: UaEvent, is_notice: bool
    ) -> None:
        if self.may_see(subscription.user, event) and item.take(event, is_notice=is_notice):
            subscription.heard(item)

    def refresh(
        self,
        session: Session,
        subscription_id: int,
        item_id: int | None,
        conditions: Callable[[], Iterator[UaEvent]],
    ) -> None:
        """Tell the conditions between RefreshStart and RefreshEnd (OPC 10000-9, 5.5.7).

        In the items of a subscription, or in one of them; each goes through the conditions when
        its messages are made. Raises MethodFault.
        """
        subscription = self.of_method(session, subscription_id)
        items = [
            item for item in subscription.event_items() if item_id is None or item.id == item_id
        ]
        if item_id is not None and not items:
            raise MethodFault(_CODES.BadMonitoredItemIdInvalid, "no such item for events")
        if not items:
            raise MethodFault(_CODES.BadNothingToDo, "the subscription has no item for events")
        if any(item.refresh is not None for item in items):
            raise MethodFault(_CODES.BadRefreshInProgress, "a refresh of it goes on")
        bounds = events.refresh_start(self._clock), events.refresh_end(self._clock)
        for item in items:
            if item.mode != DISABLED:
                item.refresh = self._refreshed(subscription, item, conditions, *bounds)
                item.ready |= item.mode == REPORTING
                subscription.heard(item)

    def _refreshed(
        self,
        subscription: Subscription,
        item: EventItem,
        conditions: Callable[[], Iterator[UaEvent]],
        start: UaEvent,
        end: UaEvent,
    ) -> Iterator[bytes | None]:
        """A refresh as an item tells it; None for what it doesn't."""
        yield item.notices.encoded(start)
        for event in conditions():
            seen = item.node in event.notifiers and self.may_see(subscription.user, event)
            yield item.filter.encoded(event) if seen else None
        yield item.notices.encoded(end)

    def of_method(self, session: Session, identity: int) -> Subscription:
        """A session's own subscription. Raises MethodFault."""
        subscription = self._all.get(identity)
        if subscription is None:
            raise MethodFault(_CODES.BadSubscriptionIdInvalid, "no such subscription")
        if subscription.owner is None or subscription.owner.session is not session:
            raise MethodFault(_CODES.BadUserAccessDenied, "another session's subscription")
        subscription.touch()
        return subscription

    # -- timer ---------------------------------------------------------------------------------

    def schedule(self, subscription: Subscription) -> None:
        """Let the timer know when a subscription has something to do."""
        due_ns = subscription.due_ns
        if self._due.get(subscription.id) == due_ns:
            return
        self._due[subscription.id] = due_ns
        if len(self._heap) > 4 * len(self._all) + HEAP_SPARE:
            self._heap = [entry for entry in self._heap if self._due.get(entry[1]) == entry[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due_ns, subscription.id))
        if self._heap[0][1] == subscription.id:
            self._wake.set()

    def step(self) -> int | None:
        """Do what is due, for `TURN_NS` at most; ns until the next, None where there is none."""
        now_ns = self._clock.monotonic_ns()
        until_ns = now_ns + TURN_NS
        while self._heap:
            due_ns, identity = self._heap[0]
            if self._due.get(identity) != due_ns:
                heapq.heappop(self._heap)  # it was scheduled otherwise, or has ended
                continue
            if due_ns > now_ns:
                return due_ns - now_ns
            heapq.heappop(self._heap)
            del self._due[identity]
            subscription = self._all[identity]
            self._guarded(subscription, self._step_one, subscription, now_ns)
            now_ns = self._clock.monotonic_ns()
            if now_ns > until_ns:
                return 0
        return None

    def _step_one(self, subscription: Subscription, now_ns: int) -> None:
        subscription.step(now_ns)
        if subscription.closed:
            self._finish(subscription, _CODES.BadTimeout)
        else:
            self.schedule(subscription)

    def _finish(self, subscription: Subscription, code: int) -> None:
        """End a subscription and tell its client why."""
        owner = subscription.owner
        words = subscription.closing_message(code)
        subscription.owner = None
        self.delete(subscription)
        if owner is not None:
            owner.drop(subscription, words)

    def _guarded(
        self, subscription: Subscription, work: Callable[P, None], *args: P.args, **named: P.kwargs
    ) -> None:
        """The supervisor of a subscription: a fault of ours ends it, and no other."""
        try:
            work(*args, **named)
        except Exception:
            log.exception("OPC UA: a subscription of %s ended", subscription.client)
            self._finish(subscription, _CODES.BadInternalError)

    async def run(self) -> None:
        """The timer, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            left_ns = self.step()
            if left_ns == 0:
                await asyncio.sleep(0)
                continue
            timer = None
            if left_ns is not None:
                timer = loop.call_later(left_ns / 1e9, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()
