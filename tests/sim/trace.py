"""What a run tells: lines with their virtual time, and the newest of them for a report."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from tests.sim.loop import OWNER

LINES_MAX: Final = 20_000


class Trace:
    """Lines of a run, and a hash over all of them."""

    def __init__(self, now_ns: Callable[[], int], show: Callable[[str], None] | None) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.alarming = ""  # the first thing that was logged as critical
        self._now_ns = now_ns
        self._show = show
        self._hash = hashlib.sha256()

    def __call__(self, who: str, what: str) -> None:
        """One more line."""
        line = f"{self._now_ns() / 1e9:12.6f} {who:<9} {what}"
        self.lines.append(line)
        self._hash.update(line.encode())
        if self._show is not None:
            self._show(line)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all lines."""
        return self._hash.hexdigest()[:16]

    @contextlib.contextmanager
    def logs(self, folder: str) -> Iterator[None]:
        """Take what the gateway logs, without the name of the run's own folder."""
        handler, root = _Handler(self, folder), logging.getLogger()
        kept, level, root.handlers = root.handlers, root.level, [handler]
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.handlers = kept
            root.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, trace: Trace, folder: str) -> None:
        super().__init__()
        self._trace = trace
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        process = OWNER.get(None)
        text = record.getMessage().replace(self._folder, "")
        if record.exc_info:
            text += f" {record.exc_info[1]!r}"
        if record.levelno >= logging.CRITICAL and not self._trace.alarming:
            self._trace.alarming = text
        self._trace(process.name if process else "world", f"{record.levelname.lower()}: {text}")
