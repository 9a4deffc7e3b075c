"""What a subscription is made of: its terms, its state, and what it shares with the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from gateway.core.clock import Clock
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.items import AttributeItem, Reader
from gateway.opcua.monitoring.limits import Budget
from gateway.opcua.values import Values


def is_denied(shown: ua.DataValue) -> bool:
    """True where a value says that the user may not read it."""
    code = shown.StatusCode.value if shown.StatusCode is not None else 0
    return code in (ua.StatusCodes.BadUserAccessDenied, ua.StatusCodes.BadNotReadable)


class State(Enum):
    """States of OPC 10000-4, 5.14.1.2; one that is closed is nowhere any more."""

    NORMAL = "normal"
    LATE = "late"
    KEEP_ALIVE = "keep alive"


@dataclass(slots=True, eq=False)
class Shared:
    """What all subscriptions of a server use.

    stamps   by index of the point: number of the batch that changed it last
    batch    number of the newest batch
    readers  how many items are sampled by reading, of all subscriptions
    items    how many items there are
    stale    items that hear of every change came, went or moved
    """

    values: Values
    reader: Reader
    clock: Clock
    queued: Budget = field(default_factory=lambda: Budget(limits.QUEUED_ALL_BYTES_MAX))
    retained: Budget = field(default_factory=lambda: Budget(limits.RETAINED_ALL_BYTES_MAX))
    stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    batch: int = 0
    readers: int = 0
    items: int = 0
    stale: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """Items of one sampling interval; 0 = told of every change, never due."""

    interval_ns: int
    due_ns: int
    seen: int = 0  # batch at the last sampling
    version: int = -1  # of the table when `rows` was made
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    points: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    members: int = 0
    readers: dict[int, AttributeItem] = field(default_factory=dict)
    to_read: list[AttributeItem] = field(default_factory=list)  # of the sampling that is under way


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed with the client; counts are publishing intervals."""

    interval_ms: float
    lifetime: int
    keep_alive: int
    notifications_max: int
    priority: int
