"""SunSpec's model definitions: which points a model has, where they lie, what they mean.

The definitions are the JSON files that pysunspec2 ships (Apache-2.0, SunSpec Alliance); they are
read from the installed package, a model at its first use. Source of the rules: SunSpec Device
Information Model Specification V1.1.

A point is named ``<model>.<point>``, with the groups in between: ``103.W``, ``704.PFWInj.PF``. All
indexes count from 1: ``160.module[2].DCA`` is the second module, ``203[2].W`` the second model 203
of the device. A single bit is named by its symbol, ``103.Evt1.GROUND_FAULT``.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final

MODELS_MAX: Final = 256  # definitions kept in memory
PATHS_MAX: Final = 20_000  # parsed names kept in memory
BY_LENGTH: Final = ""  # the count of a group that fills the rest of its model

_FLOAT_MAX: Final = sys.float_info.max


@dataclass(frozen=True, slots=True)
class NumberType:
    """A numeric type: struct code, registers, and the numbers that are values.

    Everything outside `low` to `high` marks "no value": the sentinel of the standard, a bit field
    whose highest bit is set, a scale factor that is none.
    """

    code: str
    words: int
    low: float
    high: float


NUMBER_TYPES: Final[dict[str, NumberType]] = {
    "int16": NumberType("h", 1, -(2**15) + 1, 2**15 - 1),
    "int32": NumberType("i", 2, -(2**31) + 1, 2**31 - 1),
    "int64": NumberType("q", 4, -(2**63) + 1, 2**63 - 1),
    "uint16": NumberType("H", 1, 0, 2**16 - 2),
    "uint32": NumberType("I", 2, 0, 2**32 - 2),
    "uint64": NumberType("Q", 4, 0, 2**64 - 2),
    "count": NumberType("H", 1, 0, 2**16 - 2),
    # An accumulator that is not there reads 0.
    "acc16": NumberType("H", 1, 1, 2**16 - 1),
    "acc32": NumberType("I", 2, 1, 2**32 - 1),
    "acc64": NumberType("Q", 4, 1, 2**64 - 1),
    "enum16": NumberType("H", 1, 0, 2**16 - 2),
    "enum32": NumberType("I", 2, 0, 2**32 - 2),
    "bitfield16": NumberType("H", 1, 0, 2**15 - 1),
    "bitfield32": NumberType("I", 2, 0, 2**31 - 1),
    "float32": NumberType("f", 2, -_FLOAT_MAX, _FLOAT_MAX),
    "float64": NumberType("d", 4, -_FLOAT_MAX, _FLOAT_MAX),
    "sunssf": NumberType("h", 1, -10, 10),
}
BIT_FIELDS: Final = {"bitfield16": 15, "bitfield32": 31}  # bits that may be used
ENUMERATIONS: Final = ("enum16", "enum32")


class UnknownPoint(Exception):
    """A name that means no number of any model; the message says why and suggests others."""


# Registers as a sum: what is multiplied -> factor. () is the fixed part; ("NCrv", "NPt") is
# multiplied by both counts of the device.
Registers = dict[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Offset:
    """Registers from the start of a model: `fixed`, and what depends on counts of the device."""

    fixed: int
    varying: tuple[tuple[tuple[str, ...], int], ...] = ()

    def registers(self, counts: Mapping[str, int]) -> int:
        """The whole offset on a device with these counts."""
        total = self.fixed
        for names, factor in self.varying:
            product = factor
            for name in names:
                product *= counts[name]
            total += product
        return total


@dataclass(frozen=True, slots=True)
class ModelPoint:
    """One point of a model, as the definition has it.

    place    registers from the start of its group
    scale    the power of ten, the name of the point that holds it, or None
    symbols  names of values (enumerations) or of bit numbers (bit fields)
    """

    name: str
    type: str
    place: int
    words: int
    scale: int | str | None
    writable: bool
    units: str
    label: str
    symbols: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Points and groups that stand together.

    count   how many of it there are: None = one, a number, the name of a point of the model, or
            `BY_LENGTH`
    size    registers of one of it
    places  name of a group in it -> registers before that group
    """

    name: str
    count: int | str | None
    points: Mapping[str, ModelPoint]
    groups: Mapping[str, Group]
    size: Registers
    places: Mapping[str, Registers]


