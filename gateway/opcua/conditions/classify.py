"""Which alarm type of OPC 10000-9 a rule is: read off its condition.

A comparison of one analog point with constants is a limit alarm, the look at a point with two
names an off-normal alarm, at one with more a discrete alarm. Anything else is an AlarmCondition.

The link process does not have the parser of rules, which belongs to the field process. So only
these plain forms are recognised here, in both languages of docs/rules.md; what is not recognised is
an AlarmCondition, which is true of every alarm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua

from config.model import AlarmRule
from config.points import PointDef
from config.units import unit_of

TEXT_CHARS_MAX: Final = 20_000  # of a rule; more is refused when it is compiled
_NESTING_MAX: Final = 40
_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_JSON_OPS: Final = {**{op: op for op in _FLIPPED}, "===": "==", "!==": "!="}
_SIDES: Final = {">": ("High", "HighHigh"), "<": ("Low", "LowLow")}
_LIVE: Final = "$LiveData/"

_WORD: Final = r"[^\W\d]\w*"
_POINT: Final = rf"(?:(?:{_WORD}|`[^`]+`)\.(?:\w+|`[^`]+`)|`[^`.]+\.[^`.]+`|\$LiveData/[\w/-]+)"
_NUMBER: Final = r"-?\s*\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_UNIT: Final = r"(?:\s*\[(?P<{}>[^\[\]]*)\])?"
_OP: Final = r"\s*(?P<op>==|!=|<=|>=|<|>)\s*"
_TAIL: Final = (
    rf"(?:\s+hysteresis\s+{_NUMBER}(?:\s*\[[^\[\]]*\])?)?"
    r"(?:\s+for\s+\d+(?:\.\d*)?\s*(?:ms|s|min|h))?"
)
_NAMED: Final = rf"(?P<point>{_POINT}|{_WORD})"
_CONSTANT: Final = rf"(?:(?P<number>{_NUMBER}){_UNIT.format('unit')}|(?P<text>'[^']*'|\"[^\"]*\"))"
_LOOKS: Final = (
    re.compile(rf"{_NAMED}(?:{_OP}{_CONSTANT})?{_TAIL}", re.IGNORECASE),
    re.compile(rf"{_CONSTANT}{_OP}{_NAMED}{_TAIL}", re.IGNORECASE),
)
_IN_PARENTHESES: Final = re.compile(rf"\(([^()]*)\){_TAIL}", re.IGNORECASE)
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\[\]]*\]")
_NAMES: Final = re.compile(rf"{_POINT}|{_WORD}")


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of alarm a rule is.

    type_id  number of its condition type in namespace 0
    inputs   tags of what its condition reads: points, and rules by the names of theirs
    limits   ``HighHigh``, ``High``, ``Low``, ``LowLow``: limit, in the point's unit
    states   level of the rule -> which of the limits it stands for
    """

    type_id: int
    inputs: tuple[str, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    """A point by itself (no `op`), or beside a constant; `value` is None where that is a name."""

    tag: str
    op: str = ""
    value: float | None = None
    unit: str = ""
    level: str = ""


def kind_of(rule: AlarmRule, points: Mapping[str, PointDef]) -> Kind:
    """What sort of alarm a rule is; `points` by tag."""
    if rule.When is not None:
        text = rule.When[:TEXT_CHARS_MAX]
        inputs = tuple(dict.fromkeys(_named(text, rule.Data)))
        look = _infix(text, rule.Data)
        looks = [] if look is None else [look]
    else:
        inputs = tuple(dict.fromkeys(_variables(rule.Rule, rule.Data, 0)))
        looks = _levels(rule.Rule, rule.Data)
    point = points.get(inputs[0]) if len(inputs) == 1 else None
    if point is None or not looks or any(look.tag != point.tag for look in looks):
        return Kind(ua.ObjectIds.AlarmConditionType, inputs)
    if point.kind == "discrete":
        off_normal = len(point.states) <= 2
        ids = ua.ObjectIds
        return Kind(ids.OffNormalAlarmType if off_normal else ids.DiscreteAlarmType, inputs)
    return _limit_kind(looks, rule, point)


# ---------------------------------------------------------------- infix


def _infix(text: str, data: Mapping[str, str]) -> _Look | None:
    text = text.strip()
    held = _IN_PARENTHESES.fullmatch(text)
    if held is not None:
        text = held[1].strip()
    for way, pattern in enumerate(_LOOKS):
        match = pattern.fullmatch(text)
        tag = _tag(match["point"], data) if match is not None else ""
        if match is None or not tag:
            continue
        op = (match["op"] or "") if way == 0 else _FLIPPED[match["op"]]
        number = match["number"]
        value = float(number.replace(" ", "")) if number else None
        return _Look(tag, op, value, match["unit"] or "")
    return None


def _named(text: str, data: Mapping[str, str]) -> Iterator[str]:
    """Tags of all points that a text names."""
    for name in _NAMES.findall(_QUOTED.sub(" ", text)):
        tag = _tag(name, data)
        if tag:
            yield tag


def _tag(name: str, data: Mapping[str, str]) -> str:
    """The point that is meant; "" where a word is an entry of `Data` that is none, or none."""
    if "/" not in name and "." not in name:
        name = data.get(name, "")
    if name.startswith(_LIVE):
        equipment, _, channel = name.removeprefix(_LIVE).partition("/")
        return f"{equipment}.{channel}" if channel else ""
    # References to alarms and states count as inputs, so that their alarm has no point of its own.
    return name.replace("`", "")


# ---------------------------------------------------------------- JsonLogic


def _levels(rule: Any, data: Mapping[str, str]) -> list[_Look]:
    """``if`` with a comparison for each level, and null at the end; else one look."""
    operator, arguments = _operation(rule)
    if operator != "if":
        look = _json_look(rule, data)
        return [] if look is None else [look]
    found = []
    ends = arguments[-1] is None if len(arguments) % 2 else True
    for at in range(0, len(arguments) - 1, 2):
        look, level = _json_look(arguments[at], data), arguments[at + 1]
        if look is None or not isinstance(level, str):
            return []
        found.append(_Look(look.tag, look.op, look.value, look.unit, level))
    return found if ends else []


def _json_look(rule: Any, data: Mapping[str, str]) -> _Look | None:
    operator, arguments = _operation(rule)
    if operator == "var":
        tag = _variable(rule, data)
        return _Look(tag) if tag else None
    if operator not in _JSON_OPS or len(arguments) != 2:
        return None
    op = _JSON_OPS[operator]
    left, right = arguments
    if _variable(left, data):
        return _compared(_variable(left, data), op, right)
    if _variable(right, data):
        return _compared(_variable(right, data), _FLIPPED[op], left)
    return None


def _compared(tag: str, op: str, constant: Any) -> _Look | None:
    if isinstance(constant, bool) or not isinstance(constant, int | float | str):
        return None
    return _Look(tag, op, None if isinstance(constant, str) else float(constant))


def _operation(rule: Any) -> tuple[str, list[Any]]:
    """Operator and arguments; "" where it is none."""
    if not isinstance(rule, dict) or len(rule) != 1:
        return "", []
    ((operator, given),) = rule.items()
    return str(operator), given if isinstance(given, list) else [given]


def _variable(rule: Any, data: Mapping[str, str]) -> str:
    """The tag of a ``var``; "" where it is none."""
    operator, arguments = _operation(rule)
    if operator != "var" or not arguments or not isinstance(arguments[0], str):
        return ""
    return _tag(data.get(arguments[0], ""), {})


def _variables(rule: Any, data: Mapping[str, str], depth: int) -> Iterator[str]:
    if depth > _NESTING_MAX:
        return
    tag = _variable(rule, data)
    if tag:
        yield tag
    for inner in rule if isinstance(rule, list) else _operation(rule)[1]:
        if isinstance(inner, dict | list):
            yield from _variables(inner, data, depth + 1)


# ---------------------------------------------------------------- limits


def _limit_kind(looks: list[_Look], rule: AlarmRule, point: PointDef) -> Kind:
    """Two limits a side at most: that is what the standard has names for."""
    plain = Kind(ua.ObjectIds.AlarmConditionType, (point.tag,))
    limits: list[tuple[str, float, str]] = []
    for look in looks:
        value = _value(look, point)
        if value is None or look.op[:1] not in _SIDES:
            return plain
        limits.append((look.op[:1], value, look.level or rule.Level))
    named: dict[str, float] = {}
    states: dict[str, str] = {}
    lows, highs = ([value for at, value, _ in limits if at == side] for side in "<>")
    # The first of an `if` that holds gives the level. One behind a nearer limit, or behind one of
    # the other side that overlaps it, would be shown and never come.
    if lows != sorted(set(lows)) or highs != sorted(set(highs))[::-1]:
        return plain
    if lows and highs and lows[-1] > highs[-1]:
        return plain
    for side, names in _SIDES.items():
        # From the nearest to normal on: the nearest of two is High, the other HighHigh.
        own = [(value, level) for at, value, level in limits if at == side][::-1]
        if len(own) > len(names):
            return plain
        for (value, level), name in zip(own, names, strict=False):
            if states.get(level, name) != name:  # one level for two limits
                return plain
            named[name], states[level] = value, name
    return Kind(ua.ObjectIds.ExclusiveLevelAlarmType, (point.tag,), named, states)


def _value(look: _Look, point: PointDef) -> float | None:
    """A limit in the point's unit; None where there is none or it can't be converted."""
    if look.value is None or look.op in ("==", "!="):
        return None
    given, own = unit_of(look.unit), unit_of(point.units)
    if given is None or own is None or given.symbol == own.symbol:
        return look.value
    if given.dimension is None or given.dimension != own.dimension:
        return None
    return float((look.value * given.scale + given.zero - own.zero) / own.scale)
