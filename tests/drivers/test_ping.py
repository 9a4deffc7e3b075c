"""Ping of the loopback address, and of targets that don't answer or can't be asked."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from icmplib import Host, ICMPRequest, ICMPv4Socket
from icmplib.exceptions import ICMPSocketError, NameLookupError, SocketPermissionError

from config.findings import SiteError
from config.site import Instrument
from drivers import ping
from drivers.contract import Surroundings, read_block
from drivers.errors import NotConnected, Refused
from drivers.ping import PROTOCOL, PingDriver, check, plan
from gateway.core.clock import Clock, ManualClock, SystemClock
from tests.drivers.instruments import instrument

CHANNELS: dict[str, dict[str, Any]] = {
    "Lost": {"DataType": "bool"},
    "Reachable": {"IOPoint": "reachable", "DataType": "bool"},
    "Delay": {"IOPoint": "rtt_ms", "Units": "ms"},
}


def target(host: str, channels: dict[str, dict[str, Any]] = CHANNELS, **tags: Any) -> Instrument:
    keys = {"Communication": "Ping", "TargetIP": host, "Retries": 0} | tags
    return instrument({name: dict(keys) for name, keys in channels.items()}, **keys)


def driver_of(made: Instrument, clock: Clock | None = None) -> PingDriver:
    return PingDriver(made, Surroundings(clock or SystemClock()))


async def values(driver: PingDriver, made: Instrument) -> list[float]:
    (block,) = plan(made)
    return (await read_block(PROTOCOL, driver, block)).tolist()


class Net:
    """Stands in for icmplib: what a ping gives, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.answers: list[list[float] | Exception] = []
        self.asked: list[tuple[str, bool]] = []
        monkeypatch.setattr(ping, "async_ping", self.ping)

    async def ping(self, address: str, *, privileged: bool, **_: Any) -> Host:
        self.asked.append((address, privileged))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.clock.advance(20_000_000)
        return Host(address, 1, answer)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    return Net(monkeypatch)


def may_ping() -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
        except PermissionError:
            continue
        return True
    return False


can_ping = pytest.mark.skipif(not may_ping(), reason="this system lets us send no ICMP")


# ---------------------------------------------------------------- a real network


@can_ping
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_answers(host: str) -> None:
    made = target(host)
    driver = driver_of(made)
    await driver.connect()
    try:
        lost, reachable, delay_ms = await values(driver, made)
    finally:
        await driver.close()
    assert (lost, reachable) == (0.0, 1.0)
    assert 0 < delay_ms < 5000


@can_ping
async def test_many_targets_at_once_don_t_take_each_others_answers() -> None:
    mades = [target(f"127.0.0.{n}") for n in range(1, 31)]
    drivers = [driver_of(made) for made in mades]
    for driver in drivers:
        await driver.connect()
    pairs = zip(drivers, mades, strict=True)
    answers = await asyncio.gather(*(values(driver, made) for driver, made in pairs))
    assert [answer[0] for answer in answers] == [0.0] * 30


