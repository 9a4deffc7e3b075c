"""Ping: does a device answer ICMP echo requests, and how fast?

As in the seed system the value of a channel is 0 where the target answered and 1 where it did
not; `IOPoint` can ask for the opposite, or for the round-trip time. A target that does not answer
is a value, not an error.

Linux lets a process ping in two ways: without privilege where net.ipv4.ping_group_range holds its
group, or with CAP_NET_RAW. The first is tried first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from icmplib import ICMPv4Socket, ICMPv6Socket, async_ping
from icmplib.exceptions import ICMPLibError, SocketPermissionError
from numpy.typing import NDArray

from config.findings import Finding
from config.model import Channel
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import (
    Fault,
    named_findings,
    refuse,
    scalar_faults,
)
from drivers.codec import Scaling
from drivers.contract import Block, Cost, Cycle, DriverProtocol, Part, Surroundings, one_by_one
from drivers.errors import NotConnected, Refused
from drivers.inbox import coding_of

LOST: Final = "lost"
REACHABLE: Final = "reachable"
ROUND_TRIP: Final = "rtt_ms"
MEASURES: Final = (LOST, REACHABLE, ROUND_TRIP)
PAYLOAD_BYTES: Final = 56
ECHO_BYTES: Final = 8 + PAYLOAD_BYTES  # ICMP header and payload
SPARE_S: Final = 0.25  # how much longer than `Timeout` icmplib may take by its own clock

FORBIDDEN: Final = (
    "the system lets this process send no ICMP: widen the sysctl net.ipv4.ping_group_range "
    "(for example to '0 2147483647') or give the process CAP_NET_RAW"
)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def measure_of(channel: Channel) -> str:
    """What a channel shows: the seed's `lost` where `IOPoint` says nothing."""
    return LOST if channel.IOPoint is None else str(channel.IOPoint).strip().lower()


def target_of(instrument: Instrument) -> str:
    """`TargetIP`, or the address of the connection; empty where there is neither."""
    tags = instrument.tags
    place = tags.Connection.IP if tags.Connection is not None else None
    return (tags.TargetIP or place or "").strip()


def _is_address(target: str) -> bool:
    try:
        ipaddress.ip_address(target)
    except ValueError:
        return False
    return True


def _tag_faults(instrument: Instrument) -> list[Fault]:
    target = target_of(instrument)
    if not target:
        text = "The target is missing. Give TargetIP, an address or a host name."
        return [Fault("TargetIP", "connection-missing", text)]
    if not _is_address(target) and not _HOST.fullmatch(target):
        text = f"'{target}' is no address and no host name."
        return [Fault("TargetIP", "connection-missing", text)]
    return []


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    if channel.ReadWrite != "R":
        text = "Nothing can be written to a ping. Set ReadWrite to R."
        faults.append(Fault("ReadWrite", "protocol-read-only", text))
    if measure_of(channel) not in MEASURES:
        text = f"'{channel.IOPoint}' is unknown. Use one of {', '.join(MEASURES)}, or leave it out."
        faults.append(Fault("IOPoint", "address-missing", text))
    return faults


def check(instrument: Instrument) -> list[Finding]:
    """All findings about the target and what the channels show."""
    faults = _tag_faults(instrument)
    return named_findings(instrument, faults, _channel_faults, measure_of)


@dataclass(frozen=True, slots=True)
class Request:
    """What the channels of a block show, and their scaling."""

    measures: tuple[str, ...]
    scaling: Scaling


