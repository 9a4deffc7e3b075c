"""What every benchmark prints: figures, checks against limits, and the machine they ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Sense = Literal["<=", ">="]


@dataclass
class Report:
    """Figures of one run of one benchmark."""

    bench: str
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, name: str, value: Any) -> None:
        """Note a figure; its name ends in its unit."""
        self.figures[name] = round(value, 4) if isinstance(value, float) else value

    def check(self, name: str, value: float, sense: Sense, limit: float) -> None:
        """Note a figure that an issue gives a limit for."""
        self.figure(name, value)
        ok = value <= limit if sense == "<=" else value >= limit
        row = {"name": name, "value": round(value, 4), "limit": limit, "sense": sense, "ok": ok}
        self.checks.append(row)

    def print(self, as_json: bool) -> int:
        """Print the report; the exit status is 1 where a check does not hold."""
        if as_json:
            head = {"bench": self.bench, "machine": machine(), "date": f"{datetime.now(UTC):%F}"}
            print(json.dumps({**head, "figures": self.figures, "checks": self.checks}))
        else:
            for name, value in self.figures.items():
                print(f"{name:40} {value}")
            for row in self.checks:
                sign = "ok  " if row["ok"] else "MISS"
                print(f"{sign} {row['name']}: {row['value']} {row['sense']} {row['limit']}")
        return 0 if all(row["ok"] for row in self.checks) else 1


def machine() -> str:
    """What it ran on, without naming the machine itself."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def arguments(text: str | None) -> argparse.Namespace:
    """``--json`` and ``--quick``, which every benchmark has."""
    parser = argparse.ArgumentParser(description=(text or "").strip().splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, which never mixes with the figures."""
    print(text, file=sys.stderr, flush=True)
