"""The plant process: the model, moved on by the clock, behind a Unix socket.

    python -m drivers.sim.plant_server SOCKET [--with-parent]

One JSON object a line in, one a line out:

    {"set": {"heater_enable": 0}, "get": ["stack_temperature_degc"]}
        -> {"values": {"stack_temperature_degc": 801.2}}     (null: nothing was measured)
    {"scenario": "overheat", "on": true}  -> {"scenarios": {"overheat": true, ...}}
    anything else                         -> {"error": "..."}
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
from pathlib import Path
from typing import Any, Final

from drivers.sim.plant import Plant
from drivers.sim.process import fail, ready, run_until_ended
from drivers.sim.replay import ReplayMissing, load_replay
from gateway.core.clock import Clock, SystemClock

STEP_S: Final = 0.02
STALL_S_MAX: Final = 1.0  # a process that was stopped for longer doesn't make up for it
LINE_BYTES_MAX: Final = 65536
CLIENTS_MAX: Final = 64


class PlantServer:
    """Serves one plant to the devices and to whoever switches its scenarios."""

    def __init__(self, plant: Plant, path: Path, clock: Clock) -> None:
        self.plant = plant
        self.path = path
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self._sensors = plant.sensors()

    async def start(self) -> None:
        """Listen; raises OSError where the socket can't be made."""
        self._server = await asyncio.start_unix_server(
            self._serve, str(self.path), limit=LINE_BYTES_MAX
        )

    async def run(self) -> None:
        """Move the plant on, for ever."""
        last_ns = self._clock.monotonic_ns()
        while True:
            await asyncio.sleep(STEP_S)
            now_ns = self._clock.monotonic_ns()
            self.plant.step(min((now_ns - last_ns) / 1e9, STALL_S_MAX))
            self._sensors = self.plant.sensors()
            last_ns = now_ns

    async def stop(self) -> None:
        """Close the socket and all connections, and remove the file."""
        if self._server is not None:
            self._server.close()
            sessions = tuple(self._sessions)
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def answer(self, line: bytes) -> dict[str, Any]:
        """One request in, one answer out; what is wrong with it becomes the answer."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            if "scenario" in request:
                self.plant.switch(str(request["scenario"]), bool(request.get("on", True)))
                return {"scenarios": dict(self.plant.scenarios)}
            self.plant.set(request.get("set", {}))
            wanted = request.get("get", [])
            return {"values": {name: _finite(self._value(name)) for name in wanted}}
        except KeyError as error:
            return {"error": str(error.args[0])}
        except (ValueError, TypeError, AttributeError) as error:
            return {"error": f"not understood: {error}"}

    def _value(self, name: str) -> float:
        if name not in self._sensors:
            raise KeyError(f"the plant has no quantity {name}")
        # An actuator that was set a moment ago is already in force.
        return self.plant.actuators.get(name, self._sensors[name])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None
        if len(self._sessions) >= CLIENTS_MAX:
            writer.close()
            return
        self._sessions.add(session)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the peer is gone, its line is longer than any request, or the plant stops
        finally:
            self._sessions.discard(session)
            writer.close()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


async def serve(path: Path, *, with_parent: bool) -> None:
    """Serve a plant on `path` until the process is asked to end."""
    server = PlantServer(Plant(load_replay()), path, SystemClock())

    async def work() -> None:
        await server.start()
        ready(str(path))
        await server.run()

    await run_until_ended(work, with_parent=with_parent, stop=server.stop)


def main() -> None:
    """Entry point of the plant process."""
    parser = argparse.ArgumentParser(prog="python -m drivers.sim.plant_server")
    parser.add_argument("socket", type=Path, help="path of the Unix socket to listen on")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(serve(arguments.socket, with_parent=arguments.with_parent))
        except ReplayMissing as error:
            fail(str(error))
        except OSError as error:
            fail(f"the plant can't listen on {arguments.socket}: {error.strerror or error}")


if __name__ == "__main__":
    main()
