"""What a rig is: a device on a real socket with two readings and, mostly, one output.

A new driver adds a file ``rig_<protocol>.py`` with ``RIGS = (RigClass, ...)`` to this folder; the
suite in test_driver.py then runs over it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from config.site import Instrument

TIMEOUT_S: Final = 1.0


class Server(Protocol):
    """The simulated device: drivers.sim.listener.Listener, or what looks like it.

    A rig whose server lacks `sessions`, `requests` or `faults` exempts the tests that need them.
    """

    port: int
    sessions: Any  # open connections
    requests: int  # questions and commands that came in
    faults: Any  # drivers.sim.faults.Faults

    async def start(self) -> int:
        """Listen, again on the same port where it was started before; returns the port."""

    async def stop(self) -> None:
        """End all sessions and stop listening."""


class Rig(Protocol):
    """What the suite asks of a device: numbers to be read, and the number that was written.

    exempt   name of a test -> why it can't apply to this protocol
    """

    server: Server
    communication: ClassVar[str]
    exempt: ClassVar[Mapping[str, str]]

    def instrument(self, port: int) -> Instrument:
        """Channels ``First`` and ``Second`` (R), each a block of its own, and ``Out`` (RW).

        Without ``Out`` where the protocol can't write.
        """

    def set(self, first: float, second: float) -> None:
        """What the device measures from now on; a device that sends by itself sends it."""

    def output(self) -> float:
        """What was written last."""


def _rigs() -> tuple[type[Rig], ...]:
    found: list[type[Rig]] = []
    for file in sorted(Path(__file__).parent.glob("rig_*.py")):
        found += importlib.import_module(f"tests.conformance.{file.stem}").RIGS
    return tuple(found)


RIGS: Final = _rigs()
