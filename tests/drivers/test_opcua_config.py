"""What the check finds in the configuration of OPC UA instruments."""

from __future__ import annotations

from typing import Any

import pytest

from config.model import InstrumentFile
from config.site import Instrument
from drivers.errors import NotConnected
from drivers.opcua.browse import browse_server
from drivers.opcua.driver import PROTOCOL
from tests.drivers.instruments import REPOSITORY, instrument, json_examples
from tests.drivers.opcua_case import FLOW, client


def rules(made: Instrument) -> set[tuple[str, str]]:
    return {(f.key, f.rule) for f in PROTOCOL.check(made)}


@pytest.mark.parametrize(
    ("tags", "finding"),
    [
        ({"Server": None}, ("Server", "connection-missing")),
        ({"Server": "opc.tcp://"}, ("Server", "connection-missing")),
        ({"Server": "opc.tcp://u:p@x"}, ("Server", "secret-inside")),
        ({"PasswordFile": "/run/x"}, ("PasswordFile", "user-missing")),
        ({"Security": "Basic256Sha256"}, ("CertificateFile", "certificate-missing")),
        ({"Security": "Basic256Sha256"}, ("KeyFile", "certificate-missing")),
        ({"Security": "Basic256Sha256"}, ("ServerCertificateFile", "server-unverified")),
    ],
)
def test_mistakes_of_the_instrument_are_found(
    tags: dict[str, Any], finding: tuple[str, str]
) -> None:
    made = client("opc.tcp://127.0.0.1", {"Flow": FLOW}, **tags)
    assert (f"EquipmentTags.{finding[0]}", finding[1]) in rules(made)


@pytest.mark.parametrize(
    "node", ["", "Pump.Flow", "ns=2", "ns=x;s=a", "i=abc", "g=123", "nsu=;s=a", "ns=2;s="]
)
def test_what_is_no_node_id_is_found(node: str) -> None:
    made = client("opc.tcp://127.0.0.1", {"Flow": {"IOPoint": node}})
    assert ("Channels.Flow.IOPoint", "address-missing") in rules(made)


@pytest.mark.parametrize(
    "node",
    [
        "i=2258",
        "ns=2;i=5",
        "ns=2;s=a b;c=d",
        "nsu=urn:x;s=y",
        "g=72962B91-FA75-4AE6-8D28-B404DC7DAF63",
        "ns=1;b=aGk=",
    ],
)
def test_every_form_of_a_node_id_is_taken(node: str) -> None:
    assert rules(client("opc.tcp://127.0.0.1", {"Flow": {"IOPoint": node}})) == set()


@pytest.mark.parametrize("example", json_examples(REPOSITORY / "docs/drivers/opcua.md"))
def test_every_example_of_the_page_is_in_order(example: str) -> None:
    content = InstrumentFile.model_validate_json(example)
    tags = content.EquipmentTags.model_dump(exclude_unset=True)
    channels = {n: c.model_dump(exclude_unset=True) for n, c in content.Channels.items()}
    made = instrument(channels, **tags)
    assert PROTOCOL.check(made) == []
    assert PROTOCOL.plan(made)


async def test_a_password_in_the_url_is_not_written_into_an_instrument_file() -> None:
    with pytest.raises(NotConnected, match="PasswordFile") as refusal:
        await browse_server("opc.tcp://user:secret@127.0.0.1:1")
    assert "secret" not in str(refusal.value)
