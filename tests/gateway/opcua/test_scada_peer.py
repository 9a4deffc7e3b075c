"""An independent client (node-opcua) does with a gateway what a control room does."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.gateway.opcua import security_case as security
from tests.gateway.opcua.scada_case import Gateway
from tests.tidy.repository import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")
PEER_S = 90
LINE_BYTES_MAX = 1_000_000
STEPS = (
    "browses",
    "reads",
    "subscribes",
    "writes",
    "asks why",
    "is refused as observer",
    "calls methods",
    "receives an alarm",
    "acknowledges it",
    "shelves it",
    "refreshes conditions",
    "reads history raw",
    "reads history processed",
)


def settings(gateway: Gateway, folder: Path) -> str:
    """The peer's settings: our client's certificate and key as files that it can read."""
    folder.mkdir()
    one = gateway.scada
    certificate, key = folder / "scada.pem", folder / "scada.key"
    certificate.write_bytes(one.certificate.public_bytes(Encoding.PEM))
    private = one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(private)
    return json.dumps(
        {
            "url": gateway.url,
            "folder": str(folder / "pki"),
            "certificate": str(certificate),
            "key": str(key),
            "password": security.PASSWORD,
        }
    )


async def peer(gateway: Gateway, folder: Path) -> dict[str, Any]:
    """Run the peer beside the gateway; what it saw."""
    script = ROOT / "tests" / "node" / "scada_peer.js"
    process = await asyncio.create_subprocess_exec(
        *("node", str(script), settings(gateway, folder)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=LINE_BYTES_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PEER_S):
            while line := await process.stdout.readline():
                said: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
                if "waits" in said:
                    gateway.rig.temperature(float(said["waits"].split()[0]))
                    process.stdin.write(b"go\n")
                elif said:
                    return said
            pytest.fail((await process.stderr.read()).decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    made = Gateway(Path(tmp_path_factory.mktemp("scada")))
    try:
        await made.start()
        yield made
    finally:
        await made.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return await peer(gateway, Path(tmp_path_factory.mktemp("peer")) / "files")


async def test_it_connects_with_signatures_and_encryption(seen: dict[str, Any]) -> None:
    assert seen["connects"]["mode"] == "SignAndEncrypt"
    assert seen["connects"]["policy"].endswith("#Basic256Sha256")


@pytest.mark.parametrize("name", STEPS)
async def test_no_step_fails(seen: dict[str, Any], name: str) -> None:
    assert "error" not in seen[name], seen[name]


async def test_it_browses_and_reads_with_units(seen: dict[str, Any]) -> None:
    assert "Rig" in seen["browses"]["site"]
    assert {"Setpoint", "Temperature", "Release"} <= set(seen["browses"]["equipment"])
    read = seen["reads"]
    assert (read["status"], read["type"], read["dated"]) == ("Good", "Double", True)
    assert (read["unit"], read["unitId"]) == ("°C", 4408652)  # CEL of UNECE
    assert read["range"] == [0, 100]


async def test_it_is_told_of_changes(seen: dict[str, Any]) -> None:
    assert (seen["subscribes"][0], seen["subscribes"][-1]) == (20, 25)


async def test_it_writes_as_operator_and_is_refused_as_observer(
    gateway: Gateway, seen: dict[str, Any]
) -> None:
    assert seen["writes"] == {
        "status": "Good",
        "shown": 33,
        "outside": "BadOutOfRange",
        "mistyped": "BadTypeMismatch",
        "readOnly": "BadNotWritable",
    }
    assert seen["is refused as observer"] == {
        "read": "Good",
        "write": "BadUserAccessDenied",
        "call": "BadUserAccessDenied",
    }
    accepted = [r for r in gateway.receipts("Rig.Setpoint") if r["step"] == "accepted"]
    assert [r["value"] for r in accepted][:2] == [33, 20]
    assert all(r["source"].startswith("opcua:otto@") for r in accepted)


async def test_it_is_told_why_in_words(seen: dict[str, Any]) -> None:
    first, second = seen["asks why"]
    assert first["symbol"] == "BadOutOfRange"
    assert first["text"] == first["more"] == "refused: outside 0 to 100 degC"
    assert second["symbol"] == "BadNotWritable"


async def test_it_calls_methods(seen: dict[str, Any]) -> None:
    assert seen["calls methods"] == {
        "leased": {"status": "Good", "outputs": ["verified"]},
        "released": {"status": "Good", "outputs": ["done"]},
        "state": {"status": "Good", "outputs": ["verified"]},
        "wrongState": {"status": "BadInvalidArgument", "outputs": []},
        "reset": {"status": "Good", "outputs": ["verified: nothing was latched"]},
    }


async def test_it_receives_an_alarm_acknowledges_it_and_shelves_it(
    gateway: Gateway, seen: dict[str, Any]
) -> None:
    alarm = seen["receives an alarm"]
    assert (alarm["active"], alarm["acked"], alarm["retain"]) == (True, False, True)
    assert 1 <= alarm["severity"] <= 1000
    acknowledged = seen["acknowledges it"]
    assert (acknowledged["status"], acknowledged["acked"]) == ("Good", True)
    shelved = seen["shelves it"]
    assert (shelved["shelved"], shelved["unshelved"]) == ("Good", "Good")
    (told,) = gateway.field.events("alarm", what="acknowledged")
    assert told["by"].startswith("opcua:otto@")
    assert told["comment"] == "seen by node-opcua"


async def test_it_refreshes_conditions(seen: dict[str, Any]) -> None:
    refreshed = seen["refreshes conditions"]
    assert refreshed["status"] == "Good"
    assert refreshed["again"] == 1  # the alarm is still active, so it is retained


async def test_it_reads_history(seen: dict[str, Any]) -> None:
    raw = seen["reads history raw"]
    assert raw["status"].startswith("Good")
    assert raw["ordered"]
    assert {20, 25, 850} <= set(raw["values"])
    processed = seen["reads history processed"]
    assert {one["status"] for one in processed.values()} == {"Good"}
    assert max(processed["Maximum"]["values"]) == 850
    assert min(processed["Minimum"]["values"]) == 20
    assert 20 <= processed["Average"]["values"][-1] <= 850
    assert sum(processed["Count"]["values"]) == len([v for v in raw["values"] if v is not None])
