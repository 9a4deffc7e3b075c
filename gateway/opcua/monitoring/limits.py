"""What a client may hold of the server, and what it gets where it asks for more.

All that a client can make the server keep is bounded: subscriptions, items, publish requests,
queued notifications, messages that wait for their acknowledgement.
"""

from __future__ import annotations

import math
from typing import Final

SUBSCRIPTIONS_MAX: Final = 200  # of all sessions
SESSION_SUBSCRIPTIONS_MAX: Final = 50
ITEMS_MAX: Final = 100_000  # of all sessions
SESSION_ITEMS_MAX: Final = 30_000
SUBSCRIPTION_ITEMS_MAX: Final = 10_000
LINKS_MAX: Final = 10_000  # of triggering items to others, in one subscription
EVENT_ITEMS_MAX: Final = 1_000  # of all sessions
SUBSCRIPTION_EVENT_ITEMS_MAX: Final = 100
USER_SHARE: Final = 0.8  # of all subscriptions and items, for one user in all his sessions
OPERATIONS_MAX: Final = 5_000  # of one request
PUBLISH_REQUESTS_MAX: Final = 50  # of one session

PUBLISHING_INTERVAL_MS_MIN: Final = 50.0
PUBLISHING_INTERVAL_MS_MAX: Final = 60_000.0
KEEP_ALIVE_COUNT_MAX: Final = 400
LIFETIME_COUNT_MAX: Final = 1_200
LIFETIME_MS_MIN: Final = 5_000.0  # a client that changes its connection needs this long
LIFETIME_MS_MAX: Final = 3_600_000.0
NOTIFICATIONS_PER_PUBLISH_MAX: Final = 10_000

SAMPLING_INTERVAL_MS_MIN: Final = 50.0  # changes come from the field this often (gateway/mirror.py)
SAMPLING_INTERVAL_MS_MAX: Final = 3_600_000.0
# Everything but a point's value is read out again and again; all such items together this often.
READ_INTERVAL_MS_MIN: Final = 100.0
READS_PER_S_MAX: Final = 5_000

ITEM_QUEUE_MAX: Final = 100
EVENT_QUEUE_MIN: Final = 1_000  # a flood of alarms must find room
EVENT_QUEUE_MAX: Final = 5_000
QUEUED_BYTES_MAX: Final = 4 * 1024 * 1024  # of one subscription, behind each item's first entry
QUEUED_ALL_BYTES_MAX: Final = 64 * 1024 * 1024
ENTRY_BYTES: Final = 256  # what one queued value takes at most

RETAINED_MESSAGES_MAX: Final = 40  # of one subscription
RETAINED_BYTES_MAX: Final = 2 * 1024 * 1024  # of one subscription
RETAINED_ALL_BYTES_MAX: Final = 64 * 1024 * 1024


class Budget:
    """Bytes that queues share; a part of another budget where that is given."""

    def __init__(self, bytes_max: int, whole: Budget | None = None) -> None:
        self.left_bytes = bytes_max
        self._whole = whole

    def take(self, size: int) -> bool:
        """Take `size` bytes; False where so many are not left."""
        if size > self.left_bytes or (self._whole is not None and not self._whole.take(size)):
            return False
        self.left_bytes -= size
        return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.left_bytes += size
        if self._whole is not None:
            self._whole.give(size)


def publishing_interval_ms(asked_ms: float) -> float:
    """The nearest interval that is given, in whole milliseconds."""
    if not asked_ms >= PUBLISHING_INTERVAL_MS_MIN:  # true for NaN, too
        return PUBLISHING_INTERVAL_MS_MIN
    return float(round(min(asked_ms, PUBLISHING_INTERVAL_MS_MAX)))


def counts(interval_ms: float, lifetime: int, keep_alive: int) -> tuple[int, int]:
    """Lifetime and keep-alive counts as given (OPC 10000-4, 5.14.2.2).

    The lifetime is at least three times the keep-alive count, and between some seconds and an
    hour where the interval lets it.
    """
    keep_alive = min(max(keep_alive, 1), KEEP_ALIVE_COUNT_MAX)
    keep_alive = max(1, min(keep_alive, int(LIFETIME_MS_MAX / interval_ms / 3)))
    least = max(3 * keep_alive, math.ceil(LIFETIME_MS_MIN / interval_ms))
    most = max(least, min(LIFETIME_COUNT_MAX, int(LIFETIME_MS_MAX / interval_ms)))
    return min(max(lifetime, least), most), keep_alive


def sampling_interval_ms(asked_ms: float, publishing_ms: float) -> float:
    """A point's sampling interval as the client is told it; never shorter than he asked.

    Anything negative asks for the publishing interval (OPC 10000-4, 5.13.1.2 and 7.21).
    """
    if asked_ms == 0:
        return 0.0
    if not asked_ms > 0:
        asked_ms = publishing_ms
    return float(math.ceil(min(max(asked_ms, SAMPLING_INTERVAL_MS_MIN), SAMPLING_INTERVAL_MS_MAX)))


def period_ms(sampling_ms: float) -> float:
    """How often a point is looked at; 0 = at every change, which comes no faster than this."""
    return sampling_ms if sampling_ms > SAMPLING_INTERVAL_MS_MIN else 0.0


def reading_interval_ms(asked_ms: float, publishing_ms: float, readers: int) -> float:
    """The sampling interval of what must be read; longer the more such items there are."""
    if not asked_ms >= 0:
        asked_ms = publishing_ms
    least_ms = max(READ_INTERVAL_MS_MIN, 1_000.0 * readers / READS_PER_S_MAX)
    return float(math.ceil(min(max(asked_ms, least_ms), SAMPLING_INTERVAL_MS_MAX)))


def queue_size(asked: int, *, events: bool) -> int:
    """The queue that an item gets (OPC 10000-4, 5.13.1.5)."""
    if events:
        return min(max(asked, EVENT_QUEUE_MIN), EVENT_QUEUE_MAX)
    return min(max(asked, 1), ITEM_QUEUE_MAX)
