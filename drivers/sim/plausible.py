"""Values that a simulated device can show: one for each channel of its file, all of them different.

They lie within the channel's range and data type and are exact after the device's rounding, so a
reader must get back what was put.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

from drivers.sim.modbus_server import STRUCT_CODES
from drivers.sim.registers import Device, Slot, slots_of

STEP: Final = 7  # raw numbers from one channel to the next
TEXT_DECIMALS: Final = 3  # what drivers/sim/instrument.py prints of a number up to 999
FRACTIONS: Final = 64  # of a float's range; a power of two is exact in every float


def plausible_values(device: Device, variant: int = 0) -> dict[str, float]:
    """Channel -> value in engineering units; another `variant` gives other values.

    Raises DeviceFileError where a channel has no place in its device.
    """
    if device.protocol == "SCPI":
        return {
            name: _text_value(channel, position, variant)
            for position, (name, channel) in enumerate(device.channels.items())
        }
    slots = {slot.channel: slot for slot in slots_of(device)}
    return {
        name: _register_value(slots[name], channel, position, variant)
        for position, (name, channel) in enumerate(device.channels.items())
    }


def _text_value(channel: dict[str, Any], position: int, variant: int) -> float:
    if str(channel.get("DataType", "")).lower() == "bool":
        return float((position + variant) % 2)
    low, high = float(channel.get("Minimum", 0)), float(channel.get("Maximum", FRACTIONS))
    return round(_between(low, high, position, variant), TEXT_DECIMALS)


def _between(low: float, high: float, position: int, variant: int) -> float:
    """A number of the range; one without an end is a range of `FRACTIONS`."""
    low = low if math.isfinite(low) else min(-FRACTIONS / 2, high)
    high = high if math.isfinite(high) else low + FRACTIONS
    return low + (high - low) * ((STEP * position + variant + 1) % FRACTIONS) / FRACTIONS


def _register_value(slot: Slot, channel: dict[str, Any], position: int, variant: int) -> float:
    if slot.table in ("coils", "discretes") or slot.data_type == "bool":
        return float((position + variant) % 2)
    if STRUCT_CODES.get(slot.data_type, "") in ("e", "f", "d"):
        value = _between(slot.minimum, slot.maximum, position, variant)
        return _single(value, slot.data_type)
    low, high = _raw_range(slot, channel)
    room = high - low + 1
    raw = low + (STEP * position + variant + 1) % min(room, 8192) if room > 1 else low
    return raw if not slot.scaled else (raw + slot.offset) * slot.scalar


def _single(value: float, data_type: str) -> float:
    """The nearest number that the type holds."""
    code = STRUCT_CODES[data_type]
    number: float = struct.unpack(code, struct.pack(code, value))[0]
    return number


def _raw_range(slot: Slot, channel: dict[str, Any]) -> tuple[int, int]:
    """Lowest and highest raw number, around zero where the file gives no range."""
    states = channel.get("States") or []
    if states:
        return 0, len(states) - 1
    if slot.data_type == "bit":
        first = slot.bit_start or 0
        return 0, (1 << ((slot.bit_end or first) - first + 1)) - 1
    code = STRUCT_CODES.get(slot.data_type, "H")
    low, high = (-4000, 4000) if code.islower() else (0, 8000)
    ends = sorted(
        end / slot.scalar - slot.offset if slot.scaled else end
        for end in (slot.minimum, slot.maximum)
    )
    if math.isfinite(ends[0]):
        low = math.ceil(ends[0] - 1e-9)
        high = max(high, low)
    if math.isfinite(ends[1]):
        high = math.floor(ends[1] + 1e-9)
    return low, high
