"""The devices of a site, simulated where the site says that they are; values are set by a person.

Each is made from its instrument file (drivers/sim/device.py). Analog inputs begin within their
range, discrete ones at 0, outputs at their safe value. What a client writes is told, and a channel
that shows an output follows it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from config.findings import nearest
from config.points import PointDef, state_number
from config.site import Instrument
from drivers.sim.device import ModbusFront, ScpiFront, make_front
from drivers.sim.listener import Listener
from drivers.sim.modbus_server import STRUCT_CODES, ModbusServer, RegisterBank
from drivers.sim.plausible import plausible_values
from drivers.sim.registers import Device, DeviceFileError, get, load_device

OFF: Final = "off"
ON: Final = "on"
BAD: Final = "bad"
GOOD: Final = "good"
LIST: Final = "list"
START_FRACTION: Final = 0.25  # of an input's range
SENTENCES: Final = "TAG VALUE, TAG bad, TAG good, DEVICE off, DEVICE on, list"

Place = tuple[str, int]


class SimulationError(Exception):
    """What was asked for is not there or does not fit; the text is for people."""


class _Units(ModbusServer):
    """The Modbus devices of one address, each with its own unit."""

    def __init__(self, place: Place, told: Callable[[], None]) -> None:
        super().__init__(RegisterBank(), host=place[0], port=place[1])
        self.banks.clear()
        self.fronts: dict[int, ModbusFront] = {}
        self._told = told

    def execute(self, unit: int, pdu: bytes) -> bytes:
        """As ModbusServer; what is written goes to the device of that unit."""
        front = self.fronts.get(unit)
        self.on_write = front.written if front is not None else None
        answer = super().execute(unit, pdu)
        self._told()
        return answer


@dataclass(slots=True)
class SimulatedDevice:
    """One device: what it serves, and what it shows now."""

    instrument: Instrument
    device: Device
    front: ModbusFront | ScpiFront
    on: bool = True
    bad: set[str] = field(default_factory=set)
    written: dict[str, float] = field(default_factory=dict)  # last told values, by channel

    def show(self, channel: str, value: float) -> None:
        """Raises SimulationError where the channel's data type can't hold the value."""
        try:
            self.front.show(channel, value)
        except (struct.error, OverflowError, ValueError) as error:
            tag = self.instrument.points[channel].tag
            raise SimulationError(f"{tag}: {value:g} does not fit its data type") from error

    def shown(self, channel: str) -> float:
        """What a client reads now."""
        if isinstance(self.front, ModbusFront):
            return get(self.front.bank, self.front.slots[channel])
        return self.front.instrument.values[channel]

    def refuse(self, channel: str, refused: bool) -> None:
        """Whether reading and writing the channel is refused."""
        (self.bad.add if refused else self.bad.discard)(channel)
        if isinstance(self.front, ScpiFront):
            self.front.instrument.refused = set(self.bad)
            return
        slots = [self.front.slots[name] for name in self.bad]
        self.front.bank.refused = {(slot.table, slot.address, slot.width) for slot in slots}

    def holds_nan(self, channel: str) -> bool:
        """Whether the device can say that it has no value."""
        if isinstance(self.front, ScpiFront):
            return True
        slot = self.front.slots[channel]
        return STRUCT_CODES.get(slot.data_type, "") in ("e", "f", "d")


class SimulatedSite:
    """Devices of a site; `say` gets the lines that people read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.devices: dict[str, SimulatedDevice] = {}
        self._say = say
        self._tags: dict[str, tuple[SimulatedDevice, str]] = {}
        self._servers: dict[Place, Listener] = {}

    def add(self, folder: Path, instrument: Instrument, place: Place) -> None:
        """A further device, listening at `place`. Raises SimulationError."""
        try:
            device = load_device(folder, instrument.name, place)
            front = make_front(device)
            starts = plausible_values(device)
        except DeviceFileError as error:
            raise SimulationError(str(error)) from error
        assert isinstance(front, ModbusFront | ScpiFront)
        made = SimulatedDevice(instrument, device, front)
        self._serve(made, place)
        self.devices[instrument.name] = made
        for channel, point in instrument.points.items():
            made.show(channel, _start(point, starts[channel]))
            self._tags[point.tag] = made, channel

    def _serve(self, made: SimulatedDevice, place: Place) -> None:
        server = self._servers.get(place)
        name, unit = made.instrument.name, made.device.unit
        if isinstance(made.front, ScpiFront):
            if server is not None:
                raise SimulationError(f"{name}: another device has {place[0]}:{place[1]}")
            self._servers[place] = made.front.server
            handle = made.front.instrument.handle

            def answer(message: str) -> str | None:
                said = handle(message)
                self._written()
                return said

            made.front.server.handler = answer
            return
        units = self._servers.setdefault(place, _Units(place, self._written))
        if not isinstance(units, _Units) or unit in units.fronts:
            raise SimulationError(
                f"{name}: another device has {place[0]}:{place[1]}, unit {unit}; name one of them"
            )
        units.fronts[unit] = made.front
        units.banks[unit] = made.front.bank

    async def start(self) -> None:
        """Listen everywhere. Raises SimulationError with the address that can't be had."""
        for server in self._servers.values():
            await _listen(server)

    async def stop(self) -> None:
        """Close everything."""
        for server in self._servers.values():
            await server.stop()

    def set(self, tag: str, text: str) -> None:
        """Show a number or a state; ends `bad`. Raises SimulationError."""
        made, channel = self._found(tag)
        point = made.instrument.points[channel]
        value = _parsed(point, text, nan=made.holds_nan(channel))
        made.refuse(channel, False)
        made.written.pop(channel, None)
        made.show(channel, value)
        self._say(self._line(made, channel))

    async def obey(self, line: str) -> None:
        """One of SENTENCES. Raises SimulationError; an empty line does nothing."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if not name:
            return
        if not rest and name == LIST:
            for made, channel in self._tags.values():
                self._say(self._line(made, channel))
        elif name in self.devices:
            await self._switch(self.devices[name], rest.lower())
        elif not rest:
            self._found(name)
            raise SimulationError(f"{name}: what shall it be? The sentences are {SENTENCES}")
        elif rest.lower() in (BAD, GOOD):
            made, channel = self._found(name)
            made.refuse(channel, rest.lower() == BAD)
            self._say(self._line(made, channel))
        else:
            self.set(name, rest)

    def _found(self, tag: str) -> tuple[SimulatedDevice, str]:
        found = self._tags.get(tag)
        if found is None:
            device = tag.partition(".")[0]
            known = [known for known in self._tags if known.startswith(f"{device}.")]
            known = known or [*self._tags, *self.devices]
            raise SimulationError(f"nothing here is called {tag}. {nearest(tag, known)}")
        return found

    async def _switch(self, made: SimulatedDevice, word: str) -> None:
        name = made.instrument.name
        if word not in (ON, OFF):
            raise SimulationError(f"{name}: a device is switched {ON} or {OFF}")
        if made.on != (word == ON):
            server = self._servers[made.device.host, made.device.port]
            if isinstance(server, _Units) and len(server.fronts) > 1:
                _switch_unit(server, made.device.unit, made.front, word == ON)
            elif word == ON:
                await _listen(server)
            else:
                await server.stop()
            made.on = word == ON
        self._say(f"{name} is {word}")

    def _line(self, made: SimulatedDevice, channel: str) -> str:
        point = made.instrument.points[channel]
        if channel in made.bad:
            return f"{point.tag} is bad"
        value = made.shown(channel)
        return f"{point.tag} = {value:.6g} {_meaning(point, value)}".rstrip()

    def _written(self) -> None:
        """Tell what clients have set, where it is new, and let what shows it follow."""
        for made in self.devices.values():
            if not made.front.changed:
                continue
            changed = dict(made.front.changed)
            made.front.changed.clear()
            for channel, value in changed.items():
                if channel not in made.instrument.points:
                    continue
                _follow(made, made.instrument.points[channel], value)
                if made.written.get(channel) != value:
                    made.written[channel] = value
                    self._say(f"{self._line(made, channel)}, written")


def _follow(made: SimulatedDevice, output: PointDef, value: float) -> None:
    """What shows an output that can't be read takes its value."""
    for channel, point in made.instrument.points.items():
        if point.index == output.read_back and point.index != output.index:
            made.show(channel, value)


