"""A serial line that takes its time: a pty whose bytes pass as slowly as a baud rate lets them.

A pty alone moves bytes at once, whatever speed is set. Here each byte takes its character time in
either direction, a frame ends with the silence of Modbus RTU, and what the line carried is added
up (`LineAccount`), so that a plan can be compared with what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.clock import SystemClock

READ_BYTES_MAX: Final = 4096
QUEUE_MAX: Final = 4096  # frames that wait to be sent
FRAME_BYTES_MAX: Final = 4096
CHUNK_S: Final = 0.002  # bytes that come within this time are handed over together, as a UART does
TIMER_S: Final = 0.0015  # a timer may be so late; what is left is waited for turn by turn
FAST_BAUDRATE: Final = 19_200


@dataclass(slots=True)
class LineAccount:
    """What the line has carried since it was started.

    requests, answers            frames from the master, frames from units
    request_bytes, answer_bytes  their bytes
    busy_s                       seconds in which nobody else could send: frames, the silences
                                 behind them, and the time that a unit took to answer
    """

    requests: int = 0
    answers: int = 0
    request_bytes: int = 0
    answer_bytes: int = 0
    busy_s: float = 0.0


class SerialLine:
    """The far end of a serial line.

    baudrate   0 = as fast as a pty
    bits       of one character: start, data, parity and stop bits
    on_frame   called with each frame that the master sent, when the silence behind it is over
    echoes     the adapter hears what it sends, as one that never switches its receiver off
    """

    def __init__(
        self, path: Path, on_frame: Callable[[bytes], None], *, baudrate: int = 0, bits: int = 10
    ) -> None:
        self.path = path
        self.account = LineAccount()
        self.character_s = bits / baudrate if baudrate else 0.0
        self.silence_s = 3.5 * self.character_s if baudrate <= FAST_BAUDRATE else 0.00175
        self.echoes = False
        self._on_frame = on_frame
        self._clock = SystemClock()
        self._master = self._slave = -1
        self._buffer = bytearray()
        self._free_s = 0.0  # when the line is silent again, on the monotonic clock
        self._ended: asyncio.Handle | None = None
        self._queue: asyncio.Queue[tuple[bytes, float]] | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def openings(self) -> list[str]:
        """How often the port is open in this process, our own end left out."""
        if self._slave < 0:
            return []
        name, found = os.ttyname(self._slave), []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if int(fd) != self._slave and os.readlink(f"/proc/self/fd/{fd}") == name:
                    found.append(fd)
        return found

    @property
    def idle(self) -> bool:
        """True while nothing waits to be sent."""
        return self._queue is None or self._queue.empty()

    def start(self) -> None:
        """Plug the adapter in: the port appears under `path`."""
        assert self._master < 0, "the line is there already"
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))
        self._buffer.clear()
        self._queue = asyncio.Queue(QUEUE_MAX)
        loop = asyncio.get_running_loop()
        self._free_s = self._now_s()
        loop.add_reader(self._master, self._readable)
        self._sender = asyncio.create_task(self._send_forever(self._queue))

    async def stop(self) -> None:
        """Pull the adapter out: whoever has the port open sees it break. May be called twice."""
        sender, self._sender = self._sender, None
        if sender is None:
            return
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        if self._ended is not None:
            self._ended.cancel()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self.path.unlink(missing_ok=True)

    def send(self, data: bytes, delay_s: float = 0.0) -> None:
        """A unit sends, `delay_s` from now and behind what others send."""
        if self._queue is not None:
            ready_s = self._now_s() + delay_s
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait((data, ready_s))
                self.account.busy_s += delay_s  # from a question to its answer the line waits

    # ------------------------------------------------------------ from the master

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._received(os.read(self._master, READ_BYTES_MAX))

    def _received(self, data: bytes) -> None:
        if self.echoes:
            self._put(data)
        loop = asyncio.get_running_loop()
        self._free_s = max(self._free_s, self._now_s()) + len(data) * self.character_s
        self.account.busy_s += len(data) * self.character_s
        self.account.request_bytes += len(data)
        if len(self._buffer) < FRAME_BYTES_MAX:
            self._buffer += data
        if self._ended is not None:
            self._ended.cancel()
        wait_s = self._free_s + self.silence_s - TIMER_S - self._now_s()
        self._ended = loop.call_later(max(0.0, wait_s), self._frame_ends)

    def _frame_ends(self) -> None:
        if self._now_s() < self._free_s + self.silence_s:
            self._ended = asyncio.get_running_loop().call_soon(self._frame_ends)
            return
        self._ended = None
        self._free_s += self.silence_s
        self.account.busy_s += self.silence_s
        self.account.requests += 1
        frame = bytes(self._buffer)
        self._buffer.clear()
        self._on_frame(frame)

    # ------------------------------------------------------------ to the master

    async def _send_forever(self, queue: asyncio.Queue[tuple[bytes, float]]) -> None:
        while True:
            data, ready_s = await queue.get()
            await self._until(ready_s)
            start_s = max(self._free_s, ready_s)
            self._free_s = start_s + len(data) * self.character_s
            self.account.answers += 1
            self.account.answer_bytes += len(data)
            self.account.busy_s += len(data) * self.character_s + self.silence_s
            sent = 0
            while sent < len(data):
                chunk = len(data) - sent
                if self.character_s:
                    chunk = min(chunk, max(1, int(CHUNK_S / self.character_s)))
                    await self._until(start_s + (sent + chunk) * self.character_s)
                self._put(data[sent : sent + chunk])
                sent += chunk
            self._free_s = max(self._free_s, self._now_s()) + self.silence_s

    def _put(self, data: bytes) -> None:
        # Nobody reads a port that nobody opened: then the bytes are lost, as on a line.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._master, data)

    async def _until(self, time_s: float) -> None:
        """Wait, exactly: a loop's timers are whole milliseconds, which is a byte or more."""
        if time_s - self._now_s() > TIMER_S:
            await asyncio.sleep(time_s - self._now_s() - TIMER_S)
        while self._now_s() < time_s:
            await asyncio.sleep(0)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9
