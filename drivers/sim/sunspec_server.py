"""A SunSpec device over Modbus TCP: a register map made from the definitions of its models.

The definitions are read straight from pysunspec2's JSON, without the driver's own code, so a
mistake in that isn't made twice. Every point begins as "not implemented"; a test or a
demonstration puts numbers into those that the device has.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

from drivers.sim.modbus_server import ILLEGAL_ADDRESS, ModbusServer, RegisterBank, Rejected

BASE: Final = 40000
END_MODEL: Final = 0xFFFF

CODES: Final = {
    "int16": "h",
    "uint16": "H",
    "count": "H",
    "acc16": "H",
    "enum16": "H",
    "bitfield16": "H",
    "pad": "H",
    "int32": "i",
    "uint32": "I",
    "acc32": "I",
    "enum32": "I",
    "bitfield32": "I",
    "ipaddr": "I",
    "int64": "q",
    "uint64": "Q",
    "acc64": "Q",
    "float32": "f",
    "float64": "d",
    "sunssf": "h",
}
_SIGNED: Final = ("int16", "int32", "int64", "sunssf")
_ZERO: Final = ("acc16", "acc32", "acc64", "ipaddr", "pad", "string", "ipv6addr")


class ModelError(Exception):
    """No such model or point; the message names it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One point of the map: its registers, its type, the item that holds its scale factor."""

    register: int
    words: int
    type: str
    writable: bool
    scale: int | str | None  # power of ten, or the path of the item


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model of the device.

    counts   name of a count point -> how many groups; "" for groups that fill the model
    texts    path of a string point -> its text
    shorter  registers that are missing at the end, as in devices with an older definition
    """

    id: int
    counts: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    shorter: int = 0


def _definition(number: int) -> dict[str, Any]:
    path = files("sunspec2") / "models" / "json" / f"model_{number}.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"there is no definition of model {number}") from error
    return content


class SunSpecServer(ModbusServer):
    """A device with the models of a list, in its order.

    Paths are ``103.W``, ``160.module[2].DCA``, ``203[2].W``, as in the instrument files.
    """

    def __init__(
        self,
        models: Sequence[SimModel],
        *,
        base: int = BASE,
        host: str = "127.0.0.1",
        port: int = 0,
        unit: int = 1,
    ) -> None:
        super().__init__(RegisterBank(), host=host, port=port, unit=unit)
        self.bank = self.banks[unit]
        self.items: dict[str, Item] = {}
        self.on_write = self._only_writable
        self._writable: set[int] = set()
        self._words(base, b"SunS")
        here = base + 2
        seen: dict[int, int] = {}
        for model in models:
            seen[model.id] = seen.get(model.id, 0) + 1
            name = str(model.id) if seen[model.id] == 1 else f"{model.id}[{seen[model.id]}]"
            here = self._add(model, name, here)
        self._words(here, struct.pack(">HH", END_MODEL, 0))
        self.bank.allow_only("holding", [(base, here + 2 - base)])

    # ------------------------------------------------------------ values

    def put_raw(self, path: str, raw: float) -> None:
        """Put a raw number into a point. Raises ModelError, or struct.error where it's too big."""
        item = self._item(path)
        code = CODES[item.type]
        number = raw if code in "fd" else int(raw)
        self._words(item.register, struct.pack(">" + code, number))

    def raw(self, path: str) -> float:
        """The raw number of a point."""
        item = self._item(path)
        words = self.bank.holding[item.register : item.register + item.words]
        number: float = struct.unpack(">" + CODES[item.type], words.astype(">u2").tobytes())[0]
        return number

    def put(self, path: str, value: float) -> None:
        """Put an engineering value; NaN makes the point "not implemented" again."""
        item = self._item(path)
        if math.isnan(value):
            self._words(item.register, _not_implemented(item.type, item.words))
            return
        raw = value / 10.0 ** self._power(item)
        self.put_raw(path, raw if CODES[item.type] in "fd" else round(raw))

    def get(self, path: str) -> float:
        """The engineering value of a point, as its registers and its scale factor show it."""
        item = self._item(path)
        return round(self.raw(path) * 10.0 ** self._power(item), 10)

    def put_text(self, path: str, text: str) -> None:
        """Put a text into a string point."""
        item = self._item(path)
        self._words(item.register, text.encode()[: 2 * item.words].ljust(2 * item.words, b"\0"))

    def _power(self, item: Item) -> int:
        if isinstance(item.scale, str):
            return int(self.raw(item.scale))
        return item.scale or 0

    def _item(self, path: str) -> Item:
        if path not in self.items:
            raise ModelError(f"the simulated device has no {path}")
        return self.items[path]

    def _words(self, register: int, data: bytes) -> None:
        words = struct.unpack(f">{len(data) // 2}H", data)
        self.bank.holding[register : register + len(words)] = words

    def _only_writable(self, kind: str, first: int, values: list[int]) -> None:
        if any(register not in self._writable for register in range(first, first + len(values))):
            raise Rejected(ILLEGAL_ADDRESS)

    # ------------------------------------------------------------ the map

    def _add(self, model: SimModel, name: str, here: int) -> int:
        """Lay one model out from register `here`; returns where the next one begins."""
        group = _definition(model.id)["group"]
        end = self._lay(model, group, name, name, here)
        length = end - here - 2 - model.shorter
        self.put_raw(f"{name}.ID", model.id)
        self.put_raw(f"{name}.L", length)
        for count, number in model.counts.items():
            if count:
                self.put_raw(f"{name}.{count}", number)
        for path, text in model.texts.items():
            self.put_text(f"{name}.{path}", text)
        return here + 2 + length

    def _lay(self, model: SimModel, group: dict[str, Any], name: str, path: str, here: int) -> int:
        own = {point["name"] for point in group["points"]}
        for point in group["points"]:
            scale = point.get("sf")
            if isinstance(scale, str):
                scale = f"{path if scale in own else name}.{scale}"
            writable = point.get("access") == "RW"
            item = Item(here, int(point["size"]), point["type"], writable, scale)
            self.items[f"{path}.{point['name']}"] = item
            self._words(here, _not_implemented(item.type, item.words))
            here += item.words
            if writable:
                self._writable.update(range(item.register, here))
        for inner in group.get("groups", ()):
            place, count = f"{path}.{inner['name']}", inner.get("count")
            if count is None:
                here = self._lay(model, inner, name, place, here)
                continue
            number = count or model.counts.get("", 1)
            if isinstance(number, str):
                number = model.counts.get(number, 0)
            for index in range(1, number + 1):
                here = self._lay(model, inner, name, f"{place}[{index}]", here)
        return here


def _not_implemented(kind: str, words: int) -> bytes:
    """The bytes by which a point of this type says that it has no value."""
    if kind in _ZERO:
        return bytes(2 * words)
    if kind == "float32":
        return struct.pack(">f", math.nan)
    if kind == "float64":
        return struct.pack(">d", math.nan)
    if kind in _SIGNED:
        return b"\x80" + bytes(2 * words - 1)
    return b"\xff" * (2 * words)
