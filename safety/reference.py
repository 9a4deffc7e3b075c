"""The semantics of a program in plain Python: the oracle that safety/kernel.py must equal.

It reads like the documentation (docs/safety.md) and makes no attempt to be fast. Tests run both
over the same histories and compare every number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import status
from safety import layout as lay

Cell = tuple[float, int]  # value and quality; a bad cell has the value NaN


def evaluate(
    rows: NDArray[np.void],
    rules: NDArray[np.void],
    code: NDArray[np.int32],
    consts: NDArray[np.float64],
    effects: NDArray[np.void],
    watch: NDArray[np.int32],
    state: NDArray[np.void],
    slots: NDArray[np.int64],
    memory: NDArray[np.int64],
    outputs: NDArray[np.void],
    cells: NDArray[np.void],
    changed: NDArray[np.int32],
    now_ns: int,
    reset: bool,
) -> int:
    """One scan; the same arguments and effects as `safety.kernel.evaluate`."""
    time_ns = _advance(memory, now_ns)
    edge = reset and memory[lay.MEMORY_RESET] == 0
    memory[lay.MEMORY_RESET] = int(reset)
    if memory[lay.MEMORY_STARTUP] and all(_point(rows, p)[1] < lay.QUALITY_BAD_FROM for p in watch):
        memory[lay.MEMORY_STARTUP] = 0
    count = 0
    for number, rule in enumerate(rules):
        words = code[rule["start"] : rule["stop"]].tolist()
        cell = _Machine(rows, consts, state, slots, now_ns, time_ns).run(words)
        if rule["kind"] == lay.KIND_VALUE:
            _show_value(rows[rule["point"]], cell, now_ns)
        elif _settle(rule, state[number], cell, time_ns, edge):
            changed[count] = number
            count += 1
    _number_first_out(rules, state, memory)
    _drive(effects, state, memory, outputs)
    return count


def _advance(memory: NDArray[np.int64], now_ns: int) -> int:
    """Engine time: it stands still where the clock steps back, and never overflows."""
    last = int(memory[lay.MEMORY_NOW])
    if memory[lay.MEMORY_TIME] == 0:
        memory[lay.MEMORY_TIME] = 1
    elif now_ns > last:
        memory[lay.MEMORY_TIME] += min(now_ns - last, lay.STEP_NS_MAX)
    memory[lay.MEMORY_NOW] = now_ns
    return int(memory[lay.MEMORY_TIME])


def _point(rows: NDArray[np.void], index: int) -> Cell:
    value, code = float(rows[index]["value"]), int(rows[index]["status"])
    if code == status.BAD_WAITING_FOR_INITIAL_DATA:
        return math.nan, lay.QUALITY_NEVER
    if status.is_bad(code) or math.isnan(value):
        return math.nan, lay.QUALITY_BAD
    return value, code >> 30


def _usable(cell: Cell) -> bool:
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


class _Machine:
    """The stack machine; `run` gives the one cell that is left."""

    def __init__(
        self,
        rows: NDArray[np.void],
        consts: NDArray[np.float64],
        state: NDArray[np.void],
        slots: NDArray[np.int64],
        now_ns: int,
        time_ns: int,
    ) -> None:
        self.rows, self.consts, self.state, self.slots = rows, consts, state, slots
        self.now_ns, self.time_ns = now_ns, time_ns
        self.stack: list[Cell] = []

    def run(self, words: list[int]) -> Cell:
        words.reverse()  # the next word is popped from the end
        while words:
            op = words.pop()
            if op < lay.OP_LOGIC_FROM:
                cell = self.leaf(op, words)
            elif op < lay.OP_NUMBER_FROM:
                cell = self.logic(op, words)
            else:
                cell = self.number(op, words)
            self.stack.append(cell)
        assert len(self.stack) == 1
        return self.stack[0]

    def leaf(self, op: int, words: list[int]) -> Cell:
        match op:
            case lay.OP_POINT:
                return _point(self.rows, words.pop())
            case lay.OP_CONST:
                return float(self.consts[words.pop()]), lay.QUALITY_GOOD
            case lay.OP_LEVEL:
                rule = self.state[words.pop()]
                quality = int(rule["quality"])
                bad = quality >= lay.QUALITY_BAD_FROM
                return (math.nan if bad else float(rule["level"])), quality
            case lay.OP_AGE:
                index = words.pop()
                quality = _point(self.rows, index)[1]
                if quality == lay.QUALITY_NEVER:
                    return math.nan, quality
                return max(0, self.now_ns - int(self.rows[index]["mono_ns"])) / 1e9, 0
            case _:
                which, left = words.pop(), _point(self.rows, words.pop())
                right = float(self.consts[words.pop()]), lay.QUALITY_GOOD
                if op == lay.OP_LIMIT:
                    return self.compared(which, left, right)
                return self.hysteresis(which, left, right, words)

    def compared(self, which: int, left: Cell, right: Cell) -> Cell:
        quality = max(left[1], right[1])
        if quality >= lay.QUALITY_BAD_FROM:
            return math.nan, quality
        return float(_compare(which, left[0], right[0])), quality

    def hysteresis(self, which: int, left: Cell, right: Cell, words: list[int]) -> Cell:
        slot, band = words.pop(), float(self.consts[words.pop()])
        if self.slots[slot]:  # it is on: the limit to fall below is further away
            band = -band if which in (lay.COMPARE_GT, lay.COMPARE_GE) else band
            right = right[0] + band, right[1]
        cell = self.compared(which, left, right)
        if _usable(cell):
            self.slots[slot] = int(cell[0])
        return cell

    def logic(self, op: int, words: list[int]) -> Cell:
        if op in (lay.OP_AND, lay.OP_OR):
            right, left = self.stack.pop(), self.stack.pop()
            return _junction(left, right, decisive=op == lay.OP_OR)
        if op == lay.OP_VOTE:
            needed, count, degrade = words.pop(), words.pop(), words.pop()
            votes = [self.stack.pop() for _ in range(count)]
            return _vote(needed, votes, bool(degrade))
        if op == lay.OP_SELECT:
            other, value, condition = self.stack.pop(), self.stack.pop(), self.stack.pop()
            if not _usable(condition):
                return condition
            chosen = value if condition[0] else other
            return chosen[0], max(condition[1], chosen[1])
        cell = self.stack.pop()
        if op == lay.OP_QUALITY:
            return float(min(cell[1], 2)), lay.QUALITY_GOOD
        if op == lay.OP_DELAY:
            return self.delay(cell, words)
        if not _usable(cell):
            return cell
        return float((cell[0] != 0) == (op == lay.OP_TRUTH)), cell[1]

    def delay(self, cell: Cell, words: list[int]) -> Cell:
        slot, delay_ns = words.pop(), int(self.consts[words.pop()])
        if not _usable(cell) or cell[0] == 0:
            self.slots[slot] = 0
            return cell
        if self.slots[slot] == 0:
            self.slots[slot] = self.time_ns
        return float(self.time_ns - int(self.slots[slot]) >= delay_ns), cell[1]

    def number(self, op: int, words: list[int]) -> Cell:
        right = self.stack.pop()
        if op == lay.OP_NEG:
            return -right[0], right[1]
        if op == lay.OP_ABS:
            return abs(right[0]), right[1]
        left = self.stack.pop()
        if op == lay.OP_COMPARE:
            return self.compared(words.pop(), left, right)
        if op == lay.OP_HYST:
            return self.hysteresis(words.pop(), left, right, words)
        quality = max(left[1], right[1])
        if quality >= lay.QUALITY_BAD_FROM:
            return math.nan, quality
        return _number(_arithmetic(op, left[0], right[0]), quality)


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
    deciding = [c[1] for c in (left, right) if _usable(c) and (c[0] != 0) == decisive]
    if deciding:
        return float(decisive), min(deciding)
    quality = max(left[1], right[1])
    return (math.nan if quality >= lay.QUALITY_BAD_FROM else float(not decisive)), quality


def _vote(needed: int, votes: list[Cell], degrade: bool) -> Cell:
    """MooN; `degrade`: a channel that went bad votes true (one never read does not)."""
    ayes = sum(1 for cell in votes if _usable(cell) and cell[0] != 0)
    never = sum(1 for cell in votes if cell[1] == lay.QUALITY_NEVER)
    bad = sum(1 for cell in votes if cell[1] == lay.QUALITY_BAD)
    quality = int(any(cell[1] != lay.QUALITY_GOOD for cell in votes))
    if ayes + (bad if degrade else 0) >= needed:
        return 1.0, quality
    if ayes + bad + never >= needed:
        return math.nan, lay.QUALITY_BAD if ayes + bad >= needed else lay.QUALITY_NEVER
    return 0.0, quality


def _settle(rule: Any, state: Any, cell: Cell, time_ns: int, edge: bool) -> bool:
    """From a rule's result to what it shows: bad policy, delays, latch. True where it changed."""
    before = int(state["level"]), bool(state["latched"])
    state["quality"] = cell[1]
    if _usable(cell):
        state["seen"] = True
        wanted = int(cell[0])
        if rule["level_true"]:
            wanted = int(rule["level_true"]) if cell[0] != 0 else 0
    elif rule["on_bad"] == lay.ON_BAD_HOLD:
        wanted = int(state["condition"])
    elif rule["on_bad"] == lay.ON_BAD_TRIP:
        wanted = int(state["level"]) or int(rule["level_first"])
    else:
        wanted = 0
    _filter(rule, state, wanted, time_ns)
    if rule["latch"]:
        if wanted and state["condition"] and cell[1] != lay.QUALITY_NEVER:
            state["latched"] = True
        elif edge and wanted == 0 and _usable(cell):
            state["latched"] = False
    if state["condition"] or not state["latched"]:
        state["level"] = state["condition"]
    state["active"] = state["level"] != 0
    return before != (int(state["level"]), bool(state["latched"]))


