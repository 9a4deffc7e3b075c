"""Modbus RTU on ptys: one line for many units, late answers, noise, ports that vanish."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from drivers.contract import Surroundings
from drivers.errors import NoAnswer, NotConnected, OutOfRange, Refused
from drivers.modbus.rtu_frame import frame
from drivers.modbus.rtu_line import OWED_MAX, RtuLine
from drivers.sim.faults import Faults
from drivers.sim.rtu_server import RtuServer
from gateway.core.clock import SystemClock
from tests.drivers.rtu_bench import FLOATS, Device, rtu, server_of

UNITS = (1, 2, 3)
TIMEOUT_S = 0.15


@pytest.fixture
async def server() -> AsyncIterator[RtuServer]:
    """Three units on one line; channel F<n> of unit u is 10 u + n."""
    made = server_of(UNITS)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def devices(server: RtuServer) -> AsyncIterator[list[Device]]:
    """Three instruments on that line, connected."""
    around = Surroundings(SystemClock())
    made = [Device(rtu(server.port, unit, Timeout=TIMEOUT_S), around) for unit in UNITS]
    for device in made:
        await device.driver.connect()
    yield made
    for device in made:
        await device.driver.close()


def line_of(device: Device) -> RtuLine:
    (line,) = device.surroundings.shared.values()
    return line


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


# ---------------------------------------------------------------- one line for all


async def test_instruments_of_one_port_share_one_line(devices: list[Device], server) -> None:
    assert [await device.value("F2") for device in devices] == [12.0, 22.0, 32.0]
    assert len(devices[0].surroundings.shared) == 1
    assert len(server.sessions) == 1  # the port is opened once


async def test_units_take_turns(devices: list[Device], server: RtuServer) -> None:
    async def read_all(device: Device) -> list[float]:
        return [await device.value(f"F{at}") for at in range(FLOATS)]

    values = await asyncio.gather(*(read_all(device) for device in devices))
    assert values == [[10.0 * unit + at for at in range(FLOATS)] for unit in UNITS]
    assert server.asked == list(UNITS) * FLOATS


async def test_a_write_goes_ahead_of_reads_that_wait(devices: list[Device], server) -> None:
    first, second, third = devices
    server.reply_s = 0.02
    reads = [asyncio.create_task(device.value("F0")) for device in (first, second)]
    await until(lambda: server.requests == 1)  # the first read is on the line
    write = asyncio.create_task(third.write("Out", 48.5))
    await asyncio.gather(*reads, write)
    assert server.asked == [1, 3, 2]
    assert server.banks[3].get_float32("holding", 2000) == 48.5


async def test_a_write_hurries_the_read_that_it_has_to_wait_for(devices, server) -> None:
    """The poll engine writes between two reads; its own read waits behind all others."""
    server.reply_s = 0.02
    reads = [asyncio.create_task(device.value("F0")) for device in devices]
    await until(lambda: server.requests == 1)
    devices[2].driver.hurry()
    await asyncio.gather(*reads)
    assert server.asked == [1, 3, 2]


async def test_a_bit_that_is_read_and_written_goes_ahead_as_a_whole(devices, server) -> None:
    first, second, third = devices
    server.functions_off.add(22)
    await third.write("Flag", 1)
    server.asked.clear()
    server.reply_s = 0.02
    reads = [asyncio.create_task(device.value("F0")) for device in (first, second)]
    write = asyncio.create_task(third.write("Flag", 0))
    reads.append(asyncio.create_task(first.value("F1")))
    await asyncio.gather(*reads, write)
    assert server.asked.index(3) == 1  # the reading of the register, behind what was on the line
    assert server.asked[:5].count(3) == 2


async def test_the_port_closes_with_its_last_user(devices: list[Device], server) -> None:
    for device in devices:
        assert len(server.sessions) == 1
        await device.driver.close()
    assert server.sessions == []
    await devices[1].driver.connect()
    assert await devices[1].value("F1") == 21.0


async def test_who_leaves_takes_its_own_question_along(devices: list[Device], server) -> None:
    first, second, _ = devices
    server.unit_faults[1] = Faults(silent=True)
    mine = asyncio.create_task(first.value("F0"))
    other = asyncio.create_task(second.value("F0"))
    await until(lambda: server.requests == 1)
    await first.driver.close()
    with pytest.raises(NotConnected):
        await mine
    assert await other == 20.0


async def test_a_cancelled_wait_for_the_line_leaves_the_order_alone(devices, server) -> None:
    server.reply_s = 0.02
    tasks = [asyncio.create_task(device.value("F0")) for device in devices]
    await until(lambda: server.requests == 1)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    assert server.asked == [1, 3]
    assert await devices[1].value("F5") == 25.0


async def test_two_ways_to_drive_one_port_are_refused(devices: list[Device], server) -> None:
    other = Device(rtu(server.port, 2, Baudrate=9_600), devices[0].surroundings)
    with pytest.raises(NotConnected, match=r"in use as .* 19200 8N1"):
        await other.driver.connect()


async def test_one_port_by_two_names_is_one_line(devices: list[Device], server, tmp_path) -> None:
    """As /dev/serial/by-id names the adapter that is /dev/ttyUSB0."""
    (tmp_path / "usb-adapter").symlink_to(server.port)
    other = Device(rtu(str(tmp_path / "usb-adapter"), 2), devices[0].surroundings)
    await other.driver.connect()
    assert await other.value("F1") == 21.0
    assert len(server.sessions) == 1
    await other.driver.close()


async def test_a_port_that_another_program_holds_is_not_connected(devices, server) -> None:
    stranger = Device(rtu(server.port))  # a process of its own, as far as the port knows
    with pytest.raises(NotConnected, match="another program may hold it"):
        await stranger.driver.connect()


# ---------------------------------------------------------------- silence, noise, late answers


async def test_a_silent_unit_is_silent_alone(devices: list[Device], server: RtuServer) -> None:
    server.unit_faults[2] = Faults(silent=True)
    for _ in range(2):
        with pytest.raises(NoAnswer, match=f"unit 2 .* within {TIMEOUT_S:g} s"):
            await devices[1].value("F0")
        assert await devices[0].value("F0") == 10.0
        assert await devices[2].value("F0") == 30.0
    server.unit_faults.clear()
    assert await devices[1].value("F0") == 20.0


@pytest.mark.parametrize("fault", ["garbage", "half_frame", "wrong_unit"])
async def test_what_is_no_frame_is_no_answer_and_says_what_was_heard(
    devices: list[Device], server: RtuServer, fault: str
) -> None:
    setattr(server.faults, fault, True)
    with pytest.raises(NoAnswer, match=r"bytes that are none: .*Baudrate, Parity and Stopbits"):
        await devices[0].value("F0")
    server.faults.clear()
    assert await devices[0].value("F3") == 13.0


@pytest.mark.parametrize("noise", [b"\x00", b"\xff\xff", b"\x01\x03", b"\x01\x83\x02"])
async def test_bytes_of_a_transceiver_hide_no_answer(devices, server, noise: bytes) -> None:
    server.noise = noise
    assert [await devices[0].value(f"F{at}") for at in range(3)] == [10.0, 11.0, 12.0]


async def test_what_comes_behind_an_answer_takes_nothing_back(devices, server) -> None:
    line, heard = line_of(devices[0]), []
    passes = line._passes

    def twice(sending: bool, data: bytes) -> bytes:
        """The next bytes are there before the answer was fetched."""
        left = passes(sending, data)
        if not sending and line._outcome.done():
            heard.append(passes(False, data[-1:] + b"\x00"))
        return left

    line._client.ctx.trace_packet = twice
    server.noise = b"\xff\xff"
    assert await devices[0].value("F4") == 14.0
    assert heard == [b""]


async def test_a_refusal_is_the_units_word(devices: list[Device], server: RtuServer) -> None:
    server.faults.exception_code = 2
    with pytest.raises(Refused, match=r"registers 0 to 1: .*illegal data address") as error:
        await devices[0].value("F0")
    assert error.value.permanent


async def test_a_late_answer_is_never_the_answer_to_the_next_question(devices, server) -> None:
    """Same unit, function and length: nothing in the frame tells them apart."""
    device = devices[0]
    for late_s in (0.2, 0.3, 0.45, 0.6):
        server.faults.delay_s = late_s
        with pytest.raises(NoAnswer):
            await device.value("F1")
        server.faults.delay_s = 0.0
        for channel in range(2, 5):
            # The unit may still be busy with the first question; what it says must be right.
            for _ in range(5):
                try:
                    assert await device.value(f"F{channel}") == 10.0 + channel
                    break
                except NoAnswer:
                    pass
            else:
                raise AssertionError("the unit was never understood again")


async def test_however_late_the_answers_are_no_value_is_another_ones(devices, server) -> None:
    """A unit that answers in order, each time after another while; the worst case for RTU."""
    dice = random.Random(11)
    right = wrong = missing = 0
    for _ in range(60):
        server.reply_s = dice.choice((0.0, 0.0, 0.01, TIMEOUT_S * 1.3, TIMEOUT_S * 1.9))
        channel = dice.randrange(FLOATS)
        try:
            value = await devices[0].value(f"F{channel}")
        except NoAnswer:
            missing += 1
            continue
        right += value == 10.0 + channel
        wrong += value != 10.0 + channel
    assert wrong == 0
    assert right > 10
    assert missing > 10


async def test_a_unit_that_reads_no_part_of_a_value_is_understood_again(devices, server) -> None:
    server.whole = frozenset((2,))
    server.unit_faults[1] = Faults(silent=True)
    with pytest.raises(NoAnswer):
        await devices[0].value("F0")
    server.unit_faults.clear()
    before = server.requests
    assert await devices[0].value("F1") == 11.0
    assert await devices[0].value("F2") == 12.0
    assert server.requests - before == 3  # one guard, which was refused, and two questions


async def test_what_a_dead_unit_owes_is_bounded(devices: list[Device], server) -> None:
    line, user = line_of(devices[0]), devices[0].driver
    server.faults.silent = True
    for count in range(1, OWED_MAX + 5):
        question, opening = bytes((3, 0, 0, 0, count)), bytes((3, 2 * count))
        with pytest.raises(NoAnswer):
            await line.ask(user, 0.001, 1, question, 2 + 2 * count, opening)
    assert len(line.owed[1]) == OWED_MAX


async def test_a_unit_that_ignores_what_it_does_not_like_is_understood_again(
    devices: list[Device], server: RtuServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is silent about the guard, too; one lost answer must not be the end of it."""
    monkeypatch.setattr("drivers.modbus.rtu_line.LATE_MAX_S", 0.3)
    server.whole, server.mute = frozenset((2,)), True
    server.unit_faults[1] = Faults(silent=True)
    with pytest.raises(NoAnswer):
        await devices[0].value("F0")
    server.unit_faults.clear()
    for _ in range(5):
        try:
            assert await devices[0].value("F1") == 11.0
            break
        except NoAnswer:
            pass
    else:
        raise AssertionError("the unit was never understood again")


