"""Input arguments of a call against those declared (OPC 10000-4, 5.12.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asyncua import ua

from gateway.opcua.methods import MethodFault
from gateway.opcua.orders.conversion import NUMBERS, Mismatch, converted, scalar

_IDS: Final = ua.ObjectIds
_KINDS: Final = ua.VariantType
_ANY: Final = int(_IDS.BaseDataType)
_BUILT_IN: Final = {kind.value: kind for kind in _KINDS if 1 <= kind.value <= 25}  # types = ids
_NAMED: Final = {
    # Subtypes that methods of the standard and ours declare (OPC 10000-3, 8; OPC 10000-5).
    int(_IDS.Duration): _KINDS.Double,
    int(_IDS.UtcTime): _KINDS.DateTime,
    int(_IDS.IntegerId): _KINDS.UInt32,
    int(_IDS.Counter): _KINDS.UInt32,
    int(_IDS.LocaleId): _KINDS.String,
    int(_IDS.Enumeration): _KINDS.Int32,
    int(_IDS.VersionTime): _KINDS.UInt32,
    int(_IDS.ContinuationPoint): _KINDS.ByteString,
}
_NULLABLE: Final = (_KINDS.String, _KINDS.ByteString)
_ABSTRACT_NUMBERS: Final = (int(_IDS.Number), int(_IDS.Integer), int(_IDS.UInteger))


class ArgumentsRefused(MethodFault):
    """Arguments don't fit. `results` has a (status code, reason) for each one, or is empty."""

    def __init__(self, code: int, reason: str, results: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(code, reason)
        self.results = tuple(results)


def checked(given: Sequence[ua.Variant], declared: Sequence[ua.Argument]) -> list[ua.Variant]:
    """The arguments in the types declared. Raises ArgumentsRefused."""
    if len(given) != len(declared):
        codes = ua.StatusCodes
        few = len(given) < len(declared)
        code = codes.BadArgumentsMissing if few else codes.BadTooManyArguments
        names = ", ".join(str(argument.Name) for argument in declared) or "none"
        raise ArgumentsRefused(code, f"{len(given)} arguments are given; there are: {names}")
    made: list[ua.Variant] = []
    results: list[tuple[int, str]] = []
    for variant, argument in zip(given, declared, strict=True):
        try:
            made.append(_fitted(variant, argument))
            results.append((ua.StatusCodes.Good, ""))
        except Mismatch as mismatch:
            results.append((mismatch.code, f"{argument.Name}: {mismatch}"))
    wrong = [reason for _, reason in results if reason]
    if wrong:
        raise ArgumentsRefused(ua.StatusCodes.BadInvalidArgument, "; ".join(wrong), results)
    return made


def _fitted(variant: ua.Variant, argument: ua.Argument) -> ua.Variant:
    number = int(argument.DataType.Identifier) if argument.DataType.NamespaceIndex == 0 else 0
    if int(argument.ValueRank) >= 1:
        return _array(variant, number)
    if number == _ANY:
        return variant
    kind = _NAMED.get(number) or _BUILT_IN.get(number)
    if kind in NUMBERS or kind == _KINDS.Boolean:
        return ua.Variant(converted(variant, kind), kind)
    if kind is None and number not in _ABSTRACT_NUMBERS:
        kind = _KINDS.ExtensionObject
    if variant.VariantType == _KINDS.Null and kind in _NULLABLE:
        return ua.Variant(None, kind)  # a null string of clients that have no other null
    if variant.is_array or isinstance(variant.Value, list):
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, "an array; one value is needed")
    if kind is None:
        scalar(variant)
        fits, name = variant.VariantType in NUMBERS, "a number"
    else:
        fits, name = variant.VariantType == kind, kind.name
    if not fits:
        shown = getattr(variant.VariantType, "name", "no such type")
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, f"{shown} is given, {name} is needed")
    return variant


def _array(variant: ua.Variant, number: int) -> ua.Variant:
    """An argument that is declared as an array: elements of its type, none at all is one too."""
    kind = _NAMED.get(number) or _BUILT_IN.get(number, _KINDS.ExtensionObject)
    empty = variant.Value is None
    is_array = bool(variant.is_array) or isinstance(variant.Value, list)
    if empty or (is_array and number == _ANY) or (is_array and variant.VariantType == kind):
        return variant
    raise Mismatch(ua.StatusCodes.BadTypeMismatch, f"an array of {kind.name} is needed")
