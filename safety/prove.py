"""Proof of a program's protection, and the history that refutes it.

What is claimed of every output that a trip or an interlock drives stands in `CLAIMS` of
safety/prove_trial.py and, for people, in docs/prove.md. Each cause is looked at by itself, with
everything it depends on: other causes can only add demands. Where that part is small, every state
it can reach is visited with every combination of its inputs (safety/prove_search.py); where it is
large, histories are drawn. What is found is made as short as it gets, and run on the whole program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from config.points import PointDef
from safety.decode import References, cut
from safety.layout import Program
from safety.prove_abstraction import Abstraction, abstract
from safety.prove_search import (
    COMBINATIONS_MAX,
    Effort,
    Exhaustive,
    Found,
    Sampled,
    Window,
)
from safety.prove_shrink import shrink
from safety.prove_trial import CLAIMS, Bench, Fault
from safety.prove_whole import Confirmed, Table, Whole
from safety.rows import is_estop

JOINT_MAX: Final = 4  # causes that are looked at together where one hides the other's fault
FAULTS_MAX: Final = 12  # counterexamples of one cause
NOTES_MAX: Final = 50  # outputs that some cause drives elsewhere than to their safe value
WHOLE_SHARE: Final = 0.1  # of the budget, for the whole program at once


@dataclass(frozen=True, slots=True)
class Task:
    """What to prove, and what it may cost.

    points    of the site, by row of the point table
    evaluate  the kernel
    spent_s   seconds since the start
    within_ns the longest time a cause may take; 0 = what its own delays say
    """

    program: Program
    points: Mapping[int, PointDef]
    evaluate: Callable[..., int]
    scan_period_ns: int
    draw: np.random.Generator
    spent_s: Callable[[], float]
    budget_s: float
    tell: Callable[[str], None]
    within_ns: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What came out for one cause, or for causes that had to be looked at together.

    rules    names, the first one is what it was for
    outputs  rows of the whole program's outputs
    why      it is no proof; empty where it is one
    open     alone the cause fails, and the whole site could not be made to show it
    """

    rules: tuple[str, ...]
    outputs: tuple[int, ...]
    stated_ns: int
    effort: Effort
    why: tuple[str, ...]
    open: bool = False

    @property
    def is_proof(self) -> bool:
        """True where every reachable state was visited."""
        return self.effort.closed and not self.why


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A history that breaks a claim.

    outputs  tags for which it does; rule is the cause that fails them
    table    what happens; `known` what would happen if the lost inputs were known, or None
    """

    claim: str
    outputs: tuple[str, ...]
    rule: str
    text: str
    table: Table
    known: Table | None


@dataclass(slots=True)
class Verdict:
    """What is known of one output.

    result  ``proved``, ``sampled`` (no counterexample in the histories that were drawn),
            ``open`` (a cause fails alone, and the whole site could not be made to show it),
            ``refuted``, or ``start-up only`` where no cause drives it
    """

    tag: str
    safe: float
    result: str = "start-up only"
    stated_ns: int = 0
    worst_ns: int = 0
    causes: list[Part] = field(default_factory=list)
    emergency_stop: bool = False


@dataclass(slots=True)
class Report:
    """Everything that came out."""

    outputs: list[Verdict] = field(default_factory=list)
    counterexamples: list[Counterexample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machines: list[Part] = field(default_factory=list)
    scan_period_ns: int = 0
    histories: int = 0  # of the whole program at once
    startup_cases: int = 0  # one protective input lost, all others good


def prove(task: Task) -> Report:
    """Prove or refute every claim, as far as the budget goes."""
    return _Prover(task).run()


class _Prover:
    def __init__(self, task: Task) -> None:
        self.task = task
        program = task.program
        self.references = References(program)
        self.report = Report(scan_period_ns=task.scan_period_ns)
        self.whole = Whole(program, task.points, task.evaluate, task.scan_period_ns)
        driven: dict[int, set[int]] = {}
        for effect in program.effects:
            driven.setdefault(int(effect["rule"]), set()).add(int(effect["output"]))
        self.driven = driven
        # What control states do to outputs is no part of a cause that only reads which one it is.
        quiet = program.modes.copy()
        quiet["actions"] = 0
        self.quiet = replace(program, modes=quiet)
        self.refuted: set[int] = set()

    def run(self) -> Report:
        """All of it."""
        program, report = self.task.program, self.report
        estop = {r for r in self.driven if is_estop(program.info[r].name)}
        for row, index in enumerate(program.outputs.tolist()):
            verdict = Verdict(self.task.points[index].tag, float(program.safe[row]))
            verdict.emergency_stop = any(row in self.driven[rule] for rule in estop)
            report.outputs.append(verdict)
        jobs = self._jobs()
        for number, (rules, machine) in enumerate(jobs):
            share_s = self._share(len(jobs) - number)
            if machine >= 0:
                self._machine(machine, share_s)
            else:
                self._cause(rules, share_s)
        self._estop_first(estop)
        report.notes += itertools.islice(self._unsafe_first(), NOTES_MAX)
        self._startup()
        self._all_at_once()
        self._conclude()
        return report

    def _jobs(self) -> list[tuple[tuple[int, ...], int]]:
        """Causes and machines, the small ones first: what they leave of the time is for others."""
        size = {rule: len(self.references.closure([rule])[2]) for rule in self.driven}
        jobs: list[tuple[tuple[int, ...], int]] = [
            ((rule,), -1) for rule in sorted(self.driven, key=lambda r: (size[r], r))
        ]
        return jobs + [((), machine) for machine in range(len(self.task.program.machines))]

    def _share(self, jobs: int) -> float:
        """The time until which the next one of some jobs may take."""
        left_s = self.task.budget_s * (1 - WHOLE_SHARE) - self.task.spent_s()
        return self.task.spent_s() + max(left_s, 0.0) / jobs

    # ------------------------------------------------------------ one cause

    def _cause(self, rules: tuple[int, ...], until_s: float) -> None:
        """One cause, until nothing new is found; with others where they hide what it does."""
        program = self.task.program
        name = program.info[rules[0]].name
        open_outputs = set(self.driven[rules[0]])
        for _ in range(FAULTS_MAX):
            bench, window = self._bench(rules, (), open_outputs)
            part, found = self._search(bench, window, rules, until_s, name)
            if found is None:
                self._note_part(part, open_outputs)
                return
            found = shrink(bench, window, found)
            outcome = self.whole.confirm(bench, window, found, self.task.draw)
            if isinstance(outcome, Confirmed):
                gone = self._refute(bench, found, outcome, open_outputs)
                self._note_part(part, open_outputs & gone)
                open_outputs -= gone
            elif outcome is not None and outcome not in rules and len(rules) < JOINT_MAX:
                rules = (*rules, outcome)  # it acts on the same loss: only together they tell
            elif not part.effort.histories or self.task.spent_s() > until_s:
                # Another history that is drawn may do better.
                self._unconfirmed(part, bench, found, open_outputs)
            if not open_outputs:
                return
        why = f"it was given up after {FAULTS_MAX} histories that break a claim of it"
        self._note_part(replace(part, why=(*part.why, why), open=True), open_outputs)

    def _unconfirmed(self, part: Part, bench: Bench, found: Found, open_outputs: set[int]) -> None:
        output = bench.piece.outputs[found.fault.output] if found.fault.output >= 0 else -1
        why = "alone it fails, and on the whole site other causes held the output in every try"
        about = {output} if output >= 0 else set(open_outputs)
        self._note_part(replace(part, why=(*part.why, why), open=True), about)
        open_outputs -= about

    def _bench(
        self, rules: Sequence[int], machines: Sequence[int], outputs: Iterable[int]
    ) -> tuple[Bench, Window | None]:
        """A bench for some causes, and the window that judges what they do to some outputs."""
        task = self.task
        piece = cut(task.program if machines else self.quiet, rules, machines)
        bench = Bench(
            piece,
            abstract(piece, task.points, task.scan_period_ns),
            task.evaluate,
            task.scan_period_ns,
        )
        if not rules:
            return bench, None
        window = Window(bench, [piece.rules.index(rule) for rule in rules], task.within_ns)
        wanted = set(outputs)
        window.outputs = [o for o in window.outputs if piece.outputs[o] in wanted]
        return bench, window

    def _search(
        self,
        bench: Bench,
        window: Window | None,
        rules: Sequence[int],
        until_s: float,
        name: str,
    ) -> tuple[Part, Found | None]:
        """Through all states where that can end, else at random."""
        task, effort = self.task, Effort()

        def tell(text: str) -> None:
            task.tell(f"{name}: {text}")

        def over() -> bool:
            return task.spent_s() > until_s

        abstraction = bench.abstraction
        combinations = _combinations(abstraction)
        why = list(abstraction.inexact)
        found = None
        if not why and combinations > COMBINATIONS_MAX:
            why.append(f"its inputs have {combinations} combinations")
        if not why:
            began_s = task.spent_s()
            half_s = began_s + 0.8 * (until_s - began_s)
            found = Exhaustive(bench, window, effort).search(lambda: task.spent_s() > half_s, tell)
            if not effort.closed and found is None:
                why.append(effort.why)
        if found is None and not effort.closed:
            found = Sampled(bench, window, effort, task.draw).search(over, tell)
        names = tuple(task.program.info[rule].name for rule in rules)
        outputs = tuple(bench.piece.outputs[o] for o in window.outputs) if window else ()
        stated_ns = window.stated_ns if window else 0
        return Part(names, outputs, stated_ns, effort, tuple(why)), found

    def _note_part(self, part: Part, outputs: Iterable[int]) -> None:
        for output in outputs:
            self.report.outputs[output].causes.append(part)

    def _refute(
        self, bench: Bench, found: Found, confirmed: Confirmed, open_outputs: set[int]
    ) -> set[int]:
        """Report a counterexample; returns the outputs that it settles."""
        program, fault = self.task.program, found.fault
        outputs = set(confirmed.outputs) & open_outputs
        if fault.output >= 0:
            outputs.add(bench.piece.outputs[fault.output])
        outputs = outputs or set(open_outputs)
        self.refuted |= outputs
        tags = tuple(self.report.outputs[output].tag for output in sorted(outputs))
        rule = program.info[bench.piece.rules[fault.rule]].name if fault.rule >= 0 else ""
        self.report.counterexamples.append(
            Counterexample(fault.claim, tags, rule, fault.text, confirmed.table, confirmed.known)
        )
        return outputs

    # ------------------------------------------------------------ what is no single cause

    def _machine(self, machine: int, until_s: float) -> None:
        """What the states of a machine hold."""
        bench, _ = self._bench((), (machine,), ())
        name = self.task.program.machine_info[machine].name
        part, found = self._search(bench, None, (), until_s, name)
        self.report.machines.append(replace(part, rules=(name,), outputs=bench.piece.outputs))
        if found is not None:
            found = shrink(bench, None, found)
            self._refute(bench, found, self.whole.show(bench, None, found), set())

    def _estop_first(self, estop: set[int]) -> None:
        """No other cause may come before the emergency stop, nor may it be bypassed."""
        program = self.task.program
        for rule in sorted(estop):
            if program.info[rule].bypass_ns_max:
                text = f"{program.info[rule].name} can be bypassed"
                table = Table((), ())
                found = Counterexample(
                    "emergency stop", (), program.info[rule].name, text, table, None
                )
                self.report.counterexamples.append(found)
            for other in self._before(rule, estop):
                self._cause_pair(rule, other)

    def _before(self, rule: int, estop: set[int]) -> list[int]:
        """Causes that win against an emergency stop, and want another value than it."""
        program = self.task.program
        found: dict[int, None] = {}
        for own_at, own in enumerate(program.effects):
            if int(own["rule"]) != rule:
                continue
            for at, effect in enumerate(program.effects):
                wins = int(effect["rank"]) > int(own["rank"])
                wins = wins or (int(effect["rank"]) == int(own["rank"]) and at < own_at)
                same = effect["output"] == own["output"] and effect["value"] != own["value"]
                if wins and same and int(effect["rule"]) not in estop:
                    found[int(effect["rule"])] = None
        return list(found)

    def _unsafe_first(self) -> Iterator[str]:
        """Causes that drive an output elsewhere while another one wants it at its safe value."""
        program = self.task.program
        for row, verdict in enumerate(self.report.outputs):
            effects = [effect for effect in program.effects if int(effect["output"]) == row]
            effects.sort(key=lambda effect: -int(effect["rank"]))  # of one rank in their order
            elsewhere: tuple[str, float] | None = None
            for effect in effects:
                name, value = program.info[int(effect["rule"])].name, float(effect["value"])
                if value != verdict.safe:
                    elsewhere = elsewhere or (name, value)
                elif elsewhere and elsewhere[0] != name:
                    first, other = elsewhere
                    yield (
                        f"while {first} and {name} are both active, {verdict.tag} is driven to "
                        f"{other:g}, not to its safe value {verdict.safe:g}"
                    )
                    break

    def _cause_pair(self, estop: int, other: int) -> None:
        bench, _ = self._bench((estop, other), (), ())
        name = self.task.program.info[estop].name
        until_s = self.task.spent_s() + max(self.task.budget_s - self.task.spent_s(), 1.0) / 2
        _, found = self._search(bench, None, (estop, other), until_s, name)
        if found is None:
            other_name = self.task.program.info[other].name
            note = f"{other_name} would win against {name}, but both were never active together"
            self.report.notes.append(note)
            return
        found = shrink(bench, None, found)
        self._refute(bench, found, self.whole.show(bench, None, found), set())

    def _startup(self) -> None:
        """Each protective input alone keeps the start-up trip, whatever else is good."""
        until_s = max(self.task.budget_s, self.task.spent_s() + 1.0)
        cases, fault = self.whole.startup(lambda: self.task.spent_s() > until_s)
        self.report.startup_cases = cases
        if fault is not None:
            row, text = fault
            tag = self.report.outputs[row].tag
            found = Counterexample("start-up", (tag,), "", text, Table((), ()), None)
            self.report.counterexamples.append(found)
            self.refuted.add(row)

    def _all_at_once(self) -> None:
        """Drawn histories of the whole program: what the parts can't see together."""
        task = self.task
        if not self.driven:
            return
        bench = self.whole.bench()
        effort = Effort()
        until_s = task.spent_s() + WHOLE_SHARE * task.budget_s
        search = Sampled(bench, None, effort, task.draw)
        found = search.search(
            lambda: task.spent_s() > until_s and effort.histories > 0,
            lambda text: task.tell(f"whole site: {text}"),
        )
        self.report.histories = effort.histories
        if found is not None:
            found = shrink(bench, None, found)
            self._refute(bench, found, self.whole.show(bench, None, found), set())

    def _conclude(self) -> None:
        for row, verdict in enumerate(self.report.outputs):
            parts = verdict.causes
            if row in self.refuted:
                verdict.result = "refuted"
            elif parts:
                verdict.result = "proved" if all(p.is_proof for p in parts) else "sampled"
                if any(part.open for part in parts):
                    verdict.result = "open"
            verdict.stated_ns = max((p.stated_ns for p in parts), default=0)
            verdict.worst_ns = max((p.effort.worst_ns for p in parts), default=0)


def _combinations(abstraction: Abstraction) -> int:
    total = 1
    for choices in abstraction.choices:
        total *= len(choices)
    return total


def claim_text(claim: str) -> str:
    """A claim in words."""
    return CLAIMS[claim]


__all__ = ["CLAIMS", "Counterexample", "Fault", "Part", "Report", "Task", "Verdict", "prove"]
