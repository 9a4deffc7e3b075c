"""Control states on their way into the program: machines with states, transitions and ramps.

What is wrong with one key is found here; what only the whole shows (states that are never
reached, transitions that never come) is found by safety/checks.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from config.findings import Finding, Severity, printable
from config.points import PointDef, rule_tag
from config.site import Site
from config.states import ControlState, OutputValue, Ramp, StateMachine, Transition
from safety import layout
from safety.effects import Outputs, Report
from safety.layout import MachineInfo, TransitionInfo
from safety.rows import SECTIONS, Row, guard_row
from safety.terms import show

ANY: Final = "*"
ANY_STATE: Final = -1
NO_STATE: Final = -1
_STATE_NAME: Final = re.compile(r"\w[\w-]{0,62}")


@dataclass(frozen=True, slots=True)
class Way:
    """One way from a state (ANY_STATE: from any other) to another; states by their position."""

    origin: int
    target: int
    guard: Row | None
    transition: Transition
    key: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a state does to one output; `segments` are (to, units per second, hold in ns)."""

    point: PointDef
    value: float
    rank: int
    key: str
    segments: tuple[tuple[float, float, int], ...] = ()
    pause: Row | None = None


@dataclass(slots=True)
class Machine:
    """One machine as it was declared, with names as positions; NO_STATE where one is unknown.

    names_unknown  a transition, timeout or `Initial` names no state of the machine
    """

    name: str
    key: str
    declared: StateMachine
    states: tuple[str, ...]
    positions: dict[str, int]
    initial: int = NO_STATE
    names_unknown: bool = False
    ways: list[Way] = field(default_factory=list)
    timeouts: list[int] = field(default_factory=list)  # by state
    actions: list[list[Action]] = field(default_factory=list)  # by state

    def state_key(self, state: int) -> str:
        """The key of a state in the file."""
        return f"{self.key}.States.{printable(self.states[state])}"

    def control_state(self, state: int) -> ControlState:
        """What the file declares of a state."""
        return self.declared.States[self.states[state]]


