"""Modbus RTU: the units of one serial line, which all instruments on its port share.

Source: MODBUS over Serial Line Specification and Implementation Guide V1.02. The keys are those of
drivers/modbus/map.py; the line is drivers/modbus/rtu_line.py.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Final, Literal

from config.findings import Finding
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import Fault, channel_findings, refuse, tag_findings, whole_number
from drivers.contract import NO_VALUES, Block, Cost, Cycle, DriverProtocol, Part, Surroundings
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.modbus.access import ModbusAccess
from drivers.modbus.map import Request, check_channels, plan_channels, split
from drivers.modbus.rtu_frame import (
    ADU_BYTES,
    BAUDRATE,
    BYTESIZE,
    PARITY,
    STOPBITS,
    LineSettings,
)

if TYPE_CHECKING:
    from drivers.modbus.rtu_line import RtuLine

NAMES: Final = ("ModbusRTU",)
BAUDRATES: Final = (
    300, 600, 1_200, 2_400, 4_800, 9_600, 14_400, 19_200, 28_800, 38_400, 57_600, 76_800, 115_200,
    128_000, 187_500, 230_400, 250_000, 256_000, 375_000, 460_800, 500_000, 576_000, 921_600,
    1_000_000, 1_500_000, 2_000_000, 3_000_000, 4_000_000,
)  # fmt: skip
PARITIES: Final[dict[str, Literal["N", "E", "O"]]] = {
    "n": "N", "none": "N", "e": "E", "even": "E", "o": "O", "odd": "O",
}  # fmt: skip
UNIT_MIN, UNIT_MAX = 1, 247


def settings_of(instrument: Instrument) -> LineSettings:
    """How the instrument's line is driven; its keys were checked."""
    place = instrument.tags.Connection
    assert place is not None
    assert place.Port
    parity = PARITIES[(place.Parity or PARITY).strip().lower()]
    baudrate = BAUDRATE if place.Baudrate is None else place.Baudrate
    return LineSettings(place.Port, baudrate, parity, 2 if place.Stopbits == 2 else STOPBITS)


def line_of(settings: LineSettings) -> str:
    """The line behind a port, which may have several names (/dev/serial/by-id)."""
    return os.path.realpath(settings.port)


def _is_away(place: str) -> bool:
    return not os.path.exists(place)


# ---------------------------------------------------------------- configuration


def check(instrument: Instrument) -> list[Finding]:
    """All findings about the line, addresses, types and missing keys."""
    findings = tag_findings(instrument, _line_faults(instrument)) + _unit_findings(instrument)
    return findings + check_channels(instrument)


def _line_faults(instrument: Instrument) -> list[Fault]:
    place = instrument.tags.Connection
    if place is None or not place.Port:
        text = "The serial port is missing. Add it, for example /dev/ttyUSB0."
        return [Fault("Connection.Port", "connection-missing", text)]
    faults = []
    if not place.Port.isprintable():
        text = "The port's name has characters that no file name has. Give it like /dev/ttyUSB0."
        return [Fault("Connection.Port", "connection-missing", text)]
    if "://" in place.Port:
        text = (
            f"{place.Port} is no serial port of this machine. A serial server on the network is "
            "reached with ModbusTcp, if it converts."
        )
        faults.append(Fault("Connection.Port", "connection-missing", text))
    baudrate = place.Baudrate
    if baudrate is not None and not BAUDRATES[0] <= baudrate <= BAUDRATES[-1]:
        text = f"{baudrate} is no speed of a line. Give the device's, 9600 or 19200 mostly."
        faults.append(Fault("Connection.Baudrate", "serial-setting", text))
    elif baudrate is not None and baudrate not in BAUDRATES:
        close = min(BAUDRATES, key=lambda usual: abs(usual - baudrate))
        text = f"{baudrate} bit/s is unusual. Is {close} meant?"
        faults.append(Fault("Connection.Baudrate", "serial-setting", text, "warning"))
    if place.Parity is not None and place.Parity.strip().lower() not in PARITIES:
        text = f"'{place.Parity}' is no parity. Use N (none), E (even) or O (odd)."
        faults.append(Fault("Connection.Parity", "serial-setting", text))
    if place.Stopbits not in (None, 1, 2):
        text = f"A line has 1 or 2 stop bits, not {place.Stopbits:g}."
        faults.append(Fault("Connection.Stopbits", "serial-setting", text))
    if place.Bytesize not in (None, BYTESIZE):
        text = f"Modbus RTU has 8 data bits, not {place.Bytesize}. Leave Bytesize out."
        faults.append(Fault("Connection.Bytesize", "serial-setting", text))
    return faults


def _unit_findings(instrument: Instrument) -> list[Finding]:
    """Unit 0 is everyone, and nobody answers; from 248 on units are reserved."""
    place = instrument.tags.Connection
    findings = tag_findings(
        instrument, _unit_faults("Connection.Unit", place.Unit if place else None)
    )
    for name, channel in instrument.channels.items():
        findings += channel_findings(instrument, name, _unit_faults("Unit", channel.Unit))
    return findings


