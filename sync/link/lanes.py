"""What has been sent on a link and not been confirmed, and what may go next. Decides, never waits.

Two lanes share a session. The live lane carries new frames as they are appended; the backlog lane
carries what an outage left, in sweeps over the store: first the frames with events, then all the
rest, the oldest or the newest first. The store is the only truth about what is outstanding: where
confirmations stop moving, everything that it still holds becomes backlog and goes again.

How much of a backlog may be under way follows from its own delay: a confirmation that takes much
longer than the quickest one says that frames queue up somewhere, and live frames behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sync.store.store import StoredFrame

IN_FLIGHT_MAX: Final = 4096  # frames of one lane that are remembered as sent
BACKLOG_BYTES_MAX: Final = 4_000_000  # of a backlog, sent and not confirmed
CHUNK_FRAMES: Final = 8
STALLS_MAX: Final = 6  # the wait before sending again doubles this often
QUEUE_NS: Final = 50_000_000  # by so much may a backlog lengthen the way of a frame
QUICKEST_NS: Final = 10 * 10**9  # the quickest way counts for one to two of these


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience, in seconds, and the window in frames.

    timeout_s      connection, subscription; an answer of the broker, beside the time of its bytes
    resend_s       no progress for this long: send again; doubles with every try
    silence_s      frames outstanding and not one acknowledgement for this long: connect anew
    settle_s       what was confirmed is collected for so long before the store lets go of it
    backoff_*_s    pause between two tries to connect; doubles, with jitter
    window         frames of a lane that may be sent and not confirmed
    window_start   of the backlog lane; it grows with what is confirmed in good time
    """

    timeout_s: float = 5.0
    resend_s: float = 5.0
    silence_s: float = 60.0
    settle_s: float = 1.0
    backoff_s_min: float = 0.5
    backoff_s_max: float = 5.0
    window: int = 128
    window_start: int = 2


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame under way."""

    id: int
    epoch: int
    first: int
    last: int
    birth: str
    size: int  # bytes on the line
    at_ns: int


@dataclass(slots=True)
class Sweep:
    """A walk over the ids between `after` and `before`, both left out."""

    after: int
    before: int
    newest_first: bool = False
    events: bool = False  # only frames that hold some

    def passed(self, number: int) -> None:
        """The walk has come past this id."""
        if self.newest_first:
            self.before = number
        else:
            self.after = number


class Lanes:
    """One for each session, and anew where the ids of the store change."""

    def __init__(
        self,
        newest: int,
        timing: Timing,
        now_ns: int,
        *,
        selective: bool = True,
        newest_first: bool = False,
        hours_open: bool = True,
    ) -> None:
        """`newest`: the last id in the store. `selective`: each frame is confirmed by itself."""
        self.timing = timing
        self.selective = selective
        self.newest_first = newest_first
        self.hours_open = hours_open
        self.live = newest  # the last frame that went out on the live lane, or was passed over
        self.floor = newest  # what an outage left ends here; the hours hold for it
        self.mark = newest  # the backlog ends here
        self.window = timing.window
        self.back_window = min(timing.window_start, timing.window)
        self.stalls = 0
        self.turn = 0  # grows where what was fetched from the store is to be fetched anew
        self.progress_ns = now_ns
        self.heard_ns = now_ns
        self.back_ns = now_ns  # when the backlog lane last sent
        self.live_sent: dict[int, Sent] = {}
        self.back_sent: dict[int, Sent] = {}
        self._confirmed_ns = -1  # of what was confirmed, when the newest had gone out
        # From frame to confirmation: of this period and of the one before, 0 = none was.
        self._quick_ns = self._quick_before_ns = 0
        self._quick_since_ns = now_ns
        self._cut_ns, self._was_cut = now_ns, False
        self.sweeps: list[Sweep] = self._new_sweeps()

    @property
    def in_flight(self) -> int:
        """Frames sent and not confirmed."""
        return len(self.live_sent) + len(self.back_sent)

    @property
    def draining(self) -> bool:
        """True while the backlog has not been sent to its end."""
        return bool(self.sweeps)

    def sent(self, frame: StoredFrame, size: int, now_ns: int, *, live: bool) -> None:
        """A frame goes out, in `size` bytes."""
        if not self.in_flight:
            self.progress_ns = self.heard_ns = now_ns
        lane = self.live_sent if live else self.back_sent
        if live:
            self.live = frame.id
        else:
            self.back_ns = now_ns
        span = (frame.epoch, frame.first, frame.last)
        lane[frame.id] = Sent(frame.id, *span, frame.birth, size, now_ns)
        if len(lane) > IN_FLIGHT_MAX:
            del lane[next(iter(lane))]

    def needs(self, birth: str) -> bool:
        """True where a frame under way refers to this birth."""
        return any(e.birth == birth for e in (*self.live_sent.values(), *self.back_sent.values()))

    def is_sent(self, number: int) -> bool:
        """True for a frame that is under way."""
        return number in self.live_sent or number in self.back_sent

    # ------------------------------------------------------------ what may go

    def live_room(self, now_ns: int) -> int:
        """Frames that may go out on the live lane now.

        Where only what stands without a hole is confirmed, no live frame is, behind a backlog;
        there the lane stays open for as long as the backlog makes progress.
        """
        waits = self.draining and not self.selective and not self.stalls
        if waits and now_ns - self.progress_ns < self.resend_ns:
            return CHUNK_FRAMES
        return max(0, self.window - len(self.live_sent))

    def back_room(self) -> int:
        """Frames that may go out on the backlog lane now."""
        if sum(entry.size for entry in self.back_sent.values()) >= BACKLOG_BYTES_MAX:
            return 0
        return max(0, min(self.window, self.back_window) - len(self.back_sent))

    def pass_over(self, newest: int) -> None:
        """The live lane can't keep up: what it has not sent becomes backlog."""
        self.live = self.mark = newest
        self.restart()

    def renumbered(self) -> None:
        """Frames became one, whose id a lane may have passed, and not what it holds."""
        self.mark = max(self.mark, self.live)
        self.restart()

    def open_hours(self, hours_open: bool) -> None:
        """The hours of the backlog begin or end."""
        if hours_open != self.hours_open:
            self.hours_open = hours_open
            self.restart()

    def restart(self) -> None:
        """Walk over the backlog from its beginning; what is under way is left out."""
        self.turn += 1
        self.sweeps = self._new_sweeps()

    def _new_sweeps(self) -> list[Sweep]:
        """Events go at once, also outside of the hours: an alarm must not wait for the night."""
        newest_first = self.newest_first and self.selective and self.stalls < 2
        low, end = 0 if self.hours_open else self.floor, self.mark + 1
        sweeps = [Sweep(0, end, newest_first, events=True)] if self.selective else []
        if low + 1 < end:
            sweeps.append(Sweep(low, end, newest_first))
        return sweeps if end > 1 else []

    # ------------------------------------------------------------ what was confirmed

    def confirm(self, gone: Callable[[Sent], bool], now_ns: int) -> list[int]:
        """Forgets the frames that `gone` is true of; returns their ids."""
        live = [entry for entry in self.live_sent.values() if gone(entry)]
        back = [entry for entry in self.back_sent.values() if gone(entry)]
        if not live and not back:
            return []
        for entry in live:
            del self.live_sent[entry.id]
        for entry in back:
            del self.back_sent[entry.id]
        self._confirmed_ns = max(self._confirmed_ns, *(e.at_ns for e in (*live, *back)))
        self.progress_ns = now_ns
        self.stalls = 0
        self.window = min(self.timing.window, self.window * 2)
        if self.selective or back:
            measured = back or live
            self._measure(now_ns - max(entry.at_ns for entry in measured), now_ns)
        if back:
            self._widen(now_ns - min(entry.at_ns for entry in back), len(back), now_ns)
        return [entry.id for entry in (*live, *back)]

    def _measure(self, took_ns: int, now_ns: int) -> None:
        if now_ns - self._quick_since_ns > QUICKEST_NS:
            self._quick_before_ns, self._quick_ns = self._quick_ns, 0
            self._quick_since_ns = now_ns
        self._quick_ns = min(self._quick_ns or took_ns, took_ns)

    @property
    def _quickest_ns(self) -> int:
        known = [ns for ns in (self._quick_ns, self._quick_before_ns) if ns]
        return min(known, default=0)

    def _widen(self, took_ns: int, frames: int, now_ns: int) -> None:
        """More of the backlog at a time while that doesn't lengthen its way, else less.

        Twice as much at first and little by little later, as TCP does (RFC 5681), and by the delay
        in place of a loss, as LEDBAT does (RFC 6817).
        """
        if took_ns <= self._quickest_ns + QUEUE_NS:
            more = max(1, frames // 4) if self._was_cut else frames
            self.back_window = min(self.timing.window, self.back_window + more)
        elif now_ns - self._cut_ns > took_ns:
            self._cut_ns, self._was_cut = now_ns, True
            self.back_window = max(1, self.back_window * 3 // 4)

    def confirm_without_holes_only(self) -> None:
        """The far side confirms no single frames: the backlog goes in order, from its beginning."""
        if self.selective:
            self.selective = False
            self.back_sent.clear()  # or frames that went out of order would fill the window
            self.restart()

    # ------------------------------------------------------------ what was not

    @property
    def resend_ns(self) -> int:
        """Patience with a frame that is not confirmed."""
        patience_ns = max(int(self.timing.resend_s * 1e9), 4 * self._quickest_ns)
        return patience_ns << min(self.stalls, STALLS_MAX)

    def stalled(self, now_ns: int) -> bool:
        """True where a frame is overdue: nothing moves, or what went out after it has arrived.

        While a backlog drains in order, nothing is expected of the live lane behind it.
        """
        lanes = [self.back_sent.values()]
        if self.selective or not self.draining:
            lanes.append(self.live_sent.values())
        patience_ns = self.resend_ns
        still = now_ns - self.progress_ns > patience_ns
        for lane in lanes:
            for entry in lane:
                since_ns = entry.at_ns if self.selective else max(entry.at_ns, self.back_ns)
                if now_ns - since_ns <= patience_ns:
                    continue
                if still or entry.at_ns < self._confirmed_ns:
                    return True
        return False

    def go_back(self, newest: int, now_ns: int) -> None:
        """Send everything that the store still holds again, gently."""
        self.live = self.mark = max(self.live, newest)
        self.live_sent.clear()
        self.back_sent.clear()
        self.window = self.back_window = 1
        self.stalls += 1
        self.progress_ns = self.back_ns = now_ns
        self.restart()
