"""The names of the MQTT topics (DESIGN section 7): ``gatepost/<site>/<channel>``."""

from __future__ import annotations

import re
from typing import Final

ROOT: Final = "gatepost"
CHANNELS: Final = (
    "birth",  # edge to cloud, retained: the point table in force; last will: death
    "frames",  # edge to cloud: the live lane
    "backlog",  # edge to cloud: what the outage left behind
    "ack",  # cloud to edge: what the historian holds, and which births it lacks
    "commands",
    "receipts",
    "schedule",
    "time",
)
SITE_CHARS_MAX: Final = 64
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_site(site: str) -> str:
    """The site's name where it can stand in a topic; raises ValueError where it can't."""
    if len(site) > SITE_CHARS_MAX or not _SITE.fullmatch(site):
        raise ValueError(
            f"site name {site!r} can't stand in a topic: use letters, digits, '_', '-' and '.', "
            f"at most {SITE_CHARS_MAX}, beginning with a letter or digit (key Site in link.json)"
        )
    return site


def client_id(site: str, *parts: str) -> str:
    """The MQTT client id of a gateway's session: ``gatepost-<site>:<part>:...``, dots as ``~``.

    nats-server takes no dot in one. No two sites or links have the same: neither ``:`` nor ``~``
    stands in their names.
    """
    return f"{ROOT}-{':'.join((site, *parts))}".replace(".", "~")


def topic(site: str, channel: str) -> str:
    """``gatepost/<site>/<channel>``. Raises ValueError for a name that can't stand there."""
    assert channel in CHANNELS, channel
    return f"{ROOT}/{check_site(site)}/{channel}"


def everywhere(channel: str) -> str:
    """The filter that matches a channel of every site."""
    assert channel in CHANNELS, channel
    return f"{ROOT}/+/{channel}"


def parse(name: str) -> tuple[str, str] | None:
    """Site and channel of a topic, or None where it is none of ours."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != ROOT or parts[2] not in CHANNELS:
        return None
    if len(parts[1]) > SITE_CHARS_MAX or not _SITE.fullmatch(parts[1]):
        return None
    return parts[1], parts[2]
