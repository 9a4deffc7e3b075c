"""Cross-checks of ``SiteBus`` in ``link.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from config.broker import broker_of
from config.findings import Finding, Severity, nearest
from config.points import RESERVED_EQUIPMENT
from config.site import Site
from config.site_bus import behind_relay, chosen, served


def _bus(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", f"SiteBus.{key}", rule, message, severity)


def _equipment_unknown(site: Site) -> Iterator[Finding]:
    entry = site.link.SiteBus
    if entry is None:
        return
    names = (*site.instruments, *RESERVED_EQUIPMENT)
    for position, pattern in enumerate(entry.Equipment):
        if not any(fnmatchcase(name, pattern) for name in names):
            yield _bus(
                f"Equipment[{position}]",
                "bus-equipment-unknown",
                f'No equipment is called "{pattern}". {nearest(pattern, names)}',
            )


def _own_device(site: Site) -> Iterator[Finding]:
    foreign = behind_relay(site)
    for name in chosen(site):
        if name in foreign:
            yield _bus(
                "Equipment",
                "bus-own-device",
                f"{name} is left out: the gateway reads {foreign[name]} under that name on a bus, "
                "and would hear itself. Give the instrument another name, and it is served under "
                "that.",
                "warning",
            )


def _write_unknown(site: Site) -> Iterator[Finding]:
    entry = site.link.SiteBus
    if entry is None or not entry.Writes:
        return
    names = served(site)
    outputs = [point.tag for point in site.points if point.is_output and point.equipment in names]
    for position, pattern in enumerate(entry.Writes):
        if not any(fnmatchcase(tag, pattern) for tag in outputs):
            yield _bus(
                f"Writes[{position}]",
                "bus-write-unknown",
                f'No output that the bus shows is called "{pattern}". {nearest(pattern, outputs)}',
            )


def _unsigned(site: Site) -> Iterator[Finding]:
    entry = site.link.SiteBus
    if entry is None or not entry.Writes or broker_of(entry.URL)[0] == "localhost":
        return
    try:
        parts = urlsplit(entry.URL)
    except ValueError:  # another check says so
        return
    if parts.scheme != "mqtts" or (not parts.username and entry.CertificateFile is None):
        yield _bus(
            "Writes",
            "bus-unsigned",
            "Requests on the bus are not signed: whoever reaches this broker can write these "
            "points. Use mqtts:// with a user or a certificate, and let the broker say who may "
            "publish on Relay/Request.",
            "warning",
        )


# Rule -> check. The order is the order of docs/checks.md.
BUS_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("bus-equipment-unknown", _equipment_unknown),
    ("bus-own-device", _own_device),
    ("bus-write-unknown", _write_unknown),
    ("bus-unsigned", _unsigned),
)
