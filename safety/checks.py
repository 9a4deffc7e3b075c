"""What only the whole program shows: rules that add nothing, states that are never reached.

Nothing here keeps a program from being compiled. Every check takes time in proportion to the
number of rules: what can be compared is found by its subject, never by pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from config.findings import Finding, Severity
from config.model import AlarmRule
from config.points import PointDef, rule_tag
from config.site import Site
from safety import grid, layout
from safety.condition_checks import check_conditions
from safety.effects import Drive
from safety.rows import Row, is_estop
from safety.shadow import Limit, limit
from safety.states import ANY_STATE, NO_STATE, Action, Machine, Way, askers, is_automatic
from safety.terms import Point, Ref, Term, children, show

_COMPARED_MAX: Final = 16  # candidates that one rule is compared with
_NAMED_MAX: Final = 6  # points that one finding names

Effects = Sequence[tuple[Row, int, Drive]]


def check_program(
    site: Site, rows: Sequence[Row], effects: Effects, machines: Sequence[Machine]
) -> Iterator[Finding]:
    """All findings about rules, machines and outputs as a whole."""
    file = site.personality.controls_file
    yield from _shadowed_rules(rows, effects)
    yield from _trip_values(file, effects)
    yield from _ageless_inputs(site, rows)
    yield from _suppressed(rows)
    yield from check_conditions(site, rows)
    yield from _functions(rows)
    yield from _watchdog(site, effects, machines, rows)
    for machine in machines:
        yield from _unreachable(file, machine)
        yield from _without_exit(file, machine)
        yield from _immediate(file, machine)
        yield from _shadowed_ways(file, machine)
    yield from _machines_that_disagree(file, machines)
    yield from _unpermitted(file, rows, machines)


def _warning(file: str, key: str, rule: str, message: str) -> Finding:
    severity: Severity = "warning"
    return Finding(file, key, rule, message, severity)


# ---------------------------------------------------------------- rules


def _shadowed_rules(rows: Sequence[Row], effects: Effects) -> Iterator[Finding]:
    drives: defaultdict[Row, set[tuple[int, float]]] = defaultdict(set)
    for row, _, drive in effects:
        drives[row].add((drive.point.index, drive.value))
    used = {used for row in rows for used in row.uses}
    groups: defaultdict[Hashable, list[tuple[Limit, Row]]] = defaultdict(list)
    for row in rows:
        effect = _effect(row, drives)
        if effect is not None and row.term is not None and len(row.levels) == 1:
            subject, found = limit(row.term)
            groups[effect, subject].append((found, row))
    for group in groups.values():
        if len(group) > 1:
            yield from _shadowed_in(sorted(group, key=lambda found: found[0]), used)


def _effect(row: Row, drives: dict[Row, set[tuple[int, float]]]) -> Hashable:
    """What a rule does while it is active; None where that can't be shadowed."""
    if isinstance(row.rule, AlarmRule):
        return row.levels, row.rule.Priority
    wanted = drives.get(row)
    return None if wanted is None else frozenset(wanted)


def _shadowed_in(group: list[tuple[Limit, Row]], used: set[Row]) -> Iterator[Finding]:
    kept: list[tuple[Limit, Row]] = []
    for found, row in group:
        first = next((r for other, r in kept if other.covers(found) and _stands_for(r, row)), None)
        if first is None:
            if len(kept) < _COMPARED_MAX:
                kept.append((found, row))
        elif row not in used and first.term is not None:
            yield row.finding(
                "rule-shadowed",
                f"Whenever it is active, {first.name} is too, with the same effect: "
                f"{show(first.term)}. Remove one, or give this one another limit or effect.",
                severity="warning",
            )


def _stands_for(first: Row, other: Row) -> bool:
    """Whether a rule that is active whenever the other one is does all that the other does."""
    bypassed = getattr(first.rule, "BypassMax", 0.0) and not getattr(other.rule, "BypassMax", 0.0)
    suppressed = first.guard is not None and (
        other.guard is None or other.guard.term != first.guard.term
    )
    same_on_bad = first.on_bad in (layout.ON_BAD_TRIP, other.on_bad)
    weaker = first.rule_kind == layout.KIND_INTERLOCK and other.rule_kind == layout.KIND_TRIP
    return (
        (first.latch or not other.latch)
        and first.rule.OnDelay <= other.rule.OnDelay
        and first.rule.OffDelay >= other.rule.OffDelay
        and same_on_bad
        and not (bypassed or suppressed or weaker)
    )


