"""Addresses of brokers in ``link.json``: what tells them apart, and how they are shown. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

Broker = tuple[str, int]


def is_own(host: str) -> bool:
    """True for the names and addresses of this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def broker_of(url: str) -> Broker:
    """What tells brokers apart: host and port; names of this machine are one.

    Two names of one broker are not found out: of bridges the guard at run time is there for that.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:  # another check says so
        return url, 0
    port = port or (8883 if parts.scheme == "mqtts" else 1883)
    return "localhost" if is_own(host) else host, port


def without_password(url: str) -> str:
    """A URL as it may be shown, also one that is none: without user and password."""
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    return scheme + mark + rest.rpartition("@")[2]
