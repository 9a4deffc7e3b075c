"""Time, chance and identity: the only place of the gateway that reads them from the machine.

Everything else takes a `Clock`, or a time in nanoseconds, so that a simulation can hand in
another one and replay a run (DESIGN sections 1 and 10).
"""

from __future__ import annotations

import random
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from numpy.random import Generator

# Wall time before this instant can't be true: the machine has no battery-backed clock and no
# time server has answered yet. 2025-01-01T00:00:00Z, before the first release of Gatepost.
UTC_PLAUSIBLE_NS = 1_735_689_600_000_000_000


STAMP_NS = 1_000_000


def stamp(utc_ns: int) -> int:
    """The source time of a value that the gateway itself dates: whole milliseconds, rounded down.

    A value is older than the answer to its question by up to the whole exchange, some
    milliseconds; the digits below would be noise, and noise is what takes room in a frame. A
    device's own time keeps all its digits.
    """
    return utc_ns // STAMP_NS * STAMP_NS


def utc_datetime(utc_ns: int) -> datetime:
    """An instant as libraries for certificates take it; whole seconds, rounded down."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=utc_ns // 1_000_000_000)


class Clock(Protocol):
    """What the gateway asks of a clock."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary instant; never goes back."""

    def utc_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z; may step either way."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def new_id(self) -> str:
        """An identity that no other gateway draws: 32 hexadecimal digits."""


class SystemClock:
    """The machine's own clock."""

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        """Nanoseconds of the wall clock."""
        return time.time_ns()

    def random(self) -> float:
        """A number in [0, 1)."""
        return random.random()

    def new_id(self) -> str:
        """A random UUID (RFC 4122 version 4) without hyphens."""
        return uuid.uuid4().hex


class ManualClock:
    """A clock that stands still until it is moved; for tests and replay."""

    def __init__(self, utc_ns: int = UTC_PLAUSIBLE_NS, seed: int = 0) -> None:
        self._mono_ns = 0
        self._utc_ns = utc_ns
        self._random = random.Random(seed)

    def advance(self, ns: int) -> None:
        """Move both clocks on."""
        self._mono_ns += ns
        self._utc_ns += ns

    def monotonic_ns(self) -> int:
        """Nanoseconds since this clock was made."""
        return self._mono_ns

    def utc_ns(self) -> int:
        """The wall time that was set, moved on."""
        return self._utc_ns

    def random(self) -> float:
        """A number in [0, 1) from the seed."""
        return self._random.random()

    def new_id(self) -> str:
        """An identity drawn from the seed."""
        return f"{self._random.getrandbits(128):032x}"


def thread_ns() -> int:
    """Processor time of the calling thread so far; stands still while others have the processor."""
    return time.thread_time_ns()


def secret(size: int) -> bytes:
    """Bytes that nobody can guess; for tokens and nonces. No replay repeats them."""
    return secrets.token_bytes(size)


def seeded(seed: int) -> Generator:
    """A source of chance that gives the same for the same seed, 0 or more; for searches."""
    import numpy as np

    return np.random.default_rng(seed)
