"""Virtual: points without a device. Calculated ones, and memory that commands write.

A channel with an `Expression` is calculated by the rule program in every scan
(safety/compile.py); this driver has nothing to do with it. A channel without one keeps what was
written to it, as the seeds' virtual instruments echo a request's value.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.model import Channel
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import Fault, channel_findings, refuse
from drivers.contract import Block, Cycle, DriverProtocol, Part, Surroundings, one_by_one

UNUSED: Final[tuple[str, ...]] = ("Scalar", "Offset", "Decimal", "Sentinels")
UNUSED_CALCULATED: Final[tuple[str, ...]] = ("Minimum", "Maximum", "AgeLimit")


def _faults(channel: Channel) -> list[Fault]:
    calculated = channel.Expression is not None
    unused = [key for key in UNUSED if key in channel.model_fields_set]
    if calculated:
        unused += [key for key in UNUSED_CALCULATED if key in channel.model_fields_set]
    what = "calculated" if calculated else "virtual"
    text = f" has no effect on a {what} channel. Leave it out."
    return _value_faults(channel) + [
        Fault(key, "virtual-key-unused", key + text, "warning") for key in unused
    ]


def _value_faults(channel: Channel) -> list[Fault]:
    if channel.ReadWrite == "R":
        if channel.Expression is not None or channel.SafeValue is not None:
            return []
        text = "Nothing gives this channel a value. Add an Expression, or a constant as SafeValue."
        return [Fault("Expression", "expression-missing", text)]
    if channel.Expression is None:
        return []
    text = "A calculated channel can't be written. Make it R, or leave the Expression out."
    return [Fault("ReadWrite", "expression-writable", text)]


def check(instrument: Instrument) -> list[Finding]:
    """Findings of all channels; what the expressions say wrongly is safety/compile.py's to find."""
    return [
        finding
        for name, channel in instrument.channels.items()
        for finding in channel_findings(instrument, name, _faults(channel))
    ]


def plan(instrument: Instrument) -> list[Block]:
    """One block a scan class over the channels that are memory. Raises SiteError."""
    refuse(check(instrument))
    classes: dict[str, list[PointDef]] = {}
    for name, channel in instrument.channels.items():
        point = instrument.points[name]
        if channel.Expression is None and point.scan_class:
            classes.setdefault(point.scan_class, []).append(point)
    return [
        Block(np.array([p.index for p in points], dtype=np.int32), name, points, f"memory {name}")
        for name, points in classes.items()
    ]


class VirtualDriver:
    """Memory; it begins with the channels' safe values, or with no value where none is declared."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        self._clock = surroundings.clock
        start = {
            point.index: math.nan if channel.SafeValue is None else channel.SafeValue
            for point, channel in zip(
                instrument.points.values(), instrument.channels.values(), strict=True
            )
        }
        self._values = surroundings.share(("virtual", instrument.name), lambda: start)

    async def connect(self) -> None:
        """There is nothing to connect to."""

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """See drivers.contract.Driver."""
        return one_by_one(cycle, self._recall, self._clock)

    async def _recall(self, block: Block) -> NDArray[np.float64]:
        return np.array([self._values[index] for index in block.index.tolist()])

    async def write(self, point: PointDef, value: float) -> None:
        """Keep a value."""
        self._values[point.index] = value

    async def close(self) -> None:
        """There is nothing to close."""


PROTOCOL: Final = DriverProtocol(names=("Virtual",), plan=plan, check=check, open=VirtualDriver)