def _switch_unit(server: _Units, unit: int, front: ModbusFront | ScpiFront, on: bool) -> None:
    """One of several units behind an address: without it exception 11, as a gateway says it."""
    if on and isinstance(front, ModbusFront):
        server.banks[unit] = front.bank
    else:
        server.banks.pop(unit, None)


async def _listen(server: Listener) -> None:
    try:
        await server.start()
    except OSError as error:
        text = f"can't listen on {server.host}:{server.port}: {error.strerror or error}"
        if isinstance(error, PermissionError):
            text += ". Ports below 1024 are root's; declare a higher one in a copy of the site"
        raise SimulationError(text) from error


def _start(point: PointDef, plausible: float) -> float:
    """What a channel shows at first."""
    if point.writable:
        if math.isfinite(point.safe_value):
            return point.safe_value
        low = point.value_min if math.isfinite(point.value_min) else -math.inf
        high = point.value_max if math.isfinite(point.value_max) else math.inf
        return min(max(0.0, low), high)
    if point.kind == "discrete":
        return 0.0  # clear, off, released: what plausible.py gives would trip half of all sites
    if math.isfinite(point.value_min) and math.isfinite(point.value_max):
        # The same for the same range, so that redundant transmitters agree.
        return point.value_min + (point.value_max - point.value_min) * START_FRACTION
    # Without a range plausible.py begins at the lowest number of a signed register.
    return plausible if math.isfinite(point.value_min) else abs(plausible)


def _parsed(point: PointDef, text: str, *, nan: bool) -> float:
    state = state_number(point.states, text)
    if state is not None:
        return float(state)
    try:
        value = float(text)
    except ValueError as error:
        names = [name for name in point.states if name]
        hint = f" or state of it. {nearest(text, names)}" if names else ""
        raise SimulationError(f"{point.tag}: {text} is no number{hint}") from error
    if math.isinf(value) or (math.isnan(value) and not nan):
        raise SimulationError(f"{point.tag}: its data type has no {text}")
    return value


def _meaning(point: PointDef, value: float) -> str:
    """The name of a state, or the units."""
    if point.states and value.is_integer() and 0 <= value < len(point.states):
        name = point.states[int(value)]
        return f"({name})" if name else ""
    return point.units
