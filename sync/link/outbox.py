"""The way out of a session: publications in their order, and when the broker has them.

A frame of a form may be one publication or thousands. They go to the broker in the order in which
they were put here, a limited number at a time; the frame is delivered with its last answer. What
goes with QoS 0 gets no answer of its own: the next answer to something later stands for it,
because a broker reads a connection in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sync.forms.forms import Publication
from sync.link.mqtt import MqttSession
from sync.link.pace import HEADER_BYTES

PUBLISH_MAX: Final = 64  # publications that wait for the broker's answer
# Each lane waits for `room` before it puts one more frame, of 100,000 publications at most.
WAITING_MAX: Final = 2**18
SLOW_BYTES_PER_S: Final = 1000  # an answer may take as much longer as this line needs


def size_of(publications: Sequence[Publication]) -> int:
    """Bytes on the line, about."""
    return sum(len(p.topic) + len(p.payload) + HEADER_BYTES for p in publications)


class _Parcel:
    """Publications that belong together."""

    __slots__ = ("delivered", "left")

    def __init__(self, left: int, delivered: Callable[[], None] | None) -> None:
        self.left = left
        self.delivered = delivered

    def one_less(self) -> None:
        self.left -= 1
        if not self.left and self.delivered is not None:
            self.delivered()


class Outbox:
    """One for each session; `run` ends with the session's error."""

    def __init__(self, session: MqttSession, timeout_s: float) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._queue: deque[tuple[Publication, _Parcel]] = deque(maxlen=WAITING_MAX)
        self._slots = asyncio.Semaphore(PUBLISH_MAX)
        self._filled = asyncio.Event()
        self._moved = asyncio.Event()
        # Sent with QoS 0 and not fenced yet; a frame that falls out of it goes out again.
        self._loose: deque[tuple[int, _Parcel]] = deque(maxlen=WAITING_MAX)
        self._loosened = asyncio.Event()
        self._count = 0
        self._handed = self._bytes = 0  # handed over and not answered
        # Number, bytes and topic of those that the broker may not have read.
        self._unread: deque[tuple[int, int, str]] = deque(maxlen=WAITING_MAX)

    def largest_unread(self) -> tuple[int, str]:
        """Bytes and topic of the largest message that the broker may not have read."""
        return max(((size, topic) for _, size, topic in self._unread), default=(0, ""))

    def put(
        self, publications: Sequence[Publication], delivered: Callable[[], None] | None = None
    ) -> None:
        """Takes publications; calls `delivered` when the broker has all of them."""
        assert len(self._queue) + len(publications) <= WAITING_MAX, "nobody waited for room"
        parcel = _Parcel(len(publications), delivered)
        if not publications and delivered is not None:
            delivered()
        self._queue.extend((publication, parcel) for publication in publications)
        self._filled.set()

    async def room(self, waiting: int, handed: int = PUBLISH_MAX) -> None:
        """Returns when at most so many publications wait to be handed over, or for an answer."""
        while len(self._queue) > waiting or self._handed > handed:
            self._moved.clear()
            await self._moved.wait()

    async def run(self) -> None:
        """Publishes for ever. Raises LinkError in an exception group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fence())
            while True:
                while not self._queue:
                    self._filled.clear()
                    await self._filled.wait()
                await self._slots.acquire()
                publication, parcel = self._queue.popleft()
                self._moved.set()
                # Tasks start in the order in which they are made, and so do their publications.
                group.create_task(self._send(publication, parcel))

    async def _send(self, publication: Publication, parcel: _Parcel) -> None:
        self._count += 1
        number = self._count
        size = len(publication.payload)
        self._bytes += size
        self._handed += 1
        self._unread.append((number, size, publication.topic))
        if not publication.qos:
            self._loose.append((number, parcel))
            self._loosened.set()
        try:
            await self._session.publish(
                publication.topic,
                publication.payload,
                qos=publication.qos,
                retain=publication.retain,
                timeout_s=self._patience_s(),
            )
        finally:
            self._bytes -= size
            self._handed -= 1
            self._slots.release()
            self._moved.set()
        if publication.qos:
            self._read_up_to(number)
            parcel.one_less()

    def _patience_s(self) -> float:
        return self._timeout_s + self._bytes / SLOW_BYTES_PER_S

    async def _fence(self) -> None:
        while True:
            while not self._loose:
                self._loosened.clear()
                await self._loosened.wait()
            number = self._count
            await self._session.fence(timeout_s=self._patience_s())
            self._read_up_to(number)

    def _read_up_to(self, number: int) -> None:
        while self._unread and self._unread[0][0] <= number:
            self._unread.popleft()
        while self._loose and self._loose[0][0] <= number:
            self._loose.popleft()[1].one_less()
