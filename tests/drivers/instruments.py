"""Instruments that the driver tests share, built from the keys of an instrument file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from config.model import InstrumentFile
from config.points import PointDef
from config.site import Instrument


def instrument(channels: dict[str, dict[str, Any]], **tags: Any) -> Instrument:
    """An instrument of the given channels; all in scan class ``Fast`` unless `Class` says so."""
    classes = {name: keys.pop("Class", "Fast") for name, keys in channels.items()}
    tags = {"EquipmentName": "Dev", "Communication": "ModbusTcpGeneric", "Timeout": 5.0} | tags
    file = InstrumentFile.model_validate({"EquipmentTags": tags, "Channels": channels})
    points = {
        name: PointDef(
            index=index,
            tag=f"Dev.{name}",
            equipment="Dev",
            channel=name,
            readable=channel.ReadWrite != "W",
            writable=channel.ReadWrite != "R",
            scan_class=classes[name] if channel.ReadWrite != "W" else "",
            safe_value=math.nan if channel.SafeValue is None else channel.SafeValue,
        )
        for index, (name, channel) in enumerate(file.Channels.items(), start=1)
    }
    return Instrument("Dev", "Dev.json", file.EquipmentTags, file.Channels, points)


def modbus(channels: dict[str, dict[str, Any]], port: int = 502, **tags: Any) -> Instrument:
    """A Modbus TCP device on loopback."""
    place = {"Connection": {"IP": "127.0.0.1", "Unit": "1"}, "PortNum": port}
    return instrument(channels, **place | tags)


def scpi(channels: dict[str, dict[str, Any]], port: int = 5025, **tags: Any) -> Instrument:
    """An SCPI instrument on loopback."""
    place = {"Communication": "SCPI", "VISA_address": f"TCPIP0::127.0.0.1::{port}::SOCKET"}
    return instrument(channels, **place | tags)


def sunspec(channels: dict[str, dict[str, Any]], port: int = 502, **tags: Any) -> Instrument:
    """A SunSpec device on loopback."""
    return modbus(channels, port, **{"Communication": "SunSpec"} | tags)


def opto(channels: dict[str, dict[str, Any]], port: int = 2001, **tags: Any) -> Instrument:
    """An Opto 22 controller on loopback."""
    return instrument(channels, **{"Communication": "Opto", "PortNum": port} | tags)


def json_examples(page: Path) -> list[str]:
    """The JSON blocks of a page of the documentation."""
    return re.findall(
        r"^```json\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


REPOSITORY = Path(__file__).resolve().parents[2]
