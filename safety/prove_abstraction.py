"""What matters of the inputs of a program: the values at which a rule can change its mind.

A program compares its inputs with constants. So all values between two neighbouring constants do
the same, and one of each kind stands for all: below, at and above every constant. Where inputs are
compared with each other they share their constants, and there are as many values between two of
them as such inputs, so that they can lie in any order. Where a rule calculates with several inputs,
or remembers numbers, no finite choice stands for all, and `inexact` says so.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from config import status
from config.points import PointDef
from safety import layout as lay
from safety.decode import Instruction, Slice, of_rule
from safety.layout import Program

VALUES_MAX: Final = 40  # of one input; more are thinned out, and the result is no proof
TIMES_MAX: Final = 64  # sums of delays of one rule
STATES_MAX: Final = 12  # of a discrete point that are all tried

GOOD_TEXT: Final = ""
BAD_TEXT: Final = "bad"
NEVER_TEXT: Final = "never"


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that an input can be: a value with its status and age.

    lost  `bad` or `never`; empty where the value is known
    """

    value: float
    status: int = status.GOOD
    lost: str = GOOD_TEXT
    age_s: float = 0.0


BAD_CHOICE: Final = Choice(0.0, status.BAD_NO_COMMUNICATION, BAD_TEXT)
NEVER_CHOICE: Final = Choice(math.nan, status.BAD_WAITING_FOR_INITIAL_DATA, NEVER_TEXT)


