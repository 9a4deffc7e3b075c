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
        """Site, devices, scan, active rules, bypasses; msgpack-able.

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
            "rules": self._active_rules(),
            "alarms": self.scan.alarms.overview(),
            "bypasses": self.scan.requests.bypasses(),
            "backlog": float(self.table.rows["value"][backlog]),
        }

    def _active_rules(self) -> list[dict[str, Any]]:
        return [
            {
                "name": info.name,
                "kind": info.kind,
                "level": info.levels[int(value) - 1],
                "latched": bool(self.engine.latched[rule]),
                "alarm": self.scan.alarms.state_of(rule),
            }
            for rule, info in enumerate(self.engine.program.info)
            if info.kind in SHOWN_KINDS and (value := self.engine.point_value(rule)) > 0
        ]

    def _waiting_for(self) -> list[str]:
        """Points that hold the start-up trip: protective, and not yet seen good."""
        if not self.engine.startup:
            return []
        bad = self.engine.program.protective & (self.table.rows["status"] >= status.BAD)
        return [self.table.points[index - 1].tag for index in np.flatnonzero(bad)]
