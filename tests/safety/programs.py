"""Random programs made of arrays, without a compiler: everything that the kernel can be given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import POINT
from safety import layout as lay
from safety.engine import Engine
from safety.layout import MachineInfo, Program, RuleInfo, TransitionInfo

POINTS = 8  # rows 1 to 8 are inputs; rows from there on show rules and outputs
CONSTS = (0.0, 1.0, 2.5, -3.0, 900.0, 1e-3, 1e308, -1e308)
TIMES_NS = (0, 1, 100_000_000, 250_000_000, 1_000_000_000, 9_999_999_999)
VALUES = (
    *(0.0, -0.0, 1.0, 2.0, 2.5, -3.0, 899.0, 900.0, 1e308, -1e308, 5e-324),
    *(np.nan, np.inf, -np.inf),
)
CODES = (
    *(status.GOOD, status.GOOD, status.GOOD, status.GOOD, status.UNCERTAIN_LAST_USABLE),
    *(status.BAD_NO_COMMUNICATION, status.BAD_WAITING_FOR_INITIAL_DATA, 0xC0000000),
)


class Code:
    """One rule's random code; slots, floats and constants are counted over all rules."""

    def __init__(self, random: np.random.Generator, machines: int) -> None:
        self.random, self.machines = random, machines
        self.consts: list[float] = []
        self.slots = self.floats = self.depth = 0
        self.rule = 0  # rules before this one may be referred to

    def pick(self, *choices: Any) -> Any:
        """One of some."""
        return choices[int(self.random.integers(len(choices)))]

    def const(self, value: float) -> int:
        """A new constant."""
        self.consts.append(value)
        return len(self.consts) - 1

    def time(self) -> int:
        """A constant of nanoseconds."""
        return self.const(float(self.pick(*TIMES_NS)))

    def number(self, depth: int, at: int = 0) -> list[int]:
        """Code that leaves a number in cell `at`."""
        self.depth = max(self.depth, at + 1)
        if depth == 0:
            return self.leaf()
        inner = self.number(depth - 1, at)
        match int(self.random.integers(9)):
            case 0:
                return [*inner, self.pick(lay.OP_NEG, lay.OP_ABS)]
            case 1:
                return [*inner, *self.number(depth - 1, at + 1), self.arithmetic()]
            case 2:
                return [*inner, lay.OP_RATE, *self.place(lay.RATE_SLOTS, lay.RATE_FLOATS),
                        self.time()]  # fmt: skip
            case 3:
                return [*inner, lay.OP_FILTER, *self.place(1, 1), self.time()]
            case 4:
                limits = [self.const(self.pick(0.0, 0.5, 10.0, 1e308)) for _ in range(2)]
                return [*inner, lay.OP_RAMP, *self.place(1, 1), *limits]
            case 5:
                return [*inner, *self.curve()]
            case 6:
                return [*inner, lay.OP_QUALITY]
            case 7:
                sides = [*self.number(0, at + 1), *self.number(depth - 1, at + 2)]
                return [*self.condition(depth - 1, at), *sides, lay.OP_SELECT]
            case _:
                return self.leaf()

    def place(self, slots: int, floats: int) -> list[int]:
        """The first of new slots and of new floats."""
        self.slots, self.floats = self.slots + slots, self.floats + floats
        return [self.slots - slots, self.floats - floats]

    def arithmetic(self) -> int:
        """An opcode that joins two numbers."""
        return int(self.random.integers(lay.OP_ADD, lay.OP_MAX + 1))

    def curve(self) -> list[int]:
        """A curve of one to four points."""
        count = int(self.random.integers(1, 5))
        places = np.cumsum(self.random.choice([1.0, 0.5, 900.0, 1e307], count))
        words = [lay.OP_CURVE, count]
        for place in places:
            words += [self.const(float(place) - 2.0), self.const(self.pick(*CONSTS))]
        return words

    def leaf(self) -> list[int]:
        """Code that pushes one cell."""
        point = int(self.random.integers(1, POINTS + 1))
        leaves = [
            [lay.OP_POINT, point],
            [lay.OP_POINT, point],
            [lay.OP_CONST, self.const(self.pick(*CONSTS))],
            [lay.OP_AGE, point],
        ]
        if self.rule:
            leaves.append([lay.OP_LEVEL, int(self.random.integers(self.rule))])
        if self.machines:
            leaves.append([lay.OP_MACHINE, int(self.random.integers(self.machines))])
        return self.pick(*leaves)

    def condition(self, depth: int, at: int = 0) -> list[int]:
        """Code that leaves a condition in cell `at`."""
        self.depth = max(self.depth, at + 1)
        which = int(self.random.integers(1, 7))
        if depth == 0:
            point = int(self.random.integers(1, POINTS + 1))
            words = [which, point, self.const(self.pick(*CONSTS))]
            if self.random.random() < 0.7:
                return [lay.OP_LIMIT, *words]
            return [lay.OP_LIMIT_HYST, *words, self.place(1, 0)[0], self.const(5.0)]
        match int(self.random.integers(6)):
            case 0:
                sides = self.number(depth - 1, at) + self.number(depth - 1, at + 1)
                return [*sides, lay.OP_COMPARE, which]
            case 1:
                sides = self.number(depth - 1, at) + self.number(depth - 1, at + 1)
                return [*sides, lay.OP_HYST, which, self.place(1, 0)[0], self.const(2.0)]
            case 2:
                sides = self.condition(depth - 1, at) + self.condition(depth - 1, at + 1)
                return [*sides, self.pick(lay.OP_AND, lay.OP_OR)]
            case 3:
                inner = self.condition(depth - 1, at)
                return [*inner, lay.OP_DELAY, self.place(1, 0)[0], self.time()]
            case 4:
                count = int(self.random.integers(1, 5))
                words = [w for n in range(count) for w in self.condition(depth - 1, at + n)]
                needed = int(self.random.integers(1, count + 1))
                return [*words, lay.OP_VOTE, needed, count, int(self.random.integers(3))]
            case _:
                return [*self.condition(depth - 1, at), self.pick(lay.OP_NOT, lay.OP_TRUTH)]

    def levels(self) -> list[int]:
        """Code that leaves one of the levels 1 and 2, or none."""
        one, two, none = (self.const(float(level)) for level in (1, 2, 0))
        inner = [*self.condition(2, 2), lay.OP_CONST, two, lay.OP_CONST, none, lay.OP_SELECT]
        self.depth = max(self.depth, 5)
        return [*self.condition(2), lay.OP_CONST, one, *inner, lay.OP_SELECT]


