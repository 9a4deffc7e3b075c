"""Modbus TCP: registers, coils and bit fields of one device or of the units behind a gateway.

Source: MODBUS Application Protocol Specification V1.1b3. `IOPoint` is the address of the
protocol, counted from 0 (a data sheet's 40001 is 0).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

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
    tag_findings,
    value_faults,
    whole_number,
)
from drivers.codec import (
    DATA_TYPES,
    BitDecoder,
    Coding,
    RegisterDecoder,
    coding_of,
    encode,
    field_masks,
    insert_bits,
    register_bits,
    words_of,
)
from drivers.contract import Block, DriverProtocol
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.modbus_link import ModbusLink, open_link
from drivers.plan import BITS_MAX, REGISTERS_MAX, Place, Span, plan_spans

PORT: Final = 502
ADDRESSES: Final = 65536

READ_COILS: Final = 1
READ_DISCRETES: Final = 2
READ_HOLDING: Final = 3
READ_INPUTS: Final = 4
WRITE_COIL: Final = 5
WRITE_REGISTER: Final = 6
WRITE_REGISTERS: Final = 16
MASK_WRITE: Final = 22

# The seeds take every other Type for a coil; here a mistyped one is a finding.
FUNCTIONS: Final = {
    "HRegister": READ_HOLDING,
    "IRegister": READ_INPUTS,
    "DiscreteInputs": READ_DISCRETES,
    "Coil": READ_COILS,
    "Coils": READ_COILS,
    "": READ_COILS,
}
BIT_FUNCTIONS: Final = (READ_COILS, READ_DISCRETES)
WRITABLE: Final = (READ_COILS, READ_HOLDING)
NAMES: Final = {
    READ_COILS: "coils",
    READ_DISCRETES: "discrete inputs",
    READ_HOLDING: "holding registers",
    READ_INPUTS: "input registers",
}

BOOL: Final = Coding("bool", 1)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a channel lives: the function that reads it, the unit, its first register or bit."""

    function: int
    unit: int
    first: int
    coding: Coding

    @property
    def count(self) -> int:
        """Registers or bits that it takes."""
        return 1 if self.function in BIT_FUNCTIONS else self.coding.words

    def __str__(self) -> str:
        return f"unit {self.unit}, {_range(self.function, self.first, self.count)}"


@dataclass(frozen=True, slots=True)
class Request:
    """One block: `pieces` are the parts that channels really use, for devices with holes."""

    function: int
    unit: int
    first: int
    count: int
    pieces: tuple[tuple[int, int], ...]


def _range(function: int, first: int, count: int) -> str:
    last = f" to {first + count - 1}" if count > 1 else ""
    return f"{NAMES[function]} {first}{last}"


# ---------------------------------------------------------------- configuration


def address_of(channel: Channel, tags: EquipmentTags) -> Address:
    """The address of a channel whose keys were checked."""
    function = FUNCTIONS[channel.Type]
    first = whole_number(channel.IOPoint)
    unit = _unit(channel, tags)
    assert first is not None
    assert unit is not None
    bits = function in BIT_FUNCTIONS
    coding = BOOL if bits else coding_of(channel, tags.ByteOrder, tags.WordOrder)
    return Address(function, unit, first, coding)


def _unit(channel: Channel | None, tags: EquipmentTags) -> int | None:
    """The unit's number, 1 where none is declared; None where the text is no number 0 to 255."""
    declared: int | str | None = None
    if tags.Connection is not None:
        declared = tags.Connection.Unit
    if channel is not None and channel.Unit is not None:
        declared = channel.Unit
    unit = 1 if declared is None else whole_number(declared)
    return unit if unit is not None and 0 <= unit <= 255 else None


def _sizes_max(tags: EquipmentTags) -> dict[int, int]:
    sizes = {}
    for function in NAMES:
        limit = BITS_MAX if function in BIT_FUNCTIONS else REGISTERS_MAX
        sizes[function] = min(limit, tags.BlockMax or limit)
    return sizes


