"""The simulated site: its folder, its devices, and what their registers held when."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import tempfile
from collections import deque
from pathlib import Path
from random import Random
from typing import Any, Final

from config.site import Site
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from gateway import kernel_cache
from gateway.field import prepare
from safety.layout import Program
from safety.native import Evaluate
from tests.sim.loop import Process, SimLoop
from tests.sim.network import Network

PORT: Final = 502
AGE_LIMIT_S: Final = 5.0
STEP_S: Final = 0.5  # the plant moves this often
HISTORY_MAX: Final = 2_000  # moves that are remembered
HOT: Final = 900.0
SAFE_SETPOINT: Final = 5.0
SITE: Final = "sim"

_ANALOG: Final = {"Tags": ["Slow"], "AgeLimit": AGE_LIMIT_S, "DataType": "float32", "Heartbeat": 20}
CHANNELS: Final[dict[str, dict[str, Any]]] = {
    "Rig": {
        "Temperature": _ANALOG | {"Type": "IRegister", "IOPoint": 0, "Units": "degC"},
        "Power": _ANALOG | {"Type": "IRegister", "IOPoint": 2, "Units": "kW", "Deadband": 1},
        "Valve": {
            "Type": "Coil",
            "DataType": "bool",
            "ReadWrite": "RW",
            "IOPoint": 0,
            "SafeValue": 0,
            "States": ["closed", "open"],
            "AgeLimit": AGE_LIMIT_S,
            "Tags": ["Slow"],
        },
        "Setpoint": _ANALOG
        | {
            "Type": "HRegister",
            "ReadWrite": "RW",
            "IOPoint": 0,
            "Minimum": 0,
            "Maximum": 100_000,
            "SafeValue": SAFE_SETPOINT,
            "Lease": 600,
        },
        "Plan": _ANALOG  # commanded by schedules only
        | {
            "Type": "HRegister",
            "ReadWrite": "RW",
            "IOPoint": 2,
            "Minimum": 0,
            "Maximum": 100_000,
            "SafeValue": SAFE_SETPOINT,
        },
    },
    "Meter": {
        "Energy": _ANALOG
        | {"Type": "IRegister", "IOPoint": 0, "DataType": "uint32", "Units": "kWh"},
        "Noise": _ANALOG | {"Type": "IRegister", "IOPoint": 2},
    },
}
_CONFIG: Final[dict[str, Any]] = {
    "SystemTags": {"SystemName": "Sim", "Personality": "Personality.json"},
    "Equipment": {name: {"Config": f"{name}.json"} for name in CHANNELS},
    "DataSampling": {"Slow": {"FilterKey": "Slow", "Rate": 1000, "Unit": "ms"}},
    "Scan": {"Period": 500, "Unit": "ms"},
}
_FILES: Final[dict[str, Any]] = {
    "Sim-Config.json": _CONFIG,
    "Personality.json": {
        "Components": {"AlarmStates": "Alarms.json", "ControlStates": "Controls.json"}
    },
    "Alarms.json": {
        "AlarmStates": {
            "Alarms/E_Stop": {"When": "Gateway.E_Stop == 1", "Level": "Critical", "Latch": True},
            "Alarms/Hot": {
                "When": f"Rig.Temperature >= {HOT - 100} hysteresis 10",
                "Level": "High",
                "Latch": True,
            },
        }
    },
    "Controls.json": {
        "Automatic_Controls": {
            "Control/E_Stop": {"When": "alarm('Alarms/E_Stop')", "Method": "Close"},
            "Control/OverTemp": {"When": f"Rig.Temperature >= {HOT}", "Method": "Close"},
        },
        "Control_Methods": {
            "Close": [{"Topic": "Relay/Request/Rig", "Payload": {"Channels": {"Valve": "OFF"}}}]
        },
    },
    "link.json": {
        "Site": SITE,
        "OpcUa": {"Active": False},
        "Broker": {"URL": "mqtt://127.0.0.1:1883"},
        "Links": {"customer": {"URL": "mqtt://127.0.0.1:1884"}},
        "Store": {"FrameInterval": 1.0, "BacklogRecordsPerSecond": 1000},
    },
}


def write_site(folder: Path) -> None:
    """Write the site folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, channels in CHANNELS.items():
        content = {
            "EquipmentTags": {
                "EquipmentName": name,
                "Communication": "ModbusTcpGeneric",
                "PortNum": PORT,
                "Connection": {"IP": name.lower(), "Unit": "1"},
                "Timeout": 1.0,
                "Retries": 0,
            },
            "Channels": channels,
        }
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    for name, content in _FILES.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