def random_program(seed: int, rules: int = 14) -> Program:
    """A program of every kind of rule, with machines, functions and ramps."""
    random = np.random.default_rng(seed)
    machines = int(random.integers(0, 4))
    outputs = int(random.integers(1, 5))
    code = Code(random, machines)
    table = np.zeros(rules, dtype=lay.RULE)
    words: list[int] = []
    for number in range(rules):
        code.rule = number
        kind = int(random.integers(len(lay.KIND_NAMES)))
        is_number = kind in (lay.KIND_VALUE, lay.KIND_FUNCTION)
        has_levels = not is_number and kind != lay.KIND_GUARD and random.random() < 0.3
        own = code.levels() if has_levels else code.number(3) if is_number else code.condition(3)
        rule = table[number]
        rule["start"], rule["stop"], rule["kind"] = len(words), len(words) + len(own), kind
        rule["on_bad"] = random.integers(3)
        rule["level_true"], rule["level_first"] = 0 if has_levels else 1, 1
        rule["latch"] = kind in (lay.KIND_ALARM, lay.KIND_INTERLOCK, lay.KIND_TRIP) and (
            random.random() < 0.5
        )
        rule["on_delay_ns"], rule["off_delay_ns"] = random.choice(TIMES_NS[:4], 2)
        rule["bad_value"] = random.choice([np.nan, 7.0, 1e308, np.inf])
        rule["point"] = POINTS + 1 + number if is_number else 0
        rule["output"], rule["role"] = random.integers(outputs), random.integers(4)
        rule["enable"] = random.integers(-1, number) if number else -1
        words += own
    parts = _machines(random, machines, rules, outputs)
    effects = np.zeros(int(random.integers(0, 8)), dtype=lay.EFFECT)
    for effect in effects:
        effect["rule"], effect["level"] = random.integers(rules), random.integers(1, 3)
        effect["output"], effect["rank"] = random.integers(outputs), random.integers(1, 3)
        effect["value"] = random.choice([0.0, 4.0])
    watch = np.zeros(int(random.integers(0, 4)), dtype=lay.WATCH)
    watch["rule"], watch["point"] = random.integers(0, rules, len(watch)), 1
    info = tuple(_about(number, rule) for number, rule in enumerate(table))
    program = Program(
        info=info,
        strings=("", "Yes", "Other"),
        rules=table,
        code=np.array(words, dtype=np.int32),
        consts=np.array(code.consts, dtype=np.float64),
        slots=code.slots,
        floats=code.floats,
        effects=effects,
        outputs=np.arange(outputs, dtype=np.int32) + POINTS + rules + 1,
        safe=random.choice([np.nan, 0.0, 1.5], outputs),
        protective=np.zeros(POINTS + rules + outputs + 1, dtype=np.bool_),
        watch=watch,
        shown=random.choice([0, 2, 3], outputs).astype(np.int32),
        depth=code.depth,
        **parts,
    )
    for name in program.__dataclass_fields__:
        array = getattr(program, name)
        if isinstance(array, np.ndarray):
            array.setflags(write=False)  # as the compiler does: one specialisation of the kernel
    return program


