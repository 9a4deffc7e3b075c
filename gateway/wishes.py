"""What the rule program wants of outputs, from the engine's arrays to gateway/outputs.py.

Only what changed since the last scan becomes an object: a thousand outputs that nothing happens
to are one comparison of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.outputs import Demand, Output, Proposal, Wish
from safety.engine import Engine
from safety.layout import CAUSE_MACHINE_FROM, RANK_NONE, RANK_TRIP

_COLUMNS: Final = (
    *("demand", "rank", "cause", "auto", "auto_cause"),
    *("offset", "low", "high", "low_cause", "high_cause"),
)


class Wishes:
    """The wishes of one program, from scan to scan."""

    def __init__(self, engine: Engine, outputs: Mapping[int, Output]) -> None:
        self._engine = engine
        self._outputs = outputs
        self._index = engine.program.outputs.tolist()  # of the points, in the engine's order
        self._columns = [getattr(engine, name) for name in _COLUMNS]
        self._before: list[NDArray[np.float64 | np.int32]] = []
        self._stopped: dict[int, Demand] = {}

    def stop(self) -> None:
        """From now on every output with a safe value is to take it."""
        for index, output in self._outputs.items():
            safe = output.point.safe_value
            if not math.isnan(safe):
                self._stopped[index] = Demand(safe, "stop")
        self._before = []

    def changed(self, rows: NDArray[np.void], machines: Collection[int] = ()) -> dict[int, Wish]:
        """Index of the output -> wish, where it is another one than in the scan before.

        machines  rows of those that entered a state: their causes have new names
        """
        first = not self._before
        found = {}
        for at in self._moved(machines).tolist():
            index = self._index[at]
            found[index] = Wish(self._demand(at, rows), self._proposal(at))
        if first and self._stopped:
            for index, demand in self._stopped.items():
                found.setdefault(index, Wish(demand))
        return found

    def _moved(self, machines: Collection[int]) -> NDArray[np.intp]:
        if not self._before:
            moved = np.ones(len(self._index), dtype=np.bool_)
        else:
            moved = np.zeros(len(self._index), dtype=np.bool_)
            for now, before in zip(self._columns, self._before, strict=True):
                moved |= (now != before) & ((now == now) | (before == before))  # NaN is as NaN
            for machine in machines:
                cause = CAUSE_MACHINE_FROM - machine
                moved |= self._engine.cause == cause
                moved |= self._engine.auto_cause == cause
        self._before = [column.copy() for column in self._columns]
        return np.flatnonzero(moved)

    def _demand(self, at: int, rows: NDArray[np.void]) -> Demand | None:
        engine, index = self._engine, self._index[at]
        rank, cause = int(engine.rank[at]), int(engine.cause[at])
        trips = rank == RANK_TRIP
        if index in self._stopped and not trips:
            return self._stopped[index]  # a stop undoes no trip
        if rank == RANK_NONE:
            return None
        kind = "state" if cause <= CAUSE_MACHINE_FROM else "interlock"
        name, value = engine.cause_name(cause), float(engine.demand[at])
        before = self._outputs[index].demand
        if before is not None and before.cause == name:
            source_ns = before.source_ns  # the reaction counts from the first cause
        else:
            source_ns = engine.inputs_mono_ns(cause, rows) if cause >= 0 else 0
        return Demand(value, name, "trip" if trips else kind, source_ns)

    def _proposal(self, at: int) -> Proposal:
        engine = self._engine
        return Proposal(
            float(engine.auto[at]),
            engine.cause_name(int(engine.auto_cause[at])),
            float(engine.offset[at]),
            float(engine.low[at]),
            float(engine.high[at]),
            engine.cause_name(int(engine.low_cause[at])),
            engine.cause_name(int(engine.high_cause[at])),
        )
