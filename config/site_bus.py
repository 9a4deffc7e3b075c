"""What a site serves on its bus (``Relay/...``, the seed's topics), and what it must not. Pure."""

from __future__ import annotations

from typing import Final

from config.filters import levels_of, matches
from config.model import REQUEST_TOPIC
from config.points import RESERVED_EQUIPMENT, fits
from config.site import Site

DATA_TOPIC: Final = "Relay/Data/"
MQTT: Final = "MQTT"  # the Communication of devices behind a broker


def chosen(site: Site) -> list[str]:
    """Equipment that `SiteBus.Equipment` chooses; the gateway's own only where it is named."""
    entry = site.link.SiteBus
    if entry is None:
        return []
    named = [name for name in RESERVED_EQUIPMENT if name in entry.Equipment]
    return [name for name in site.instruments if fits(name, entry.Equipment)] + named


def behind_relay(site: Site) -> dict[str, str]:
    """Names that are not ours to serve -> the instrument that is read or written under the name.

    A gateway that served such a name would take its own answers for the device's: a dead device
    would look alive, and a write would come back as a request for the same write. It does not
    matter which broker it is, because two addresses may be one broker's.
    """
    found: dict[str, str] = {}
    for instrument in site.instruments.values():
        tags = instrument.tags
        if tags.Communication != MQTT:
            continue
        topics = [topic for topic in (tags.DataReadTopic, tags.DataWriteTopic) if topic]
        for name in (*site.instruments, *RESERVED_EQUIPMENT):
            own = (levels_of(DATA_TOPIC + name), levels_of(REQUEST_TOPIC + name))
            if any(matches(levels_of(topic), place) for topic in topics for place in own):
                found.setdefault(name, instrument.name)
    return found


def served(site: Site) -> list[str]:
    """Equipment that the gateway speaks for on the site bus."""
    foreign = behind_relay(site)
    return [name for name in chosen(site) if name not in foreign]
