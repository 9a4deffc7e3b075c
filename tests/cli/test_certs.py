"""``gatepost certs`` and ``gatepost users``."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.opcua.security import certificates, passwords, user_file
from gateway.opcua.security.own import OwnFiles
from gateway.opcua.security.trust import TrustFolder
from gateway.opcua.security.user_file import read_users
from tests.config.building import mini_files, write_site
from tests.gateway.opcua.security_case import authority, holder, key, revocations

Gatepost = Callable[..., Any]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    files = mini_files()
    files["link.json"] = {"OpcUa": {"Hosts": ["gateway.example.org"]}}
    return write_site(tmp_path / "site", files)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def run(gatepost: Gatepost, site: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Gatepost:
    """A command of certs or users on the site; fails where it fails."""
    monkeypatch.setattr(certificates, "new_key", lambda bits=2048: key("own"))
    monkeypatch.setattr(passwords, "COST", 16)
    monkeypatch.setattr(passwords.hashed, "__defaults__", (16, 1))

    def running(group: str, command: str, *more: object, status: int = 0, line: str = "") -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        outcome = gatepost(group, command, site, *more, "--state", state)
        assert outcome.status == status, outcome.err
        return outcome

    return running


def listed(run: Gatepost) -> list[tuple[str, str, str]]:
    rows = json.loads(run("certs", "list", "--json").out)["certificates"]
    return [(row["of"], row["list"], row["name"]) for row in rows]


# -- our own -----------------------------------------------------------------------------------


def test_renew_makes_a_certificate_with_the_hosts_of_the_site(
    run: Gatepost, state: Path, tmp_path: Path
) -> None:
    assert "no certificate of our own yet" in run("certs", "list").out
    assert "gatepost certs renew" in run("certs", "export", status=2).err
    run("certs", "renew")
    pem = tmp_path / "own.pem"
    run("certs", "export", pem)
    # Another program reads it.
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "DNS:gateway.example.org" in shown and "IP Address:127.0.0.1" in shown
    assert "URI:urn:" in shown and "Data Encipherment" in shown
    assert "PRIVATE" not in pem.read_text()
    file = state / "opcua" / "own" / "server.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "opcua").stat().st_mode) == 0o700


def test_to_look_changes_nothing(run: Gatepost, state: Path) -> None:
    run("certs", "list")
    run("users", "list")
    assert not state.exists()


def test_renew_keeps_the_key_unless_a_new_one_is_asked_for(
    run: Gatepost, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = OwnFiles(state / "opcua" / "own")
    run("certs", "renew")
    first = files.load()
    run("certs", "renew")
    second = files.load()
    monkeypatch.setattr(certificates, "new_key", lambda bits=2048: key("second"))
    run("certs", "renew", "--new-key")
    third = files.load()
    assert first and second and third
    assert first.der != second.der and first.uri == second.uri == third.uri
    assert certificates.fits_key(second.certificate, first.key)
    assert not certificates.fits_key(third.certificate, first.key)


def test_an_authority_issues_what_was_requested(
    run: Gatepost, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("certs", "renew")
    before = OwnFiles(state / "opcua" / "own").load()
    monkeypatch.setattr(certificates, "new_key", lambda bits=2048: key("second"))
    file = tmp_path / "own.csr"
    run("certs", "request", "--new-key", "-o", file)
    csr = x509.load_pem_x509_csr(file.read_bytes())
    assert csr.is_signature_valid
    # Until the answer is there, nothing changes.
    still = OwnFiles(state / "opcua" / "own").load()
    assert still is not None and before is not None and still.der == before.der
    made = holder("own", uri=before.uri, by=authority(), private=key("second"))
    answer = tmp_path / "own.crt"
    answer.write_bytes(made.certificate.public_bytes(Encoding.PEM))
    run("certs", "install", answer)
    own = OwnFiles(state / "opcua" / "own").load()
    assert own is not None and own.der == made.der and not own.self_signed


def test_what_an_authority_must_not_change_is_refused(run: Gatepost, tmp_path: Path) -> None:
    run("certs", "renew")
    file = tmp_path / "x.der"
    file.write_bytes(holder("own", uri="urn:other", by=authority(), private=key("own")).der)
    assert "application URI urn:other" in run("certs", "install", file, status=2).err
    file.write_bytes(holder("own", by=authority(), private=key("second")).der)
    assert "of another key" in run("certs", "install", file, status=2).err
    file.write_bytes(b"nonsense")
    assert "no X.509 certificate" in run("certs", "install", file, status=2).err


# -- whom we trust -----------------------------------------------------------------------------


def test_a_rejected_client_is_trusted_by_its_first_digits_and_rejected_again(
    run: Gatepost, state: Path
) -> None:
    folder = TrustFolder(state / "opcua")
    folder.make()
    one = holder("SCADA")
    folder.reject(one.certificate)
    assert listed(run) == [("clients", "rejected", "SCADA")]
    run("certs", "trust", one.thumbprint[:6].lower())
    assert listed(run) == [("clients", "trusted", "SCADA")]
    assert one.thumbprint in folder.load().trusted
    run("certs", "reject", one.thumbprint[:6])
    assert listed(run) == [("clients", "rejected", "SCADA")]
    run("certs", "remove", one.thumbprint)
    assert listed(run) == []


@pytest.mark.parametrize(("command", "left"), [("remove", []), ("reject", ["rejected"])])
def test_who_is_trusted_and_was_turned_away_once_is_trusted_no_more(
    run: Gatepost, state: Path, command: str, left: list[str]
) -> None:
    """A trusted client with a wrong application URI, say, is kept as rejected, too."""
    folder = TrustFolder(state / "opcua")
    folder.make()
    one = holder("SCADA")
    for kind in ("trusted", "issuers"):
        folder.put(kind, one.certificate)
    folder.reject(one.certificate)
    run("certs", command, one.thumbprint[:6])
    assert [kind for _, kind, _ in listed(run)] == left


def test_who_is_trusted_again_is_rejected_no_more(run: Gatepost, state: Path) -> None:
    folder = TrustFolder(state / "opcua")
    folder.make()
    one = holder("SCADA")
    folder.put("trusted", one.certificate)
    folder.reject(one.certificate)
    run("certs", "trust", one.thumbprint[:6])
    assert listed(run) == [("clients", "trusted", "SCADA")]


def test_no_name_of_a_stranger_looks_like_another_line(run: Gatepost, state: Path) -> None:
    """Whoever can reach the port chooses what stands in the list of those who were turned away."""
    evil = holder("x\ntrusted  SCADA", uri="urn:x\ntrusted")
    folder = TrustFolder(state / "opcua")
    folder.make()
    folder.reject(evil.certificate)
    shown = run("certs", "list").out
    assert len(shown.splitlines()) == 3  # head, certificate, no own one
    assert r"x\ntrusted  SCADA" in shown
    assert len(run("certs", "trust", evil.thumbprint[:8]).out.splitlines()) == 1


def test_files_are_trusted_too(run: Gatepost, state: Path, tmp_path: Path) -> None:
    root = authority()
    one = holder("SCADA", by=root)
    for name, data in (
        ("scada.der", one.der),
        ("root.pem", root.certificate.public_bytes(Encoding.PEM)),
        ("root.crl", revocations(root).public_bytes(Encoding.PEM)),
    ):
        (tmp_path / name).write_bytes(data)
    run("certs", "trust", tmp_path / "scada.der")
    run("certs", "trust", tmp_path / "root.pem", "--issuer")
    assert "0 revoked certificates" in run("certs", "trust", tmp_path / "root.crl", "--issuer").out
    run("certs", "trust", tmp_path / "scada.der", "--users")
    assert listed(run) == [
        ("clients", "trusted", "SCADA"),
        ("clients", "issuers", "authority"),
        ("users", "trusted", "SCADA"),
    ]
    found = TrustFolder(state / "opcua").load()
    assert len(found.revoked) == 1 and not found.faults
    run("certs", "remove", tmp_path / "scada.der")
    assert ("clients", "trusted", "SCADA") not in listed(run)


def test_of_a_chain_only_the_first_is_trusted(run: Gatepost, tmp_path: Path) -> None:
    root = authority()
    one = holder("SCADA", by=root)
    file = tmp_path / "chain.der"
    file.write_bytes(one.der + root.der)
    run("certs", "trust", file)
    assert listed(run) == [("clients", "trusted", "SCADA"), ("clients", "issuers", "authority")]


def test_what_is_no_certificate_is_told(run: Gatepost, state: Path, tmp_path: Path) -> None:
    told = run("certs", "trust", "ABCD", status=2).err
    assert "no certificate ABCD in the list rejected or issuers or trusted" in told
    for command in ("trust", "reject"):
        for what in ("nothing", "ABC", "AB:CD:EF"):
            told = run("certs", command, what, status=2).err
            assert "no such file" in told and "4 digits" in told and "colons" in told
    junk = tmp_path / "junk.der"
    junk.write_bytes(b"junk")
    assert "no X.509 certificate" in run("certs", "trust", junk, status=2).err
    TrustFolder(state / "opcua").make()
    (state / "opcua" / "trusted" / "certs" / "junk.der").write_bytes(b"junk")
    assert "left out" in run("certs", "list").err


# -- users -------------------------------------------------------------------------------------


def test_a_user_from_first_to_last(run: Gatepost, state: Path) -> None:
    file = state / "opcua" / "users.json"
    run("users", "add", "Anna", "--role", "operator", "--may", "PSU.*", line="correct horse\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    anna = read_users(file)["anna"]
    assert passwords.matches("correct horse", anna.password)
    assert "horse" not in file.read_text()
    run("users", "password", "anna", line="another horse\n")
    assert passwords.matches("another horse", read_users(file)["anna"].password)
    run("users", "change", "anna", "--role", "engineer")
    (row,) = json.loads(run("users", "list", "--json").out)
    assert row == {
        "name": "Anna",
        "role": "engineer",
        "points": ["PSU.*"],
        "password": True,
        "certificates": [],
    }
    assert "engineer" in run("users", "list").out
    run("users", "remove", "ANNA")
    assert "nobody can log on" in run("users", "list").out


def test_a_user_with_a_certificate_is_trusted_for_that_and_forgotten_with_it(
    run: Gatepost, state: Path, tmp_path: Path
) -> None:
    one = holder("robot", uri=None)
    file = tmp_path / "robot.der"
    file.write_bytes(one.der)
    run("users", "add", "robot", "--role", "engineer", "--no-password")
    run("users", "certificate", "robot", file)
    assert read_users(state / "opcua" / "users.json")["robot"].certificates == (one.thumbprint,)
    people = TrustFolder(state / "opcua" / "users")
    assert list(people.load().trusted) == [one.thumbprint]
    run("users", "add", "eve", "--role", "observer", "--no-password")
    assert "certificate of robot" in run("users", "certificate", "eve", file, status=2).err
    run("users", "remove", "robot")
    assert not people.load().trusted


@pytest.mark.parametrize(
    ("words", "line", "told"),
    [
        (("add", "anna", "--role", "king"), "correct horse\n", "no role 'king'"),
        (("add", "a@b", "--role", "operator"), "correct horse\n", "begins with a letter"),
        (("add", "anna", "--role", "operator"), "short\n", "8 characters"),
        (("add", "anna", "--role", "operator"), "", "no password on standard input"),
        (("password", "nobody"), "correct horse\n", "there is no user 'nobody'"),
        (("remove", "nobody"), "", "There are: none"),
    ],
)
def test_what_cant_be_a_user_is_told(
    run: Gatepost, state: Path, words: tuple[str, ...], line: str, told: str
) -> None:
    assert told in run("users", *words, status=2, line=line).err
    assert read_users(state / "opcua" / "users.json") == {}


def test_a_file_that_cant_be_used_is_told_and_kept(run: Gatepost, state: Path) -> None:
    file = state / "opcua" / "users.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"Users": [{"Name": "x", "Role": "king"}]}')
    file.chmod(0o600)
    for words in (("list",), ("remove", "x")):
        assert "no role 'king'" in run("users", *words, status=2).err
    assert "king" in file.read_text()
    file.chmod(0o644)
    assert "chmod 600" in run("users", "list", status=2).err


def test_two_names_that_differ_in_capitals_only_are_one(run: Gatepost) -> None:
    run("users", "add", "anna", "--role", "operator", line="correct horse\n")
    again = run("users", "add", "ANNA", "--role", "operator", line="correct horse\n", status=2)
    assert "there is a user ANNA already" in again.err


def test_only_one_may_change_the_users_at_a_time(run: Gatepost, state: Path) -> None:
    with user_file.changing(state / "opcua" / "users.json"):
        assert "another `gatepost users`" in run("users", "remove", "x", status=2).err
