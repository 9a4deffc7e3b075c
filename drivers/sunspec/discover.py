"""What a SunSpec device is and measures, as an instrument file that only needs to be looked at.

For commissioning: one connection, every model read once. Points that the device marks as "not
implemented" get no channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from config.model import Channel
from config.points import RESERVED_EQUIPMENT
from drivers.contract import Tap
from drivers.discovery import listed
from drivers.errors import Refused
from drivers.modbus.link import open_link
from drivers.sunspec.chain import READ_MAX, Found, Read, read_counts, read_registers, walk
from drivers.sunspec.models import (
    ENUMERATIONS,
    NUMBER_TYPES,
    Address,
    Group,
    Model,
    Offset,
    address_of,
    model_of,
)
from drivers.sunspec.values import BlockDecoder
from gateway.core.clock import Clock

COMMON: Final = 1  # the model that says who the device is
NAME_MAX: Final = 63
STATES_MAX: Final = 64
CHANNELS_MAX: Final = 10_000
_INDEXES_MAX: Final = 1_000  # of one group

_SCALES: Final = "sunssf"
_STRINGS: Final = {"manufacturer": "Mn", "model": "Md", "version": "Vr", "serial": "SN"}


@dataclass(frozen=True, slots=True)
class Discovery:
    """A device and what it has.

    models      in the order of the chain
    unknown     identifiers of models that have no definition; no channel reads them
    identity    ``manufacturer``, ``model``, ``version``, ``serial``: what model 1 says, or ``""``
    instrument  content of an instrument file
    notes       what was left out, and why
    """

    models: tuple[Found, ...]
    unknown: tuple[int, ...]
    identity: Mapping[str, str]
    instrument: dict[str, Any]
    notes: tuple[str, ...]


async def discover_device(
    host: str,
    port: int,
    unit: int,
    clock: Clock,
    *,
    timeout_s: float = 1.0,
    name: str = "",
    tags: Sequence[str] = ("MediumSpeed",),
    writable: bool = False,
    tap: Tap | None = None,
) -> Discovery:
    """Find and read all models of a device.

    name      EquipmentName; made from the device's model where it is empty
    tags      of every channel: the scan class
    writable  make controls RW; otherwise they are R and their description says that they can be
              written, because a control that nobody asked for is a risk

    Raises DriverError; Garbled where the device has no SunSpec map.
    """
    link = await open_link(host, port, timeout_s, 1, clock, tap)
    try:

        async def read(first: int, count: int) -> bytes:
            return await read_registers(link, unit, first, count)

        chain = tuple((await walk(read)).models.values())
        surveys: list[_Survey] = []
        notes: list[str] = []
        for found in chain:
            model = model_of(found.model)
            if model is None:
                continue
            try:
                surveys.append(await _survey(read, model, found))
            except Refused as refusal:
                notes.append(f"model {found.model} could not be read: {refusal}")
    finally:
        link.close()
    identity = _identity(surveys)
    channels = _channels(surveys, tags, writable, notes)
    return Discovery(
        models=chain,
        unknown=tuple(found.model for found in chain if model_of(found.model) is None),
        identity=identity,
        instrument={
            "EquipmentTags": {
                "EquipmentName": name or _equipment_name(identity),
                "EquipmentType": " ".join(
                    filter(None, (identity["manufacturer"], identity["model"]))
                ),
                "Communication": "SunSpec",
                "Connection": {"IP": host, "Unit": unit},
                "PortNum": port,
                "Reference": listed(serial_number=identity["serial"], version=identity["version"]),
            },
            "Channels": channels,
        },
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Survey:
    """A model of the device with all of its registers."""

    model: Model
    found: Found
    counts: Mapping[str, int]
    data: bytes


async def _survey(read: Read, model: Model, found: Found) -> _Survey:
    counts = await read_counts(read, model, found)
    size, data = 2 + found.length, b""
    for first in range(0, size, READ_MAX):
        data += await read(found.address + first, min(READ_MAX, size - first))
    return _Survey(model, found, counts, data)


# ---------------------------------------------------------------- who it is


def _identity(surveys: Sequence[_Survey]) -> dict[str, str]:
    for survey in surveys:
        if survey.model.id == COMMON:
            points = survey.model.group.points
            return {key: _text(survey, points[name].place) for key, name in _STRINGS.items()}
    return dict.fromkeys(_STRINGS, "")


def _text(survey: _Survey, place: int) -> str:
    words = next(p.words for p in survey.model.group.points.values() if p.place == place)
    data = survey.data[2 * place : 2 * (place + words)]
    text = data.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(sign for sign in text if sign.isprintable()).strip()


def _equipment_name(identity: Mapping[str, str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", identity["model"]).strip("_-")[: NAME_MAX - 7]
    if not name:
        return "SunSpec"
    return f"{name}_device" if name in RESERVED_EQUIPMENT else name


# ---------------------------------------------------------------- what it measures


def _channels(
    surveys: Sequence[_Survey], tags: Sequence[str], writable: bool, notes: list[str]
) -> dict[str, dict[str, Any]]:
    channels: dict[str, dict[str, Any]] = {}
    for survey in surveys:
        for address, power in _implemented(survey):
            if len(channels) >= CHANNELS_MAX:
                notes.append(f"only the first {CHANNELS_MAX} points have a channel")
                return channels
            name = _channel_name(survey.model, address, channels)
            channels[name] = _channel(address, power, tags, writable)
    return channels


def _implemented(survey: _Survey) -> Iterator[tuple[Address, float | None]]:
    """The points that have a value, each with its power of ten."""
    size = len(survey.data) // 2
    # Each number has a register of its own, so what a device counts beyond that is nothing.
    named = [address_of(path) for path in islice(_paths(survey), size)]
    here = [
        replace(
            address,
            at=Offset(address.at.registers(survey.counts)),
            scale=Offset(address.scale.registers(survey.counts))
            if isinstance(address.scale, Offset)
            else address.scale,
        )
        for address in named
    ]
    pairs = [
        (address, placed)
        for address, placed in zip(named, here, strict=True)
        if placed.at.fixed + placed.point.words <= size
        and not (isinstance(placed.scale, Offset) and placed.scale.fixed >= size)
    ]
    if not pairs:
        return
    plain = [Channel() for _ in pairs]
    decode = BlockDecoder([placed for _, placed in pairs], plain, Offset(0), size)
    values, factors = decode(survey.data, {})
    for (address, placed), value in zip(pairs, values.tolist(), strict=True):
        if value == value:
            power: float | None = placed.scale if isinstance(placed.scale, int) else None
            if isinstance(placed.scale, Offset):
                power = factors[placed.scale.fixed]
            yield address, power


def _paths(survey: _Survey) -> Iterator[str]:
    """Names of all numbers of a model of the device, but for identifier, length and factors."""
    found = survey.found
    start = str(found.model) if found.instance == 1 else f"{found.model}[{found.instance}]"
    top = survey.model.group

    def walk_group(group: Group, path: str) -> Iterator[str]:
        for point in group.points.values():
            if group is top and point.name in ("ID", "L"):
                continue
            if point.type in NUMBER_TYPES and point.type != _SCALES:
                yield f"{path}.{point.name}"
        for inner in group.groups.values():
            if inner.count is None:
                yield from walk_group(inner, f"{path}.{inner.name}")
                continue
            number = inner.count if isinstance(inner.count, int) else survey.counts[inner.count]
            for index in range(1, min(number, _INDEXES_MAX) + 1):
                yield from walk_group(inner, f"{path}.{inner.name}[{index}]")

    return walk_group(top, start)


def _channel_name(model: Model, address: Address, taken: Mapping[str, object]) -> str:
    """Model and point, e.g. ``DERMeasureAC_W``; with the model's number where that is too long."""
    path = re.sub(r"[^A-Za-z0-9_-]+", "_", address.text.partition(".")[2]).strip("_")
    instance = f"_{address.instance}" if address.instance > 1 else ""
    for prefix in (model.group.name, f"M{model.id}"):
        name = f"{prefix}{instance}_{path}"
        if len(name) <= NAME_MAX and name not in taken:
            return name
    tail = f"_{len(taken)}"
    return f"M{model.id}{instance}_{path}"[: NAME_MAX - len(tail)] + tail


def _channel(
    address: Address, power: float | None, tags: Sequence[str], writable: bool
) -> dict[str, Any]:
    point = address.point
    keys: dict[str, Any] = {"IOPoint": address.text}
    keys["ReadWrite"] = "RW" if writable and point.writable else "R"
    if point.units:
        keys["Units"] = point.units
    states = _states(address)
    if states:
        keys["States"] = states
    note = " (can be written)" if point.writable and not writable else ""
    if point.label or note:
        keys["Description"] = f"{point.label or point.name}{note}"
    if keys["ReadWrite"] == "RW" and not states:
        keys["Tolerance"] = 10.0 ** (power or 0)  # one step of the register
    keys["Tags"] = list(tags)
    return keys


def _states(address: Address) -> list[str]:
    """Names of the values 0, 1, 2, …; a number where the definition has no name."""
    symbols = {value: name for name, value in address.point.symbols.items()}
    if address.point.type not in ENUMERATIONS or not symbols:
        return []
    if min(symbols) < 0 or max(symbols) >= STATES_MAX:
        return []
    return [symbols.get(value, str(value)) for value in range(max(symbols) + 1)]
