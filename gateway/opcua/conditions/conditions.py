"""The site's alarms as conditions (OPC 10000-9): follows the field process, tells clients.

There is one truth, the alarm table of the field process. It is asked for when the field process
comes and whenever records are missing; between that its `alarm` events say what changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from config.points import PointDef, rule_tag
from gateway.core.clock import Clock
from gateway.core.records import Batch, Event
from gateway.opcua.conditions.condition import Condition, own_event_id
from gateway.opcua.conditions.events import KINDS, event_id, event_of
from gateway.opcua.conditions.facts import SERVER, SITE, SiteFacts
from gateway.opcua.conditions.nodes import ConditionNode, Forms, Parts, install
from gateway.opcua.conditions.states import life_of
from gateway.opcua.desk import Desk, NotPassedOn
from gateway.opcua.event import UaEvent
from gateway.opcua.model import SiteModel
from gateway.opcua.monitoring.events import refresh_required
from gateway.opcua.names import CONDITION, own_id, standard_id
from gateway.opcua.nodes.builder import Node, Nodes

WAITING_MAX: Final = 20_000  # events of the field that clients were not told yet
SLICE_NS: Final = 5_000_000  # of one stretch of work, before others of the loop have their turn
ASK_AGAIN_S: Final = 2.0
_HAS_CONDITION: Final = standard_id(ua.ObjectIds.HasCondition)
_HAS_NOTIFIER: Final = standard_id(ua.ObjectIds.HasNotifier)
_HAS_EVENT_SOURCE: Final = standard_id(ua.ObjectIds.HasEventSource)

log = logging.getLogger("gatepost.link")


class Conditions:
    """All conditions of the site, and the way of the journal's events to clients.

    facts  what the events of the journal refer to; for `event_of`
    emit   takes each event; set it before `run`
    """

    def __init__(self, space: AddressSpace, desk: Desk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock
        self.emit: Callable[[UaEvent], None] = lambda event: None
        self.facts = SiteFacts(SiteModel("", ""), ())
        self._next = self.facts
        self._by_tag: dict[str, Condition] = {}
        self._by_node: dict[ua.NodeId, Condition] = {}
        self._parts = Parts(Forms(space), clock)
        self._waiting: deque[tuple[Event, int]] = deque(maxlen=WAITING_MAX)
        self._wake = asyncio.Event()
        self._working = False
        self._ask = False  # the table is to be asked for
        self._refresh_required = False
        self._lost = False  # to be told
        install(space, self._parts.find)

    # ------------------------------------------------------------ configuration

    def build(self, nodes: Nodes, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Add the condition objects, behind those of equipment and points; may run in a thread.

        They are shown and used from `take_over` on.
        """
        facts = self._next = SiteFacts(model, points)
        told = {
            (source, reference.NodeId)
            for source in (SERVER, SITE)
            for reference in nodes.space[source].references
            if reference.IsForward and reference.ReferenceTypeId == _HAS_NOTIFIER
        }

        def refer(source: ua.NodeId, reference: ua.NodeId, target: ua.NodeId) -> None:
            if source != target and (source, target) not in told:
                told.add((source, target))
                nodes.refer(source, reference, target)

        refer(SERVER, _HAS_NOTIFIER, SITE)
        channels = {point.channel for point in points}
        for alarm in facts.alarms.values():
            home = own_id(f"/{alarm.tag.partition('.')[0]}")
            name = f"{alarm.name}_{CONDITION}"  # the alarm's point stands beside it
            while name in channels:
                name += "_"
            channels.add(name)
            nodes.object(
                alarm.condition,
                name,
                home if home in nodes else SITE,
                alarm.type_id,
                description=alarm.rule.Description,
            )
            for above, below in zip(alarm.notifiers[1:], alarm.notifiers[2:], strict=False):
                refer(above, _HAS_NOTIFIER, below)
            if alarm.source not in alarm.notifiers:
                refer(alarm.notifiers[-1], _HAS_EVENT_SOURCE, alarm.source)
            nodes.refer(alarm.source, _HAS_CONDITION, alarm.condition)
            self._show(nodes, alarm.condition, alarm.tag)

    def _show(self, nodes: Nodes, node: ua.NodeId, tag: str) -> None:
        """Let a condition object show its parts."""
        made: Any = nodes.space[node]
        assert isinstance(made, Node)

        def below() -> list[Any]:
            condition = self._by_tag.get(tag)
            return [] if condition is None else list(self._parts.below(condition))

        shown: Any = ConditionNode(made, below)
        nodes.space[node] = shown

    def take_over(self) -> None:
        """Use what was built last. Conditions of alarms that stay keep their state."""
        old = self._by_tag
        self.facts = self._next
        self._by_tag = {tag: Condition(alarm) for tag, alarm in self.facts.alarms.items()}
        for tag, condition in self._by_tag.items():
            if tag in old:
                condition.follow(old[tag])
        self._by_node = {one.facts.condition: one for one in self._by_tag.values()}
        self._parts.conditions = self._by_tag
        if old:
            self._refresh_required = True
        self.field_there()

    # ------------------------------------------------------------ what is heard

    def heard(self, batch: Batch) -> None:
        """Records of the field process; clients are told by `run`."""
        for event in batch.events:
            if event.kind in KINDS:
                if len(self._waiting) >= WAITING_MAX:
                    self._waiting.popleft()
                    self._refresh_required = self._ask = True
                self._waiting.append((event, batch.epoch))
        if batch.gaps:
            self._refresh_required = self._ask = True
        if self._waiting or self._ask:
            self._wake.set()

    def field_there(self) -> None:
        """A field process came, or its configuration is another one: ask it for all alarms."""
        self._ask = True
        self._lost = False
        self._wake.set()

    def field_lost(self) -> None:
        """The field process is gone: nobody knows how the alarms stand."""
        self._lost = True
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Something was heard that clients were not told yet, or the table is to be asked for."""
        return self._working or self._heard

    @property
    def _heard(self) -> bool:
        return bool(self._waiting) or self._ask or self._lost

    async def run(self) -> None:
        """Tell clients what was heard; until it is cancelled."""
        while True:
            if not self._heard:
                await self._wake.wait()
            self._wake.clear()
            self._working = True
            try:
                await self._catch_up()
            finally:
                self._working = False

    async def _catch_up(self) -> None:
        # Before the loss and before the table: what waits led to what was lost, or stands there.
        await self._in_slices(self._told())
        if self._lost:
            self._lost = False
            await self._in_slices(self._lose())
        if self._ask and not await self._ask_table():
            # Woken earlier by what is heard meanwhile; the table is asked for again then.
            try:
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            return
        if self._refresh_required:
            self._refresh_required = False
            self.emit(self._refresh_notice())

    def _told(self) -> Iterator[None]:
        while self._waiting:
            event, epoch = self._waiting.popleft()
            self._tell(event, epoch)
            yield

    async def _in_slices(self, work: Iterator[None]) -> None:
        """Do work step by step; others of the loop get their turn every few milliseconds."""
        began_ns = self._clock.monotonic_ns()
        for _ in work:
            if self._clock.monotonic_ns() - began_ns > SLICE_NS:
                await asyncio.sleep(0)
                began_ns = self._clock.monotonic_ns()

    def _tell(self, event: Event, epoch: int) -> None:
        condition = None
        if event.kind == "alarm":
            condition = self._by_tag.get(rule_tag("alarm", str(event.body.get("name", ""))))
        life = life_of(event.body) if condition is not None else None
        if condition is None or life is None:
            made = event_of(event, epoch, self.facts, self._clock.utc_ns())
            if made is not None:
                self.emit(made)
            return
        condition.take(
            life,
            event_id(epoch, event.seq),
            event.utc_ns,
            self._clock.utc_ns(),
            event.utc_ns if event.body.get("announced") else 0,
        )
        self.emit(condition.event())

    def _lose(self) -> Iterator[None]:
        utc_ns = self._clock.utc_ns()
        for condition in list(self._by_tag.values()):
            if not condition.lost:
                condition.lose(utc_ns)
                if condition.retained:
                    self.emit(condition.event())
            yield

    # ------------------------------------------------------------ the table

    async def _ask_table(self) -> bool:
        """Ask for all alarms. False where nobody answers; then they are asked for again."""
        self._ask = False
        start = 0
        while True:
            try:
                answer = await self._desk.ask({"type": "alarms", "all": True, "start": start})
            except NotPassedOn:
                self._ask = True
                return False
            rows, following = answer.get("alarms"), answer.get("next", 0)
            if not isinstance(rows, list) or not isinstance(following, int):
                log.error("OPC UA: the field process answers with no alarms")
                return True
            await self._in_slices(self._take_rows(rows))
            if following <= start:
                return True
            start = following

    def _take_rows(self, rows: Sequence[Any]) -> Iterator[None]:
        for row in rows:
            if isinstance(row, Mapping):
                self._take_row(row)
            yield

    def _take_row(self, row: Mapping[str, Any]) -> None:
        """One alarm as the field has it; clients are told where it is not as they know it."""
        condition, life = self._by_tag.get(str(row.get("tag", ""))), life_of(row)
        if condition is None or life is None:
            return
        known, was_lost = condition.life, condition.lost
        condition.lost = False
        since_ns, announced_ns = _moment(row, "since_utc_ns"), _moment(row, "announced_utc_ns")
        anew = announced_ns if announced_ns != condition.announced_ns else 0
        same = life[:5] == known[:5] and condition.utc_ns > 0
        if same and not was_lost and not anew:
            return
        now_ns = self._clock.utc_ns()
        utc_ns = since_ns if since_ns > 0 else now_ns
        sign = max(utc_ns, announced_ns) if not was_lost else now_ns
        made_id = own_event_id(condition.facts.tag, life, sign)
        condition.take(life, made_id, utc_ns, now_ns, anew)
        # Of what is normal, and was when clients heard of it last, they are told nothing.
        if condition.retained or known.is_retained:
            self.emit(condition.event())

    # ------------------------------------------------------------ what is asked

    def condition(self, node: ua.NodeId) -> Condition | None:
        """The condition of its object's NodeId; None where there is none."""
        return self._by_node.get(node)

    def retained(self) -> Iterator[UaEvent]:
        """The events of all conditions that a client which just came must see.

        Each as it is when it is asked for; over a change of the configuration they begin anew.
        """
        seen = None
        while seen is not self._by_tag:
            seen = self._by_tag
            for condition in seen.values():
                if seen is not self._by_tag:
                    break
                if condition.retained:
                    yield condition.event()

    def comment(self, condition: Condition, by: str, comment: str) -> None:
        """Take a comment that was journaled, and tell it."""
        life = condition.life._replace(by=by, comment=comment, what="comment")
        made_id = bytes.fromhex(self._clock.new_id())
        now_ns = self._clock.utc_ns()
        condition.take(life, made_id, now_ns, now_ns)
        self.emit(condition.event())

    def _refresh_notice(self) -> UaEvent:
        """What asks clients to refresh, wherever they listen."""
        places = {node for alarm in self.facts.alarms.values() for node in alarm.notifiers}
        return replace(refresh_required(self._clock), notifiers=tuple(places | {SERVER, SITE}))


def _moment(row: Mapping[str, Any], key: str) -> int:
    """A moment of the field's table in ns; 0 where it has none."""
    found = row.get(key)
    return found if isinstance(found, int) else 0
