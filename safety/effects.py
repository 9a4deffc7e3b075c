"""Outputs and the values that rules give them: methods, and effects written at the rule itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from config.findings import Finding, Severity, Suggestions
from config.model import REQUEST_TOPIC, ControlRule, MethodStep
from config.points import PointDef, state_number, switch_number
from config.site import Instrument, Site
from safety import layout
from safety.rows import Row, is_estop

_NAMED_MAX: Final = 4  # rules that one finding names

Report = Callable[[str, str], None]  # rule of the finding, message; the key is the caller's


@dataclass(frozen=True, slots=True)
class Drive:
    """A wish: one output, one value, and the key of the file that says so."""

    point: PointDef
    value: float
    key: str


class Outputs:
    """The outputs of a site, by tag, and the values that they can take."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.nearest = Suggestions().nearest

    def of_tag(self, tag: str, report: Report) -> PointDef | None:
        """The output ``Equipment.Channel``; None (reported) where there is none."""
        equipment, _, channel = tag.partition(".")
        instrument = self._site.instruments.get(equipment)
        if instrument is None:
            near = self.nearest(equipment, self._site.instruments)
            report("reference-undefined", f"There is no active output {tag}. {near}")
            return None
        return self.of_channel(instrument, channel, report)

    def of_channel(self, instrument: Instrument, channel: str, report: Report) -> PointDef | None:
        """The output of a channel; None (reported) where it is none."""
        point = instrument.points.get(channel)
        if point is None:
            report(
                "reference-undefined",
                f"{instrument.name} has no active channel {channel}. "
                f"{self.nearest(channel, instrument.points)}",
            )
            return None
        if not point.is_output:
            report(
                "not-an-output",
                f"{point.tag} can't be written; give its channel ReadWrite W or RW, or drive "
                "another one.",
            )
            return None
        return point

    def is_analog(self, point: PointDef) -> bool:
        """True where the output takes any number, not only whole ones."""
        channel = self._site.instruments[point.equipment].channels[point.channel]
        return point.kind == "analog" or channel.Type.lower() == "analog"

    def value(self, point: PointDef, wanted: float | bool | str, report: Report) -> float | None:
        """What the output takes for a declared value; None (reported) where it can't."""
        value, fault = _settable(point, self.is_analog(point), wanted)
        if not fault:
            return value
        report("value-out-of-range" if math.isfinite(value) else "value-not-settable", fault)
        return None


def check_control(row: Row) -> list[Finding]:
    """Keys of a control that its kind doesn't take, or that exclude each other."""
    rule = row.rule
    assert isinstance(rule, ControlRule)
    found = []
    if rule.Method is not None and rule.Effects is not None:
        message = "The control has Method and Effects; keep one, so that they can't disagree."
        found.append(row.finding("rule-both-forms", message, "Effects"))
    if rule.Effects is not None and not rule.Effects:
        message = "Effects is empty, so the control drives nothing. Name outputs and values."
        found.append(row.finding("effects-empty", message, "Effects"))
    wrong: list[tuple[str, str]] = []
    if rule.Kind == "Permissive":
        taken = {"Method": rule.Method, "Effects": rule.Effects, "Latch": rule.Latch or None}
        wrong = [(key, _NO_PERMISSIVE) for key, value in taken.items() if value is not None]
        if rule.BypassMax:
            wrong.append(("BypassMax", _NO_PERMISSIVE))
        if rule.OnBad not in (None, "ignore"):
            wrong.append(("OnBad", "A permissive permits nothing on bad inputs; remove OnBad."))
        if not rule.Permits:
            message = 'The permissive permits nothing. Name outputs, e.g. "Permits": ["Pump.Run"].'
            found.append(row.finding("permissive-permits-nothing", message, "Permits"))
    elif rule.Permits:
        wrong = [("Permits", f'A {rule.Kind} permits nothing; set Kind to "Permissive".')]
    found += [row.finding("control-key-misplaced", text, key) for key, text in wrong]
    if is_estop(row.name):
        found += _estop_faults(row, rule)
    return found


