"""Where to go on: continuation points of HistoryRead (OPC 10000-4, 7.9)."""

from __future__ import annotations

import weakref
from typing import Any, Final

from asyncua import ua

from gateway.core.clock import secret
from gateway.opcua.history.requests import POINT_BYTES
from gateway.opcua.service import Fault
from gateway.opcua.transport.session import Session

SESSION_MAX: Final = 1000
SERVER_MAX: Final = 10_000
# Requests of a session whose times or filter are kept for later: up to 80 kB each.
HELD_MAX: Final = 16
_KEY: Final = "history"
_HELD: Final = "history held"


class Continuations:
    """Points of all sessions. A point is good once, in its own session, until that ends."""

    def __init__(self) -> None:
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _kept(self, session: Session) -> dict[bytes, Any]:
        kept = session.kept.get(_KEY)
        if kept is None:
            kept = session.kept[_KEY] = {}
            session.at_end(lambda deletes: self._forget(kept))
        points: dict[bytes, Any] = kept
        return points

    def _forget(self, points: dict[bytes, Any]) -> None:
        self._count -= len(points)
        points.clear()

    def keep(self, session: Session, state: Any, held: object = None) -> bytes:
        """A new point for a state. Raises Fault(BadNoContinuationPoints) where there is no room.

        held  what is large of the state, which states share
        """
        if session.closed:
            raise Fault(ua.StatusCodes.BadSessionClosed)
        points = self._kept(session)
        if len(points) >= SESSION_MAX or self._count >= SERVER_MAX:
            raise Fault(ua.StatusCodes.BadNoContinuationPoints)
        if held is not None:
            alive = session.kept.setdefault(_HELD, weakref.WeakSet())
            alive.add(held)
            if len(alive) > HELD_MAX:
                raise Fault(ua.StatusCodes.BadNoContinuationPoints)
        point = secret(POINT_BYTES)
        points[point] = state
        self._count += 1
        return point

    def take(self, session: Session, point: bytes) -> Any:
        """The state of a point, which is gone then. Raises Fault(BadContinuationPointInvalid)."""
        points = self._kept(session)
        if point not in points:
            raise Fault(ua.StatusCodes.BadContinuationPointInvalid)
        self._count -= 1
        return points.pop(point)