def _tag_faults(tags: EquipmentTags) -> list[Fault]:
    faults = []
    if tags.Connection is None or not tags.Connection.IP:
        text = "The device's address is missing. Add its IP address or host name."
        faults.append(Fault("Connection.IP", "connection-missing", text))
    if _unit(None, tags) is None:
        text = "The unit must be a whole number from 0 to 255 (most devices have 1)."
        faults.append(Fault("Connection.Unit", "unit-invalid", text))
    return faults


def _channel_faults(channel: Channel, tags: EquipmentTags) -> list[Fault]:
    """Everything that is wrong with one channel; empty where `address_of` can be called."""
    faults = scalar_faults(channel)
    function = FUNCTIONS.get(channel.Type)
    if function is None:
        known = ", ".join(name for name in FUNCTIONS if name)
        text = f"'{channel.Type}' is no type of Modbus. Use one of {known}."
        faults.append(Fault("Type", "type-unknown", text))
    elif channel.ReadWrite != "R" and function not in WRITABLE:
        text = f"A {channel.Type} can only be read. Make it R, or use HRegister or Coil."
        faults.append(Fault("ReadWrite", "type-read-only", text))
    if channel.Unit is not None and _unit(channel, tags) is None:
        text = "The unit must be a whole number from 0 to 255."
        faults.append(Fault("Unit", "unit-invalid", text))
    if function in BIT_FUNCTIONS:
        faults += _bit_table_faults(channel)
        words: int | None = 1
    else:
        faults += _coding_faults(channel, tags)
        words = words_of(channel)
    first = whole_number(channel.IOPoint)
    if first is None:
        text = "The register or bit address is missing. Give it, counted from 0."
        if channel.IOPoint is not None:
            text = f'"{channel.IOPoint}" is no register or bit address. Give a whole number, '
            text += "counted from 0."
        faults.append(Fault("IOPoint", "address-missing", text))
    elif not 0 <= first <= ADDRESSES - (words or 1):
        text = f"Address {first} is outside 0 to {ADDRESSES - 1}. Addresses count from 0."
        faults.append(Fault("IOPoint", "address-range", text))
    if not faults and _unit(channel, tags) is not None:
        faults = _output_faults(channel, address_of(channel, tags))
    return faults


def _bit_table_faults(channel: Channel) -> list[Fault]:
    faults = []
    if "DataType" in channel.model_fields_set and channel.DataType.lower() != "bool":
        text = f"Coils and discrete inputs are bool, not {channel.DataType}."
        faults.append(Fault("DataType", "datatype-type", text))
    if channel.Registers not in (None, 1):
        text = "A coil or discrete input is one bit; leave Registers out."
        faults.append(Fault("Registers", "registers-mismatch", text))
    return faults


def _coding_faults(channel: Channel, tags: EquipmentTags) -> list[Fault]:
    words = words_of(channel)
    if words is None:
        text = f"'{channel.DataType}' is unknown. Use one of {', '.join(DATA_TYPES)}."
        return [Fault("DataType", "datatype-unknown", text)]
    faults = []
    if channel.Registers not in (None, words):
        text = f"{channel.DataType} takes {words} registers, not {channel.Registers}."
        faults.append(Fault("Registers", "registers-mismatch", text))
    if tags.BlockMax is not None and words > tags.BlockMax:
        text = f"The value takes {words} registers, but BlockMax allows {tags.BlockMax} a request."
        faults.append(Fault("DataType", "block-too-small", text))
    if channel.DataType.lower() == "bit":
        start, end = channel.BitStart, channel.BitEnd
        if start is None:
            text = "A bit field needs BitStart (0 = least significant), and BitEnd if it is wider."
            faults.append(Fault("BitStart", "bit-range", text))
        elif end is not None and end < start:
            text = f"BitEnd {end} is before BitStart {start}."
            faults.append(Fault("BitEnd", "bit-range", text))
        elif max(start, end or 0) >= 16 * words:
            text = f"{words} registers have the bits 0 to {16 * words - 1}."
            faults.append(Fault("BitEnd", "bit-range", text))
    return faults


def _output_faults(channel: Channel, address: Address) -> list[Fault]:
    if address.coding.data_type == "bit":
        blank = (0,) * address.coding.words
        return value_faults(channel, lambda value: insert_bits(address.coding, blank, value))
    return value_faults(channel, lambda value: encode(address.coding, value))


