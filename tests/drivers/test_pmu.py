"""The PMU driver over TCP and UDP, against simulated devices that behave and that don't."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from config import status
from drivers.contract import Surroundings, Update, read_block
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.pmu import link as pmu_link
from drivers.pmu.data import DataLayout, Measured, encode_data
from drivers.pmu.driver import PROTOCOL, PmuDriver, plan
from drivers.pmu.frames import Configuration, FrameType, encode_configuration, encode_frame
from drivers.pmu.link import PENDING_MAX
from drivers.sim.pmu_server import PmuServer
from gateway.core.clock import ManualClock, SystemClock
from tests.drivers.pmu_case import IDCODE, STANDARD_DATA, configuration, measured, pmu, stream

HOURLY = -3600  # seconds a frame: nothing is sent but by hand
UTC_NS = 1_750_000_000_250_000_000


class Case:
    """A device and drivers of it."""

    def __init__(self, server: PmuServer) -> None:
        self.server = server
        self.opened: list[PmuDriver] = []

    async def open(self, *names: str, **tags: Any) -> PmuDriver:
        made = stream(self.server.port, *names, **tags)
        driver = PmuDriver(made, Surroundings(ManualClock(UTC_NS)))
        self.opened.append(driver)
        await driver.connect()
        return driver


Start = Callable[..., Awaitable[Case]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    cases: list[Case] = []

    async def make(made: Configuration | None = None, *now: Measured, **options: Any) -> Case:
        made = made or configuration(rate=HOURLY)
        server = PmuServer(
            made, now or [measured() for _ in made.pmus], clock=ManualClock(UTC_NS), **options
        )
        cases.append(Case(server))
        await server.start()
        return cases[-1]

    yield make
    for case in cases:
        for driver in case.opened:
            await driver.close()
        await case.server.stop()


async def take(driver: PmuDriver, count: int) -> list[Update]:
    """The next updates."""
    got: list[Update] = []
    async with asyncio.timeout(20):
        async for update in driver.updates():
            got.append(update)
            if len(got) == count:
                break
    return got


async def end_of(driver: PmuDriver) -> tuple[list[Update], DriverError]:
    """What comes until the session ends, and what ended it."""
    got: deque[Update] = deque(maxlen=10_000)
    try:
        async with asyncio.timeout(20):
            async for update in driver.updates():
                got.append(update)
    except DriverError as error:
        return list(got), error
    raise AssertionError("updates() ended without an error")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def served(case: Case) -> None:
    """Wait until the device knows that data are wanted."""
    await until(lambda: case.server.sessions or case.server._clients)
    await until(
        lambda: case.server._clients or all(s.wants_data for s in case.server.sessions)  # type: ignore[attr-defined]
    )


# ---------------------------------------------------------------- the plain way


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
async def test_every_frame_becomes_an_update_in_order(start: Start, transport: str) -> None:
    case = await start(transport=transport)
    driver = await case.open(Transport=transport)
    await served(case)
    for n in range(200):
        case.server.measured[0].frequency_hz = 50 + n / 1024
        case.server.send()
        if n % 50 == 0:
            await asyncio.sleep(0)
    updates = await take(driver, 200)
    assert [u.values[0] for u in updates] == [50 + n / 1024 for n in range(200)]
    assert updates[0].index.tolist() == [1, 2, 3, 4]
    assert updates[0].values.tolist() == [50.0, 500.0, 7.0, 1.0]
    assert updates[0].codes is None
    assert updates[0].utc_ns == UTC_NS


@pytest.mark.parametrize(("split", "joined"), [(True, 1), (False, 7), (True, 7)])
async def test_frames_split_and_joined_on_the_way(start: Start, split: bool, joined: int) -> None:
    case = await start()
    case.server.split, case.server.joined = split, joined
    driver = await case.open()
    await served(case)
    for n in range(21):
        case.server.measured[0].frequency_hz = 50 + n / 1024
        case.server.send()
    assert [u.values[0] for u in await take(driver, 21)] == [50 + n / 1024 for n in range(21)]


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
async def test_several_clients_get_the_same(start: Start, transport: str) -> None:
    case = await start(transport=transport)
    drivers = [await case.open(Transport=transport) for _ in range(5)]
    await until(
        lambda: (
            len(case.server._clients) == 5
            or [s.wants_data for s in case.server.sessions] == [True] * 5  # type: ignore[attr-defined]
        )
    )
    case.server.send()
    for driver in drivers:
        (update,) = await take(driver, 1)
        assert update.values[0] == 50.25


async def test_the_status_of_each_pmu_and_the_stamp_reach_the_update(start: Start) -> None:
    made = configuration(pmu(), pmu("B", 2), rate=HOURLY)
    case = await start(made, measured(stat=0x2000), measured())
    driver = await case.open("Station A/FREQ", "B/FREQ", "Station A/STAT", "B/VA.angle")
    await served(case)
    case.server.send()
    case.server.quality = 15
    case.server.measured[0].stat = 0x8000
    case.server.send()
    first, second = await take(driver, 2)
    unsure = status.UNCERTAIN_SENSOR_NOT_ACCURATE
    assert first.codes is not None
    assert first.codes.tolist() == [unsure, 0, 0, 0]
    assert second.codes is not None
    assert second.codes.tolist() == [status.BAD_SENSOR_FAILURE, unsure, 0, unsure]
    assert second.values[2] == 0x8000
    assert (first.utc_ns, second.utc_ns) == (UTC_NS, None)


async def test_channels_are_scaled_and_share_a_signal(start: Start) -> None:
    case = await start()
    made = stream(case.server.port, "FREQ", "FREQ")
    made.channels["C1"].__dict__.update(Scalar=1000.0, Offset=-50.0, Decimal=1)
    driver = PmuDriver(made, Surroundings(SystemClock()))
    case.opened.append(driver)
    await driver.connect()
    await served(case)
    case.server.send()
    (update,) = await take(driver, 1)
    assert update.values.tolist() == [50.25, 250.0]


# ---------------------------------------------------------------- configurations


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
async def test_a_configuration_3_is_asked_for_by_its_key(start: Start, transport: str) -> None:
    long = pmu(names=("A voltage of more than sixteen bytes", "IA", "Power", "Breaker"))
    cfg3 = configuration(long, kind=FrameType.CFG3, rate=HOURLY)
    case = await start(cfg3=cfg3, transport=transport)
    driver = await case.open(
        f"{long.phasors[0]}.magnitude", "ANALOG:Power", Configuration="CFG-3", Transport=transport
    )
    await served(case)
    case.server.send()
    (update,) = await take(driver, 1)
    # The device sends floats that are scaled already; this configuration scales them once more.
    assert update.values.tolist() == [250.0, 15.0]


async def test_a_device_without_configuration_3_says_nothing(start: Start) -> None:
    case = await start()
    with pytest.raises(NoAnswer, match=r"sent no CFG-3 within 0\.3 s"):
        await case.open(Configuration="CFG-3", Timeout=0.3)
    with pytest.raises(NotConnected):
        await take(case.opened[0], 1)


async def test_names_that_the_stream_does_not_have_are_told_once(start: Start) -> None:
    case = await start(configuration(pmu(), pmu("B", 2), rate=HOURLY))
    driver = await case.open("B/FREQ", "VX.angle", "FREQ")
    await served(case)
    case.server.send()
    case.server.send()
    told, *data = await take(driver, 3)
    assert told.index.tolist() == [2, 3]
    assert np.isnan(told.values).all()
    assert told.codes is not None
    assert told.codes.tolist() == [status.BAD_CONFIGURATION_ERROR] * 2
    assert "VX.angle: the stream has no such signal" in told.reason
    assert "FREQ: the stream has 2 such signals" in told.reason
    assert [u.index.tolist() for u in data] == [[1], [1]]


async def test_a_stream_without_any_of_the_names_tells_them_before_the_first_frame(
    start: Start,
) -> None:
    case = await start()
    driver = await case.open("VX.angle")
    (told,) = await take(driver, 1)
    assert told.codes is not None
    assert told.codes.tolist() == [status.BAD_CONFIGURATION_ERROR]


async def test_an_announced_change_of_the_configuration_is_followed(start: Start) -> None:
    case = await start()
    driver = await case.open("VA.magnitude", "FREQ")
    await served(case)
    # Another order, other formats, as many bytes: nothing but the announcement tells.
    swapped = pmu(names=("IA", "VA", "Power", "Breaker"), polar=True)
    await case.server.change(configuration(swapped, rate=HOURLY), [measured(50.5)])
    case.server.send()
    await until(
        lambda: driver._link is not None and driver._link.signals.configuration.pmus[0].polar
    )  # type: ignore[union-attr]
    case.server.send()
    updates = await take(driver, 4)
    assert [u.values.tolist() for u in updates] == [[500.0, 50.25]] * 2 + [[2.0, 50.5]] * 2


async def test_a_change_that_only_the_size_betrays_is_followed(start: Start) -> None:
    case = await start()
    driver = await case.open("VA.magnitude", "FREQ")
    await served(case)
    case.server.send()
    case.server.layout = DataLayout(configuration(pmu(), pmu("B", 2), rate=HOURLY))
    case.server.measured = [measured(51.0), measured(52.0)]
    case.server.send()
    updates = await take(driver, 2)
    assert updates[0].values.tolist() == [500.0, 50.25]
    assert updates[1].codes is not None  # both names are the names of two signals now
    assert updates[1].codes.tolist() == [status.BAD_CONFIGURATION_ERROR] * 2


async def test_a_device_that_does_not_tell_its_new_configuration_is_garbled(start: Start) -> None:
    case = await start()
    driver = await case.open("FREQ", Timeout=0.4)
    await served(case)
    case.server.send()
    case.server.layout = DataLayout(configuration(pmu(), pmu("B", 2), rate=HOURLY))
    case.server.measured = [measured(51.0), measured(52.0)]
    case.server.answers = lambda command: []  # type: ignore[method-assign]
    case.server.send()
    updates, error = await end_of(driver)
    assert isinstance(error, Garbled)
    assert "no CFG-2 within 0.4 s" in str(error)
    assert [u.values[0] for u in updates] == [50.25]


# ---------------------------------------------------------------- UDP


async def test_a_device_that_sends_by_itself_is_listened_to(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    case = await start(transport="UDP")
    case.server.targets = [("127.0.0.1", port)]
    made = stream(port, "FREQ", Transport="UDP", Connection={"Unit": str(IDCODE)}, Timeout=0.2)
    driver = PmuDriver(made, Surroundings(SystemClock()))
    case.opened.append(driver)
    await driver.connect()
    case.server.send()  # says nothing without its configuration
    await asyncio.sleep(0.3)  # and longer than Timeout
    case.server.tell_configuration()
    case.server.measured[0].frequency_hz = 50.5
    case.server.send()
    (update,) = await take(driver, 1)
    assert update.values.tolist() == [50.5]
    assert case.server.requests == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        false = encode_frame(FrameType.DATA, IDCODE, STANDARD_DATA[14:-2])
        told = case.server.layout.configuration
        body = encode_data(DataLayout(told), [measured(frequency_hz=10.0)])
        for frame in (false, encode_frame(FrameType.DATA, IDCODE, body)):
            stranger.sendto(frame, ("127.0.0.1", port))
        other = encode_configuration(configuration(pmu(names=("X", "Y", "Z", ""))))
        stranger.sendto(encode_frame(FrameType.CFG2, IDCODE, other), ("127.0.0.1", port))
    link = driver._link
    assert link is not None
    await until(lambda: link.dropped >= 3)
    case.server.measured[0].frequency_hz = 50.75
    case.server.send()
    (update,) = await take(driver, 1)
    assert update.values.tolist() == [50.75]


async def test_a_device_that_never_tells_its_configuration(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmu_link, "CONFIGURATION_WAIT_S", 0.2)
    case = await start(transport="UDP")
    made = stream(0, "FREQ", Transport="UDP", Connection={"Unit": IDCODE}, PortNum=None)
    driver = PmuDriver(made, Surroundings(SystemClock()))
    driver._port = 0
    case.opened.append(driver)
    await driver.connect()
    updates, error = await end_of(driver)
    assert isinstance(error, NotConnected)
    assert (updates, "sent no CFG-2 within 0.2 s" in str(error)) == ([], True)


async def test_damaged_and_foreign_datagrams_are_dropped(start: Start) -> None:
    case = await start(transport="UDP")
    driver = await case.open("FREQ", Transport="UDP")
    await served(case)
    (address,) = case.server._clients
    foreign = encode_frame(FrameType.DATA, 99, STANDARD_DATA[14:-2])
    for datagram in (b"", b"noise", STANDARD_DATA[:-1] + b"\0", foreign):
        case.server.datagram(datagram, address)
    case.server.send()
    (update,) = await take(driver, 1)
    assert update.values.tolist() == [50.25]
    assert driver._link is not None
    assert driver._link.dropped >= 3  # an empty datagram may not arrive


async def test_nothing_but_damaged_datagrams_is_garbled(start: Start) -> None:
    case = await start(configuration(rate=100), transport="UDP")
    driver = await case.open("FREQ", Transport="UDP", Timeout=0.3)
    case.server.bad_crc = True
    _, error = await end_of(driver)
    assert isinstance(error, Garbled)
    assert "check sum" in str(error)


async def test_a_udp_port_that_nobody_has_is_no_connection(start: Start) -> None:
    case = await start(transport="UDP")
    await case.server.stop()
    with pytest.raises((NotConnected, NoAnswer)):
        await case.open(Transport="UDP", Timeout=0.4)


# ---------------------------------------------------------------- faults


async def test_a_bad_check_sum_ends_the_session_behind_the_good_frames(start: Start) -> None:
    case = await start()
    driver = await case.open("FREQ")
    await served(case)
    case.server.joined = 3
    case.server.send()
    case.server.send()
    case.server.bad_crc = True
    case.server.send()
    updates, error = await end_of(driver)
    assert len(updates) == 2
    assert isinstance(error, Garbled)
    assert "check sum" in str(error)
    with pytest.raises(NotConnected):
        await take(driver, 1)


async def test_silence_is_noticed_when_frames_are_due(start: Start) -> None:
    case = await start(configuration(rate=100))
    driver = await case.open("FREQ", Timeout=0.3)
    await take(driver, 3)
    case.server.faults.silent = True
    _, error = await end_of(driver)
    assert isinstance(error, NotConnected)
    assert "sent nothing within 0.3 s" in str(error)


async def test_a_silent_device_has_no_configuration(start: Start) -> None:
    case = await start()
    case.server.faults.silent = True
    with pytest.raises(NoAnswer, match=r"sent no CFG-2 within 0\.3 s"):
        await case.open(Timeout=0.3)


async def test_a_foreign_idcode_is_not_answered_and_never_taken(start: Start) -> None:
    case = await start(configuration(rate=HOURLY, idcode=IDCODE))
    with pytest.raises(NoAnswer, match="stream 12 "):
        await case.open(Connection={"IP": "127.0.0.1", "Unit": 12}, Timeout=0.3)
    driver = await case.open("FREQ")
    await served(case)
    case.server.layout = DataLayout(configuration(rate=HOURLY, idcode=12))
    case.server.send()
    _, error = await end_of(driver)
    assert isinstance(error, Garbled)
    assert "stream 12 sent" in str(error)


async def test_a_device_that_goes_is_noticed_at_once(start: Start) -> None:
    case = await start()
    driver = await case.open("FREQ", Timeout=60.0)
    await served(case)
    waiting = asyncio.create_task(end_of(driver))
    await asyncio.sleep(0)
    await case.server.stop()
    _, error = await waiting
    assert isinstance(error, NotConnected)
    assert "closed the connection" in str(error)


async def test_closing_ends_a_wait_and_stops_the_stream(start: Start) -> None:
    for transport in ("TCP", "UDP"):
        case = await start(transport=transport)
        driver = await case.open("FREQ", Transport=transport)
        await served(case)
        waiting = asyncio.create_task(end_of(driver))
        await asyncio.sleep(0)
        asked = case.server.requests
        await driver.close()
        _, error = await waiting
        assert isinstance(error, NotConnected)
        await until(lambda case=case: not case.server.sessions and not case.server._clients)
        assert case.server.requests == asked + 1  # told to stop


async def test_what_nobody_fetches_is_bounded_and_the_newest_stays(start: Start) -> None:
    case = await start()
    driver = await case.open("FREQ")
    await served(case)
    for n in range(3 * PENDING_MAX):
        case.server.measured[0].frequency_hz = float(n)
        case.server.send()
        if n % 100 == 0:
            await asyncio.sleep(0)
    link = driver._link
    assert link is not None
    await until(lambda: link._frames == 3 * PENDING_MAX)
    assert len(link._pending) < PENDING_MAX
    (first,) = await take(driver, 1)
    assert first.values[0] > 2 * PENDING_MAX - 2
    assert link.dropped > 2 * PENDING_MAX - 2
    updates = await take(driver, PENDING_MAX - 2)
    assert updates[-1].values[0] == 3 * PENDING_MAX - 1


async def test_nothing_is_asked_or_written(start: Start) -> None:
    case = await start()
    driver = await case.open("FREQ")
    await served(case)
    asked = case.server.requests
    made = stream(case.server.port, "FREQ")
    with pytest.raises(Refused) as refusal:
        await driver.write(made.points["C0"], 1.0)
    assert refusal.value.permanent
    with pytest.raises(Refused, match="sends by itself"):
        await read_block(PROTOCOL, driver, plan(made)[0])
    assert case.server.requests == asked


async def test_a_tap_sees_every_frame(start: Start) -> None:
    seen: list[tuple[bool, bytes, str]] = []

    class Recorder:
        def frame(self, sent: bool, data: bytes, meaning: str) -> None:
            seen.append((sent, data, meaning))

    case = await start()
    made = stream(case.server.port, "FREQ")
    driver = PmuDriver(made, Surroundings(SystemClock(), tap=Recorder()))
    case.opened.append(driver)
    await driver.connect()
    await served(case)
    case.server.send()
    await take(driver, 1)
    assert [meaning for sent, _, meaning in seen if sent] == [
        "command OFF",
        "command SEND_CFG2",
        "command ON",
    ]
    received = [(data[0], meaning) for sent, data, meaning in seen if not sent]
    assert received == [(0xAA, f"CFG2 of stream {IDCODE}, 374 bytes"), (0xAA, received[1][1])]
    assert received[1][1].startswith(f"DATA of stream {IDCODE}")
