"""``gatepost templates``: the list, one template, and a site's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.template import shipped_names
from gateway.cli.output import CommandFailed
from gateway.cli.templates import templates


def test_the_list_names_every_template(capsys: pytest.CaptureFixture[str]) -> None:
    templates()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    templates(json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in shown] == shipped_names()
    assert all(row["Source"] and row["Manual"] for row in shown)


def test_one_template_shows_its_manual_and_channels(capsys: pytest.CaptureFixture[str]) -> None:
    templates("sungrow-sh")
    shown = capsys.readouterr().out
    assert "Communication Protocol of Residential Hybrid Inverter" in shown
    assert "Battery_SoC: IRegister 13022, uint16, R, %" in shown
    assert "off until the site switches it on" in shown


def test_one_template_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    templates("abb-b23", json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "abb-b23"
    assert shown["Channels"]["Power"]["IOPoint"] == 0x5B14


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(CommandFailed, match="abb-b24"):
        templates("abb-b24")


def test_a_sites_own_template_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "templates" / "acme-p1.json"
    own.parent.mkdir()
    tags = {"Manufacturer": "ACME", "Model": "P1", "Kind": "meter", "Manual": "P1", "Source": ["p"]}
    content = {"TemplateTags": tags, "EquipmentTags": {"Communication": "SCPI"}, "Channels": {}}
    own.write_text(json.dumps(content), encoding="utf-8")
    templates(site=tmp_path)
    assert "acme-p1" in capsys.readouterr().out
    own.write_text(json.dumps(content | {"Channels": 5}), encoding="utf-8")
    with pytest.raises(CommandFailed, match=r"acme-p1\.json: Channels"):
        templates("acme-p1", site=tmp_path)
    with pytest.raises(CommandFailed, match="no such site folder"):
        templates(site=tmp_path / "none")