class Machines:
    """All machines of a site, checked.

    guards  the conditions of their transitions and the pauses of their ramps, as rows
    levels  tag of each machine's point -> names of its states
    """

    def __init__(self, site: Site, outputs: Outputs) -> None:
        self._outputs = outputs
        self._file = site.personality.controls_file
        self._guard_names: dict[str, int] = {}
        self.findings: list[Finding] = []
        self.guards: list[Row] = []
        self.all: list[Machine] = []
        for name, declared in site.personality.machines.items():
            key = f"{SECTIONS['machine']}.{printable(name)}"
            states = tuple(declared.States)
            positions = {state: at for at, state in enumerate(states)}
            self.all.append(Machine(name, key, declared, states, positions))
            self._read(self.all[-1])
        self.rows = {rule_tag("machine", machine.name): at for at, machine in enumerate(self.all)}
        self.levels = {rule_tag("machine", m.name): m.states for m in self.all}

    def _add(self, key: str, rule: str, message: str, severity: Severity = "error") -> None:
        self.findings.append(Finding(self._file, key, rule, message, severity))

    def _report(self, key: str) -> Report:
        return lambda rule, message: self._add(key, rule, message)

    # ------------------------------------------------------------ reading

    def _read(self, machine: Machine) -> None:
        self._check_names(machine)
        machine.initial = self._state(machine, machine.declared.Initial, f"{machine.key}.Initial")
        for state in range(len(machine.states)):
            machine.timeouts.append(self._timeout(machine, state))
            machine.actions.append(list(self._actions(machine, state)))
        for at, transition in enumerate(machine.declared.Transitions):
            machine.ways += self._ways(machine, transition, f"{machine.key}.Transitions[{at}]")

    def _check_names(self, machine: Machine) -> None:
        first: dict[str, str] = {}
        for name in machine.states:
            key = f"{machine.key}.States.{printable(name)}"
            if not _STATE_NAME.fullmatch(name):
                self._add(
                    key,
                    "name-invalid",
                    f'"{printable(name)}" is no name of a state: up to 63 letters, digits, _ '
                    "and -, the first one a letter, a digit or _.",
                )
            same = first.setdefault(name.lower(), name)
            if same != name:
                self._add(
                    key,
                    "states-duplicate",
                    f'"{printable(same)}" and "{printable(name)}" differ in capitals only. '
                    "Rename one.",
                )

    def _state(self, machine: Machine, name: str, key: str) -> int:
        found = machine.positions.get(name)
        if found is not None:
            return found
        machine.names_unknown = True
        near = self._outputs.nearest(name, machine.states)
        message = f'{machine.name} has no state "{printable(name)}". {near}'
        self._add(key, "state-undefined", message)
        return NO_STATE

    def _timeout(self, machine: Machine, state: int) -> int:
        declared, key = machine.control_state(state), machine.state_key(state)
        if declared.OnTimeout is None:
            if declared.MaxTime is not None:
                message = 'MaxTime ends, and then? Name the state that follows as "OnTimeout".'
                self._add(f"{key}.MaxTime", "timeout-incomplete", message)
            return NO_STATE
        if declared.MaxTime is None:
            message = "OnTimeout never comes without MaxTime. Give MaxTime in seconds."
            self._add(f"{key}.OnTimeout", "timeout-incomplete", message)
        elif declared.MinTime >= declared.MaxTime:
            message = (
                f"MinTime {declared.MinTime:g} s is not below MaxTime {declared.MaxTime:g} s, so "
                "only urgent transitions leave the state before its timeout. Correct one."
            )
            self._add(f"{key}.MinTime", "range-reversed", message)
        found = self._state(machine, declared.OnTimeout, f"{key}.OnTimeout")
        if found == state:
            self._add(f"{key}.OnTimeout", "transition-to-itself", _TO_ITSELF)
        return found

    def _ways(self, machine: Machine, declared: Transition, key: str) -> Iterator[Way]:
        target = self._state(machine, declared.To, f"{key}.To")
        origins: dict[int, None] = {}
        if declared.From == ANY:
            origins[ANY_STATE] = None
        else:
            names = [declared.From] if isinstance(declared.From, str) else declared.From
            for name in dict.fromkeys(names):
                origin = self._state(machine, name, f"{key}.From")
                if origin == target != NO_STATE:
                    self._add(f"{key}.From", "transition-to-itself", _TO_ITSELF)
                elif origin != NO_STATE:
                    origins[origin] = None
        guard = None
        if declared.When is not None:
            listed = ANY if declared.From == ANY else ", ".join(machine.states[o] for o in origins)
            name = self._guard_name(f"{machine.name}: {listed} -> {declared.To}")
            guard = guard_row(name, declared.When, self._file, key, "When")
            guard.moves = True
            self.guards.append(guard)
        for origin in origins:
            yield Way(origin, target, guard, declared, key)

    def _guard_name(self, name: str) -> str:
        name = printable(name)
        count = self._guard_names[name] = self._guard_names.get(name, 0) + 1
        return name if count == 1 else f"{name} ({count})"

    def _actions(self, machine: Machine, state: int) -> Iterator[Action]:
        declared, key = machine.control_state(state), machine.state_key(state)
        taken: dict[int, str] = {}

        def free(point: PointDef, place: str) -> bool:
            first = taken.setdefault(point.index, place)
            if first != place:
                message = f"The state does two things to {point.tag}; see also {first}. Keep one."
                self._add(place, "output-twice", message)
            return first == place

        held: tuple[tuple[str, dict[str, OutputValue], int], ...] = (
            ("Hold", declared.Hold, layout.RANK_INTERLOCK),
            ("Set", declared.Set, layout.RANK_SETPOINT),
        )
        for what, values, rank in held:
            for tag, wanted in values.items():
                place = f"{key}.{what}.{printable(tag)}"
                point = self._outputs.of_tag(tag, self._report(place))
                if point is None or not free(point, place):
                    continue
                value = self._outputs.value(point, wanted, self._report(place))
                if value is not None:
                    yield Action(point, value, rank, place)
        for tag, ramp in declared.Ramps.items():
            place = f"{key}.Ramps.{printable(tag)}"
            point = self._outputs.of_tag(tag, self._report(place))
            if point is not None and free(point, place):
                yield self._ramp(machine, state, point, ramp, place)

    def _ramp(self, machine: Machine, state: int, point: PointDef, ramp: Ramp, key: str) -> Action:
        analog = self._outputs.is_analog(point)
        if not analog:
            message = f"Ramps are for analog outputs; {point.tag} is discrete. Use Hold or Set."
            self._add(key, "ramp-discrete", message)
        elif point.read_back == 0 and ramp.Segments[0].Rate is not None:
            message = (
                f"{point.tag} can't be read back, so the ramp doesn't know where to start and "
                "begins with a jump to its first To. Give the channel ReadWrite RW or a ReadBack."
            )
            self._add(key, "ramp-without-read-back", message, "warning")
        segments = []
        for at, segment in enumerate(ramp.Segments):
            if analog:
                self._outputs.value(point, segment.To, self._report(f"{key}.Segments[{at}].To"))
            segments.append((segment.To, segment.Rate or 0.0, _ns(segment.Hold)))
        pause = None
        if ramp.PauseWhen is not None:
            name = f"{machine.name}: {machine.states[state]}, pause of {point.tag}"
            name = self._guard_name(name)
            pause = guard_row(name, ramp.PauseWhen, self._file, key, "PauseWhen", on_bad="trip")
            self.guards.append(pause)
        rank = layout.RANK_INTERLOCK if ramp.Held else layout.RANK_SETPOINT
        return Action(point, ramp.Segments[-1].To, rank, key, tuple(segments), pause)

    # ------------------------------------------------------------ the program

    def points(self) -> Iterator[PointDef]:
        """The outputs of all states."""
        for machine in self.all:
            for actions in machine.actions:
                for action in actions:
                    yield action.point

    def arrays(
        self, outputs: Mapping[int, int], text_id: Callable[[str], int]
    ) -> dict[str, list[tuple]]:
        """The rows of the program's arrays by their name in `Program`.

        outputs   index of a point -> row of the program's outputs
        """
        machines: list[tuple] = []
        modes: list[tuple] = []
        transitions: list[tuple] = []
        actions: list[tuple] = []
        segments: list[tuple] = []
        for machine in self.all:
            first = len(modes)
            ways = machine.ways
            machines.append(
                (first, len(machine.states), len(transitions), len(ways), first + machine.initial)
            )
            transitions += [_transition_row(way, first) for way in ways]
            for state, name in enumerate(machine.states):
                declared, timeout = machine.control_state(state), machine.timeouts[state]
                times = _ns(declared.MinTime), _ns(declared.MaxTime or 0.0)
                follows = NO_STATE if timeout == NO_STATE else first + timeout
                span = len(actions), len(machine.actions[state])
                modes.append((*times, text_id(name), follows, *span))
                for action in machine.actions[state]:
                    pause = -1 if action.pause is None else action.pause.index
                    head = action.value, outputs[action.point.index], action.rank
                    actions.append((*head, len(segments), len(action.segments), pause))
                    segments += action.segments
        return {
            "machines": machines,
            "modes": modes,
            "transitions": transitions,
            "actions": actions,
            "segments": segments,
        }

    def info(self, points: Mapping[str, PointDef]) -> tuple[MachineInfo, ...]:
        """What people call the machines."""
        return tuple(_info(machine, points) for machine in self.all)


