"""The drivers that exist, one line each, and the checks that all instruments go through."""

from __future__ import annotations

from typing import Final

from config.findings import Finding
from config.site import Instrument, Site
from drivers import modbus, scpi
from drivers.addresses import module_findings
from drivers.contract import DriverProtocol

PROTOCOLS: Final[tuple[DriverProtocol, ...]] = (
    modbus.PROTOCOL,
    scpi.PROTOCOL,
)

# Communication names of the seed system that no driver speaks yet.
SEED_NAMES: Final = frozenset(
    (
        "DoubleModbusTcp",
        "MQTT",
        "ModbusRTU",
        "ModbusRTUDouble",
        "ModbusTcpKRBH",
        "Opto",
        "Ping",
        "PostGreSQL",
        "SingleModbusTcp",
        "Virtual",
    )
)


def protocol_of(communication: str) -> DriverProtocol | None:
    """The protocol of a `Communication` name; None where there is no driver for it."""
    for protocol in PROTOCOLS:
        if communication in protocol.names:
            return protocol
    return None


def check_instrument(instrument: Instrument) -> list[Finding]:
    """Findings of one instrument: its driver's own, and those that concern every driver."""
    protocol = protocol_of(instrument.tags.Communication)
    findings = [_missing(instrument)] if protocol is None else protocol.check(instrument)
    return findings + module_findings(instrument)


def check_instruments(site: Site) -> list[Finding]:
    """Findings of all active instruments of a site."""
    return [finding for i in site.instruments.values() for finding in check_instrument(i)]


def _missing(instrument: Instrument) -> Finding:
    name = instrument.tags.Communication
    known = ", ".join(name for protocol in PROTOCOLS for name in protocol.names)
    what = "has no driver yet" if name in SEED_NAMES else "is no Communication that we know"
    return Finding(
        instrument.file,
        "EquipmentTags.Communication",
        "driver-missing",
        f"'{name}' {what}. There are drivers for {known}. Use one of these, or set the "
        "instrument's Active to false.",
    )
