"""What stays of a site's alarms, machines, causes and equipment while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncua import ua

from config.model import AlarmRule
from config.points import PointDef
from gateway.opcua.conditions.classify import Kind, kind_of
from gateway.opcua.model import SiteModel
from gateway.opcua.names import CONDITION, member_id, own_id, standard_id

SERVER: Final = standard_id(ua.ObjectIds.Server)
SITE: Final = own_id("/")

# Severity of an alarm by its priority. OPC 10000-5, 6.4.2 leaves the numbers to the server;
# OPC 10000-9, annex D calls 667 and more high, 334 to 666 medium, and the rest low.
SEVERITIES: Final[Mapping[str, int]] = {"urgent": 900, "high": 700, "medium": 500, "low": 200}
SEVERITY_NORMAL: Final = 100  # of what is over, and of what is only told
SEVERITY_TROUBLE: Final = 600
SEVERITY_TRIP: Final = 950


@dataclass(frozen=True, slots=True, eq=False)
class AlarmFacts:
    """One alarm.

    condition  NodeId of its condition object
    source     node whose condition it is: the one point that it reads, the equipment where it
               reads several of one, else the site
    notifiers  the nodes whose subscribers hear of it
    input      NodeId of the one point that it reads; null where it reads several
    fixed      fields of its events that never change, filled by the first event
    """

    tag: str
    name: str
    rule: AlarmRule
    kind: Kind
    type_id: ua.NodeId
    condition: ua.NodeId
    source: ua.NodeId
    source_name: str
    notifiers: tuple[ua.NodeId, ...]
    input: ua.NodeId
    severity: int
    fixed: dict[str, ua.Variant] = field(default_factory=dict)


class SiteFacts:
    """The site as events show it.

    alarms  by the tag of the alarm's point, in the order of the site's files
    """

    def __init__(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        self.site = model.site
        self.model = model
        by_tag = {point.tag: point for point in points}
        self.equipment = frozenset(point.equipment for point in points) | set(model.equipment)
        self._notifiers: dict[str, tuple[ua.NodeId, ...]] = {}
        self._tags = frozenset(by_tag)
        self.alarms: dict[str, AlarmFacts] = {}
        for tag, rule in model.alarms.items():
            if rule.Active and tag in by_tag:
                self.alarms[tag] = self._alarm(tag, rule, by_tag)

    def notifiers(self, equipment: str) -> tuple[ua.NodeId, ...]:
        """The nodes that show events of an equipment: itself, the site, the server."""
        if equipment not in self._notifiers:
            own = (own_id(f"/{equipment}"),) if equipment in self.equipment else ()
            self._notifiers[equipment] = (SERVER, SITE, *own)
        return self._notifiers[equipment]

    def point(self, tag: str) -> tuple[ua.NodeId, tuple[ua.NodeId, ...]]:
        """A point's node and who hears of it; the site where there is no such point."""
        if tag not in self._tags:
            return SITE, self.notifiers("")
        return own_id(tag), self.notifiers(tag.partition(".")[0])

    def device(self, name: str) -> tuple[ua.NodeId, tuple[ua.NodeId, ...]]:
        """The same of an equipment."""
        known = name in self.equipment
        return own_id(f"/{name}") if known else SITE, self.notifiers(name)

    def _alarm(self, tag: str, rule: AlarmRule, points: Mapping[str, PointDef]) -> AlarmFacts:
        kind = kind_of(rule, points)
        known = [points[one] for one in kind.inputs if one in points]
        equipment = {point.equipment for point in known}
        source, source_name, notifiers = SITE, self.site, self.notifiers("")
        read = ua.NodeId()
        if len(equipment) == 1:
            one = known[0].equipment
            source, source_name, notifiers = own_id(f"/{one}"), one, self.notifiers(one)
        if len(known) == 1 and len(kind.inputs) == 1:
            source, source_name = own_id(known[0].tag), known[0].tag
            read = source
        return AlarmFacts(
            tag=tag,
            name=tag.partition(".")[2],
            rule=rule,
            kind=kind,
            type_id=standard_id(kind.type_id),
            condition=member_id(tag, CONDITION),
            source=source,
            source_name=source_name,
            notifiers=notifiers,
            input=read,
            severity=SEVERITIES[rule.Priority],
        )
