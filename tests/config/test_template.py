"""Templates: what an instrument file gets from one, what it changes, and every mistake."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import template
from config.findings import Finding
from config.load import load_site, require_site
from tests.config.building import CONFIG, METER, change, mini_files, write_site

OWN = "templates/acme-p1.json"


def own_template() -> dict[str, Any]:
    return {
        "TemplateTags": {
            "Manufacturer": "ACME",
            "Model": "P1",
            "Kind": "power meter",
            "Manual": "P1",
            "Source": ["acme.example/p1.pdf"],
        },
        "EquipmentTags": {
            "Communication": "ModbusTcp",
            "WordOrder": "Little",
            "Timeout": 2.5,
            "Connection": {"Unit": 7},
        },
        "Channels": {
            "Power": {"Type": "IRegister", "IOPoint": 0, "Units": "W", "Tags": ["Slow"]},
            "Limit": {
                "Active": False,
                "Type": "HRegister",
                "IOPoint": 9,
                "DataType": "uint16",
                "ReadWrite": "RW",
                "Minimum": 0,
                "Maximum": 100,
                "Tags": ["Slow"],
            },
        },
    }


def files(*changes: tuple[str, str, Any]) -> dict[str, Any]:
    """The small site with a meter of a template, and things changed."""
    made = mini_files()
    made[OWN] = own_template()
    made[METER] = {
        "EquipmentTags": {
            "EquipmentName": "Meter",
            "Template": "acme-p1",
            "Connection": {"IP": "192.0.2.1"},
        },
        "Channels": {},
    }
    for file, key, value in changes:
        change(made, file, key, value)
    return made


def write(folder: Path, made: dict[str, Any]) -> Path:
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    return write_site(folder, made)


def findings_of(folder: Path, *changes: tuple[str, str, Any]) -> list[Finding]:
    return load_site(write(folder, files(*changes)))[1]


def test_the_instrument_gets_what_it_leaves_out(tmp_path: Path) -> None:
    meter = require_site(write(tmp_path, files())).instruments["Meter"]
    assert meter.tags.Communication == "ModbusTcp"
    assert meter.tags.Timeout == 2.5
    assert meter.tags.Connection is not None
    assert (meter.tags.Connection.IP, meter.tags.Connection.Unit) == ("192.0.2.1", 7)
    assert list(meter.channels) == ["Power"]
    assert meter.file == METER


def test_the_instruments_own_keys_count(tmp_path: Path) -> None:
    made = files(
        (METER, "EquipmentTags.Timeout", 1.5),
        (METER, "EquipmentTags.Connection.Unit", 3),
        (METER, "Channels.Power", {"Deadband": 2.0, "Tags": ["Fast"]}),
        (METER, "Channels.Limit", {"Active": True, "SafeValue": 50, "Maximum": 60}),
        (METER, "Channels.Spare", {"Type": "Coil", "IOPoint": 3, "Tags": ["Slow"]}),
    )
    meter = require_site(write(tmp_path, made)).instruments["Meter"]
    assert meter.tags.Timeout == 1.5
    assert meter.tags.Connection is not None
    assert (meter.tags.Connection.IP, meter.tags.Connection.Unit) == ("192.0.2.1", 3)
    assert list(meter.channels) == ["Power", "Limit", "Spare"]
    assert meter.channels["Power"].Deadband == 2.0
    assert meter.channels["Power"].Units == "W"
    assert meter.points["Power"].scan_class == "Fast"
    assert (meter.points["Limit"].value_max, meter.points["Limit"].safe_value) == (60, 50)


def test_a_channel_can_be_switched_off(tmp_path: Path) -> None:
    made = files((METER, "Channels.Power", {"Active": False}))
    assert not require_site(write(tmp_path, made)).instruments["Meter"].channels


def test_channels_may_be_left_out(tmp_path: Path) -> None:
    assert require_site(write(tmp_path, files((METER, "Channels", None)))).points


def test_the_hash_changes_with_the_template(tmp_path: Path) -> None:
    before = require_site(write(tmp_path, files())).hash
    assert require_site(write(tmp_path, files())).hash == before
    changed = files((OWN, "TemplateTags.Revision", "2"))
    assert require_site(write(tmp_path, changed)).hash != before


def test_the_hash_changes_with_a_shipped_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(template, "SHIPPED", shipped)
    made = files()
    del made[OWN]
    hashes = set()
    for revision in ("1", "2"):
        content = own_template()
        content["TemplateTags"]["Revision"] = revision
        (shipped / "acme-p1.json").write_text(json.dumps(content), encoding="utf-8")
        hashes.add(require_site(write_site(tmp_path / "site", made)).hash)
    assert len(hashes) == 2


def test_a_sites_own_template_comes_first(tmp_path: Path) -> None:
    made = files((METER, "EquipmentTags.Template", "abb-b23"))
    shipped = require_site(write(tmp_path, made)).instruments["Meter"]
    assert "Voltage_L1" in shipped.channels
    made["templates/abb-b23.json"] = own_template()
    own = require_site(write(tmp_path, made)).instruments["Meter"]
    assert list(own.channels) == ["Power"]


BAD: list[tuple[str, list[tuple[str, str, Any]], str, str, str, str]] = [
    (
        "near",
        [(METER, "EquipmentTags.Template", "abb-b32")],
        METER,
        "EquipmentTags.Template",
        "template-unknown",
        "abb-b23",
    ),
    (
        "none",
        [(METER, "EquipmentTags.Template", "zzzzzzzz")],
        METER,
        "EquipmentTags.Template",
        "template-unknown",
        "gatepost templates",
    ),
    (
        "path",
        [(METER, "EquipmentTags.Template", "../templates/acme-p1")],
        METER,
        "EquipmentTags.Template",
        "template-unknown",
        "",
    ),
    (
        "no text",
        [(METER, "EquipmentTags.Template", 5)],
        METER,
        "EquipmentTags.Template",
        "template-unknown",
        "int",
    ),
    (
        "typing mistake",
        [(METER, "Channels.Powr", {"Deadband": 1})],
        METER,
        "Channels.Powr",
        "template-channel-unknown",
        '"Power"',
    ),
    (
        "off",
        [(METER, "Channels.Limit", {"SafeValue": 1})],
        METER,
        "Channels.Limit",
        "template-channel-off",
        "Active",
    ),
    (
        "site key",
        [(OWN, "EquipmentTags.Connection.IP", "192.0.2.9")],
        OWN,
        "EquipmentTags.Connection.IP",
        "template-site-key",
        "",
    ),
    (
        "template in a template",
        [(OWN, "EquipmentTags.Template", "abb-b23")],
        OWN,
        "EquipmentTags.Template",
        "template-site-key",
        "",
    ),
    (
        "wrong key",
        [(OWN, "Channels.Power.IOPint", 4)],
        OWN,
        "Channels.Power.IOPint",
        "key-unknown",
        "IOPoint",
    ),
    (
        "no maker",
        [(OWN, "TemplateTags.Manufacturer", None)],
        OWN,
        "TemplateTags.Manufacturer",
        "key-missing",
        "",
    ),
    (
        "wrong type in the instrument",
        [(METER, "Channels.Power", {"Deadband": "much"})],
        METER,
        "Channels.Power.Deadband",
        "value-type",
        "much",
    ),
    (
        "channels are a list",
        [(METER, "Channels", [])],
        METER,
        "Channels",
        "value-type",
        "",
    ),
    (
        "a channel is text",
        [(METER, "Channels.Power", "off")],
        METER,
        "Channels.Power",
        "value-type",
        "off",
    ),
]


@pytest.mark.parametrize(
    ("changes", "file", "key", "rule", "text"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_a_mistake_is_one_finding_that_says_where(
    changes: list[tuple[str, str, Any]],
    file: str,
    key: str,
    rule: str,
    text: str,
    tmp_path: Path,
) -> None:
    found = findings_of(tmp_path, *changes)
    assert [(f.file, f.key, f.rule) for f in found] == [(file, key, rule)]
    assert text in found[0].message


def test_a_template_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, files())
    (folder / OWN).write_text("{", encoding="utf-8")
    found = load_site(folder)[1]
    assert [(f.file, f.rule) for f in found] == [(OWN, "json-syntax")]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("link to outside", "path-escape"),
        ("link to itself", "path-escape|file-unreadable"),
        ("link to nowhere", "file-unreadable"),
        ("folder", "file-unreadable"),
        ("pipe", "file-unreadable"),
        ("other encoding", "file-encoding"),
        ("huge", "file-too-large"),
    ],
)
def test_a_template_that_can_t_be_read_is_named_for_that(
    kind: str, rule: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, files())
    place = folder / OWN
    place.unlink()
    if kind.startswith("link"):
        targets = {"outside": Path("/etc/passwd"), "itself": place, "nowhere": folder / "none"}
        place.symlink_to(targets[kind.rsplit(maxsplit=1)[-1]])
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_bytes(b"\xff{}" if kind == "other encoding" else bytes(10_000_001))
    (found,) = load_site(folder)[1]
    assert found.file == OWN
    assert found.rule in rule.split("|")


@pytest.mark.parametrize("name", ["..", "../../etc/passwd", "/etc/passwd", "a\\b", "", "a" * 999])
def test_no_name_leads_out_of_the_folders(name: str, tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, (METER, "EquipmentTags.Template", name))
    assert (found.file, found.rule) == (METER, "template-unknown")


def test_files_that_can_t_be_named_are_not_listed(tmp_path: Path) -> None:
    folder = write(tmp_path, files())
    (folder / "templates" / "bad name.json").write_text("{}", encoding="utf-8")
    assert template.site_names(folder) == ["acme-p1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "abb-b23", "R", "Power"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "EquipmentTags",
                    "Channels",
                    "Connection",
                    "Template",
                    "TemplateTags",
                    "Power",
                    "IP",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(instrument=JSON, shape=JSON)
def test_no_shape_of_the_files_ends_in_a_traceback(
    instrument: Any, shape: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shape")
    made = files()
    made[METER] = instrument
    made[OWN] = shape
    if isinstance(instrument, dict) and isinstance(instrument.get("EquipmentTags"), dict):
        instrument["EquipmentTags"]["Template"] = "acme-p1"
    site, found = load_site(write(folder, made))
    assert site is not None or found
    assert made[CONFIG]
