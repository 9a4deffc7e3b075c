"""Who may publish and subscribe what on the cloud's broker: by site, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloud.authority import GATEWAY, distinguished_name
from cloud.enrol_book import Entitled
from sync.topics import everywhere, topic

_UP: Final = ("birth", "frames", "backlog", "receipts")
_DOWN: Final = ("ack", "commands", "schedule", "time")


@dataclass(frozen=True, slots=True)
class Rights:
    """What one certificate may do.

    user       distinguished name of its subject
    publish    topics, with ``+`` for every site
    subscribe  topics; a filter that matches more than these is refused
    """

    user: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def rights_of(entitled: Iterable[Entitled]) -> list[Rights]:
    """Rights of gateways, each for its own site, and of services, for every site."""
    found = []
    for name, role, turn in sorted(entitled):
        user = distinguished_name(name, role, turn)
        if role == GATEWAY:
            up = tuple(topic(name, channel) for channel in _UP)
            down = tuple(topic(name, channel) for channel in _DOWN)
            found.append(Rights(user, up, down))
        else:
            up = tuple(everywhere(channel) for channel in _UP)
            down = tuple(everywhere(channel) for channel in _DOWN)
            found.append(Rights(user, down, up))
    return found
