"""Cross-checks of a loaded site: what each file alone can't show.

One small function a rule, listed in `CHECKS`. Addresses and data types are checked by the
drivers, rules by safety/compile.py; docs/checks.md has the table of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from config.check_bridge import BRIDGE_CHECKS
from config.check_bus import BUS_CHECKS
from config.check_form import FORM_CHECKS
from config.check_link import LINK_CHECKS
from config.check_watchdog import watchdog_faults
from config.findings import Finding, Severity
from config.model import Channel
from config.points import NO_POINT, PointDef
from config.site import Instrument, Site

PERIOD_NS_MIN: Final = 10_000_000  # below it the event loop's own jitter is the period

# Keys that say how an output behaves; on an input they would promise something untrue.
VIRTUAL: Final = "Virtual"  # the Communication of points without a device
OUTPUT_KEYS: Final = tuple("SafeValue Fallback RampRate RateMax Lease ReadBack Tolerance".split())

Check = Callable[[Site], Iterator[Finding]]


def check_site(site: Site) -> list[Finding]:
    """Every finding of every check in `CHECKS`, sorted by file and key."""
    return sorted(finding for _, check in CHECKS for finding in check(site))


# ---------------------------------------------------------------- channels


def _channels(site: Site) -> Iterator[tuple[Instrument, str, Channel, PointDef]]:
    for instrument in site.instruments.values():
        for name, channel in instrument.channels.items():
            yield instrument, name, channel, instrument.points[name]


def _at(
    instrument: Instrument,
    name: str,
    key: str,
    rule: str,
    message: str,
    severity: Severity = "error",
) -> Finding:
    return Finding(instrument.file, f"Channels.{name}.{key}", rule, message, severity)


def _range_reversed(site: Site) -> Iterator[Finding]:
    for instrument, name, _, point in _channels(site):
        if point.value_min > point.value_max:
            yield _at(
                instrument,
                name,
                "Minimum",
                "range-reversed",
                f"Minimum {point.value_min:g} is above Maximum {point.value_max:g}. Swap them.",
            )


def _declared(channel: Channel) -> Iterator[tuple[str, float]]:
    for key, value in (("SafeValue", channel.SafeValue), ("Fallback", channel.Fallback)):
        if value is not None:
            yield key, value


def _safe_value_range(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        for key, value in _declared(channel):
            if value < point.value_min or value > point.value_max:
                yield _at(
                    instrument,
                    name,
                    key,
                    "safe-value-range",
                    f"{value:g} is outside Minimum {point.value_min:g} and Maximum "
                    f"{point.value_max:g}. Correct the value or the range.",
                )


def _safe_value_state(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if point.kind != "discrete":
            continue
        # Without names a switch still has but two values.
        switch = channel.DataType.lower() == "bool"
        top = len(point.states) - 1 if point.states else 1 if switch else math.inf
        for key, value in _declared(channel):
            if value != math.floor(value) or not 0 <= value <= top:
                yield _at(
                    instrument,
                    name,
                    key,
                    "safe-value-state",
                    f"{value:g} is none of the values that this discrete channel takes "
                    f"(whole numbers from 0{'' if math.isinf(top) else f' to {top}'}).",
                )


def _safe_value_missing(site: Site) -> Iterator[Finding]:
    for instrument, name, _, point in _channels(site):
        if point.is_output and math.isnan(point.safe_value):
            ends = " and when a setpoint ends" if math.isnan(point.fallback) else ""
            yield _at(
                instrument,
                name,
                "SafeValue",
                "safe-value-missing",
                f"This output has no SafeValue, so it keeps what it has at start{ends}. Declare "
                "the value that is safe.",
                "warning",
            )


def _fallback_missing(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if channel.Lease is not None and point.is_output and math.isnan(point.fallback):
            yield _at(
                instrument,
                name,
                "Lease",
                "fallback-missing",
                "A leased setpoint ends, and nothing says what follows. Add Fallback or SafeValue.",
            )


def _output_key_unused(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if point.writable:
            continue
        keys = set(OUTPUT_KEYS)
        if instrument.tags.Communication == VIRTUAL and channel.Expression is None:
            keys.discard("SafeValue")  # the value of a constant
        for key in OUTPUT_KEYS:
            if key in keys and getattr(channel, key) is not None:
                yield _at(
                    instrument,
                    name,
                    key,
                    "output-key-unused",
                    f"{key} has no effect on a channel that is only read. Remove it, or set "
                    "ReadWrite to W or RW.",
                )


def _read_back_unknown(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, _ in _channels(site):
        shown_by = channel.ReadBack
        if shown_by is None:
            continue
        other = instrument.points.get(shown_by)
        if other is None or not other.readable:
            reason = "is not readable" if other else f"is no active channel of {instrument.name}"
            yield _at(
                instrument,
                name,
                "ReadBack",
                "read-back-unknown",
                f'"{shown_by}" {reason}. Name a channel with ReadWrite R or RW.',
            )


def _output_unverifiable(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if point.is_output and point.read_back == NO_POINT and channel.ReadBack is None:
            yield _at(
                instrument,
                name,
                "ReadBack",
                "output-unverifiable",
                "Nothing shows whether this output moved, so no command to it can be verified. "
                "Set ReadWrite to RW, or name the channel that shows it in ReadBack.",
                "warning",
            )


def _age_limit_short(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if channel.AgeLimit is None or not point.scan_class:
            continue
        period_ns = site.scan_classes[point.scan_class].period_ns
        if point.age_ns_max < period_ns:
            yield _at(
                instrument,
                name,
                "AgeLimit",
                "age-limit-short",
                f"{channel.AgeLimit:g} s is shorter than the period of {point.scan_class} "
                f"({period_ns / 1e9:g} s): the point would be bad between two polls. Lengthen "
                "it, or tag the channel with a faster class.",
            )


def _states_duplicate(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, _ in _channels(site):
        twice = sorted({state for state in channel.States if channel.States.count(state) > 1})
        if twice:
            yield _at(
                instrument,
                name,
                "States",
                "states-duplicate",
                f"Several values share the name {', '.join(map(repr, twice))}. Give each its own.",
            )


def _deadband_discrete(site: Site) -> Iterator[Finding]:
    for instrument, name, channel, point in _channels(site):
        if point.kind == "discrete" and channel.Deadband > 0:
            yield _at(
                instrument,
                name,
                "Deadband",
                "deadband-discrete",
                "A deadband would hide changes of a discrete channel. Remove it.",
            )


# ---------------------------------------------------------------- instruments


def _equipment_empty(site: Site) -> Iterator[Finding]:
    if not site.instruments:
        yield Finding(
            _root_file(site), "Equipment", "equipment-empty", "No instrument is active.", "warning"
        )
    for instrument in site.instruments.values():
        if not instrument.channels:
            yield Finding(
                instrument.file, "Channels", "equipment-empty", "No channel is active.", "warning"
            )


def _connection_contradiction(site: Site) -> Iterator[Finding]:
    for instrument in site.instruments.values():
        tags = instrument.tags
        parts = (tags.VISA_address or "").split("::")
        if len(parts) < 4 or not parts[0].upper().startswith("TCPIP"):
            continue
        ip = tags.Connection.IP if tags.Connection else None
        port = str(tags.PortNum) if tags.PortNum is not None else None
        if (ip is not None and ip != parts[1]) or (port is not None and port != parts[2]):
            yield Finding(
                instrument.file,
                "EquipmentTags.VISA_address",
                "connection-contradiction",
                f"{tags.VISA_address} and Connection.IP {ip}, PortNum {port} name different "
                "places. Keep one of them.",
            )


def _endpoint_shared(site: Site) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], Instrument] = {}
    for instrument in site.instruments.values():
        endpoint = _endpoint(instrument)
        if endpoint is None:
            continue
        other = first.setdefault(endpoint, instrument)
        if other is not instrument:
            yield Finding(
                instrument.file,
                "EquipmentTags.Connection",
                "endpoint-shared",
                f"{other.file} has the same address, port and unit. Many devices take one "
                "connection only; put all channels of a device into one file.",
                "warning",
            )


def _endpoint(instrument: Instrument) -> tuple[str, str, str] | None:
    tags = instrument.tags
    place = tags.Connection
    if place is None or not (place.IP or place.Port):
        return (tags.VISA_address, "", "") if tags.VISA_address else None
    unit = "1" if place.Unit is None else str(place.Unit)  # the drivers' default
    return (place.IP or place.Port or "", str(tags.PortNum), unit)


# ---------------------------------------------------------------- scan classes


def _root_file(site: Site) -> str:
    """The name that findings about the site's root file carry."""
    names = sorted(path.name for path in site.folder.glob("*-Config.json"))
    return names[0] if names else "*-Config.json"