def _trip_values(file: str, effects: Effects) -> Iterator[Finding]:
    told: set[str] = set()
    for row, _, drive in effects:
        safe = drive.point.safe_value
        if row.rule_kind != layout.KIND_TRIP or drive.key in told:
            continue
        if not math.isnan(safe) and drive.value != safe:
            told.add(drive.key)
            yield _warning(
                file,
                drive.key,
                "trip-not-safe",
                f"{row.name} is a trip and drives {drive.point.tag} to {drive.value:g}, but its "
                f"SafeValue is {safe:g}. Drive it there, change the SafeValue, or make the control "
                "an Interlock.",
            )


def _ageless_inputs(site: Site, rows: Sequence[Row]) -> Iterator[Finding]:
    """One finding a file."""
    acting = (layout.KIND_TRIP, layout.KIND_INTERLOCK, layout.KIND_FUNCTION)
    inputs = {index for row in rows if row.rule_kind in acting for index in row.inputs}
    ageless: defaultdict[str, list[PointDef]] = defaultdict(list)
    for index in sorted(inputs):
        point = site.points[index - 1]
        if point.source == "device" and point.age_ns_max == 0:
            ageless[site.instruments[point.equipment].file].append(point)
    for file, points in ageless.items():
        tags = ", ".join(point.tag for point in points[:_NAMED_MAX])
        more = f" and {len(points) - _NAMED_MAX} more" if len(points) > _NAMED_MAX else ""
        yield _warning(
            file,
            f"Channels.{points[0].channel}.AgeLimit",
            "age-limit-missing",
            f"Trips, interlocks or grid functions read {tags}{more}, and no age makes a value bad: "
            "one that comes no more would be believed for ever. Give AgeLimit.",
        )


