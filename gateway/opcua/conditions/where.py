"""The where clause of an event filter (OPC 10000-4, 7.7): operators over an event's fields.

Logic has three values: what can't be told is None, and only an event for which the clause is true
is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from asyncua import ua

from gateway.opcua.conditions.compare import bits, cast, compared, content
from gateway.opcua.conditions.fields import Field, FieldFault
from gateway.opcua.conditions.like import Like
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.event import UaEvent

ELEMENTS_MAX: Final = 100
OPERANDS_MAX: Final = 500  # of all elements
LIKES_MAX: Final = 10  # each searches a text for every event
LITERAL_CHARS_MAX: Final = 4096
_CODES: Final = ua.StatusCodes
_OF: Final = ua.FilterOperator

# What an element or operand gives for an event, with the results of the elements behind it.
Ask = Callable[[UaEvent, list[Any]], Any]

# Operator -> how many operands it has; None: any number from two on.
_COUNTS: Final = {
    **dict.fromkeys((_OF.IsNull, _OF.Not, _OF.OfType), 1),
    **dict.fromkeys((_OF.Equals, _OF.GreaterThan, _OF.LessThan, _OF.GreaterThanOrEqual), 2),
    **dict.fromkeys((_OF.LessThanOrEqual, _OF.Like, _OF.And, _OF.Or, _OF.Cast), 2),
    **dict.fromkeys((_OF.BitwiseAnd, _OF.BitwiseOr), 2),
    _OF.Between: 3,
    _OF.InList: None,
}
_ORDERS: Final[dict[ua.FilterOperator, Callable[[int], bool]]] = {
    _OF.GreaterThan: lambda order: order > 0,
    _OF.LessThan: lambda order: order < 0,
    _OF.GreaterThanOrEqual: lambda order: order >= 0,
    _OF.LessThanOrEqual: lambda order: order <= 0,
}


class _Fault(Exception):
    """An element can't be evaluated; `operands` has a code for each of its operands."""

    def __init__(self, code: int, operands: Sequence[int] = ()) -> None:
        super().__init__(ua.StatusCode(ua.UInt32(code)).name)
        self.code = code
        self.operands = operands


class _Operand:
    """An operand: a constant, a field, or the result of an element further down."""

    __slots__ = ("ask", "constant", "is_constant")

    def __init__(self, operand: Any, element: int, elements: int, types: EventTypes) -> None:
        """Raises FieldFault with the code of the operand."""
        self.is_constant = False
        self.constant: Any = None
        if isinstance(operand, ua.LiteralOperand):
            self._literal(operand)
        elif isinstance(operand, ua.ElementOperand):
            at = operand.Index
            # Only forwards, so that there is no circle.
            if not element < at < elements:
                raise FieldFault(_CODES.BadFilterOperandInvalid)
            self.ask: Ask = lambda event, results: results[at]
        elif isinstance(operand, ua.SimpleAttributeOperand):
            field = Field(operand, types)
            self.ask = lambda event, results: content(field.value(event))
        else:
            raise FieldFault(_CODES.BadFilterOperandInvalid)

    def _literal(self, operand: ua.LiteralOperand) -> None:
        value = operand.Value
        found = content(value) if isinstance(value, ua.Variant) else value
        if isinstance(found, str | bytes | list) and len(found) > LITERAL_CHARS_MAX:
            raise FieldFault(_CODES.BadFilterLiteralInvalid)
        self.is_constant, self.constant = True, found
        self.ask = lambda event, results: found


class WhereClause:
    """A where clause that was looked through."""

    def __init__(self, elements: Sequence[Ask]) -> None:
        self._elements = elements

    @staticmethod
    def parse(
        wanted: ua.ContentFilter | None, types: EventTypes
    ) -> tuple[WhereClause | None, ua.ContentFilterResult, int]:
        """The clause (None: all events are wanted), a result per element, and a status code."""
        result = ua.ContentFilterResult()
        given = list(wanted.Elements or ()) if wanted is not None else []
        if not given:
            return None, result, 0
        operands = sum(len(element.FilterOperands or ()) for element in given)
        likes = sum(element.FilterOperator == _OF.Like for element in given)
        if len(given) > ELEMENTS_MAX or operands > OPERANDS_MAX or likes > LIKES_MAX:
            return None, result, _CODES.BadEventFilterInvalid
        elements: list[Ask] = []
        for at, element in enumerate(given):
            one = ua.ContentFilterElementResult()
            try:
                elements.append(_element(at, element, len(given), types))
                codes: Sequence[int] = [0] * len(element.FilterOperands or ())
            except _Fault as fault:
                one.StatusCode = ua.StatusCode(ua.UInt32(fault.code))
                codes = fault.operands
            one.OperandStatusCodes = [ua.StatusCode(ua.UInt32(code)) for code in codes]
            result.ElementResults.append(one)
        if len(elements) < len(given):
            return None, result, _CODES.BadEventFilterInvalid
        return WhereClause(elements), result, 0

    def wants(self, event: UaEvent) -> bool:
        """True where the first element is."""
        # Each element once and from the last on: operands point forwards, and many may point
        # to the same element.
        results: list[Any] = [None] * len(self._elements)
        for at in range(len(self._elements) - 1, -1, -1):
            results[at] = self._elements[at](event, results)
        return results[0] is True


