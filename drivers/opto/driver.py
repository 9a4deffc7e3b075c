"""Opto 22 controllers (groov EPIC, groov RIO) over OptoMMP.

The seed's keys: `Type`, `Module` and `Channel` say which point of the memory map a channel is. The
map is that of OptoMMP Protocol Guide (form 1465) for 64 modules of 64 channels. The seed's driver
reached the controller that it ran on and nothing else; so without an address that is where this
one goes too.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.model import Channel, EquipmentTags
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    refuse,
    scalar_faults,
    shared_addresses,
    value_faults,
    whole_number,
)
from drivers.codec import Coding, Scaling, encode
from drivers.contract import Block, Cost, Cycle, DriverProtocol, Part, Surroundings, one_by_one
from drivers.errors import DriverError, Garbled, NotConnected, Refused
from drivers.modbus.plan import Place, divide, plan_spans
from drivers.opto.link import HEAD_BYTES, LONG_HEAD_BYTES, OptoLink, open_link

HOST: Final = "127.0.0.1"
PORT: Final = 2001

POWER_UP_FLAG: Final = 0xF0300004  # not 0 after a restart, until it is cleared
OPERATION: Final = 0xF0380000
POWER_UP_CLEAR: Final = 1

MODULES: Final = 64
CHANNELS: Final = 64
MODULE_STRIDE: Final = 0x1000
CHANNEL_STRIDE: Final = 0x40
WORD: Final = 4  # bytes of every value here

DIGITAL_READ: Final = 0xF01E0000
DIGITAL_WRITE: Final = 0xF0220000
ANALOG_READ: Final = 0xF0260000
ANALOG_WRITE: Final = 0xF02A0000
FEATURE: Final = 0x10  # of a digital channel: counter, frequency, period as a float

# (elements, first address) of the parts of a scratch pad area
INTEGER_PADS: Final = ((1024, 0xF0D81000), (2048, 0xF0DA0000), (7168, 0xF0DA2000))
FLOAT_PADS: Final = ((1024, 0xF0D82000), (2048, 0xF0DC0000), (7168, 0xF0DC2000))
PAD_ELEMENTS: Final = 10240

BLOCK_BYTES: Final = 1024  # of one request, where BlockMax does not say less


@dataclass(frozen=True, slots=True)
class Kind:
    """What a `Type` is: where it is read, where it is written (0 = nowhere), what it holds.

    code   struct code of the four bytes
    types  the values of `DataType` that it may have
    pads   the parts of a scratch pad, in place of modules and channels
    """

    read: int
    write: int
    code: str
    types: tuple[str, ...]
    pads: tuple[tuple[int, int], ...] = ()


KINDS: Final = {
    "Analog": Kind(ANALOG_READ, ANALOG_WRITE, "f", ("float32", "bool")),
    "Digital": Kind(DIGITAL_READ, DIGITAL_WRITE, "I", ("bool", "float32")),
    "Feature": Kind(DIGITAL_READ + FEATURE, 0, "f", ("float32",)),
    "ScratchPadFloat": Kind(0, 0, "f", ("float32", "bool"), FLOAT_PADS),
    "ScratchPadInteger": Kind(0, 0, "i", ("int32", "bool", "float32"), INTEGER_PADS),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a channel is read and written (0 = it can't be written), and how it is coded.

    area  where its area begins; no request reaches over two
    """

    area: int
    read: int
    write: int
    code: str
    coding: Coding


# ---------------------------------------------------------------- configuration


def address_of(channel: Channel) -> Address:
    """The address of a channel whose keys were checked."""
    kind = KINDS[channel.Type]
    if kind.pads:
        place = whole_number(channel.IOPoint)
        assert place is not None
        for elements, first in kind.pads:
            if place < elements:
                here = first + WORD * place
                return Address(first, here, here, kind.code, coding_of(channel))
            place -= elements
        raise AssertionError(f"scratch pad element {channel.IOPoint}")
    assert channel.Module is not None
    assert channel.Channel is not None
    offset = MODULE_STRIDE * channel.Module + CHANNEL_STRIDE * channel.Channel
    write = kind.write + offset if kind.write else 0
    area = kind.read & ~(MODULE_STRIDE - 1)
    return Address(area, kind.read + offset, write, kind.code, coding_of(channel))


