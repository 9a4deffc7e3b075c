"""SunSpec devices over Modbus TCP: inverters, meters, storage, by the names of their models.

Source: SunSpec Device Information Model Specification V1.1; the models are those that pysunspec2
defines (drivers/sunspec/models.py). Where a model lies is found out at each connection, so a
channel names it and no register: ``"IOPoint": "103.W"``.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
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
    tag_findings,
    value_faults,
    whole_number,
)
from drivers.contract import (
    Block,
    Cost,
    Cycle,
    DriverProtocol,
    Part,
    Surroundings,
    one_by_one,
)
from drivers.errors import DriverError, NoAnswer, NotConnected, Refused
from drivers.modbus.link import ModbusLink, open_link
from drivers.sunspec.chain import READ_MAX, WRITE_REGISTERS, read_registers
from drivers.sunspec.device import FACTOR_NS, SunSpecDevice, model_text, require
from drivers.sunspec.models import (
    BIT_FIELDS,
    Address,
    Offset,
    UnknownPoint,
    address_of,
)
from drivers.sunspec.values import BlockDecoder, check_writable, encode

PORT: Final = 502
UNIT: Final = 1
HEADER_BYTES: Final = 7  # of a Modbus TCP frame
NO_FACTOR: Final = b"\x80\x00"  # a scale factor that is not implemented

# ---------------------------------------------------------------- configuration


def unit_of(tags: EquipmentTags) -> int | None:
    """The Modbus unit, 1 where none is declared; None where it is no number from 0 to 255."""
    declared = None if tags.Connection is None else tags.Connection.Unit
    unit = UNIT if declared is None else whole_number(declared)
    return unit if unit is not None and 0 <= unit <= 255 else None


def channel_address(channel: Channel) -> Address:
    """The address of a channel, its bit field included. Raises UnknownPoint."""
    address = address_of(str(channel.IOPoint))
    if channel.BitStart is None or address.bit is not None:
        return address
    end = channel.BitStart if channel.BitEnd is None else channel.BitEnd
    return replace(address, bit=(channel.BitStart, end - channel.BitStart + 1))


def _block_max(tags: EquipmentTags) -> int:
    return min(READ_MAX, tags.BlockMax or READ_MAX)


def _tag_faults(tags: EquipmentTags) -> list[Fault]:
    faults = []
    if tags.Connection is None or not tags.Connection.IP:
        text = "The device's address is missing. Add its IP address or host name."
        faults.append(Fault("Connection.IP", "connection-missing", text))
    if unit_of(tags) is None:
        text = "The unit must be a whole number from 0 to 255 (many devices have 1 or 126)."
        faults.append(Fault("Connection.Unit", "unit-invalid", text))
    return faults


def _channel_faults(channel: Channel, tags: EquipmentTags) -> list[Fault]:
    faults = scalar_faults(channel)
    if channel.IOPoint is None:
        text = 'The point is missing. Write model and point, for example "103.W".'
        return [*faults, Fault("IOPoint", "address-missing", text)]
    try:
        address = channel_address(channel)
    except UnknownPoint as error:
        return [*faults, Fault("IOPoint", "address-unknown", str(error))]
    faults += _type_faults(channel, address)
    if address.point.words > _block_max(tags):
        text = f"The value takes {address.point.words} registers, but BlockMax allows "
        faults.append(Fault("IOPoint", "block-too-small", f"{text}{tags.BlockMax} a request."))
    if channel.ReadWrite != "R" and (not address.point.writable or address.bit is not None):
        what = "Single bits" if address.bit is not None else f"The model's {address.point.name}"
        text = f"{what} can only be read. Make it R."
        faults.append(Fault("ReadWrite", "type-read-only", text))
    if not faults:
        faults = value_faults(channel, lambda value: check_writable(address, channel, value))
    return faults


def _type_faults(channel: Channel, address: Address) -> list[Fault]:
    """`DataType` says what the model says, or ``bit``."""
    data_type, kind = channel.DataType.lower(), address.point.type
    if data_type == "bit" or address.bit is not None or channel.BitStart is not None:
        return _bit_faults(channel, address)
    if "DataType" in channel.model_fields_set and data_type != kind:
        text = f"The model has {kind} here, not {channel.DataType}. Leave DataType out."
        return [Fault("DataType", "datatype-type", text)]
    return []


def _bit_faults(channel: Channel, address: Address) -> list[Fault]:
    kind = address.point.type
    if kind not in BIT_FIELDS:
        text = f"{address.point.name} is a {kind} and has no bits."
        return [Fault("DataType", "datatype-type", text)]
    if channel.DataType.lower() != "bit":
        text = 'A part of a bit field is a bit: add "DataType": "bit".'
        return [Fault("DataType", "datatype-type", text)]
    if address.bit is None:
        text = "Say which bit: its symbol behind IOPoint, or BitStart (0 = least significant)."
        return [Fault("BitStart", "bit-range", text)]
    start, width = address.bit
    if width < 1 or start + width > BIT_FIELDS[kind]:
        text = f"{kind} has the bits 0 to {BIT_FIELDS[kind] - 1}, and BitEnd is not before "
        return [Fault("BitEnd", "bit-range", f"{text}BitStart.")]
    return []


def check(instrument: Instrument) -> list[Finding]:
    """All findings about points, types and missing keys."""
    findings = tag_findings(instrument, _tag_faults(instrument.tags))
    places: dict[str, Address] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel, instrument.tags)
        findings += channel_findings(instrument, name, faults)
        if not any(fault.severity == "error" for fault in faults):
            places[name] = channel_address(channel)
    slots = {name: _slots(address) for name, address in places.items()}
    return findings + shared_addresses(instrument, slots, lambda name: places[name].text)


def _slots(address: Address) -> list[tuple[int, int, Offset, int]]:
    start, width = address.bit or (0, BIT_FIELDS.get(address.point.type, 1))
    here = (address.model, address.instance, address.at)
    return [(*here, bit) for bit in range(start, start + width)]


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, eq=False)
class Request:
    """`count` registers of one model, from `first`, and the numbers in them.

    members   in the order of the block's index
    channels  of the same order
    """

    model: int
    instance: int
    first: Offset
    count: int
    members: tuple[Address, ...]
    channels: tuple[Channel, ...]

    @cached_property
    def decode(self) -> BlockDecoder:
        """The decoder of its answer."""
        return BlockDecoder(self.members, self.channels, self.first, self.count)

    def __str__(self) -> str:
        return f"model {model_text((self.model, self.instance))}"


_Member = tuple[int, Address, Channel]  # row of the point table, where, what


def plan(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels. Raises SiteError where `check` finds an error.

    What can be read together on every device: numbers of one model whose distance does not depend
    on how many groups the device has. A scale factor is read with its numbers where it is near
    enough. A model has no holes, so what lies between is read along.
    """
    refuse(check(instrument))
    alike: dict[tuple[str, int, int, object], list[_Member]] = {}
    for name, channel in instrument.channels.items():
        point = instrument.points[name]
        if channel.ReadWrite == "W" or not point.scan_class:
            continue
        address = channel_address(channel)
        key = (point.scan_class, address.model, address.instance, address.at.varying)
        alike.setdefault(key, []).append((point.index, address, channel))
    # With SingleRequests no two places share a request, so scale factors stay out too.
    size = 0 if instrument.tags.SingleRequests else _block_max(instrument.tags)
    blocks: list[Block] = []
    for (scan_class, *_), members in alike.items():
        members.sort(key=lambda m: m[1].at.fixed)
        blocks += [_block(group, scan_class, size) for group in _cut(members, size)]
    return blocks