async def test_a_spoiled_answer_is_no_missing_one(devices: list[Device], server) -> None:
    good = frame(1, bytes.fromhex("0304 4130 0000"))
    server.lie = lambda _: good[:-1] + bytes((good[-1] ^ 1,))
    with pytest.raises(NoAnswer):
        await devices[0].value("F1")
    server.lie = None
    before = server.requests
    assert await devices[0].value("F2") == 12.0
    assert server.requests == before + 1  # no guard


# ---------------------------------------------------------------- adapters that echo


async def test_an_adapter_that_echoes_confirms_no_write(devices: list[Device], server) -> None:
    server.line.echoes = True
    assert await devices[0].value("F1") == 11.0
    await devices[0].write("Flag", 1)
    assert server.banks[1].holding[3000] == 0b1000
    server.unit_faults[1] = Faults(silent=True)
    with pytest.raises(NoAnswer, match=r"within [0-9.]+ s$"):
        await devices[0].write("Flag", 0)


async def test_a_write_does_not_wait_for_a_guard(devices: list[Device], server) -> None:
    server.unit_faults[1] = Faults(silent=True)
    with pytest.raises(NoAnswer):
        await devices[0].value("F0")
    server.unit_faults.clear()
    before = server.requests
    await devices[0].write("Out", 7.0)
    assert server.requests == before + 1
    assert server.banks[1].get_float32("holding", 2000) == 7.0