def _watchdog_invalid(site: Site) -> Iterator[Finding]:
    for key, message in watchdog_faults(site):
        yield Finding(_root_file(site), f"Watchdog.{key}", "watchdog-invalid", message)


def _period_limit(site: Site) -> Iterator[Finding]:
    periods = [(f"DataSampling.{c.name}.Rate", c.period_ns) for c in site.scan_classes.values()]
    for key, period_ns in [*periods, ("Scan.Period", site.scan_period_ns)]:
        if period_ns < PERIOD_NS_MIN:
            yield Finding(
                _root_file(site),
                key,
                "period-limit",
                f"{period_ns / 1e6:g} ms is faster than this gateway keeps. The limit is "
                f"{PERIOD_NS_MIN // 1_000_000} ms.",
            )


def _scan_class_fast(site: Site) -> Iterator[Finding]:
    for scan_class in site.scan_classes.values():
        if scan_class.period_ns < site.scan_period_ns:
            yield Finding(
                _root_file(site),
                f"DataSampling.{scan_class.name}.Rate",
                "scan-class-fast",
                f"Polled every {scan_class.period_ns / 1e6:g} ms, but scanned every "
                f"{site.scan_period_ns / 1e6:g} ms: changes between two scans are lost. "
                "Shorten Scan.Period.",
                "warning",
            )


