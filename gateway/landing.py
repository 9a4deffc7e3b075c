"""Where values of a device enter the point table, with their status and stamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from config import status
from drivers.contract import Block, Cycle, Part, Update
from drivers.errors import DriverError, Garbled, NoAnswer
from gateway.blocks import Batch
from gateway.core.clock import Clock, stamp
from gateway.core.table import PointTable


class Landing:
    """Writes the rows of one device; `part` and `update` say whether trips read what came."""

    def __init__(
        self,
        table: PointTable,
        protective: NDArray[np.bool_],
        blocks: Sequence[Block],
        clock: Clock,
    ) -> None:
        """`protective` (P,) marks the rows that trips and interlocks read."""
        self._table = table
        self._clock = clock
        self._protective = protective
        low = [np.nan] + [p.value_min for p in table.points]
        high = [np.nan] + [p.value_max for p in table.points]
        self._low = np.nan_to_num(np.array(low), nan=-np.inf)
        self._high = np.nan_to_num(np.array(high), nan=np.inf)
        rows = [b.index for b in blocks]
        self.rows = np.unique(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int32)

    def batch(self, cycle: Cycle) -> Batch:
        """What landing the parts of a cycle needs again and again."""
        low, high = self._low[cycle.index], self._high[cycle.index]
        limited = bool(np.isfinite(low).any() or np.isfinite(high).any())
        guarded = [0]
        for block in cycle.blocks:
            guarded.append(guarded[-1] + self.guards(block.index))
        first_row = int(cycle.index[0]) if len(cycle.index) else -1
        if not np.array_equal(cycle.index, first_row + np.arange(len(cycle.index))):
            first_row = -1
        if not limited:
            return Batch(cycle, None, None, guarded, first_row)
        return Batch(cycle, low, high, guarded, first_row)

    def guards(self, index: NDArray[np.int32]) -> bool:
        """True where trips or interlocks read one of these rows."""
        return bool(self._protective[index].any())

    def part(self, batch: Batch, part: Part) -> bool:
        """Land the values of a part; stamped with the time of the question, so that the age is
        never understated."""
        cycle = batch.cycle
        start, end = cycle.starts[part.first], cycle.starts[part.last]
        values = part.values
        index: NDArray[np.int32] | slice = cycle.index[start:end]
        if batch.first_row >= 0:  # a slice is written several times as fast
            index = slice(batch.first_row + start, batch.first_row + end)
        codes: NDArray[np.uint32] | int = status.GOOD
        finite = np.isfinite(values)
        if batch.low is not None and batch.high is not None:
            outside = (values < batch.low[start:end]) | (values > batch.high[start:end])
            codes = np.where(outside, status.UNCERTAIN_UNITS_EXCEEDED, status.GOOD)
        if np.count_nonzero(finite) != len(values):
            codes = np.where(finite, codes, status.BAD_SENSOR_FAILURE)
        age_ns = self._clock.monotonic_ns() - part.asked_ns
        self._table.put(index, values, codes, stamp(self._clock.utc_ns() - age_ns), part.asked_ns)
        return batch.guarded[part.last] > batch.guarded[part.first]

    def update(self, update: Update) -> bool:
        """Land what the device sent by itself; a status of its own counts where it is not good."""
        index, values = update.index, update.values
        outside = (values < self._low[index]) | (values > self._high[index])
        codes = np.where(outside, status.UNCERTAIN_UNITS_EXCEEDED, status.GOOD)
        if update.codes is not None:
            codes = np.where(update.codes != status.GOOD, update.codes, codes)
        lacking = ~np.isfinite(values) & (codes < status.BAD)
        codes = np.where(lacking, status.BAD_SENSOR_FAILURE, codes)
        now_utc_ns = stamp(self._clock.utc_ns())
        utc_ns = now_utc_ns if update.utc_ns is None else update.utc_ns
        self._table.put(index, values, codes, utc_ns, self._clock.monotonic_ns())
        return self.guards(index)

    def bad(self, index: NDArray[np.int32], code: int) -> None:
        """The device refuses these rows."""
        self._table.set_status(index, code, stamp(self._clock.utc_ns()))

    def silent(self, index: NDArray[np.int32], error: DriverError) -> None:
        """No answer: the last value stays usable until its age limit, then the scan ends it."""
        if len(index) == 0:
            return
        utc_ns = stamp(self._clock.utc_ns())
        codes = self._table.rows["status"][index]
        usable = index[codes < status.BAD]
        self._table.set_status(usable, status.UNCERTAIN_NO_COMMUNICATION, utc_ns)
        code = status.BAD_TIMEOUT if isinstance(error, NoAnswer) else status.BAD_NOT_CONNECTED
        if isinstance(error, Garbled):
            code = status.BAD_DECODING_ERROR
        self._table.set_status(index[codes >= status.BAD], code, utc_ns)
