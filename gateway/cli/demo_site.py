"""A private copy of a site for the demonstration, with ports that are free on this machine."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from config.load import topic_name
from gateway.cli.output import CommandFailed

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class DemoSite:
    """The copy: its name in topics, its folder, and where everything listens.

    instruments   equipment -> port, the active ones of the equipment list
    broker_url    ``mqtt://127.0.0.1:port``, as link.json has it
    opcua_url     endpoint of the OPC UA server; empty where it isn't active
    """

    name: str
    folder: Path
    instruments: Mapping[str, int]
    broker_port: int
    broker_url: str
    opcua_url: str


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def copy_site(source: Path, target: Path) -> DemoSite:
    """Copy the JSON files of `source` into the new folder `target` and give them free ports.

    Every instrument that has a port is moved to this machine. Raises CommandFailed where a file
    isn't what a site folder holds; `gatepost check` says more about it.
    """
    target.mkdir(parents=True, exist_ok=True)
    files = {file.name: _read(file) for file in sorted(source.glob("*.json"))}
    root = next((name for name in files if name.endswith("-Config.json")), None)
    if root is None:
        raise CommandFailed(f"{source}: no *-Config.json, so it is no site folder")
    try:
        equipment = files[root]["Equipment"]
        active = {k: str(v["Config"]) for k, v in equipment.items() if v.get("Active", True)}
        system_name = str(files[root]["SystemTags"]["SystemName"])
        ports = free_ports(len(active) + 2)
        for file, port in zip(active.values(), ports, strict=False):
            _move(files[file]["EquipmentTags"], port)
        link = files.setdefault("link.json", {})
        broker_url, opcua_url = _move_link(link, broker_port=ports[-2], opcua_port=ports[-1])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CommandFailed(f"{source}: gatepost check shows what is wrong ({error!r})") from error
    for file, content in files.items():
        (target / file).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return DemoSite(
        name=str(link.get("Site") or topic_name(system_name)),
        folder=target,
        instruments=dict(zip(active, ports, strict=False)),
        broker_port=ports[-2],
        broker_url=broker_url,
        opcua_url=opcua_url,
    )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CommandFailed(f"{file}: {error}") from error


def _move(tags: dict[str, Any], port: int) -> None:
    tags["PortNum"] = port
    tags["Connection"] = {**(tags.get("Connection") or {}), "IP": HOST}
    tags.pop("VISA_address", None)  # it goes before the two and names the real instrument


def _move_link(link: dict[str, Any], *, broker_port: int, opcua_port: int) -> tuple[str, str]:
    broker_url = f"mqtt://{HOST}:{broker_port}"
    link["Broker"] = {**link.get("Broker", {}), "URL": broker_url}
    link["Broker"].pop("PasswordFile", None)  # the demonstration's broker asks for none
    opcua = link.setdefault("OpcUa", {})
    path = urlsplit(opcua.get("Endpoint", "opc.tcp://x/gatepost")).path
    opcua["Endpoint"] = urlunsplit(("opc.tcp", f"{HOST}:{opcua_port}", path, "", ""))
    return broker_url, opcua["Endpoint"] if opcua.get("Active", True) else ""
