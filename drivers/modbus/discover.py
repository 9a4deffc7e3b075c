"""Looks for the units of a Modbus line or gateway, and for the registers that they answer.

It only reads: functions 1 to 4, and the device identification (function 43, type 14) where it is
offered. Source: MODBUS Application Protocol Specification V1.1b3, sections 6.1 to 6.4 and 6.21.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse

from drivers.discovery import Discovered, Tell, clean, name_of
from drivers.errors import NotConnected
from drivers.modbus.rtu_line import why_not
from gateway.core.clock import SystemClock

UNITS: Final = range(1, 248)
ADDRESSES: Final = range(10_000)
ANSWER_S: Final = 0.3
CONNECT_S: Final = 3.0  # at least: a connection may take longer than an answer
PROGRESS_S: Final = 5.0  # so often a scan says where it is
SAME_MAX: Final = 16  # so many units in a row are one device that does not look at the number
BLOCK: Final = 64
PROBE_STEP: Final = 4
SILENT_MAX: Final = 3
CHANNELS_MAX: Final = 1000

ILLEGAL_FUNCTION: Final = 1
NOBODY: Final = (10, 11)  # a gateway's words for a unit that is not there
SUNSPEC: Final = [0x5375, 0x6E53]  # "SunS"
SUNSPEC_PLACES: Final = (40_000, 0, 50_000)

# Function -> Type of the channel, its DataType, the beginning of its name.
TABLES: Final = {
    3: ("HRegister", "uint16", "Holding"),
    4: ("IRegister", "uint16", "Input"),
    1: ("Coil", "bool", "Coil"),
    2: ("DiscreteInputs", "bool", "Discrete"),
}
IDENTITY: Final = {0: "maker", 1: "product", 2: "revision", 4: "product name", 5: "model"}


@dataclass(frozen=True, slots=True)
class Serial:
    """Settings of a serial line."""

    port: str
    baudrate: int = 19_200
    parity: str = "N"
    stopbits: int = 1
    bytesize: int = 8


@dataclass(slots=True)
class Unit:
    """One unit: what it says about itself, and function -> (first, count) of what it answers."""

    number: int
    identity: dict[str, str] = field(default_factory=dict)
    areas: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    sunspec: int | None = None


class _Silence(Exception):
    """No answer came."""


class _Illegal(Exception):
    """The device answered with an exception."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exception {code}")