def coding_of(channel: Channel) -> Coding:
    """Scaling and sentinels; a bool is not scaled, a digital point is always one."""
    if channel.Type == "Digital" or channel.DataType.lower() == "bool":
        return Coding("bool", 2)
    whole = KINDS[channel.Type].code == "i"
    return Coding(
        data_type="int32" if whole else "float32",
        words=2,
        scalar=channel.Scalar,
        offset=channel.Offset,
        decimal=channel.Decimal,
        sentinels=tuple(channel.Sentinels),
    )


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    kind = KINDS.get(channel.Type)
    if kind is None:
        text = f"'{channel.Type}' is no type of Opto. Use one of {', '.join(KINDS)}."
        return [*faults, Fault("Type", "type-unknown", text)]
    if "DataType" in channel.model_fields_set and channel.DataType.lower() not in kind.types:
        text = f"{channel.Type} is {' or '.join(kind.types)}, not {channel.DataType}."
        faults.append(Fault("DataType", "datatype-unknown", text))
    if channel.ReadWrite != "R" and not kind.write and not kind.pads:
        text = f"A {channel.Type} can only be read. Make it R."
        faults.append(Fault("ReadWrite", "type-read-only", text))
    faults += _pad_faults(channel) if kind.pads else _place_faults(channel)
    if not faults:
        address = address_of(channel)
        faults = value_faults(channel, lambda value: encode_value(address, value))
    return faults


def _place_faults(channel: Channel) -> list[Fault]:
    faults = []
    for key, number, count in (
        ("Module", channel.Module, MODULES),
        ("Channel", channel.Channel, CHANNELS),
    ):
        if number is None:
            text = f"{key} is missing. Give its number, counted from 0."
            faults.append(Fault(key, "address-missing", text))
        elif not 0 <= number < count:
            text = f"{key} {number} is outside 0 to {count - 1}."
            faults.append(Fault(key, "address-range", text))
    return faults


def _pad_faults(channel: Channel) -> list[Fault]:
    element = whole_number(channel.IOPoint)
    if element is None:
        text = "The element of the scratch pad is missing. Give its number, counted from 0."
        return [Fault("IOPoint", "address-missing", text)]
    if not 0 <= element < PAD_ELEMENTS:
        text = f"Element {element} is outside 0 to {PAD_ELEMENTS - 1}."
        return [Fault("IOPoint", "address-range", text)]
    return []


def check(instrument: Instrument) -> list[Finding]:
    """All findings about types and places. Channels on one point are found by the registry."""
    findings: list[Finding] = []
    pads: dict[str, list[int]] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel)
        findings += channel_findings(instrument, name, faults)
        good = not any(fault.severity == "error" for fault in faults)
        if good and KINDS[channel.Type].pads:
            pads[name] = [address_of(channel).read]
    return findings + shared_addresses(
        instrument, pads, lambda name: f"{pads[name][0]:08X} of the scratch pad"
    )


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, eq=False)
class Request:
    """`size` bytes from `first`, and the channels in them, in the order of the block's index."""

    first: int
    size: int
    members: tuple[Address, ...]

    @cached_property
    def decode(self) -> Decoder:
        """The decoder of its answer."""
        return Decoder(self)


