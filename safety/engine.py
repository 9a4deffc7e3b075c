"""The engine: carries a program's state from scan to scan and answers questions about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import POINT
from safety import layout
from safety.layout import CELL, MEMORY_WORDS, OUTPUT, STATE, Program

Evaluate = Callable[..., int]

_TABLE_FORM: Final = "the point table is a contiguous, writable array of POINT"


class Engine:
    """One program at work.

    level      (R,) int32, string id of what each rule shows, 0 = inactive
    active     (R,) bool
    latched    (R,) bool
    first_out  (R,) int32, 1 for the rules of a kind that came first since all were clear, 2 for
               the next ones; 0 = has not been active since
    demand     (O,) float64, what protection demands of each output, NaN = nothing
    rank       (O,) int32, RANK_NONE, RANK_INTERLOCK or RANK_TRIP
    cause      (O,) int32, row of the rule that demands, CAUSE_NONE or CAUSE_STARTUP

    The arrays are views of the engine's state: read them after a scan, never write them.
    """

    def __init__(self, program: Program, evaluate: Evaluate | None = None) -> None:
        """`evaluate` is what safety.machine.link returns, or safety.reference.evaluate.

        By default it is the kernel that numba compiles in this process.
        """
        if evaluate is None:
            from safety.kernel import evaluate as compiled_here

            evaluate = compiled_here
        self.program = program
        self._evaluate = evaluate
        count = len(program.info)
        self._state = np.zeros(count, dtype=STATE)
        self._slots = np.zeros(program.slots, dtype=np.int64)
        self._memory = np.zeros(MEMORY_WORDS, dtype=np.int64)
        self._memory[layout.MEMORY_STARTUP] = 1
        self._outputs = np.zeros(len(program.outputs), dtype=OUTPUT)
        self._outputs["safe"] = program.safe
        self._cells = np.zeros(program.depth, dtype=CELL)
        self._changed = np.zeros(count, dtype=np.int32)
        self._watch = np.flatnonzero(program.protective).astype(np.int32)
        self._fixed = (
            program.rules,
            program.code,
            program.consts,
            program.effects,
            self._watch,
            self._state,
            self._slots,
            self._memory,
            self._outputs,
            self._cells,
            self._changed,
        )
        self._text_ids = {text: number for number, text in enumerate(program.strings)}
        self._points = [_point_values(info.levels, self._text_ids) for info in program.info]
        self._values = np.zeros(count)
        self._inputs = [np.array(info.inputs, dtype=np.intp) for info in program.info]
        self._keys = _keys(program)
        self.level = self._state["level"]
        self.active = self._state["active"]
        self.latched = self._state["latched"]
        self.first_out = self._state["first_out"]
        self.demand = self._outputs["value"]
        self.rank = self._outputs["rank"]
        self.cause = self._outputs["cause"]
        self._clear_demands()

    def _clear_demands(self) -> None:
        """Before the first scan: outputs with a safe value are demanded at it."""
        has_safe = ~np.isnan(self._outputs["safe"])
        self._outputs["value"] = self._outputs["safe"]
        self._outputs["rank"] = np.where(has_safe, layout.RANK_TRIP, layout.RANK_NONE)
        self._outputs["cause"] = np.where(has_safe, layout.CAUSE_STARTUP, layout.CAUSE_NONE)

    @property
    def startup(self) -> bool:
        """True until the first scan in which no protective input was bad."""
        return bool(self._memory[layout.MEMORY_STARTUP])

    def scan(self, rows: NDArray[np.void], now_mono_ns: int, reset: bool) -> NDArray[np.int32]:
        """Evaluate all rules once.

        rows         (P,) POINT, the point table; only read
        now_mono_ns  monotonic; where it is smaller than last time, time stands still
        reset        takes effect on its rising edge, for latches whose cause is gone
        Returns the rows of the rules whose level, active or latched changed; valid until the
        next scan.
        """
        # Another type of argument would compile a second kernel in the middle of the scan.
        assert rows.flags.c_contiguous and rows.flags.writeable, _TABLE_FORM
        count = self._evaluate(rows, *self._fixed, int(now_mono_ns), bool(reset))
        changed = self._changed[:count]
        for rule in changed.tolist():
            self._values[rule] = self._points[rule].get(int(self.level[rule]), 0.0)
        return changed

    def warm_up(self) -> None:
        """Run a trial scan without touching the state; compiles the kernel where it is not yet.

        Call it before the gateway reports ready.
        """
        rows = np.zeros(len(self.program.protective), dtype=POINT)
        rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        Engine(self.program, self._evaluate).scan(rows, 0, False)

    # ------------------------------------------------------------ rules as points

    def point_value(self, rule: int) -> float:
        """What the rule's own point shows: 0 inactive, 1 + position in `info.levels` otherwise."""
        return float(self._values[rule])

    def point_status(self, rule: int) -> int:
        """Status of the rule's own point.

        A rule that holds its level on bad inputs is UncertainLastUsableValue, or
        BadWaitingForInitialData where it never had a result. Every other result is Good: the
        policy (trip, ignore) has decided.
        """
        state = self._state[rule]
        if state["quality"] < layout.QUALITY_BAD_FROM and state["seen"]:
            return status.GOOD
        if self.program.rules[rule]["on_bad"] != layout.ON_BAD_HOLD and self._has_scanned:
            return status.GOOD
        return (
            status.UNCERTAIN_LAST_USABLE if state["seen"] else status.BAD_WAITING_FOR_INITIAL_DATA
        )

    def rule_points(self) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        """(R,) values and (R,) statuses of all rules' own points, as the two methods above."""
        usable = self._state["quality"] < layout.QUALITY_BAD_FROM
        seen = self._state["seen"]
        decided = (self.program.rules["on_bad"] != layout.ON_BAD_HOLD) & self._has_scanned
        undecided = np.where(
            seen, status.UNCERTAIN_LAST_USABLE, status.BAD_WAITING_FOR_INITIAL_DATA
        )
        codes = np.where((usable & seen) | decided, status.GOOD, undecided)
        return self._values.copy(), codes.astype(np.uint32)

    @property
    def _has_scanned(self) -> bool:
        return bool(self._memory[layout.MEMORY_TIME])

    def inputs_mono_ns(self, rule: int, rows: NDArray[np.void]) -> int:
        """Newest monotonic source time among a rule's inputs; 0 where it has none."""
        inputs = self._inputs[rule]
        return int(rows["mono_ns"][inputs].max()) if inputs.size else 0

    # ------------------------------------------------------------ latches over a restart

    def retained(self) -> dict[str, dict[str, Any]]:
        """The latched rules by name, with level and first-out number, to be kept over a restart."""
        return {
            self._keys[rule]: {
                "level": self.program.strings[self.level[rule]],
                "first_out": int(self.first_out[rule]),
            }
            for rule in np.flatnonzero(self.latched).tolist()
        }

    def restore(self, retained: Mapping[str, Mapping[str, Any]]) -> None:
        """Latch what was latched; the inverse of `retained`, before the first scan.

        Rules that are gone or latch no more are left out. A level that the rule no longer has
        becomes its first one: the latch is what counts. An entry of another form than
        `retained` gives latches its rule too.
        """
        for rule, key in enumerate(self._keys):
            name = self.program.info[rule].name
            entry = retained.get(key, retained.get(name))
            if entry is None and (key not in retained and name not in retained):
                continue
            entry = entry if isinstance(entry, Mapping) else {}
            order = entry.get("first_out", 0)
            self._latch(rule, entry.get("level"), order if isinstance(order, int) else 0)

    def restore_all_latched(self) -> None:
        """Latch every rule that can latch: the record of what was latched is damaged."""
        for rule in range(len(self._keys)):
            self._latch(rule, None, 0)

    def _latch(self, rule: int, level: object, order: int) -> None:
        info = self.program.info[rule]
        if not info.latch:
            return
        name = level if isinstance(level, str) and level in info.levels else info.levels[0]
        state = self._state[rule]
        state["latched"] = state["active"] = True
        state["level"] = self._text_ids[name]
        self._values[rule] = self._points[rule][self._text_ids[name]]
        state["first_out"] = min(max(order, 0), np.iinfo(np.int32).max // 2)
        word = layout.MEMORY_ORDER + int(self.program.rules[rule]["kind"])
        self._memory[word] = max(self._memory[word], state["first_out"])


def _point_values(levels: Iterable[str], text_ids: Mapping[str, int]) -> dict[int, float]:
    return {text_ids[name]: 1.0 + at for at, name in enumerate(levels)}


def _keys(program: Program) -> list[str]:
    """Names under which latches are kept; the kind is added where two rules share a name."""
    counts = Counter(info.name for info in program.info)
    return [
        info.name if counts[info.name] == 1 else f"{info.name} ({info.kind})"
        for info in program.info
    ]
