"""The engine: carries a program's state from scan to scan and answers questions about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from config import status
from config.points import POINT
from safety import layout
from safety.layout import ASKER_NAMES, Program, TransitionInfo

Evaluate = Callable[..., int]

_TABLE_FORM: Final = "the point table is a contiguous, writable array of POINT, one row a point"
_LINE: Final = 64  # bytes; every array begins at one of the processor's cache lines


class BypassRefused(Exception):
    """A cause was not bypassed; the message says why.

    code  one of gateway.core.refusals.REFUSALS
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Engine:
    """One program at work.

    level      (R,) int32, string id of what each rule shows, 0 = inactive
    active     (R,) bool; of a function: it acts on its output
    latched    (R,) bool
    first_out  (R,) int32, 1 for the rules of a kind that came first since all were clear, 2 for
               the next ones; 0 = has not been active since
    bypassed   (R,) bool, counted as false and good in the last scan
    held_back  (R,) bool, bypassed, and would be active otherwise
    demand     (O,) float64, what protection demands of each output, NaN = nothing
    rank       (O,) int32, RANK_NONE, RANK_INTERLOCK or RANK_TRIP
    cause      (O,) int32 of the demand, see `cause_name`
    auto       (O,) float64, what functions and control states propose, NaN = nothing
    offset     (O,) float64, what functions add to any setpoint
    low, high  (O,) float64, limits of any setpoint, -inf and inf = none
    auto_cause, low_cause, high_cause  (O,) int32, CAUSE_NONE where there is none
    machine_now (M,) MACHINE_NOW    ramp_now (A,) RAMP_NOW
    state, outputs, memory, slots, floats, changed  the whole arrays, see safety/layout.py

    The arrays are views of the engine's state: read them after a scan, never write them.
    """

    def __init__(self, program: Program, evaluate: Evaluate | None = None) -> None:
        """`evaluate` is what safety.native.link returns, or safety.reference.evaluate.

        By default it is the kernel that numba compiles in this process.
        """
        if evaluate is None:
            from safety.kernel import evaluate as compiled_here

            evaluate = compiled_here
        self.program = program
        self._evaluate = evaluate
        count, depth = len(program.info), max(program.depth, 1)
        self._block, arrays = _block(
            (layout.STATE, count),
            (np.int64, program.slots),
            (np.float64, program.floats),
            (np.int64, layout.MEMORY_WORDS),
            (layout.OUTPUT, len(program.outputs)),
            (layout.MACHINE_NOW, len(program.machines)),
            (layout.RAMP_NOW, len(program.actions)),
            (np.float64, count),
        )
        self.state, self.slots, self.floats, self.memory, self.outputs = arrays[:5]
        self.machine_now, self.ramp_now, self._values = arrays[5:]
        self.changed = np.zeros(count, dtype=np.int32)
        self._fixed = (
            *(program.rules, program.code, program.consts, program.effects, program.watch),
            *(program.machines, program.modes, program.transitions),
            *(program.actions, program.segments),
            *arrays[:7],
            np.zeros(depth, dtype=layout.CELL),
            self.changed,
        )
        self._text_ids = {text: number for number, text in enumerate(program.strings)}
        self._points = [_point_values(info.levels, self._text_ids) for info in program.info]
        self._inputs = [np.array(info.inputs, dtype=np.intp) for info in program.info]
        self._keys = _keys(program)
        alarms = program.rules["kind"] == layout.KIND_ALARM
        self._by_policy = np.where(alarms, status.UNCERTAIN_SUB_NORMAL, status.GOOD)
        self.level = self.state["level"]
        self.active = self.state["active"]
        self.latched = self.state["latched"]
        self.first_out = self.state["first_out"]
        self.bypassed = self.state["bypassed"]
        self.held_back = self.state["held_back"]
        self.demand, self.rank = self.outputs["value"], self.outputs["rank"]
        self.cause = self.outputs["cause"]
        self.auto, self.auto_cause = self.outputs["auto"], self.outputs["auto_cause"]
        self.low, self.low_cause = self.outputs["low"], self.outputs["low_cause"]
        self.high, self.high_cause = self.outputs["high"], self.outputs["high_cause"]
        self.offset = self.outputs["offset"]
        self._begin()

    def _begin(self) -> None:
        """Before the first scan: outputs with a safe value are demanded at it."""
        self.memory[layout.MEMORY_STARTUP] = 1
        self.machine_now["mode"] = self.program.machines["initial"]
        self.machine_now["by"] = layout.BY_START
        self.machine_now["before"] = self.machine_now["request"] = -1
        self.ramp_now["value"] = np.nan
        safe = self.program.safe
        self.outputs["safe"] = self.outputs["value"] = safe
        self.outputs["shown"] = self.program.shown
        has_safe = ~np.isnan(safe)
        self.outputs["rank"] = np.where(has_safe, layout.RANK_TRIP, layout.RANK_NONE)
        self.outputs["cause"] = np.where(has_safe, layout.CAUSE_STARTUP, layout.CAUSE_NONE)
        self.outputs["auto"], self.outputs["low"], self.outputs["high"] = (
            np.nan,
            -np.inf,
            np.inf,
        )
        for name in ("auto_cause", "low_cause", "high_cause"):
            self.outputs[name] = layout.CAUSE_NONE

    @property
    def startup(self) -> bool:
        """True until the first scan in which no protective input was bad."""
        return bool(self.memory[layout.MEMORY_STARTUP])

    @property
    def time_ns(self) -> int:
        """Engine time at the last scan: starts at 1 and never goes back; 0 before the first."""
        return int(self.memory[layout.MEMORY_TIME])

    @property
    def arguments(self) -> tuple[NDArray[Any], ...]:
        """What `evaluate` takes between `rows` and `now_ns`; the same arrays in every scan.

        Who calls `evaluate` by himself calls `refresh` before he asks for points of rules.
        """
        return self._fixed

    def snapshot(self) -> bytes:
        """The whole state, to come back to it with `restore_snapshot`."""
        return self._block.tobytes()

    def restore_snapshot(self, snapshot: bytes) -> None:
        """Put back what `snapshot` of an engine with the same program gave."""
        self._block[:] = np.frombuffer(snapshot, dtype=np.uint8)

    def refresh(self) -> None:
        """Work out anew what the points of all rules show."""
        self._show(range(len(self._keys)))

    def _show(self, rules: Iterable[int]) -> None:
        for rule in rules:
            self._values[rule] = self._points[rule].get(int(self.level[rule]), 0.0)

    def scan(self, rows: NDArray[np.void], now_mono_ns: int, reset: bool) -> NDArray[np.int32]:
        """Evaluate all rules once.

        rows         (P,) POINT, the point table; only read
        now_mono_ns  monotonic, counted from 0 to TIME_NS_MAX; where it is smaller than last time,
                     time stands still
        reset        takes effect on its rising edge, for latches whose cause is gone
        Returns the rows of the rules whose level, active, latched, bypassed or held_back changed
        (guards and functions are left out); valid until the next scan.
        """
        # Another type of argument would compile a second kernel in the middle of the scan, and the
        # kernel does not check that a row is inside the table.
        assert rows.flags.c_contiguous and rows.flags.writeable, _TABLE_FORM
        assert len(rows) == len(self.program.protective), _TABLE_FORM
        now_ns = min(max(int(now_mono_ns), 0), layout.TIME_NS_MAX)
        count = self._evaluate(rows, *self._fixed, now_ns, bool(reset))
        changed = self.changed[:count]
        self._show(changed.tolist())
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

    def rule_points(self) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        """(R,) values, as `point_value`, and (R,) statuses of all rules' own points.

        A rule that holds its level on bad inputs is UncertainLastUsableValue, or
        BadWaitingForInitialData where it never had a result. Where another policy decided (trip,
        ignore), the result is Good; but an alarm is UncertainSubNormal, because somebody who sees
        it must not think that its sensor lives. Every other result is Good.
        """
        usable = self.state["quality"] < layout.QUALITY_BAD_FROM
        seen = self.state["seen"]
        has_scanned = bool(self.memory[layout.MEMORY_TIME])
        decided = (self.program.rules["on_bad"] != layout.ON_BAD_HOLD) & has_scanned
        undecided = np.where(
            seen, status.UNCERTAIN_LAST_USABLE, status.BAD_WAITING_FOR_INITIAL_DATA
        )
        codes = np.where(decided, self._by_policy, undecided)
        codes[usable & seen] = status.GOOD
        return self._values.copy(), codes.astype(np.uint32)

    def inputs_mono_ns(self, rule: int, rows: NDArray[np.void]) -> int:
        """Newest monotonic source time among a rule's inputs; 0 where it has none."""
        inputs = self._inputs[rule]
        return int(rows["mono_ns"][inputs].max()) if inputs.size else 0

    def cause_name(self, cause: int) -> str:
        """Who causes a demand, a proposal or a limit; empty for CAUSE_NONE."""
        if cause >= 0:
            return self.program.info[cause].name
        if cause <= layout.CAUSE_MACHINE_FROM:
            machine = layout.CAUSE_MACHINE_FROM - cause
            return f"{self.program.machine_info[machine].name}: {self.mode(machine)}"
        return "start-up" if cause == layout.CAUSE_STARTUP else ""

    # ------------------------------------------------------------ bypasses

    def bypass(self, rule: int, duration_ns: int) -> None:
        """Count a cause as false and good from the next scan on, for a time of the engine's clock.

        A bypass of a rule that is bypassed already replaces its end. Raises BypassRefused.
        """
        info = self.program.info[rule]
        if info.kind not in ("interlock", "trip"):
            raise BypassRefused("action", f"{info.name} is neither a trip nor an interlock")
        if info.bypass_ns_max <= 0:
            raise BypassRefused(
                "not-bypassable", f"{info.name} can't be bypassed: it has no BypassMax"
            )
        if not 0 < duration_ns <= info.bypass_ns_max:
            longest_s = info.bypass_ns_max / 1e9
            raise BypassRefused(
                "duration", f"{info.name} can be bypassed for at most {longest_s:g} s"
            )
        self.state["bypass_ns"][rule] = max(self.time_ns, 1) + duration_ns

    def end_bypass(self, rule: int) -> None:
        """The cause counts again from the next scan on."""
        if self.state["bypass_ns"][rule]:
            self.state["bypass_ns"][rule] = 1  # over; the next scan tells the change

    def bypass_left_ns(self, rule: int) -> int:
        """How long a bypass still lasts; 0 where there is none."""
        return max(int(self.state["bypass_ns"][rule]) - self.time_ns, 0)

    # ------------------------------------------------------------ machines of control states

    def mode(self, machine: int) -> str:
        """The name of a machine's present state."""
        return self.program.machine_info[machine].states[self._position(machine)]

    def _position(self, machine: int) -> int:
        first = self.program.machines["mode"][machine]
        return int(self.machine_now["mode"][machine] - first)

    def machine_values(self) -> NDArray[np.float64]:
        """(M,) what the machines' own points show: 1 + the position of the present state."""
        return 1.0 + (self.machine_now["mode"] - self.program.machines["mode"])

    def machines_changed(self) -> NDArray[np.intp]:
        """Rows of the machines that entered a state in the last scan."""
        return np.flatnonzero(self.machine_now["changed"])

    def request(self, machine: int, position: int, asker: str) -> bool:
        """Ask for a state, for the next scan only; `asker` is one of ASKER_NAMES.

        Of several requests before one scan the one of the highest rank counts, and among equals
        the last. Returns whether this one does. Ask `refusal` first whether it can be taken.
        """
        now, rank = self.machine_now[machine], ASKER_NAMES.index(asker)
        assert 0 <= position < len(self.program.machine_info[machine].states)
        if now["request"] >= 0 and now["asker"] < rank:
            return False
        now["request"] = self.program.machines["mode"][machine] + position
        now["asker"] = rank
        return True

    def askable(self, machine: int, asker: str) -> list[str]:
        """The states that somebody may ask for from the present one, whatever the guards say."""
        info = self.program.machine_info[machine]
        ways = self._ways(machine, None)
        return list(
            dict.fromkeys(
                info.transitions[w].target for w in ways if asker in info.transitions[w].askers
            )
        )

    def refusal(self, machine: int, position: int, asker: str) -> str:
        """What is missing for a request to be taken now; empty where nothing is."""
        info = self.program.machine_info[machine]
        if not 0 <= position < len(info.states):
            return f"{info.name} has {len(info.states)} states, none of them number {position + 1}"
        here, wanted = self.mode(machine), info.states[position]
        if self.startup:
            return "the start-up is not over: a protective input is not good yet"
        ways = self._ways(machine, position)
        if not ways and here == wanted:
            return f"{info.name} is in {here} already"
        may = [way for way in ways if asker in info.transitions[way].askers]
        if not may:
            others = ", ".join(self.askable(machine, asker)) or "nothing"
            askers = dict.fromkeys(name for way in ways for name in info.transitions[way].askers)
            who = ", ".join(askers) or "nobody, it comes by itself"
            why = f"who may ask for it: {who}" if ways else "no transition leads there"
            return f"from {here} to {wanted}: {why}; {asker} may now ask for: {others}"
        missing = [self._missing(machine, way) for way in may]
        return "" if "" in missing else " or ".join(dict.fromkeys(missing))

    def _ways(self, machine: int, position: int | None) -> list[int]:
        """Positions of a machine's transitions that lead away from here (to a state)."""
        row, here = self.program.machines[machine], int(self.machine_now["mode"][machine])
        first, last = int(row["transition"]), int(row["transition"] + row["transitions"])
        found = []
        for at, way in enumerate(self.program.transitions[first:last]):
            from_here = way["origin"] == here or (way["origin"] < 0 and way["target"] != here)
            if from_here and position in (None, int(way["target"] - row["mode"])):
                found.append(at)
        return found

    def _missing(self, machine: int, position: int) -> str:
        """What a transition waits for; empty where it waits for nothing."""
        way: TransitionInfo = self.program.machine_info[machine].transitions[position]
        row = self.program.transitions[self.program.machines["transition"][machine] + position]
        mode = self.program.modes[self.machine_now["mode"][machine]]
        left_ns = int(mode["min_ns"]) - (self.time_ns - int(self.machine_now["since_ns"][machine]))
        parts = []
        if row["guard"] >= 0 and not self.active[row["guard"]]:
            parts.append(f"not true: {way.guard}")
        if not row["urgent"] and left_ns > 0:
            parts.append(
                f"{self.mode(machine)} lasts at least {mode['min_ns'] / 1e9:g} s, "
                f"{left_ns / 1e9:.1f} s are left"
            )
        return " and ".join(parts)

    # ------------------------------------------------------------ latches over a restart

    def retained(self) -> dict[str, dict[str, Any]]:
        """The latched rules by name, with level and first-out number, to be kept over a restart.

        Bypasses and control states are not kept: after a restart every cause counts, and every
        machine starts in its initial state.
        """
        levels = np.where(self.bypassed, self.state["held"], self.level)
        return {
            self._keys[rule]: {
                "level": self.program.strings[levels[rule]],
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
        state = self.state[rule]
        state["latched"] = state["active"] = True
        state["level"] = self._text_ids[name]
        self._values[rule] = self._points[rule][self._text_ids[name]]
        state["first_out"] = min(max(order, 0), np.iinfo(np.int32).max // 2)
        word = layout.MEMORY_ORDER + int(self.program.rules[rule]["kind"])
        self.memory[word] = max(self.memory[word], state["first_out"])


def _point_values(levels: Iterable[str], text_ids: Mapping[str, int]) -> dict[int, float]:
    return {text_ids[name]: 1.0 + at for at, name in enumerate(levels)}


def _keys(program: Program) -> list[str]:
    """Names under which latches are kept; the kind is added where two rules share a name."""
    counts = Counter(info.name for info in program.info)
    return [
        info.name if counts[info.name] == 1 else f"{info.name} ({info.kind})"
        for info in program.info
    ]


def _block(*parts: tuple[DTypeLike, int]) -> tuple[NDArray[np.uint8], list[NDArray[Any]]]:
    """Arrays of zeros that lie in one block of memory, and the block."""
    kinds = [np.dtype(kind) for kind, _ in parts]
    sizes = [kind.itemsize * count for kind, (_, count) in zip(kinds, parts, strict=True)]
    starts = [0]
    for size in sizes:
        starts.append(-(-(starts[-1] + size) // _LINE) * _LINE)
    memory = np.zeros(starts[-1] + _LINE, dtype=np.uint8)
    block = memory[-memory.ctypes.data % _LINE :][: starts[-1]]
    arrays = [
        block[start : start + size].view(kind)
        for start, size, kind in zip(starts, sizes, kinds, strict=False)
    ]
    return block, arrays
