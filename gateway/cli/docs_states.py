"""Machines of control states in a site's document: picture, states, transitions, ramps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.docs_diagram import STATES_MAX, Diagram, Edge, clipped
from gateway.cli.docs_document import Block, Cell, Code, Heading, Paragraph, paragraph, table
from safety.terms import show_duration, show_number

if TYPE_CHECKING:
    from config.site import Site
    from config.states import ControlState, OutputValue, StateMachine
    from safety.layout import MachineInfo, Program, TransitionInfo

Blocks = list["Block | Diagram"]


def machine_blocks(site: Site, program: Program) -> Blocks:
    """All machines of a site."""
    found: Blocks = []
    for row, info in enumerate(program.machine_info):
        declared = site.personality.machines[info.name]
        initial = int(program.machines[row]["initial"] - program.machines[row]["mode"])
        found += _machine(info, declared, initial)
    return [Heading(2, "Control states"), *found] if found else []


def _machine(info: MachineInfo, declared: StateMachine, initial: int) -> Blocks:
    found: Blocks = [Heading(3, info.name)]
    if declared.Description:
        found.append(paragraph("Purpose: ", declared.Description))
    if len(info.states) <= STATES_MAX:
        found.append(_diagram(info, declared, initial))
    found += [_states(info, declared, initial), _transitions(info, declared)]
    ramps = _ramps(info, declared)
    return [*found, *ramps]


def _diagram(info: MachineInfo, declared: StateMachine, initial: int) -> Diagram:
    places = {name: at for at, name in enumerate(info.states)}
    edges = []
    for number, way in enumerate(info.transitions, 1):
        label = f"{number} {', '.join(_who(way))}"
        if way.guard:
            label += f" if {way.guard}"
        edges.append(Edge(places.get(way.origin, -1), places[way.target], clipped(label)))
    for name, state in declared.States.items():
        if state.MaxTime is not None and state.OnTimeout in places:
            after = show_duration(round(state.MaxTime * 1e9))
            label = f"{len(edges) + 1} after {after}"
            edges.append(Edge(places[name], places[state.OnTimeout], label))
    return Diagram(info.states, initial, tuple(edges))


def _who(way: TransitionInfo) -> tuple[str, ...]:
    return (*(["automatic"] if way.automatic else []), *way.askers)


def _value(value: OutputValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else show_number(value)


def _values(values: dict[str, OutputValue]) -> Cell:
    return tuple(Code(f"{output} = {_value(value)}") for output, value in values.items())


def _seconds(seconds: float | None) -> str:
    return show_duration(round(seconds * 1e9)) if seconds else ""


def _states(info: MachineInfo, declared: StateMachine, initial: int) -> Block:
    rows = []
    for at, name in enumerate(info.states):
        state = declared.States[name]
        rows.append(
            (
                Code(str(at + 1)),
                (Code(name), "initial") if at == initial else Code(name),
                _values(state.Hold),
                _values(state.Set),
                tuple(Code(output) for output in state.Ramps),
                Code(_seconds(state.MinTime)),
                Code(_seconds(state.MaxTime)),
                Code(state.OnTimeout or ""),
                state.Description,
            )
        )
    head = ("No", "State", "Holds", "Sets", "Ramps", "Shortest", "Longest", "Then")
    return table((*head, "Description"), rows)


def _transitions(info: MachineInfo, declared: StateMachine) -> Block:
    rows: list[tuple[Cell, ...]] = [
        (
            Code(str(number)),
            "any" if way.origin == "*" else Code(way.origin),
            Code(way.target),
            _who(way),
            Code(way.guard),
            "at once" if way.urgent else "",
            way.description,
        )
        for number, way in enumerate(info.transitions, 1)
    ]
    for name, state in declared.States.items():
        if state.MaxTime is not None and state.OnTimeout is not None:
            number = Code(str(len(rows) + 1))
            rows.append((number, Code(name), Code(state.OnTimeout), "time", _after(state), "", ""))
    head = ("No", "From", "To", "By", "When", "Urgent", "Description")
    return table(head, rows)


def _after(state: ControlState) -> Code:
    return Code(f"after {_seconds(state.MaxTime)}")


def _ramps(info: MachineInfo, declared: StateMachine) -> list[Block | Paragraph]:
    rows: list[tuple[Cell, ...]] = []
    for name in info.states:
        for output, ramp in declared.States[name].Ramps.items():
            for at, segment in enumerate(ramp.Segments, 1):
                rows.append(
                    (
                        Code(name),
                        Code(output),
                        Code(str(at)),
                        Code(show_number(segment.To)),
                        "at once" if segment.Rate is None else Code(show_number(segment.Rate)),
                        Code(_seconds(segment.Hold)),
                        Code(ramp.PauseWhen or ""),
                        "held" if ramp.Held else "set",
                    )
                )
    head = ("State", "Output", "Step", "To", "Per second", "Then stays", "Paused while", "Rank")
    if not rows:
        return []
    return [
        paragraph("Ramps, from what the output shows when the state is entered:"),
        table(head, rows),
    ]
