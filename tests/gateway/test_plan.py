"""The plan of a site: what it says before the start, and what the wire then carries."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.findings import Finding
from config.load import load_site
from config.site import Instrument
from drivers.contract import Block, Cost, Driver, DriverProtocol, Surroundings
from drivers.registry import protocol_of
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.rtu_server import RtuServer
from gateway import plan as planning
from gateway.core.clock import SystemClock
from gateway.plan import (
    BlockPlan,
    ClassPlan,
    DevicePlan,
    SitePlan,
    check_plan,
    overloads,
    plan_instruments,
)
from tests.drivers.instruments import instrument

PERIODS_S = {"Fast": 0.1, "Middle": 0.5, "Slow": 1.0}
HOLDING = {"Type": "HRegister", "DataType": "uint16"}


def blocks(count: int, scan_class: str = "Fast", size: int = 1, base: int = 0) -> dict[str, Any]:
    """Channels that make `count` blocks of `size` registers."""
    return {
        f"{scan_class}{base}_{at}_{register}": HOLDING
        | {"IOPoint": base + 200 * at + register, "Class": scan_class}
        for at in range(count)
        for register in range(size)
    }


def tcp(name: str = "Dev", *parts: dict[str, Any], **tags: Any) -> Instrument:
    channels = {key: keys for part in parts for key, keys in part.items()}
    place = {"Connection": {"IP": "127.0.0.1"}, "PortNum": tags.pop("PortNum", 502)}
    made = instrument(channels, **place | tags)
    return replace(made, name=name, file=f"{name}.json")


def rtu(name: str, *parts: dict[str, Any], port: str = "/dev/ttyS1", **tags: Any) -> Instrument:
    channels = {key: keys for part in parts for key, keys in part.items()}
    place = {"Port": port, "Parity": "N", "Unit": tags.pop("Unit", 1)}
    made = instrument(channels, **{"Communication": "ModbusRTU", "Connection": place} | tags)
    return replace(made, name=name, file=f"{name}.json")


def made(*instruments: Instrument) -> SitePlan:
    return plan_instruments(instruments, PERIODS_S)


def one(*instruments: Instrument) -> DevicePlan:
    return made(*instruments).devices[0]


# ---------------------------------------------------------------- loads


def test_ten_blocks_of_a_slow_device_at_100_ms_are_200_percent() -> None:
    device = one(tcp("Dev", blocks(10), ReplyDelay=0.02))
    assert device.load == pytest.approx(2.0)
    (finding,) = overloads(made(tcp("Dev", blocks(10), ReplyDelay=0.02)))
    assert (finding.file, finding.rule, finding.severity) == ("Dev.json", "plan-overload", "error")
    assert finding.key == "EquipmentTags.ReplyDelay"
    for words in ("200%", "20 ms", "Fast of Dev", "poll it less often", "Depth"):
        assert words in finding.message


@pytest.mark.parametrize(
    ("depth", "load"), [(1, 2.0), (2, 1.0), (4, 0.6), (5, 0.4), (10, 0.2), (16, 0.2)]
)
def test_depth_lets_exchanges_run_together(depth: int, load: float) -> None:
    assert one(tcp("Dev", blocks(10), ReplyDelay=0.02, Depth=depth)).load == pytest.approx(load)


def test_a_device_of_unknown_speed_has_no_load() -> None:
    plan = made(tcp("Dev", blocks(10)))
    assert plan.devices[0].load == 0
    assert overloads(plan) == []


def test_requests_and_bytes_of_a_class() -> None:
    fast, slow = one(tcp("Dev", blocks(2, size=10), blocks(3, "Slow", 1, 5000))).classes
    assert (fast.name, fast.period_s, slow.name, slow.period_s) == ("Fast", 0.1, "Slow", 1.0)
    assert (fast.requests_per_s, slow.requests_per_s) == (20, 3)
    assert fast.request_bytes_per_s == 20 * (7 + 5)
    assert fast.answer_bytes_per_s == 20 * (7 + 2 + 20)
    assert slow.answer_bytes_per_s == 3 * (7 + 2 + 2)


def test_all_instruments_load_their_line() -> None:
    first, second = rtu("A", blocks(1, "Slow", 20)), rtu("B", blocks(1, "Slow", 20), Unit=2)
    elsewhere = rtu("C", blocks(1, "Slow", 20), port="/dev/ttyS2")
    plan = made(first, second, elsewhere)
    # 8 bytes and 45, ten bits each, and two silences of 3.5 bytes
    busy_s = (8 + 45 + 7) * 10 / 19_200
    assert [(line.port, line.devices) for line in plan.lines] == [
        ("/dev/ttyS1", ("A", "B")),
        ("/dev/ttyS2", ("C",)),
    ]
    assert [line.load for line in plan.lines] == pytest.approx([2 * busy_s, busy_s])


def test_the_delay_of_a_device_occupies_its_line() -> None:
    quick, slow = (one(rtu("A", blocks(2, "Slow"), ReplyDelay=delay)) for delay in (0.0, 0.1))
    assert slow.load - quick.load == pytest.approx(0.2)


def test_an_overloaded_line_is_one_finding_that_names_the_worst() -> None:
    plan = made(rtu("A", blocks(1, "Slow")), rtu("B", blocks(3, "Fast", 60), Unit=2))
    (finding,) = overloads(plan)
    assert (finding.file, finding.key) == ("B.json", "EquipmentTags.Connection.Port")
    assert finding.rule == "plan-overload"
    for words in ("The line /dev/ttyS1 (A, B)", "Fast of B", "raise Baudrate"):
        assert words in finding.message
    assert all(c.worst_age_s is None for d in plan.devices for c in d.classes)


def test_a_line_with_little_room_left_is_a_warning() -> None:
    plan = made(rtu("A", blocks(21, "Slow", 30)))
    assert 0.8 < plan.lines[0].load < 1
    (finding,) = overloads(plan)
    assert (finding.rule, finding.severity) == ("plan-tight", "warning")


def test_exactly_100_percent_is_no_overload() -> None:
    (finding,) = overloads(made(tcp("Dev", blocks(5), ReplyDelay=0.02)))
    assert finding.rule == "plan-tight"


# ---------------------------------------------------------------- worst ages


def ages(device: DevicePlan) -> dict[str, list[float]]:
    return {c.name: [b.worst_age_s for b in c.blocks] for c in device.classes}  # type: ignore[misc]


def test_alone_a_value_is_a_period_and_an_exchange_old() -> None:
    assert ages(one(tcp("Dev", blocks(3, "Slow"), ReplyDelay=0.02)))["Slow"] == pytest.approx(
        [1.02, 1.02, 1.02]
    )


def test_a_slower_class_delays_a_faster_one_by_one_batch() -> None:
    device = tcp("Dev", blocks(1), blocks(6, "Slow", 1, 5000), ReplyDelay=0.02)
    found = ages(one(device))
    assert found["Fast"] == pytest.approx([0.1 + 0.02 + 0.02])
    # Each run of the fast class may come ahead: at the start, and every 100 ms after.
    assert found["Slow"][0] == pytest.approx(1.0 + 0.02 + 0.02)
    assert found["Slow"][5] == pytest.approx(1.0 + 0.02 + 2 * 0.02)


def test_on_a_line_each_question_may_wait_for_one_of_every_other_unit() -> None:
    def slow(name: str, unit: int) -> Instrument:
        return rtu(name, blocks(2, "Slow"), Unit=unit)

    plan = made(slow("A", 1), slow("B", 2), slow("C", 3))
    exchange_s = plan.devices[0].classes[0].blocks[0].exchange_s
    for device in plan.devices:
        first, second = ages(device)["Slow"]
        assert first == pytest.approx(1.0 + 3 * exchange_s)
        assert second == pytest.approx(1.0 + 5 * exchange_s)


def test_others_can_not_be_waited_for_more_than_they_ask() -> None:
    plan = made(rtu("A", blocks(5, "Slow")), rtu("B", blocks(1, "Slow"), Unit=2))
    exchange_s = plan.devices[0].classes[0].blocks[0].exchange_s
    assert ages(plan.devices[0])["Slow"][4] == pytest.approx(1.0 + 2 * exchange_s)


def test_a_class_of_the_same_period_is_waited_for_as_a_whole() -> None:
    """The poll engine does not interrupt it; which of the two is first, a reconnect may turn."""
    device = tcp("Dev", blocks(4), blocks(3, "Middle", 1, 5000), ReplyDelay=0.02)
    plan = plan_instruments([device], {"Fast": 1.0, "Middle": 1.0})
    found = ages(plan.devices[0])
    assert found["Fast"][0] == pytest.approx(1.0 + 0.02 + 3 * 0.02)
    assert found["Middle"][0] == pytest.approx(1.0 + 0.02 + 4 * 0.02)


@given(
    fast=st.integers(0, 3),
    middle=st.integers(0, 3),
    slow=st.integers(0, 6),
    delay_ms=st.integers(0, 30),
    depth=st.integers(1, 4),
)
def test_ages_are_bounded_where_the_load_is(
    fast: int, middle: int, slow: int, delay_ms: int, depth: int
) -> None:
    parts = blocks(fast), blocks(middle, "Middle", 1, 2000), blocks(slow, "Slow", 1, 5000)
    device = one(tcp("Dev", *parts, ReplyDelay=delay_ms / 1000, Depth=depth))
    for scan_class in device.classes:
        for block in scan_class.blocks:
            if device.load >= 1:
                assert block.worst_age_s is None
            elif block.worst_age_s is not None:
                assert scan_class.period_s <= block.worst_age_s
                assert block.worst_age_s <= 11 * scan_class.period_s


class Replay:
    """The poll engine's order on one line, event by event, with a phase for each device.

    `worst_s` has the oldest age that each block's value had when its next one landed.
    """

    def __init__(self, plan: SitePlan, phases_s: list[float], until_s: float) -> None:
        self.worst_s: dict[tuple[str, str], float] = {}
        self._asked_s: dict[tuple[str, str], float] = {}
        self._queue: list[tuple[float, int, int]] = []  # who waits for the line, since when
        self._pending: dict[int, tuple[str, BlockPlan]] = {}
        phases = enumerate(zip(plan.devices, phases_s, strict=True))
        self._steps = [self._device(at, device, phase_s) for at, (device, phase_s) in phases]
        self._now_s = [0.0] * len(self._steps)
        for at in range(len(self._steps)):
            self._next_question(at)
        tickets, free_s = len(self._steps), 0.0
        while self._queue and self._queue[0][0] < until_s:
            since_s, _, at = heapq.heappop(self._queue)
            name, block = self._pending[at]
            asked_s = max(since_s, free_s)
            self._now_s[at] = free_s = asked_s + block.exchange_s
            key = (name, block.label)
            if key in self._asked_s:
                age_s = free_s - self._asked_s[key]
                self.worst_s[key] = max(self.worst_s.get(key, 0.0), age_s)
            self._asked_s[key] = asked_s
            tickets += 1
            self._next_question(at, tickets)

    def _next_question(self, at: int, ticket: int = 0) -> None:
        name, block, ready_s = next(self._steps[at])
        self._now_s[at] = max(self._now_s[at], ready_s)
        self._pending[at] = (name, block)
        heapq.heappush(self._queue, (self._now_s[at], ticket or at, at))

    def _device(
        self, position: int, device: DevicePlan, phase_s: float
    ) -> Iterator[tuple[str, BlockPlan, float]]:
        due = {c.name: phase_s for c in device.classes}

        def cycle(current: ClassPlan, ready_s: float) -> Iterator[tuple[str, BlockPlan, float]]:
            for block in current.blocks:
                for faster in device.classes:
                    if faster.period_s < current.period_s and due[faster.name] <= max(
                        self._now_s[position], ready_s
                    ):
                        yield from cycle(faster, ready_s)
                yield device.name, block, ready_s
            due[current.name] += current.period_s

        while True:
            current = min(device.classes, key=lambda c: due[c.name])
            yield from cycle(current, due[current.name])


@given(
    counts=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=3),
    phases=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    size=st.integers(1, 12),
)
def test_no_replayed_age_is_worse_than_the_bound(
    counts: list[tuple[int, int]], phases: list[float], size: int
) -> None:
    instruments = [
        rtu(f"D{at}", blocks(middle, "Middle", size), blocks(slow, "Slow", size, 5000), Unit=at + 1)
        for at, (middle, slow) in enumerate(counts)
    ]
    plan = made(*instruments)
    if plan.lines[0].load >= 0.9:
        return
    bounds = {
        (d.name, b.label): b.worst_age_s for d in plan.devices for c in d.classes for b in c.blocks
    }
    replay = Replay(plan, phases[: len(counts)], until_s=4.0)
    assert replay.worst_s.keys() == bounds.keys()
    for key, worst_s in replay.worst_s.items():
        assert worst_s <= bounds[key] + 1e-9, key  # type: ignore[operator]


def test_the_bound_is_reached_where_periods_drift_through_each_other() -> None:
    periods_s = {"Fast": 0.37, "Middle": 0.73, "Slow": 1.0}
    instruments = [
        rtu("A", blocks(1, "Fast", 12)),
        rtu("B", blocks(1, "Middle", 12), Unit=2),
        rtu("C", blocks(1, "Slow", 12), Unit=3),
    ]
    plan = plan_instruments(instruments, periods_s)
    replay = Replay(plan, [0.0, 0.0, 0.0], until_s=200.0)
    (block,) = plan.devices[2].classes[0].blocks
    assert block.worst_age_s == pytest.approx(replay.worst_s["C", block.label], rel=0.05)


@pytest.mark.parametrize(("fast", "slow", "delay_s"), [(2, 6, 0.04), (1, 3, 0.02), (3, 9, 0.03)])
def test_the_bound_of_one_device_is_reached_too(fast: int, slow: int, delay_s: float) -> None:
    device = tcp("Dev", blocks(fast), blocks(slow, "Slow", 1, 5000), ReplyDelay=delay_s)
    plan = plan_instruments([device], {"Fast": 0.23, "Slow": 1.0})
    replay = Replay(plan, [0.0], until_s=300.0)
    for scan_class in plan.devices[0].classes:
        worst_s = max(replay.worst_s["Dev", block.label] for block in scan_class.blocks)
        assert worst_s <= (scan_class.worst_age_s or 0.0) + 1e-9
        assert scan_class.worst_age_s == pytest.approx(worst_s, rel=0.1)


# ---------------------------------------------------------------- other protocols


def fake(monkeypatch: pytest.MonkeyPatch, protocol: DriverProtocol) -> None:
    monkeypatch.setattr(planning, "protocol_of", lambda name: protocol)


def open_nothing(device: Instrument, around: Surroundings) -> Driver:
    raise AssertionError("a plan opens nothing")


def test_what_the_device_sends_and_what_has_no_cost_is_told(monkeypatch: Any) -> None:
    device = tcp("Dev", blocks(2))
    rows = np.array([1], dtype=np.int32), np.array([2], dtype=np.int32)
    plan = [Block(rows[0], "Fast", None, "a", pushed=True), Block(rows[1], "Fast", None, "b")]
    fake(monkeypatch, DriverProtocol(("X",), lambda _: plan, lambda _: [], open_nothing))
    found = one(device)
    assert (found.sent, found.unknown) == (("Dev.Fast0_0_0",), ("Dev.Fast0_1_0",))
    assert found.classes == ()
    assert found.load == 0


def test_any_protocol_with_a_line_shares_it(monkeypatch: Any) -> None:
    block = Block(np.array([1], dtype=np.int32), "Fast", None, "a")
    protocol = DriverProtocol(
        ("X",), lambda _: [block], lambda _: [], open_nothing,
        cost=lambda _, __: Cost(10, 20, "COM", 0.03),
    )  # fmt: skip
    fake(monkeypatch, protocol)
    plan = made(tcp("A", blocks(1)), tcp("B", blocks(1)))
    assert plan.lines[0].load == pytest.approx(0.6)


# ---------------------------------------------------------------- the check of a site


def site_of(folder: Path, **tags: Any) -> Path:
    channels = {
        name: {k: v for k, v in keys.items() if k != "Class"} | {"Tags": ["Fast"]}
        for name, keys in blocks(10).items()
    }
    channels["Fast0_0_0"]["AgeLimit"] = tags.pop("AgeLimit", 5.0)
    equipment = {
        "EquipmentName": "Dev", "Communication": "ModbusTcp", "Connection": {"IP": "127.0.0.1"},
    } | tags  # fmt: skip
    files = {
        "Plant-Config.json": {
            "SystemTags": {"SystemName": "Plant"},
            "Equipment": {"Dev": {"Config": "Dev.json"}},
            "DataSampling": {"Fast": {"FilterKey": "Fast", "Rate": 100, "Unit": "ms"}},
        },
        "Dev.json": {"EquipmentTags": equipment, "Channels": channels},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def findings_of(folder: Path) -> list[Finding]:
    site, _ = load_site(folder)
    assert site is not None
    return check_plan(site)


def test_a_site_whose_plan_fits_has_no_finding(tmp_path: Path) -> None:
    assert findings_of(site_of(tmp_path, ReplyDelay=0.005)) == []


def test_a_site_whose_plan_does_not_fit_is_refused(tmp_path: Path) -> None:
    (finding,) = findings_of(site_of(tmp_path, ReplyDelay=0.02))
    assert (finding.file, finding.rule) == ("Dev.json", "plan-overload")


def test_a_limit_of_age_that_a_point_can_not_keep_is_a_warning(tmp_path: Path) -> None:
    (finding,) = findings_of(site_of(tmp_path, ReplyDelay=0.005, AgeLimit=0.102))
    assert finding.key == "Channels.Fast0_0_0.AgeLimit"
    assert (finding.rule, finding.severity) == ("plan-age", "warning")
    assert "0.105 s old" in finding.message


def test_points_that_are_too_old_are_one_finding_a_class(tmp_path: Path) -> None:
    folder = site_of(tmp_path, ReplyDelay=0.005)
    file = folder / "Dev.json"
    content = json.loads(file.read_text())
    for at, keys in enumerate(content["Channels"].values()):
        keys["AgeLimit"] = 0.102 - 0.001 * (at == 4)
    file.write_text(json.dumps(content))
    (finding,) = findings_of(folder)
    assert finding.key == "Channels.Fast0_4_0.AgeLimit"
    assert "9 more of Fast" in finding.message


def test_an_instrument_with_errors_of_its_own_is_left_to_them(tmp_path: Path) -> None:
    assert findings_of(site_of(tmp_path, ReplyDelay=0.02, Connection={"IP": None})) == []


# ---------------------------------------------------------------- predicted and carried


class Counter:
    """Counts frames and bytes on the wire."""

    def __init__(self) -> None:
        self.frames = {True: 0, False: 0}
        self.bytes = {True: 0, False: 0}

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        self.frames[sent] += 1
        self.bytes[sent] += len(data)


async def poll(device: Instrument, around: Surroundings, cycles: int) -> None:
    """Read all blocks of the fast class, that many times, as the poll engine does."""
    protocol = protocol_of(device.tags.Communication)
    assert protocol is not None
    driver = protocol.open(device, around)
    await driver.connect()
    cycle = protocol.cycle([b for b in protocol.plan(device) if b.scan_class == "Fast"])
    for _ in range(cycles):
        async for part in driver.read(cycle):
            assert part.error is None
    await driver.close()


async def test_a_cycle_over_tcp_carries_what_the_plan_says() -> None:
    server = ModbusServer(RegisterBank())
    counter = Counter()
    cycles = 5
    try:
        port = await server.start()
        device = tcp("Dev", blocks(7, size=30), PortNum=port, Depth=3)
        await poll(device, Surroundings(SystemClock(), tap=counter), cycles)
    finally:
        await server.stop()
    (fast,) = one(device).classes
    seconds = cycles * fast.period_s
    assert server.requests == counter.frames[True] == round(fast.requests_per_s * seconds)
    assert counter.bytes[True] == round(fast.request_bytes_per_s * seconds)
    assert counter.bytes[False] == round(fast.answer_bytes_per_s * seconds)


@pytest.mark.parametrize(("baudrate", "reply_s"), [(19_200, 0.0), (19_200, 0.01), (115_200, 0.004)])
async def test_a_cycle_on_a_line_carries_what_the_plan_says(baudrate: int, reply_s: float) -> None:
    server = RtuServer(RegisterBank(), baudrate=baudrate, bits=10, reply_s=reply_s)
    cycles = 4
    try:
        await server.start()
        place = {"Port": server.port, "Parity": "N", "Unit": 1, "Baudrate": baudrate}
        device = rtu("Dev", blocks(3, size=8), Connection=place, ReplyDelay=reply_s)
        await poll(device, Surroundings(SystemClock()), cycles)
        account = server.line.account
    finally:
        await server.stop()
    plan = made(device)
    (fast,) = plan.devices[0].classes
    seconds = cycles * fast.period_s
    assert account.requests == account.answers == round(fast.requests_per_s * seconds)
    assert account.request_bytes == round(fast.request_bytes_per_s * seconds)
    assert account.answer_bytes == round(fast.answer_bytes_per_s * seconds)
    assert account.busy_s == pytest.approx(plan.lines[0].load * seconds, rel=0.1)
