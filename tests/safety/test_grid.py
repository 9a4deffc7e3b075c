"""Grid functions: the standard's numbers, closed loops, bad inputs, mistakes in their keys."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from config import status
from config.functions import function_name
from safety import grid, layout
from safety.compile import compile_site
from safety.terms import show
from tests.safety.sites import EVALUATORS, MS, Plant, S, make_site

CASES = Path(__file__).parents[1] / "cases" / "grid"
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/site.json"))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def output(plant: Plant, tag: str, field: str = "auto") -> float:
    """What functions want of an output; NaN, inf, -inf or an offset of 0 is nothing."""
    at = plant.program.outputs.tolist().index(plant.site.index[tag])
    return float(plant.engine.outputs[field][at])


# ---------------------------------------------------------------- the standard's numbers


@pytest.mark.parametrize("evaluator", ["kernel", "reference"])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_numbers_of_a_case(name: str, evaluator: str) -> None:
    content = json.loads((CASES / name / "site.json").read_text())
    plant = Plant(
        make_site(content["Channels"], functions=content["Grid_Functions"]), EVALUATORS[evaluator]
    )
    outputs = {tag for tag, keys in content["Channels"].items() if "W" in keys.get("ReadWrite", "")}
    for number, row in enumerate(table(CASES / name / "points.csv"), 2):
        expected = {head: cell for head, cell in row.items() if head.split()[0] in outputs}
        for tag in outputs:
            plant.set(tag, 0.0)
        for tag in row.keys() - expected.keys():
            if row[tag] == "bad":
                plant.worsen(tag)
            else:
                plant.set(tag, float(row[tag]))
        plant.scan()
        for head, cell in expected.items():
            tag, _, field = head.partition(" ")
            shown = output(plant, tag, field or "auto")
            if cell == "-":
                assert not math.isfinite(shown), f"line {number}: {head}"
            else:
                assert shown == pytest.approx(float(cell), abs=1e-6), f"line {number}: {head}"


STEPS: dict[str, tuple[dict[str, Any], str, float, float]] = {
    "VoltVar": ({"Nominal": 200.0, "Rated": 10.0, "Voltage": "In.X"}, "auto", 200, 190),
    "WattVar": ({"Rated": 10.0, "Power": "In.X"}, "auto", 0, 8),
    "FixedPowerFactor": ({"PowerFactor": 0.9, "Power": "In.X"}, "auto", 0, 8),
    "VoltWatt": ({"Nominal": 200.0, "Rated": 10.0, "Voltage": "In.X"}, "high", 200, 216),
    "FrequencyDroop": ({"Rated": 10.0, "Frequency": "In.X"}, "high", 50, 50.5),
    "ExportLimit": ({"Exchange": "In.X", "Power": "In.P", "Limit": 5.0}, "high", 0, 10),
    "Balance": (
        {
            "Exchange": "In.X",
            "Power": "In.P",
            "StateOfCharge": "50",
            "DischargePower": 50.0,
            "ChargePower": 50.0,
        },
        "auto",
        0,
        10,
    ),
}


@pytest.mark.parametrize("row", table(CASES / "response.csv"), ids=lambda row: row["function"])
def test_a_step_is_followed_in_time(row: dict[str, str]) -> None:
    keys, field, before, behind = STEPS[row["function"]]
    keys = {"Function": row["function"], "Output": "Out.Y", **keys}
    if row["key"].startswith("Category"):
        keys["Category"] = row["key"][-1]
    elif row["key"]:
        keys[row["key"]] = float(row["seconds"])
    plant = Plant(
        make_site(
            {"In.X": {}, "In.P": {}, "Out.Y": {"ReadWrite": "RW"}},
            functions={"F": keys},
        ),
        EVALUATORS["reference"],
    )
    plant.set("In.P", 0.0)
    plant.set("In.X", before)
    plant.scan(100 * MS)
    start = output(plant, "Out.Y", field)
    plant.set("In.X", behind)
    shown = start
    for _ in range(round(float(row["after_s"]) * 10)):
        plant.scan(100 * MS)
        shown = output(plant, "Out.Y", field)
    for _ in range(50):
        plant.scan(60 * S)
    end = output(plant, "Out.Y", field)
    assert end != start
    assert (shown - start) / (end - start) == pytest.approx(float(row["of_the_way"]), abs=0.01)


def test_the_reference_of_volt_var_follows_the_mean_voltage() -> None:
    plant = Plant(
        make_site(
            {"Meter.V": {}, "PV.Q": {"ReadWrite": "RW"}},
            functions={
                "Q": {
                    "Function": "VoltVar",
                    "Output": "PV.Q",
                    "Voltage": "Meter.V",
                    "Nominal": 200.0,
                    "Rated": 10.0,
                    "AdjustTime": 300.0,
                    "ResponseTime": 0.0,
                }
            },
        ),
        EVALUATORS["reference"],
    )
    plant.set("Meter.V", 200.0)
    plant.scan()
    plant.set("Meter.V", 208.0)  # 1.04: at once 14.67 % absorbed, then the mean comes after it
    plant.scan()
    assert output(plant, "PV.Q") == pytest.approx(-1.4667, abs=0.01)
    for _ in range(3000):
        plant.scan(S)
    assert output(plant, "PV.Q") == 0.0
    plant.set("Meter.V", 240.0)  # 1.2: the reference stops at 1.05, so 0.15 above it are left
    for _ in range(3000):
        plant.scan(S)
    assert output(plant, "PV.Q") == pytest.approx(-4.4)


# ---------------------------------------------------------------- bad inputs


EVERY: dict[str, dict[str, Any]] = {
    "Expression": {"Role": "Setpoint", "Value": "In.X * 2"},
    "RampLimit": {"Power": "In.X", "Up": 1.0},
    "ImportLimit": {"Exchange": "In.X", "Power": "In.P", "Limit": 5.0},
    "PeakShaving": {
        "Exchange": "In.X",
        "Power": "In.P",
        "StateOfCharge": "50",
        "DischargePower": 50.0,
        "ChargePower": 50.0,
        "Limit": 10.0,
        "ChargeBelow": 5.0,
    },
    "FrequencyContainment": {
        "Frequency": "In.X",
        "Reserve": 10.0,
        "StateOfCharge": "50",
        "DischargePower": 50.0,
        "ChargePower": 50.0,
    },
    **{name: keys for name, (keys, _, _, _) in STEPS.items()},
}


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0])
def test_no_input_makes_a_number_that_is_none(name: str, value: float) -> None:
    functions = {"F": {"Function": name, "Output": "Out.Y", **EVERY[name]}}
    site = make_site({"In.X": {}, "In.P": {}, "Out.Y": {"ReadWrite": "RW"}}, functions=functions)
    plants = [Plant(site, EVALUATORS[evaluator]) for evaluator in ("kernel", "reference")]
    shown = []
    for plant in plants:
        plant.set("In.P", 1.0)
        for one in (50.0, value, value, 50.0):
            plant.set("In.X", one)
            plant.scan()
            shown.append(plant.engine.outputs[0])
            assert not math.isinf(output(plant, "Out.Y"))
            assert not math.isnan(output(plant, "Out.Y", "offset"))
            assert not math.isnan(output(plant, "Out.Y", "high"))
            assert not math.isnan(output(plant, "Out.Y", "low"))
    assert [str(row) for row in shown[:4]] == [str(row) for row in shown[4:]]


def test_every_function_is_tried_above() -> None:
    from config.model import ControlStatesFile

    schema = ControlStatesFile.model_json_schema()["$defs"]
    named = {
        name
        for name, model in schema.items()
        if "Function" in model.get("properties", {}) and "Output" in model["properties"]
    }
    assert named == EVERY.keys()


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_text_of_a_function_reads_back_as_itself(name: str) -> None:
    from safety import infix

    site = make_site({}, functions={"F": {"Function": name, "Output": "Out.Y", **EVERY[name]}})
    function = site.personality.functions["F"]
    term = grid.term(function)
    assert show(infix.parse(show(term))) == show(term)
    assert function_name(function) == name


def test_a_guard_keeps_a_function_out() -> None:
    plant = Plant(
        make_site(
            {
                "In.X": {},
                "In.Islanded": {"Type": "Digital", "DataType": "bool"},
                "Out.Y": {"ReadWrite": "RW"},
            },
            functions={
                "F": {
                    "Role": "Setpoint",
                    "Value": "In.X",
                    "Output": "Out.Y",
                    "When": "not In.Islanded",
                }
            },
        ),
        EVALUATORS["reference"],
    )
    plant.set("In.X", 3.0)
    plant.set("In.Islanded", 0.0)
    plant.scan()
    assert output(plant, "Out.Y") == 3.0
    plant.set("In.Islanded", 1.0)
    plant.scan()
    assert math.isnan(output(plant, "Out.Y"))
    plant.worsen("In.Islanded", status.BAD_NO_COMMUNICATION)
    plant.scan()
    assert math.isnan(output(plant, "Out.Y"))
    assert layout.ROLE_NAMES[plant.program.rules["role"][plant.rule("F")]] == "Setpoint"


# ---------------------------------------------------------------- mistakes

BATTERY = {"StateOfCharge": "In.X", "DischargePower": 5.0, "ChargePower": 5.0}
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({**EVERY["VoltVar"], "Function": "VoltVar", "Voltage": "In.X +"}, "Voltage", "rule-syntax"),
    (
        {**EVERY["VoltVar"], "Function": "VoltVar", "Curve": [[0.9, 1.0], [0.9, 0.0]]},
        "Curve[1]",
        "curve-order",
    ),
    (
        {**EVERY["VoltVar"], "Function": "VoltVar", "Voltage": "In.Nothing"},
        "Voltage",
        "reference-undefined",
    ),
    (
        {**EVERY["PeakShaving"], "Function": "PeakShaving", "ChargeBelow": 11.0},
        "ChargeBelow",
        "value-out-of-range",
    ),
    (
        {**EVERY["Balance"], "Function": "Balance", "StateOfChargeMin": 89.0},
        "StateOfChargeMax",
        "value-out-of-range",
    ),
    (
        {**EVERY["FrequencyContainment"], "Function": "FrequencyContainment", "Deadband": 0.2},
        "Deadband",
        "value-out-of-range",
    ),
    (
        {**EVERY["ImportLimit"], "Function": "ImportLimit", "Margin": 6.0},
        "Margin",
        "value-out-of-range",
    ),
    (
        {
            **EVERY["FrequencyDroop"],
            "Function": "FrequencyDroop",
            "Response": "offset",
            "Power": "In.P",
        },
        "Power",
        "key-unused",
    ),
    (
        {**EVERY["ImportLimit"], "Function": "ImportLimit", "TimeConstant": 1.0},
        "TimeConstant",
        "function-too-fast",
    ),
    ({**EVERY["VoltVar"], "Function": "VoltVar"}, "BadValue", "function-no-fallback"),
    (
        {**EVERY["ImportLimit"], "Function": "ImportLimit", "Exchange": "In.W", "Power": "In.W"},
        "Exchange",
        "unit-mismatch",
    ),
    ({**EVERY["WattVar"], "Function": "WattVar", "Power": "In.W"}, "Power", "unit-mismatch"),
    (
        {**EVERY["VoltVar"], "Function": "VoltVar", "Curve": [[0.9, 1.0], [1.1, -1.0]],
         "Reference": 1.02},
        "Reference",
        "key-unused",
    ),
    (
        {**EVERY["FixedPowerFactor"], "Function": "FixedPowerFactor", "Power": "In.W"},
        "Power",
        "unit-mismatch",
    ),
    (
        {**EVERY["FrequencyDroop"], "Function": "FrequencyDroop", "Frequency": "In.mHz"},
        "Frequency",
        "unit-mismatch",
    ),
    ({**EVERY["Balance"], "Function": "Balance", "StateOfCharge": "In.SoC"}, "StateOfCharge",
     "unit-mismatch"),
    ({**EVERY["Balance"], "Function": "Balance", "StateOfCharge": "0.5 [1]"}, "StateOfCharge",
     "unit-mismatch"),
    ({**EVERY["VoltVar"], "Function": "VoltVar", "Voltage": "In.W"}, "Voltage", "unit-mismatch"),
    ({**EVERY["VoltWatt"], "Function": "VoltWatt", "Voltage": "In.mHz"}, "Voltage",
     "unit-mismatch"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "tag", "fits"),
    [
        ("Exchange", "In.V", False),
        ("Power", "In.V", False),
        ("Exchange", "In.kW", True),
        ("Exchange", "In.A", True),
        ("Exchange", "In.Share", True),
        ("Exchange", "In.X", True),
    ],
)
def test_inputs_are_powers_where_the_output_has_no_unit(key: str, tag: str, fits: bool) -> None:
    inputs = {f"In.{unit}": {"Units": unit} for unit in ("V", "kW", "A")}
    limit = {"Function": "ExportLimit", "Output": "Out.Y", "Limit": 5, "Exchange": "In.X"}
    _, found = compile_site(
        make_site(
            {**inputs, "In.X": {}, "In.Share": {"Units": "%"}, "Out.Y": {"ReadWrite": "RW"}},
            functions={"F": {**limit, "Power": "In.X", key: tag}},
        )
    )
    told = [one.message for one in found if one.rule == "unit-mismatch"]
    wanted = f"{tag} is in V, and {key} takes a power in the unit of the output."
    assert told == ([] if fits else [wanted])


@pytest.mark.parametrize(
    ("exchange", "remedy"),
    [
        ("In.kW * 1000 [W/kW]", "is in W, and its result belongs in kW; leave out * 1000 [W/kW]."),
        ("In.kW / 0.001 [kW/W]", "its result belongs in kW; leave out / 0.001 [kW/W]."),
        ("In.W", "; write In.W * 0.001 [kW/W], or bring both channels to one unit."),
        ("In.W * 2 [kW/kW]", "; write In.W * 2 [kW/kW] * 0.001 [kW/W], or bring"),
    ],
)
def test_the_advice_for_an_input_on_another_scale_can_be_followed(
    exchange: str, remedy: str
) -> None:
    limit = {"Function": "ExportLimit", "Output": "Out.Y", "Limit": 5, "Power": "In.kW"}
    channels = {
        "In.kW": {"Units": "kW"},
        "In.W": {"Units": "W"},
        "Out.Y": {"ReadWrite": "RW", "Units": "kW"},
    }
    functions = {"F": {**limit, "Exchange": exchange}}
    _, found = compile_site(make_site(channels, functions=functions))
    told = [one.message for one in found if one.rule == "unit-mismatch"]
    assert len(told) == 1
    assert remedy in told[0]


@pytest.mark.parametrize(("keys", "key", "rule"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_in_a_key_is_found(keys: dict[str, Any], key: str, rule: str) -> None:
    site = make_site(
        {
            "In.X": {},
            "In.P": {},
            "In.W": {"Units": "W"},
            "In.mHz": {"Units": "mHz"},
            "In.SoC": {"Units": "1"},
            "Out.Y": {"ReadWrite": "RW", "Units": "kW"},
        },
        functions={"F": {"Output": "Out.Y", **keys}},
    )
    _, findings = compile_site(site)
    found = [(finding.key, finding.rule) for finding in findings]
    assert (f"Grid_Functions.F.{key}", rule) in found, found


def test_shares_of_one_connection_point_are_at_most_one_together() -> None:
    limit = {**EVERY["ExportLimit"], "Function": "ExportLimit"}
    channels = {name: {"ReadWrite": "RW"} for name in ("Out.A", "Out.B", "Out.C")}

    def warned(**shares: dict[str, Any]) -> list[str]:
        functions = {name: {**limit, "Output": f"Out.{name}", **k} for name, k in shares.items()}
        site = make_site({"In.X": {}, "In.P": {}, "In.On": {}, **channels}, functions=functions)
        return [f.key for f in compile_site(site)[1] if f.rule == "function-shares"]

    assert warned(A={}, B={}) == ["Grid_Functions.B.Share"]
    assert warned(A={"Share": 0.6}, B={"Share": 0.6}) == ["Grid_Functions.B.Share"]
    assert warned(A={"Share": 0.5}, B={"Share": 0.5}) == []
    assert warned(A={}, B={"Function": "ImportLimit"}) == []
    assert warned(A={"When": "In.On == 1"}, B={"When": "In.On == 2"}) == []
    assert warned(A={}, B={"Output": "Out.A"}) == []
