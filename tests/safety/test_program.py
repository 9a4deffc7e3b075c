"""The program that the compiler makes: its order, its arrays and what it tells people."""

from __future__ import annotations

import numpy as np
import pytest

from safety.compile import compile_site
from safety.layout import RANK_INTERLOCK, RANK_TRIP
from tests.safety.sites import Plant, errors, make_site
from tests.safety.test_compile import CHANNELS, HOT, METHODS, STOP, findings_of


def test_rules_are_ordered_e_stop_first_and_behind_what_they_use() -> None:
    alarms = {
        "Alarms/Late": {"When": "alarm(Base) and state(S) == 'x'"},
        "Alarms/Base": {"When": "Stack.T > 1"},
        "Alarms/E_STOP": {"When": "Gateway.E_Stop"},
    }
    states = {"S": {"State": "if(alarm(Base), 'x', 'y')"}}
    controls = {
        "Control/Z": {"When": "alarm(Late)", "Method": "Close"},
        "Control/A": {"When": "Stack.T > 1", "Method": "Close"},
        **STOP,
    }
    site = make_site(CHANNELS, alarms, states, controls, METHODS)
    program, found = compile_site(site)
    assert found == []
    assert program is not None
    assert [info.name for info in program.info] == [
        "Alarms/E_STOP", "Control/E_Stop", "Alarms/Base", "S", "Alarms/Late",
        "Control/Z", "Control/A",
    ]  # fmt: skip
    index = site.index
    assert program.info[5].inputs == (index["Stack.T"],)
    assert program.info[5].point == index["Controls.Z"]
    protected = {tag for tag, at in index.items() if program.protective[at]}
    assert protected == {"Stack.T", "Gateway.E_Stop"}


@pytest.mark.parametrize("stop", ["Gateway.E_Stop", "Gateway.E_Stop or Controls.Leak"])
def test_an_emergency_stop_goes_before_causes_that_are_evaluated_before_it(stop: str) -> None:
    alarms = {"A": {"When": "Controls.Leak"}}
    controls = {
        "Leak": {"When": "Stack.Run", "Effects": {"Gas.Valve": 1}},
        "Control/E_Stop": {"When": stop, "Effects": {"Gas.Valve": 0}},
    }
    plant = Plant(make_site(CHANNELS, alarms, controls=controls))
    plant.set("Stack.Run", 1)
    plant.set("Gateway.E_Stop", 1)
    plant.scan()
    assert plant.level("Leak") == "Trip"
    assert plant.demand("Gas.Valve") == (0.0, RANK_TRIP, "Control/E_Stop")


def test_the_program_tells_people_what_its_rules_are() -> None:
    alarms = {
        "Alarms/Hot": {
            "Rule": {"if": [{">=": [{"var": "T"}, 950]}, "HH", {">=": [{"var": "T"}, 900]}, "H"]},
            "Data": {"T": "$LiveData/Stack/T"}, "Priority": "urgent", "Latch": True,
        },
        "Alarms/Plain": {"When": "alarm(Hot)", "Level": "Warning"},
    }  # fmt: skip
    controls = {**STOP, "I": {"When": "Alarms.Hot", "Method": "Close", "Kind": "Interlock"}}
    program, found = compile_site(make_site(CHANNELS, alarms, {}, controls, METHODS))
    assert found == []
    assert program is not None
    stop, hot, plain, interlock = program.info
    assert hot.text == "if(Stack.T >= 950, 'HH', if(Stack.T >= 900, 'H', null))"
    assert (hot.levels, hot.priority, hot.latch, hot.kind) == (("HH", "H"), "urgent", True, "alarm")
    assert (plain.levels, plain.text) == (("Warning",), "alarm(Hot)")
    assert (stop.kind, stop.latch, stop.levels) == ("trip", True, ("Close",))
    assert (interlock.kind, interlock.latch) == ("interlock", False)
    assert program.effects["rank"].tolist() == [RANK_TRIP, RANK_INTERLOCK]
    assert program.strings[0] == ""


def test_outputs_with_a_safe_value_belong_to_the_program_even_if_no_rule_drives_them() -> None:
    site = make_site(CHANNELS, controls=STOP, methods=METHODS)
    program, _ = compile_site(site)
    assert program is not None
    wanted = [site.index[tag] for tag in ("Gas.Valve", "Gas.Flow", "Gas.Mode")]
    assert program.outputs.tolist() == wanted
    assert program.safe.tolist() == [0.0, 0.0, 0.0]


def test_every_array_is_contiguous_and_read_only() -> None:
    program, _ = compile_site(make_site(CHANNELS, HOT, controls=STOP, methods=METHODS))
    assert program is not None
    arrays = [value for value in vars(program).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 14
    for array in arrays:
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_inactive_rules_are_left_out_and_can_not_be_referred_to() -> None:
    alarms = {"Alarms/Hot": {"When": "Stack.Q > 1", "Active": False}}
    assert findings_of(alarms=alarms) == []
    controls = {"C": {"When": "alarm(Hot)", "Method": "Close"}}
    assert errors(findings_of(alarms=alarms, controls=controls)) == ["reference-undefined"]


def test_equal_numbers_of_different_sign_stay_apart() -> None:
    alarms = {"A": {"When": "1 / if(Stack.T > 0, 0.0, -0.0) > 0 or Stack.T * -0.0 > 1"}}
    program, _ = compile_site(make_site(CHANNELS, alarms))
    assert program is not None
    assert sorted(map(str, program.consts.tolist())) == ["-0.0", "0.0", "1.0"]


def test_a_rule_can_be_wide_and_deep_and_the_stack_holds() -> None:
    wide = ", ".join(f"Stack.T > {at}" for at in range(64))
    deep = "(" * 25 + "Stack.T" + " + 1)" * 25
    right = "1 + (" * 25 + "Stack.T" + ")" * 25
    alarms = {
        "Wide": {"When": f"vote(64, {wide})"},
        "Deep": {"When": f"{deep} > 30 and {right} > 30"},
    }
    plant = Plant(make_site(CHANNELS, alarms))
    assert plant.program.depth >= 64
    plant.set("Stack.T", 63)
    plant.scan()
    assert (plant.level("Wide"), plant.level("Deep")) == (None, "Alarm")
    plant.set("Stack.T", 64)
    plant.scan()
    assert plant.level("Wide") == "Alarm"