@can_ping
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_silence_is_a_value(
    monkeypatch: pytest.MonkeyPatch, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def swallow(self: ICMPv4Socket, request: ICMPRequest) -> None:
        request._time = 0.0  # as sent, and the network loses it

    async def run() -> list[float]:
        made = target("127.0.0.1", Timeout=0.1, Retries=1)
        driver = driver_of(made)
        await driver.connect()
        silent = await values(driver, made)
        monkeypatch.undo()
        return silent + await values(driver, made)

    monkeypatch.setattr(ICMPv4Socket, "send", swallow)
    with asyncio.Runner(loop_factory=factory) as runner:
        lost, reachable, delay_ms, *later = runner.run(run())
    assert (lost, reachable) == (1.0, 0.0)
    assert math.isnan(delay_ms)
    assert later[:2] == [0.0, 1.0]


# ---------------------------------------------------------------- what a ping gives


async def test_a_target_is_lost_when_all_its_tries_are(net: Net) -> None:
    made = target("127.0.0.1", Retries=2)
    driver = driver_of(made, net.clock)
    await driver.connect()
    net.answers = [[], [], [1.5]]
    assert await values(driver, made) == [0.0, 1.0, 1.5]
    net.answers = [[], [], []]
    assert (await values(driver, made))[:2] == [1.0, 0.0]
    assert len(net.asked) == 6


async def test_a_round_trip_is_scaled_and_rounded(net: Net) -> None:
    channels = {"Delay_s": {"IOPoint": "rtt_ms", "Scalar": 0.001, "Decimal": 4}}
    made = target("127.0.0.1", channels)
    driver = driver_of(made, net.clock)
    await driver.connect()
    net.answers = [[12.34]]
    assert await values(driver, made) == [0.0123]


@pytest.mark.parametrize("measured_ms", [-3_600_000.0, 3_600_000.0])
async def test_a_clock_that_was_set_meanwhile_makes_no_round_trip(
    net: Net, measured_ms: float
) -> None:
    made = target("127.0.0.1")
    driver = driver_of(made, net.clock)
    await driver.connect()
    net.answers = [[measured_ms]]
    assert await values(driver, made) == [0.0, 1.0, 20.0]  # what the whole call took


async def test_a_ping_that_goes_on_for_ever_is_a_missed_one(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ping, "SPARE_S", 0.0)
    made = target("127.0.0.1", Timeout=0.05, Retries=1)
    driver = driver_of(made)
    await driver.connect()
    tries = 0

    async def endless(address: str, **_: Any) -> Host:
        nonlocal tries
        tries += 1
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(ping, "async_ping", endless)
    assert (await values(driver, made))[:2] == [1.0, 0.0]
    assert tries == 2


async def test_a_lost_name_is_looked_up_again(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["127.0.0.1", "127.0.0.2"]
    made = target("meter.example")
    driver = driver_of(made, net.clock)

    async def look_up() -> str:
        return places.pop(0)

    monkeypatch.setattr(driver, "_look_up", look_up)
    await driver.connect()
    net.answers = [[1.0], [], [1.0], [1.0]]
    for _ in range(4):
        await values(driver, made)
    assert [address for address, _ in net.asked] == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2


async def test_a_name_that_nobody_knows_is_no_connection() -> None:
    driver = driver_of(target("no-such-host.invalid"))
    with pytest.raises(NotConnected, match=r"no-such-host\.invalid"):
        await driver.connect()


# ---------------------------------------------------------------- what the system forbids


def forbid(monkeypatch: pytest.MonkeyPatch, *forbidden: bool) -> list[bool]:
    tried: list[bool] = []

    class Socket:
        def __init__(self, address: str | None, privileged: bool) -> None:
            tried.append(privileged)
            if privileged in forbidden:
                raise SocketPermissionError(privileged)

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr(ping, "ICMPv4Socket", Socket)
    return tried


async def test_without_privilege_is_tried_first(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for forbidden, tried, privileged in (((), [False], False), ((False,), [False, True], True)):
        seen = forbid(monkeypatch, *forbidden)
        made = target("127.0.0.1")
        driver = driver_of(made)
        await driver.connect()
        assert seen == tried
        net.answers = [[1.0]]
        await values(driver, made)
        assert net.asked[-1] == ("127.0.0.1", privileged)


async def test_where_both_are_forbidden_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid(monkeypatch, False, True)
    made = target("127.0.0.1")
    driver = driver_of(made)
    with pytest.raises(NotConnected, match=r"net\.ipv4\.ping_group_range.*CAP_NET_RAW"):
        await driver.connect()
    with pytest.raises(NotConnected):
        await values(driver, made)


@pytest.mark.parametrize(
    "error",
    [
        SocketPermissionError(False),
        ICMPSocketError("no buffer space"),
        NameLookupError("x"),
        OSError(101, "Network is unreachable"),
    ],
)
async def test_what_icmplib_raises_is_no_connection(net: Net, error: Exception) -> None:
    made = target("127.0.0.1")
    driver = driver_of(made)
    await driver.connect()
    net.answers = [error]
    with pytest.raises(NotConnected, match=r"127\.0\.0\.1"):
        await values(driver, made)


async def test_closing_during_a_ping_is_no_value(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    made = target("127.0.0.1")
    driver = driver_of(made)
    await driver.connect()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(address: str, **_: Any) -> Host:
        begun.set()
        await ended.wait()
        return Host(address, 1, [])

    monkeypatch.setattr(ping, "async_ping", slow)
    waiting = asyncio.create_task(values(driver, made))
    await begun.wait()
    await driver.close()
    ended.set()
    with pytest.raises(NotConnected):
        await waiting


async def test_a_command_is_refused_unsent(net: Net) -> None:
    made = target("127.0.0.1")
    driver = driver_of(made)
    await driver.connect()
    with pytest.raises(Refused) as refusal:
        await driver.write(made.points["Lost"], 1.0)
    assert refusal.value.permanent
    assert net.asked == []


# ---------------------------------------------------------------- findings


@pytest.mark.parametrize(
    ("channels", "tags", "key", "rule"),
    [
        (CHANNELS, {"TargetIP": None}, "TargetIP", "connection-missing"),
        (CHANNELS, {"TargetIP": "10.0.0.1; reboot"}, "TargetIP", "connection-missing"),
        (CHANNELS, {"TargetIP": "-c4"}, "TargetIP", "connection-missing"),
        ({"A": {"IOPoint": "jitter"}}, {}, "A.IOPoint", "address-missing"),
        ({"A": {"IOPoint": 4}}, {}, "A.IOPoint", "address-missing"),
        ({"A": {"ReadWrite": "W"}}, {}, "A.ReadWrite", "protocol-read-only"),
        ({"A": {"Scalar": 0.0}}, {}, "A.Scalar", "scalar-zero"),
        ({"A": {}, "B": {"IOPoint": "lost"}}, {}, "A", "address-shared"),
    ],
)
def test_findings(channels: Any, tags: dict[str, Any], key: str, rule: str) -> None:
    made = target("127.0.0.1", channels, **tags)
    (finding,) = check(made)
    assert (finding.rule, finding.key.endswith(key)) == (rule, True)
    if finding.severity == "error":
        with pytest.raises(SiteError):
            plan(made)


@given(st.text(), st.one_of(st.none(), st.text(), st.integers()))
def test_no_text_of_a_file_breaks_the_check(host: str, measure: str | int | None) -> None:
    made = target(host, {"A": {"IOPoint": measure}})
    findings = check(made)
    if not [f for f in findings if f.severity == "error"]:
        assert len(plan(made)) == 1


def test_the_connection_s_address_will_do() -> None:
    made = target("", TargetIP=None, Connection={"IP": "10.0.0.9"})
    assert check(made) == []
    assert [b.scan_class for b in plan(made)] == ["Fast"]
