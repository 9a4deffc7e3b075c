"""Ramps: how an output approaches what it is to have, and where it starts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from config import status
from gateway.outputs import VERIFY_NS, Demand, Proposal
from tests.gateway.points import land, output
from tests.gateway.test_commands import SECOND_NS, Bench

SCAN_NS = SECOND_NS // 10


def ramped(**more: Any) -> Bench:
    """An output that approaches setpoints by 10 a second."""
    bench = Bench(output(ramp_rate_per_s=10.0, value_min=0.0, value_max=100.0, **more))
    land(bench.table, 1, 0.0, bench.now_ns)
    bench.cycle(SCAN_NS)
    bench.cycle(SCAN_NS)
    return bench


def test_a_setpoint_is_approached_at_the_ramp_rate_and_verified_at_its_end() -> None:
    bench = ramped()
    bench.send(5.0)
    driven = [value for _ in range(8) for value in bench.values()]
    assert driven == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert bench.steps(command="c1") == ["accepted", "driven", "verified"]


def test_a_new_setpoint_goes_on_from_where_the_ramp_is() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(10):
        bench.cycle()
    here = bench.commands.outputs[1].desired
    assert here == pytest.approx(9.0)  # the scan that took the command begins the ramp
    bench.send(0.0)
    assert bench.values() == pytest.approx([here - 1.0])


def test_protection_does_not_wait_for_the_ramp_and_the_ramp_starts_behind_it() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(20):
        bench.cycle()
    bench.demands = {1: Demand(0.0, "Fire")}
    assert bench.values() == [0.0]
    bench.demands = {}
    bench.cycle()
    assert bench.send(50.0)
    bench.cycle()
    assert bench.values() == pytest.approx([1.0])


def test_a_ramp_starts_at_the_read_back_where_the_device_stands_elsewhere() -> None:
    bench = Bench(output(ramp_rate_per_s=10.0, safe_value=math.nan, fallback=math.nan))
    land(bench.table, 1, 40.0, bench.now_ns)
    bench.send(50.0)
    assert bench.values() == [40.0]
    assert bench.values() == pytest.approx([41.0])


def test_a_read_back_from_before_a_trip_is_no_start_for_the_ramp_behind_it() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(60):
        bench.cycle()
    land(bench.table, 1, 50.0, bench.now_ns)  # a slow poll: the next one is far away
    bench.now_ns += 1
    bench.demands = {1: Demand(0.0, "Blink")}
    for write in bench.scan():
        bench.commands.written(1, write.value, bench.now_ns)
    bench.demands = {}
    bench.now_ns += SCAN_NS
    bench.scan()
    assert bench.send(50.0)
    bench.scan()
    assert bench.commands.outputs[1].desired == 0.0


def test_a_ramp_stands_still_while_the_device_takes_nothing() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(10):
        bench.cycle()
    here = bench.commands.outputs[1].desired
    for _ in range(30):
        for write in bench.scan():
            bench.commands.write_failed(1, write.value, "no answer")
        bench.now_ns += SCAN_NS
    assert abs(bench.commands.outputs[1].desired - here) <= 1.0


def test_a_device_that_comes_back_at_another_value_is_taken_up_there() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(20):
        bench.cycle()
    bench.commands.device_lost([1])
    bench.now_ns += 10 * SECOND_NS
    land(bench.table, 1, 3.0, bench.now_ns)  # it restarted
    assert bench.values() == [3.0]
    assert bench.values() == pytest.approx([4.0])


def lost(bench: Bench) -> None:
    """The device is lost on the way, for ten seconds."""
    bench.commands.device_lost([1])
    bench.table.rows["status"][1] = status.BAD_NO_COMMUNICATION
    for _ in range(100):
        assert not bench.cycle()


def test_a_ramp_waits_for_what_a_device_shows_that_was_away() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(20):
        bench.cycle()
    lost(bench)
    bench.commands.device_back([1], bench.now_ns)
    assert not bench.cycle()
    land(bench.table, 1, 3.0, bench.now_ns)  # it restarted
    assert bench.values() == [3.0]
    assert bench.values() == pytest.approx([4.0])


def test_a_ramp_does_not_wait_for_ever_for_a_read_back() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(20):
        bench.cycle()
    here = bench.commands.outputs[1].desired
    lost(bench)
    bench.commands.device_back([1], bench.now_ns)
    bench.now_ns += VERIFY_NS
    assert bench.values() == [here]


def test_a_trip_waits_for_no_read_back() -> None:
    bench = ramped()
    bench.send(50.0)
    for _ in range(20):
        bench.cycle()
    lost(bench)
    bench.demands = {1: Demand(0.0, "Fire")}
    assert bench.values() == [0.0]


def test_a_device_that_is_back_has_time_to_show_what_it_took() -> None:
    bench = Bench()
    bench.send(5.0)
    for _ in range(60):
        bench.cycle()
    bench.commands.device_lost([1])
    bench.table.rows["status"][1] = status.BAD_NO_COMMUNICATION
    for _ in range(60):
        for write in bench.scan():
            bench.commands.write_failed(1, write.value, "no answer")
        bench.now_ns += SCAN_NS
    bench.commands.device_lost([1])  # for another reason
    for write in bench.scan():
        bench.commands.write_failed(1, write.value, "refused")
    failed = bench.steps(step="failed")
    assert len(failed) == 1
    bench.commands.device_back([1], bench.now_ns)
    bench.now_ns += SECOND_NS
    (write,) = bench.scan()
    bench.commands.written(1, write.value, bench.now_ns)
    bench.now_ns += SCAN_NS
    bench.scan()  # its poll comes later
    assert bench.steps(step="failed") == failed


def test_a_scan_that_comes_late_makes_no_leap() -> None:
    bench = ramped()
    bench.send(90.0)
    bench.cycle()
    bench.now_ns += 60 * SECOND_NS
    bench.cycle()
    assert bench.commands.outputs[1].desired <= 12.0


def test_a_limit_is_approached_at_the_ramp_rate() -> None:
    bench = ramped()
    bench.send(5.0)
    for _ in range(10):
        bench.cycle()
    bench.proposals = {1: Proposal(high=4.5, high_cause="Export_Limit")}
    bench.cycle()
    assert bench.values() == pytest.approx([4.5])


def test_an_output_that_rested_gets_no_credit_for_that_time() -> None:
    bench = ramped()
    for _ in range(100):
        bench.cycle()
    bench.send(50.0)
    bench.cycle()
    assert bench.values() == pytest.approx([1.0])


def test_rate_max_still_refuses_and_counts_from_where_the_ramp_is() -> None:
    bench = Bench(output(ramp_rate_per_s=1.0, rate_max_per_s=5.0))
    land(bench.table, 1, 0.0, bench.now_ns)
    for _ in range(20):
        bench.cycle()
    assert not bench.send(20.0)
    assert bench.send(4.0)
    for _ in range(20):
        bench.cycle()
    assert not bench.send(9.0)
    assert "from 1.9" in bench.last_reason()
