"""Cross-checks of ``OpcUa`` in link.json: where it listens, what it offers, who may do what."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from config.broker import is_own
from config.findings import Finding, Severity, printable
from config.link import WithLink
from config.opcua import ROLES
from config.points import fits
from config.site import Site

SCHEME: Final = "opc.tcp"

_LABEL: Final = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


def _finding(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", f"OpcUa.{key}", rule, message, severity)


def _host(site: WithLink) -> str | None:
    """The host of the endpoint; None where the endpoint is none."""
    try:
        parts = urlsplit(site.link.OpcUa.Endpoint)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts.hostname if parts.scheme == SCHEME and parts.hostname else None


def _endpoint(site: WithLink) -> Iterator[Finding]:
    if _host(site) is None:
        text = f'"{printable(site.link.OpcUa.Endpoint)}" is no OPC UA endpoint. '
        yield _finding("Endpoint", "opcua-endpoint", f"{text}Write opc.tcp://host:port/path.")


def _hosts(site: WithLink) -> Iterator[Finding]:
    for position, host in enumerate(site.link.OpcUa.Hosts):
        if not _is_host(host):
            text = f'"{printable(host)}" is no name or address of a machine, as a client types it. '
            text += 'Write e.g. "gateway.example.org" or "192.0.2.7", without port.'
            yield _finding(f"Hosts[{position}]", "opcua-host", text)


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True


def _unsecured(site: WithLink) -> Iterator[Finding]:
    settings = site.link.OpcUa
    host = _host(site)
    if settings.Active and settings.NoSecurity and host is not None and not is_own(host):
        text = "Whoever reaches the port may read every point without a name, and others can "
        text += "listen. Set NoSecurity to false, or Endpoint to an address of the loopback."
        yield _finding("NoSecurity", "opcua-unsecured", text, "warning")


def _points(site: Site) -> Iterator[Finding]:
    tags = [point.tag for point in site.points]
    for place, entry in enumerate(site.link.OpcUa.Rights):
        for position, pattern in enumerate(entry.Points):
            if not any(fits(tag, [pattern]) for tag in tags):
                text = f'No point is called "{printable(pattern)}" or fits it. Write tags, or '
                text += "patterns of them such as PSU.*."
                yield _finding(f"Rights[{place}].Points[{position}]", "opcua-points", text)


def _shadowed(site: Site) -> Iterator[Finding]:
    """The first entry that fits a point counts: one whose points are all taken does nothing."""
    free = {point.tag for point in site.points}
    for place, entry in enumerate(site.link.OpcUa.Rights):
        own = {point.tag for point in site.points if fits(point.tag, entry.Points)}
        if own and not own & free:
            text = "The entries in front of it have all its points already, and the first one "
            text += "counts. Put it in front of them, or take it out."
            yield _finding(f"Rights[{place}].Points", "opcua-shadowed", text, "warning")
        free -= own


def _roles(site: WithLink) -> Iterator[Finding]:
    for place, entry in enumerate(site.link.OpcUa.Rights):
        if entry.Write == "observer":
            text = "An observer never writes. Write operator, engineer or administrator."
            yield _finding(f"Rights[{place}].Write", "opcua-role", text)
        elif ROLES.index(entry.Write) < ROLES.index(entry.Read):
            text = f"{entry.Write} may write what only {entry.Read} may read: {entry.Read} is "
            text += "asked for both. Write the same role here, or a higher one."
            yield _finding(f"Rights[{place}].Write", "opcua-role", text)


# Rule -> check. The order is the order of docs/checks.md.
OPCUA_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("opcua-endpoint", _endpoint),
    ("opcua-host", _hosts),
    ("opcua-unsecured", _unsecured),
    ("opcua-points", _points),
    ("opcua-shadowed", _shadowed),
    ("opcua-role", _roles),
)

# Those that look at one key each, whatever else is wrong in the file.
OPCUA_KEY_CHECKS: Final[tuple[Callable[[WithLink], Iterator[Finding]], ...]] = (
    _endpoint,
    _hosts,
    _roles,
)
