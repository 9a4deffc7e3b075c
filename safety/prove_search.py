"""Looking for a history that breaks a claim: through every state, or at random.

A part of safety/prove.py, which says what is claimed. A `loss` is judged in a window: from one
state two runs begin, with the same inputs but for the lost ones, which one of the runs knows.
Nothing else happens in the window, and it is as long as the causes may take.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from safety import layout as lay
from safety.prove_abstraction import BAD_TEXT, Choice
from safety.prove_trial import Action, Bench, Demand, Fault, Step

COMBINATIONS_MAX: Final = 30_000  # of inputs; where there are more, histories are drawn
STATES_MAX: Final = 200_000
HISTORY_STEPS: Final = 14  # of a drawn history
COMPLETIONS_MAX: Final = 48  # good values that are tried for the lost inputs of a drawn history
_REPORT_EVERY: Final = 64

OutOfTime = Callable[[], bool]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A history that breaks a claim, in terms of a slice.

    lost, known  of the claims `loss` and `time`: what the inputs are in the window behind the
                 history, as it is and as it would be with the lost inputs known; else empty
    """

    fault: Fault
    history: tuple[Step, ...]
    lost: tuple[int, ...] = ()
    known: tuple[int, ...] = ()


@dataclass(slots=True)
class Effort:
    """What was looked at."""

    states: int = 0
    combinations: int = 0
    histories: int = 0
    closed: bool = False  # every reachable state was looked at
    is_too_large: bool = False  # going on would not help
    why: str = ""  # it was not
    worst_ns: int = 0  # the latest that a known cause acted, from the moment it was there


@dataclass(frozen=True, slots=True)
class Reaction:
    """One output in a window: what was demanded first and when, and what at the end."""

    first: Demand | None
    first_ns: int
    last: Demand


class Window:
    """The runs that claims `loss` and `time` compare."""

    def __init__(self, bench: Bench, rules: Sequence[int], limit_ns: int) -> None:
        """`rules` are the causes that are judged; `limit_ns` 0 = their delays and one scan."""
        longest_ns = max(bench.abstraction.times_ns[rule] for rule in rules)
        times = [time for time in bench.abstraction.breaks_ns if time <= longest_ns]
        self.stated_ns = longest_ns + bench.scan_period_ns
        self.limit_ns = limit_ns or self.stated_ns
        self._bench = bench
        self.steps_ns = [after - before for before, after in itertools.pairwise(times)]
        # A second round, to see what comes later than it should. How long control states and
        # remembered numbers take is not in the rules' delays.
        program = bench.engine.program
        self._is_timed = not program.machines.size and not program.floats
        self.late_ns = [*self.steps_ns, bench.scan_period_ns]
        self.outputs = _driven(bench, rules)

    def run(self, state: bytes, picks: tuple[int, ...], *, twice: bool) -> list[Reaction]:
        """From a state with these inputs; a reaction by each of `outputs`."""
        bench = self._bench
        bench.engine.restore_snapshot(state)
        first: list[Demand | None] = [None] * len(self.outputs)
        first_ns = [0] * len(self.outputs)
        last: list[Demand] = []
        rounds = [0, *self.steps_ns]
        passed_ns = 0
        twice = twice and self._is_timed
        for number, after_ns in enumerate([*rounds, *(self.late_ns if twice else ())]):
            bench.run(Step(after_ns, picks))
            passed_ns += after_ns
            demands = bench.demands()
            for at, output in enumerate(self.outputs):
                if first[at] is None and demands[output].by_rule:
                    first[at], first_ns[at] = demands[output], passed_ns
            if number == len(rounds) - 1:
                last = [demands[output] for output in self.outputs]
        return [Reaction(*row) for row in zip(first, first_ns, last, strict=True)]

    def compare(self, known: Sequence[Reaction], lost: Sequence[Reaction]) -> Fault | None:
        """Whether a loss is less safe than knowledge, by output."""
        for output, with_value, without in zip(self.outputs, known, lost, strict=True):
            wanted, got = self.wanted(with_value), without.last
            if wanted is None:
                continue
            safe = float(self._bench.engine.program.safe[output])
            # What a known value only demands for a while, a lost one has to demand at some time.
            seen = [got] if with_value.last.by_rule else [without.first or got, got]
            if any(d.rank >= wanted.rank and d.value in (wanted.value, safe) for d in seen):
                continue
            return Fault("loss", output, wanted.cause, _nothing(got, wanted))
        return None

    def wanted(self, known: Reaction) -> Demand | None:
        """What knowledge ends with in the stated time, or demanded on the way; None = nothing."""
        if known.last.by_rule:
            return known.last
        return None if known.first_ns > self.stated_ns else known.first

    def lateness(self, known: Sequence[Reaction]) -> Fault | None:
        """Whether a known cause takes longer than it may."""
        if not self._is_timed:
            return None
        for output, reaction in zip(self.outputs, known, strict=True):
            scan_ns = self._bench.scan_period_ns
            if reaction.first is not None and reaction.first_ns + scan_ns > self.limit_ns:
                text = f"it acts after {(reaction.first_ns + scan_ns) / 1e9:g} s"
                return Fault("time", output, reaction.first.cause, text)
        return None


