"""What the check finds in the configuration of MQTT instruments."""

from __future__ import annotations

from typing import Any

import pytest

from config.model import InstrumentFile
from config.site import Instrument
from drivers.mqtt.driver import PROTOCOL
from tests.drivers.instruments import REPOSITORY, instrument, json_examples
from tests.drivers.mqtt_case import device


def rules(made: Instrument) -> set[tuple[str, str]]:
    return {(f.key, f.rule) for f in PROTOCOL.check(made)}


def test_a_site_in_order_has_no_findings() -> None:
    assert rules(device(1883)) == set()
    assert rules(device(1883, Server=None)) == set()
    assert rules(device(1883, Server="mqtts://x", ServerCertificateFile="/x.pem")) == set()


@pytest.mark.parametrize(
    ("tags", "finding"),
    [
        ({"Server": "http://x"}, ("EquipmentTags.Server", "connection-missing")),
        ({"Server": "mqtt://x:99999"}, ("EquipmentTags.Server", "connection-missing")),
        ({"Server": "mqtt://u:secret@x"}, ("EquipmentTags.Server", "secret-inside")),
        ({"PasswordFile": "/run/x"}, ("EquipmentTags.PasswordFile", "user-missing")),
        ({"DataReadTopic": None}, ("EquipmentTags.DataReadTopic", "address-missing")),
        ({"DataReadTopic": "a/+/+/b"}, ("EquipmentTags.DataReadTopic", "topic-invalid")),
        ({"DataReadTopic": "a/#/b"}, ("EquipmentTags.DataReadTopic", "topic-invalid")),
        ({"DataReadTopic": "a+"}, ("EquipmentTags.DataReadTopic", "topic-invalid")),
        ({"DataWriteTopic": None}, ("EquipmentTags.DataWriteTopic", "address-missing")),
        ({"Payload": "SparkplugB"}, ("EquipmentTags.DataReadTopic", "topic-invalid")),
        (
            {"Payload": "SparkplugB", "DataReadTopic": "spBv1.0/+/+/N/D"},
            ("EquipmentTags.DataReadTopic", "topic-invalid"),
        ),
        (
            {"Payload": "SparkplugB", "DataReadTopic": "spBv1.0/G/+/N/#"},
            ("EquipmentTags.DataReadTopic", "topic-invalid"),
        ),
        ({"Server": "mqtt://u:secret@[::1"}, ("EquipmentTags.Server", "connection-missing")),
        ({"ServerCertificateFile": "/x.pem"}, ("EquipmentTags.ServerCertificateFile", "tls-off")),
        (
            {"Server": "mqtts://x", "CertificateFile": "/x.pem"},
            ("EquipmentTags.KeyFile", "certificate-missing"),
        ),
        ({"DataReadTopic": "a/+"}, ("Channels.Power.IOPoint", "address-missing")),
    ],
)
def test_mistakes_of_the_instrument_are_found(
    tags: dict[str, Any], finding: tuple[str, str]
) -> None:
    assert finding in rules(device(1883, **tags))
    assert not any("secret" in f.message for f in PROTOCOL.check(device(1883, **tags)) if tags)


@pytest.mark.parametrize(
    ("channel", "finding"),
    [
        ({"DataType": "HEX"}, ("DataType", "datatype-unknown")),
        ({"DataType": "string"}, ("States", "states-missing")),
        ({"IOPoint": "a..b"}, ("IOPoint", "address-missing")),
        ({"WriteText": "5", "ReadWrite": "RW"}, ("WriteText", "address-missing")),
        ({"Scalar": 0.0}, ("Scalar", "scalar-zero")),
        ({"SafeValue": 1e300, "ReadWrite": "RW"}, ("SafeValue", "value-range")),
    ],
)
def test_mistakes_of_a_channel_are_found(channel: dict[str, Any], finding: tuple[str, str]) -> None:
    key, rule = finding
    assert (f"Channels.Power.{key}", rule) in rules(device(1883, {"Power": channel}))


def test_two_channels_on_one_value_are_found() -> None:
    made = device(1883, {"A": {"IOPoint": "p", "ReadWrite": "RW"}, "B": {"IOPoint": "p"}})
    assert ("Channels.A", "address-shared") in rules(made)


@pytest.mark.parametrize("example", json_examples(REPOSITORY / "docs/drivers/mqtt.md"))
def test_every_example_of_the_page_is_in_order(example: str) -> None:
    content = InstrumentFile.model_validate_json(example)
    tags = content.EquipmentTags.model_dump(exclude_unset=True)
    channels = {n: c.model_dump(exclude_unset=True) for n, c in content.Channels.items()}
    made = instrument(channels, **tags)
    assert PROTOCOL.check(made) == []
    assert PROTOCOL.plan(made)
