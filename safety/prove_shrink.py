"""The shortest history that breaks a claim. A part of safety/prove.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from safety.prove_search import Found, Window
from safety.prove_trial import Bench, Step

SHRINK_RUNS_MAX: Final = 4_000


def verify(bench: Bench, window: Window | None, found: Found) -> Found | None:
    """The same claim broken by this history, perhaps earlier in it; None where it is not."""
    fault = bench.replay(found.history)
    if not found.known:
        same = fault is not None and fault.claim == found.fault.claim
        return replace(found, fault=fault) if fault is not None and same else None
    if fault is not None or window is None:
        return None
    state = bench.engine.snapshot()
    known = window.run(state, found.known, twice=True)
    if found.fault.claim == "time":
        fault = window.lateness(known)
    else:
        fault = window.compare(known, window.run(state, found.lost, twice=False))
    if fault is None or fault.output != found.fault.output:
        return None
    return replace(found, fault=fault)


def shrink(bench: Bench, window: Window | None, found: Found) -> Found:
    """A history with fewer steps, fewer changes and fewer losses that breaks the same claim."""
    runs = 0
    better = True
    while better and runs < SHRINK_RUNS_MAX:
        better = False
        for smaller in _smaller(bench, found):
            runs += 1
            checked = verify(bench, window, smaller)
            if checked is not None:
                found, better = checked, True
                break
            if runs >= SHRINK_RUNS_MAX:
                break
    return found


def _smaller(bench: Bench, found: Found) -> Iterator[Found]:
    """Histories that are a little simpler."""
    history = found.history
    for at in reversed(range(len(history))):
        if len(history) > 1 or found.known:
            yield replace(found, history=history[:at] + history[at + 1 :])
    for at, step in enumerate(history):
        for simpler in _simpler(step):
            yield replace(found, history=(*history[:at], simpler, *history[at + 1 :]))
    for number, (pick, known) in enumerate(zip(found.lost, found.known, strict=True)):
        if pick != known:
            lost = (*found.lost[:number], known, *found.lost[number + 1 :])
            yield replace(found, lost=lost)
    yield from _calmer(bench, found)


def _simpler(step: Step) -> Iterator[Step]:
    if step.action is not None:
        yield replace(step, action=None)
    if step.reset:
        yield replace(step, reset=False)
    if step.after_ns:
        yield replace(step, after_ns=0)


def _calmer(bench: Bench, found: Found) -> Iterator[Found]:
    """Inputs that don't change, from the window back to the first step; then good ones."""
    history = found.history
    for at in reversed(range(len(history))):
        following = history[at + 1].picks if at + 1 < len(history) else found.known
        if not following:
            continue
        step = history[at]
        for number, (pick, later) in enumerate(zip(step.picks, following, strict=True)):
            # An input that is lost in the window was at rest before: that is how it is told.
            in_window = bool(found.known) and at + 1 == len(history)
            goes = in_window and found.lost[number] != found.known[number]
            if pick != later and not goes and not bench.choice(number, later).lost:
                picks = (*step.picks[:number], later, *step.picks[number + 1 :])
                changed = replace(step, picks=picks)
                yield replace(found, history=(*history[:at], changed, *history[at + 1 :]))
