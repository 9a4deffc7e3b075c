"""Modbus TCP: registers, coils and bit fields of one device or of the units behind a gateway.

Source: MODBUS Messaging on TCP/IP Implementation Guide V1.0b. The keys are those of
drivers/modbus/map.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from config.findings import Finding
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import Fault, refuse, tag_findings
from drivers.contract import Block, Cost, Cycle, DriverProtocol, Part, Surroundings
from drivers.errors import NotConnected
from drivers.modbus.access import ModbusAccess
from drivers.modbus.cycle import ModbusCycle
from drivers.modbus.link import HEADER, ModbusLink, open_link
from drivers.modbus.map import Request, check_channels, plan_channels, split

PORT: Final = 502


def check(instrument: Instrument) -> list[Finding]:
    """All findings about addresses, types and missing keys."""
    connection, faults = instrument.tags.Connection, []
    if connection is None or not connection.IP:
        text = "The device's address is missing. Add its IP address or host name."
        faults.append(Fault("Connection.IP", "connection-missing", text))
    return tag_findings(instrument, faults) + check_channels(instrument)


def plan(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    return plan_channels(instrument)


def cost(instrument: Instrument, block: Block) -> Cost:
    """Bytes of a request and its answer."""
    request: Request = block.request
    return Cost(HEADER.size + len(request.pdu), HEADER.size + 2 + request.size)


class ModbusDriver:
    """A Modbus TCP device. `Depth` requests may be in flight; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        assert tags.Connection is not None
        assert tags.Connection.IP
        self._instrument = instrument
        self._surroundings = surroundings
        self._host = tags.Connection.IP
        self._port = tags.PortNum or PORT
        self._link: ModbusLink | None = None
        self._access = ModbusAccess(instrument, self._ask)

    async def connect(self) -> None:
        """Connect, ending an older connection. Raises NotConnected."""
        await self.close()
        tags, around = self._instrument.tags, self._surroundings
        self._link = await open_link(
            self._host, self._port, tags.Timeout, tags.Depth, around.clock, around.tap
        )

    async def close(self) -> None:
        """Close; may be called twice."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
            await asyncio.sleep(0)  # lets the transport end its socket

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """See drivers.contract.Driver."""
        assert isinstance(cycle, ModbusCycle)
        return self._connected().read(cycle)

    async def write(self, point: PointDef, value: float) -> None:
        """Write one channel; whole values in one request, bit fields by mask or read and write."""
        await self._access.write(point, value)

    async def _ask(self, unit: int, pdu: bytes, size: int, opening: bytes) -> bytes:
        return await self._connected().ask(unit, pdu, size, opening)

    def _connected(self) -> ModbusLink:
        if self._link is None:
            raise NotConnected("not connected")
        return self._link


PROTOCOL: Final = DriverProtocol(
    names=("ModbusTcpGeneric", "ModbusTcp"),
    plan=plan,
    check=check,
    open=ModbusDriver,
    cycle=ModbusCycle,
    split=split,
    cost=cost,
    keys=frozenset(
        (
            "Connection",
            "PortNum",
            "ByteOrder",
            "WordOrder",
            "BlockMax",
            "GapMax",
            "SingleRequests",
            "ReplyDelay",
            "Depth",
        )
    ),
)