@dataclass(frozen=True, slots=True)
class Abstraction:
    """What stands for all histories of a slice.

    choices   what each input of the slice can be, the lost ones last
    times_ns  the longest sum of delays after which a rule can become active, by row; every delay
              ends with a scan, so each counts up to the next one
    breaks_ns every such sum on the way, of all rules, ascending from 0
    delays_ns every delay in the slice, ascending
    timers    how many of them can run at once
    inexact   why values in between may matter after all; empty where they can't
    """

    choices: tuple[tuple[Choice, ...], ...]
    times_ns: tuple[int, ...]
    breaks_ns: tuple[int, ...]
    delays_ns: tuple[int, ...]
    timers: int
    inexact: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is known of one cell of the stack.

    points   inputs it depends on by value; the cell is `scale * point + shift` of each
    consts   numbers it can be
    times    sums of delays that lie behind it
    """

    points: frozenset[int] = frozenset()
    consts: frozenset[float] = frozenset()
    times: frozenset[int] = frozenset((0,))
    scale: float = 1.0
    shift: float = 0.0
    mirrored: bool = False  # behind abs()
    loose: bool = False  # it is calculated in a way that scale and shift don't tell

    @property
    def is_plain(self) -> bool:
        return self.scale == 1.0 and self.shift == 0.0


@dataclass(slots=True)
class _Findings:
    """What a slice compares, point by point."""

    consts: dict[int, set[float]] = field(default_factory=dict)
    company: dict[int, frozenset[int]] = field(default_factory=dict)  # compared with each other
    ages: set[int] = field(default_factory=set)  # inputs whose age is asked for
    delays: set[int] = field(default_factory=set)
    inexact: dict[str, None] = field(default_factory=dict)
    with_quality: bool = False

    def compare(self, cell: _Cell, consts: Iterable[float]) -> None:
        """`cell` is compared with numbers."""
        numbers = set(consts) | set(cell.consts)
        if cell.mirrored:
            numbers |= {-number for number in numbers} | {0.0}
        if cell.loose:
            numbers |= _wide(numbers)
        for point in cell.points:
            own = {(number - cell.shift) / cell.scale for number in numbers}
            self.consts.setdefault(point, set()).update(n for n in own if math.isfinite(n))

    def together(self, points: frozenset[int]) -> None:
        """These inputs are compared with each other, so they share what each is compared with."""
        group = points.union(*(self.company.get(point, frozenset()) for point in points))
        self.company.update(dict.fromkeys(group, group))

    def shared(self, point: int) -> tuple[set[float], int]:
        """The numbers that an input is compared with, and how many inputs with each other."""
        group = self.company.get(point, frozenset((point,)))
        numbers = set().union(*(self.consts.get(one, set()) for one in group))
        # No age is below 0: where one takes part, that is a limit of the others too.
        return numbers | ({0.0} if len(group) > 1 and min(group) < 0 else set()), len(group)


def _wide(numbers: Iterable[float]) -> set[float]:
    """Numbers far apart, so that sums, differences and slopes of drawn ones reach some numbers."""
    found = {0.0}
    for number in (*numbers, 1.0):
        found |= {number * factor for factor in (-2.0, -1.0, 0.1, 1.0, 2.0, 10.0)}
    return found


def _is_true_or_false(times: frozenset[int]) -> _Cell:
    return _Cell(consts=frozenset((0.0, 1.0)), times=times)


class _Reader:
    """Goes through the code of a slice as the kernel does, with sets of possibilities as cells."""

    def __init__(self, program: Program, scan_period_ns: int) -> None:
        self._program = program
        self._scan_ns = scan_period_ns
        self.found = _Findings()
        self._calculated: dict[int, _Cell] = {}
        self.times: list[frozenset[int]] = []
        self.breaks: set[int] = {0}

    def read(self) -> None:
        """All rules, in their order."""
        for rule, row in enumerate(self._program.rules):
            cell = self._rule(rule)
            times = self._later(cell.times, int(row["on_delay_ns"]))
            if row["kind"] in (lay.KIND_ALARM, lay.KIND_STATE):  # a rule may wait for its end
                times |= self._later(cell.times, int(row["off_delay_ns"]))
            self.found.delays |= {int(row["on_delay_ns"]), int(row["off_delay_ns"])}
            self.times.append(self._few(times))
            if row["kind"] in (lay.KIND_VALUE, lay.KIND_FUNCTION):
                self._calculated[int(row["point"])] = cell
            elif row["level_true"]:
                self.found.compare(cell, (0.0,) if cell.points else ())

    def _later(self, times: Iterable[int], delay_ns: int) -> frozenset[int]:
        """Times behind a delay; it ends with a scan."""
        scans = -(-delay_ns // self._scan_ns)
        later = frozenset(time + scans * self._scan_ns for time in times)
        self.breaks |= later
        return later

    def _few(self, times: Iterable[int]) -> frozenset[int]:
        ordered = sorted(times)
        if len(ordered) > TIMES_MAX:
            self.found.inexact["so many delays that not every sum of them is tried"] = None
            ordered = [ordered[0], *ordered[-(TIMES_MAX - 1) :]]
        return frozenset(ordered)

    def few_breaks(self) -> frozenset[int]:
        """All sums of delays, or as many as are tried."""
        return self._few(self.breaks)

    def _rule(self, rule: int) -> _Cell:
        stack: list[_Cell] = []
        for step in of_rule(self._program, rule):
            if step.op < lay.OP_LOGIC_FROM:
                stack.append(self._leaf(step))
            elif step.op < lay.OP_NUMBER_FROM:
                self._logic(step, stack)
            else:
                self._number(step, stack)
        return stack.pop()

    def _const(self, step: Instruction, which: int = 0) -> float:
        ids = [w for w, kind in zip(step.operands, step.kinds, strict=True) if kind == "const"]
        return float(self._program.consts[ids[which]])

    def _leaf(self, step: Instruction) -> _Cell:
        if step.op == lay.OP_CONST:
            return _Cell(consts=frozenset((self._const(step),)))
        if step.op == lay.OP_LEVEL:
            return _Cell(times=self.times[step.of("rule")])
        if step.op == lay.OP_MACHINE:
            return _Cell()
        point = step.of("point")
        if step.op == lay.OP_AGE:
            self.found.ages.add(point)
            return _Cell(points=frozenset((-point,)))  # negative: the age of the point
        cell = self._calculated.get(point, _Cell(points=frozenset((point,))))
        if step.op in (lay.OP_LIMIT, lay.OP_LIMIT_HYST):
            bands = (0.0, self._const(step, 1)) if step.op == lay.OP_LIMIT_HYST else (0.0,)
            self._compare(cell, self._const(step), bands, step.of("which"))
            return _is_true_or_false(cell.times)
        return cell

    def _compare(self, cell: _Cell, limit: float, bands: Sequence[float], which: int) -> None:
        self._equals(which, cell)
        sign = -1.0 if which & lay.COMPARE_GT else 1.0
        self.found.compare(cell, [limit + sign * band for band in bands])

    def _equals(self, which: int, *cells: _Cell) -> None:
        """Which number makes a calculated one equal to another, rounding decides."""
        if which in (lay.COMPARE_EQ, lay.COMPARE_NE) and not all(c.is_plain for c in cells):
            self._inexact("a rule asks whether a calculated number is equal to another")

    def _logic(self, step: Instruction, stack: list[_Cell]) -> None:
        if step.op == lay.OP_QUALITY:
            self.found.with_quality = True
            cell = stack.pop()
            stack.append(_Cell(consts=frozenset((0.0, 1.0, 2.0)), times=cell.times))
            return
        if step.op == lay.OP_SELECT:
            other, value, condition = stack.pop(), stack.pop(), stack.pop()
            self._truth(condition)
            joined = self._joined([value, other])
            stack.append(replace(joined, times=self._few(joined.times | condition.times)))
            return
        count = 2 if step.op in (lay.OP_AND, lay.OP_OR) else 1
        if step.op == lay.OP_VOTE:
            count = step.operands[1]
        cells = [stack.pop() for _ in range(count)]
        for cell in cells:
            self._truth(cell)
        times = frozenset().union(*(cell.times for cell in cells))
        if step.op == lay.OP_DELAY:
            delay_ns = int(self._const(step))
            self.found.delays.add(delay_ns)
            times = self._later(times, delay_ns)
        stack.append(_is_true_or_false(self._few(times)))

    def _truth(self, cell: _Cell) -> None:
        if cell.points:
            self.found.compare(cell, (0.0,))

    def _joined(self, cells: Sequence[_Cell]) -> _Cell:
        """A cell that is one of several."""
        points = frozenset().union(*(cell.points for cell in cells))
        consts = frozenset().union(*(cell.consts for cell in cells))
        times = self._few(frozenset().union(*(cell.times for cell in cells)))
        with_points = [cell for cell in cells if cell.points]
        first = with_points[0] if with_points else _Cell()
        if any((c.scale, c.shift) != (first.scale, first.shift) for c in with_points):
            self._inexact("a rule calculates with several inputs")
            first = _Cell(loose=True)
        mirrored = any(cell.mirrored for cell in cells)
        loose = first.loose or any(cell.loose for cell in cells)
        return _Cell(points, consts, times, first.scale, first.shift, mirrored, loose)

    def _inexact(self, why: str) -> None:
        self.found.inexact[why] = None

    def _number(self, step: Instruction, stack: list[_Cell]) -> None:
        right = stack.pop()
        if step.op in (lay.OP_NEG, lay.OP_ABS):
            stack.append(self._turned(right, step.op))
        elif step.op in (lay.OP_COMPARE, lay.OP_HYST):
            left = stack.pop()
            self._compare_cells(step, left, right)
            stack.append(_is_true_or_false(self._few(left.times | right.times)))
        elif step.op in (lay.OP_MIN, lay.OP_MAX):
            stack.append(self._joined([stack.pop(), right]))
        elif step.op >= lay.OP_RATE:
            stack.append(self._remembered(step, right))
        else:
            stack.append(self._calculated_cell(step.op, stack.pop(), right))

    def _turned(self, cell: _Cell, op: int) -> _Cell:
        if op == lay.OP_ABS:
            if cell.points and not cell.is_plain:
                self._inexact("a rule calculates with several inputs")
            return replace(cell, mirrored=True, consts=frozenset(map(abs, cell.consts)))
        consts = frozenset(-number for number in cell.consts)
        return replace(cell, scale=-cell.scale, shift=-cell.shift, consts=consts)

    def _compare_cells(self, step: Instruction, left: _Cell, right: _Cell) -> None:
        self._equals(step.of("which"), left, right)
        bands = {0.0}
        if step.op == lay.OP_HYST:
            bands |= {self._const(step), -self._const(step)}
        if left.points and right.points:
            if not (left.is_plain and right.is_plain) or len(bands) > 1:
                self._inexact("a rule compares inputs with each other across a distance")
            both = replace(self._joined([left, right]), scale=1.0, shift=0.0)
            self.found.compare(both, bands - {0.0})
            self.found.together(both.points)
            return
        cell, other = (left, right) if left.points else (right, left)
        numbers = {number + band for number in other.consts | cell.consts for band in bands}
        self.found.compare(cell, numbers)

    def _remembered(self, step: Instruction, cell: _Cell) -> _Cell:
        """rate, filter, ramp and curve."""
        numbers: set[float] = set(cell.consts)
        if step.op == lay.OP_CURVE:
            self._inexact("a rule reads an input through a curve")
            count = step.operands[0]
            numbers |= {self._const(step, 2 * at) for at in range(count)}
            self.found.compare(cell, numbers)
            consts = frozenset(self._const(step, 2 * at + 1) for at in range(count))
            return _Cell(cell.points, consts, cell.times, loose=True)
        self._inexact("a rule remembers numbers: rate(), filter() or ramp")
        times = set(cell.times)
        if step.op in (lay.OP_RATE, lay.OP_FILTER):
            delay_ns = int(self._const(step))
            self.found.delays.add(delay_ns)
            times |= self._later(cell.times, delay_ns)
            if step.op == lay.OP_RATE and delay_ns:
                scale = cell.scale * 1e9 / delay_ns
                cell = replace(cell, scale=scale, shift=0.0, consts=frozenset((0.0,)))
        return replace(cell, times=self._few(times), loose=True)

    def _calculated_cell(self, op: int, left: _Cell, right: _Cell) -> _Cell:
        """`+ - * / %`; exact where one side is a single number."""
        times = self._few(left.times | right.times)
        if left.points and not right.points and len(right.consts) == 1 and not left.mirrored:
            moved = _moved(left, op, next(iter(right.consts)), const_left=False)
        elif right.points and not left.points and len(left.consts) == 1 and not right.mirrored:
            moved = _moved(right, op, next(iter(left.consts)), const_left=True)
        else:
            moved = None
        if moved is not None and len(moved.points) == 1 and not moved.consts:
            return replace(moved, times=times)
        if not left.points and not right.points:
            return _Cell(consts=_results(op, left.consts, right.consts), times=times)
        self._inexact("a rule calculates with several inputs")
        joined = frozenset(left.consts | right.consts)
        return _Cell(left.points | right.points, joined, times, loose=True)


def _moved(cell: _Cell, op: int, number: float, *, const_left: bool) -> _Cell | None:
    """`cell <op> number`, or `number <op> cell`; None where that is no straight line."""
    if op == lay.OP_ADD:
        return replace(cell, shift=cell.shift + number)
    if op == lay.OP_SUB:
        if const_left:
            return replace(cell, scale=-cell.scale, shift=number - cell.shift)
        return replace(cell, shift=cell.shift - number)
    if number != 0 and (op == lay.OP_MUL or (op == lay.OP_DIV and not const_left)):
        factor = number if op == lay.OP_MUL else 1.0 / number
        return replace(cell, scale=cell.scale * factor, shift=cell.shift * factor)
    return None


def _results(op: int, left: Iterable[float], right: Iterable[float]) -> frozenset[float]:
    """What a calculation with numbers can give."""
    function = {lay.OP_ADD: operator.add, lay.OP_SUB: operator.sub, lay.OP_MUL: operator.mul}
    pairs = itertools.product(left, right)
    if op in function:
        return frozenset(function[op](a, b) for a, b in pairs)
    divided = math.fmod if op == lay.OP_MOD else operator.truediv
    return frozenset(divided(a, b) for a, b in pairs if b)


# ---------------------------------------------------------------- from comparisons to choices


def abstract(piece: Slice, points: Mapping[int, PointDef], scan_period_ns: int) -> Abstraction:
    """What stands for all histories of a slice; `points` by row of the whole point table."""
    reader = _Reader(piece.program, scan_period_ns)
    reader.read()
    found = reader.found
    if piece.program.segments.size:
        found.inexact["a control state moves an output along a ramp"] = None
    choices = []
    for row in piece.inputs:
        point = points[piece.points[row]]
        values = _values(point, *found.shared(row))
        if len(values) > VALUES_MAX:
            found.inexact[f"{point.tag} is compared with very many numbers"] = None
            values = values[:: -(-len(values) // VALUES_MAX)]
        choices.append(tuple(_choices(values, found, row)))
    delays = found.delays | _times_of_machines(piece.program)
    return Abstraction(
        choices=tuple(choices),
        times_ns=tuple(max(times) for times in reader.times),
        breaks_ns=tuple(sorted(reader.few_breaks())),
        delays_ns=tuple(sorted(delays - {0})),
        timers=_timers(piece.program),
        inexact=tuple(found.inexact),
    )


def _timers(program: Program) -> int:
    """How many times can run out in a program: delays and control states."""
    rules, modes = program.rules, program.modes
    delayed = np.count_nonzero(rules["on_delay_ns"] | rules["off_delay_ns"])
    delays = sum(
        step.op == lay.OP_DELAY for rule in range(len(rules)) for step in of_rule(program, rule)
    )
    machines = 0
    for machine in program.machines:
        first, count = int(machine["mode"]), int(machine["modes"])
        machines += bool((modes["min_ns"] | modes["max_ns"])[first : first + count].any())
    return int(delayed) + delays + machines


def _times_of_machines(program: Program) -> set[int]:
    times = {int(mode["min_ns"]) for mode in program.modes}
    times |= {int(mode["max_ns"]) for mode in program.modes}
    return times | {int(segment["hold_ns"]) for segment in program.segments}


def _choices(values: Sequence[float], found: _Findings, row: int) -> list[Choice]:
    ages = [0.0]
    if row in found.ages:
        numbers, company = found.shared(-row)
        ages = _between(sorted(numbers), company, 0.0, math.inf)
        ages = sorted({age for age in ages if age >= 0} | {0.0})
    codes = [status.GOOD]
    if found.with_quality:
        codes.append(status.UNCERTAIN_NO_COMMUNICATION)
    known = [
        Choice(value, code, GOOD_TEXT, age) for value in values for code in codes for age in ages
    ]
    # The age of a value that went bad counts on, so it can be anything too.
    bad = [replace(BAD_CHOICE, value=values[0], age_s=age) for age in ages]
    return [*known, *bad, NEVER_CHOICE]


def _values(point: PointDef, consts: set[float], company: int) -> list[float]:
    # A device can deliver a number outside of its range, and one that no state has; both are used.
    if point.kind == "discrete":
        if point.states and len(point.states) <= STATES_MAX and all(map(_is_whole, consts)):
            known = {*range(len(point.states)), *consts}
            return sorted({float(n) for n in known} | {max(known) + 1.0})
        if point.source == "gateway" and company == 1 and consts <= {0.0, 1.0}:
            return [0.0, 1.0]
        near = range(-company, company + 1)
        whole = {0.0, *(float(n) for n in range(1, company + 1))}
        whole |= {math.floor(c) + float(n) for c in consts for n in near}
        return sorted(number for number in whole if number >= min({0.0} | consts))
    if company > 1:
        return _between(sorted(consts), company, -math.inf, math.inf)
    low = -math.inf if math.isnan(point.value_min) else point.value_min
    high = math.inf if math.isnan(point.value_max) else point.value_max
    return _between(sorted(consts), 1, low, high)


def _is_whole(number: float) -> bool:
    return number == math.floor(number)


def _between(consts: Sequence[float], company: int, low: float, high: float) -> list[float]:
    """Every constant, and `company` numbers in every gap; in the range where a gap meets it."""
    if not consts:
        return [float(number) for number in range(company)]
    reach = max(1.0, 0.1 * max(abs(consts[0]), abs(consts[-1])))
    below = low if low < consts[0] else consts[0] - reach
    above = high if high > consts[-1] else consts[-1] + reach
    first = max(below, consts[0] - reach)
    last = min(above, consts[-1] + reach)
    edges = [first, *consts, last]
    found = set(consts)
    for at, (left, right) in enumerate(itertools.pairwise(edges)):
        outer = at in (0, len(edges) - 2)
        for number in range(1, company + 1):
            share = number / (company + (0 if outer else 1))
            if at == 0:
                found.add(right - share * (right - left))
            elif outer:
                found.add(left + share * (right - left))
            else:
                found.add(left + share * (right - left))
    return sorted(found)
