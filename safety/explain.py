"""Why a rule shows what it shows: its condition, part by part, with what each part is now.

The parts are evaluated by the reference's stack machine on copies of what the engine carries, at
the engine time of its last scan: nothing is disturbed, and the answer is that of the scan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import NO_POINT, PointDef
from safety import layout as lay
from safety.decode import Instruction, of_rule
from safety.engine import Engine
from safety.layout import RuleInfo
from safety.reference_cells import Cell, StackMachine, read_point, usable
from safety.terms import (
    Choice,
    Compare,
    Delay,
    Junction,
    Not,
    Null,
    Number,
    Point,
    Ref,
    Term,
    Text,
    Truth,
    Vote,
    children,
    show,
    show_duration,
)

PARTS_MAX: Final = 120  # that are shown of one explanation; what is deeper is left out
RULES_MAX: Final = 24  # that one explanation follows; each takes about a tenth of a millisecond
RULES_DEEP_MAX: Final = 3  # rules inside one another
MISSING_MAX: Final = 20
TEXT_CHARS_MAX: Final = 240
_QUALITY_WORDS: Final = ("", "uncertain", "never read", "bad")
_CONSTANTS: Final = (Number, Text, Truth, Null)
_CONDITIONS: Final = (Compare, Not, Junction, Delay, Vote, Truth)


@dataclass(slots=True)
class Part:
    """One part of a condition.

    value    a number, 1 for true, the id of a name; NaN where it is not usable
    quality  QUALITY_GOOD ...
    shown    the value for people
    note     what else there is to know: status and age of a point, the time left of a delay
    rule     row of the rule that it refers to, -1 = none
    """

    term: Term
    value: float
    quality: int
    shown: str
    note: str = ""
    rule: int = -1
    parts: list[Part] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The part as infix, cut where it is very long."""
        text = show(self.term)
        return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"

    @property
    def is_usable(self) -> bool:
        """False where it is bad or was never read."""
        return self.quality < lay.QUALITY_BAD_FROM

    @property
    def is_true(self) -> bool:
        """As a condition."""
        return self.is_usable and self.value != 0

    def flat(self, depth: int = 0) -> Iterator[tuple[int, Part]]:
        """This part and all below it, with their depth."""
        yield depth, self
        for part in self.parts:
            yield from part.flat(depth + 1)


class Explainer:
    """Explains the rules of one engine over one point table."""

    def __init__(self, engine: Engine, points: Sequence[PointDef]) -> None:
        """`points` in the order of their index, from 1."""
        self._engine = engine
        self._points = points
        self._indexes = {point.tag: point.index for point in points}
        program = engine.program
        self._by_point = {info.point: rule for rule, info in enumerate(program.info) if info.point}

    def rule(self, rule: int, rows: NDArray[np.void]) -> Part | None:
        """The condition, or the number, of a rule; None where the program holds no term of it.

        The rules that it refers to stand below, the nearest ones first, as many as there is room.
        """
        root = self._read(rule, rows)
        trees, left = [root] if root is not None else [], RULES_MAX
        for _ in range(RULES_DEEP_MAX):
            referring = [part for tree in trees for _, part in tree.flat() if part.rule >= 0]
            trees = []
            for part in referring[:left]:
                inner = self._read(part.rule, rows)
                if inner is not None:
                    part.parts = [inner]
                    trees.append(inner)
            left -= min(left, len(referring))
        return root

    def _read(self, rule: int, rows: NDArray[np.void]) -> Part | None:
        info = self._engine.program.info[rule]
        return None if info.term is None else _Reader(self, rule, info, rows).read(info.term)

    # ------------------------------------------------------------ for _Reader

    @property
    def engine(self) -> Engine:
        """The engine that is explained."""
        return self._engine

    def point(self, tag: str) -> PointDef | None:
        """A point by its tag."""
        index = self._indexes.get(tag, NO_POINT)
        return self._points[index - 1] if index else None

    def rule_of_point(self, index: int) -> int:
        """The rule that shows itself in a point, or calculates it; -1 = none."""
        return self._by_point.get(index, -1)