class ModbusScan:
    """Asks one device, line or gateway; one request at a time."""

    def __init__(self, place: tuple[str, int] | Serial, answer_s: float, tell: Tell) -> None:
        # What does not answer is what a scan looks for; the library would log each of them.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
        self._place = place
        self._tell = tell
        self.requests = 0
        self.notes: list[str] = []
        self._clock = SystemClock()
        self._told_ns = 0
        common: dict[str, Any] = {"timeout": answer_s, "retries": 0, "reconnect_delay": 0}
        self._client: AsyncModbusTcpClient | AsyncModbusSerialClient
        if isinstance(place, Serial):
            self._client = AsyncModbusSerialClient(
                place.port,
                baudrate=place.baudrate,
                parity=place.parity,
                stopbits=place.stopbits,
                bytesize=place.bytesize,
                **common,
            )
        else:
            self._client = AsyncModbusTcpClient(place[0], port=place[1], **common)
            self._client.comm_params.timeout_connect = max(answer_s, CONNECT_S)

    async def connect(self) -> None:
        """Connect. Raises NotConnected."""
        place = self._place
        where = place.port if isinstance(place, Serial) else f"{place[0]}:{place[1]}"
        try:
            connected = await self._client.connect()
        except (ModbusException, OSError, ValueError, OverflowError, termios.error) as error:
            raise NotConnected(f"{where}: {error}") from error
        if not connected:
            reason = why_not(place.port) if isinstance(place, Serial) else await _refusal(*place)
            raise NotConnected(f"{where}: {reason}")

    def close(self) -> None:
        """Close; may be called twice."""
        self._client.close()

    def _progress(self, text: str) -> None:
        """Say where the scan is, now and then."""
        now_ns = self._clock.monotonic_ns()
        if not self._told_ns:
            self._told_ns = now_ns
        elif now_ns - self._told_ns >= PROGRESS_S * 1e9:
            self._told_ns = now_ns
            self._tell(text)

    # ------------------------------------------------------------ requests

    async def _call(self, name: str, **keys: Any) -> Any:
        """One request. Raises _Silence, _Illegal, NotConnected."""
        if not self._client.connected:
            await self.connect()
        self.requests += 1
        try:
            answer = await getattr(self._client, name)(**keys)
        except (ModbusException, OSError, TimeoutError) as error:
            raise _Silence from error
        if isinstance(answer, ExceptionResponse) or answer.isError():
            raise _Illegal(answer.exception_code)
        return answer

    async def _read(self, unit: int, function: int, first: int, count: int) -> list[int]:
        name = {
            1: "read_coils",
            2: "read_discrete_inputs",
            3: "read_holding_registers",
            4: "read_input_registers",
        }[function]
        answer = await self._call(name, address=first, count=count, device_id=unit)
        return [int(v) for v in (answer.registers if function > 2 else answer.bits[:count])]

    async def _answers(self, unit: int, function: int, first: int, count: int) -> bool:
        """True where it reads; False where it is refused. Raises _Silence, or _Illegal(1)."""
        try:
            await self._read(unit, function, first, count)
        except _Illegal as error:
            if error.code == ILLEGAL_FUNCTION:
                raise
            return False
        return True

    # ------------------------------------------------------------ units

    async def units(self, numbers: Sequence[int], found: list[Unit]) -> None:
        """Add the units that answer anything, an exception included, to `found`."""
        for number in numbers:
            self._progress(f"trying unit {number}, up to {numbers[-1]}")
            if await self._is_there(number):
                found.append(Unit(number))
                self._tell(f"unit {number} answers")
            row = [unit.number for unit in found[-SAME_MAX:]]
            if len(row) == SAME_MAX and row[-1] - row[0] == SAME_MAX - 1:
                self._tell(
                    f"units {row[0]} to {row[-1]} all answer: this looks like one device that "
                    f"answers to every number. Going on with unit {row[0]}; --units names others"
                )
                del found[-SAME_MAX + 1 :]
                return

    async def _is_there(self, unit: int) -> bool:
        for function in (3, 4):
            try:
                await self._read(unit, function, 0, 1)
            except _Illegal as error:
                return error.code not in NOBODY
            except _Silence:
                continue
            return True
        return False

    async def describe(self, unit: Unit, addresses: Sequence[int]) -> None:
        """Fill in the identity, the readable areas and the SunSpec mark of a unit."""
        unit.identity = await self._identity(unit.number)
        for first in SUNSPEC_PLACES:
            with contextlib.suppress(_Silence, _Illegal):
                if await self._read(unit.number, 3, first, 2) == SUNSPEC:
                    unit.sunspec = first
                    break
        for function, (kind, _, _) in TABLES.items():
            areas: list[tuple[int, int]] = []
            try:
                await self._areas(unit.number, function, addresses, areas)
            finally:  # what was found stays, also where the device goes away now
                unit.areas[function] = list(_joined(areas))
            count = sum(size for _, size in areas)
            if count:
                self._tell(f"unit {unit.number}: {count} readable in {kind}")

    async def _identity(self, unit: int) -> dict[str, str]:
        objects: dict[int, Any] = {}
        for code in (1, 2):  # basic, then regular
            try:
                answer = await self._call("read_device_information", read_code=code, device_id=unit)
            except (_Silence, _Illegal):
                break
            objects |= answer.information
        return {
            name: text
            for number, name in IDENTITY.items()
            if isinstance(raw := objects.get(number), bytes | str) and (text := clean(raw))
        }

    async def _areas(
        self, unit: int, function: int, addresses: Sequence[int], found: list[tuple[int, int]]
    ) -> None:
        """Add (first, count) of what reads to `found`. Holes smaller than the steps may hide."""
        silent = 0
        blocks = [
            (first, min(BLOCK, start + size - first))
            for start, size in _joined([(address, 1) for address in addresses])
            for first in range(start, start + size, BLOCK)
        ]
        kind = TABLES[function][0]
        for first, count in blocks:
            self._progress(f"unit {unit}: {kind} {first}, up to {addresses[-1]}")
            try:
                if await self._answers(unit, function, first, count):
                    found.append((first, count))
                elif await self._holds_something(unit, function, first, count):
                    found += await self._parts(unit, function, first, count)
                silent = 0
            except _Illegal:
                return
            except _Silence:
                silent += 1
                if silent >= SILENT_MAX and first + count <= addresses[-1]:
                    text = f"{SILENT_MAX} questions without an answer; nothing behind it was tried"
                    self.notes.append(f"unit {unit}: {kind} up to {first + count - 1}: {text}")
                    return

    async def _holds_something(self, unit: int, function: int, first: int, count: int) -> bool:
        """True where a probe reads: single addresses, and pairs, which some devices insist on."""
        for at in range(first, first + count, PROBE_STEP):
            if await self._answers(unit, function, at, 1):
                return True
            pair = function > 2 and at + 1 < first + count and at % (2 * PROBE_STEP) == 0
            if pair and await self._answers(unit, function, at, 2):
                return True
        return False

    async def _parts(
        self, unit: int, function: int, first: int, count: int
    ) -> list[tuple[int, int]]:
        """What reads of a block that does not read as a whole."""
        if count == 1:
            return []
        found: list[tuple[int, int]] = []
        half = count // 2
        for start, size in ((first, half), (first + half, count - half)):
            if await self._answers(unit, function, start, size):
                found.append((start, size))
            else:
                found += await self._parts(unit, function, start, size)
        return found


