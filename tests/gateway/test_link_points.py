"""What the link process tells of its links, as points and events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config import status
from config.link import LinkFile
from config.load import require_site
from gateway.core.table import PointTable
from gateway.link_points import LinkPoints
from tests.config.building import mini_files, write_site

LINKS = {"scada": {"Topic": "a/{channel}"}, "off": {"Active": False}}
HEALTH: dict[str, Any] = {
    "connected": True,
    "store_ok": True,
    "backlog": 7,
    "links": {
        "cloud": {"connected": True, "backlog_records": 3},
        "scada": {"connected": False, "backlog_records": 7, "last_error": "refused"},
    },
}


class Shown:
    def __init__(self, folder: Path, **keys: Any) -> None:
        files = mini_files()
        files["link.json"] = {"Links": LINKS, **keys}
        self.site = require_site(write_site(folder, files))
        table = PointTable(self.site.points)
        self.values: dict[str, tuple[float, int]] = {}

        def put(channel: str, value: float, code: int) -> None:
            self.values[channel] = (value, code)
            table.put_one(table.index[f"Gateway.{channel}"], value, code, 1, 1)

        self.points = LinkPoints(LinkFile(Links=LINKS, **keys), table, put)  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


def test_each_active_link_has_points(made: Shown) -> None:
    tags = {point.tag for point in made.site.points}
    assert {"Gateway.Broker_Connected_scada", "Gateway.Backlog_scada"} <= tags
    assert not [tag for tag in tags if tag.endswith("_off")]
    assert made.points.show(HEALTH, True) == []
    assert made.values["Broker_Connected"] == (1.0, status.GOOD)
    assert made.values["Broker_Connected_scada"] == (0.0, status.GOOD)
    assert made.values["Backlog"] == (7.0, status.GOOD)
    assert made.values["Backlog_scada"] == (7.0, status.GOOD)


def test_the_site_bus_and_each_bridge_have_a_point(tmp_path: Path) -> None:
    remote = {"URL": "mqtt://far"}
    bridge = {"Local": {}, "Remote": remote, "Topics": [{"From": "a/#"}]}
    made = Shown(tmp_path, SiteBus={}, Bridges={"bal": bridge})
    up = {"connected": True, "error": ""}
    health: dict[str, Any] = {
        "site_bus": {"connected": True, "last_error": ""},
        "bridges": {"bal": {"local": up, "remote": up}},
    }
    made.points.show(health, True)
    assert made.values["Bus_Connected"] == (1.0, status.GOOD)
    assert made.values["Bridge_Connected_bal"] == (1.0, status.GOOD)
    health["bridges"]["bal"]["remote"] = {"connected": False, "error": "refused"}
    health["site_bus"] = {"connected": False, "last_error": "gone"}
    assert made.points.show(health, True) == [
        {"what": "Bus_Connected", "value": 0.0, "reason": "gone"},
        {"what": "Bridge_Connected_bal", "value": 0.0, "reason": "refused"},
    ]


def test_a_change_is_an_event_with_the_reason_of_that_link(made: Shown) -> None:
    up = {**HEALTH, "links": {"scada": {"connected": True, "backlog_records": 0}}}
    made.points.show(up, True)
    assert made.points.show(HEALTH, True) == [
        {"what": "Broker_Connected_scada", "value": 0.0, "reason": "refused"}
    ]
    assert made.points.show(HEALTH, True) == []


def test_each_point_has_its_own_reason(made: Shown) -> None:
    """Not that of something else that is wrong with the link process."""
    up = {**HEALTH, "connected": True, "store_ok": True}
    made.points.show(up, True)
    down = {"connected": False, "last_error": "broker refused", "reason": "OPC UA: port taken"}
    full = {"store_ok": False, "store_error": "disk full"}
    assert made.points.show({**up, **down, **full}, True) == [
        {"what": "Broker_Connected", "value": 0.0, "reason": "broker refused"},
        {"what": "Store_Ok", "value": 0.0, "reason": "disk full"},
    ]


def test_without_a_report_nothing_is_connected_and_the_last_backlog_is_uncertain(
    made: Shown,
) -> None:
    made.points.show({}, False)
    assert "Backlog_scada" not in made.values, "it was never known"
    made.points.show(HEALTH, True)
    told = made.points.show({}, False)
    assert {body["what"] for body in told} == {"Link_Connected", "Broker_Connected", "Store_Ok"}
    assert made.values["Backlog_scada"] == (7.0, status.UNCERTAIN_LAST_USABLE)
    assert made.values["Link_Connected"] == (0.0, status.GOOD)


def test_what_the_store_takes_is_shown_and_uncertain_when_nobody_tells(made: Shown) -> None:
    store = {"used_percent": 12.5, "written_mb_day": None, "thinned": 3, "free_mb": 900.0}
    made.points.show({**HEALTH, "store": store}, True)
    assert made.values["Store_Used"] == (12.5, status.GOOD)
    assert made.values["Store_Thinned"] == (3.0, status.GOOD)
    assert made.values["Store_Free"] == (900.0, status.GOOD)
    assert "Store_Written" not in made.values, "nobody knows it in the first minute"
    made.points.show({**HEALTH, "store": {}}, True)
    assert made.values["Store_Used"] == (12.5, status.UNCERTAIN_LAST_USABLE)
    assert made.values["Store_Free"] == (900.0, status.UNCERTAIN_LAST_USABLE)
