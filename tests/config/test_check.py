"""Each cross-check finds its mistake, names the key, and is silent on a right site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.check import CHECKS, check_site
from config.load import load_site
from tests.config.building import CONFIG, METER, change, mini_files, write_site

LIMIT = "Channels.Limit"
RELAY = "Channels.Relay"
POWER = "Channels.Power"
SECOND = {
    "EquipmentTags": {
        "EquipmentName": "Twin",
        "Communication": "ModbusTcpGeneric",
        "PortNum": 502,
        "Connection": {"IP": "192.0.2.1"},
    },
    "Channels": {"Power": {"Type": "IRegister", "IOPoint": 0, "Tags": ["Slow"]}},
}

# Mistakes that can't be made without the second one.
PAIRED = {("fallback-missing", "safe-value-missing"), ("period-limit", "scan-class-fast"),
          ("broker-user-missing", "password-file-missing"),
          ("certificate-missing", "password-file-missing"),
          ("broker-url", "broker-unencrypted")}  # fmt: skip

# rule, severity, key of the finding, changes (file, key, value)
CASES: list[tuple[str, str, str, list[tuple[str, str, Any]]]] = [
    ("range-reversed", "error", f"{POWER}.Minimum",
     [(METER, f"{POWER}.Minimum", 5), (METER, f"{POWER}.Maximum", 4)]),
    ("safe-value-range", "error", f"{LIMIT}.SafeValue", [(METER, f"{LIMIT}.SafeValue", 101)]),
    ("safe-value-range", "error", f"{LIMIT}.SafeValue", [(METER, f"{LIMIT}.SafeValue", -1)]),
    ("safe-value-range", "error", f"{LIMIT}.Fallback", [(METER, f"{LIMIT}.Fallback", 100.1)]),
    ("safe-value-state", "error", f"{RELAY}.SafeValue", [(METER, f"{RELAY}.SafeValue", 2)]),
    ("safe-value-state", "error", f"{RELAY}.Fallback", [(METER, f"{RELAY}.Fallback", 0.5)]),
    ("safe-value-state", "error", f"{RELAY}.Fallback", [(METER, f"{RELAY}.Fallback", -1)]),
    ("safe-value-missing", "warning", f"{LIMIT}.SafeValue", [(METER, f"{LIMIT}.SafeValue", None)]),
    ("fallback-missing", "error", f"{LIMIT}.Lease",
     [(METER, f"{LIMIT}.SafeValue", None), (METER, f"{LIMIT}.Lease", 60)]),
    ("output-key-unused", "error", f"{POWER}.SafeValue", [(METER, f"{POWER}.SafeValue", 0)]),
    ("output-key-unused", "error", f"{POWER}.Lease", [(METER, f"{POWER}.Lease", 9)]),
    ("output-key-unused", "error", f"{POWER}.RampRate", [(METER, f"{POWER}.RampRate", 9)]),
    ("read-back-unknown", "error", f"{RELAY}.ReadBack", [(METER, f"{RELAY}.ReadBack", "Nothing")]),
    ("read-back-unknown", "error", f"{RELAY}.ReadBack", [(METER, f"{RELAY}.ReadBack", "Relay")]),
    ("read-back-unknown", "error", f"{RELAY}.ReadBack",
     [(METER, "Channels.Relay_State.Active", False)]),
    ("output-unverifiable", "warning", f"{RELAY}.ReadBack", [(METER, f"{RELAY}.ReadBack", None)]),
    ("age-limit-short", "error", f"{POWER}.AgeLimit", [(METER, f"{POWER}.AgeLimit", 1.9)]),
    ("states-duplicate", "error", f"{RELAY}.States",
     [(METER, f"{RELAY}.States", ["Open", "Shut", "Open"])]),
    ("deadband-discrete", "error", f"{RELAY}.Deadband", [(METER, f"{RELAY}.Deadband", 1)]),
    ("equipment-empty", "warning", "Equipment", [(CONFIG, "Equipment", {})]),
    ("equipment-empty", "warning", "Channels", [(METER, "Channels", {})]),
    ("connection-contradiction", "error", "EquipmentTags.VISA_address",
     [(METER, "EquipmentTags.VISA_address", "TCPIP::192.0.2.1::5025::SOCKET")]),
    ("connection-contradiction", "error", "EquipmentTags.VISA_address",
     [(METER, "EquipmentTags.VISA_address", "TCPIP0::192.0.2.2::502::SOCKET")]),
    ("endpoint-shared", "warning", "EquipmentTags.Connection",
     [(CONFIG, "Equipment.Twin", {"Config": "Twin.json"}), ("Twin.json", "EquipmentTags",
      SECOND["EquipmentTags"]), ("Twin.json", "Channels", SECOND["Channels"])]),
    ("period-limit", "error", "Scan.Period", [(CONFIG, "Scan.Period", 9.9)]),
    ("period-limit", "error", "DataSampling.Fast.Rate",
     [(CONFIG, "DataSampling.Fast.Rate", 5), (CONFIG, "Scan.Period", 10)]),
    ("scan-class-fast", "warning", "DataSampling.Fast.Rate",
     [(CONFIG, "DataSampling.Fast.Rate", 99)]),
    *(("watchdog-invalid", "error", f"Watchdog.{key}", [(CONFIG, "Watchdog", entry)])
      for key, entry in (
          ("Outputs[0]", {"Outputs": ["Meter.Rely"]}),
          ("Outputs[0]", {"Outputs": ["Meter.Power"]}),
          ("Outputs[1]", {"Outputs": ["Meter.Relay", "Meter.Limit"]}),
          ("Outputs[1]", {"Outputs": ["Meter.Relay", "Meter.Relay"]}),
          ("Device", {"Device": "watchdog"}),
          ("Device", {"Device": "/dev/../etc/passwd"}),
          ("Device", {"Device": "/dev/.."}),
          ("Outputs", {}),
      )),
    ("scan-class-shadowed", "warning", "DataSampling.Slow.FilterKey",
     [(CONFIG, "DataSampling.Slow.FilterKey", "Fast"), (METER, f"{POWER}.Tags", ["Fast"])]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "mqttx://broker:8883")]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "broker")]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "mqtt://broker:99999")]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "mqtt://[::1")]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "mqtt://host/topic")]),
    ("broker-url", "error", "Broker.URL", [("link.json", "Broker.URL", "")]),
    ("broker-unencrypted", "warning", "Broker.URL",
     [("link.json", "Broker.URL", "mqtt://broker")]),
    ("broker-unencrypted", "warning", "Broker.URL",
     [("link.json", "Broker.URL", "mqtt://192.0.2.1")]),
    ("tls-off", "error", "Broker.AuthorityFile",
     [("link.json", "Broker.AuthorityFile", "/etc/gatepost/ca.pem")]),
    ("certificate-missing", "error", "Broker.KeyFile",
     [("link.json", "Broker.URL", "mqtts://broker"),
      ("link.json", "Broker.CertificateFile", "/etc/gatepost/edge.pem")]),
    ("certificate-missing", "error", "Broker.CertificateFile",
     [("link.json", "Broker.URL", "mqtts://broker"),
      ("link.json", "Broker.KeyFile", "/dev/null")]),
    ("broker-user-missing", "error", "Broker.PasswordFile",
     [("link.json", "Broker.PasswordFile", "/etc/gatepost/password")]),
    ("password-file-missing", "warning", "Broker.PasswordFile",
     [("link.json", "Broker.URL", "mqtts://edge@broker"),
      ("link.json", "Broker.PasswordFile", "/nowhere/gatepost/password")]),
    ("password-file-missing", "warning", "Broker.PasswordFile",
     [("link.json", "Broker.URL", "mqtts://edge@broker"),
      ("link.json", "Broker.PasswordFile", "/etc")]),
    *((rule, severity, f"Links.x.{key}", [("link.json", "Links", {"x": entry})])
      for rule, severity, key, entry in (
          ("form-topic", "error", "Topic", {"Topic": "{site}/{tag}"}),
          ("form-topic", "error", "Topic", {"Topic": "{site}/+"}),
          ("form-topic", "error", "Topic", {"Topic": "{site}/#"}),
          ("form-topic", "error", "Topic", {"Topic": ""}),
          ("form-topic", "error", "Topic", {"Topic": "$SYS/{site}"}),
          ("form-name", "error", "Group", {"Format": "sparkplug", "Group": "a/b"}),
          ("form-name", "error", "Node", {"Format": "sparkplug", "Node": ""}),
          ("form-name", "error", "Node", {"Format": "sparkplug", "Node": "a\tb"}),
          ("form-topic", "error", "Topic", {"Topic": "a\x85/{channel}"}),
          ("form-topic", "error", "Topic", {"Topic": "a\ufffe/{channel}"}),
          ("form-name", "error", "PrimaryHost", {"Format": "sparkplug", "PrimaryHost": "+"}),
          ("form-points", "error", "Points[1]", {"Points": ["Meter.*", "Metre.*"]}),
          ("form-ack", "error", "Ack", {"Format": "json", "Ack": "historian"}),
          ("form-key", "warning", "Topic", {"Format": "sparkplug", "Topic": "x"}),
          ("form-key", "warning", "Points", {"Format": "gatepost", "Points": ["Meter.*"],
                                             "URL": "mqtts://customer"}),
          ("form-key", "warning", "PrimaryHost", {"PrimaryHost": "SCADA"}),
      )),
    ("form-twin", "error", "Links.y.Node",
     [("link.json", "Links", {"x": {"Format": "sparkplug", "Node": "A"},
                              "y": {"Format": "sparkplug", "Node": "a", "Group": "MINI",
                                    "URL": "mqtt://gatepost@127.0.0.1"},
                              "z": {"Format": "sparkplug", "Node": "B"}})]),
    ("broker-url", "error", "Links.x.URL", [("link.json", "Links", {"x": {"URL": "broker"}})]),
    ("broker-unencrypted", "warning", "Bridges.b.Remote.URL",
     [("link.json", "Bridges", {"b": {"Local": {"URL": "mqtt://127.0.0.1"},
                                      "Remote": {"URL": "mqtt://192.0.2.1"},
                                      "Topics": [{"From": "a/#"}]}})]),
    ("tls-off", "error", "SiteBus.AuthorityFile",
     [("link.json", "SiteBus", {"AuthorityFile": "/etc/gatepost/ca.pem"})]),
    *(("link-name", "error", f"Links.{key}", [("link.json", "Links", {name: {} for name in names})])
      for key, names in (("a-b", ["a-b"]), ("Cloud", ["Cloud"]), ("", [""]), ("x" * 33, ["x" * 33]),
                         ("1st", ["1st"]))),
    ("link-name", "error", "Links.SCADA",
     [("link.json", "Links", {"Scada": {}, "SCADA": {"Topic": "x/{channel}"}})]),
    ("link-count", "error", "Links",
     [("link.json", "Links", {f"n{n}": {"Topic": f"{n}/{{channel}}"} for n in range(8)})]),
    ("link-none", "warning", "Broker.Active", [("link.json", "Broker.Active", False)]),
    ("link-hours", "error", "Broker.BacklogHours[1]",
     [("link.json", "Broker.BacklogHours", ["22:00-24:00", "0-6"])]),
    ("link-hours", "error", "Links.x.BacklogHours[0]",
     [("link.json", "Links", {"x": {"BacklogHours": ["22:00-22:00"]}})]),
    ("link-double", "error", "Links.x.URL",
     [("link.json", "Links", {"x": {"Format": "gatepost"}})]),
    ("link-double", "error", "Links.y.URL",
     [("link.json", "Links", {"x": {"URL": "mqtts://host"}, "y": {"URL": "mqtts://HOST:8883"}})]),
    ("link-double", "error", "Links.y.URL",
     [("link.json", "Links", {"x": {"Topic": "{site}/{equipment}"}, "y": {"Topic": "mini/x"}})]),
    ("opcua-endpoint", "error", "OpcUa.Endpoint",
     [("link.json", "OpcUa.Endpoint", "http://0.0.0.0:4840")]),
    ("opcua-endpoint", "error", "OpcUa.Endpoint", [("link.json", "OpcUa.Endpoint", "opc.tcp://")]),
    ("opcua-host", "error", "OpcUa.Hosts[1]",
     [("link.json", "OpcUa.Hosts", ["192.0.2.7", "a b", "2001:db8::1", "gw.example.org"])]),
    ("opcua-unsecured", "warning", "OpcUa.NoSecurity",
     [("link.json", "OpcUa", {"NoSecurity": True, "Endpoint": "opc.tcp://0.0.0.0:4840"})]),
    ("opcua-points", "error", "OpcUa.Rights[0].Points[1]",
     [("link.json", "OpcUa.Rights", [{"Points": ["Meter.*", "Metre.*"]}])]),
    ("opcua-shadowed", "warning", "OpcUa.Rights[1].Points",
     [("link.json", "OpcUa.Rights", [{"Points": ["Meter.*"]}, {"Points": ["Meter.Power"]}])]),
    *(("opcua-role", "error", "OpcUa.Rights[0].Write",
       [("link.json", "OpcUa.Rights", [{"Points": ["*"], "Read": read, "Write": write}])])
      for read, write in (("observer", "observer"), ("engineer", "operator"))),
    *((rule, severity, f"SiteBus.{key}", [("link.json", "SiteBus", entry), *more])
      for rule, severity, key, entry, more in (
          ("bus-equipment-unknown", "error", "Equipment[1]", {"Equipment": ["M*", "Metre"]}, []),
          ("bus-write-unknown", "error", "Writes[0]", {"Writes": ["Meter.Power"]}, []),
          ("bus-write-unknown", "error", "Writes[0]",
           {"Equipment": ["Gateway"], "Writes": ["Meter.*"]}, []),
          ("bus-unsigned", "warning", "Writes",
           {"URL": "mqtts://bus.example.org", "Writes": ["Meter.Limit"]}, []),
          ("bus-own-device", "warning", "Equipment", {},
           [(METER, "EquipmentTags", {"EquipmentName": "Meter", "Communication": "MQTT",
                                      "DataReadTopic": "Relay/Data/Meter"})]),
          ("bus-own-device", "warning", "Equipment", {},
           [(METER, "EquipmentTags", {"EquipmentName": "Meter", "Communication": "MQTT",
                                      "DataReadTopic": "a", "DataWriteTopic": "Relay/+/Meter"})]),
      )),
    *(("bridge-name", "error", "Bridges", [("link.json", "Bridges", {name: {
        "Local": {}, "Remote": {"URL": "mqtts://far.example.org"}, "Topics": [{"From": "a"}]}})])
      for name in ("", "a b", "1", "x" * 33)),
    ("broker-url", "error", "SiteBus.URL",
     [("link.json", "SiteBus", {"URL": "mqtt://[::1", "Writes": ["Meter.Limit"]})]),
    *((rule, severity, f"Bridges.b.Topics[{key}", [("link.json", "Bridges", {"b": {
        "Local": {}, "Remote": {"URL": "mqtts://far.example.org"}, "Topics": topics}}), *more])
      for rule, severity, key, topics, more in (
          ("bridge-topic", "error", "0].From", [{"From": "a/#/b"}], []),
          ("bridge-topic", "error", "0].From", [{"From": "a/b#"}], []),
          ("bridge-topic", "error", "0].From", [{"From": ""}], []),
          ("bridge-topic", "error", "0].From", [{"From": "$share/group/a"}], []),
          ("bridge-topic", "error", "0].To", [{"From": "a/#", "To": "b/#"}], []),
          ("bridge-topic", "error", "0].To", [{"From": "a/#", "To": "$SYS/b"}], []),
          ("bridge-topic", "error", "0].To", [{"From": "$SYS/#"}], []),
          ("bridge-loop", "error", "0]",
           [{"From": "a/#", "To": "b"}, {"From": "b/c", "To": "a/d", "Direction": "out"}], []),
          ("bridge-overlap", "error", "1]", [{"From": "a/+/c"}, {"From": "a/b/#", "To": "d"}], []),
          ("bridge-requests", "warning", "0]", [{"From": "far/#", "To": "Relay/Request"}],
           [("link.json", "SiteBus", {"Writes": ["Meter.Limit"]})]),
      )),
    ("secret-inside", "error", "Broker.URL",
     [("link.json", "Broker.URL", "mqtts://edge:secret@broker:1883")]),
    ("secret-inside", "error", "Broker.PasswordFile",
     [("link.json", "Broker.URL", "mqtts://edge@broker"),
      ("link.json", "Broker.PasswordFile", "password")]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "severity", "key", "changes"), CASES)
def test_a_check_finds_its_mistake_and_nothing_else(
    tmp_path: Path, rule: str, severity: str, key: str, changes: list[tuple[str, str, Any]]
) -> None:
    files = mini_files()
    for change_made in changes:
        change(files, *change_made)
    site, findings = load_site(write_site(tmp_path, files))
    assert site is not None
    assert findings == []
    found = [(f.rule, f.severity, f.key) for f in check_site(site)]
    assert [f for f in found if (rule, f[0]) not in PAIRED] == [(rule, severity, key)]


@pytest.mark.parametrize(
    ("fallback", "text"),
    [(None, "at start and when a setpoint ends."), (0, "keeps what it has at start. Declare")],
)
def test_what_happens_without_a_safe_value_depends_on_the_fallback(
    tmp_path: Path, fallback: int | None, text: str
) -> None:
    files = mini_files()
    change(files, METER, f"{LIMIT}.SafeValue", None)
    if fallback is not None:
        change(files, METER, f"{LIMIT}.Fallback", fallback)
    site, _ = load_site(write_site(tmp_path, files))
    assert site is not None
    assert [text in finding.message for finding in check_site(site)] == [True]


def test_every_check_has_a_case_and_yields_its_own_rule_only() -> None:
    assert {rule for rule, _ in CHECKS} == {rule for rule, *_ in CASES}
    assert len({rule for rule, _ in CHECKS}) == len(CHECKS)


def test_a_right_site_has_no_findings(tmp_path: Path) -> None:
    site, findings = load_site(write_site(tmp_path, mini_files()))
    assert site is not None
    assert findings + check_site(site) == []


def test_a_password_file_in_the_site_folder_is_found_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "site")
    files = mini_files()
    change(files, "link.json", "Broker.URL", "mqtts://edge@broker")
    change(files, "link.json", "Broker.PasswordFile", str(tmp_path / "alias" / "password"))
    site, _ = load_site(write_site(tmp_path / "site", files))
    assert site is not None
    assert [f.rule for f in check_site(site)] == ["secret-inside"]


def test_a_password_file_elsewhere_is_right(tmp_path: Path) -> None:
    files = mini_files()
    change(files, "link.json", "Broker.URL", "mqtts://edge@broker")
    change(files, "link.json", "Broker.PasswordFile", str(tmp_path / "password"))
    (tmp_path / "password").write_text("secret")
    site, _ = load_site(write_site(tmp_path / "site", files))
    assert site is not None
    assert check_site(site) == []


def test_an_address_with_tls_is_right(tmp_path: Path) -> None:
    files = mini_files()
    change(files, "link.json", "Broker.URL", "mqtts://broker")
    site, _ = load_site(write_site(tmp_path, files))
    assert site is not None
    assert check_site(site) == []


def test_the_password_of_a_wrong_url_is_not_printed(tmp_path: Path) -> None:
    files = mini_files()
    change(files, "link.json", "Broker.URL", "http://edge:hunter2@broker")
    site, _ = load_site(write_site(tmp_path, files))
    assert site is not None
    found = check_site(site)
    assert {f.rule for f in found} == {"broker-url", "secret-inside"}
    assert "hunter2" not in "".join(map(str, found))
