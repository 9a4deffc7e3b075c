"""The field process on a real device: start safe, poll, trip, command, restart."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from config import status
from config.findings import SiteError
from gateway import field, retain
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.field import prepare
from gateway.local import LocalClient
from tests.gateway.running import Running
from tests.gateway.sites import CONFIG, Rig, eventually


async def test_outputs_are_driven_safe_at_start_whatever_the_device_held(rig: Rig) -> None:
    rig.bank.coils[0] = True
    rig.bank.put_float32("holding", 0, 77.0)
    running = Running(rig)
    await eventually(lambda: not rig.valve and rig.bank.get_float32("holding", 0) == 5.0)
    await eventually(lambda: bool(running.events("receipt", step="verified", tag="Rig.Valve")))
    await running.end()


async def test_a_device_that_never_answers_keeps_the_site_in_its_start_up_trip(rig: Rig) -> None:
    rig.server.faults.silent = True
    running = Running(rig)
    await eventually(lambda: running.field.pollers["Rig"].statistics.errors > 1)
    assert running.field.engine.startup
    assert running.status("Rig.Temperature") == status.BAD_WAITING_FOR_INITIAL_DATA
    assert not running.send("Rig.Valve", 1)
    rig.server.faults.silent = False
    await running.ready()
    await running.end()


async def test_an_over_temperature_trips_the_valve_and_holds_it_until_the_reset(
    rig: Rig, running: Running
) -> None:
    assert running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    rig.temperature(950.0)
    await eventually(lambda: not rig.valve)
    cause = {"tag": "Rig.Valve", "cause": "Control/OverTemp"}
    await eventually(lambda: bool(running.events("receipt", step="verified", **cause)))
    rig.temperature(20.0)
    await eventually(lambda: running.value("Rig.Temperature") == 20.0)
    assert not running.send("Rig.Valve", 1)  # latched
    assert running.send("Gateway.Reset", 1)
    await eventually(lambda: running.value("Controls.OverTemp") == 0)
    await asyncio.sleep(0.1)
    assert not rig.valve  # a reset opens nothing by itself
    assert running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)


async def test_a_reset_while_the_cause_stands_changes_nothing(rig: Rig, running: Running) -> None:
    rig.temperature(950.0)
    await eventually(lambda: running.value("Controls.OverTemp") == 1)
    running.send("Gateway.Reset", 1)
    await eventually(lambda: bool(running.events("receipt", tag="Gateway.Reset", step="failed")))
    assert running.value("Controls.OverTemp") == 1
    told = running.events("receipt", tag="Gateway.Reset", step="failed")[0]
    assert told["reason"] == "still active: Control/OverTemp"


async def test_a_tool_hears_what_a_reset_released(rig: Rig, running: Running) -> None:
    rig.temperature(950.0)
    await eventually(lambda: running.value("Controls.OverTemp") == 1)
    rig.temperature(20.0)
    await eventually(lambda: running.value("Rig.Temperature") == 20.0)
    client = LocalClient(StatePaths(rig.state).field_socket)
    await client.connect()
    reset = {"id": "reset-1", "tag": "Gateway.Reset", "value": 1.0}
    receipts = [receipt async for receipt in client.command(reset)]
    assert [receipt["step"] for receipt in receipts] == ["accepted", "verified"]
    assert receipts[-1]["reason"] == "released: Control/OverTemp"
    await client.close()


async def test_the_emergency_stop_of_the_gateway_trips(rig: Rig, running: Running) -> None:
    running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    assert running.send("Gateway.E_Stop", 1)
    await eventually(lambda: not rig.valve)
    assert running.events("alarm", name="Alarms/E_Stop", level="Critical")


async def test_an_input_that_falls_silent_trips_when_its_age_limit_is_over(
    rig: Rig, running: Running
) -> None:
    running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    rig.server.faults.silent = True
    await eventually(lambda: running.status("Rig.Temperature") == status.BAD_NO_COMMUNICATION)
    await eventually(lambda: running.value("Controls.OverTemp") == 1)
    rig.server.faults.silent = False
    await eventually(lambda: not rig.valve)  # the device is back and gets its safe value


@pytest.mark.parametrize("fault", ["garbage", "half_frame", "wrong_unit", "exception_code"])
async def test_a_device_that_goes_mad_ends_in_bad_quality_and_recovers(
    rig: Rig, running: Running, fault: str
) -> None:
    setattr(rig.server.faults, fault, 4 if fault == "exception_code" else True)
    await eventually(lambda: status.is_bad(running.status("Rig.Temperature")))
    rig.server.faults.clear()
    await eventually(lambda: running.status("Rig.Temperature") == status.GOOD)


async def test_a_latched_trip_survives_a_crash_of_the_process(rig: Rig) -> None:
    first = Running(rig)
    await first.ready()
    rig.temperature(950.0)
    await eventually(lambda: first.value("Controls.OverTemp") == 1)
    await eventually(lambda: bool(retain.load(StatePaths(rig.state).retain).latched))
    await first.crash()
    rig.temperature(20.0)
    second = Running(rig)
    await second.ready()
    assert second.field.epoch > first.field.epoch
    assert not second.send("Rig.Valve", 1)
    second.send("Gateway.Reset", 1)
    await eventually(lambda: second.value("Controls.OverTemp") == 0)
    await second.end()


async def test_an_emergency_stop_holds_over_a_crash_until_it_is_taken_back(rig: Rig) -> None:
    first = Running(rig)
    await first.ready()
    first.send("Gateway.E_Stop", 1)
    await eventually(lambda: retain.load(StatePaths(rig.state).retain).stop)
    await first.crash()
    second = Running(rig)
    await second.ready()
    second.send("Gateway.Reset", 1)
    assert second.value("Gateway.E_Stop") == 1 and not second.send("Rig.Valve", 1)
    second.send("Gateway.E_Stop", 0)
    await eventually(lambda: not retain.load(StatePaths(rig.state).retain).stop)
    second.send("Gateway.Reset", 1)
    await eventually(lambda: second.value("Controls.E_Stop") == 0)
    await second.end()
    assert not retain.load(StatePaths(rig.state).retain).stop


async def test_an_emergency_stop_does_not_wait_for_the_grid(rig: Rig) -> None:
    slow = {"FilterKey": "Fast", "Rate": 60, "Unit": "S"}
    config = CONFIG | {"Scan": {"Period": 60, "Unit": "S"}, "DataSampling": {"Fast": slow}}
    (rig.folder / "Small-Config.json").write_text(json.dumps(config), encoding="utf-8")
    running = Running(rig)
    await running.ready()
    running.send("Gateway.E_Stop", 1)
    await eventually(lambda: running.value("Controls.E_Stop") == 1)
    await running.end()


async def test_a_damaged_retain_file_brings_every_latching_rule_up_latched(rig: Rig) -> None:
    paths = StatePaths(rig.state)
    paths.make()
    paths.retain.write_text("{ torn")
    running = Running(rig)
    await running.ready()
    assert not running.send("Rig.Valve", 1)
    assert running.events("gateway", what="retain file damaged")
    running.send("Gateway.Reset", 1)
    await eventually(lambda: running.value("Controls.OverTemp") == 0)
    await running.end()


async def test_an_orderly_stop_leaves_outputs_safe_and_says_farewell(rig: Rig) -> None:
    running = Running(rig)
    await running.ready()
    running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    await running.end()
    assert not rig.valve
    kept = retain.load(StatePaths(rig.state).retain)
    assert (kept.epoch, kept.last) == (running.field.epoch, running.field.journal.last)


async def test_a_site_with_errors_does_not_start_and_names_all_of_them(rig: Rig) -> None:
    rig.write(channels={"Bad": {"Type": "Coil", "DataType": "bool"}, "Typ": {"Typo": 1}})
    with pytest.raises(SiteError) as caught:
        prepare(rig.folder)
    assert caught.value.findings


async def test_the_status_is_plain_data(running: Running) -> None:
    shown = running.field.status()
    assert shown["devices"]["Rig"]["protocol"] == "ModbusTcpGeneric"
    assert shown["scan"]["count"] > 0


async def test_a_disk_that_hangs_stops_neither_scan_nor_trip(
    rig: Rig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, save = threading.Event(), retain.save

    def hangs(path: Path, kept: retain.Retained) -> None:
        released.wait(30)
        save(path, kept)

    monkeypatch.setattr(retain, "save", hangs)
    running.send("Gateway.E_Stop", 1)
    await eventually(lambda: bool(running.events("alarm", name="Alarms/E_Stop")))
    count = running.field.statistics.count
    try:
        await eventually(lambda: running.field.statistics.count > count + 10, 5)
    finally:
        released.set()


async def test_a_latch_that_could_not_be_kept_is_kept_later_and_said_once(
    rig: Rig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field, "RETAIN_RETRY_S", 0.02)
    save, tries = retain.save, 0

    def refuses(path: Path, kept: retain.Retained) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise retain.RetainError("no space")
        save(path, kept)

    monkeypatch.setattr(retain, "save", refuses)
    rig.temperature(950.0)
    await eventually(lambda: bool(retain.load(StatePaths(rig.state).retain).latched))
    assert len(running.events("gateway", what="retain file not written")) == 1


async def test_a_latch_behind_a_refusal_does_not_wait_for_the_next_try(
    rig: Rig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field, "RETAIN_RETRY_S", 600.0)
    save, full = retain.save, True

    def refuses(path: Path, kept: retain.Retained) -> None:
        if full:
            raise retain.RetainError("no space")
        save(path, kept)

    monkeypatch.setattr(retain, "save", refuses)
    rig.temperature(950.0)
    await eventually(lambda: bool(running.events("gateway", what="retain file not written")))
    full = False
    running.send("Gateway.E_Stop", 1)
    await eventually(lambda: bool(retain.load(StatePaths(rig.state).retain).latched))


async def test_the_farewell_is_what_the_retain_file_holds_in_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saving = retain.save, threading.Event()

    def slow(path: Path, kept: retain.Retained) -> None:
        if kept.last == 0 and kept.latched:
            saving.set()
            threading.Event().wait(0.5)
        save(path, kept)

    running = Running(rig)
    await running.ready()
    monkeypatch.setattr(retain, "save", slow)
    rig.temperature(950.0)
    await eventually(saving.is_set)
    await running.end()
    await asyncio.sleep(0.6)  # were the slow one still under way, it would end now
    assert retain.load(StatePaths(rig.state).retain).last == running.field.journal.last


async def test_a_damaged_retain_file_that_cannot_be_moved_away_keeps_nobody_from_control(
    rig: Rig,
) -> None:
    paths = StatePaths(rig.state)
    paths.make()
    paths.retain.write_text("{ torn")
    (paths.retain.with_suffix(".damaged") / "full").mkdir(parents=True)
    running = Running(rig)
    await running.ready()
    assert not running.send("Rig.Valve", 1)
    assert running.events("gateway", what="retain file damaged")
    await running.end()


async def test_a_stop_that_cannot_make_an_output_safe_says_which(rig: Rig) -> None:
    running = Running(rig)
    await running.ready()
    running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    rig.server.faults.silent = True
    await running.end()
    (stopped,) = running.events("gateway", what="stopped")
    assert "Rig.Valve" in stopped["not_safe"]


async def test_the_backlog_is_uncertain_while_no_link_tells_it(running: Running) -> None:
    await eventually(lambda: running.status("Gateway.Backlog") == status.UNCERTAIN_LAST_USABLE)


async def test_an_epoch_that_the_disk_did_not_take_is_not_given_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wall clock behind the last epoch, and a disk that refuses, two lives would share one.

    The historian would take the records of the second for those of the first.
    """
    paths = StatePaths(rig.state)
    paths.make()
    ahead = SystemClock().utc_ns() // 10**6 + 10**9
    retain.save(paths.retain, retain.Retained(ahead))

    def refuses(path: Path, kept: retain.Retained) -> None:
        raise retain.RetainError("no space")

    monkeypatch.setattr(retain, "save", refuses)
    lives = [Running(rig) for _ in range(2)]
    assert len({life.field.epoch for life in lives} | {ahead, ahead + 1}) == 4
    for life in lives:
        await life.crash()


async def test_an_epoch_that_the_disk_did_not_take_is_kept_as_soon_as_it_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, tries = retain.save, 0

    def refuses(path: Path, kept: retain.Retained) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise retain.RetainError("no space")
        save(path, kept)

    monkeypatch.setattr(retain, "save", refuses)
    monkeypatch.setattr(field, "RETAIN_RETRY_S", 0.05)
    running = Running(rig)
    paths = StatePaths(rig.state)
    await eventually(lambda: retain.load(paths.retain).epoch == running.field.epoch)
    assert len(running.events("gateway", what="retain file not written")) == 1
    await running.end()
