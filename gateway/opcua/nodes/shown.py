"""Values as variables of the address space show them that are no point's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from asyncua import ua

from gateway.opcua.values import EPOCH_TICKS


@lru_cache(maxsize=256)
def code(status: int) -> ua.StatusCode:
    """A status code as the library has it."""
    return ua.StatusCode(ua.UInt32(status))


def time_of(utc_ns: int) -> Any:
    """The library's time; None where no time is known."""
    return ua.win_epoch_to_datetime(utc_ns // 100 + EPOCH_TICKS) if utc_ns > 0 else None


def bad_value(status: int, utc_ns: int = 0) -> ua.DataValue:
    """A status without a value."""
    shown = ua.DataValue(StatusCode=code(status), SourceTimestamp=time_of(utc_ns))
    # The constructor made a null variant; without it the field is not sent at all.
    shown.Value = None
    return shown
