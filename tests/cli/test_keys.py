"""``gatepost keys`` and the refusals of ``gatepost send``."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.key_files import KeyFileError, load_key
from config.command_keys import KeyEntry, load_keys
from gateway.cli.key_file import changing
from gateway.cli.keys import TYPES_DEFAULT
from tests.config.building import mini_files, write_site

Gatepost = Callable[..., Any]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site", mini_files())


def made(gatepost: Gatepost, site: Path, name: str = "market", *more: str) -> Path:
    """The file of a new key."""
    key = site.parent / f"{name}.key"
    outcome = gatepost("keys", "make", site, name, "--key", key, "--may", "Meter.*", *more)
    assert outcome.status == 0, outcome.err
    return key


def test_the_private_half_is_for_its_owner_only(gatepost: Gatepost, site: Path) -> None:
    key = made(gatepost, site)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = load_key(key).public_key().public_bytes_raw()
    assert load_keys(site)[0]["market"].public == public
    assert b"PRIVATE" not in (site / "keys.json").read_bytes()
    shown = subprocess.run(  # another program reads the file
        ["openssl", "pkey", "-in", str(key), "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "ED25519 Private-Key" in shown.stdout


def test_a_key_file_is_never_written_over_and_never_in_the_site(
    gatepost: Gatepost, site: Path
) -> None:
    key = made(gatepost, site)
    before = key.read_bytes()
    again = gatepost("keys", "make", site, "other", "--key", key, "--may", "*")
    assert again.status == 2 and "never written over" in again.err
    inside = gatepost("keys", "make", site, "other", "--key", site / "o.key", "--may", "*")
    assert inside.status == 2 and "keep the private key elsewhere" in inside.err
    twice = gatepost("keys", "make", site, "market", "--key", site.parent / "x", "--may", "*")
    assert twice.status == 2 and "has a key 'market' already" in twice.err
    assert key.read_bytes() == before
    assert list(load_keys(site)[0]) == ["market"]


def test_what_came_to_nothing_leaves_no_file(gatepost: Gatepost, site: Path) -> None:
    key = site.parent / "new.key"
    wrong = gatepost("keys", "make", site, "bad name", "--key", key, "--may", "*")
    assert wrong.status == 2 and "key-name" in wrong.err
    assert not key.exists() and not (site / "keys.json").exists()


def test_keys_change_beside_a_gateway_that_holds_the_site(gatepost: Gatepost, site: Path) -> None:
    holding = os.open(site, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holding, fcntl.LOCK_EX)  # as gateway/supervisor.py does
    try:
        made(gatepost, site)
        assert gatepost("keys", "revoke", site, "market").status == 0
    finally:
        os.close(holding)


def test_two_changes_at_once_are_refused_at_once(gatepost: Gatepost, site: Path) -> None:
    key = site.parent / "market.key"
    with changing(site):
        refused = gatepost("keys", "make", site, "market", "--key", key, "--may", "Meter.*")
    assert refused.status == 2
    assert "try again" in refused.err
    assert not key.exists()


def test_rights_and_ends_stand_in_the_file(gatepost: Gatepost, site: Path) -> None:
    made(gatepost, site, "grid", "--type", "schedule", "--until", "2100-01-01")
    key = load_keys(site)[0]["grid"]
    assert (key.types, key.points) == (("schedule",), ("Meter.*",))
    (row,) = json.loads(gatepost("keys", "list", site, "--json").out)
    assert row["until"] == "2100-01-01T00:00:00Z" and row["counts"]
    wrong = gatepost("keys", "make", site, "x", "--key", "x", "--may", "*", "--type", "write")
    assert wrong.status == 2 and "there are command, schedule, query" in wrong.err


def test_the_types_are_those_of_the_file_where_none_are_given(
    gatepost: Gatepost, site: Path
) -> None:
    made(gatepost, site)
    default = KeyEntry.model_fields["Types"].default
    assert load_keys(site)[0]["market"].types == tuple(default) == TYPES_DEFAULT


def test_a_rotation_has_an_overlap_and_one_service(gatepost: Gatepost, site: Path) -> None:
    made(gatepost, site)
    second = site.parent / "second.key"
    outcome = gatepost("keys", "rotate", site, "market", "--key", second, "--overlap", "2d")
    assert outcome.status == 0 and "market-2" in outcome.out
    known = load_keys(site)[0]
    assert known["market"].not_after_ns < known["market-2"].not_after_ns
    assert known["market-2"].service == known["market"].service == "market"
    assert known["market-2"].points == known["market"].points
    third = site.parent / "third.key"
    assert gatepost("keys", "rotate", site, "market-2", "--key", third).status == 0
    assert load_keys(site)[0]["market-3"].service == "market"
    assert gatepost("keys", "check", site, "market-2", "--key", second).status == 0


def test_a_revoked_key_is_listed_and_can_not_be_rotated(gatepost: Gatepost, site: Path) -> None:
    key = made(gatepost, site)
    assert gatepost("keys", "revoke", site, "market").status == 0
    first = load_keys(site)[0]["market"].revoked
    assert first and gatepost("keys", "revoke", site, "market").status == 0
    assert load_keys(site)[0]["market"].revoked == first
    assert "the key was revoked" in gatepost("keys", "list", site).out
    other = site.parent / "other.key"
    refused = gatepost("keys", "rotate", site, "market", "--key", other)
    assert refused.status == 2 and "make a new key" in refused.err
    assert not other.exists()
    checked = gatepost("keys", "check", site, "market", "--key", key)
    assert checked.status == 1 and "was revoked" in checked.out


def test_check_tells_what_a_key_may_set(gatepost: Gatepost, site: Path) -> None:
    key = made(gatepost, site)
    fits = gatepost("keys", "check", site, "market", "--key", key)
    assert fits.status == 0
    assert "Meter.Limit" in fits.out and "Meter.Power" not in fits.out
    other = made(gatepost, site, "other")
    assert gatepost("keys", "check", site, "market", "--key", other).status == 1
    unknown = gatepost("keys", "check", site, "marked", "--key", key)
    assert unknown.status == 2 and "There are: market, other" in unknown.err


def test_an_empty_list_and_a_damaged_file(gatepost: Gatepost, site: Path) -> None:
    assert "takes no commands from outside" in gatepost("keys", "list", site).out
    (site / "keys.json").write_text("{", encoding="utf-8")
    damaged = gatepost("keys", "revoke", site, "market")
    assert damaged.status == 2 and "json-syntax" in damaged.err
    assert (site / "keys.json").read_text(encoding="utf-8") == "{"


def test_a_key_file_that_others_may_read_is_refused(gatepost: Gatepost, site: Path) -> None:
    key = made(gatepost, site)
    key.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_key(key)
    key.chmod(0o600)
    key.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    with pytest.raises(KeyFileError, match="no private key in PEM"):
        load_key(key)
    with pytest.raises(KeyFileError, match="can't be read"):
        load_key(site.parent / "none")


SEND_WRONG = {
    "no lease": (["Meter.Limit=5"], "needs a --lease"),
    "no point": (["--lease", "5s"], "name a point and its value"),
    "unknown point": (["Meter.Limits=5", "--lease", "5s"], 'Did you mean "Meter.Limit"?'),
    "no number": (["Meter.Limit=much", "--lease", "5s"], "'much' is no number"),
    "lease and release": (["Meter.Limit", "--release", "--lease", "5s"], "takes no --lease"),
    "both ways": (["--broker", "mqtt://127.0.0.1:1", "Meter.Limit=5"], "go together"),
    "no duration": (["Meter.Limit=5", "--lease", "soon"], "--lease soon"),
    "seconds": (["Meter.Limit=5", *"--lease 30 --wait 3 --expires 2.5".split()], "127.0.0.1:1"),
    "no broker there": (["Meter.Limit=5", "--lease", "15min"], "broker mqtt://127.0.0.1:1"),
}


@pytest.mark.parametrize("name", SEND_WRONG)
def test_send_says_what_is_wrong(gatepost: Gatepost, site: Path, name: str) -> None:
    words, message = SEND_WRONG[name]
    link = {"Broker": {"URL": "mqtt://127.0.0.1:1"}}
    (site / "link.json").write_text(json.dumps(link), encoding="utf-8")
    key = made(gatepost, site)
    outcome = gatepost("send", site, "--key", key, *words)
    assert outcome.status == 2
    assert message in outcome.err
