"""PostgreSQL: a simulated database; tests/drivers/test_postgresql.py has a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.postgres_server import PostgresServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument

QUERIES = {"First": "SELECT first FROM rig", "Second": "SELECT second FROM rig"}


class PostgreSqlRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "PostgreSql"
    exempt: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_what_is_written_arrives_and_reads_back",
            "test_a_write_between_two_parts_goes_ahead_of_what_was_not_sent",
            "test_without_a_connection_nothing_is_read_or_written",
            "test_a_value_that_does_not_fit_is_refused_unsent",
        ),
        "nothing is written to a database",
    )

    def __init__(self) -> None:
        self.rows = dict.fromkeys(QUERIES.values(), 0.0)
        self.server = PostgresServer(lambda query: (self.rows[query],))

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {name: {"QueryText": query} for name, query in QUERIES.items()}
        server = f"postgresql://rig@127.0.0.1:{port}/rig"
        return instrument(channels, Communication="PostgreSql", Server=server, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.rows = dict(zip(QUERIES.values(), (first, second), strict=True))

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        raise AssertionError("nothing is written to a database")


RIGS = (PostgreSqlRig,)