def _nothing(got: Demand, wanted: Demand) -> str:
    if got.rank < wanted.rank:
        weaker = "only an interlock" if got.rank == lay.RANK_INTERLOCK else "nothing"
        return f"{weaker} demands it"
    return f"{got.value:g} is demanded in place of {wanted.value:g}"


def _driven(bench: Bench, rules: Sequence[int]) -> list[int]:
    effects = bench.engine.program.effects
    return sorted({int(e["output"]) for e in effects if int(e["rule"]) in set(rules)})


# ---------------------------------------------------------------- through every state


class Exhaustive:
    """Breadth first through all states that a slice can reach."""

    def __init__(self, bench: Bench, window: Window | None, effort: Effort) -> None:
        self._bench, self._window, self._effort = bench, window, effort
        sizes = [range(len(choices)) for choices in bench.abstraction.choices]
        self._combinations = list(itertools.product(*sizes))
        self._known = [picks for picks in self._combinations if not bench.lost(picks)]
        self._losses = [(picks, bench.lost(picks)) for picks in self._combinations]
        effort.combinations = len(self._combinations)
        self._steps = list(self._edges())
        self._seen: dict[bytes, tuple[bytes, Step | None]] = {b"": (b"", None)}
        waiting_max = STATES_MAX + len(self._steps) + 1  # of the last state all may be new
        self._queue: deque[tuple[bytes, bytes]] = deque([(b"", bench.first)], waiting_max)
        self._at = 0  # the step to go on with in the first state that waits

    def _edges(self) -> Iterator[Step]:
        """Everything that one scan can bring."""
        program, scan_ns = self._bench.engine.program, self._bench.scan_period_ns
        waits = {*self._bench.abstraction.delays_ns} - {0}
        # Two scans can follow each other at once. Delays are multiples of their greatest common
        # divisor. One timer at a time needs no shorter steps; several that run at once end in every
        # order where there are as many steps in it as timers.
        short_ns = math.gcd(*waits) // max(self._bench.abstraction.timers, 1)
        times = {0, max(short_ns, scan_ns), *waits} if waits else {scan_ns}
        resets = (False, True) if program.rules["latch"].any() else (False,)
        actions: list[Action | None] = [None, *self._bench.actions]
        for after_ns, reset, action in itertools.product(sorted(times), resets, actions):
            for picks in self._combinations:
                yield Step(after_ns, picks, reset, action)

    def search(self, out_of_time: OutOfTime, tell: Tell) -> Found | None:
        """The shortest history that breaks a claim; `effort.closed` says that there is none.

        Where the time was over, it goes on from there when it is called again.
        """
        bench, effort, seen, queue = self._bench, self._effort, self._seen, self._queue
        while queue:
            name, state = queue.popleft()
            effort.states += 1
            if effort.states % _REPORT_EVERY == 0:
                tell(f"{effort.states} states, {len(queue)} to look at")
            found = self._losses_from(state, name, seen) if name and not self._at else None
            if found is not None:
                return found
            for at, step in enumerate(self._steps[self._at :], self._at):
                if at % 256 == 0 and at > self._at and out_of_time():
                    self._at = at
                    queue.appendleft((name, state))
                    effort.states -= 1  # to be gone on with
                    effort.why = f"the time was over after {effort.states} states"
                    return None
                bench.engine.restore_snapshot(state)
                if not bench.matters(step.action):
                    continue
                bench.run(step)
                fault = bench.judge(state, step)
                if fault is not None:
                    return Found(fault, (*_way(seen, name), step))
                key = bench.key()
                if key not in seen:
                    seen[key] = (name, step)
                    queue.append((key, bench.engine.snapshot()))
            self._at = 0
            if len(seen) > STATES_MAX:
                effort.why = f"it has more than {STATES_MAX} states"
                effort.is_too_large = True
                return None
            if queue and out_of_time():
                effort.why = f"the time was over after {effort.states} states"
                return None
        effort.closed = True
        return None

    def _losses_from(
        self, state: bytes, name: bytes, seen: dict[bytes, tuple[bytes, Step | None]]
    ) -> Found | None:
        """Every loss in one state, against everything that the lost inputs could be."""
        window = self._window
        if window is None or not window.outputs:
            return None
        known = {picks: window.run(state, picks, twice=True) for picks in self._known}
        for picks, reactions in known.items():
            self._effort.worst_ns = max(
                self._effort.worst_ns, *(r.first_ns for r in reactions if r.first), 0
            )
            fault = window.lateness(reactions)
            if fault is not None:
                return Found(fault, _way(seen, name), picks, picks)
        acting = _Acting(self._bench, window, known)
        for picks, lost in self._losses:
            if not lost:
                continue
            worst = acting.completions(picks, lost)
            if not worst:
                continue
            without = window.run(state, picks, twice=False)
            for completion in worst:
                fault = window.compare(known[completion], without)
                if fault is not None:
                    return Found(fault, _way(seen, name), picks, completion)
        return None