def check(instrument: Instrument) -> list[Finding]:
    """All findings about addresses, types and missing keys."""
    tags = instrument.tags
    findings = tag_findings(instrument, _tag_faults(tags))
    places: dict[str, Address] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel, tags)
        findings += channel_findings(instrument, name, faults)
        # A wrong unit of the instrument is one finding, not one for each channel.
        if not any(f.severity == "error" for f in faults) and _unit(channel, tags) is not None:
            places[name] = address_of(channel, tags)
            findings += channel_findings(instrument, name, _notation_faults(places[name]))
    slots = {name: _slots(address) for name, address in places.items()}
    return findings + shared_addresses(instrument, slots, lambda name: str(places[name]))


def _notation_faults(address: Address) -> list[Fault]:
    """Manuals often write register 0 as 40001 or 30001; the address on the wire is 0."""
    base = {READ_HOLDING: 40_001, READ_INPUTS: 30_001}.get(address.function)
    if base is None or not base <= address.first < base + 9_999:
        return []
    digit = str(base)[0]
    text = (
        f"{address.first} looks like {digit}xxxx notation, in which register 0 is {base}. If it "
        f"is, write {address.first - base}; if the device's addresses are that high, leave it."
    )
    return [Fault("IOPoint", "address-notation", text, "warning")]


def _slots(address: Address) -> list[tuple[int, int, int]]:
    function, unit = address.function, address.unit
    if function in BIT_FUNCTIONS:
        return [(function, unit, address.first)]
    bits = register_bits(address.coding)
    return [(function, unit, 16 * address.first + bit) for bit in bits]


