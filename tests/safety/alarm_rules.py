"""Alarm rules without a program behind them: tests say what each rule shows, in every scan."""

from __future__ import annotations

from typing import Any

import numpy as np

from config.model import AlarmRule
from safety.alarm_records import AlarmEvent, Moment, Note
from safety.alarms import AlarmTable
from safety.layout import (
    ACTION,
    EFFECT,
    MACHINE,
    MODE,
    RULE,
    SEGMENT,
    STATE,
    TRANSITION,
    WATCH,
    Program,
    RuleInfo,
)

S = 1_000_000_000
UTC_NS = 1_800_000_000 * S
LEVELS = ("High", "High_High")
STRINGS = ("", *LEVELS)
OPERATOR = Note("shift", "because", UTC_NS)


def program_of(count: int, *, latch: bool = False, on_delay_s: float = 0.0) -> Program:
    """`count` alarms A0, A1, ... in the even rows, each with its guard in the row behind."""
    infos: list[RuleInfo] = []
    for at in range(count):
        name = f"Alarms/A{at}"
        shown: dict[str, Any] = {"text": "", "point": at + 1, "inputs": ()}
        infos += [
            RuleInfo(
                name,
                "alarm",
                LEVELS,
                priority="high",
                latch=latch,
                suppress=2 * at + 1,
                **shown,
            ),
            RuleInfo(f"{name} guard", "guard", (), **shown),
        ]
    rules = np.zeros(2 * count, dtype=RULE)
    rules["on_delay_ns"] = round(on_delay_s * S)
    nothing = {
        "effects": EFFECT,
        "outputs": np.int32,
        "safe": np.float64,
        "protective": np.bool_,
        "watch": WATCH,
        "machines": MACHINE,
        "modes": MODE,
        "transitions": TRANSITION,
        "actions": ACTION,
        "segments": SEGMENT,
        "shown": np.int32,
        "code": np.int32,
        "consts": np.float64,
    }
    empty: Any = {name: np.zeros(0, dtype=dtype) for name, dtype in nothing.items()}
    return Program(info=tuple(infos), strings=STRINGS, rules=rules, slots=0, **empty)


class AlarmRules:
    """Rules by hand, an alarm table over them, and a clock that moves by `scan`."""

    def __init__(
        self,
        count: int = 1,
        *,
        latch: bool = False,
        shelve_max_s: float = 28_800.0,
        on_delay_s: float = 0.0,
    ) -> None:
        program = program_of(count, latch=latch, on_delay_s=on_delay_s)
        rule = AlarmRule(When="true", ShelveMax=shelve_max_s)
        self.latch = latch
        self.table = AlarmTable(program, {f"Alarms/A{at}": rule for at in range(count)})
        self.rules = np.zeros(2 * count, dtype=STATE)
        self.mono_ns = 1_000 * S
        self.utc_ns = UTC_NS

    @property
    def now(self) -> Moment:
        return Moment(self.mono_ns, self.utc_ns)

    def state(self, alarm: int = 0) -> str:
        return self.table.event(alarm).state

    def guard(self, on: bool, alarm: int = 0) -> None:
        """SuppressWhen of an alarm."""
        self.rules[2 * alarm + 1]["active"] = on

    def shows(self, level: str, alarm: int = 0, reset: bool = False, quality: int = 0) -> None:
        """The condition of a rule, as the engine settles it: latch, level, active."""
        rule = self.rules[2 * alarm]
        rule["seen"], rule["quality"] = True, quality
        rule["condition"] = STRINGS.index(level)
        if self.latch:
            rule["latched"] = bool(level) or (bool(rule["latched"]) and not reset)
        if level or not rule["latched"]:
            rule["level"] = rule["condition"]
        rule["active"] = rule["level"] != 0

    def scan(self, seconds: float = 1.0) -> list[AlarmEvent]:
        """Time moves, and what the engine would report as changed is handed over."""
        self.mono_ns += round(seconds * S)
        self.utc_ns += round(seconds * S)
        table = self.table
        shown = self.rules[0::2]
        changed = (shown["level"] != table.level) | (shown["latched"] != self._latched())
        rows = (2 * np.flatnonzero(changed)).astype(np.int32)
        return table.scan(rows, self.rules, self.now)

    def come(self, level: str = "High", alarm: int = 0) -> None:
        """The alarm comes, or goes where `level` is empty."""
        self.shows(level, alarm)
        self.scan()

    def _latched(self) -> Any:
        return np.array([self.table.event(at).latched for at in range(len(self.table.infos))])

    def act(self, what: str, alarm: int = 0, seconds: float = 0.0) -> AlarmEvent:
        """An operator's action."""
        return self.table.act(alarm, what, self.now, OPERATOR, round(seconds * S))

    def restarted(self, *, down_s: float = 5.0, clock_step_s: float = 0.0) -> AlarmRules:
        """The next life: a new engine that latched what was latched, and what was kept."""
        after = AlarmRules(
            len(self.table.infos),
            latch=self.latch,
            shelve_max_s=self.table.infos[0].shelve_max_ns / S,
            on_delay_s=self.table.infos[0].on_delay_ns / S,
        )
        after.mono_ns = 7 * S
        after.utc_ns = self.utc_ns + round((down_s + clock_step_s) * S)
        for name in ("level", "active", "latched"):
            after.rules[name] = np.where(self.rules["latched"], self.rules[name], 0)
        after.table.restore(self.table.kept(self.now), after.rules, after.now)
        return after
