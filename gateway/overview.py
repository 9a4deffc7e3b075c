"""What the field process says of itself: the answer to a status request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from config import status
from config.points import GATEWAY_EQUIPMENT
from config.site import Site
from gateway.core.table import PointTable
from gateway.poll import DevicePoller
from gateway.scan import Scan
from gateway.statistics import ScanStatistics
from safety.engine import Engine

RULES_MAX: Final = 500  # of one answer: each takes 2 µs of the loop
_ACTING: Final = ("trip", "interlock")
SHOWN_KINDS: Final = ("alarm", "state", "trip", "interlock", "permissive")


@dataclass(frozen=True, slots=True)
class Overview:
    """The parts of a field process that its status is about."""

    site: Site
    engine: Engine
    table: PointTable
    pollers: Mapping[str, DevicePoller]
    statistics: ScanStatistics
    scan: Scan

    def status(self, scans: int = 0) -> dict[str, Any]:
        """Site, devices, scan, active rules, control states, bypasses; msgpack-able.

        The times of the scan are those of the newest `scans`, 0 = of all that are remembered.
        """
        backlog = self.table.index[f"{GATEWAY_EQUIPMENT}.Backlog"]
        return {
            "site": self.site.name,
            "config_hash": self.site.hash,
            "points": len(self.site.points),
            "startup": self.engine.startup,
            "waiting_for": self._waiting_for(),
            "devices": {
                name: {
                    "protocol": poller.instrument.tags.Communication,
                    "points": len(poller.indexes),
                    **asdict(poller.statistics),
                }
                for name, poller in self.pollers.items()
            },
            "scan": {
                "period_ms": self.site.scan_period_ns / 1e6,
                **self.statistics.plain(scans),
            },
            **self._active_rules(),
            "machines": [
                {"name": info.name, "state": self.engine.mode(machine)}
                for machine, info in enumerate(self.engine.program.machine_info)
            ],
            "alarms": self.scan.alarms.overview(),
            "bypasses": self.scan.requests.bypasses(),
            "schedules": self.scan.schedules.overview(),
            "backlog": float(self.table.rows["value"][backlog]),
        }

    def _active_rules(self) -> dict[str, Any]:
        """The active rules, trips first; in a flood some of them and how many there are more."""
        values, _ = self.engine.rule_points()
        info = self.engine.program.info
        found = np.flatnonzero(values > 0).tolist()
        active = [rule for rule in found if info[rule].kind in SHOWN_KINDS]
        active.sort(key=lambda rule: info[rule].kind not in _ACTING)
        rules = [
            {
                "name": info[rule].name,
                "kind": info[rule].kind,
                "level": info[rule].levels[int(values[rule]) - 1],
                "latched": bool(self.engine.latched[rule]),
                "alarm": self.scan.alarms.state_of(rule),
            }
            for rule in active[:RULES_MAX]
        ]
        return {"rules": rules, "rules_more": len(active) - len(rules)}

    def _waiting_for(self) -> list[str]:
        """Points that hold the start-up trip: protective, and not yet seen good."""
        if not self.engine.startup:
            return []
        bad = self.engine.program.protective & (self.table.rows["status"] >= status.BAD)
        return [self.table.points[index - 1].tag for index in np.flatnonzero(bad)]