def _filter(rule: Any, state: Any, wanted: int, time_ns: int) -> None:
    """On-delay and off-delay. A state waits for any change, an alarm or control only for the
    change between active and inactive: a higher level of an active alarm shows at once."""
    shown = int(state["condition"])
    if wanted == shown:
        state["since_ns"] = 0
        return
    if wanted and shown and rule["kind"] != lay.KIND_STATE:
        state["since_ns"] = 0
        state["condition"] = wanted
        return
    restarts = rule["kind"] == lay.KIND_STATE and state["pending"] != wanted
    if state["since_ns"] == 0 or restarts:
        state["since_ns"] = time_ns
        state["pending"] = wanted
    delay_ns = rule["on_delay_ns"] if wanted else rule["off_delay_ns"]
    if time_ns - int(state["since_ns"]) >= delay_ns:
        state["since_ns"] = 0
        state["condition"] = wanted


def _show_value(row: Any, cell: Cell, now_ns: int) -> None:
    """A calculated value into its row of the point table."""
    codes = {
        lay.QUALITY_GOOD: status.GOOD,
        lay.QUALITY_UNCERTAIN: status.UNCERTAIN_SUB_NORMAL,
        lay.QUALITY_NEVER: status.BAD_WAITING_FOR_INITIAL_DATA,
        lay.QUALITY_BAD: status.BAD,
    }
    row["value"], row["status"], row["mono_ns"] = cell[0], codes[cell[1]], now_ns
    if not math.isfinite(cell[0]):
        row["value"] = math.nan
        if _usable(cell):
            row["status"] = status.BAD