class _Acting:
    """Known inputs by what they cause, so that each loss is compared with few of them."""

    def __init__(
        self, bench: Bench, window: Window, known: dict[tuple[int, ...], list[Reaction]]
    ) -> None:
        self._effects: dict[tuple[int, ...], frozenset[tuple[int, float, int, bool]]] = {}
        for picks, reactions in known.items():
            demanded = frozenset(
                (at, wanted.value, wanted.rank, reaction.last.by_rule)
                for at, reaction in enumerate(reactions)
                if (wanted := window.wanted(reaction)) is not None
            )
            if demanded:
                self._effects[picks] = demanded
        self._tables: dict[tuple[int, ...], dict[tuple[float, ...], list[tuple[int, ...]]]] = {}
        self._bench = bench

    def completions(self, picks: Sequence[int], lost: Sequence[int]) -> list[tuple[int, ...]]:
        """Good values for the lost inputs that cause something; one for each different effect.

        They are as old as the lost ones.
        """
        bench, inputs = self._bench, range(len(self._bench.abstraction.choices))
        rest = tuple(at for at in inputs if at not in lost)
        dated = tuple(at for at in lost if bench.choice(at, picks[at]).lost == BAD_TEXT)

        def key(of: Sequence[int]) -> tuple[float, ...]:
            return (*(of[at] for at in rest), *(bench.choice(at, of[at]).age_s for at in dated))

        table = self._tables.get((*rest, -1, *dated))
        if table is None:
            table = {}
            chosen: dict[tuple[Any, ...], None] = {}
            for known, effect in self._effects.items():
                if (key(known), effect) not in chosen:
                    chosen[key(known), effect] = None
                    table.setdefault(key(known), []).append(known)
            self._tables[*rest, -1, *dated] = table
        return table.get(key(picks), [])


def _way(seen: dict[bytes, tuple[bytes, Step | None]], name: bytes) -> tuple[Step, ...]:
    """The steps that led to a state."""
    steps: list[Step] = []
    while name:
        name, step = seen[name]
        assert step is not None
        steps.append(step)
    return tuple(reversed(steps))


# ---------------------------------------------------------------- at random


