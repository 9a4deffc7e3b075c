"""Functions, machines of control states, ramps and demands. A part of safety/reference.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safety import layout as lay
from safety.reference_cells import Cell, read_point, usable


@dataclass(frozen=True, slots=True)
class States:
    """The arrays of `safety.reference.evaluate` that machines, functions and outputs live in."""

    machines: NDArray[np.void]
    modes: NDArray[np.void]
    transitions: NDArray[np.void]
    actions: NDArray[np.void]
    segments: NDArray[np.void]
    state: NDArray[np.void]
    outputs: NDArray[np.void]
    machine_now: NDArray[np.void]
    ramp_now: NDArray[np.void]

    # ------------------------------------------------------------ functions

    def clear(self) -> None:
        """Forget what functions and control states proposed in the last scan."""
        for output in self.outputs:
            output["auto"], output["offset"] = math.nan, 0.0
            output["low"], output["high"] = -math.inf, math.inf
            for name in ("auto_cause", "low_cause", "high_cause"):
                output[name] = lay.CAUSE_NONE

    def act(self, number: int, rule: Any, cell: Cell, startup: bool) -> None:
        """A function's number into its output, where it is enabled and finite."""
        own = self.state[number]
        own["quality"] = cell[1]
        value = float(rule["bad_value"])
        if usable(cell) and math.isfinite(cell[0]):
            own["seen"], value = True, cell[0]
        enabled = rule["enable"] < 0 or self.state[rule["enable"]]["active"]
        own["active"] = bool(
            enabled
            and math.isfinite(value)
            and self._acts(number, int(rule["role"]), value, self.outputs[rule["output"]], startup)
        )

    def _acts(self, number: int, role: int, value: float, output: Any, startup: bool) -> bool:
        """Whether a function's number counts for its output."""
        match role:
            case lay.ROLE_SETPOINT:
                if startup or not math.isnan(output["auto"]):
                    return False  # the first function decides
                output["auto"], output["auto_cause"] = value, number
            case lay.ROLE_MAXIMUM:
                if value < output["high"]:
                    output["high"], output["high_cause"] = value, number
            case lay.ROLE_MINIMUM:
                if value > output["low"]:
                    output["low"], output["low_cause"] = value, number
            case _:
                total = float(output["offset"]) + value
                if not math.isfinite(total):
                    return False
                output["offset"] = total
        return True

    # ------------------------------------------------------------ machines

    def move_machines(self, time_ns: int, startup: bool) -> None:
        """At most one change of every machine."""
        for machine, now in zip(self.machines, self.machine_now, strict=True):
            now["changed"] = False
            if now["since_ns"] == 0:
                self._enter(now, int(machine["initial"]), lay.BY_START, -1, time_ns)
            elif not startup:
                self._move(machine, now, time_ns)
            now["request"] = -1

    def _move(self, machine: Any, now: Any, time_ns: int) -> None:
        mode, at = self.modes[now["mode"]], int(now["mode"])
        stayed_ns = time_ns - int(now["since_ns"])
        first = int(machine["transition"])
        for number in range(first, first + int(machine["transitions"])):
            way = self.transitions[number]
            from_here = way["origin"] == at or (way["origin"] < 0 and way["target"] != at)
            open_ = way["guard"] < 0 or self.state[way["guard"]]["active"]
            in_time = way["urgent"] or stayed_ns >= mode["min_ns"]
            asker_may = int(way["askers"]) & (1 << int(now["asker"]))
            wished = way["automatic"] or (now["request"] == way["target"] and asker_may)
            if from_here and open_ and in_time and wished:
                self._enter(now, int(way["target"]), number, at, time_ns)
                return
        if mode["max_ns"] and stayed_ns >= mode["max_ns"] and mode["timeout"] >= 0:
            self._enter(now, int(mode["timeout"]), lay.BY_TIMEOUT, at, time_ns)

    def _enter(self, now: Any, target: int, by: int, before: int, time_ns: int) -> None:
        now["mode"], now["by"], now["before"] = target, by, before
        now["since_ns"], now["changed"] = time_ns, True
        for number in self._actions(target):
            self.ramp_now[number] = (math.nan, 0, 0, 0)

    def _actions(self, mode: int) -> range:
        """Rows of the actions of a mode."""
        first = int(self.modes[mode]["action"])
        return range(first, first + int(self.modes[mode]["actions"]))

    # ------------------------------------------------------------ ramps

    def move_ramps(self, rows: NDArray[np.void], time_ns: int, step_ns: int) -> None:
        """The ramps of the present states."""
        for machine in self.machine_now:
            for number in self._actions(int(machine["mode"])):
                if self.actions[number]["segments"]:
                    self._move_ramp(rows, number, time_ns, step_ns)

    def _move_ramp(self, rows: NDArray[np.void], number: int, time_ns: int, step_ns: int) -> None:
        action, now = self.actions[number], self.ramp_now[number]
        if math.isnan(now["value"]):
            now["value"], step_ns = self._ramp_start(rows, action), 0
        pause = int(action["pause"])
        now["paused"] = int(pause >= 0 and self.state[pause]["active"])
        if now["paused"]:
            if now["since_ns"]:
                now["since_ns"] += step_ns  # the time of the hold stands still
            return
        if now["segment"] == action["segments"]:
            return
        segment = self.segments[action["segment"] + now["segment"]]
        value, to = float(now["value"]), float(segment["to"])
        if not now["since_ns"]:
            step = float(segment["rate"]) * (step_ns / 1e9)
            if segment["rate"] == 0:
                value = to
            else:
                value = min(value + step, to) if value < to else max(value - step, to)
            now["value"] = value
            if value == to:
                now["since_ns"] = time_ns
        if now["since_ns"] and time_ns - int(now["since_ns"]) >= segment["hold_ns"]:
            now["segment"] += 1
            now["since_ns"] = 0

    def _ramp_start(self, rows: NDArray[np.void], action: Any) -> float:
        """What the output shows; where that is not known, the first end of the ramp."""
        shown = int(self.outputs[action["output"]]["shown"])
        if shown:
            cell = read_point(rows, shown)
            if usable(cell) and math.isfinite(cell[0]):
                return cell[0]
        return float(self.segments[action["segment"]]["to"])

    # ------------------------------------------------------------ demands

    def drive(self, effects: NDArray[np.void], startup: bool) -> None:
        """The demand on every output: the highest rank, and among equals the first rule."""
        for output in self.outputs:
            output["value"] = math.nan
            output["rank"], output["cause"] = lay.RANK_NONE, lay.CAUSE_NONE
            if startup and not math.isnan(output["safe"]):
                output["value"] = output["safe"]
                output["rank"], output["cause"] = lay.RANK_TRIP, lay.CAUSE_STARTUP
        for effect in effects:
            output, rule = self.outputs[effect["output"]], self.state[effect["rule"]]
            if rule["level"] == effect["level"] and effect["rank"] > output["rank"]:
                output["value"], output["rank"] = effect["value"], effect["rank"]
                output["cause"] = effect["rule"]
        for machine, now in enumerate(self.machine_now):
            for number in self._actions(int(now["mode"])):
                self._drive_action(number, lay.CAUSE_MACHINE_FROM - machine, startup)

    def _drive_action(self, number: int, cause: int, startup: bool) -> None:
        action = self.actions[number]
        output = self.outputs[action["output"]]
        value = float(self.ramp_now[number]["value"] if action["segments"] else action["value"])
        if not math.isfinite(value):
            return
        if action["rank"] == lay.RANK_INTERLOCK and output["rank"] == lay.RANK_NONE:
            output["value"], output["rank"], output["cause"] = value, lay.RANK_INTERLOCK, cause
        elif action["rank"] == lay.RANK_SETPOINT and not startup and math.isnan(output["auto"]):
            output["auto"], output["auto_cause"] = value, cause