def plan(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    readable = [
        (instrument.points[name], address_of(channel, instrument.tags))
        for name, channel in instrument.channels.items()
        if channel.ReadWrite != "W" and instrument.points[name].scan_class
    ]
    places = [Place(a.function, a.unit, p.scan_class, a.first, a.count) for p, a in readable]
    spans = plan_spans(places, _sizes_max(instrument.tags), instrument.tags.GapMax)
    return [_block(span, [readable[member] for member in span.members]) for span in spans]


def _block(span: Span, members: Sequence[tuple[PointDef, Address]]) -> Block:
    starts = [address.first - span.first for _, address in members]
    bits = span.function in BIT_FUNCTIONS
    return Block(
        index=np.array([point.index for point, _ in members], dtype=np.int32),
        scan_class=span.scan_class,
        request=Request(span.function, span.unit, span.first, span.count, span.pieces),
        decode=BitDecoder(starts, span.count)
        if bits
        else RegisterDecoder([a.coding for _, a in members], starts, span.count),
        label=f"unit {span.unit}, {_range(span.function, span.first, span.count)}",
    )


# ---------------------------------------------------------------- the driver


class ModbusDriver:
    """A Modbus TCP device. `Depth` requests may be in flight; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument) -> None:
        tags = instrument.tags
        assert tags.Connection is not None
        assert tags.Connection.IP
        self._instrument = instrument
        self._host = tags.Connection.IP
        self._port = tags.PortNum or PORT
        self._link: ModbusLink | None = None
        self._writing = asyncio.Lock()  # a read-modify-write must not meet another write
        self._holed: set[Request] = set()  # blocks that this device does not read in one piece
        self._has_mask_write = True
        self._has_write_register = True

    async def connect(self) -> None:
        """Connect, ending an older connection. Raises NotConnected."""
        await self.close()
        tags = self._instrument.tags
        self._link = await open_link(self._host, self._port, tags.Timeout, tags.Depth)

    async def close(self) -> None:
        """Close; may be called twice."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await asyncio.sleep(0)  # lets the transport end its socket

    async def read(self, block: Block) -> bytes:
        """The registers or packed bits of one block, as the device sent them.

        Where the device refuses the address of a block that spans a gap, the gap may be the
        reason: then, and from then on, its pieces are read one by one.
        """
        request: Request = block.request
        if request not in self._holed:
            try:
                return await self._fetch(request, request.first, request.count)
            except Refused as refusal:
                if refusal.code != 2 or len(request.pieces) == 1:
                    raise
        parts = [await self._fetch(request, first, count) for first, count in request.pieces]
        self._holed.add(request)
        return _assemble(request, parts)

    async def write(self, point: PointDef, value: float) -> None:
        """Write one channel; whole values in one request, bit fields by mask or read and write."""
        channel = self._instrument.channels[point.channel]
        address = address_of(channel, self._instrument.tags)
        async with self._writing:
            if address.function in BIT_FUNCTIONS:
                (bit,) = encode(BOOL, value)
                await self._ask(address.unit, WRITE_COIL, address.first, 0xFF00 if bit else 0)
            elif address.coding.data_type == "bit":
                await self._write_field(address, value)
            else:
                await self._write_registers(address, encode(address.coding, value))

    async def _fetch(self, request: Request, first: int, count: int) -> bytes:
        size = (count + 7) // 8 if request.function in BIT_FUNCTIONS else 2 * count
        pdu = struct.pack(">BHH", request.function, first, count)
        opening = bytes((request.function, size))
        try:
            answer = await self._connected().ask(request.unit, pdu, size + 2, opening)
        except Refused as refusal:
            where = f"unit {request.unit}, {_range(request.function, first, count)}"
            text = f"{where}: {refusal}"
            raise Refused(text, code=refusal.code, permanent=refusal.permanent) from None
        return answer[2:]

    async def _write_registers(self, address: Address, registers: Sequence[int]) -> None:
        if len(registers) == 1 and self._has_write_register:
            try:
                await self._ask(address.unit, WRITE_REGISTER, address.first, registers[0])
            except Refused as refusal:
                if refusal.code != 1:
                    raise
                self._has_write_register = False
            else:
                return
        count = len(registers)
        head = struct.pack(">BHH", WRITE_REGISTERS, address.first, count)
        pdu = head + bytes((2 * count,)) + struct.pack(f">{count}H", *registers)
        await self._connected().ask(address.unit, pdu, len(head), head)

    async def _write_field(self, address: Address, value: float) -> None:
        """Set some bits of a register and leave the others.

        A mask write (function 22) is one step for the device, so it is tried first. A device that
        does not have it refuses, or says nothing at all; from then on the register is read,
        changed and written, which another master may disturb.
        """
        if address.coding.words == 1 and self._has_mask_write:
            keep, put = field_masks(address.coding, value)
            try:
                await self._ask(address.unit, MASK_WRITE, address.first, keep, put)
            except Refused as refusal:
                if refusal.code != 1:
                    raise
                self._has_mask_write = False
            except NoAnswer:
                self._has_mask_write = False
                raise
            else:
                return
        count = address.coding.words
        request = Request(READ_HOLDING, address.unit, address.first, count, ())
        data = await self._fetch(request, address.first, count)
        registers = insert_bits(address.coding, struct.unpack(f">{count}H", data), value)
        await self._write_registers(address, registers)

    async def _ask(self, unit: int, function: int, *numbers: int) -> None:
        """A request whose answer is its echo."""
        pdu = struct.pack(f">B{len(numbers)}H", function, *numbers)
        await self._connected().ask(unit, pdu, len(pdu), pdu)

    def _connected(self) -> ModbusLink:
        if self._link is None:
            raise NotConnected("not connected")
        return self._link


def _assemble(request: Request, parts: Sequence[bytes]) -> bytes:
    """The pieces at their places in the block; what lies between them is zero and never decoded."""
    if request.function in BIT_FUNCTIONS:
        bits = np.zeros(request.count, dtype=np.uint8)
        for (first, count), part in zip(request.pieces, parts, strict=True):
            piece = np.unpackbits(np.frombuffer(part, dtype=np.uint8), bitorder="little")
            start = first - request.first
            bits[start : start + count] = piece[:count]
        return np.packbits(bits, bitorder="little").tobytes()
    data = bytearray(2 * request.count)
    for (first, count), part in zip(request.pieces, parts, strict=True):
        start = 2 * (first - request.first)
        data[start : start + 2 * count] = part
    return bytes(data)


PROTOCOL: Final = DriverProtocol(
    names=("ModbusTcpGeneric", "ModbusTcp"), plan=plan, check=check, open=ModbusDriver
)
