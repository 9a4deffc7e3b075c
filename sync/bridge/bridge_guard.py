"""What finds messages at run time that go round although the tables have no loop. Pure.

Brokers under two names, or somebody else's bridge, can close a ring that no table shows. A
message that goes round comes to a line again and again, as fast as the brokers are. So does one
that a device simply repeats; the difference is that the first comes no more once it is held back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

REPEATS_MAX: Final = 100  # of one message within the span, before it is held back for a moment
SPAN_NS: Final = 10_000_000_000
ACQUITTED_NS: Final = 600_000_000_000  # how long a message that is merely repeated is left alone
TRACES_MAX: Final = 4096


def digest_of(topic: str, payload: bytes) -> bytes:
    """What tells messages apart: 16 bytes of topic and payload."""
    return blake2b(payload, digest_size=16, key=blake2b(topic.encode()).digest()).digest()


@dataclass(slots=True)
class _Trace:
    since_ns: int
    count: int = 0
    acquitted_ns: int = 0


class LoopGuard:
    """Counts how often each message passes."""

    def __init__(self) -> None:
        self._traces: OrderedDict[bytes, _Trace] = OrderedDict()

    def suspects(self, digest: bytes, now_ns: int) -> bool:
        """Counts a passage; True where the message should be held back and watched."""
        trace = self._traces.pop(digest, None)
        if trace is None or now_ns - trace.since_ns > SPAN_NS:
            trace = _Trace(now_ns, 0, trace.acquitted_ns if trace is not None else 0)
        trace.count += 1
        self._traces[digest] = trace
        if len(self._traces) > TRACES_MAX:
            self._traces.popitem(last=False)
        return trace.count >= REPEATS_MAX and now_ns >= trace.acquitted_ns

    def acquit(self, digest: bytes, now_ns: int) -> None:
        """It came although it was held back: somebody repeats it."""
        trace = self._traces.setdefault(digest, _Trace(now_ns))
        trace.acquitted_ns = now_ns + ACQUITTED_NS

    def convict(self, digest: bytes) -> None:
        """It went round, and was taken out: the next one is counted anew."""
        self._traces.pop(digest, None)
