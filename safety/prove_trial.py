"""One slice of a program on a test bench: histories are run on it, and every scan is judged.

A part of safety/prove.py, which says what is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import POINT
from safety import layout as lay
from safety.decode import Slice, modes_of, of_rule
from safety.engine import Engine
from safety.layout import Program
from safety.prove_abstraction import Abstraction, Choice
from safety.rows import is_estop

START_NS: Final = 1_000_000_000_000  # the clock at the first scan; ages can't reach before it
NO_END_NS: Final = 1 << 62  # of a bypass, until an action ends it
CLAIMS: Final = {
    "loss": "a lost input is never less safe than a known one",
    "time": "a cause acts within the stated time",
    "start-up": "until the first good scan an output with a safe value is demanded at it",
    "finite": "a demand is a finite value",
    "bypass": "a bypass counts until its end, and no scan longer",
    "latch": "a latched cause stays until a reset finds it gone",
    "emergency stop": "an active emergency stop goes before everything and can't be bypassed",
    "effect": "an active cause drives every output of its method",
    "hold": "what a control state holds is driven",
}


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a person or a schedule does between two scans.

    rule      row of the rule whose bypass begins or ends; -1 = none does
    ends      the time of the bypass is over at this scan; False = a bypass without an end begins,
              so that it stands for one of any length, and for one that is asked for again
    machine   row of the machine that is asked for its state number `position`; -1 = none is
    """

    rule: int = -1
    machine: int = -1
    position: int = 0
    asker: int = 0
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One scan: how long after the one before, what each input is, and what somebody does.

    picks   by input of the slice: the number of its choice
    """

    after_ns: int
    picks: tuple[int, ...]
    reset: bool = False
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A claim that a scan breaks; rows of the slice, -1 where none is meant."""

    claim: str
    output: int
    rule: int
    text: str


@dataclass(frozen=True, slots=True)
class Demand:
    """What protection wants of an output, and who."""

    value: float
    rank: int
    cause: int

    @property
    def by_rule(self) -> bool:
        """True for a trip or an interlock, not for the start-up or a control state."""
        return self.rank != lay.RANK_NONE and self.cause >= 0


class Bench:
    """An engine over a slice, its point table, and the clock."""

    def __init__(
        self,
        piece: Slice,
        abstraction: Abstraction,
        evaluate: Callable[..., int],
        scan_period_ns: int,
    ) -> None:
        program = piece.program
        self.piece, self.abstraction = piece, abstraction
        self.scan_period_ns = scan_period_ns
        self.engine = Engine(program, evaluate)
        self.rows: NDArray[np.void] = np.zeros(len(piece.points), dtype=POINT)
        self.rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        self._evaluate = evaluate
        self._inputs = list(piece.inputs)
        self._nothing = [Demand(math.nan, lay.RANK_NONE, lay.CAUSE_NONE)] * len(program.outputs)
        self._ranks = self.engine.outputs["rank"]
        self._columns = [_columns(choices) for choices in abstraction.choices]
        self._keys = _KeyMaker(self.engine)
        self._judge = _Judge(self.engine)
        self.first = self.engine.snapshot()
        self.actions = tuple(_actions(program))

    def run(self, step: Step) -> None:
        """One scan; more where the time before it is longer than one scan can count."""
        engine = self.engine
        now_ns = int(engine.memory[lay.MEMORY_NOW]) if engine.time_ns else START_NS
        if step.action is not None:
            self._act(step.action)
        for after_ns in parts_of(step.after_ns):
            now_ns += after_ns
            self._write(step.picks, now_ns)
            self._evaluate(self.rows, *engine.arguments, now_ns, step.reset)

    def _write(self, picks: Sequence[int], now_ns: int) -> None:
        rows = self.rows
        for row, columns, pick in zip(self._inputs, self._columns, picks, strict=True):
            value, code, age_ns = columns[pick]
            rows[row] = (value, code, 0, 0, now_ns - age_ns, 0)

    def _act(self, action: Action) -> None:
        if action.rule >= 0:
            bypass(self.engine, action.rule, ends=action.ends)
        else:
            asker = lay.ASKER_NAMES[action.asker]
            self.engine.request(action.machine, action.position, asker)

    def matters(self, action: Action | None) -> bool:
        """Whether an action changes anything in the present state."""
        if action is None or action.rule < 0:
            return True
        return bool(self.engine.state["bypass_ns"][action.rule]) == action.ends

    def replay(self, history: Sequence[Step]) -> Fault | None:
        """From the start through a history; the first fault on the way."""
        self.engine.restore_snapshot(self.first)
        for step in history:
            before = self.engine.snapshot()
            self.run(step)
            fault = self.judge(before, step)
            if fault is not None:
                return fault
        return None

    def judge(self, before: bytes, step: Step) -> Fault | None:
        """What the last scan broke; `before` is the state that it began with."""
        return self._judge.scan(before, self, step)

    def key(self) -> bytes:
        """Names the present state; two states of one key behave the same for ever."""
        return self._keys.key()

    def choice(self, at: int, pick: int) -> Choice:
        """What an input is by the number of the choice."""
        return self.abstraction.choices[at][pick]

    def lost(self, picks: Sequence[int]) -> list[int]:
        """Which inputs are lost."""
        return [at for at, pick in enumerate(picks) if self.choice(at, pick).lost]

    def demands(self) -> list[Demand]:
        """What is demanded of every output of the slice."""
        if not self._ranks.any():
            return self._nothing
        outputs = self.engine.outputs
        columns = (outputs[name].tolist() for name in ("value", "rank", "cause"))
        return [Demand(*row) for row in zip(*columns, strict=True)]


