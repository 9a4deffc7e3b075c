"""A device behind a broker, for the MQTT tests."""

from __future__ import annotations

from typing import Any

from config.site import Instrument
from tests.drivers.instruments import instrument


def device(port: int, channels: dict[str, dict[str, Any]] | None = None, **tags: Any) -> Instrument:
    keys = {
        "Communication": "MQTT",
        "Server": f"mqtt://127.0.0.1:{port}",
        "DataReadTopic": "plant/meter",
        "DataWriteTopic": "plant/meter/set",
    }
    return instrument(channels or {"Power": {"ReadWrite": "RW"}}, **keys | tags)
