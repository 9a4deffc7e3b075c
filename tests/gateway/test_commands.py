"""Commands and outputs: acceptance, rank, lease, read-back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from config import status
from config.points import PointDef
from gateway.commands import Commands, Write
from gateway.core.records import Command
from gateway.core.table import PointTable
from gateway.outputs import REDRIVE_NS, VERIFY_NS, Demand, Proposal, Wish
from tests.gateway.points import land, output, point

SECOND_NS = 1_000_000_000


class Bench:
    """One or more outputs, a device that takes every write, and the receipts."""

    def __init__(self, *points: PointDef) -> None:
        self.receipts: list[Mapping[str, Any]] = []
        self.points = points or (output(value_min=0.0, value_max=100.0),)
        self.table = PointTable(self.points)
        self.commands = Commands(self.points, self.receipts.append)
        self.now_ns = SECOND_NS
        self.commands.device_back([p.index for p in self.points], self.now_ns)
        self.ids = 0
        self.demands: dict[int, Demand] = {}
        self.proposals: dict[int, Proposal] = {}
        self._told: dict[int, Wish] = {}

    def send(self, value: float, tag: str = "Dev.Out", **more: Any) -> bool:
        self.ids += 1
        command = Command(more.pop("id", f"c{self.ids}"), tag, value, **more)
        return self.commands.submit(command, self.now_ns, self.now_ns)

    def scan(self) -> list[Write]:
        return self.commands.arbitrate(self._news(), self.table.rows, self.now_ns)

    def _news(self) -> dict[int, Wish]:
        """What protection and logic want, where that changed since the last scan."""
        now = {
            p.index: Wish(self.demands.get(p.index), self.proposals.get(p.index, Proposal()))
            for p in self.points
            if p.is_output
        }
        news = {index: wish for index, wish in now.items() if wish != self._told.get(index)}
        self._told = now
        return news

    def cycle(self, ns: int = SECOND_NS // 10) -> list[Write]:
        """A scan whose writes the device takes and shows in its read-back."""
        writes = self.scan()
        for write in writes:
            self.commands.written(write.point.index, write.value, self.now_ns)
            if write.point.read_back:
                land(self.table, write.point.read_back, write.value, self.now_ns)
        self.now_ns += ns
        return writes

    def values(self) -> list[float]:
        return [write.value for write in self.cycle()]

    def steps(self, **wanted: Any) -> list[str]:
        return [r["step"] for r in self.receipts if all(r.get(k) == v for k, v in wanted.items())]

    def last_reason(self) -> str:
        return str(self.receipts[-1]["reason"])


def test_a_command_is_accepted_driven_and_verified_by_its_read_back() -> None:
    bench = Bench()
    bench.cycle()
    assert bench.send(42.0)
    assert bench.values() == [42.0]
    bench.cycle()
    assert bench.steps(command="c1") == ["accepted", "driven", "verified"]
    assert bench.values() == []  # nothing is written again without a reason


@pytest.mark.parametrize(
    ("tag", "more", "reason"),
    [
        ("Dev.Nothing", {}, "no such point"),
        ("Dev.In", {}, "read only"),
        ("Dev.Out", {"value": 100.1}, "outside 0 to 100"),
        ("Dev.Out", {"value": -0.1}, "outside 0 to 100"),
        ("Dev.Out", {"value": math.nan}, "not a finite number"),
        ("Dev.Out", {"value": math.inf}, "not a finite number"),
        ("Dev.Out", {"expires_ns": 1}, "expired"),
        ("Dev.Out", {"origin": "nobody"}, "unknown origin"),
        ("Dev.Out", {"origin": "remote"}, "needs a lease"),
        ("Dev.Out", {"lease_ns": -1}, "lease outside"),
        ("Dev.Out", {"origin": "remote", "lease_ns": 601 * SECOND_NS}, "lease outside"),
        ("Dev.Out", {"release": True}, "no setpoint"),
        ("Dev.Valve", {"value": 0.5}, "discrete"),
        ("Dev.Valve", {"value": 2.0}, "discrete"),
    ],
)
def test_what_must_not_be_done_is_refused_with_the_reason(
    tag: str, more: dict[str, Any], reason: str
) -> None:
    bench = Bench(
        output(1, value_min=0.0, value_max=100.0, lease_ns=600 * SECOND_NS),
        point(2, "Dev.In"),
        output(3, "Dev.Valve", kind="discrete", states=("closed", "open")),
    )
    more = dict(more)
    assert not bench.send(more.pop("value", 1.0), tag, **more)
    assert reason in bench.last_reason()
    bench.cycle()
    assert all(w == 0.0 for w in bench.values())


def test_a_second_command_with_the_same_id_is_answered_and_not_executed() -> None:
    bench = Bench()
    assert bench.send(1.0, id="x")
    assert not bench.send(2.0, id="x")
    assert bench.values() == [1.0]


def test_a_change_faster_than_the_points_rate_is_refused() -> None:
    bench = Bench(output(rate_max_per_s=5.0))
    bench.cycle(10 * SECOND_NS)
    assert not bench.send(50.0)  # the first command counts from what the output is at
    assert "from 0, -5 to 5 is allowed now" in bench.last_reason()
    assert bench.send(4.0)
    bench.cycle(SECOND_NS // 2)
    assert not bench.send(8.0)  # half a second later: 2.5 more
    assert bench.send(6.5)
    bench.cycle(3600 * SECOND_NS)
    assert not bench.send(12.0)  # an hour's wait does not allow a leap
    assert bench.send(0.0)  # the way to the safe value is always free


def test_a_lease_without_end_stops_no_scan() -> None:
    """A signed command may ask for 292 years; as a time that is more than 64 bits."""
    bench = Bench(output(value_min=0.0, value_max=100.0))
    assert bench.send(5.0, origin="remote", lease_ns=2**63 - 1)
    assert bench.send(6.0, lease_ns=10**30)
    for _ in range(3):
        bench.cycle()
    assert bench.commands.outputs[1].setpoints["operator"].until_ns == 2**62


def test_an_accepted_receipt_says_where_another_setpoint_ranks_higher() -> None:
    bench = Bench()
    bench.send(30.0, origin="operator")
    assert bench.last_reason() == ""
    bench.send(20.0, origin="remote", lease_ns=SECOND_NS)
    assert bench.last_reason() == "another setpoint ranks higher (operator)"
    assert bench.steps(command="c2") == ["accepted"]
    bench.send(10.0, origin="schedule", lease_ns=SECOND_NS)
    assert bench.last_reason() == "another setpoint ranks higher (operator)"
    bench.send(0.0, origin="remote", release=True)
    assert bench.last_reason() == ""


def test_rank_is_trip_then_interlock_then_operator_then_remote_then_schedule() -> None:
    bench = Bench()
    lease = {"lease_ns": 1000 * SECOND_NS}
    bench.send(3.0, origin="schedule", **lease)
    assert bench.values() == [3.0]
    bench.send(2.0, origin="remote", **lease)
    assert bench.values() == [2.0]
    bench.send(1.0, origin="operator")
    assert bench.values() == [1.0]
    bench.demands = {1: Demand(7.0, "Interlock", "interlock")}
    assert bench.values() == [7.0]
    bench.demands = {1: Demand(0.0, "Trip")}
    assert bench.values() == [0.0]


def test_an_interlock_holds_setpoints_down_and_a_trip_ends_them() -> None:
    bench = Bench(output(fallback=5.0))
    bench.send(40.0)
    bench.cycle()
    bench.demands = {1: Demand(7.0, "Interlock", "interlock")}
    assert bench.values() == [7.0]
    assert not bench.send(50.0)
    assert "interlock Interlock" in bench.last_reason()
    bench.demands = {}
    assert bench.values() == [40.0]
    bench.demands = {1: Demand(0.0, "Fire")}
    assert bench.values() == [0.0]
    assert "released" in bench.steps(command="c1")
    bench.demands = {}
    assert bench.values() == [5.0]  # not 40: nothing jumps back after a reset


def test_a_lease_ends_and_its_fallback_follows() -> None:
    bench = Bench(output(fallback=5.0))
    bench.cycle()
    bench.send(40.0, origin="remote", lease_ns=2 * SECOND_NS)
    assert bench.values() == [40.0]
    bench.now_ns += 2 * SECOND_NS
    assert bench.values() == [5.0]
    assert bench.steps(command="c1") == ["accepted", "driven", "released"]


def test_a_release_gives_the_output_to_the_next_rank() -> None:
    bench = Bench(output(fallback=5.0))
    bench.send(30.0, origin="remote", lease_ns=100 * SECOND_NS)
    bench.send(40.0)
    bench.cycle()
    assert bench.send(0.0, release=True)
    assert bench.values() == [30.0]


def test_a_trip_is_verified_even_where_the_output_was_there_already() -> None:
    bench = Bench()
    bench.cycle()
    bench.cycle()
    bench.demands = {1: Demand(0.0, "Fire", source_ns=bench.now_ns)}
    bench.cycle()
    assert bench.steps(cause="Fire") == ["verified"]


def test_the_receipt_of_a_trip_states_the_reaction_time() -> None:
    bench = Bench()
    bench.send(10.0)
    bench.cycle()
    bench.demands = {1: Demand(0.0, "Fire", source_ns=bench.now_ns - 5_000_000)}
    bench.cycle()
    driven = [r for r in bench.receipts if r.get("cause") == "Fire" and r["step"] == "driven"]
    assert driven[0]["reaction_ms"] == 5.0


def test_a_failed_write_is_reported_once_and_repeated_until_it_works() -> None:
    bench = Bench()
    bench.cycle()
    bench.send(10.0)
    tries = 0
    for _ in range(50):
        for write in bench.scan():
            tries += 1
            bench.commands.write_failed(write.point.index, write.value, "no answer")
        bench.now_ns += REDRIVE_NS // 10
    assert bench.steps(command="c1") == ["accepted", "failed"]
    assert 4 <= tries <= 6
    bench.now_ns += REDRIVE_NS
    assert bench.values() == [10.0]
    bench.cycle()
    assert bench.steps(command="c1")[-1] == "verified"


def test_a_read_back_that_differs_fails_and_the_output_is_driven_again() -> None:
    bench = Bench()
    bench.send(10.0)
    bench.cycle()
    bench.cycle()
    land(bench.table, 1, 99.0, bench.now_ns)  # somebody turned a knob at the device
    bench.scan()
    assert bench.steps(command="c1")[-1] == "failed"
    bench.now_ns += REDRIVE_NS
    assert bench.values() == [10.0]
    bench.cycle()
    assert bench.steps(command="c1")[-1] == "verified"


def test_a_write_whose_read_back_never_comes_has_failed() -> None:
    bench = Bench()
    bench.send(10.0)
    for write in bench.scan():
        bench.commands.written(write.point.index, write.value, bench.now_ns)
    bench.now_ns += VERIFY_NS + 1
    bench.scan()
    assert bench.steps(command="c1") == ["accepted", "driven", "failed"]


def test_a_bad_read_back_does_not_verify() -> None:
    bench = Bench()
    bench.send(10.0)
    bench.cycle()
    land(bench.table, 1, 10.0, bench.now_ns)
    bench.table.rows["status"][1] = status.BAD_DEVICE_FAILURE
    bench.scan()
    assert "verified" not in bench.steps(command="c1")


def test_an_output_that_cannot_be_read_back_ends_at_driven() -> None:
    bench = Bench(output(read_back=0))
    bench.cycle()
    bench.send(10.0)
    for _ in range(3):
        bench.cycle(VERIFY_NS)
    assert bench.steps(command="c1") == ["accepted", "driven"]


def test_a_device_that_was_lost_gets_its_outputs_again() -> None:
    bench = Bench()
    bench.send(10.0)
    bench.cycle()
    bench.cycle()
    bench.commands.device_lost([1])
    assert bench.values() == [10.0]


def test_an_output_without_anything_to_say_is_left_alone() -> None:
    bench = Bench(output(safe_value=math.nan, fallback=math.nan))
    assert bench.values() == []


def test_only_a_local_operator_writes_the_gateways_own_points() -> None:
    bench = Bench(point(1, "Gateway.Reset", source="gateway", writable=True, kind="discrete"))
    assert not bench.send(1.0, "Gateway.Reset", origin="remote", lease_ns=SECOND_NS)
    assert bench.send(1.0, "Gateway.Reset")
    assert [(p.tag, c.value) for c, p in bench.commands.gateway_writes] == [("Gateway.Reset", 1.0)]


def test_an_emergency_stop_that_no_rule_reads_is_refused_instead_of_promised() -> None:
    stop = point(1, "Gateway.E_Stop", source="gateway", writable=True, kind="discrete")
    receipts: list[Mapping[str, Any]] = []
    commands = Commands((stop,), receipts.append, inert={"Gateway.E_Stop"})
    assert not commands.submit(Command("x", "Gateway.E_Stop", 1.0), 0, 0)
    assert "no rule of this site reads this point" in receipts[0]["reason"]


def test_a_trip_does_not_wait_for_a_write_of_something_else_that_is_under_way() -> None:
    bench = Bench()
    bench.cycle()
    bench.send(50.0)
    assert [w.value for w in bench.scan()] == [50.0]  # the device is slow: not written yet
    bench.demands = {1: Demand(0.0, "Fire")}
    assert [(w.value, w.urgent) for w in bench.scan()] == [(0.0, True)]
    bench.commands.written(1, 50.0, bench.now_ns)  # the older one came through first
    assert bench.scan() == []
    bench.commands.written(1, 0.0, bench.now_ns)
    land(bench.table, 1, 0.0, bench.now_ns)
    assert bench.scan() == []
    assert bench.steps(cause="Fire") == ["driven", "verified"]
    assert bench.steps(command="c1") == ["accepted", "released"]


def test_a_wish_that_changes_back_while_its_opposite_is_under_way_is_written_again() -> None:
    bench = Bench()
    bench.send(50.0)
    bench.cycle()
    bench.cycle()
    bench.demands = {1: Demand(0.0, "Interlock", "interlock")}
    assert [w.value for w in bench.scan()] == [0.0]
    bench.demands = {}
    assert [w.value for w in bench.scan()] == [50.0]


def test_an_older_write_that_fails_leaves_the_newer_one_under_way() -> None:
    bench = Bench()
    bench.cycle()
    bench.send(50.0)
    bench.scan()
    bench.demands = {1: Demand(0.0, "Fire")}
    bench.scan()
    bench.commands.write_failed(1, 50.0, "no answer")
    assert bench.scan() == []
    assert "failed" not in bench.steps()
    bench.commands.write_failed(1, 0.0, "no answer")
    assert bench.steps(cause="Fire") == ["failed"]


def test_a_trip_is_written_at_once_although_the_read_back_of_before_differs() -> None:
    bench = Bench()
    bench.send(50.0)
    bench.cycle()
    land(bench.table, 1, 30.0, bench.now_ns)  # on its way, or turned by hand
    bench.demands = {1: Demand(0.0, "Fire")}
    assert [w.value for w in bench.scan()] == [0.0]


def test_a_failed_write_does_not_hold_up_a_trip_to_the_same_value() -> None:
    bench = Bench()
    for write in bench.scan():
        bench.commands.write_failed(1, write.value, "no answer")
    assert bench.scan() == []
    bench.demands = {1: Demand(0.0, "Fire")}
    assert [w.value for w in bench.scan()] == [0.0]


def test_an_output_that_takes_a_moment_is_verified_when_it_arrives() -> None:
    bench = Bench()
    bench.send(10.0)
    for write in bench.scan():
        bench.commands.written(1, write.value, bench.now_ns)
    for shown in (2.0, 6.0, 10.0):
        bench.now_ns += REDRIVE_NS // 4
        land(bench.table, 1, shown, bench.now_ns)
        bench.scan()
    assert bench.steps(command="c1") == ["accepted", "driven", "verified"]


def test_a_read_back_that_never_agrees_is_driven_on_and_reported_once() -> None:
    bench = Bench()
    bench.send(10.0)
    writes = 0
    for _ in range(300):
        for write in bench.scan():
            writes += 1
            bench.commands.written(1, write.value, bench.now_ns)
        bench.now_ns += REDRIVE_NS // 10
        land(bench.table, 1, 3.0, bench.now_ns)
    assert bench.steps(command="c1") == ["accepted", "driven", "failed"]
    assert 28 <= writes <= 31
