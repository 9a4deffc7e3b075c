"""Loading: what files become, which defaults they get, and that nothing escapes as a traceback."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.findings import SiteError
from config.load import files_hash, load_site, require_site
from config.points import GATEWAY_POINTS, NO_POINT, PointDef, rule_tag
from config.read import FILE_BYTES_MAX, FINDINGS_PER_FILE_MAX
from config.site import Site
from tests.config.building import CONFIG, METER, change, mini_files, write_site


def built(folder: Path, *changes: tuple[str, str, Any]) -> Site:
    files = mini_files()
    for change_made in changes:
        change(files, *change_made)
    site, findings = load_site(write_site(folder, files))
    assert site is not None, findings
    return site


def point_of(site: Site, tag: str) -> PointDef:
    return site.points[site.index[tag] - 1]


def test_points_are_numbered_devices_then_gateway_then_rules(tmp_path: Path) -> None:
    site = built(
        tmp_path,
        (CONFIG, "SystemTags.Personality", "P.json"),
        (
            "P.json",
            "Components",
            {"ControlStates": "K.json", "AlarmStates": "A.json", "SystemStates": "S.json"},
        ),
        (
            "A.json",
            "AlarmStates",
            {
                "Alarms/High": {"When": "Meter.Power > 1", "Description": "too much"},
                "Alarms/Off": {"When": "true", "Active": False},
            },
        ),
        ("S.json", "SystemStates", {"Meter/Load": {"State": "'on'"}}),
        ("K.json", "Automatic_Controls", {"Control/High": {"When": "true", "Method": "M"}}),
    )
    tags = [point.tag for point in site.points]
    assert [point.index for point in site.points] == list(range(1, len(tags) + 1))
    assert tags[:4] == ["Meter.Power", "Meter.Limit", "Meter.Relay", "Meter.Relay_State"]
    assert tags[4:-3] == [f"Gateway.{row[0]}" for row in GATEWAY_POINTS]
    assert tags[-3:] == ["Alarms.High", "States.Meter_Load", "Controls.High"]
    high = point_of(site, "Alarms.High")
    assert (high.source, high.kind, high.description) == ("rule", "discrete", "too much")
    assert not high.is_output
    assert point_of(site, "Gateway.Reset").writable
    assert not point_of(site, "Gateway.Reset").is_output
    assert site.personality.alarms_file == "A.json"
    assert list(site.personality.alarms) == ["Alarms/High"]


def test_rule_tags_leave_the_seed_folder_out() -> None:
    assert rule_tag("alarm", "Alarms/Cell_OverTemp") == "Alarms.Cell_OverTemp"
    assert rule_tag("control", "Control/Hydrogen_Fire") == "Controls.Hydrogen_Fire"
    assert rule_tag("control", "Controls/Hydrogen_Fire") == "Controls.Hydrogen_Fire"
    assert rule_tag("state", "Opto/SystemState") == "States.Opto_SystemState"
    assert rule_tag("alarm", "Alarms/Gas/Leak") == "Alarms.Gas_Leak"


def test_defaults_of_an_input(tmp_path: Path) -> None:
    power = point_of(built(tmp_path), "Meter.Power")
    assert power.kind == "analog"
    assert power.units == "W"
    assert (power.readable, power.writable, power.is_output) == (True, False, False)
    assert power.scan_class == "Slow"
    assert power.age_ns_max == 3 * 2_000_000_000 + 1_000_000_000
    assert power.heartbeat_ns == 60_000_000_000
    assert power.deadband == 0.0
    assert power.read_back == NO_POINT
    assert all(map(math.isnan, (power.value_min, power.safe_value, power.rate_max_per_s)))


def test_defaults_of_outputs(tmp_path: Path) -> None:
    site = built(tmp_path, (METER, "Channels.Limit.Lease", 5), (METER, "Channels.Limit.RateMax", 2))
    limit, relay = point_of(site, "Meter.Limit"), point_of(site, "Meter.Relay")
    assert limit.read_back == limit.index
    assert (limit.value_min, limit.value_max) == (0.0, 100.0)
    assert limit.safe_value == limit.fallback == 50.0
    assert (limit.lease_ns, limit.rate_max_per_s) == (5_000_000_000, 2.0)
    assert relay.read_back == site.index["Meter.Relay_State"]
    assert relay.kind == "discrete"
    assert (relay.scan_class, relay.age_ns_max, relay.readable) == ("", 0, False)
    assert relay.is_output


def test_the_fastest_of_several_scan_classes_counts(tmp_path: Path) -> None:
    assert point_of(built(tmp_path), "Meter.Relay_State").scan_class == "Fast"


def test_fallback_and_age_limit_that_are_declared_count(tmp_path: Path) -> None:
    site = built(
        tmp_path,
        (METER, "Channels.Limit.Fallback", 100),
        (METER, "Channels.Power.AgeLimit", 2.5),
        (METER, "Channels.Power.Units", "NA"),
    )
    assert point_of(site, "Meter.Limit").fallback == 100.0
    assert point_of(site, "Meter.Power").age_ns_max == 2_500_000_000
    assert point_of(site, "Meter.Power").units == ""


@pytest.mark.parametrize(
    ("keys", "tolerance"),
    [
        ({"DataType": "uint16", "Scalar": 0.1}, 0.1),
        ({"DataType": "int16", "Scalar": -0.01}, 0.01),
        ({"DataType": "int16", "Scalar": 0.01, "Decimal": 1}, 0.05),
        ({"DataType": "float32"}, 1e-4),  # a millionth of the largest limit, 100
        ({"DataType": "float32", "Decimal": 1}, 0.05 + 1e-4),
        ({"DataType": "float32", "Tolerance": 0.5}, 0.5),
        ({"DataType": "uint16", "States": ["a", "b"], "SafeValue": 0}, 0.0),
    ],
)
def test_the_tolerance_is_what_rounding_explains(
    tmp_path: Path, keys: dict[str, Any], tolerance: float
) -> None:
    files = mini_files()
    files[METER]["Channels"]["Limit"] |= {"Scalar": 1} | keys
    site = require_site(write_site(tmp_path, files))
    assert point_of(site, "Meter.Limit").tolerance == pytest.approx(tolerance)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"DataType": "float32"}, "analog"),
        ({"DataType": "uint16"}, "analog"),
        ({"DataType": "bool"}, "discrete"),
        ({"DataType": "Bool"}, "discrete"),
        ({"DataType": "bit", "BitStart": 0}, "discrete"),
        ({"DataType": "uint16", "States": ["a", "b"]}, "discrete"),
        ({"Type": "Coil"}, "discrete"),
        ({"Type": "DiscreteInputs"}, "discrete"),
        ({"Type": "Analog", "DataType": "bool"}, "analog"),
    ],
)
def test_the_kind_follows_from_type_and_data_type(
    tmp_path: Path, keys: dict[str, Any], kind: str
) -> None:
    files = mini_files()
    files[METER]["Channels"]["Power"] = {"Tags": ["Slow"]} | keys
    assert point_of(require_site(write_site(tmp_path, files)), "Meter.Power").kind == kind


def test_periods_in_seconds_and_milliseconds(tmp_path: Path) -> None:
    site = built(
        tmp_path,
        (CONFIG, "DataSampling.Third", {"FilterKey": "T", "Rate": 0.25, "Unit": "s"}),
        (CONFIG, "DataSampling.Fourth", {"FilterKey": "F", "Rate": 250, "Unit": "MS"}),
    )
    periods = {name: c.period_ns for name, c in site.scan_classes.items()}
    assert periods["Fast"] == 200_000_000
    assert periods["Slow"] == 2_000_000_000
    assert periods["Third"] == periods["Fourth"] == 250_000_000
    assert site.scan_period_ns == 100_000_000


def test_without_scan_the_period_is_100_ms(tmp_path: Path) -> None:
    assert built(tmp_path, (CONFIG, "Scan", None)).scan_period_ns == 100_000_000


def test_the_site_name_is_fit_for_topics(tmp_path: Path) -> None:
    assert built(tmp_path / "a").name == "mini"
    assert built(tmp_path / "b", (CONFIG, "SystemTags.SystemName", "SOEC Lab/2#")).name == (
        "soec-lab-2"
    )
    assert built(tmp_path / "c", (CONFIG, "SystemTags.SystemName", "///")).name == "site"
    assert built(tmp_path / "d", ("link.json", "Site", "north")).name == "north"


def test_the_hash_changes_with_a_used_file_only(tmp_path: Path) -> None:
    first = built(tmp_path).hash
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "readme.txt").write_text("hello")
    assert require_site(tmp_path).hash == first
    (tmp_path / METER).write_text((tmp_path / METER).read_text() + "\n")
    second = require_site(tmp_path).hash
    (tmp_path / "link.json").write_text("{}")
    assert len({first, second, require_site(tmp_path).hash}) == 3
    assert len(first) == 16
    assert set(first) <= set("0123456789abcdef")


def test_the_hash_does_not_confuse_names_and_contents() -> None:
    assert files_hash({"a": b"bc", "d": b""}) != files_hash({"a": b"b", "cd": b""})
    assert files_hash({"a": b"1", "b": b"2"}) == files_hash({"b": b"2", "a": b"1"})
    # The value itself is a contract: it names configurations in births that are stored.
    assert files_hash({"a": b"1", "b": b"2"}) == "a8eca051b64510e4"


def test_require_site_raises_all_errors_at_once(tmp_path: Path) -> None:
    files = mini_files()
    change(files, METER, "Channels.Power.Scalar", "x")
    change(files, METER, "Channels.Power.Colour", "red")
    change(files, CONFIG, "SystemTags.Database", "none.json")
    with pytest.raises(SiteError) as caught:
        require_site(write_site(tmp_path, files))
    assert [f.rule for f in caught.value.findings] == ["key-unknown", "value-type"]
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("opcua", "told"),
    [
        ({"Policies": []}, "Expected 1 or more entries; found an empty list."),
        ({"Rights": [{"Points": []}]}, "Expected 1 or more entries; found an empty list."),
        ({"NoSecurity": [1, 2]}, "Expected true or false without quotes; found a list of 2."),
        ({"Endpoint": {}}, "Expected text in quotes; found an empty object."),
    ],
)
def test_a_list_of_the_wrong_length_is_told_with_its_length(
    tmp_path: Path, opcua: dict[str, Any], told: str
) -> None:
    _, findings = load_site(write_site(tmp_path, {**mini_files(), "link.json": {"OpcUa": opcua}}))
    assert [finding.message for finding in findings] == [told]


def test_require_site_passes_over_warnings(tmp_path: Path) -> None:
    files = mini_files()
    change(files, CONFIG, "SystemTags.Database", "none.json")
    assert require_site(write_site(tmp_path, files)).name == "mini"


def rules_of(folder: Path) -> list[str]:
    site, findings = load_site(folder)
    assert site is None
    return [finding.rule for finding in findings]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    assert rules_of(tmp_path / "nowhere") == ["folder-unreadable"]
    assert rules_of(tmp_path / "file") == ["folder-unreadable"]
    assert rules_of(tmp_path / ("x" * 300)) == ["folder-unreadable"]
    (tmp_path / "empty").mkdir()
    assert rules_of(tmp_path / "empty") == ["config-missing"]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    write_site(tmp_path, mini_files())
    with (tmp_path / METER).open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    assert rules_of(tmp_path) == ["file-too-large"]
    with (tmp_path / METER).open("wb") as file:
        file.truncate(FILE_BYTES_MAX)
    assert rules_of(tmp_path) == ["json-syntax"]


def test_a_folder_or_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    write_site(tmp_path, mini_files())
    (tmp_path / METER).unlink()
    (tmp_path / METER).mkdir()
    assert rules_of(tmp_path) == ["file-missing"]
    (tmp_path / METER).rmdir()
    os.mkfifo(tmp_path / METER)  # opening it would wait for a writer, for ever
    assert rules_of(tmp_path) == ["file-missing"]
    os.mkfifo(tmp_path / "link.json")
    (tmp_path / METER).unlink()
    write_site(tmp_path, {METER: mini_files()[METER]})
    assert rules_of(tmp_path) == ["file-unreadable"]


def test_a_root_that_is_a_folder_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / CONFIG).mkdir()
    assert rules_of(tmp_path) == ["file-unreadable"]
    (tmp_path / CONFIG).rmdir()
    os.mkfifo(tmp_path / CONFIG)
    assert rules_of(tmp_path) == ["file-unreadable"]


def test_links_may_stay_inside_and_not_lead_out(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", mini_files())
    (folder / METER).rename(folder / "real.json")
    (folder / METER).symlink_to("real.json")
    assert require_site(folder).instruments["Meter"].file == METER
    (folder / "real.json").rename(tmp_path / "outside.json")
    (folder / METER).unlink()
    (folder / METER).symlink_to(tmp_path / "outside.json")
    assert rules_of(folder) == ["path-escape"]
    (folder / METER).unlink()
    (folder / METER).symlink_to(METER)
    assert rules_of(folder) in (["path-escape"], ["file-missing"])


def test_a_link_file_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", mini_files())
    (tmp_path / "link.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "link.json")
    assert rules_of(folder) == ["path-escape"]
    (folder / CONFIG).rename(tmp_path / CONFIG)
    (folder / CONFIG).symlink_to(tmp_path / CONFIG)
    assert "path-escape" in rules_of(folder)


def test_a_file_without_the_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:  # chmod would not stop root
        raise PermissionError(13, "Permission denied")

    write_site(tmp_path, mini_files())
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert rules_of(tmp_path) == ["file-unreadable"]


def test_a_name_that_is_longer_than_the_file_system_takes(tmp_path: Path) -> None:
    files = mini_files()
    change(files, CONFIG, "Equipment.Meter.Config", "m" * 5000 + ".json")
    assert rules_of(write_site(tmp_path, files)) == ["file-missing"]


def test_a_wrong_file_does_not_flood_the_screen(tmp_path: Path) -> None:
    files = mini_files()
    files[METER]["Channels"] = {f"C{i}": {"Colour": 1, "Size": 2} for i in range(1000)}
    assert len(rules_of(write_site(tmp_path, files))) == FINDINGS_PER_FILE_MAX
    (tmp_path / METER).write_text(json.dumps({"a": [math.nan] * 5000}))
    assert len(rules_of(tmp_path)) == FINDINGS_PER_FILE_MAX


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["SystemTags", "Equipment", "Config", "Active", "Channels", "Components"]
            )
            | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=json_values, path=st.sampled_from([
    (CONFIG, "SystemTags"), (CONFIG, "SystemTags.Personality"), (CONFIG, "SystemTags.Database"),
    (CONFIG, "Equipment"), (CONFIG, "Equipment.Meter"), (CONFIG, "Equipment.Meter.Config"),
    (CONFIG, "DataSampling.Slow"), (CONFIG, "Scan"), (METER, "EquipmentTags"),
    (METER, "EquipmentTags.EquipmentName"), (METER, "Channels"), (METER, "Channels.Limit"),
    (METER, "Channels.Limit.AgeLimit"), (METER, "Channels.Relay.ReadBack"),
    ("P.json", "Components"), ("P.json", "Components.AlarmStates"), ("A.json", "AlarmStates"),
    ("link.json", "Broker"), ("link.json", "Site"),
]))  # fmt: skip
def test_no_value_anywhere_ends_in_a_traceback(
    tmp_path: Path, value: Any, path: tuple[str, str]
) -> None:
    files = mini_files()
    change(files, CONFIG, "SystemTags.Personality", "P.json")
    change(files, "P.json", "Components.AlarmStates", "A.json")
    change(files, "A.json", "AlarmStates", {"Alarms/A": {"When": "Meter.Power > 1"}})
    file, key = path
    change(files, file, key, value if value is not None else {})
    site, findings = load_site(write_site(tmp_path, files))
    assert site is not None or findings
    for finding in findings:
        assert str(finding).isprintable()


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=60))
def test_no_bytes_end_in_a_traceback(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / CONFIG).write_bytes(raw)
    assert rules_of(folder)


def test_a_form_error_in_link_json_hides_nothing_that_is_wrong_by_itself(tmp_path: Path) -> None:
    files = mini_files()
    files["link.json"] = {
        "Site": "a/b",
        "Broker": {"URL": "http://x", "KeepAlive": "10", "BacklogHours": ["25:00-26:00"]},
        "Links": {
            "Cloud": {"Topic": "{site}/#", "Colour": 1},
            "customer": {"Topic": "{foo}/+/x", "URL": 5, "Group": "a/b"},
            "third": 3,
        },
        "Bridges": {"b": {"Local": {"URL": "x"}, "Remote": {}, "Topics": [{"To": "x"}]}},
        "OpcUa": {"Endpoint": "tcp://x", "Active": "yes"},
    }
    site, findings = load_site(write_site(tmp_path, files))
    assert site is None
    found = {(f.key, f.rule) for f in findings}
    assert found == {
        ("Site", "name-invalid"),
        ("Broker.KeepAlive", "value-type"),
        ("Broker.URL", "broker-url"),
        ("Broker.BacklogHours[0]", "link-hours"),
        ("Links.Cloud", "link-name"),
        ("Links.Cloud.Colour", "key-unknown"),
        ("Links.Cloud.Topic", "form-topic"),
        ("Links.customer.Topic", "form-topic"),
        ("Links.customer.URL", "value-type"),
        ("Links.customer.Group", "form-name"),
        ("Links.third", "value-type"),
        ("Bridges.b.Topics[0].From", "key-missing"),
        ("OpcUa.Endpoint", "opcua-endpoint"),
        ("OpcUa.Active", "value-type"),
    }
    (both,) = [f.message for f in findings if f.key == "Links.customer.Topic"]
    assert "Only {site}" in both and "no wildcards" in both


def test_another_file_hides_nothing_of_link_json(tmp_path: Path) -> None:
    files = mini_files()
    files["link.json"] = {"Broker": {"URL": "http://x"}}
    files[METER]["Colour"] = 1
    _, findings = load_site(write_site(tmp_path, files))
    assert {f.rule for f in findings} == {"key-unknown", "broker-url"}