def plan(instrument: Instrument) -> list[Block]:
    """One ping a scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    classes: dict[str, list[str]] = {}
    for name, point in instrument.points.items():
        if point.scan_class:
            classes.setdefault(point.scan_class, []).append(name)
    return [_block(instrument, *item) for item in classes.items()]


def _block(instrument: Instrument, scan_class: str, names: list[str]) -> Block:
    channels = [instrument.channels[name] for name in names]
    return Block(
        index=np.array([instrument.points[name].index for name in names], dtype=np.int32),
        scan_class=scan_class,
        request=Request(
            tuple(measure_of(c) for c in channels),
            Scaling([coding_of(channel) for channel in channels]),
        ),
        label=f"ping {scan_class}",
    )


class PingDriver:
    """A target; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        self._target = target_of(instrument)
        self._timeout_s = instrument.tags.Timeout
        self._tries = 1 + instrument.tags.Retries
        self._clock = surroundings.clock
        self._tap = surroundings.tap
        self._address = ""  # empty: not connected
        self._privileged = False
        self._stale = False  # the name may stand for another address by now

    async def connect(self) -> None:
        """Look the name up and find out how the system lets us ping."""
        self._address = ""
        address = await self._look_up()
        self._privileged = _privilege(address)
        self._address, self._stale = address, False

    async def close(self) -> None:
        """Nothing stays open; may be called twice."""
        self._address = ""

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """One ping a block."""
        return one_by_one(cycle, self._ask, self._clock)

    async def write(self, point: PointDef, value: float) -> None:
        """Refused: nothing can be written to a ping."""
        raise Refused("nothing can be written to a ping", permanent=True)

    async def _ask(self, block: Block) -> NDArray[np.float64]:
        if not self._address:
            raise NotConnected("not connected")
        if self._stale and not _is_address(self._target):
            self._address = await self._look_up()
        rtt_ms = await self._ping()
        self._stale = rtt_ms is None
        request: Request = block.request
        lost = float(rtt_ms is None)
        shown = {LOST: lost, REACHABLE: 1.0 - lost, ROUND_TRIP: np.nan if lost else rtt_ms}
        return request.scaling(np.array([shown[m] for m in request.measures], dtype=np.float64))

    async def _ping(self) -> float | None:
        """Round-trip time of the first echo request that is answered; None where none is."""
        for _ in range(self._tries):
            if self._tap is not None:
                self._tap.frame(True, b"", f"echo request to {self._address}")
            asked_ns = self._clock.monotonic_ns()
            try:
                async with asyncio.timeout(self._timeout_s + SPARE_S):
                    host = await async_ping(
                        self._address,
                        count=1,
                        timeout=self._timeout_s,
                        privileged=self._privileged,
                        payload_size=PAYLOAD_BYTES,
                    )
            except TimeoutError:  # icmplib waits by the wall clock, which may be set back
                continue
            except SocketPermissionError:  # the system has changed its mind
                raise NotConnected(f"{self._target}: {FORBIDDEN}") from None
            except (ICMPLibError, OSError) as error:
                raise NotConnected(f"{self._target}: {error}") from error
            if not self._address:
                raise NotConnected("the connection was closed")
            if host.is_alive:
                # And it measures by that clock: no round trip takes longer than the whole call.
                spent_ms = (self._clock.monotonic_ns() - asked_ns) / 1e6
                rtt_ms = float(host.min_rtt) if 0 <= host.min_rtt <= spent_ms else spent_ms
                if self._tap is not None:
                    self._tap.frame(False, b"", f"echo reply after {rtt_ms:g} ms")
                return rtt_ms
        return None

    async def _look_up(self) -> str:
        """The address of the target, IPv4 where it has one. Raises NotConnected."""
        if _is_address(self._target):
            return self._target
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await loop.getaddrinfo(self._target, None, type=socket.SOCK_DGRAM)
        except TimeoutError:
            text = f"the name {self._target} was not resolved in {self._timeout_s:g} s"
            raise NotConnected(text) from None
        except (OSError, ValueError) as error:  # ValueError: a label that is too long
            raise NotConnected(f"{self._target}: {error}") from error
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        return str(found[0][4][0])


def _privilege(address: str) -> bool:
    """False where the system lets us ping without privilege, true where only with it.

    Raises NotConnected where it forbids both.
    """
    kind = ICMPv6Socket if ":" in address else ICMPv4Socket
    for privileged in (False, True):
        try:
            kind(None, privileged).close()
        except SocketPermissionError:
            continue
        except ICMPLibError as error:
            raise NotConnected(f"{address}: {error}") from error
        return privileged
    raise NotConnected(f"{address}: {FORBIDDEN}")


def cost(instrument: Instrument, block: Block) -> Cost:
    """One echo request and its reply."""
    return Cost(ECHO_BYTES, ECHO_BYTES)


PROTOCOL: Final = DriverProtocol(
    names=("Ping",),
    plan=plan,
    check=check,
    open=PingDriver,
    cost=cost,
    keys=frozenset(("Connection", "TargetIP", "ReplyDelay")),
)
