"""PMUs and PDCs by IEEE C37.118: their stream becomes updates, one a data frame.

The device sends by itself once it was told to (or always, over UDP); it is never polled. Which
signals a stream has is known only when it tells its configuration: a channel that names none gets
`BadConfigurationError` then, and the reason is in the update.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import numpy as np

from config import status
from config.findings import Finding
from config.model import Channel
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import (
    Fault,
    data_type_faults,
    named_findings,
    refuse,
    scalar_faults,
    whole_number,
)
from drivers.codec import Scaling
from drivers.contract import NO_VALUES, Block, Cycle, DriverProtocol, Part, Surroundings, Update
from drivers.errors import DriverError, NotConnected, Refused
from drivers.inbox import coding_of
from drivers.pmu.data import PARTS, Sample
from drivers.pmu.frames import FrameType
from drivers.pmu.link import SAMPLES_MAX, PmuLink, Signals, open_tcp, open_udp

PORTS: Final = {"TCP": 4712, "UDP": 4713}  # of the standard
KINDS: Final = {"CFG-2": FrameType.CFG2, "CFG-3": FrameType.CFG3}
UPDATES_MAX: Final = 2 * SAMPLES_MAX  # decoded ones; what came waits in the link
DATA_TYPES: Final = ("float32", "float64", "int16", "uint16", "bool")
_FORM: Final = re.compile(
    rf"(.+/)?(FREQ|DFREQ|STAT|WORD:[1-9]\d*|ANALOG:.+|DIGITAL:.+|.+\.({'|'.join(PARTS)}))"
)


# ---------------------------------------------------------------- configuration


def _tag_faults(instrument: Instrument) -> list[Fault]:
    tags = instrument.tags
    faults = []
    place = tags.Connection
    idcode = whole_number(place.Unit) if place is not None else None
    if idcode is None or not 1 <= idcode <= 65534:
        text = "The IDCODE of the stream is missing or no number from 1 to 65534."
        faults.append(Fault("Connection.Unit", "unit-invalid", text))
    if tags.Transport == "TCP" and (place is None or not place.IP):
        text = "The address is missing. Give Connection.IP; only a UDP stream comes without."
        faults.append(Fault("Connection.IP", "connection-missing", text))
    return faults


def signal_name(channel: Channel) -> str:
    """The signal that a channel names; empty where it names none."""
    return str(channel.IOPoint).strip() if isinstance(channel.IOPoint, str) else ""


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    if channel.ReadWrite != "R":
        text = "Nothing can be written to a PMU stream. Set ReadWrite to R."
        faults.append(Fault("ReadWrite", "protocol-read-only", text))
    if not _FORM.fullmatch(signal_name(channel)):
        text = (
            "IOPoint has to name a signal: FREQ, DFREQ, STAT, ANALOG:name, DIGITAL:name, WORD:1, "
            "or a phasor with .magnitude, .angle, .real or .imaginary."
        )
        faults.append(Fault("IOPoint", "address-missing", text))
    faults += data_type_faults(channel, DATA_TYPES)
    return faults


def check(instrument: Instrument) -> list[Finding]:
    """All findings about the address, names and data types."""
    faults = _tag_faults(instrument)
    return named_findings(instrument, faults, _channel_faults, signal_name)


def plan(instrument: Instrument) -> list[Block]:
    """One block a scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    rows: dict[str, list[int]] = {}
    for point in instrument.points.values():
        if point.scan_class:
            rows.setdefault(point.scan_class, []).append(point.index)
    return [
        Block(np.array(index, dtype=np.int32), scan_class, None, f"stream {scan_class}", True)
        for scan_class, index in rows.items()
    ]


# ---------------------------------------------------------------- the driver