class Sampled:
    """Histories that are drawn, with a window of loss behind many of their scans."""

    def __init__(
        self, bench: Bench, window: Window | None, effort: Effort, draw: np.random.Generator
    ) -> None:
        self._bench, self._window, self._effort, self._draw = bench, window, effort, draw
        self._choices = bench.abstraction.choices
        self._good = [
            [at for at, choice in enumerate(choices) if not choice.lost]
            for choices in self._choices
        ]
        self._bad = [
            [at for at, choice in enumerate(choices) if choice.lost] for choices in self._choices
        ]
        self._times = [0, bench.scan_period_ns, *bench.abstraction.delays_ns]

    def search(self, out_of_time: OutOfTime, tell: Tell) -> Found | None:
        """Draw histories until the time is over or one breaks a claim; one at least."""
        while not self._effort.histories or not out_of_time():
            self._effort.histories += 1
            if self._effort.histories % _REPORT_EVERY == 0:
                tell(f"{self._effort.histories} histories")
            found = self._history()
            if found is not None:
                return found
        return None

    def _history(self) -> Found | None:
        bench, draw = self._bench, self._draw
        bench.engine.restore_snapshot(bench.first)
        picks = tuple(int(draw.choice(good)) for good in self._good)
        steps: list[Step] = []
        for _ in range(HISTORY_STEPS):
            steps.append(self._step(picks))
            picks = steps[-1].picks
            before = bench.engine.snapshot()
            bench.run(steps[-1])
            fault = bench.judge(before, steps[-1])
            if fault is not None:
                return Found(fault, tuple(steps))
            if self._window is not None and draw.random() < 0.5:
                state = bench.engine.snapshot()
                found = self._loss(state, tuple(steps))
                if found is not None:
                    return found
                bench.engine.restore_snapshot(state)
        return None

    def _step(self, picks: tuple[int, ...]) -> Step:
        draw = self._draw
        share = float(draw.choice((0.05, 0.3, 0.9)))
        drawn = tuple(
            int(draw.integers(len(choices))) if draw.random() < share else pick
            for pick, choices in zip(picks, self._choices, strict=True)
        )
        actions = self._bench.actions
        action = None
        if actions and draw.random() < 0.3:
            action = actions[int(draw.integers(len(actions)))]
        after_ns = int(draw.choice(self._times))
        return Step(after_ns, drawn, bool(draw.random() < 0.2), action)

    def _loss(self, state: bytes, steps: tuple[Step, ...]) -> Found | None:
        """Some inputs are lost now; is there a value of them that would have acted?"""
        window, draw = self._window, self._draw
        assert window is not None
        count = len(self._choices)
        if not count or not window.outputs:
            return None
        base = [int(draw.choice(good)) for good in self._good]
        for at, pick in enumerate(steps[-1].picks):
            if pick in self._good[at] and draw.random() < 0.7:
                base[at] = pick
        size = int(draw.integers(1, min(count, 3) + 1))
        lost = draw.choice(count, size=size, replace=False).tolist()
        picks = list(base)
        for at in lost:
            picks[at] = int(draw.choice(self._bad[at]))
        without: list[Reaction] | None = None
        for completion in self._completions(base, picks, lost):
            known = window.run(state, completion, twice=True)
            self._effort.worst_ns = max(
                self._effort.worst_ns, *(r.first_ns for r in known if r.first), 0
            )
            fault = window.lateness(known)
            if fault is not None:
                return Found(fault, steps, completion, completion)
            if any(window.wanted(reaction) is not None for reaction in known):
                without = without or window.run(state, tuple(picks), twice=False)
                fault = window.compare(known, without)
                if fault is not None:
                    return Found(fault, steps, tuple(picks), completion)
        return None

    def _completions(
        self, base: list[int], picks: list[int], lost: list[int]
    ) -> Iterator[tuple[int, ...]]:
        """Good values for the lost inputs, as old as these."""
        goods = [self._of_age(at, self._bench.choice(at, picks[at])) for at in lost]
        if math.prod(map(len, goods)) <= COMPLETIONS_MAX:
            drawn: Iterator[tuple[int, ...]] = itertools.product(*goods)
        else:
            drawn = (
                tuple(int(self._draw.choice(good)) for good in goods)
                for _ in range(COMPLETIONS_MAX)
            )
        for values in drawn:
            known = list(base)
            for at, value in zip(lost, values, strict=True):
                known[at] = value
            yield tuple(known)

    def _of_age(self, at: int, lost: Choice) -> list[int]:
        good, choices = self._good[at], self._choices[at]
        if lost.lost != BAD_TEXT:
            return good
        return [pick for pick in good if choices[pick].age_s == lost.age_s]