def bypass(engine: Engine, rule: int, *, ends: bool) -> None:
    """Begin a bypass of a rule, or let its time be over at the next scan."""
    until_ns = engine.state["bypass_ns"]
    if not ends:
        until_ns[rule] = NO_END_NS
    elif until_ns[rule]:
        until_ns[rule] = max(engine.time_ns, 1)


def parts_of(after_ns: int) -> list[int]:
    """A time as steps that the engine counts in full."""
    if after_ns <= lay.STEP_NS_MAX:
        return [after_ns]
    whole, rest = divmod(after_ns, lay.STEP_NS_MAX)
    return [lay.STEP_NS_MAX] * whole + ([rest] if rest else [])


def _columns(choices: Sequence[Choice]) -> list[tuple[float, int, int]]:
    return [(c.value, c.status, round(c.age_s * 1e9)) for c in choices]


def _actions(program: Program) -> Iterator[Action]:
    """Everything that somebody may do."""
    for rule, info in enumerate(program.info):
        if info.kind in ("trip", "interlock") and info.bypass_ns_max > 0:
            yield Action(rule=rule)
            yield Action(rule=rule, ends=True)
    for machine, about in enumerate(program.machine_info):
        first = int(program.machines[machine]["mode"])
        start = int(program.machines[machine]["transition"])
        asked: set[tuple[int, int]] = set()
        for at in range(len(about.transitions)):
            way = program.transitions[start + at]
            for asker in range(len(lay.ASKER_NAMES)):
                if int(way["askers"]) & (1 << asker):
                    asked.add((int(way["target"]) - first, asker))
        for position, asker in sorted(asked):
            yield Action(machine=machine, position=position, asker=asker)


