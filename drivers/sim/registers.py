"""The instrument files as the simulators see them: which channel stands in which register.

Read straight from the JSON, without the gateway's own model and codec: so a simulator starts in a
few megabytes, and a mistake in the codec isn't made twice. A channel that is added to an
instrument file is served without a change here.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.read import Files
from config.template import Templates, merged, template_of
from drivers.sim.modbus_server import STRUCT_CODES, RegisterBank

TABLES: Final = {"HRegister": "holding", "IRegister": "inputs", "DiscreteInputs": "discretes"}
WHOLE_TYPES: Final = ("hex", "bool", "bit")


class DeviceFileError(Exception):
    """The instrument file can't be simulated; says which file, which key and why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One channel's place in the device: table, address, type, scaling, range."""

    channel: str
    table: str
    address: int
    data_type: str
    byte_order: str
    word_order: str
    scalar: float
    offset: float
    bit_start: int | None
    bit_end: int | None
    writable: bool
    minimum: float
    maximum: float

    @property
    def width(self) -> int:
        """Registers or bits that it takes."""
        code = STRUCT_CODES.get(self.data_type)
        if self.table in ("coils", "discretes") or code is None:
            return 1
        return struct.calcsize(code) // 2

    @property
    def scaled(self) -> bool:
        """Patterns of bits are not scaled."""
        return self.data_type not in WHOLE_TYPES


@dataclass(frozen=True, slots=True)
class Device:
    """An instrument file: who it is, where it listens, its channels as the JSON has them."""

    name: str
    file: Path
    protocol: str
    host: str
    port: int
    unit: int
    tags: dict[str, Any]
    channels: dict[str, dict[str, Any]]


def load_device(site: Path, instrument: str, place: tuple[str, int] | None = None) -> Device:
    """Read ``<site>/<instrument>.json``, or the file that the equipment list gives it.

    `place` is where it listens, host and port; without it what the file says.
    Raises DeviceFileError where there is none, or where it names no address to listen on.
    """
    path = _instrument_file(site, instrument)
    content = _with_template(site, path, _read_json(path))
    try:
        tags, channels = content["EquipmentTags"], content["Channels"]
        connection = tags.get("Connection") or {}
        active = {k: v for k, v in channels.items() if v.get("Active", True)}
        return Device(
            name=str(tags["EquipmentName"]),
            file=path,
            protocol=str(tags["Communication"]),
            host=place[0] if place else str(connection.get("IP") or "127.0.0.1"),
            port=place[1] if place else int(tags["PortNum"]),
            unit=int(connection.get("Unit") or 1),
            tags=tags,
            channels=active,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceFileError(f"{path}: no instrument file ({error!r})") from error


def _with_template(site: Path, path: Path, content: Any) -> Any:
    """The instrument file joined with the template that it names."""
    name = template_of(content)
    if name is None:
        return content
    templates = Templates(Files(site))
    _, template = templates.content(path.name, name)
    if not isinstance(template, dict):
        raise DeviceFileError(f"{path}: no template {name!r}")
    return merged(template, content)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DeviceFileError(f"{path}: no JSON: {error}") from error


def _instrument_file(site: Path, instrument: str) -> Path:
    for config in sorted(site.glob("*-Config.json")):
        entry = _read_json(config).get("Equipment", {}).get(instrument)
        if entry is not None:
            return site / str(entry["Config"])
    raise DeviceFileError(f"{site}: no *-Config.json lists an equipment {instrument}")


def slots_of(device: Device) -> list[Slot]:
    """Where each channel of a Modbus device stands. Raises DeviceFileError for one that can't."""
    return [_slot(device, name, channel) for name, channel in device.channels.items()]


def _slot(device: Device, name: str, channel: dict[str, Any]) -> Slot:
    key = f"{device.file.name}: Channels.{name}"
    data_type = str(channel.get("DataType", "float32")).lower()
    table = TABLES.get(str(channel.get("Type", "")), "coils")
    if table in ("holding", "inputs") and data_type not in (*STRUCT_CODES, *WHOLE_TYPES):
        raise DeviceFileError(f"{key}: no register holds the data type {data_type}")
    try:
        return Slot(
            channel=name,
            table=table,
            address=int(channel["IOPoint"]),
            data_type=data_type,
            byte_order=str(channel.get("ByteOrder") or device.tags.get("ByteOrder", "Big")),
            word_order=str(channel.get("WordOrder") or device.tags.get("WordOrder", "Big")),
            scalar=float(channel.get("Scalar", 1.0)),
            offset=float(channel.get("Offset", 0.0)),
            bit_start=channel.get("BitStart"),
            bit_end=channel.get("BitEnd"),
            writable="W" in str(channel.get("ReadWrite", "R")),
            minimum=float(channel.get("Minimum", -math.inf)),
            maximum=float(channel.get("Maximum", math.inf)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceFileError(f"{key}: no address, scaling or range ({error!r})") from error


def put(bank: RegisterBank, slot: Slot, value: float) -> None:
    """Write an engineering value into its registers, as the device would show it.

    What a data type can't show is shown as its nearest end; NaN as NaN, or as 0 in whole types
    (a channel that can be without a value should be a float).
    """
    if slot.table in ("coils", "discretes"):
        getattr(bank, slot.table)[slot.address] = value > 0.5
        return
    raw = value / slot.scalar - slot.offset if slot.scaled else value
    if slot.data_type in WHOLE_TYPES:
        _put_bits(bank, slot, 0 if math.isnan(raw) else round(raw))
        return
    code = STRUCT_CODES[slot.data_type]
    if code not in "efd":
        raw = _clipped(raw, code)
    bank.put(slot.table, slot.address, raw, slot.data_type, slot.byte_order, slot.word_order)


def _clipped(raw: float, code: str) -> int:
    bits = 8 * struct.calcsize(code)
    low, high = (0, 2**bits - 1) if code.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return 0 if math.isnan(raw) else int(min(max(round(raw), low), high))


def _bits(slot: Slot) -> tuple[int, int]:
    """Lowest bit and mask (at bit 0) of a bit field; the whole word where none is declared."""
    if slot.bit_start is None:
        return 0, 0xFFFF
    low = int(slot.bit_start)
    high = int(slot.bit_end if slot.bit_end is not None else low)
    return min(low, high), (1 << (abs(high - low) + 1)) - 1


def _put_bits(bank: RegisterBank, slot: Slot, number: int) -> None:
    low, mask = _bits(slot)
    words = getattr(bank, slot.table)
    words[slot.address] = (int(words[slot.address]) & ~(mask << low)) | ((number & mask) << low)


def get(bank: RegisterBank, slot: Slot) -> float:
    """The engineering value that stands in the registers now."""
    if slot.table in ("coils", "discretes"):
        return float(getattr(bank, slot.table)[slot.address])
    if slot.data_type in WHOLE_TYPES:
        low, mask = _bits(slot)
        return float((int(getattr(bank, slot.table)[slot.address]) >> low) & mask)
    raw = bank.get(slot.table, slot.address, slot.data_type, slot.byte_order, slot.word_order)
    return (raw + slot.offset) * slot.scalar if slot.scaled else raw
