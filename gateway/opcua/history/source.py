"""Rows of the archive as history shows them: with what is missing told, and with neighbours.

Where data are missing (a declared gap), history has a row ``BadDataLost`` at the begin: a line
drawn through the rows breaks there, and aggregates count the time up to the next value as bad.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import Clock
from gateway.opcua.history.series import (
    BAD_DATA_LOST,
    HISTORY,
    TICK_NS,
    Configuration,
    Series,
    history_rows,
)

TIME_MIN: Final = -(2**63)
TIME_MAX: Final = 2**63 - 1
THREAD_ROWS: Final = 20_000  # from so many on, working with rows is not the loop's: a millisecond
REQUEST_ROWS_MAX: Final = 3_000_000  # so many rows take about a second
REQUEST_NS_MAX: Final = 2_000_000_000  # what a request may take where there is much to look through
# How many rows are looked through for a value that can be used, beyond both ends of a span.
_LOOK_ROWS: Final = (2, 32, 512, 8192)


class Archive(Protocol):
    """What is asked of the archive; `sync.archive.archive.AsyncArchive` is one.

    Times are UTC in ns, start <= time < end; a limit of 0 = all; `reverse`: newest first.
    """

    async def read(
        self,
        tag: str,
        start_ns: int,
        end_ns: int,
        limit: int = 0,
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> NDArray[np.void]:
        """(n,) rows (utc_ns, value, status) of a point. Raises StoreError."""

    async def events(
        self,
        start_ns: int,
        end_ns: int,
        limit: int,
        kinds: Sequence[str] = (),
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> list[Any]:
        """Events, each with `epoch` and `event`. Raises StoreError."""

    async def gaps(self, start_ns: int, end_ns: int) -> list[tuple[int, int, str]]:
        """(from, to, why) of the times in which data are missing."""


class TooMuch(Exception):
    """One interval has more rows than can be held at once."""


class Source:
    """The archive for one request: gaps are asked for once, and rows are counted.

    large  held by whoever works with very many rows at once
    read   how many rows were read
    filter what the request's filter of events is, once it was looked at
    """

    def __init__(self, archive: Archive, large: asyncio.Lock, clock: Clock) -> None:
        self.archive = archive
        self._clock = clock
        self._until_ns = clock.monotonic_ns() + REQUEST_NS_MAX
        self.large = large
        self.read = 0
        self.filter: Any = None
        self._gaps: NDArray[np.int64] | None = None

    @property
    def tired(self) -> bool:
        """True where a request has had its share: the rest is for the next one."""
        return self.read >= REQUEST_ROWS_MAX or self._clock.monotonic_ns() >= self._until_ns

    async def _lost(self, tag: str, start_ns: int, end_ns: int) -> NDArray[np.void]:
        """(n,) rows for the gaps that begin in a span, and not before the point's first row."""
        if self._gaps is None:
            gaps = await self.archive.gaps(TIME_MIN, TIME_MAX)
            found = [low - low % TICK_NS for low, high, _ in gaps if low < high]
            self._gaps = np.unique(np.array(found, dtype=np.int64))
        low, high = np.searchsorted(self._gaps, (start_ns, end_ns))
        times = self._gaps[low:high]
        if len(times):
            first = await self.archive.read(tag, TIME_MIN, TIME_MAX, 1)
            times = times[times >= first["utc_ns"][0]] if len(first) else times[:0]
        rows = np.zeros(len(times), dtype=HISTORY)
        rows["utc_ns"], rows["status"] = times, BAD_DATA_LOST
        return rows

    async def rows(
        self,
        tag: str,
        start_ns: int,
        end_ns: int,
        limit: int = 0,
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> NDArray[np.void]:
        """(n,) HISTORY rows with start <= time < end, in time order or newest first.

        limit, skip  as the archive has them; start and end are whole steps of 100 ns, or the ends
                     of time
        """
        lost = await self._lost(tag, start_ns, end_ns)
        if not len(lost):
            found = await self.archive.read(
                tag, start_ns, end_ns, limit, skip=skip, reverse=reverse
            )
            self.read += len(found)
            rows = await _history_rows(found[::-1] if reverse else found)
            return rows[::-1] if reverse else rows
        asked = limit and limit + skip
        found = await self.archive.read(tag, start_ns, end_ns, asked, reverse=reverse)
        self.read += len(found)
        is_cut = bool(asked) and len(found) == asked
        rows = await _history_rows(found[::-1] if reverse else found)
        if is_cut and reverse:
            lost = lost[lost["utc_ns"] >= rows["utc_ns"][0]]
        elif is_cut:
            lost = lost[lost["utc_ns"] < rows["utc_ns"][-1]]
        places = np.searchsorted(rows["utc_ns"], lost["utc_ns"], side="right")
        whole = np.insert(rows, places, lost)
        if reverse:
            whole = whole[::-1]
        return whole[skip : asked or None]

    async def before(self, tag: str, time_ns: int, configuration: Configuration) -> Any:
        """The rows before a time, back to the first that can be used, in time order."""
        return await self._look(tag, (TIME_MIN, time_ns), configuration, reverse=True)

    async def after(self, tag: str, time_ns: int, configuration: Configuration) -> Any:
        """The rows from a time on, up to the first that can be used, in time order."""
        return await self._look(tag, (time_ns, TIME_MAX), configuration, reverse=False)

    async def _look(
        self, tag: str, span: tuple[int, int], configuration: Configuration, *, reverse: bool
    ) -> NDArray[np.void]:
        # Two: a line behind the last value goes through the last two.
        wanted = 2 if reverse and configuration.sloped_extrapolation else 1
        for limit in _LOOK_ROWS:
            rows = await self.rows(tag, *span, limit, reverse=reverse)
            if reverse:
                rows = rows[::-1]
            if len(rows) < limit or len(Series(rows, configuration).used) >= wanted:
                break
        return rows

    async def series(
        self, tag: str, rows: NDArray[np.void], low_ns: int, high_ns: int, how: Configuration
    ) -> Series:
        """The rows of low <= time < high with their neighbours."""
        before = await self.before(tag, low_ns, how)
        after = await self.after(tag, high_ns, how)

        def made() -> Series:
            return Series(np.concatenate((before, rows, after)), how)

        return made() if len(rows) < THREAD_ROWS else await asyncio.to_thread(made)


async def _history_rows(found: NDArray[np.void]) -> NDArray[np.void]:
    if len(found) < THREAD_ROWS:
        return history_rows(found)
    return await asyncio.to_thread(history_rows, found)
