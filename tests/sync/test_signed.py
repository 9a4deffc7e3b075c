"""Signed messages: the documented vectors, another implementation of them, and distrust."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from config.command_keys import public_text
from sync.plain import WireError
from sync.remote import receipts, signed
from sync.remote.signed import Envelope
from tests.sync.commanding import KEY, NOW, PRIVATE, WRITE, envelope, message

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "cases" / "wire" / "signed"
VECTORS = [path for path in sorted(FOLDER.glob("*.json")) if path.stem != "receipt"]
PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8").replace("\n", "")
PEER = ROOT / "tests" / "node" / "signed_peer.js"
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def vector(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def peer(what: str, given: Any) -> list[str]:
    """The lines that node answers."""
    done = subprocess.run(
        ["node", str(PEER), what],
        input=json.dumps(given),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def accepted(case: dict[str, Any]) -> Envelope | None:
    """The envelope of a vector as a gateway would take it."""
    came = signed.unwrap(bytes.fromhex(case["message"]))
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    public = private.public_key().public_bytes_raw()
    assert public_text(public) == case["public"]
    if not signed.verify(came, public):
        return None
    try:
        return signed.decode(came.body)
    except WireError:
        return None


def fields(one: Envelope) -> dict[str, Any]:
    named = {"id": one.id, "time": one.time_ns, "source": one.source, "type": one.type}
    named |= {"destination": one.destination, "expires": one.expires_ns, "payload": one.payload}
    return named


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_documented_vectors_hold(path: Path) -> None:
    case = vector(path)
    found = accepted(case)
    assert (found is not None) == case["good"]
    if found is None:
        return
    assert fields(found) == case["envelope"]
    assert signed.encode(found).hex() == case["body"]
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    assert signed.sign(bytes.fromhex(case["body"]), "market", private).hex() == case["message"]
    assert case["message"] in PAGE or path.stem not in ("command", "schedule", "query")


def test_another_implementation_agrees_on_every_vector() -> None:
    cases = [vector(path) for path in VECTORS]
    for path, case, line in zip(VECTORS, cases, peer("verify", cases), strict=True):
        answer = json.loads(line)
        assert answer["verified"] == (path.stem not in ("altered", "no-domain")), path.stem
        if case["good"]:
            assert numbers(answer["envelope"]) == numbers(case["envelope"])


def numbers(value: Any) -> Any:
    """What JavaScript can't hold comes as text with an n behind it."""
    if isinstance(value, str) and value.endswith("n") and value[:-1].isdigit():
        return int(value[:-1])
    if isinstance(value, dict):
        return {name: numbers(item) for name, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def test_a_message_of_another_implementation_is_taken() -> None:
    pem = PRIVATE.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    sent = {**fields(envelope()), "time": f"{NOW}n", "expires": f"{NOW + 60 * 10**9}n"}
    sent["payload"] = {**WRITE, "lease_ns": "60000000000n"}
    (line,) = peer("make", {"pem": pem, "key": KEY, "envelope": sent})
    came = signed.unwrap(bytes.fromhex(line))
    assert signed.verify(came, PUBLIC)
    assert signed.decode(came.body) == envelope()


def test_the_documented_receipt_holds() -> None:
    case = vector(FOLDER / "receipt.json")
    body, utc_ns = receipts.decode(bytes.fromhex(case["hex"]))
    assert (body, utc_ns) == (case["receipt"], case["utc_ns"])
    assert receipts.encode(body, utc_ns).hex() == case["hex"]
    assert case["hex"] in PAGE


# ---------------------------------------------------------------- distrust


def test_every_bit_of_a_message_counts() -> None:
    """A message with any one bit changed is refused: no bytes of it are left unsigned."""
    good = message()
    for at in range(len(good) * 8):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        try:
            came = signed.unwrap(bytes(bad))
        except WireError:
            continue
        name_only = came.body == signed.unwrap(good).body and came.key != KEY
        assert name_only or not signed.verify(came, PUBLIC), at


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_wire_error(data: bytes) -> None:
    for read in (signed.unwrap, signed.decode, receipts.decode):
        with pytest.raises(WireError):
            read(data)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = ["id", "time", "source", "destination", "type", "expires", "payload"]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), PLAIN)
def test_whatever_stands_under_a_key_is_read_or_refused(name: str, value: Any) -> None:
    body = msgpack.packb({**fields(envelope()), name: value}, unicode_errors="surrogatepass")
    try:
        read = signed.decode(body)
        signed.tags_of(read)
        if read.type == signed.QUERY:
            signed.asked_of(read)
    except WireError:
        return
    assert read.type in signed.TYPES


def test_the_outer_map_holds_no_other_one_and_no_list() -> None:
    """Anybody can make it: nobody is to be kept busy with reading it."""
    good = {"v": 1, "key": KEY, "signature": bytes(64), "body": b""}
    assert signed.unwrap(msgpack.packb({**good, "x": 1})).key == KEY
    for more in ({"x": {}}, {"x": [1]}, {"x": {"v": {}}}, {str(n): n for n in range(20)}):
        with pytest.raises(WireError):
            signed.unwrap(msgpack.packb({**good, **more}))


@pytest.mark.parametrize("missing", NAMES)
def test_a_key_that_is_missing_is_refused(missing: str) -> None:
    held = fields(envelope())
    del held[missing]
    body = msgpack.packb(held)
    with pytest.raises(WireError):
        signed.writes_of(signed.decode(body))


WRONG_WRITES: list[Any] = [
    [],
    [WRITE] * 65,
    {**WRITE, "value": float("nan")},
    {"tag": "Battery.Power", "lease_ns": 1},
    {**WRITE, "value": True},
    {**WRITE, "value": "5"},
    {**WRITE, "lease_ns": -1},
    {**WRITE, "lease_ns": 1.5},
    {**WRITE, "tag": ""},
    {**WRITE, "tag": "Battery\nPower"},
    {**WRITE, "release": 1},
    {**WRITE, "lease": 5},
]


@pytest.mark.parametrize("payload", WRONG_WRITES, ids=lambda p: str(p)[:40])
def test_a_wish_that_makes_no_sense_is_refused(payload: Any) -> None:
    with pytest.raises(WireError):
        signed.writes_of(envelope(payload=payload))