class _Reader:
    """One rule, read once."""

    def __init__(self, owner: Explainer, rule: int, info: RuleInfo, rows: NDArray[np.void]) -> None:
        self._owner, self._rows = owner, rows
        self._engine = owner.engine
        row = self._engine.program.rules[rule]
        self._names = not row["level_true"] and info.kind in ("alarm", "state", "trip", "interlock")
        start = int(row["start"])
        self._steps = {step.stop - start: step for step in of_rule(self._engine.program, rule)}
        self._cells = _cells(self._engine, rule, rows)
        self._spans = list(info.spans)
        self._next = 0

    def read(self, term: Term) -> Part:
        """The whole condition."""
        part = self._part(term)
        assert part is not None
        return part

    def _part(self, term: Term) -> Part | None:
        """A part with what it is made of, in the order in which the kernel evaluates it."""
        if isinstance(term, _CONSTANTS):
            return None
        inner = [part for child in children(term) if (part := self._part(child)) is not None]
        cell, step = self._cell(term)
        if isinstance(term, Point):
            return self._of_point(term)
        if isinstance(term, Ref):
            return self._of_rule(term, step, cell)
        note = self._note(term, cell, step)
        return Part(term, *cell, self._shown(term, cell), note, parts=inner)

    def _cell(self, term: Term) -> tuple[Cell, Instruction | None]:
        """What the term left on the stack. A point that is compared with a number is inside the
        instruction that compares it and has no cell of its own."""
        if self._next < len(self._spans):
            stop, spanned = self._spans[self._next]
            if spanned is term or spanned == term:
                self._next += 1
                return self._cells.get(stop, (math.nan, lay.QUALITY_BAD)), self._steps.get(stop)
        return (math.nan, lay.QUALITY_BAD), None

    def _of_point(self, term: Point) -> Part:
        point = self._owner.point(term.tag)
        if point is None:
            return Part(term, math.nan, lay.QUALITY_BAD, "bad", "no such point")
        cell = read_point(self._rows, point.index)
        row = self._rows[point.index]
        rule = self._owner.rule_of_point(point.index)
        if rule >= 0 and point.source != "virtual":
            return self._of_level(term, rule)
        note = f"{status.name_of(int(row['status']))}, {self._age(point.index)}"
        if not usable(cell) and math.isfinite(row["value"]) and cell[1] != lay.QUALITY_NEVER:
            last = _point_shown(point, (float(row["value"]), lay.QUALITY_GOOD))
            note += f", last value {last}"
        if rule >= 0:
            note = "calculated"
        return Part(term, *cell, _point_shown(point, cell), note, rule)

    def _of_level(self, term: Term, rule: int) -> Part:
        """A rule as another one sees it."""
        level, quality = int(self._engine.level[rule]), int(self._engine.state["quality"][rule])
        value = float(level) if quality < lay.QUALITY_BAD_FROM else math.nan
        shown = self._engine.program.strings[level] or "inactive"
        return Part(term, value, quality, shown, self._standing(rule), rule)

    def _standing(self, rule: int) -> str:
        """What there is to know of a rule besides its level."""
        state = self._engine.state[rule]
        words = (
            ("latched", state["latched"]),
            ("bypassed", state["bypassed"]),
            (_QUALITY_WORDS[int(state["quality"])], int(state["quality"])),
        )
        return ", ".join(word for word, holds in words if holds)

    def _age(self, index: int) -> str:
        row = self._rows[index]
        if int(row["status"]) == status.BAD_WAITING_FOR_INITIAL_DATA:
            return "no age"
        age_s = max(0, int(self._engine.memory[lay.MEMORY_NOW]) - int(row["mono_ns"])) / 1e9
        return f"{age_s:.3g} s old"

    def _of_rule(self, term: Ref, step: Instruction | None, cell: Cell) -> Part:
        engine = self._engine
        if step is None or step.op != lay.OP_LEVEL:  # a machine
            name = engine.program.strings[int(cell[0])] if usable(cell) else "bad"
            return Part(term, *cell, name)
        rule = step.of("rule")
        return self._of_level(term, rule)

    def _shown(self, term: Term, cell: Cell) -> str:
        if not usable(cell):
            return _QUALITY_WORDS[cell[1]]
        if isinstance(term, Choice) and self._names:
            return self._engine.program.strings[int(cell[0])] or "inactive"
        if isinstance(_kind_of(term), _CONDITIONS):
            return "true" if cell[0] else "false"
        return f"{cell[0]:.6g}"

    def _note(self, term: Term, cell: Cell, step: Instruction | None) -> str:
        if not isinstance(term, Delay) or step is None or step.op != lay.OP_DELAY:
            return ""
        began_ns = int(self._engine.slots[step.of("slot")])
        if not began_ns or (usable(cell) and cell[0]):
            return ""
        left_s = (term.delay_ns - (self._engine.time_ns - began_ns)) / 1e9
        return f"{max(left_s, 0):.3g} s of {show_duration(term.delay_ns)} are left"


