"""One simulated device: the real protocol on the port of its instrument file.

    python -m drivers.sim.device SITE INSTRUMENT --plant SOCKET [--with-parent]

Its registers or messages follow from the instrument file; what they mean in the plant stands in
drivers/sim/signals.py. Channels without such a meaning are plain memory. Setpoints that a client
writes go to the plant, measurements come back, every `EXCHANGE_S`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from drivers.sim.instrument import Instrument
from drivers.sim.modbus_server import (
    ILLEGAL_ADDRESS,
    ILLEGAL_VALUE,
    ModbusServer,
    RegisterBank,
    Rejected,
)
from drivers.sim.process import fail, ready, run_until_ended
from drivers.sim.registers import Device, DeviceFileError, Slot, get, load_device, put, slots_of
from drivers.sim.scpi_server import ScpiServer
from drivers.sim.signals import SIGNALS, Signal

EXCHANGE_S: Final = 0.02
LINE_BYTES_MAX: Final = 65536


class PlantLost(Exception):
    """The plant process is not there, or does not keep to the form."""


class PlantLink:
    """A device's connection to the plant."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Connect, or raise PlantLost."""
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(
                str(self._path), limit=LINE_BYTES_MAX
            )
        except OSError as error:
            raise PlantLost(f"no plant on {self._path}: {error.strerror or error}") from error

    async def exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one answer; raises PlantLost where there is none or it is an error."""
        assert self._reader is not None, "connect first"
        assert self._writer is not None, "connect first"
        try:
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
            line = await self._reader.readline()
            answer = json.loads(line) if line else None
        except (ConnectionError, ValueError) as error:
            raise PlantLost(f"the plant on {self._path} broke off: {error}") from error
        if not isinstance(answer, dict):
            raise PlantLost(f"the plant on {self._path} is gone")
        if "error" in answer:
            raise PlantLost(f"the plant on {self._path} refuses: {answer['error']}")
        return answer

    async def close(self) -> None:
        """Close; may be called twice."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None


class Front(Protocol):
    """The protocol side of a device: shows values, and remembers what clients set."""

    changed: dict[str, float]

    async def start(self) -> int:
        """Listen; returns the port."""

    async def stop(self) -> None:
        """Close everything."""

    def show(self, channel: str, value: float) -> None:
        """Make a value readable."""


class ModbusFront:
    """A Modbus device: slots of a register bank."""

    def __init__(self, device: Device) -> None:
        self.changed: dict[str, float] = {}
        self.bank = RegisterBank()
        self.slots = {slot.channel: slot for slot in slots_of(device)}
        for table in ("holding", "inputs", "coils", "discretes"):
            self.bank.allow_only(table, self._extent(table))
        self.server = ModbusServer(
            self.bank, host=device.host, port=device.port, unit=device.unit, on_write=self.written
        )

    def _extent(self, table: str) -> list[tuple[int, int]]:
        """From the first to the last channel of a table: a device answers within its own map."""
        slots = [slot for slot in self.slots.values() if slot.table == table]
        if not slots:
            return []
        first = min(slot.address for slot in slots)
        return [(first, max(slot.address + slot.width for slot in slots) - first)]

    def written(self, table: str, first: int, values: list[int]) -> None:
        """Remember what a client has set; raises Rejected where the device doesn't take it."""
        touched = [
            slot
            for slot in self.slots.values()
            if slot.table == table
            and slot.address < first + len(values)
            and first < slot.address + slot.width
        ]
        for slot in touched:
            self._check(slot)
        self.changed.update({slot.channel: get(self.bank, slot) for slot in touched})

    def _check(self, slot: Slot) -> None:
        if not slot.writable:
            raise Rejected(ILLEGAL_ADDRESS)
        value = get(self.bank, slot)
        if not (math.isfinite(value) and slot.minimum - 1e-6 <= value <= slot.maximum + 1e-6):
            raise Rejected(ILLEGAL_VALUE)

    async def start(self) -> int:
        """Listen; returns the port."""
        return await self.server.start()

    async def stop(self) -> None:
        """Close the port and every connection."""
        await self.server.stop()

    def show(self, channel: str, value: float) -> None:
        """Write a value into its registers."""
        put(self.bank, self.slots[channel], value)


