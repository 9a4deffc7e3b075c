"""Failed logons: who guesses passwords waits longer and longer. Pure.

What is counted is a name at one address. So nobody can lock a user out from another address, and
whoever guesses at one name leaves the others of his address alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

FREE: Final = 5  # failures before the first wait
WAIT_NS_MAX: Final = 300_000_000_000
FORGET_NS: Final = 3_600_000_000_000  # without a try
# One try costs a fifth of a second: to push 2,000 entries out takes longer than the longest wait.
KNOWN_MAX: Final = 2_000

_S: Final = 1_000_000_000


class Attempts:
    """Failures by name and address. All times are of a clock that never goes back, in ns."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def begin(self, name: str, address: str, now_ns: int) -> bool:
        """Count a try; False where it must not be looked at. It is a failure until `succeeded`."""
        key = (name.casefold(), address)
        count, last_ns = self._known.get(key, (0, now_ns))
        if now_ns - last_ns > FORGET_NS:
            count = 0
        if count >= FREE and now_ns - last_ns < wait_ns(count):
            return False
        self._known[key] = (count + 1, now_ns)
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return True

    def succeeded(self, name: str, address: str) -> None:
        """The password was right: what failed before is forgotten."""
        self._known.pop((name.casefold(), address), None)


def wait_ns(failures: int) -> int:
    """How long the next try must wait: 1 s after the first five, then doubled up to 300 s."""
    if failures < FREE:
        return 0
    return min(_S << min(failures - FREE, 20), WAIT_NS_MAX)