async def _refusal(host: str, port: int) -> str:
    """Why a device takes no connection; pymodbus does not say."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no connection within {CONNECT_S:g} s"
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        number = getattr(error, "errno", None) or 0
        return os.strerror(number) if number > 0 else getattr(error, "strerror", "") or str(error)
    writer.close()
    return "it does not keep the connection; another client may have it"


def _joined(areas: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Neighbouring areas as one."""
    start, end = -1, -1
    for first, count in areas:
        if first == end:
            end += count
            continue
        if start >= 0:
            yield start, end - start
        start, end = first, first + count
    if start >= 0:
        yield start, end - start


# ---------------------------------------------------------------- the instrument file


async def discover_modbus(
    place: tuple[str, int] | Serial,
    tell: Tell,
    *,
    units: Sequence[int] = UNITS,
    addresses: Sequence[int] = ADDRESSES,
    answer_s: float = ANSWER_S,
) -> Discovered:
    """Scan a device, a gateway or a serial line.

    answer_s  s, how long to wait for each answer

    Raises NotConnected where there is no connection at first; what never answers is a file without
    channels.
    """
    scan = ModbusScan(place, answer_s, tell)
    found: list[Unit] = []
    broken = ""
    try:
        await scan.connect()
        try:
            await scan.units(units, found)
            for unit in found:
                await scan.describe(unit, addresses)
        except NotConnected as error:  # what it has shown so far took long enough
            broken = str(error)
    finally:
        scan.close()
    made = described(place, found)
    made.notes += scan.notes
    made.broken = broken
    return made


def described(place: tuple[str, int] | Serial, units: Sequence[Unit]) -> Discovered:
    """The instrument file of what was found: one channel a register or bit, read-only."""
    several = len(units) > 1
    identity = units[0].identity if units else {}
    tags: dict[str, Any] = {
        "EquipmentName": name_of(identity.get("maker", ""), identity.get("product", "")),
        "EquipmentType": " ".join(dict.fromkeys(identity.values())),
    }
    if isinstance(place, Serial):
        tags["Communication"] = "ModbusRTU"
        tags["Connection"] = {
            "Port": place.port,
            "Baudrate": place.baudrate,
            "Parity": place.parity,
            "Stopbits": place.stopbits,
            "Bytesize": place.bytesize,
        }
    else:
        tags |= {"Communication": "ModbusTcpGeneric", "PortNum": place[1]}
        tags["Connection"] = {"IP": place[0]}
    if units:
        tags["Connection"]["Unit"] = units[0].number
    found = Discovered(tags)
    left_out = 0
    for unit in units:
        texts = [f"{name} {text}" for name, text in unit.identity.items()]
        if texts:
            found.notes.append(f"unit {unit.number}: {', '.join(texts)}")
        if unit.sunspec is not None:
            found.notes.append(
                f"unit {unit.number} speaks SunSpec (at {unit.sunspec}): `gatepost discover "
                "sunspec://...` names its points"
            )
        prefix = f"U{unit.number}_" if several else ""
        for name, channel in _channels(unit, several):
            if len(found.channels) < CHANNELS_MAX:
                found.channels[prefix + name] = channel
            else:
                left_out += 1
    if left_out:
        found.notes.append(
            f"{left_out} more registers answer; --units and --registers choose which to list"
        )
    return found


def _channels(unit: Unit, several: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for function, areas in unit.areas.items():
        kind, data_type, name = TABLES[function]
        for first, count in areas:
            for address in range(first, first + count):
                keys = {"Type": kind, "DataType": data_type, "IOPoint": address}
                yield f"{name}_{address}", keys | ({"Unit": unit.number} if several else {})