class PmuDriver:
    """A stream; the contract is drivers.contract.PushDriver."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        assert tags.Connection is not None
        self._host = tags.Connection.IP or None
        self._port = tags.PortNum or PORTS[tags.Transport]
        self._idcode = whole_number(tags.Connection.Unit) or 0
        self._udp = tags.Transport == "UDP"
        self._kind = KINDS[tags.Configuration]
        self._timeout_s = tags.Timeout
        self._clock = surroundings.clock
        self._tap = surroundings.tap
        channels = [(n, c) for n, c in instrument.channels.items() if c.ReadWrite == "R"]
        self._wanted = [signal_name(channel) for _, channel in channels]
        self._index = np.array([instrument.points[n].index for n, _ in channels], dtype=np.int32)
        self._codings = [coding_of(channel) for _, channel in channels]
        self._link: PmuLink | None = None
        self._signals: Signals | None = None  # those of the last update
        self._rows = np.zeros(0, dtype=np.int32)
        self._scaling = Scaling([])
        self._ready: deque[Update] = deque(maxlen=UPDATES_MAX)  # decoded, not yet fetched

    async def connect(self) -> None:
        """Connect, ask for the configuration, start the data.

        Where the device can't be asked (UDP without `Connection.IP`), only listen.
        """
        await self.close()
        if self._udp:
            link = await open_udp(self._make_link, self._host, self._port, self._timeout_s)
        else:
            assert self._host is not None
            link = await open_tcp(self._make_link, self._host, self._port, self._timeout_s)
        self._link, self._signals = link, None
        self._ready.clear()
        configured = False
        try:
            await link.configure()
            configured = True
        except DriverError as error:
            raise type(error)(f"{self._host}:{self._port}: {error}") from None
        finally:
            if not configured:
                await self.close()

    def _make_link(self) -> PmuLink:
        return PmuLink(
            self._idcode,
            self._wanted,
            self._kind,
            self._timeout_s,
            listen_only=self._udp and self._host is None,
            clock=self._clock,
            tap=self._tap,
        )

    async def close(self) -> None:
        """Stop the stream and close; may be called twice."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """Nothing can be asked for: every block is refused."""
        for position in range(len(cycle.blocks)):
            error = Refused("a PMU stream is not asked, it sends by itself", permanent=True)
            yield Part(position, position + 1, 0, NO_VALUES, error)

    async def write(self, point: PointDef, value: float) -> None:
        """Refused: nothing can be written to a stream."""
        raise Refused("nothing can be written to a PMU stream", permanent=True)

    async def updates(self) -> AsyncIterator[Update]:
        """One update a data frame, in order; raises what ended the session behind the last one."""
        link = self._link
        if link is None:
            raise NotConnected("not connected")
        while True:
            while self._ready:
                yield self._ready.popleft()
            if link.signals is not None and self._signals is None:
                self._use(link.signals)
                continue
            taken = link.take()
            if taken is not None:
                signals, samples = taken
                if signals is not self._signals:
                    self._use(signals)
                self._ready.extend(self._update(sample) for sample in samples)
            elif link.ended is not None:
                if self._link is link:
                    await self.close()
                raise type(link.ended)(str(link.ended))
            else:
                await link.news()

    def _use(self, signals: Signals) -> None:
        """Another configuration from here on: tell which channels it has no signal for."""
        self._signals = signals
        self._rows = self._index[signals.rows]
        self._scaling = Scaling([self._codings[row] for row in signals.rows])
        if signals.missing:
            lost = [row for row, name in enumerate(self._wanted) if name in signals.missing]
            reason = "; ".join(f"{name}: {why}" for name, why in signals.missing.items())
            codes = np.full(len(lost), status.BAD_CONFIGURATION_ERROR, dtype=np.uint32)
            self._ready.append(
                Update(self._index[lost], np.full(len(lost), np.nan), codes, reason=reason)
            )

    def _update(self, sample: Sample) -> Update:
        return Update(self._rows, self._scaling(sample.values), sample.codes, sample.utc_ns)


PROTOCOL: Final = DriverProtocol(
    names=("C37118",),
    plan=plan,
    check=check,
    open=PmuDriver,
    pushes=True,
    keys=frozenset(("Connection", "PortNum", "Transport", "Configuration")),
)
