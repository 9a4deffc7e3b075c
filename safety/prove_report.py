"""What a proof says of a program: its outputs, its causes and the counterexamples."""

from __future__ import annotations

from dataclasses import dataclass, field

from safety.prove_search import Effort
from safety.prove_whole import Table


@dataclass(frozen=True, slots=True)
class Part:
    """What came out for one cause, or for causes that had to be looked at together.

    rules    names, the first one is what it was for
    outputs  rows of the whole program's outputs
    why      it is no proof; empty where it is one
    open     alone the cause fails, and the whole site could not be made to show it
    bypass   it may be bypassed, and what it says holds while it is not
    """

    rules: tuple[str, ...]
    outputs: tuple[int, ...]
    stated_ns: int
    effort: Effort
    why: tuple[str, ...]
    open: bool = False
    bypass: bool = False

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
