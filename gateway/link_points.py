"""What the link process tells of itself, as points of the gateway (docs/links.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from config import status
from config.link import LinkFile
from config.points import (
    BRIDGE_CHANNEL,
    BROKER_CHANNEL,
    BUS_CHANNEL,
    GATEWAY_EQUIPMENT,
    STORE_BACKLOG_CHANNEL,
    of_link,
)
from gateway.core.table import PointTable

# Points about the store, and their names in the report (gateway/store_health.py).
STORE_FIGURES: Final = {
    "Store_Used": "used_percent",
    "Store_Written": "written_mb_day",
    "Store_Thinned": "thinned",
    "Store_Free": "free_mb",
}

SetPoint = Callable[[str, float, int], None]


class LinkPoints:
    """Puts a report of the link process into the table, once a second."""

    def __init__(self, config: LinkFile, table: PointTable, set_point: SetPoint) -> None:
        """`set_point` takes channel, value and status code of one of the gateway's points."""
        self._names = [name for name, entry in config.Links.items() if entry.Active]
        self._bus = config.SiteBus is not None
        self._bridges = list(config.Bridges)
        self._table = table
        self._set = set_point
        self._was: dict[str, float] = {}

    def show(self, health: Mapping[str, Any], connected: bool) -> list[dict[str, Any]]:
        """Sets the points; returns what became of them as bodies of events.

        health     the last report, empty where there is none
        connected  the link process listens
        """
        links = health.get("links") or {}
        now = {
            "Link_Connected": float(connected),
            BROKER_CHANNEL: float(connected and bool(health.get("connected"))),
            "Store_Ok": float(connected and bool(health.get("store_ok"))),
        }
        reasons = {
            "Link_Connected": "",
            BROKER_CHANNEL: str(health.get("last_error", "")),
            "Store_Ok": str(health.get("store_error", "")),
        }
        self._number(STORE_BACKLOG_CHANNEL, health.get("backlog"))
        store = health.get("store") or {}
        for channel, figure in STORE_FIGURES.items():
            self._number(channel, store.get(figure))
        for name in self._names:
            link = links.get(name) or {}
            channel = of_link(BROKER_CHANNEL, name)
            now[channel] = float(connected and bool(link.get("connected")))
            reasons[channel] = str(link.get("last_error", ""))
            self._number(of_link(STORE_BACKLOG_CHANNEL, name), link.get("backlog_records"))
        for channel, up, reason in self._outside(health):
            now[channel] = float(connected and up)
            reasons[channel] = reason
        for channel, value in now.items():
            self._set(channel, value, status.GOOD)
        changed = [c for c in now if c in self._was and self._was[c] != now[c]]
        self._was = now
        return [{"what": c, "value": now[c], "reason": reasons[c]} for c in changed]

    def _outside(self, health: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
        """Channel, whether it is connected, and why not, of the site bus and each bridge."""
        if self._bus:
            bus = health.get("site_bus") or {}
            yield BUS_CHANNEL, bool(bus.get("connected")), str(bus.get("last_error", ""))
        for name in self._bridges:
            bridge = (health.get("bridges") or {}).get(name) or {}
            ends = [bridge.get(side) or {} for side in ("local", "remote")]
            errors = "; ".join(str(end["error"]) for end in ends if end.get("error"))
            up = all(end.get("connected") for end in ends)
            yield of_link(BRIDGE_CHANNEL, name), up, errors

    def _number(self, channel: str, value: float | None) -> None:
        """While nobody tells it, the last one is uncertain."""
        if value is not None:
            self._set(channel, float(value), status.GOOD)
            return
        last = self._table.rows[self._table.index[f"{GATEWAY_EQUIPMENT}.{channel}"]]
        if last["status"] < status.BAD:
            self._set(channel, float(last["value"]), status.UNCERTAIN_LAST_USABLE)
