"""The virtual driver: which channels it takes, what memory shows, what check says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from config.findings import SiteError
from config.load import load_site
from drivers.contract import Surroundings, read_block
from drivers.registry import check_instruments
from drivers.virtual import PROTOCOL, check, plan
from gateway.core.clock import SystemClock
from gateway.field import prepare
from tests.drivers.instruments import instrument, json_examples

PAGE = Path(__file__).parents[2] / "docs" / "drivers" / "virtual.md"


def rules_of(channel: dict[str, Any]) -> list[tuple[str, str]]:
    """(rule, key) of the findings about one channel."""
    made = instrument({"X": channel}, Communication="Virtual")
    return [(f.rule, f.key.removeprefix("Channels.X.")) for f in check(made)]


@pytest.mark.parametrize(
    ("channel", "found"),
    [
        ({"Expression": "A.B + 1"}, []),
        ({"SafeValue": 42}, []),
        ({"ReadWrite": "RW"}, []),
        ({}, [("expression-missing", "Expression")]),
        ({"Expression": "1", "ReadWrite": "RW"}, [("expression-writable", "ReadWrite")]),
        ({"SafeValue": 1, "Scalar": 2}, [("virtual-key-unused", "Scalar")]),
        ({"ReadWrite": "RW", "Minimum": 0}, []),
        ({"Expression": "1", "Minimum": 0}, [("virtual-key-unused", "Minimum")]),
    ],
)
def test_findings(channel: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert rules_of(channel) == found


def test_what_has_an_error_is_not_planned() -> None:
    with pytest.raises(SiteError):
        plan(instrument({"X": {}}, Communication="Virtual"))


async def test_memory_outlives_the_connection_and_calculated_channels_are_not_asked() -> None:
    made = instrument(
        {"M": {"ReadWrite": "RW"}, "K": {"SafeValue": 42}, "C": {"Expression": "1"}},
        Communication="Virtual",
    )
    (block,) = plan(made)
    assert block.index.tolist() == [1, 2]
    around = Surroundings(SystemClock())
    driver = PROTOCOL.open(made, around)
    await driver.connect()
    first, second = await read_block(PROTOCOL, driver, block)
    assert math.isnan(first)
    assert second == 42
    await driver.write(made.points["M"], -7.5)
    await driver.close()
    again = PROTOCOL.open(made, around)
    assert (await read_block(PROTOCOL, again, block)).tolist() == [-7.5, 42]


def test_the_example_of_the_page_is_a_site_without_an_error(tmp_path: Path) -> None:
    (text,) = json_examples(PAGE)
    register = {"Type": "HRegister", "DataType": "float32", "Tags": ["LowSpeed"]}
    names = ("Voltage", "Current", "Temperature")
    stack = {
        "EquipmentTags": {
            "EquipmentName": "Stack",
            "Communication": "ModbusTcp",
            "Connection": {"IP": "127.0.0.1"},
        },
        "Channels": {name: register | {"IOPoint": 2 * at} for at, name in enumerate(names)},
    }
    files = {
        "Small-Config.json": {
            "SystemTags": {"SystemName": "Small", "Personality": "Personality.json"},
            "Equipment": {"Calc": {"Config": "Calc.json"}, "Stack": {"Config": "Stack.json"}},
            "DataSampling": {"Low": {"FilterKey": "LowSpeed", "Rate": 1}},
        },
        "Personality.json": {"Components": {}},
        "Calc.json": json.loads(text),
        "Stack.json": stack,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    site, findings = load_site(tmp_path)
    assert site is not None
    assert [f for f in findings + check_instruments(site) if f.severity == "error"] == []
    prepare(tmp_path)