def _number_first_out(
    rules: NDArray[np.void], state: NDArray[np.void], memory: NDArray[np.int64]
) -> None:
    """Number the causes of a kind in the order they came; all are forgotten when all are clear."""
    for kind in (lay.KIND_ALARM, lay.KIND_INTERLOCK, lay.KIND_TRIP):
        members = [n for n, rule in enumerate(rules) if rule["kind"] == kind]
        word = lay.MEMORY_ORDER + kind
        if not any(state[n]["active"] for n in members):
            memory[word] = 0
            for n in members:
                state[n]["first_out"] = 0
            continue
        new = [
            n
            for n in members
            if state[n]["active"]
            and state[n]["first_out"] == 0
            and (state[n]["latched"] or state[n]["quality"] != lay.QUALITY_NEVER)
        ]
        if new:
            memory[word] += 1
            for n in new:
                state[n]["first_out"] = memory[word]


def _drive(
    effects: NDArray[np.void],
    state: NDArray[np.void],
    memory: NDArray[np.int64],
    outputs: NDArray[np.void],
) -> None:
    """The demand on every output: the highest rank, and among equals the first rule."""
    for output in outputs:
        output["value"] = math.nan
        output["rank"], output["cause"] = lay.RANK_NONE, lay.CAUSE_NONE
        if memory[lay.MEMORY_STARTUP] and not math.isnan(output["safe"]):
            output["value"] = output["safe"]
            output["rank"], output["cause"] = lay.RANK_TRIP, lay.CAUSE_STARTUP
    for effect in effects:
        output = outputs[effect["output"]]
        if state[effect["rule"]]["level"] == effect["level"] and effect["rank"] > output["rank"]:
            output["value"], output["rank"] = effect["value"], effect["rank"]
            output["cause"] = effect["rule"]
