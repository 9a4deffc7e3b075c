"""The contract of drivers: how the poll engine speaks to equipment.

A driver module offers one `DriverProtocol`. `plan`, `check`, `cycle`, `split` and `cost` are pure;
`open` makes a driver, which knows nothing of retries, back-off, tables or logging of outages:
gateway/poll.py does these once for all drivers.

Two ways a value can come. Most devices are asked: the poll engine reads a `Cycle` (all blocks of
one scan class) and the driver yields a `Part` for whatever was answered together. Some send by
themselves (MQTT, PMU streams, OPC UA subscriptions): their blocks are `pushed`, and the driver
yields an `Update` for whatever arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.points import PointDef
from config.site import Instrument
from drivers.errors import NoAnswer, Refused
from gateway.core.clock import Clock

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What one request reads.

    index       (N,) int32, rows of the point table, in the order of the values
    scan_class  the class whose period polls it
    request     whatever the driver needs to ask and to decode; opaque to everyone else
    label       names it for people, and over restarts: unique within its instrument
    pushed      the device sends it by itself; it is never asked for
    """

    index: NDArray[np.int32]
    scan_class: str
    request: Any
    label: str
    pushed: bool = False


class Cycle:
    """Blocks of one device that are read together. A protocol may derive a prepared form.

    blocks  (B,) in the order of reading
    index   (N,) int32, the rows of all blocks, one block behind the other
    starts  (B + 1,) block b has the rows index[starts[b] : starts[b + 1]]
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        parts = [b.index for b in blocks]
        self.index = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What came back for consecutive blocks of a cycle: their values, or what went wrong.

    first, last  blocks first to last - 1 of the cycle
    asked_ns     when the oldest of them was asked, on the monotonic clock
    values       (N,) float64 in engineering units; NaN = the device marks "no value";
                 empty with an error
    error        why a single block (last = first + 1) has no values
    """

    first: int
    last: int
    asked_ns: int
    values: NDArray[np.float64]
    error: Refused | NoAnswer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a device sent by itself.

    index   (N,) int32, rows of the point table
    values  (N,) float64 in engineering units; NaN = the device marks "no value"
    codes   (N,) uint32, status codes (config/status.py) that the device itself gives;
            None = it gives none
    utc_ns  (N,) int64 or one number, the device's own time stamps; None = it gives none
    reason  why codes are bad, for people; empty where the codes say it all
    """

    index: NDArray[np.int32]
    values: NDArray[np.float64]
    codes: NDArray[np.uint32] | None = None
    utc_ns: NDArray[np.int64] | int | None = None
    reason: str = ""


class Tap(Protocol):
    """Sees the raw frames of a device (`gatepost trace`); None of its methods waits."""

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        """`data` as it went over the wire; `meaning` says in words what it is."""


@dataclass(slots=True)
class Surroundings:
    """What drivers get from their process.

    clock   the time
    shared  what several instruments use together (a serial line), by key; see `share`
    tap     who listens to the raw frames
    """

    clock: Clock
    shared: dict[Hashable, Any] = field(default_factory=dict)
    tap: Tap | None = None

    def share(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The thing of that key, made at the first call."""
        if key not in self.shared:
            self.shared[key] = make()
        thing: _T = self.shared[key]
        return thing


class Driver(Protocol):
    """A connection to one device. All methods raise DriverError and nothing else."""

    async def connect(self) -> None:
        """Connect, or raise NotConnected / NoAnswer within the instrument's Timeout."""

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """Ask for all blocks of a cycle, in order, with at most `Depth` requests in flight.

        Every block is in exactly one part. Refused and NoAnswer are parts and the reading goes on;
        NotConnected and Garbled are raised and end the session. `write` may be awaited between
        two parts and then goes ahead of what was not sent yet. Closing the iterator early leaves
        nothing behind.
        """

    async def write(self, point: PointDef, value: float) -> None:
        """Set one point, `value` in engineering units. Returns after the device accepted it."""

    async def close(self) -> None:
        """Close; never raises, may be called twice."""


class PushDriver(Driver, Protocol):
    """A driver of a device that sends by itself."""

    def updates(self) -> AsyncIterator[Update]:
        """What arrives, until the connection ends (which raises NotConnected or Garbled).

        Runs beside `read` and `write`. What waits to be fetched is bounded; where that is full
        the newest value of each row stays.
        """


@runtime_checkable
class SharingDriver(Driver, Protocol):
    """A driver whose reads may have to wait for other devices, on a line that they share."""

    def hurry(self) -> None:
        """A write of this device waits: the read that it stands behind is to go ahead of others."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What reading one block costs, for the plan (`gatepost plan`).

    request_bytes, answer_bytes  on the wire below TCP's and IP's headers, framing included
    line                         the serial line that it occupies; empty on a network
    busy_s                       how long it occupies that line, silence between frames included
    """

    request_bytes: int
    answer_bytes: int
    line: str = ""
    busy_s: float = 0.0


def unsplit(block: Block) -> list[Block]:
    """For protocols whose blocks are single values."""
    return []


@dataclass(frozen=True, slots=True)
class DriverProtocol:
    """What a driver module offers, under the seed's `Communication` names.

    plan   instrument -> blocks of all readable channels, one scan class a block
    check  instrument -> findings about addresses, data types, missing keys
    open   instrument, surroundings -> driver, not yet connected
    cycle  blocks -> what `Driver.read` takes
    split  a block that the device refuses -> smaller blocks that together read the same rows;
           empty where it can't be divided
    cost   instrument, block -> what one reading costs; None where nobody asks
    pushes the drivers are PushDrivers
    keys   keys of EquipmentTags that mean something here and not to every driver: another one
           that declares them is told that they have no effect
    """

    names: tuple[str, ...]
    plan: Callable[[Instrument], list[Block]]
    check: Callable[[Instrument], list[Finding]]
    open: Callable[[Instrument, Surroundings], Driver]
    cycle: Callable[[Sequence[Block]], Cycle] = Cycle
    split: Callable[[Block], list[Block]] = unsplit
    cost: Callable[[Instrument, Block], Cost] | None = None
    pushes: bool = False
    keys: frozenset[str] = frozenset()

    def depth(self, instrument: Instrument) -> int:
        """Requests in flight: what is declared, where the driver heeds it, else one."""
        return instrument.tags.Depth if "Depth" in self.keys else 1


NO_VALUES: Final = np.zeros(0)

Ask = Callable[[Block], Awaitable[NDArray[np.float64]]]


async def one_by_one(cycle: Cycle, ask: Ask, clock: Clock) -> AsyncIterator[Part]:
    """`Driver.read` for a protocol that has one request in flight and a block a request."""
    for position, block in enumerate(cycle.blocks):
        asked_ns = clock.monotonic_ns()
        try:
            part = Part(position, position + 1, asked_ns, await ask(block))
        except (Refused, NoAnswer) as error:
            part = Part(position, position + 1, asked_ns, NO_VALUES, error)
        yield part


async def read_block(protocol: DriverProtocol, driver: Driver, block: Block) -> NDArray[np.float64]:
    """The values of one block. Raises DriverError."""
    parts = driver.read(protocol.cycle([block]))
    async for part in parts:
        if part.error is not None:
            raise part.error
        return part.values
    raise AssertionError(f"{block.label}: a block was in no part")