def _estop_faults(row: Row, rule: ControlRule) -> Iterator[Finding]:
    if rule.BypassMax:
        message = "An emergency stop can't be bypassed. Remove BypassMax."
        yield row.finding("bypass-e-stop", message, "BypassMax")
    if rule.Kind == "Interlock":
        message = "Every trip would go before this emergency stop. Make it a Trip, or rename it."
        yield row.finding("estop-interlock", message, "Kind", "warning")


_NO_PERMISSIVE: Final = (
    "A permissive drives nothing, never latches and can't be bypassed: it only lets its outputs "
    "be set. Remove the key, or make the control an Interlock."
)


class Methods:
    """What the site's controls drive, checked."""

    def __init__(self, site: Site, outputs: Outputs) -> None:
        self._site = site
        self._outputs = outputs
        self._nearest = outputs.nearest
        self._file = site.personality.controls_file
        self.findings: list[Finding] = []
        self.drives: dict[str, tuple[Drive, ...]] = {
            name: self._method(name, steps) for name, steps in site.personality.methods.items()
        }

    def _add(self, key: str, rule: str, message: str, severity: Severity = "error") -> None:
        self.findings.append(Finding(self._file, key, rule, message, severity))

    def _report(self, key: str) -> Report:
        return lambda rule, message: self._add(key, rule, message)

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
                f"{REQUEST_TOPIC}<Equipment>. {self._nearest(equipment, self._site.instruments)}",
            )
            return []
        drives = []
        for channel, wanted in step.Payload.Channels.items():
            inner = f"{key}.Payload.Channels.{channel}"
            point = self._outputs.of_channel(instrument, channel, self._report(inner))
            drives += self._drives(inner, point, wanted)
        return drives

    def _drives(self, key: str, point: PointDef | None, wanted: float | bool | str) -> list[Drive]:
        if point is None:
            return []
        value = self._outputs.value(point, wanted, self._report(key))
        return [] if value is None else [Drive(point, value, key)]

    def _direct(self, row: Row) -> list[Drive]:
        """The effects that stand at the rule itself."""
        assert isinstance(row.rule, ControlRule)
        found = []
        for tag, wanted in (row.rule.Effects or {}).items():
            key = f"{row.key}.Effects.{tag}"
            found += self._drives(key, self._outputs.of_tag(tag, self._report(key)), wanted)
        return found

    def permits(self, row: Row) -> None:
        """Fill in the outputs that a permissive lets be set."""
        assert isinstance(row.rule, ControlRule)
        found: dict[int, None] = {}
        for at, tag in enumerate(row.rule.Permits):
            point = self._outputs.of_tag(tag, self._report(f"{row.key}.Permits[{at}]"))
            if point is not None:
                found[point.index] = None
        row.permits = tuple(found)

    def effects(
        self, rows: list[Row], text_id: Callable[[str], int]
    ) -> list[tuple[Row, int, Drive]]:
        """(rule, string id of its level, drive) for everything that controls can drive: those of
        emergency stops first, whatever they refer to, then in the order of `rows`."""
        found = []
        used: set[str] = set()
        for row in sorted(rows, key=lambda row: not is_estop(row.name)):
            if not isinstance(row.rule, ControlRule):
                continue
            self.findings += check_control(row)
            if row.rule.Kind == "Permissive":
                self.permits(row)
                continue
            if row.rule.Effects is not None:
                level = text_id(row.true_level or "")
                found += [(row, level, drive) for drive in self._direct(row)]
                continue
            for name in row.levels:
                used.add(name)
                if name not in self.drives:
                    message = f'There is no method "{name}". {self._nearest(name, self.drives)}'
                    key = "Method" if row.rule.Method == name else ""
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
            f"the same rank. While several are active {first_row.name} decides, which comes first. "
            "Make one an Interlock, or agree on a value.",
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
        state = state_number(point.states, wanted)
        if state is not None:
            return float(state), ""
        number = switch_number(point.states, wanted)
        if number is None:
            names = ", ".join((*point.states, "ON", "OFF", "true", "false"))
            return math.nan, f'{point.tag} can\'t be "{wanted}"; it takes: {names}.'
        value = float(number)
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