def _suppressed(rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        rule = row.rule
        if not isinstance(rule, AlarmRule) or rule.SuppressWhen is None:
            continue
        if rule.Priority == "urgent" or is_estop(row.name):
            yield row.finding(
                "suppress-urgent",
                "An urgent alarm that is suppressed is seen by nobody. Lower its priority, or "
                "make the suppression part of its condition.",
                "SuppressWhen",
                "warning",
            )


# ---------------------------------------------------------------- outputs


def _functions(rows: Sequence[Row]) -> Iterator[Finding]:
    setters: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        function, output = row.function, row.output
        if function is None or output is None:
            continue
        role = grid.role(function)
        if role in ("Maximum", "Minimum") and math.isnan(grid.bad_value(function)):
            yield row.finding(
                "function-fails-open",
                f"On bad inputs this {role} lets go of {output.tag}. Say with BadValue which "
                "limit holds then.",
                "BadValue",
                "warning",
            )
        if role == "Setpoint":
            setters[output.index].append(row)
    for group in setters.values():
        for at, row in enumerate(group):
            first = next((r for r in group[:at] if _acts_before(r, row)), None)
            if first is not None:
                yield row.finding(
                    "function-shadowed",
                    f"{first.name} sets the same output and comes first, so this one acts only "
                    "while the inputs of that one are bad. Give each a When of its own, or one "
                    "the role Maximum, Minimum or Offset.",
                    "Output",
                    "warning",
                )


def _acts_before(first: Row, other: Row) -> bool:
    if first.guard is None or other.guard is None:
        return first.guard is None
    return first.guard.term == other.guard.term


def _watchdog(
    site: Site, effects: Effects, machines: Sequence[Machine], rows: Sequence[Row]
) -> Iterator[Finding]:
    entry = site.system.Watchdog
    toggled = set() if entry is None else set(entry.Outputs)
    if not toggled:
        return
    file = site.personality.controls_file
    driven = [(drive.key, drive.point.tag) for _, _, drive in effects]
    for machine in machines:
        for actions in machine.actions:
            driven += [(action.key, action.point.tag) for action in actions]
    for row in rows:
        if row.output is not None:
            driven.append((f"{row.key}.Output", row.output.tag))
    for key, tag in dict.fromkeys(driven):
        if tag in toggled:
            message = (
                f"{tag} is an output of the watchdog and toggles all the time; nothing else can "
                "drive it. Remove it here, or from Watchdog.Outputs."
            )
            yield Finding(file, key, "watchdog-driven", message)


# ---------------------------------------------------------------- control states


def _unreachable(file: str, machine: Machine) -> Iterator[Finding]:
    if machine.names_unknown:
        return  # the way may be one that names no state
    reached = {machine.initial}
    ahead = [machine.initial]
    by_origin: defaultdict[int, set[int]] = defaultdict(set)
    for way in machine.ways:
        by_origin[way.origin].add(way.target)
    while ahead:
        state = ahead.pop()
        found = by_origin[state] | by_origin[ANY_STATE] | {machine.timeouts[state]}
        new = found - reached - {NO_STATE}
        reached |= new
        ahead += new
    for state, name in enumerate(machine.states):
        if state not in reached:
            yield Finding(
                file,
                machine.state_key(state),
                "state-unreachable",
                f"No transition and no timeout leads from {machine.declared.Initial} to {name}. "
                "Add one, or remove the state.",
            )


def _without_exit(file: str, machine: Machine) -> Iterator[Finding]:
    if len(machine.states) < 2 or machine.names_unknown:
        return
    leave = {way.origin for way in machine.ways}
    anywhere = {way.target for way in machine.ways if way.origin == ANY_STATE}
    for state, name in enumerate(machine.states):
        declared = machine.control_state(state)
        if state in leave or anywhere - {state} or declared.MaxTime is not None:
            continue
        yield _warning(
            file,
            machine.state_key(state),
            "state-without-exit",
            f"Nothing leads out of {name}: it ends with the next start of the gateway only. Add a "
            "transition, e.g. By operator.",
        )


def _immediate(file: str, machine: Machine) -> Iterator[Finding]:
    for way in machine.ways:
        if way.guard is not None or not is_automatic(way.transition):
            continue
        states = range(len(machine.states)) if way.origin == ANY_STATE else (way.origin,)
        waits = all(machine.control_state(s).MinTime for s in states if s != way.target)
        if waits and not way.transition.Urgent:
            continue
        yield _warning(
            file,
            f"{way.key}.By",
            "transition-immediate",
            "The transition is automatic and has no When, so the state ends as soon as it begins. "
            "Give it a When, give the state a MinTime, or change By.",
        )


def _shadowed_ways(file: str, machine: Machine) -> Iterator[Finding]:
    before: defaultdict[Hashable, list[tuple[Limit | None, Way]]] = defaultdict(list)
    for way in machine.ways:
        subject: Hashable = None
        found: Limit | None = None
        if way.guard is not None:
            if way.guard.term is None:
                continue
            subject, found = limit(way.guard.term)
        first = _comes_first(machine, way, subject, found, before)
        if first is not None:
            origin = "any state" if way.origin == ANY_STATE else machine.states[way.origin]
            yield _warning(
                file,
                way.key,
                "transition-shadowed",
                f"From {origin} it is never taken: {first.key.rpartition('.')[2]} comes first "
                "whenever it could be. Change the order or the guards, or remove it.",
            )
        else:
            target = None if is_automatic(way.transition) else way.target
            kept = before[way.origin, subject, target]
            if len(kept) < _COMPARED_MAX:
                kept.append((found, way))


def _comes_first(
    machine: Machine,
    way: Way,
    subject: Hashable,
    found: Limit | None,
    before: dict[Hashable, list[tuple[Limit | None, Way]]],
) -> Way | None:
    """The transition before `way` that is taken whenever `way` could be."""
    for origin in dict.fromkeys((way.origin, ANY_STATE)):
        for about in dict.fromkeys((None, subject)):
            for target in (None, way.target):
                for other, first in before.get((origin, about, target), ()):
                    covers = other is None or (found is not None and other.covers(found))
                    if covers and _always_first(machine, first, way):
                        return first
    return None


def _always_first(machine: Machine, first: Way, other: Way) -> bool:
    # In its own target a transition from any state doesn't apply, and `other` may.
    elsewhere = first.origin == ANY_STATE and first.target != other.target
    if elsewhere and other.origin in (ANY_STATE, first.target):
        return False
    if not is_automatic(first.transition):
        if is_automatic(other.transition):
            return False
        if not set(askers(other.transition)) <= set(askers(first.transition)):
            return False
    if first.transition.Urgent or not other.transition.Urgent:
        return True
    states = range(len(machine.states)) if other.origin == ANY_STATE else (other.origin,)
    return not any(machine.control_state(state).MinTime for state in states)


def _machines_that_disagree(file: str, machines: Sequence[Machine]) -> Iterator[Finding]:
    """Two machines that drive one output to different values with the same rank."""
    first: dict[tuple[int, int], tuple[Machine, list[Action]]] = {}
    for machine in machines:
        own: defaultdict[tuple[int, int], list[Action]] = defaultdict(list)
        for action in (action for actions in machine.actions for action in actions):
            own[action.point.index, action.rank].append(action)
        for place, actions in own.items():
            other, theirs = first.setdefault(place, (machine, actions))
            both = [*theirs, *actions]
            steady = not any(action.segments for action in both)
            if other is machine or (steady and len({action.value for action in both}) == 1):
                continue
            yield _warning(
                file,
                actions[0].key,
                "effect-contradiction",
                f"{other.name} drives {actions[0].point.tag} too, see {theirs[0].key}. While the "
                f"states of both want it, {other.name} decides, because it stands first. Let one "
                "machine drive it.",
            )


def _unpermitted(file: str, rows: Sequence[Row], machines: Sequence[Machine]) -> Iterator[Finding]:
    """States that drive what a permissive permits, and don't ask it on the way in."""
    permissives: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        for index in row.permits:
            permissives[index].append(row)
    if not permissives:
        return
    asked: dict[Row, set[Row]] = {}
    for machine in machines:
        guards: defaultdict[int, list[Row | None]] = defaultdict(list)
        for way in machine.ways:
            guards[way.target].append(way.guard)
        for state in (machine.initial, *machine.timeouts):
            guards[state].append(None)  # comes unasked
        for state, actions in enumerate(machine.actions):
            for action in actions:
                for row in permissives.get(action.point.index, ()):
                    # Where an output is safe it needs nobody's leave.
                    is_safe = not action.segments and action.value == action.point.safe_value
                    if not (is_safe or _asks(machine, guards[state], row, asked)):
                        yield _unpermitted_finding(file, machine, state, action, row)


def _unpermitted_finding(
    file: str, machine: Machine, state: int, action: Action, row: Row
) -> Finding:
    return _warning(
        file,
        action.key,
        "permissive-not-asked",
        f"State {machine.states[state]} drives {action.point.tag}, which {row.name} permits; a "
        f"permissive stops setpoints only. Put {rule_tag(row.kind, row.name)} into the When of "
        "every transition to the state.",
    )


def _asks(
    machine: Machine, guards: list[Row | None], permissive: Row, asked: dict[Row, set[Row]]
) -> bool:
    """Whether every way into a state asks the permissive, or this asks for the state."""
    if permissive.term is not None and _names_machine(permissive.term, machine):
        return True
    return all(guard is not None and permissive in _behind(guard, asked) for guard in guards)


def _names_machine(term: Term, machine: Machine) -> bool:
    tag = rule_tag("machine", machine.name)
    if isinstance(term, Point):
        return term.tag == tag
    if isinstance(term, Ref):
        return term.kind == "state" and rule_tag("machine", term.name) == tag
    return any(_names_machine(inner, machine) for inner in children(term))


def _behind(guard: Row, asked: dict[Row, set[Row]]) -> set[Row]:
    """What a guard refers to, also through other rules; kept in `asked`."""
    if guard not in asked:
        found: set[Row] = set()
        ahead = list(guard.uses)
        while ahead:
            row = ahead.pop()
            if row not in found:
                found.add(row)
                ahead += row.uses
        asked[guard] = found
    return asked[guard]
