"""A small right site as a mapping, how to write it with one thing changed, and the demo site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config.load import require_site
from config.site import Site

CONFIG = "Mini-Config.json"
METER = "Meter.json"
SOEC_LAB = Path(__file__).parents[2] / "config" / "sites" / "soec-lab"


def soec_lab() -> Site:
    """The demo site as it is shipped."""
    return require_site(SOEC_LAB)


def mini_files() -> dict[str, Any]:
    """File name -> content of a site without any finding."""
    return {
        CONFIG: {
            "SystemTags": {"SystemName": "Mini"},
            "Equipment": {"Meter": {"Config": METER}},
            "DataSampling": {
                "Fast": {"FilterKey": "Fast", "Rate": 200, "Unit": "ms"},
                "Slow": {"FilterKey": "Slow", "Rate": 2},
            },
            "Scan": {"Period": 100},
        },
        METER: {
            "EquipmentTags": {
                "EquipmentName": "Meter",
                "Communication": "ModbusTcpGeneric",
                "PortNum": 502,
                "Connection": {"IP": "192.0.2.1", "Unit": 1},
            },
            "Channels": {
                "Power": {"Type": "IRegister", "IOPoint": 0, "Units": "W", "Tags": ["Slow"]},
                "Limit": {
                    "Type": "HRegister",
                    "IOPoint": 10,
                    "DataType": "uint16",
                    "Scalar": 0.1,
                    "ReadWrite": "RW",
                    "Minimum": 0,
                    "Maximum": 100,
                    "SafeValue": 50,
                    "Units": "%",
                    "Tags": ["Fast"],
                },
                "Relay": {
                    "Type": "Coil",
                    "IOPoint": 1,
                    "DataType": "bool",
                    "ReadWrite": "W",
                    "ReadBack": "Relay_State",
                    "SafeValue": 0,
                },
                "Relay_State": {
                    "Type": "DiscreteInputs",
                    "IOPoint": 1,
                    "DataType": "bool",
                    "Tags": ["Fast", "Slow"],
                },
            },
        },
    }


def change(files: dict[str, Any], file: str, key: str, value: Any) -> None:
    """Set the value at a path of keys, joined by dots; None removes the key."""
    *path, last = key.split(".")
    target = files.setdefault(file, {})
    for part in path:
        target = target.setdefault(part, {})
    if value is None:
        del target[last]
    else:
        target[last] = value


def write_site(folder: Path, files: dict[str, Any]) -> Path:
    """Write the files into `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