class Decoder:
    """Bytes of the memory map to numbers; built once, called at every poll."""

    def __init__(self, request: Request) -> None:
        self._size = request.size
        places = [(a.read - request.first) // WORD for a in request.members]
        codes = {place: a.code for place, a in zip(places, request.members, strict=True)}
        order = sorted(codes)
        layout, here = ">", 0
        for place in order:
            layout += f"{WORD * (place - here)}x{codes[place]}"
            here = place + 1
        self._struct = struct.Struct(f"{layout}{request.size - WORD * here}x")
        self._rows = np.array([order.index(place) for place in places], dtype=np.intp)
        codings = [address.coding for address in request.members]
        self._truth = np.array([coding.data_type == "bool" for coding in codings])
        self._scaling = Scaling(codings)

    def __call__(self, data: bytes) -> NDArray[np.float64]:
        """(N,) engineering units, NaN = no value. Raises Garbled on another length."""
        if len(data) != self._size:
            raise Garbled(f"{len(data)} bytes in place of {self._size}")
        raw = np.array(self._struct.unpack(data), dtype=np.float64)[self._rows]
        truth = np.where(np.isfinite(raw), raw != 0, np.nan)
        return self._scaling(np.where(self._truth, truth, raw))


def _block_bytes(tags: EquipmentTags) -> int:
    return max(WORD, min(BLOCK_BYTES, tags.BlockMax or BLOCK_BYTES))


def plan(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels. Raises SiteError where `check` finds an error.

    Channels of one module lie 64 bytes apart; up to GapMax of them are read along.
    """
    refuse(check(instrument))
    tags = instrument.tags
    readable = [
        (instrument.points[name], address_of(channel))
        for name, channel in instrument.channels.items()
        if channel.ReadWrite != "W" and instrument.points[name].scan_class
    ]
    places = [Place(0, a.area, point.scan_class, a.read // WORD, 1) for point, a in readable]
    words = _block_bytes(tags) // WORD
    gap = tags.GapMax * CHANNEL_STRIDE // WORD + CHANNEL_STRIDE // WORD - 1
    spans = plan_spans(places, {0: words}, gap, single=tags.SingleRequests)
    return [_block([readable[member] for member in span.members]) for span in spans]


def _block(members: Sequence[tuple[PointDef, Address]]) -> Block:
    rows = [(point.index, address) for point, address in members]
    return _rows_block(rows, members[0][0].scan_class)


def _rows_block(rows: Sequence[tuple[int, Address]], scan_class: str) -> Block:
    """A block of channels, sorted by address."""
    first = rows[0][1].read
    size = max(address.read for _, address in rows) + WORD - first
    return Block(
        index=np.array([row for row, _ in rows], dtype=np.int32),
        scan_class=scan_class,
        request=Request(first, size, tuple(address for _, address in rows)),
        label=f"{first:08X}, {size} bytes ({scan_class})",
    )


def split(block: Block) -> list[Block]:
    """Smaller blocks in place of one that the device refuses; empty for a single place."""
    request: Request = block.request
    rows = list(zip(block.index.tolist(), request.members, strict=True))
    places = [Place(0, 0, "", address.read // WORD, 1) for address in request.members]
    return [_rows_block([rows[i] for i in group], block.scan_class) for group in divide(places)]


def cost(instrument: Instrument, block: Block) -> Cost:
    """See drivers.contract.Cost."""
    request: Request = block.request
    if request.size == WORD:
        return Cost(HEAD_BYTES, HEAD_BYTES + WORD)
    return Cost(LONG_HEAD_BYTES, LONG_HEAD_BYTES + request.size)


def encode_value(address: Address, value: float) -> bytes:
    """The four bytes of a value. Raises OutOfRange where they can't hold it."""
    registers = encode(address.coding, value)
    if address.coding.data_type == "bool":
        number = registers[-1]
        return struct.pack(">" + address.code, number)
    return struct.pack(">2H", *registers)


# ---------------------------------------------------------------- the driver


class OptoDriver:
    """A controller; one request in flight. The contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        self._instrument = instrument
        self._surroundings = surroundings
        self._host = (tags.Connection.IP if tags.Connection else None) or HOST
        self._port = tags.PortNum or PORT
        self._link: OptoLink | None = None

    async def connect(self) -> None:
        """Connect; after a restart of the controller, clear its power-up flag first.

        Raises NotConnected, NoAnswer or Refused.
        """
        await self.close()
        tags = self._instrument.tags
        link = await open_link(self._host, self._port, tags.Timeout, self._surroundings.tap)
        self._link = link
        try:
            if any(await link.read(POWER_UP_FLAG, WORD)):
                await link.write(OPERATION, POWER_UP_CLEAR.to_bytes(WORD, "big"))
        except DriverError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close; may be called twice."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await asyncio.sleep(0)  # lets the transport end its socket

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """See drivers.contract.Driver."""
        return one_by_one(cycle, self._ask, self._surroundings.clock)

    async def _ask(self, block: Block) -> NDArray[np.float64]:
        request: Request = block.request
        return request.decode(await self._connected().read(request.first, request.size))

    async def write(self, point: PointDef, value: float) -> None:
        """Write one channel, in one request."""
        channel = self._instrument.channels[point.channel]
        address = address_of(channel)
        if channel.ReadWrite == "R" or not address.write:
            raise Refused(f"{point.tag} can only be read", permanent=True)
        link = self._connected()
        await link.write(address.write, encode_value(address, value))

    def _connected(self) -> OptoLink:
        if self._link is None:
            raise NotConnected("not connected")
        return self._link


PROTOCOL: Final = DriverProtocol(
    names=("Opto",),
    plan=plan,
    check=check,
    open=OptoDriver,
    split=split,
    cost=cost,
    keys=frozenset(
        (
            "Connection",
            "PortNum",
            "BlockMax",
            "GapMax",
            "SingleRequests",
            "ReplyDelay",
        )
    ),
)
