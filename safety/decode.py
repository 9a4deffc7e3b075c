"""Reading a program's code: its instructions, what they refer to, and a smaller program of some.

What explains and proves a program looks at the code that runs, not at the text it came from: the
constants are those that are compared, in the units of the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.points import NO_POINT
from safety import layout as lay
from safety.layout import Program

# What each operand of an opcode is. A curve has as many pairs of constants as it says.
_OPERANDS: Final[Mapping[int, tuple[str, ...]]] = {
    lay.OP_POINT: ("point",),
    lay.OP_CONST: ("const",),
    lay.OP_LEVEL: ("rule",),
    lay.OP_AGE: ("point",),
    lay.OP_MACHINE: ("machine",),
    lay.OP_LIMIT: ("which", "point", "const"),
    lay.OP_LIMIT_HYST: ("which", "point", "const", "slot", "const"),
    lay.OP_DELAY: ("slot", "const"),
    lay.OP_VOTE: ("number", "number", "number"),
    lay.OP_COMPARE: ("which",),
    lay.OP_HYST: ("which", "slot", "const"),
    lay.OP_RATE: ("slot", "float", "const"),
    lay.OP_FILTER: ("slot", "float", "const"),
    lay.OP_RAMP: ("slot", "float", "const", "const"),
}
_SLOTS: Final = {lay.OP_RATE: lay.RATE_SLOTS}
_FLOATS: Final = {lay.OP_RATE: lay.RATE_FLOATS}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `at` is its place in the code, `kinds` says what each operand is."""

    at: int
    op: int
    operands: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def stop(self) -> int:
        """The place behind it."""
        return self.at + 1 + len(self.operands)

    def of(self, kind: str) -> int:
        """Its first operand of a kind."""
        return self.operands[self.kinds.index(kind)]


def instructions(code: NDArray[np.int32], start: int, stop: int) -> Iterator[Instruction]:
    """The instructions from `start` up to `stop`."""
    at = start
    while at < stop:
        op = int(code[at])
        kinds = _OPERANDS.get(op, ())
        if op == lay.OP_CURVE:
            kinds = ("number", *["const"] * (2 * int(code[at + 1])))
        operands = tuple(code[at + 1 : at + 1 + len(kinds)].tolist())
        yield Instruction(at, op, operands, kinds)
        at += 1 + len(kinds)


def of_rule(program: Program, rule: int) -> list[Instruction]:
    """The instructions of one rule."""
    row = program.rules[rule]
    return list(instructions(program.code, int(row["start"]), int(row["stop"])))


class References:
    """What the rules and machines of a program read."""

    def __init__(self, program: Program) -> None:
        self._program = program
        kinds = program.rules["kind"]
        computed = (kinds == lay.KIND_VALUE) | (kinds == lay.KIND_FUNCTION)
        # Point that a rule calculates -> the rule.
        self.calculated: dict[int, int] = {
            int(program.rules[rule]["point"]): int(rule) for rule in np.flatnonzero(computed)
        }
        self.calculated.pop(NO_POINT, None)

    def of_rule(self, rule: int) -> tuple[set[int], set[int], set[int]]:
        """Rules, machines and points that a rule reads directly; no calculated points."""
        rules, machines, points = set(), set(), set()
        for step in of_rule(self._program, rule):
            for kind, operand in zip(step.kinds, step.operands, strict=True):
                if kind == "rule":
                    rules.add(operand)
                elif kind == "machine":
                    machines.add(operand)
                elif kind == "point" and operand in self.calculated:
                    rules.add(self.calculated[operand])
                elif kind == "point":
                    points.add(operand)
        enable = int(self._program.rules[rule]["enable"])
        if self._program.rules[rule]["kind"] == lay.KIND_FUNCTION and enable >= 0:
            rules.add(enable)
        return rules, machines, points

    def of_machine(self, machine: int) -> set[int]:
        """The guards of a machine: of its transitions and of the pauses of its ramps."""
        program = self._program
        guards = {int(t["guard"]) for t in part(program.transitions, program.machines[machine])}
        for mode in modes_of(program, machine):
            first, count = int(mode["action"]), int(mode["actions"])
            guards |= {int(a["pause"]) for a in program.actions[first : first + count]}
        return guards - {-1}

    def closure(
        self, rules: Iterable[int], machines: Iterable[int] = ()
    ) -> tuple[list[int], list[int], list[int]]:
        """Everything that some rules and machines depend on, themselves included.

        Returns rows of rules, of machines, and points that are read; each sorted.
        """
        waiting, waiting_machines = list(rules), list(machines)
        seen: set[int] = set()
        seen_machines: set[int] = set()
        read: set[int] = set()
        while waiting or waiting_machines:
            if waiting_machines:
                machine = waiting_machines.pop()
                if machine not in seen_machines:
                    seen_machines.add(machine)
                    waiting += self.of_machine(machine)
                continue
            rule = waiting.pop()
            if rule not in seen:
                seen.add(rule)
                used, used_machines, points = self.of_rule(rule)
                waiting += used
                waiting_machines += used_machines
                read |= points
        return sorted(seen), sorted(seen_machines), sorted(read - {NO_POINT})


