"""Reading blocks and writing channels by Modbus functions, whatever carries them.

Shared by Modbus TCP and Modbus RTU. Source: MODBUS Application Protocol Specification V1.1b3.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.points import PointDef
from config.site import Instrument
from drivers.codec import encode, field_masks, insert_bits
from drivers.contract import Block
from drivers.errors import NoAnswer, OutOfRange, Refused
from drivers.modbus.map import (
    BIT_FUNCTIONS,
    BOOL,
    READ_HOLDING,
    WRITABLE,
    Address,
    Request,
    address_of,
)

WRITE_COIL: Final = 5
WRITE_REGISTER: Final = 6
WRITE_REGISTERS: Final = 16
MASK_WRITE: Final = 22

# (unit, PDU, exact size of the answer's PDU, bytes that it must begin with) -> the answer's PDU.
# Raises DriverError; an exception answer is Refused.
AskPdu = Callable[[int, bytes, int, bytes], Awaitable[bytes]]


class ModbusAccess:
    """What can be done with one device, one request after the other."""

    def __init__(self, instrument: Instrument, ask: AskPdu) -> None:
        self._instrument = instrument
        self._ask = ask
        self._writing = asyncio.Lock()  # a read-modify-write must not meet another write
        self._has_mask_write = True
        self._has_write_register = True

    async def read(self, block: Block) -> NDArray[np.float64]:
        """The values of one block."""
        request: Request = block.request
        return request.decode(await self._fetch(request))

    async def write(self, point: PointDef, value: float) -> None:
        """Write one channel; whole values in one request, bit fields by mask or read and write."""
        channel = self._instrument.channels[point.channel]
        address = address_of(channel, self._instrument.tags)
        if channel.ReadWrite == "R" or address.function not in WRITABLE:
            raise Refused(f"{point.tag} can only be read", permanent=True)
        async with self._writing:
            if address.function in BIT_FUNCTIONS:
                (bit,) = encode(BOOL, value)
                await self._echo(address.unit, WRITE_COIL, address.first, 0xFF00 if bit else 0)
            elif address.coding.data_type == "bit":
                await self._write_field(address, value)
            else:
                await self._write_registers(address, encode(address.coding, value))

    async def _fetch(self, request: Request) -> bytes:
        opening = bytes((request.function, request.size))
        try:
            answer = await self._ask(request.unit, request.pdu, request.size + 2, opening)
        except Refused as refusal:
            raise at_place(refusal, request) from None
        return answer[2:]

    async def _write_registers(self, address: Address, registers: Sequence[int]) -> None:
        if len(registers) == 1 and self._has_write_register:
            try:
                await self._echo(address.unit, WRITE_REGISTER, address.first, registers[0])
            except Refused as refusal:
                if refusal.code != 1:
                    raise
                self._has_write_register = False
            else:
                return
        count = len(registers)
        head = struct.pack(">BHH", WRITE_REGISTERS, address.first, count)
        pdu = head + bytes((2 * count,)) + struct.pack(f">{count}H", *registers)
        await self._ask(address.unit, pdu, len(head), head)

    async def _write_field(self, address: Address, value: float) -> None:
        """Set some bits of a register and leave the others.

        A mask write (function 22) is one step for the device, so it is tried first. A device that
        does not have it refuses, or says nothing at all; from then on the register is read,
        changed and written, which another master may disturb.
        """
        if address.coding.words == 1 and self._has_mask_write:
            keep, put = field_masks(address.coding, value)
            try:
                await self._echo(address.unit, MASK_WRITE, address.first, keep, put)
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
        insert_bits(address.coding, (0,) * count, value)  # refuses what does not fit, unsent
        request = Request(READ_HOLDING, address.unit, address.first, count, (address,))
        registers = struct.unpack(f">{count}H", await self._fetch(request))
        await self._write_registers(address, insert_bits(address.coding, registers, value))

    async def _echo(self, unit: int, function: int, *numbers: int) -> None:
        """A request whose answer is its echo."""
        pdu = struct.pack(f">B{len(numbers)}H", function, *numbers)
        await self._ask(unit, pdu, len(pdu), pdu)


def at_place(refusal: Refused, request: Request) -> Refused:
    """The refusal of a read, saying of what."""
    assert not isinstance(refusal, OutOfRange)
    text = f"{request}: {refusal}"
    return Refused(text, code=refusal.code, permanent=refusal.permanent)
