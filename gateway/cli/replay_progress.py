"""How far a long computation is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from typing import Any, Final

from gateway.cli.output import console
from gateway.cli.times import duration_text, iso_utc
from gateway.core.clock import SystemClock

LINE_NS: Final = 10_000_000_000  # between two lines where standard error is no terminal


class Progress:
    """Shows on standard error how much is done and how long the rest will take."""

    def __init__(self) -> None:
        self._out = console(stderr=True)
        self._clock = SystemClock()
        self._began_ns = self._shown_ns = self._clock.monotonic_ns()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._out.is_terminal:
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=self._out, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("compiling the rules", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, utc_ns: int) -> None:
        """`done` of the input has been read, 0 to 1; the replay stands at this time."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=iso_utc(utc_ns)[:19])
            return
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._shown_ns < LINE_NS or not 0.0 < done < 1.0:
            return
        self._shown_ns = now_ns
        left = duration_text(round((now_ns - self._began_ns) * (1.0 - done) / done))
        self._out.print(f"{done:.0%} done, at {iso_utc(utc_ns)[:19]}Z, {left} left")
