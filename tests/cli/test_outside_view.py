"""The site bus and the bridges in ``gatepost status``."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from config.link import BridgeEntry, BridgeTopic, BrokerConnection, SiteBusEntry
from gateway.cli.outside_view import outside_view
from gateway.core.clock import ManualClock
from sync.bridge.bridge import Bridge
from sync.bus.relay import SiteBus


def shown(link: dict[str, Any] | None) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    for part in outside_view({"link": link}):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


async def nobody(message: Any) -> Any:
    return ""


def bridge_status() -> dict[str, Any]:
    """As a bridge itself says it, so that the view can't ask for what is not there."""
    entry = BridgeEntry(
        Local=BrokerConnection(),
        Remote=BrokerConnection(),
        Topics=[BridgeTopic(From="a/#", To="b")],
    )
    return Bridge("bal", entry, "lab", ManualClock()).status()


def test_a_site_without_them_has_no_lines() -> None:
    assert shown(None) == ""
    assert shown({"site_bus": {}, "bridges": {}}) == ""


def test_the_bus_says_how_it_does() -> None:
    bus = SiteBus(SiteBusEntry(), "lab", ("Opto",), ManualClock(), nobody, nobody).status()
    line = shown({"site_bus": {**bus, "last_error": "broker mqtt://x: refused"}})
    assert "down" in line
    assert "refused" in line
    assert "1200 requests" in shown({"site_bus": {**bus, "connected": True, "requests": 1200}})


def test_a_bridge_has_a_row_for_each_direction_and_what_was_lost() -> None:
    status = bridge_status()
    status["in"] |= {"forwarded": 12_000, "refused": 2, "looped": 1}
    status["remote"]["error"] = "broker mqtts://far: no answer"
    (row,) = [line for line in shown({"bridges": {"bal": status}}).splitlines() if "bal" in line]
    assert "12000" in row
    assert "no answer" in row
    assert "2 refused" in row
    assert "1 looped" in row