def _element(at: int, element: Any, count: int, types: EventTypes) -> Ask:
    """What evaluates an element. Raises _Fault."""
    operator, given = element.FilterOperator, list(element.FilterOperands or ())
    if operator not in _COUNTS:
        known = operator in tuple(_OF)
        code = _CODES.BadFilterOperatorUnsupported if known else _CODES.BadFilterOperatorInvalid
        raise _Fault(code)
    expected = _COUNTS[operator]
    fits = len(given) == expected if expected is not None else len(given) >= 2
    if not fits:
        raise _Fault(_CODES.BadFilterOperandCountMismatch)
    operands, codes = [], []
    for one in given:
        codes.append(0)
        try:
            operands.append(_Operand(one, at, count, types))
        except FieldFault as fault:
            codes[-1] = fault.code
    if any(codes):
        raise _Fault(_CODES.BadFilterOperandInvalid, codes)
    return _operation(operator, operands, types)


def _operation(operator: ua.FilterOperator, operands: list[_Operand], types: EventTypes) -> Ask:
    asks = [operand.ask for operand in operands]
    first, second = asks[0], asks[-1]
    if operator in _ORDERS:
        return _order(_ORDERS[operator], first, second)
    if operator in (_OF.BitwiseAnd, _OF.BitwiseOr):
        both = operator == _OF.BitwiseAnd
        return lambda event, r: bits(first(event, r), second(event, r), both=both)
    match operator:
        case _OF.IsNull:
            return lambda event, r: first(event, r) is None
        case _OF.Not:
            return lambda event, r: _not(first(event, r))
        case _OF.And:
            return lambda event, r: _and(_truth(first(event, r)), _truth(second(event, r)))
        case _OF.Or:
            return lambda event, r: _or(_truth(first(event, r)), _truth(second(event, r)))
        case _OF.Equals:
            return lambda event, r: _equal(first(event, r), second(event, r))
        case _OF.Between:
            return _between(asks)
        case _OF.InList:
            return _in_list(asks)
        case _OF.OfType:
            return _of_type(operands[0], types)
        case _OF.Cast:
            return _cast(operands)
    return _like(operands)


def _order(holds: Callable[[int], bool], first: Ask, second: Ask) -> Ask:
    def ask(event: UaEvent, results: list[Any]) -> bool | None:
        order = compared(first(event, results), second(event, results))
        return None if order is None else holds(order)

    return ask


def _between(asks: Sequence[Ask]) -> Ask:
    def ask(event: UaEvent, results: list[Any]) -> bool | None:
        value = asks[0](event, results)
        low, high = (compared(value, limit(event, results)) for limit in asks[1:])
        return _and(None if low is None else low >= 0, None if high is None else high <= 0)

    return ask


def _in_list(asks: Sequence[Ask]) -> Ask:
    def ask(event: UaEvent, results: list[Any]) -> bool:
        value = asks[0](event, results)
        return any(_equal(value, one(event, results)) is True for one in asks[1:])

    return ask


def _of_type(operand: _Operand, types: EventTypes) -> Ask:
    wanted = operand.constant
    if not operand.is_constant or not isinstance(wanted, ua.NodeId):
        raise _Fault(_CODES.BadFilterOperandInvalid, [_CODES.BadFilterOperandInvalid])
    if wanted not in types:
        raise _Fault(_CODES.BadFilterOperandInvalid, [_CODES.BadNodeIdUnknown])
    kinds = types.kinds(wanted)
    return lambda event, results: event.type_id in kinds


def _cast(operands: list[_Operand]) -> Ask:
    wanted, first = operands[1].constant, operands[0].ask
    if not isinstance(wanted, ua.NodeId) or cast(None, wanted) is NotImplemented:
        raise _Fault(_CODES.BadFilterOperandInvalid, [0, _CODES.BadFilterOperandInvalid])
    return lambda event, results: cast(first(event, results), wanted)


def _like(operands: list[_Operand]) -> Ask:
    pattern, first = operands[1].constant, operands[0].ask
    if not isinstance(pattern, str):  # nor a field: every event would be another pattern
        raise _Fault(_CODES.BadFilterOperandInvalid, [0, _CODES.BadFilterOperandInvalid])
    try:
        like = Like(pattern)
    except ValueError as error:
        raise _Fault(_CODES.BadFilterOperandInvalid, [0, _CODES.BadFilterLiteralInvalid]) from error

    def ask(event: UaEvent, results: list[Any]) -> bool | None:
        text = first(event, results)
        return like.fits(text) if isinstance(text, str) else None

    return ask


# ---------------------------------------------------------------- three values


def _truth(value: Any) -> bool | None:
    """A value as a condition; whatever is neither true nor false can't be told."""
    return value if isinstance(value, bool) else None


def _not(value: Any) -> bool | None:
    truth = _truth(value)
    return None if truth is None else not truth


def _and(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _or(first: bool | None, second: bool | None) -> bool | None:
    if first is True or second is True:
        return True
    return None if first is None or second is None else False


def _equal(first: Any, second: Any) -> bool | None:
    if first is None or second is None:
        return None
    return compared(first, second) == 0