def _cut(members: Sequence[_Member], size: int) -> list[list[_Member]]:
    """Members of one stretch, by place, in groups that fit into one request."""
    groups: list[list[_Member]] = []
    for member in members:
        joined = [*groups[-1], member] if groups else [member]
        together = len({address.at for _, address, _ in joined}) == 1
        if groups and (together or _extent(joined, size)[1] <= size):
            groups[-1] = joined
        else:
            groups.append([member])
    return groups


def _extent(members: Sequence[_Member], size: int) -> tuple[int, int]:
    """First register and number of registers of a request for these members.

    A scale factor that one request can't read together with its number stays out.
    """
    low = min(address.at.fixed for _, address, _ in members)
    high = max(address.at.fixed + address.point.words for _, address, _ in members)
    for _, address, _ in members:
        scale, at = address.scale, address.at
        if isinstance(scale, Offset) and scale.varying == at.varying:
            first = min(scale.fixed, at.fixed)
            last = max(scale.fixed + 1, at.fixed + address.point.words)
            if last - first <= size:
                low, high = min(low, first), max(high, last)
    return low, high - low


def _block(members: Sequence[_Member], scan_class: str, size: int) -> Block:
    first, count = _extent(members, size)
    one, last = members[0][1], members[-1][1]
    span = one.text if one is last else f"{one.text} to {last.text}"
    return Block(
        index=np.array([row for row, _, _ in members], dtype=np.int32),
        scan_class=scan_class,
        request=Request(
            model=one.model,
            instance=one.instance,
            first=Offset(first, one.at.varying),
            count=count,
            members=tuple(address for _, address, _ in members),
            channels=tuple(channel for _, _, channel in members),
        ),
        label=f"{span} ({scan_class})",
    )


