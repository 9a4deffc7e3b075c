"""Why an output has its value: every rank with what it wants now, limits, and the read-back.

A part of gateway/explain.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from config import status
from gateway.commands import Commands
from gateway.core.table import PointTable
from gateway.outputs import ORIGINS, Output
from safety import layout
from safety.engine import Engine


class OutputExplainer:
    """Explains outputs; the causes behind them are explained by gateway/explain.py."""

    def __init__(
        self,
        engine: Engine,
        table: PointTable,
        commands: Commands,
        receipts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`receipts` are the last ones by tag."""
        self._engine = engine
        self._table = table
        self._commands = commands
        self._receipts = receipts
        self._rows = {index: at for at, index in enumerate(engine.program.outputs.tolist())}

    def answer(self, index: int) -> dict[str, Any]:
        """Everything but what is behind the cause, whose row is `cause_row`."""
        output = self._commands.outputs[index]
        point = output.point
        cause = layout.CAUSE_NONE
        if index in self._rows and output.demand is not None and output.demand.cause != "stop":
            cause = int(self._engine.cause[self._rows[index]])
        return {
            "kind": "output",
            "tag": point.tag,
            "units": point.units,
            "states": list(point.states),
            "description": point.description,
            "value": output.desired,
            "reason": dict(output.reason),
            "ladder": list(self._ladder(index, output)),
            "cause_row": cause,
            "limits": self._limits(index, output),
            "permitted": self._commands.permitted(index),
            "read_back": self._read_back(output),
            "receipt": dict(self._receipts.get(point.tag, {})) or None,
        }

    def value(self, index: int) -> dict[str, Any]:
        """A point's value, status and age."""
        point, row = self._table.points[index - 1], self._table.rows[index]
        code = int(row["status"])
        seen = code != status.BAD_WAITING_FOR_INITIAL_DATA
        age_ns = int(self._engine.memory[layout.MEMORY_NOW]) - int(row["mono_ns"])
        return {
            "tag": point.tag,
            "value": float(row["value"]),
            "units": point.units,
            "states": list(point.states),
            "status": code,
            "status_name": status.name_of(code),
            "age_s": max(age_ns, 0) / 1e9 if seen else None,
        }

    # ------------------------------------------------------------ the ladder

    def _ladder(self, index: int, output: Output) -> Iterator[dict[str, Any]]:
        """Ranks from the highest on, each with everybody who wants something on it."""
        free = True
        for rank, wants in self._ranks(index, output):
            for value, by, note in wants:
                decides = free and not math.isnan(value) and self._decides(output, rank, by)
                free = free and not decides
                yield {
                    "rank": rank,
                    "wants": None if math.isnan(value) else value,
                    "by": by,
                    "note": note,
                    "decides": decides,
                }
            if not wants:
                yield {"rank": rank, "wants": None, "by": "", "note": "", "decides": False}

    def _decides(self, output: Output, rank: str, by: str) -> bool:
        if output.demand is not None:
            return rank in ("trip", "interlock or state") and by == output.demand.cause
        return True

    def _ranks(
        self, index: int, output: Output
    ) -> Iterator[tuple[str, list[tuple[float, str, str]]]]:
        at = self._rows.get(index, -1)
        yield "trip", [*self._stop(output), *self._effects(at, layout.RANK_TRIP)]
        held = [*self._effects(at, layout.RANK_INTERLOCK), *self._held(at, layout.RANK_INTERLOCK)]
        yield "interlock or state", held
        if not math.isnan(output.beat):
            yield "watchdog", [(output.beat, "watchdog", "it toggles while scans are healthy")]
        now_ns = int(self._engine.memory[layout.MEMORY_NOW])
        for origin in ORIGINS:
            setpoint = output.setpoints.get(origin)
            wants = []
            if setpoint is not None:
                left_s = max(setpoint.until_ns - now_ns, 0) / 1e9
                note = f"for another {left_s:.3g} s" if setpoint.until_ns else ""
                who = setpoint.command.source or setpoint.command.id
                wants.append((setpoint.value, who, note))
            yield origin, wants
        proposal, high = output.proposal, []
        auto = [] if math.isnan(proposal.value) else [(proposal.value, proposal.cause, "")]
        if not auto and math.isnan(output.point.fallback) and math.isfinite(proposal.high):
            high = [
                (proposal.high, proposal.high_cause, "its limit, as nothing else wants a value")
            ]
        yield "function or state", auto or high
        fallback = output.point.fallback
        yield "fallback", [] if math.isnan(fallback) else [(fallback, "Fallback or SafeValue", "")]

    def _stop(self, output: Output) -> list[tuple[float, str, str]]:
        demand = output.demand
        stops = demand is not None and demand.cause == "stop"
        return [(demand.value, "stop", "the gateway stops")] if demand is not None and stops else []

    def _effects(self, at: int, rank: int) -> Iterator[tuple[float, str, str]]:
        """What active causes of a rank want, in the order in which the kernel takes them."""
        engine, program = self._engine, self._engine.program
        if at < 0:
            return
        safe = float(program.safe[at])
        if rank == layout.RANK_TRIP and engine.startup and not math.isnan(safe):
            yield safe, "start-up", "no good scan yet"
        effects = program.effects
        for effect in effects[(effects["output"] == at) & (effects["rank"] == rank)]:
            rule = int(effect["rule"])
            if int(engine.level[rule]) == int(effect["level"]):
                notes = ["latched"] if engine.latched[rule] else []
                if engine.first_out[rule]:
                    notes.append(f"first-out {int(engine.first_out[rule])}")
                yield float(effect["value"]), program.info[rule].name, ", ".join(notes)
            elif int(engine.state["held"][rule]) == int(effect["level"]):
                yield math.nan, program.info[rule].name, "bypassed, and would act"

    def _held(self, at: int, rank: int) -> Iterator[tuple[float, str, str]]:
        """What the present control states hold."""
        engine, program = self._engine, self._engine.program
        for machine in range(len(program.machines)):
            for action, output, value in self._actions(machine):
                if output == at and int(program.actions[action]["rank"]) == rank:
                    cause = engine.cause_name(layout.CAUSE_MACHINE_FROM - machine)
                    ramp = "on a ramp" if program.actions[action]["segments"] else ""
                    yield value, cause, ramp

    def _actions(self, machine: int) -> Iterator[tuple[int, int, float]]:
        """Row, output and value of the actions of a machine's present state."""
        engine, program = self._engine, self._engine.program
        mode = program.modes[int(engine.machine_now["mode"][machine])]
        first = int(mode["action"])
        for at in range(first, first + int(mode["actions"])):
            action = program.actions[at]
            ramped = engine.ramp_now["value"][at] if action["segments"] else action["value"]
            yield at, int(action["output"]), float(ramped)

    def holds(self, machine: int) -> list[dict[str, Any]]:
        """What a machine's present state does to outputs."""
        program = self._engine.program
        found = []
        for at, output, value in self._actions(machine):
            held = int(program.actions[at]["rank"]) == layout.RANK_INTERLOCK
            point = self._table.points[int(program.outputs[output]) - 1]
            states = list(point.states)
            found.append({"tag": point.tag, "value": value, "states": states, "held": held})
        return found

    # ------------------------------------------------------------ limits, read-back

    def _limits(self, index: int, output: Output) -> dict[str, Any]:
        point, proposal = output.point, output.proposal
        return {
            "offset": proposal.offset,
            "offsets": self._offsets(self._rows.get(index, -1)),
            "low": proposal.low,
            "low_cause": proposal.low_cause,
            "high": proposal.high,
            "high_cause": proposal.high_cause,
            "minimum": point.value_min,
            "maximum": point.value_max,
            "ramp_rate": point.ramp_rate_per_s,
            "target": output.target,
            "held_by": output.held,
        }

    def _offsets(self, at: int) -> list[str]:
        """The functions that add to the output now."""
        engine, rules = self._engine, self._engine.program.rules
        adds = (rules["kind"] == layout.KIND_FUNCTION) & (rules["role"] == layout.ROLE_OFFSET)
        adds &= (rules["output"] == at) & engine.active
        return [engine.program.info[rule].name for rule in np.flatnonzero(adds).tolist()]

    def _read_back(self, output: Output) -> dict[str, Any]:
        index = output.point.read_back
        return {
            "point": self.value(index) if index else None,
            "driven": output.driven,
            "in_flight": output.in_flight,
            "verified": output.verified,
            "doubted": output.doubted,
        }
