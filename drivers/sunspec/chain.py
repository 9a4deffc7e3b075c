"""What a SunSpec device has: the chain of its models, walked over Modbus.

Source: SunSpec Device Information Model Specification V1.1. The map begins with the text ``SunS``
at register 40000, 50000 or 0. Then follow the models, each with its identifier and the number of
registers behind these two; 0xFFFF ends the chain.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from drivers.errors import Garbled, Refused
from drivers.modbus.link import ModbusLink
from drivers.sunspec.models import BY_LENGTH, Model

BASES: Final = (40000, 50000, 0)
MARK: Final = b"SunS"
END: Final = 0xFFFF
REGISTERS: Final = 65536  # addresses of a Modbus device
CHAIN_MAX: Final = 256  # models of one device
READ_MAX: Final = 125  # registers of one request

READ_HOLDING: Final = 3
WRITE_REGISTERS: Final = 16

# (first register, number of registers) -> their bytes. Raises DriverError.
Read = Callable[[int, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Found:
    """A model of a device.

    instance  which of the models with this identifier, from 1
    address   register of its identifier
    length    registers behind identifier and length
    """

    model: int
    instance: int
    address: int
    length: int


async def read_registers(link: ModbusLink, unit: int, first: int, count: int) -> bytes:
    """Holding registers as bytes. Raises DriverError."""
    pdu = struct.pack(">BHH", READ_HOLDING, first, count)
    answer = await link.ask(unit, pdu, 2 + 2 * count, bytes((READ_HOLDING, 2 * count)))
    return answer[2:]


@dataclass(frozen=True, slots=True)
class Chain:
    """The models of a device.

    models  by identifier and instance, in their order
    end     the register behind the last one
    """

    models: Mapping[tuple[int, int], Found]
    end: int


NOTHING_FOUND: Final = Chain({}, REGISTERS)


async def walk(read: Read, wanted: Collection[tuple[int, int]] | None = None) -> Chain:
    """The models of a device; no further than to the last of the `wanted` ones.

    Raises Garbled where there is no SunSpec map, or where its chain has no end.
    """
    here = await _base(read) + len(MARK) // 2
    missing = None if wanted is None else set(wanted)
    found: dict[tuple[int, int], Found] = {}
    instances: dict[int, int] = {}
    for _ in range(CHAIN_MAX + 1):
        head = None if missing == set() else await _head(read, here)
        if head is None:
            return Chain(found, here)
        number, length = head
        if length == 0 or here + 2 + length > REGISTERS:
            raise Garbled(
                f"the chain of models is broken: model {number} at register {here} has "
                f"{length} registers"
            )
        instance = instances[number] = instances.get(number, 0) + 1
        found[number, instance] = Found(number, instance, here, length)
        if missing is not None:
            missing.discard((number, instance))
        here += 2 + length
    raise Garbled(f"the chain of models has no end: more than {CHAIN_MAX} models")


async def is_end(read: Read, here: int) -> bool:
    """True where no model begins."""
    return await _head(read, here) is None


async def _base(read: Read) -> int:
    later: Refused | None = None
    for base in BASES:
        try:
            if await read(base, 2) == MARK:
                return base
        except Refused as refusal:  # nothing is there, or it is busy
            if not refusal.permanent:
                later = refusal
    if later is not None:
        raise later
    places = ", ".join(str(base) for base in BASES)
    raise Garbled(f"this is no SunSpec device: no register of {places} begins with 'SunS'")


async def _head(read: Read, here: int) -> tuple[int, int] | None:
    """Identifier and length of the model at `here`; None at the end of the chain.

    Some devices end with the identifier alone, without a length, with zeros, or with nothing.
    """
    if here >= REGISTERS:
        return None
    for count in (2, 1):
        if here + count > REGISTERS:
            continue
        try:
            data = await read(here, count)
        except Refused as refusal:
            if not refusal.permanent:
                raise
            continue
        number = int.from_bytes(data[:2], "big")
        if number == END or not any(data):
            return None
        if count == 2:
            return number, int.from_bytes(data[2:], "big")
        raise Garbled(f"model {number} at register {here} has no length")
    return None


async def read_counts(read: Read, model: Model, found: Found) -> dict[str, int]:
    """How many groups of each kind a model of the device has. Raises DriverError."""
    counts: dict[str, int] = {}
    for name in model.counts:
        number = 0
        if name != BY_LENGTH:
            point = model.group.points[name]
            if point.place + point.words <= 2 + found.length:
                data = await read(found.address + point.place, point.words)
                number = int.from_bytes(data, "big")
                number = 0 if number == (1 << 8 * len(data)) - 1 else number  # not implemented
        counts[name] = number or _count_by_length(model, found)
    return counts


def _count_by_length(model: Model, found: Found) -> int:
    """A group that is not counted fills the rest of its model."""
    if model.sole is None:
        return 0
    fixed = sum(point.words for point in model.group.points.values())
    return max(0, 2 + found.length - fixed) // model.sole.size[()]
