"""The site bus and the bridges of a running gateway; a part of ``gatepost status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.output import number, one_line, table

# Of a bridge's counts, those that did not go on; all stand in ``status --json``.
_LEFT_OUT: Final = ("looped", "expired", "refused", "dropped")


def outside_view(status: Mapping[str, Any]) -> list[RenderableType]:
    """A line for the bus and a row for each direction of a bridge; nothing where there is none."""
    link = status["link"] or {}
    parts: list[RenderableType] = []
    if link.get("site_bus"):
        parts += [Text(), _bus(link["site_bus"])]
    if link.get("bridges"):
        parts += [Text(), _bridges(link["bridges"])]
    return parts


def _bus(bus: Mapping[str, Any]) -> Text:
    line = Text("site bus  ")
    line.append_text(_state(bus["connected"]))
    figures = (
        f"  {bus['equipment']} equipment, {number(float(bus['requests']))} requests, "
        f"{number(float(bus['commands']))} commands, {number(float(bus['refused']))} refused"
    )
    line.append(figures)
    if not bus["connected"] and bus["last_error"]:
        line.append(f"  {one_line(bus['last_error'])}")
    return line


def _bridges(bridges: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    right = ("FORWARDED", "HELD", "LEFT OUT")
    shown = table("BRIDGE", "LOCAL", "REMOTE", "", *right, "NOTE", right=right)
    for name, bridge in bridges.items():
        ends = [bridge["local"], bridge["remote"]]
        errors = [end["error"] for end in ends if not end["connected"] and end["error"]]
        for direction in ("in", "out"):
            if direction not in bridge:
                continue
            lane = bridge[direction]
            counts = {count: lane[count] for count in _LEFT_OUT if lane[count]}
            told = ", ".join(f"{many} {count}" for count, many in counts.items())
            note = "; ".join(text for text in (*errors, lane["problem"], told) if text)
            shown.add_row(
                name,
                *(_state(end["connected"]) for end in ends),
                direction,
                number(float(lane["forwarded"])),
                number(float(lane["held"])),
                number(float(sum(counts.values()))),
                one_line(note),
            )
    return shown


def _state(connected: bool) -> Text:
    return Text("up", style="green") if connected else Text("down", style="bold yellow")