@functools.cache
def prepared() -> tuple[Site, Program, Evaluate]:
    """The site, its program and the machine code, read once for all runs of this process."""
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder))
        site, program = prepare(Path(folder))
        return site, program, kernel_cache.load(Path(folder))


class Device:
    """A Modbus device with a host of its own, and the record of what it held.

    writes  (virtual ns, table, first address, values) of every accepted write
    """

    def __init__(self, loop: SimLoop, network: Network, name: str) -> None:
        self.name = name
        self.host = name.lower()
        self.bank = RegisterBank()
        self.writes: deque[tuple[int, str, int, tuple[int, ...]]] = deque(maxlen=HISTORY_MAX)
        self._loop = loop
        self._network = network
        self._history: dict[str, deque[tuple[int, float]]] = {}
        self.server: ModbusServer
        self.process: Process

    def start(self) -> None:
        """Listen; registers are as they were left."""
        self.process = Process(self._loop, self.name, self.host)
        self.server = ModbusServer(self.bank, host=self.host, port=PORT, on_write=self._written)
        self.process.spawn(self.server.start())

    def _written(self, table: str, first: int, values: list[int]) -> None:
        self.writes.append((self._loop.now_ns, table, first, tuple(values)))
        self.note()

    def put(self, channel: str, value: float) -> None:
        """What a measurement shows from now on."""
        about = CHANNELS[self.name][channel]
        self.bank.put("inputs", about["IOPoint"], value, about["DataType"])

    def shown(self, channel: str) -> float:
        """What a register holds, as the gateway would read it."""
        about = CHANNELS[self.name][channel]
        if about["Type"] == "Coil":
            return float(self.bank.coils[about["IOPoint"]])
        table = "holding" if about["Type"] == "HRegister" else "inputs"
        return self.bank.get(table, about["IOPoint"], about["DataType"])

    def note(self) -> None:
        """Remember what every register holds now."""
        for channel in CHANNELS[self.name]:
            history = self._history.setdefault(channel, deque(maxlen=HISTORY_MAX))
            value = self.shown(channel)
            if not history or history[-1][1] != value:
                history.append((self._loop.now_ns, value))

    def held_since(self, channel: str, value: float, since_ns: int) -> bool:
        """True where a register held a value at any time since then."""
        for began_ns, held in reversed(self._history.get(channel, ())):
            if held == value:
                return True
            if began_ns <= since_ns:
                return False
        return True  # older than what is remembered

    def power_off(self) -> None:
        """Silent at once, as without power."""
        self.process.kill()
        self._network.host_died(self.host)

    def power_on(self) -> None:
        """Back, with outputs at what they were."""
        self._network.host_came(self.host)
        self.start()


class Plant:
    """The devices and the physics behind them."""

    def __init__(self, loop: SimLoop, network: Network, seed: int) -> None:
        self.devices = {name: Device(loop, network, name) for name in CHANNELS}
        self._random = Random(f"{seed}:plant")
        self._energy = 0
        self._hot_until_s = 0.0
        self._next_hot_s = self._random.uniform(20, 90)
        self._loop = loop
        self.calm = False  # nothing gets hot any more

    async def run(self) -> None:
        """Move until cancelled."""
        self.move()
        for device in self.devices.values():
            device.start()
        while True:
            await asyncio.sleep(STEP_S)
            self.move()

    def move(self) -> None:
        """One step of the physics."""
        rig, meter = self.devices["Rig"], self.devices["Meter"]
        now_s, draw = self._loop.time(), self._random
        if now_s >= self._next_hot_s and not self.calm:
            self._hot_until_s = now_s + draw.uniform(2, 30)
            self._next_hot_s = self._hot_until_s + draw.uniform(40, 200)
        hot = now_s < self._hot_until_s and not self.calm
        rig.put("Temperature", (950 if hot else 300) + round(draw.uniform(-30, 30), 1))
        rig.put("Power", round(50 + 20 * math.sin(now_s / 30) + draw.uniform(-2, 2), 2))
        self._energy += draw.randrange(3)
        meter.put("Energy", self._energy)
        meter.put("Noise", draw.uniform(-1, 1))
        for device in self.devices.values():
            device.note()