_TO_ITSELF: Final = "The way leads back to the state that it comes from. Name another state."


def askers(transition: Transition) -> tuple[str, ...]:
    """Who may ask for a transition, in the order of the bits."""
    return tuple(name for name in layout.ASKER_NAMES if name in transition.By)


def is_automatic(transition: Transition) -> bool:
    """True where a transition needs nobody who asks for it."""
    return "automatic" in transition.By


def _transition_row(way: Way, first: int) -> tuple[int, int, int, int, int, int]:
    bits = sum(1 << layout.ASKER_NAMES.index(name) for name in askers(way.transition))
    return (
        ANY_STATE if way.origin == ANY_STATE else first + way.origin,
        first + way.target,
        -1 if way.guard is None else way.guard.index,
        int(is_automatic(way.transition)),
        bits,
        int(way.transition.Urgent),
    )


def _info(machine: Machine, points: Mapping[str, PointDef]) -> MachineInfo:
    transitions = tuple(
        TransitionInfo(
            origin=ANY if way.origin == ANY_STATE else machine.states[way.origin],
            target=machine.states[way.target],
            guard="" if way.guard is None or way.guard.term is None else show(way.guard.term),
            automatic=is_automatic(way.transition),
            askers=askers(way.transition),
            urgent=way.transition.Urgent,
            description=way.transition.Description,
        )
        for way in machine.ways
    )
    point = points.get(rule_tag("machine", machine.name))
    return MachineInfo(
        machine.name, machine.states, 0 if point is None else point.index, transitions
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
