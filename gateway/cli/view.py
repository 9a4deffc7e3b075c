"""The status of a field process, drawn as tables; shared by ``status`` and the demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli.alarm_view import overview_line
from gateway.cli.link_view import links_view
from gateway.cli.output import counted, number, one_line, printable, table
from gateway.cli.outside_view import outside_view
from gateway.cli.times import duration_text, iso_utc

BAD: Final = "bold red"
WAITING_SHOWN_MAX: Final = 5
LATCHED_LEGEND: Final = (
    "latched: stays until it is reset once its cause is gone, `gatepost reset SITE`"
)


def status_view(status: Mapping[str, Any], hint: str = "") -> RenderableType:
    """The answer to a status request as one block: site, devices, scan, link, active rules."""
    parts = (_head(status), Text(), devices_view(status), Text(), _scan(status))
    return Group(
        *parts,
        *([Text(hint, style=BAD)] if hint else []),
        *links_view(status),
        *outside_view(status),
        Text(),
        *_rules(status),
        *_machines(status),
        *bypasses_view(status),
        *_schedules(status),
    )


def small_view(status: Mapping[str, Any], lines: int) -> list[RenderableType]:
    """The same in at most `lines` lines of 80 columns (where the devices alone aren't more)."""
    right = ("POINTS", "POLLS", "ERRORS", "POLL ms")
    shown = table("DEVICE", "STATE", *right, "LAST ERROR", right=right)
    for name, device in status["devices"].items():
        figures = (f"{device[key]}" for key in ("points", "polls", "errors"))
        poll_ms = f"{device['poll_ms']:.1f}"
        shown.add_row(name, _up(device), *figures, poll_ms, one_line(device["last_error"]))
    scan = Text(f"scan {_scan_figures(status)}")
    parts: list[RenderableType] = [_head(status), shown, scan, _small_link(status)]
    if status.get("machines"):
        parts.append(Text(f"control states  {machines_text(status)}"))
    used = len(parts) + len(status["devices"])
    rules = sorted(status["rules"], key=lambda rule: bool(rule["kind"] != "trip"))
    room = max(1, lines - used)
    more = len(rules) - room + status.get("rules_more", 0)
    for rule in rules if more <= 0 else rules[: room - 1]:
        latched = ", latched" if rule["latched"] else ""
        style = BAD if rule["kind"] == "trip" else ""
        parts.append(Text(f"{rule['kind']} {rule['name']}: {rule['level']}{latched}", style))
    if more > 0:
        parts.append(Text(f"and {more + 1} more active rules"))
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
    return parts


def _head(status: Mapping[str, Any]) -> Text:
    text = Text(
        f"{status['site']}  epoch {status['epoch']}  {status['points']} points  "
        f"sequence {status['seq']}  stored {status['taken']}"
    )
    if status["startup"]:
        text.append("  START-UP TRIP", style=BAD)
        waiting = [str(tag) for tag in status.get("waiting_for") or ()]
        if waiting:
            text.append(f": outputs are safe until these are good: {_some(waiting)}")
    return text


def _some(names: Sequence[str]) -> str:
    more = len(names) - WAITING_SHOWN_MAX
    shown = ", ".join(names[:WAITING_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown


def _up(device: Mapping[str, Any]) -> Text:
    return Text("up", style="green") if device["connected"] else Text("down", style=BAD)


def devices_view(status: Mapping[str, Any]) -> RenderableType:
    """A row a device, and below them the last errors: the rows fit 80 columns."""
    right = ("POINTS", "POLLS", "ERRORS", "SKIPPED", "WRITES", "POLL ms")
    shown = table("DEVICE", "PROTOCOL", "STATE", *right, right=right)
    errors = []
    for name, device in status["devices"].items():
        shown.add_row(
            name,
            device["protocol"],
            _up(device),
            *(f"{device[key]}" for key in ("points", "polls", "errors", "skipped", "writes")),
            f"{device['poll_ms']:.1f}",
        )
        if device["last_error"]:
            errors.append(Text(printable(f"{name}: {device['last_error']}", "")))
    return Group(shown, *errors)


def _scan_figures(status: Mapping[str, Any]) -> str:
    scan = status["scan"]
    return (
        f"every {scan['period_ms']:g} ms, {scan['count']} done, {scan['overruns']} skipped, "
        f"late by {scan['lateness_p99_ms']:.1f} ms (99 %)"
    )


def _scan(status: Mapping[str, Any]) -> RenderableType:
    link = status["link"]
    shown = table("", "")
    shown.add_row("scan", _scan_figures(status))
    if link is None:
        shown.add_row("link", Text("not connected; the journal keeps records", style=BAD))
        return shown
    shown.add_row("broker", broker_text(link))
    shown.add_row("acknowledged", f"{_acknowledged(status)}")
    shown.add_row("backlog", f"{number(float(link.get('backlog', 0)))} records")
    if not link.get("store_ok", True):
        shown.add_row("store", Text(str(link.get("reason", "")), style=BAD))
    shown.add_row("OPC UA", _opcua(link))
    if link.get("history"):
        shown.add_row("history", _history(link["history"]))
    inbox = link.get("inbox") or {}
    if inbox.get("fault"):
        shown.add_row("commands", Text(printable(str(inbox["fault"]), ""), style=BAD))
    elif inbox.get("keys"):
        taken, refused = inbox["taken"], inbox["refused"]
        keys = counted(inbox["keys"], "key")
        shown.add_row("commands", f"{taken} taken, {refused} refused; {keys}")
    if link.get("certificate_fault"):
        why = f"not renewed: {printable(str(link['certificate_fault']), '')}"
        shown.add_row("certificate", Text(why, style=BAD))
    elif link.get("certificate_ends_ns"):
        shown.add_row("certificate", f"until {iso_utc(link['certificate_ends_ns'])[:10]}")
    return shown


def _history(history: Mapping[str, Any]) -> Text:
    """Since when values are kept, and what is wrong with it."""
    if history.get("problem"):
        return Text(printable(str(history["problem"]), ""), style=BAD)
    first_ns = history.get("first_ns")
    text = Text(f"since {iso_utc(first_ns)[:19]}Z" if first_ns else "empty")
    if history.get("damaged"):
        why = f"; its file was damaged and lies in {history['damaged']}"
        text.append(printable(why, ""), style="bold yellow")
    return text


def broker_text(link: Mapping[str, Any]) -> Text:
    """Connected or not, with the address, and why not."""
    url = str(link.get("url", ""))
    if link.get("connected"):
        return Text(f"connected, {url}" if url else "connected")
    why = str(link.get("last_error", ""))
    told = ": ".join(filter(None, (url, why.removeprefix(f"{url}: "))))
    text = f"not connected, {printable(told, '')}" if told else "not connected"
    return Text(text, style="bold yellow")


def _acknowledged(status: Mapping[str, Any]) -> int:
    epoch, acknowledged = (status["link"] or {}).get("acknowledged") or (0, 0)
    return int(acknowledged) if epoch == status["epoch"] else 0


def _opcua(link: Mapping[str, Any]) -> Text:
    """The address in use; else why there is none: the link has one reason for all its parts."""
    if link.get("opcua"):
        clients = link.get("opcua_clients")
        return Text(str(link["opcua"]) + (f", {counted(clients, 'client')}" if clients else ""))
    reason = str(link.get("reason", ""))
    if link.get("opcua_starts"):
        return Text("starting")
    elsewhere = not link.get("store_ok", True) or reason == link.get("last_error", "")
    if elsewhere or not reason:
        return Text("not listening")
    return Text(f"not listening: {reason}", style="bold yellow")


def _small_link(status: Mapping[str, Any]) -> Text:
    link = status["link"]
    if link is None:
        return Text("link not connected; the journal keeps records", style=BAD)
    backlog = number(float(link.get("backlog", 0)))
    text = Text(f"backlog {backlog}  acknowledged {_acknowledged(status)}  broker ")
    text.append_text(broker_text(link))
    if not link.get("store_ok", True):
        text = Text(f"store: {link.get('reason', '')}  backlog {backlog}", style=BAD)
    return text


def machines_text(status: Mapping[str, Any]) -> str:
    """Each machine with its present state, on one line."""
    found = status.get("machines") or ()
    return ", ".join(f"{machine['name']}: {machine['state']}" for machine in found)


def _machines(status: Mapping[str, Any]) -> list[RenderableType]:
    """A row a machine of control states; nothing where the site has none."""
    found = status.get("machines") or ()
    if not found:
        return []
    shown = table("CONTROL STATES", "STATE")
    for machine in found:
        shown.add_row(machine["name"], machine["state"])
    return [Text(), shown]


def bypasses_view(status: Mapping[str, Any]) -> list[RenderableType]:
    """What is bypassed now, with the time left; nothing where nothing is."""
    found = status.get("bypasses") or ()
    if not found:
        return []
    shown = table("BYPASSED", "LEFT", "CAUSE", "WHY", "BY")
    for entry in found:
        left = duration_text(round(entry["left_s"] * 1e9))
        cause = Text("holds", style=BAD) if entry["held_back"] else "-"
        shown.add_row(entry["name"], left, cause, entry["comment"], entry["source"])
    return [Text(), shown]


def _schedules(status: Mapping[str, Any]) -> list[RenderableType]:
    """What schedules drive and for how long; nothing where there is none."""
    found = status.get("schedules") or {}
    if not found.get("schedules"):
        return []
    left = duration_text(round(found["left_s"] * 1e9))
    line = Text(f"schedules  {found['schedules']}, {found['points']} points driven")
    line.append(f", the first runs out in {left}" if found["left_s"] else "")
    parts: list[RenderableType] = [Text(), line]
    if found["waits"]:
        why = f"schedules wait, the clock can't be true: {found['waits']}"
        parts.append(Text(printable(why), style=BAD))
    parts += [Text(printable(f"refused: {tag}: {why}"), style=BAD) for tag, why in found["refused"]]
    if found["refused_more"]:
        parts.append(Text(f"and {found['refused_more']} more refused", style=BAD))
    return parts


def _rules(status: Mapping[str, Any]) -> list[RenderableType]:
    alarms = [overview_line(status["alarms"])] if status.get("alarms") else []
    if not status["rules"]:
        return [Text("no rule is active"), *alarms]
    shown = table("RULE", "KIND", "LEVEL", "LATCHED", "ALARM IS")
    for rule in status["rules"]:
        style = BAD if rule["kind"] == "trip" else ""
        latched = "latched" if rule["latched"] else ""
        name, state = Text(rule["name"], style=style), rule.get("alarm", "")
        shown.add_row(name, rule["kind"], rule["level"], latched, state)
    parts: list[RenderableType] = [shown]
    if status.get("rules_more"):
        parts.append(Text(f"and {status['rules_more']} more active rules"))
    if any(rule["latched"] for rule in status["rules"]):
        parts.append(Text(LATCHED_LEGEND, style="dim"))
    return [*parts, *alarms]
