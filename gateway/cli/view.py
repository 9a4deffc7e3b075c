"""The status of a field process, drawn as tables; shared by ``status`` and the demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli.output import number, table


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """The answer to a status request as one block: site, devices, scan, link, active rules."""
    return Group(_head(status), Text(), devices_view(status), Text(), _scan(status), _rules(status))


def _head(status: Mapping[str, Any]) -> Text:
    text = Text(
        f"{status['site']}  epoch {status['epoch']}  {status['points']} points  "
        f"sequence {status['seq']}  stored {status['taken']}"
    )
    if status["startup"]:
        text.append("  START-UP TRIP", style="bold red")
    return text


def devices_view(status: Mapping[str, Any]) -> RenderableType:
    """A row a device."""
    right = ("POINTS", "POLLS", "ERRORS", "SKIPPED", "WRITES", "POLL ms")
    shown = table("DEVICE", "PROTOCOL", "STATE", *right, "LAST ERROR", right=right)
    for name, device in status["devices"].items():
        up = Text("up", style="green") if device["connected"] else Text("down", style="bold red")
        shown.add_row(
            name,
            device["protocol"],
            up,
            *(f"{device[key]}" for key in ("points", "polls", "errors", "skipped", "writes")),
            f"{device['poll_ms']:.1f}",
            Text(device["last_error"][:60]),
        )
    return shown


def _scan(status: Mapping[str, Any]) -> RenderableType:
    scan, link = status["scan"], status["link"]
    shown = table("", "")
    shown.add_row(
        "scan",
        f"every {scan['period_ms']:g} ms, {scan['count']} done, {scan['overruns']} skipped, "
        f"late by {scan['lateness_p99_ms']:.1f} ms (99 %)",
    )
    if link is None:
        shown.add_row("link", Text("not connected; the journal keeps records", style="bold red"))
        return shown
    broker = "connected" if link.get("connected") else "not connected"
    shown.add_row("broker", Text(broker, style="" if link.get("connected") else "bold yellow"))
    epoch, acknowledged = link.get("acknowledged") or (0, 0)
    shown.add_row("acknowledged", f"{acknowledged if epoch == status['epoch'] else 0}")
    shown.add_row("backlog", f"{number(float(link.get('backlog', 0)))} records")
    if not link.get("store_ok", True):
        shown.add_row("store", Text(str(link.get("reason", "")), style="bold red"))
    return shown


def _rules(status: Mapping[str, Any]) -> RenderableType:
    if not status["rules"]:
        return Text("no rule is active")
    shown = table("RULE", "KIND", "LEVEL", "LATCHED")
    for rule in status["rules"]:
        style = "bold red" if rule["kind"] == "trip" else ""
        latched = "latched" if rule["latched"] else ""
        shown.add_row(Text(rule["name"], style=style), rule["kind"], rule["level"], latched)
    return shown
