"""What a SunSpec device has at present: its models, how many groups, its scale factors.

A gateway keeps its connection while the device behind it is swapped or gets a new firmware, and
then registers mean something else. So what was found is looked at again from time to time, and
after everything that was not answered as usual.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from drivers.errors import NotConnected, Refused
from drivers.sunspec.chain import NOTHING_FOUND, Found, Read, is_end, read_counts, walk
from drivers.sunspec.models import Address, Offset, model_of
from drivers.sunspec.values import factor_of
from gateway.core.clock import Clock

LAYOUT_NS: Final = 10_000_000_000  # so long nothing is asked about where a model lies
FACTOR_NS: Final = 1_000_000_000  # so long a scale factor serves numbers that come without it

Key = tuple[int, int]  # model identifier, and which of those the device has
_END: Final[Key] = (0, 0)  # of the chain


class SunSpecDevice:
    """The layout of one device. All methods but `doubt` and `learn` raise DriverError."""

    def __init__(self, read: Read, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._chain = NOTHING_FOUND
        self._counts: dict[Key, dict[str, int]] = {}
        self._looked_ns: dict[Key, int] = {}
        self._factors: dict[int, tuple[float, int]] = {}  # by register: power, when it was read

    async def find(self, wanted: Collection[Key]) -> None:
        """Walk the chain of models as far as the `wanted` ones reach."""
        self._chain = await walk(self._read, wanted)
        now_ns = self._clock.monotonic_ns()
        self._counts.clear()
        self._factors.clear()
        self._looked_ns = dict.fromkeys([*self._chain.models, _END], now_ns)

    def doubt(self) -> None:
        """The device did not answer as usual: look at everything again."""
        self._looked_ns.clear()
        self._factors.clear()

    async def model(self, key: Key) -> Found:
        """Where a model lies.

        Raises Refused where the device has none, and NotConnected where it is another device than
        at the beginning of the connection.
        """
        found = self._chain.models.get(key)
        if found is None:
            await self._look_at_end()
            has = ", ".join(model_text(key) for key in self._chain.models)
            text = f"the device has no model {model_text(key)}; it has {has or 'none'}"
            raise Refused(text, permanent=True)
        if self._is_due(key):
            await self._look_at(found)
            self._counts.pop(key, None)
            self._looked_ns[key] = self._clock.monotonic_ns()
        return found

    async def counts(self, found: Found) -> Mapping[str, int]:
        """How many groups of each kind a model has."""
        key = (found.model, found.instance)
        if key not in self._counts:
            model = model_of(found.model)
            assert model is not None
            self._counts[key] = await read_counts(self._read, model, found)
        return self._counts[key]

    async def factor(
        self, found: Found, counts: Mapping[str, int], scale: Offset, age_ns: int
    ) -> float:
        """A scale factor that does not come with its number, at most `age_ns` old.

        NaN where the device has none.
        """
        offset = scale.registers(counts)
        if offset > 1 + found.length:
            return math.nan  # the device's model ends before it
        register = found.address + offset
        now_ns = self._clock.monotonic_ns()
        known = self._factors.get(register)
        if known is not None and now_ns - known[1] < age_ns:
            return known[0]
        power = factor_of(await self._read(register, 1))
        self._factors[register] = (power, now_ns)
        return power

    def learn(self, found: Found, factors: Mapping[int, float]) -> None:
        """Scale factors that came with numbers, by register."""
        now_ns = self._clock.monotonic_ns()
        for register, power in factors.items():
            if register <= found.address + 1 + found.length:
                self._factors[register] = (power, now_ns)

    def _is_due(self, key: Key) -> bool:
        looked_ns = self._looked_ns.get(key)
        return looked_ns is None or self._clock.monotonic_ns() - looked_ns >= LAYOUT_NS

    async def _look_at(self, found: Found) -> None:
        try:
            data = await self._read(found.address, 2)
        except Refused as refusal:
            if not refusal.permanent:
                raise
            data = b""
        if data != found.model.to_bytes(2, "big") + found.length.to_bytes(2, "big"):
            text = model_text((found.model, found.instance))
            raise NotConnected(
                f"another device than before: model {text} is no longer at register {found.address}"
            )

    async def _look_at_end(self) -> None:
        """A device that was still starting when the chain was walked has more models now."""
        if not self._is_due(_END):
            return
        if not await is_end(self._read, self._chain.end):
            raise NotConnected("the device has more models than before")
        self._looked_ns[_END] = self._clock.monotonic_ns()


def model_text(key: Key) -> str:
    """A model as the names of points have it."""
    model, instance = key
    return f"{model}[{instance}]" if instance > 1 else str(model)


def require(address: Address, found: Found, counts: Mapping[str, int]) -> None:
    """Raises Refused where the device's model does not reach as far as this point."""
    for name, index in address.indexes:
        if index > counts[name]:
            counted = f" ({name})" if name else ""
            text = f"{address.text}: the device has {counts[name]} of that group{counted}"
            raise Refused(text, permanent=True)
    end = address.at.registers(counts) + address.point.words
    if end > 2 + found.length:
        text = f"{address.text}: the device's model ends before it ({found.length} registers)"
        raise Refused(text, permanent=True)