def part(rows: NDArray[np.void], machine: Any) -> NDArray[np.void]:
    """The transitions of a machine."""
    first = int(machine["transition"])
    return rows[first : first + int(machine["transitions"])]


def modes_of(program: Program, machine: int) -> NDArray[np.void]:
    """The rows of a machine's states."""
    row = program.machines[machine]
    first = int(row["mode"])
    return program.modes[first : first + int(row["modes"])]


# ---------------------------------------------------------------- a smaller program


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rules of a program with everything that they depend on, as a program of its own.

    rules     rows of the whole program, by row of this one
    machines  the same of machines
    outputs   the same of outputs
    points    rows of the whole point table, by row of this one's; [0] is 0
    inputs    rows of this one's point table that somebody else writes: what the plant says
    """

    program: Program
    rules: tuple[int, ...]
    machines: tuple[int, ...]
    outputs: tuple[int, ...]
    points: tuple[int, ...]
    inputs: tuple[int, ...]


def cut(program: Program, rules: Iterable[int], machines: Iterable[int] = ()) -> Slice:
    """The slice of some rules and machines."""
    return _Cutter(program, rules, machines).slice()


class _Cutter:
    """One slice in the making; `new` maps rows of the whole to rows of the slice, by kind."""

    def __init__(self, program: Program, rules: Iterable[int], machines: Iterable[int]) -> None:
        self.program = program
        references = References(program)
        self.rules, self.machines, self.read = references.closure(rules, machines)
        self.effects = np.flatnonzero(np.isin(program.effects["rule"], self.rules)).tolist()
        self.ranges: dict[str, list[int]] = {}
        self._mark_machines()
        driven = set(program.effects["output"][self.effects].tolist())
        driven |= {int(program.actions[a]["output"]) for a in self.ranges["action"]}
        for rule in self.rules:
            if program.rules[rule]["kind"] == lay.KIND_FUNCTION:
                driven.add(int(program.rules[rule]["output"]))
        self.outputs = sorted(driven)
        # Only a ramp reads what an output shows: it starts there.
        ramps = self.ranges["segment"]
        shown = {int(program.shown[o]) for o in self.outputs} if ramps else set()
        self.inputs = sorted((set(self.read) | shown) - {NO_POINT})
        own = {p for p, rule in references.calculated.items() if rule in set(self.rules)}
        self.points = [NO_POINT, *sorted(set(self.inputs) | own)]
        self.new: dict[str, dict[int, int]] = {
            "rule": _numbered(self.rules),
            "machine": _numbered(self.machines),
            "output": _numbered(self.outputs),
            "point": _numbered(self.points),
            **{name: _numbered(rows) for name, rows in self.ranges.items()},
        }
        self.slots = self.floats = 0

    def _mark_machines(self) -> None:
        """Which rows of modes, transitions, actions and segments belong to the machines."""
        program = self.program
        modes, transitions, actions, segments = [], [], [], []
        for machine in self.machines:
            row = program.machines[machine]
            modes += _range(row["mode"], row["modes"])
            transitions += _range(row["transition"], row["transitions"])
        for mode in modes:
            actions += _range(program.modes[mode]["action"], program.modes[mode]["actions"])
        for action in actions:
            row = program.actions[action]
            segments += _range(row["segment"], row["segments"])
        self.ranges = {
            "mode": modes,
            "transition": transitions,
            "action": actions,
            "segment": segments,
        }

    def slice(self) -> Slice:
        """The whole of it."""
        code, rules = self._code()
        program = self.program
        watch = [
            (self.new["rule"][int(w["rule"])], self.new["point"][int(w["point"])])
            for w in program.watch
            if int(w["rule"]) in self.new["rule"] and int(w["point"]) in self.new["point"]
        ]
        protective = np.zeros(len(self.points), dtype=np.bool_)
        protective[[point for _, point in watch]] = True
        made = replace(
            program,
            info=tuple(self._info(rule) for rule in self.rules),
            machine_info=tuple(program.machine_info[m] for m in self.machines),
            rules=_frozen(rules),
            code=_frozen(code),
            slots=self.slots,
            floats=self.floats,
            effects=self._renamed(
                program.effects[self.effects], {"rule": "rule", "output": "output"}
            ),
            outputs=_frozen(program.outputs[self.outputs]),
            safe=_frozen(program.safe[self.outputs]),
            shown=_frozen(
                np.array([self.point(int(program.shown[o])) for o in self.outputs], dtype=np.int32)
            ),
            protective=_frozen(protective),
            watch=_frozen(np.array(watch, dtype=lay.WATCH)),
            machines=self._renamed(
                program.machines[self.machines],
                {"mode": "mode", "transition": "transition", "initial": "mode"},
            ),
            modes=self._renamed(
                program.modes[self.ranges["mode"]], {"timeout": "mode", "action": "action"}
            ),
            transitions=self._renamed(
                program.transitions[self.ranges["transition"]],
                {"origin": "mode", "target": "mode", "guard": "rule"},
            ),
            actions=self._renamed(
                program.actions[self.ranges["action"]],
                {"output": "output", "segment": "segment", "pause": "rule"},
            ),
            segments=_frozen(program.segments[self.ranges["segment"]]),
        )
        return Slice(
            program=made,
            rules=tuple(self.rules),
            machines=tuple(self.machines),
            outputs=tuple(self.outputs),
            points=tuple(self.points),
            inputs=tuple(self.new["point"][p] for p in self.inputs),
        )

    def point(self, index: int) -> int:
        """A point's row in the slice; NO_POINT where the slice does not hold it."""
        return self.new["point"].get(index, NO_POINT)

    def _info(self, rule: int) -> lay.RuleInfo:
        info = self.program.info[rule]
        return replace(
            info,
            point=NO_POINT,
            inputs=tuple(self.point(p) for p in info.inputs if self.point(p)),
            suppress=-1,
            permits=(),
        )

    def _renamed(self, rows: NDArray[np.void], columns: Mapping[str, str]) -> NDArray[np.void]:
        """Rows with the numbers of the slice in some columns; -1 and unused first rows stay."""
        made = rows.copy()
        for column, kind in columns.items():
            for row in made:
                row[column] = self.new[kind].get(int(row[column]), min(int(row[column]), 0))
        return _frozen(made)

    def _code(self) -> tuple[NDArray[np.int32], NDArray[np.void]]:
        """The code of the rules behind one another, and the rules with their places in it."""
        words: list[int] = []
        rules = self.program.rules[self.rules].copy()
        for new, rule in enumerate(self.rules):
            start = len(words)
            for step in of_rule(self.program, rule):
                words += [step.op, *self._operands(step)]
            rules[new]["start"], rules[new]["stop"] = start, len(words)
            rules[new]["point"] = self.point(int(rules[new]["point"]))
            if rules[new]["kind"] == lay.KIND_FUNCTION:
                rules[new]["output"] = self.new["output"][int(rules[new]["output"])]
                enable = int(rules[new]["enable"])
                rules[new]["enable"] = self.new["rule"].get(enable, -1)
        return np.array(words, dtype=np.int32), rules

    def _operands(self, step: Instruction) -> list[int]:
        change: dict[str, Callable[[int], int]] = {
            "point": self.point,
            "rule": lambda row: self.new["rule"][row],
            "machine": lambda row: self.new["machine"][row],
            "slot": lambda _: self._take_slots(step.op),
            "float": lambda _: self._take_floats(step.op),
        }
        pairs = zip(step.kinds, step.operands, strict=True)
        return [change[kind](word) if kind in change else word for kind, word in pairs]

    def _take_slots(self, op: int) -> int:
        self.slots += _SLOTS.get(op, 1)
        return self.slots - _SLOTS.get(op, 1)

    def _take_floats(self, op: int) -> int:
        self.floats += _FLOATS.get(op, 1)
        return self.floats - _FLOATS.get(op, 1)


def _range(first: Any, count: Any) -> list[int]:
    return list(range(int(first), int(first) + int(count)))


def _numbered(rows: Iterable[int]) -> dict[int, int]:
    return {row: number for number, row in enumerate(rows)}


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
