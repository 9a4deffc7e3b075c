"""The watchdog: who must hear that scans are on time, and acts by himself where he does not.

Three listeners: outputs of devices that toggle (a relay that drops out, a heartbeat register),
systemd or the supervisor, and a watchdog device of the machine. All of them hear from the scan
itself, so a process that hangs, a scan that is late and a write that fails are silent alike.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, Final

from config.model import WatchdogEntry
from gateway.commands import Commands
from gateway.outputs import Output

log = logging.getLogger("gatepost.field")

SIGN_PERIOD_NS: Final = 500_000_000  # between two signs of healthy scans
DEVICE_RETRY_NS: Final = 10_000_000_000
RESERVED: Final = "the watchdog toggles this output"

Tell = Callable[[str, dict[str, Any]], None]  # kind and body of an event


class DeviceFile:
    """A watchdog device, ``/dev/watchdog``: it resets the machine when nobody writes to it.

    Source: Linux kernel, Documentation/watchdog/watchdog-api.rst. A last "V" before the close
    disarms it (magic close); a close without it, by a crash, does not.
    """

    def __init__(self, path: str, tell: Tell) -> None:
        self._path = path
        self._tell = tell
        self._descriptor = -1
        self._retry_ns = 0
        self._reason: str | None = None  # what was told last: why it is not heard, "" = it is

    def feed(self, now_ns: int) -> None:
        """Open the device where it is not, and write to it. A failure is an event, once."""
        if self._descriptor < 0 and now_ns < self._retry_ns:
            return
        reason = ""
        try:
            if self._descriptor < 0:
                self._descriptor = _open_device(self._path)
            os.write(self._descriptor, b".")
        except OSError as error:
            reason = error.strerror or str(error)
            self._retry_ns = now_ns + DEVICE_RETRY_NS
            self._drop()
        if reason != self._reason:
            self._reason = reason
            what = "not fed" if reason else "armed"
            body = {"what": f"watchdog device {what}", "device": self._path, "reason": reason}
            self._tell("gateway", body)

    def _drop(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def disarm(self) -> None:
        """An orderly stop: the machine is not to be reset."""
        if self._descriptor >= 0:
            try:
                os.write(self._descriptor, b"V")
            except OSError as error:
                log.error("%s could not be disarmed: %s", self._path, error.strerror)
        self._drop()


def _open_device(path: str) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        os.close(descriptor)
        raise OSError(0, "it is no device file")
    return descriptor


class Watchdog:
    """Tells everybody who listens that scans are on time."""

    def __init__(
        self,
        entry: WatchdogEntry | None,
        scan_period_ns: int,
        commands: Commands,
        tell: Tell,
        signs: Sequence[Callable[[], None]] = (),
    ) -> None:
        """`signs` are called twice a second while scans are healthy; they must not wait."""
        entry = entry or WatchdogEntry()
        self._scan_period_ns = scan_period_ns
        self._period_ns = round(entry.Period * 1e9)
        self._commands = commands
        self._signs = signs
        points = (commands.points[tag] for tag in entry.Outputs if tag in commands.points)
        self._outputs = [commands.outputs[p.index] for p in points if p.index in commands.outputs]
        for output in self._outputs:
            commands.reserve(output.point.index, RESERVED)
        self._device = DeviceFile(entry.Device, tell) if entry.Device else None
        self._next_ns = 0
        self._next_sign_ns = 0

    def scan(self, now_ns: int, lateness_ns: int) -> None:
        """A periodic scan begins, `lateness_ns` behind its grid."""
        if lateness_ns >= self._scan_period_ns:
            return
        if now_ns >= self._next_sign_ns:
            self._next_sign_ns = now_ns + SIGN_PERIOD_NS
            for sign in self._signs:
                sign()
        if now_ns < self._next_ns:
            return
        self._next_ns += self._period_ns  # on a grid; what was missed is not made up for
        if self._next_ns <= now_ns:
            self._next_ns = now_ns + self._period_ns
        for output in self._outputs:
            self._toggle(output)
        if self._device is not None:
            self._device.feed(now_ns)

    def _toggle(self, output: Output) -> None:
        """Turn an output over, where the device took its last value; protection goes before it."""
        if math.isnan(output.beat):
            self._commands.beat(output.point.index, 0.0 if output.driven == 1.0 else 1.0)
        elif output.driven == output.beat:
            self._commands.beat(output.point.index, 1.0 - output.beat)

    def stop(self) -> None:
        """An orderly stop: nobody is to act on the silence that follows, but who watches outputs.

        The outputs that toggle stay still, or take their safe value.
        """
        if self._device is not None:
            self._device.disarm()
