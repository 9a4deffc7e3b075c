"""A small real site: one Modbus device on a loopback port, an alarm, a trip."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from drivers.sim.modbus_server import ModbusServer, RegisterBank

CONFIG: dict[str, Any] = {
    "SystemTags": {"SystemName": "Small", "Personality": "Personality.json"},
    "Equipment": {"Rig": {"Config": "Rig.json"}},
    "DataSampling": {"Fast": {"FilterKey": "Fast", "Rate": 20, "Unit": "ms"}},
    "Scan": {"Period": 20, "Unit": "ms"},
}
CHANNELS: dict[str, Any] = {
    "Temperature": {
        "Type": "IRegister",
        "DataType": "float32",
        "IOPoint": 0,
        "Units": "degC",
        "Tags": ["Fast"],
    },
    "Valve": {
        "Type": "Coil",
        "DataType": "bool",
        "ReadWrite": "RW",
        "IOPoint": 0,
        "SafeValue": 0,
        "States": ["closed", "open"],
        "Tags": ["Fast"],
    },
    "Setpoint": {
        "Type": "HRegister",
        "DataType": "float32",
        "ReadWrite": "RW",
        "IOPoint": 0,
        "Minimum": 0,
        "Maximum": 100,
        "SafeValue": 5,
        "Units": "degC",
        "Tags": ["Fast"],
    },
}
ALARMS: dict[str, Any] = {
    "AlarmStates": {
        "Alarms/E_Stop": {"When": "Gateway.E_Stop == 1", "Level": "Critical", "Latch": True},
        "Alarms/Hot": {"When": "Rig.Temperature >= 900 hysteresis 10", "Level": "High"},
    }
}
CONTROLS: dict[str, Any] = {
    "Automatic_Controls": {
        "Control/E_Stop": {"When": "alarm('Alarms/E_Stop')", "Method": "Close"},
        "Control/OverTemp": {"When": "Rig.Temperature >= 900", "Method": "Close"},
    },
    "Control_Methods": {
        "Close": [{"Topic": "Relay/Request/Rig", "Payload": {"Channels": {"Valve": "OFF"}}}]
    },
}
PERSONALITY: dict[str, Any] = {
    "Components": {"AlarmStates": "Alarms.json", "ControlStates": "Controls.json"}
}


class Rig:
    """The device: its registers, its server, and the site folder that describes it."""

    def __init__(self, folder: Path) -> None:
        self.bank = RegisterBank()
        self.server = ModbusServer(self.bank)
        self.folder = folder / "site"
        self.state = folder / "state"
        self.port = 0

    async def start(self, **tags: Any) -> None:
        """Serve 20 degC and write the site folder; `tags` go into EquipmentTags."""
        self.temperature(20.0)
        self.port = await self.server.start()
        self.folder.mkdir()
        self.write(tags=tags)

    async def stop(self) -> None:
        """Close the device."""
        await self.server.stop()

    def write(
        self,
        tags: dict[str, Any] | None = None,
        channels: dict[str, Any] | None = None,
        link: dict[str, Any] | None = None,
    ) -> None:
        """Write the site folder."""
        rig = {
            "EquipmentTags": {
                "EquipmentName": "Rig",
                "Communication": "ModbusTcpGeneric",
                "PortNum": self.port,
                "Connection": {"IP": "127.0.0.1", "Unit": "1"},
                "Timeout": 0.3,
                "Retries": 0,
                **(tags or {}),
            },
            "Channels": CHANNELS | (channels or {}),
        }
        files = {
            "Small-Config.json": CONFIG,
            "Rig.json": rig,
            "Personality.json": PERSONALITY,
            "Alarms.json": ALARMS,
            "Controls.json": CONTROLS,
            "link.json": link or {"OpcUa": {"Active": False}},
        }
        for name, content in files.items():
            (self.folder / name).write_text(json.dumps(content), encoding="utf-8")

    def temperature(self, value: float) -> None:
        """What the thermocouple shows."""
        self.bank.put_float32("inputs", 0, value)

    @property
    def valve(self) -> bool:
        """Whether the valve is open."""
        return bool(self.bank.coils[0])


async def eventually(condition: Any, seconds: float = 15.0) -> None:
    """Wait until a condition holds; raises TimeoutError where it never does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