async def test_a_bit_is_set_and_the_others_stay(devices: list[Device], server) -> None:
    bank = server.banks[1]
    bank.holding[3000] = 0b0101_0000
    await devices[0].write("Flag", 1)
    assert bank.holding[3000] == 0b0101_1000
    server.functions_off.add(22)
    await devices[0].write("Flag", 0)
    assert bank.holding[3000] == 0b0101_0000


async def test_what_does_not_fit_is_refused_unsent(devices: list[Device], server) -> None:
    with pytest.raises(OutOfRange):
        await devices[0].write("Out", 1e300)
    assert server.requests == 0


async def test_a_line_that_is_never_silent_gives_no_answer(server, monkeypatch) -> None:
    monkeypatch.setattr("drivers.modbus.rtu_line.LOUD_MAX_S", 0.2)
    device = Device(rtu(server.port, Baudrate=300))  # a silence of 117 ms
    await device.driver.connect()

    async def babble() -> None:
        while True:
            server.line.send(b"\x55")
            await asyncio.sleep(0)

    task = asyncio.create_task(babble())
    try:
        await until(lambda: line_of(device).strangers > 3)
        with pytest.raises(NoAnswer, match="never silent"):
            await device.value("F0")
    finally:
        task.cancel()
        await device.driver.close()


