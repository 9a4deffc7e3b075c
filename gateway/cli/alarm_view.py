"""Alarms drawn as tables: the list, one alarm with its rationalisation, the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli.output import counted, printable, table
from gateway.cli.times import duration_text, iso_utc
from safety import alarm_states as s
from safety.alarm_figures import PRIORITIES

_ORDER: Final = tuple(
    s.STATES[state]
    for state in (
        *(s.UNACKNOWLEDGED, s.LATCHED_UNACKNOWLEDGED, s.RETURNED),
        *(s.ACKNOWLEDGED, s.LATCHED_ACKNOWLEDGED),
        *(s.SHELVED, s.SUPPRESSED, s.OUT_OF_SERVICE, s.NORMAL),
    )
)
_STYLES: Final = {
    s.STATES[state]: "bold red" for state in (s.UNACKNOWLEDGED, s.LATCHED_UNACKNOWLEDGED)
}


def moment(utc_ns: int) -> str:
    """A time to the second, in UTC; ``-`` for none."""
    return f"{iso_utc(utc_ns)[:19]}Z" if utc_ns else "-"


def alarm_list(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A line an alarm: what waits for the operator first, then by priority, the newest first."""
    if not rows:
        return Text("no alarm")
    shown = table("STATE", "PRIORITY", "ALARM", "LEVEL", "SINCE", "")
    for row in sorted(rows, key=_rank):
        state = Text(row["state"], style=_STYLES.get(row["state"], ""))
        since = moment(row["since_utc_ns"])
        level = Text(printable(row["level"] or "-", ""))
        shown.add_row(state, row["priority"], row["name"], level, since, _note(row))
    return shown


def untold(rows: Sequence[Mapping[str, Any]], bad_input: Sequence[str]) -> list[RenderableType]:
    """A line on the alarms that are not in the list, and can't come into it.

    bad_input  the names of all alarms that have a bad input
    """
    shown = {row["name"] for row in rows}
    hidden = [name for name in bad_input if name not in shown]
    if not hidden:
        return []
    text = f"{counted(len(hidden), 'alarm')} can't come, an input is bad: {_some(hidden)}"
    return [Text(printable(text, ""), style="bold yellow")]


def overview_line(alarms: Mapping[str, Any]) -> Text:
    """The alarms in one line of the status: how many are in which state."""
    parts = [
        f"{alarms[key]} {words}"
        for key, words in (
            ("unacknowledged", "unacknowledged"),
            ("standing", "standing"),
            ("shelved", "shelved"),
            ("suppressed", "suppressed by design"),
            ("out_of_service", "out of service"),
        )
        if alarms[key]
    ]
    text = Text(f"alarms: {', '.join(parts) or 'all normal'}")
    if alarms["flood"]:
        text.append("  ALARM FLOOD", style="bold red")
    if alarms["bad_input"]:
        names = _some(alarms["bad_input_names"], alarms["bad_input"])
        held = f"; {alarms['bad_input']} with a bad input: {printable(names, '')}"
        text.append(held, style="bold yellow")
    return text


def _rank(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return (
        _ORDER.index(row["state"]),
        PRIORITIES.index(row["priority"]),
        -int(row["since_utc_ns"]),
    )


def _note(row: Mapping[str, Any]) -> str:
    """What the state alone doesn't say: held on a bad input, until when, by whom and why."""
    parts = []
    if row["quality"] == "bad":
        inputs = ", ".join(f"{tag} {status}" for tag, status in row["bad_inputs"])
        parts.append(f"an input is bad: {inputs}" if inputs else "an input is bad")
    if row["shelved_until_utc_ns"]:
        parts.append(f"until {moment(row['shelved_until_utc_ns'])}")
    if row["by"]:
        parts.append(f"by {row['by']}")
    text = ", ".join(parts)
    return f"{text}: {row['comment']}" if row["comment"] else text


def alarm_sheet(row: Mapping[str, Any]) -> RenderableType:
    """Everything that is known of one alarm, its rationalisation too."""
    shown, longest_ns = table("", ""), round(row["shelve_max_s"] * 1e9)
    since = f" since {moment(row['since_utc_ns'])}" if row["since_utc_ns"] else ""
    for name, value in (
        ("alarm", f"{row['name']}  ({row['tag']})"),
        ("", row["description"]),
        ("state", f"{row['state']}{since}"),
        ("level", row["level"] or "-"),
        ("priority", row["priority"]),
        ("", _note(row)),
        ("cause", row["cause"]),
        ("consequence", row["consequence"]),
        ("action", row["action"]),
        ("suppressed when", row["suppress_when"]),
        ("shelved at most", duration_text(longest_ns) if longest_ns else "never"),
    ):
        if value:
            shown.add_row(name, value)
    return shown


def figures_view(figures: Mapping[str, Any]) -> RenderableType:
    """The figures of EEMUA 191 and ISA-18.2, with what they call good."""
    shown = table("FIGURE", "NOW", "NOTE", right=("NOW",))
    count = figures["announced"]
    for name, value, note in (
        ("configured", figures["configured"], ""),
        ("active", figures["active"], "their condition holds"),
        ("standing", figures["standing"], "in the list: fewer than 10 are good"),
        ("unacknowledged", figures["unacknowledged"], ""),
        ("shelved", figures["shelved"], ""),
        ("suppressed by design", figures["suppressed"], ""),
        ("out of service", figures["out_of_service"], ""),
        ("in the last 10 min", figures["rate"], "1 is good, more than 10 a flood"),
        ("in any 10 min of 24 h", figures["rate_peak"], "10 at most are good"),
        ("in the last 24 h", count, "144 are good, 288 can be managed"),
        ("time in floods, 24 h", f"{figures['flood_share']:.1%}", "less than 1 % is good"),
        ("chattering", len(figures["chattering"]), _some(figures["chattering"])),
        ("stale", len(figures["stale"]), _some(figures["stale"])),
        ("with a bad input", len(figures["bad_input"]), _some(figures["bad_input"])),
    ):
        shown.add_row(name, str(value), note)
    for priority, wanted in (("urgent", 1), ("high", 5), ("medium", 15), ("low", 80)):
        share = figures["priorities"][priority] / count if count else 0.0
        note = f"of 24 h; about {wanted} % is good"
        shown.add_row(f"priority {priority}", f"{share:.0%}", note)
    parts: list[RenderableType] = [shown]
    if figures["flood"]:
        parts.insert(0, Text("ALARM FLOOD", style="bold red"))
    if figures["frequent"]:
        often = ", ".join(f"{name} ({times})" for name, times in figures["frequent"])
        parts.append(Text(f"most frequent since the start: {printable(often, '')}"))
    return Group(*parts)


def _some(names: Sequence[str], count: int = 0) -> str:
    """The first five names, and how many more there are of `count`, or of the names."""
    shown, more = ", ".join(names[:5]), max(count, len(names)) - 5
    return f"{shown} and {more} more" if more > 0 else shown
