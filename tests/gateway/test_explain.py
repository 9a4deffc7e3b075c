"""Why points are what they are, asked of a field process that runs on a real device."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.explain import lines, wrapped
from gateway.commands import Commands
from gateway.core.clock import ManualClock
from gateway.core.records import Event
from gateway.core.table import PointTable
from gateway.event_log import WAITING
from gateway.explain import ACTIVATIONS_MAX, RECEIPTS_MAX, Explain
from gateway.local import LocalClient, LocalError
from tests.gateway.running import Running
from tests.gateway.sites import Rig, eventually
from tests.safety.sites import EVALUATORS, Plant, S, make_site


async def ask(rig: Rig, tag: str) -> dict[str, Any]:
    client = LocalClient(rig.state / "field.sock")
    await client.connect()
    try:
        return await client.request({"type": "explain", "tag": tag})
    finally:
        await client.close()


def decides(answer: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in answer["ladder"] if row["decides"])


async def test_a_setpoint_decides_and_the_ladder_shows_what_is_below(
    rig: Rig, running: Running
) -> None:
    assert running.send("Rig.Setpoint", 30)
    wanted = {"step": "verified", "tag": "Rig.Setpoint", "value": 30.0}
    await eventually(lambda: bool(running.events("receipt", **wanted)))
    answer = await ask(rig, "Rig.Setpoint")
    assert answer["value"] == 30
    assert decides(answer)["rank"] == "operator"
    fallback = answer["ladder"][-1]
    assert (fallback["rank"], fallback["wants"], fallback["decides"]) == ("fallback", 5.0, False)
    assert answer["read_back"]["verified"]
    assert answer["receipt"]["step"] == "verified"
    assert "cause" not in answer


async def test_a_trip_is_explained_with_what_it_saw_when_it_came(
    rig: Rig, running: Running
) -> None:
    rig.temperature(950.0)
    await eventually(lambda: running.value("Controls.OverTemp") == 1)
    answer = await ask(rig, "Rig.Valve")
    assert (decides(answer)["rank"], decides(answer)["by"]) == ("trip", "Control/OverTemp")
    cause = answer["cause"]
    assert cause["latched"] and cause["first_out"] == 1
    assert cause["missing"][0].startswith("Rig.Temperature >= 900 is true: Rig.Temperature is 950")
    rig.temperature(20.0)
    await eventually(lambda: running.value("Rig.Temperature") == 20.0)
    cause = (await ask(rig, "Rig.Valve"))["cause"]
    assert cause["missing"] == ["a reset, Gateway.Reset, once nothing else is missing"]
    assert [part["shown"] for part in cause["parts"]] == ["false", "20 degC"]
    assert [part["shown"] for part in cause["came"]["parts"]] == ["true", "950 degC"]
    text = "\n".join(lines(await ask(rig, "Rig.Valve")))
    assert "> trip" in text and "when it came" in text and "Control/OverTemp (latched" in text


async def test_a_lost_input_is_named_as_the_cause(rig: Rig, running: Running) -> None:
    rig.server.faults.silent = True
    await eventually(lambda: running.value("Controls.OverTemp") == 1)
    answer = await ask(rig, "Controls.OverTemp")
    assert answer["kind"] == "trip" and answer["on_bad"] == "trip"
    assert answer["missing"][0].startswith("Rig.Temperature is bad (Bad")
    alarm = await ask(rig, "Alarms.Hot")
    assert alarm["kind"] == "alarm" and alarm["quality"] == 3
    rig.server.faults.silent = False


async def test_the_start_up_says_what_it_waits_for(rig: Rig) -> None:
    rig.server.faults.silent = True
    running = Running(rig)
    await eventually(lambda: running.field.engine.time_ns > 1)
    answer = await ask(rig, "")
    assert answer["active"]
    assert [point["tag"] for point in answer["waiting"]] == ["Rig.Temperature"]
    assert answer["waiting"][0]["causes"] == ["Control/OverTemp"]
    assert running.events("trip", name="Control/OverTemp", active=True, reason=WAITING)
    output = await ask(rig, "Rig.Valve")
    # The trip is active too, but the start-up was first and stands on the same rank.
    assert decides(output)["by"] == "start-up"
    assert output["cause"]["kind"] == "start-up"
    assert "held at it until" in "\n".join(lines(answer))
    rig.server.faults.silent = False
    await running.ready()
    assert "the start-up is over" in "\n".join(lines(await ask(rig, "start-up")))
    await running.end()


async def test_an_input_says_who_reads_it(rig: Rig, running: Running) -> None:
    answer = await ask(rig, "Rig.Temperature")
    assert (answer["kind"], answer["value"], answer["status_name"]) == ("input", 20.0, "Good")
    assert [rule["name"] for rule in answer["read_by"]] == ["Alarms/Hot", "Control/OverTemp"]
    assert "read by trip Control/OverTemp: inactive" in "\n".join(lines(answer))


async def test_unknown_points_and_wrong_words_are_refused(rig: Rig, running: Running) -> None:
    with pytest.raises(LocalError, match=r"no such point: Rig.Vlave. Did you mean"):
        await ask(rig, "Rig.Vlave")
    with pytest.raises(LocalError, match="a tag is a text"):
        await ask(rig, "x" * 300)


async def test_what_is_remembered_is_bounded(rig: Rig, running: Running) -> None:
    explain = running.field._explain
    for number in range(RECEIPTS_MAX + 10):
        explain.hear(Event(number, 0, "receipt", {"tag": f"A.{number}", "step": "driven"}))
    assert len(explain._receipts) == RECEIPTS_MAX
    came = {"name": "Control/OverTemp", "kind": "trip", "active": True}
    for number in range(ACTIVATIONS_MAX):
        explain.hear(Event(number, 0, "trip", came))
    assert len(explain._fresh) <= 4
    explain.settle()
    assert len(explain._came) == 1


def plant_with_states() -> tuple[Plant, Explain]:
    """Control states and a grid function, without a device."""
    machine = {
        "Initial": "Off",
        "States": {"Off": {"Hold": {"O.p": 0}}, "Run": {"Set": {"O.p": 10}, "MinTime": 5}},
        "Transitions": [
            {"From": "Off", "To": "Run", "By": ["operator"], "When": "A.t < 100"},
            {"From": "Run", "To": "Off", "When": "A.t > 800"},
        ],
    }
    site = make_site(
        {"A.t": {}, "O.p": {"ReadWrite": "RW", "SafeValue": 0}},
        controls={"Control/E_Stop": {"When": "Gateway.E_Stop == 1", "Method": "Off"}},
        methods={"Off": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 0}}}]},
        machines={"Stack/Op": machine},
        functions={
            "Limit": {
                "Function": "Expression",
                "Output": "O.p",
                "Role": "Maximum",
                "Value": "A.t / 10",
                "When": "A.t < 500",
            }
        },
    )
    plant = Plant(site, EVALUATORS["native"])
    table = PointTable(site.points)
    table.rows = plant.rows
    commands = Commands(site.points, lambda body: None)
    return plant, Explain(plant.engine, table, commands, ManualClock())


def test_a_control_state_says_what_its_transitions_wait_for() -> None:
    plant, explain = plant_with_states()
    plant.set("A.t", 200.0)
    plant.scan()
    answer = explain.answer({"tag": "States.Stack_Op"})
    assert (answer["state"], answer["by"]) == ("Off", "the start")
    (way,) = answer["transitions"]
    assert (way["to"], way["by"], way["open"]) == ("Run", ["operator"], False)
    assert way["missing"][0].startswith("A.t < 100 is false: A.t is 200")
    assert answer["holds"] == [{"tag": "O.p", "value": 0.0, "states": [], "held": True}]
    plant.set("A.t", 50.0)
    plant.engine.request(0, 1, "operator")
    plant.scan()
    answer = explain.answer({"tag": "States.Stack_Op"})
    assert (answer["state"], answer["before"], answer["by"]) == ("Run", "Off", "A.t < 100")
    assert answer["transitions"][0]["missing"][-1] == "5 s of the least time in Run"
    text = "\n".join(lines(answer))
    assert "to Off (by itself) when A.t > 800" in text
    assert "proposes O.p = 10" in text


def test_a_function_says_what_it_does_and_why_not() -> None:
    plant, explain = plant_with_states()
    plant.set("A.t", 200.0)
    plant.scan()
    answer = explain.answer({"tag": "Functions.Limit"})
    assert (answer["kind"], answer["role"], answer["output"]) == ("function", "Maximum", "O.p")
    assert answer["active"] and answer["enabled"]
    assert answer["parts"][0]["shown"] == "20"
    plant.set("A.t", 600.0)
    plant.scan()
    answer = explain.answer({"tag": "Functions.Limit"})
    assert not answer["enabled"]
    assert "it is not enabled:" in "\n".join(lines(answer))


def test_an_output_without_a_gateway_running_its_scan_has_no_wish() -> None:
    plant, explain = plant_with_states()
    plant.set("A.t", 200.0)
    plant.scan()
    answer = explain.answer({"tag": "O.p"})
    held = [row for row in answer["ladder"] if row["rank"] == "interlock or state"]
    assert [(row["wants"], row["by"]) for row in held] == [(0.0, "Stack/Op: Off")]
    assert "O.p" in "\n".join(lines(answer))


def test_a_bypassed_cause_that_would_act_does_not_decide() -> None:
    site = make_site(
        {"A.t": {}, "O.p": {"ReadWrite": "RW", "SafeValue": 0, "Fallback": 7}},
        controls={
            "Control/E_Stop": {"When": "Gateway.E_Stop == 1", "Effects": {"O.p": 0}},
            "Control/Hot": {"When": "A.t > 900", "Effects": {"O.p": 0}, "BypassMax": 60},
        },
    )
    plant = Plant(site, EVALUATORS["native"])
    table = PointTable(site.points)
    table.rows = plant.rows
    explain = Explain(plant.engine, table, Commands(site.points, lambda body: None), ManualClock())
    plant.set("A.t", 20.0)
    plant.scan()
    plant.engine.bypass(plant.rule("Control/Hot"), 30 * S)
    plant.set("A.t", 950.0)
    plant.scan()
    answer = explain.answer({"tag": "O.p"})
    assert (decides(answer)["rank"], decides(answer)["wants"]) == ("fallback", 7.0)
    held = next(row for row in answer["ladder"] if row["by"] == "Control/Hot")
    assert held["note"] == "bypassed, and would act"


def test_a_long_line_is_wrapped_for_a_terminal_and_stays_in_its_column() -> None:
    rows = wrapped("      Alarms.Hot is true: " + "A.temperature is 900 " * 8, 80)
    assert len(rows) > 1
    assert all(len(row) <= 80 for row in rows)
    assert rows[0].startswith("      A") and rows[1].startswith("          A")
    assert wrapped("", 80) == [""]
