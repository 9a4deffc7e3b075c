"""What commands ask of the rule program: control states, bypasses, permission.

The engine takes a request for its next scan; what became of it is told behind that scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.points import PointDef
from gateway.commands import WRITE, Commands
from gateway.core.records import Command
from gateway.core.refusals import CommandRefused
from safety.engine import BypassRefused, Engine
from safety.layout import ASKER_NAMES, BY_START, BY_TIMEOUT

PENDING_MAX: Final = 100  # requests between two scans
COMMENT_CHARS_MIN: Final = 3  # of the reason for a bypass
_BYPASSABLE: Final = ("trip", "interlock")

Tell = Callable[[str, dict[str, Any]], None]  # kind and body of an event


@dataclass(frozen=True, slots=True)
class _StateRequest:
    command: Command
    machine: int
    position: int


@dataclass(frozen=True, slots=True)
class _Bypass:
    """Who bypassed a cause, and why."""

    command: Command
    rule: int


class Requests:
    """Requests of one site's commands to its rule program."""

    def __init__(self, engine: Engine, commands: Commands, event: Tell) -> None:
        """Takes the commands on points of rules; `event` records what became of them."""
        self._engine = engine
        self._commands = commands
        self._event = event
        program = engine.program
        self._tags = {p.index: p.tag for p in commands.points.values()}
        self._machines = {info.point: m for m, info in enumerate(program.machine_info)}
        self._controls = {i.point: r for r, i in enumerate(program.info) if i.kind in _BYPASSABLE}
        self._permissives: dict[int, list[int]] = {}  # output -> rules that it needs
        for rule, info in enumerate(program.info):
            for index in info.permits:
                self._permissives.setdefault(index, []).append(rule)
        self._states_asked: list[_StateRequest] = []
        self._bypasses_asked: list[_Bypass] = []
        self._bypasses: dict[int, _Bypass] = {}  # rule -> the bypass that is in force
        self._held_back: set[int] = set()
        commands.permitted = self.missing_permissive
        commands.handle("rule", (WRITE,), self._ask_state)
        commands.handle("rule", ("bypass", "end-bypass"), self._ask_bypass)

    def missing_permissive(self, index: int) -> str:
        """Why an output takes no setpoint now; empty where nothing keeps it."""
        for rule in self._permissives.get(index, ()):
            if not self._engine.active[rule]:
                info = self._engine.program.info[rule]
                return f"not permitted by {info.name}: {info.text}"
        return ""

    # ------------------------------------------------------------ acceptance

    def _ask_state(self, command: Command, point: PointDef) -> None:
        machine = self._machines.get(point.index)
        if machine is None:
            raise CommandRefused("read-only", "the point is read only")
        position = int(command.value) - 1
        if position < 0:
            raise CommandRefused("range", "no state has the number 0: they count from 1")
        refusal = self._engine.refusal(machine, position, command.origin)
        if refusal:
            raise CommandRefused("state", refusal)
        self._room(self._states_asked)
        if not self._engine.request(machine, position, command.origin):
            raise CommandRefused(
                "rank", "somebody of a higher rank asked for a state at the same time"
            )
        self._states_asked.append(_StateRequest(command, machine, position))

    def _ask_bypass(self, command: Command, point: PointDef) -> None:
        rule = self._controls.get(point.index)
        if rule is None:
            raise CommandRefused("action", "only trips and interlocks can be bypassed")
        info = self._engine.program.info[rule]
        if command.origin != "operator":
            raise CommandRefused("not-yours", "only a local operator may bypass a cause")
        self._room(self._bypasses_asked)
        if command.action == "end-bypass":
            if not self._engine.bypass_left_ns(rule):
                raise CommandRefused("nothing", f"{info.name} is not bypassed")
            self._engine.end_bypass(rule)
        else:
            if info.name.endswith("E_Stop"):
                raise CommandRefused("not-bypassable", "an emergency stop can't be bypassed")
            short = len(command.comment.strip()) < COMMENT_CHARS_MIN
            if short and info.bypass_ns_max > 0:  # else the engine says that it can't be at all
                what = f"a comment that says why, at least {COMMENT_CHARS_MIN} characters"
                raise CommandRefused("comment", f"a bypass needs {what} (--comment)")
            try:
                self._engine.bypass(rule, command.lease_ns)
            except BypassRefused as error:
                raise CommandRefused(error.code, str(error)) from error
        self._bypasses_asked.append(_Bypass(command, rule))

    def _room(self, asked: list[Any]) -> None:
        if len(asked) >= PENDING_MAX:
            raise CommandRefused("busy", "too many requests wait for the scan")

    # ------------------------------------------------------------ behind a scan

    def tell(self, changed: NDArray[np.int32]) -> None:
        """Report what became of requests; `changed` is what Engine.scan returned."""
        for machine in self._engine.machines_changed().tolist():
            self._tell_entry(machine)
        for request in self._states_asked:
            self._tell_request(request)
        self._states_asked.clear()
        for asked in self._bypasses_asked:
            self._tell_bypass(asked)
        self._bypasses_asked.clear()
        for rule in changed.tolist():
            self._tell_cause(rule)
        for rule in [r for r in self._bypasses if not self._engine.bypassed[r]]:
            self._tell_end(rule)

    def _tell_entry(self, machine: int) -> None:
        """An event for a state that was entered: from where, by whom, on which condition."""
        engine = self._engine
        info, now = engine.program.machine_info[machine], engine.machine_now[machine]
        body: dict[str, Any] = {
            "machine": info.name,
            "state": engine.mode(machine),
            "before": self._state_name(machine, int(now["before"])),
        }
        by = int(now["by"])
        if by in (BY_START, BY_TIMEOUT):
            body["by"] = "start" if by == BY_START else "timeout"
        else:
            way = info.transitions[by - int(engine.program.machines["transition"][machine])]
            asked = [r for r in self._states_asked if r.machine == machine]
            taken = [r for r in asked if info.states[r.position] == body["state"]]
            body["by"] = taken[-1].command.origin if taken else "automatic"
            body["when"] = way.guard
            if taken:
                body |= {"command": taken[-1].command.id, "source": taken[-1].command.source}
        self._event("state", body)

    def _state_name(self, machine: int, mode: int) -> str:
        first = int(self._engine.program.machines["mode"][machine])
        return self._engine.program.machine_info[machine].states[mode - first] if mode >= 0 else ""

    def _tell_request(self, request: _StateRequest) -> None:
        engine, machine = self._engine, request.machine
        info = engine.program.machine_info[machine]
        wanted, here = info.states[request.position], engine.mode(machine)
        if here == wanted:
            self._commands.report(request.command, "verified", "")
            return
        moved = bool(engine.machine_now["changed"][machine])
        refusal = engine.refusal(machine, request.position, request.command.origin)
        why = f"{info.name} went to {here}" if moved else refusal or "another request went first"
        code = "state" if moved or refusal else "overtaken"
        self._commands.report(request.command, "failed", why, code)

    def _tell_bypass(self, asked: _Bypass) -> None:
        command, rule = asked.command, asked.rule
        body: dict[str, Any] = {"name": self._engine.program.info[rule].name}
        step, reason, code = "verified", "", ""
        if command.action == "bypass":
            self._bypasses[rule] = asked
            body |= {"what": "begin", "duration_s": command.lease_ns / 1e9}
            if not self._engine.bypassed[rule]:
                step, reason, code = "failed", "it was over before the scan", "overtaken"
        else:
            self._bypasses.pop(rule, None)
            body["what"] = "end"
        self._event("bypass", body | {"comment": command.comment, "source": command.source})
        self._commands.report(command, step, reason, code)

    def _tell_cause(self, rule: int) -> None:
        """A cause that comes and goes while it is bypassed."""
        engine, held = self._engine, bool(self._engine.held_back[rule])
        if held == (rule in self._held_back):
            return
        (self._held_back.add if held else self._held_back.discard)(rule)
        if held or engine.bypassed[rule]:
            what = "cause holds" if held else "cause gone"
            self._event("bypass", {"name": engine.program.info[rule].name, "what": what})

    def _tell_end(self, rule: int) -> None:
        """The time of a bypass is over."""
        asked = self._bypasses.pop(rule).command
        body = {"name": self._engine.program.info[rule].name, "what": "expired"}
        self._event("bypass", body | {"comment": asked.comment, "source": asked.source})

    # ------------------------------------------------------------ questions

    def bypasses(self) -> list[dict[str, Any]]:
        """What is bypassed now, for the status: rule, time left, who, why."""
        return [
            {
                "name": self._engine.program.info[rule].name,
                "left_s": self._engine.bypass_left_ns(rule) / 1e9,
                "held_back": rule in self._held_back,
                "comment": asked.command.comment,
                "source": asked.command.source,
            }
            for rule, asked in self._bypasses.items()
        ]

    def machines(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Every machine: its state, since when, what an operator can ask for, what is missing."""
        engine, program = self._engine, self._engine.program
        found = []
        for machine, info in enumerate(program.machine_info):
            since_ns = int(engine.machine_now["since_ns"][machine])
            now = engine.time_ns
            states = [
                {
                    "state": state,
                    "refusal": engine.refusal(machine, position, ASKER_NAMES[0]),
                    "by": self._askers(machine, state),
                }
                for position, state in enumerate(info.states)
            ]
            found.append(
                {
                    "name": info.name,
                    "tag": self._tags[info.point],
                    "state": engine.mode(machine),
                    "since_s": (now - since_ns) / 1e9 if since_ns else 0.0,
                    "states": states,
                }
            )
        return {"type": "states", "machines": found}

    def _askers(self, machine: int, state: str) -> list[str]:
        info = self._engine.program.machine_info[machine]
        return sorted(
            {asker for way in info.transitions if way.target == state for asker in way.askers}
        )