@dataclass(frozen=True, slots=True)
class Model:
    """One model. Its first two points are the identifier and the length behind them."""

    id: int
    group: Group

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of the points that count groups, and `BY_LENGTH`."""
        return tuple(dict.fromkeys(_count_names(self.group)))

    @property
    def sole(self) -> Group | None:
        """The group whose number follows from the model's length: the only repeated one."""
        repeated = [g for g in self.group.groups.values() if isinstance(g.count, str)]
        if len(repeated) != 1 or set(repeated[0].size) - {()}:
            return None
        return repeated[0]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a named number lives.

    model, instance  model identifier, and which of those the device has, from 1
    text             the name as in `IOPoint`
    at               its registers in the model
    scale            power of ten, or where the point that holds it lies, or None
    indexes          (name of the count, index): the device must have that many
    bit              lowest bit and number of bits, of a bit field
    """

    model: int
    instance: int
    text: str
    point: ModelPoint
    at: Offset
    scale: int | Offset | None
    indexes: tuple[tuple[str, int], ...]
    bit: tuple[int, int] | None = None

    @property
    def type(self) -> NumberType:
        """The numeric type."""
        return NUMBER_TYPES[self.point.type]


# ---------------------------------------------------------------- definitions


@lru_cache(maxsize=1)
def _folder() -> Traversable:
    return files("sunspec2") / "models" / "json"


@lru_cache(maxsize=1)
def model_ids() -> tuple[int, ...]:
    """Identifiers of all models that are defined."""
    names = (re.fullmatch(r"model_(\d+)\.json", file.name) for file in _folder().iterdir())
    return tuple(sorted(int(name[1]) for name in names if name))


@lru_cache(maxsize=MODELS_MAX)
def model_of(number: int) -> Model | None:
    """The definition of a model; None where there is none."""
    if number not in model_ids():
        return None
    text = (_folder() / f"model_{number}.json").read_text(encoding="utf-8")
    return Model(number, _group(json.loads(text)["group"]))


def _group(content: dict[str, Any]) -> Group:
    points: dict[str, ModelPoint] = {}
    here = 0
    for item in content["points"]:
        point = _point(item, here)
        points[point.name] = point
        here += point.words
    size: Registers = {(): here}
    groups: dict[str, Group] = {}
    places: dict[str, Registers] = {}
    for item in content.get("groups", ()):
        group = _group(item)
        groups[group.name] = group
        places[group.name] = dict(size)
        size = _sum(size, _times(group.size, group.count))
    return Group(content["name"], _count(content.get("count")), points, groups, size, places)


def _count(declared: int | str | None) -> int | str | None:
    """Older definitions write 0 for a group that fills the rest of the model."""
    if declared is None:
        return None
    text = str(declared)
    if not text.isdigit():
        return text
    return int(text) or BY_LENGTH


def _point(item: dict[str, Any], place: int) -> ModelPoint:
    scale = item.get("sf")
    if isinstance(scale, str) and re.fullmatch(r"-?\d+", scale):
        scale = int(scale)
    return ModelPoint(
        name=item["name"],
        type=item["type"],
        place=place,
        words=int(item["size"]),
        scale=scale,
        writable=item.get("access") == "RW",
        units=str(item.get("units") or "").strip(),
        label=str(item.get("label") or "").strip(),
        symbols={s["name"]: int(s["value"]) for s in item.get("symbols", ())},
    )


def _sum(one: Registers, other: Registers) -> Registers:
    return {names: one.get(names, 0) + other.get(names, 0) for names in {**one, **other}}


def _times(size: Registers, count: int | str | None) -> Registers:
    if count is None:
        return size
    if isinstance(count, int):
        return {names: count * factor for names, factor in size.items()}
    return {tuple(sorted((*names, count))): factor for names, factor in size.items()}


def _count_names(group: Group) -> Iterable[str]:
    for inner in group.groups.values():
        if isinstance(inner.count, str):
            yield inner.count
        yield from _count_names(inner)


# ---------------------------------------------------------------- names

_NAME: Final = re.compile(
    r"(?P<model>\d{1,5})(?:\[(?P<instance>\d{1,5})\])?"
    r"(?P<path>(?:\.[A-Za-z_][\w-]*(?:\[\d{1,5}\])?)+)",
    re.ASCII,
)
_SEGMENT: Final = re.compile(r"\.([\w-]+)(?:\[(\d+)\])?", re.ASCII)
_Segment = tuple[str, int | None]


@lru_cache(maxsize=PATHS_MAX)
def address_of(text: str) -> Address:
    """The address of a named number. Raises UnknownPoint."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise UnknownPoint(
            f"'{text}' is no SunSpec point. Write model and point, for example 103.W, "
            "160.module[2].DCA or 704.PFWInj.PF."
        )
    model = model_of(int(match["model"]))
    if model is None:
        near = _near(match["model"], [str(number) for number in model_ids()])
        raise UnknownPoint(f"There is no definition of model {match['model']}.{near}")
    instance = 1 if match["instance"] is None else int(match["instance"])
    if instance == 0:
        raise UnknownPoint(f"'{text}': the models of a device count from 1.")
    segments = [
        (name, int(index) if index else None) for name, index in _SEGMENT.findall(match["path"])
    ]
    return _located(model, instance, text, segments)