def split(block: Block) -> list[Block]:
    """Halves of a block; empty where it reads one place.

    A device with an older or shorter model lacks the points behind its end.
    """
    request: Request = block.request
    members = list(zip(block.index.tolist(), request.members, request.channels, strict=True))
    places = list(dict.fromkeys(address.at for address in request.members))
    if len(places) == 1:
        return []
    behind = set(places[len(places) // 2 :])
    halves = (
        [member for member in members if member[1].at not in behind],
        [member for member in members if member[1].at in behind],
    )
    return [_block(half, block.scan_class, request.count) for half in halves]


def cost(instrument: Instrument, block: Block) -> Cost:
    """See drivers.contract.Cost; scale factors that are read once are left out."""
    request: Request = block.request
    return Cost(HEADER_BYTES + 5, HEADER_BYTES + 2 + 2 * request.count)


# ---------------------------------------------------------------- the driver


class SunSpecDriver:
    """A SunSpec device; one request in flight. The contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        unit = unit_of(tags)
        assert tags.Connection is not None
        assert tags.Connection.IP
        assert unit is not None
        self._instrument = instrument
        self._surroundings = surroundings
        self._host = tags.Connection.IP
        self._port = tags.PortNum or PORT
        self._unit = unit
        self._link: ModbusLink | None = None
        self._device = SunSpecDevice(self._read_registers, surroundings.clock)

    async def connect(self) -> None:
        """Connect and find the models.

        Raises NotConnected, NoAnswer, or Garbled where the device has no SunSpec map.
        """
        await self.close()
        timeout_s, around = self._instrument.tags.Timeout, self._surroundings
        self._link = await open_link(self._host, self._port, timeout_s, 1, around.clock, around.tap)
        places = [channel_address(channel) for channel in self._instrument.channels.values()]
        try:
            await self._device.find({(place.model, place.instance) for place in places})
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
        self._connected()
        found = await self._device.model((request.model, request.instance))
        counts = await self._device.counts(found)
        for address in request.members:
            require(address, found, counts)
        decode = request.decode
        far = {
            scale: await self._device.factor(found, counts, scale, FACTOR_NS)
            for scale in decode.far
        }
        offset = request.first.registers(counts)
        first = found.address + offset
        # Scale factors may lie behind the end of the device's model, numbers don't.
        count = min(request.count, 2 + found.length - offset)
        try:
            data = await self._read_registers(first, count)
        except Refused as refusal:
            self._device.doubt()
            where = f"{block.label}, registers {first} to {first + count - 1}"
            text = f"{where}: {refusal}"
            raise Refused(text, code=refusal.code, permanent=refusal.permanent) from None
        values, factors = decode(data + NO_FACTOR * (request.count - count), far)
        self._device.learn(found, {first + place: power for place, power in factors.items()})
        return values

    async def write(self, point: PointDef, value: float) -> None:
        """Write one point with function 16, which every SunSpec device has."""
        channel = self._instrument.channels[point.channel]
        address = channel_address(channel)
        if channel.ReadWrite == "R" or not address.point.writable or address.bit is not None:
            raise Refused(f"{point.tag} can only be read", permanent=True)
        link = self._connected()
        check_writable(address, channel, value)
        found = await self._device.model((address.model, address.instance))
        counts = await self._device.counts(found)
        require(address, found, counts)
        power: float = address.scale if isinstance(address.scale, int) else 0
        if isinstance(address.scale, Offset):
            # As it is now: a factor that has changed makes ten times the setpoint.
            power = await self._device.factor(found, counts, address.scale, 0)
            if power != power:
                text = f"{point.tag}: the device has no scale factor for {address.text}"
                raise Refused(text, permanent=True)
        registers = encode(address, channel, value, power)
        first = found.address + address.at.registers(counts)
        head = struct.pack(">BHH", WRITE_REGISTERS, first, len(registers) // 2)
        pdu = head + bytes((len(registers),)) + registers
        await link.ask(self._unit, pdu, len(head), head)

    async def _read_registers(self, first: int, count: int) -> bytes:
        try:
            return await read_registers(self._connected(), self._unit, first, count)
        except NoAnswer:
            self._device.doubt()
            raise

    def _connected(self) -> ModbusLink:
        if self._link is None:
            raise NotConnected("not connected")
        if not self._link.connected:  # found out here too where nothing has to be asked
            raise NotConnected("the connection to the device was lost")
        return self._link


PROTOCOL: Final = DriverProtocol(
    names=("SunSpec",),
    plan=plan,
    check=check,
    open=SunSpecDriver,
    split=split,
    cost=cost,
    keys=frozenset(("Connection", "PortNum", "BlockMax", "SingleRequests", "ReplyDelay")),
)
