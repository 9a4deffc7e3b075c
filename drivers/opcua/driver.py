"""OPC UA client: subscriptions where the server grants them, reads where it does not.

A server that has nothing to report still answers: each keep-alive says that the monitored values
are as they were, and they go out once more. So their ages stay true, and stop being renewed the
moment the server falls silent. Source: OPC 10000-4. The library is loaded with the first device.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Final, NamedTuple

import numpy as np

from config.findings import Finding
from config.model import Channel, EquipmentTags
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    data_type_faults,
    refuse,
    scalar_faults,
    shared_addresses,
    tag_findings,
)
from drivers.contract import Block, Driver, DriverProtocol, Surroundings
from drivers.inbox import DATA_TYPES, readable
from drivers.server_url import server_faults

SCHEME: Final = "opc.tcp"
PORT: Final = 4840  # registered with IANA

_NODE_ID: Final = re.compile(
    r"(?:ns=\d{1,5};|nsu=[^;]+;)?"
    r"(?:i=\d{1,10}|s=.+|g=[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|b=[A-Za-z0-9+/]+={0,2})",
    re.DOTALL,
)


class Target(NamedTuple):
    """A node that is read, and where its value goes."""

    node: str
    channel: Channel
    row: int


def _tag_faults(tags: EquipmentTags) -> list[Fault]:
    faults = server_faults(tags, SCHEME, None, PORT)
    files = {"CertificateFile": tags.CertificateFile, "KeyFile": tags.KeyFile}
    if tags.Security != "None":
        for key, file in files.items():
            if file is None:
                text = f"Security {tags.Security} needs a certificate of our own and its key."
                faults.append(Fault(key, "certificate-missing", text))
        if tags.ServerCertificateFile is None:
            text = "Any server's certificate is taken. Name the one that this device has."
            faults.append(Fault("ServerCertificateFile", "server-unverified", text, "warning"))
    return faults


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    faults += data_type_faults(channel, DATA_TYPES)
    if not _NODE_ID.fullmatch(str(channel.IOPoint or "")):
        text = "IOPoint is a NodeId: ns=2;s=Pump.Flow, or nsu=urn:maker:device;s=Pump.Flow."
        faults.append(Fault("IOPoint", "address-missing", text))
    return faults


def check(instrument: Instrument) -> list[Finding]:
    """All findings about server, security, NodeIds and types."""
    findings = tag_findings(instrument, _tag_faults(instrument.tags))
    slots: dict[str, list[Hashable]] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel)
        findings += channel_findings(instrument, name, faults)
        if not faults:
            slots[name] = [(channel.IOPoint, channel.ArrayPos)]
    return findings + shared_addresses(
        instrument, slots, lambda name: str(instrument.channels[name].IOPoint)
    )


def plan(instrument: Instrument) -> list[Block]:
    """One block a scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    classes: dict[str, list[Target]] = {}
    for name, channel in readable(instrument).items():
        point = instrument.points[name]
        target = Target(str(channel.IOPoint), channel, point.index)
        classes.setdefault(point.scan_class, []).append(target)
    return [
        Block(
            np.array([target.row for target in targets], dtype=np.int32),
            scan_class,
            tuple(targets),
            scan_class,
            pushed=True,
        )
        for scan_class, targets in classes.items()
    ]


def open_driver(instrument: Instrument, surroundings: Surroundings) -> Driver:
    """A driver, not yet connected."""
    from drivers.opcua.client import OpcUaDriver

    return OpcUaDriver(instrument, surroundings, plan(instrument))


PROTOCOL: Final = DriverProtocol(
    names=("OpcUa",),
    plan=plan,
    check=check,
    open=open_driver,
    pushes=True,
    keys=frozenset(
        (
            "Server",
            "PasswordFile",
            "Security",
            "CertificateFile",
            "KeyFile",
            "ServerCertificateFile",
        )
    ),
)