def _located(model: Model, instance: int, text: str, segments: list[_Segment]) -> Address:
    group, before = model.group, Registers({(): 0})
    indexes: list[tuple[str, int]] = []
    for position, (name, index) in enumerate(segments):
        if name in group.groups:
            inner = group.groups[name]
            number = _index(inner, index, text)
            before = _sum(before, group.places[name])
            before = _sum(before, _times(inner.size, number - 1))
            if isinstance(inner.count, str):
                indexes.append((inner.count, number))
            group = inner
        elif name in group.points:
            if index is not None:
                raise UnknownPoint(f"'{text}': {name} is a single point and has no index.")
            point = group.points[name]
            return Address(
                model=model.id,
                instance=instance,
                text=text,
                point=_numeric(point, text),
                at=_offset(before, point.place),
                scale=_scale(model, group, before, point),
                indexes=tuple(indexes),
                bit=_bit(point, segments[position + 1 :], text),
            )
        else:
            near = _near(name, [*group.points, *group.groups])
            raise UnknownPoint(f"'{text}': {group.name} has no point or group {name}.{near}")
    known = ", ".join(list(group.points)[:4])
    raise UnknownPoint(f"'{text}' is a group. Name a point of it, for example {known}.")


def _index(group: Group, index: int | None, text: str) -> int:
    if group.count is None:
        if index is not None:
            raise UnknownPoint(f"'{text}': there is one {group.name} only, so it has no index.")
        return 1
    if index is None:
        name = group.name
        raise UnknownPoint(f"'{text}': {name} is repeated. Say which one, for example {name}[1].")
    if index == 0 or (isinstance(group.count, int) and index > group.count):
        last = f" to {group.count}" if isinstance(group.count, int) else ""
        raise UnknownPoint(f"'{text}': {group.name} counts from 1{last}.")
    return index


def _offset(before: Registers, place: int) -> Offset:
    varying = tuple(sorted((names, k) for names, k in before.items() if names and k))
    return Offset(before[()] + place, varying)


def _scale(model: Model, group: Group, before: Registers, point: ModelPoint) -> int | Offset | None:
    """A scale factor stands in the point's own group, or at the model's beginning."""
    if not isinstance(point.scale, str):
        return point.scale
    if point.scale in group.points:
        return _offset(before, group.points[point.scale].place)
    return Offset(model.group.points[point.scale].place)


def _numeric(point: ModelPoint, text: str) -> ModelPoint:
    if point.type not in NUMBER_TYPES:
        raise UnknownPoint(f"'{text}' is a {point.type} and no number.")
    return point


def _bit(point: ModelPoint, rest: list[_Segment], text: str) -> tuple[int, int] | None:
    if not rest:
        return None
    name, index = rest[0]
    if point.type not in BIT_FIELDS or index is not None or len(rest) > 1:
        raise UnknownPoint(f"'{text}': {point.name} is a {point.type}, with nothing in it.")
    if name not in point.symbols:
        raise UnknownPoint(f"'{text}': {point.name} has no bit {name}.{_near(name, point.symbols)}")
    return point.symbols[name], 1


def _near(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests names like this one; empty where none is."""
    options = list(known)
    near = [option for option in options if option.lower() == name.lower()]
    near += [n for n in difflib.get_close_matches(name, options, 3, 0.5) if n not in near]
    return f" Do you mean {' or '.join(near)}?" if near else ""