def _kind_of(term: Term) -> Term:
    """What says of which kind the value of a choice is."""
    while isinstance(term, Choice):
        term = term.value
    return term


def _point_shown(point: PointDef, cell: Cell) -> str:
    if not usable(cell):
        return _QUALITY_WORDS[cell[1]]
    value = cell[0]
    if point.states and value == int(value) and 0 <= value < len(point.states):
        return point.states[int(value)] or "inactive"
    return f"{value:.6g} {point.units}".rstrip()


def _cells(engine: Engine, rule: int, rows: NDArray[np.void]) -> dict[int, Cell]:
    """What stands on top of the stack behind every instruction of a rule, by place in its code."""
    program = engine.program
    row = program.rules[rule]
    start, stop = int(row["start"]), int(row["stop"])
    levels = [int(program.modes[mode]["level"]) for mode in engine.machine_now["mode"].tolist()]
    # Step 0: what remembers numbers took its step in the scan.
    times_ns = int(engine.memory[lay.MEMORY_NOW]), engine.time_ns, 0
    slots, floats = engine.slots.copy(), engine.floats.copy()
    machine = StackMachine(rows, program.consts, levels, engine.state, slots, floats, times_ns)
    words = program.code[start:stop].tolist()
    words.reverse()
    cells: dict[int, Cell] = {}
    while words:
        machine.step(words)
        cells[stop - start - len(words)] = machine.stack[-1]
    return cells


# ---------------------------------------------------------------- what is missing


def missing(part: Part, wanted: bool) -> list[str]:
    """What has to change for a condition to be true, or to be false and usable.

    A line that is indented belongs to the one above it.
    """
    lines: list[str] = []
    for line in _missing(part, wanted):
        if line.startswith(" ") or line not in lines:
            lines.append(line)
    if len(lines) > MISSING_MAX:
        lines[MISSING_MAX:] = [f"and {len(lines) - MISSING_MAX} more"]
    return lines


def _missing(part: Part, wanted: bool) -> Iterator[str]:
    if part.is_usable and part.is_true == wanted and part.rule < 0:
        return
    match part.term:
        case Not():
            yield from _of_parts(part.parts, not wanted)
        case Junction(op):
            yield from _of_junction(part, wanted, every=(op == "and") == wanted)
        case Vote(needed):
            yield from _of_vote(part, needed, wanted)
        case Delay():
            if wanted and part.parts and part.parts[0].is_true:
                yield f"{part.text}: {part.note or 'true for too short a time'}"
            else:
                yield from _of_parts(part.parts, wanted)
        case Compare():
            yield from _of_compare(part, wanted)
        case Point() | Ref():
            yield from _of_reference(part, wanted)
        case Choice():
            yield from _of_parts(part.parts[:1], wanted)
        case _:
            yield from _unusable(part)
            if part.is_usable:
                yield f"{part.text} is {part.shown}"


