"""The contract of drivers: how the poll engine speaks to equipment.

A driver module offers one `Protocol` object. `plan` and `check` are pure; `open` makes a
driver, which knows nothing of status codes, retries, time stamps, tables or logging of outages:
gateway/poll.py does these once for all drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.points import PointDef
from config.site import Instrument


@dataclass(frozen=True, slots=True)
class Block:
    """What one request reads.

    index       (N,) int32, rows of the point table, in the order of the decoded values
    scan_class  the class whose period polls it
    request     whatever the driver needs to ask; opaque to everyone else
    decode      raw answer -> (N,) float64 in engineering units; NaN = the device marks "no value".
                Raises Garbled where the answer can't be decoded at all.
    """

    index: NDArray[np.int32]
    scan_class: str
    request: Any
    decode: Callable[[Any], NDArray[np.float64]]
    label: str = ""


class Driver(Protocol):
    """A connection to one device. All methods raise DriverError and nothing else."""

    async def connect(self) -> None:
        """Connect, or raise NotConnected / NoAnswer within the instrument's Timeout."""

    async def read(self, block: Block) -> Any:
        """Ask for one block; returns the raw answer, for `block.decode`."""

    async def write(self, point: PointDef, value: float) -> None:
        """Set one point, `value` in engineering units. Returns after the device accepted it."""

    async def close(self) -> None:
        """Close; never raises, may be called twice."""


@dataclass(frozen=True, slots=True)
class DriverProtocol:
    """What a driver module offers, under the seed's `Communication` names.

    plan   instrument -> blocks of all readable channels, one scan class a block
    check  instrument -> findings about addresses, data types, missing keys (pure)
    open   instrument -> driver, not yet connected
    """

    names: tuple[str, ...]
    plan: Callable[[Instrument], list[Block]]
    check: Callable[[Instrument], list[Finding]]
    open: Callable[[Instrument], Driver]
