"""The drivers that exist, one line each, and the checks that all instruments go through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from config.findings import Finding
from config.model import REQUEST_TOPIC
from config.points import state_number
from config.site import Instrument, Site
from drivers import ping, virtual
from drivers.addresses import module_findings
from drivers.contract import DriverProtocol
from drivers.modbus import rtu as modbus_rtu
from drivers.modbus import tcp as modbus
from drivers.mqtt import driver as mqtt
from drivers.opcua import driver as opcua
from drivers.opto import driver as opto
from drivers.pmu import driver as pmu
from drivers.postgresql import driver as postgresql
from drivers.scpi import driver as scpi
from drivers.sunspec import driver as sunspec

PROTOCOLS: Final[tuple[DriverProtocol, ...]] = (
    modbus.PROTOCOL,
    modbus_rtu.PROTOCOL,
    mqtt.PROTOCOL,
    opcua.PROTOCOL,
    opto.PROTOCOL,
    ping.PROTOCOL,
    pmu.PROTOCOL,
    postgresql.PROTOCOL,
    scpi.PROTOCOL,
    sunspec.PROTOCOL,
    virtual.PROTOCOL,
)

# Communication names of the seed system that no driver speaks yet.
SEED_NAMES: Final = frozenset(
    (
        "DoubleModbusTcp",
        "ModbusRTUDouble",
        "ModbusTcpKRBH",
        "SingleModbusTcp",
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
    if protocol is None:
        findings = [_missing(instrument)]
    else:
        findings = protocol.check(instrument) + _keys_without_effect(instrument, protocol)
    return findings + module_findings(instrument) + _stray_expressions(instrument)


def _keys_without_effect(instrument: Instrument, protocol: DriverProtocol) -> list[Finding]:
    """Keys that other protocols read and this one does not, and that say something."""
    tags, findings = instrument.tags, []
    for key in sorted(frozenset().union(*(other.keys for other in PROTOCOLS)) - protocol.keys):
        value = getattr(tags, key)
        if value in (None, "", type(tags).model_fields[key].default):
            continue
        users = ", ".join(other.names[0] for other in PROTOCOLS if key in other.keys)
        text = f"{key} has no effect with {tags.Communication}; it is for {users}. Leave it out."
        findings.append(
            Finding(instrument.file, f"EquipmentTags.{key}", "key-without-effect", text, "warning")
        )
    return findings


def _stray_expressions(instrument: Instrument) -> list[Finding]:
    """Expressions of channels that a device gives."""
    if instrument.tags.Communication in virtual.PROTOCOL.names:
        return []
    return [
        Finding(
            instrument.file,
            f"Channels.{name}.Expression",
            "expression-not-virtual",
            "Only channels of an instrument with Communication Virtual are calculated. Move it "
            "there, or leave the Expression out.",
        )
        for name, channel in instrument.channels.items()
        if channel.Expression is not None
    ]


def check_instruments(site: Site) -> list[Finding]:
    """Findings of all active instruments of a site, and of what its logic writes to them."""
    findings = [finding for i in site.instruments.values() for finding in check_instrument(i)]
    return findings + modbus_rtu.check_lines(site.instruments.values()) + check_demands(site)


def check_demands(site: Site) -> list[Finding]:
    """Values that the logic gives to a channel whose data type can't hold them: the device would
    never get them.

    What is named wrongly is safety/effects.py's to find.
    """
    findings = []
    reasons: dict[tuple[str, str, float | str], str] = {}
    for key, equipment, channel, wanted in _demands(site):
        place = equipment, channel, wanted
        if place not in reasons:
            reasons[place] = _unwritable(site.instruments.get(equipment), channel, wanted)
        if reasons[place]:
            file = site.personality.controls_file
            findings.append(Finding(file, key, "value-not-settable", reasons[place]))
    return findings


def _demands(site: Site) -> Iterator[tuple[str, str, str, float | str]]:
    """(key, equipment, channel, value) of all that methods, controls, control states and grid
    functions write as their files say it."""
    personality = site.personality
    for name, steps in personality.methods.items():
        for at, step in enumerate(steps):
            equipment = step.Topic.removeprefix(REQUEST_TOPIC)
            key = f"Control_Methods.{name}[{at}].Payload.Channels"
            for channel, wanted in step.Payload.Channels.items():
                yield f"{key}.{channel}", equipment, channel, wanted
    for name, control in personality.controls.items():
        for tag, wanted in (control.Effects or {}).items():
            yield f"Automatic_Controls.{name}.Effects.{tag}", *_parts(tag), wanted
    for machine, declared in personality.machines.items():
        for name, state in declared.States.items():
            key = f"Control_States.{machine}.States.{name}"
            for what, values in (("Hold", state.Hold), ("Set", state.Set)):
                for tag, wanted in values.items():
                    yield f"{key}.{what}.{tag}", *_parts(tag), wanted
            for tag, ramp in state.Ramps.items():
                for at, segment in enumerate(ramp.Segments):
                    yield f"{key}.Ramps.{tag}.Segments[{at}].To", *_parts(tag), segment.To
    for name, function in personality.functions.items():
        if function.BadValue is not None and getattr(function, "Role", "") != "Offset":
            key = f"Grid_Functions.{name}.BadValue"
            yield key, *_parts(function.Output), function.BadValue


def _parts(tag: str) -> tuple[str, str]:
    """Equipment and channel of a tag."""
    equipment, _, channel = tag.partition(".")
    return equipment, channel


def _unwritable(instrument: Instrument | None, name: str, wanted: float | str) -> str:
    """Why a driver would refuse to write a value; empty where it would not."""
    if instrument is None or name not in instrument.channels:
        return ""
    protocol, channel = protocol_of(instrument.tags.Communication), instrument.channels[name]
    value = state_number(channel.States, wanted) if isinstance(wanted, str) else wanted
    if protocol is None or value is None:  # ON and OFF are 1 and 0, which every type holds
        return ""
    # The driver checks the values that a channel declares, so let it declare this one.
    trial = channel.model_copy(update={"SafeValue": float(value)})
    for finding in protocol.check(replace(instrument, channels={name: trial})):
        if finding.rule == "value-range" and finding.key.endswith(".SafeValue"):
            return finding.message.removeprefix("SafeValue ")
    return ""


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
