"""``gatepost plan``: what a site costs, and where that is too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LAB = Path("config/sites/soec-lab")

Gatepost = Callable[..., Any]


def channels(count: int, tag: str) -> dict[str, Any]:
    return {
        f"C{at}": {"Type": "HRegister", "DataType": "uint16", "IOPoint": 100 * at, "Tags": [tag]}
        for at in range(count)
    }


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two meters on a line, a device that sends by itself, one that tells no cost."""
    line = {"Port": "/dev/ttyUSB0", "Parity": "N"}
    files = {
        "Plant-Config.json": {
            "SystemTags": {"SystemName": "Plant"},
            "Equipment": {name: {"Config": f"{name}.json"} for name in ("M1", "M2", "Hub")},
            "DataSampling": {
                "Fast": {"FilterKey": "Fast", "Rate": 200, "Unit": "ms"},
                "Slow": {"FilterKey": "Slow", "Rate": 1},
            },
        },
        "M1.json": {
            "EquipmentTags": {
                "EquipmentName": "M1", "Communication": "ModbusRTU", "Connection": line,
            },
            "Channels": channels(2, "Fast"),
        },
        "M2.json": {
            "EquipmentTags": {
                "EquipmentName": "M2", "Communication": "ModbusRTU",
                "Connection": line | {"Unit": 2},
            },
            "Channels": channels(3, "Slow"),
        },
        "Hub.json": {
            "EquipmentTags": {
                "EquipmentName": "Hub", "Communication": "MQTT", "DataReadTopic": "hub",
            },
            "Channels": {"Level": {"Tags": ["Slow"]}},
        },
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def change(file: Path, **tags: Any) -> None:
    content = json.loads(file.read_text())
    content["EquipmentTags"] |= tags
    file.write_text(json.dumps(content))


def test_the_demonstration_site_can_be_kept(gatepost: Gatepost) -> None:
    done = gatepost("plan", LAB)
    assert done.status == 0
    assert "WORST AGE" in done.out


def test_a_line_is_told_with_its_devices(gatepost: Gatepost, site: Path) -> None:
    done = gatepost("plan", site)
    assert done.status == 0, done.err
    # 5 requests each 200 ms, 3 a second; 8 and 7 bytes, 10 bits each, two silences of 3.5 bytes
    load = (2 * 5 + 3) * (8 + 7 + 7) * 10 / 19_200
    (line,) = [row for row in done.out.splitlines() if row.startswith("/dev/ttyUSB0")]
    assert line.split() == ["/dev/ttyUSB0", "M1,", "M2", "13", f"{load:.1%}"]
    assert "Hub: the device sends 1 point by itself" in done.out


def test_every_point_has_its_age(gatepost: Gatepost, site: Path) -> None:
    done = gatepost("plan", site, "--points")
    rows = [row for row in done.out.splitlines() if row.startswith(("M1.C", "M2.C"))]
    assert len(rows) == 5
    assert all(row.endswith(" ms") for row in rows)


def test_the_document_has_devices_lines_points_findings(gatepost: Gatepost, site: Path) -> None:
    found = json.loads(gatepost("plan", site, "--json").out)
    assert set(found) == {"devices", "lines", "points", "findings"}
    assert [d["name"] for d in found["devices"]] == ["M1", "M2", "Hub"]
    assert found["lines"][0]["devices"] == ["M1", "M2"]
    assert found["lines"][0]["load"] == pytest.approx(sum(d["load"] for d in found["devices"]))
    assert {p["tag"] for p in found["points"]} == {f"M1.C{at}" for at in range(2)} | {
        f"M2.C{at}" for at in range(3)
    }
    assert all(0.2 < p["worst_age_s"] < 1.1 for p in found["points"])
    assert found["devices"][2]["sent"] == ["Hub.Level"]


def test_what_can_not_be_kept_is_refused_by_plan_check_and_run(
    gatepost: Gatepost, site: Path
) -> None:
    change(site / "M1.json", ReplyDelay=0.1)
    done = gatepost("plan", site)
    assert done.status == 1
    assert "plan-overload" in done.err
    assert "grows" in done.out
    assert json.loads(gatepost("plan", site, "--json").out)["points"][0]["worst_age_s"] is None
    done = gatepost("check", site)
    assert done.status == 1
    (line,) = [row for row in done.out.splitlines() if "plan-overload" in row]
    assert line.startswith("error: M1.json: EquipmentTags.Connection.Port")
    assert gatepost("run", site, "--state", site / "state").status == 2


def test_a_line_that_two_files_drive_differently_is_refused(gatepost: Gatepost, site: Path) -> None:
    change(site / "M2.json", Connection={"Port": "/dev/ttyUSB0", "Unit": 2, "Baudrate": 9600})
    done = gatepost("check", site)
    assert "M2.json: EquipmentTags.Connection.Port: [serial-line-settings]" in done.out


def test_an_instrument_with_an_error_is_no_plan(gatepost: Gatepost, site: Path) -> None:
    change(site / "M2.json", Connection={"Unit": 2})
    done = gatepost("plan", site)
    assert done.status == 2
    assert "connection-missing" in done.err