class _KeyMaker:
    """Engine state without what can't matter any more: absolute times, and what is only shown."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        program = engine.program
        rules = program.rules
        self._wait_ns = np.maximum(rules["on_delay_ns"], rules["off_delay_ns"])
        self._is_state = rules["kind"] == lay.KIND_STATE
        self._slot_ns = np.zeros(program.slots, dtype=np.int64)
        timed = np.zeros(program.slots, dtype=np.bool_)
        for rule in range(len(rules)):
            for step in of_rule(program, rule):
                if step.op == lay.OP_DELAY:
                    self._slot_ns[step.of("slot")] = int(program.consts[step.of("const")])
                    timed[step.of("slot")] = True
        self._timed, self._times = timed, bool(timed.any())
        self._waits = bool(self._wait_ns.any())
        self._bypasses = any(info.bypass_ns_max for info in program.info)
        self._mode_ns = np.maximum(program.modes["min_ns"], program.modes["max_ns"])

    def key(self) -> bytes:
        """See `Bench.key`."""
        engine, state = self._engine, self._engine.state
        time_ns = engine.time_ns
        parts: list[NDArray[Any]] = [
            engine.memory[lay.MEMORY_STARTUP : lay.MEMORY_RESET + 1],
            *(state[name] for name in ("level", "condition", "held", "latched", "bypassed")),
        ]
        if self._waits:
            since = state["since_ns"]
            parts.append(np.where(since != 0, np.minimum(time_ns - since, self._wait_ns) + 1, 0))
            parts.append(np.where((since != 0) & self._is_state, state["pending"], 0))
        if self._bypasses:
            parts.append(state["bypass_ns"] > time_ns)  # when it ends is up to the actions
        slots = engine.slots
        if self._times:
            ages = np.minimum(time_ns - slots, self._slot_ns) + 1
            slots = np.where(self._timed & (slots != 0), ages, slots)
        parts.append(slots)
        if engine.machine_now.size:
            now = engine.machine_now
            stayed = np.minimum(time_ns - now["since_ns"], self._mode_ns[now["mode"]])
            parts += [now["mode"], np.where(now["since_ns"] != 0, stayed + 1, 0)]
        return b"".join(part.tobytes() for part in parts)


class _Judge:
    """The claims that every single scan must keep."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        program = engine.program
        self._before = Engine(program, _no_evaluation)
        self._safe = [float(value) for value in program.safe]
        self._latching = [n for n, row in enumerate(program.rules) if row["latch"]]
        self._effects: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
        for effect in program.effects:
            key = int(effect["rule"]), int(effect["level"])
            drive = int(effect["output"]), int(effect["rank"]), float(effect["value"])
            self._effects.setdefault(key, []).append(drive)
        acting = sorted({rule for rule, _ in self._effects})
        self._acting = acting
        self._estop = {n for n in acting if is_estop(program.info[n].name)}
        self._bypassable = [n for n, info in enumerate(program.info) if info.bypass_ns_max]
        self._watch = [(int(w["rule"]), int(w["point"])) for w in program.watch]
        self._holds = [_holds(program, machine) for machine in range(len(program.machines))]

    def scan(self, before: bytes, bench: Bench, step: Step) -> Fault | None:
        """The first claim that the scan breaks."""
        self._before.restore_snapshot(before)
        demands = bench.demands()
        return (
            self._finite(demands)
            or self._startup(bench, demands)
            or self._acts(demands)
            or self._bypasses()
            or self._latches(step)
            or self._held(demands)
        )

    def _finite(self, demands: list[Demand]) -> Fault | None:
        for output, demand in enumerate(demands):
            if demand.rank and not np.isfinite(demand.value):
                return Fault("finite", output, demand.cause, f"the demand is {demand.value}")
        return None

    def _startup(self, bench: Bench, demands: list[Demand]) -> Fault | None:
        if self._engine.startup:
            for output, safe in enumerate(self._safe):
                demand = demands[output]
                if safe == safe and (demand.rank, demand.value) != (lay.RANK_TRIP, safe):
                    return Fault("start-up", output, -1, "it is not demanded at its safe value")
            return None
        if not self._before.startup:
            return None
        for rule, point in self._watch:
            bypassed = self._engine.state["bypass_ns"][rule] > self._engine.time_ns
            lost = bench.rows["status"][point] >= status.BAD
            if lost and not self._engine.bypassed[rule] and not bypassed:
                return Fault("start-up", -1, rule, "the start-up ended although an input is lost")
        return None

    def _acts(self, demands: list[Demand]) -> Fault | None:
        """Active causes drive what their methods say; the emergency stop before all others."""
        levels = self._engine.level.tolist()
        for rule in self._acting:
            for output, rank, value in self._effects.get((rule, levels[rule]), ()):
                demand = demands[output]
                if demand.rank < rank:
                    return Fault("effect", output, rule, "it is active and nothing is demanded")
                if rule not in self._estop:
                    continue
                if demand.value != value and demand.cause not in (*self._estop, lay.CAUSE_STARTUP):
                    text = f"another cause demands {demand.value:g} in place of {value:g}"
                    return Fault("emergency stop", output, rule, text)
        return None

    def _bypasses(self) -> Fault | None:
        """Until its end a bypass frees what the rule drives; then the rule counts at once."""
        state, time_ns = self._engine.state, self._engine.time_ns
        for rule in self._bypassable:
            row = state[rule]
            if bool(row["bypassed"]) != bool(row["bypass_ns"] > time_ns):
                text = "it is bypassed after the end" if row["bypassed"] else "it is not bypassed"
                return Fault("bypass", -1, rule, text)
            if row["bypassed"] and row["active"]:
                return Fault("bypass", -1, rule, "it is bypassed and active")
        return None

    def _latches(self, step: Step) -> Fault | None:
        old, new = self._before.state, self._engine.state
        for rule in self._latching:
            row = new[rule]
            if old[rule]["latched"] and not row["latched"]:
                edge = step.reset and not self._before.memory[lay.MEMORY_RESET]
                if not edge:
                    return Fault("latch", -1, rule, "the latch went without a reset")
                if not row["bypassed"] and (row["quality"] >= lay.QUALITY_BAD_FROM or _wants(row)):
                    return Fault("latch", -1, rule, "the latch went although its cause is there")
            if row["latched"] and not row["active"] and not row["bypassed"]:
                return Fault("latch", -1, rule, "it is latched and not active")
        return None

    def _held(self, demands: list[Demand]) -> Fault | None:
        now = self._engine.machine_now
        for machine, holds in enumerate(self._holds):
            for output in holds.get(int(now["mode"][machine]), ()):
                if demands[output].rank == lay.RANK_NONE:
                    return Fault("hold", output, -1, "a control state holds it, and it is free")
        return None


def _wants(row: Any) -> bool:
    """Whether the result of a rule asked for a level in the last scan.

    Where a change is pending, the result is the opposite of the condition behind the delays.
    """
    return bool(row["condition"]) != bool(row["since_ns"])


def _holds(program: Program, machine: int) -> dict[int, list[int]]:
    """Outputs that each state of a machine holds, by row of the state."""
    first = int(program.machines[machine]["mode"])
    found: dict[int, list[int]] = {}
    for at, mode in enumerate(modes_of(program, machine)):
        start, count = int(mode["action"]), int(mode["actions"])
        rows = program.actions[start : start + count]
        found[first + at] = [int(a["output"]) for a in rows if a["rank"] == lay.RANK_INTERLOCK]
    return found


def _no_evaluation(*_: Any) -> int:
    raise AssertionError("this engine only shows a state")
