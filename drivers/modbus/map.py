"""What the keys of a Modbus instrument mean: addresses, checks, blocks and their parts.

Shared by Modbus TCP (drivers/modbus/tcp.py) and Modbus RTU. Source: MODBUS Application Protocol
Specification V1.1b3. `IOPoint` is the address of the protocol, counted from 0 (a data sheet's 40001
is 0).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.findings import Finding
from config.model import Channel, EquipmentTags
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    scalar_faults,
    shared_addresses,
    tag_findings,
    value_faults,
    whole_number,
)
from drivers.codec import (
    DATA_TYPES,
    Coding,
    coding_of,
    encode,
    insert_bits,
    register_bits,
    words_of,
)
from drivers.contract import Block
from drivers.modbus.decoder import BitDecoder, RegisterDecoder
from drivers.modbus.plan import BITS_MAX, REGISTERS_MAX, Place, divide, plan_spans

ADDRESSES: Final = 65536

READ_COILS: Final = 1
READ_DISCRETES: Final = 2
READ_HOLDING: Final = 3
READ_INPUTS: Final = 4

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


@dataclass(frozen=True, eq=False)
class Request:
    """What one block asks for, and how its values lie in the answer.

    members  where each value lives, in the order of the block's index
    """

    function: int
    unit: int
    first: int
    count: int
    members: tuple[Address, ...]

    @cached_property
    def decode(self) -> Callable[[bytes], NDArray[np.float64]]:
        """The registers or packed bits of an answer, as the device sent them -> (N,) values.

        Raises Garbled on another length.
        """
        starts = [a.first - self.first for a in self.members]
        if self.function in BIT_FUNCTIONS:
            return BitDecoder(starts, self.count)
        return RegisterDecoder([a.coding for a in self.members], starts, self.count)

    @property
    def pdu(self) -> bytes:
        """The request without the header of its carrier."""
        return struct.pack(">BHH", self.function, self.first, self.count)

    @property
    def size(self) -> int:
        """Bytes of registers or bits in the answer."""
        return (self.count + 7) // 8 if self.function in BIT_FUNCTIONS else 2 * self.count

    def __str__(self) -> str:
        return f"unit {self.unit}, {_range(self.function, self.first, self.count)}"


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


def _unit_faults(tags: EquipmentTags) -> list[Fault]:
    if _unit(None, tags) is None:
        text = "The unit must be a whole number from 0 to 255 (most devices have 1)."
        return [Fault("Connection.Unit", "unit-invalid", text)]
    return []


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


def check_channels(instrument: Instrument) -> list[Finding]:
    """All findings about units, addresses and types; how to reach the device is not looked at."""
    tags = instrument.tags
    findings = tag_findings(instrument, _unit_faults(tags))
    places: dict[str, Address] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel, tags)
        findings += channel_findings(instrument, name, faults)
        # A wrong unit of the instrument is one finding, not one for each channel.
        if not any(f.severity == "error" for f in faults) and _unit(channel, tags) is not None:
            places[name] = address_of(channel, tags)
            findings += channel_findings(instrument, name, _notation_faults(places[name]))
    slots = {name: _slots(address) for name, address in _crowded(places)}
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


def _crowded(places: Mapping[str, Address]) -> list[tuple[str, Address]]:
    """The channels that don't have their registers for themselves; only their bits can meet."""
    taken = {name: [(a.function, a.unit, a.first + at) for at in range(a.count)]
             for name, a in places.items()}  # fmt: skip
    tenants = Counter(place for held in taken.values() for place in held)
    return [(n, a) for n, a in places.items() if any(tenants[place] > 1 for place in taken[n])]


def _slots(address: Address) -> list[tuple[int, int, int]]:
    function, unit = address.function, address.unit
    if function in BIT_FUNCTIONS:
        return [(function, unit, address.first)]
    bits = register_bits(address.coding)
    return [(function, unit, 16 * address.first + bit) for bit in bits]


def plan_channels(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels, which were checked."""
    tags = instrument.tags
    readable = [
        (instrument.points[name], address_of(channel, tags))
        for name, channel in instrument.channels.items()
        if channel.ReadWrite != "W" and instrument.points[name].scan_class
    ]
    places = [Place(a.function, a.unit, p.scan_class, a.first, a.count) for p, a in readable]
    spans = plan_spans(places, _sizes_max(tags), tags.GapMax, single=tags.SingleRequests)
    several = len({place.scan_class for place in places}) > 1
    blocks = []
    for span in spans:
        members = [readable[member] for member in span.members]
        request = _request([address for _, address in members])
        index = np.array([point.index for point, _ in members], dtype=np.int32)
        # Two scan classes may read the same registers, and a label names one block.
        label = f"{request}, {span.scan_class}" if several else str(request)
        blocks.append(Block(index, span.scan_class, request, label))
    return blocks


def split(block: Block) -> list[Block]:
    """Smaller blocks of the same values: without the gaps, then in halves, down to one address."""
    request: Request = block.request
    places = [
        Place(a.function, a.unit, block.scan_class, a.first, a.count) for a in request.members
    ]
    parts = []
    for members in divide(places):
        small = _request([request.members[member] for member in members])
        label = block.label.replace(str(request), str(small), 1)
        if label == block.label:  # the last values reach as far as all of them
            label += ", part"
        parts.append(Block(block.index[members], block.scan_class, small, label))
    return parts


def _request(members: Sequence[Address]) -> Request:
    function, unit, first = members[0].function, members[0].unit, members[0].first
    count = max(a.first + a.count for a in members) - first
    return Request(function, unit, first, count, tuple(members))
