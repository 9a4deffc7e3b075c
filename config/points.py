"""Points: what a site's channels, rules and the gateway itself become.

A point is an addressable value with one tag, ``Equipment.Channel``. Its definition is fixed
while a configuration is in force; its value lives in the point table (gateway/core/table.py) in
the layout `POINT`, the one layout used in memory and in safety kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

import numpy as np

POINT: Final = np.dtype(
    [
        ("value", "f8"),
        ("status", "u4"),  # OPC UA StatusCode, see config/status.py
        ("flags", "u4"),
        ("utc_ns", "i8"),  # source time, wall clock; may step
        ("mono_ns", "i8"),  # source time, monotonic; ages are measured on this
        ("seq", "u8"),  # journal number of the last report, 0 = none
    ]
)
assert POINT.itemsize == 40

# Row 0 of every point table: never written, always bad. An unwired reference points here, so
# that no fast path needs a null check.
NO_POINT: Final = 0

PointKind = Literal["analog", "discrete"]
PointSource = Literal["device", "rule", "gateway", "virtual"]


@dataclass(frozen=True, slots=True)
class PointDef:
    """One point. NaN in a limit means that none is declared.

    index            row of the point table, 1 and up
    tag              ``Equipment.Channel``, unique in the site
    kind             ``analog`` (a number with units) or ``discrete`` (whole numbers, with names)
    source           who writes it: a device's poll, the rule program (``virtual``: it calculates
                     the point; ``rule``: the point shows a rule), or the gateway itself
    scan_class       name of the scan class that polls it; empty where no device does
    age_ns_max       older than this is bad
    deadband         smallest change that is reported, in units of the point
    heartbeat_ns     longest silence between two reports
    value_min/max    engineering range; a command outside is refused
    safe_value       what an output takes when a trip does not say otherwise, and at start
    fallback         what an output takes when its last setpoint ended
    rate_max_per_s   largest change per second that a command may ask for
    ramp_rate_per_s  how fast setpoints are approached; protection does not wait for it
    lease_ns         longest lease of a remote setpoint; 0 = operator's choice
    tolerance        largest difference of read-back and setpoint that counts as verified
    read_back        index of the point that shows the output; the own index where it can be read
    states           names of discrete values, position = value
    counter          counts up: its values are kept where others are thinned out
    """

    index: int
    tag: str
    equipment: str
    channel: str
    kind: PointKind = "analog"
    source: PointSource = "device"
    units: str = ""
    description: str = ""
    readable: bool = True
    writable: bool = False
    scan_class: str = ""
    age_ns_max: int = 0
    deadband: float = 0.0
    heartbeat_ns: int = 60_000_000_000
    value_min: float = math.nan
    value_max: float = math.nan
    safe_value: float = math.nan
    fallback: float = math.nan
    rate_max_per_s: float = math.nan
    ramp_rate_per_s: float = math.nan
    lease_ns: int = 0
    tolerance: float = 0.0
    read_back: int = NO_POINT
    states: tuple[str, ...] = field(default=())
    counter: bool = False

    @property
    def is_output(self) -> bool:
        """True for a point of a device that commands or trips can drive."""
        return self.writable and self.source == "device"


# Points of the gateway itself. They stand in every site, behind the devices' points, under the
# equipment name below; `Reset` and `E_Stop` are written by commands like any other output.
GATEWAY_EQUIPMENT: Final = "Gateway"
BROKER_CHANNEL: Final = "Broker_Connected"
STORE_BACKLOG_CHANNEL: Final = "Backlog"
BUS_CHANNEL: Final = "Bus_Connected"  # where link.json has a SiteBus
BRIDGE_CHANNEL: Final = "Bridge_Connected"  # of each entry of Bridges, see `of_link`
GATEWAY_POINTS: Final[tuple[tuple[str, PointKind, str, bool, str], ...]] = (
    # channel, kind, units, writable, description
    ("E_Stop", "discrete", "", True, "emergency stop asked for at the gateway; 1 = stop"),
    ("Reset", "discrete", "", True, "write 1 to reset latched trips whose causes are gone"),
    ("Scan_Lateness", "analog", "ms", False, "largest lateness of a scan in the last second"),
    ("Scan_Jitter", "analog", "ms", False, "spread of the lateness in the last second"),
    ("Scan_Duration", "analog", "ms", False, "longest scan in the last second"),
    ("Scan_Overruns", "discrete", "", False, "scans skipped since the start"),
    ("Link_Connected", "discrete", "", False, "1 while the link process listens to the journal"),
    (BROKER_CHANNEL, "discrete", "", False, "1 while the link holds a broker session"),
    ("Store_Ok", "discrete", "", False, "1 while the store takes frames; 0 = full or failed"),
    ("Store_Used", "analog", "%", False, "room that stored data take of the store's quota"),
    ("Store_Written", "analog", "MB", False, "written to the disk a day, of the last day or less"),
    ("Store_Thinned", "discrete", "", False, "values given up for want of room, since the start"),
    ("Store_Free", "analog", "MB", False, "free on the disk of the store"),
    (STORE_BACKLOG_CHANNEL, "analog", "records", False, "records stored and not yet acknowledged"),
    ("Alarms_Active", "discrete", "", False, "alarms whose condition holds"),
    ("Alarms_Unacknowledged", "discrete", "", False, "alarms that wait for an acknowledgement"),
    ("Alarms_Shelved", "discrete", "", False, "alarms shelved, suppressed or out of service"),
    ("Alarm_Rate", "discrete", "", False, "alarms announced in the last ten minutes"),
    ("Alarms_Chattering", "discrete", "", False, "alarms that came three times in a minute"),
    ("Alarms_Stale", "discrete", "", False, "alarms that stand for more than 24 h"),
    ("Alarms_Bad_Input", "discrete", "", False, "alarms that can't be told: an input is bad"),
    ("Bypasses", "discrete", "", False, "causes that are bypassed now"),
    ("Schedule_Points", "discrete", "", False, "outputs that have a schedule's setpoint now"),
    ("Schedule_Refused", "discrete", "", False, "outputs whose slot is refused, see the receipts"),
    ("Schedule_Left", "analog", "s", False, "until the first scheduled output runs out; 0 = none"),
)

# And for each entry of Links in link.json, the channel of `of_link`.
LINK_POINTS: Final[tuple[tuple[str, PointKind, str, str], ...]] = (
    (BROKER_CHANNEL, "discrete", "", "1 while there is a session with the broker of Links."),
    (STORE_BACKLOG_CHANNEL, "analog", "records", "records stored and not yet taken by Links."),
)

# Equipment names that belong to the gateway; an instrument can't have them.
RULE_EQUIPMENT: Final[dict[str, str]] = {
    "alarm": "Alarms",
    "state": "States",
    "machine": "States",
    "control": "Controls",
    "function": "Functions",
}
RESERVED_EQUIPMENT: Final = (GATEWAY_EQUIPMENT, *dict.fromkeys(RULE_EQUIPMENT.values()))

_SWITCH_WORDS: Final = {"on": 1, "true": 1, "off": 0, "false": 0}

# Folders that the seed's rule names start with; the tag's equipment says the same.
_RULE_FOLDERS: Final = ("Alarms/", "Controls/", "Control/", "Functions/")


def of_link(channel: str, name: str) -> str:
    """The channel of one of the gateway's points that exists for each link, or each bridge."""
    return f"{channel}_{name}"


