"""Simulated devices beside a command that runs in this thread, and site folders for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivers.sim.listener import Listener
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.scpi_server import ScpiServer


class Devices:
    """A loop in a thread of its own; the servers run on it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[Listener] = []
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Any) -> Any:
        """Await something on that loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def start(self, server: Listener) -> int:
        """Start a server; returns its port."""
        self._servers.append(server)
        return int(self.run(server.start()))

    def stop(self) -> None:
        """End everything."""
        for server in self._servers:
            self.run(server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def devices() -> Iterator[Devices]:
    """Devices, ended at the end."""
    made = Devices()
    try:
        yield made
    finally:
        made.stop()


class Supply:
    """An SCPI power supply."""

    def __init__(self) -> None:
        self.answers = {"*IDN?": "ACME,PSU 100,SN7,1.2", "MEAS:VOLT?": "47.9", "VOLT?": "48"}
        self.heard: list[str] = []
        self.server = ScpiServer(self.handle)

    def handle(self, message: str) -> str | None:
        """The answer to one message."""
        self.heard.append(message)
        if message.startswith("VOLT "):
            self.answers["VOLT?"] = message.split()[1]
        return self.answers.get(message)


class Meter:
    """A Modbus device with 20 holding registers from 100 on and 5 coils."""

    def __init__(self, unit: int = 3) -> None:
        self.bank = RegisterBank()
        self.bank.holding[100:120] = np.arange(1000, 1020)
        self.bank.allow_only("holding", [(100, 20)])
        self.bank.allow_only("inputs", [])
        self.bank.allow_only("coils", [(0, 5)])
        self.bank.allow_only("discretes", [])
        self.server = ModbusServer(self.bank, unit=unit)


SUPPLY_CHANNELS: dict[str, Any] = {
    "Voltage": {"RequestText": "MEAS:VOLT?", "DataType": "NR3", "Units": "V", "Tags": ["Fast"]},
    "Setpoint": {
        "RequestText": "VOLT?",
        "WriteText": "VOLT {value}",
        "DataType": "NR3",
        "ReadWrite": "RW",
        "Units": "V",
        "Tags": ["Fast"],
        "Minimum": 0,
        "Maximum": 60,
        "SafeValue": 0,
    },
}


def supply_file(port: int, **keys: Any) -> dict[str, Any]:
    """The instrument file of a Supply."""
    place = f"TCPIP::127.0.0.1::{port}::SOCKET"
    tags = {"EquipmentName": "PSU", "Communication": "SCPI", "VISA_address": place, "Timeout": 0.5}
    return {"EquipmentTags": tags | keys, "Channels": SUPPLY_CHANNELS}


def meter_file(port: int) -> dict[str, Any]:
    """The instrument file of a meter."""
    register = {"Type": "HRegister", "DataType": "uint16", "Tags": ["Fast"]}
    return {
        "EquipmentTags": {
            "EquipmentName": "Meter",
            "Communication": "ModbusTcpGeneric",
            "Connection": {"IP": "127.0.0.1", "Unit": 3},
            "PortNum": port,
            "GapMax": 32,
            "Timeout": 0.5,
        },
        "Channels": {
            "First": register | {"IOPoint": 100},
            "Last": register | {"IOPoint": 119},
            "On": {
                "Type": "Coil", "DataType": "bool", "IOPoint": 0, "ReadWrite": "RW",
                "States": ["Off", "On"], "Tags": ["Fast"], "SafeValue": 0,
            },
        },
    }  # fmt: skip


def write_site(folder: Path, **instruments: dict[str, Any]) -> Path:
    """A site folder with these instruments; scan class ``Fast`` of 100 ms."""
    folder.mkdir(exist_ok=True)
    root = {
        "SystemTags": {"SystemName": "bench"},
        "Equipment": {n: {"Active": True, "Config": f"{n}.json"} for n in instruments},
        "DataSampling": {"Fast": {"FilterKey": "Fast", "Rate": 100, "Unit": "ms"}},
    }
    (folder / "bench-Config.json").write_text(json.dumps(root))
    for name, content in instruments.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
