"""Instruments of SQL queries, and drivers with their blocks, that the PostgreSQL tests share."""

from __future__ import annotations

from typing import Any

from config.site import Instrument
from drivers.contract import Surroundings, read_block
from drivers.postgresql.driver import PROTOCOL, plan
from drivers.postgresql.session import PostgresDriver
from gateway.core.clock import SystemClock
from tests.drivers.instruments import instrument
from tests.drivers.postgres_cluster import DATABASE, READER


def database(queries: dict[str, Any], port: int, **tags: Any) -> Instrument:
    """An instrument of some queries: texts, or whole channels."""
    channels = {
        name: {"QueryText": item} if isinstance(item, str) else dict(item)
        for name, item in queries.items()
    }
    server = f"postgresql://{READER}@127.0.0.1:{port}/{DATABASE}"
    return instrument(channels, **{"Communication": "PostgreSql", "Server": server} | tags)


class Session:
    """A driver with its blocks."""

    def __init__(self, made: Instrument) -> None:
        self.instrument = made
        self.driver = PostgresDriver(made, Surroundings(SystemClock()))
        self.blocks = plan(made)

    async def read(self, number: int = 0) -> list[float]:
        values = await read_block(PROTOCOL, self.driver, self.blocks[number])
        return values.tolist()