def fits(name: str, patterns: Sequence[str]) -> bool:
    """True where a tag or a name of equipment is one of `patterns`, or matches one."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def state_number(states: Sequence[str], name: str) -> int | None:
    """The value that a state's name stands for, in any case; None where there is no such state."""
    if name in states:
        return states.index(name) if name else None
    folded = [state.lower() for state in states]
    return folded.index(name.lower()) if name.lower() in folded else None


def switch_number(states: Sequence[str], word: str) -> int | None:
    """The value that a word stands for at a discrete point: one of its states, else on or off.

    Names go first: of the states ON, OFF the value 0 is ON, so "off" must not become 0.
    """
    state = state_number(states, word)
    return state if state is not None else _SWITCH_WORDS.get(word.lower())


def rule_channel(name: str) -> str:
    """The channel part of a rule's tag: `name` without its folder, slashes as underscores."""
    for folder in _RULE_FOLDERS:
        if name.startswith(folder):
            name = name.removeprefix(folder)
            break
    return name.replace("/", "_")


def rule_tag(kind: str, name: str) -> str:
    """The tag of a rule's own point, e.g. ``Alarms.Cell_OverTemp``.

    kind   ``alarm``, ``state``, ``machine``, ``control`` or ``function``
    name   the key in the rules' file, e.g. ``Alarms/Cell_OverTemp``
    """
    return f"{RULE_EQUIPMENT[kind]}.{rule_channel(name)}"
