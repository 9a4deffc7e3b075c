"""All requests of a scan class as prepared frames, and one reading of them.

The answers to requests that were sent in order mostly come in order, back to back. So their
places in the stream are known before the first one is sent: the stream is copied into one buffer
as it comes, each head is compared with the one that must be there, and the values of all answers
that are complete are decoded together. Whatever does not fit is handed back, to be looked at frame
by frame (drivers/modbus/link.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from drivers.codec import Coding
from drivers.contract import NO_VALUES, Block, Cycle, Part
from drivers.errors import DriverError, NoAnswer, Refused
from drivers.modbus.decoder import Decoder, Field
from drivers.modbus.map import BIT_FUNCTIONS, Request

REQUEST_BYTES: Final = 12
HEAD_BYTES: Final = 9  # transaction, protocol, length, unit, function, byte count
SHEET_MAX: Final = 1024  # requests of a sheet

_COIL: Final = Coding("bool", 1)


class Sheet:
    """Requests that are read in one go, and the buffer for their answers.

    requests  (B,) what the blocks ask for
    places    (B + 1,) answer b has its place at buffer[places[b] : places[b + 1]], head included
    in_use    a reading has the buffer
    decode    (first, last) -> the values of those blocks, whose answers are in the buffer
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        assert 0 < len(blocks) <= SHEET_MAX
        self.blocks = blocks
        self.requests: list[Request] = [block.request for block in blocks]
        self.places = [0]
        for request in self.requests:
            self.places.append(self.places[-1] + HEAD_BYTES + request.size)
        self.buffer = bytearray(self.places[-1] + 1)
        self.in_use = False
        self._frames = np.zeros((len(blocks), REQUEST_BYTES // 2), dtype=">u2")
        heads = np.zeros((len(blocks), HEAD_BYTES), dtype=np.uint8)
        self._numbers = np.ndarray(len(blocks), ">u2", heads.data, 0, (HEAD_BYTES,))
        self._heads = heads.view(f"V{HEAD_BYTES}").ravel()
        for frame, head, request in zip(self._frames, heads, self.requests, strict=True):
            frame[2:] = (6, request.unit << 8 | request.function, request.first, request.count)
            length = 3 + request.size
            head[4:] = (length >> 8, length & 0xFF, request.unit, request.function, request.size)
        fields: list[Field] = []
        starts = [0]
        for request, place in zip(self.requests, self.places, strict=False):
            fields += _fields(request, place + HEAD_BYTES)
            starts.append(len(fields))
        self.decode = Decoder(fields, starts, np.frombuffer(self.buffer, dtype=np.uint8))

    def number(self, numbers: NDArray[np.int64]) -> tuple[bytes, list[bytes]]:
        """All requests back to back under these transaction numbers, and their answers' heads."""
        self._frames[:, 0] = numbers
        self._numbers[:] = numbers
        return self._frames.tobytes(), self._heads.tolist()


def _fields(request: Request, place: int) -> Iterator[Field]:
    """The members of a request whose registers or bits begin at byte `place`."""
    for member in request.members:
        at = member.first - request.first
        if request.function in BIT_FUNCTIONS:
            yield Field(_COIL, place + at // 8, at % 8)
        else:
            yield Field(member.coding, place + 2 * at)


class ModbusCycle(Cycle):
    """Blocks with their sheets; the blocks of `sheets[s]` begin at block s * SHEET_MAX."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        self.sheets = [
            Sheet(self.blocks[at : at + SHEET_MAX]) for at in range(0, len(self.blocks), SHEET_MAX)
        ]


class Reading:
    """One run through a sheet: what was sent, what came, what the reader has taken.

    count     all requests
    sent      so many of them were sent
    settled   so many, from the first on without a gap, have an answer or an error
    frames    all requests, back to back
    sent_ns   (count,) when each was sent, on the monotonic clock
    end       why nothing more comes; None while it may
    """

    __slots__ = (
        "_ahead",
        "_errors",
        "_fill",
        "_heads",
        "_positions",
        "_taken",
        "_waiter",
        "count",
        "end",
        "frames",
        "numbers",
        "sent",
        "sent_ns",
        "settled",
        "sheet",
    )

    def __init__(self, sheet: Sheet, numbers: NDArray[np.int64]) -> None:
        """`numbers` are the transaction numbers of the requests."""
        if sheet.in_use:  # two readings at once: each needs a buffer of its own
            sheet = Sheet(sheet.blocks)
        sheet.in_use = True
        self.sheet = sheet
        self.count = len(sheet.requests)
        self.sent = 0
        self.settled = 0
        self.sent_ns = [0] * self.count
        self.end: DriverError | None = None
        self.numbers = numbers
        self.frames, self._heads = sheet.number(numbers)
        self._positions: dict[int, int] = {}  # by number, once somebody asks
        self._ahead: set[int] = set()  # settled behind the first that is not
        self._errors: dict[int, Refused | NoAnswer] = {}
        self._fill = 0  # end of the stream in the buffer
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ what comes

    @property
    def in_order(self) -> bool:
        """True where the next answer should be the one behind `settled`."""
        return not self._ahead

    def take(self, data: bytes) -> bytes:
        """Take the stream in order as far as it is what was asked for; returns what is not.

        Only where `in_order`.
        """
        places, buffer, settled = self.sheet.places, self.sheet.buffer, self.settled
        fill = self._fill
        end = fill + len(data)
        if end > places[self.sent]:
            return self.spill() + data
        buffer[fill:end] = data
        self._fill = end
        heads, sent = self._heads, self.sent
        while settled < sent and places[settled + 1] <= end:
            if not buffer.startswith(heads[settled], places[settled]):
                self.settled = settled
                return self.spill()
            settled += 1
        self.settled = settled
        # A refusal is no longer than a head, so it must not wait for the rest of an answer.
        begun = end - places[settled] >= HEAD_BYTES
        if begun and not buffer.startswith(heads[settled], places[settled]):
            return self.spill()
        return b""

    def spill(self) -> bytes:
        """Give back the stream behind the last settled answer."""
        start, end = self.sheet.places[self.settled], self._fill
        self._fill = start
        return bytes(self.sheet.buffer[start:end])

    def position(self, number: int) -> int | None:
        """The request in flight that has this transaction number."""
        if not self._positions:
            self._positions = {n: at for at, n in enumerate(self.numbers.tolist())}
        at = self._positions.get(number)
        if at is None or not self.settled <= at < self.sent or at in self._ahead:
            return None
        return at

    def put(self, at: int, payload: bytes) -> None:
        """The answer to one request; `payload` has its size."""
        place = self.sheet.places[at] + HEAD_BYTES
        self.sheet.buffer[place : place + len(payload)] = payload
        self._settle(at)

    def fail(self, at: int, error: Refused | NoAnswer) -> None:
        """One request has no answer, or a refusal."""
        self._errors[at] = error
        self._settle(at)

    def _settle(self, at: int) -> None:
        self._ahead.add(at)
        while self.settled in self._ahead:
            self._ahead.discard(self.settled)
            self.settled += 1
        self._fill = self.sheet.places[self.settled]

    def overdue(self, before_ns: int) -> list[int]:
        """Requests in flight that were sent before that time."""
        found = []
        for at in range(self.settled, self.sent):
            if self.sent_ns[at] > before_ns:
                break
            if at not in self._ahead:
                found.append(at)
        return found

    def oldest_ns(self) -> int | None:
        """When the oldest request in flight was sent."""
        return self.sent_ns[self.settled] if self.settled < self.sent else None

    def in_flight(self) -> list[int]:
        """Transaction numbers that are still owed an answer."""
        places = [at for at in range(self.settled, self.sent) if at not in self._ahead]
        return [int(self.numbers[at]) for at in places]

    # ------------------------------------------------------------ who reads

    def wake(self) -> None:
        """Tell the reader that there is something to take, or an end."""
        waiter = self._waiter
        something = self.settled > self._taken or self.end is not None
        if something and waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def is_taken(self) -> bool:
        """True where the reader has everything."""
        return self._taken == self.count

    async def wait(self) -> None:
        """Until a request that the reader has not taken is settled, or nothing more comes."""
        if self._taken == self.settled and self.end is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def part(self, first_block: int) -> Part | None:
        """The next settled requests, values of several together; None where there are none.

        `first_block` is the sheet's first block in its cycle.
        """
        first = self._taken
        if first == self.settled:
            return None
        asked_ns = self.sent_ns[first]
        error = self._errors.pop(first, None)
        if error is not None:
            self._taken = first + 1
            at = first_block + first
            return Part(at, at + 1, asked_ns, NO_VALUES, error)
        last = self.settled
        if self._errors:
            last = min(last, *self._errors)
        self._taken = last
        values = self.sheet.decode(first, last)
        return Part(first_block + first, first_block + last, asked_ns, values)
