"""Proof of a program's protection, and the history that refutes it.

What is claimed of every output that a trip or an interlock drives stands in `CLAIMS` of
safety/prove_trial.py and, for people, in docs/prove.md. Each cause is looked at by itself, with
everything it depends on: other causes can only add demands. Where that part is small, every state
it can reach is visited with every combination of its inputs (safety/prove_search.py); where it is
large, histories are drawn. What is found is made as short as it gets, and run on the whole program.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from config.points import PointDef
from safety.decode import References, cut
from safety.layout import Program
from safety.prove_abstraction import Abstraction, abstract
from safety.prove_report import Counterexample, Part, Report, Verdict
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
WHOLE_SHARE: Final = 0.1  # of the budget at most, for the whole program at once
DRAWN_SHARE: Final = 0.1  # of the budget, kept for histories that are drawn where no proof is
MACHINE_SHARE: Final = 0.05  # of the budget at most, for histories of a machine


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


@dataclass(slots=True)
class _Job:
    """A cause, or a machine, that is looked at until nothing new is found.

    rules    the cause, and those that hide what it does
    outputs  that are not settled
    tries    how many counterexamples may still come
    kept     a search that was cut short, and what it needs to go on
    draw     whether histories may be drawn: only when nothing can be proved any more
    """

    rules: tuple[int, ...]
    outputs: set[int]
    machine: int = -1
    tries: int = FAULTS_MAX
    kept: _Kept | None = None
    draw: bool = False

    @property
    def machines(self) -> tuple[int, ...]:
        """As `cut` takes them."""
        return () if self.machine < 0 else (self.machine,)


@dataclass(slots=True)
class _Kept:
    bench: Bench
    window: Window | None
    effort: Effort
    why: list[str]
    search: Exhaustive | None


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
        self._draw(self._proofs())
        self._estop_first(estop)
        report.notes += itertools.islice(self._unsafe_first(), NOTES_MAX)
        self._startup()
        self._all_at_once()
        self._conclude()
        return report

    def _jobs(self) -> list[_Job]:
        """Causes and machines, the small ones first."""
        size = {rule: len(self.references.closure([rule])[2]) for rule in self.driven}
        ordered = sorted(self.driven, key=lambda r: (size[r], r))
        jobs = [_Job((rule,), set(self.driven[rule])) for rule in ordered]
        return jobs + [_Job((), set(), at) for at in range(len(self.task.program.machines))]

    def _work(self, job: _Job, until_s: float) -> bool:
        return self._cause(job, until_s) if job.machine < 0 else self._machine(job, until_s)

    def _proofs(self) -> list[_Job]:
        """Prove what can be; what one job leaves of the time is for the others.

        Returns the jobs that are left: there is no proof of them, or none in this time.
        """
        jobs, left = self._jobs(), list[_Job]()
        waiting = deque(jobs, maxlen=len(jobs))
        least_s = self.task.budget_s / 1000
        end_s = self.task.budget_s * (1 - WHOLE_SHARE - DRAWN_SHARE)
        while waiting:
            job = waiting.popleft()
            now_s = self.task.spent_s()
            if self._work(job, now_s + max(end_s - now_s, 0.0) / (len(waiting) + 1)):
                job.kept = None
                continue
            resumes = job.kept is not None and job.kept.search is not None
            if resumes and self.task.spent_s() < end_s - least_s:
                waiting.append(job)
            else:
                left.append(job)
        return left

    def _draw(self, jobs: list[_Job]) -> None:
        """Histories of what is not proved: causes first, they share the time that is left."""
        for number, job in enumerate(jobs):
            now_s, job.draw = self.task.spent_s(), True
            left_s = max(self.task.budget_s * (1 - WHOLE_SHARE) - now_s, 0.0)
            if job.machine >= 0:
                left_s = min(left_s, self.task.budget_s * MACHINE_SHARE)
            causes = sum(other.machine < 0 for other in jobs[number:])
            self._work(job, now_s + left_s / max(causes, 1))

    # ------------------------------------------------------------ one cause

    def _cause(self, job: _Job, until_s: float) -> bool:
        """One cause, until nothing new is found; with others where they hide what it does.

        Returns False where it is not done, and goes on when it is called again.
        """
        name = self.task.program.info[job.rules[0]].name
        while job.tries:
            open_outputs, rules = job.outputs, job.rules
            kept = job.kept = job.kept or self._begin(job)
            bench, window = kept.bench, kept.window
            part, found = self._search(job, kept, until_s, name)
            if found is None:
                if not job.draw and not part.is_proof:
                    return False
                self._note_part(part, open_outputs)
                return True
            job.kept = None
            job.tries -= 1
            assert window is not None
            found = shrink(bench, window, found)
            outcome = self.whole.confirm(bench, window, found, self.task.draw)
            if isinstance(outcome, Confirmed):
                gone = self._refute(bench, found, outcome, open_outputs)
                self._note_part(part, open_outputs & gone)
                open_outputs -= gone
            elif outcome is not None and outcome not in rules and len(rules) < JOINT_MAX:
                job.rules = (*rules, outcome)  # it acts on the same loss: only together they tell
            elif not part.effort.histories or self.task.spent_s() > until_s:
                # Another history that is drawn may do better.
                self._unconfirmed(part, bench, found, open_outputs)
            if not open_outputs:
                return True
        why = f"it was given up after {FAULTS_MAX} histories that break a claim of it"
        self._note_part(replace(part, why=(*part.why, why), open=True), job.outputs)
        return True

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

    def _begin(self, job: _Job) -> _Kept:
        """A search for a job: through all states where that can end."""
        bench, window = self._bench(job.rules, job.machines, job.outputs)
        effort, why = Effort(), list(bench.abstraction.inexact)
        combinations = _combinations(bench.abstraction)
        if not why and combinations > COMBINATIONS_MAX:
            why.append(f"its inputs have {combinations} combinations")
        search = None if why else Exhaustive(bench, window, effort)
        return _Kept(bench, window, effort, why, search)

    def _search(
        self, job: _Job, kept: _Kept, until_s: float, name: str
    ) -> tuple[Part, Found | None]:
        """Through all states, or at random where that can't end and the job says so."""
        task, bench, window, effort = self.task, kept.bench, kept.window, kept.effort

        def tell(text: str) -> None:
            task.tell(f"{name}: {text}")

        def over() -> bool:
            return task.spent_s() > until_s

        found = None
        if kept.search is not None and not job.draw:
            found = kept.search.search(over, tell)
            if effort.is_too_large:
                kept.search = None
        why = [*kept.why, *([effort.why] if effort.why and not effort.closed else [])]
        if job.draw:
            kept.search = None  # what it remembers is not needed any more
            settled = bool(job.outputs) and job.outputs <= self.refuted
            if settled:
                why.append("another cause refutes the output already")
            else:
                found = Sampled(bench, window, effort, task.draw).search(over, tell)
        info = [task.program.info[rule] for rule in bench.piece.rules]
        names = tuple(task.program.info[rule].name for rule in job.rules)
        outputs = tuple(bench.piece.outputs[o] for o in window.outputs) if window else ()
        stated_ns = window.stated_ns if window else 0
        can_be_bypassed = any(about.bypass_ns_max for about in info)
        part = Part(names, outputs, stated_ns, effort, tuple(why), bypass=can_be_bypassed)
        return part, found

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

    def _machine(self, job: _Job, until_s: float) -> bool:
        """What the states of a machine hold; False where it is not done."""
        kept = job.kept = job.kept or self._begin(job)
        bench = kept.bench
        name = self.task.program.machine_info[job.machine].name
        part, found = self._search(job, kept, until_s, name)
        if found is None and not job.draw and not part.is_proof:
            return False
        self.report.machines.append(replace(part, rules=(name,), outputs=bench.piece.outputs))
        if found is not None:
            found = shrink(bench, None, found)
            self._refute(bench, found, self.whole.show(bench, None, found), set())
        return True

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
        job = _Job((estop, other), set())
        kept = self._begin(job)
        bench = kept.bench
        name = self.task.program.info[estop].name
        until_s = self.task.spent_s() + max(self.task.budget_s - self.task.spent_s(), 1.0) / 2
        part, found = self._search(job, kept, until_s, name)
        if found is None and not part.is_proof:
            job.draw = True
            _, found = self._search(job, kept, until_s, name)
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
        watched = {output for outputs in self.driven.values() for output in outputs}
        if watched <= self.refuted:
            return
        bench = self.whole.bench()
        effort = Effort()
        # Not longer than everything else took: what is settled soon is told soon.
        now_s = task.spent_s()
        until_s = now_s + min(WHOLE_SHARE * task.budget_s, now_s)
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
