"""The links of a running gateway, drawn as a table; a part of ``gatepost status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from config.link import CLOUD
from gateway.cli.output import number, one_line, table
from gateway.cli.times import duration_text


def links_view(status: Mapping[str, Any]) -> list[RenderableType]:
    """A row a link; nothing where the cloud is the only one and has nothing to say."""
    links = (status["link"] or {}).get("links") or {}
    if not any(name != CLOUD or link.get("held_back") for name, link in links.items()):
        return []
    right = ("BACKLOG", "GONE IN")
    shown = table("LINK", "STATE", *right, "BROKER", "NOTE", right=right)
    for name, link in links.items():
        shown.add_row(
            name,
            _state(link),
            number(float(link.get("backlog_records", 0))),
            _gone_in(link),
            str(link.get("url", "")),
            one_line(_note(link)),
        )
    return [Text(), shown]


def _state(link: Mapping[str, Any]) -> Text:
    if link.get("connected"):
        return Text("up", style="green")
    return Text("down", style="bold yellow")


def _gone_in(link: Mapping[str, Any]) -> str:
    left_s = link.get("empty_in_s")
    return duration_text(round(left_s * 1e9)) if left_s is not None and left_s >= 1 else "-"


def _note(link: Mapping[str, Any]) -> str:
    why = str(link.get("last_error", "")) if not link.get("connected") else ""
    return why or str(link.get("held_back", ""))