def _unusable(part: Part) -> Iterator[str]:
    """The lost points behind a part that is not usable, or the part where there are none."""
    if part.is_usable:
        return
    inner = [line for one in part.parts for line in _unusable(one)]
    yield from inner or [f"{part.text} is {part.shown}{_in_brackets(part.note)}"]


def _of_parts(parts: Iterable[Part], wanted: bool) -> Iterator[str]:
    for part in parts:
        yield from _missing(part, wanted)


def _of_junction(part: Part, wanted: bool, *, every: bool) -> Iterator[str]:
    """All parts that are not as wanted; where one is enough, they stand below a line of their own.

    Of rules that are one of several ways, what is behind them is left out.
    """
    if every:
        yield from _of_parts(part.parts, wanted)
        return
    ways = [(one, lines) for one in part.parts if (lines := list(_missing(one, wanted)))]
    if len(ways) < 2:
        yield from (line for _, lines in ways for line in lines)
        return
    yield "one of:"
    for one, lines in ways:
        if one.rule >= 0 or _is_level(one):
            del lines[1:]
        yield from (f"{'    ' if at else '  - '}{line}" for at, line in enumerate(lines))


def _is_level(part: Part) -> bool:
    """A comparison of a rule's level with a name."""
    return isinstance(part.term, Compare) and any(one.rule >= 0 for one in part.parts)


def _of_vote(part: Part, needed: int, wanted: bool) -> Iterator[str]:
    ayes = sum(one.is_true for one in part.parts)
    bad = sum(not one.is_usable for one in part.parts)
    more = f", {bad} bad" if bad else ""
    yield f"{ayes} of {len(part.parts)} vote for it{more}, {needed} are needed"
    yield from _of_parts(part.parts, wanted)


def _of_compare(part: Part, wanted: bool) -> Iterator[str]:
    references = [one for one in part.parts if one.rule >= 0]
    if not part.is_usable:
        yield from _unusable(part)
        return
    if part.is_true == wanted:
        return
    values = ", ".join(f"{one.text} is {one.shown}{_in_brackets(one.note)}" for one in part.parts)
    yield f"{part.text} is {part.shown}" + (f": {values}" if values else "")
    # Against a name, the rule behind it decides; whether it must end or come says the operator.
    if isinstance(part.term, Compare) and part.term.op in ("==", "!=") and references:
        active = (part.term.op == "==") == wanted
        if not isinstance(part.term.right, Null):
            for one in references:
                yield from _of_parts(one.parts, active)


def _of_reference(part: Part, wanted: bool) -> Iterator[str]:
    if part.is_usable and part.is_true == wanted:
        return
    if part.is_usable and wanted and part.rule >= 0:  # what is needed, not what is
        yield f"{part.text} active{_in_brackets(part.note)}"
    else:
        yield f"{part.text} is {part.shown}{_in_brackets(part.note)}"
    if part.rule >= 0:
        yield from _of_parts(part.parts, wanted)
        if not wanted and "latched" in part.note:
            yield f"{part.text}: a reset, Gateway.Reset, once its cause is gone"


def nearest(part: Part, parts_max: int = PARTS_MAX) -> list[tuple[int, Part]]:
    """A part and those below it with their depths, but the deepest ones where there are many."""
    level, kept = [part], {id(part)}
    while level:
        level = [one for above in level for one in above.parts]
        room = parts_max - len(kept)
        kept.update(id(one) for one in level[:room])
        if len(level) > room:
            break
    return [(depth, one) for depth, one in part.flat() if id(one) in kept]


def reasons(part: Part) -> list[str]:
    """Which alternatives made a condition true: the parts of its ``or`` that hold, as infix."""
    if isinstance(part.term, Junction) and part.term.op == "or":
        found = [line for one in part.parts if one.is_true for line in reasons(one)]
        return list(dict.fromkeys(found))
    return [part.text]


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""


__all__ = ["Explainer", "Part", "missing", "nearest", "reasons"]
