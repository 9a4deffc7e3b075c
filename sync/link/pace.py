"""How fast a link may send: bytes a second, records a second of a backlog, hours. Pure.

Live data and backlog share `bytes_per_s`, and live data goes first: it looks at its own use only,
so a large frame of a backlog never makes it wait; the backlog gets what live data leaves over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from config.hours import opens_in_ns, parse_span
from gateway.core.clock import UTC_PLAUSIBLE_NS

HEADER_BYTES: Final = 64  # of MQTT, TCP and IP that a message needs beside topic and payload
BURST_S: Final = 1.0  # what was not used within this time is gone


class _Bucket:
    """Tokens that come in at a rate and are taken out, also below zero."""

    def __init__(self, rate_per_s: int) -> None:
        self.rate = rate_per_s
        self.most = rate_per_s * BURST_S
        self.tokens = self.most
        self.at_ns: int | None = None

    def take(self, amount: float, now_ns: int) -> None:
        self.fill(now_ns)
        self.tokens -= amount

    def fill(self, now_ns: int) -> None:
        if self.at_ns is not None:
            self.tokens = min(self.most, self.tokens + (now_ns - self.at_ns) * self.rate / 1e9)
        self.at_ns = now_ns

    def wait_ns(self, amount: float, now_ns: int) -> int:
        """Until so many tokens are there, or as many as there can be."""
        self.fill(now_ns)
        lacking = min(amount, self.most) - self.tokens
        return int(lacking * 1e9 / self.rate) + 1 if lacking > 0 else 0


class Pace:
    """What may go out at a moment."""

    def __init__(
        self, bytes_per_s: int | None, records_per_s: int, hours: Sequence[str] = ()
    ) -> None:
        """`bytes_per_s` of everything, None = no limit; the others are of the backlog.

        Raises ValueError for hours that are none.
        """
        self._live = _Bucket(bytes_per_s) if bytes_per_s else None
        self._all = _Bucket(bytes_per_s) if bytes_per_s else None
        self._records_per_s = records_per_s
        self._records_ns = 0  # when the next frame of the backlog may go
        self._spans = [parse_span(span) for span in hours]

    @property
    def capped(self) -> bool:
        """True where bytes are limited."""
        return self._live is not None

    def spend(self, size: int, records: int, now_ns: int, *, live: bool) -> None:
        """A frame or another message goes out: `size` bytes with its headers."""
        if self._live is not None and self._all is not None:
            self._all.take(size, now_ns)
            if live:
                self._live.take(size, now_ns)
        if not live:
            start_ns = max(now_ns, self._records_ns)
            self._records_ns = start_ns + records * 10**9 // self._records_per_s

    def live_wait_ns(self, now_ns: int) -> int:
        """Until live data may go out."""
        return self._live.wait_ns(1, now_ns) if self._live is not None else 0

    def backlog_wait_ns(self, size: int, now_ns: int) -> int:
        """Until a frame of the backlog, of `size` bytes, may go out."""
        wait_ns = max(0, self._records_ns - now_ns)
        return max(wait_ns, self._all.wait_ns(size, now_ns)) if self._all is not None else wait_ns

    def opens_in_ns(self, utc_ns: int) -> int:
        """Until the hours of the backlog begin.

        A clock that was never set doesn't know them; then the backlog goes, or it might never.
        """
        return opens_in_ns(self._spans, utc_ns) if utc_ns >= UTC_PLAUSIBLE_NS else 0
