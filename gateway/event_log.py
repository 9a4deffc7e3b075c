"""Events on the console: a line each, but not more a second than somebody could read.

A flood of a thousand alarms would else cost the scan that brings it twice its time.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Final

from gateway.core.records import Event

WAITING: Final = "start-up, waiting for first values"  # why a trip is active that was never read
LINES_MAX: Final = 20  # of one kind of events, from one `next_second` to the next

_BOTH_WAYS: Final = ("active", "up")  # shown where they are false too: something is over

log = logging.getLogger("gatepost.field")


class EventLog:
    """Says on the console what an operator would want to see there."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()

    def hear(self, event: Event) -> None:
        """One line for an event; a listener of the journal."""
        kind, body = event.kind, event.body
        if kind == "receipt" and body["step"] not in ("failed", "refused"):
            return
        self._said[kind] += 1
        if self._said[kind] > LINES_MAX:
            return
        named = (name for name in body if body[name] or name in _BOTH_WAYS)
        shown = ", ".join(f"{name}={_plain(body[name])}" for name in named)
        log.log(logging.WARNING if _calls(event) else logging.INFO, "%s: %s", kind, shown)

    def next_second(self) -> None:
        """Say how many events had no line, and begin to count anew."""
        for kind, count in self._said.items():
            if count > LINES_MAX:
                log.warning("%s: %d more", kind, count - LINES_MAX)
        self._said.clear()


def _calls(event: Event) -> bool:
    """True where somebody should look; what is over and what comes back is only told."""
    kind, body = event.kind, event.body
    if kind == "alarm":
        return bool(body.get("announced"))
    if kind == "trip":
        waits = body.get("reason") == WAITING
        return bool(body["active"]) and body.get("kind") != "permissive" and not waits
    if kind == "device":
        return not body["up"] or "refuses" in body
    if kind == "gateway":
        return "still_active" in body  # behind the start-up, and so not for want of values
    return kind != "state"


def _plain(value: Any) -> str:
    """A comment comes from anywhere: it must not look like a line of its own."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]
