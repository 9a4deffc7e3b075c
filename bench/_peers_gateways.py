"""The gateways of `bench.peers`: how each is configured for the same devices, started, ended.

Each is given what its own documentation advises for many values: blocks of 125 registers, QoS 1,
no logging beyond warnings, no deadband, every reading reported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from bench import _peers_setup as peers_setup

BLOCK: Final = 125  # registers of one request
END_S: Final = 15.0
HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a gateway: every register of every device, once a period."""

    devices: int
    registers: int
    period_ms: float
    tuned_for_latency: bool = False
    block: int = BLOCK  # registers of one request

    @property
    def points(self) -> int:
        """Registers of all devices."""
        return self.devices * self.registers

    @property
    def values_per_s(self) -> float:
        """Demand."""
        return self.points * 1000 / self.period_ms


class Gateway(ABC):
    """One gateway process with its children."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, load: Load, ports: Sequence[int], broker_port: int) -> list[str]:
        """Write the configuration; returns the command that starts the gateway."""

    def environment(self) -> Mapping[str, str]:
        """What the gateway finds in its environment beside ours."""
        return {}

    def start(self, load: Load, ports: Sequence[int], broker_port: int) -> None:
        """Start it; it needs some seconds until values come."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._command = self.command(load, ports, broker_port)
        self.start_again()

    def start_again(self) -> None:
        """Start it with the files that it has."""
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """The process that was started, and all below it."""
        assert self._process is not None, "start it first"
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Processor seconds that the tree has used."""
        used = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
        return used

    def resident_mb(self) -> float:
        """Resident set of the tree, 10^6 bytes."""
        return self.resident_of(self.processes())

    def resident_of(self, processes: Sequence[psutil.Process]) -> float:
        """Resident set of some processes, 10^6 bytes."""
        total = 0
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 1e6

    def log_end(self) -> str:
        """The last lines that it said."""
        text = (self.folder / "output.log").read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.strip().splitlines()[-5:])

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """``kill -9`` of the whole tree."""
        assert self._process is not None, "start it first"
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()

    def end(self) -> None:
        """End the tree, in order where that is possible."""
        if self._process is None:
            return
        tree = self.processes()
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            pass
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()


class Gatepost(Gateway):
    """Ours: `gatepost run` with both processes, frames acknowledged end to end, store on disk."""

    name = "gatepost"

    def command(self, load: Load, ports: Sequence[int], broker_port: int) -> list[str]:
        """See Gateway."""
        site = self.folder / "site"
        site.mkdir()
        # Two scans a period: none of two readings ever falls between the same two scans.
        scan_ms = 20 if load.tuned_for_latency else max(10.0, min(100.0, load.period_ms / 2))
        equipment = {f"Dev{n}": {"Config": f"Dev{n}.json"} for n in range(len(ports))}
        files: dict[str, Any] = {
            "Bench-Config.json": {
                "SystemTags": {"SystemName": "Bench"},
                "Equipment": equipment,
                "DataSampling": {
                    "All": {"FilterKey": "All", "Rate": float(load.period_ms), "Unit": "ms"}
                },
                "Scan": {"Period": scan_ms, "Unit": "ms"},
            },
            "link.json": {
                "Broker": {"URL": f"mqtt://{HOST}:{broker_port}"},
                "OpcUa": {"Active": False},
                "Store": self._store(load),
            },
        }
        for number, port in enumerate(ports):
            files[f"Dev{number}.json"] = self._instrument(number, port, load)
        for name, content in files.items():
            (site / name).write_text(json.dumps(content), encoding="utf-8")
        state = self.folder / "state"
        return [sys.executable, "-m", "gateway.cli.app", "run", str(site), "--state", str(state)]

    def environment(self) -> Mapping[str, str]:
        """The gateway beside this file, whatever is installed."""
        return {"PYTHONPATH": str(Path(__file__).parents[1])}

    def _store(self, load: Load) -> dict[str, Any]:
        if load.tuned_for_latency:
            return {"FrameInterval": 0.001}
        return {"FrameRecordsMax": 50_000}

    def _instrument(self, number: int, port: int, load: Load) -> dict[str, Any]:
        return {
            "EquipmentTags": {
                "EquipmentName": f"Dev{number}",
                "Communication": "ModbusTcp",
                "Connection": {"IP": HOST, "Unit": 1},
                "PortNum": port,
                "Depth": 8,
                "BlockMax": load.block,
                "Timeout": 2,
            },
            "Channels": {
                f"r{at}": {
                    "Type": "HRegister",
                    "DataType": "uint16",
                    "IOPoint": at,
                    "Tags": ["All"],
                }
                for at in range(load.registers)
            },
        }

    def both_mb(self) -> float:
        """Resident set of field and link, without their supervisor."""
        names = ("gateway.field", "gateway.link")
        chosen = [p for p in self.processes() if any(n in p.cmdline() for n in names)]
        assert len(chosen) == 2, "one field and one link process"
        return self.resident_of(chosen)


class ThingsBoard(Gateway):
    """ThingsBoard IoT Gateway 3.8.5: one slave a device, one range a slave, 125 registers a block.

    Storage is SQLite, as its documentation advises where data must survive a restart.
    """

    name = "thingsboard"

    def command(self, load: Load, ports: Sequence[int], broker_port: int) -> list[str]:
        """See Gateway."""
        python = peers_setup.thingsboard()
        config = self.folder / "config"
        config.mkdir()
        (self.folder / "data").mkdir()
        slaves = [self._slave(n, port, load) for n, port in enumerate(ports)]
        files: dict[str, Any] = {
            "tb_gateway.json": self._general(broker_port),
            "modbus.json": {"master": {"slaves": slaves}},
            "logs.json": {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"console": {"class": "logging.StreamHandler", "level": "WARNING"}},
                "root": {"handlers": ["console"], "level": "WARNING"},
            },
        }
        for name, content in files.items():
            (config / name).write_text(json.dumps(content), encoding="utf-8")
        return [str(python), "-c", "from thingsboard_gateway.tb_gateway import daemon; daemon()"]

    def environment(self) -> Mapping[str, str]:
        """Where its configuration is."""
        return {"TB_GW_CONFIG_DIR": f"{self.folder / 'config'}/"}

    def _general(self, broker_port: int) -> dict[str, Any]:
        return {
            "thingsboard": {
                "host": HOST,
                "port": broker_port,
                "remoteShell": False,
                "remoteConfiguration": False,
                "statistics": {"enable": False},
                "maxPayloadSizeBytes": 1_000_000,
                "minPackSendDelayMS": 50,
                "minPackSizeToSend": 500,
                "qos": 1,
                "reportStrategy": {"type": "ON_RECEIVED"},
                "security": {"type": "accessToken", "accessToken": "bench"},
                "checkConnectorsConfigurationInSeconds": 60,
            },
            "storage": {"type": "sqlite", "data_file_path": f"{self.folder / 'data'}/"},
            "grpc": {"enabled": False},
            "connectors": [
                {"name": "Modbus", "type": "modbus", "configuration": "modbus.json", "id": "bench"}
            ],
        }

    def _slave(self, number: int, port: int, load: Load) -> dict[str, Any]:
        return {
            "host": HOST,
            "port": port,
            "type": "tcp",
            "method": "socket",
            "unitId": 1,
            "deviceName": f"Dev{number}",
            "deviceType": "default",
            "timeout": 2,
            "byteOrder": "BIG",
            "wordOrder": "BIG",
            "pollPeriod": load.period_ms,
            "attributes": [],
            "timeseries": [
                {
                    "tag": "r${address}",
                    "type": "16uint",
                    "functionCode": 3,
                    "objectsCount": 1,
                    "address": f"0-{load.registers - 1}",
                    "maxRegistersPerRequest": load.block,
                }
            ],
        }


class NodeRed(Gateway):
    """Node-RED: a reading node a block, each wired to one `mqtt out`; the least it can do.

    Nothing is stored, and neither time nor name nor quality of a value is sent: a block is a
    bare list of numbers.
    """

    name = "nodered"

    def command(self, load: Load, ports: Sequence[int], broker_port: int) -> list[str]:
        """See Gateway."""
        installed = peers_setup.node_red()
        flows: list[dict[str, Any]] = [
            {"id": "tab", "type": "tab", "label": "bench"},
            {
                "id": "broker",
                "type": "mqtt-broker",
                "broker": HOST,
                "port": str(broker_port),
                "clientid": "nodered",
                "autoConnect": True,
                "protocolVersion": "4",
                "keepalive": "60",
                "cleansession": True,
            },
            {
                "id": "out",
                "z": "tab",
                "type": "mqtt out",
                "topic": "",
                "qos": "1",
                "retain": "false",
                "broker": "broker",
                "wires": [],
            },
        ]
        for number, port in enumerate(ports):
            flows.append(self._client(number, port))
            blocks = range(0, load.registers, load.block)
            flows += [self._read(number, first, load) for first in blocks]
        user = self.folder / "user"
        user.mkdir()
        (user / "flows.json").write_text(json.dumps(flows), encoding="utf-8")
        (user / "settings.js").write_text(
            "module.exports = { flowFile: 'flows.json', httpAdminRoot: false, uiHost: '127.0.0.1',"
            f" uiPort: 0, nodesDir: [], userDir: {json.dumps(str(user))},"
            " logging: { console: { level: 'warn' } } };\n",
            encoding="utf-8",
        )
        (user / "node_modules").symlink_to(installed / "node_modules")
        (user / "package.json").write_text(
            json.dumps({"name": "bench", "dependencies": peers_setup.NODE_RED}), encoding="utf-8"
        )
        program = installed / "node_modules" / "node-red" / "red.js"
        node = shutil.which("node")
        assert node is not None, "peers_setup looked for it"
        return [node, str(program), "--userDir", str(user), "--settings", str(user / "settings.js")]

    def _client(self, number: int, port: int) -> dict[str, Any]:
        return {
            "id": f"client{number}",
            "type": "modbus-client",
            "name": f"Dev{number}",
            "clienttype": "tcp",
            "bufferCommands": True,
            "stateLogEnabled": False,
            "queueLogEnabled": False,
            "failureLogEnabled": False,
            "tcpHost": HOST,
            "tcpPort": str(port),
            "tcpType": "DEFAULT",
            "unit_id": "1",
            "commandDelay": "1",
            "clientTimeout": "2000",
            "reconnectOnTimeout": True,
            "reconnectTimeout": "2000",
            "parallelUnitIdsAllowed": True,
        }

    def _read(self, number: int, first: int, load: Load) -> dict[str, Any]:
        return {
            "id": f"read{number}x{first}",
            "z": "tab",
            "type": "modbus-read",
            "name": "",
            "topic": f"bench/{number}/{first}",
            "showStatusActivities": False,
            "logIOActivities": False,
            "showErrors": False,
            "unitid": "1",
            "dataType": "HoldingRegister",
            "adr": str(first),
            "quantity": str(min(load.block, load.registers - first)),
            "rate": str(load.period_ms),
            "rateUnit": "ms",
            "delayOnStart": False,
            "startDelayTime": "",
            "server": f"client{number}",
            "useIOFile": False,
            "ioFile": "",
            "useIOForPayload": False,
            "emptyMsgOnFail": False,
            "wires": [["out"], []],
        }