def _scan_class_shadowed(site: Site) -> Iterator[Finding]:
    by_speed = sorted(site.scan_classes.values(), key=lambda c: c.period_ns)
    first: dict[str, str] = {}
    for scan_class in by_speed:
        key = site.system.DataSampling[scan_class.name].FilterKey
        if key in first:
            yield Finding(
                _root_file(site),
                f"DataSampling.{scan_class.name}.FilterKey",
                "scan-class-shadowed",
                f'"{key}" belongs to {first[key]} too, which is as fast or faster, so this class '
                "polls nothing. Give each class its own FilterKey.",
                "warning",
            )
        first.setdefault(key, scan_class.name)


# Rule -> check. The order is the order of docs/checks.md.
CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("range-reversed", _range_reversed),
    ("safe-value-range", _safe_value_range),
    ("safe-value-state", _safe_value_state),
    ("safe-value-missing", _safe_value_missing),
    ("fallback-missing", _fallback_missing),
    ("output-key-unused", _output_key_unused),
    ("read-back-unknown", _read_back_unknown),
    ("output-unverifiable", _output_unverifiable),
    ("age-limit-short", _age_limit_short),
    ("states-duplicate", _states_duplicate),
    ("deadband-discrete", _deadband_discrete),
    ("equipment-empty", _equipment_empty),
    ("connection-contradiction", _connection_contradiction),
    ("endpoint-shared", _endpoint_shared),
    ("period-limit", _period_limit),
    ("scan-class-fast", _scan_class_fast),
    ("scan-class-shadowed", _scan_class_shadowed),
    ("watchdog-invalid", _watchdog_invalid),
    *LINK_CHECKS,
    *FORM_CHECKS,
    *BUS_CHECKS,
    *BRIDGE_CHECKS,
)