def _about(number: int, rule: Any) -> RuleInfo:
    """What the engine must know of a rule."""
    kind, latch = lay.KIND_NAMES[rule["kind"]], bool(rule["latch"])
    point, longest_ns = int(rule["point"]), 10**12
    return RuleInfo(f"R{number}", kind, ("Yes", "Other"), "", point, (), latch=latch,
                    bypass_ns_max=longest_ns)  # fmt: skip


def _machines(random: np.random.Generator, count: int, rules: int, outputs: int) -> dict[str, Any]:
    """The arrays of machines: two to four states each, transitions, actions and ramps."""
    machines = np.zeros(count, dtype=lay.MACHINE)
    modes: list[tuple[int, ...]] = []
    ways: list[tuple[int, ...]] = []
    actions: list[tuple[Any, ...]] = []
    segments: list[tuple[float, float, int]] = []
    infos = []
    for number in range(count):
        first, size = len(modes), int(random.integers(2, 5))
        count_of_ways = int(random.integers(1, 7))
        initial = first + int(random.integers(size))
        machines[number] = (first, size, len(ways), count_of_ways, initial)
        for _ in range(size):
            held = int(random.integers(0, 4))
            min_ns, max_ns = (int(t) for t in random.choice(TIMES_NS[:5], 2))
            timeout = int(random.integers(first - 1, first + size))
            timeout = -1 if timeout < first else timeout
            modes.append((min_ns, max_ns, int(random.integers(1, 3)), timeout, len(actions), held))
            for _ in range(held):
                ramp = int(random.integers(0, 4))
                rank = int(random.choice([lay.RANK_INTERLOCK, lay.RANK_SETPOINT]))
                pause = int(random.integers(-1, rules))
                output = int(random.integers(outputs))
                actions.append((5.0, output, rank, len(segments), ramp, pause))
                for _ in range(ramp):
                    to, rate = random.choice([0.0, 10.0, -1e308, 1e308]), random.choice([0, 3, 1e9])
                    segments.append((to, rate, int(random.choice(TIMES_NS[:5]))))
        names = tuple(f"S{n}" for n in range(size))
        told = []
        for _ in range(count_of_ways):
            origin = int(random.integers(first - 1, first + size))
            origin = -1 if origin < first else origin
            target = first + int(random.integers(size))
            automatic, askers = int(random.random() < 0.4), int(random.integers(8))
            guard = int(random.integers(-1, rules))
            urgent = int(random.random() < 0.3)
            ways.append((origin, target, guard, automatic, askers, urgent))
            told.append(
                TransitionInfo(
                    "*" if origin < 0 else names[origin - first],
                    names[target - first],
                    "a guard" if guard >= 0 else "",
                    bool(automatic),
                    tuple(a for bit, a in enumerate(lay.ASKER_NAMES) if askers >> bit & 1),
                    bool(urgent),
                )
            )
        infos.append(MachineInfo(f"M{number}", names, 0, tuple(told)))
    return {
        "machines": machines,
        "modes": np.array(modes, dtype=lay.MODE),
        "transitions": np.array(ways, dtype=lay.TRANSITION),
        "actions": np.array(actions, dtype=lay.ACTION),
        "segments": np.array(segments, dtype=lay.SEGMENT),
        "machine_info": tuple(infos),
    }


def point_table(program: Program) -> NDArray[np.void]:
    """A table of points that were never read."""
    rows = np.zeros(len(program.protective), dtype=POINT)
    rows["status"], rows["value"] = status.BAD_WAITING_FOR_INITIAL_DATA, np.nan
    return rows


def check_finite(engine: Engine) -> None:
    """No output is left without a demand that it must have, and no number is none."""
    wanted = engine.rank != 0
    assert np.isfinite(engine.demand[wanted]).all()
    assert np.isnan(engine.demand[~wanted]).all()
    assert not np.isinf(engine.auto).any()
    assert np.isfinite(engine.offset).all()
    for limit, cause, none in (
        (engine.low, engine.low_cause, -np.inf),
        (engine.high, engine.high_cause, np.inf),
    ):
        assert np.where(cause == -1, limit == none, np.isfinite(limit)).all()
    assert ((engine.auto_cause == -1) == np.isnan(engine.auto)).all()
    if engine.startup:
        has_safe = ~np.isnan(engine.program.safe)
        assert (engine.demand[has_safe] == engine.program.safe[has_safe]).all()
        assert np.isnan(engine.auto).all()
