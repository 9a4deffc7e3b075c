"""What a person sees during the demonstration: a live table, or lines without a terminal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gateway.cli.view import machines_text, small_view

NOTES_MAX: Final = 2
LINE_PERIOD_S: Final = 5.0
REFRESH_PER_S: Final = 4


class DemoView:
    """Progress on standard error; standard output stays free for the report."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._notes: deque[str] = deque(maxlen=NOTES_MAX)
        self._addresses: list[str] = []
        self._status: Mapping[str, Any] | None = None
        self._heading = ""
        self._next_line_s = 0.0

    def start(self) -> None:
        """Take over the screen, where there is one."""
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                refresh_per_second=REFRESH_PER_S,
                get_renderable=self._draw,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def stop(self) -> None:
        """Give the screen back; the last table stays. May be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Something happened."""
        self._notes.append(text)
        self._say(text)

    def addresses(self, *lines: str) -> None:
        """Where to connect to; stays on the screen."""
        self._addresses = [line for line in lines if line]
        for line in self._addresses:
            self._say(line)

    def _say(self, text: str) -> None:
        """Above the table, where there is one: it stays there, and can be scrolled back to."""
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._live.console.print(text, soft_wrap=True)

    def update(self, status: Mapping[str, Any], seconds: float, limit_s: float | None) -> None:
        """A new status of the field process, `seconds` into the run."""
        self._status = status
        end = f" of {limit_s:g} s" if limit_s is not None else ", Ctrl-C ends it"
        self._heading = f"{seconds:.0f} s{end}"
        if self._live is None and seconds >= self._next_line_s:
            self._next_line_s = seconds + LINE_PERIOD_S
            print(progress_line(status, seconds), file=sys.stderr, flush=True)

    def _draw(self) -> RenderableType:
        """What fits the screen: messages and addresses also stand above, when there is room."""
        if self._status is None:
            return Text()
        width, height = self._console.size
        top: list[RenderableType] = [Text(self._heading, style="bold")]
        top += [Text(address, style="cyan") for address in self._addresses]
        top += [Text(note) for note in self._notes]
        rows = sum(max(1, -(-len(str(line)) // width)) for line in top)
        return Group(*top, *small_view(self._status, height - 1 - rows))


def progress_line(status: Mapping[str, Any], seconds: float) -> str:
    """One line for logs: devices, sequence, backlog, active rules."""
    devices = status["devices"].values()
    up = sum(bool(device["connected"]) for device in devices)
    link = status["link"] or {}
    acknowledged = (link.get("acknowledged") or (0, 0))[1]
    broker = "broker connected" if link.get("connected") else "broker not connected"
    rules = ", ".join(rule["name"] for rule in status["rules"] if rule["kind"] != "state")
    text = (
        f"{seconds:5.0f} s  {up}/{len(devices)} devices  sequence {status['seq']}  "
        f"stored {status['taken']}  acknowledged {acknowledged}  "
        f"backlog {link.get('backlog', 0):.0f}  {broker}"
    )
    machines = machines_text(status)
    text += f"  {machines}" if machines else ""
    return f"{text}  active: {rules}" if rules else text
