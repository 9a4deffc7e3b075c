"""Event filters: which events an item wants, and which of their fields (OPC 10000-4, 7.22.3).

A filter is looked through once, when the item is made. For an event it then costs one look-up a
field, and a field's encoding is made once for all items.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from asyncua import ua

from gateway.opcua.conditions.fields import Field, FieldFault
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.conditions.where import WhereClause
from gateway.opcua.event import UaEvent, encoding

SELECT_CLAUSES_MAX: Final = 200
_CODES: Final = ua.StatusCodes
_ABSENT: Final = "\0"  # no event has a value there: what a clause that was refused gives


class EventFilter:
    """The filter of one item."""

    def __init__(self, fields: Sequence[Field | None], where: WhereClause | None) -> None:
        """`fields` has None where a select clause was refused: its field is null."""
        paths = [field.path if field is not None else _ABSENT for field in fields]
        self._odd = [
            (at, field) for at, field in enumerate(fields) if field is not None and not field.plain
        ]
        self._where = where
        self._pick: Callable[[Mapping[str, Any]], Sequence[Any]] = (
            itemgetter(*paths) if len(paths) > 1 else lambda values: (values[paths[0]],)
        )
        self._head = struct.pack("<i", len(paths))

    @staticmethod
    def parse(
        wanted: ua.EventFilter, types: EventTypes
    ) -> tuple[EventFilter | None, ua.EventFilterResult, int]:
        """The filter, a result for each of its clauses, and a status code (0 = good).

        A select clause that can never give anything has its own bad result, and its field is
        null in every event, as the standard asks; a filter without any good one, or with a where
        clause that can't be evaluated, is refused.
        """
        result = ua.EventFilterResult()
        clauses = list(wanted.SelectClauses or ())
        if not clauses or len(clauses) > SELECT_CLAUSES_MAX:
            return None, result, _CODES.BadEventFilterInvalid
        fields: list[Field | None] = []
        for clause in clauses:
            code = 0
            try:
                fields.append(Field(clause, types))
            except FieldFault as fault:
                fields.append(None)
                code = fault.code
            result.SelectClauseResults.append(ua.StatusCode(ua.UInt32(code)))
        where, result.WhereClauseResult, code = WhereClause.parse(wanted.WhereClause, types)
        if code or all(field is None for field in fields):
            return None, result, _CODES.BadEventFilterInvalid
        return EventFilter(fields, where), result, 0

    def fields(self, event: UaEvent) -> list[ua.Variant] | None:
        """The selected fields of an event; None where the where clause doesn't want it."""
        if self._where is not None and not self._where.wants(event):
            return None
        found = list(self._pick(event.values()))
        for at, field in self._odd:
            found[at] = field.value(event)
        return found

    def encoded(self, event: UaEvent) -> bytes | None:
        """The same as it stands in an EventFieldList behind the client's handle.

        That is a length and the encoded variants; a quarter of the cost of encoding `fields`.
        """
        if self._where is not None and not self._where.wants(event):
            return None
        found = self._pick(event.encoded())
        if self._odd:
            found = list(found)
            for at, field in self._odd:
                found[at] = encoding(field.value(event))
        return self._head + b"".join(found)
