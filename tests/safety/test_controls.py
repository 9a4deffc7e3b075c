"""Keys of controls: effects, permits and bypasses on their way into the program."""

from __future__ import annotations

from typing import Any

import pytest

from safety.compile import compile_site
from tests.safety.sites import errors, make_site
from tests.safety.test_checks import CHANNELS, CLOSE, only, site_of

CONTROL_KEYS = [
    ({"Effects": CLOSE, "Method": "M"}, "rule-both-forms", "Effects"),
    ({"Effects": {}}, "effects-empty", "Effects"),
    ({"Effects": {"Gas.Valv": 0}}, "reference-undefined", "Effects.Gas.Valv"),
    ({"Effects": {"Stack.Door": 0}}, "not-an-output", "Effects.Stack.Door"),
    ({"Effects": {"Gateway.Reset": 1}}, "reference-undefined", "Effects.Gateway.Reset"),
    ({"Effects": {"Gas.Valve": 0.5}}, "value-not-settable", "Effects.Gas.Valve"),
    ({"Effects": {"Bat.Power": 51}}, "value-out-of-range", "Effects.Bat.Power"),
    ({"Effects": {"Bat.Power": "off"}}, "value-not-settable", "Effects.Bat.Power"),
    ({"Kind": "Permissive"}, "permissive-permits-nothing", "Permits"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve", "Gas.Valvo"]}, "reference-undefined",
     "Permits[1]"),
    ({"Kind": "Permissive", "Permits": ["Stack.T"]}, "not-an-output", "Permits[0]"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve"], "Effects": CLOSE}, "control-key-misplaced",
     "Effects"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve"], "Method": "M"}, "control-key-misplaced",
     "Method"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve"], "Latch": True}, "control-key-misplaced",
     "Latch"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve"], "OnBad": "trip"}, "control-key-misplaced",
     "OnBad"),
    ({"Kind": "Permissive", "Permits": ["Gas.Valve"], "BypassMax": 5.0}, "control-key-misplaced",
     "BypassMax"),
    ({"Effects": CLOSE, "Permits": ["Gas.Valve"]}, "control-key-misplaced", "Permits"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "rule", "key"), CONTROL_KEYS)
def test_a_control_with_wrong_keys_is_found(keys: dict[str, Any], rule: str, key: str) -> None:
    methods = {"M": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Valve": 0}}}]}
    site = site_of(
        controls={"C": {"When": "Stack.T > 1", **keys}}, methods=methods if "Method" in keys else {}
    )
    program, found = compile_site(site)
    assert program is None
    told = only([finding for finding in found if finding.severity == "error"])
    assert (told.rule, told.key) == (rule, f"Automatic_Controls.C.{key}")


def test_a_control_with_effects_gives_no_names() -> None:
    control = {"When": "if(Stack.T > 1, 'High', null)", "Effects": CLOSE}
    program, found = compile_site(site_of(controls={"C": control}))
    assert program is None
    assert errors(found) == ["rule-type"]


def test_an_emergency_stop_can_not_be_bypassed() -> None:
    stop = {"When": "Gateway.E_Stop", "Effects": CLOSE, "BypassMax": 5.0}
    _, found = compile_site(make_site(CHANNELS, controls={"Control/E_Stop": stop}))
    assert errors(found) == ["bypass-e-stop"]


def test_effects_permits_and_bypass_reach_the_program() -> None:
    controls = {
        "I": {"When": "Stack.T > 1", "Kind": "Interlock", "BypassMax": 60.0,
              "Effects": {"Bat.Power": 5, "Gas.Valve": "on"}},
        "P": {"When": "Stack.T < 9", "Kind": "Permissive", "Permits": ["Gas.Valve", "Gas.Valve"]},
    }  # fmt: skip
    site = site_of(controls=controls)
    program, found = compile_site(site)
    assert found == []
    assert program is not None
    stop, interlock, permissive = program.info
    assert (stop.levels, interlock.levels, permissive.levels) == (
        ("Trip",), ("Interlock",), ("Permitted",)
    )  # fmt: skip
    assert (stop.bypass_ns_max, interlock.bypass_ns_max) == (0, 60 * 10**9)
    assert permissive.kind == "permissive"
    assert permissive.permits == (site.index["Gas.Valve"],)
    outputs = program.outputs.tolist()
    driven = [(outputs[effect["output"]], effect["value"]) for effect in program.effects]
    valve, power = site.index["Gas.Valve"], site.index["Bat.Power"]
    assert driven == [(valve, 0.0), (power, 5.0), (valve, 1.0)]
    assert program.rules["on_bad"].tolist() == [0, 0, 2]
    # A permissive holds no start-up: its inputs may be bad for years.
    assert {rule for rule, _ in program.watch.tolist()} == {0, 1}