def _unit_faults(key: str, declared: int | str | None) -> list[Fault]:
    unit = whole_number(declared)
    # What is no unit of Modbus at all is a finding of `check_channels`.
    if unit is None or not 0 <= unit <= 255 or UNIT_MIN <= unit <= UNIT_MAX:
        return []
    text = f"Unit {unit} can't be asked on a serial line. Units are {UNIT_MIN} to {UNIT_MAX}."
    return [Fault(key, "unit-invalid", text)]


def check_lines(instruments: Iterable[Instrument]) -> list[Finding]:
    """Instruments that would drive one port in different ways."""
    first: dict[str, Instrument] = {}
    findings = []
    for instrument in instruments:
        if instrument.tags.Communication not in NAMES or any(
            fault.severity == "error" for fault in _line_faults(instrument)
        ):
            continue
        settings = settings_of(instrument)
        other = first.setdefault(line_of(settings), instrument)
        if settings_of(other) != settings:
            text = (
                f"{other.file} drives the port as {settings_of(other)}, this file as {settings}. "
                "All units on one line have the same speed, parity and stop bits; correct one."
            )
            fault = Fault("Connection.Port", "serial-line-settings", text)
            findings += tag_findings(instrument, [fault])
    return findings


def plan(instrument: Instrument) -> list[Block]:
    """Blocks of all readable channels. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    return plan_channels(instrument)


def cost(instrument: Instrument, block: Block) -> Cost:
    """Bytes of a request and its answer, and how long they occupy the line.

    A unit knows that a request is over by the silence behind it; another one ends the answer.
    """
    request: Request = block.request
    settings = settings_of(instrument)
    asked, answered = len(request.pdu) + ADU_BYTES, 2 + request.size + ADU_BYTES
    busy_s = (asked + answered) * settings.character_s + 2 * settings.silence_s
    return Cost(asked, answered, line_of(settings), busy_s + instrument.tags.ReplyDelay)


# ---------------------------------------------------------------- the driver


class RtuDriver:
    """A device on a serial line; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        self._settings = settings_of(instrument)
        self._timeout_s = instrument.tags.Timeout
        self._surroundings = surroundings
        self._line: RtuLine | None = None  # while connected
        self._writing = False
        self._asked_ns = 0
        self._access = ModbusAccess(instrument, self._ask)

    async def connect(self) -> None:
        """Open the port, unless another instrument on the line has. Raises NotConnected."""
        from drivers.modbus.rtu_line import (
            RtuLine,  # pymodbus takes its time, and most sites have no line
            why_not,
        )

        await self.close()
        settings, around = self._settings, self._surroundings
        while True:
            # What a name stands for may have changed while the adapter was away.
            place = line_of(settings)
            if _is_away(place):  # a name that leads nowhere is no line yet
                raise NotConnected(f"{settings}: {why_not(settings.port)}")
            line = around.share(("serial", place), lambda: RtuLine(settings, around.clock))
            await line.enter(self, settings, around.tap)
            if place == line_of(settings):
                break
            # It changed while it was opened. A second line of one port would know nothing of the
            # late answers to the first, and would keep it out.
            line.leave(self)
        self._line = line

    async def close(self) -> None:
        """Leave the line; may be called twice."""
        line, self._line = self._line, None
        if line is not None:
            line.leave(self)

    def hurry(self) -> None:
        """See drivers.contract.SharingDriver."""
        if self._line is not None:
            self._line.hurry(self)

    async def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """See drivers.contract.Driver."""
        for position, block in enumerate(cycle.blocks):
            # The wait for the line is no part of a value's age: `_ask` notes when it was over.
            self._asked_ns = self._surroundings.clock.monotonic_ns()
            try:
                values = await self._access.read(block)
                part = Part(position, position + 1, self._asked_ns, values)
            except (Refused, NoAnswer) as error:
                part = Part(position, position + 1, self._asked_ns, NO_VALUES, error)
            yield part

    async def write(self, point: PointDef, value: float) -> None:
        """Write one channel; whole values in one request, bit fields by mask or read and write."""
        self._writing = True
        try:
            await self._access.write(point, value)
        finally:
            self._writing = False

    async def _ask(self, unit: int, pdu: bytes, size: int, opening: bytes) -> bytes:
        if self._line is None:
            raise NotConnected("not connected")
        answer, self._asked_ns = await self._line.ask(
            self, self._timeout_s, unit, pdu, size, opening, first=self._writing
        )
        return answer


PROTOCOL: Final = DriverProtocol(
    names=NAMES,
    plan=plan,
    check=check,
    open=RtuDriver,
    split=split,
    cost=cost,
    keys=frozenset(
        (
            "Connection",
            "ByteOrder",
            "WordOrder",
            "BlockMax",
            "GapMax",
            "SingleRequests",
            "ReplyDelay",
        )
    ),
)
