"""The stack machine in plain Python: what each opcode does. A part of safety/reference.py."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from config import status
from safety import layout as lay

Cell = tuple[float, int]  # value and quality; a bad cell has the value NaN


def read_point(rows: NDArray[np.void], index: int) -> Cell:
    """A point as a cell: bad is a bad status, or a value that is not a number."""
    value, code = float(rows[index]["value"]), int(rows[index]["status"])
    if code == status.BAD_WAITING_FOR_INITIAL_DATA:
        return math.nan, lay.QUALITY_NEVER
    if status.is_bad(code) or math.isnan(value):
        return math.nan, lay.QUALITY_BAD
    return value, code >> 30


def usable(cell: Cell) -> bool:
    """Good and uncertain cells have a value."""
    return cell[1] < lay.QUALITY_BAD_FROM


def _number(value: float, quality: int) -> Cell:
    """A computed number: NaN is bad."""
    if math.isnan(value):
        return math.nan, max(quality, lay.QUALITY_BAD)
    return value, quality


def _compare(which: int, left: float, right: float) -> bool:
    outcome = lay.COMPARE_EQ
    if left != right:
        outcome = lay.COMPARE_LT if left < right else lay.COMPARE_GT
    return which & outcome != 0


class StackMachine:
    """The stack machine; `run` gives the one cell that is left."""

    def __init__(
        self,
        rows: NDArray[np.void],
        consts: NDArray[np.float64],
        levels: list[int],
        state: NDArray[np.void],
        slots: NDArray[np.int64],
        floats: NDArray[np.float64],
        times_ns: tuple[int, int, int],
    ) -> None:
        """`levels` of the control states; `times_ns` the clock, engine time and its last step."""
        self.rows, self.consts, self.levels, self.state = rows, consts, levels, state
        self.slots, self.floats = slots, floats
        self.now_ns, self.time_ns, self.step_ns = times_ns
        self.stack: list[Cell] = []

    def run(self, words: list[int]) -> Cell:
        """The cell that a rule's code leaves; empties `words`."""
        words.reverse()  # the next word is popped from the end
        while words:
            self.step(words)
        assert len(self.stack) == 1
        return self.stack[0]

    def step(self, words: list[int]) -> None:
        """One instruction, which stands at the end of `words`, its opcode last."""
        op = words.pop()
        if op < lay.OP_LOGIC_FROM:
            cell = self._leaf(op, words)
        elif op < lay.OP_NUMBER_FROM:
            cell = self._logic(op, words)
        elif op < lay.OP_RATE:
            cell = self._number(op, words)
        elif op == lay.OP_CURVE:
            cell = self._curve(self.stack.pop(), words)
        else:
            cell = self._history(op, self.stack.pop(), words)
        self.stack.append(cell)

    def _leaf(self, op: int, words: list[int]) -> Cell:
        match op:
            case lay.OP_POINT:
                return read_point(self.rows, words.pop())
            case lay.OP_CONST:
                return float(self.consts[words.pop()]), lay.QUALITY_GOOD
            case lay.OP_LEVEL:
                rule = self.state[words.pop()]
                quality = int(rule["quality"])
                bad = quality >= lay.QUALITY_BAD_FROM
                return (math.nan if bad else float(rule["level"])), quality
            case lay.OP_MACHINE:
                return float(self.levels[words.pop()]), lay.QUALITY_GOOD
            case lay.OP_AGE:
                index = words.pop()
                quality = read_point(self.rows, index)[1]
                if quality == lay.QUALITY_NEVER:
                    return math.nan, quality
                return max(0, self.now_ns - int(self.rows[index]["mono_ns"])) / 1e9, 0
            case _:
                which, left = words.pop(), read_point(self.rows, words.pop())
                right = float(self.consts[words.pop()]), lay.QUALITY_GOOD
                if op == lay.OP_LIMIT:
                    return self._compared(which, left, right)
                return self._hysteresis(which, left, right, words)

    def _compared(self, which: int, left: Cell, right: Cell) -> Cell:
        quality = max(left[1], right[1])
        if quality >= lay.QUALITY_BAD_FROM:
            return math.nan, quality
        return float(_compare(which, left[0], right[0])), quality

    def _hysteresis(self, which: int, left: Cell, right: Cell, words: list[int]) -> Cell:
        slot, band = words.pop(), float(self.consts[words.pop()])
        if self.slots[slot]:  # it is on: the limit to fall below is further away
            band = -band if which & lay.COMPARE_GT else band
            right = right[0] + band, right[1]
        cell = self._compared(which, left, right)
        if usable(cell):
            self.slots[slot] = int(cell[0])
        return cell

    def _logic(self, op: int, words: list[int]) -> Cell:
        if op in (lay.OP_AND, lay.OP_OR):
            right, left = self.stack.pop(), self.stack.pop()
            return _junction(left, right, decisive=op == lay.OP_OR)
        if op == lay.OP_VOTE:
            needed, count, degrade = words.pop(), words.pop(), words.pop()
            votes = [self.stack.pop() for _ in range(count)]
            return _vote(needed, votes, degrade)
        if op == lay.OP_SELECT:
            other, value, condition = self.stack.pop(), self.stack.pop(), self.stack.pop()
            if not usable(condition):
                return condition
            chosen = value if condition[0] else other
            return chosen[0], max(condition[1], chosen[1])
        cell = self.stack.pop()
        if op == lay.OP_QUALITY:
            return float(min(cell[1], 2)), lay.QUALITY_GOOD
        if op == lay.OP_DELAY:
            return self._delay(cell, words)
        if not usable(cell):
            return cell
        return float((cell[0] != 0) == (op == lay.OP_TRUTH)), cell[1]

    def _delay(self, cell: Cell, words: list[int]) -> Cell:
        slot, delay_ns = words.pop(), int(self.consts[words.pop()])
        if not usable(cell) or cell[0] == 0:
            self.slots[slot] = 0
            return cell
        if self.slots[slot] == 0:
            self.slots[slot] = self.time_ns
        return float(self.time_ns - int(self.slots[slot]) >= delay_ns), cell[1]

    def _number(self, op: int, words: list[int]) -> Cell:
        right = self.stack.pop()
        if op == lay.OP_NEG:
            return -right[0], right[1]
        if op == lay.OP_ABS:
            return abs(right[0]), right[1]
        left = self.stack.pop()
        if op == lay.OP_COMPARE:
            return self._compared(words.pop(), left, right)
        if op == lay.OP_HYST:
            return self._hysteresis(words.pop(), left, right, words)
        quality = max(left[1], right[1])
        if quality >= lay.QUALITY_BAD_FROM:
            return math.nan, quality
        return _number(_arithmetic(op, left[0], right[0]), quality)

    # ------------------------------------------------------------ what remembers numbers

    def _curve(self, cell: Cell, words: list[int]) -> Cell:
        count = words.pop()
        points = [
            (float(self.consts[words.pop()]), float(self.consts[words.pop()])) for _ in range(count)
        ]
        return _number(_on_curve(points, cell[0]), cell[1]) if usable(cell) else cell

    def _history(self, op: int, cell: Cell, words: list[int]) -> Cell:
        slot, at = words.pop(), words.pop()
        limits = [float(self.consts[words.pop()]) for _ in range(2 if op == lay.OP_RAMP else 1)]
        if not usable(cell):  # it starts anew with the next usable value
            self.slots[slot] = 0
            if op == lay.OP_RATE:
                self.slots[slot + 1] = 0
            return cell
        if op == lay.OP_RATE:
            return self._rate(cell, slot, at, int(limits[0]))
        value, before = cell[0], float(self.floats[at])
        if self.slots[slot] == 0:
            after = value
        elif op == lay.OP_FILTER:
            after = _lag(before, value, limits[0], self.step_ns)
        else:
            after = _slew(before, value, limits[0], limits[1], self.step_ns)
        self.slots[slot] = 1
        self.floats[at] = after
        return after, cell[1]

    def _rate(self, cell: Cell, slot: int, first: int, window_ns: int) -> Cell:
        kept, following = int(self.slots[slot]), int(self.slots[slot + 1])
        newest_first = [(following - 1 - back) % lay.RATE_SAMPLES for back in range(kept)]
        ages_ns = [self.time_ns - int(self.slots[slot + 2 + at]) for at in newest_first]
        result: Cell = math.nan, lay.QUALITY_NEVER
        for at, age_ns in zip(newest_first, ages_ns, strict=True):
            if age_ns >= window_ns and age_ns > 0:
                change = cell[0] - float(self.floats[first + at])
                result = _number(change / (age_ns / 1e9), cell[1])
                break
        apart_ns = -(-window_ns // (lay.RATE_SAMPLES - 1))  # rounded up
        if not kept or ages_ns[0] >= apart_ns:
            self.slots[slot + 2 + following] = self.time_ns
            self.floats[first + following] = cell[0]
            self.slots[slot] = min(kept + 1, lay.RATE_SAMPLES)
            self.slots[slot + 1] = (following + 1) % lay.RATE_SAMPLES
        return result


def _lag(before: float, value: float, constant_ns: float, step_ns: int) -> float:
    """First-order lag, one step; where that leaves the numbers it starts anew."""
    if constant_ns == 0:
        return value
    after = before + (value - before) * (step_ns / (constant_ns + step_ns))
    return after if math.isfinite(after) else value


def _slew(before: float, value: float, up: float, down: float, step_ns: int) -> float:
    """Towards `value`, at most `up` and `down` a second."""
    if not math.isfinite(before):
        return value
    if value > before:
        return min(value, before + up * (step_ns / 1e9))
    return max(value, before - down * (step_ns / 1e9))


def _on_curve(points: list[tuple[float, float]], value: float) -> float:
    """Straight lines between points; outside of them the value at the end."""
    before = points[0]
    if value <= before[0]:
        return before[1]
    for point in points[1:]:
        if value <= point[0]:
            share = (value - before[0]) / (point[0] - before[0])
            return before[1] + (point[1] - before[1]) * share
        before = point
    return before[1]


def _arithmetic(op: int, left: float, right: float) -> float:
    match op:
        case lay.OP_ADD:
            return left + right
        case lay.OP_SUB:
            return left - right
        case lay.OP_MUL:
            return left * right
        case lay.OP_DIV:
            return math.nan if right == 0 else left / right
        case lay.OP_MOD:
            return math.nan if right == 0 or math.isinf(left) else math.fmod(left, right)
        case lay.OP_MIN:
            return min(left, right)
    return max(left, right)


def _junction(left: Cell, right: Cell, *, decisive: bool) -> Cell:
    """Kleene's and/or: one usable decisive operand decides, whatever the other one is."""
    deciding = [c[1] for c in (left, right) if usable(c) and (c[0] != 0) == decisive]
    if deciding:
        return float(decisive), min(deciding)
    quality = max(left[1], right[1])
    return (math.nan if quality >= lay.QUALITY_BAD_FROM else float(not decisive)), quality


def _vote(needed: int, votes: list[Cell], degrade: int) -> Cell:
    """MooN. What a channel counts that went bad says `degrade`; one never read is no vote."""
    ayes = sum(1 for cell in votes if usable(cell) and cell[0] != 0)
    never = sum(1 for cell in votes if cell[1] == lay.QUALITY_NEVER)
    bad = sum(1 for cell in votes if cell[1] == lay.QUALITY_BAD)
    quality = int(any(cell[1] != lay.QUALITY_GOOD for cell in votes))
    if degrade == lay.DEGRADE_DROP:
        left = len(votes) - never - bad
        if left == 0:
            return math.nan, lay.QUALITY_BAD if bad else lay.QUALITY_NEVER
        return float(ayes >= min(needed, left)), quality
    if ayes + (bad if degrade == lay.DEGRADE_TRIP else 0) >= needed:
        return 1.0, quality
    if ayes + bad + never >= needed:
        return math.nan, lay.QUALITY_BAD if ayes + bad >= needed else lay.QUALITY_NEVER
    return 0.0, quality
