"""``gatepost check`` on good, bad and impossible site folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.config.building import mini_files, write_site

LAB = Path("config/sites/soec-lab")
INL = Path("tests/cases/inl")

Gatepost = Callable[..., Any]


@pytest.fixture
def inl() -> Path:
    """The folder of the published configuration: where its *-Config.json is."""
    return next(INL.rglob("*-Config.json")).parent


def test_the_demonstration_site_has_no_finding(gatepost: Gatepost) -> None:
    done = gatepost("check", LAB)
    assert (done.status, done.out) == (0, "")
    assert "no findings" in done.err


def test_the_published_configuration_shows_its_real_defects(gatepost: Gatepost, inl: Path) -> None:
    done = gatepost("check", inl)
    assert done.status == 1
    lines = done.out.splitlines()
    for words in (
        ("ControlStates.json", "Hydrogen_Fire", "reference-undefined"),
        ("ControlStates.json", "Critical", "level-unreachable"),
        ("Opto.json", "Cell_Voltage, SOEC_Temp_Setpoint and Control_Valve", "address-shared"),
        ("ControlStates.json", '"OFF"', "value-not-settable"),
        ("Config.json", "System_Database.json", "file-missing"),
    ):
        assert any(all(word in line for word in words) for line in lines), words


def test_each_finding_is_one_line_with_file_key_rule_and_message(
    gatepost: Gatepost, inl: Path
) -> None:
    done = gatepost("check", inl)
    findings = json.loads(gatepost("check", inl, "--json").out)["findings"]
    assert len(done.out.splitlines()) == len(findings) > 5
    for line, finding in zip(done.out.splitlines(), findings, strict=True):
        assert line == (
            f"{finding['severity']}: {finding['file']}: {finding['key']}: "
            f"[{finding['rule']}] {finding['message']}"
        )
    errors = sum(finding["severity"] == "error" for finding in findings)
    assert f"{errors} errors, {len(findings) - errors} warnings" in done.err


def test_json_without_findings_is_an_empty_list(gatepost: Gatepost) -> None:
    done = gatepost("check", LAB, "--json")
    assert json.loads(done.out) == {"site": str(LAB), "findings": []}
    assert done.status == 0


def test_a_file_that_is_no_json_is_a_finding_and_no_traceback(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(LAB, site)
    (site / "PSU.json").write_text("{")
    done = gatepost("check", site)
    assert done.status == 1
    assert "PSU.json" in done.out


def test_an_empty_folder_is_a_finding(gatepost: Gatepost, tmp_path: Path) -> None:
    done = gatepost("check", tmp_path)
    assert done.status == 1
    assert "-Config.json" in done.out


def test_a_folder_that_is_not_there_is_said(gatepost: Gatepost, tmp_path: Path) -> None:
    done = gatepost("check", tmp_path / "none")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"gatepost: {tmp_path / 'none'}: no such site folder\n"


def test_keys_are_checked_whatever_keeps_the_site_from_loading(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    site = write_site(tmp_path, mini_files())
    (site / "link.json").write_text('{"Brokers": {}}', encoding="utf-8")
    (site / "keys.json").write_text('{"Keys": [{"Name": "a b"}], "Key": 1}', encoding="utf-8")
    findings = json.loads(gatepost("check", site, "--json").out)["findings"]
    assert {(f["file"], f["rule"], f["severity"]) for f in findings} == {
        ("link.json", "key-unknown", "error"),
        ("keys.json", "key-unknown", "warning"),
        ("keys.json", "key-missing", "warning"),
    }