# ---------------------------------------------------------------- the port


async def test_a_pulled_adapter_ends_all_sessions_and_comes_back(devices, server) -> None:
    assert await devices[0].value("F0") == 10.0
    await server.stop()
    for device in devices:
        with pytest.raises(NotConnected):
            await device.value("F0")
    with pytest.raises(NotConnected, match="no such port"):
        await devices[0].driver.connect()
    await server.start()
    for unit, device in zip(UNITS, devices, strict=True):
        await device.driver.connect()
        assert await device.value("F0") == 10.0 * unit


async def test_a_name_that_changes_while_it_is_opened_is_one_line(server, tmp_path) -> None:
    """Two lines of one port would not know what units still owe the other."""
    name = tmp_path / "by-id"
    name.symlink_to("/dev/null")

    class Plugged(Surroundings):
        """The adapter takes its name when the first driver has looked for it."""

        def share(self, key, make):
            name.unlink()
            name.symlink_to(server.port)
            return Surroundings.share(self, key, make)

    around = Plugged(SystemClock())
    first, second = (Device(rtu(str(name), 1, Timeout=TIMEOUT_S), around) for _ in range(2))
    await first.driver.connect()
    await second.driver.connect()  # the port is held by nobody else
    assert len(server.sessions) == 1
    await second.driver.close()
    server.reply_s = 2 * TIMEOUT_S
    with pytest.raises(NoAnswer):
        await first.value("F0")
    await first.driver.close()
    await second.driver.connect()
    server.reply_s = 0.0
    assert await second.value("F1") == 11.0
    await second.driver.close()


# ---------------------------------------------------------------- what is shown, what is hostile


class Tap:
    def __init__(self) -> None:
        self.frames: list[tuple[bool, bytes, str]] = []

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        self.frames.append((sent, data, meaning))


async def test_a_tap_sees_whole_frames_in_words(server: RtuServer) -> None:
    tap = Tap()
    device = Device(rtu(server.port), Surroundings(SystemClock(), tap=tap))
    await device.driver.connect()
    await device.value("F1")
    await device.driver.close()
    (sent, question, asked), (back, answer, answered) = tap.frames
    assert (sent, back) == (True, False)
    assert question == frame(1, bytes.fromhex("0300 6400 02"))
    assert answer == frame(1, bytes.fromhex("0304 4130 0000"))
    assert asked == "unit 1: read holding registers 100 to 101"
    assert answered == "unit 1: read holding registers, 4 bytes"


async def test_hostile_answers_end_in_errors_or_in_the_value(devices, server) -> None:
    """Random, truncated, oversized, with wrong units, functions and lengths; over the real port."""
    dice = random.Random(5)
    good = frame(1, bytes.fromhex("0304 4130 0000"))

    def hostile() -> bytes:
        kind = dice.randrange(6)
        if kind == 0:
            return dice.randbytes(dice.randrange(600))
        if kind == 1:
            return good[: dice.randrange(len(good))]
        if kind == 2:
            return frame(dice.randrange(256), dice.randbytes(dice.randrange(1, 254)))
        if kind == 3:
            return frame(1, bytes((3, dice.randrange(256))) + dice.randbytes(dice.randrange(250)))
        if kind == 4:
            spoiled = bytearray(good)
            spoiled[dice.randrange(len(good))] ^= 1 << dice.randrange(8)
            return bytes(spoiled)
        return dice.randbytes(dice.randrange(4)) + good * dice.randrange(40)

    hasty = Device(rtu(server.port, Timeout=0.01), devices[0].surroundings)
    await hasty.driver.connect()
    server.lie = lambda _: hostile()
    values = []
    for _ in range(150):
        try:
            values.append(await hasty.value("F1"))
        except (NoAnswer, Refused):
            continue
    assert 11.0 in values  # among the lies is the truth, now and then
    server.lie = None
    await until(lambda: server.line.idle)
    assert await devices[0].value("F1") == 11.0