class ScpiFront:
    """An SCPI instrument on a raw socket."""

    def __init__(self, device: Device) -> None:
        self.changed: dict[str, float] = {}
        self.instrument = Instrument(device, self.changed.__setitem__)
        self.server = ScpiServer(self.instrument.handle, host=device.host, port=device.port)

    async def start(self) -> int:
        """Listen; returns the port."""
        return await self.server.start()

    async def stop(self) -> None:
        """Close the port and every connection."""
        await self.server.stop()

    def show(self, channel: str, value: float) -> None:
        """Keep a value for the next query."""
        self.instrument.values[channel] = value


def make_front(device: Device) -> Front:
    """The protocol side that an instrument file asks for; DeviceFileError where there is none."""
    if device.protocol.startswith("ModbusTcp") or device.protocol.endswith("ModbusTcp"):
        return ModbusFront(device)
    if device.protocol == "SCPI":
        return ScpiFront(device)
    raise DeviceFileError(f"{device.file.name}: {device.protocol} has no simulator")


class SimulatedDevice:
    """A device between its clients and the plant."""

    def __init__(self, device: Device, plant: PlantLink) -> None:
        self.device = device
        self.front = make_front(device)
        self._plant = plant
        self._signals: dict[str, Signal] = {
            channel: SIGNALS[f"{device.name}.{channel}"]
            for channel in device.channels
            if f"{device.name}.{channel}" in SIGNALS
        }
        self._measured = {
            channel: signal
            for channel, signal in self._signals.items()
            if "W" not in str(device.channels[channel].get("ReadWrite", "R"))
        }

    async def start(self) -> int:
        """Take over the plant's present state, then listen; returns the port.

        Raises PlantLost, DeviceFileError, or OSError where the port is taken.
        """
        await self._plant.connect()
        await self._refresh(self._signals)
        return await self.front.start()

    async def run(self) -> None:
        """Exchange with the plant, for ever; raises PlantLost when it is gone."""
        while True:
            await asyncio.sleep(EXCHANGE_S)
            await self.exchange()

    async def exchange(self) -> None:
        """Hand over what clients have set since the last time, and fetch what is measured."""
        if self.front.changed:
            changed = dict(self.front.changed)
            self.front.changed.clear()
            wanted = {
                self._signals[channel].quantity: value / self._signals[channel].factor
                for channel, value in changed.items()
                if channel in self._signals
            }
            if wanted:
                await self._plant.exchange({"set": wanted})
        await self._refresh(self._measured)

    async def _refresh(self, signals: Mapping[str, Signal]) -> None:
        if not signals:
            return
        names = sorted({signal.quantity for signal in signals.values()})
        values = (await self._plant.exchange({"get": names}))["values"]
        for channel, signal in signals.items():
            value = values[signal.quantity]
            self.front.show(channel, math.nan if value is None else value * signal.factor)

    async def stop(self) -> None:
        """Close everything."""
        await self.front.stop()
        await self._plant.close()


async def serve(site: Path, instrument: str, plant: Path, *, with_parent: bool) -> None:
    """Serve one instrument until the process is asked to end."""
    device = SimulatedDevice(load_device(site, instrument), PlantLink(plant))

    async def work() -> None:
        port = await device.start()
        ready(f"{device.device.name} on {device.device.host}:{port}")
        await device.run()

    await run_until_ended(work, with_parent=with_parent, stop=device.stop)


def main() -> None:
    """Entry point of a device process."""
    parser = argparse.ArgumentParser(prog="python -m drivers.sim.device")
    parser.add_argument("site", type=Path, help="site folder")
    parser.add_argument("instrument", help="name of the equipment in the site's list")
    parser.add_argument("--plant", type=Path, required=True, help="Unix socket of the plant")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(
                serve(given.site, given.instrument, given.plant, with_parent=given.with_parent)
            )
        except (DeviceFileError, PlantLost) as error:
            fail(f"{given.instrument}: {error}")
        except OSError as error:
            fail(f"{given.instrument} can't listen: {error.strerror or error}")


if __name__ == "__main__":
    main()
