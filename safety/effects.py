"""Control methods as effects: which output takes which value while a rule calls the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from config.findings import Finding, Severity
from config.model import REQUEST_TOPIC, MethodStep
from config.points import PointDef, state_number
from config.site import Instrument, Site
from safety import layout
from safety.rows import Row

_SWITCH_WORDS: Final = {"on": 1.0, "true": 1.0, "off": 0.0, "false": 0.0}
_NAMED_MAX: Final = 4  # rules that one finding names


@dataclass(frozen=True, slots=True)
class Drive:
    """A method's wish: one output, one value, and the key of the file that says so."""

    point: PointDef
    value: float
    key: str


def nearest(name: str, names: Mapping[str, object]) -> str:
    """A remedy for a mistyped name: the most similar one, or what there is."""
    close = get_close_matches(name, names, n=1)
    if close:
        return f'Did you mean "{close[0]}"?'
    return f"There are: {', '.join(list(names)[:8]) or 'none'}."


class Methods:
    """The site's control methods, checked."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._file = site.personality.controls_file
        self.findings: list[Finding] = []
        self.drives: dict[str, tuple[Drive, ...]] = {
            name: self._method(name, steps) for name, steps in site.personality.methods.items()
        }

    def _add(self, key: str, rule: str, message: str, severity: Severity = "error") -> None:
        self.findings.append(Finding(self._file, key, rule, message, severity))

    def _method(self, name: str, steps: list[MethodStep]) -> tuple[Drive, ...]:
        found: list[Drive] = []
        taken: dict[int, Drive] = {}
        for at, step in enumerate(steps):
            key = f"Control_Methods.{name}[{at}]"
            for drive in self._step(key, step):
                first = taken.setdefault(drive.point.index, drive)
                if first is drive:
                    found.append(drive)
                elif first.value != drive.value:
                    self._add(
                        drive.key,
                        "effect-contradiction",
                        f"The method drives {drive.point.tag} to {first.value:g} and to "
                        f"{drive.value:g}; the first holds. Remove one.",
                        "warning",
                    )
        return tuple(found)

    def _step(self, key: str, step: MethodStep) -> list[Drive]:
        if step.Payload.ReadWrite != "W":
            self._add(
                f"{key}.Payload.Read/Write",
                "not-an-output",
                'A method drives outputs, so its requests write: set "Read/Write" to "W".',
            )
            return []
        equipment = step.Topic.removeprefix(REQUEST_TOPIC)
        instrument = self._site.instruments.get(equipment)
        if not step.Topic.startswith(REQUEST_TOPIC) or instrument is None:
            self._add(
                f"{key}.Topic",
                "equipment-undefined",
                f'The topic "{step.Topic}" names no active equipment of the site; write '
                f"{REQUEST_TOPIC}<Equipment>. {nearest(equipment, self._site.instruments)}",
            )
            return []
        drives = []
        for channel, wanted in step.Payload.Channels.items():
            drive = self._drive(f"{key}.Payload.Channels.{channel}", instrument, channel, wanted)
            if drive is not None:
                drives.append(drive)
        return drives

    def _drive(
        self, key: str, instrument: Instrument, channel: str, wanted: float | bool | str
    ) -> Drive | None:
        point = instrument.points.get(channel)
        if point is None:
            self._add(
                key,
                "reference-undefined",
                f"{instrument.name} has no active channel {channel}. "
                f"{nearest(channel, instrument.points)}",
            )
            return None
        if not point.writable:
            self._add(
                key,
                "not-an-output",
                f"{point.tag} can't be written; give its channel ReadWrite W or RW, or drive "
                "another one.",
            )
            return None
        analog = point.kind == "analog" or instrument.channels[channel].Type.lower() == "analog"
        value, fault = _settable(point, analog, wanted)
        if fault:
            rule = "value-out-of-range" if math.isfinite(value) else "value-not-settable"
            self._add(key, rule, fault)
            return None
        return Drive(point, value, key)

    def effects(
        self, rows: list[Row], text_id: Callable[[str], int]
    ) -> list[tuple[Row, int, Drive]]:
        """(rule, string id of the method, drive) for every method that a control can call."""
        found = []
        used: set[str] = set()
        for row in rows:
            for name in row.levels if row.kind == "control" else ():
                used.add(name)
                if name not in self.drives:
                    message = f'There is no method "{name}". {nearest(name, self.drives)}'
                    key = "Method" if getattr(row.rule, "Method", None) == name else ""
                    self.findings.append(row.finding("method-undefined", message, key))
                found += [(row, text_id(name), drive) for drive in self.drives.get(name, ())]
        for name in self.drives.keys() - used:
            self._add(
                f"Control_Methods.{name}",
                "method-unused",
                "No active control calls this method. Remove it, or call it.",
                "warning",
            )
        return found

    def check_outputs(self, effects: list[tuple[Row, int, Drive]]) -> None:
        """Warn of rules that pull an output in two directions."""
        by_output: dict[int, list[tuple[Row, Drive]]] = {}
        for row, _, drive in effects:
            by_output.setdefault(drive.point.index, []).append((row, drive))
        for pulls in by_output.values():
            for kind in (layout.KIND_TRIP, layout.KIND_INTERLOCK):
                self._contradiction([pull for pull in pulls if pull[0].rule_kind == kind])

    def _contradiction(self, pulls: list[tuple[Row, Drive]]) -> None:
        # Methods of one rule exclude each other; rules of different rank are decided by rank.
        values = {drive.value for _, drive in pulls}
        rows = list(dict.fromkeys(row for row, _ in pulls))
        if len(values) < 2 or len(rows) < 2:
            return
        first_row, first = pulls[0]
        others = [(row, drive) for row, drive in pulls if drive.value != first.value]
        listed = ", ".join(f"{row.name} to {drive.value:g}" for row, drive in others[:_NAMED_MAX])
        more = f" and {len(others) - _NAMED_MAX} more" if len(others) > _NAMED_MAX else ""
        self._add(
            others[0][1].key,
            "effect-contradiction",
            f"{first_row.name} drives {first.point.tag} to {first.value:g}, {listed}{more}, with "
            "the same rank. While several are active the rule that is evaluated first decides: "
            f"{first_row.name}. Make one an Interlock, or agree on a value.",
            "warning",
        )


def _settable(point: PointDef, analog: bool, wanted: float | bool | str) -> tuple[float, str]:
    """The value of a payload entry, or NaN (or the value that is out of range) and the fault."""
    if isinstance(wanted, str):
        if analog:
            fault = (
                f'"{wanted}" can\'t be written to {point.tag}: it is an analog point and takes a '
                'number. Write a number, or change its Type from "Analog".'
            )
            return math.nan, fault
        # Names go first: of the states ON, OFF the value 0 is ON, so "off" must not become 0.
        state = state_number(point.states, wanted)
        if state is not None:
            return float(state), ""
        if wanted.lower() not in _SWITCH_WORDS:
            names = ", ".join((*point.states, "ON", "OFF", "true", "false"))
            return math.nan, f'{point.tag} can\'t be "{wanted}"; it takes: {names}.'
        value = _SWITCH_WORDS[wanted.lower()]
    elif isinstance(wanted, bool) and analog:
        fault = f"{wanted} can't be written to {point.tag}: it is an analog point. Write a number."
        return math.nan, fault
    else:
        value = float(wanted)
    if not analog and value != int(value):
        return math.nan, f"{point.tag} is discrete and takes whole numbers, not {value:g}."
    low, high = point.value_min, point.value_max
    if not analog and point.states:
        low, high = 0.0, float(len(point.states) - 1)
    if value < low or value > high:
        return value, f"{value:g} is outside of {low:g} to {high:g}, the range of {point.tag}."
    return value, ""
