"""Why points of the running gateway are what they are: what ``gatepost explain`` shows.

Everything is read from what the last scan left; nothing is changed, and every answer is bounded.
What the inputs were when a trip came can't be read later, so it is noted when it comes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from config import status
from config.points import PointDef
from gateway.commands import Commands
from gateway.core.clock import Clock
from gateway.core.records import Event
from gateway.core.table import PointTable
from gateway.explain_output import OutputExplainer
from gateway.local import TEXT_CHARS_MAX, LocalError, nearest_point
from safety import layout
from safety.engine import Engine
from safety.explain import Explainer, Part, missing, nearest, reasons

STARTUP: Final = "start-up"
ACTIVATIONS_MAX: Final = 200  # trips and interlocks whose coming is remembered
NOTED_MAX: Final = 4  # of one scan: what follows the first ones was not the cause
RECEIPTS_MAX: Final = 2_000  # outputs whose last receipt is remembered
NAMED_MAX: Final = 4  # alternatives of one guard
LISTED_MAX: Final = 50  # rules or points in one list
_NOTED_KINDS: Final = ("trip", "interlock")


@dataclass(frozen=True, slots=True)
class _Activation:
    """How a trip looked when it came."""

    utc_ns: int
    parts: list[dict[str, Any]]


class Explain:
    """Answers why."""

    def __init__(
        self,
        engine: Engine,
        table: PointTable,
        commands: Commands,
        clock: Clock,
        alarm_state: Callable[[int], str] = lambda rule: "",
    ) -> None:
        """`alarm_state` names the state of the alarm that a row of the program is."""
        self._alarm_state = alarm_state
        self._engine = engine
        self._table = table
        self._clock = clock
        self._explainer = Explainer(engine, table.points)
        program = engine.program
        self._rules = {info.point: rule for rule, info in enumerate(program.info) if info.point}
        self._machines = {info.point: m for m, info in enumerate(program.machine_info)}
        names = {info.name: rule for rule, info in enumerate(program.info)}
        self._protective = {
            info.name: rule for rule, info in enumerate(program.info) if info.kind in _NOTED_KINDS
        }
        self._names = names | self._protective  # of an alarm and a trip of one name, the trip
        self._fresh: list[int] = []
        self._standing: set[int] = set()  # noted, and active ever since
        self._came: OrderedDict[int, _Activation] = OrderedDict()
        self._moved: list[int] = []  # machines, in this scan
        self._moved_by: dict[int, str] = {}  # machine -> which alternatives of its guard held
        self._machine_names = {info.name: m for m, info in enumerate(program.machine_info)}
        self._receipts: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._outputs = OutputExplainer(engine, table, commands, self._receipts)
        self._output_points = commands.outputs

    # ------------------------------------------------------------ what can't be read later

    def hear(self, event: Event) -> None:
        """Take note of trips that come, and of receipts; a listener of the journal."""
        body = event.body
        if event.kind == "receipt" and body.get("tag"):
            tag = str(body["tag"])
            self._receipts[tag] = {**body, "utc_ns": event.utc_ns}
            self._receipts.move_to_end(tag)
            if len(self._receipts) > RECEIPTS_MAX:
                self._receipts.popitem(last=False)
        elif event.kind == "state" and body.get("machine"):
            machine = self._machine_names.get(str(body["machine"]))
            if machine is not None:
                self._moved_by.pop(machine, None)
                if len(self._moved) < NOTED_MAX:
                    self._moved.append(machine)
        elif event.kind == "trip" and body.get("active") and body.get("kind") in _NOTED_KINDS:
            rule = self._protective.get(str(body.get("name")))
            if rule is not None and rule not in self._standing and len(self._fresh) < NOTED_MAX:
                self._fresh.append(rule)

    def settle(self) -> None:
        """Behind a scan: note what the trips that came in it saw."""
        if self._standing:
            self._standing = {rule for rule in self._standing if self._engine.active[rule]}
        for rule in self._fresh:
            self._came[rule] = _Activation(self._clock.utc_ns(), _plain(self._part(rule)))
            self._came.move_to_end(rule)
            self._standing.add(rule)
            if len(self._came) > ACTIVATIONS_MAX:
                self._standing.discard(self._came.popitem(last=False)[0])
        self._fresh.clear()
        for machine in self._moved:
            self._note_move(machine)
        self._moved.clear()

    def _note_move(self, machine: int) -> None:
        """Which alternatives of the guard held, where a machine went through one."""
        engine = self._engine
        by = int(engine.machine_now["by"][machine])
        guard = int(engine.program.transitions[by]["guard"]) if by >= 0 else -1
        part = self._part(guard) if guard >= 0 else None
        if part is not None and part.is_true:
            held = reasons(part)
            if held != [part.text]:
                self._moved_by[machine] = " and ".join(held[:NAMED_MAX])

    # ------------------------------------------------------------ answers

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Why the point `tag` is what it is; of the start-up where none is named.

        Raises LocalError where there is no such point.
        """
        tag = message.get("tag", "")
        if not isinstance(tag, str) or len(tag) > TEXT_CHARS_MAX:
            raise LocalError("a tag is a text")
        if tag in ("", STARTUP):
            return {"type": "explain", **self._startup()}
        index = self._table.index.get(tag, 0)
        rule = self._rules.get(index, self._names.get(tag, -1))
        if index in self._output_points:
            found = self._output(index)
        elif index in self._machines:
            found = self._machine(self._machines[index])
        elif rule >= 0:
            found = self._rule(rule)
        elif index:
            found = self._input(self._table.points[index - 1])
        else:
            raise LocalError(f"no such point: {tag}. {nearest_point(tag, self._table.index)}")
        return {"type": "explain", **found}

    def _startup(self) -> dict[str, Any]:
        """What keeps the gateway from releasing its outputs, and what is active."""
        engine, program = self._engine, self._engine.program
        waiting: dict[str, dict[str, Any]] = {}
        rows = self._table.rows
        watch = program.watch[: len(program.watch) if engine.startup else 0]
        lost = (rows["status"] >= status.BAD) | np.isnan(rows["value"])
        lost_watch = watch[lost[watch["point"]] & ~engine.bypassed[watch["rule"]]]
        for rule, index in lost_watch.tolist():
            if len(waiting) < LISTED_MAX:
                tag = self._table.points[index - 1].tag
                entry = waiting.setdefault(tag, {**self._value(index), "causes": []})
                if len(entry["causes"]) < LISTED_MAX:
                    entry["causes"].append(program.info[rule].name)
        kinds = program.rules["kind"]
        causes = (kinds == layout.KIND_INTERLOCK) | (kinds == layout.KIND_TRIP)
        causes &= engine.active | engine.latched | engine.bypassed
        rules = np.flatnonzero(causes)
        numbers = engine.first_out[rules]
        rules = rules[np.lexsort((rules, numbers, numbers == 0))]  # numbered ones first
        return {
            "kind": STARTUP,
            "active": engine.startup,
            "waiting": list(waiting.values()),
            "causes": [self._brief(rule) for rule in rules[:LISTED_MAX].tolist()],
            "machines": [
                {"name": info.name, "state": engine.mode(machine)}
                for machine, info in enumerate(program.machine_info)
            ][:LISTED_MAX],
        }

    def _output(self, index: int) -> dict[str, Any]:
        found = self._outputs.answer(index)
        cause = found["cause_row"]
        del found["cause_row"]
        if cause >= 0:
            found["cause"] = self._rule(cause)
        elif cause == layout.CAUSE_STARTUP:
            found["cause"] = self._startup()
        elif cause <= layout.CAUSE_MACHINE_FROM:
            found["cause"] = self._machine(layout.CAUSE_MACHINE_FROM - cause)
        return found

    def _rule(self, rule: int) -> dict[str, Any]:
        engine, info = self._engine, self._engine.program.info[rule]
        row, state = engine.program.rules[rule], engine.state[rule]
        part = self._part(rule)
        came = self._came.get(rule)
        pending_ns = int(state["since_ns"])
        found = {
            "kind": info.kind,
            **self._brief(rule),
            "alarm": self._alarm_state(rule),
            "tag": self._table.points[info.point - 1].tag if info.point else "",
            "text": info.text,
            "on_bad": layout.ON_BAD_NAMES[int(row["on_bad"])],
            "on_delay_s": int(row["on_delay_ns"]) / 1e9,
            "off_delay_s": int(row["off_delay_ns"]) / 1e9,
            "pending_s": (engine.time_ns - pending_ns) / 1e9 if pending_ns else None,
            "parts": _plain(part),
            "missing": self._missing(rule, part),
            "came": {"utc_ns": came.utc_ns, "parts": came.parts} if came else None,
        }
        if info.kind == "function":
            found |= self._function(rule)
        return found

    def _brief(self, rule: int) -> dict[str, Any]:
        """What a rule shows, in short."""
        engine, info = self._engine, self._engine.program.info[rule]
        level = int(engine.level[rule])
        # The point of a number is as new as the last scan.
        shows_since = info.point and info.kind not in ("value", "function")
        since_ns = int(self._table.rows["utc_ns"][info.point]) if shows_since else 0
        return {
            "name": info.name,
            "level": engine.program.strings[level] if level else "",
            "active": bool(engine.active[rule]),
            "latched": bool(engine.latched[rule]),
            "first_out": int(engine.first_out[rule]),
            "quality": int(engine.state["quality"][rule]),
            "since_utc_ns": since_ns,
            "bypass_left_s": engine.bypass_left_ns(rule) / 1e9,
            "held_back": bool(engine.held_back[rule]),
        }

    def _missing(self, rule: int, part: Part | None) -> list[str]:
        """What has to happen for an active rule to end, or for one that permits to be active."""
        engine, info = self._engine, self._engine.program.info[rule]
        if part is None or info.kind in ("value", "function", "state"):
            return []
        wanted = info.kind in ("permissive", "guard")
        if wanted:
            return [] if engine.active[rule] else missing(part, True)
        if not engine.active[rule] and not engine.latched[rule]:
            return []
        found = missing(part, False)
        if engine.latched[rule]:
            found.append("a reset, Gateway.Reset, once nothing else is missing")
        return found

    def _function(self, rule: int) -> dict[str, Any]:
        engine, row = self._engine, self._engine.program.rules[rule]
        enable = int(row["enable"])
        output = int(engine.program.outputs[int(row["output"])])
        return {
            "role": layout.ROLE_NAMES[int(row["role"])],
            "output": self._table.points[output - 1].tag,
            "value": self._value(int(row["point"])),
            "enabled": enable < 0 or bool(engine.active[enable]),
            "enable": _plain(self._part(enable)) if enable >= 0 else [],
        }

    def _machine(self, machine: int) -> dict[str, Any]:
        engine, program = self._engine, self._engine.program
        info, now = program.machine_info[machine], engine.machine_now[machine]
        row = program.machines[machine]
        first, mode = int(row["mode"]), program.modes[int(now["mode"])]
        before, by = int(now["before"]), int(now["by"])
        stayed_ns = engine.time_ns - int(now["since_ns"])
        how = {layout.BY_START: "the start", layout.BY_TIMEOUT: "the end of its time"}
        way = info.transitions[by - int(row["transition"])] if by >= 0 else None
        timeout = int(mode["timeout"])
        return {
            "kind": "machine",
            "name": info.name,
            "tag": self._table.points[info.point - 1].tag if info.point else "",
            "state": engine.mode(machine),
            "since_s": stayed_ns / 1e9,
            "before": info.states[before - first] if before >= 0 else "",
            "by": how.get(by, "") or (way.description or way.guard or "a request" if way else ""),
            "held": self._moved_by.get(machine, ""),
            "min_left_s": max(int(mode["min_ns"]) - stayed_ns, 0) / 1e9,
            "max_left_s": max(int(mode["max_ns"]) - stayed_ns, 0) / 1e9 if mode["max_ns"] else None,
            "timeout": info.states[timeout - first] if timeout >= 0 else "",
            "transitions": self._ways(machine)[:LISTED_MAX],
            "holds": self._outputs.holds(machine)[:LISTED_MAX],
        }

    def _ways(self, machine: int) -> list[dict[str, Any]]:
        """The transitions that lead away from the present state, and what each waits for."""
        engine, program = self._engine, self._engine.program
        info, row = program.machine_info[machine], program.machines[machine]
        here, start = int(engine.machine_now["mode"][machine]), int(row["transition"])
        found = []
        for at, about in enumerate(info.transitions):
            way = program.transitions[start + at]
            origin, target = int(way["origin"]), int(way["target"])
            if origin != here and not (origin < 0 and target != here):
                continue
            guard = int(way["guard"])
            part = self._part(guard) if guard >= 0 else None
            is_open = guard < 0 or bool(engine.active[guard])
            left_ns = int(program.modes[here]["min_ns"]) - (
                engine.time_ns - int(engine.machine_now["since_ns"][machine])
            )
            wait = [] if is_open or part is None else missing(part, True)
            if left_ns > 0 and not way["urgent"]:
                wait.append(f"{left_ns / 1e9:.3g} s of the least time in {engine.mode(machine)}")
            if engine.startup:
                wait.append("the end of the start-up")
            found.append(
                {
                    "to": about.target,
                    "automatic": about.automatic,
                    "by": list(about.askers),
                    "guard": about.guard,
                    "open": is_open,
                    "missing": wait,
                    "description": about.description,
                }
            )
        return found

    def _input(self, point: PointDef) -> dict[str, Any]:
        info = self._engine.program.info
        readers = [r for r, i in enumerate(info) if point.index in i.inputs]
        return {
            "kind": "input",
            **self._value(point.index),
            "description": point.description,
            "age_limit_s": point.age_ns_max / 1e9 if point.age_ns_max else None,
            "read_by": [
                {"kind": info[r].kind, "text": info[r].text, **self._brief(r)}
                for r in readers[:LISTED_MAX]
                if info[r].kind != "guard"
            ],
            "readers": len(readers),
        }

    # ------------------------------------------------------------ small things

    def _part(self, rule: int) -> Part | None:
        return self._explainer.rule(rule, self._table.rows)

    def _value(self, index: int) -> dict[str, Any]:
        return self._outputs.value(index)


def _plain(part: Part | None) -> list[dict[str, Any]]:
    """A condition as msgpack takes it, outermost first; `depth` says what is inside what."""
    if part is None:
        return []
    shown = nearest(part)
    found: list[dict[str, Any]] = [
        {
            "depth": depth,
            "text": one.text,
            "shown": one.shown,
            "quality": one.quality,
            "value": one.value,
            "note": one.note,
        }
        for depth, one in shown
    ]
    left_out = sum(1 for _ in part.flat()) - len(shown)
    if left_out:
        more = {"depth": 0, "text": "more parts", "shown": f"{left_out} are left out"}
        found.append({**more, "quality": 0, "value": math.nan, "note": ""})
    return found
